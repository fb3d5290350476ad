/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of cet_fuzz share: the model of a vCPU, and the operations
 * that the guest carries out.
 */
#ifndef SELFTEST_KVM_CET_FUZZ_H
#define SELFTEST_KVM_CET_FUZZ_H

/* Offsets in struct mailbox, and what entry.S needs beside them */
#define BOX_S_CET		0
#define BOX_HAS_CET		8
#define FUZZ_PORT		0x82
#define FUZZ_L2_PORT		0x83
#define FUZZ_INT_VECTOR		0x30

#ifndef __ASSEMBLER__
#include "cet.h"

/*
 * How mainline, or the unpatched kernel, differs from the series, as far as the
 * fuzzer comes across it.  compare.c has the names.
 */
enum fuzz_difference {
	SAME,
	NO_CET_U,
	XSS_ALONE,
	XSS_KEPT,
	BITMAP_BASE,
	NOT_CANONICAL,
	U_CET_OTHER,
	WRMSR_OTHER,
	TABLE_WITHOUT_LM,
	WIDE_SSP,
	SREGS_WITHOUT_WP,
	SSP_AS_MSR,
	VMCS12_FIELDS,
	VMCS12_SSP,
	FAILED_ENTRY,
	SMI_IN_L2,
	FORCED_EXIT,
	STALE_FIELDS,
	CPUID_IN_L2,
	NR_DIFFERENCES,
};

/*
 * A vCPU as it has to be by the rules of the architecture and of KVM's API.
 * The model implements these rules independently of KVM.
 */
struct model {
	/* CPUID, of CPUID_* bits, and what follows from it */
	uint32_t cpuid;
	bool shstk, ibt, lm, xsaves;
	/* KVM takes shadow stacks away, if the VMM has them in CPUID. */
	bool hides_shstk;
	uint64_t xss_mask;
	/* The VMX capability MSRs have the controls that load CET state. */
	bool entry_ctl, exit_ctl;
	/* In either case, the above can't change any more. */
	bool has_run, in_l2;
	/* In the order of cet_msrs[] */
	uint64_t msrs[CET_NR_MSRS];
	uint64_t xss, ssp, cr0, cr4;
};

/* Positions in cet_msrs[] */
enum { U_CET, S_CET, PL0_SSP, PL1_SSP, PL2_SSP, PL3_SSP, INT_SSP_TAB };

/* What the fuzzer varies of CPUID: features, bits of IA32_XSS, sub-leaves of 0xD */
enum {
	CPUID_SHSTK		= BIT(0),
	CPUID_IBT		= BIT(1),
	CPUID_LM		= BIT(2),
	CPUID_XSAVES		= BIT(3),
	CPUID_XSS_11		= BIT(4),
	CPUID_XSS_12		= BIT(5),
	CPUID_SUB_LEAF_1	= BIT(6),
	CPUID_SUB_LEAF_11	= BIT(7),
	CPUID_SUB_LEAF_12	= BIT(8),
	CPUID_ALL		= BIT(9) - 1,
};

/* A vCPU with both features, as far as valid values are concerned */
extern const struct model model_both;

bool model_canonical(uint64_t val);
bool model_has_cet(const struct model *m);
/* Does user space see SSP? */
bool model_has_ssp(const struct model *m);
/* Would KVM take shadow stacks away? */
bool model_hides_shstk(uint32_t cpuid);
bool model_valid_ctl(const struct model *m, uint64_t val);
/* For IA32_PLx_SSP, and for SSP itself, which has one more bit */
bool model_valid_ssp_msr(uint64_t val);
bool model_valid_ssp(uint64_t val);

/*
 * Write and read an MSR by ioctl or in the guest.  Return false if that must be
 * refused, or raise #GP; otherwise the model has changed, or *val is what must
 * be read.
 */
bool model_set_msr(struct model *m, uint32_t msr, uint64_t val, bool host);
bool model_get_msr(const struct model *m, uint32_t msr, bool host, uint64_t *val);

