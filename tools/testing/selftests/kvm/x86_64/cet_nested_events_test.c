// SPDX-License-Identifier: GPL-2.0
/*
 * Exceptions of L2 and CET: #CP that L1 intercepts, #CP whose delivery is cut
 * short, and exceptions that L1 injects with and without an error code.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

#define NR_EXCEPTIONS		32
#define RFLAGS_IF		BIT(9)

/* Mapped nowhere */
#define UNMAPPED		0x7fff00000000ull

/* Those with an error code on any processor: #DF, #TS to #PF, #AC. */
#define HAVE_ERROR_CODE		(BIT(8) | GENMASK(14, 10) | BIT(17))

/* Guest data: what L2's handler of any exception finds on its stack. */
uint64_t handler_rsp, handler_top;
/* What L1 writes before VM entry */
static uint64_t exception_bitmap, idtr_base, entry_info, entry_error_code;
static uint64_t guest_cr0_clear, sec_exec_set;

static __attribute__((naked)) void l2_handler(void)
{
	asm("endbr64\n"
	    "mov %rsp, handler_rsp(%rip)\n"
	    "mov (%rsp), %rax\n"
	    "mov %rax, handler_top(%rip)\n"
	    "vmcall\n");
}

static __attribute__((naked)) void l2_endbr(void)
{
	asm("endbr64\n"
	    "vmcall\n");
}

static __attribute__((naked)) void l2_no_endbr(void)
{
	asm("vmcall\n");
}

static void prepare(void)
{
	vmwrite(EXCEPTION_BITMAP, exception_bitmap);
	/* The error code of a #PF makes no difference. */
	vmwrite(PAGE_FAULT_ERROR_CODE_MATCH, 0);
	if (idtr_base)
		vmwrite(GUEST_IDTR_BASE, idtr_base);
	if (entry_info) {
		vmwrite(VM_ENTRY_INTR_INFO_FIELD, entry_info);
		vmwrite(VM_ENTRY_EXCEPTION_ERROR_CODE, entry_error_code);
		vmwrite(VM_ENTRY_INSTRUCTION_LEN, 1);
		/* Needed to inject an interrupt */
		vmwrite(GUEST_RFLAGS, vmreadz(GUEST_RFLAGS) | RFLAGS_IF);
	}
	vmwrite(GUEST_CR0, vmreadz(GUEST_CR0) & ~guest_cr0_clear);
	vmwrite(SECONDARY_VM_EXEC_CONTROL,
		vmreadz(SECONDARY_VM_EXEC_CONTROL) | sec_exec_set);
}

FIXTURE(cp)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(cp)
{
	void (*l2)(void);
	uint64_t s_cet;
	uint64_t error_code;
};

FIXTURE_VARIANT_ADD(cp, near_ret) {
	.l2 = guest_smash_return,
	.s_cet = CET_SHSTK_EN,
	.error_code = CP_NEAR_RET,
};

FIXTURE_VARIANT_ADD(cp, endbranch) {
	.l2 = guest_jump_off_endbr,
	.s_cet = CET_ENDBR_EN,
	.error_code = CP_ENDBRANCH,
};

/* Only VM entry can start L2 with the tracker waiting for ENDBR64. */
FIXTURE_VARIANT_ADD(cp, tracker_at_entry) {
	.l2 = l2_no_endbr,
	.s_cet = CET_ENDBR_EN | CET_WAIT_ENDBR,
	.error_code = CP_ENDBRANCH,
};

static void set_handlers(struct kvm_vm *vm)
{
	int i;

	for (i = 0; i < NR_EXCEPTIONS; i++)
		vm_set_raw_handler(vm, i, l2_handler);
}

FIXTURE_SETUP(cp)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	vm_vaddr_t *ssp = addr_gva2hva(vm, (vm_vaddr_t)&cet_shadow_stack);

	self->n = vcpu_init_cet_nested(self->vcpu);
	cet_enable(self->vcpu);
	self->n->load_guest = true;
	self->n->load_host = true;
	self->n->l2 = variant->l2;
	self->n->guest.s_cet = variant->s_cet;
	self->n->guest.ssp = *ssp;
	self->n->prepare = prepare;
}

FIXTURE_TEARDOWN(cp)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(cp, intercepted)
{
	write_guest_global(self->vcpu->vm, exception_bitmap, BIT(CP_VECTOR));
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_EXCEPTION_NMI);
	TEST_ASSERT_EQ(self->n->intr_info, CP_INFO);
	TEST_ASSERT_EQ(self->n->intr_error_code, variant->error_code);
	TEST_ASSERT_EQ(self->n->idt_info & INTR_VALID, 0);
	/* L1 does not get L2's S_CET. */
	TEST_ASSERT_EQ(self->n->l1_s_cet, 0);
}

