/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of Intel CET: vCPUs with a choice of CET features, guest
 * functions called from the host, and guest code that gets caught by #CP.
 */
#ifndef SELFTEST_KVM_CET_H
#define SELFTEST_KVM_CET_H

#include <sys/syscall.h>
#include <asm/prctl.h>

#include "kvm_util.h"
#include "processor.h"
#include "vmx.h"

#define X86_CR4_CET		BIT(23)
#define X86_FEATURE_CET_SSS	KVM_X86_CPU_FEATURE(0x7, 1, EDX, 18)

/* VM-entry and VM-exit control */
#define VM_ENTRY_LOAD_CET_STATE	BIT_ULL(20)
#define VM_EXIT_LOAD_CET_STATE	BIT_ULL(28)

/* #CP error codes */
#define CP_NEAR_RET		1
#define CP_ENDBRANCH		3

/* Guest IA32_XSS that covers all CET state which XSAVES manages. */
#define XFEATURE_MASK_CET	(XFEATURE_MASK_CET_USER | \
				 XFEATURE_MASK_CET_KERNEL)

#define XSAVE_LEAF		0xd

/* The sub-leaf of leaf 0xD in KVM_GET_SUPPORTED_CPUID, NULL if not there. */
const struct kvm_cpuid_entry2 *cet_find_xsave_entry(uint32_t index);

#define CET_NR_MSRS		7
extern const uint32_t cet_msrs[CET_NR_MSRS];
const char *cet_msr_name(uint32_t msr);

/* Those that XSAVES manages; S_CET and INT_SSP_TAB never leave the VMCS. */
#define CET_NR_XSAVE_MSRS	5
extern const uint32_t cet_xsave_msrs[CET_NR_XSAVE_MSRS];

/* A value for the i-th of them, legal for any, and different from all others */
uint64_t cet_value(int seed, int i);

/* How many vCPUs of a VM can have cet_call()s. */
#define CET_MAX_VCPUS		4

/*
 * One call of a guest function by the host: what the guest function gets, and
 * where it leaves its results.  cet_guest.S knows the offsets.
 */
struct cet_call {
	void (*fn)(struct cet_call *call);
	uint64_t arg[2];
	uint64_t ret;
	/* The exception that the function ran into, vector 0 is none. */
	uint64_t vector;
	uint64_t error_code;
	/* The stack to which the #CP handler of guest_run() returns. */
	uint64_t recovery_rsp;
};

/*
 * Skip the whole test on a host whose KVM has no CET.  With the environment
 * variable KVM_CET_FORCE set, run regardless: a harness that runs the tests on
 * a KVM without CET, too, wants each subtest to say what it misses there.
 */
void cet_require(void);
bool cet_is_forced(void);

/*
 * Create a VM with one vCPU whose CPUID has @shstk and @ibt as told, whether
 * or not KVM supports them, and which is ready for cet_call().
 */
struct kvm_vm *vm_create_cet(struct kvm_vcpu **vcpu, bool shstk, bool ibt);

/*
 * Have @handler, in assembly, as the guest's handler of @vector: the library's
 * ones have no ENDBR64, and return by IRET.
 */
void vm_set_raw_handler(struct kvm_vm *vm, int vector, void (*handler)(void));

/*
 * Map a fresh page twice: to @alias as it is usual, and to the address that is
 * returned as a supervisor shadow stack.
 */
vm_vaddr_t vm_alloc_shadow_stack(struct kvm_vm *vm, vm_vaddr_t *alias);
/* Make the page at @gva one, in the page table's terms. */
void vm_make_shadow_stack(struct kvm_vm *vm, vm_vaddr_t gva);

/*
 * Let the guest IRET to its code in user mode, and have a stack for exceptions
 * there.  All of its memory is the user's, too, which rules out supervisor
 * shadow stacks, but for those that vm_make_supervisor() gets back.
 */
void vm_init_user_mode(struct kvm_vm *vm);
void vm_make_supervisor(struct kvm_vm *vm, vm_vaddr_t gva);

/* The segments of user mode */
#define USER_CS			0x10b
#define USER_DS			0x113
/* In the task state segment */
#define TSS_RSP0		4
#define TSS_IST1		0x24

/* The parts of vm_create_cet(), for VMs and vCPUs that the caller created. */
void vm_init_cet(struct kvm_vm *vm);
void vcpu_init_cet(struct kvm_vcpu *vcpu, bool shstk, bool ibt);

/*
 * Run @fn on @vcpu with the given arguments, to its end.  A function which
 * touches nothing that KVM intercepts costs one VM exit, the one that ends it.
 * cet_prepare() only queues the call, for callers that do KVM_RUN on their
 * own; cet_finish() asserts that the function has returned.
 */
struct cet_call *cet_call(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
			  uint64_t arg0, uint64_t arg1);
struct cet_call *cet_prepare(struct kvm_vcpu *vcpu,
			     void (*fn)(struct cet_call *),
			     uint64_t arg0, uint64_t arg1);
