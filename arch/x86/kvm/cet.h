/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_CET_H
#define __KVM_X86_CET_H

#include <linux/kvm_host.h>

#include <asm/fpu/types.h>
#include <asm/msr-index.h>

#include "cpuid.h"

#define XFEATURE_MASK_CET_ALL	(XFEATURE_MASK_CET_USER | XFEATURE_MASK_CET_KERNEL)

/*
 * Control-flow enforcement technology (CET) consists of shadow stacks (SHSTK)
 * and indirect branch tracking (IBT).  A vCPU can have one without the other.
 *
 * The functions below decide which register exists, for user space and guest
 * alike, and for whatever else depends on that.
 */

/* IA32_U_CET, IA32_S_CET and CR4.CET exist with either feature. */
static inline bool cet_ctl_access_allowed(struct kvm_vcpu *vcpu)
{
	return guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK) ||
	       guest_cpu_cap_has(vcpu, X86_FEATURE_IBT);
}

/*
 * IA32_PL{0,1,2,3}_SSP exist with shadow stacks.  So does the interrupt SSP
 * table, but only on CPUs with 64-bit mode.
 */
static inline bool cet_ssp_access_allowed(struct kvm_vcpu *vcpu, u32 index)
{
	if (!guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK))
		return false;

	return index != MSR_IA32_INT_SSP_TAB ||
	       guest_cpu_cap_has(vcpu, X86_FEATURE_LM);
}

/*
 * Is the MSR part of the XSAVE state?  Callers that access such an MSR must
 * have loaded the guest's FPU.  @vcpu is NULL if it isn't an MSR of a vCPU.
 */
static inline bool is_xstate_managed_msr(struct kvm_vcpu *vcpu, u32 index)
{
	switch (index) {
	case MSR_IA32_U_CET:
		return vcpu && cet_ctl_access_allowed(vcpu);
	case MSR_IA32_PL0_SSP ... MSR_IA32_PL3_SSP:
		return vcpu && cet_ssp_access_allowed(vcpu, index);
	default:
		return false;
	}
}

/*
 * CR4.CET can't be set while CR0.WP is clear, and CR0.WP can't be cleared while
 * CR4.CET is set, or supervisor code could write to shadow stacks.
 */
static inline bool kvm_is_valid_cet_cr0_cr4(unsigned long cr0,
					    unsigned long cr4)
{
	return !(cr4 & X86_CR4_CET) || (cr0 & X86_CR0_WP);
}

/*
 * Can the guest write the value to IA32_U_CET or IA32_S_CET?  VM entry follows
 * the same rules.  Without CET, only 0 is valid.
 */
bool kvm_is_valid_u_s_cet(struct kvm_vcpu *vcpu, u64 data);

/*
 * Can the guest have the value in IA32_U_CET?  XRSTORS isn't intercepted, and
 * loads the bits of any feature that the CPU has.
 */
bool kvm_is_possible_u_cet(struct kvm_vcpu *vcpu, u64 data);

/* Can the guest write the value to one of IA32_PL{0,1,2,3}_SSP? */
bool kvm_is_valid_ssp_msr(struct kvm_vcpu *vcpu, u64 data);

/*
 * Can SSP have the value?  The mode that the vCPU is in doesn't matter, as user
 * space may restore it later than the registers.
 */
bool kvm_is_valid_ssp(u64 data);

/*
 * Is CET enabled at any privilege level?  For flows that neither maintain
 * shadow stacks nor track indirect branches, and can't say at which level they
 * end.  Call it in KVM_RUN, with IRQs enabled.
 */
bool kvm_is_cet_active(struct kvm_vcpu *vcpu);

#endif /* __KVM_X86_CET_H */
