// SPDX-License-Identifier: GPL-2.0
/*
 * CET state of nested guests whose L1 sets no control that loads it: VM entry
 * and VM exit leave it alone.  L2 starts with L1's, and L1 continues with L2's.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

#define SSP_ID		KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* In struct vmcs12 of KVM_GET_NESTED_STATE */
#define VMCS12_INTERRUPTIBILITY	912

/* Who has written the CET MSRs: cet_val() has a value for each. */
enum writer {
	L1 = 1, L2, HOST, ENTRY_LIST, EXIT_LIST,
};

/* All of these are guest data.  L1 reads the MSRs after the VM exit. */
static uint64_t l1_msrs[CET_NR_MSRS];
static uint64_t l2_msrs[CET_NR_MSRS];

/* Aligned so as not to cross a page. */
static struct {
	struct vmx_msr_entry entry_load[CET_NR_MSRS];
	struct vmx_msr_entry exit_store[CET_NR_MSRS];
	struct vmx_msr_entry exit_load[CET_NR_MSRS];
} msr_lists __aligned(512);

static struct vmx_pages *vmx;

/*
 * A legal value for each MSR and writer.  With CR4.CET clear it has no effect,
 * nor has that of IA32_U_CET on guests that have no user mode.
 */
static uint64_t cet_val(uint32_t msr, enum writer writer)
{
	uint64_t val = 0x10000000 * writer + 0x4000 * msr;

	if (msr == MSR_IA32_U_CET || msr == MSR_IA32_S_CET)
		val |= CET_ENDBR_EN | CET_LEG_IW_EN;
	return val;
}

/* Returns the vector of the exception, 0 if none. */
static uint8_t write_msrs(enum writer writer)
{
	uint8_t vector = 0;
	int i;

	for (i = 0; i < CET_NR_MSRS && !vector; i++)
		vector = wrmsr_safe(cet_msrs[i], cet_val(cet_msrs[i], writer));
	return vector;
}

static void read_msrs(uint64_t *msrs)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		GUEST_ASSERT(!rdmsr_safe(cet_msrs[i], &msrs[i]));
}

static void l2_read_and_write(void)
{
	read_msrs(l2_msrs);
	GUEST_ASSERT(!write_msrs(L2));
	vmcall();
}

/* The OUT exits to the host: L1 doesn't intercept it. */
static void l2_write_and_out(void)
{
	GUEST_ASSERT(!write_msrs(L2));
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
	read_msrs(l2_msrs);
	vmcall();
}

/* Returns the exit reason. */
static uint64_t l1_launch(void)
{
	GUEST_ASSERT(!vmlaunch());
	return vmreadz(VM_EXIT_REASON);
}

/*
 * L1: write the CET MSRs, run L2 at arg[0], read the MSRs.  With arg[1], L2's
 * accesses to MSRs are intercepted.
 */
static void guest_l1(struct cet_call *call)
{
	call->vector = write_msrs(L1);
	if (call->vector)
		return;

	guest_prepare_l2(vmx, (void *)call->arg[0]);
	if (call->arg[1])
		memset(vmx->msr, 0xff, PAGE_SIZE);
	call->ret = l1_launch();
	read_msrs(l1_msrs);
}

static struct vmx_msr_entry msr_entry(uint32_t msr, enum writer writer)
{
	return (struct vmx_msr_entry) {
		.index = msr,
		.value = cet_val(msr, writer),
	};
}

/* L1: the same with msr_lists, of which arg[0] is the physical address. */
static void guest_l1_lists(struct cet_call *call)
{
	const uint64_t gpa = call->arg[0] - (uint64_t)&msr_lists;
	int i;

	call->vector = write_msrs(L1);
	if (call->vector)
		return;

	for (i = 0; i < CET_NR_MSRS; i++) {
		msr_lists.entry_load[i] = msr_entry(cet_msrs[i], ENTRY_LIST);
		msr_lists.exit_store[i] = msr_entry(cet_msrs[i], L1);
		msr_lists.exit_load[i] = msr_entry(cet_msrs[i], EXIT_LIST);
	}

	guest_prepare_l2(vmx, l2_read_and_write);
	vmwrite(VM_ENTRY_MSR_LOAD_ADDR, gpa + (uint64_t)msr_lists.entry_load);
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, CET_NR_MSRS);
	vmwrite(VM_EXIT_MSR_STORE_ADDR, gpa + (uint64_t)msr_lists.exit_store);
	vmwrite(VM_EXIT_MSR_STORE_COUNT, CET_NR_MSRS);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, gpa + (uint64_t)msr_lists.exit_load);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, CET_NR_MSRS);
	call->ret = l1_launch();
	read_msrs(l1_msrs);
}

