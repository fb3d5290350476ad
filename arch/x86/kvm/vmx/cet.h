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

/*
 * Decide about enable_cet, and sample the host's state.  Once per module load,
 * when EPT and unrestricted guest are decided about.
 */
void vmx_cet_hardware_setup(void);

/* Hide the CPUID bits and IA32_XSS bits of what isn't usable. */
void vmx_cet_set_cpu_caps(void);

/* Write the host-state fields of the current VMCS. */
void vmx_cet_set_constant_host_state(void);

/* Put the guest-state fields of the current VMCS into their reset state. */
void vmx_cet_reset_guest_state(void);

/* SSP of the current VMCS, see get_ssp() and set_ssp() of kvm_x86_ops. */
u64 vmx_get_ssp(struct kvm_vcpu *vcpu);
void vmx_set_ssp(struct kvm_vcpu *vcpu, u64 ssp);

/*
 * Carry CET state from one VMCS of a vCPU to another one.  A vCPU without CET
 * has none to carry: each VMCS keeps what it has.
 */
static inline void vmcs_read_cet_state(struct kvm_vcpu *vcpu, u64 *s_cet,
				       u64 *ssp, u64 *ssp_tbl)
{
	if (!cet_ctl_access_allowed(vcpu))
		return;

	*s_cet = vmcs_readl(GUEST_S_CET);
	*ssp = vmcs_readl(GUEST_SSP);
	*ssp_tbl = vmcs_readl(GUEST_INTR_SSP_TABLE);
}

static inline void vmcs_write_cet_state(struct kvm_vcpu *vcpu, u64 s_cet,
					u64 ssp, u64 ssp_tbl)
{
	if (!cet_ctl_access_allowed(vcpu))
		return;

	vmcs_writel(GUEST_S_CET, s_cet);
	vmcs_writel(GUEST_SSP, ssp);
	vmcs_writel(GUEST_INTR_SSP_TABLE, ssp_tbl);
}

#endif /* __KVM_X86_VMX_CET_H */
