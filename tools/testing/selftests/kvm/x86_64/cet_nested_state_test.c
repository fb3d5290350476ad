// SPDX-License-Identifier: GPL-2.0
/*
 * An L2 that is interrupted from outside: by save and restore in a new VM, by
 * an SMI, or by an ioctl that makes it leave.  L1's state waits in vmcs12, or
 * is L2's.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

/* The memory slot is one of SMM's address space. */
#define SMRAM_GPA		0x1000000
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_PAGES		16
#define SMRAM_HANDLER		0x8000
#define SMI_PORT		0x81

/* In 16-bit code: out %al, $SMI_PORT; rsm */
static const uint8_t smi_handler[] = { 0xe6, SMI_PORT, 0x0f, 0xaa };

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

/* L2's state in the end */
static const struct cet_vmcs_state l2_end = {
	CET_LEG_IW_EN | 0x5000000, 0x400100c, 0x5002003,
};

static struct cet_vmcs_state *vmcs12_state(struct kvm_x86_state *state,
					   int offset)
{
	return (void *)&state->nested.data.vmx[0].vmcs12[offset];
}

static void intercept_cp(void)
{
	vmwrite(EXCEPTION_BITMAP, BIT(CP_VECTOR));
}

FIXTURE(state)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

FIXTURE_VARIANT(state)
{
	bool entry, exit;
};

FIXTURE_VARIANT_ADD(state, neither) { };
FIXTURE_VARIANT_ADD(state, guest) { .entry = true };
FIXTURE_VARIANT_ADD(state, host) { .exit = true };
FIXTURE_VARIANT_ADD(state, both) { .entry = true, .exit = true };

/* L2 is active, with state l2, which is neither in vmcs12 nor L1's. */
FIXTURE_SETUP(state)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vcpu_set_msr(self->vcpu, MSR_IA32_SMBASE, SMRAM_GPA);

	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->load_guest = variant->entry;
	self->n->load_host = variant->exit;
	self->n->guest = guest;
	self->n->host = host;
	self->n->l2 = l2_read_out_write;
	self->n->l2_write_s_cet = l2_end.s_cet;
	self->n->l2_write_ssp_tbl = l2_end.ssp_tbl;
	self->n->prepare = intercept_cp;
	vcpu_set_cet_state(self->vcpu, &l1);

	cet_run_l2_to_out(self->vcpu);
	vcpu_expect_cet_state(self->vcpu, variant->entry ? &guest : &l1, "L2");
	vcpu_set_cet_state(self->vcpu, &l2);
}

FIXTURE_TEARDOWN(state)
{
	kvm_vm_free(self->vcpu->vm);
}

/* L2 continues with state l2, to its end, and L1 after it. */
static void expect_end(struct kvm_vcpu *vcpu, struct cet_nested *n)
{
	vcpu_run(vcpu);
	cet_finish_nested(vcpu);
	TEST_ASSERT_EQ(n->error, 0);
	TEST_ASSERT_EQ(n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT(n->l2_s_cet == l2.s_cet && n->l2_ssp_tbl == l2.ssp_tbl,
		    "L2 went on with S_CET 0x%lx, SSP table 0x%lx", n->l2_s_cet,
		    n->l2_ssp_tbl);
	cet_expect_state(&n->saved, &l2_end, "saved by VM exit");
	vcpu_expect_cet_state(vcpu, n->load_host ? &host : &l2_end, "L1");
}

static bool is_cet_msr(uint32_t msr)
{
	int i;

	for (i = 0; i < CET_NR_MSRS && cet_msrs[i] != msr; i++)
		;
	return i < CET_NR_MSRS;
}

static struct kvm_x86_state *save_and_recreate(struct kvm_vcpu **vcpu)
{
	struct kvm_x86_state *state = vcpu_save_state(*vcpu);
	struct kvm_vm *vm = (*vcpu)->vm;

	TEST_ASSERT(state->nested.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "KVM_GET_NESTED_STATE is not in L2");
	kvm_vm_release(vm);
	*vcpu = vm_recreate_with_one_vcpu(vm);
	return state;
}

/* vmcs12 has L2's current state, not what VM entry may have loaded. */
TEST_F(state, get_nested_state)
{
	struct kvm_x86_state *state = vcpu_save_state(self->vcpu);

	cet_expect_state(vmcs12_state(state, VMCS12_GUEST_CET), &l2, "guest");
	cet_expect_state(vmcs12_state(state, VMCS12_HOST_CET), &host, "host");
	kvm_x86_state_cleanup(state);

	vcpu_expect_cet_state(self->vcpu, &l2, "L2");
	expect_end(self->vcpu, self->n);
}

TEST_F(state, migrate_msrs_first)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);

	vcpu_load_state(self->vcpu, state);
	vcpu_set_reg(self->vcpu, SSP_ID, l2.ssp);
	kvm_x86_state_cleanup(state);
	vcpu_expect_cet_state(self->vcpu, &l2, "L2");
	expect_end(self->vcpu, self->n);
}