/*
 * L1: VM entries that fail late, with the exit reasons to arg[0] and arg[1],
 * and then one that works.  msr_lists is at arg[1].
 */
static void guest_l1_failed_entries(struct cet_call *call)
{
	uint64_t cr4;

	call->vector = write_msrs(L1);
	if (call->vector)
		return;

	guest_prepare_l2(vmx, l2_read_and_write);

	/* Guest state: VMX operation fixes CR4.VMXE to 1. */
	cr4 = vmreadz(GUEST_CR4);
	vmwrite(GUEST_CR4, cr4 & ~X86_CR4_VMXE);
	call->arg[0] = l1_launch();
	vmwrite(GUEST_CR4, cr4);

	/* MSR loading: no list may have FS_BASE. */
	msr_lists.entry_load[0].index = MSR_FS_BASE;
	vmwrite(VM_ENTRY_MSR_LOAD_ADDR, call->arg[1]);
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, 1);
	call->arg[1] = l1_launch();
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, 0);

	read_msrs(l1_msrs);
	call->ret = l1_launch();
}

FIXTURE(nested)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(nested)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	vm_vaddr_t gva;

	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
}

FIXTURE_TEARDOWN(nested)
{
	kvm_vm_free(self->vcpu->vm);
}

static struct cet_call *finish_l1(struct kvm_vcpu *vcpu)
{
	struct cet_call *call = cet_finish(vcpu);

	TEST_ASSERT(!call->vector, "WRMSR of CET MSRs in L1 raised vector %lu",
		    call->vector);
	return call;
}

static struct cet_call *call_l1(struct kvm_vcpu *vcpu,
				void (*fn)(struct cet_call *), uint64_t arg0,
				uint64_t arg1)
{
	cet_prepare(vcpu, fn, arg0, arg1);
	vcpu_run(vcpu);
	return finish_l1(vcpu);
}

/* Run until L2 is at its OUT. */
static void run_l2_to_out(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	if (vcpu->run->io.port != CET_PORT) {
		finish_l1(vcpu);
		TEST_FAIL("L2 did not get to its OUT");
	}
}

static void host_set_msrs(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], cet_val(cet_msrs[i], HOST));
}

static void expect_msrs(struct kvm_vm *vm, uint64_t *msrs, enum writer writer)
{
	uint64_t val, *got = addr_gva2hva(vm, (vm_vaddr_t)msrs);
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		val = cet_val(cet_msrs[i], writer);
		TEST_ASSERT(got[i] == val, "L%d read %s = 0x%lx, not 0x%lx",
			    msrs == l1_msrs ? 1 : 2, cet_msr_name(cet_msrs[i]),
			    got[i], val);
	}
}

static void host_expect_msrs(struct kvm_vcpu *vcpu, enum writer writer)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], cet_val(cet_msrs[i], writer));
}

TEST_F(nested, carried_to_l2_and_back)
{
	struct cet_call *call;

	call = call_l1(self->vcpu, guest_l1, (uint64_t)l2_read_and_write, 0);
	TEST_ASSERT_EQ(call->ret, EXIT_REASON_VMCALL);
	expect_msrs(self->vcpu->vm, l2_msrs, L1);
	expect_msrs(self->vcpu->vm, l1_msrs, L2);
	host_expect_msrs(self->vcpu, L2);
}

TEST_F(nested, write_intercepted_by_l1)
{
	struct cet_call *call;

	call = call_l1(self->vcpu, guest_l1, (uint64_t)l2_write_and_out, true);
	TEST_ASSERT_EQ(call->ret, EXIT_REASON_MSR_WRITE);
	expect_msrs(self->vcpu->vm, l1_msrs, L1);
}

