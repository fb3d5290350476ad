// SPDX-License-Identifier: GPL-2.0
/*
 * SMM: the SMI stores SSP, RSM loads it, and the other CET state is left alone.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* The memory slot is one of SMM's address space. */
#define SMRAM_GPA		0x1000000
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_PAGES		16
#define SMRAM_HANDLER		0x8000
#define SMRAM_SSP		0xff18

#define SMI_PORT		0x81

/* Code for a mode without paging */
#define CODE_GPA		0x2000000
#define CODE_SLOT		2

/* SMM is not 64-bit mode: the emulated CPU wants 32 bits of SSP there. */
#define SSP			0x56789abc

/* Handlers of SMI, in 16-bit code: they wait for the host, then RSM. */
static const uint8_t smi_handler[16] = {
	0xe6, SMI_PORT,			/* out %al, $SMI_PORT */
	0x0f, 0xaa,			/* rsm */
};

static const uint8_t smi_handler_wp[16] = {
	0x0f, 0x20, 0xc0,		/* mov %cr0, %eax */
	0x66, 0x0f, 0xba, 0xf0, 0x10,	/* btr $16, %eax, that is CR0.WP */
	0x0f, 0x22, 0xc0,		/* mov %eax, %cr0 */
	0xe6, SMI_PORT,			/* out %al, $SMI_PORT */
	0x0f, 0xaa,			/* rsm */
};

static void guest_outs(struct cet_call *call)
{
	for (;;)
		asm volatile("out %%al, %0" : : "i"(CET_PORT));
}

/* The vCPU has run to an OUT; complete that. */
static void expect_out(struct kvm_vcpu *vcpu, uint16_t port)
{
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, port);
	vcpu_run_complete_io(vcpu);
}

static void init_smm(struct kvm_vcpu *vcpu, bool shstk, bool ibt)
{
	struct kvm_vm *vm = vcpu->vm;

	vm_init_cet(vm);
	vcpu_init_cet(vcpu, shstk, ibt);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vcpu_set_msr(vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
}

/* Run @vcpu, by an SMI, into @handler's OUT.  Returns where the SMI put SSP. */
static uint64_t *enter_smm(struct kvm_vcpu *vcpu, const uint8_t *handler)
{
	void *smram = addr_gpa2hva(vcpu->vm, SMRAM_GPA);
	struct kvm_vcpu_events events;

	memset(smram, 0xff, SMRAM_PAGES * PAGE_SIZE);
	memcpy(smram + SMRAM_HANDLER, handler, sizeof(smi_handler));

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = true;
	vcpu_events_set(vcpu, &events);

	vcpu_run(vcpu);
	expect_out(vcpu, SMI_PORT);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, true);

	return smram + SMRAM_SSP;
}

/* Run @vcpu by RSM back to guest_outs(). */
static void leave_smm(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_run(vcpu);
	expect_out(vcpu, CET_PORT);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, false);
}

static void prepare_outs(struct kvm_vcpu *vcpu)
{
	cet_prepare(vcpu, guest_outs, 0, 0);
	vcpu_run(vcpu);
	expect_out(vcpu, CET_PORT);
}

static uint64_t get_ssp(struct kvm_vcpu *vcpu)
{
	uint64_t ssp;

	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	return ssp;
}

/*
 * Stop in the midst of guest_exit_and_return(), on the shadow stack.  Returns
 * the host's address of the last entry there; the one above it is guest_run()'s.
 */
static uint64_t *run_to_shadow_stack(struct kvm_vcpu *vcpu)
{
	cet_enable(vcpu);
	cet_prepare_run(vcpu, guest_exit_and_return, CET_SHSTK_EN);
	vcpu_run(vcpu);
	expect_out(vcpu, CET_PORT);

	return cet_shadow_stack_hva(vcpu->vm) - 2;
}

static void expect_returned(struct kvm_vcpu *vcpu)
{
	struct cet_call *call;

	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT(!call->vector, "RET after RSM: vector %lu, error code %lu",
		    call->vector, call->error_code);
	TEST_ASSERT_EQ(call->ret, 1);
}

KVM_ONE_VCPU_TEST_SUITE(smm);