/*
 * What the MSR filter takes from guests: bits for reading and for writing, in
 * the order of cet_msrs[], with IA32_XSS after them.
 */
extern uint32_t model_filter[2];

/*
 * Does mainline take another decision than the series, when user space or a
 * guest writes an MSR?
 */
enum fuzz_difference model_msr_differs(const struct model *m, uint32_t msr,
				       uint64_t val, bool host);

/* Are the two registers legal together? */
bool model_valid_crs(const struct model *m, uint64_t cr0, uint64_t cr4);

/* May the VMM set this CPUID?  If so, the model has it. */
bool model_set_cpuid(struct model *m, uint32_t cpuid);
/* Lose what user space can't read, and thus can't restore. */
void model_move(struct model *m);
/* INIT */
void model_init(struct model *m);

/*
 * Supervisor code executes ENDBR64.  An emulated CPU may have that reset the
 * tracker also if IBT is off.
 */
extern bool model_endbr_always;
void model_endbr(struct model *m);
/* Are supervisor shadow stacks, or supervisor IBT, in effect? */
bool model_armed(const struct model *m, uint64_t s_cet, uint64_t bits);

enum guest_op_kind {
	GUEST_WRMSR,
	GUEST_RDMSR,
	GUEST_MOV_CR0,
	GUEST_MOV_CR4,
	GUEST_XSAVES,
	GUEST_XRSTORS,
	GUEST_PAYLOAD,
	GUEST_VMLAUNCH,
	NR_GUEST_OPS,
};

enum payload {
	CALL_RETURN,
	SMASH_RETURN,
	JUMP_TO_ENDBR,
	JUMP_OFF_ENDBR,
	INTERRUPT,
	RDSSP,
	INCSSP,
	WRSS,
	NR_PAYLOADS,
};

struct guest_op {
	uint8_t kind, vector;
	/* An MSR, a payload, or components for XSAVES and XRSTORS */
	uint32_t index;
	/* What to write, bits of a control register to toggle, or S_CET */
	uint64_t val;
	/* What was read, or returned, or XSTATE_BV */
	uint64_t ret;
	/* For payloads, the error code; for XSAVES and XRSTORS, the MSRs */
	uint64_t data[CET_NR_XSAVE_MSRS];
};

#define MAX_GUEST_OPS		48

/* The CET state of a VMCS, in the order of its fields */
struct vmcs_cet {
	uint64_t s_cet, ssp, ssp_tbl;
};

/* An entry of the list of MSRs that VM exit loads */
struct fuzz_msr_load {
	uint32_t index, reserved;
	uint64_t val;
} __aligned(16);

/* What L1 lets L2 start with, and gets back */
struct nested_op {
	/* S_CET as entry.S reads it in L2, before and after the host's part */
	uint64_t l2_s_cet[2];
	/* S_CET as entry.S reads it in L1 after VM exit */
	uint64_t l1_s_cet;
	uint64_t has_cet;

	struct vmcs_cet guest, host;
	uint64_t guest_cr0, guest_cr4, host_cr0, host_cr4;
	bool entry_loads, exit_loads;
	struct fuzz_msr_load msr;
	uint64_t msr_gpa, nr_msrs;

	/* The outcome: an error of VMLAUNCH, or else an exit reason */
	uint64_t error, reason;
	struct vmcs_cet saved;
	/* VMREAD and VMWRITE failed; guest's in bits 2:0, host's in 5:3 */
	uint64_t unreadable, unwritable;
	/* User space has taken the vCPU out of L2. */
	bool forced;
};

/*
 * The guest interprets ops[].  As it needs exceptions and CALLs for that, its
 * S_CET is 0 meanwhile, and the value is kept here.
 */
struct mailbox {
	uint64_t s_cet;
	uint64_t has_cet;
	uint64_t nr_ops;
	struct nested_op nested;
	struct guest_op ops[MAX_GUEST_OPS];

	struct vmx_pages *vmx;
	bool vmxon;
};

