// SPDX-License-Identifier: GPL-2.0
/*
 * CET state that VM entry and VM exit load: where S_CET, SSP and the interrupt
 * SSP table's address of L1 and of L2 come from and go to, in all combinations
 * of the two controls.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

/* With CR4.CET clear, these have no effect. */
static const struct cet_vmcs_state l1 = {
	CET_ENDBR_EN | 0x1000000, 0x1001000, 0x1002000,
};

static const struct cet_vmcs_state guest = {
	CET_SHSTK_EN | CET_WAIT_ENDBR | 0x2000000, 0x2001004, 0x2002001,
};

static const struct cet_vmcs_state host = {
	CET_ENDBR_EN | CET_SUPPRESS | 0x3000000, 0x3001000, 0x3002000,
};

static const struct cet_vmcs_state l2 = {
	CET_WRSS_EN | CET_NO_TRACK_EN | 0x4000000, 0x400100c, 0x4002003,
};

/* Guest data.  Aligned so as not to cross a page. */
static struct {
	struct vmx_msr_entry entry_load[CET_NR_MSRS + 1];
	struct vmx_msr_entry exit_load[CET_NR_MSRS + 1];
} msr_lists __aligned(512);

FIXTURE(load)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(load)
{
	bool entry, exit;
};

FIXTURE_VARIANT_ADD(load, neither) { };
FIXTURE_VARIANT_ADD(load, guest) { .entry = true };
FIXTURE_VARIANT_ADD(load, host) { .exit = true };
FIXTURE_VARIANT_ADD(load, both) { .entry = true, .exit = true };

FIXTURE_SETUP(load)
{
	vm_create_cet(&self->vcpu, true, true);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->load_guest = variant->entry;
	self->n->load_host = variant->exit;
	self->n->guest = guest;
	self->n->host = host;
	self->n->l2 = l2_read_out_write;
	self->n->l2_write_s_cet = l2.s_cet;
	self->n->l2_write_ssp_tbl = l2.ssp_tbl;
	vcpu_set_cet_state(self->vcpu, &l1);
}

FIXTURE_TEARDOWN(load)
{
	kvm_vm_free(self->vcpu->vm);
}

/* L2 has read its MSRs, and is at its OUT.  From there, it has state l2. */
static void expect_l2(struct kvm_vcpu *vcpu, struct cet_nested *n,
		      const struct cet_vmcs_state *state, const char *when)
{
	TEST_ASSERT(n->l2_s_cet == state->s_cet, "%s: S_CET is 0x%lx, not 0x%lx",
		    when, n->l2_s_cet, state->s_cet);
	TEST_ASSERT(n->l2_ssp_tbl == state->ssp_tbl,
		    "%s: SSP table is 0x%lx, not 0x%lx", when, n->l2_ssp_tbl,
		    state->ssp_tbl);
	vcpu_expect_cet_state(vcpu, state, when);
	vcpu_set_reg(vcpu, SSP_ID, l2.ssp);
}

static void finish_l2(struct kvm_vcpu *vcpu, struct cet_nested *n)
{
	vcpu_run(vcpu);
	cet_finish_nested(vcpu);
	TEST_ASSERT_EQ(n->error, 0);
	TEST_ASSERT_EQ(n->reason, EXIT_REASON_VMCALL);
	cet_expect_state(&n->saved, &l2, "saved by VM exit");
}

static void expect_l1(struct kvm_vcpu *vcpu, struct cet_nested *n,
		      const struct cet_vmcs_state *state, const char *when)
{
	TEST_ASSERT(n->l1_s_cet == state->s_cet, "%s: S_CET is 0x%lx, not 0x%lx",
		    when, n->l1_s_cet, state->s_cet);
	TEST_ASSERT(n->l1_ssp_tbl == state->ssp_tbl,
		    "%s: SSP table is 0x%lx, not 0x%lx", when, n->l1_ssp_tbl,
		    state->ssp_tbl);
	vcpu_expect_cet_state(vcpu, state, when);
}

TEST_F(load, entry_and_exit)
{
	cet_run_l2_to_out(self->vcpu);
	expect_l2(self->vcpu, self->n, variant->entry ? &guest : &l1, "L2");
	finish_l2(self->vcpu, self->n);
	expect_l1(self->vcpu, self->n, variant->exit ? &host : &l2, "L1");
}

