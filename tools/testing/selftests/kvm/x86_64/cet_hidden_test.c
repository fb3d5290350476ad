// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM hides of CET must be hidden everywhere, and all else must be there.
 *
 * The environment variable KVM_CET_HIDDEN says what must be hidden on this
 * host: "shstk", "ibt", or both with a comma.  If it is not set, nothing is
 * hidden.
 */
#include <errno.h>
#include <stdlib.h>

#include "kvm_test_harness.h"
#include "cet.h"

/* What KVM must have, according to KVM_CET_HIDDEN */
static bool has_shstk, has_ibt, has_cet;

/* What a vCPU gets if user space sets the CPUID bits, supported or not. */
FIXTURE(hidden)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(hidden)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(hidden)
{
	kvm_vm_free(self->vcpu->vm);
}

/* The library's function skips if there is no such parameter. */
TEST(module_parameter)
{
	FILE *file = fopen("/sys/module/kvm_intel/parameters/cet", "r");
	int val;

	TEST_ASSERT(file, "There is no module parameter kvm_intel.cet");
	val = fgetc(file);
	fclose(file);
	TEST_ASSERT(val == (has_cet ? 'Y' : 'N'), "kvm_intel.cet is %c", val);
}

TEST(cpuid_features)
{
	TEST_ASSERT(kvm_cpu_has(X86_FEATURE_SHSTK) == has_shstk,
		    "KVM %s SHSTK", has_shstk ? "does not report" : "reports");
	TEST_ASSERT(kvm_cpu_has(X86_FEATURE_IBT) == has_ibt,
		    "KVM %s IBT", has_ibt ? "does not report" : "reports");
	TEST_ASSERT(!kvm_cpu_has(X86_FEATURE_CET_SSS), "KVM reports CET_SSS");
}

TEST(cpuid_xstate)
{
	const struct kvm_cpuid_entry2 *entry = cet_find_xsave_entry(1);
	uint64_t xss = entry ? entry->ecx | (uint64_t)entry->edx << 32 : 0;
	int i;

	TEST_ASSERT(xss == (has_cet ? XFEATURE_MASK_CET : 0),
		    "CPUID 0xD.1 enumerates XSS = 0x%lx", xss);

	for (i = 11; i <= 12; i++)
		TEST_ASSERT(!!cet_find_xsave_entry(i) == has_cet,
			    "CPUID 0xD %s sub-leaf %d",
			    has_cet ? "lacks" : "has", i);
}

TEST_F(hidden, xss)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_cpuid_entry2 *entry;
	uint64_t bit;
	int i;

	TEST_ASSERT(kvm_msr_is_in_save_restore_list(MSR_IA32_XSS) == has_cet,
		    "KVM_GET_MSR_INDEX_LIST %s IA32_XSS",
		    has_cet ? "lacks" : "has");

	entry = __vcpu_get_cpuid_entry(vcpu, XSAVE_LEAF, 1);
	entry->ecx |= XFEATURE_MASK_CET;
	vcpu_set_cpuid(vcpu);

	for (i = 11; i <= 12; i++) {
		bit = BIT_ULL(i);
		if (has_cet)
			cet_set_msr(vcpu, MSR_IA32_XSS, bit);
		else
			cet_refuse_msr(vcpu, MSR_IA32_XSS, bit);
		TEST_ASSERT_EQ(cet_wrmsr(vcpu, MSR_IA32_XSS, bit),
			       has_cet ? 0 : GP_VECTOR);
	}
}

static bool has_msr(uint32_t msr)
{
	return msr <= MSR_IA32_S_CET ? has_cet : has_shstk;
}

