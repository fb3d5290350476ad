// SPDX-License-Identifier: GPL-2.0
/*
 * The example for VMMs in cet_vmm.h: it saves a guest whose whole CET state is
 * in use, and restores it to a new VM, where the guest runs on.  With one item
 * left out, the guest breaks as described in cet-migration.rst.
 */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/stringify.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "cet_vmm.h"

/* XFEATURE_MASK_CET, for assembly */
#define XFEATURE_MASK_CET_BITS	0x1800

#define S_CET			(CET_SHSTK_EN | CET_ENDBR_EN)
#define PL1_SSP			0x1000
#define PL2_SSP			0x2000

/* Vectors of INTn: one for a handler with a stack of its own, one for users. */
#define IST_VECTOR		0x81
#define USER_VECTOR		0x82

/* What became of the guest: it got to its end, or ... */
#define RUNS_ON			0
#define IS_DEAD			1	/* triple fault */
#define READS_ZERO		2
#define FAULT(vector, error_code)	((vector) << 16 | (error_code))

/* Used by the assembly */
uint8_t image[PAGE_SIZE] __aligned(64);
void (*guest_target)(void);

/*
 * The payload for cet_run(): get four calls deep, have XSAVES store the state
 * that it manages, exit, and jump to the target.  The host saves the vCPU after
 * the exit, before the target.  It is up to the target which state it uses.
 */
static __attribute__((naked)) void guest_deep(void)
{
	asm("endbr64\n"
	    "call 1f\n"
	    "ret\n"
	    "1: call 2f\n"
	    "ret\n"
	    "2: call 3f\n"
	    "ret\n"
	    "3: mov $" __stringify(XFEATURE_MASK_CET_BITS) ", %eax\n"
	    "xor %edx, %edx\n"
	    "xsaves64 image(%rip)\n"
	    "mov guest_target(%rip), %rax\n"
	    "out %al, $" __stringify(CET_PORT) "\n"
	    "jmp *%rax\n");
}

/* A target that returns 1 at the end. */
#define GUEST_TARGET(name, code)						\
static __attribute__((naked)) void name(void)				\
{									\
	asm(code "\n"							\
	    "mov $1, %eax\n"						\
	    "ret\n");							\
}

GUEST_TARGET(guest_return, "endbr64")
GUEST_TARGET(guest_off_endbr, "nop")
GUEST_TARGET(guest_smash, "endbr64\n"
	     "call 1f\n"
	     "1: lea 2f(%rip), %rax\n"
	     "mov %rax, (%rsp)\n"
	     "ret\n"
	     "2:")
GUEST_TARGET(guest_xrstors, "endbr64\n"
	     "mov $" __stringify(XFEATURE_MASK_CET_BITS) ", %eax\n"
	     "xor %edx, %edx\n"
	     "xrstors64 image(%rip)")
GUEST_TARGET(guest_setssbsy, "endbr64\n"
	     "setssbsy\n"
	     "out %al, $" __stringify(CET_PORT))
GUEST_TARGET(guest_int_ist, "endbr64\n"
	     "int $" __stringify(IST_VECTOR))

/* Returns 1 if PL1_SSP and PL2_SSP are as set. */
static __attribute__((naked)) void guest_read(void)
{
	asm("endbr64\n"
	    "mov $" __stringify(MSR_IA32_PL1_SSP) ", %ecx\n"
	    "rdmsr\n"
	    "lea -" __stringify(PL1_SSP) "(%eax), %esi\n"
	    "mov $" __stringify(MSR_IA32_PL2_SSP) ", %ecx\n"
	    "rdmsr\n"
	    "lea -" __stringify(PL2_SSP) "(%eax), %eax\n"
	    "or %esi, %eax\n"
	    "setz %al\n"
	    "movzx %al, %eax\n"
	    "ret\n");
}

/*
 * A target that goes to user mode, for a call, and comes back by INT.  Only user
 * mode has a shadow stack then: emulators make mistakes about the token that an
 * interrupt in user mode takes, and IRET gives back.
 */
