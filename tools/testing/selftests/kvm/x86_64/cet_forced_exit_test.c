// SPDX-License-Identifier: GPL-2.0
/*
 * Ioctls by which a vCPU leaves L2 while L1 has a list of MSRs for VM exit to
 * load.  The MSRs are part of the guest's FPU state, which KVM_RUN has loaded,
 * but other ioctls may not have.  The values must get to the guest, not to the
 * VMM, and only if there is a VM exit.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

/* The MSRs that XSAVES manages. */
#define NR_XSAVE_MSRS		5

static const uint32_t xsave_msrs[NR_XSAVE_MSRS] = {
	MSR_IA32_U_CET,
	MSR_IA32_PL0_SSP,
	MSR_IA32_PL1_SSP,
	MSR_IA32_PL2_SSP,
	MSR_IA32_PL3_SSP,
};

static uint64_t value(int seed, int i)
{
	return 0x100000 * (seed + 1) + 0x1000 * i;
}

/* Guest data: what VM exit stores and loads, and L2's stack. */
static struct {
	struct vmx_msr_entry store[NR_XSAVE_MSRS];
	struct vmx_msr_entry load[NR_XSAVE_MSRS];
} msr_lists __aligned(512);

static uint64_t l2_stack[512] __aligned(16);

static void l2_guest_code(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
}

/* L1: vmx is at arg[0], arg[1] is the physical address of msr_lists. */
static void guest_l1(struct cet_call *call)
{
	struct vmx_pages *vmx = (void *)call->arg[0];
	int i;

	for (i = 0; i < NR_XSAVE_MSRS && !call->vector; i++) {
		call->vector = wrmsr_safe(xsave_msrs[i], value(0, i));
		msr_lists.store[i].index = xsave_msrs[i];
		msr_lists.load[i].index = xsave_msrs[i];
		msr_lists.load[i].value = value(1, i);
	}
	if (call->vector)
		return;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code, &l2_stack[ARRAY_SIZE(l2_stack) - 1]);
	vmwrite(VM_EXIT_MSR_STORE_ADDR, call->arg[1]);
	vmwrite(VM_EXIT_MSR_STORE_COUNT, NR_XSAVE_MSRS);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, call->arg[1] + sizeof(msr_lists.store));
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, NR_XSAVE_MSRS);
	GUEST_ASSERT(!vmlaunch());
	call->ret = vmreadz(VM_EXIT_REASON);
}

FIXTURE(forced_exit)
{
	struct kvm_vcpu *vcpu;
};

/* The vCPU is in L2, at its OUT. */
FIXTURE_SETUP(forced_exit)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	vm_vaddr_t vmx;

	vcpu_alloc_vmx(vm, &vmx);
	cet_prepare(self->vcpu, guest_l1, vmx,
		    addr_gva2gpa(vm, (vm_vaddr_t)&msr_lists));
	vcpu_run(self->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	if (self->vcpu->run->io.port != CET_PORT) {
		TEST_ASSERT(!cet_finish(self->vcpu)->vector,
			    "WRMSR of CET MSRs in L1 raised vector 13");
		TEST_FAIL("L2 did not get to its OUT");
	}
}

FIXTURE_TEARDOWN(forced_exit)
{
	if (self->vcpu)
		kvm_vm_free(self->vcpu->vm);
}

static void set_nested_state(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state nested = {
		.size = sizeof(nested),
		.format = KVM_STATE_NESTED_FORMAT_VMX,
		.hdr.vmx.vmxon_pa = -1ull,
		.hdr.vmx.vmcs12_pa = -1ull,
	};

	vcpu_nested_state_set(vcpu, &nested);
}

static void set_vcpu_events(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	vcpu_events_set(vcpu, &events);
}

static void set_feature_control(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, MSR_IA32_FEAT_CTL, 0);
}

static void get_mp_state_with_init(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 0;
	events.smi.latched_init = 1;
	vcpu_events_set(vcpu, &events);
	vcpu_mp_state_get(vcpu, &mp_state);
}

static bool is_in_l2(struct kvm_vcpu *vcpu)
{
	struct kvm_x86_state *state = calloc(1, sizeof(*state));
	bool in_l2;

	state->nested.size = sizeof(state->nested_);
	vcpu_nested_state_get(vcpu, &state->nested);
	in_l2 = state->nested.flags & KVM_STATE_NESTED_GUEST_MODE;
	free(state);
	return in_l2;
}

static void expect_values(struct kvm_vcpu *vcpu, int seed)
{
	int i;

	for (i = 0; i < NR_XSAVE_MSRS; i++)
		cet_expect_msr(vcpu, xsave_msrs[i], value(seed, i));
}

/*
 * Leave L2 by @leave while the VMM uses a shadow stack, or at least U_CET.
 * With the guest's value in U_CET, the VMM would not survive this.
 */
static __always_inline void leave_l2(struct kvm_vcpu *vcpu,
				     void (*leave)(struct kvm_vcpu *))
{
	uint64_t before, after;
	long ret;

	TEST_ASSERT(is_in_l2(vcpu), "The vCPU is not in L2");

	ret = cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	before = cet_host_ssp();
	leave(vcpu);
	after = cet_host_ssp();
	cet_host_shadow_stack(ARCH_SHSTK_DISABLE);

	TEST_ASSERT(!ret && before, "No user shadow stack in the host");
	TEST_ASSERT_EQ(after, before);
}

/* User space forces the vCPU out of L2, which is no VM exit for the guest. */
TEST_F(forced_exit, set_nested_state)
{
	leave_l2(self->vcpu, set_nested_state);
	TEST_ASSERT(!is_in_l2(self->vcpu), "The vCPU is still in L2");
	expect_values(self->vcpu, 0);
}

TEST_F(forced_exit, set_vcpu_events)
{
	leave_l2(self->vcpu, set_vcpu_events);
	TEST_ASSERT(!is_in_l2(self->vcpu), "The vCPU is still in L2");
	expect_values(self->vcpu, 0);
}

TEST_F(forced_exit, set_feature_control)
{
	leave_l2(self->vcpu, set_feature_control);
	TEST_ASSERT(!is_in_l2(self->vcpu), "The vCPU is still in L2");
	expect_values(self->vcpu, 0);
}

/* INIT is a complete VM exit to L1: it stores the MSRs, too. */
TEST_F(forced_exit, get_mp_state)
{
	struct vmx_msr_entry *stored;
	int i;

	leave_l2(self->vcpu, get_mp_state_with_init);
	TEST_ASSERT(!is_in_l2(self->vcpu), "The vCPU is still in L2");
	expect_values(self->vcpu, 1);

	stored = addr_gva2hva(self->vcpu->vm, (vm_vaddr_t)msr_lists.store);
	for (i = 0; i < NR_XSAVE_MSRS; i++)
		TEST_ASSERT_EQ(stored[i].value, value(0, i));
}

/* kvm_vm_release() keeps the guest's memory, and so the list. */
static void destroy(struct kvm_vcpu *vcpu)
{
	kvm_vm_release(vcpu->vm);
}

TEST_F(forced_exit, destroy)
{
	leave_l2(self->vcpu, destroy);
	self->vcpu = NULL;
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
