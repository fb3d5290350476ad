// SPDX-License-Identifier: GPL-2.0
/*
 * CET state and control registers when VM entries fail: KVM must not use what
 * an earlier event has left behind.
 */
#include "apic.h"
#include "kvm_test_harness.h"
#include "cet_nested.h"

static const struct cet_vmcs_state none;
static const struct cet_vmcs_state l1 = {
	CET_ENDBR_EN | 0x1000000, 0x1001000, 0x1002000,
};

static const struct cet_vmcs_state guest = {
	CET_SHSTK_EN | CET_WAIT_ENDBR | 0x2000000, 0x2001004, 0x2002001,
};

static const struct cet_vmcs_state host = {
	CET_ENDBR_EN | CET_SUPPRESS | 0x3000000, 0x3001000, 0x3002000,
};

FIXTURE(stale)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_SETUP(stale)
{
	vm_create_cet(&self->vcpu, true, true);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->guest = guest;
	self->n->host = host;
	self->n->l2 = l2_read_out_write;
	vcpu_set_cet_state(self->vcpu, &l1);
}

FIXTURE_TEARDOWN(stale)
{
	kvm_vm_free(self->vcpu->vm);
}

static const struct kvm_nested_state no_nested = {
	.size = sizeof(no_nested),
	.format = KVM_STATE_NESTED_FORMAT_VMX,
	.hdr.vmx.vmxon_pa = -1ull,
	.hdr.vmx.vmcs12_pa = -1ull,
};

/* The CPU refuses an entry of L1.  That is the last thing it has reported. */
static void fail_entry_of_l1(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state nested = no_nested;
	struct kvm_sregs sregs;

	vcpu_nested_state_set(vcpu, &nested);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.ldt.present = 1;
	sregs.ldt.unusable = 0;
	sregs.ldt.type = 15;
	vcpu_sregs_set(vcpu, &sregs);
	_vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_FAIL_ENTRY);
}

static void guest_out(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
}

static void run_to_out(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	regs.rip = (uint64_t)guest_out;
	regs.rflags = X86_EFLAGS_FIXED;
	vcpu_regs_set(vcpu, &regs);
	_vcpu_run(vcpu);
}

/*
 * The same because of one of L1's controls, which is a VMfail: KVM sets a TPR
 * threshold for a pending interrupt, and leaves it when the APIC is disabled.
 */
static void vmfail_of_l1(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state nested = no_nested;
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;

	vcpu_nested_state_set(vcpu, &nested);
	vcpu_set_cet_state(vcpu, &none);
	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);
	*(uint32_t *)&lapic.regs[APIC_SPIV] = 0x1ff;
	*(uint32_t *)&lapic.regs[APIC_TASKPRI] = 0xf0;
	*(uint32_t *)&lapic.regs[APIC_IRR + 0x70] = BIT(1);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic);
	run_to_out(vcpu);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.apic_base &= ~MSR_IA32_APICBASE_ENABLE;
	sregs.cr8 = 0;
	vcpu_sregs_set(vcpu, &sregs);
	run_to_out(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_FAIL_ENTRY);
	TEST_ASSERT_EQ(vcpu->run->fail_entry.hardware_entry_failure_reason,
		       INVALID_CONTROL_FIELD);
}