TEST_F(hidden, msrs_of_host)
{
	uint64_t val;
	uint32_t msr;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		msr = cet_msrs[i];
		TEST_ASSERT(kvm_msr_is_in_save_restore_list(msr) == has_msr(msr),
			    "KVM_GET_MSR_INDEX_LIST %s %s",
			    has_msr(msr) ? "lacks" : "has", cet_msr_name(msr));
		TEST_ASSERT(cet_get_msr(self->vcpu, msr, &val) == has_msr(msr),
			    "KVM_GET_MSRS %s %s",
			    has_msr(msr) ? "refused" : "returned",
			    cet_msr_name(msr));

		if (!has_msr(msr))
			cet_refuse_msr(self->vcpu, msr, 0x1000);
		else if (msr > MSR_IA32_S_CET)
			cet_set_msr(self->vcpu, msr, 0x1000);
	}

	/* U_CET and S_CET have bits for each feature. */
	for (i = 0; i < 2; i++) {
		if (has_shstk)
			cet_set_msr(self->vcpu, cet_msrs[i], CET_SHSTK_EN);
		else
			cet_refuse_msr(self->vcpu, cet_msrs[i], CET_SHSTK_EN);
		if (has_ibt)
			cet_set_msr(self->vcpu, cet_msrs[i], CET_ENDBR_EN);
		else
			cet_refuse_msr(self->vcpu, cet_msrs[i], CET_ENDBR_EN);
	}
}

TEST_F(hidden, msrs_of_guest)
{
	uint8_t vector;
	uint64_t val;
	uint32_t msr;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		msr = cet_msrs[i];
		vector = cet_rdmsr(self->vcpu, msr, &val);
		TEST_ASSERT(vector == (has_msr(msr) ? 0 : GP_VECTOR),
			    "RDMSR of %s raised vector %u", cet_msr_name(msr),
			    vector);
		vector = cet_wrmsr(self->vcpu, msr, 0);
		TEST_ASSERT(vector == (has_msr(msr) ? 0 : GP_VECTOR),
			    "WRMSR of %s raised vector %u", cet_msr_name(msr),
			    vector);
	}

	for (i = 0; i < 2; i++) {
		vector = cet_wrmsr(self->vcpu, cet_msrs[i], CET_SHSTK_EN);
		TEST_ASSERT_EQ(vector, has_shstk ? 0 : GP_VECTOR);
		vector = cet_wrmsr(self->vcpu, cet_msrs[i], CET_ENDBR_EN);
		TEST_ASSERT_EQ(vector, has_ibt ? 0 : GP_VECTOR);
	}
}

TEST_F(hidden, cr4)
{
	struct kvm_sregs sregs;
	uint8_t vector;
	int r;

	vcpu_sregs_get(self->vcpu, &sregs);
	vector = cet_mov_cr4(self->vcpu, sregs.cr4 | X86_CR4_CET);
	TEST_ASSERT(vector == (has_cet ? 0 : GP_VECTOR),
		    "MOV CR4 with CET raised vector %u", vector);

	sregs.cr4 |= X86_CR4_CET;
	r = _vcpu_sregs_set(self->vcpu, &sregs);
	TEST_ASSERT(has_cet ? !r : r == -1 && errno == EINVAL,
		    "KVM_SET_SREGS with CR4.CET returned %d, errno %d", r,
		    errno);
}

/* A CPUID bit has no effect unless KVM has the feature. */
TEST_F(hidden, cr4_with_one_feature)
{
	struct kvm_sregs sregs;
	int i, r;

	vcpu_sregs_get(self->vcpu, &sregs);
	for (i = 0; i < 2; i++) {
		const bool shstk = !i;

		vcpu_init_cet(self->vcpu, shstk, !shstk);
		sregs.cr0 |= X86_CR0_WP;
		sregs.cr4 |= X86_CR4_CET;
		r = _vcpu_sregs_set(self->vcpu, &sregs);
		TEST_ASSERT((r == 0) == (shstk ? has_shstk : has_ibt),
			    "KVM_SET_SREGS with CR4.CET returned %d, with %s",
			    r, shstk ? "SHSTK" : "IBT");

		sregs.cr4 &= ~X86_CR4_CET;
		vcpu_sregs_set(self->vcpu, &sregs);
	}
}

