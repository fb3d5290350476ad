// SPDX-License-Identifier: GPL-2.0
/*
 * VM entries into L2 that KVM accepts, but the processor refuses: L1 keeps its
 * CET state, except for what VM exit loads.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

static const struct cet_vmcs_state none;

/* With CR4.CET clear, these have no effect. */
static const struct cet_vmcs_state l1 = {
	CET_ENDBR_EN | 0x1000000, 0x1001000, 0x1002000,
};

static const struct cet_vmcs_state guest = {
	CET_SHSTK_EN | CET_WAIT_ENDBR | 0x2000000, 0x2001004, 0x2002001,
};

static const struct cet_vmcs_state host = {
	CET_ENDBR_EN | CET_SUPPRESS | 0x3000000, 0x3001000, 0x3002000,
};

FIXTURE(refused)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(refused)
{
	bool entry, exit;
};

FIXTURE_VARIANT_ADD(refused, neither) { };
FIXTURE_VARIANT_ADD(refused, guest) { .entry = true };
FIXTURE_VARIANT_ADD(refused, host) { .exit = true };
FIXTURE_VARIANT_ADD(refused, both) { .entry = true, .exit = true };

FIXTURE_SETUP(refused)
{
	vm_create_cet(&self->vcpu, true, true);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->load_guest = variant->entry;
	self->n->load_host = variant->exit;
	self->n->guest = guest;
	self->n->host = host;
	self->n->l2 = l2_read;
	vcpu_set_cet_state(self->vcpu, &l1);
}

FIXTURE_TEARDOWN(refused)
{
	kvm_vm_free(self->vcpu->vm);
}

/* L1 has @state, and another VM entry works. */
static void expect_refused(struct kvm_vcpu *vcpu, struct cet_nested *n,
			   const struct cet_vmcs_state *state)
{
	cet_expect_state(&n->saved, &guest, "fields");
	TEST_ASSERT_EQ(n->l1_s_cet, state->s_cet);
	vcpu_expect_cet_state(vcpu, state, "L1");

	n->prepare = NULL;
	cet_run_nested(vcpu);
	TEST_ASSERT_EQ(n->error, 0);
	TEST_ASSERT_EQ(n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(n->l2_s_cet,
		       n->load_guest ? guest.s_cet : state->s_cet);
}

/* Bit 1 is fixed to 1. */
static void set_bad_rflags(void)
{
	vmwrite(GUEST_RFLAGS, 0);
}

TEST_F(refused, guest_state)
{
	self->n->prepare = set_bad_rflags;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);
	expect_refused(self->vcpu, self->n, variant->exit ? &host : &l1);
}

/* KVM doesn't compare it with the virtual TPR, which is 0 in the page. */
static void set_high_tpr_threshold(void)
{
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, cet_vmx->shadow_vmcs_gpa);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	vmwrite(TPR_THRESHOLD, 0xf);
}

TEST_F(refused, control)
{
	self->n->prepare = set_high_tpr_threshold;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_CONTROL_FIELD);
	expect_refused(self->vcpu, self->n, &l1);
}

/*
 * User space has restored a VM entry that is pending.  What it sets of CET
 * state afterwards is L2's if VM entry loads it, and otherwise L1's.
 */
TEST_F(refused, restored_pending_entry)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct kvm_x86_state *state;
	uint8_t *vmcs12;

	self->n->l2 = l2_read_out_write;
	cet_run_l2_to_out(self->vcpu);
	vcpu_set_cet_state(self->vcpu, &none);
	state = vcpu_save_state(self->vcpu);
	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);

	state->nested.flags |= KVM_STATE_NESTED_RUN_PENDING;
	vmcs12 = state->nested.data.vmx[0].vmcs12;
	memcpy(&vmcs12[VMCS12_GUEST_CET], &guest, sizeof(guest));
	/* Blocking by STI and by MOV SS */
	*(uint32_t *)&vmcs12[VMCS12_INTERRUPTIBILITY] = 3;
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_set_cet_state(self->vcpu, variant->entry ? &guest : &l1);

	state = vcpu_save_state(self->vcpu);
	vmcs12 = state->nested.data.vmx[0].vmcs12;
	cet_expect_state((void *)&vmcs12[VMCS12_GUEST_CET], &guest, "vmcs12");
	kvm_x86_state_cleanup(state);

	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);
	self->n->l2 = l2_read;
	expect_refused(self->vcpu, self->n, variant->exit ? &host :
		       variant->entry ? &none : &l1);
}

/* KVM forces the vCPU out of an L2 that was entered after a failed VM entry. */
TEST_F(refused, then_forced_exit)
{
	struct kvm_nested_state nested = {
		.size = sizeof(nested),
		.format = KVM_STATE_NESTED_FORMAT_VMX,
		.hdr.vmx.vmxon_pa = -1ull,
		.hdr.vmx.vmcs12_pa = -1ull,
	};
	struct kvm_x86_state *state;

	self->n->l2 = l2_read_out_write;
	cet_run_l2_to_out(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);

	self->n->prepare = set_bad_rflags;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);

	vcpu_nested_state_set(self->vcpu, &nested);
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_set_cet_state(self->vcpu, &host);
	TEST_ASSERT(vcpu_is_in_l2(self->vcpu), "The vCPU is not in L2");
	vcpu_nested_state_set(self->vcpu, &nested);
	vcpu_expect_cet_state(self->vcpu, &host, "after L2");
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
