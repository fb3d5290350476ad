/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_CET_H
#define __KVM_X86_CET_H

#include <linux/kvm_host.h>

#include <asm/msr-index.h>

#include "cpuid.h"

/*
 * Control-flow enforcement technology (CET) consists of shadow stacks (SHSTK)
 * and indirect branch tracking (IBT).  Either can be exposed to a vCPU without
 * the other; what they share exists if the vCPU has any of the two.
 */
static inline bool kvm_vcpu_has_cet(struct kvm_vcpu *vcpu)
{
	return guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK) ||
	       guest_cpu_cap_has(vcpu, X86_FEATURE_IBT);
}

/*
 * CR4.CET can't be set while CR0.WP is clear, and CR0.WP can't be cleared while
 * CR4.CET is set, or supervisor code could write to shadow stacks.  SDM Vol. 3A,
 * "Control Registers".
 */
static inline bool kvm_is_valid_cet_cr0_cr4(unsigned long cr0,
					    unsigned long cr4)
{
	return !(cr4 & X86_CR4_CET) || (cr0 & X86_CR0_WP);
}

/**
 * kvm_is_cet_xstate_msr - is the MSR a CET MSR that lives in XSAVE state?
 * @vcpu:	the vCPU, NULL if the access is not to the MSRs of a vCPU
 * @index:	index of the MSR
 *
 * Such an MSR is part of the FPU state, i.e. an access is cheap if the guest's
 * FPU is loaded, and has to load it if not.
 *
 * Return: true if the MSR is XSAVE-managed and exists for @vcpu.
 */
static inline bool kvm_is_cet_xstate_msr(struct kvm_vcpu *vcpu, u32 index)
{
	switch (index) {
	case MSR_IA32_U_CET:
		return vcpu && kvm_vcpu_has_cet(vcpu);
	case MSR_IA32_PL0_SSP ... MSR_IA32_PL3_SSP:
		return vcpu && guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK);
	default:
		return false;
	}
}

/**
 * kvm_is_valid_cet_ctl - check a value for IA32_U_CET or IA32_S_CET
 * @vcpu:	the vCPU
 * @data:	the value
 *
 * The rules are those of WRMSR, XRSTORS and VM entry alike, whoever writes the
 * value: bits of a feature that the vCPU does not have are reserved, and the
 * value as a whole must be canonical as it holds the linear address of the
 * legacy code page bitmap.  SDM Vol. 1, "Control-flow Enforcement Technology
 * (CET)", and Vol. 4, "Architectural MSRs".
 *
 * Return: true if the vCPU can have @data in either MSR.
 */
bool kvm_is_valid_cet_ctl(struct kvm_vcpu *vcpu, u64 data);

/**
 * kvm_is_valid_ssp - check a value for SSP or one of IA32_PL0_SSP to PL3_SSP
 * @vcpu:	the vCPU
 * @data:	the value, a linear address
 *
 * The mode that the vCPU is in doesn't matter, as the mode may be restored
 * later than the registers.
 *
 * Return: true if @data is canonical and 4-byte aligned.
 */
bool kvm_is_valid_ssp(struct kvm_vcpu *vcpu, u64 data);

/**
 * kvm_is_cet_active - does the current control-flow state of a vCPU matter?
 * @vcpu:	the vCPU, loaded, in KVM_RUN, IRQs enabled
 *
 * For flows that neither maintain shadow stacks nor track indirect branches,
 * and can't tell the privilege level that they end up in.
 *
 * Return: true if CET is enabled in CR4, and shadow stacks or indirect branch
 * tracking are enabled for user or supervisor mode.
 */
bool kvm_is_cet_active(struct kvm_vcpu *vcpu);

#endif /* __KVM_X86_CET_H */
