// SPDX-License-Identifier: GPL-2.0
/*
 * SSP, and MSRs, as registers that user space gets and sets one by one.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID		KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* The numbers are ABI. */
static_assert(SSP_ID == 0x2030000300000000ull);
static_assert(KVM_X86_REG_KVM(1) == 0x2000000300000001ull);
static_assert(KVM_X86_REG_MSR(MSR_EFER) == 0x20300002c0000080ull);
static_assert(KVM_X86_REG_MSR(MSR_IA32_S_CET) == 0x20300002000006a2ull);

/* Returns 0, or errno. */
static int access_reg(struct kvm_vcpu *vcpu, unsigned long cmd, uint64_t id,
		      uint64_t *val)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)val };

	return ioctl(vcpu->fd, cmd, &reg) ? errno : 0;
}

static void get_ssp(struct kvm_vcpu *vcpu, uint64_t *ssp)
{
	int err = access_reg(vcpu, KVM_GET_ONE_REG, SSP_ID, ssp);

	TEST_ASSERT(!err, "KVM_GET_ONE_REG refused SSP, errno %d", err);
}

static void set_ssp(struct kvm_vcpu *vcpu, uint64_t ssp)
{
	int err = access_reg(vcpu, KVM_SET_ONE_REG, SSP_ID, &ssp);

	TEST_ASSERT(!err, "KVM_SET_ONE_REG refused SSP = 0x%lx, errno %d", ssp,
		    err);
}

/* Neither direction works, and nothing is written to user memory. */
static void refuse(struct kvm_vcpu *vcpu, uint64_t id)
{
	const uint64_t before = 0x5555aaaa;
	uint64_t val = before;
	int err;

	err = access_reg(vcpu, KVM_GET_ONE_REG, id, &val);
	TEST_ASSERT(err == EINVAL && val == before,
		    "KVM_GET_ONE_REG of 0x%lx: errno %d, value 0x%lx", id, err,
		    val);
	val = 0;
	err = access_reg(vcpu, KVM_SET_ONE_REG, id, &val);
	TEST_ASSERT(err == EINVAL, "KVM_SET_ONE_REG of 0x%lx: errno %d", id,
		    err);
}

KVM_ONE_VCPU_TEST_SUITE(one_reg);

KVM_ONE_VCPU_TEST(one_reg, capability, NULL)
{
	TEST_ASSERT(kvm_has_cap(KVM_CAP_ONE_REG), "No KVM_CAP_ONE_REG");
	TEST_ASSERT(vm_check_cap(vcpu->vm, KVM_CAP_ONE_REG) == 1,
		    "No KVM_CAP_ONE_REG for the VM");
}

KVM_ONE_VCPU_TEST(one_reg, ssp_set_get, NULL)
{
	/* Like VM entry, KVM accepts one address that is not canonical. */
	static const uint64_t good[] = {
		4, 0x1000, 0xfffffffc, 0x100000000, 0x7ffffffffffc,
		0x800000000000, 0xffff800000000000, 0xfffffffffffffffc, 0,
	};
	uint64_t ssp;
	int i;

	/* Also right after KVM_SET_CPUID2, i.e. before the first KVM_RUN. */
	vcpu_init_cet(vcpu, true, true);
	get_ssp(vcpu, &ssp);
	TEST_ASSERT_EQ(ssp, 0);

	for (i = 0; i < ARRAY_SIZE(good); i++) {
		set_ssp(vcpu, good[i]);
		get_ssp(vcpu, &ssp);
		TEST_ASSERT_EQ(ssp, good[i]);
	}
}

KVM_ONE_VCPU_TEST(one_reg, ssp_bad_values_refused, NULL)
{
	static const uint64_t bad[] = {
		1, 2, 0x1003, 0x0200000000000000, 0x8000000000000000,
		0x7ffffffffffffffc, 0xfdffffffffffffff & ~3ull,
	};
	const uint64_t before = 0x1234567890;
	uint64_t ssp, val;
	int i, err;

	vcpu_init_cet(vcpu, true, true);
	set_ssp(vcpu, before);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		val = bad[i];
		err = access_reg(vcpu, KVM_SET_ONE_REG, SSP_ID, &val);
		TEST_ASSERT(err == EINVAL, "SSP = 0x%lx: errno %d", bad[i], err);
		get_ssp(vcpu, &ssp);
		TEST_ASSERT_EQ(ssp, before);
	}
}

