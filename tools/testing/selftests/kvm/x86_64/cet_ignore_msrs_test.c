// SPDX-License-Identifier: GPL-2.0
/*
 * kvm.ignore_msrs with CET MSRs: MSRs that the vCPU does not have are ignored
 * like any others, bad values are still refused, and SSP is no MSR.
 */
#include <errno.h>
#include <fcntl.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)
#define IGNORE_MSRS		"/sys/module/kvm/parameters/ignore_msrs"

/* KVM's internal index of SSP */
#define MSR_KVM_INTERNAL_SSP	0x4b564dff
#define NON_CANONICAL		0x7000000000000000ull

static char write_ignore_msrs(char val)
{
	int fd = open_path_or_exit(IGNORE_MSRS, O_RDWR);
	char old;

	TEST_ASSERT(read(fd, &old, 1) == 1 && pwrite(fd, &val, 1, 0) == 1,
		    "Cannot access " IGNORE_MSRS);
	close(fd);
	return old;
}

FIXTURE(ignore)
{
	struct kvm_vcpu *vcpu;
	char old;
};

FIXTURE_VARIANT(ignore)
{
	char ignore_msrs;
};

FIXTURE_VARIANT_ADD(ignore, off) { .ignore_msrs = 'N' };
FIXTURE_VARIANT_ADD(ignore, on) { .ignore_msrs = 'Y' };

FIXTURE_SETUP(ignore)
{
	vm_create_cet(&self->vcpu, true, true);
	self->old = write_ignore_msrs(variant->ignore_msrs);
}

/* In the parent, which gets here even if the test has failed. */
FIXTURE_TEARDOWN_PARENT(ignore)
{
	write_ignore_msrs(self->old);
}

/* Ignored MSRs read as 0, whatever was written. */
TEST_F(ignore, absent_msrs)
{
	const uint8_t vector = variant->ignore_msrs == 'Y' ? 0 : GP_VECTOR;
	struct kvm_vcpu *vcpu = self->vcpu;
	uint64_t val;
	int i;

	vcpu_init_cet(vcpu, false, false);
	for (i = 0; i < CET_NR_MSRS; i++) {
		if (variant->ignore_msrs == 'Y')
			cet_set_msr(vcpu, cet_msrs[i], 0x4000);
		else
			cet_refuse_msr(vcpu, cet_msrs[i], 0x4000);
		cet_set_msr(vcpu, cet_msrs[i], 0);
		cet_expect_msr(vcpu, cet_msrs[i], 0);

		TEST_ASSERT_EQ(cet_wrmsr(vcpu, cet_msrs[i], 0x4000), vector);
		TEST_ASSERT_EQ(cet_rdmsr(vcpu, cet_msrs[i], &val), vector);
		TEST_ASSERT(vector || !val, "RDMSR of %s returned 0x%lx",
			    cet_msr_name(cet_msrs[i]), val);
	}
}

TEST_F(ignore, bad_values)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		cet_set_msr(vcpu, cet_msrs[i], 0x4000);
		cet_refuse_msr(vcpu, cet_msrs[i], NON_CANONICAL);
		TEST_ASSERT_EQ(cet_wrmsr(vcpu, cet_msrs[i], NON_CANONICAL),
			       GP_VECTOR);
		cet_expect_msr(vcpu, cet_msrs[i], 0x4000);
	}
	cet_set_msr(vcpu, MSR_IA32_XSS, 0);
	cet_refuse_msr(vcpu, MSR_IA32_XSS, 1);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_IA32_XSS, 1), GP_VECTOR);
}

TEST_F(ignore, absent_ssp_register)
{
	uint64_t ssp;

	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	vcpu_init_cet(self->vcpu, false, true);
	TEST_ASSERT(__vcpu_get_reg(self->vcpu, SSP_ID, &ssp) && errno == EINVAL,
		    "KVM_GET_ONE_REG returned an SSP that does not exist");
	TEST_ASSERT(__vcpu_set_reg(self->vcpu, SSP_ID, 0) && errno == EINVAL,
		    "KVM_SET_ONE_REG set an SSP that does not exist");
}

/* Nothing but KVM_GET_ONE_REG and KVM_SET_ONE_REG gets at SSP. */
TEST_F(ignore, no_msr_is_ssp)
{
	const uint64_t before = 0x12345678;
	const uint8_t vector = variant->ignore_msrs == 'Y' ? 0 : GP_VECTOR;
	struct kvm_vcpu *vcpu = self->vcpu;
	uint64_t ssp = before;
	bool got;

	vcpu_set_reg(vcpu, SSP_ID, before);

	got = cet_get_msr(vcpu, MSR_KVM_INTERNAL_SSP, &ssp);
	TEST_ASSERT_EQ(got, variant->ignore_msrs == 'Y');
	TEST_ASSERT(!got || !ssp, "KVM_GET_MSRS returned 0x%lx", ssp);
	got = _vcpu_set_msr(vcpu, MSR_KVM_INTERNAL_SSP, 0x1000) == 1;
	TEST_ASSERT_EQ(got, variant->ignore_msrs == 'Y');

	TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_KVM_INTERNAL_SSP, 0x1000), vector);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, MSR_KVM_INTERNAL_SSP, &ssp), vector);
	TEST_ASSERT(vector || !ssp, "RDMSR returned 0x%lx", ssp);

	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, before);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
