// SPDX-License-Identifier: GPL-2.0
/*
 * The hypercall page that KVM writes for guests that are enlightened about
 * Hyper-V: one with IBT can call it indirectly.
 */
#include <linux/stringify.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "hyperv.h"

/* In HV_X64_MSR_HYPERCALL */
#define ENABLE			BIT_ULL(0)

/* No Hyper-V has it. */
#define UNKNOWN_HYPERCALL	0xfff

static const uint8_t plain[] = { 0x0f, 0x01, 0xc1, 0xc3 };
static const uint8_t with_endbr64[] = {
	0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xc1, 0xc3
};

/* Guest data: the page's address */
static uint64_t guest_page;

/* A payload for cet_run(): a hypercall, of which it returns the status. */
static __attribute__((naked)) void guest_hypercall(void)
{
	asm("endbr64\n"
	    "push %rbx\n"
	    "mov $" __stringify(UNKNOWN_HYPERCALL) ", %ecx\n"
	    "xor %edx, %edx\n"
	    "xor %r8d, %r8d\n"
	    "mov guest_page(%rip), %rax\n"
	    "call *%rax\n"
	    "pop %rbx\n"
	    "ret\n");
}

KVM_ONE_VCPU_TEST_SUITE(page);

static uint8_t *init(struct kvm_vcpu *vcpu, bool shstk, bool ibt)
{
	struct kvm_vm *vm = vcpu->vm;
	vm_vaddr_t gva;

	vm_init_cet(vm);
	vcpu_set_hv_cpuid(vcpu);
	vcpu_init_cet(vcpu, shstk, ibt);
	gva = vm_vaddr_alloc_page(vm);
	write_guest_global(vm, guest_page, gva);
	return addr_gva2hva(vm, gva);
}

static uint64_t enable(struct kvm_vcpu *vcpu)
{
	uint64_t *gva = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&guest_page);

	return addr_gva2gpa(vcpu->vm, *gva) | ENABLE;
}

static void guest_enables(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, HV_X64_MSR_GUEST_OS_ID,
				 HYPERV_LINUX_OS_ID), 0);
	TEST_ASSERT_EQ(cet_wrmsr(vcpu, HV_X64_MSR_HYPERCALL, enable(vcpu)), 0);
}

static void host_restores(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID);
	vcpu_set_msr(vcpu, HV_X64_MSR_HYPERCALL, enable(vcpu));
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, HV_X64_MSR_HYPERCALL), enable(vcpu));
}

static void expect_call(struct kvm_vcpu *vcpu, uint64_t s_cet)
{
	struct cet_call *call = cet_run(vcpu, guest_hypercall, s_cet);

	TEST_ASSERT(!call->vector, "The hypercall raised vector %lu, code %lu",
		    call->vector, call->error_code);
	TEST_ASSERT_EQ(call->ret & 0xffff, HV_STATUS_INVALID_HYPERCALL_CODE);
}

#define EXPECT_PAGE(page, bytes) do {					\
	TEST_ASSERT(!memcmp(page, bytes, sizeof(bytes)),		\
		    "The page does not begin as " #bytes);		\
	TEST_ASSERT(!(page)[sizeof(bytes)],				\
		    "The page is longer than " #bytes);			\
} while (0)

KVM_ONE_VCPU_TEST(page, with_ibt, NULL)
{
	uint8_t *page = init(vcpu, true, true);

	guest_enables(vcpu);
	EXPECT_PAGE(page, with_endbr64);
	cet_enable(vcpu);
	expect_call(vcpu, CET_ENDBR_EN);
	expect_call(vcpu, CET_ENDBR_EN | CET_SHSTK_EN);
}

/* Without IBT, the page has the same bytes as on a KVM without CET. */
KVM_ONE_VCPU_TEST(page, without_ibt, NULL)
{
	uint8_t *page = init(vcpu, true, false);

	guest_enables(vcpu);
	EXPECT_PAGE(page, plain);
	expect_call(vcpu, 0);
}

/* A VM that has no such page in its memory yet gets it. */
KVM_ONE_VCPU_TEST(page, restored_without_page, NULL)
{
	uint8_t *page = init(vcpu, true, true);

	host_restores(vcpu);
	EXPECT_PAGE(page, with_endbr64);
}

/*
 * A guest from a host that writes no ENDBR64 may be about to return from the
 * page, at its last byte.  The page stays, and can't be called indirectly.
 */
KVM_ONE_VCPU_TEST(page, restored_with_plain_page, NULL)
{
	uint8_t *page = init(vcpu, true, true);
	struct cet_call *call;

	memcpy(page, plain, sizeof(plain));
	host_restores(vcpu);
	EXPECT_PAGE(page, plain);
	expect_call(vcpu, 0);

	cet_enable(vcpu);
	call = cet_run(vcpu, guest_hypercall, CET_ENDBR_EN);
	TEST_ASSERT_EQ(call->vector, CP_VECTOR);
	TEST_ASSERT_EQ(call->error_code, CP_ENDBRANCH);
}

KVM_ONE_VCPU_TEST(page, restored_with_page, NULL)
{
	uint8_t *page = init(vcpu, true, true);

	memcpy(page, with_endbr64, sizeof(with_endbr64));
	host_restores(vcpu);
	EXPECT_PAGE(page, with_endbr64);
	guest_enables(vcpu);
	EXPECT_PAGE(page, with_endbr64);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_HYPERV_CPUID));

	return test_harness_run(argc, argv);
}