#define USER_STAR	0x00f80000	/* (USER_CS - 19) << 16 */
#define USER_TARGET(name, code)						\
static __attribute__((naked)) void name(void)				\
{									\
	asm("endbr64\n"							\
	    "mov $" __stringify(MSR_IA32_S_CET) ", %ecx\n"		\
	    "mov $4, %eax\n" /* CET_ENDBR_EN */				\
	    "xor %edx, %edx\n"						\
	    "wrmsr\n"							\
	    "mov $" __stringify(MSR_STAR) ", %ecx\n"			\
	    "mov $" __stringify(USER_STAR) ", %edx\n"			\
	    "xor %eax, %eax\n"						\
	    "wrmsr\n"							\
	    "pushf\n"							\
	    "pop %r11\n"						\
	    "sub $256, %rsp\n"						\
	    "lea 1f(%rip), %rcx\n"					\
	    "sysretq\n"							\
	    "1: call 3f\n"						\
	    "2: int $" __stringify(USER_VECTOR) "\n"			\
	    "3:" code "\n"						\
	    "ret\n");							\
}

USER_TARGET(guest_user, "")
USER_TARGET(guest_user_smash, "lea 4f(%rip), %rax\n"
	    "mov %rax, (%rsp)\n"
	    "ret\n"
	    "4: int $" __stringify(USER_VECTOR) "\n")

static __attribute__((naked)) void guest_ist_handler(void)
{
	asm("endbr64\n"
	    "iretq\n");
}

/* There is no way back to the caller's shadow stack, so don't return. */
static __attribute__((naked)) void guest_user_handler(void)
{
	asm("endbr64\n"
	    "out %al, $" __stringify(CET_PORT) "\n");
}

/* Returns the guest's address of the token of a supervisor shadow stack. */
static uint64_t alloc_token(struct kvm_vm *vm)
{
	const size_t token = PAGE_SIZE - sizeof(uint64_t);
	vm_vaddr_t gva, alias;

	gva = vm_alloc_shadow_stack(vm, &alias) + token;
	*(uint64_t *)addr_gva2hva(vm, alias + token) = gva;
	return gva;
}

/* A vCPU of a guest that has stopped at @target, waiting for ENDBR64 */
static struct kvm_vcpu *create_guest(void (*target)(void))
{
	struct kvm_guest_debug debug = {
		.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
	};
	uint64_t entry, pl0_ssp, ist_ssp, pl3_ssp;
	vm_vaddr_t alias, table;
	struct idt_entry *idt;
	struct kvm_sregs sregs;
	struct kvm_vcpu *vcpu;
	struct kvm_regs regs;
	struct kvm_vm *vm;
	void *tss;

	vm = vm_create_cet(&vcpu, true, true);
	cet_enable(vcpu);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	sregs.efer |= EFER_SCE;
	vcpu_sregs_set(vcpu, &sregs);

	pl0_ssp = alloc_token(vm);
	ist_ssp = alloc_token(vm);
	pl3_ssp = vm_alloc_shadow_stack(vm, &alias) + PAGE_SIZE;
	table = vm_vaddr_alloc_page(vm);
	((uint64_t *)addr_gva2hva(vm, table))[1] = ist_ssp;
	tss = addr_gva2hva(vm, vm->arch.tss);
	*(uint64_t *)(tss + TSS_IST1) = vm_vaddr_alloc_page(vm) + PAGE_SIZE;

	vm_init_user_mode(vm);
	vm_make_supervisor(vm, pl0_ssp);
	vm_make_supervisor(vm, ist_ssp);
	memcpy(&entry, addr_gva2hva(vm, (vm_vaddr_t)&cet_shadow_stack),
	       sizeof(entry));
	vm_make_supervisor(vm, entry);

	vm_set_raw_handler(vm, GP_VECTOR, guest_gp_handler);
	vm_set_raw_handler(vm, PF_VECTOR, guest_pf_handler);
	vm_set_raw_handler(vm, IST_VECTOR, guest_ist_handler);
	vm_set_raw_handler(vm, USER_VECTOR, guest_user_handler);
	idt = addr_gva2hva(vm, vm->arch.idt);
	idt[IST_VECTOR].ist = 1;
	idt[USER_VECTOR].dpl = 3;

	cet_set_msr(vcpu, MSR_IA32_U_CET, CET_SHSTK_EN | CET_ENDBR_EN);
	cet_set_msr(vcpu, MSR_IA32_PL1_SSP, PL1_SSP);
	cet_set_msr(vcpu, MSR_IA32_PL2_SSP, PL2_SSP);
	cet_set_msr(vcpu, MSR_IA32_PL3_SSP, pl3_ssp);
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, table);
	write_guest_global(vm, guest_target, target);
	cet_prepare_run(vcpu, guest_deep, S_CET);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);

	/* The token in use is busy: have another one for interrupts. */
	cet_set_msr(vcpu, MSR_IA32_PL0_SSP, pl0_ssp);

	vcpu_guest_debug_set(vcpu, &debug);
	do {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_DEBUG);
		vcpu_regs_get(vcpu, &regs);
	} while (regs.rip != (uint64_t)target);
	memset(&debug, 0, sizeof(debug));
	vcpu_guest_debug_set(vcpu, &debug);

	cet_expect_msr(vcpu, MSR_IA32_S_CET, S_CET | CET_WAIT_ENDBR);
	return vcpu;
}

