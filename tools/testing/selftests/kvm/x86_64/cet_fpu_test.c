// SPDX-License-Identifier: GPL-2.0
/*
 * CET state that XSAVES manages, i.e. U_CET and PL0..PL3_SSP: no other guest
 * sees it, the guest's XSAVES and XRSTORS include it, and KVM_GET_XSAVE does
 * not.
 */
#include <errno.h>
#include <asm/prctl.h>
#include <sys/syscall.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define XSAVE_HDR_BV		512
#define XSAVE_HDR_COMP_BV	520
#define XSAVE_HDR_END		576

/* The MSRs of components 11 and 12, in the order of the XSAVES image. */
#define NR_XSAVE_MSRS		5

static const uint32_t xsave_msrs[NR_XSAVE_MSRS] = {
	MSR_IA32_U_CET,
	MSR_IA32_PL3_SSP,
	MSR_IA32_PL0_SSP,
	MSR_IA32_PL1_SSP,
	MSR_IA32_PL2_SSP,
};

static const uint64_t values[NR_XSAVE_MSRS] = {
	CET_ENDBR_EN | CET_LEG_IW_EN, 0x3000, 0x10000, 0x11000, 0x12000,
};

static void set_values(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < NR_XSAVE_MSRS; i++)
		cet_set_msr(vcpu, xsave_msrs[i], values[i]);
}

static void expect_values(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < NR_XSAVE_MSRS; i++)
		cet_expect_msr(vcpu, xsave_msrs[i], values[i]);
}

FIXTURE(fpu)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(fpu)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(fpu)
{
	kvm_vm_free(self->vcpu->vm);
}

static struct kvm_xsave *alloc_xsave(struct kvm_vm *vm)
{
	size_t size = vm_check_cap(vm, KVM_CAP_XSAVE2);
	struct kvm_xsave *xsave = calloc(1, size);

	TEST_ASSERT(xsave, "No memory for %zu bytes of XSAVE image", size);
	return xsave;
}

static uint64_t *xstate_bv(struct kvm_xsave *xsave)
{
	return (void *)xsave + XSAVE_HDR_BV;
}

TEST_F(fpu, get_xsave_hides_cet)
{
	struct kvm_xsave *xsave = alloc_xsave(self->vcpu->vm);

	set_values(self->vcpu);

	vcpu_xsave_get(self->vcpu, xsave);
	TEST_ASSERT_EQ(*xstate_bv(xsave) & XFEATURE_MASK_CET, 0);
	vcpu_xsave2_get(self->vcpu, xsave);
	TEST_ASSERT_EQ(*xstate_bv(xsave) & XFEATURE_MASK_CET, 0);
	free(xsave);
}

/* Supervisor state has no place in the standard format of user space. */
TEST_F(fpu, xsave_size_is_that_of_xcr0)
{
	uint32_t size = vm_check_cap(self->vcpu->vm, KVM_CAP_XSAVE2);

	TEST_ASSERT_EQ(size, max_t(uint32_t, sizeof(struct kvm_xsave),
				   kvm_cpu_property(X86_PROPERTY_XSTATE_MAX_SIZE)));
}

TEST_F(fpu, set_xsave_refuses_cet)
{
	struct kvm_xsave *xsave = alloc_xsave(self->vcpu->vm);
	int i;

	set_values(self->vcpu);
	vcpu_xsave_get(self->vcpu, xsave);

	for (i = 11; i <= 12; i++) {
		*xstate_bv(xsave) |= BIT_ULL(i);
		TEST_ASSERT(__vcpu_ioctl(self->vcpu, KVM_SET_XSAVE, xsave) == -1 &&
			    errno == EINVAL,
			    "KVM_SET_XSAVE accepted component %d", i);
		*xstate_bv(xsave) &= ~BIT_ULL(i);
	}

	expect_values(self->vcpu);
	free(xsave);
}

TEST_F(fpu, set_xsave_keeps_cet)
{
	struct kvm_xsave *xsave = alloc_xsave(self->vcpu->vm);

	set_values(self->vcpu);
	vcpu_xsave_set(self->vcpu, xsave);
	expect_values(self->vcpu);
	free(xsave);
}

static void guest_nop(struct cet_call *call)
{
}

