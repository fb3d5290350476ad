// SPDX-License-Identifier: GPL-2.0
/*
 * Nested state that another kernel has saved: the VMX capability MSRs, and
 * vmcs12, may have the controls that load CET state even if the vCPU has no CET
 * feature.  Bits and offsets are those of Linux since v6.18.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet_nested.h"

#define VMCS12_EXIT_CONTROLS	768
#define VMCS12_ENTRY_CONTROLS	780

static struct vmx_pages *vmx;

static void l2(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
	vmcall();
}

/* An L1 that knows nothing of CET */
static void guest_l1(struct cet_call *call)
{
	guest_prepare_l2(vmx, l2);
	GUEST_ASSERT(!vmlaunch());
	call->ret = vmreadz(VM_EXIT_REASON);
}

FIXTURE(blob)
{
	struct kvm_vcpu *vcpu;
	struct kvm_x86_state *state;
};

FIXTURE_VARIANT(blob)
{
	bool shstk, ibt;
};

FIXTURE_VARIANT_ADD(blob, both) { .shstk = true, .ibt = true };
FIXTURE_VARIANT_ADD(blob, shstk_only) { .shstk = true };
FIXTURE_VARIANT_ADD(blob, ibt_only) { .ibt = true };
FIXTURE_VARIANT_ADD(blob, neither) { };

FIXTURE_SETUP(blob)
{
	struct kvm_vm *vm;
	vm_vaddr_t gva;

	vm = vm_create_cet(&self->vcpu, variant->shstk, variant->ibt);
	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
	cet_prepare(self->vcpu, guest_l1, 0, 0);
	vcpu_run(self->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(self->vcpu->run->io.port, CET_PORT);

	self->state = vcpu_save_state(self->vcpu);
	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_init_cet(self->vcpu, variant->shstk, variant->ibt);
}

FIXTURE_TEARDOWN(blob)
{
	kvm_x86_state_cleanup(self->state);
	kvm_vm_free(self->vcpu->vm);
}

static uint64_t *saved_msr(struct kvm_x86_state *state, uint32_t index)
{
	int i;

	for (i = 0; i < state->msrs.nmsrs; i++) {
		if (state->msrs.entries[i].index == index)
			return (uint64_t *)&state->msrs.entries[i].data;
	}
	TEST_FAIL("MSR 0x%x is not saved", index);
}

static void set_in_vmcs12(struct kvm_x86_state *state, int offset,
			  uint32_t bits)
{
	*(uint32_t *)&state->nested.data.vmx[0].vmcs12[offset] |= bits;
}

static struct cet_vmcs_state *cet_in_vmcs12(struct kvm_x86_state *state,
					    int offset)
{
	return (void *)&state->nested.data.vmx[0].vmcs12[offset];
}

/* Have all capabilities of the CPU, whatever the vCPU has. */
static void offer_all(struct kvm_x86_state *state)
{
	*saved_msr(state, MSR_IA32_VMX_BASIC) |= VMX_BASIC_ANY_ERROR_CODE;
	*saved_msr(state, MSR_IA32_VMX_TRUE_ENTRY_CTLS) |=
		VM_ENTRY_LOAD_CET_STATE << 32;
	*saved_msr(state, MSR_IA32_VMX_TRUE_EXIT_CTLS) |=
		VM_EXIT_LOAD_CET_STATE << 32;
}

static void use_controls(struct kvm_x86_state *state)
{
	set_in_vmcs12(state, VMCS12_ENTRY_CONTROLS, VM_ENTRY_LOAD_CET_STATE);
	set_in_vmcs12(state, VMCS12_EXIT_CONTROLS, VM_EXIT_LOAD_CET_STATE);
}

static void run_to_end(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT(vcpu_is_in_l2(vcpu), "The vCPU is not in L2");
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(cet_finish(vcpu)->ret, EXIT_REASON_VMCALL);
}

static void expect_feature_msr(struct kvm_vcpu *vcpu,
			       struct kvm_x86_state *state, uint32_t index)
{
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, index), *saved_msr(state, index));
}

TEST_F(blob, capabilities)
{
	offer_all(self->state);
	vcpu_load_state(self->vcpu, self->state);
	expect_feature_msr(self->vcpu, self->state, MSR_IA32_VMX_BASIC);
	expect_feature_msr(self->vcpu, self->state,
			   MSR_IA32_VMX_TRUE_ENTRY_CTLS);
	expect_feature_msr(self->vcpu, self->state,
			   MSR_IA32_VMX_TRUE_EXIT_CTLS);
	run_to_end(self->vcpu);
}

/* From a kernel without CET, on the same CPU */
TEST_F(blob, no_capabilities)
{
	*saved_msr(self->state, MSR_IA32_VMX_BASIC) &=
		~VMX_BASIC_ANY_ERROR_CODE;
	*saved_msr(self->state, MSR_IA32_VMX_TRUE_ENTRY_CTLS) &=
		~(VM_ENTRY_LOAD_CET_STATE << 32);
	*saved_msr(self->state, MSR_IA32_VMX_TRUE_EXIT_CTLS) &=
		~(VM_EXIT_LOAD_CET_STATE << 32);
	vcpu_load_state(self->vcpu, self->state);
	expect_feature_msr(self->vcpu, self->state, MSR_IA32_VMX_BASIC);
	expect_feature_msr(self->vcpu, self->state,
			   MSR_IA32_VMX_TRUE_ENTRY_CTLS);
	expect_feature_msr(self->vcpu, self->state,
			   MSR_IA32_VMX_TRUE_EXIT_CTLS);
	run_to_end(self->vcpu);
}

/* The controls load 0 into what the vCPU has, if anything. */
TEST_F(blob, controls_in_use)
{
	offer_all(self->state);
	use_controls(self->state);
	vcpu_load_state(self->vcpu, self->state);
	run_to_end(self->vcpu);
}

/* Fields that are ignored without the controls */
TEST_F(blob, leftovers)
{
	static const struct cet_vmcs_state junk = { -1ull, -1ull, BIT_ULL(63) };

	offer_all(self->state);
	*cet_in_vmcs12(self->state, VMCS12_GUEST_CET) = junk;
	*cet_in_vmcs12(self->state, VMCS12_HOST_CET) = junk;
	vcpu_load_state(self->vcpu, self->state);
	run_to_end(self->vcpu);
}

/* The values at these offsets are loaded. */
TEST_F(blob, values)
{
	const uint64_t s_cet = (variant->shstk ? CET_WRSS_EN : 0) |
			       (variant->ibt ? CET_LEG_IW_EN : 0);
	const uint64_t ssp = variant->shstk ? 0x1000 : 0;
	const struct cet_vmcs_state host = { s_cet, ssp, 2 * ssp };
	uint64_t val;

	offer_all(self->state);
	use_controls(self->state);
	*cet_in_vmcs12(self->state, VMCS12_HOST_CET) = host;
	vcpu_load_state(self->vcpu, self->state);
	run_to_end(self->vcpu);

	TEST_ASSERT_EQ(cet_get_msr(self->vcpu, MSR_IA32_S_CET, &val) ? val : 0,
		       s_cet);
	TEST_ASSERT_EQ(cet_get_msr(self->vcpu, MSR_IA32_INT_SSP_TAB, &val) ?
		       val : 0, 2 * ssp);
	if (variant->shstk) {
		vcpu_get_reg(self->vcpu, SSP_ID, &val);
		TEST_ASSERT_EQ(val, ssp);
	}
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