static struct cet_vmm_state state;

static struct kvm_msr_entry *find_msr(uint32_t index)
{
	int i;

	for (i = 0; i < state.msrs.header.nmsrs; i++) {
		if (state.msrs.entries[i].index == index)
			return &state.msrs.entries[i];
	}

	TEST_FAIL("The example has not saved %s", cet_msr_name(index));
}

/* What the VMM does on its own; the example has the rest. */
struct other_state {
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
};

/* Save the guest to @state and @other. */
static void save_state(struct kvm_vcpu *vcpu, struct other_state *other)
{
	int r;

	memset(&state, 0, sizeof(state));
	r = cet_vmm_save(vcpu->fd, &state);
	TEST_ASSERT(!r, "cet_vmm_save() failed: %d", r);
	vcpu_regs_get(vcpu, &other->regs);
	vcpu_events_get(vcpu, &other->events);
	vcpu_debugregs_get(vcpu, &other->debugregs);
}

/* The same, and make a new VM of its memory. */
static struct kvm_vcpu *save_guest(struct kvm_vcpu *vcpu,
				   struct other_state *other)
{
	struct kvm_vm *vm = vcpu->vm;

	save_state(vcpu, other);
	kvm_vm_release(vm);
	kvm_vm_restart(vm);
	return __vm_vcpu_add(vm, 0);
}

static void restore_other(struct kvm_vcpu *vcpu, struct other_state *other)
{
	vcpu_regs_set(vcpu, &other->regs);
	vcpu_events_set(vcpu, &other->events);
	vcpu_debugregs_set(vcpu, &other->debugregs);
}

static uint32_t run_to_end(struct kvm_vcpu *vcpu)
{
	struct cet_call *call;

	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN)
		return IS_DEAD;
	if (vcpu->run->exit_reason == KVM_EXIT_IO &&
	    vcpu->run->io.port == CET_PORT)
		return RUNS_ON;

	call = cet_finish(vcpu);
	if (call->vector)
		return FAULT(call->vector, call->error_code);
	return call->ret ? RUNS_ON : READS_ZERO;
}

/*
 * Move a guest that has stopped at @target, its state changed by @lose, and run
 * it to its end.
 */
static uint32_t move_guest(void (*target)(void), void (*lose)(void))
{
	struct other_state other;
	struct kvm_vcpu *vcpu;
	uint32_t result;
	int r;

	vcpu = save_guest(create_guest(target), &other);
	if (lose)
		lose();
	r = cet_vmm_check(vcpu->vm->kvm_fd, &state);
	TEST_ASSERT(!r, "cet_vmm_check() failed: %d", r);
	r = cet_vmm_restore(vcpu->fd, &state);
	TEST_ASSERT(!r, "cet_vmm_restore() failed: %d", r);
	restore_other(vcpu, &other);

	result = run_to_end(vcpu);
	kvm_vm_free(vcpu->vm);
	return result;
}

static void expect(const char *how, uint32_t got, uint32_t want)
{
	TEST_ASSERT(got == want, "%s, the guest ended with 0x%x, not 0x%x", how,
		    got, want);
}

/* Without what @lose takes, the guest ends in @loss. */
#define EXPECT_LOSS(target, lose, loss) do {				\
	expect("With all state", move_guest(target, NULL), RUNS_ON);	\
	expect("Without " #lose, move_guest(target, lose), loss);	\
} while (0)

/* A violation is caught, but not without what @lose takes. */
#define EXPECT_UNNOTICED(target, lose, caught) do {			\
	expect("With all state", move_guest(target, NULL), caught);	\
	expect("Without " #lose, move_guest(target, lose), RUNS_ON);	\
} while (0)

/* As if the VMM's list did not have it */
static void lose_msr(struct kvm_msr_entry *entry)
{
	*entry = state.msrs.entries[--state.msrs.header.nmsrs];
}

#define MSR_LOST(name, msr)						\
static void name(void)							\
{									\
	lose_msr(find_msr(msr));					\
}

