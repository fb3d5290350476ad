// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_CPUID2 on a vCPU that has not run yet, but has CET state: what the
 * vCPU can't have any more is reset, for good, and what it can have stays.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)
#define XSAVE_LEAF		0xd

/* Legal with IBT only, with SHSTK only, and with both only. */
#define CTL_IBT			(0x5000 | CET_ENDBR_EN | CET_WAIT_ENDBR)
#define CTL_SHSTK		(CET_SHSTK_EN | CET_WRSS_EN)
#define CTL_BOTH		(CTL_IBT | CTL_SHSTK)

static uint64_t ssp_value(uint32_t msr)
{
	return 0x100000 + 0x1000 * (msr & 0xf);
}

/* The shadow stack pointers, the table, SSP and IA32_XSS; or all of them 0. */
static void set_state(struct kvm_vcpu *vcpu, uint64_t ctl)
{
	uint32_t msr;

	cet_set_msr(vcpu, MSR_IA32_U_CET, ctl);
	cet_set_msr(vcpu, MSR_IA32_S_CET, ctl);
	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_INT_SSP_TAB; msr++)
		cet_set_msr(vcpu, msr, ssp_value(msr));
	vcpu_set_reg(vcpu, SSP_ID, 0x3000);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

static void expect_ctl(struct kvm_vcpu *vcpu, uint64_t ctl)
{
	cet_expect_msr(vcpu, MSR_IA32_U_CET, ctl);
	cet_expect_msr(vcpu, MSR_IA32_S_CET, ctl);
}

static void expect_ssps(struct kvm_vcpu *vcpu, bool kept)
{
	uint64_t ssp;
	uint32_t msr;

	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_INT_SSP_TAB; msr++)
		cet_expect_msr(vcpu, msr, kept ? ssp_value(msr) : 0);
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, kept ? 0x3000 : 0);
}

/* Features that are taken away must not bring the state back with them. */
static void set_features(struct kvm_vcpu *vcpu, bool shstk, bool ibt)
{
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_SHSTK, shstk);
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_IBT, ibt);
}

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

TEST_F(change, same_cpuid_keeps_state)
{
	set_state(self->vcpu, CTL_BOTH);
	vcpu_set_cpuid(self->vcpu);
	expect_ctl(self->vcpu, CTL_BOTH);
	expect_ssps(self->vcpu, true);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

TEST_F(change, unrelated_bit_keeps_state)
{
	set_state(self->vcpu, CTL_BOTH);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SMEP);
	expect_ctl(self->vcpu, CTL_BOTH);
	expect_ssps(self->vcpu, true);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

TEST_F(change, both_taken_away)
{
	set_state(self->vcpu, CTL_BOTH);
	set_features(self->vcpu, false, false);
	set_features(self->vcpu, true, true);
	expect_ctl(self->vcpu, 0);
	expect_ssps(self->vcpu, false);
}

TEST_F(change, shstk_taken_away)
{
	set_state(self->vcpu, CTL_BOTH);
	set_features(self->vcpu, false, true);
	expect_ctl(self->vcpu, 0);
	set_features(self->vcpu, true, true);
	expect_ctl(self->vcpu, 0);
	expect_ssps(self->vcpu, false);
}

TEST_F(change, legal_with_ibt_stays)
{
	set_state(self->vcpu, CTL_IBT);
	set_features(self->vcpu, false, true);
	expect_ctl(self->vcpu, CTL_IBT);
	set_features(self->vcpu, true, true);
	expect_ctl(self->vcpu, CTL_IBT);
	expect_ssps(self->vcpu, false);
}

TEST_F(change, ibt_taken_away)
{
	set_state(self->vcpu, CTL_BOTH);
	set_features(self->vcpu, true, false);
	expect_ctl(self->vcpu, 0);
	expect_ssps(self->vcpu, true);
}

TEST_F(change, legal_with_shstk_stays)
{
	set_state(self->vcpu, CTL_SHSTK);
	set_features(self->vcpu, true, false);
	expect_ctl(self->vcpu, CTL_SHSTK);
	expect_ssps(self->vcpu, true);
}

/* Long mode takes the table along, and nothing else. */
TEST_F(change, lm_taken_away)
{
	uint32_t msr;

	set_state(self->vcpu, CTL_BOTH);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_LM);
	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_LM);
	cet_expect_msr(self->vcpu, MSR_IA32_INT_SSP_TAB, 0);
	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_PL3_SSP; msr++)
		cet_expect_msr(self->vcpu, msr, ssp_value(msr));
	expect_ctl(self->vcpu, CTL_BOTH);
}

static void guest_xsaves_size(struct cet_call *call)
{
	uint32_t eax, ebx, ecx, edx;

	__cpuid(XSAVE_LEAF, 1, &eax, &ebx, &ecx, &edx);
	call->ret = ebx;
}

TEST_F(change, xss_bit_taken_away)
{
	struct kvm_cpuid_entry2 *entry;

	set_state(self->vcpu, CTL_BOTH);
	entry = __vcpu_get_cpuid_entry(self->vcpu, XSAVE_LEAF, 1);
	entry->ecx = XFEATURE_MASK_CET_USER;
	vcpu_set_cpuid(self->vcpu);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_USER);

	/* Legacy region and header, 2 MSRs; XCR0 is at its reset value. */
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xsaves_size, 0, 0)->ret,
		       576 + 2 * sizeof(uint64_t));
	expect_ctl(self->vcpu, CTL_BOTH);
	expect_ssps(self->vcpu, true);
}

TEST_F(change, xsaves_taken_away)
{
	set_state(self->vcpu, CTL_BOTH);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, 0);
}

/* The registers themselves, not only what KVM says about them. */
TEST_F(change, guest_reads_zero)
{
	uint64_t val;
	int i;

	set_state(self->vcpu, CTL_BOTH);
	set_features(self->vcpu, false, false);
	set_features(self->vcpu, true, true);

	for (i = 0; i < CET_NR_MSRS; i++) {
		TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, cet_msrs[i], &val), 0);
		TEST_ASSERT(!val, "RDMSR of %s returned 0x%lx",
			    cet_msr_name(cet_msrs[i]), val);
	}
}

/* A vCPU without CPUID is a vCPU without CET, as is its SSP. */
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