KVM_ONE_VCPU_TEST(one_reg, ssp_absent_without_shstk, NULL)
{
	uint64_t ssp;

	vcpu_init_cet(vcpu, true, true);
	get_ssp(vcpu, &ssp);

	vcpu_init_cet(vcpu, false, true);
	refuse(vcpu, SSP_ID);
	vcpu_init_cet(vcpu, false, false);
	refuse(vcpu, SSP_ID);
}

/* What the register holds is what the guest's RET will pop from. */
KVM_ONE_VCPU_TEST(one_reg, ssp_is_live, NULL)
{
	struct cet_call *call;
	uint64_t token, ssp;
	int i;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);

	/* i == 0: put back what was read, i == 1: skip an entry. */
	for (i = 0; i < 2; i++) {
		cet_prepare_run(vcpu, guest_exit_and_return, CET_SHSTK_EN);
		vcpu_run(vcpu);
		TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);

		get_ssp(vcpu, &ssp);
		token = vcpu_get_msr(vcpu, MSR_IA32_PL0_SSP);
		TEST_ASSERT(ssp < token && ssp > token - 64,
			    "SSP 0x%lx is not right below its token 0x%lx",
			    ssp, token);

		/* Change SSP, and then set it as it is to be. */
		set_ssp(vcpu, ssp - 0x100);
		set_ssp(vcpu, ssp + i * 8);
		vcpu_run(vcpu);
		call = cet_finish(vcpu);
		TEST_ASSERT(call->vector == (i ? CP_VECTOR : 0),
			    "Vector %lu with SSP moved by %d entries",
			    call->vector, i);
	}
}

KVM_ONE_VCPU_TEST(one_reg, msrs, NULL)
{
	uint64_t val;
	int i, err;

	vcpu_init_cet(vcpu, true, true);
	for (i = 0; i < CET_NR_MSRS; i++) {
		const uint64_t id = KVM_X86_REG_MSR(cet_msrs[i]);
		const bool ctl = cet_msrs[i] <= MSR_IA32_S_CET;
		const uint64_t want = ctl ? 0x4000 * (i + 1) + CET_ENDBR_EN :
					    0x10000 + 8 * i;

		val = want;
		err = access_reg(vcpu, KVM_SET_ONE_REG, id, &val);
		TEST_ASSERT(!err, "KVM_SET_ONE_REG refused %s, errno %d",
			    cet_msr_name(cet_msrs[i]), err);
		cet_expect_msr(vcpu, cet_msrs[i], want);

		cet_set_msr(vcpu, cet_msrs[i], want + 0x1000000);
		err = access_reg(vcpu, KVM_GET_ONE_REG, id, &val);
		TEST_ASSERT(!err, "KVM_GET_ONE_REG refused %s, errno %d",
			    cet_msr_name(cet_msrs[i]), err);
		TEST_ASSERT_EQ(val, want + 0x1000000);

		/* No MSR here takes an address that is not canonical. */
		val = 0x8000000000000000;
		err = access_reg(vcpu, KVM_SET_ONE_REG, id, &val);
		TEST_ASSERT_EQ(err, EINVAL);
		cet_expect_msr(vcpu, cet_msrs[i], want + 0x1000000);
	}

	err = access_reg(vcpu, KVM_GET_ONE_REG, KVM_X86_REG_MSR(MSR_EFER), &val);
	TEST_ASSERT_EQ(err, 0);
	TEST_ASSERT_EQ(val, vcpu_get_msr(vcpu, MSR_EFER));
}

static void guest_nop(struct cet_call *call)
{
}

/* What KVM_SET_MSRS refuses once the vCPU has run is refused here, too. */
KVM_ONE_VCPU_TEST(one_reg, feature_msrs_immutable_after_run, NULL)
{
	const uint64_t id = KVM_X86_REG_MSR(MSR_IA32_VMX_EPT_VPID_CAP);
	uint64_t val, less;

	vcpu_init_cet(vcpu, true, true);
	TEST_ASSERT(!access_reg(vcpu, KVM_GET_ONE_REG, id, &val),
		    "KVM_GET_ONE_REG refused an MSR");
	less = val & (val - 1);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_SET_ONE_REG, id, &less), 0);

	cet_call(vcpu, guest_nop, 0, 0);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_SET_ONE_REG, id, &less), 0);
	val = less & (less - 1);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_SET_ONE_REG, id, &val), EINVAL);
}

