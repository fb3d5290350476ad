// SPDX-License-Identifier: GPL-2.0
/*
 * Which guest accesses to the CET MSRs exit to KVM, and which to user space.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define NON_CANONICAL		0x7000000000000000ull
#define XSAVE_HDR_END		576

FIXTURE(exits)
{
	struct kvm_vcpu *vcpu;
};

/* VM exits of one guest access, by what the vCPU has. */
struct access_exits {
	int read;
	int write;
};

FIXTURE_VARIANT(exits)
{
	uint32_t index;
	/* A legal value on every vCPU that has the MSR. */
	uint64_t val;
	struct access_exits both;
	struct access_exits shstk_only;
	struct access_exits ibt_only;
};

/*
 * On a vCPU with one of the features, KVM intercepts writes to refuse the bits
 * of the other.
 */
FIXTURE_VARIANT_ADD(exits, u_cet) {
	MSR_IA32_U_CET, 0, .both = { 0, 0 }, { 0, 1 }, { 0, 1 }
};

FIXTURE_VARIANT_ADD(exits, s_cet) {
	MSR_IA32_S_CET, 0, .both = { 0, 0 }, { 0, 1 }, { 0, 1 }
};

FIXTURE_VARIANT_ADD(exits, pl0_ssp) {
	MSR_IA32_PL0_SSP, 0x1000, .both = { 0, 0 }, { 0, 0 }, { 1, 1 }
};

FIXTURE_VARIANT_ADD(exits, pl1_ssp) {
	MSR_IA32_PL1_SSP, 0x2000, .both = { 0, 0 }, { 0, 0 }, { 1, 1 }
};

FIXTURE_VARIANT_ADD(exits, pl2_ssp) {
	MSR_IA32_PL2_SSP, 0x3000, .both = { 0, 0 }, { 0, 0 }, { 1, 1 }
};

FIXTURE_VARIANT_ADD(exits, pl3_ssp) {
	MSR_IA32_PL3_SSP, 0x4000, .both = { 0, 0 }, { 0, 0 }, { 1, 1 }
};

FIXTURE_VARIANT_ADD(exits, int_ssp_tab) {
	MSR_IA32_INT_SSP_TAB, 0x5000, .both = { 0, 1 }, { 0, 1 }, { 1, 1 }
};

FIXTURE_SETUP(exits)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(exits)
{
	kvm_vm_free(self->vcpu->vm);
}

static void expect_exits(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val,
			 struct access_exits expected)
{
	struct access_exits seen = {
		.read = cet_call_exits(vcpu, guest_rdmsr, msr, 0),
		.write = cet_call_exits(vcpu, guest_wrmsr, msr, val),
	};

	TEST_ASSERT(seen.read == expected.read,
		    "RDMSR of %s costs %d VM exits, not %d",
		    cet_msr_name(msr), seen.read, expected.read);
	TEST_ASSERT(seen.write == expected.write,
		    "WRMSR of %s costs %d VM exits, not %d",
		    cet_msr_name(msr), seen.write, expected.write);
}

TEST_F(exits, exits_with_both)
{
	cet_set_msr(self->vcpu, variant->index, variant->val);
	expect_exits(self->vcpu, variant->index, variant->val, variant->both);
}

TEST_F(exits, exits_with_shstk_only)
{
	vcpu_init_cet(self->vcpu, true, false);
	cet_set_msr(self->vcpu, variant->index, variant->val);
	expect_exits(self->vcpu, variant->index, variant->val,
		     variant->shstk_only);
}

TEST_F(exits, exits_with_ibt_only)
{
	vcpu_init_cet(self->vcpu, false, true);
	cet_set_msr(self->vcpu, variant->index, 0);
	expect_exits(self->vcpu, variant->index, variant->val,
		     variant->ibt_only);
}

TEST_F(exits, exits_without_features)
{
	vcpu_init_cet(self->vcpu, false, false);
	cet_set_msr(self->vcpu, variant->index, 0);
	expect_exits(self->vcpu, variant->index, variant->val,
		     (struct access_exits) { 1, 1 });
}

