// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's operations of the guest, as the host sees them: choose those of a
 * KVM_RUN, predict what has to come of each, and check it.
 */
#include "cet_fuzz.h"

static void add_xrstors(const struct model *m, struct guest_op *op)
{
	int i;

	op->index = fuzz_random() & XFEATURE_MASK_CET;
	op->val = fuzz_random() & op->index;
	/*
	 * What XRSTORS does with values that WRMSR refuses is up to the CPU:
	 * have only values that are legal on some vCPU.
	 */
	op->data[0] = fuzz_valid_ctl(&model_both);
	if (fuzz_known(model_msr_differs(m, MSR_IA32_U_CET, op->data[0], true)))
		op->data[0] = 0;
	for (i = 1; i < CET_NR_XSAVE_MSRS; i++) {
		op->data[i] = fuzz_ssp(0);
		if (!model_valid_ssp_msr(op->data[i]))
			op->data[i] = 0;
	}
}

static void add_payload(struct fuzz_vcpu *v, struct guest_op *op)
{
	struct model *m = &v->model;

	op->index = fuzz_below(NR_PAYLOADS);
	op->val = 0;
	if (!model_has_cet(m))
		op->val = 0;
	else if (m->cr4 & X86_CR4_CET)
		op->val = (m->shstk ? fuzz_random() & (CET_SHSTK_EN | CET_WRSS_EN) : 0) |
			  (m->ibt ? fuzz_random() & (CET_ENDBR_EN | CET_NO_TRACK_EN) : 0);

	/* INCSSP and WRSS raise #UD unless they are enabled. */
	if (op->index == INCSSP && !(op->val & CET_SHSTK_EN))
		op->index = RDSSP;
	if (op->index == WRSS && (!(op->val & CET_SHSTK_EN) ||
				  !(op->val & CET_WRSS_EN)))
		op->index = INTERRUPT;
}

static const char *const guest_op_names[NR_GUEST_OPS] = {
	[GUEST_WRMSR] = "guest: WRMSR",
	[GUEST_RDMSR] = "guest: RDMSR",
	[GUEST_MOV_CR0] = "guest: MOV CR0, toggling",
	[GUEST_MOV_CR4] = "guest: MOV CR4, toggling",
	[GUEST_XSAVES] = "guest: XSAVES",
	[GUEST_XRSTORS] = "guest: XRSTORS",
	[GUEST_PAYLOAD] = "guest: payload, S_CET",
	[GUEST_VMLAUNCH] = "guest: VMLAUNCH",
};

/* For the components that XSAVES and XRSTORS know of, cet_xsave_msrs[] */
static const int xsave_positions[CET_NR_XSAVE_MSRS] = {
	U_CET, PL0_SSP, PL1_SSP, PL2_SSP, PL3_SSP,
};

static uint64_t component_of(int i)
{
	return i == 0 || i == 4 ? XFEATURE_MASK_CET_USER : XFEATURE_MASK_CET_KERNEL;
}

/* Carry an operation out on the model; returns the vector that it raises. */
static uint8_t apply(struct model *m, const struct guest_op *op,
		     struct guest_op *want)
{
	uint64_t val;
	bool ok;
	int i;

	switch (op->kind) {
	case GUEST_WRMSR:
		ok = model_set_msr(m, op->index, op->val, false);
		if (ok && op->index == MSR_IA32_S_CET) {
			model_endbr(m);
			want->ret = m->msrs[S_CET];
		}
		break;
	case GUEST_RDMSR:
		if (op->index == MSR_IA32_S_CET)
			model_endbr(m);
		ok = model_get_msr(m, op->index, false, &want->ret);
		break;
	case GUEST_MOV_CR0:
		val = m->cr0 ^ op->val;
		ok = !(m->cr4 & X86_CR4_CET) || (val & X86_CR0_WP);
		if (ok)
			m->cr0 = val;
		want->ret = m->cr0;
		break;
	case GUEST_MOV_CR4:
		val = m->cr4 ^ op->val;
		ok = model_valid_crs(m, m->cr0, val);
		if (ok)
			m->cr4 = val;
		want->ret = m->cr4;
		break;
	case GUEST_XSAVES:
		if (!m->xsaves)
			return UD_VECTOR;
		for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
			want->data[i] = op->index & m->xss & component_of(i) ?
					m->msrs[xsave_positions[i]] : 0;
		return 0;
	case GUEST_XRSTORS:
		if (!m->xsaves)
			return UD_VECTOR;
		ok = !(op->index & ~m->xss);
		for (i = 0; ok && i < CET_NR_XSAVE_MSRS; i++) {
			if (op->index & component_of(i))
				m->msrs[xsave_positions[i]] =
					op->val & component_of(i) ? op->data[i] : 0;
		}
		break;
	default:
		want->ret = op->index == RDSSP ?
			    (op->val & CET_SHSTK_EN ? -8ull : 0) : 1;
		want->data[0] = 0;
		if (op->index == SMASH_RETURN && (op->val & CET_SHSTK_EN))
			want->data[0] = CP_NEAR_RET;
		if (op->index == JUMP_OFF_ENDBR && (op->val & CET_ENDBR_EN))
			want->data[0] = CP_ENDBRANCH;
		return want->data[0] ? CP_VECTOR : 0;
	}
	return ok ? 0 : GP_VECTOR;
}

