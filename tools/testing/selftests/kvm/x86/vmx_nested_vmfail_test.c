// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test a VM-Entry of L2 that KVM finds nothing wrong with, but the CPU does:
 * when it VMfails, KVM has to undo what it has loaded for L2.  The CPU must not
 * find fault with what KVM has made of L1's controls.
 */
#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "vmx.h"

#define VMXERR_ENTRY_INVALID_CONTROL_FIELD	7

static void l2_guest_code(void)
{
	vmcall();
}

static void l1_guest_code(struct vmx_pages *vmx, bool tsc_scaling)
{
	u64 cr4;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code);

	/* The page is all zeroes: the threshold is above the virtual TPR. */
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, vmx->vmread_gpa);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	vmwrite(TPR_THRESHOLD, 0xf);

	/* KVM usually lets the guest own this bit, and doesn't see the change. */
	cr4 = get_cr4() ^ X86_CR4_PGE;
	set_cr4(cr4);

	GUEST_ASSERT(vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_INSTRUCTION_ERROR),
			VMXERR_ENTRY_INVALID_CONTROL_FIELD);
	GUEST_ASSERT_EQ(get_cr4(), cr4);

	/* The CPU accepts it otherwise. */
	vmwrite(TPR_THRESHOLD, 0);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);

	/* In a VM that scales the TSC down, the product rounds to 0. */
	if (tsc_scaling) {
		vmwrite(CPU_BASED_VM_EXEC_CONTROL,
			vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
			CPU_BASED_USE_TSC_OFFSETTING);
		vmwrite(SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_TSC_SCALING);
		vmwrite(TSC_MULTIPLIER, 1);
		GUEST_ASSERT(!vmresume());
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	}
	GUEST_DONE();
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	gva_t vmx_gva;
	struct ucall uc;
	bool tsc_scaling;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	tsc_scaling = kvm_has_cap(KVM_CAP_TSC_CONTROL) &&
		      ((kvm_get_feature_msr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32) &
		       SECONDARY_EXEC_TSC_SCALING);

	vm = vm_create_with_one_vcpu(&vcpu, l1_guest_code);
	vcpu_alloc_vmx(vm, &vmx_gva);
	if (tsc_scaling)
		vcpu_ioctl(vcpu, KVM_SET_TSC_KHZ,
			   (void *)(__vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL) / 2UL));
	vcpu_args_set(vcpu, 2, vmx_gva, tsc_scaling);

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit reason: %d", vcpu->run->exit_reason);
	}
	kvm_vm_free(vm);
	return 0;
}
