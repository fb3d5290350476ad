// SPDX-License-Identifier: GPL-2.0
/*
 * The delivery of #CP, by the processor and by user space, and its part in
 * double faults.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

static void guest_nop(struct cet_call *call)
{
}

static void inject_cp(struct kvm_vcpu *vcpu, uint32_t error_code)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.exception.injected = true;
	events.exception.nr = CP_VECTOR;
	events.exception.has_error_code = true;
	events.exception.error_code = error_code;
	vcpu_events_set(vcpu, &events);

	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.exception.nr, CP_VECTOR);
	TEST_ASSERT_EQ(events.exception.has_error_code, true);
	TEST_ASSERT_EQ(events.exception.error_code, error_code);
}

KVM_ONE_VCPU_TEST_SUITE(events);

/* #CP needs no CET: the VMM of any vCPU can inject it. */
KVM_ONE_VCPU_TEST(events, injected_cp_has_error_code, NULL)
{
	uint64_t *count = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_cp_count);
	uint64_t *error_code = addr_gva2hva(vcpu->vm,
					    (vm_vaddr_t)&cet_cp_error_code);
	int i;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_call(vcpu, guest_nop, 0, 0);

	for (i = 1; i <= 5; i++) {
		inject_cp(vcpu, i);
		cet_call(vcpu, guest_nop, 0, 0);
		TEST_ASSERT_EQ(*count, i);
		TEST_ASSERT_EQ(*error_code, i);
	}
}

/* The same while the guest runs on its shadow stack */
KVM_ONE_VCPU_TEST(events, injected_cp_on_shadow_stack, NULL)
{
	const uint32_t error_code = 5;
	struct cet_call *call;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);

	cet_prepare_run(vcpu, guest_exit_and_return,
			CET_SHSTK_EN | CET_ENDBR_EN);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);

	/* Before it gets the #CP, the vCPU has to complete the OUT. */
	vcpu_run_complete_io(vcpu);
	inject_cp(vcpu, error_code);
	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT_EQ(call->vector, CP_VECTOR);
	TEST_ASSERT_EQ(call->error_code, error_code);
}

/* The control of the above: nothing injected, so the function returns. */
KVM_ONE_VCPU_TEST(events, user_exit_on_shadow_stack, NULL)
{
	struct cet_call *call;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);

	cet_prepare_run(vcpu, guest_exit_and_return,
			CET_SHSTK_EN | CET_ENDBR_EN);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT_EQ(call->vector, 0);
	TEST_ASSERT_EQ(call->ret, 1);
}

/* What the last exception brought with it; guest data. */
#define NO_ERROR_CODE		~0ull
static uint64_t delivered_error_code;

static __attribute__((naked)) void guest_any_handler(void)
{
	/* Without error code, CS comes second on the stack. */
	asm("endbr64\n"
	    "movq $-1, delivered_error_code(%rip)\n"
	    "cmpq $8, 8(%rsp)\n"
	    "je 1f\n"
	    "pop delivered_error_code(%rip)\n"
	    "1: iretq\n");
}

/*
 * KVM delivers an injected exception as it is, with or without an error code,
 * whatever is usual for the vector.
 */
static void expect_delivered_as_told(struct kvm_vcpu *vcpu)
{
	static const struct {
		uint8_t vector;
		bool has_error_code;
		uint32_t error_code;
		uint64_t delivered;
	} exceptions[] = {
		{ CP_VECTOR, true, CP_ENDBRANCH, CP_ENDBRANCH },
		{ CP_VECTOR, false, CP_ENDBRANCH, NO_ERROR_CODE },
		/* Only 16 bits are delivered. */
		{ CP_VECTOR, true, 0x18002, 0x8002 },
		{ GP_VECTOR, true, 0x50, 0x50 },
		{ GP_VECTOR, false, 0x50, NO_ERROR_CODE },
		{ UD_VECTOR, true, 5, 5 },
		{ UD_VECTOR, false, 5, NO_ERROR_CODE },
		{ 31, true, 5, 5 },
		{ 31, false, 5, NO_ERROR_CODE },
	};
	struct kvm_vcpu_events events;
	uint64_t *delivered;
	int i;

	delivered = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&delivered_error_code);
	cet_call(vcpu, guest_nop, 0, 0);

	for (i = 0; i < ARRAY_SIZE(exceptions); i++) {
		vm_set_raw_handler(vcpu->vm, exceptions[i].vector,
				   guest_any_handler);
		vcpu_events_get(vcpu, &events);
		events.exception.injected = true;
		events.exception.nr = exceptions[i].vector;
		events.exception.has_error_code = exceptions[i].has_error_code;
		events.exception.error_code = exceptions[i].error_code;
		vcpu_events_set(vcpu, &events);

		*delivered = 0;
		cet_call(vcpu, guest_nop, 0, 0);
		TEST_ASSERT(*delivered == exceptions[i].delivered,
			    "Exception %d: vector %u got error code 0x%lx", i,
			    exceptions[i].vector, *delivered);
	}
}

KVM_ONE_VCPU_TEST(events, delivered_as_told, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	expect_delivered_as_told(vcpu);
}

KVM_ONE_VCPU_TEST(events, delivered_as_told_without_cet, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, false, false);
	expect_delivered_as_told(vcpu);
}

KVM_ONE_VCPU_TEST(events, no_exception_refused, NULL)
{
	static const uint8_t bad[] = { NMI_VECTOR, 32, 255 };
	struct kvm_vcpu_events events;
	int i;

	vcpu_events_get(vcpu, &events);
	events.exception.injected = true;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		events.exception.nr = bad[i];
		TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events) == -1 &&
			    errno == EINVAL,
			    "KVM_SET_VCPU_EVENTS accepted exception %u", bad[i]);
	}
}

