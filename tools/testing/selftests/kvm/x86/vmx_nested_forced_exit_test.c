// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test an MSR that VM-Exit loads for L1 when a vCPU leaves L2 without a VM-Exit
 * to L1, i.e. for an SMI, or because userspace forces it out of L2.  INIT, which
 * userspace can trigger, too, is a VM-Exit.
 */
#include "apic.h"
#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "smm.h"
#include "vmx.h"

#define SMRAM_GPA	0x1000000
#define SYNC_PORT	0x80

/* Without CR4.CET, these have no effect in IA32_S_CET. */
#define L2_VAL		0x4000
#define HOST_VAL	0x8000

static u8 smi_handler[] = {
	0xe4, SYNC_PORT,	/* in $SYNC_PORT, %al */
	0x0f, 0xaa,		/* rsm */
};

static struct vmx_msr_entry exit_load;

static void l2_guest_code(void)
{
	asm volatile("inb $" __stringify(SYNC_PORT) ", %%al" : : : "rax");
	vmcall();
}

static void l1_guest_code(struct vmx_pages *vmx, u64 exit_load_gpa)
{
	int i;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code);
	if (exit_load.index == MSR_IA32_S_CET) {
		vmwrite(VM_EXIT_CONTROLS,
			vmreadz(VM_EXIT_CONTROLS) | VM_EXIT_LOAD_CET_STATE);
		vmwrite(HOST_S_CET, HOST_VAL);
	} else {
		vmwrite(VM_EXIT_MSR_LOAD_ADDR, exit_load_gpa);
		vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
	}

	GUEST_ASSERT(!vmlaunch());
	for (i = 0; i < 3; i++) {
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
		GUEST_SYNC(i);
		GUEST_ASSERT(!vmresume());
	}
}

static void run_to_sync(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SYNC_PORT);
}

static void set_events(struct kvm_vcpu *vcpu, bool smm, bool init)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = smm;
	events.smi.latched_init = init;
	vcpu_events_set(vcpu, &events);
}

static void smi(struct kvm_vcpu *vcpu)
{
	setup_smram(vcpu->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	inject_smi(vcpu);
	run_to_sync(vcpu);
}

static void set_smm(struct kvm_vcpu *vcpu)
{
	set_events(vcpu, true, false);
}

static void clear_feat_ctl(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, MSR_IA32_FEAT_CTL, 0);
}

static void clear_nested_state(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state nested = {
		.size = sizeof(nested),
		.format = KVM_STATE_NESTED_FORMAT_VMX,
		.hdr.vmx.vmxon_pa = -1ull,
		.hdr.vmx.vmcs12_pa = -1ull,
	};

	vcpu_nested_state_set(vcpu, &nested);
}

static void init(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state mp_state;

	set_events(vcpu, false, true);
	vcpu_mp_state_get(vcpu, &mp_state);
}

static void run_to_l1(struct kvm_vcpu *vcpu, int stage)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], stage);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit reason: %d", vcpu->run->exit_reason);
	}
}

static struct kvm_vm *vm_create_and_run_l2(struct kvm_vcpu **vcpu, u32 msr)
{
	struct kvm_vm *vm;
	gva_t vmx_gva;

	vm = vm_create_with_one_vcpu(vcpu, l1_guest_code);
	vcpu_alloc_vmx(vm, &vmx_gva);
	exit_load.index = msr;
	exit_load.value = HOST_VAL;
	sync_global_to_guest(vm, exit_load);
	vcpu_args_set(*vcpu, 2, vmx_gva, addr_gva2gpa(vm, (gva_t)&exit_load));

	run_to_sync(*vcpu);
	return vm;
}

static void test_exit(u32 msr, void (*leave_l2)(struct kvm_vcpu *vcpu))
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_and_run_l2(&vcpu, msr);

	vcpu_set_msr(vcpu, msr, L2_VAL);

	/*
	 * L1 gets its host state, but no MSR of the list, if userspace makes
	 * the vCPU leave L2.
	 */
	leave_l2(vcpu);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, msr), leave_l2 == init ||
		       (leave_l2 != smi && msr == MSR_IA32_S_CET) ?
		       HOST_VAL : L2_VAL);

	/* RSM returns to L2, whose VMCALL is a VM-Exit. */
	if (leave_l2 == smi) {
		run_to_l1(vcpu, 0);
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, msr), HOST_VAL);
	}
	kvm_vm_free(vm);
}

static void test_exits(u32 msr)
{
	if (kvm_has_cap(KVM_CAP_X86_SMM)) {
		test_exit(msr, smi);
		test_exit(msr, set_smm);
	}
	test_exit(msr, clear_feat_ctl);
	test_exit(msr, clear_nested_state);
	test_exit(msr, init);
}

/* L1 has to get vmcs12 from the snapshot, not what L2 has left behind. */
static void test_restore_in_l1(void)
{
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_and_run_l2(&vcpu, MSR_KERNEL_GS_BASE);

	run_to_l1(vcpu, 0);
	state = vcpu_save_state(vcpu);
	run_to_l1(vcpu, 1);
	vcpu_nested_state_set(vcpu, &state->nested);
	run_to_l1(vcpu, 2);
	kvm_x86_state_cleanup(state);
	kvm_vm_free(vm);
}

/*
 * Have the CPU refuse a VM-Entry of L1 for a control: KVM sets a TPR threshold
 * for a pending interrupt, and leaves it when userspace disables the APIC.
 */
static void run_to_vmfail(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);
	*(u32 *)&lapic.regs[APIC_SPIV] = 0x1ff;
	*(u32 *)&lapic.regs[APIC_TASKPRI] = 0xf0;
	*(u32 *)&lapic.regs[APIC_IRR + 0x70] = BIT(1);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic);

	vcpu_regs_get(vcpu, &regs);
	regs.rip = (u64)l2_guest_code;
	vcpu_regs_set(vcpu, &regs);
	run_to_sync(vcpu);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.apic_base &= ~MSR_IA32_APICBASE_ENABLE;
	sregs.cr8 = 0;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_run(vcpu);
}

/* What KVM has told userspace isn't to be mistaken for L2's VM-Entry. */
static void test_vmfail(void)
{
	struct kvm_regs expected, regs;
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_and_run_l2(&vcpu, MSR_KERNEL_GS_BASE);

	state = vcpu_save_state(vcpu);
	clear_nested_state(vcpu);
	vcpu_regs_get(vcpu, &expected);

	run_to_vmfail(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
		vcpu_load_state(vcpu, state);
		clear_nested_state(vcpu);
		vcpu_regs_get(vcpu, &regs);
		TEST_ASSERT_EQ(regs.rip, expected.rip);
	} else {
		pr_info("KVM doesn't use the TPR threshold, skipping VMfail\n");
	}
	kvm_x86_state_cleanup(state);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	test_restore_in_l1();
	test_vmfail();
	test_exits(MSR_KERNEL_GS_BASE);

	/* This one is managed via XSTATE. */
	if (kvm_cpu_has(X86_FEATURE_SHSTK))
		test_exits(MSR_IA32_PL0_SSP);

	/* This one is loaded from the host state, not from the list. */
	if (kvm_cpu_has(X86_FEATURE_IBT))
		test_exits(MSR_IA32_S_CET);
	return 0;
}
