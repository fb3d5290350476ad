// SPDX-License-Identifier: GPL-2.0
/*
 * Control-flow enforcement technology (CET) for guests on VMX: when it can be
 * used, and the state that is part of the VMCS, which are IA32_S_CET, SSP and
 * IA32_INTERRUPT_SSP_TABLE_ADDR.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/moduleparam.h>

#include <asm/fpu/types.h>

#include "capabilities.h"
#include "cet.h"
#include "vmx.h"
#include "x86.h"

bool __ro_after_init enable_cet = true;
module_param_named(cet, enable_cet, bool, 0444);

/*
 * VM exit loads IA32_S_CET from the VMCS.  All CPUs have the same value, as
 * kernel IBT is on or off, except in firmware and on the way out of suspend.
 */
static u64 __ro_after_init host_s_cet;

static __init bool vmx_can_use_cet(void)
{
	/* Without the controls, the host would run with state of the guest. */
	if (!IS_ENABLED(CONFIG_X86_64) || !cpu_has_load_cet_ctrl())
		return false;

	/*
	 * An exit can interrupt the delivery of #CP, which KVM must be able to
	 * inject then with the error code it has.
	 */
	if (!cpu_has_vmx_basic_no_hw_errcode_cc())
		return false;

	/*
	 * Shadow paging can't express shadow stack pages.  The emulator doesn't
	 * know CET, but runs real mode code, and instructions that access guest
	 * physical addresses that the guest believes to be reserved.
	 */
	if (!enable_ept || !enable_unrestricted_guest || allow_smaller_maxphyaddr)
		return false;

	/* The guest must be able to switch U_CET and PLx_SSP by XSAVES. */
	if (!boot_cpu_has(X86_FEATURE_XSAVES) || !cpu_has_vmx_xsaves() ||
	    (kvm_caps.supported_xss & XFEATURE_MASK_CET_ALL) != XFEATURE_MASK_CET_ALL)
		return false;

	/*
	 * VM exit could preserve a supervisor shadow stack of the host if KVM
	 * kept track of SSP.  The kernel has none.
	 */
	rdmsrl(MSR_IA32_S_CET, host_s_cet);
	if (host_s_cet & CET_SHSTK_EN) {
		pr_warn("No CET for guests: the host uses supervisor shadow stacks\n");
		return false;
	}

	return true;
}

void __init vmx_cet_hardware_setup(void)
{
	if (enable_cet)
		enable_cet = vmx_can_use_cet();
}

void __init vmx_cet_set_cpu_caps(void)
{
	if (!enable_cet) {
		kvm_cpu_cap_clear(X86_FEATURE_SHSTK);
		kvm_cpu_cap_clear(X86_FEATURE_IBT);
	}

	if (!kvm_cpu_cap_has(X86_FEATURE_SHSTK) &&
	    !kvm_cpu_cap_has(X86_FEATURE_IBT)) {
		enable_cet = false;
		kvm_caps.supported_xss &= ~XFEATURE_MASK_CET_ALL;
	}
}

void vmx_cet_set_constant_host_state(void)
{
	if (!enable_cet)
		return;

	vmcs_writel(HOST_S_CET, host_s_cet);
	vmcs_writel(HOST_SSP, 0);
	vmcs_writel(HOST_INTR_SSP_TABLE, 0);
}

void vmx_cet_reset_guest_state(void)
{
	if (!enable_cet)
		return;

	vmcs_writel(GUEST_S_CET, 0);
	vmcs_writel(GUEST_SSP, 0);
	vmcs_writel(GUEST_INTR_SSP_TABLE, 0);
}

u64 vmx_get_ssp(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(GUEST_SSP);
}

void vmx_set_ssp(struct kvm_vcpu *vcpu, u64 ssp)
{
	vmcs_writel(GUEST_SSP, ssp);
}
