// SPDX-License-Identifier: GPL-2.0
/*
 * An example for VMMs: how to save and restore the CET state of a vCPU,
 * described in cet_vmm.h.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "cet_vmm.h"

#define MSR_IA32_U_CET		0x6a0
#define MSR_IA32_S_CET		0x6a2
#define MSR_IA32_PL0_SSP	0x6a4
#define MSR_IA32_PL1_SSP	0x6a5
#define MSR_IA32_PL2_SSP	0x6a6
#define MSR_IA32_PL3_SSP	0x6a7
#define MSR_IA32_INT_SSP_TAB	0x6a8
#define MSR_IA32_XSS		0xda0

/* CPUID.(7,0) and CPUID.(0xD,1) */
#define CPUID_ECX_SHSTK		0x80u
#define CPUID_EDX_IBT		0x100000u
#define CPUID_EAX_XSAVES	0x8u
#define CPUID_ECX_XSS_CET	0x1800u

/* Needs a <linux/kvm.h> that has KVM_REG_GUEST_SSP; this is its value. */
#define CET_VMM_SSP_ID		(KVM_REG_X86 | KVM_REG_SIZE_U64 | 3ull << 32)

static int do_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static const struct kvm_cpuid_entry2 *find_cpuid(const struct cet_vmm_cpuid *cpuid,
						 __u32 function, __u32 index)
{
	static const struct kvm_cpuid_entry2 none;
	__u32 i;

	for (i = 0; i < cpuid->header.nent; i++) {
		if (cpuid->entries[i].function == function &&
		    cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	}

	return &none;
}

static void add_msr(struct cet_vmm_msrs *msrs, __u32 index)
{
	msrs->entries[msrs->header.nmsrs++] =
		(struct kvm_msr_entry) { .index = index };
}

/*
 * The MSRs that the vCPU has according to its CPUID.  The list of
 * KVM_GET_MSR_INDEX_LIST does as well.  Either way, do not forget IA32_XSS: it
 * is no CET MSR, but it is CET that makes it non-zero.
 */
static void list_msrs(struct cet_vmm_state *state)
{
	const struct kvm_cpuid_entry2 *features = find_cpuid(&state->cpuid, 7, 0);
	const struct kvm_cpuid_entry2 *xsave = find_cpuid(&state->cpuid, 0xd, 1);
	bool shstk = features->ecx & CPUID_ECX_SHSTK;
	bool ibt = features->edx & CPUID_EDX_IBT;

	state->msrs.header.nmsrs = 0;
	state->has_ssp = shstk;

	if (xsave->eax & CPUID_EAX_XSAVES)
		add_msr(&state->msrs, MSR_IA32_XSS);
	if (shstk || ibt) {
		add_msr(&state->msrs, MSR_IA32_U_CET);
		add_msr(&state->msrs, MSR_IA32_S_CET);
	}
	if (shstk) {
		add_msr(&state->msrs, MSR_IA32_PL0_SSP);
		add_msr(&state->msrs, MSR_IA32_PL1_SSP);
		add_msr(&state->msrs, MSR_IA32_PL2_SSP);
		add_msr(&state->msrs, MSR_IA32_PL3_SSP);
		add_msr(&state->msrs, MSR_IA32_INT_SSP_TAB);
	}
}

/* KVM stops at the first MSR that it refuses, and returns its position. */
static int msrs_ioctl(int fd, unsigned long request, struct cet_vmm_msrs *msrs)
{
	int n = ioctl(fd, request, msrs);

	if (n < 0)
		return -errno;

	return n == (int)msrs->header.nmsrs ? 0 : -EINVAL;
}

static int ssp_ioctl(int fd, unsigned long request, __u64 *ssp)
{
	struct kvm_one_reg reg = {
		.id = CET_VMM_SSP_ID,
		.addr = (unsigned long)ssp,
	};

	return do_ioctl(fd, request, &reg);
}

/* The order does not matter, except that the list of MSRs depends on CPUID. */
int cet_vmm_save(int fd, struct cet_vmm_state *state)
{
	int r;

	state->cpuid.header.nent = CET_VMM_NR_CPUID;
	r = do_ioctl(fd, KVM_GET_CPUID2, &state->cpuid);
	if (r)
		return r;
	r = do_ioctl(fd, KVM_GET_SREGS, &state->sregs);
	if (r)
		return r;
	r = do_ioctl(fd, KVM_GET_XCRS, &state->xcrs);
	if (r)
		return r;
	/* With AMX in use, only KVM_GET_XSAVE2 has room for all of it. */
	r = do_ioctl(fd, KVM_GET_XSAVE, &state->xsave);
	if (r)
		return r;

	list_msrs(state);
	r = msrs_ioctl(fd, KVM_GET_MSRS, &state->msrs);
	if (r || !state->has_ssp)
		return r;
	return ssp_ioctl(fd, KVM_GET_ONE_REG, &state->ssp);
}

int cet_vmm_check(int kvm_fd, const struct cet_vmm_state *state)
{
	static struct cet_vmm_cpuid supported;
	const struct kvm_cpuid_entry2 *have, *want;
	int r;

	supported.header.nent = CET_VMM_NR_CPUID;
	r = do_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &supported);
	if (r)
		return r;

	want = find_cpuid(&state->cpuid, 7, 0);
	have = find_cpuid(&supported, 7, 0);
	if ((want->ecx & ~have->ecx & CPUID_ECX_SHSTK) ||
	    (want->edx & ~have->edx & CPUID_EDX_IBT))
		return -EOPNOTSUPP;

	want = find_cpuid(&state->cpuid, 0xd, 1);
	have = find_cpuid(&supported, 0xd, 1);
	if (want->ecx & ~have->ecx & CPUID_ECX_XSS_CET)
		return -EOPNOTSUPP;

	return 0;
}

