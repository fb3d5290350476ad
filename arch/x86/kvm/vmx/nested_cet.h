/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_VMX_NESTED_CET_H
#define __KVM_X86_VMX_NESTED_CET_H

#include <linux/kvm_host.h>

#include "vmcs12.h"

/*
 * Can VMREAD and VMWRITE access the field of vmcs12?  The fields for CET state
 * exist along with the controls that load them; all others exist.
 */
bool nested_vmx_cet_field_exists(struct kvm_vcpu *vcpu, unsigned long field);

/*
 * Check what the next VM exit is to load, if it does.  Return 0, or -EINVAL if
 * VM entry must fail with VMfailValid.
 */
int nested_vmx_check_cet_host_state(struct kvm_vcpu *vcpu,
				    struct vmcs12 *vmcs12);

/*
 * Check what VM entry is to load, if it does.  Return 0, or -EINVAL if VM entry
 * must fail with a VM exit.
 */
int nested_vmx_check_cet_guest_state(struct kvm_vcpu *vcpu,
				     struct vmcs12 *vmcs12);

#endif /* __KVM_X86_VMX_NESTED_CET_H */