static void set_filter(struct kvm_vm *vm, uint32_t msr, bool allow)
{
	/* One bit, for one MSR; 0 denies. */
	uint8_t bitmap = allow;
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges = {
			{
				.flags = KVM_MSR_FILTER_READ |
					 KVM_MSR_FILTER_WRITE,
				.nmsrs = 1,
				.base = msr,
				.bitmap = &bitmap,
			},
		},
	};

	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

static void expect_denied(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val)
{
	uint64_t read;

	TEST_ASSERT_EQ(cet_rdmsr(vcpu, msr, &read), GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, msr, val + 8), GP_VECTOR);
	expect_exits(vcpu, msr, val, (struct access_exits) { 1, 1 });

	/* The filter is for the guest, not for the host. */
	cet_expect_msr(vcpu, msr, val);
}

TEST_F(exits, filter_denies_then_allows)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	uint64_t read;

	cet_set_msr(vcpu, variant->index, variant->val);
	expect_exits(vcpu, variant->index, variant->val, variant->both);

	set_filter(vcpu->vm, variant->index, false);
	expect_denied(vcpu, variant->index, variant->val);

	set_filter(vcpu->vm, variant->index, true);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, variant->index, &read), 0);
	TEST_ASSERT_EQ(read, variant->val);
	expect_exits(vcpu, variant->index, variant->val, variant->both);
}

TEST_F(exits, filter_survives_cpuid)
{
	struct kvm_vcpu *vcpu = self->vcpu;

	set_filter(vcpu->vm, variant->index, false);
	vcpu_init_cet(vcpu, false, false);
	vcpu_init_cet(vcpu, true, true);

	cet_set_msr(vcpu, variant->index, variant->val);
	expect_denied(vcpu, variant->index, variant->val);
}

static uint8_t image[PAGE_SIZE] __aligned(64);

static void guest_xsaves(struct cet_call *call)
{
	call->vector = kvm_asm_safe("xsaves64 (%[image])", [image]"r"(image),
				    "a"(XFEATURE_MASK_CET), "d"(0));
}

/* XSAVES stores an MSR even if the filter denies RDMSR. */
TEST(filter_has_no_say_in_xsaves)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);
	struct kvm_sregs sregs;
	uint64_t *u_cet = addr_gva2hva(vm, (vm_vaddr_t)image) + XSAVE_HDR_END;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(vcpu, &sregs);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	cet_set_msr(vcpu, MSR_IA32_U_CET, 0x4000);

	set_filter(vm, MSR_IA32_U_CET, false);
	expect_denied(vcpu, MSR_IA32_U_CET, 0x4000);
	TEST_ASSERT_EQ(cet_call(vcpu, guest_xsaves, 0, 0)->vector, 0);
	TEST_ASSERT_EQ(*u_cet, 0x4000);
	kvm_vm_free(vm);
}

FIXTURE(all_msrs)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(all_msrs)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(all_msrs)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Read as many MSRs as arg[0] says; ret is the number of those that fault. */
static void guest_read_all(struct cet_call *call)
{
	uint64_t val;
	int i;

	for (i = 0; i < call->arg[0]; i++)
		call->ret += !!rdmsr_safe(cet_msrs[i], &val);
}

static void guest_write_all(struct cet_call *call)
{
	int i;

	for (i = 0; i < call->arg[0]; i++)
		call->ret += !!wrmsr_safe(cet_msrs[i], 0);
}

TEST_F(all_msrs, seven_reads_cost_no_exit)
{
	struct cet_call *call = cet_call(self->vcpu, guest_read_all, 7, 0);

	TEST_ASSERT(!call->ret, "RDMSR of %lu CET MSRs faulted", call->ret);
	TEST_ASSERT_EQ(cet_call_exits(self->vcpu, guest_read_all, 7, 0), 0);
}

/* All but INT_SSP_TAB, which is the last. */
TEST_F(all_msrs, six_writes_cost_no_exit)
{
	struct cet_call *call = cet_call(self->vcpu, guest_write_all, 6, 0);

	TEST_ASSERT(!call->ret, "WRMSR of %lu CET MSRs faulted", call->ret);
	TEST_ASSERT_EQ(cet_call_exits(self->vcpu, guest_write_all, 6, 0), 0);
}

