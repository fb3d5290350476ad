// SPDX-License-Identifier: GPL-2.0
/*
 * An L1 that uses Hyper-V's enlightened VMCS: KVM ignores its CET fields, and
 * has no controls that load them.  L1 and L2 share the CET state.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "hyperv.h"

#define VM_ENTRY_LOAD_CET_STATE		BIT_ULL(20)
#define VM_EXIT_LOAD_CET_STATE		BIT_ULL(28)

/* Bits that enable something, and that the vCPU can have */
#define L1_S_CET	(CET_ENDBR_EN | CET_LEG_IW_EN)
#define L2_S_CET	(CET_ENDBR_EN | CET_NO_TRACK_EN)
/* Written to the fields only, must not show up anywhere else */
#define DEAD		0x5000

/* All of these are guest data. */
static struct vmx_pages *vmx;
static struct hyperv_test_pages *hv;
static uint64_t hypercall_gpa;
static uint64_t l2_s_cet, l2_ssp_tab;
static struct cet_call *l2_call;

static void l2_read_and_write(void)
{
	l2_s_cet = rdmsr(MSR_IA32_S_CET);
	l2_ssp_tab = rdmsr(MSR_IA32_INT_SSP_TAB);
	wrmsr(MSR_IA32_S_CET, L2_S_CET);
	wrmsr(MSR_IA32_INT_SSP_TAB, 0x2000);
	vmcall();
}

static void l2_run(void)
{
	guest_run(l2_call);
	vmcall();
}

static void l1_prepare(void (*l2)(void))
{
	wrmsr(HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID);
	wrmsr(HV_X64_MSR_HYPERCALL, hypercall_gpa);
	enable_vp_assist(hv->vp_assist_gpa, hv->vp_assist);
	evmcs_enable();

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_evmcs(hv));
	guest_prepare_l2_vmcs(vmx, l2);
}

/* L1: OR arg[0] to the entry and arg[1] to the exit controls, and launch L2. */
static void guest_or_controls(struct cet_call *call)
{
	l1_prepare(vmcall);
	current_evmcs->vm_entry_controls |= call->arg[0];
	current_evmcs->vm_exit_controls |= call->arg[1];
	call->ret = vmlaunch();
}

/* L1: write MSRs, run L2, and read the MSRs, to arg[0] and arg[1]. */
static void guest_msrs(struct cet_call *call)
{
	call->vector = wrmsr_safe(MSR_IA32_S_CET, L1_S_CET);
	if (!call->vector)
		call->vector = wrmsr_safe(MSR_IA32_INT_SSP_TAB, 0x1000);
	if (call->vector)
		return;

	l1_prepare(l2_read_and_write);
	current_evmcs->guest_ia32_s_cet = DEAD;
	current_evmcs->guest_ssp = DEAD;
	current_evmcs->guest_ia32_int_ssp_table_addr = DEAD;
	current_evmcs->host_ia32_s_cet = DEAD;
	current_evmcs->host_ssp = DEAD;
	current_evmcs->host_ia32_int_ssp_table_addr = DEAD;
	/* None of the fields is clean, i.e. KVM may read all. */
	current_evmcs->hv_clean_fields = 0;

	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	call->arg[0] = rdmsr(MSR_IA32_S_CET);
	call->arg[1] = rdmsr(MSR_IA32_INT_SSP_TAB);
	/* Nothing was written to the fields, either. */
	call->ret = current_evmcs->guest_ia32_s_cet == DEAD &&
		    current_evmcs->guest_ssp == DEAD &&
		    current_evmcs->guest_ia32_int_ssp_table_addr == DEAD;
}

/* L1: guest_run(), but in L2 */
static void guest_run_in_l2(struct cet_call *call)
{
	l2_call = call;
	l1_prepare(l2_run);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

FIXTURE(evmcs)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(evmcs)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, false, false);
	vm_vaddr_t gva, page = vm_vaddr_alloc_page(vm);

	vcpu_set_hv_cpuid(self->vcpu);
	vcpu_enable_evmcs(self->vcpu);
	vcpu_init_cet(self->vcpu, true, true);

	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
	vcpu_alloc_hyperv_test_pages(vm, &gva);
	write_guest_global(vm, hv, (struct hyperv_test_pages *)gva);
	write_guest_global(vm, hypercall_gpa, addr_gva2gpa(vm, page));
}

FIXTURE_TEARDOWN(evmcs)
{
	kvm_vm_free(self->vcpu->vm);
}

/* What L1 reads once the enlightened VMCS is enabled */
TEST_F(evmcs, controls_hidden)
{
	static const struct {
		uint32_t msr;
		uint64_t bits;
	} hidden[] = {
		/* The allowed 1-settings are the upper half. */
		{ MSR_IA32_VMX_ENTRY_CTLS, VM_ENTRY_LOAD_CET_STATE << 32 },
		{ MSR_IA32_VMX_TRUE_ENTRY_CTLS, VM_ENTRY_LOAD_CET_STATE << 32 },
		{ MSR_IA32_VMX_EXIT_CTLS, VM_EXIT_LOAD_CET_STATE << 32 },
		{ MSR_IA32_VMX_TRUE_EXIT_CTLS, VM_EXIT_LOAD_CET_STATE << 32 },
	};
	uint64_t val;
	int i;

	for (i = 0; i < ARRAY_SIZE(hidden); i++) {
		TEST_ASSERT_EQ(cet_rdmsr(self->vcpu, hidden[i].msr, &val), 0);
		TEST_ASSERT(!(val & hidden[i].bits), "L1's MSR 0x%x is 0x%lx",
			    hidden[i].msr, val);
	}
}

TEST_F(evmcs, entry_control_refused)
{
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_or_controls,
				VM_ENTRY_LOAD_CET_STATE, 0)->ret, 1);
}

TEST_F(evmcs, exit_control_refused)
{
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_or_controls, 0,
				VM_EXIT_LOAD_CET_STATE)->ret, 1);
}

/* The control: without these two bits, the VM entry works. */
TEST_F(evmcs, no_control_set)
{
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_or_controls, 0, 0)->ret, 0);
}

TEST_F(evmcs, fields_are_dead)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct cet_call *call;

	call = cet_call(self->vcpu, guest_msrs, 0, 0);
	TEST_ASSERT(!call->vector, "WRMSR of CET MSRs in L1 raised vector %lu",
		    call->vector);
	TEST_ASSERT(call->ret, "VM exit wrote to the CET fields");

	sync_global_from_guest(vm, l2_s_cet);
	sync_global_from_guest(vm, l2_ssp_tab);
	TEST_ASSERT_EQ(l2_s_cet, L1_S_CET);
	TEST_ASSERT_EQ(l2_ssp_tab, 0x1000);
	TEST_ASSERT_EQ(call->arg[0], L2_S_CET);
	TEST_ASSERT_EQ(call->arg[1], 0x2000);
}

/* L2 clears IA32_S_CET before it exits, as L1 needs it. */
TEST_F(evmcs, l2_uses_cet)
{
	struct cet_call *call;

	cet_enable(self->vcpu);
	cet_prepare_run(self->vcpu, guest_call_return,
			CET_SHSTK_EN | CET_ENDBR_EN)->fn = guest_run_in_l2;
	vcpu_run(self->vcpu);
	call = cet_finish(self->vcpu);
	TEST_ASSERT_EQ(call->vector, 0);
	TEST_ASSERT_EQ(call->ret, 1);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_HYPERV_ENLIGHTENED_VMCS));

	return test_harness_run(argc, argv);
}
