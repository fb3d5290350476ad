// SPDX-License-Identifier: GPL-2.0
/*
 * Saving and restoring the CET state of a vCPU: in any mode that the vCPU may be
 * in, in any order, and as VMMs do it to move a guest that uses CET.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* With CR4.CET clear, no value has an effect. */
#define CTL_VALUE		(0x7fffffff4000 | CET_SHSTK_EN | CET_ENDBR_EN | \
				 CET_WAIT_ENDBR)

static uint64_t value(uint32_t msr)
{
	if (msr == MSR_IA32_U_CET || msr == MSR_IA32_S_CET)
		return CTL_VALUE;

	return 0xffff800000000000 + 0x1000 * (msr & 0xf);
}

FIXTURE(access)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(access)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(access)
{
	kvm_vm_free(self->vcpu->vm);
}

/* All of the state keeps what it is set to, refuses bad values, and takes 0. */
static void access_state(struct kvm_vcpu *vcpu)
{
	uint64_t ssp;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		cet_set_msr(vcpu, cet_msrs[i], value(cet_msrs[i]));
		cet_refuse_msr(vcpu, cet_msrs[i], 0x7000000000000000);
	}
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_set_reg(vcpu, SSP_ID, value(0));
	TEST_ASSERT(__vcpu_set_reg(vcpu, SSP_ID, 2) && errno == EINVAL,
		    "KVM_SET_ONE_REG accepted SSP = 2");

	for (i = 0; i < CET_NR_MSRS; i++) {
		cet_expect_msr(vcpu, cet_msrs[i], value(cet_msrs[i]));
		cet_set_msr(vcpu, cet_msrs[i], 0);
	}
	cet_expect_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, value(0));
}

static void guest_nop(struct cet_call *call)
{
}

TEST_F(access, never_run)
{
	access_state(self->vcpu);
}

TEST_F(access, paused)
{
	cet_call(self->vcpu, guest_nop, 0, 0);
	access_state(self->vcpu);
}

TEST_F(access, mp_states)
{
	static const uint32_t states[] = {
		KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED,
		KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
	};
	struct kvm_mp_state mp_state;
	int i;

	for (i = 0; i < ARRAY_SIZE(states); i++) {
		mp_state.mp_state = states[i];
		vcpu_mp_state_set(self->vcpu, &mp_state);
		access_state(self->vcpu);
		vcpu_mp_state_get(self->vcpu, &mp_state);
		TEST_ASSERT_EQ(mp_state.mp_state, states[i]);
	}
}

/* A value that needs 64 bits is fine, as the mode may change later. */
TEST_F(access, modes)
{
	struct kvm_sregs sregs;

	cet_call(self->vcpu, guest_nop, 0, 0);
	vcpu_sregs_get(self->vcpu, &sregs);

	/* Compatibility mode */
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	vcpu_sregs_set(self->vcpu, &sregs);
	access_state(self->vcpu);

	/* Protected mode without paging */
	sregs.cr0 &= ~X86_CR0_PG;
	sregs.efer &= ~(EFER_LME | EFER_LMA);
	vcpu_sregs_set(self->vcpu, &sregs);
	access_state(self->vcpu);

	/* Real mode */
	sregs.cr0 &= ~X86_CR0_PE;
	vcpu_sregs_set(self->vcpu, &sregs);
	access_state(self->vcpu);
}

TEST_F(access, smm)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(self->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	vcpu_events_set(self->vcpu, &events);
	access_state(self->vcpu);
	vcpu_events_get(self->vcpu, &events);
	TEST_ASSERT(events.smi.smm, "The vCPU has left SMM");
}

/* The state of a guest that has stopped on its shadow stack. */
static struct kvm_x86_state *state;
static struct kvm_sregs2 sregs2;
static uint64_t state_ssp;

FIXTURE(restore)
{
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
};

#define S_CET			(CET_SHSTK_EN | CET_ENDBR_EN)

FIXTURE_SETUP(restore)
{
	struct kvm_vcpu *vcpu;
	uint32_t msr;

	self->vm = vm_create_cet(&vcpu, true, true);
	cet_enable(vcpu);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	cet_set_msr(vcpu, MSR_IA32_U_CET, CTL_VALUE);
	for (msr = MSR_IA32_PL1_SSP; msr <= MSR_IA32_INT_SSP_TAB; msr++)
		cet_set_msr(vcpu, msr, value(msr));

	cet_prepare_run(vcpu, guest_exit_and_return, S_CET);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);

	state = vcpu_save_state(vcpu);
	vcpu_get_reg(vcpu, SSP_ID, &state_ssp);
	vcpu_ioctl(vcpu, KVM_GET_SREGS2, &sregs2);
	TEST_ASSERT(state_ssp, "The guest has no shadow stack");

	kvm_vm_release(self->vm);
	self->vcpu = vm_recreate_with_one_vcpu(self->vm);
}