/* L1 can have the MSRs switched by these lists. */
TEST_F(nested, msr_lists)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct vmx_msr_entry *stored;
	struct cet_call *call;
	int i;

	call = call_l1(self->vcpu, guest_l1_lists,
		       addr_gva2gpa(vm, (vm_vaddr_t)&msr_lists), 0);
	TEST_ASSERT_EQ(call->ret, EXIT_REASON_VMCALL);
	expect_msrs(vm, l2_msrs, ENTRY_LIST);
	expect_msrs(vm, l1_msrs, EXIT_LIST);

	stored = addr_gva2hva(vm, (vm_vaddr_t)msr_lists.exit_store);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT_EQ(stored[i].value, cet_val(cet_msrs[i], L2));
}

TEST_F(nested, kept_by_failed_entries)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct cet_call *call;

	call = call_l1(self->vcpu, guest_l1_failed_entries, 0,
		       addr_gva2gpa(vm, (vm_vaddr_t)&msr_lists));
	TEST_ASSERT_EQ(call->arg[0], EXIT_REASON_FAILED_VMENTRY |
				     EXIT_REASON_INVALID_STATE);
	TEST_ASSERT_EQ(call->arg[1], EXIT_REASON_FAILED_VMENTRY |
				     EXIT_REASON_MSR_LOAD_FAIL);
	expect_msrs(vm, l1_msrs, L1);

	TEST_ASSERT_EQ(call->ret, EXIT_REASON_VMCALL);
	expect_msrs(vm, l2_msrs, L1);
}

TEST_F(nested, host_access_while_l2_runs)
{
	struct kvm_vm *vm = self->vcpu->vm;

	cet_prepare(self->vcpu, guest_l1, (uint64_t)l2_write_and_out, 0);
	run_l2_to_out(self->vcpu);
	host_expect_msrs(self->vcpu, L2);

	host_set_msrs(self->vcpu);
	vcpu_run(self->vcpu);
	finish_l1(self->vcpu);
	expect_msrs(vm, l2_msrs, HOST);
	expect_msrs(vm, l1_msrs, HOST);
}

TEST_F(nested, ssp_carried_to_l2_and_back)
{
	uint64_t ssp;

	vcpu_set_reg(self->vcpu, SSP_ID, 0x1000);
	cet_prepare(self->vcpu, guest_l1, (uint64_t)l2_write_and_out, 0);
	run_l2_to_out(self->vcpu);
	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, 0x1000);

	vcpu_set_reg(self->vcpu, SSP_ID, 0x2000);
	vcpu_run(self->vcpu);
	finish_l1(self->vcpu);
	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, 0x2000);
}

/* The new vCPU gets the MSRs while it is in L1, and keeps them in L2. */
TEST_F(nested, migrate_in_l2)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct kvm_x86_state *state;

	cet_prepare(self->vcpu, guest_l1, (uint64_t)l2_write_and_out, 0);
	run_l2_to_out(self->vcpu);

	state = vcpu_save_state(self->vcpu);
	TEST_ASSERT(state->nested.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "KVM_GET_NESTED_STATE is not in L2");
	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	host_expect_msrs(self->vcpu, L2);

	vcpu_run(self->vcpu);
	finish_l1(self->vcpu);
	expect_msrs(vm, l2_msrs, L2);
	expect_msrs(vm, l1_msrs, L2);
}

/* The MSRs come last, and the CPU refuses the VM entry: L1 gets them. */
TEST_F(nested, migrate_before_failed_entry)
{
	struct kvm_vm *vm = self->vcpu->vm;
	struct kvm_x86_state *state;

	cet_prepare(self->vcpu, guest_l1, (uint64_t)l2_write_and_out, 0);
	run_l2_to_out(self->vcpu);

	state = vcpu_save_state(self->vcpu);
	state->nested.flags |= KVM_STATE_NESTED_RUN_PENDING;
	/* Blocking by STI and by MOV SS */
	*(uint32_t *)&state->nested.data.vmx[0].vmcs12[VMCS12_INTERRUPTIBILITY] =
		3;
	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	host_set_msrs(self->vcpu);

	vcpu_run(self->vcpu);
	TEST_ASSERT_EQ(finish_l1(self->vcpu)->ret, EXIT_REASON_FAILED_VMENTRY |
						   EXIT_REASON_INVALID_STATE);
	expect_msrs(vm, l1_msrs, HOST);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
