/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_VMX_NESTED_CET_H
#define __KVM_X86_VMX_NESTED_CET_H

#include <linux/kvm_host.h>

#include "vmcs12.h"

/**
 * nested_vmx_cet_hide_controls - take back what isn't for this vCPU
 * @vcpu:	the vCPU
 * @index:	a VMX capability MSR
 * @data:	its value, as supported by KVM and not turned off by user space
 *
 * A vCPU whose CPUID has neither CET feature has no control that loads CET
 * state.  Whether user space writes the capability MSRs before or after CPUID
 * makes no difference: what it wrote stays, and counts once CPUID allows it.
 */
void nested_vmx_cet_hide_controls(struct kvm_vcpu *vcpu, u32 index, u64 *data);

/**
 * nested_vmx_cet_controls_valid - do the controls of vmcs12 exist for the vCPU?
 * @vcpu:	the vCPU
 * @vmcs12:	its VMCS for L2
 *
 * Complements the check against the capability MSRs as user space wrote them.
 *
 * Return: true unless vmcs12 loads CET state on a vCPU that has no CET.
 */
bool nested_vmx_cet_controls_valid(struct kvm_vcpu *vcpu,
				   struct vmcs12 *vmcs12);

/**
 * nested_vmx_cet_field_exists - can VMREAD and VMWRITE access a VMCS field?
 * @vcpu:	the vCPU
 * @field:	encoding of the field
 *
 * The fields for CET state exist along with the controls that load them, SDM
 * Vol. 3D, "Field Encoding in VMCS".
 *
 * Return: false for CET fields that don't exist, true for all others.
 */
bool nested_vmx_cet_field_exists(struct kvm_vcpu *vcpu, unsigned long field);

/**
 * nested_vmx_check_cet_host_state - check what the next VM exit is to load
 * @vcpu:	the vCPU
 * @vmcs12:	its VMCS for L2
 *
 * SDM Vol. 3C, "Checks on Host Control Registers, MSRs, and SSP".
 *
 * Return: 0, or -EINVAL if VM entry must fail with VMfailValid.
 */
int nested_vmx_check_cet_host_state(struct kvm_vcpu *vcpu,
				    struct vmcs12 *vmcs12);

/**
 * nested_vmx_check_cet_guest_state - check what VM entry is to load
 * @vcpu:	the vCPU
 * @vmcs12:	its VMCS for L2
 *
 * SDM Vol. 3C, "Checks on Guest Control Registers, Debug Registers, and MSRs"
 * and "Checks on Guest RIP, RFLAGS, and SSP".
 *
 * Return: 0, or -EINVAL if VM entry must fail with a VM exit.
 */
int nested_vmx_check_cet_guest_state(struct kvm_vcpu *vcpu,
				     struct vmcs12 *vmcs12);

/*
 * The steps of a transition between L1 and L2, in their order.  State that no
 * control loads stays as it is: the CPU has one set of it, and doesn't know
 * whether it was L1 or L2 that wrote it.
 */

/* VM entry, vmcs01 is current: remember L1's state if L2 goes on with it. */
void nested_vmx_cet_leave_l1(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

/* VM entry, vmcs02 is current: load the state that L2 starts with. */
void nested_vmx_cet_enter_l2(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

/* VM exit or KVM_GET_NESTED_STATE, vmcs02 is current: save L2's state. */
void nested_vmx_cet_save_l2(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

/* VM exit, vmcs01 is current: have L1 go on with L2's state if it is to. */
void nested_vmx_cet_exit_to_l1(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

/* VM exit or failed VM entry, vmcs01 is current: load what L1 asked for. */
void nested_vmx_cet_load_host(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

/*
 * KVM left L2 for reasons of its own, vmcs01 is current: no VM exit happened for
 * the guest.  An SMI handler sees L2's state, and RSM takes it back to L2 as the
 * handler left it.  What user space has set before KVM_SET_NESTED_STATE stays.
 */
void nested_vmx_cet_undo_exit(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12);

#endif /* __KVM_X86_VMX_NESTED_CET_H */