/* SSP may be restored first, with the other registers. */
TEST_F(state, migrate_ssp_first)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);

	vcpu_set_reg(self->vcpu, SSP_ID, l2.ssp);
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_expect_cet_state(self->vcpu, &l2, "L2");
	expect_end(self->vcpu, self->n);
}

TEST_F(state, migrate_msrs_last)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);
	int i;

	/* Only the CET MSRs come last: VMX needs some of the others. */
	for (i = 0; i < state->msrs.nmsrs; i++) {
		if (is_cet_msr(state->msrs.entries[i].index))
			state->msrs.entries[i].data = 0;
	}
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_set_cet_state(self->vcpu, &l2);
	vcpu_expect_cet_state(self->vcpu, &l2, "L2");
	expect_end(self->vcpu, self->n);
}

/*
 * A vCPU that is in L2 already leaves it first.  If VM exit loads L1's state,
 * that replaces MSRs that were restored before.
 */
TEST_F(state, restored_in_l2)
{
	struct kvm_x86_state *state = vcpu_save_state(self->vcpu);

	vcpu_nested_state_set(self->vcpu, &state->nested);
	kvm_x86_state_cleanup(state);
	vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2, "L2");
	vcpu_set_cet_state(self->vcpu, &l2);
	expect_end(self->vcpu, self->n);
}

/* The VM entry is pending, and loads what its controls say. */
TEST_F(state, migrate_run_pending)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);

	state->nested.flags |= KVM_STATE_NESTED_RUN_PENDING;
	*vmcs12_state(state, VMCS12_GUEST_CET) = guest;
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_expect_cet_state(self->vcpu, variant->entry ? &guest :
			      &(struct cet_vmcs_state) {
				      l2.s_cet, 0, l2.ssp_tbl }, "L2");
	vcpu_set_cet_state(self->vcpu, &l2);
	expect_end(self->vcpu, self->n);
}

/* Without CET, KVM accepts the controls, but no value except 0. */
TEST_F(state, without_features)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);
	const uint32_t size = state->nested.size;
	int i, r;

	for (i = 0; i < state->msrs.nmsrs; i++) {
		if (is_cet_msr(state->msrs.entries[i].index))
			state->msrs.entries[i].data = 0;
	}
	vcpu_init_cet(self->vcpu, false, false);
	state->nested.size = 0;
	vcpu_load_state(self->vcpu, state);

	state->nested.size = size;
	r = __vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE, &state->nested);
	if (variant->entry || variant->exit)
		TEST_ASSERT(r == -1 && errno == EINVAL,
			    "KVM_SET_NESTED_STATE returned %d, errno %d", r,
			    errno);
	else
		TEST_ASSERT(!r, "KVM_SET_NESTED_STATE failed, errno %d", errno);
	TEST_ASSERT_EQ(vcpu_is_in_l2(self->vcpu), !r);

	*vmcs12_state(state, VMCS12_GUEST_CET) = (struct cet_vmcs_state) { };
	*vmcs12_state(state, VMCS12_HOST_CET) = (struct cet_vmcs_state) { };
	r = __vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE, &state->nested);
	kvm_x86_state_cleanup(state);
	TEST_ASSERT(!r, "KVM_SET_NESTED_STATE failed, errno %d", errno);
	TEST_ASSERT(vcpu_is_in_l2(self->vcpu), "The vCPU is not in L2");
}

static int set_bad_nested_state(struct kvm_vcpu *vcpu,
				struct kvm_x86_state *state, uint64_t *field,
				uint64_t val)
{
	uint64_t old = *field;
	int r;

	*field = val;
	r = __vcpu_ioctl(vcpu, KVM_SET_NESTED_STATE, &state->nested);
	*field = old;
	TEST_ASSERT(!r || (r == -1 && errno == EINVAL),
		    "KVM_SET_NESTED_STATE returned %d, errno %d", r, errno);
	return r;
}