/*
 * The stack for #CP is in a page that KVM has not mapped yet.  The delivery of
 * #CP in a run of guest_jump_off_endbr() or guest_smash_return() exits there,
 * and has to be repeated.
 */
#define IST_GPA			0x2000000
#define IST_GVA			0x7e0000000000ull
#define IST_SLOT		11

static void give_cp_a_stack(struct kvm_vm *vm)
{
	struct idt_entry *idt = addr_gva2hva(vm, vm->arch.idt);
	void *tss = addr_gva2hva(vm, vm->arch.tss);

	/* A slot of its own: a large page must not map more than this. */
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, IST_GPA,
				    IST_SLOT, 1, 0);
	virt_map(vm, IST_GVA, IST_GPA, 1);

	*(uint64_t *)(tss + TSS_IST1) = IST_GVA + PAGE_SIZE;
	idt[CP_VECTOR].ist = 1;
}

KVM_ONE_VCPU_TEST(events, interrupted_delivery_keeps_error_code, NULL)
{
	struct cet_call *call;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	give_cp_a_stack(vcpu->vm);

	call = cet_run(vcpu, guest_jump_off_endbr, CET_ENDBR_EN);
	TEST_ASSERT_EQ(call->vector, CP_VECTOR);
	TEST_ASSERT_EQ(call->error_code, CP_ENDBRANCH);
}

/* The stack comes with a shadow stack, from the interrupt SSP table. */
KVM_ONE_VCPU_TEST(events, interrupted_delivery_switches_shadow_stacks, NULL)
{
	const size_t token = PAGE_SIZE - sizeof(uint64_t);
	struct kvm_vm *vm = vcpu->vm;
	vm_vaddr_t ssp, alias, table;
	struct cet_call *call;
	uint64_t *busy;

	vm_init_cet(vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	give_cp_a_stack(vm);

	ssp = vm_alloc_shadow_stack(vm, &alias) + token;
	busy = addr_gva2hva(vm, alias + token);
	*busy = ssp;
	table = vm_vaddr_alloc_page(vm);
	((uint64_t *)addr_gva2hva(vm, table))[1] = ssp;
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, table);

	call = cet_run(vcpu, guest_smash_return, CET_SHSTK_EN);
	TEST_ASSERT_EQ(call->vector, CP_VECTOR);
	TEST_ASSERT_EQ(call->error_code, CP_NEAR_RET);
	TEST_ASSERT(*busy == (ssp | 1), "The handler's token is 0x%lx", *busy);
}

/* KVM doesn't intercept #CP, not even if user space debugs the guest. */
static void expect_cp_without_exit(struct kvm_vcpu *vcpu)
{
	struct cet_call *call;

	call = cet_run(vcpu, guest_jump_off_endbr, CET_SHSTK_EN | CET_ENDBR_EN);
	TEST_ASSERT_EQ(call->error_code, CP_ENDBRANCH);
	TEST_ASSERT_EQ(cet_call_exits(vcpu, guest_run,
				      (uint64_t)guest_jump_off_endbr,
				      CET_SHSTK_EN | CET_ENDBR_EN), 0);
}

KVM_ONE_VCPU_TEST(events, cp_costs_no_exit, NULL)
{
	struct kvm_guest_debug debug = {
		.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
	};

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	expect_cp_without_exit(vcpu);

	vcpu_guest_debug_set(vcpu, &debug);
	expect_cp_without_exit(vcpu);
}

#define SYNC_DOUBLE_FAULT	0xdf

static void guest_df_handler(struct ex_regs *regs)
{
	for (;;)
		GUEST_SYNC1(SYNC_DOUBLE_FAULT);
}

/*
 * User space makes an RDMSR fault while a #CP waits for delivery: the #GP comes
 * on top of the #CP.  Returns whether that made a #DF.
 */
static bool cp_and_gp_is_double_fault(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vm_install_exception_handler(vcpu->vm, DF_VECTOR, guest_df_handler);
	vm_enable_cap(vcpu->vm, KVM_CAP_X86_USER_SPACE_MSR,
		      KVM_MSR_EXIT_REASON_UNKNOWN);

	/* No MSR has this index. */
	cet_prepare(vcpu, guest_rdmsr, 0x474f4f00, 0);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_X86_RDMSR);

	inject_cp(vcpu, CP_NEAR_RET);
	vcpu->run->msr.error = 1;
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	if (uc.args[0] == SYNC_DOUBLE_FAULT)
		return true;

	TEST_ASSERT_EQ(cet_finish(vcpu)->vector, GP_VECTOR);
	return false;
}

KVM_ONE_VCPU_TEST(events, cp_contributes_to_double_fault, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	TEST_ASSERT(cp_and_gp_is_double_fault(vcpu),
		    "#CP, then #GP, is no #DF on a vCPU with CET");
}

/* One of the features is enough. */
KVM_ONE_VCPU_TEST(events, cp_contributes_with_shstk_only, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, false);
	TEST_ASSERT(cp_and_gp_is_double_fault(vcpu),
		    "#CP, then #GP, is no #DF on a vCPU with CET");
}

KVM_ONE_VCPU_TEST(events, cp_contributes_with_ibt_only, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, false, true);
	TEST_ASSERT(cp_and_gp_is_double_fault(vcpu),
		    "#CP, then #GP, is no #DF on a vCPU with CET");
}

KVM_ONE_VCPU_TEST(events, cp_is_benign_without_cet, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, false, false);
	TEST_ASSERT(!cp_and_gp_is_double_fault(vcpu),
		    "#CP, then #GP, is a #DF on a vCPU without CET");
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