TEST_F(hidden, ssp)
{
	struct kvm_reg_list list = {};
	uint64_t ssp = 0;
	struct kvm_one_reg reg = {
		.id = KVM_X86_REG_KVM(KVM_REG_GUEST_SSP),
		.addr = (uintptr_t)&ssp,
	};
	int r;

	r = __vcpu_ioctl(self->vcpu, KVM_GET_REG_LIST, &list);
	TEST_ASSERT(has_shstk ? r == -1 && errno == E2BIG : !r,
		    "KVM_GET_REG_LIST returned %d, errno %d", r, errno);
	TEST_ASSERT_EQ(list.n, has_shstk);

	r = __vcpu_ioctl(self->vcpu, KVM_GET_ONE_REG, &reg);
	TEST_ASSERT(has_shstk ? !r : r == -1 && errno == EINVAL,
		    "KVM_GET_ONE_REG of SSP returned %d, errno %d", r, errno);
	r = __vcpu_ioctl(self->vcpu, KVM_SET_ONE_REG, &reg);
	TEST_ASSERT(has_shstk ? !r : r == -1 && errno == EINVAL,
		    "KVM_SET_ONE_REG of SSP returned %d, errno %d", r, errno);
}

/* What nested guests can use is tested by cet_nested_ctls_test. */
TEST_F(hidden, nested)
{
	uint8_t vector;
	uint64_t val;

	vector = cet_rdmsr(self->vcpu, MSR_IA32_VMX_CR4_FIXED1, &val);
	if (!kvm_cpu_has(X86_FEATURE_VMX)) {
		TEST_ASSERT_EQ(vector, GP_VECTOR);
		return;
	}

	TEST_ASSERT_EQ(vector, 0);
	TEST_ASSERT(!!(val & X86_CR4_CET) == has_cet,
		    "IA32_VMX_CR4_FIXED1 = 0x%lx", val);

	if (has_cet)
		return;

	TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, MSR_IA32_VMX_BASIC, &val), 0);
	TEST_ASSERT(!(val & BIT_ULL(56)), "IA32_VMX_BASIC = 0x%lx", val);
	TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS, &val), 0);
	TEST_ASSERT(!(val >> 32 & VM_ENTRY_LOAD_CET_STATE),
		    "IA32_VMX_TRUE_ENTRY_CTLS = 0x%lx", val);
	TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, MSR_IA32_VMX_TRUE_EXIT_CTLS, &val), 0);
	TEST_ASSERT(!(val >> 32 & VM_EXIT_LOAD_CET_STATE),
		    "IA32_VMX_TRUE_EXIT_CTLS = 0x%lx", val);
}

static void expect(struct kvm_vcpu *vcpu, void (*payload)(void), bool stopped,
		   uint64_t error_code)
{
	uint64_t s_cet = (has_shstk ? CET_SHSTK_EN : 0) |
			 (has_ibt ? CET_ENDBR_EN : 0);
	struct cet_call *call = cet_run(vcpu, payload, s_cet);

	TEST_ASSERT_EQ(call->vector, stopped ? CP_VECTOR : 0);
	TEST_ASSERT_EQ(call->error_code, stopped ? error_code : 0);
	TEST_ASSERT_EQ(call->ret, !stopped);
}

/* A guest uses what there is, and gets along without what is hidden. */
TEST_F(hidden, guest_runs)
{
	if (has_cet)
		cet_enable(self->vcpu);

	expect(self->vcpu, guest_call_return, false, 0);
	expect(self->vcpu, guest_smash_return, has_shstk, CP_NEAR_RET);
	expect(self->vcpu, guest_jump_off_endbr, has_ibt, CP_ENDBRANCH);
}

int main(int argc, char *argv[])
{
	const char *hidden = getenv("KVM_CET_HIDDEN");

	/* With KVM_CET_HIDDEN set, nothing is to be skipped. */
	if (!hidden)
		cet_require();

	has_shstk = !hidden || !strstr(hidden, "shstk");
	has_ibt = !hidden || !strstr(hidden, "ibt");
	has_cet = has_shstk || has_ibt;

	return test_harness_run(argc, argv);
}
