// SPDX-License-Identifier: GPL-2.0
/*
 * Control-flow enforcement technology (CET) for guests: the part that follows
 * from the architecture and does not depend on the virtualization extension.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "cet.h"
#include "kvm_cache_regs.h"
#include "x86.h"

/* The bits of IA32_{U,S}_CET that come with shadow stacks. */
#define CET_US_SHSTK_MASK_BITS	(CET_SHSTK_EN | CET_WRSS_EN)

/*
 * The bits that come with indirect branch tracking: the enables, the state of
 * the tracker, and the linear address of the legacy code page bitmap.
 */
#define CET_US_IBT_MASK_BITS	(CET_ENDBR_EN | CET_LEG_IW_EN |		\
				 CET_NO_TRACK_EN | CET_SUPPRESS_DISABLE | \
				 CET_SUPPRESS | CET_WAIT_ENDBR |	\
				 GENMASK_ULL(63, 12))

static bool is_valid_u_s_cet(struct kvm_vcpu *vcpu, u64 data, bool shstk,
			     bool ibt)
{
	if (!shstk && (data & CET_US_SHSTK_MASK_BITS))
		return false;

	if (!ibt && (data & CET_US_IBT_MASK_BITS))
		return false;

	if (data & ~(CET_US_SHSTK_MASK_BITS | CET_US_IBT_MASK_BITS))
		return false;

	/*
	 * A tracker that waits for ENDBR can't be suppressed.  Either state is
	 * legal by itself: a vCPU can be interrupted between an indirect branch
	 * and its target, and is restored in that state by user space.
	 */
	if ((data & CET_SUPPRESS) && (data & CET_WAIT_ENDBR))
		return false;

	/* The address of the bitmap is part of the value. */
	return !is_noncanonical_msr_address(data, vcpu);
}

bool kvm_is_valid_u_s_cet(struct kvm_vcpu *vcpu, u64 data)
{
	return is_valid_u_s_cet(vcpu, data,
				guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK),
				guest_cpu_cap_has(vcpu, X86_FEATURE_IBT));
}
EXPORT_SYMBOL_GPL(kvm_is_valid_u_s_cet);

bool kvm_is_possible_u_cet(struct kvm_vcpu *vcpu, u64 data)
{
	return is_valid_u_s_cet(vcpu, data, kvm_cpu_cap_has(X86_FEATURE_SHSTK),
				kvm_cpu_cap_has(X86_FEATURE_IBT));
}
EXPORT_SYMBOL_GPL(kvm_is_possible_u_cet);

bool kvm_is_valid_ssp_msr(struct kvm_vcpu *vcpu, u64 data)
{
	return IS_ALIGNED(data, 4) && !is_noncanonical_msr_address(data, vcpu);
}
EXPORT_SYMBOL_GPL(kvm_is_valid_ssp_msr);

bool kvm_is_valid_ssp(u64 data)
{
	/*
	 * SSP points right behind the canonical addresses once the last entry
	 * of a shadow stack that ends there is popped.
	 */
	return IS_ALIGNED(data, 4) &&
	       __is_canonical_address(data, max_host_virt_addr_bits() + 1);
}
EXPORT_SYMBOL_GPL(kvm_is_valid_ssp);

bool kvm_is_cet_active(struct kvm_vcpu *vcpu)
{
	u64 u_cet, s_cet;

	if (!kvm_is_cr4_bit_set(vcpu, X86_CR4_CET))
		return false;

	/* Be on the safe side if the state can't be read. */
	if (kvm_get_msr(vcpu, MSR_IA32_U_CET, &u_cet) ||
	    kvm_get_msr(vcpu, MSR_IA32_S_CET, &s_cet))
		return true;

	return (u_cet | s_cet) & (CET_SHSTK_EN | CET_ENDBR_EN);
}
EXPORT_SYMBOL_GPL(kvm_is_cet_active);