KVM_ONE_VCPU_TEST(smm, smi_stores_ssp, NULL)
{
	uint64_t *slot, ssp;

	init_smm(vcpu, true, true);
	run_to_shadow_stack(vcpu);
	ssp = get_ssp(vcpu);

	slot = enter_smm(vcpu, smi_handler);
	TEST_ASSERT(*slot == ssp, "SMRAM has SSP = 0x%lx, not 0x%lx", *slot,
		    ssp);
	expect_returned(vcpu);
	TEST_ASSERT_EQ(get_ssp(vcpu), ssp + 16);
}

/* The guest continues on the shadow stack that the handler gave to it. */
KVM_ONE_VCPU_TEST(smm, rsm_moves_shadow_stack, NULL)
{
	uint64_t *slot, *top, moved;

	init_smm(vcpu, true, true);
	top = run_to_shadow_stack(vcpu);

	slot = enter_smm(vcpu, smi_handler);
	memcpy(top - 32, top, 2 * sizeof(*top));
	memset(top, 0, 2 * sizeof(*top));
	*slot -= 32 * sizeof(*top);
	moved = *slot;

	expect_returned(vcpu);
	TEST_ASSERT_EQ(get_ssp(vcpu), moved + 16);
}

KVM_ONE_VCPU_TEST(smm, rsm_loads_ssp, NULL)
{
	static const uint64_t good[] = {
		4, 0xfffffffc, 0x100000000, 0x7ffffffffffc,
		0xffff800000000000, 0xfffffffffffffffc, 0,
	};
	uint64_t *slot;
	int i;

	init_smm(vcpu, true, true);
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		prepare_outs(vcpu);
		vcpu_set_reg(vcpu, SSP_ID, SSP);
		slot = enter_smm(vcpu, smi_handler);
		TEST_ASSERT_EQ(*slot, SSP);
		*slot = good[i];
		leave_smm(vcpu);
		TEST_ASSERT_EQ(get_ssp(vcpu), good[i]);
	}
}

/*
 * SSP points there when the last entry of the uppermost shadow stack is popped.
 * Not every emulated processor lets a guest run with it.
 */
KVM_ONE_VCPU_TEST(smm, rsm_loads_ssp_behind_canonical, NULL)
{
	const uint64_t ssp = BIT_ULL(47);
	uint64_t *slot;

	init_smm(vcpu, true, true);
	prepare_outs(vcpu);
	vcpu_set_reg(vcpu, SSP_ID, SSP);
	slot = enter_smm(vcpu, smi_handler);
	TEST_ASSERT_EQ(*slot, SSP);
	*slot = ssp;
	_vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason != KVM_EXIT_SHUTDOWN,
		    "Shutdown by RSM with SSP = 0x%lx", ssp);
	TEST_ASSERT_EQ(get_ssp(vcpu), ssp);
}

/* The SMI does not store SSP, and RSM does not load it. */
static void expect_no_ssp(struct kvm_vcpu *vcpu)
{
	uint64_t *slot;

	prepare_outs(vcpu);
	slot = enter_smm(vcpu, smi_handler);
	TEST_ASSERT(!*slot, "SMRAM has SSP = 0x%lx", *slot);
	*slot = 0x1001;
	leave_smm(vcpu);
}

/* SSP has a value from when the vCPU had shadow stacks. */
KVM_ONE_VCPU_TEST(smm, no_ssp_with_ibt_only, NULL)
{
	init_smm(vcpu, true, true);
	vcpu_set_reg(vcpu, SSP_ID, 0x1000);
	vcpu_init_cet(vcpu, false, true);
	expect_no_ssp(vcpu);
}

KVM_ONE_VCPU_TEST(smm, no_ssp_without_features, NULL)
{
	init_smm(vcpu, false, false);
	expect_no_ssp(vcpu);
}

static void expect_sregs(struct kvm_vcpu *vcpu, uint64_t wp, uint64_t cet)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr0 & X86_CR0_WP, wp);
	TEST_ASSERT_EQ(sregs.cr4 & X86_CR4_CET, cet);
}

