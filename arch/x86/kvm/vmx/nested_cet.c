// SPDX-License-Identifier: GPL-2.0
/*
 * Control-flow enforcement technology (CET) for nested guests: which fields
 * vmcs12 has, and what VM entry checks of them.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "cet.h"
#include "nested.h"
#include "nested_cet.h"
#include "trace.h"
#include "vmx.h"
#include "x86.h"

#define CC KVM_NESTED_VMENTER_CONSISTENCY_CHECK

bool nested_vmx_cet_field_exists(struct kvm_vcpu *vcpu, unsigned long field)
{
	struct nested_vmx_msrs *msrs = &to_vmx(vcpu)->nested.msrs;

	switch (field) {
	case GUEST_S_CET:
	case GUEST_SSP:
	case GUEST_INTR_SSP_TABLE:
		return msrs->entry_ctls_high & VM_ENTRY_LOAD_CET_STATE;
	case HOST_S_CET:
	case HOST_SSP:
	case HOST_INTR_SSP_TABLE:
		return msrs->exit_ctls_high & VM_EXIT_LOAD_CET_STATE;
	default:
		return true;
	}
}

/* The checks that guest and host state share: all but those of SSP. */
static int nested_vmx_check_cet_state(struct kvm_vcpu *vcpu, u64 s_cet,
				      u64 ssp_tbl)
{
	if (CC(!kvm_is_valid_u_s_cet(vcpu, s_cet)) ||
	    CC(is_noncanonical_msr_address(ssp_tbl, vcpu)))
		return -EINVAL;

	/* L1 could neither see nor clear what its CPUID doesn't have. */
	if (!cet_ssp_access_allowed(vcpu, MSR_IA32_INT_SSP_TAB) && CC(ssp_tbl))
		return -EINVAL;

	return 0;
}

int nested_vmx_check_cet_host_state(struct kvm_vcpu *vcpu,
				    struct vmcs12 *vmcs12)
{
	if (nested_vmx_check_cet_state(vcpu, vmcs12->host_s_cet,
				       vmcs12->host_ssp_tbl) ||
	    CC(!kvm_is_valid_ssp_msr(vcpu, vmcs12->host_ssp)))
		return -EINVAL;

	if (!guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK) && CC(vmcs12->host_ssp))
		return -EINVAL;

	/* Outside of 64-bit mode, S_CET and SSP have 32 bits. */
	if (!(vmcs12->vm_exit_controls & VM_EXIT_HOST_ADDR_SPACE_SIZE) &&
	    (CC(vmcs12->host_s_cet >> 32) || CC(vmcs12->host_ssp >> 32)))
		return -EINVAL;

	return 0;
}

int nested_vmx_check_cet_guest_state(struct kvm_vcpu *vcpu,
				     struct vmcs12 *vmcs12)
{
	/*
	 * L2 can have an SSP without the feature: XRSTORS loads IA32_U_CET and
	 * IA32_PL3_SSP, and IRET loads SSP from there.
	 */
	if (nested_vmx_check_cet_state(vcpu, vmcs12->guest_s_cet,
				       vmcs12->guest_ssp_tbl) ||
	    CC(!kvm_is_valid_ssp(vmcs12->guest_ssp)))
		return -EINVAL;

	return 0;
}
