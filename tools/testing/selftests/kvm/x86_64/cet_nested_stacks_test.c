// SPDX-License-Identifier: GPL-2.0
/*
 * L1 and L2 on a shadow stack each, and with indirect branch tracking: VM entry
 * and VM exit switch between them, also after a migration.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

#define CET_BOTH_EN	(CET_SHSTK_EN | CET_ENDBR_EN)

/* Guest data: L2's shadow stack, which has no token, and is empty. */
static uint64_t l2_ssp;

/*
 * L1's payload for cet_run().  The VMCS is ready, except for HOST_SSP, HOST_RSP
 * and HOST_RIP.  It leaves the exit reason in RAX for @end.
 */
#define L1_PAYLOAD(name, end)				\
static __attribute__((naked)) void name(void)		\
{							\
	asm("endbr64\n"					\
	    "push %rbp\n"				\
	    "push %rbx\n"				\
	    "push %r12\n"				\
	    "push %r13\n"				\
	    "push %r14\n"				\
	    "push %r15\n"				\
	    "xor %eax, %eax\n"				\
	    "rdsspq %rax\n"				\
	    "mov $0x6c1a, %ecx\n"			\
	    "vmwrite %rax, %rcx\n"			\
	    "mov $0x6c14, %ecx\n"			\
	    "vmwrite %rsp, %rcx\n"			\
	    "lea 1f(%rip), %rax\n"			\
	    "mov $0x6c16, %ecx\n"			\
	    "vmwrite %rax, %rcx\n"			\
	    "vmlaunch\n"				\
	    "1: mov $0x4402, %ecx\n"			\
	    "vmread %rcx, %rax\n"			\
	    "pop %r15\n"				\
	    "pop %r14\n"				\
	    "pop %r13\n"				\
	    "pop %r12\n"				\
	    "pop %rbx\n"				\
	    "pop %rbp\n"				\
	    end "\n");					\
}

L1_PAYLOAD(l1_return, "ret")
L1_PAYLOAD(l1_smash_return, "lea 2f(%rip), %rcx\nmov %rcx, (%rsp)\n2: ret")
L1_PAYLOAD(l1_jump_off_endbr, "lea 2f(%rip), %rcx\njmp *%rcx\n2: ret")

static __attribute__((naked)) void l2_return(void)
{
	asm("endbr64\n"
	    "call 1f\n"
	    "vmcall\n"
	    "1: ret\n");
}

static __attribute__((naked)) void l2_out_and_return(void)
{
	asm("endbr64\n"
	    "call 1f\n"
	    "vmcall\n"
	    "1: out %al, $0x80\n"
	    "ret\n");
}

static void guest_prepare(struct cet_call *call)
{
	GUEST_ASSERT(prepare_for_vmx_operation(cet_vmx));
	GUEST_ASSERT(load_vmcs(cet_vmx));
	guest_prepare_l2_vmcs(cet_vmx, (void *)call->arg[0]);
	vmwrite(EXCEPTION_BITMAP, BIT(CP_VECTOR));
	vmwrite(VM_ENTRY_CONTROLS,
		vmreadz(VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_CET_STATE);
	vmwrite(VM_EXIT_CONTROLS,
		vmreadz(VM_EXIT_CONTROLS) | VM_EXIT_LOAD_CET_STATE);
	call->vector = vmwrite(GUEST_S_CET, CET_BOTH_EN) |
		       vmwrite(GUEST_SSP, l2_ssp) |
		       vmwrite(GUEST_INTR_SSP_TABLE, 0) |
		       vmwrite(HOST_S_CET, CET_BOTH_EN) |
		       vmwrite(HOST_INTR_SSP_TABLE, 0);
}

/* L1, after cet_run(): read what the last VM exit has reported. */
static void guest_read_exit(struct cet_call *call)
{
	call->arg[0] = vmreadz(VM_EXIT_INTR_INFO);
	call->arg[1] = vmreadz(VM_EXIT_INTR_ERROR_CODE);
	call->ret = vmreadz(GUEST_SSP);
}

FIXTURE(stacks)
{
	struct kvm_vcpu *vcpu;
	vm_vaddr_t ssp;
};

FIXTURE_SETUP(stacks)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	vm_vaddr_t alias;

	vcpu_init_cet_nested(self->vcpu);
	self->ssp = vm_alloc_shadow_stack(vm, &alias) + PAGE_SIZE;
	write_guest_global(vm, l2_ssp, self->ssp);
	cet_enable(self->vcpu);
}

