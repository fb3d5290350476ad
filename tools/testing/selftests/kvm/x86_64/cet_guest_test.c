// SPDX-License-Identifier: GPL-2.0
/*
 * Guests that use CET: a supervisor shadow stack catches a return address that
 * was overwritten, indirect branch tracking catches a jump that lands off
 * ENDBR64, and the same code runs on without CET.
 */
#include "kvm_test_harness.h"
#include "cet.h"

FIXTURE(cet)
{
	struct kvm_vcpu *vcpu;
	/* IA32_S_CET with every feature of the vCPU enabled */
	uint64_t s_cet;
};

FIXTURE_VARIANT(cet)
{
	bool shstk;
	bool ibt;
};

FIXTURE_VARIANT_ADD(cet, both) { .shstk = true, .ibt = true };
FIXTURE_VARIANT_ADD(cet, shstk_only) { .shstk = true };
FIXTURE_VARIANT_ADD(cet, ibt_only) { .ibt = true };

FIXTURE_SETUP(cet)
{
	vm_create_cet(&self->vcpu, variant->shstk, variant->ibt);
	self->s_cet = (variant->shstk ? CET_SHSTK_EN : 0) |
		      (variant->ibt ? CET_ENDBR_EN : 0);
}

FIXTURE_TEARDOWN(cet)
{
	kvm_vm_free(self->vcpu->vm);
}

/* @error_code 0: the payload gets through. */
static void expect(struct kvm_vcpu *vcpu, void (*payload)(void),
		   uint64_t s_cet, uint64_t error_code)
{
	struct cet_call *call = cet_run(vcpu, payload, s_cet);

	if (!error_code) {
		TEST_ASSERT(!call->vector,
			    "Vector %lu, error code %lu, with S_CET = 0x%lx",
			    call->vector, call->error_code, s_cet);
		TEST_ASSERT_EQ(call->ret, 1);
	} else {
		TEST_ASSERT(call->vector == CP_VECTOR,
			    "No #CP with S_CET = 0x%lx", s_cet);
		TEST_ASSERT_EQ(call->error_code, error_code);
		TEST_ASSERT_EQ(call->ret, 0);
	}
}

TEST_F(cet, call_and_return)
{
	cet_enable(self->vcpu);
	expect(self->vcpu, guest_call_return, self->s_cet, 0);
}

TEST_F(cet, smashed_return)
{
	cet_enable(self->vcpu);
	expect(self->vcpu, guest_smash_return, self->s_cet,
	       variant->shstk ? CP_NEAR_RET : 0);
	/* Once more: the #CP must have left nothing behind. */
	expect(self->vcpu, guest_smash_return, self->s_cet,
	       variant->shstk ? CP_NEAR_RET : 0);
}

TEST_F(cet, jump_to_endbr)
{
	cet_enable(self->vcpu);
	expect(self->vcpu, guest_jump_to_endbr, self->s_cet, 0);
}

TEST_F(cet, jump_off_endbr)
{
	cet_enable(self->vcpu);
	expect(self->vcpu, guest_jump_off_endbr, self->s_cet,
	       variant->ibt ? CP_ENDBRANCH : 0);
	expect(self->vcpu, guest_jump_off_endbr, self->s_cet,
	       variant->ibt ? CP_ENDBRANCH : 0);
}

/* Each feature alone, though the vCPU may have both. */
TEST_F(cet, other_feature_not_enabled)
{
	cet_enable(self->vcpu);
	if (variant->shstk)
		expect(self->vcpu, guest_jump_off_endbr, CET_SHSTK_EN, 0);
	if (variant->ibt)
		expect(self->vcpu, guest_smash_return, CET_ENDBR_EN, 0);
}

TEST_F(cet, s_cet_clear)
{
	cet_enable(self->vcpu);
	expect(self->vcpu, guest_smash_return, 0, 0);
	expect(self->vcpu, guest_jump_off_endbr, 0, 0);
}

/* CR4.CET is what turns it on: S_CET alone does nothing. */
TEST_F(cet, cr4_cet_clear)
{
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, self->s_cet);
	expect(self->vcpu, guest_smash_return, 0, 0);
	expect(self->vcpu, guest_jump_off_endbr, 0, 0);
	cet_expect_msr(self->vcpu, MSR_IA32_S_CET, self->s_cet);
}

KVM_ONE_VCPU_TEST_SUITE(guest);

/* The control: this code does run on where nothing stops it. */
KVM_ONE_VCPU_TEST(guest, attacks_succeed_without_cet, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, false, false);
	expect(vcpu, guest_call_return, 0, 0);
	expect(vcpu, guest_smash_return, 0, 0);
	expect(vcpu, guest_jump_to_endbr, 0, 0);
	expect(vcpu, guest_jump_off_endbr, 0, 0);
}

/* CALL's return address and SETSSBSY's busy bit are in guest memory. */
KVM_ONE_VCPU_TEST(guest, shadow_stack_is_in_guest_memory, NULL)
{
	const uint64_t fn = (uint64_t)guest_call_return;
	uint64_t *token;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	expect(vcpu, guest_call_return, CET_SHSTK_EN, 0);

	token = cet_shadow_stack_hva(vcpu->vm);
	TEST_ASSERT(token[0] & 1, "The token 0x%lx is not busy", token[0]);
	TEST_ASSERT(token[-2] > fn && token[-2] < fn + 16,
		    "0x%lx is no return address of the function at 0x%lx",
		    token[-2], fn);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