KVM_ONE_VCPU_TEST(one_reg, unknown_ids_refused, NULL)
{
	uint64_t ssp, size;
	int bit;

	vcpu_init_cet(vcpu, true, true);
	get_ssp(vcpu, &ssp);

	/* Of all sizes, from U8, which is 0, it takes U64 only. */
	for (size = 0; size <= KVM_REG_SIZE_MASK; size += KVM_REG_SIZE_U16) {
		if (size == KVM_REG_SIZE_U64)
			continue;
		refuse(vcpu, (SSP_ID & ~KVM_REG_SIZE_MASK) | size);
		refuse(vcpu, (KVM_X86_REG_MSR(MSR_IA32_S_CET) &
			      ~KVM_REG_SIZE_MASK) | size);
	}

	/* Architecture, size, reserved bits and type: each bit of them counts. */
	for (bit = 33; bit < 64; bit++)
		refuse(vcpu, SSP_ID ^ BIT_ULL(bit));
	/* Bit 32 makes it an MSR that exists nowhere, instead of SSP. */
	refuse(vcpu, KVM_X86_REG_MSR(0x4b564dff));
	refuse(vcpu, SSP_ID + 1);
	refuse(vcpu, KVM_X86_REG_KVM(1));
	refuse(vcpu, KVM_X86_REG_KVM(0xffffffff));
}

KVM_ONE_VCPU_TEST(one_reg, bad_pointers, NULL)
{
	uint64_t ssp;

	vcpu_init_cet(vcpu, true, true);
	get_ssp(vcpu, &ssp);

	TEST_ASSERT_EQ(access_reg(vcpu, KVM_GET_ONE_REG, SSP_ID, NULL), EFAULT);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_SET_ONE_REG, SSP_ID, NULL), EFAULT);
	TEST_ASSERT(ioctl(vcpu->fd, KVM_GET_ONE_REG, NULL) && errno == EFAULT,
		    "KVM_GET_ONE_REG of NULL: errno %d", errno);

	/* Without the register, the pointer does not matter. */
	vcpu_init_cet(vcpu, false, true);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_GET_ONE_REG, SSP_ID, NULL), EINVAL);
	TEST_ASSERT_EQ(access_reg(vcpu, KVM_SET_ONE_REG, SSP_ID, NULL), EINVAL);
}

/* A list that user space can't read, and one that it can't write to */
KVM_ONE_VCPU_TEST(one_reg, list_bad_pointers, NULL)
{
	const size_t size = getpagesize();
	struct kvm_reg_list *list;
	void *page;

	page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(page != MAP_FAILED, "mmap failed, errno %d", errno);
	TEST_ASSERT(!munmap(page + size, size), "munmap failed");
	list = page + size - sizeof(*list);

	vcpu_init_cet(vcpu, true, true);
	TEST_ASSERT(ioctl(vcpu->fd, KVM_GET_REG_LIST, NULL) && errno == EFAULT,
		    "KVM_GET_REG_LIST of NULL: errno %d", errno);
	list->n = 1;
	TEST_ASSERT(ioctl(vcpu->fd, KVM_GET_REG_LIST, list) && errno == EFAULT,
		    "KVM_GET_REG_LIST without room: errno %d", errno);
	munmap(page, size);
}

KVM_ONE_VCPU_TEST(one_reg, list, NULL)
{
	struct {
		struct kvm_reg_list header;
		uint64_t id[2];
	} list = {};

	vcpu_init_cet(vcpu, true, false);
	TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_GET_REG_LIST, &list.header) &&
		    errno == E2BIG, "KVM_GET_REG_LIST of 0: errno %d", errno);
	TEST_ASSERT_EQ(list.header.n, 1);

	list.header.n = 2;
	TEST_ASSERT_EQ(__vcpu_ioctl(vcpu, KVM_GET_REG_LIST, &list.header), 0);
	TEST_ASSERT_EQ(list.header.n, 1);
	TEST_ASSERT_EQ(list.header.reg[0], SSP_ID);
	TEST_ASSERT_EQ(list.id[1], 0);

	vcpu_init_cet(vcpu, false, true);
	list.header.n = 0;
	TEST_ASSERT_EQ(__vcpu_ioctl(vcpu, KVM_GET_REG_LIST, &list.header), 0);
	TEST_ASSERT_EQ(list.header.n, 0);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
