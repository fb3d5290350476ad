// SPDX-License-Identifier: GPL-2.0-only
/*
 * Save and restore of nested state while vmcs12 has VMCS shadowing, and an SMI
 * has interrupted L2.  Also verify that a vmcs12 that KVM can't enter L2 with
 * is refused.
 */
#include "kvm_util.h"
#include "processor.h"
#include "smm.h"
#include "vmx.h"

#define SYNC_PORT		0x80
#define SMRAM_GPA		0x1000000
#define SHADOW_VAL		0xc0ffee

/* Offsets in struct vmcs12, which are ABI. */
#define VMCS12_GUEST_CR3	432
#define VMCS12_ENTRY_INTR_INFO	788

/* A valid event of a reserved type, for which VM-Entry would fail */
#define BAD_EVENT		(BIT(31) | BIT(8))

static u8 smi_handler[] = {
	0xe4, SYNC_PORT,	/* IN $SYNC_PORT, %al */
	0x0f, 0xaa,		/* RSM */
};

static void l2_guest_code(void)
{
	asm volatile("inb $" __stringify(SYNC_PORT) ", %%al" ::: "rax");
	GUEST_ASSERT_EQ(vmreadz(GUEST_RIP), SHADOW_VAL);
	vmcall();
}

static void l1_guest_code(struct vmx_pages *vmx)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_SHADOW_VMCS);
	vmwrite(VMCS_LINK_POINTER, vmx->shadow_vmcs_gpa);
	GUEST_ASSERT(!vmptrld(vmx->shadow_vmcs_gpa));
	vmwrite(GUEST_RIP, SHADOW_VAL);
	GUEST_ASSERT(!vmptrld(vmx->vmcs_gpa));
	vmwrite(CR4_GUEST_HOST_MASK, -1ull);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	GUEST_SYNC(0);
	set_cr4(get_cr4() | X86_CR4_DE);
	GUEST_DONE();
}

static void run_to_sync(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SYNC_PORT);
}

int main(int argc, char *argv[])
{
	struct kvm_x86_state *state, *l2_state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	gva_t vmx_gva;
	u8 *p, *end;
	int r;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));

	vm = vm_create_with_one_vcpu(&vcpu, l1_guest_code);
	vcpu_alloc_vmx(vm, &vmx_gva);
	vcpu_args_set(vcpu, 1, vmx_gva);
	run_to_sync(vcpu);

	l2_state = vcpu_save_state(vcpu);
	setup_smram(vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	inject_smi(vcpu);
	run_to_sync(vcpu);

	/* KVM keeps to the size that it returns. */
	state = calloc(1, sizeof(*state));
	state->nested.size = sizeof(state->nested_);
	vcpu_nested_state_get(vcpu, &state->nested);
	end = (u8 *)&state->nested + sizeof(state->nested_);
	for (p = (u8 *)&state->nested + state->nested.size; p < end; p++)
		TEST_ASSERT(!*p, "KVM wrote behind the nested state");

	/*
	 * RSM returns to L2, which finds its shadow VMCS.  An event of L1's was
	 * injected before.
	 */
	*(u32 *)&state->nested.data.vmx->vmcs12[VMCS12_ENTRY_INTR_INFO] = BAD_EVENT;
	vcpu_nested_state_set(vcpu, &state->nested);
	free(state);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);
	vcpu_run_complete_io(vcpu);
	vcpu_sregs_get(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);

	*(u32 *)&l2_state->nested.data.vmx->vmcs12[VMCS12_ENTRY_INTR_INFO] = BAD_EVENT;
	vcpu_nested_state_set(vcpu, &l2_state->nested);

	/* A failure is an error, not a positive number. */
	*(u64 *)&l2_state->nested.data.vmx->vmcs12[VMCS12_GUEST_CR3] |= BIT_ULL(62);
	r = __vcpu_ioctl(vcpu, KVM_SET_NESTED_STATE, &l2_state->nested);
	TEST_ASSERT(r == -1 && errno == EINVAL,
		    "KVM_SET_NESTED_STATE returned %d, errno %d", r, errno);
	kvm_x86_state_cleanup(l2_state);

	/* L1 still owns CR4.DE, which L2 doesn't. */
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_set(vcpu, &regs);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_DONE);
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT(sregs.cr4 & X86_CR4_DE, "CR4 is 0x%llx, without DE", sregs.cr4);

	kvm_vm_free(vm);
	return 0;
}