/* CR4.CET demands CR0.WP, which RSM has to load first. */
KVM_ONE_VCPU_TEST(smm, rsm_with_wp_clear, NULL)
{
	init_smm(vcpu, true, true);
	cet_enable(vcpu);
	prepare_outs(vcpu);
	enter_smm(vcpu, smi_handler_wp);
	expect_sregs(vcpu, 0, 0);
	leave_smm(vcpu);
	expect_sregs(vcpu, X86_CR0_WP, X86_CR4_CET);
}

/* The control: such a handler works. */
KVM_ONE_VCPU_TEST(smm, rsm_with_wp_clear_without_cet, NULL)
{
	init_smm(vcpu, false, false);
	prepare_outs(vcpu);
	enter_smm(vcpu, smi_handler_wp);
	expect_sregs(vcpu, 0, 0);
	leave_smm(vcpu);
	expect_sregs(vcpu, X86_CR0_WP, 0);
}

/* SMM leaves alone what is not in SMRAM, except CR4.CET. */
KVM_ONE_VCPU_TEST(smm, msrs_kept, NULL)
{
	int i;

	init_smm(vcpu, true, true);
	cet_enable(vcpu);
	prepare_outs(vcpu);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));

	enter_smm(vcpu, smi_handler);
	expect_sregs(vcpu, X86_CR0_WP, 0);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));

	leave_smm(vcpu);
	expect_sregs(vcpu, X86_CR0_WP, X86_CR4_CET);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));
}

/*
 * Without 64-bit mode, SMRAM has no room for SSP: it stays in the processor.
 * The vCPU has to be in a mode that it supports.
 */
KVM_ONE_VCPU_TEST(smm, ssp_kept_without_lm, NULL)
{
	static const uint8_t outs[] = {
		0xe6, CET_PORT,			/* 1: out %al, $CET_PORT */
		0xeb, 0xfc,			/* jmp 1b */
	};
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 0xb, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint64_t *slot;

	init_smm(vcpu, true, true);
	vm_userspace_mem_region_add(vcpu->vm, VM_MEM_SRC_ANONYMOUS, CODE_GPA,
				    CODE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vcpu->vm, CODE_GPA), outs, sizeof(outs));

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 &= ~X86_CR0_PG;
	sregs.cr4 = 0;
	sregs.efer = 0;
	sregs.cs = flat;
	flat.type = 3;
	sregs.ds = flat;
	sregs.es = flat;
	sregs.ss = flat;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_LM);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = CODE_GPA;
	vcpu_regs_set(vcpu, &regs);
	vcpu_run(vcpu);
	expect_out(vcpu, CET_PORT);

	vcpu_set_reg(vcpu, SSP_ID, 0x1000);
	slot = enter_smm(vcpu, smi_handler);
	TEST_ASSERT(*slot != 0x1000, "The 32-bit map has SSP");
	TEST_ASSERT_EQ(get_ssp(vcpu), 0x1000);
	*slot = 0x1001;
	leave_smm(vcpu);
	TEST_ASSERT_EQ(get_ssp(vcpu), 0x1000);
}

/* What L1 has VM exit load to IA32_U_CET. */
#define L1_U_CET	(0x4000 | CET_ENDBR_EN)

/* All of these are guest data. */
static struct vmx_msr_entry exit_load __aligned(16) = {
	.index = MSR_IA32_U_CET, .value = L1_U_CET,
};

static struct vmx_pages *vmx;
static struct cet_call *l2_call;
static uint64_t exit_load_gpa;

static void l2_run(void)
{
	guest_run(l2_call);
	vmcall();
}

/* L1: run guest_run(), but in L2, with no MSR intercepted. */
static void guest_run_in_l2(struct cet_call *call)
{
	l2_call = call;
	guest_prepare_l2(vmx, l2_run);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, exit_load_gpa);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

static bool is_in_l2(struct kvm_vcpu *vcpu)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	bool l2 = state->nested.flags & KVM_STATE_NESTED_GUEST_MODE;

	kvm_x86_state_cleanup(state);
	return l2;
}

#define L2_S_CET	(CET_SHSTK_EN | CET_ENDBR_EN | CET_NO_TRACK_EN)

