// SPDX-License-Identifier: GPL-2.0
/*
 * L2's accesses to CET state that L1 or KVM may intercept: WRMSR and RDMSR of
 * the MSRs, and XSAVES and XRSTORS of the components that have them.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

#define NR_WRITES		8

/* Offsets in the MSR bitmap, for the MSRs below 0x2000 */
#define BITMAP_READ		0
#define BITMAP_WRITE		2048

/* Guest data: L2 writes its present value to that MSR, again and again. */
static uint32_t msr;
static uint64_t vector;
/* What L1 intercepts */
static uint64_t read_msr, write_msr, xss_bitmap, sec_exec;

/* XSAVES and XRSTORS of these components */
static uint64_t rfbm;
static uint8_t xsave_area[4096] __aligned(64);

static void set_bit_of(uint64_t bitmap, uint32_t nr)
{
	((uint8_t *)cet_vmx->msr)[bitmap + nr / 8] |= BIT(nr % 8);
}

static void prepare(void)
{
	memset(cet_vmx->msr, 0, PAGE_SIZE);
	if (read_msr)
		set_bit_of(BITMAP_READ, read_msr);
	if (write_msr)
		set_bit_of(BITMAP_WRITE, write_msr);

	vmwrite(SECONDARY_VM_EXEC_CONTROL,
		vmreadz(SECONDARY_VM_EXEC_CONTROL) | sec_exec);
	vmwrite(XSS_EXIT_BITMAP, xss_bitmap);
}

static void l2_wrmsrs(void)
{
	uint64_t val;
	int i;

	for (i = 0; i < NR_WRITES && msr; i++) {
		val = rdmsr(msr);
		wrmsr(msr, val);
	}
	vmcall();
}

static void l2_wrmsr_both(void)
{
	wrmsr(MSR_IA32_U_CET, CET_ENDBR_EN);
	wrmsr(MSR_IA32_S_CET, CET_ENDBR_EN);
	vmcall();
}

static void l2_rdmsr_both(void)
{
	rdmsr(MSR_IA32_U_CET);
	rdmsr(MSR_IA32_S_CET);
	vmcall();
}

static void l2_wrmsr_safe_after_out(void)
{
	for (;;) {
		asm volatile("out %%al, %0" : : "i"(CET_PORT));
		vector = wrmsr_safe(MSR_IA32_U_CET, CET_ENDBR_EN);
		/* The host reads it: don't let the compiler keep it. */
		barrier();
		vmcall();
	}
}

static void l2_xsaves(void)
{
	asm volatile("xsaves %0" : "+m"(xsave_area)
		     : "a"((uint32_t)rfbm), "d"((uint32_t)(rfbm >> 32)));
	vmcall();
}

static void l2_xrstors(void)
{
	/* XCOMP_BV, of an image in which all is in its initial state */
	*(uint64_t *)(xsave_area + 520) = BIT_ULL(63) | rfbm;
	asm volatile("xrstors %0" : : "m"(xsave_area), "a"((uint32_t)rfbm),
		     "d"((uint32_t)(rfbm >> 32)));
	vmcall();
}

FIXTURE(msrs)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(msrs)
{
	bool load;
};

FIXTURE_VARIANT_ADD(msrs, loaded) { .load = true };
FIXTURE_VARIANT_ADD(msrs, shared) { };

FIXTURE_SETUP(msrs)
{
	vm_create_cet(&self->vcpu, true, true);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->load_guest = variant->load;
	self->n->load_host = variant->load;
	self->n->prepare = prepare;
}

FIXTURE_TEARDOWN(msrs)
{
	kvm_vm_free(self->vcpu->vm);
}

/* The exits of a whole run of L2 that writes @index, 0 for none. */
static uint64_t count_exits(struct kvm_vcpu *vcpu, struct cet_nested *n,
			    uint32_t index)
{
	uint64_t exits;

	n->l2 = l2_wrmsrs;
	write_guest_global(vcpu->vm, msr, index);
	exits = cet_call_exits(vcpu, guest_nested, 0, 0);
	TEST_ASSERT(!n->refused_field, "VMWRITE refused field 0x%lx",
		    n->refused_field);
	TEST_ASSERT(!n->error && n->reason == EXIT_REASON_VMCALL,
		    "MSR 0x%x: error %ld, reason 0x%lx", index, n->error,
		    n->reason);
	return exits;
}

static uint64_t count_more_exits(struct kvm_vcpu *vcpu, struct cet_nested *n,
				 uint32_t index)
{
	return count_exits(vcpu, n, index) - count_exits(vcpu, n, 0);
}

/* KVM intercepts writes of INT_SSP_TAB, and all accesses to IA32_XSS. */
TEST_F(msrs, passed_through)
{
	uint64_t exits;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		exits = count_more_exits(self->vcpu, self->n, cet_msrs[i]);
		TEST_ASSERT(exits == (cet_msrs[i] == MSR_IA32_INT_SSP_TAB ?
				      NR_WRITES : 0),
			    "%s: %lu exits", cet_msr_name(cet_msrs[i]), exits);
	}
	TEST_ASSERT_EQ(count_more_exits(self->vcpu, self->n, MSR_IA32_XSS),
		       2 * NR_WRITES);
}

