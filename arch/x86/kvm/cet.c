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
#define CET_CTL_SHSTK_BITS	(CET_SHSTK_EN | CET_WRSS_EN)

/*
 * The bits that come with indirect branch tracking: the enables, the state of
 * the tracker, and the linear address of the legacy code page bitmap.
 */
#define CET_CTL_IBT_BITS	(CET_ENDBR_EN | CET_LEG_IW_EN |			\
				 CET_NO_TRACK_EN | CET_SUPPRESS_DISABLE |	\
				 CET_SUPPRESS | CET_WAIT_ENDBR |		\
				 GENMASK_ULL(63, 12))

bool kvm_is_valid_cet_ctl(struct kvm_vcpu *vcpu, u64 data)
{
	u64 allowed = 0;

	if (guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK))
		allowed |= CET_CTL_SHSTK_BITS;
	if (guest_cpu_cap_has(vcpu, X86_FEATURE_IBT))
		allowed |= CET_CTL_IBT_BITS;

	if (data & ~allowed)
		return false;

	/*
	 * A tracker that waits for ENDBR can't be suppressed.  Either state is
	 * legal by itself: a vCPU can be interrupted between an indirect branch
	 * and its target, and is restored in that state by user space.
	 */
	if ((data & CET_SUPPRESS) && (data & CET_WAIT_ENDBR))
		return false;

	return !is_noncanonical_msr_address(data, vcpu);
}
EXPORT_SYMBOL_GPL(kvm_is_valid_cet_ctl);

bool kvm_is_valid_ssp(struct kvm_vcpu *vcpu, u64 data)
{
	return IS_ALIGNED(data, 4) && !is_noncanonical_msr_address(data, vcpu);
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
