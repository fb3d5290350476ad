// SPDX-License-Identifier: GPL-2.0
/*
 * L1 and L2 kernels that use CET themselves, with no control set that loads CET
 * state: L1 may have CR4.CET set in VMX operation.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

/* VM-instruction error */
#define INVALID_CONTROL_FIELD		7

#define SSP_ID		KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* All of these are guest data. */
static struct vmx_pages *vmx;
static struct cet_call *l2_call;

static void l2_nop(void)
{
	vmcall();
}

static void l2_rdmsr(void)
{
	guest_rdmsr(l2_call);
	vmcall();
}

static void l2_run(void)
{
	guest_run(l2_call);
	vmcall();
}

/* L2 has to end by VMCALL. */
static void l1_launch(void)
{
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

/* L1: OR arg[1] to the VMCS field arg[0], and return the error of VMLAUNCH. */
static void guest_or_field(struct cet_call *call)
{
	const uint64_t field = call->arg[0];

	guest_prepare_l2(vmx, l2_nop);
	vmwrite(field, vmreadz(field) | call->arg[1]);
	call->ret = vmlaunch() ? vmreadz(VM_INSTRUCTION_ERROR) : 0;
}

/* L1: read CR4 in VMX operation, before L2 to arg[0], after it to arg[1]. */
static void guest_vmxon(struct cet_call *call)
{
	guest_prepare_l2(vmx, l2_nop);
	call->arg[0] = get_cr4();
	l1_launch();
	call->arg[1] = get_cr4();
}

/* L1: guest_rdmsr() and guest_run(), but in L2. */
static void guest_rdmsr_in_l2(struct cet_call *call)
{
	l2_call = call;
	guest_prepare_l2(vmx, l2_rdmsr);
	l1_launch();
}

static void guest_run_in_l2(struct cet_call *call)
{
	l2_call = call;
	guest_prepare_l2(vmx, l2_run);
	l1_launch();
}

FIXTURE(nested_guest)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(nested_guest)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	vm_vaddr_t gva;

	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
}

FIXTURE_TEARDOWN(nested_guest)
{
	kvm_vm_free(self->vcpu->vm);
}

static uint64_t or_field(struct kvm_vcpu *vcpu, uint64_t field, uint64_t bits)
{
	return cet_call(vcpu, guest_or_field, field, bits)->ret;
}

TEST_F(nested_guest, no_control_set)
{
	TEST_ASSERT_EQ(or_field(self->vcpu, VM_ENTRY_CONTROLS, 0), 0);
}

TEST_F(nested_guest, l2_without_features)
{
	struct cet_call *call;

	vcpu_init_cet(self->vcpu, false, false);
	call = cet_call(self->vcpu, guest_rdmsr_in_l2, MSR_IA32_S_CET, 0);
	TEST_ASSERT_EQ(call->vector, GP_VECTOR);
}

TEST_F(nested_guest, cr4_fixed1_follows_features)
{
	uint64_t val;
	int i;

	for (i = 0; i < 4; i++) {
		vcpu_init_cet(self->vcpu, i & 1, i & 2);
		val = vcpu_get_msr(self->vcpu, MSR_IA32_VMX_CR4_FIXED1);
		TEST_ASSERT(!!(val & X86_CR4_CET) == !!i,
			    "IA32_VMX_CR4_FIXED1 = 0x%lx with SHSTK %d, IBT %d",
			    val, i & 1, i >> 1);
	}
}

/* CR4.CET stays set from before VMXON to after a VM exit. */
TEST_F(nested_guest, vmxon_with_cr4_cet)
{
	struct cet_call *call;

	cet_enable(self->vcpu);
	call = cet_call(self->vcpu, guest_vmxon, 0, 0);
	TEST_ASSERT(call->arg[0] & X86_CR4_CET,
		    "VMX operation with CR4 = 0x%lx", call->arg[0]);
	TEST_ASSERT_EQ(call->arg[1], call->arg[0]);
}

/* L2 clears IA32_S_CET before it exits, as L1 needs it. */
static void prepare_run_in_l2(struct kvm_vcpu *vcpu, void (*payload)(void))
{
	cet_enable(vcpu);
	cet_prepare_run(vcpu, payload, CET_SHSTK_EN | CET_ENDBR_EN)->fn =
		guest_run_in_l2;
}

/* @error_code 0: the payload gets through. */
static void expect_in_l2(struct kvm_vcpu *vcpu, uint64_t error_code)
{
	struct cet_call *call;

	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT_EQ(call->vector, error_code ? CP_VECTOR : 0);
	TEST_ASSERT_EQ(call->error_code, error_code);
	TEST_ASSERT_EQ(call->ret, !error_code);
}

TEST_F(nested_guest, call_and_return_in_l2)
{
	prepare_run_in_l2(self->vcpu, guest_call_return);
	expect_in_l2(self->vcpu, 0);
}

TEST_F(nested_guest, smashed_return_in_l2)
{
	prepare_run_in_l2(self->vcpu, guest_smash_return);
	expect_in_l2(self->vcpu, CP_NEAR_RET);
}

TEST_F(nested_guest, jump_off_endbr_in_l2)
{
	prepare_run_in_l2(self->vcpu, guest_jump_off_endbr);
	expect_in_l2(self->vcpu, CP_ENDBRANCH);
}

TEST_F(nested_guest, migrate_on_shadow_stack_of_l2)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct kvm_x86_state *state;
	uint64_t ssp;

	prepare_run_in_l2(self->vcpu, guest_exit_and_return);
	vcpu_run(self->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(self->vcpu->run->io.port, CET_PORT);

	state = vcpu_save_state(self->vcpu);
	TEST_ASSERT(state->nested.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "KVM_GET_NESTED_STATE is not in L2");
	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);

	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(self->vcpu, state);
	vcpu_set_reg(self->vcpu, SSP_ID, ssp);
	kvm_x86_state_cleanup(state);

	expect_in_l2(self->vcpu, 0);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
