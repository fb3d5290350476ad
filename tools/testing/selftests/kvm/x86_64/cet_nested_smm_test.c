// SPDX-License-Identifier: GPL-2.0
/*
 * L2's state that RSM or user space loads, without the checks of a VM entry.
 * CET is off.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

/* The memory slot is one of SMM's address space. */
#define SMRAM_GPA		0x1000000
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_PAGES		16
#define SMRAM_HANDLER		0x8000
/* In the 64-bit map: LDTR's selector, and its attributes above that */
#define SMRAM_LDTR		0xfe70

#define SMI_PORT		0x81

/* In struct vmcs12 of KVM_GET_NESTED_STATE */
#define VMCS12_CR4_MASK		352
#define VMCS12_GUEST_CR3	432
#define VMCS12_GUEST_RIP	544

/* In a field of L2's shadow VMCS */
#define SHADOW_VALUE		0xc0ffee

/* In 16-bit code: out %al, $SMI_PORT; rsm */
static const uint8_t smi_handler[] = { 0xe6, SMI_PORT, 0x0f, 0xaa };

/* Present, and of a type that LDTR can't have */
#define BAD_LDTR		0x00850008

/* 32-bit code, at an address that is the same with and without paging */
#define CODE			0x30000000
#define CODE_OF_LAUNCH		(CODE + 0x40)
#define CODE_OF_EXIT		(CODE + 0x80)
#define PAGE_DIR		(CODE + 0x1000)
#define CODE_SLOT		10
#define CODE_PAGES		2

#define FAILED_PORT		0x82
#define EXITED_PORT		0x83

#define CR4_32BIT		(X86_CR4_PSE | X86_CR4_VMXE)

static const uint8_t enter_long_mode[] = {
	0x0f, 0x20, 0xc0,		/* mov %cr0, %eax */
	0x0f, 0xba, 0xe8, 0x1f,		/* bts $31, %eax, that is CR0.PG */
	0x0f, 0x22, 0xc0,		/* mov %eax, %cr0 */
	0xe6, CET_PORT,			/* out %al, $CET_PORT */
	0x0f, 0x01, 0xc1,		/* vmcall */
};

static const uint8_t launch[] = {
	0x0f, 0x01, 0xc2,		/* vmlaunch */
	0xe6, FAILED_PORT,		/* out %al, $FAILED_PORT */
};

static const uint8_t exited[] = {
	0xe6, EXITED_PORT,		/* out %al, $EXITED_PORT */
};

/* Guest data */
static struct vmx_pages *vmx;

static void l2_out(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
	vmcall();
}

static void guest_l1(struct cet_call *call)
{
	guest_prepare_l2(vmx, l2_out);
	GUEST_ASSERT(!vmlaunch());
	call->ret = vmreadz(VM_EXIT_REASON);
}

static void l2_out_and_vmread(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
	GUEST_ASSERT_EQ(vmreadz(GUEST_RIP), SHADOW_VALUE);
	vmcall();
}

/* L2 has a shadow VMCS. */
static void guest_l1_of_shadow_vmcs(struct cet_call *call)
{
	guest_prepare_l2(vmx, l2_out_and_vmread);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_SHADOW_VMCS);
	vmwrite(VMCS_LINK_POINTER, vmx->shadow_vmcs_gpa);
	GUEST_ASSERT(!vmptrld(vmx->shadow_vmcs_gpa));
	vmwrite(GUEST_RIP, SHADOW_VALUE);
	GUEST_ASSERT(!vmptrld(vmx->vmcs_gpa));
	GUEST_ASSERT(!vmlaunch());
	call->ret = vmreadz(VM_EXIT_REASON);
}

static void guest_prepare_protected_mode(struct cet_call *call)
{
	guest_prepare_l2(vmx, (void *)CODE);
	vmwrite(GUEST_CS_AR_BYTES, 0xc09b);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_UNRESTRICTED_GUEST);
	vmwrite(VM_ENTRY_CONTROLS, (vmreadz(VM_ENTRY_CONTROLS) &
		~VM_ENTRY_IA32E_MODE) | VM_ENTRY_LOAD_IA32_EFER);
	vmwrite(GUEST_IA32_EFER, rdmsr(MSR_EFER) & ~EFER_LMA);
	vmwrite(GUEST_CR0, vmreadz(GUEST_CR0) & ~X86_CR0_PG);
}

static void guest_l1_of_protected_mode(struct cet_call *call)
{
	guest_prepare_protected_mode(call);
	GUEST_ASSERT(!vmlaunch());
	call->ret = vmreadz(VM_EXIT_REASON);
}