#define NR_FUZZ_VCPUS		2
extern struct mailbox mailboxes[NR_FUZZ_VCPUS];
extern uint64_t fuzz_nmi_count;

/* The guest's code, at which vCPUs start with a mailbox as the argument. */
void fuzz_entry(void);
void fuzz_interpret(struct mailbox *box);
void fuzz_nested(struct mailbox *box);
/* VMLAUNCH; returns RFLAGS if that failed, 0 after an exit. */
uint64_t fuzz_vmlaunch(struct nested_op *nested);
void fuzz_l2(void);
void fuzz_nmi_handler(void);
void fuzz_int_handler(void);
void fuzz_interrupt(void);
void fuzz_rdssp(void);
void fuzz_incssp(void);
void fuzz_wrss(void);

/* The host's part: a vCPU of the current round, and its model */
struct fuzz_vcpu {
	struct kvm_vcpu *vcpu;
	/* It is L1 every now and then. */
	bool nested;
	/* KVM knows the controls that load CET state. */
	bool can_load;
	struct mailbox *box;
	struct model model;
};

/*
 * A round consists of steps, and some steps of parts.  Each has random numbers
 * of its own, and can be left out.
 */
#define FUZZ_PARTS		64
/* Begin a part; returns whether it is wanted. */
bool fuzz_begin_part(int part);

/* The part's random numbers; below() gives one that is less than @n. */
uint64_t fuzz_random(void);
uint64_t fuzz_below(uint64_t n);
#define fuzz_pick(array)	((array)[fuzz_below(ARRAY_SIZE(array))])

/* A value that CET MSRs might have, or almost; @now is what one of them has. */
uint64_t fuzz_value(uint64_t now);
/* One that the model accepts for U_CET and S_CET; one that it mostly accepts */
uint64_t fuzz_valid_ctl(const struct model *m);
uint64_t fuzz_ctl(const struct model *m, uint64_t now);
/* For any MSR: a value that it might have */
uint64_t fuzz_msr_value(const struct model *m, uint32_t msr);
/* An SSP, valid in most cases */
uint64_t fuzz_ssp(uint64_t now);
/* An MSR, a CET MSR in most cases */
uint32_t fuzz_msr(void);

