// SPDX-License-Identifier: GPL-2.0
/*
 * Values of the seven CET MSRs: which ones the host and the guest may write,
 * and that each MSR holds its own.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define MAX_VALUES		16

/* Canonical for every CPU, and canonical for none. */
#define HIGH_CANONICAL		0xffff800000000000ull
#define NON_CANONICAL		0x7000000000000000ull
/* Not canonical for a CPU with 48-bit linear addresses. */
#define NON_CANONICAL_48	0x0000800000000000ull

static bool host_has_la57(void)
{
	return this_cpu_has(X86_FEATURE_LA57);
}

FIXTURE(msr)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(msr)
{
	uint32_t index;
	bool needs_shstk;
	/* Zero is legal for every one, and ends the list. */
	uint64_t legal[MAX_VALUES];
	uint64_t illegal[MAX_VALUES];
};

#define CTL_VALUES							\
	.legal = {							\
		CET_SHSTK_EN, CET_SHSTK_EN | CET_WRSS_EN, CET_WRSS_EN,	\
		CET_ENDBR_EN, CET_LEG_IW_EN, CET_NO_TRACK_EN,		\
		CET_SUPPRESS_DISABLE, CET_SUPPRESS, CET_WAIT_ENDBR,	\
		CET_SHSTK_EN | CET_ENDBR_EN | CET_WAIT_ENDBR,		\
		0x00007fffffffc000, HIGH_CANONICAL | 0x3f,		\
		0x00007ffffffff000, 0x1000, 0x2000,			\
	},								\
	.illegal = {							\
		BIT_ULL(6), BIT_ULL(7), BIT_ULL(8), BIT_ULL(9),		\
		CET_SUPPRESS | CET_WAIT_ENDBR, NON_CANONICAL,		\
		NON_CANONICAL | CET_SHSTK_EN,				\
	}

#define SSP_VALUES							\
	.needs_shstk = true,						\
	.legal = {							\
		4, 8, 0x1000, 0x00007ffffffffffc, HIGH_CANONICAL,	\
		0xfffffffffffffffc, 0x80000000,	0xfffffffc,		\
	},								\
	.illegal = { 1, 2, 3, 0x1001, NON_CANONICAL, NON_CANONICAL + 8 }

#define TAB_VALUES							\
	.needs_shstk = true,						\
	.legal = {							\
		1, 8, 0x1001, 0x00007fffffffffff, HIGH_CANONICAL,	\
		0xffffffffffffffff,					\
	},								\
	.illegal = { NON_CANONICAL, NON_CANONICAL + 1 }

FIXTURE_VARIANT_ADD(msr, u_cet) { .index = MSR_IA32_U_CET, CTL_VALUES };
FIXTURE_VARIANT_ADD(msr, s_cet) { .index = MSR_IA32_S_CET, CTL_VALUES };
FIXTURE_VARIANT_ADD(msr, pl0_ssp) { .index = MSR_IA32_PL0_SSP, SSP_VALUES };
FIXTURE_VARIANT_ADD(msr, pl1_ssp) { .index = MSR_IA32_PL1_SSP, SSP_VALUES };
FIXTURE_VARIANT_ADD(msr, pl2_ssp) { .index = MSR_IA32_PL2_SSP, SSP_VALUES };
FIXTURE_VARIANT_ADD(msr, pl3_ssp) { .index = MSR_IA32_PL3_SSP, SSP_VALUES };
FIXTURE_VARIANT_ADD(msr, int_ssp_tab) {
	.index = MSR_IA32_INT_SSP_TAB, TAB_VALUES
};

FIXTURE_SETUP(msr)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(msr)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(msr, starts_as_zero)
{
	cet_expect_msr(self->vcpu, variant->index, 0);
}

TEST_F(msr, host_set_get)
{
	uint64_t val;
	int i = 0;

	do {
		val = variant->legal[i++];
		cet_set_msr(self->vcpu, variant->index, val);
		cet_expect_msr(self->vcpu, variant->index, val);
	} while (val);
}

TEST_F(msr, guest_reads_what_host_set)
{
	uint64_t val, read;
	uint8_t vector;
	int i = 0;

	do {
		val = variant->legal[i++];
		cet_set_msr(self->vcpu, variant->index, val);
		vector = cet_rdmsr(self->vcpu, variant->index, &read);
		TEST_ASSERT(!vector, "RDMSR of %s raised vector %u",
			    cet_msr_name(variant->index), vector);
		TEST_ASSERT_EQ(read, val);
	} while (val);
}

TEST_F(msr, host_gets_what_guest_wrote)
{
	uint64_t val;
	uint8_t vector;
	int i = 0;

	do {
		val = variant->legal[i++];
		vector = cet_wrmsr(self->vcpu, variant->index, val);
		TEST_ASSERT(!vector, "WRMSR of %s = 0x%lx raised vector %u",
			    cet_msr_name(variant->index), val, vector);
		cet_expect_msr(self->vcpu, variant->index, val);
	} while (val);
}

static void refuse_all(struct kvm_vcpu *vcpu, uint32_t msr,
		       const uint64_t *illegal, uint64_t legal)
{
	for (; *illegal; illegal++) {
		cet_refuse_msr(vcpu, msr, *illegal);
		cet_expect_msr(vcpu, msr, legal);
	}
}