static void guest_prepare_l1_in_32bit_mode(struct cet_call *call)
{
	guest_prepare_protected_mode(call);
	vmwrite(VM_EXIT_CONTROLS,
		vmreadz(VM_EXIT_CONTROLS) & ~VM_EXIT_HOST_ADDR_SPACE_SIZE);
	/* Only in 64-bit mode can it be null. */
	vmwrite(HOST_SS_SELECTOR, vmreadz(HOST_DS_SELECTOR));
	vmwrite(HOST_CR3, PAGE_DIR);
	vmwrite(HOST_CR4, CR4_32BIT);
	vmwrite(HOST_RIP, CODE_OF_EXIT);
}

FIXTURE(nested_smm)
{
	struct kvm_vcpu *vcpu;
	struct vmx_pages *vmx;
	uint32_t *smram_ldtr;
};

FIXTURE_SETUP(nested_smm)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, false, false);
	vm_vaddr_t gva;
	void *smram;

	self->vmx = vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vcpu_set_msr(self->vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
	smram = addr_gpa2hva(vm, SMRAM_GPA);
	memcpy(smram + SMRAM_HANDLER, smi_handler, sizeof(smi_handler));
	self->smram_ldtr = smram + SMRAM_LDTR;
}

FIXTURE_TEARDOWN(nested_smm)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_to_out(struct kvm_vcpu *vcpu, uint16_t port)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, port);
	vcpu_run_complete_io(vcpu);
}

static void run_l2_to_out(struct kvm_vcpu *vcpu, void (*l1)(struct cet_call *))
{
	cet_prepare(vcpu, l1, 0, 0);
	run_to_out(vcpu, CET_PORT);
}

static void enter_smm(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = true;
	vcpu_events_set(vcpu, &events);
	run_to_out(vcpu, SMI_PORT);
}

static void expect_end_of_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(cet_finish(vcpu)->ret, EXIT_REASON_VMCALL);
}

static void add_code(struct kvm_vm *vm, struct vmx_pages *vmx)
{
	uint32_t *page_dir;
	int i;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CODE, CODE_SLOT,
				    CODE_PAGES, 0);
	memcpy(addr_gpa2hva(vm, CODE), enter_long_mode, sizeof(enter_long_mode));
	memcpy(addr_gpa2hva(vm, CODE_OF_LAUNCH), launch, sizeof(launch));
	memcpy(addr_gpa2hva(vm, CODE_OF_EXIT), exited, sizeof(exited));
	page_dir = addr_gpa2hva(vm, PAGE_DIR);
	for (i = 0; i < 1024; i++)
		page_dir[i] = i << 22 | PTE_LARGE_MASK | PTE_DIRTY_MASK |
			      PTE_ACCESSED_MASK | PTE_WRITABLE_MASK |
			      PTE_PRESENT_MASK;
	virt_map(vm, CODE, CODE, 1);
	prepare_eptp(vmx, vm, 0);
	nested_identity_map_1g(vmx, vm, 0, PG_LEVEL_SIZE(PG_LEVEL_1G));
}

/* L1's VMCS has the mode that L2 was entered in, vmcs12 has its present one. */
TEST_F(nested_smm, saved_in_smm)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_x86_state *state;
	struct kvm_regs regs;
	uint64_t rip;

	TEST_REQUIRE(kvm_cpu_has_ept());

	add_code(vcpu->vm, self->vmx);
	run_l2_to_out(vcpu, guest_l1_of_protected_mode);
	vcpu_regs_get(vcpu, &regs);
	enter_smm(vcpu);
	state = vcpu_save_state(vcpu);
	rip = *(uint64_t *)&state->nested.data.vmx[0].vmcs12[VMCS12_GUEST_RIP];
	kvm_x86_state_cleanup(state);
	expect_end_of_l2(vcpu);
	TEST_ASSERT(rip == regs.rip, "vmcs12 has RIP = 0x%lx, not 0x%llx", rip,
		    regs.rip);
}

/* L1 could not have entered L2 in the mode that L2 has gone to since. */
TEST_F(nested_smm, l1_in_32bit_mode)
{
	struct kvm_segment cs = {
		.limit = 0xffffffff, .selector = 8, .type = 0xb, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_segment ds = cs;
	struct kvm_x86_state *state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int r;

	TEST_REQUIRE(kvm_cpu_has_ept());

	add_code(vcpu->vm, self->vmx);
	cet_call(vcpu, guest_prepare_l1_in_32bit_mode, 0, 0);

	vcpu_regs_get(vcpu, &regs);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr3 = PAGE_DIR;
	sregs.cr4 = CR4_32BIT;
	sregs.efer &= ~(EFER_LMA | EFER_LME);
	sregs.cs = cs;
	ds.type = 3;
	ds.selector = 16;
	sregs.ds = ds;
	sregs.es = ds;
	sregs.ss = ds;
	vcpu_sregs_set(vcpu, &sregs);
	regs.rip = CODE_OF_LAUNCH;
	vcpu_regs_set(vcpu, &regs);

	run_to_out(vcpu, CET_PORT);
	state = vcpu_save_state(vcpu);
	r = __vcpu_ioctl(vcpu, KVM_SET_NESTED_STATE, &state->nested);
	kvm_x86_state_cleanup(state);
	enter_smm(vcpu);
	/* RSM, and on from the OUT to VMCALL */
	run_to_out(vcpu, EXITED_PORT);
	TEST_ASSERT(!r, "KVM_SET_NESTED_STATE refused L2's own state");
}

TEST_F(nested_smm, shadow_vmcs)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_x86_state *state;

	run_l2_to_out(vcpu, guest_l1_of_shadow_vmcs);
	enter_smm(vcpu);
	state = vcpu_save_state(vcpu);
	vcpu_nested_state_set(vcpu, &state->nested);
	kvm_x86_state_cleanup(state);
	expect_end_of_l2(vcpu);
}