TEST_F(cp, not_intercepted)
{
	struct kvm_vm *vm = self->vcpu->vm;

	set_handlers(vm);
	write_guest_global(vm, exception_bitmap, (uint64_t)~BIT(CP_VECTOR));
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	sync_global_from_guest(vm, handler_top);
	TEST_ASSERT_EQ(handler_top, variant->error_code);
}

/* The IDT can't be read: #PF during the delivery of #CP. */
TEST_F(cp, cut_short)
{
	struct kvm_vm *vm = self->vcpu->vm;

	write_guest_global(vm, exception_bitmap, BIT(PF_VECTOR));
	write_guest_global(vm, idtr_base, UNMAPPED);
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_EXCEPTION_NMI);
	TEST_ASSERT_EQ(self->n->intr_info & 0xff, PF_VECTOR);
	TEST_ASSERT_EQ(self->n->idt_info, CP_INFO);
	TEST_ASSERT_EQ(self->n->idt_error_code, variant->error_code);
}

FIXTURE(tracker)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(tracker)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(tracker)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(tracker, satisfied_at_entry)
{
	struct cet_nested *n = vcpu_init_cet_nested(self->vcpu);

	cet_enable(self->vcpu);
	n->load_guest = true;
	n->load_host = true;
	n->l2 = l2_endbr;
	n->guest.s_cet = CET_ENDBR_EN | CET_WAIT_ENDBR;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(n->saved.s_cet, CET_ENDBR_EN);
}

FIXTURE(inject)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(inject)
{
	bool any_error_code;
};

FIXTURE_VARIANT_ADD(inject, any_error_code) { .any_error_code = true };
FIXTURE_VARIANT_ADD(inject, cleared) { };

FIXTURE_SETUP(inject)
{
	uint64_t basic;

	vm_create_cet(&self->vcpu, true, true);
	set_handlers(self->vcpu->vm);
	basic = vcpu_get_msr(self->vcpu, MSR_IA32_VMX_BASIC);
	TEST_ASSERT(basic & VMX_BASIC_ANY_ERROR_CODE,
		    "IA32_VMX_BASIC is 0x%lx", basic);
	if (!variant->any_error_code)
		vcpu_set_msr(self->vcpu, MSR_IA32_VMX_BASIC,
			     basic & ~VMX_BASIC_ANY_ERROR_CODE);

	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->prepare = prepare;
}

FIXTURE_TEARDOWN(inject)
{
	kvm_vm_free(self->vcpu->vm);
}

static void inject(struct kvm_vcpu *vcpu, uint64_t info, uint64_t error_code)
{
	write_guest_global(vcpu->vm, entry_info, info);
	write_guest_global(vcpu->vm, entry_error_code, error_code);
	write_guest_global(vcpu->vm, handler_rsp, 0ull);
	cet_run_nested(vcpu);
}

static void refuse(struct kvm_vcpu *vcpu, struct cet_nested *n, uint64_t info,
		   uint64_t error_code)
{
	inject(vcpu, info, error_code);
	TEST_ASSERT(n->error == INVALID_CONTROL_FIELD,
		    "Event 0x%lx, error code 0x%lx: error %ld, reason 0x%lx",
		    info, error_code, n->error, n->reason);
}

/* With an error code, the number of words on L2's stack is even. */
static void accept(struct kvm_vcpu *vcpu, struct cet_nested *n, uint64_t info,
		   uint64_t error_code)
{
	bool has_error_code = info & INTR_HAS_ERROR_CODE;

	inject(vcpu, info, error_code);
	TEST_ASSERT(!n->error && n->reason == EXIT_REASON_VMCALL,
		    "Event 0x%lx, error code 0x%lx: error %ld, reason 0x%lx",
		    info, error_code, n->error, n->reason);

	sync_global_from_guest(vcpu->vm, handler_rsp);
	sync_global_from_guest(vcpu->vm, handler_top);
	TEST_ASSERT(handler_rsp && !(handler_rsp & 8) == has_error_code,
		    "Event 0x%lx: RSP 0x%lx in L2's handler", info, handler_rsp);
	if (has_error_code)
		TEST_ASSERT_EQ(handler_top, error_code);
}

