// SPDX-License-Identifier: GPL-2.0
/*
 * #CP from user space, its part in double faults, and what INIT does to CET.
 */
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

/* In the midst of a function that runs on the shadow stack. */
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

#define SYNC_DOUBLE_FAULT	0xdf

static void guest_df_handler(struct ex_regs *regs)
{
	for (;;)
		GUEST_SYNC1(SYNC_DOUBLE_FAULT);
}

/*
 * An RDMSR that user space lets fault, while a #CP waits for delivery: the
 * #GP comes on top of the #CP.  Returns whether that made a #DF.
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

KVM_ONE_VCPU_TEST(events, cp_is_benign_without_cet, NULL)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, false, false);
	TEST_ASSERT(!cp_and_gp_is_double_fault(vcpu),
		    "#CP, then #GP, is a #DF on a vCPU without CET");
}

FIXTURE(init)
{
	struct kvm_vcpu *vcpu;
	/* Another one, so not the bootstrap processor: it waits for SIPI. */
	struct kvm_vcpu *ap;
};

FIXTURE_SETUP(init)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);

	self->ap = vm_vcpu_add(vm, 1, NULL);
	vcpu_init_cet(self->ap, true, true);
}

FIXTURE_TEARDOWN(init)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_cet_state(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_CET;
	TEST_ASSERT(!_vcpu_sregs_set(vcpu, &sregs),
		    "KVM_SET_SREGS refused CR4.CET");
}

static void pend_init(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags = KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = true;
	vcpu_events_set(vcpu, &events);
}

/* INIT clears all but XSS. */
static void expect_cleared(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], 0);
	cet_expect_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr4 & X86_CR4_CET, 0);
}

/* KVM_GET_MP_STATE is what processes the INIT, with no guest FPU loaded. */
TEST_F(init, init_before_first_run)
{
	struct kvm_mp_state mp_state;

	set_cet_state(self->ap);
	pend_init(self->ap);
	vcpu_mp_state_get(self->ap, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	expect_cleared(self->ap);
}

TEST_F(init, init_between_runs)
{
	struct kvm_mp_state mp_state;

	cet_call(self->ap, guest_nop, 0, 0);
	set_cet_state(self->ap);
	pend_init(self->ap);
	vcpu_mp_state_get(self->ap, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	expect_cleared(self->ap);
}

/* The page in whose last 16 bytes a processor starts. */
#define RESET_PAGE		0xfffff000ul
#define RESET_SLOT		10

TEST_F(init, init_in_run)
{
	struct kvm_run *run = self->vcpu->run;

	vm_userspace_mem_region_add(self->vcpu->vm, VM_MEM_SRC_ANONYMOUS,
				    RESET_PAGE, RESET_SLOT, 1, 0);
	memcpy(addr_gpa2hva(self->vcpu->vm, RESET_PAGE), guest_init_page,
	       PAGE_SIZE);

	set_cet_state(self->vcpu);
	pend_init(self->vcpu);
	vcpu_run(self->vcpu);

	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, CET_PORT);
	TEST_ASSERT_EQ(*(uint32_t *)((void *)run + run->io.data_offset), 0);
	expect_cleared(self->vcpu);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