static const struct cet_vmcs_state other = {
	CET_LEG_IW_EN | 0x5000000, 0x5001000, 0x5002000,
};

static void l2_again(void)
{
	for (;;)
		l2_read_out_write();
}

/* Have L2 continue after its VMCALL. */
static void skip_vmcall(void)
{
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + 3);
}

static void run_l2_once(struct kvm_vcpu *vcpu, struct cet_nested *n)
{
	n->l2 = l2_again;
	cet_run_l2_to_out(vcpu);
	expect_l2(vcpu, n, n->load_guest ? &guest : &l1, "L2");
	finish_l2(vcpu, n);
	expect_l1(vcpu, n, n->load_host ? &host : &l2, "L1");
	n->resume = true;
	n->prepare = skip_vmcall;
}

/*
 * Since the VM exit, L1 has not written a field that seldom changes: KVM need
 * not look at these.
 */
TEST_F(load, resume)
{
	run_l2_once(self->vcpu, self->n);
	vcpu_set_cet_state(self->vcpu, &other);
	cet_run_l2_to_out(self->vcpu);
	expect_l2(self->vcpu, self->n, variant->entry ? &l2 : &other,
		  "L2 again");
	finish_l2(self->vcpu, self->n);
	expect_l1(self->vcpu, self->n, variant->exit ? &host : &l2, "L1 again");
}

static void skip_vmcall_and_write_fields(void)
{
	skip_vmcall();
	vmwrite(GUEST_S_CET, cet_nested.guest.s_cet);
	vmwrite(GUEST_SSP, cet_nested.guest.ssp);
	vmwrite(GUEST_INTR_SSP_TABLE, cet_nested.guest.ssp_tbl);
}

/* L1 has written the CET fields, and no others. */
TEST_F(load, resume_after_vmwrite)
{
	const struct cet_vmcs_state *now = variant->exit ? &host : &l2;

	run_l2_once(self->vcpu, self->n);
	self->n->guest = other;
	self->n->prepare = skip_vmcall_and_write_fields;
	cet_run_l2_to_out(self->vcpu);
	expect_l2(self->vcpu, self->n, variant->entry ? &other : now,
		  "L2 again");
	finish_l2(self->vcpu, self->n);
	expect_l1(self->vcpu, self->n, now, "L1 again");
}

/* Each VM entry looks at the controls as they are then. */
TEST_F(load, resume_with_other_controls)
{
	const struct cet_vmcs_state *now = variant->exit ? &host : &l2;

	run_l2_once(self->vcpu, self->n);
	self->n->load_guest = !variant->entry;
	self->n->load_host = !variant->exit;
	cet_run_l2_to_out(self->vcpu);
	expect_l2(self->vcpu, self->n, variant->entry ? now : &l2, "L2 again");
	finish_l2(self->vcpu, self->n);
	expect_l1(self->vcpu, self->n, variant->exit ? &l2 : &host, "L1 again");
}

/* L1 and L2 share what XSAVES manages, whatever the controls are. */
TEST_F(load, xsave_msrs_shared)
{
	int i;

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
		cet_set_msr(self->vcpu, cet_xsave_msrs[i], cet_value(1, i));
	cet_run_l2_to_out(self->vcpu);
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		cet_expect_msr(self->vcpu, cet_xsave_msrs[i], cet_value(1, i));
		cet_set_msr(self->vcpu, cet_xsave_msrs[i], cet_value(2, i));
	}
	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_xsave_msrs[i], cet_value(2, i));
}

/* VM entries that fail.  L1 then has its own state, or what VM exit loads. */
static void clear_guest_vmxe(void)
{
	vmwrite(GUEST_CR4, vmreadz(GUEST_CR4) & ~X86_CR4_VMXE);
}

static void load_fs_base(void)
{
	/* FS_BASE is not allowed in a list. */
	msr_lists.entry_load[0].index = MSR_FS_BASE;
	vmwrite(VM_ENTRY_MSR_LOAD_ADDR, cet_nested.prepare_arg);
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, 1);
}