/* Stop in the midst of guest_exit_and_return() in L2. */
static void run_to_shadow_stack_of_l2(struct kvm_vcpu *vcpu)
{
	vm_vaddr_t gva;

	init_smm(vcpu, true, true);
	vcpu_alloc_vmx(vcpu->vm, &gva);
	write_guest_global(vcpu->vm, vmx, (struct vmx_pages *)gva);
	write_guest_global(vcpu->vm, exit_load_gpa,
			   addr_gva2gpa(vcpu->vm, (vm_vaddr_t)&exit_load));

	cet_enable(vcpu);
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0x4000);
	cet_prepare_run(vcpu, guest_exit_and_return, L2_S_CET)->fn =
		guest_run_in_l2;
	vcpu_run(vcpu);
	expect_out(vcpu, CET_PORT);
	TEST_ASSERT(is_in_l2(vcpu), "The vCPU is not in L2");
}

/*
 * KVM leaves L2 for SMM, and RSM enters it again.  L2 has a VMCS of its own,
 * but continues with its state.  There is no VM exit to L1 before the end of
 * L2.
 */
KVM_ONE_VCPU_TEST(smm, smi_in_l2, NULL)
{
	uint64_t *slot, ssp, vals[CET_NR_MSRS];
	struct cet_call *call;
	int i;

	run_to_shadow_stack_of_l2(vcpu);
	ssp = get_ssp(vcpu);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT(cet_get_msr(vcpu, cet_msrs[i], &vals[i]),
			    "KVM_GET_MSRS refused %s",
			    cet_msr_name(cet_msrs[i]));
	cet_expect_msr(vcpu, MSR_IA32_S_CET, L2_S_CET);
	cet_expect_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0x4000);

	slot = enter_smm(vcpu, smi_handler);
	TEST_ASSERT_EQ(*slot, ssp);
	TEST_ASSERT(!is_in_l2(vcpu), "The vCPU is in L2 and in SMM");
	expect_sregs(vcpu, X86_CR0_WP, 0);
	TEST_ASSERT_EQ(get_ssp(vcpu), ssp);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], vals[i]);

	/* Return on L2's shadow stack, and to L1, which is not on one. */
	vcpu_run(vcpu);
	call = cet_finish(vcpu);
	TEST_ASSERT(!call->vector, "RET in L2: vector %lu, error code %lu",
		    call->vector, call->error_code);
	TEST_ASSERT_EQ(call->ret, 1);
	TEST_ASSERT_EQ(get_ssp(vcpu), ssp + 16);
	expect_sregs(vcpu, X86_CR0_WP, X86_CR4_CET);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i],
			       cet_msrs[i] == MSR_IA32_U_CET ? L1_U_CET :
			       cet_msrs[i] == MSR_IA32_S_CET ? 0 : vals[i]);
}

/* The shutdown happens in L1. */
KVM_ONE_VCPU_TEST(smm, rsm_to_l2_shuts_down, NULL)
{
	run_to_shadow_stack_of_l2(vcpu);
	*enter_smm(vcpu, smi_handler) |= 1;
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!is_in_l2(vcpu), "The vCPU is in L2");
}

FIXTURE(bad_ssp)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(bad_ssp)
{
	uint64_t ssp;
};

FIXTURE_VARIANT_ADD(bad_ssp, odd) { .ssp = 0x1001 };
FIXTURE_VARIANT_ADD(bad_ssp, not_4_aligned) { .ssp = 0x1002 };
FIXTURE_VARIANT_ADD(bad_ssp, non_canonical) { .ssp = 0x8000000000000000 };

FIXTURE_SETUP(bad_ssp)
{
	vm_create_with_one_vcpu(&self->vcpu, NULL);
	init_smm(self->vcpu, true, true);
}

FIXTURE_TEARDOWN(bad_ssp)
{
	kvm_vm_free(self->vcpu->vm);
}

/* RSM checks SSP even if shadow stacks are not enabled. */
TEST_F(bad_ssp, rsm_shuts_down)
{
	prepare_outs(self->vcpu);
	*enter_smm(self->vcpu, smi_handler) = variant->ssp;
	vcpu_run(self->vcpu);
	TEST_ASSERT(self->vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN,
		    "No shutdown by RSM with SSP = 0x%lx", variant->ssp);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