/* KVM_GET_NESTED_STATE stays within the size that it returns. */
TEST_F(nested_smm, nothing_behind_state)
{
	struct kvm_x86_state *state = calloc(1, sizeof(*state));
	struct kvm_nested_state *nested = &state->nested;
	uint8_t *end = (uint8_t *)nested + sizeof(state->nested_);
	uint8_t *p;

	run_l2_to_out(self->vcpu, guest_l1_of_shadow_vmcs);
	enter_smm(self->vcpu);
	nested->size = sizeof(state->nested_);
	vcpu_nested_state_get(self->vcpu, nested);
	for (p = (uint8_t *)nested + nested->size; p < end; p++)
		TEST_ASSERT(!*p, "KVM has written behind 0x%x bytes",
			    nested->size);
	free(state);
}

/* KVM can't enter L2, which owns no bit of CR4. */
static int set_bad_cr3(struct kvm_vcpu *vcpu)
{
	struct kvm_x86_state *state;
	uint8_t *vmcs12;
	int r;

	run_l2_to_out(vcpu, guest_l1);
	state = vcpu_save_state(vcpu);
	vmcs12 = state->nested.data.vmx[0].vmcs12;
	*(uint64_t *)&vmcs12[VMCS12_GUEST_CR3] |= BIT_ULL(62);
	*(uint64_t *)&vmcs12[VMCS12_CR4_MASK] = -1ull;
	r = __vcpu_ioctl(vcpu, KVM_SET_NESTED_STATE, &state->nested);
	kvm_x86_state_cleanup(state);
	return r;
}

/* Success would be 0, and nothing else. */
TEST_F(nested_smm, set_bad_cr3)
{
	int r = set_bad_cr3(self->vcpu);

	TEST_ASSERT(r == -1 && errno == EINVAL,
		    "KVM_SET_NESTED_STATE returned %d, errno %d", r, errno);
}

/* L1 owns CR4.DE, and can set it without a VM exit. */
TEST_F(nested_smm, cr4_after_bad_cr3)
{
	struct kvm_x86_state *l1 = vcpu_save_state(self->vcpu);
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_sregs sregs;

	set_bad_cr3(vcpu);
	vcpu_nested_state_set(vcpu, &l1->nested);
	vcpu_load_state(vcpu, l1);
	TEST_ASSERT_EQ(cet_mov_cr4(vcpu, l1->sregs.cr4 | X86_CR4_DE), 0);
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT(sregs.cr4 & X86_CR4_DE, "CR4 is 0x%llx, without DE",
		    sregs.cr4);
	kvm_x86_state_cleanup(l1);
}

/* Without unrestricted guest, KVM can't enter L2 with such an LDTR. */
static void expect_l2_after_repair(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	int r = __vcpu_run(vcpu);

	TEST_ASSERT(!r, "KVM_RUN failed, errno %d", errno);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
	TEST_ASSERT_EQ(vcpu->run->internal.suberror,
		       KVM_INTERNAL_ERROR_EMULATION);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.ldt = (struct kvm_segment) { .unusable = 1 };
	vcpu_sregs_set(vcpu, &sregs);
	expect_end_of_l2(vcpu);
}

TEST_F(nested_smm, rsm_with_bad_ldtr)
{
	run_l2_to_out(self->vcpu, guest_l1);
	enter_smm(self->vcpu);
	*self->smram_ldtr = BAD_LDTR;
	expect_l2_after_repair(self->vcpu);
}

/* The same by user space, while a VM entry is pending. */
TEST_F(nested_smm, set_sregs_with_bad_ldtr)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_x86_state *state;

	run_l2_to_out(vcpu, guest_l1);
	state = vcpu_save_state(vcpu);
	state->nested.flags |= KVM_STATE_NESTED_RUN_PENDING;
	vcpu_nested_state_set(vcpu, &state->nested);
	state->sregs.ldt = (struct kvm_segment) {
		.selector = 8, .type = 5, .present = 1,
	};
	vcpu_sregs_set(vcpu, &state->sregs);
	kvm_x86_state_cleanup(state);
	expect_l2_after_repair(vcpu);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
