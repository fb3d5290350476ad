// SPDX-License-Identifier: GPL-2.0
/*
 * CPUID that no CPU has: shadow stacks, but no XSAVE state to switch them.  KVM
 * must not give the vCPU shadow stacks then, or a guest that relies on both
 * loses processes.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

FIXTURE(shape)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(shape)
{
	/* ECX of leaf 0xD, sub-leaf 1, if that exists */
	uint32_t xss;
	/* The first and the last sub-leaf of 0xD to leave out */
	int first_missing, last_missing;
	/* Have them, but all zero. */
	bool empty;
	bool no_xsave, no_xsaves;
	bool has_shstk;
};

FIXTURE_VARIANT_ADD(shape, complete) {
	.xss = XFEATURE_MASK_CET, .first_missing = -1, .has_shstk = true,
};

/* No guest needs XSAVES for IA32_PL{0,1,2}_SSP. */
FIXTURE_VARIANT_ADD(shape, cet_user_only) {
	.xss = XFEATURE_MASK_CET_USER, .first_missing = -1, .has_shstk = true,
};

FIXTURE_VARIANT_ADD(shape, cet_kernel_only) {
	.xss = XFEATURE_MASK_CET_KERNEL, .first_missing = -1,
};

FIXTURE_VARIANT_ADD(shape, no_component) { .first_missing = -1 };

FIXTURE_VARIANT_ADD(shape, no_xsaves) {
	.xss = XFEATURE_MASK_CET, .first_missing = -1, .no_xsaves = true,
};

FIXTURE_VARIANT_ADD(shape, no_xsave) {
	.xss = XFEATURE_MASK_CET, .first_missing = -1, .no_xsave = true,
};

/* I.e. not even FP and SSE */
FIXTURE_VARIANT_ADD(shape, no_sub_leaf_0) {
	.xss = XFEATURE_MASK_CET,
};

FIXTURE_VARIANT_ADD(shape, no_sub_leaf_11) {
	.xss = XFEATURE_MASK_CET, .first_missing = 11, .last_missing = 11,
};

FIXTURE_VARIANT_ADD(shape, empty_sub_leaf_11) {
	.xss = XFEATURE_MASK_CET, .first_missing = 11, .last_missing = 11,
	.empty = true,
};

FIXTURE_VARIANT_ADD(shape, no_sub_leaf_12) {
	.xss = XFEATURE_MASK_CET, .first_missing = 12, .last_missing = 12,
};

FIXTURE_VARIANT_ADD(shape, no_component_12) {
	.xss = XFEATURE_MASK_CET_USER, .first_missing = 12, .last_missing = 12,
	.has_shstk = true,
};

FIXTURE_VARIANT_ADD(shape, no_sub_leaf_1) {
	.first_missing = 1, .last_missing = 1,
};

FIXTURE_VARIANT_ADD(shape, no_leaf) {
	.first_missing = 0, .last_missing = 63,
};

FIXTURE_SETUP(shape)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(shape)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_shape(struct kvm_vcpu *vcpu, bool shstk, bool ibt,
		      const struct _fixture_variant_shape *variant)
{
	struct kvm_cpuid_entry2 *entry;
	struct kvm_cpuid2 *cpuid;
	int i, index;

	vcpu_init_cet(vcpu, shstk, ibt);
	if (variant->no_xsave)
		vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_XSAVE);
	/* KVM may have taken the bit away already. */
	entry = vcpu_get_cpuid_entry(vcpu, 7);
	if (shstk)
		entry->ecx |= BIT(X86_FEATURE_SHSTK.bit);

	entry = __vcpu_get_cpuid_entry(vcpu, XSAVE_LEAF, 1);
	entry->ecx = variant->xss;
	if (variant->no_xsaves)
		entry->eax &= ~BIT(X86_FEATURE_XSAVES.bit);

	cpuid = vcpu->cpuid;
	for (i = 0; i < cpuid->nent; ) {
		entry = &cpuid->entries[i];
		index = entry->index;
		if (entry->function != XSAVE_LEAF ||
		    variant->first_missing < 0 ||
		    index < variant->first_missing ||
		    index > variant->last_missing) {
			i++;
			continue;
		}
		if (variant->empty) {
			entry->eax = 0;
			entry->ebx = 0;
			entry->ecx = 0;
			entry->edx = 0;
			i++;
			continue;
		}
		*entry = cpuid->entries[--cpuid->nent];
	}
	vcpu_set_cpuid(vcpu);
}

