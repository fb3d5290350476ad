// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_CPUID2 on a vCPU that has CET state: it decides what the vCPU can
 * have from then on, and changes no state.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)
#define CTL			(0x4000 | CET_ENDBR_EN | CET_WAIT_ENDBR | \
				 CET_SHSTK_EN | CET_WRSS_EN)
#define SSP			0x3000

FIXTURE(change)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(change)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(change)
{
	kvm_vm_free(self->vcpu->vm);
}

static uint64_t msr_value(uint32_t msr)
{
	return msr <= MSR_IA32_S_CET ? CTL : 0x100000 + 0x1000 * (msr & 0xf);
}

static void set_state(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], msr_value(cet_msrs[i]));
	vcpu_set_reg(vcpu, SSP_ID, SSP);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

static void expect_state(struct kvm_vcpu *vcpu)
{
	uint64_t ssp;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], msr_value(cet_msrs[i]));
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, SSP);
	cet_expect_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

TEST_F(change, same_cpuid)
{
	set_state(self->vcpu);
	vcpu_set_cpuid(self->vcpu);
	expect_state(self->vcpu);
}

TEST_F(change, unrelated_bit)
{
	set_state(self->vcpu);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SMEP);
	expect_state(self->vcpu);
}

/* What was taken away is inaccessible, and comes back with the features. */
TEST_F(change, taken_away_and_back)
{
	uint64_t ssp;
	int i;

	set_state(self->vcpu);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i], 0);
	TEST_ASSERT(__vcpu_get_reg(self->vcpu, SSP_ID, &ssp) && errno == EINVAL,
		    "KVM_GET_ONE_REG returned SSP without shadow stacks");
	cet_refuse_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	expect_state(self->vcpu);
}

/* Without XSAVES, IA32_XSS can be cleared nevertheless. */
TEST_F(change, xss_cleared_without_xsaves)
{
	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	cet_set_msr(self->vcpu, MSR_IA32_XSS, 0);
	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, 0);
}

/* A vCPU that never had CET can get it, and lose it, as long as it hasn't run. */
TEST_F(change, intercepts)
{
	uint64_t val;
	int i;

	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT(cet_rdmsr(self->vcpu, cet_msrs[i], &val) == GP_VECTOR,
			    "RDMSR of %s, which the vCPU has lost, works",
			    cet_msr_name(cet_msrs[i]));
}

/* Before KVM_SET_CPUID2, a vCPU has no CET and no SSP. */
TEST_F(change, no_ssp_before_cpuid)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct kvm_vcpu *vcpu = __vm_vcpu_add(vm, 0);
	uint64_t ssp = 0;

	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	TEST_ASSERT(__vcpu_get_reg(vcpu, SSP_ID, &ssp) && errno == EINVAL,
		    "KVM_GET_ONE_REG returned SSP before KVM_SET_CPUID2");
	TEST_ASSERT(__vcpu_set_reg(vcpu, SSP_ID, 0) && errno == EINVAL,
		    "KVM_SET_ONE_REG set SSP before KVM_SET_CPUID2");
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