TEST_F(fpu, values_survive_run_and_set_fpu)
{
	struct kvm_fpu fpu;

	set_values(self->vcpu);
	cet_call(self->vcpu, guest_nop, 0, 0);
	vcpu_fpu_get(self->vcpu, &fpu);
	vcpu_fpu_set(self->vcpu, &fpu);
	expect_values(self->vcpu);
}

/* A vCPU that never had CET state set must not find somebody else's. */
static void expect_zero(struct kvm_vcpu *vcpu)
{
	uint64_t val;
	int i;

	for (i = 0; i < NR_XSAVE_MSRS; i++) {
		TEST_ASSERT_EQ(cet_rdmsr(vcpu, xsave_msrs[i], &val), 0);
		TEST_ASSERT(!val, "RDMSR of %s leaks 0x%lx",
			    cet_msr_name(xsave_msrs[i]), val);
		cet_expect_msr(vcpu, xsave_msrs[i], 0);
	}
}

TEST_F(fpu, other_vm_reads_zero)
{
	struct kvm_vcpu *other;
	struct kvm_vm *vm = vm_create_cet(&other, true, true);

	set_values(self->vcpu);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_zero(other);
	expect_values(self->vcpu);
	kvm_vm_free(vm);
}

TEST_F(fpu, other_vcpu_reads_zero)
{
	struct kvm_vcpu *other = vm_vcpu_add(self->vcpu->vm, 1, NULL);

	vcpu_init_cet(other, true, true);
	set_values(self->vcpu);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_zero(other);
	expect_values(self->vcpu);
}

static uint8_t image[PAGE_SIZE] __aligned(64);

static uint64_t *image_values(void)
{
	return (void *)image + XSAVE_HDR_END;
}

static void guest_xsaves(struct cet_call *call)
{
	call->vector = kvm_asm_safe("xsaves64 (%[image])", [image]"r"(image),
				    "a"(XFEATURE_MASK_CET), "d"(0));
}

static void guest_xrstors(struct cet_call *call)
{
	call->vector = kvm_asm_safe("xrstors64 (%[image])", [image]"r"(image),
				    "a"(XFEATURE_MASK_CET), "d"(0));
}

static void enable_xsaves(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(vcpu, &sregs);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

TEST_F(fpu, guest_xsaves_stores_what_host_set)
{
	uint64_t *guest_values = addr_gva2hva(self->vcpu->vm,
					      (vm_vaddr_t)image_values());
	int i;

	enable_xsaves(self->vcpu);
	set_values(self->vcpu);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xsaves, 0, 0)->vector, 0);

	for (i = 0; i < NR_XSAVE_MSRS; i++)
		TEST_ASSERT_EQ(guest_values[i], values[i]);
}

TEST_F(fpu, host_gets_what_guest_xrstors_loads)
{
	int i;

	enable_xsaves(self->vcpu);
	set_values(self->vcpu);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xsaves, 0, 0)->vector, 0);

	for (i = 0; i < NR_XSAVE_MSRS; i++)
		cet_set_msr(self->vcpu, xsave_msrs[i], 0);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xrstors, 0, 0)->vector, 0);
	expect_values(self->vcpu);
}

/* Each component by itself: the guest's IA32_XSS is in effect. */
TEST_F(fpu, guest_xsaves_is_limited_by_xss)
{
	uint64_t *xcomp_bv = addr_gva2hva(self->vcpu->vm, (vm_vaddr_t)image) +
			     XSAVE_HDR_COMP_BV;
	int i;

	enable_xsaves(self->vcpu);
	for (i = 11; i <= 12; i++) {
		cet_set_msr(self->vcpu, MSR_IA32_XSS, BIT_ULL(i));
		TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xsaves, 0, 0)->vector, 0);
		TEST_ASSERT_EQ(*xcomp_bv, BIT_ULL(63) | BIT_ULL(i));
	}
}