TEST_F(msr, host_illegal_values_refused)
{
	const uint64_t legal = variant->legal[0];

	cet_set_msr(self->vcpu, variant->index, legal);
	refuse_all(self->vcpu, variant->index, variant->illegal, legal);

	if (!host_has_la57()) {
		cet_refuse_msr(self->vcpu, variant->index, NON_CANONICAL_48);
		cet_expect_msr(self->vcpu, variant->index, legal);
	}
}

TEST_F(msr, guest_illegal_values_fault)
{
	const uint64_t *illegal, legal = variant->legal[0];
	uint8_t vector;

	cet_set_msr(self->vcpu, variant->index, legal);

	for (illegal = variant->illegal; *illegal; illegal++) {
		vector = cet_wrmsr(self->vcpu, variant->index, *illegal);
		TEST_ASSERT(vector == GP_VECTOR,
			    "WRMSR of %s = 0x%lx raised vector %u",
			    cet_msr_name(variant->index), *illegal, vector);
		cet_expect_msr(self->vcpu, variant->index, legal);
	}
}

TEST_F(msr, other_msrs_untouched)
{
	const uint64_t val = variant->legal[1];
	int i;

	cet_set_msr(self->vcpu, variant->index, val);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i],
			       cet_msrs[i] == variant->index ? val : 0);
}

TEST_F(msr, in_index_list)
{
	TEST_ASSERT(kvm_msr_is_in_save_restore_list(variant->index),
		    "%s is not in KVM_GET_MSR_INDEX_LIST",
		    cet_msr_name(variant->index));
}

/* The vCPU has no such MSR, but a VMM may save and restore its zero. */
static void expect_absent(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t legal)
{
	uint64_t val;

	cet_set_msr(vcpu, msr, 0);
	cet_refuse_msr(vcpu, msr, legal);
	cet_expect_msr(vcpu, msr, 0);

	TEST_ASSERT_EQ(cet_rdmsr(vcpu, msr, &val), GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, msr, 0), GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, msr, legal), GP_VECTOR);
}

TEST_F(msr, absent_without_features)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, false, false);

	expect_absent(vcpu, variant->index, variant->legal[0]);
	kvm_vm_free(vm);
}

TEST_F(msr, absent_before_cpuid)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct kvm_vcpu *vcpu = __vm_vcpu_add(vm, 0);

	cet_set_msr(vcpu, variant->index, 0);
	cet_refuse_msr(vcpu, variant->index, variant->legal[0]);
	cet_expect_msr(vcpu, variant->index, 0);
	kvm_vm_free(vm);
}

/*
 * Only the bits of the vCPU's own features.  But what a guest can load into
 * IA32_U_CET by XRSTORS, the host must be able to restore.
 */
static void expect_ctl_bits(struct kvm_vcpu *vcpu, uint32_t msr,
			    const uint64_t *legal, uint64_t mask)
{
	uint8_t vector;
	uint64_t val;

	for (; *legal; legal++) {
		val = *legal;
		cet_set_msr(vcpu, msr, 0);
		if (val & ~mask && msr != MSR_IA32_U_CET) {
			cet_refuse_msr(vcpu, msr, val);
		} else {
			cet_set_msr(vcpu, msr, val);
			cet_expect_msr(vcpu, msr, val);
		}

		cet_set_msr(vcpu, msr, 0);
		vector = cet_wrmsr(vcpu, msr, val);
		TEST_ASSERT(vector == (val & ~mask ? GP_VECTOR : 0),
			    "WRMSR of %s = 0x%lx raised vector %u",
			    cet_msr_name(msr), val, vector);
		cet_expect_msr(vcpu, msr, val & ~mask ? 0 : val);
	}
}

#define CTL_SHSTK_BITS	(CET_SHSTK_EN | CET_WRSS_EN)
#define CTL_IBT_BITS	(~(CTL_SHSTK_BITS | CET_RESERVED))

TEST_F(msr, shstk_only)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, false);
	uint64_t val = variant->legal[0];

	if (!variant->needs_shstk) {
		expect_ctl_bits(vcpu, variant->index, variant->legal,
				CTL_SHSTK_BITS);
		cet_set_msr(vcpu, variant->index, 0);
		refuse_all(vcpu, variant->index, variant->illegal, 0);
	} else {
		cet_set_msr(vcpu, variant->index, val);
		TEST_ASSERT_EQ(cet_rdmsr(vcpu, variant->index, &val), 0);
		TEST_ASSERT_EQ(val, variant->legal[0]);
		refuse_all(vcpu, variant->index, variant->illegal, val);
	}
	kvm_vm_free(vm);
}

TEST_F(msr, ibt_only)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, false, true);

	if (!variant->needs_shstk) {
		expect_ctl_bits(vcpu, variant->index, variant->legal,
				CTL_IBT_BITS);
		cet_set_msr(vcpu, variant->index, 0);
		refuse_all(vcpu, variant->index, variant->illegal, 0);
	} else {
		expect_absent(vcpu, variant->index, variant->legal[0]);
	}
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
