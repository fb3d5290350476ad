/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_VMX_CET_H
#define __KVM_X86_VMX_CET_H

#include <linux/kvm_host.h>

#include "../cet.h"
#include "vmx_ops.h"

/*
 * Whether KVM uses CET, i.e. module parameter kvm_intel.cet, cleared at load
 * time if the CPU or another parameter rules it out.  If set, every VMCS loads
 * guest and host CET state at VM entry and VM exit, whatever the vCPU has.
 */
extern bool enable_cet;

/* CET state that lives in the VMCS.  The rest is XSAVE state. */
struct vmx_cet_state {
	u64 s_cet;
	u64 ssp;
	u64 ssp_tbl;
};

/**
 * vmx_cet_hardware_setup - decide about enable_cet, sample the host's state
 *
 * Once per module load, when EPT and unrestricted guest are decided about.
 *
 * Return: 0, or -EIO if the host uses what KVM can't preserve.
 */
int vmx_cet_hardware_setup(void);

/* Hide the CPUID bits and IA32_XSS bits of what isn't usable. */
void vmx_cet_set_cpu_caps(void);

/**
 * vmx_cet_check_processor_compat - is this CPU's host state the sampled one?
 *
 * IRQs disabled, or pinned to the CPU otherwise.
 *
 * Return: 0, or -EIO if not.
 */
int vmx_cet_check_processor_compat(void);

/* Write the host-state fields of the current VMCS. */
void vmx_cet_set_constant_host_state(void);

/* Put the guest-state fields of the current VMCS into their reset state. */
void vmx_cet_reset_guest_state(void);

/**
 * vmx_cet_after_set_cpuid - adapt a vCPU to its new CPUID
 * @vcpu:	the vCPU, loaded, in KVM_SET_CPUID2, guest FPU not loaded
 *
 * Pass MSRs through that the vCPU has, and reset state that it can't have.
 */
void vmx_cet_after_set_cpuid(struct kvm_vcpu *vcpu);

/**
 * vmx_get_cet_msr - read one of the seven CET MSRs
 * @vcpu:	the vCPU, loaded, IRQs enabled
 * @msr_info:	index and initiator, takes the value
 *
 * Values are those of the current VMCS, i.e. L2's while L2 is active.  The
 * guest's FPU is loaded temporarily if it isn't and the MSR needs it.
 *
 * Return: 0, 1 if the access faults, KVM_MSR_RET_UNSUPPORTED if the MSR doesn't
 * exist for the vCPU.
 */
int vmx_get_cet_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info);

/**
 * vmx_set_cet_msr - write one of the seven CET MSRs
 * @vcpu:	the vCPU, loaded, IRQs enabled
 * @msr_info:	index, initiator and value
 *
 * See vmx_get_cet_msr().
 *
 * Return: 0, 1 if the value isn't valid or the access faults, neither of which
 * changes the MSR, KVM_MSR_RET_UNSUPPORTED if it doesn't exist for the vCPU.
 */
int vmx_set_cet_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info);

/* SSP of the current VMCS, for vCPUs with shadow stacks. */
u64 vmx_get_ssp(struct kvm_vcpu *vcpu);
void vmx_set_ssp(struct kvm_vcpu *vcpu, u64 ssp);

/* Print the fields of the current VMCS, which must load them. */
void vmx_dump_cet_guest_state(void);
void vmx_dump_cet_host_state(void);

/*
 * Carry CET state from one VMCS of a vCPU to another one.  A vCPU without CET
 * has the reset state in all of them.
 */
static inline void vmx_save_cet_state(struct kvm_vcpu *vcpu,
				      struct vmx_cet_state *state)
{
	if (!kvm_vcpu_has_cet(vcpu))
		return;

	state->s_cet = vmcs_readl(GUEST_S_CET);
	state->ssp = vmcs_readl(GUEST_SSP);
	state->ssp_tbl = vmcs_readl(GUEST_INTR_SSP_TABLE);
}

static inline void vmx_load_cet_state(struct kvm_vcpu *vcpu,
				      const struct vmx_cet_state *state)
{
	if (!kvm_vcpu_has_cet(vcpu))
		return;

	vmcs_writel(GUEST_S_CET, state->s_cet);
	vmcs_writel(GUEST_SSP, state->ssp);
	vmcs_writel(GUEST_INTR_SSP_TABLE, state->ssp_tbl);
}

#endif /* __KVM_X86_VMX_CET_H */