MSR_LOST(xss, MSR_IA32_XSS)
MSR_LOST(u_cet, MSR_IA32_U_CET)
MSR_LOST(s_cet, MSR_IA32_S_CET)
MSR_LOST(pl0_ssp, MSR_IA32_PL0_SSP)
MSR_LOST(pl1_ssp, MSR_IA32_PL1_SSP)
MSR_LOST(pl2_ssp, MSR_IA32_PL2_SSP)
MSR_LOST(pl3_ssp, MSR_IA32_PL3_SSP)
MSR_LOST(int_ssp_tab, MSR_IA32_INT_SSP_TAB)

static void tracker(void)
{
	find_msr(MSR_IA32_S_CET)->data &= ~CET_WAIT_ENDBR;
}

static void cr4_cet(void)
{
	state.sregs.cr4 &= ~X86_CR4_CET;
}

static void ssp(void)
{
	state.has_ssp = false;
}

TEST(all_state_is_non_zero)
{
	struct kvm_vcpu *vcpu = create_guest(guest_return);
	struct other_state other;
	int i;

	vcpu = save_guest(vcpu, &other);
	TEST_ASSERT_EQ(state.msrs.header.nmsrs, CET_NR_MSRS + 1);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT(find_msr(cet_msrs[i])->data, "%s is 0",
			    cet_msr_name(cet_msrs[i]));
	TEST_ASSERT_EQ(find_msr(MSR_IA32_XSS)->data, XFEATURE_MASK_CET);
	TEST_ASSERT(state.has_ssp && state.ssp, "SSP is 0");
	TEST_ASSERT(state.sregs.cr4 & X86_CR4_CET, "CR4.CET is clear");
	kvm_vm_free(vcpu->vm);
}

TEST(restored_is_what_was_saved)
{
	static struct cet_vmm_state again;
	struct other_state other;
	struct kvm_vcpu *vcpu;

	vcpu = save_guest(create_guest(guest_return), &other);
	TEST_ASSERT_EQ(cet_vmm_restore(vcpu->fd, &state), 0);
	restore_other(vcpu, &other);
	TEST_ASSERT_EQ(cet_vmm_save(vcpu->fd, &again), 0);
	TEST_ASSERT(!memcmp(&again.msrs, &state.msrs, sizeof(state.msrs)),
		    "The MSRs differ");
	TEST_ASSERT(!memcmp(&again.cpuid, &state.cpuid, sizeof(state.cpuid)),
		    "CPUID differs");
	TEST_ASSERT_EQ(again.ssp, state.ssp);
	TEST_ASSERT_EQ(again.sregs.cr4, state.sregs.cr4);
	expect("With all state", run_to_end(vcpu), RUNS_ON);
	kvm_vm_free(vcpu->vm);
}

TEST(without_cr4_cet)
{
	EXPECT_UNNOTICED(guest_smash, cr4_cet, FAULT(CP_VECTOR, CP_NEAR_RET));
}

TEST(without_xss)
{
	EXPECT_LOSS(guest_xrstors, xss, FAULT(GP_VECTOR, 0));
}

TEST(without_s_cet)
{
	EXPECT_UNNOTICED(guest_smash, s_cet, FAULT(CP_VECTOR, CP_NEAR_RET));
}

TEST(without_tracker)
{
	EXPECT_UNNOTICED(guest_off_endbr, tracker,
			 FAULT(CP_VECTOR, CP_ENDBRANCH));
}

TEST(without_u_cet)
{
	EXPECT_UNNOTICED(guest_user_smash, u_cet,
			 FAULT(CP_VECTOR, CP_NEAR_RET));
}

TEST(without_ssp)
{
	EXPECT_LOSS(guest_return, ssp, IS_DEAD);
}

/*
 * A page fault in supervisor mode, at a shadow stack.  Emulators differ in bit
 * 1, i.e. whether it was a write.
 */
TEST(without_pl0_ssp)
{
	expect("With all state", move_guest(guest_setssbsy, NULL), RUNS_ON);
	expect("Without pl0_ssp", move_guest(guest_setssbsy, pl0_ssp) & ~2,
	       FAULT(PF_VECTOR, 0x40));
}

TEST(without_pl1_or_pl2_ssp)
{
	EXPECT_LOSS(guest_read, pl1_ssp, READS_ZERO);
	EXPECT_LOSS(guest_read, pl2_ssp, READS_ZERO);
}

/* A page fault in user mode, by a write to a shadow stack */
TEST(without_pl3_ssp)
{
	EXPECT_LOSS(guest_user, pl3_ssp, FAULT(PF_VECTOR, 0x46));
}