TEST_F(inject, exceptions)
{
	bool usual;
	int i;

	for (i = 0; i < NR_EXCEPTIONS; i++) {
		usual = BIT(i) & HAVE_ERROR_CODE;
		(usual || variant->any_error_code ? accept : refuse)
			(self->vcpu, self->n,
			 INTR_EXCEPTION | INTR_HAS_ERROR_CODE | i, 0x10 + i);
		(!usual || variant->any_error_code ? accept : refuse)
			(self->vcpu, self->n, INTR_EXCEPTION | i, 0);
	}
}

/* An interrupt, NMI, and by software an interrupt and two exceptions */
TEST_F(inject, error_code_without_exception)
{
	static const uint64_t others[] = {
		INTR_VALID | INTR_TYPE(0) | 21, INTR_VALID | INTR_TYPE(2) | 2,
		INTR_VALID | INTR_TYPE(4) | 21, INTR_VALID | INTR_TYPE(5) | 1,
		INTR_VALID | INTR_TYPE(6) | 3,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(others); i++) {
		refuse(self->vcpu, self->n, others[i] | INTR_HAS_ERROR_CODE, 0);
		accept(self->vcpu, self->n, others[i], 0);
	}
}

TEST_F(inject, error_code_bits)
{
	const uint64_t info = INTR_EXCEPTION | INTR_HAS_ERROR_CODE | GP_VECTOR;
	int nr;

	for (nr = 0; nr < 32; nr++)
		(nr < 16 ? accept : refuse)(self->vcpu, self->n, info,
					    BIT_ULL(nr));
}

/* Bits 30:13 are reserved, and so is what is beyond the exceptions. */
TEST_F(inject, reserved_bits)
{
	int nr;

	for (nr = 13; nr < 31; nr++)
		refuse(self->vcpu, self->n,
		       INTR_EXCEPTION | INTR_HAS_ERROR_CODE | GP_VECTOR |
		       BIT_ULL(nr), 0);
	refuse(self->vcpu, self->n,
	       INTR_EXCEPTION | INTR_HAS_ERROR_CODE | NR_EXCEPTIONS, 0);
	refuse(self->vcpu, self->n, INTR_EXCEPTION | NR_EXCEPTIONS, 0);
}

/* Real mode is refused because of the rest of the VMCS, not the event. */
TEST_F(inject, real_mode)
{
	const uint64_t info = INTR_EXCEPTION | INTR_HAS_ERROR_CODE | GP_VECTOR;
	struct kvm_vm *vm = self->vcpu->vm;
	struct vmx_pages *vmx;
	vm_vaddr_t *gva = addr_gva2hva(vm, (vm_vaddr_t)&cet_vmx);

	vmx = addr_gva2hva(vm, *gva);
	prepare_eptp(vmx, vm, 0);
	write_guest_global(vm, sec_exec_set,
			   (uint64_t)SECONDARY_EXEC_UNRESTRICTED_GUEST);
	write_guest_global(vm, guest_cr0_clear,
			   (uint64_t)(X86_CR0_PE | X86_CR0_PG));

	refuse(self->vcpu, self->n, info, 0);
	inject(self->vcpu, info & ~INTR_HAS_ERROR_CODE, 0);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);

	/* In protected mode, "unrestricted guest" makes no difference. */
	write_guest_global(vm, guest_cr0_clear, 0ull);
	inject(self->vcpu, info, 0);
	TEST_ASSERT_EQ(self->n->error, 0);
	if (variant->any_error_code) {
		inject(self->vcpu, info & ~INTR_HAS_ERROR_CODE, 0);
		TEST_ASSERT_EQ(self->n->error, 0);
	} else {
		refuse(self->vcpu, self->n, info & ~INTR_HAS_ERROR_CODE, 0);
	}
}

/* If the delivery of an event that L1 injects is cut short, L1 gets it back. */
TEST_F(inject, cut_short)
{
	uint64_t info = INTR_EXCEPTION | CP_VECTOR;

	if (variant->any_error_code)
		info |= INTR_HAS_ERROR_CODE;
	write_guest_global(self->vcpu->vm, exception_bitmap, BIT(PF_VECTOR));
	write_guest_global(self->vcpu->vm, idtr_base, UNMAPPED);
	inject(self->vcpu, info, CP_ENDBRANCH);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_EXCEPTION_NMI);
	TEST_ASSERT_EQ(self->n->intr_info & 0xff, PF_VECTOR);
	TEST_ASSERT_EQ(self->n->idt_info, info);
	if (variant->any_error_code)
		TEST_ASSERT_EQ(self->n->idt_error_code, CP_ENDBRANCH);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
