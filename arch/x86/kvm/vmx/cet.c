// SPDX-License-Identifier: GPL-2.0
/*
 * Control-flow enforcement technology (CET) for guests on VMX.
 *
 * IA32_S_CET, SSP and IA32_INTERRUPT_SSP_TABLE_ADDR are part of the VMCS.
 * IA32_U_CET and IA32_PL{0,1,2,3}_SSP are part of the XSAVE state: while a vCPU
 * runs, they are in hardware along with the rest of the guest's FPU state.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/moduleparam.h>

#include <asm/fpu/api.h>
#include <asm/fpu/types.h>

#include "capabilities.h"
#include "cet.h"
#include "vmx.h"
#include "x86.h"

#define XFEATURE_MASK_CET	(XFEATURE_MASK_CET_USER | XFEATURE_MASK_CET_KERNEL)

bool __ro_after_init enable_cet = true;
module_param_named(cet, enable_cet, bool, 0444);

/*
 * VM exit loads IA32_S_CET from the VMCS.  The kernel writes the MSR when a CPU
 * comes up, with the same value on all of them: kernel IBT is on or off.
 */
static u64 __ro_after_init host_s_cet;

static __init bool vmx_can_use_cet(void)
{
	/* Host and guest state would mix without. */
	if (!IS_ENABLED(CONFIG_X86_64) || !cpu_has_load_cet_state())
		return false;

	/*
	 * An exit can interrupt the delivery of #CP, which KVM must be able to
	 * inject then with the error code it has.
	 */
	if (!cpu_has_inject_any_error_code())
		return false;

	/*
	 * Shadow paging can't express shadow stack pages, nor can the emulator
	 * run code that uses CET, be it real mode code or accesses to guest
	 * physical addresses that the guest believes to be reserved.
	 */
	if (!enable_ept || !enable_unrestricted_guest || allow_smaller_maxphyaddr)
		return false;

	/* The guest must be able to context switch what the host does. */
	return boot_cpu_has(X86_FEATURE_XSAVES) && cpu_has_vmx_xsaves() &&
	       (kvm_caps.supported_xss & XFEATURE_MASK_CET) == XFEATURE_MASK_CET;
}

int __init vmx_cet_hardware_setup(void)
{
	if (!vmx_can_use_cet())
		enable_cet = false;

	if (!enable_cet)
		return 0;

	rdmsrl(MSR_IA32_S_CET, host_s_cet);

	/*
	 * VM exit could preserve a supervisor shadow stack of the host if KVM
	 * kept track of SSP.  There is none, and it's not for KVM to turn it
	 * off if that changes.
	 */
	if (host_s_cet & CET_SHSTK_EN) {
		pr_err("Supervisor shadow stacks of the host are not supported\n");
		return -EIO;
	}

	return 0;
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
		kvm_caps.supported_xss &= ~XFEATURE_MASK_CET;
	}
}

int vmx_cet_check_processor_compat(void)
{
	u64 s_cet;

	if (!enable_cet)
		return 0;

	if (rdmsrl_safe(MSR_IA32_S_CET, &s_cet) || s_cet != host_s_cet) {
		pr_err("Inconsistent IA32_S_CET on CPU %d\n", raw_smp_processor_id());
		return -EIO;
	}

	return 0;
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

/* IA32_U_CET and IA32_S_CET exist with either CET feature. */
static bool cet_ctl_access_allowed(struct kvm_vcpu *vcpu)
{
	return kvm_vcpu_has_cet(vcpu);
}

/*
 * IA32_PL{0,1,2,3}_SSP exist with shadow stacks.  So does the interrupt SSP
 * table, but only on CPUs with 64-bit mode.
 */
static bool cet_ssp_access_allowed(struct kvm_vcpu *vcpu, u32 index)
{
	if (!guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK))
		return false;

	return index != MSR_IA32_INT_SSP_TAB ||
	       guest_cpu_cap_has(vcpu, X86_FEATURE_LM);
}

