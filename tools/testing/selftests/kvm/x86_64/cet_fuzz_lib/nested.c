// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's L1 and L2: a VM entry with random CET state for L2 and for L1's
 * return, and ioctls while L2 is what the vCPU runs.
 */
#include "cet_fuzz.h"

/* VMCS fields, guest's and host's */
#define FIELD_GUEST_CET		0x6828
#define FIELD_HOST_CET		0x6c18

/* VM-instruction errors, and the exit reason of an entry that failed late */
#define BAD_CONTROLS		7
#define BAD_HOST_STATE		8
#define BAD_GUEST_STATE		(BIT(31) | EXIT_REASON_INVALID_STATE)

/* Both return a bit for each field that does not exist. */
static uint64_t write_cet(uint64_t field, const struct vmcs_cet *cet)
{
	return vmwrite(field, cet->s_cet) |
	       vmwrite(field + 2, cet->ssp) << 1 |
	       vmwrite(field + 4, cet->ssp_tbl) << 2;
}

static uint64_t read_cet(uint64_t field, struct vmcs_cet *cet)
{
	return vmread(field, &cet->s_cet) |
	       vmread(field + 2, &cet->ssp) << 1 |
	       vmread(field + 4, &cet->ssp_tbl) << 2;
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
	struct vmcs_cet host;
	uint64_t flags;

	if (!box->vmxon) {
		guest_prepare_l2(vmx, fuzz_l2);
		box->vmxon = true;
	}

	/* After VMCLEAR, VMLAUNCH is possible again. */
	GUEST_ASSERT(!vmclear(vmx->vmcs_gpa) && !vmptrld(vmx->vmcs_gpa));
	nested->unwritable = write_cet(FIELD_GUEST_CET, &nested->guest) |
			     write_cet(FIELD_HOST_CET, &nested->host) << 3;
	nested->unreadable = read_cet(FIELD_GUEST_CET, &nested->saved) |
			     read_cet(FIELD_HOST_CET, &host) << 3;
	set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_CET_STATE, nested->entry_loads);
	set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_CET_STATE, nested->exit_loads);
	vmwrite(GUEST_CR0, nested->guest_cr0);
	vmwrite(GUEST_CR4, nested->guest_cr4 | X86_CR4_VMXE);
	vmwrite(HOST_CR0, nested->host_cr0);
	vmwrite(HOST_CR4, nested->host_cr4 | X86_CR4_VMXE);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, nested->msr_gpa);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, nested->nr_msrs);
	vmwrite(GUEST_RIP, (uint64_t)fuzz_l2);
	vmwrite(GUEST_RSP, (uint64_t)&l2_stack[ARRAY_SIZE(l2_stack) - 1]);

	nested->error = 0;
	nested->reason = 0;
	flags = fuzz_vmlaunch(nested);
	if (flags) {
		nested->error = vmreadz(VM_INSTRUCTION_ERROR);
		return;
	}
	/* There may be no VMX operation any more. */
	if (nested->forced)
		return;
	nested->reason = vmreadz(VM_EXIT_REASON);
	read_cet(FIELD_GUEST_CET, &nested->saved);
}

static void randomize_all(const struct model *m, struct vmcs_cet *cet)
{
	/* All are right, or one is wrong. */
	cet->s_cet = fuzz_valid_ctl(m);
	cet->ssp = m->shstk ? fuzz_ssp(0) & ~3ull : 0;
	cet->ssp_tbl = m->shstk ? fuzz_value(0) : 0;
	if (!model_canonical(cet->ssp))
		cet->ssp = 0;
	if (!model_canonical(cet->ssp_tbl))
		cet->ssp_tbl = 0;
	if (fuzz_below(3))
		return;

	switch (fuzz_below(3)) {
	case 0:
		cet->s_cet = fuzz_ctl(m, cet->s_cet);
		break;
	case 1:
		cet->ssp = fuzz_ssp(cet->ssp);
		break;
	case 2:
		cet->ssp_tbl = fuzz_value(cet->ssp_tbl);
		break;
	}
}

