// SPDX-License-Identifier: GPL-2.0
/*
 * The seven CET MSRs in lists of KVM_SET_MSRS and KVM_GET_MSRS, as a VMM saves
 * and restores them, next to indices that have to be refused.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define NON_CANONICAL		0x7000000000000000ull

/* KVM has the shadow stack pointer itself here, for its own use only. */
#define MSR_KVM_INTERNAL_SSP	0x4b564dff

struct msr_list {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[CET_NR_MSRS];
};

static int set_msrs(struct kvm_vcpu *vcpu, struct msr_list *list)
{
	return __vcpu_ioctl(vcpu, KVM_SET_MSRS, &list->header);
}

static int get_msrs(struct kvm_vcpu *vcpu, struct msr_list *list)
{
	return __vcpu_ioctl(vcpu, KVM_GET_MSRS, &list->header);
}

FIXTURE(lists)
{
	struct kvm_vcpu *vcpu;
	struct msr_list list;
};

/* All seven in one list, each with a value of its own. */
FIXTURE_SETUP(lists)
{
	static const uint64_t values[CET_NR_MSRS] = {
		CET_SHSTK_EN, CET_ENDBR_EN, 0x1000, 0x2000, 0x3000, 0x4000, 0x5001,
	};
	int i;

	vm_create_cet(&self->vcpu, true, true);

	self->list.header.nmsrs = CET_NR_MSRS;
	for (i = 0; i < CET_NR_MSRS; i++) {
		self->list.entries[i].index = cet_msrs[i];
		self->list.entries[i].data = values[i];
	}
}

FIXTURE_TEARDOWN(lists)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(lists, one_list_sets_and_gets_all)
{
	struct msr_list get = self->list;
	int i;

	vcpu_msrs_set(self->vcpu, &self->list.header);

	for (i = 0; i < CET_NR_MSRS; i++)
		get.entries[i].data = ~0;
	vcpu_msrs_get(self->vcpu, &get.header);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT_EQ(get.entries[i].data,
			       self->list.entries[i].data);
}

TEST_F(lists, list_stops_at_illegal_value)
{
	int r;

	self->list.entries[4].data = NON_CANONICAL;
	r = set_msrs(self->vcpu, &self->list);
	TEST_ASSERT(r == 4, "KVM_SET_MSRS stopped at entry %d, not 4", r);
	cet_expect_msr(self->vcpu, cet_msrs[3], self->list.entries[3].data);
	cet_expect_msr(self->vcpu, cet_msrs[4], 0);
	cet_expect_msr(self->vcpu, cet_msrs[5], 0);
}

TEST_F(lists, int_ssp_tab_absent_without_lm)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	uint64_t val;

	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0);
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_LM);
	cet_set_msr(vcpu, MSR_IA32_PL0_SSP, 8);
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0);
	cet_refuse_msr(vcpu, MSR_IA32_INT_SSP_TAB, 8);
	cet_expect_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_IA32_INT_SSP_TAB, 8), GP_VECTOR);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, MSR_IA32_INT_SSP_TAB, &val), GP_VECTOR);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, MSR_IA32_PL0_SSP, &val), 0);
}

TEST_F(lists, internal_ssp_index_refused)
{
	uint64_t val;

	self->list.header.nmsrs = 1;
	self->list.entries[0].index = MSR_KVM_INTERNAL_SSP;
	self->list.entries[0].data = 0;
	TEST_ASSERT_EQ(get_msrs(self->vcpu, &self->list), 0);
	TEST_ASSERT_EQ(set_msrs(self->vcpu, &self->list), 0);
	TEST_ASSERT_EQ(cet_wrmsr(self->vcpu, MSR_KVM_INTERNAL_SSP, 0), GP_VECTOR);
	TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, MSR_KVM_INTERNAL_SSP, &val), GP_VECTOR);
	TEST_ASSERT(!kvm_msr_is_in_save_restore_list(MSR_KVM_INTERNAL_SSP),
		    "The internal index is in KVM_GET_MSR_INDEX_LIST");
}

