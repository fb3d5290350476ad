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

/* Sub-leaf @index of leaf 0xD in KVM_GET_SUPPORTED_CPUID, NULL if not there */
const struct kvm_cpuid_entry2 *cet_find_xsave_entry(uint32_t index);

#define CET_NR_MSRS		7
extern const uint32_t cet_msrs[CET_NR_MSRS];
const char *cet_msr_name(uint32_t msr);

/* The MSRs that XSAVES manages.  S_CET and INT_SSP_TAB are in the VMCS. */
#define CET_NR_XSAVE_MSRS	5
extern const uint32_t cet_xsave_msrs[CET_NR_XSAVE_MSRS];

/* A value that is legal for every MSR, and differs for each @seed and @i */
uint64_t cet_value(int seed, int i);

/* cet_call() takes vCPUs whose ID is below this. */
#define CET_MAX_VCPUS		4

/*
 * One call of a guest function by the host: what the guest function gets, and
 * where it leaves its results.  cet_guest.S knows the offsets.
 */
struct cet_call {
	void (*fn)(struct cet_call *call);
	uint64_t arg[2];
	uint64_t ret;
	/* The exception that the function raised, 0 if none */
	uint64_t vector;
	uint64_t error_code;
	/* The stack to which the #CP handler of guest_run() returns. */
	uint64_t recovery_rsp;
};

/*
 * Skip the whole test if KVM does not support CET.  With the environment
 * variable KVM_CET_FORCE set, run regardless: on a KVM without CET, each
 * subtest then shows what it misses.
 */
void cet_require(void);
bool cet_is_forced(void);

/*
 * Create a VM with one vCPU that is ready for cet_call().  @shstk and @ibt are
 * the features in its CPUID, whether or not KVM supports them.
 */
struct kvm_vm *vm_create_cet(struct kvm_vcpu **vcpu, bool shstk, bool ibt);

/*
 * Install @handler, in assembly, for @vector.  The library's handlers do not
 * begin with ENDBR64, and return by IRET.
 */
void vm_set_raw_handler(struct kvm_vm *vm, int vector, void (*handler)(void));

/*
 * Allocate a page, and map it twice: to *@alias as ordinary memory, and to the
 * address that is returned as a supervisor shadow stack.
 */
vm_vaddr_t vm_alloc_shadow_stack(struct kvm_vm *vm, vm_vaddr_t *alias);
/* Turn the page at @gva into a shadow stack, in the page table. */
void vm_make_shadow_stack(struct kvm_vm *vm, vm_vaddr_t gva);

/*
 * Prepare for an IRET to user mode, with a stack for exceptions from there.
 * All memory of the guest becomes user memory.  That rules out supervisor
 * shadow stacks, except those that vm_make_supervisor() turns back.
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

/* Call these in the guest; return the vector of the exception, 0 if none. */
uint8_t cet_rdmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
uint8_t cet_wrmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
uint8_t cet_mov_cr0(struct kvm_vcpu *vcpu, uint64_t val);
uint8_t cet_mov_cr4(struct kvm_vcpu *vcpu, uint64_t val);

/* #CPs that happened outside of cet_run(), and the last one's error code. */
extern uint64_t cet_cp_count;
extern uint64_t cet_cp_error_code;

/*
 * Code for the page below 4 GiB where a vCPU starts after INIT.  It reads all
 * CET MSRs, and writes the bits that are set in any of them to port CET_PORT.
 */
extern const uint8_t guest_init_page[];
#define CET_PORT		0x80

/* Set CR4.CET by MOV CR4 in the guest, or fail the test. */
void cet_enable(struct kvm_vcpu *vcpu);

/*
 * Run @payload in the guest with IA32_S_CET = @s_cet, on a fresh supervisor
 * shadow stack if that has SHSTK_EN, and clear IA32_S_CET afterwards.  In the
 * result, vector is CP_VECTOR if #CP stopped the payload.  As with
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
 * The guest's address of the shadow stack's token, which is in PL0_SSP when
 * cet_run() starts.  cet_run() writes the token to the alias, as a shadow stack
 * is not writable.
 */
extern uint64_t cet_shadow_stack;
extern uint64_t cet_shadow_stack_alias;

/*
 * The host's address of the shadow stack's token, which is its highest entry.
 * The return addresses of a cet_run() are in the entries below it.
 */
uint64_t *cet_shadow_stack_hva(struct kvm_vm *vm);

/*
 * In L1: prepare for L2 to run @l2, with access to all MSRs and ports.  @l2
 * need not return; it can end by VMCALL, for example.
 */
void guest_prepare_l2(struct vmx_pages *vmx, void (*l2)(void));
/* In L1: the same once a VMCS is loaded, e.g. an enlightened one. */
void guest_prepare_l2_vmcs(struct vmx_pages *vmx, void (*l2)(void));

/* KVM_SET_MSRS of one MSR, asserting that KVM accepts or refuses the value. */
void cet_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
void cet_refuse_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);
/* KVM_GET_MSRS of one MSR; false if KVM refuses. */
bool cet_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
/* The same, asserting that KVM has the MSR and returns @val. */
void cet_expect_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val);

/*
 * The VMM's own shadow stack: ARCH_SHSTK_ENABLE and ARCH_SHSTK_DISABLE, and its
 * SSP, 0 if there is none.  Inline, and by a raw system call: a function that
 * enables the shadow stack cannot return, as its return address is not there.
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
