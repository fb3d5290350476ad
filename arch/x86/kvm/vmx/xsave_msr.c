// SPDX-License-Identifier: GPL-2.0
/*
 * Access to MSRs of the guest that are part of the XSAVE state: while a vCPU
 * runs, they are in hardware along with the rest of the guest's FPU state.
 *
 * The guest's FPU being loaded doesn't mean that the guest's values are in the
 * registers: a softirq that uses the FPU saves them to memory, and so does a
 * task switch, after which the registers can have another task's values.
 * TIF_NEED_FPU_LOAD says so.  A write to the MSR would be lost by the reload, a
 * read could return another task's value.
 *
 * Disable IRQs, reload if needed, and access the MSR before anything can get in
 * between.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <asm/fpu/api.h>
#include <asm/msr.h>

#include "xsave_msr.h"

static bool vmx_pin_guest_fpu(struct kvm_vcpu *vcpu)
{
	lockdep_assert_irqs_enabled();

	/* The MSR is the task's own, or even that of another task. */
	if (KVM_BUG_ON(!vcpu->arch.guest_fpu.fpstate->in_use, vcpu->kvm))
		return false;

	local_irq_disable();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();

	return true;
}

static void vmx_unpin_guest_fpu(void)
{
	local_irq_enable();
}

int vmx_get_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	if (!vmx_pin_guest_fpu(vcpu))
		return 1;

	rdmsrl(msr_info->index, msr_info->data);
	vmx_unpin_guest_fpu();

	return 0;
}

int vmx_set_xsave_msr(struct kvm_vcpu *vcpu, struct msr_data *msr_info)
{
	if (!vmx_pin_guest_fpu(vcpu))
		return 1;

	wrmsrl(msr_info->index, msr_info->data);
	vmx_unpin_guest_fpu();

	return 0;
}
