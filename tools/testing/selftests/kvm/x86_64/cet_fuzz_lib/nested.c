// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's L1 and L2: a VM entry with random CET state for L2 and for L1's
 * return, and ioctls while L2 is what the vCPU runs.
 */
#include "cet_fuzz.h"

/* VMCS fields, guest's and host's */
#define FIELD_GUEST_CET		0x6828
#define FIELD_HOST_CET		0x6c18

/* VM-instruction errors; the reason of an exit that was an entry */
#define BAD_CONTROLS		7
#define BAD_HOST_STATE		8
#define BAD_GUEST_STATE		(BIT(31) | EXIT_REASON_INVALID_STATE)

static void write_cet(uint64_t field, const struct vmcs_cet *cet)
{
	vmwrite(field, cet->s_cet);
	vmwrite(field + 2, cet->ssp);
	vmwrite(field + 4, cet->ssp_tbl);
}

static void set_control(uint64_t field, uint64_t bit, bool on)
{
	uint64_t val = vmreadz(field) & ~bit;

	vmwrite(field, on ? val | bit : val);
}

/* In L1 */
void fuzz_nested(struct mailbox *box)
{
	static uint64_t l2_stack[64];
	struct nested_op *nested = &box->nested;
	struct vmx_pages *vmx = box->vmx;
	uint64_t flags;

	if (!box->vmxon) {
		guest_prepare_l2(vmx, fuzz_l2);
		box->vmxon = true;
	}

	/* VMCLEAR lets VMLAUNCH have it again. */
	GUEST_ASSERT(!vmclear(vmx->vmcs_gpa) && !vmptrld(vmx->vmcs_gpa));
	write_cet(FIELD_GUEST_CET, &nested->guest);
	write_cet(FIELD_HOST_CET, &nested->host);
	set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_CET_STATE, nested->entry_loads);
	set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_CET_STATE, nested->exit_loads);
	vmwrite(GUEST_CR0, nested->guest_cr0);
	vmwrite(GUEST_CR4, nested->guest_cr4 | X86_CR4_VMXE);
	vmwrite(HOST_CR0, nested->host_cr0);
	vmwrite(HOST_CR4, nested->host_cr4 | X86_CR4_VMXE);
	vmwrite(GUEST_RIP, (uint64_t)fuzz_l2);
	vmwrite(GUEST_RSP, (uint64_t)&l2_stack[ARRAY_SIZE(l2_stack) - 1]);

	nested->error = 0;
	nested->reason = 0;
	flags = fuzz_vmlaunch(nested);
	if (flags) {
		nested->error = vmreadz(VM_INSTRUCTION_ERROR);
		return;
	}
	nested->reason = vmreadz(VM_EXIT_REASON);
	nested->saved.s_cet = vmreadz(FIELD_GUEST_CET);
	nested->saved.ssp = vmreadz(FIELD_GUEST_CET + 2);
	nested->saved.ssp_tbl = vmreadz(FIELD_GUEST_CET + 4);
}

static bool is_offered(struct fuzz_vcpu *v, uint32_t msr, uint64_t control)
{
	uint64_t val = 0;

	FUZZ_ASSERT(cet_get_msr(v->vcpu, msr, &val), "KVM lacks MSR 0x%x", msr);
	return val >> 32 & control;
}

static void randomize(const struct model *m, struct vmcs_cet *cet)
{
	/* One that is wrong is enough. */
	cet->s_cet = fuzz_valid_ctl(m);
	cet->ssp = m->shstk ? fuzz_ssp(0) & ~3ull : 0;
	cet->ssp_tbl = m->shstk ? fuzz_value(0) : 0;
	if (!model_valid_ssp(cet->ssp))
		cet->ssp = 0;
	if (!model_canonical(cet->ssp_tbl))
		cet->ssp_tbl = 0;
	if (!m->shstk || fuzz_below(3))
		return;

	switch (fuzz_below(3)) {
	case 0:
		cet->s_cet = fuzz_ctl(m, cet->s_cet);
		break;
	case 1:
		cet->ssp = fuzz_ssp(cet->ssp);
		/* KVM leaves this to the CPU: canonical but for the highest bit. */
		if (!model_canonical(cet->ssp) &&
		    (int64_t)(cet->ssp << 15) >> 15 == cet->ssp)
			cet->ssp = 1;
		break;
	case 2:
		cet->ssp_tbl = fuzz_value(cet->ssp_tbl);
		break;
	}
}

static bool is_valid(const struct model *m, bool loads, const struct vmcs_cet *cet,
		     uint64_t cr0, uint64_t cr4)
{
	if (!model_valid_crs(m, cr0, cr4))
		return false;
	return !loads || (model_valid_ctl(m, cet->s_cet) &&
			  model_valid_ssp(cet->ssp) &&
			  model_canonical(cet->ssp_tbl));
}