/*
 * The guest's FPU being loaded doesn't mean that the guest's values are in the
 * registers: a softirq that uses the FPU saves them to memory, and so does being
 * scheduled out, after which the registers can have another task's values.
 * TIF_NEED_FPU_LOAD says so.  A write to the MSR would be lost by the reload, a
 * read could return a value of somebody else.
 *
 * Disable IRQs, reload if needed, and access the MSR before anything can get in
 * between.  Nothing may be done meanwhile that sleeps, or looks at CPUID.
 */
static int vmx_access_xsave_msr(struct kvm_vcpu *vcpu,
				struct msr_data *msr_info, bool write)
{
	bool load_fpu = !vcpu->arch.guest_fpu.fpstate->in_use;
	int err;

	lockdep_assert_irqs_enabled();

	/*
	 * A forced nested VM exit processes MSR lists, and isn't bound to
	 * KVM_RUN: it can happen in an ioctl, or when the vCPU is destroyed.
	 * The latter may be up to a kernel thread, which has no FPU to swap,
	 * and nobody is there to see the value.
	 */
	if (load_fpu) {
		if (current->flags & (PF_KTHREAD | PF_USER_WORKER))
			return 1;

		kvm_load_guest_fpu(vcpu);
	}

	local_irq_disable();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();

	if (write)
		err = wrmsrl_safe(msr_info->index, msr_info->data);
	else
		err = rdmsrl_safe(msr_info->index, &msr_info->data);
	local_irq_enable();

	if (load_fpu)
		kvm_put_guest_fpu(vcpu);

	return err ? 1 : 0;
}

static int vmx_get_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	return vmx_access_xsave_msr(vcpu, msr_info, false);
}

static int vmx_set_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	return vmx_access_xsave_msr(vcpu, msr_info, true);
}

static void vmx_cet_update_msr_intercepts(struct kvm_vcpu *vcpu)
{
	bool shstk = guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK);
	bool ibt = guest_cpu_cap_has(vcpu, X86_FEATURE_IBT);
	bool lm = guest_cpu_cap_has(vcpu, X86_FEATURE_LM);
	u32 msr;

	/*
	 * The CPU accepts the bits of both features.  Check what a guest with
	 * only one of them writes, so that it can't enable the one it should
	 * not have.  XRSTORS can't be intercepted by component, and remains a
	 * way to get such bits into IA32_U_CET.
	 */
	vmx_set_intercept_for_msr(vcpu, MSR_IA32_U_CET, MSR_TYPE_R, !shstk && !ibt);
	vmx_set_intercept_for_msr(vcpu, MSR_IA32_U_CET, MSR_TYPE_W, !shstk || !ibt);
	vmx_set_intercept_for_msr(vcpu, MSR_IA32_S_CET, MSR_TYPE_R, !shstk && !ibt);
	vmx_set_intercept_for_msr(vcpu, MSR_IA32_S_CET, MSR_TYPE_W, !shstk || !ibt);

	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_PL3_SSP; msr++)
		vmx_set_intercept_for_msr(vcpu, msr, MSR_TYPE_RW, !shstk);

	/* Written once per boot of a guest's CPU, if at all. */
	vmx_set_intercept_for_msr(vcpu, MSR_IA32_INT_SSP_TAB, MSR_TYPE_R, !shstk || !lm);
}

/*
 * User space can take features away as long as the vCPU has not run.  State that
 * goes with them would be out of reach then, and yet in effect, or back as soon
 * as the features are.
 */
static void vmx_cet_reset_absent_state(struct kvm_vcpu *vcpu)
{
	struct msr_data msr = { .index = MSR_IA32_U_CET, .host_initiated = true };

	if (!kvm_is_valid_cet_ctl(vcpu, vmcs_readl(GUEST_S_CET)))
		vmcs_writel(GUEST_S_CET, 0);
	if (!cet_ssp_access_allowed(vcpu, MSR_IA32_INT_SSP_TAB))
		vmcs_writel(GUEST_INTR_SSP_TABLE, 0);

	kvm_load_guest_fpu(vcpu);

	vmx_get_xsave_msr(vcpu, &msr);
	if (!kvm_is_valid_cet_ctl(vcpu, msr.data)) {
		msr.data = 0;
		vmx_set_xsave_msr(vcpu, &msr);
	}

	if (!guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK)) {
		vmcs_writel(GUEST_SSP, 0);

		msr.data = 0;
		for (msr.index = MSR_IA32_PL0_SSP; msr.index <= MSR_IA32_PL3_SSP; msr.index++)
			vmx_set_xsave_msr(vcpu, &msr);
	}

	kvm_put_guest_fpu(vcpu);
}