/* The forced exit must not be taken for that VMfail: vmcs12 has L1's state. */
TEST_F(stale, vmfail)
{
	struct kvm_nested_state nested = no_nested;
	struct kvm_x86_state *state;
	struct kvm_regs regs, expected;

	self->n->load_host = true;
	cet_run_l2_to_out(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	vcpu_nested_state_set(self->vcpu, &nested);
	vcpu_regs_get(self->vcpu, &expected);
	vcpu_expect_cet_state(self->vcpu, &host, "after forced exit");

	vmfail_of_l1(self->vcpu);
	vcpu_load_state(self->vcpu, state);
	vcpu_nested_state_set(self->vcpu, &nested);
	vcpu_regs_get(self->vcpu, &regs);
	TEST_ASSERT_EQ(regs.rip, expected.rip);
	TEST_ASSERT_EQ(regs.rflags, expected.rflags);
	vcpu_expect_cet_state(self->vcpu, &host, "after VMfail and forced exit");
	kvm_x86_state_cleanup(state);
}

/* L1 has L2's values: user space has set them after KVM_SET_NESTED_STATE. */
TEST_F(stale, msrs_lost)
{
	struct kvm_nested_state nested = no_nested;
	struct kvm_x86_state *state;

	self->n->load_guest = true;
	cet_run_l2_to_out(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	fail_entry_of_l1(self->vcpu);

	vcpu_load_state(self->vcpu, state);
	vcpu_set_cet_state(self->vcpu, &host);
	vcpu_nested_state_set(self->vcpu, &nested);
	vcpu_expect_cet_state(self->vcpu, &host, "after forced exit");
	kvm_x86_state_cleanup(state);
}

/* A value that no control loads isn't checked, and must not be loaded. */
TEST_F(stale, illegal_s_cet)
{
	struct kvm_nested_state nested = no_nested;
	struct cet_vmcs_state *vmcs12;
	struct kvm_x86_state *state;
	uint64_t s_cet;

	cet_run_l2_to_out(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	fail_entry_of_l1(self->vcpu);

	vmcs12 = (void *)&state->nested.data.vmx[0].vmcs12[VMCS12_GUEST_CET];
	vmcs12->s_cet = 0x40;
	vcpu_load_state(self->vcpu, state);
	vcpu_nested_state_set(self->vcpu, &nested);
	TEST_ASSERT(cet_get_msr(self->vcpu, MSR_IA32_S_CET, &s_cet), "no S_CET");
	TEST_ASSERT(s_cet != 0x40, "KVM took S_CET 0x%lx, with a reserved bit", s_cet);
	kvm_x86_state_cleanup(state);
}

/*
 * VMfail that KVM leaves to the CPU: the threshold is legal by itself, but above
 * the virtual TPR, which is 0 in the page.
 */
static void set_high_tpr_threshold(void)
{
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, cet_vmx->shadow_vmcs_gpa);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW);
	vmwrite(TPR_THRESHOLD, 0xf);
}

/* The guest owns CR4.CET: the read shadow of vmcs01 doesn't have it. */
static void set_cet_and_high_tpr_threshold(void)
{
	set_high_tpr_threshold();
	set_cr4(get_cr4() | X86_CR4_CET);
}

TEST_F(stale, cr4_cet_after_vmfail)
{
	struct kvm_sregs sregs;

	vcpu_set_cet_state(self->vcpu, &none);
	self->n->guest = none;
	self->n->host = none;
	self->n->prepare = set_cet_and_high_tpr_threshold;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_CONTROL_FIELD);
	vcpu_sregs_get(self->vcpu, &sregs);
	TEST_ASSERT(sregs.cr4 & X86_CR4_CET, "VMfail has cleared L1's CR4.CET");
}

static void set_cr0(uint64_t val)
{
	asm volatile("mov %0, %%cr0" : : "r"(val) : "memory");
}

/* The read shadow of CR0 lacks WP, that of CR4 has CET. */
static void mix_shadows_and_high_tpr_threshold(void)
{
	uint64_t cr0 = get_cr0(), cr4 = get_cr4();

	set_high_tpr_threshold();
	set_cr0((cr0 & ~X86_CR0_WP) | X86_CR0_CD);	/* exits */
	set_cr0(cr0 & ~X86_CR0_WP);			/* exits */
	set_cr0(cr0 | X86_CR0_WP);			/* doesn't */
	set_cr4((cr4 ^ X86_CR4_OSXSAVE) | X86_CR4_CET);	/* exits */
}

TEST_F(stale, l1_entry_after_vmfail)
{
	struct kvm_sregs sregs;

	vcpu_set_cet_state(self->vcpu, &none);
	self->n->guest = none;
	self->n->host = none;
	self->n->prepare = mix_shadows_and_high_tpr_threshold;
	cet_prepare(self->vcpu, guest_nested, 0, 0);
	_vcpu_run(self->vcpu);
	TEST_ASSERT(self->vcpu->run->exit_reason != KVM_EXIT_FAIL_ENTRY,
		    "L1 has CR4.CET without CR0.WP after VMfail");
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_CONTROL_FIELD);
	vcpu_sregs_get(self->vcpu, &sregs);
	TEST_ASSERT(sregs.cr0 & X86_CR0_WP, "VMfail has cleared L1's CR0.WP");
}