/* Count an operation, and remember it for fuzz_fail(). */
void fuzz_record(struct fuzz_vcpu *v, const char *what, uint64_t a, uint64_t b);
/* Print what is wrong, the last operations, and the command that repeats it. */
void __noreturn __printf(1, 2) fuzz_fail(const char *fmt, ...);
#define FUZZ_ASSERT(cond, fmt, args...)					\
do {									\
	if (!(cond))							\
		fuzz_fail(fmt, ##args);					\
} while (0)

/*
 * compare.c: two kernels do the same, and what the host sees of that has to be
 * the same.  Where mainline is known to differ, the fuzzer does something else
 * in comparisons, or undoes what it did.
 */
extern bool fuzz_compare;
/* Neither KVM knows CET. */
extern bool fuzz_hidden;
/* What the host sees; @what is for people. */
void fuzz_see(const char *what, uint64_t val);
void fuzz_see_bytes(const char *what, const void *data, size_t size);
/* The return value of an ioctl, and errno */
void fuzz_see_ioctl(const char *what, int r);
/* A snapshot of all that user space can read */
void fuzz_see_all(struct fuzz_vcpu *v);
/* Is this a comparison, and a difference that it knows of? */
bool fuzz_known(enum fuzz_difference difference);
/* Whether KVM accepted what mainline does not, or the other way round */
void fuzz_tried(enum fuzz_difference difference, bool accepted);
void fuzz_see_operation(struct fuzz_vcpu *v, int unit, const char *what,
			uint64_t a, uint64_t b);
void __noreturn fuzz_compare_failed(const char *text);

/* The units of a round that are wanted, in order; none stands for all. */
struct fuzz_units {
	uint64_t seed;
	int nr;
	int units[1 << 14];
};

/*
 * Print a line for each round, until @nr operations are done, or for each line
 * of @file, which has a seed and the units of its round that are wanted.
 */
void __noreturn fuzz_compare_rounds(uint64_t seed, uint64_t nr, const char *file);
/* In comparisons, print all that is seen.  The name is not known any more. */
extern bool fuzz_verbose;
bool fuzz_treat_as_unknown(const char *name);
/* cet_fuzz.c: a round; returns the number of its operations. */
uint64_t fuzz_do_round(const struct fuzz_units *units, uint64_t nr);

/* The ID of one more vCPU of the VM, -1 if there are enough */
int fuzz_new_vcpu_id(void);
/* A vCPU is dead; the next operation has to start with new ones. */
void fuzz_end_vcpus(void);

/* All that user space can read of a vCPU */
struct snapshot {
	uint64_t msrs[CET_NR_MSRS + 1];
	uint64_t ssp;
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_xsave xsave;
};

void fuzz_take_snapshot(struct fuzz_vcpu *v, struct snapshot *s);
/* Compare the vCPU with its model, and CR0 and CR4 as read by some ioctl. */
void fuzz_check(struct fuzz_vcpu *v);
void fuzz_check_crs(struct fuzz_vcpu *v, uint64_t cr0, uint64_t cr4);
/* After a refused call that was preceded by fuzz_before_refusal() */
void fuzz_before_refusal(struct fuzz_vcpu *v);
void fuzz_check_refusal(struct fuzz_vcpu *v);

/* Operations of the host: one of ioctls.c, one of runs.c */
void fuzz_ioctl(struct fuzz_vcpu *v);
void fuzz_run(struct fuzz_vcpu *v);
/* An ioctl that L2 doesn't notice, or doesn't depend on */
void fuzz_ioctl_in_l2(struct fuzz_vcpu *v);
/*
 * host.c: what surrounds the vCPU's state.  Every now and then, disturb() has
 * the host suspend, or lose and get a CPU, if it can.
 */
void fuzz_host(struct fuzz_vcpu *v);
void fuzz_host_in_l2(struct fuzz_vcpu *v);
void fuzz_disturb(uint64_t tick);
extern uint64_t fuzz_nr_disturbed;
/* Can the guest run with its state?  Repairs the state if user space can. */
bool fuzz_can_run(struct fuzz_vcpu *v);
/*
 * An SMI, up to the RSM of its handler, with which the next KVM_RUN begins.  If
 * the caller likes, the RSM may fail.  Returns whether there was an SMI.
 */
bool fuzz_smi(struct fuzz_vcpu *v, bool may_fail);
/* Prepare a VM, and a new vCPU. */
void fuzz_init_vm(struct kvm_vm *vm);
void fuzz_init_vcpu(struct fuzz_vcpu *v, int i);

/* nested.c: L1 and L2 */
void fuzz_run_nested(struct fuzz_vcpu *v);

/*
 * Fill the mailbox with @nr operations, and carry them out on the model.  After
 * the run, compare what the guest did with that.
 */
void fuzz_prepare_ops(struct fuzz_vcpu *v, int nr);
void fuzz_check_ops(struct fuzz_vcpu *v);

/* The address of the token at the shadow stack's top */
uint64_t fuzz_token(struct fuzz_vcpu *v);

/* KVM_RUN that ends with an OUT to @port */
void fuzz_enter(struct fuzz_vcpu *v, uint16_t port);
/* KVM_SET_ONE_REG, KVM_SET_CPUID2, and KVM_SET_MSRS of one MSR */
void fuzz_set_one_reg(struct fuzz_vcpu *v);
void fuzz_set_cpuid(struct fuzz_vcpu *v);
void fuzz_set_msr(struct fuzz_vcpu *v, uint32_t msr, uint64_t val);
void fuzz_set_ssp(struct fuzz_vcpu *v, uint64_t ssp);
/* Whether a VMX capability MSR has the control */
bool fuzz_is_offered(struct fuzz_vcpu *v, uint32_t msr, uint64_t control);

#endif /* !__ASSEMBLER__ */
#endif /* SELFTEST_KVM_CET_FUZZ_H */