static void guest_leaf_7(struct cet_call *call)
{
	uint32_t eax, ebx, ecx, edx;

	__cpuid(7, 0, &eax, &ebx, &ecx, &edx);
	call->ret = ecx & BIT(X86_FEATURE_SHSTK.bit);
	if (edx & BIT(X86_FEATURE_IBT.bit))
		call->ret |= 1;
}

/*
 * @believed: the VMM has asked for shadow stacks.  It can then read SSP, and
 * set it to 0, even if the vCPU has none.  Otherwise, the register does not
 * exist.
 */
static void expect_ssp(struct kvm_vcpu *vcpu, bool shstk, bool believed)
{
	uint64_t ssp = 8;

	TEST_ASSERT_EQ(!__vcpu_get_reg(vcpu, SSP_ID, &ssp), shstk || believed);
	if (shstk || believed)
		TEST_ASSERT_EQ(ssp, 0);
	TEST_ASSERT_EQ(!__vcpu_set_reg(vcpu, SSP_ID, 8), shstk);
	TEST_ASSERT_EQ(!__vcpu_set_reg(vcpu, SSP_ID, 0), shstk || believed);
}

static void expect_shstk(struct kvm_vcpu *vcpu, bool shstk, bool ibt)
{
	const bool cet = shstk || ibt;
	struct kvm_sregs sregs;
	uint64_t val;

	val = cet_call(vcpu, guest_leaf_7, 0, 0)->ret;
	TEST_ASSERT(!!(val & BIT(X86_FEATURE_SHSTK.bit)) == shstk,
		    "The guest %s shadow stacks", shstk ? "doesn't see" : "sees");
	TEST_ASSERT_EQ(val & 1, ibt);

	TEST_ASSERT_EQ(cet_rdmsr(vcpu, MSR_IA32_PL3_SSP, &val),
		       shstk ? 0 : GP_VECTOR);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, MSR_IA32_S_CET, &val),
		       cet ? 0 : GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_IA32_U_CET, CET_SHSTK_EN),
		       shstk ? 0 : GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_IA32_S_CET, CET_SHSTK_EN),
		       shstk ? 0 : GP_VECTOR);

	cet_set_msr(vcpu, MSR_IA32_S_CET, 0);
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(cet_mov_cr4(vcpu, sregs.cr4 | X86_CR4_CET),
		       cet ? 0 : GP_VECTOR);
	TEST_ASSERT_EQ(cet_mov_cr4(vcpu, sregs.cr4), 0);
}

static void expect_shape(struct kvm_vcpu *vcpu, bool ibt,
			 const struct _fixture_variant_shape *variant)
{
	set_shape(vcpu, true, ibt, variant);
	expect_ssp(vcpu, variant->has_shstk, true);
	expect_shstk(vcpu, variant->has_shstk, ibt);

	/* KVM accepts what the VMM has asked for before. */
	vcpu_get_cpuid_entry(vcpu, 7)->ecx |= BIT(X86_FEATURE_SHSTK.bit);
	vcpu_set_cpuid(vcpu);
	expect_shstk(vcpu, variant->has_shstk, ibt);
}

TEST_F(shape, with_ibt)
{
	expect_shape(self->vcpu, true, variant);
}

TEST_F(shape, without_ibt)
{
	expect_shape(self->vcpu, false, variant);
}

/* One shape after the other: only the last one counts. */
TEST_F(shape, complete_after_all)
{
	set_shape(self->vcpu, true, true, variant);
	vcpu_init_cpuid(self->vcpu, kvm_get_supported_cpuid());
	vcpu_init_cet(self->vcpu, true, true);
	expect_shstk(self->vcpu, true, true);
}

/* Without either feature, there are no components. */
TEST_F(shape, no_feature)
{
	set_shape(self->vcpu, false, false, variant);
	cet_refuse_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_USER);
	cet_refuse_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_KERNEL);
	/* If KVM rules out shadow stacks, SSP is there even without SHSTK. */
	expect_ssp(self->vcpu, false, !variant->has_shstk);
	expect_shstk(self->vcpu, false, false);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