static void load(struct model *m, bool loads, const struct vmcs_cet *cet,
		 uint64_t cr0, uint64_t cr4)
{
	m->cr0 = cr0;
	m->cr4 = cr4 | X86_CR4_VMXE;
	if (!loads)
		return;
	m->msrs[S_CET] = cet->s_cet;
	m->ssp = cet->ssp;
	m->msrs[INT_SSP_TAB] = cet->ssp_tbl;
}

/* What struct kvm_vmx_nested_state_data has for a vmcs12 */
struct vmcs12_cet {
	uint64_t header[2];
	uint64_t others[83];
	struct vmcs_cet host, guest;
};

static union {
	struct kvm_nested_state header;
	uint8_t all[sizeof(struct kvm_nested_state) +
		    sizeof(struct kvm_vmx_nested_state_data)];
} state;

/*
 * Have user space change the VMCS of L2 below it.  Returns whether the vCPU is
 * still in L2: when KVM_SET_NESTED_STATE refuses a VMCS, it has left L2.
 */
static bool set_nested_state(struct fuzz_vcpu *v, bool entry_loads)
{
	struct vmcs12_cet *vmcs12 = (void *)state.header.data.vmx[0].vmcs12;
	struct nested_op *n = &v->box->nested;
	struct model *m = &v->model;
	bool ok, pending = !fuzz_below(3);
	int r;

	kvm_static_assert(offsetof(struct vmcs12_cet, host) == 680);
	memset(&state, 0, sizeof(state));
	state.header.size = sizeof(state);
	vcpu_nested_state_get(v->vcpu, &state.header);
	FUZZ_ASSERT(state.header.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "KVM_GET_NESTED_STATE has flags 0x%x in L2", state.header.flags);
	FUZZ_ASSERT(!entry_loads || !memcmp(&vmcs12->guest, &(struct vmcs_cet) {
			m->msrs[S_CET], m->ssp, m->msrs[INT_SSP_TAB] },
			sizeof(vmcs12->guest)),
		    "KVM_GET_NESTED_STATE has L2's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx",
		    vmcs12->guest.s_cet, vmcs12->guest.ssp, vmcs12->guest.ssp_tbl);
	FUZZ_ASSERT(!n->exit_loads || !memcmp(&vmcs12->host, &n->host, sizeof(n->host)),
		    "KVM_GET_NESTED_STATE has L1's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx",
		    vmcs12->host.s_cet, vmcs12->host.ssp, vmcs12->host.ssp_tbl);

	randomize(m, &vmcs12->guest);
	randomize(m, &vmcs12->host);
	if (pending)
		state.header.flags |= KVM_STATE_NESTED_RUN_PENDING;
	fuzz_record(v, "KVM_SET_NESTED_STATE: flags", state.header.flags, 0);
	fuzz_record(v, "... with L2's S_CET, SSP", vmcs12->guest.s_cet, vmcs12->guest.ssp);
	fuzz_record(v, "... with L1's S_CET, SSP", vmcs12->host.s_cet, vmcs12->host.ssp);
	fuzz_record(v, "... with tables of L2, L1", vmcs12->guest.ssp_tbl, vmcs12->host.ssp_tbl);
	ok = is_valid(m, n->exit_loads, &vmcs12->host, 0, 0) &&
	     is_valid(m, entry_loads, &vmcs12->guest, 0, 0);
	r = __vcpu_ioctl(v->vcpu, KVM_SET_NESTED_STATE, &state.header);
	FUZZ_ASSERT(!r == ok, "KVM has %s the nested state", r ? "refused" : "accepted");
	if (!ok) {
		fuzz_end_vcpus();
		return false;
	}

	/* An entry is pending, and loads L2's state; or else that stays. */
	n->host = vmcs12->host;
	if (pending)
		load(m, entry_loads, &vmcs12->guest, m->cr0, m->cr4);
	fuzz_check(v);
	return true;
}

/* What the host does while the vCPU is in L2.  Returns whether it still is. */
static bool do_l2(struct fuzz_vcpu *v)
{
	int i;

	fuzz_check(v);
	for (i = fuzz_below(4); i; i--)
		fuzz_set_one_reg(v);
	if (fuzz_below(2))
		return true;
	return set_nested_state(v, v->box->nested.entry_loads);
}

static void check_s_cet(struct fuzz_vcpu *v, const char *who, uint64_t s_cet)
{
	FUZZ_ASSERT(!model_has_cet(&v->model) || s_cet == v->model.msrs[S_CET],
		    "%s has S_CET = 0x%lx, not 0x%lx", who, s_cet,
		    v->model.msrs[S_CET]);
}