/* Compare an operation of the guest with what the model says. */
static void check_op(const struct guest_op *op, const struct guest_op *want, int nr)
{
	const char *name = guest_op_names[op->kind];
	int i;

	fuzz_see(name, op->vector);
	FUZZ_ASSERT(op->vector == want->vector,
		    "Operation %d of the guest, %s 0x%x 0x%lx: vector %u (0x%lx), not %u",
		    nr, name, op->index, op->val, op->vector, op->data[0], want->vector);
	switch (op->kind) {
	case GUEST_WRMSR:
		if (op->index != MSR_IA32_S_CET || op->vector)
			return;
		break;
	case GUEST_RDMSR:
		if (op->vector)
			return;
		break;
	case GUEST_XSAVES:
		/* A component in its init state need not be written. */
		fuzz_see_bytes("image", op->data, sizeof(op->data));
		for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
			FUZZ_ASSERT(op->data[i] == want->data[i],
				    "Operation %d of the guest, %s 0x%x: 0x%lx, not 0x%lx",
				    nr, name, op->index, op->data[i], want->data[i]);
		return;
	case GUEST_XRSTORS:
		return;
	case GUEST_PAYLOAD:
		fuzz_see("error code", op->data[0]);
		FUZZ_ASSERT(!op->vector || op->data[0] == want->data[0],
			    "Operation %d of the guest, %s 0x%x: error code %lu, not %lu",
			    nr, name, op->index, op->data[0], want->data[0]);
		if (op->vector)
			return;
		break;
	}
	fuzz_see("result", op->ret);
	FUZZ_ASSERT(op->ret == want->ret,
		    "Operation %d of the guest, %s 0x%x: 0x%lx, not 0x%lx", nr, name,
		    op->index, op->ret, want->ret);
}

uint64_t fuzz_token(struct fuzz_vcpu *v)
{
	return *(uint64_t *)addr_gva2hva(v->vcpu->vm, (vm_vaddr_t)&cet_shadow_stack);
}

/* What will be in the mailbox after the run */
static struct guest_op wanted[MAX_GUEST_OPS];
static bool ssp_moves;

/* When this returns, the model is in the state after the run. */
void fuzz_prepare_ops(struct fuzz_vcpu *v, int nr)
{
	static const uint8_t kinds[] = {
		GUEST_WRMSR, GUEST_WRMSR, GUEST_WRMSR, GUEST_WRMSR,
		GUEST_RDMSR, GUEST_RDMSR, GUEST_MOV_CR0, GUEST_MOV_CR4,
		GUEST_XSAVES, GUEST_XRSTORS, GUEST_PAYLOAD,
	};
	struct model *m = &v->model;
	struct guest_op *op;
	int i, part;

	ssp_moves = false;
	model_endbr(m);
	for (i = 0, part = 1; part <= nr; part++) {
		if (!fuzz_begin_part(part))
			continue;
		op = &v->box->ops[i];
		memset(op, 0, sizeof(*op));
		op->kind = fuzz_pick(kinds);
		switch (op->kind) {
		case GUEST_WRMSR:
			op->index = fuzz_msr();
			op->val = fuzz_msr_value(m, op->index);
			if (fuzz_known(model_msr_differs(m, op->index, op->val, false)))
				op->val = 0;
			break;
		case GUEST_RDMSR:
			op->index = fuzz_msr();
			if (op->index == MSR_IA32_INT_SSP_TAB && !m->lm &&
			    fuzz_known(TABLE_WITHOUT_LM))
				op->index = MSR_IA32_PL3_SSP;
			break;
		case GUEST_MOV_CR0:
			/* WP alone does not exit, AM does. */
			op->val = X86_CR0_WP | (fuzz_below(2) ? X86_CR0_AM : 0);
			break;
		case GUEST_MOV_CR4:
			/* CET alone does not exit, MCE does. */
			op->val = X86_CR4_CET | (fuzz_below(2) ? X86_CR4_MCE : 0);
			break;
		case GUEST_XSAVES:
			op->index = fuzz_random() & XFEATURE_MASK_CET;
			break;
		case GUEST_XRSTORS:
			add_xrstors(m, op);
			break;
		case GUEST_PAYLOAD:
			add_payload(v, op);
			if (op->val & CET_SHSTK_EN) {
				m->msrs[PL0_SSP] = fuzz_token(v);
				ssp_moves = true;
			}
			break;
		}
		fuzz_record(v, guest_op_names[op->kind], op->index, op->val);
		wanted[i] = *op;
		wanted[i].vector = apply(m, op, &wanted[i]);
		i++;
	}
	v->box->nr_ops = i;
	fuzz_begin_part(0);
	/* S_CET is written back, and ENDBR64 follows. */
	model_endbr(m);
}

void fuzz_check_ops(struct fuzz_vcpu *v)
{
	uint64_t ssp, token = fuzz_token(v);
	struct kvm_sregs sregs;
	int i;

	for (i = 0; i < v->box->nr_ops; i++)
		check_op(&v->box->ops[i], &wanted[i], i);

	if (ssp_moves) {
		vcpu_get_reg(v->vcpu, KVM_X86_REG_KVM(KVM_REG_GUEST_SSP), &ssp);
		FUZZ_ASSERT(ssp <= token && ssp > token - 128 && !(ssp % 8),
			    "vCPU %u has SSP = 0x%lx, its token is at 0x%lx",
			    v->vcpu->id, ssp, token);
		v->model.ssp = ssp;
	}
	fuzz_check(v);
	vcpu_sregs_get(v->vcpu, &sregs);
	fuzz_check_crs(v, sregs.cr0, sregs.cr4);
}
