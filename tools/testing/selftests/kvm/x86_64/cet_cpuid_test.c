// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM enumerates of CET in CPUID, and that IA32_XSS takes exactly what
 * CPUID leaf 0xD enumerates.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define XSAVE_HDR_END		576
#define XSS_CPUID_BIT		BIT(0)
#define ALIGN_64_CPUID_BIT	BIT(1)

static uint64_t supported_xss(void)
{
	const struct kvm_cpuid_entry2 *entry = cet_find_xsave_entry(1);

	return entry->ecx | (uint64_t)entry->edx << 32;
}

/* The size of a compacted XSAVE image with these components. */
static uint32_t compacted_size(uint64_t components)
{
	const struct kvm_cpuid_entry2 *entry;
	uint32_t size = XSAVE_HDR_END;
	int i;

	for (i = 2; i < 63; i++) {
		if (!(components & BIT_ULL(i)))
			continue;

		entry = cet_find_xsave_entry(i);
		TEST_ASSERT(entry, "CPUID 0xD has no sub-leaf %d", i);
		if (entry->ecx & ALIGN_64_CPUID_BIT)
			size = round_up(size, 64);
		size += entry->eax;
	}

	return size;
}

static void expect_xsave_component(uint32_t index, uint32_t size)
{
	const struct kvm_cpuid_entry2 *entry = cet_find_xsave_entry(index);

	TEST_ASSERT(entry, "CPUID 0xD has no sub-leaf %u", index);
	TEST_ASSERT_EQ(entry->eax, size);
	TEST_ASSERT_EQ(entry->ebx, 0);
	TEST_ASSERT_EQ(entry->ecx & XSS_CPUID_BIT, XSS_CPUID_BIT);
	TEST_ASSERT_EQ(entry->edx, 0);
}

TEST(supported_shstk)
{
	TEST_ASSERT(kvm_cpu_has(X86_FEATURE_SHSTK),
		    "KVM does not report SHSTK");
}

TEST(supported_ibt)
{
	TEST_ASSERT(kvm_cpu_has(X86_FEATURE_IBT), "KVM does not report IBT");
}

/* Supervisor shadow stacks are not safe on KVM, so it must not offer them. */
TEST(no_cet_sss)
{
	TEST_ASSERT(!kvm_cpu_has(X86_FEATURE_CET_SSS),
		    "KVM reports CET_SSS");
}

TEST(supported_xss_is_cet)
{
	TEST_ASSERT(supported_xss() == XFEATURE_MASK_CET,
		    "CPUID 0xD.1 enumerates XSS = 0x%lx", supported_xss());
}

TEST(component_of_cet_user)
{
	expect_xsave_component(11, 2 * sizeof(uint64_t));
}

TEST(component_of_cet_kernel)
{
	expect_xsave_component(12, 3 * sizeof(uint64_t));
}

TEST(supported_compacted_size)
{
	uint64_t components = kvm_cpu_supported_xcr0() | XFEATURE_MASK_CET;

	TEST_ASSERT_EQ(cet_find_xsave_entry(1)->ebx, compacted_size(components));
}

TEST(xss_in_index_list)
{
	TEST_ASSERT(kvm_msr_is_in_save_restore_list(MSR_IA32_XSS),
		    "IA32_XSS is not in KVM_GET_MSR_INDEX_LIST");
}

FIXTURE(xss)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(xss)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(xss)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Each bit by itself, by host and guest. */
static void expect_xss(struct kvm_vcpu *vcpu, uint64_t mask)
{
	uint64_t val;
	uint8_t vector;
	int i;

	cet_set_msr(vcpu, MSR_IA32_XSS, mask);
	cet_set_msr(vcpu, MSR_IA32_XSS, 0);

	for (i = 0; i < 64; i++) {
		val = BIT_ULL(i);
		if (val & mask) {
			cet_set_msr(vcpu, MSR_IA32_XSS, val);
			cet_expect_msr(vcpu, MSR_IA32_XSS, val);
			cet_set_msr(vcpu, MSR_IA32_XSS, 0);
		} else {
			cet_refuse_msr(vcpu, MSR_IA32_XSS, val);
		}

		vector = cet_wrmsr(vcpu, MSR_IA32_XSS, val);
		TEST_ASSERT(vector == (val & mask ? 0 : GP_VECTOR),
			    "WRMSR of IA32_XSS = 0x%lx raised vector %u",
			    val, vector);
		cet_expect_msr(vcpu, MSR_IA32_XSS, val & mask);
		cet_set_msr(vcpu, MSR_IA32_XSS, 0);
	}
}

TEST_F(xss, xss_takes_what_is_enumerated)
{
	expect_xss(self->vcpu, XFEATURE_MASK_CET);
}