/* Corner cases of what XRSTORS takes. */
TEST_F(fpu, what_guest_xrstors_loads_is_restorable)
{
	static const uint64_t corners[][NR_XSAVE_MSRS] = {
		{ CET_SHSTK_EN | CET_WRSS_EN | CET_ENDBR_EN | CET_WAIT_ENDBR,
		  4, 8, 12, 16 },
		{ 0x7ffffffff000 | CET_ENDBR_EN | CET_LEG_IW_EN | CET_SUPPRESS |
		  CET_NO_TRACK_EN | CET_SUPPRESS_DISABLE,
		  0x7ffffffffffc, 0x7ffffffffff8, 0xfffffffc, 0x100000000 },
		{ 0xffff800000000000, 0xffff800000000000, 0xfffffffffffffffc,
		  0xfffffffffffffff8, 0xffffffff00000000 },
		{ 0xfffffffffffff000 | CET_WAIT_ENDBR, 0, 0, 0, 4 },
		{ 0, 4, 0, 0, 0 },
	};
	void *hva = addr_gva2hva(self->vcpu->vm, (vm_vaddr_t)image);
	struct kvm_vcpu *other;
	struct kvm_vm *vm = vm_create_cet(&other, true, true);
	int i, j;

	enable_xsaves(self->vcpu);
	set_values(self->vcpu);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xsaves, 0, 0)->vector, 0);

	for (i = 0; i < ARRAY_SIZE(corners); i++) {
		memcpy(hva + XSAVE_HDR_END, corners[i], sizeof(corners[i]));
		TEST_ASSERT_EQ(cet_call(self->vcpu, guest_xrstors, 0, 0)->vector, 0);
		for (j = 0; j < NR_XSAVE_MSRS; j++) {
			cet_expect_msr(self->vcpu, xsave_msrs[j], corners[i][j]);
			cet_set_msr(other, xsave_msrs[j], corners[i][j]);
			cet_expect_msr(other, xsave_msrs[j], corners[i][j]);
		}
	}
	kvm_vm_free(vm);
}

/* XRSTORS loads bits of a feature that only the CPU has, not the vCPU. */
TEST_F(fpu, other_feature_of_xrstors_is_restorable)
{
	static const uint64_t u_cet = CET_SHSTK_EN | CET_WRSS_EN | CET_ENDBR_EN |
				      CET_WAIT_ENDBR | 0x12344000;
	uint64_t *guest_values;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	for (i = 0; i < 2; i++) {
		vm = vm_create_cet(&vcpu, i == 0, i == 1);
		enable_xsaves(vcpu);
		cet_set_msr(vcpu, MSR_IA32_U_CET, i ? CET_ENDBR_EN : CET_SHSTK_EN);
		TEST_ASSERT_EQ(cet_call(vcpu, guest_xsaves, 0, 0)->vector, 0);
		guest_values = addr_gva2hva(vm, (vm_vaddr_t)image_values());
		guest_values[0] = u_cet;
		TEST_ASSERT_EQ(cet_call(vcpu, guest_xrstors, 0, 0)->vector, 0);
		cet_expect_msr(vcpu, MSR_IA32_U_CET, u_cet);
		kvm_vm_free(vm);

		vm = vm_create_cet(&vcpu, i == 0, i == 1);
		cet_set_msr(vcpu, MSR_IA32_U_CET, u_cet);
		cet_expect_msr(vcpu, MSR_IA32_U_CET, u_cet);
		kvm_vm_free(vm);
	}
}

/* A process can permit nothing but user state to itself or its guests. */
TEST(permissions_are_for_user_state)
{
	static const int ops[] = {
		ARCH_GET_XCOMP_SUPP, ARCH_GET_XCOMP_PERM,
		ARCH_GET_XCOMP_GUEST_PERM,
	};
	uint64_t mask;
	int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		TEST_ASSERT(!syscall(SYS_arch_prctl, ops[i], &mask),
			    "arch_prctl(0x%x) failed", ops[i]);
		TEST_ASSERT(!(mask & XFEATURE_MASK_CET),
			    "arch_prctl(0x%x) returned 0x%lx", ops[i], mask);
	}
	for (i = 11; i <= 12; i++)
		TEST_ASSERT(syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_GUEST_PERM, i),
			    "Guests can be permitted component %d", i);
}

/* The host's accesses do not depend on the guest's IA32_XSS, which is 0. */
TEST_F(fpu, host_writes_need_no_xss)
{
	set_values(self->vcpu);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, 0);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_values(self->vcpu);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