static void randomize(const struct model *m, struct vmcs_cet *cet)
{
	randomize_all(m, cet);
	if (fuzz_known(model_msr_differs(m, MSR_IA32_S_CET, cet->s_cet, true)))
		cet->s_cet = 0;
	if (!m->shstk && (cet->ssp || cet->ssp_tbl) && fuzz_known(VMCS12_SSP)) {
		cet->ssp = 0;
		cet->ssp_tbl = 0;
	}
	if (!model_canonical(cet->ssp) && model_valid_ssp(cet->ssp) && fuzz_known(WIDE_SSP))
		cet->ssp = 0;
}

/* The rules for both host and guest, except for the range of SSP */
static bool is_valid(const struct model *m, bool loads, const struct vmcs_cet *cet,
		     uint64_t cr0, uint64_t cr4)
{
	if (!model_valid_crs(m, cr0, cr4))
		return false;
	if (!loads)
		return true;
	if (!m->shstk && cet->ssp_tbl)
		return false;
	return model_valid_ctl(m, cet->s_cet) && model_canonical(cet->ssp_tbl);
}

static bool is_valid_host(const struct model *m, const struct nested_op *n)
{
	if (!is_valid(m, n->exit_loads, &n->host, n->host_cr0, n->host_cr4))
		return false;
	return !n->exit_loads ||
	       (m->shstk ? model_valid_ssp_msr(n->host.ssp) : !n->host.ssp);
}

static bool is_valid_guest(const struct model *m, const struct nested_op *n)
{
	return is_valid(m, n->entry_loads, &n->guest, n->guest_cr0, n->guest_cr4) &&
	       (!n->entry_loads || model_valid_ssp(n->guest.ssp));
}

static void load(struct model *m, bool loads, const struct vmcs_cet *cet,
		 uint64_t cr0, uint64_t cr4)
{
	m->cr0 = cr0;
	m->cr4 = cr4 | X86_CR4_VMXE;
	/* Without CET, these stay 0. */
	if (!loads || !model_has_cet(m))
		return;
	m->msrs[S_CET] = cet->s_cet;
	m->ssp = cet->ssp;
	m->msrs[INT_SSP_TAB] = cet->ssp_tbl;
}

static void load_guest(struct model *m, const struct nested_op *n)
{
	load(m, n->entry_loads, &n->guest, n->guest_cr0, n->guest_cr4);
}