/*
 * First, as it decides what the vCPU has.  Before, CR4.CET cannot be set, the
 * MSRs take nothing but 0, and there is no SSP.
 */
int cet_vmm_set_cpuid(int fd, struct cet_vmm_state *state)
{
	return do_ioctl(fd, KVM_SET_CPUID2, &state->cpuid);
}

/* CR4.CET and CR0.WP are set together: KVM refuses CR4.CET without CR0.WP. */
int cet_vmm_set_sregs(int fd, struct cet_vmm_state *state)
{
	return do_ioctl(fd, KVM_SET_SREGS, &state->sregs);
}

/*
 * At any point: the image has neither IA32_U_CET nor IA32_PLx_SSP, although
 * XSAVES manages them.  They are left as they are.
 */
int cet_vmm_set_fpu(int fd, struct cet_vmm_state *state)
{
	int r = do_ioctl(fd, KVM_SET_XCRS, &state->xcrs);

	return r ?: do_ioctl(fd, KVM_SET_XSAVE, &state->xsave);
}

/* In any order among themselves; none depends on CR4.CET or IA32_XSS. */
int cet_vmm_set_msrs(int fd, struct cet_vmm_state *state)
{
	return msrs_ioctl(fd, KVM_SET_MSRS, &state->msrs);
}

/*
 * Last, and after KVM_SET_NESTED_STATE if the VMM has nested guests: that
 * decides whether this is the SSP of L1 or of L2.
 */
int cet_vmm_set_ssp(int fd, struct cet_vmm_state *state)
{
	return state->has_ssp ? ssp_ioctl(fd, KVM_SET_ONE_REG, &state->ssp) : 0;
}

int cet_vmm_restore(int fd, struct cet_vmm_state *state)
{
	int r;

	r = cet_vmm_set_cpuid(fd, state);
	r = r ?: cet_vmm_set_sregs(fd, state);
	r = r ?: cet_vmm_set_fpu(fd, state);
	r = r ?: cet_vmm_set_msrs(fd, state);
	return r ?: cet_vmm_set_ssp(fd, state);
}