/* A page fault in supervisor mode, by a read of the table at 0 */
TEST(without_int_ssp_tab)
{
	EXPECT_LOSS(guest_int_ist, int_ssp_tab, FAULT(PF_VECTOR, 0));
}

/*
 * Run a copy of the guest that lacks what @lose and @lose_too take.  It is in a
 * process of its own, for others to have the same memory.  The guest may fail
 * in any way, but KVM can enter it.
 */
static void run_without(struct kvm_vm *vm, struct other_state *other,
			void (*lose)(void), void (*lose_too)(void))
{
	struct kvm_vcpu *vcpu;
	int status;
	pid_t pid;

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (pid) {
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT(!status, "wait status 0x%x", status);
		return;
	}

	kvm_vm_restart(vm);
	vcpu = __vm_vcpu_add(vm, 0);
	lose();
	if (lose_too != lose)
		lose_too();
	TEST_ASSERT_EQ(cet_vmm_restore(vcpu->fd, &state), 0);
	restore_other(vcpu, other);
	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_IO ||
		    vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN,
		    "Exit reason %u", vcpu->run->exit_reason);
	_exit(0);
}

TEST(any_two_left_out)
{
	static void (*const all[])(void) = {
		xss, u_cet, s_cet, pl0_ssp, pl1_ssp, pl2_ssp, pl3_ssp,
		int_ssp_tab, tracker, cr4_cet, ssp,
	};
	static void (*const targets[])(void) = {
		guest_return, guest_user, guest_int_ist,
	};
	struct other_state other;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, j, k;

	for (k = 0; k < ARRAY_SIZE(targets); k++) {
		vcpu = create_guest(targets[k]);
		vm = vcpu->vm;
		save_state(vcpu, &other);
		kvm_vm_release(vm);
		for (i = 0; i < ARRAY_SIZE(all); i++) {
			for (j = i; j < ARRAY_SIZE(all); j++)
				run_without(vm, &other, all[j], all[i]);
		}
	}
}

/* Each step fails before KVM_SET_CPUID2, and trying does no harm. */
TEST(cpuid_comes_first)
{
	struct other_state other;
	struct kvm_vcpu *vcpu;

	vcpu = save_guest(create_guest(guest_return), &other);
	TEST_ASSERT_EQ(cet_vmm_set_sregs(vcpu->fd, &state), -EINVAL);
	TEST_ASSERT_EQ(cet_vmm_set_msrs(vcpu->fd, &state), -EINVAL);
	TEST_ASSERT_EQ(cet_vmm_set_ssp(vcpu->fd, &state), -EINVAL);
	TEST_ASSERT_EQ(cet_vmm_restore(vcpu->fd, &state), 0);
	restore_other(vcpu, &other);
	expect("After CPUID", run_to_end(vcpu), RUNS_ON);
	kvm_vm_free(vcpu->vm);
}

/* KVM_SET_SREGS takes both or none. */
TEST(cr4_cet_comes_with_wp)
{
	struct other_state other;
	struct kvm_vcpu *vcpu;

	vcpu = save_guest(create_guest(guest_return), &other);
	TEST_ASSERT_EQ(cet_vmm_set_cpuid(vcpu->fd, &state), 0);
	state.sregs.cr0 &= ~X86_CR0_WP;
	TEST_ASSERT_EQ(cet_vmm_set_sregs(vcpu->fd, &state), -EINVAL);
	state.sregs.cr0 |= X86_CR0_WP;
	TEST_ASSERT_EQ(cet_vmm_restore(vcpu->fd, &state), 0);
	kvm_vm_free(vcpu->vm);
}

/* The reverse order, except that CPUID has to be first */
TEST(other_order)
{
	struct other_state other;
	struct kvm_vcpu *vcpu;

	vcpu = save_guest(create_guest(guest_xrstors), &other);
	TEST_ASSERT_EQ(cet_vmm_set_cpuid(vcpu->fd, &state), 0);
	TEST_ASSERT_EQ(cet_vmm_set_ssp(vcpu->fd, &state), 0);
	TEST_ASSERT_EQ(cet_vmm_set_msrs(vcpu->fd, &state), 0);
	TEST_ASSERT_EQ(cet_vmm_set_fpu(vcpu->fd, &state), 0);
	TEST_ASSERT_EQ(cet_vmm_set_sregs(vcpu->fd, &state), 0);
	restore_other(vcpu, &other);
	expect("In another order", run_to_end(vcpu), RUNS_ON);
	kvm_vm_free(vcpu->vm);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