static void load_host(struct model *m, const struct nested_op *n)
{
	load(m, n->exit_loads, &n->host, n->host_cr0, n->host_cr4);
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

static struct vmcs12_cet *get_nested_state(struct fuzz_vcpu *v)
{
	struct vmcs12_cet *vmcs12 = (void *)state.header.data.vmx[0].vmcs12;
	struct nested_op *n = &v->box->nested;
	struct model *m = &v->model;

	kvm_static_assert(offsetof(struct vmcs12_cet, host) == 680);
	memset(&state, 0, sizeof(state));
	state.header.size = sizeof(state);
	vcpu_nested_state_get(v->vcpu, &state.header);
	fuzz_see("nested flags", state.header.flags);
	if ((m->entry_ctl && m->exit_ctl) || !fuzz_known(VMCS12_FIELDS)) {
		fuzz_see_bytes("L1 in vmcs12", &vmcs12->host, sizeof(vmcs12->host));
		fuzz_see_bytes("L2 in vmcs12", &vmcs12->guest, sizeof(vmcs12->guest));
	}
	FUZZ_ASSERT(state.header.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "KVM_GET_NESTED_STATE has flags 0x%x in L2", state.header.flags);
	FUZZ_ASSERT(!model_has_cet(m) || !memcmp(&vmcs12->guest, &(struct vmcs_cet) {
			m->msrs[S_CET], m->ssp, m->msrs[INT_SSP_TAB] },
			sizeof(vmcs12->guest)),
		    "KVM_GET_NESTED_STATE has L2's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx",
		    vmcs12->guest.s_cet, vmcs12->guest.ssp, vmcs12->guest.ssp_tbl);
	FUZZ_ASSERT(!n->exit_loads || !memcmp(&vmcs12->host, &n->host, sizeof(n->host)),
		    "KVM_GET_NESTED_STATE has L1's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx",
		    vmcs12->host.s_cet, vmcs12->host.ssp, vmcs12->host.ssp_tbl);
	return vmcs12;
}

/* User space forces the vCPU out of L2, which is no VM exit. */
static void leave_l2(struct fuzz_vcpu *v)
{
	v->box->nested.forced = true;
	v->model.in_l2 = false;
	load_host(&v->model, &v->box->nested);
	fuzz_check(v);
}

/*
 * User space changes vmcs12 while L2 is active.  The vCPU leaves L2 in any
 * case.
 */
static void set_nested_state(struct fuzz_vcpu *v)
{
	struct vmcs12_cet *vmcs12 = get_nested_state(v);
	struct nested_op *n = &v->box->nested, next;
	struct model *m = &v->model;
	bool ok, pending = !fuzz_below(3);
	int r;

	randomize(m, &vmcs12->guest);
	randomize(m, &vmcs12->host);
	if (pending)
		state.header.flags |= KVM_STATE_NESTED_RUN_PENDING;
	fuzz_record(v, "KVM_SET_NESTED_STATE: flags", state.header.flags, 0);
	fuzz_record(v, "... with L2's S_CET, SSP", vmcs12->guest.s_cet, vmcs12->guest.ssp);
	fuzz_record(v, "... with L1's S_CET, SSP", vmcs12->host.s_cet, vmcs12->host.ssp);
	fuzz_record(v, "... with tables of L2, L1", vmcs12->guest.ssp_tbl, vmcs12->host.ssp_tbl);
	next = *n;
	next.guest = vmcs12->guest;
	next.guest_cr0 = m->cr0;
	next.guest_cr4 = m->cr4;
	next.host = vmcs12->host;
	ok = is_valid_host(m, &next) && is_valid_guest(m, &next);
	r = __vcpu_ioctl(v->vcpu, KVM_SET_NESTED_STATE, &state.header);
	fuzz_see_ioctl("the nested state", r);
	FUZZ_ASSERT(!r == ok, "KVM has %s the nested state", r ? "refused" : "accepted");
	if (!ok) {
		leave_l2(v);
		return;
	}

	/* Leaving L2 loads L1's state.  A pending entry then loads L2's. */
	load_host(m, n);
	*n = next;
	load(m, n->entry_loads && pending, &n->guest, n->guest_cr0, n->guest_cr4);
	fuzz_check(v);
}

static void leave_by_nested_state(struct fuzz_vcpu *v)
{
	get_nested_state(v);
	state.header.flags = 0;
	if (fuzz_below(2)) {
		state.header.hdr.vmx.vmxon_pa = -1ull;
		state.header.hdr.vmx.vmcs12_pa = -1ull;
		state.header.size = sizeof(state.header);
		v->box->vmxon = false;
	}
	fuzz_record(v, "KVM_SET_NESTED_STATE: no L2, VMXON", v->box->vmxon, 0);
	vcpu_nested_state_set(v->vcpu, &state.header);
	leave_l2(v);
}

static void leave_by_smm(struct fuzz_vcpu *v)
{
	struct kvm_vcpu_events events;

	fuzz_record(v, "KVM_SET_VCPU_EVENTS: SMM", 0, 0);
	vcpu_events_get(v->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	vcpu_events_set(v->vcpu, &events);
	leave_l2(v);
	events.smi.smm = 0;
	vcpu_events_set(v->vcpu, &events);
	v->box->vmxon = false;
}

/* What the host does while the vCPU is in L2.  The vCPU may leave it. */
static void do_l2(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;
	bool smi_loads;
	int i;

	m->in_l2 = true;
	fuzz_check(v);
	for (i = fuzz_below(4); i; i--)
		fuzz_ioctl_in_l2(v);
	switch (v->box->nested.nr_msrs && fuzz_known(FORCED_EXIT) ? 7 : fuzz_below(8)) {
	case 0:
	case 1:
	case 2:
		set_nested_state(v);
		break;
	case 3:
		leave_by_nested_state(v);
		break;
	case 4:
		leave_by_smm(v);
		break;
	}
	for (i = fuzz_below(3); m->in_l2 && i; i--)
		fuzz_ioctl_in_l2(v);
	FUZZ_ASSERT(fuzz_can_run(v), "The model is wrong");
	smi_loads = !v->box->nested.forced &&
		    (v->box->nested.exit_loads || v->box->nested.nr_msrs);
	if (!fuzz_below(4) && !(smi_loads && fuzz_known(SMI_IN_L2)))
		fuzz_smi(v, false);
	m->in_l2 = false;
}

static void check_s_cet(struct fuzz_vcpu *v, const char *who, uint64_t s_cet)
{
	fuzz_see(who, s_cet);
	FUZZ_ASSERT(!model_has_cet(&v->model) || s_cet == v->model.msrs[S_CET],
		    "%s has S_CET = 0x%lx, not 0x%lx", who, s_cet,
		    v->model.msrs[S_CET]);
}

/* VM exit, except for what it saves */
static void load_l1(struct model *m, const struct nested_op *n)
{
	load_host(m, n);
	if (n->nr_msrs)
		model_set_msr(m, n->msr.index, n->msr.val, false);
	model_endbr(m);
}

static void randomize_list(struct fuzz_vcpu *v, struct nested_op *n)
{
	struct model next = v->model;

	n->msr.index = fuzz_pick(cet_msrs);
	n->msr.val = fuzz_msr_value(&next, n->msr.index);
	if (fuzz_known(model_msr_differs(&next, n->msr.index, n->msr.val, true)))
		n->msr.val = 0;
	n->msr_gpa = addr_hva2gpa(v->vcpu->vm, &n->msr);
	/* Failing to load it would be the end of the VM. */
	n->nr_msrs = model_set_msr(&next, n->msr.index, n->msr.val, false) &&
		     fuzz_below(2);
}

void fuzz_run_nested(struct fuzz_vcpu *v)
{
	struct nested_op *n = &v->box->nested;
	struct model *m = &v->model;
	uint64_t s_cet, error, missing, reason = 0;

	/* Without long mode, there is no 64-bit L2. */
	if (!m->lm)
		return;

	/* Before VMXON, L1 clears what CR4 must not have in VMX operation. */
	if (!v->box->vmxon && !model_has_cet(m))
		m->cr4 &= ~X86_CR4_CET;

	*n = (struct nested_op) {
		.has_cet = model_has_cet(m),
		.guest_cr0 = m->cr0 ^ (fuzz_random() & X86_CR0_WP),
		.guest_cr4 = m->cr4 ^ (fuzz_random() & X86_CR4_CET),
		.host_cr0 = m->cr0 ^ (fuzz_random() & X86_CR0_WP),
		.host_cr4 = m->cr4 ^ (fuzz_random() & X86_CR4_CET),
		.entry_loads = m->entry_ctl ? fuzz_below(4) : !fuzz_below(8),
		.exit_loads = m->exit_ctl ? fuzz_below(4) : !fuzz_below(8),
	};
	if (fuzz_below(4)) {
		n->guest_cr0 |= X86_CR0_WP;
		n->host_cr0 |= X86_CR0_WP;
	}
	randomize(m, &n->guest);
	/* The emulated CPU refuses an SSP that is legal, but not canonical. */
	if (!model_canonical(n->guest.ssp) && model_valid_ssp(n->guest.ssp))
		n->guest.ssp |= 1;
	randomize(m, &n->host);
	randomize_list(v, n);
	if (!n->exit_loads && !is_valid_guest(m, n) && fuzz_known(FAILED_ENTRY)) {
		n->entry_loads = false;
		n->guest_cr0 = m->cr0;
		n->guest_cr4 = m->cr4;
	}
	fuzz_record(v, "L1: VMLAUNCH, loading at entry, at exit", n->entry_loads,
		    n->exit_loads);
	fuzz_record(v, "... with L2's CR0, CR4", n->guest_cr0, n->guest_cr4);
	fuzz_record(v, "... with L2's S_CET, SSP", n->guest.s_cet, n->guest.ssp);
	fuzz_record(v, "... with L1's CR0, CR4", n->host_cr0, n->host_cr4);
	fuzz_record(v, "... with L1's S_CET, SSP", n->host.s_cet, n->host.ssp);
	fuzz_record(v, "... with tables of L2, L1", n->guest.ssp_tbl, n->host.ssp_tbl);
	if (n->nr_msrs)
		fuzz_record(v, "... with L1's MSR", n->msr.index, n->msr.val);
	v->box->nr_ops = 1;
	v->box->ops[0].kind = GUEST_VMLAUNCH;

	/* L1 does all this with S_CET = 0. */
	model_endbr(m);
	s_cet = m->msrs[S_CET];
	if (model_has_cet(m))
		m->msrs[S_CET] = 0;
	missing = (m->entry_ctl ? 0 : 7) | (m->exit_ctl ? 0 : 7 << 3);

	if ((n->entry_loads && !m->entry_ctl) || (n->exit_loads && !m->exit_ctl))
		error = BAD_CONTROLS;
	else if (!is_valid_host(m, n))
		error = BAD_HOST_STATE;
	else
		error = 0;

	if (error) {
		m->cr4 |= X86_CR4_VMXE;
		fuzz_enter(v, FUZZ_PORT);
	} else if (!is_valid_guest(m, n)) {
		reason = BAD_GUEST_STATE;
		load_l1(m, n);
		fuzz_enter(v, FUZZ_PORT);
		check_s_cet(v, "L1, after a bad entry,", n->l1_s_cet);
	} else {
		load_guest(m, n);
		model_endbr(m);
		fuzz_enter(v, FUZZ_L2_PORT);
		check_s_cet(v, "L2", n->l2_s_cet[0]);
		do_l2(v);
		model_endbr(m);
		fuzz_enter(v, FUZZ_PORT);
		if (n->forced) {
			check_s_cet(v, "L1, out of L2,", n->l1_s_cet);
		} else {
			reason = EXIT_REASON_VMCALL;
			check_s_cet(v, "L2, after ioctls,", n->l2_s_cet[1]);
			FUZZ_ASSERT(!m->entry_ctl || !model_has_cet(m) ||
				    (n->saved.s_cet == m->msrs[S_CET] &&
				     n->saved.ssp == m->ssp &&
				     n->saved.ssp_tbl == m->msrs[INT_SSP_TAB]),
				    "L1 finds L2's S_CET = 0x%lx, SSP = 0x%lx, table 0x%lx, not 0x%lx, 0x%lx, 0x%lx",
				    n->saved.s_cet, n->saved.ssp, n->saved.ssp_tbl,
				    m->msrs[S_CET], m->ssp, m->msrs[INT_SSP_TAB]);
			load_l1(m, n);
			check_s_cet(v, "L1, after L2,", n->l1_s_cet);
		}
	}

	fuzz_see("VM-instruction error", n->error);
	fuzz_see("exit reason of L2", n->reason);
	if (!missing || !fuzz_known(VMCS12_FIELDS)) {
		fuzz_see_bytes("fields of L2", &n->saved, sizeof(n->saved));
		FUZZ_ASSERT(n->unwritable == missing && n->unreadable == missing,
			    "L1's VMREAD lacks fields 0x%lx, VMWRITE 0x%lx, not 0x%lx",
			    n->unreadable, n->unwritable, missing);
	}
	FUZZ_ASSERT(n->error == error && n->reason == reason,
		    "VMLAUNCH: error %lu, exit reason 0x%lx, not %lu, 0x%lx", n->error,
		    n->reason, error, reason);
	m->msrs[S_CET] = s_cet;
	model_endbr(m);
	fuzz_check(v);
	/* L1 couldn't have an L2 again. */
	if (n->forced && fuzz_known(STALE_FIELDS))
		fuzz_end_vcpus();
}
