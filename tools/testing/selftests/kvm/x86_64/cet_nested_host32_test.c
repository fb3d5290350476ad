// SPDX-License-Identifier: GPL-2.0
/*
 * CET state that VM exit loads for an L1 which is not in 64-bit mode: S_CET and
 * SSP have 32 bits.  Only in 64-bit mode can L1 write more than that to the
 * VMCS.  It does so before it goes to 32-bit mode for VMLAUNCH.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

/* All of this is in one slot, mapped one to one in 32-bit mode. */
#define BASE			0x2000000
#define LAUNCH			BASE
#define EXIT			(BASE + 0x40)
#define L2			(BASE + 0x80)
#define PAGE_DIR		(BASE + 0x1000)
#define PAGES			2
#define SLOT			10

#define FAILED_PORT		0x81
#define EXITED_PORT		0x82

#define CR4_32BIT		(X86_CR4_PSE | X86_CR4_VMXE)

static const uint8_t launch[] = {
	0x0f, 0x01, 0xc2,			/* vmlaunch */
	0xb9, 0x00, 0x44, 0x00, 0x00,		/* mov $VM_INSTRUCTION_ERROR, %ecx */
	0x0f, 0x78, 0xc8,			/* vmread %ecx, %eax */
	0xe6, FAILED_PORT,			/* out %al, $FAILED_PORT */
};

static const uint8_t exited[] = {
	0xb9, 0x02, 0x44, 0x00, 0x00,		/* mov $VM_EXIT_REASON, %ecx */
	0x0f, 0x78, 0xc8,			/* vmread %ecx, %eax */
	0xe6, EXITED_PORT,			/* out %al, $EXITED_PORT */
};

static const uint8_t l2[] = {
	0x0f, 0x01, 0xc1,			/* vmcall */
};

/*
 * L1: the VMCS for L1 and L2 in 32-bit mode, with the fields of cet_nested and
 * the VM-entry control in the first argument.
 */
static void guest_prepare(struct cet_call *call)
{
	static bool in_vmx_operation;

	if (!in_vmx_operation)
		GUEST_ASSERT(prepare_for_vmx_operation(cet_vmx));
	in_vmx_operation = true;

	GUEST_ASSERT(load_vmcs(cet_vmx));
	guest_prepare_l2_vmcs(cet_vmx, NULL);
	call->vector = vmwrite(HOST_S_CET, cet_nested.host.s_cet) |
		       vmwrite(HOST_SSP, cet_nested.host.ssp) |
		       vmwrite(HOST_INTR_SSP_TABLE, cet_nested.host.ssp_tbl);

	vmwrite(VM_EXIT_CONTROLS,
		(vmreadz(VM_EXIT_CONTROLS) & ~VM_EXIT_HOST_ADDR_SPACE_SIZE) |
		VM_EXIT_LOAD_CET_STATE);
	/* Only in 64-bit mode can it be null. */
	vmwrite(HOST_SS_SELECTOR, vmreadz(HOST_DS_SELECTOR));
	vmwrite(HOST_CR3, PAGE_DIR);
	vmwrite(HOST_CR4, CR4_32BIT);
	vmwrite(HOST_RIP, EXIT);
	vmwrite(HOST_RSP, BASE + PAGE_SIZE);

	vmwrite(VM_ENTRY_CONTROLS,
		(vmreadz(VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE) |
		call->arg[0]);
	vmwrite(GUEST_CR3, PAGE_DIR);
	vmwrite(GUEST_CR4, CR4_32BIT);
	vmwrite(GUEST_RIP, L2);
	vmwrite(GUEST_CS_AR_BYTES, 0xc09b);
}

FIXTURE(host32)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_SETUP(host32)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	uint32_t *page_dir;
	int i;

	self->n = vcpu_init_cet_nested(self->vcpu);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, BASE, SLOT, PAGES,
				    0);
	memcpy(addr_gpa2hva(vm, LAUNCH), launch, sizeof(launch));
	memcpy(addr_gpa2hva(vm, EXIT), exited, sizeof(exited));
	memcpy(addr_gpa2hva(vm, L2), l2, sizeof(l2));

	page_dir = addr_gpa2hva(vm, PAGE_DIR);
	for (i = 0; i < 1024; i++)
		page_dir[i] = i << 22 | PTE_LARGE_MASK | PTE_DIRTY_MASK |
			      PTE_ACCESSED_MASK | PTE_WRITABLE_MASK |
			      PTE_PRESENT_MASK;
}