FIXTURE_TEARDOWN(stacks)
{
	kvm_vm_free(self->vcpu->vm);
}

static void prepare(struct kvm_vcpu *vcpu, void (*l1)(void), void (*l2)(void))
{
	TEST_ASSERT(!cet_call(vcpu, guest_prepare, (uint64_t)l2, 0)->vector,
		    "VMWRITE refused a field");
	cet_prepare_run(vcpu, l1, CET_BOTH_EN);
}

/* @reason: what L1 returns, or @error_code: the #CP that it does not survive. */
static void expect_l1(struct kvm_vcpu *vcpu, uint64_t reason,
		      uint64_t error_code)
{
	struct cet_call *call;

	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT_EQ(call->vector, error_code ? CP_VECTOR : 0);
	TEST_ASSERT_EQ(call->error_code, error_code);
	if (!error_code)
		TEST_ASSERT_EQ(call->ret, reason);
}

static void expect_l2_stopped(struct kvm_vcpu *vcpu, uint64_t error_code)
{
	struct cet_call *call = cet_call(vcpu, guest_read_exit, 0, 0);

	TEST_ASSERT_EQ(call->arg[0], CP_INFO);
	TEST_ASSERT_EQ(call->arg[1], error_code);
}

TEST_F(stacks, both_return)
{
	prepare(self->vcpu, l1_return, l2_return);
	expect_l1(self->vcpu, EXIT_REASON_VMCALL, 0);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_read_exit, 0, 0)->ret,
		       self->ssp);
}

TEST_F(stacks, l1_smashed_return)
{
	prepare(self->vcpu, l1_smash_return, l2_return);
	expect_l1(self->vcpu, 0, CP_NEAR_RET);
}

TEST_F(stacks, l1_jump_off_endbr)
{
	prepare(self->vcpu, l1_jump_off_endbr, l2_return);
	expect_l1(self->vcpu, 0, CP_ENDBRANCH);
}

TEST_F(stacks, l2_smashed_return)
{
	prepare(self->vcpu, l1_return, guest_smash_return);
	expect_l1(self->vcpu, EXIT_REASON_EXCEPTION_NMI, 0);
	expect_l2_stopped(self->vcpu, CP_NEAR_RET);
}

TEST_F(stacks, l2_jump_off_endbr)
{
	prepare(self->vcpu, l1_return, guest_jump_off_endbr);
	expect_l1(self->vcpu, EXIT_REASON_EXCEPTION_NMI, 0);
	expect_l2_stopped(self->vcpu, CP_ENDBRANCH);
}

static void run_l2_to_out(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_is_in_l2(vcpu), "The vCPU is not in L2");
}

static void migrate(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = (*vcpu)->vm;
	struct kvm_x86_state *state = vcpu_save_state(*vcpu);
	uint64_t ssp;

	vcpu_get_reg(*vcpu, SSP_ID, &ssp);
	kvm_vm_release(vm);
	*vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(*vcpu, state);
	vcpu_set_reg(*vcpu, SSP_ID, ssp);
	kvm_x86_state_cleanup(state);
}

TEST_F(stacks, migrate_in_l2)
{
	prepare(self->vcpu, l1_return, l2_out_and_return);
	run_l2_to_out(self->vcpu);
	migrate(&self->vcpu);
	expect_l1(self->vcpu, EXIT_REASON_VMCALL, 0);
}

TEST_F(stacks, l1_smashed_return_after_migration)
{
	prepare(self->vcpu, l1_smash_return, l2_out_and_return);
	run_l2_to_out(self->vcpu);
	migrate(&self->vcpu);
	expect_l1(self->vcpu, 0, CP_NEAR_RET);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