/* The same without CET, where only CR0.WP is at stake. */
static void set_wp_and_high_tpr_threshold(void)
{
	uint64_t cr0 = get_cr0();

	set_high_tpr_threshold();
	set_cr0((cr0 & ~X86_CR0_WP) | X86_CR0_CD);	/* exits */
	set_cr0(cr0 & ~X86_CR0_WP);			/* exits */
	set_cr0(cr0 | X86_CR0_WP);			/* doesn't */
}

TEST_F(stale, cr0_wp_after_vmfail)
{
	struct kvm_sregs sregs;

	vcpu_set_cet_state(self->vcpu, &none);
	self->n->guest = none;
	self->n->host = none;
	self->n->prepare = set_wp_and_high_tpr_threshold;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_CONTROL_FIELD);
	vcpu_sregs_get(self->vcpu, &sregs);
	TEST_ASSERT(sregs.cr0 & X86_CR0_WP, "VMfail has cleared L1's CR0.WP");
}

/* In prepare_arg: break a control that KVM has always checked early. */
#define BAD_CR3_TARGETS		BIT_ULL(63)

static void set_cr3_targets(void)
{
	vmwrite(CR3_TARGET_COUNT,
		cet_nested.prepare_arg & BAD_CR3_TARGETS ? 5 : 0);
}

static void set_tpr_threshold(void)
{
	set_high_tpr_threshold();
	vmwrite(TPR_THRESHOLD, (uint32_t)cet_nested.prepare_arg);
	set_cr3_targets();
}

static void set_tsc_multiplier(void)
{
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_USE_TSC_OFFSETTING |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmwrite(SECONDARY_VM_EXEC_CONTROL,
		vmreadz(SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_TSC_SCALING);
	vmwrite(TSC_MULTIPLIER, cet_nested.prepare_arg & ~BAD_CR3_TARGETS);
	set_cr3_targets();
}

/* VM exits of a VM entry that fails, KVM's own tries of it included */
static uint64_t exits_of_vmfail(struct kvm_vcpu *vcpu, struct cet_nested *n,
				uint64_t arg)
{
	uint64_t best = -1ull, exits;
	int i;

	n->prepare_arg = arg;
	/* Each host interrupt adds an exit. */
	for (i = 0; i < 5; i++) {
		exits = cet_vcpu_stat(vcpu, "exits");
		cet_run_nested(vcpu);
		exits = cet_vcpu_stat(vcpu, "exits") - exits;
		TEST_ASSERT_EQ(n->error, INVALID_CONTROL_FIELD);
		best = min(best, exits);
	}
	return best;
}

/*
 * KVM refuses a bad control before it has loaded L2's state, and doesn't try the
 * entry.  Each try of the CPU would be one more exit.
 */
static void expect_early_vmfail(struct kvm_vcpu *vcpu, struct cet_nested *n,
				void (*prepare)(void), uint64_t good,
				uint64_t bad)
{
	uint64_t early, exits;

	vcpu_set_cet_state(vcpu, &none);
	n->guest = none;
	n->host = none;
	n->prepare = prepare;
	early = exits_of_vmfail(vcpu, n, good | BAD_CR3_TARGETS);
	exits = exits_of_vmfail(vcpu, n, bad);
	TEST_ASSERT(exits == early, "0x%lx is refused after %lu exits, not %lu",
		    bad, exits, early);
}

TEST_F(stale, tpr_threshold_bits)
{
	int nr;

	for (nr = 4; nr < 32; nr += 9)
		expect_early_vmfail(self->vcpu, self->n, set_tpr_threshold, 0,
				    BIT(nr));
}

/* L1's multiplier is legal, but scaled down to 0 in a slow VM. */
TEST_F(stale, tsc_multiplier_small)
{
	long khz = __vcpu_ioctl(self->vcpu, KVM_GET_TSC_KHZ, NULL);

	TEST_ASSERT(!__vcpu_ioctl(self->vcpu, KVM_SET_TSC_KHZ, (void *)(khz / 2)),
		    "KVM_SET_TSC_KHZ failed, errno %d", errno);
	vcpu_set_cet_state(self->vcpu, &none);
	self->n->guest = none;
	self->n->host = none;
	self->n->l2 = l2_nop;
	self->n->prepare = set_tsc_multiplier;
	self->n->prepare_arg = 1;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
}

TEST_F(stale, tsc_multiplier_0)
{
	expect_early_vmfail(self->vcpu, self->n, set_tsc_multiplier, BIT(48), 0);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