FIXTURE_TEARDOWN(restore)
{
	kvm_x86_state_cleanup(state);
	kvm_vm_free(self->vm);
}

static void put_sregs2(struct kvm_vcpu *vcpu)
{
	vcpu_ioctl(vcpu, KVM_SET_SREGS2, &sregs2);
}

static void put_nested_state(struct kvm_vcpu *vcpu)
{
	vcpu_nested_state_set(vcpu, &state->nested);
}

static void put_regs(struct kvm_vcpu *vcpu)
{
	vcpu_regs_set(vcpu, &state->regs);
}

static void put_xsave(struct kvm_vcpu *vcpu)
{
	vcpu_xsave_set(vcpu, state->xsave);
}

static void put_xcrs(struct kvm_vcpu *vcpu)
{
	vcpu_xcrs_set(vcpu, &state->xcrs);
}

static void put_msrs(struct kvm_vcpu *vcpu)
{
	vcpu_msrs_set(vcpu, &state->msrs);
}

/* The same list the other way round: IA32_XSS is before, or after, the others. */
static void put_msrs_reversed(struct kvm_vcpu *vcpu)
{
	struct kvm_msr_entry *entries = state->msrs.entries, entry;
	int i, j;

	for (i = 0, j = state->msrs.nmsrs - 1; i < j; i++, j--) {
		entry = entries[i];
		entries[i] = entries[j];
		entries[j] = entry;
	}
	put_msrs(vcpu);
}

static void put_ssp(struct kvm_vcpu *vcpu)
{
	vcpu_set_reg(vcpu, SSP_ID, state_ssp);
}

static void put_events(struct kvm_vcpu *vcpu)
{
	vcpu_events_set(vcpu, &state->events);
}

static void put_mp_state(struct kvm_vcpu *vcpu)
{
	vcpu_mp_state_set(vcpu, &state->mp_state);
}

static void put_debugregs(struct kvm_vcpu *vcpu)
{
	vcpu_debugregs_set(vcpu, &state->debugregs);
}

static void put_feature_control(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < state->msrs.nmsrs; i++) {
		if (state->msrs.entries[i].index == MSR_IA32_FEAT_CTL)
			vcpu_set_msr(vcpu, MSR_IA32_FEAT_CTL,
				     state->msrs.entries[i].data);
	}
}

static void expect_restored(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	uint64_t ssp;
	uint32_t msr;

	cet_expect_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	cet_expect_msr(vcpu, MSR_IA32_U_CET, CTL_VALUE);
	cet_expect_msr(vcpu, MSR_IA32_S_CET, S_CET);
	for (msr = MSR_IA32_PL1_SSP; msr <= MSR_IA32_INT_SSP_TAB; msr++)
		cet_expect_msr(vcpu, msr, value(msr));

	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, state_ssp);
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr4 & X86_CR4_CET, X86_CR4_CET);
}

/* The order of QEMU, from KVM_SET_CPUID2 on. */
static void (*const vmm_order[])(struct kvm_vcpu *vcpu) = {
	put_feature_control, put_sregs2, put_nested_state, put_regs, put_xsave,
	put_xcrs, put_msrs, put_ssp, put_events, put_mp_state, put_debugregs,
};

static void restore_as_vmm(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(vmm_order); i++)
		vmm_order[i](vcpu);
}

TEST_F(restore, order_of_vmm)
{
	restore_as_vmm(self->vcpu);
	expect_restored(self->vcpu);

	vcpu_run(self->vcpu);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->vector, 0);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->ret, 1);
	cet_expect_msr(self->vcpu, MSR_IA32_U_CET, CTL_VALUE);
}

/* The guest returns by the restored SSP, so a wrong one is noticed. */
TEST_F(restore, lost_ssp_is_noticed)
{
	state_ssp += sizeof(uint64_t);
	restore_as_vmm(self->vcpu);

	vcpu_run(self->vcpu);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->vector, CP_VECTOR);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->error_code, CP_NEAR_RET);
}

#define NR_STEPS		5
#define NR_ORDERS		120

static void (*const steps[NR_STEPS])(struct kvm_vcpu *vcpu) = {
	put_sregs2, put_xsave, put_xcrs, put_msrs_reversed, put_ssp,
};

/* CET state can be restored in any order. */
TEST_F_TIMEOUT(restore, any_order, 600)
{
	int order, i, n, radix, left[NR_STEPS];

	for (order = 0; order < NR_ORDERS; order++) {
		if (order) {
			kvm_vm_release(self->vm);
			self->vcpu = vm_recreate_with_one_vcpu(self->vm);
		}

		for (i = 0; i < NR_STEPS; i++)
			left[i] = i;
		for (n = order, radix = NR_STEPS; radix; n /= radix--) {
			i = n % radix;
			steps[left[i]](self->vcpu);
			left[i] = left[radix - 1];
		}
		expect_restored(self->vcpu);
	}

	restore_as_vmm(self->vcpu);
	vcpu_run(self->vcpu);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->ret, 1);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
