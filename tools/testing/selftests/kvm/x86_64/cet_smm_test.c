// SPDX-License-Identifier: GPL-2.0
/*
 * SMM: the SMI stores SSP and clears it, RSM loads it, and the other CET state
 * is left alone.
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

/* More than SMM, which is not 64-bit mode, can have in SSP. */
#define SSP			0x123456789abc

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
	TEST_ASSERT(!get_ssp(vcpu), "SSP = 0x%lx in SMM", get_ssp(vcpu));
	expect_returned(vcpu);
	TEST_ASSERT_EQ(get_ssp(vcpu), ssp + 16);
}

/* The guest goes on to use the shadow stack that the handler gave to it. */
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
		TEST_ASSERT_EQ(get_ssp(vcpu), 0);
		*slot = good[i];
		leave_smm(vcpu);
		TEST_ASSERT_EQ(get_ssp(vcpu), good[i]);
	}
}

/* Nothing of SSP is in SMRAM, nor comes from there. */
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

/* But for CR4.CET, SMM changes nothing of what is not in SMRAM. */
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

/* Shadow stacks need not be enabled for RSM to look at SSP. */
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

	return test_harness_run(argc, argv);
}