/* With one feature, KVM intercepts writes of U_CET and S_CET to check them. */
TEST_F(msrs, intercepted_with_one_feature)
{
	vcpu_init_cet(self->vcpu, true, false);
	TEST_ASSERT_EQ(count_more_exits(self->vcpu, self->n, MSR_IA32_U_CET),
		       NR_WRITES);
	TEST_ASSERT_EQ(count_more_exits(self->vcpu, self->n, MSR_IA32_S_CET),
		       NR_WRITES);
	TEST_ASSERT_EQ(count_more_exits(self->vcpu, self->n, MSR_IA32_PL0_SSP),
		       0);
}

TEST_F(msrs, l1_intercepts_writes_of_s_cet)
{
	write_guest_global(self->vcpu->vm, write_msr, (uint64_t)MSR_IA32_S_CET);
	self->n->l2 = l2_wrmsr_both;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_MSR_WRITE);
	cet_expect_msr(self->vcpu, MSR_IA32_U_CET, CET_ENDBR_EN);
	TEST_ASSERT_EQ(self->n->saved.s_cet, 0);

	self->n->l2 = l2_rdmsr_both;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
}

TEST_F(msrs, l1_intercepts_reads_of_s_cet)
{
	write_guest_global(self->vcpu->vm, read_msr, (uint64_t)MSR_IA32_S_CET);
	self->n->l2 = l2_rdmsr_both;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_MSR_READ);

	self->n->l2 = l2_wrmsr_both;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(self->n->saved.s_cet, CET_ENDBR_EN);
}

/* One at a time, among them those that KVM intercepts anyway */
TEST_F(msrs, l1_intercepts_one)
{
	uint32_t index;
	int i;

	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	for (i = 0; i <= CET_NR_MSRS; i++) {
		index = i < CET_NR_MSRS ? cet_msrs[i] : MSR_IA32_XSS;
		write_guest_global(self->vcpu->vm, msr, index);
		write_guest_global(self->vcpu->vm, write_msr, (uint64_t)index);
		self->n->l2 = l2_wrmsrs;
		cet_run_nested(self->vcpu);
		TEST_ASSERT(self->n->reason == EXIT_REASON_MSR_WRITE,
			    "%s: reason 0x%lx", cet_msr_name(index),
			    self->n->reason);
	}
}

static void deny_u_cet(struct kvm_vm *vm, bool deny)
{
	static uint8_t bitmap;
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_WRITE,
			.nmsrs = 1,
			.base = MSR_IA32_U_CET,
			.bitmap = &bitmap,
		},
	};

	if (!deny)
		filter.ranges[0].nmsrs = 0;
	vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

static uint64_t l2_vector(struct kvm_vm *vm)
{
	sync_global_from_guest(vm, vector);
	return vector;
}

static void skip_vmcall(void)
{
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + 3);
}

/* L2 is active whenever the filter changes. */
TEST_F(msrs, filter_changes)
{
	struct kvm_vm *vm = self->vcpu->vm;
	int i;

	self->n->l2 = l2_wrmsr_safe_after_out;
	for (i = 0; i < 4; i++) {
		cet_run_l2_to_out(self->vcpu);
		deny_u_cet(vm, !(i & 1));
		vcpu_run(self->vcpu);
		cet_finish_nested(self->vcpu);
		TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
		TEST_ASSERT_EQ(l2_vector(vm), i & 1 ? 0 : GP_VECTOR);

		self->n->resume = true;
		self->n->prepare = skip_vmcall;
		cet_run_l2_to_out(self->vcpu);
		vcpu_run(self->vcpu);
		cet_finish_nested(self->vcpu);
		TEST_ASSERT_EQ(l2_vector(vm), i & 1 ? 0 : GP_VECTOR);
	}
}

FIXTURE(xsaves)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(xsaves)
{
	uint64_t bitmap;
	uint64_t rfbm;
	bool exits;
};

FIXTURE_VARIANT_ADD(xsaves, none) { .rfbm = XFEATURE_MASK_CET };
FIXTURE_VARIANT_ADD(xsaves, user) {
	.bitmap = XFEATURE_MASK_CET_USER,
	.rfbm = XFEATURE_MASK_CET_USER,
	.exits = true,
};

FIXTURE_VARIANT_ADD(xsaves, kernel) {
	.bitmap = XFEATURE_MASK_CET_KERNEL,
	.rfbm = XFEATURE_MASK_CET_KERNEL,
	.exits = true,
};

FIXTURE_VARIANT_ADD(xsaves, one_of_both) {
	.bitmap = XFEATURE_MASK_CET_KERNEL,
	.rfbm = XFEATURE_MASK_CET,
	.exits = true,
};

FIXTURE_VARIANT_ADD(xsaves, other) {
	.bitmap = XFEATURE_MASK_CET_KERNEL,
	.rfbm = XFEATURE_MASK_CET_USER,
};

FIXTURE_SETUP(xsaves)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	struct kvm_sregs sregs;

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(self->vcpu, &sregs);
	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	write_guest_global(vm, sec_exec, (uint64_t)SECONDARY_ENABLE_XSAV_RESTORE);
	write_guest_global(vm, xss_bitmap, variant->bitmap);
	write_guest_global(vm, rfbm, variant->rfbm);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->prepare = prepare;
}

FIXTURE_TEARDOWN(xsaves)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(xsaves, xsaves)
{
	self->n->l2 = l2_xsaves;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, variant->exits ? EXIT_REASON_XSAVES :
							 EXIT_REASON_VMCALL);
}

TEST_F(xsaves, xrstors)
{
	self->n->l2 = l2_xrstors;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, variant->exits ? EXIT_REASON_XRSTORS :
							 EXIT_REASON_VMCALL);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_MSR_FILTER));

	return test_harness_run(argc, argv);
}