TEST_F(all_msrs, xss_always_exits)
{
	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	expect_exits(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET,
		     (struct access_exits) { 1, 1 });
}

FIXTURE(user_exit)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(user_exit)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);

	vm_enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR,
		      KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
		      KVM_MSR_EXIT_REASON_FILTER);
}

FIXTURE_TEARDOWN(user_exit)
{
	kvm_vm_free(self->vcpu->vm);
}

/* The access exits to user space, which makes it fault. */
static void expect_user_exit(struct kvm_vcpu *vcpu,
			     void (*access)(struct cet_call *),
			     uint32_t msr, uint64_t val, uint32_t reason)
{
	struct kvm_run *run = vcpu->run;

	cet_prepare(vcpu, access, msr, val);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, access == guest_rdmsr ?
				    KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR);
	TEST_ASSERT_EQ(run->msr.index, msr);
	TEST_ASSERT(run->msr.reason == reason,
		    "Exit for %s with reason 0x%x, not 0x%x",
		    cet_msr_name(msr), run->msr.reason, reason);

	run->msr.error = 1;
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(cet_finish(vcpu)->vector, GP_VECTOR);
}

TEST_F(user_exit, user_exit_without_features)
{
	int i;

	vcpu_init_cet(self->vcpu, false, false);
	for (i = 0; i < CET_NR_MSRS; i++) {
		expect_user_exit(self->vcpu, guest_rdmsr, cet_msrs[i], 0,
				 KVM_MSR_EXIT_REASON_UNKNOWN);
		expect_user_exit(self->vcpu, guest_wrmsr, cet_msrs[i], 8,
				 KVM_MSR_EXIT_REASON_UNKNOWN);
	}
}

TEST_F(user_exit, user_exit_for_xss)
{
	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	expect_user_exit(self->vcpu, guest_wrmsr, MSR_IA32_XSS, BIT(8),
			 KVM_MSR_EXIT_REASON_INVAL);
}

TEST_F(user_exit, user_exit_for_xss_without_xsaves)
{
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	expect_user_exit(self->vcpu, guest_rdmsr, MSR_IA32_XSS, 0,
			 KVM_MSR_EXIT_REASON_UNKNOWN);
	expect_user_exit(self->vcpu, guest_wrmsr, MSR_IA32_XSS, 0,
			 KVM_MSR_EXIT_REASON_UNKNOWN);
}

TEST_F(user_exit, user_exit_on_invalid_value)
{
	expect_user_exit(self->vcpu, guest_wrmsr, MSR_IA32_INT_SSP_TAB,
			 NON_CANONICAL, KVM_MSR_EXIT_REASON_INVAL);
}

TEST_F(user_exit, user_exit_on_bits_of_other_feature)
{
	vcpu_init_cet(self->vcpu, true, false);
	expect_user_exit(self->vcpu, guest_wrmsr, MSR_IA32_S_CET, CET_ENDBR_EN,
			 KVM_MSR_EXIT_REASON_INVAL);
	expect_user_exit(self->vcpu, guest_wrmsr, MSR_IA32_U_CET, CET_ENDBR_EN,
			 KVM_MSR_EXIT_REASON_INVAL);
}

/* The CPU refuses the value by itself: there is no exit to pass on. */
TEST_F(user_exit, no_user_exit_when_passed_through)
{
	cet_set_msr(self->vcpu, MSR_IA32_PL0_SSP, 8);
	TEST_ASSERT_EQ(cet_wrmsr(self->vcpu, MSR_IA32_PL0_SSP, NON_CANONICAL),
		       GP_VECTOR);
	cet_expect_msr(self->vcpu, MSR_IA32_PL0_SSP, 8);
}

TEST_F(user_exit, user_exit_when_filtered)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		cet_set_msr(self->vcpu, cet_msrs[i], 0);
		set_filter(self->vcpu->vm, cet_msrs[i], false);
		expect_user_exit(self->vcpu, guest_rdmsr, cet_msrs[i], 0,
				 KVM_MSR_EXIT_REASON_FILTER);
		expect_user_exit(self->vcpu, guest_wrmsr, cet_msrs[i], 0,
				 KVM_MSR_EXIT_REASON_FILTER);
	}
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