static void clear_host_vmxe(void)
{
	vmwrite(HOST_CR4, vmreadz(HOST_CR4) & ~X86_CR4_VMXE);
}

/* L1 is as it should be, VM exit has stored nothing, and VM entry works. */
static void expect_failed(struct kvm_vcpu *vcpu, struct cet_nested *n,
			  const struct cet_vmcs_state *state)
{
	const struct cet_vmcs_state written = n->guest;

	cet_expect_state(&n->saved, &written, "fields");
	expect_l1(vcpu, n, state, "L1");

	n->prepare = NULL;
	n->guest = guest;
	cet_run_l2_to_out(vcpu);
	expect_l2(vcpu, n, n->load_guest ? &guest : state, "L2");
	finish_l2(vcpu, n);
}

TEST_F(load, bad_guest_state)
{
	self->n->prepare = clear_guest_vmxe;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);
	expect_failed(self->vcpu, self->n, variant->exit ? &host : &l1);
}

/* The fields are ignored if they are not loaded. */
TEST_F(load, bad_guest_state_and_fields)
{
	self->n->prepare = clear_guest_vmxe;
	self->n->guest = (struct cet_vmcs_state) {
		0x7000000000000040, 0x7000000000000001, 0x7000000000000000,
	};
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, INVALID_GUEST_STATE);
	expect_failed(self->vcpu, self->n, variant->exit ? &host : &l1);
}

TEST_F(load, bad_msr_list)
{
	self->n->prepare = load_fs_base;
	self->n->prepare_arg = addr_gva2gpa(self->vcpu->vm,
					    (vm_vaddr_t)&msr_lists);
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, MSR_LOAD_FAILED);
	expect_failed(self->vcpu, self->n, variant->exit ? &host : &l1);
}

TEST_F(load, bad_host_state)
{
	self->n->prepare = clear_host_vmxe;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_HOST_STATE_FIELD);
	expect_failed(self->vcpu, self->n, &l1);
}

static struct vmx_msr_entry msr_entry(uint32_t msr, uint64_t val)
{
	return (struct vmx_msr_entry) { .index = msr, .value = val };
}

static void set_msr_lists(void)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		msr_lists.entry_load[i] = msr_entry(cet_msrs[i], cet_value(5, i));
		msr_lists.exit_load[i] = msr_entry(cet_msrs[i], cet_value(6, i));
	}
	msr_lists.entry_load[i] = msr_entry(MSR_IA32_XSS, XFEATURE_MASK_CET);
	msr_lists.exit_load[i++] = msr_entry(MSR_IA32_XSS,
					     XFEATURE_MASK_CET_USER);
	vmwrite(VM_ENTRY_MSR_LOAD_ADDR, cet_nested.prepare_arg);
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, i);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, cet_nested.prepare_arg +
				       sizeof(msr_lists.entry_load));
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, i);
}

/* The lists are loaded last. */
TEST_F(load, msr_lists_override)
{
	int i;

	self->n->prepare = set_msr_lists;
	self->n->prepare_arg = addr_gva2gpa(self->vcpu->vm,
					    (vm_vaddr_t)&msr_lists);
	cet_run_l2_to_out(self->vcpu);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i], cet_value(5, i));
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i], cet_value(6, i));
	cet_expect_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_USER);
}

/* Without shadow stacks, VM entry and VM exit load S_CET all the same. */
FIXTURE(ibt_only)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(ibt_only)
{
	vm_create_cet(&self->vcpu, false, true);
}

FIXTURE_TEARDOWN(ibt_only)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(ibt_only, entry_and_exit)
{
	struct cet_nested *n = vcpu_init_cet_nested(self->vcpu);

	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_ENDBR_EN);
	n->load_guest = true;
	n->load_host = true;
	n->guest.s_cet = CET_LEG_IW_EN;
	n->host.s_cet = CET_NO_TRACK_EN;
	n->l2 = l2_read_out_write;
	n->l2_write_s_cet = CET_SUPPRESS;
	cet_run_l2_to_out(self->vcpu);
	TEST_ASSERT_EQ(n->l2_s_cet, CET_LEG_IW_EN);
	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(n->saved.s_cet, CET_SUPPRESS);
	TEST_ASSERT_EQ(n->l1_s_cet, CET_NO_TRACK_EN);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