/* Without 64-bit mode, there is no interrupt SSP table. */
TEST_F(state, table_without_lm)
{
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);
	struct cet_vmcs_state *g = vmcs12_state(state, VMCS12_GUEST_CET);
	struct cet_vmcs_state *h = vmcs12_state(state, VMCS12_HOST_CET);

	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_LM);
	vcpu_set_msr(self->vcpu, MSR_IA32_FEAT_CTL, FEAT_CTL_LOCKED |
		     FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX);
	g->ssp_tbl = 0;
	h->ssp_tbl = 0;
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &g->ssp_tbl, 8),
		       !variant->entry);
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &h->ssp_tbl, 8),
		       !variant->exit);
	TEST_ASSERT(!set_bad_nested_state(self->vcpu, state, &g->ssp_tbl, 0),
		    "KVM_SET_NESTED_STATE failed without a table");
	kvm_x86_state_cleanup(state);
}

static void leave_by_nested_state(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state nested = {
		.size = sizeof(nested),
		.format = KVM_STATE_NESTED_FORMAT_VMX,
		.hdr.vmx.vmxon_pa = -1ull,
		.hdr.vmx.vmcs12_pa = -1ull,
	};

	vcpu_nested_state_set(vcpu, &nested);
}

/* The checks are those of VM entry. */
TEST_F(state, checked)
{
	const int width = kvm_cpu_has(X86_FEATURE_LA57) ? 57 : 48;
	struct kvm_x86_state *state = save_and_recreate(&self->vcpu);
	struct cet_vmcs_state *g = vmcs12_state(state, VMCS12_GUEST_CET);
	struct cet_vmcs_state *h = vmcs12_state(state, VMCS12_HOST_CET);

	vcpu_load_state(self->vcpu, state);
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &g->s_cet,
					     BIT(6)), !variant->entry);
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &g->ssp, 1),
		       !variant->entry);
	/* One address bit more than is canonical, which KVM leaves to the CPU */
	TEST_ASSERT(!set_bad_nested_state(self->vcpu, state, &g->ssp,
					  BIT_ULL(width - 1)),
		    "SSP behind the canonical addresses is refused");
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &g->ssp,
					     BIT_ULL(width)), !variant->entry);
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &h->s_cet,
					     BIT(6)), !variant->exit);
	TEST_ASSERT_EQ(!set_bad_nested_state(self->vcpu, state, &h->ssp, 1),
		       !variant->exit);

	leave_by_nested_state(self->vcpu);
	vcpu_load_state(self->vcpu, state);
	kvm_x86_state_cleanup(state);
	vcpu_set_cet_state(self->vcpu, &l2);
	expect_end(self->vcpu, self->n);
}

static void queue_cp(struct kvm_vcpu *vcpu, bool injected)
{
	struct kvm_vcpu_events events;

	vm_enable_cap(vcpu->vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = !injected;
	events.exception.injected = injected;
	events.exception.nr = CP_VECTOR;
	events.exception.has_error_code = 1;
	events.exception.error_code = CP_ENDBRANCH;
	vcpu_events_set(vcpu, &events);
}

static void migrate_with_cp(struct kvm_vcpu **vcpu, bool injected)
{
	struct kvm_x86_state *state;

	queue_cp(*vcpu, injected);
	state = save_and_recreate(vcpu);
	vm_enable_cap((*vcpu)->vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	vcpu_load_state(*vcpu, state);
	vcpu_set_reg(*vcpu, SSP_ID, l2.ssp);
	kvm_x86_state_cleanup(state);
}

/* L1 intercepts #CP, but not an injected one: L2's handler gets it. */
TEST_F(state, migrate_with_injected_cp)
{
	migrate_with_cp(&self->vcpu, true);
	expect_end(self->vcpu, self->n);
	sync_global_from_guest(self->vcpu->vm, cet_cp_count);
	sync_global_from_guest(self->vcpu->vm, cet_cp_error_code);
	TEST_ASSERT_EQ(cet_cp_count, 1);
	TEST_ASSERT_EQ(cet_cp_error_code, CP_ENDBRANCH);
}

/* A pending one is intercepted: L2 gets no further. */
TEST_F(state, migrate_with_pending_cp)
{
	migrate_with_cp(&self->vcpu, false);
	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_EXCEPTION_NMI);
	TEST_ASSERT_EQ(self->n->intr_info, CP_INFO);
	TEST_ASSERT_EQ(self->n->intr_error_code, CP_ENDBRANCH);
	cet_expect_state(&self->n->saved, &l2, "saved by VM exit");
	vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2, "L1");
}

