/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_VMX_XSAVE_MSR_H
#define __KVM_X86_VMX_XSAVE_MSR_H

#include <linux/kvm_host.h>

/*
 * Get and set an MSR of the guest that is part of the XSAVE state, i.e. one for
 * which is_xstate_managed_msr() is true.  The value to set must be valid.
 * Call them with the vCPU and the guest's FPU loaded, and IRQs enabled.  Return
 * 0, or 1 if the guest's FPU isn't loaded, which is a bug of KVM.
 */
int vmx_get_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info);
int vmx_set_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info);

#endif /* __KVM_X86_VMX_XSAVE_MSR_H */