struct cet_call *cet_finish(struct kvm_vcpu *vcpu);

/*
 * Count the VM exits that a call of @fn costs beyond the one that ends it: the
 * least of several tries, because each host interrupt adds an exit.
 */
uint64_t cet_call_exits(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
			uint64_t arg0, uint64_t arg1);

/* One of the vCPU's statistics by its name, such as "exits". */
uint64_t cet_vcpu_stat(struct kvm_vcpu *vcpu, const char *name);

/* Guest functions: arg[0] is the MSR or the value for the CR, arg[1] data. */
void guest_rdmsr(struct cet_call *call);
void guest_wrmsr(struct cet_call *call);
void guest_mov_cr0(struct cet_call *call);
void guest_mov_cr4(struct cet_call *call);

/* Calls of these; they return the vector of the exception, 0 if none. */
uint8_t cet_rdmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
uint8_t cet_wrmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
uint8_t cet_mov_cr0(struct kvm_vcpu *vcpu, uint64_t val);
uint8_t cet_mov_cr4(struct kvm_vcpu *vcpu, uint64_t val);

/* #CPs that happened outside of cet_run(), and the last one's error code. */
extern uint64_t cet_cp_count;
extern uint64_t cet_cp_error_code;

/*
 * What to put below 4 GiB for a vCPU that gets INIT: code that reads all CET
 * MSRs and writes the bits that are set in any to port CET_PORT.
 */
extern const uint8_t guest_init_page[];
#define CET_PORT		0x80

/* Set CR4.CET by MOV CR4 in the guest, or fail the test. */
void cet_enable(struct kvm_vcpu *vcpu);

/*
 * Run @payload in the guest with IA32_S_CET = @s_cet, on a fresh supervisor
 * shadow stack if that has SHSTK_EN, and back to IA32_S_CET = 0.  In the
 * result, vector is CP_VECTOR if the payload was stopped by #CP.  As with
 * cet_prepare(), cet_prepare_run() leaves KVM_RUN to the caller.
 */
struct cet_call *cet_run(struct kvm_vcpu *vcpu, void (*payload)(void),
			 uint64_t s_cet);
struct cet_call *cet_prepare_run(struct kvm_vcpu *vcpu, void (*payload)(void),
				 uint64_t s_cet);

/* cet_run()'s part in the guest, and the #CP handler that vm_init_cet() sets. */
void guest_run(struct cet_call *call);
void guest_cp_handler(void);
/* The same for #GP and #PF, for tests that install them. */
void guest_gp_handler(void);
void guest_pf_handler(void);

/* Payloads.  ret is 1 if the attack, or the jump, reached its target. */
void guest_call_return(void);
/* The same, with a byte written to CET_PORT in between. */
void guest_exit_and_return(void);
void guest_smash_return(void);
void guest_jump_to_endbr(void);
void guest_jump_off_endbr(void);

/*
 * The guest's address of the token: what is in PL0_SSP when cet_run() starts.
 * It writes the token to the alias, which is not a shadow stack.
 */
extern uint64_t cet_shadow_stack;
extern uint64_t cet_shadow_stack_alias;

/*
 * The host's address of the shadow stack's token, which is its highest entry.
 * The CALLs of a cet_run() are in the entries below it.
 */
uint64_t *cet_shadow_stack_hva(struct kvm_vm *vm);

/*
 * In L1: prepare for L2 to run @l2, with accesses to all MSRs and ports.  It is
 * free to not return, e.g. to end by VMCALL.
 */
void guest_prepare_l2(struct vmx_pages *vmx, void (*l2)(void));
/* In L1: the same for one that has an enlightened VMCS. */
void guest_prepare_l2_vmcs(struct vmx_pages *vmx, void (*l2)(void));

/* KVM_SET_MSRS of one MSR, asserting that KVM accepts or refuses the value. */
void cet_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
void cet_refuse_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
/* KVM_GET_MSRS of one MSR; false if KVM refuses. */
bool cet_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
/* The same, asserting that KVM has the MSR and returns @val. */
void cet_expect_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);

/*
 * The VMM's own shadow stack: ARCH_SHSTK_ENABLE and ARCH_SHSTK_DISABLE, and
 * where it is, 0 if nowhere.  Inline, and by a raw system call: a function that
 * enables the shadow stack cannot return, as its own frame is not on that.
 */
static __always_inline long cet_host_shadow_stack(long op)
{
	long ret;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "a"(SYS_arch_prctl), "D"(op), "S"(ARCH_SHSTK_SHSTK)
		     : "rcx", "r11", "memory");
	return ret;
}

/* Without a shadow stack, RDSSP is a NOP. */
static __always_inline uint64_t cet_host_ssp(void)
{
	uint64_t ssp = 0;

	asm volatile("rdsspq %0" : "+r"(ssp));
	return ssp;
}

#endif /* SELFTEST_KVM_CET_H */