static void enter_smm(struct kvm_vcpu *vcpu)
{
	void *smram = addr_gpa2hva(vcpu->vm, SMRAM_GPA);
	struct kvm_vcpu_events events;

	memcpy(smram + SMRAM_HANDLER, smi_handler, sizeof(smi_handler));
	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = true;
	vcpu_events_set(vcpu, &events);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMI_PORT);
	TEST_ASSERT(!vcpu_is_in_l2(vcpu), "The vCPU is in L2 and in SMM");
}

/*
 * RSM returns to L2, and L1 notices nothing.  The handler runs with L2's state,
 * not with L1's in the VMCS.
 */
TEST_F(state, smi)
{
	enter_smm(self->vcpu);
	vcpu_expect_cet_state(self->vcpu, &l2, "SMM");
	expect_end(self->vcpu, self->n);
}

/* SSP is in SMRAM, the MSRs are not: they stay as the handler leaves them. */
TEST_F(state, smi_handler_writes_msrs)
{
	enter_smm(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_ENDBR_EN);
	cet_set_msr(self->vcpu, MSR_IA32_INT_SSP_TAB, 0x9000);
	vcpu_set_reg(self->vcpu, SSP_ID, 0x8000);

	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->l2_s_cet, CET_ENDBR_EN);
	TEST_ASSERT_EQ(self->n->l2_ssp_tbl, 0x9000);
	cet_expect_state(&self->n->saved, &l2_end, "saved by VM exit");
	vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2_end, "L1");
}

TEST_F(state, migrate_in_smm)
{
	struct kvm_x86_state *state;
	struct kvm_vm *vm = self->vcpu->vm;
	uint64_t ssp;

	enter_smm(self->vcpu);
	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	state = vcpu_save_state(self->vcpu);
	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(self->vcpu, state);
	vcpu_set_reg(self->vcpu, SSP_ID, ssp);
	kvm_x86_state_cleanup(state);
	expect_end(self->vcpu, self->n);
}

/*
 * KVM_SET_NESTED_STATE leaves vmcs12 unchecked if an SMI has interrupted L2.
 * RSM must not enter L2 with it.
 */
TEST_F(state, rsm_checks)
{
	struct kvm_x86_state *state;
	struct kvm_nested_state *nested;

	enter_smm(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	nested = &state->nested;
	TEST_ASSERT(nested->hdr.vmx.smm.flags & KVM_STATE_NESTED_SMM_GUEST_MODE,
		    "The SMI did not come in L2");
	*(uint32_t *)&nested->data.vmx[0].vmcs12[VMCS12_PIN_CTLS] = 0;
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE, nested), 0);

	vcpu_run(self->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_is_in_l2(self->vcpu), "The vCPU is in L2");

	/* The state after that can be restored. */
	kvm_x86_state_cleanup(state);
	state = vcpu_save_state(self->vcpu);
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE,
				    &state->nested), 0);
	kvm_x86_state_cleanup(state);
}

/* The same for the state that the next VM exit would load. */
TEST_F(state, rsm_checks_host_state)
{
	struct kvm_x86_state *state;

	enter_smm(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	vmcs12_state(state, VMCS12_HOST_CET)->s_cet = BIT(6);
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE,
				    &state->nested), 0);
	kvm_x86_state_cleanup(state);

	vcpu_run(self->vcpu);
	if (variant->exit) {
		TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_SHUTDOWN);
		return;
	}
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
}

