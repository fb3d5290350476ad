// SPDX-License-Identifier: GPL-2.0
/*
 * Control-flow enforcement technology (CET) for nested guests: the fields and
 * controls of vmcs12, and the state that goes from L1 to L2 and back.
 *
 * IA32_U_CET and IA32_PL{0,1,2,3}_SSP aren't here: no transition changes them,
 * and L1 and L2 share the FPU that they live in.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "cet.h"
#include "nested.h"
#include "nested_cet.h"
#include "trace.h"
#include "vmx.h"
#include "x86.h"

#define CC KVM_NESTED_VMENTER_CONSISTENCY_CHECK

void nested_vmx_cet_hide_controls(struct kvm_vcpu *vcpu, u32 index, u64 *data)
{
	if (kvm_vcpu_has_cet(vcpu))
		return;

	switch (index) {
	case MSR_IA32_VMX_ENTRY_CTLS:
	case MSR_IA32_VMX_TRUE_ENTRY_CTLS:
		*data &= ~((u64)VM_ENTRY_LOAD_CET_STATE << 32);
		break;
	case MSR_IA32_VMX_EXIT_CTLS:
	case MSR_IA32_VMX_TRUE_EXIT_CTLS:
		*data &= ~((u64)VM_EXIT_LOAD_CET_STATE << 32);
		break;
	}
}

bool nested_vmx_cet_controls_valid(struct kvm_vcpu *vcpu,
				   struct vmcs12 *vmcs12)
{
	return kvm_vcpu_has_cet(vcpu) ||
	       !((vmcs12->vm_entry_controls & VM_ENTRY_LOAD_CET_STATE) ||
		 (vmcs12->vm_exit_controls & VM_EXIT_LOAD_CET_STATE));
}

bool nested_vmx_cet_field_exists(struct kvm_vcpu *vcpu, unsigned long field)
{
	struct nested_vmx_msrs *msrs = &to_vmx(vcpu)->nested.msrs;

	switch (field) {
	case GUEST_S_CET:
	case GUEST_SSP:
	case GUEST_INTR_SSP_TABLE:
		return kvm_vcpu_has_cet(vcpu) &&
		       (msrs->entry_ctls_high & VM_ENTRY_LOAD_CET_STATE);
	case HOST_S_CET:
	case HOST_SSP:
	case HOST_INTR_SSP_TABLE:
		return kvm_vcpu_has_cet(vcpu) &&
		       (msrs->exit_ctls_high & VM_EXIT_LOAD_CET_STATE);
	default:
		return true;
	}
}

int nested_vmx_check_cet_host_state(struct kvm_vcpu *vcpu,
				    struct vmcs12 *vmcs12)
{
	if (!(vmcs12->vm_exit_controls & VM_EXIT_LOAD_CET_STATE))
		return 0;

	if (CC(!kvm_is_valid_cet_ctl(vcpu, vmcs12->host_s_cet)) ||
	    CC(!kvm_is_valid_ssp(vcpu, vmcs12->host_ssp)) ||
	    CC(is_noncanonical_msr_address(vmcs12->host_ssp_tbl, vcpu)))
		return -EINVAL;

	/* An L1 that isn't in 64-bit mode has 32 bits of either. */
	if (!(vmcs12->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE) &&
	    (CC(vmcs12->host_s_cet >> 32) || CC(vmcs12->host_ssp >> 32)))
		return -EINVAL;

	return 0;
}

int nested_vmx_check_cet_guest_state(struct kvm_vcpu *vcpu,
				     struct vmcs12 *vmcs12)
{
	if (!(vmcs12->vm_entry_controls & VM_ENTRY_LOAD_CET_STATE))
		return 0;

	if (CC(!kvm_is_valid_cet_ctl(vcpu, vmcs12->guest_s_cet)) ||
	    CC(!IS_ALIGNED(vmcs12->guest_ssp, 4)) ||
	    CC(is_noncanonical_msr_address(vmcs12->guest_ssp_tbl, vcpu)))
		return -EINVAL;

	/*
	 * SSP points right behind the canonical addresses once the last entry
	 * of a shadow stack that ends there is popped.
	 */
	if (CC(!__is_canonical_address(vmcs12->guest_ssp,
				       max_host_virt_addr_bits() + 1)))
		return -EINVAL;

	return 0;
}

/* Only VMLAUNCH and VMRESUME load state, RSM and user space bring L2 back. */
static bool nested_vmx_entry_loads_cet(struct kvm_vcpu *vcpu,
				       struct vmcs12 *vmcs12)
{
	return to_vmx(vcpu)->nested.nested_run_pending &&
	       (vmcs12->vm_entry_controls & VM_ENTRY_LOAD_CET_STATE);
}

static void nested_vmx_load_cet_guest(struct kvm_vcpu *vcpu,
				      struct vmcs12 *vmcs12)
{
	const struct vmx_cet_state state = {
		.s_cet = vmcs12->guest_s_cet,
		.ssp = vmcs12->guest_ssp,
		.ssp_tbl = vmcs12->guest_ssp_tbl,
	};

	vmx_load_cet_state(vcpu, &state);
}

void nested_vmx_cet_leave_l1(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	if (!nested_vmx_entry_loads_cet(vcpu, vmcs12))
		vmx_save_cet_state(vcpu, &to_vmx(vcpu)->nested.pre_vmenter_cet);
}

void nested_vmx_cet_enter_l2(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	if (nested_vmx_entry_loads_cet(vcpu, vmcs12))
		nested_vmx_load_cet_guest(vcpu, vmcs12);
	else
		vmx_load_cet_state(vcpu, &to_vmx(vcpu)->nested.pre_vmenter_cet);
}

void nested_vmx_cet_save_l2(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	struct vmx_cet_state state;

	/* An entry that the CPU refuses leaves the guest-state area alone. */
	if (!kvm_vcpu_has_cet(vcpu) || to_vmx(vcpu)->exit_reason.failed_vmentry)
		return;

	vmx_save_cet_state(vcpu, &state);
	vmcs12->guest_s_cet = state.s_cet;
	vmcs12->guest_ssp = state.ssp;
	vmcs12->guest_ssp_tbl = state.ssp_tbl;
}

void nested_vmx_cet_exit_to_l1(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	/* An entry that the CPU refuses doesn't load L2's state to begin with. */
	if (!(vmcs12->vm_exit_controls & VM_EXIT_LOAD_CET_STATE) &&
	    !to_vmx(vcpu)->exit_reason.failed_vmentry)
		nested_vmx_load_cet_guest(vcpu, vmcs12);
}

void nested_vmx_cet_load_host(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	const struct vmx_cet_state state = {
		.s_cet = vmcs12->host_s_cet,
		.ssp = vmcs12->host_ssp,
		.ssp_tbl = vmcs12->host_ssp_tbl,
	};

	if (vmcs12->vm_exit_controls & VM_EXIT_LOAD_CET_STATE)
		vmx_load_cet_state(vcpu, &state);
}

void nested_vmx_cet_undo_exit(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12)
{
	nested_vmx_load_cet_guest(vcpu, vmcs12);
}