/* The vCPU's own CPUID counts, not what KVM could do. */
static void set_cpuid_xss(struct kvm_vcpu *vcpu, uint64_t xss)
{
	struct kvm_cpuid_entry2 *entry;

	entry = __vcpu_get_cpuid_entry(vcpu, XSAVE_LEAF, 1);
	entry->ecx = xss;
	entry->edx = xss >> 32;
	vcpu_set_cpuid(vcpu);
}

TEST_F(xss, xss_takes_cet_user_only)
{
	set_cpuid_xss(self->vcpu, XFEATURE_MASK_CET_USER);
	expect_xss(self->vcpu, XFEATURE_MASK_CET_USER);
}

/* CPUID cannot add what KVM does not support. */
TEST_F(xss, xss_takes_nothing_unsupported)
{
	set_cpuid_xss(self->vcpu, -1ull);
	expect_xss(self->vcpu, XFEATURE_MASK_CET);
}

TEST_F(xss, xss_absent_without_xsaves)
{
	uint64_t val;

	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	cet_set_msr(self->vcpu, MSR_IA32_XSS, 0);

	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_XSAVES);
	cet_set_msr(self->vcpu, MSR_IA32_XSS, 0);
	cet_refuse_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_USER);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, 0);
	TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, MSR_IA32_XSS, &val), GP_VECTOR);
	TEST_ASSERT_EQ(cet_wrmsr(self->vcpu, MSR_IA32_XSS, 0), GP_VECTOR);
}

static void guest_cpuid_size(struct cet_call *call)
{
	uint32_t eax, ebx, ecx, edx;

	call->vector = wrmsr_safe(MSR_IA32_XSS, call->arg[0]);
	if (call->arg[1])
		xsetbv(0, call->arg[1]);
	__cpuid(XSAVE_LEAF, 1, &eax, &ebx, &ecx, &edx);
	call->ret = ebx;
}

TEST_F(xss, cpuid_size_follows_xss)
{
	static const uint64_t values[] = {
		XFEATURE_MASK_CET_USER, XFEATURE_MASK_CET_KERNEL,
		XFEATURE_MASK_CET, 0,
	};
	struct cet_call *call;
	int i;

	for (i = 0; i < ARRAY_SIZE(values); i++) {
		call = cet_call(self->vcpu, guest_cpuid_size, values[i], 0);
		TEST_ASSERT(!call->vector,
			    "WRMSR of IA32_XSS = 0x%lx raised vector %lu",
			    values[i], call->vector);
		TEST_ASSERT_EQ(call->ret, compacted_size(values[i]));
	}
}

TEST_F(xss, cpuid_size_follows_xcr0)
{
	const uint64_t xcr0 = XFEATURE_MASK_FP | XFEATURE_MASK_SSE |
			      XFEATURE_MASK_YMM;
	struct kvm_sregs sregs;
	struct cet_call *call;

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(self->vcpu, &sregs);

	call = cet_call(self->vcpu, guest_cpuid_size, XFEATURE_MASK_CET, xcr0);
	TEST_ASSERT(!call->vector, "WRMSR of IA32_XSS raised vector %lu",
		    call->vector);
	TEST_ASSERT_EQ(call->ret, compacted_size(XFEATURE_MASK_CET | xcr0));
}

/* The sizes that KVM fills in must not make CPUID look changed. */
TEST_F(xss, cpuid_same_after_run)
{
	uint8_t vector;

	vector = cet_wrmsr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	TEST_ASSERT(!vector, "WRMSR of IA32_XSS raised vector %u", vector);

	vcpu_set_cpuid(self->vcpu);
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

static void expect_cpuid_fixed(struct kvm_vcpu *vcpu,
			       struct kvm_x86_cpu_feature feature)
{
	struct kvm_cpuid_entry2 *entry;

	entry = vcpu_get_cpuid_entry(vcpu, feature.function);
	(&entry->eax)[feature.reg] ^= BIT(feature.bit);
	TEST_ASSERT(__vcpu_set_cpuid(vcpu) == -1 && errno == EINVAL,
		    "KVM_SET_CPUID2 changed a CET feature after KVM_RUN");
	(&entry->eax)[feature.reg] ^= BIT(feature.bit);
}

TEST_F(xss, cpuid_cet_bits_fixed_after_run)
{
	uint64_t val;

	cet_rdmsr(self->vcpu, MSR_IA32_U_CET, &val);
	expect_cpuid_fixed(self->vcpu, X86_FEATURE_SHSTK);
	expect_cpuid_fixed(self->vcpu, X86_FEATURE_IBT);
	vcpu_set_cpuid(self->vcpu);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