void fuzz_run_nested(struct fuzz_vcpu *v)
{
	struct nested_op *n = &v->box->nested;
	struct model *m = &v->model;
	bool can_load_entry, can_load_exit;
	uint64_t s_cet, error, reason = 0;

	/* There's no 64-bit L2 without. */
	if (!m->lm)
		return;

	/* Before VMXON, L1 clears what CR4 must not have in VMX operation. */
	if (!v->box->vmxon && !model_has_cet(m))
		m->cr4 &= ~X86_CR4_CET;

	can_load_entry = is_offered(v, MSR_IA32_VMX_TRUE_ENTRY_CTLS,
				    VM_ENTRY_LOAD_CET_STATE);
	can_load_exit = is_offered(v, MSR_IA32_VMX_TRUE_EXIT_CTLS,
				   VM_EXIT_LOAD_CET_STATE);
	*n = (struct nested_op) {
		.has_cet = model_has_cet(m),
		.guest_cr0 = m->cr0 ^ (fuzz_random() & X86_CR0_WP),
		.guest_cr4 = m->cr4 ^ (fuzz_random() & X86_CR4_CET),
		.host_cr0 = m->cr0 ^ (fuzz_random() & X86_CR0_WP),
		.host_cr4 = m->cr4 ^ (fuzz_random() & X86_CR4_CET),
		.entry_loads = can_load_entry ? fuzz_below(4) : !fuzz_below(8),
		.exit_loads = can_load_exit ? fuzz_below(4) : !fuzz_below(8),
	};
	if (fuzz_below(4)) {
		n->guest_cr0 |= X86_CR0_WP;
		n->host_cr0 |= X86_CR0_WP;
	}
	randomize(m, &n->guest);
	randomize(m, &n->host);
	fuzz_record(v, "L1: VMLAUNCH, loading at entry, at exit", n->entry_loads,
		    n->exit_loads);
	fuzz_record(v, "... with L2's CR0, CR4", n->guest_cr0, n->guest_cr4);
	fuzz_record(v, "... with L2's S_CET, SSP", n->guest.s_cet, n->guest.ssp);
	fuzz_record(v, "... with L1's CR0, CR4", n->host_cr0, n->host_cr4);
	fuzz_record(v, "... with L1's S_CET, SSP", n->host.s_cet, n->host.ssp);
	fuzz_record(v, "... with tables of L2, L1", n->guest.ssp_tbl, n->host.ssp_tbl);
	v->box->nr_ops = 1;
	v->box->ops[0].kind = GUEST_VMLAUNCH;

	/* L1 does all this with S_CET = 0. */
	model_endbr(m);
	s_cet = m->msrs[S_CET];
	m->msrs[S_CET] = 0;

	if ((n->entry_loads && !can_load_entry) || (n->exit_loads && !can_load_exit))
		error = BAD_CONTROLS;
	else if (!is_valid(m, n->exit_loads, &n->host, n->host_cr0, n->host_cr4))
		error = BAD_HOST_STATE;
	else
		error = 0;

	if (error) {
		m->cr4 |= X86_CR4_VMXE;
		fuzz_enter(v, FUZZ_PORT);
	} else if (!is_valid(m, n->entry_loads, &n->guest, n->guest_cr0, n->guest_cr4)) {
		reason = BAD_GUEST_STATE;
		load(m, n->exit_loads, &n->host, n->host_cr0, n->host_cr4);
		model_endbr(m);
		fuzz_enter(v, FUZZ_PORT);
		check_s_cet(v, "L1, after a bad entry,", n->l1_s_cet);
	} else {
		reason = EXIT_REASON_VMCALL;
		load(m, n->entry_loads, &n->guest, n->guest_cr0, n->guest_cr4);
		model_endbr(m);
		fuzz_enter(v, FUZZ_L2_PORT);
		check_s_cet(v, "L2", n->l2_s_cet[0]);
		if (!do_l2(v))
			return;
		model_endbr(m);
		fuzz_enter(v, FUZZ_PORT);
		check_s_cet(v, "L2, after ioctls,", n->l2_s_cet[1]);
		FUZZ_ASSERT(!can_load_entry || !model_has_cet(m) ||
			    (n->saved.s_cet == m->msrs[S_CET] &&
			     n->saved.ssp == m->ssp &&
			     n->saved.ssp_tbl == m->msrs[INT_SSP_TAB]),
			    "L1 finds L2's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx, not 0x%lx, 0x%lx, 0x%lx",
			    n->saved.s_cet, n->saved.ssp, n->saved.ssp_tbl,
			    m->msrs[S_CET], m->ssp, m->msrs[INT_SSP_TAB]);
		load(m, n->exit_loads, &n->host, n->host_cr0, n->host_cr4);
		model_endbr(m);
		check_s_cet(v, "L1, after L2,", n->l1_s_cet);
	}

	FUZZ_ASSERT(n->error == error && n->reason == reason,
		    "VMLAUNCH: error %lu, exit reason 0x%lx, not %lu, 0x%lx", n->error,
		    n->reason, error, reason);
	m->msrs[S_CET] = s_cet;
	model_endbr(m);
	fuzz_check(v);
}