/* The same code serves the system fd, which has no vCPU. */
TEST_F(lists, feature_msrs_of_dev_kvm)
{
	const struct kvm_msr_list *features = kvm_get_feature_msr_index_list();
	int fd = open_kvm_dev_path_or_exit();
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		self->list.entries[i].index = features->indices[i];
	TEST_ASSERT_EQ(__kvm_ioctl(fd, KVM_GET_MSRS, &self->list.header),
		       CET_NR_MSRS);
	close(fd);
}

TEST_F(lists, cet_msrs_of_dev_kvm)
{
	int fd = open_kvm_dev_path_or_exit();
	int i, nr_msrs;

	vcpu_msrs_set(self->vcpu, &self->list.header);
	nr_msrs = __kvm_ioctl(fd, KVM_GET_MSRS, &self->list.header);

	/* KVM may have values for them, but not those of a vCPU. */
	for (i = 0; i < nr_msrs; i++)
		TEST_ASSERT_EQ(self->list.entries[i].data, 0);
	close(fd);
}

static void expect_fpu_swaps(struct kvm_vcpu *vcpu, struct msr_list *list,
			     int swaps)
{
	uint64_t before = cet_vcpu_stat(vcpu, "fpu_reload");

	vcpu_msrs_set(vcpu, &list->header);
	TEST_ASSERT_EQ(cet_vcpu_stat(vcpu, "fpu_reload") - before, swaps);
	vcpu_msrs_get(vcpu, &list->header);
	TEST_ASSERT_EQ(cet_vcpu_stat(vcpu, "fpu_reload") - before, 2 * swaps);
}

/* One FPU swap does for all the MSRs that XSAVES manages. */
TEST_F(lists, one_fpu_swap_per_list)
{
	expect_fpu_swaps(self->vcpu, &self->list, 1);
}

/* Each of these MSRs takes one, also as the first of a list. */
TEST_F(lists, one_fpu_swap_per_msr)
{
	int i;

	self->list.header.nmsrs = 2;
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		self->list.entries[0].index = cet_xsave_msrs[i];
		self->list.entries[0].data = 0x4000;
		self->list.entries[1] = self->list.entries[0];
		expect_fpu_swaps(self->vcpu, &self->list, 1);
	}
}

TEST_F(lists, no_fpu_swap_for_other_msrs)
{
	/* S_CET, INT_SSP_TAB and IA32_XSS */
	self->list.entries[0] = self->list.entries[1];
	self->list.entries[1] = self->list.entries[CET_NR_MSRS - 1];
	self->list.entries[2].index = MSR_IA32_XSS;
	self->list.entries[2].data = 0;
	self->list.header.nmsrs = 3;
	expect_fpu_swaps(self->vcpu, &self->list, 0);
}

TEST_F(lists, no_fpu_swap_without_features)
{
	int i;

	vcpu_msrs_set(self->vcpu, &self->list.header);
	vcpu_init_cet(self->vcpu, false, false);
	for (i = 0; i < CET_NR_MSRS; i++)
		self->list.entries[i].data = 0;
	expect_fpu_swaps(self->vcpu, &self->list, 0);
}

/* Whatever the CPU lets the guest write can be migrated. */
TEST_F(lists, guest_bitmap_base_is_restorable)
{
	const uint64_t val = 0x7ffffffff000ull | CET_ENDBR_EN | CET_LEG_IW_EN;
	int i;

	for (i = 0; i < 2; i++) {
		cet_set_msr(self->vcpu, cet_msrs[i], CET_ENDBR_EN);
		if (cet_wrmsr(self->vcpu, cet_msrs[i], val))
			continue;

		cet_expect_msr(self->vcpu, cet_msrs[i], val);
		cet_set_msr(self->vcpu, cet_msrs[i], 0);
		cet_set_msr(self->vcpu, cet_msrs[i], val);
	}
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