FIXTURE_TEARDOWN(host32)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Run to an OUT in 32-bit mode, and back to 64-bit mode.  Returns what is in AL. */
static uint8_t launch_in_32bit_mode(struct kvm_vcpu *vcpu, uint16_t *port)
{
	struct kvm_segment cs = {
		.limit = 0xffffffff, .selector = 8, .type = 0xb, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_segment ds = cs;
	struct kvm_regs regs, old_regs;
	struct kvm_sregs sregs, old_sregs;
	uint8_t al;

	vcpu_regs_get(vcpu, &old_regs);
	vcpu_sregs_get(vcpu, &old_sregs);
	sregs = old_sregs;
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
	regs = old_regs;
	regs.rip = LAUNCH;
	vcpu_regs_set(vcpu, &regs);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	*port = vcpu->run->io.port;
	al = *((uint8_t *)vcpu->run + vcpu->run->io.data_offset);
	vcpu_run_complete_io(vcpu);

	vcpu_sregs_set(vcpu, &old_sregs);
	vcpu_regs_set(vcpu, &old_regs);
	return al;
}

static void prepare_with(struct kvm_vcpu *vcpu, uint64_t *field, uint64_t val)
{
	*field = val;
	TEST_ASSERT(!cet_call(vcpu, guest_prepare, 0, 0)->vector,
		    "VMWRITE refused a field");
	*field = 0;
}

static void refuse(struct kvm_vcpu *vcpu, uint64_t *field, uint64_t val)
{
	uint16_t port;
	uint8_t al;

	prepare_with(vcpu, field, val);
	al = launch_in_32bit_mode(vcpu, &port);
	TEST_ASSERT(port == FAILED_PORT && al == INVALID_HOST_STATE_FIELD,
		    "Field 0x%lx: %s %u", val,
		    port == FAILED_PORT ? "error" : "exit reason", al);
}

static void accept(struct kvm_vcpu *vcpu, struct cet_nested *n, uint64_t *field,
		   uint64_t val)
{
	struct cet_vmcs_state host = { };
	uint16_t port;
	uint8_t al;

	prepare_with(vcpu, field, val);
	al = launch_in_32bit_mode(vcpu, &port);
	TEST_ASSERT(port == EXITED_PORT && al == EXIT_REASON_VMCALL,
		    "Field 0x%lx: %s %u", val,
		    port == FAILED_PORT ? "error" : "exit reason", al);

	*(uint64_t *)((void *)&host + ((void *)field - (void *)&n->host)) = val;
	vcpu_expect_cet_state(vcpu, &host, "L1");
}

TEST_F(host32, s_cet)
{
	int nr;

	for (nr = 14; nr < 64; nr++) {
		if (nr < 32)
			accept(self->vcpu, self->n, &self->n->host.s_cet,
			       BIT_ULL(nr));
		else
			refuse(self->vcpu, &self->n->host.s_cet, BIT_ULL(nr));
	}
	refuse(self->vcpu, &self->n->host.s_cet, ~0x3fffull);
}

TEST_F(host32, ssp)
{
	int nr;

	for (nr = 2; nr < 64; nr++) {
		if (nr < 32)
			accept(self->vcpu, self->n, &self->n->host.ssp,
			       BIT_ULL(nr));
		else
			refuse(self->vcpu, &self->n->host.ssp, BIT_ULL(nr));
	}
	refuse(self->vcpu, &self->n->host.ssp, ~3ull);
}

/* L2 may go to long mode later, but VM entry doesn't put it there. */
TEST_F(host32, l2_in_long_mode)
{
	uint16_t port;
	uint8_t al;

	TEST_ASSERT(!cet_call(self->vcpu, guest_prepare, VM_ENTRY_IA32E_MODE,
			      0)->vector, "VMWRITE refused a field");
	al = launch_in_32bit_mode(self->vcpu, &port);
	TEST_ASSERT(port == FAILED_PORT && al == INVALID_HOST_STATE_FIELD,
		    "%s %u", port == FAILED_PORT ? "error" : "exit reason", al);
}

/* The SDM has no 32-bit rule for this one. */
TEST_F(host32, ssp_tbl)
{
	accept(self->vcpu, self->n, &self->n->host.ssp_tbl, BIT_ULL(31));
	accept(self->vcpu, self->n, &self->n->host.ssp_tbl, BIT_ULL(32));
	accept(self->vcpu, self->n, &self->n->host.ssp_tbl, ~0ull);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