/* RSM ignores an event that L1 has injected: it was delivered long before. */
TEST_F(state, rsm_ignores_injected_event)
{
	struct kvm_x86_state *state;

	enter_smm(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	/* With an interruption type that VM entry refuses */
	*(uint32_t *)&state->nested.data.vmx[0].vmcs12[VMCS12_ENTRY_INTR_INFO] =
		INTR_VALID | INTR_TYPE(1);
	TEST_ASSERT_EQ(__vcpu_ioctl(self->vcpu, KVM_SET_NESTED_STATE,
				    &state->nested), 0);
	kvm_x86_state_cleanup(state);
	expect_end(self->vcpu, self->n);
}

static void inject_cp(void)
{
	vmwrite(VM_ENTRY_INTR_INFO_FIELD, CP_INFO);
	vmwrite(VM_ENTRY_EXCEPTION_ERROR_CODE, CP_ENDBRANCH);
}

TEST_F(state, injected_event_not_saved)
{
	struct kvm_x86_state *state;
	uint32_t info;

	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	self->n->prepare = inject_cp;
	self->n->guest = (struct cet_vmcs_state) { };
	vcpu_set_cet_state(self->vcpu, &self->n->guest);
	cet_run_l2_to_out(self->vcpu);
	state = vcpu_save_state(self->vcpu);
	info = *(uint32_t *)&state->nested.data.vmx[0].vmcs12[VMCS12_ENTRY_INTR_INFO];
	TEST_ASSERT(!(info & INTR_VALID), "The event is saved: 0x%x", info);
	kvm_x86_state_cleanup(state);
}

static void leave_by_feature_control(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, MSR_IA32_FEAT_CTL, 0);
}

/* User space ends VMX operation: RSM has no L2 to return to. */
static void rsm_without_vmx(struct kvm_vcpu *vcpu,
			    void (*leave)(struct kvm_vcpu *))
{
	struct kvm_nested_state nested = { .size = sizeof(nested) };

	enter_smm(vcpu);
	vcpu_run_complete_io(vcpu);
	leave(vcpu);
	vcpu_nested_state_get(vcpu, &nested);
	TEST_ASSERT_EQ(nested.hdr.vmx.smm.flags, 0);
	/* RSM loads L2's state.  L1 can't run with it, but KVM_RUN succeeds. */
	TEST_ASSERT_EQ(ioctl(vcpu->fd, KVM_RUN, NULL), 0);
	TEST_ASSERT(!vcpu_is_in_l2(vcpu), "The vCPU is in L2");
}

TEST_F(state, rsm_after_nested_state)
{
	rsm_without_vmx(self->vcpu, leave_by_nested_state);
}

TEST_F(state, rsm_after_feature_control)
{
	rsm_without_vmx(self->vcpu, leave_by_feature_control);
}

static void leave_by_smm(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	vcpu_events_set(vcpu, &events);
}

static void leave_by_init(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 0;
	events.smi.latched_init = 1;
	vcpu_events_set(vcpu, &events);
	vcpu_mp_state_get(vcpu, &mp_state);
}

/* KVM may look for this field in vmcs02. */
static void read_es(void)
{
	vmreadz(GUEST_ES_SELECTOR);
}

/* L1 has the fields that were restored, not those of a vmcs02 that is gone. */
TEST_F(state, restored_in_l1)
{
	struct kvm_x86_state *state;

	expect_end(self->vcpu, self->n);
	state = vcpu_save_state(self->vcpu);
	self->n->resume = true;
	cet_run_nested(self->vcpu);
	vcpu_nested_state_set(self->vcpu, &state->nested);
	kvm_x86_state_cleanup(state);
	self->n->prepare = read_es;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
}

/* L1 sees no VM exit, but has the state that the VM-exit control loads. */
TEST_F(state, forced_exits)
{
	static void (*const leave[])(struct kvm_vcpu *) = {
		leave_by_nested_state, leave_by_feature_control, leave_by_smm,
	};
	struct kvm_x86_state *state = vcpu_save_state(self->vcpu);
	int i;

	for (i = 0; i < ARRAY_SIZE(leave); i++) {
		leave[i](self->vcpu);
		TEST_ASSERT(!vcpu_is_in_l2(self->vcpu), "The vCPU is in L2");
		vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2, "L1");
		/* CR4.VMXE can't be set in SMM. */
		vcpu_events_set(self->vcpu, &state->events);
		vcpu_load_state(self->vcpu, state);
		vcpu_set_cet_state(self->vcpu, &l2);
	}
	kvm_x86_state_cleanup(state);
	expect_end(self->vcpu, self->n);
}

/* INIT makes L2 exit to L1, which notices. */
TEST_F(state, init)
{
	leave_by_init(self->vcpu);
	TEST_ASSERT(!vcpu_is_in_l2(self->vcpu), "The vCPU is in L2");
	vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2, "L1");

	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_INIT_SIGNAL);
	cet_expect_state(&self->n->saved, &l2, "saved by VM exit");
	vcpu_expect_cet_state(self->vcpu, variant->exit ? &host : &l2, "L1");
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