void vmx_cet_after_set_cpuid(struct kvm_vcpu *vcpu)
{
	/* Nothing was ever passed through, and there is no state. */
	if (!enable_cet)
		return;

	vmx_cet_update_msr_intercepts(vcpu);
	vmx_cet_reset_absent_state(vcpu);
}

int vmx_get_cet_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	u32 index = msr_info->index;

	switch (index) {
	case MSR_IA32_U_CET:
		if (!cet_ctl_access_allowed(vcpu))
			return KVM_MSR_RET_UNSUPPORTED;
		return vmx_get_xsave_msr(vcpu, msr_info);
	case MSR_IA32_S_CET:
		if (!cet_ctl_access_allowed(vcpu))
			return KVM_MSR_RET_UNSUPPORTED;
		msr_info->data = vmcs_readl(GUEST_S_CET);
		return 0;
	case MSR_IA32_PL0_SSP ... MSR_IA32_PL3_SSP:
		if (!cet_ssp_access_allowed(vcpu, index))
			return KVM_MSR_RET_UNSUPPORTED;
		return vmx_get_xsave_msr(vcpu, msr_info);
	case MSR_IA32_INT_SSP_TAB:
		if (!cet_ssp_access_allowed(vcpu, index))
			return KVM_MSR_RET_UNSUPPORTED;
		msr_info->data = vmcs_readl(GUEST_INTR_SSP_TABLE);
		return 0;
	default:
		return KVM_MSR_RET_UNSUPPORTED;
	}
}

int vmx_set_cet_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	u32 index = msr_info->index;
	u64 data = msr_info->data;

	switch (index) {
	case MSR_IA32_U_CET:
		if (!cet_ctl_access_allowed(vcpu))
			return KVM_MSR_RET_UNSUPPORTED;
		if (!kvm_is_valid_cet_ctl(vcpu, data))
			return 1;
		return vmx_set_xsave_msr(vcpu, msr_info);
	case MSR_IA32_S_CET:
		if (!cet_ctl_access_allowed(vcpu))
			return KVM_MSR_RET_UNSUPPORTED;
		if (!kvm_is_valid_cet_ctl(vcpu, data))
			return 1;
		vmcs_writel(GUEST_S_CET, data);
		return 0;
	case MSR_IA32_PL0_SSP ... MSR_IA32_PL3_SSP:
		if (!cet_ssp_access_allowed(vcpu, index))
			return KVM_MSR_RET_UNSUPPORTED;
		if (!kvm_is_valid_ssp(vcpu, data))
			return 1;
		return vmx_set_xsave_msr(vcpu, msr_info);
	case MSR_IA32_INT_SSP_TAB:
		if (!cet_ssp_access_allowed(vcpu, index))
			return KVM_MSR_RET_UNSUPPORTED;
		if (is_noncanonical_msr_address(data, vcpu))
			return 1;
		vmcs_writel(GUEST_INTR_SSP_TABLE, data);
		return 0;
	default:
		return KVM_MSR_RET_UNSUPPORTED;
	}
}

u64 vmx_get_ssp(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(GUEST_SSP);
}

void vmx_set_ssp(struct kvm_vcpu *vcpu, u64 ssp)
{
	vmcs_writel(GUEST_SSP, ssp);
}

void vmx_dump_cet_guest_state(void)
{
	pr_err("S_CET = 0x%016lx  SSP = 0x%016lx  SSP table = 0x%016lx\n",
	       vmcs_readl(GUEST_S_CET), vmcs_readl(GUEST_SSP),
	       vmcs_readl(GUEST_INTR_SSP_TABLE));
}

void vmx_dump_cet_host_state(void)
{
	pr_err("S_CET = 0x%016lx  SSP = 0x%016lx  SSP table = 0x%016lx\n",
	       vmcs_readl(HOST_S_CET), vmcs_readl(HOST_SSP),
	       vmcs_readl(HOST_INTR_SSP_TABLE));
}
