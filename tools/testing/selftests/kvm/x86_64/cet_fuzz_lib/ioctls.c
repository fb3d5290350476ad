// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's ioctls.  Their arguments are right, almost right, or nonsense, and
 * the model knows whether KVM may accept them.
 */
#include <errno.h>
#include <fcntl.h>

#include "cet_fuzz.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)
#define MAX_LIST		12

/* Compare what an ioctl did with what it should have done. */
static void check_result(struct fuzz_vcpu *v, const char *what, bool accepted,
			 bool expected)
{
	fuzz_see(what, accepted);
	FUZZ_ASSERT(accepted == expected, "KVM has %s %s",
		    accepted ? "accepted" : "refused", what);
	if (expected)
		fuzz_check(v);
	else
		fuzz_check_refusal(v);
}

static int set_msr_or_reg(struct fuzz_vcpu *v, uint32_t msr, uint64_t val, bool is_reg)
{
	return is_reg ? !__vcpu_set_reg(v->vcpu, KVM_X86_REG_MSR(msr), val) :
			_vcpu_set_msr(v->vcpu, msr, val) == 1;
}

/* Whether mainline differs, and it was tried and undone, or can't be. */
static bool try_msr(struct fuzz_vcpu *v, uint32_t msr, uint64_t val, bool is_reg)
{
	enum fuzz_difference differs = model_msr_differs(&v->model, msr, val, true);
	struct model next = v->model;
	uint64_t old;
	bool ok;

	if (!fuzz_known(differs))
		return false;
	/* Mainline complains of the first one, and accepts the second one in vain. */
	if ((differs == NOT_CANONICAL && msr == MSR_IA32_U_CET) || differs == XSS_KEPT)
		return true;
	/* CPUID may have made the present value illegal. */
	model_get_msr(&v->model, msr, true, &old);
	if (!model_set_msr(&next, msr, old, true) ||
	    model_msr_differs(&v->model, msr, old, true) != SAME)
		return true;

	fuzz_record(v, is_reg ? "KVM_SET_ONE_REG, undone" : "KVM_SET_MSRS, undone",
		    msr, val);
	ok = set_msr_or_reg(v, msr, val, is_reg);
	fuzz_tried(differs, ok);
	if (ok)
		cet_set_msr(v->vcpu, msr, old);
	fuzz_check(v);
	return true;
}

void fuzz_set_msr(struct fuzz_vcpu *v, uint32_t msr, uint64_t val)
{
	struct model next = v->model;
	bool ok = model_set_msr(&next, msr, val, true);

	if (try_msr(v, msr, val, false))
		return;
	fuzz_record(v, "KVM_SET_MSRS", msr, val);
	if (!ok)
		fuzz_before_refusal(v);
	v->model = next;
	check_result(v, "the MSR", _vcpu_set_msr(v->vcpu, msr, val) == 1, ok);
}

static void op_set_msr(struct fuzz_vcpu *v)
{
	uint32_t msr = fuzz_msr();

	fuzz_set_msr(v, msr, fuzz_msr_value(&v->model, msr));
}

static bool lacks_table(const struct model *m, uint32_t msr)
{
	return msr == MSR_IA32_INT_SSP_TAB && !m->lm && fuzz_known(TABLE_WITHOUT_LM);
}

static void op_get_msr(struct fuzz_vcpu *v)
{
	uint32_t msr = fuzz_msr();
	uint64_t want, val = 0;
	bool ok = model_get_msr(&v->model, msr, true, &want);

	if (lacks_table(&v->model, msr))
		return;
	fuzz_record(v, "KVM_GET_MSRS", msr, 0);
	FUZZ_ASSERT(cet_get_msr(v->vcpu, msr, &val) == ok, "KVM %s MSR 0x%x",
		    ok ? "lacks" : "has", msr);
	fuzz_see("value", val);
	FUZZ_ASSERT(!ok || val == want, "MSR 0x%x is 0x%lx, not 0x%lx", msr, val, want);
}

/* A value that both kernels treat alike */
static uint64_t replacement(uint32_t msr)
{
	return msr == MSR_IA32_XSS ? BIT_ULL(63) : 0;
}

/* KVM stops at the first that it refuses. */
static void op_set_msr_list(struct fuzz_vcpu *v)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[MAX_LIST];
	} list = { .header.nmsrs = 1 + fuzz_below(MAX_LIST) };
	int i, n, want = -1;

	for (i = 0; i < list.header.nmsrs; i++) {
		list.entries[i].index = fuzz_msr();
		list.entries[i].data = fuzz_msr_value(&v->model, list.entries[i].index);
		if (fuzz_known(model_msr_differs(&v->model, list.entries[i].index,
						 list.entries[i].data, true)))
			list.entries[i].data = replacement(list.entries[i].index);
		fuzz_record(v, "KVM_SET_MSRS, list", list.entries[i].index,
			    list.entries[i].data);
		if (want < 0 && !model_set_msr(&v->model, list.entries[i].index,
					       list.entries[i].data, true))
			want = i;
	}
	if (want < 0)
		want = i;
	n = __vcpu_ioctl(v->vcpu, KVM_SET_MSRS, &list.header);
	fuzz_see("MSRs set", n);
	FUZZ_ASSERT(n == want, "KVM_SET_MSRS has set %d of %d MSRs, not %d", n, i, want);
	fuzz_check(v);
}

static bool set_register(struct model *m, uint64_t id, uint64_t val)
{
	/* 0x20: x86; 3: 64 bits; the type is in bits 39:32. */
	switch (id >> 32) {
	case 0x20300002:
		return model_set_msr(m, id, val, true);
	case 0x20300003:
		if ((uint32_t)id || !model_has_ssp(m) || !model_valid_ssp(val))
			return false;
		if (!m->shstk)
			return !val;
		m->ssp = val;
		return true;
	default:
		return false;
	}
}

/* Whether KVM reads the value.  It does so for MSRs that do not exist, too. */
static bool is_register(const struct model *m, uint64_t id)
{
	return id >> 32 == 0x20300002 || (id == 0x2030000300000000 && model_has_ssp(m));
}

static bool try_ssp(struct fuzz_vcpu *v, uint64_t val)
{
	bool ok;

	if (v->model.hides_shstk && fuzz_known(NO_CET_U))
		return true;
	if (!v->model.shstk || model_canonical(val) || !model_valid_ssp(val) ||
	    !fuzz_known(WIDE_SSP))
		return false;

	fuzz_record(v, "KVM_SET_ONE_REG, undone", SSP_ID, val);
	ok = !__vcpu_set_reg(v->vcpu, SSP_ID, val);
	fuzz_tried(WIDE_SSP, ok);
	if (ok)
		vcpu_set_reg(v->vcpu, SSP_ID, v->model.ssp);
	fuzz_check(v);
	return true;
}

void fuzz_set_one_reg(struct fuzz_vcpu *v)
{
	uint32_t msr = fuzz_msr();
	bool is_ssp = fuzz_below(2);
	uint64_t id = is_ssp ? SSP_ID : KVM_X86_REG_MSR(msr);
	uint64_t val = is_ssp ? fuzz_ssp(v->model.ssp) : fuzz_msr_value(&v->model, msr);
	struct kvm_one_reg reg = { .addr = (uint64_t)&val };
	struct model next = v->model;
	int r, want;

	/* Don't flip a bit of an MSR's index: it may become another MSR's. */
	if (!fuzz_below(4))
		id ^= BIT_ULL(32 + fuzz_below(32));
	else if (is_ssp && !fuzz_below(8))
		id ^= BIT_ULL(fuzz_below(32));
	if (fuzz_hidden)
		return;
	if (id >> 32 == 0x20300002 && try_msr(v, id, val, true))
		return;
	if (id == SSP_ID && try_ssp(v, val))
		return;
	reg.id = id;
	want = set_register(&next, id, val) ? 0 : EINVAL;
	if (!fuzz_below(16)) {
		reg.addr = 8;
		want = is_register(&next, id) ? EFAULT : EINVAL;
	}

	fuzz_record(v, "KVM_SET_ONE_REG", id, reg.addr == 8 ? reg.addr : val);
	if (want)
		fuzz_before_refusal(v);
	else
		v->model = next;
	r = __vcpu_ioctl(v->vcpu, KVM_SET_ONE_REG, &reg) ? errno : 0;
	fuzz_see("errno", r);
	FUZZ_ASSERT(r == want, "KVM_SET_ONE_REG: errno %d, not %d", r, want);
	check_result(v, "the register", !r, !want);
}

void fuzz_set_ssp(struct fuzz_vcpu *v, uint64_t ssp)
{
	fuzz_record(v, "KVM_SET_ONE_REG of SSP", ssp, 0);
	vcpu_set_reg(v->vcpu, SSP_ID, ssp);
	v->model.ssp = ssp;
}

static void op_get_one_reg(struct fuzz_vcpu *v)
{
	uint32_t msr = fuzz_msr();
	uint64_t val = 0, want = 0;
	bool ok = model_get_msr(&v->model, msr, true, &want);

	if (fuzz_hidden || lacks_table(&v->model, msr))
		return;
	fuzz_record(v, "KVM_GET_ONE_REG", KVM_X86_REG_MSR(msr), 0);
	FUZZ_ASSERT(!__vcpu_get_reg(v->vcpu, KVM_X86_REG_MSR(msr), &val) == ok,
		    "KVM %s register 0x%llx", ok ? "lacks" : "has",
		    KVM_X86_REG_MSR(msr));
	fuzz_see("value", val);
	FUZZ_ASSERT(!ok || val == want, "MSR 0x%x is 0x%lx, not 0x%lx", msr, val, want);
}

/* Make one thing wrong. */
static void spoil_sregs(struct kvm_sregs2 *sregs)
{
	switch (fuzz_below(8)) {
	case 0:
		sregs->cr4 |= BIT_ULL(15);
		break;
	case 1:
		sregs->cr4 |= BIT_ULL(32 + fuzz_below(32));
		break;
	case 2:
		sregs->cr4 &= ~X86_CR4_PAE;
		break;
	case 3:
		sregs->cr0 |= BIT_ULL(32 + fuzz_below(32));
		break;
	case 4:
		sregs->cr0 &= ~X86_CR0_PE;
		break;
	case 5:
		sregs->efer |= BIT_ULL(2);
		break;
	case 6:
		sregs->efer &= ~EFER_LMA;
		break;
	case 7:
		sregs->apic_base |= 1;
		break;
	}
}

static void op_set_sregs(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;
	bool use_sregs2 = fuzz_below(2), ok, spoilt = false;
	struct kvm_sregs2 sregs, before;
	struct kvm_sregs old;
	uint64_t bits;
	bool known;
	int r;

	vcpu_ioctl(v->vcpu, KVM_GET_SREGS2, &sregs);
	fuzz_check_crs(v, sregs.cr0, sregs.cr4);
	before = sregs;

	bits = fuzz_random();
	if (bits & 1)
		sregs.cr0 ^= X86_CR0_WP;
	if (bits & 2)
		sregs.cr4 ^= X86_CR4_CET;
	/* Have both more often than not. */
	if ((bits & 4) && (sregs.cr4 & X86_CR4_CET))
		sregs.cr0 |= X86_CR0_WP;

	/* The vCPU is in 64-bit mode. */
	ok = m->lm && model_valid_crs(m, sregs.cr0, sregs.cr4);
	if (!fuzz_below(6)) {
		spoil_sregs(&sregs);
		spoilt = true;
	}
	if (use_sregs2 && !fuzz_below(8)) {
		sregs.flags ^= BIT_ULL(fuzz_below(64));
		spoilt = true;
	}
	known = m->lm && !spoilt && !ok && model_has_cet(m) &&
		fuzz_known(SREGS_WITHOUT_WP);
	ok = ok && !spoilt;

	fuzz_record(v, use_sregs2 ? "KVM_SET_SREGS2: CR0, CR4" :
				    "KVM_SET_SREGS: CR0, CR4", sregs.cr0, sregs.cr4);
	if (!ok && !known)
		fuzz_before_refusal(v);
	if (use_sregs2) {
		r = __vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &sregs);
	} else {
		vcpu_sregs_get(v->vcpu, &old);
		old.cr0 = sregs.cr0;
		old.cr4 = sregs.cr4;
		old.efer = sregs.efer;
		old.apic_base = sregs.apic_base;
		r = _vcpu_sregs_set(v->vcpu, &old);
	}
	if (known) {
		fuzz_tried(SREGS_WITHOUT_WP, !r);
		vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &before);
		fuzz_check(v);
		return;
	}
	fuzz_see_ioctl("the control registers", r);
	if (ok) {
		m->cr0 = sregs.cr0;
		m->cr4 = sregs.cr4;
	}
	check_result(v, "the control registers", !r, ok);

	vcpu_ioctl(v->vcpu, KVM_GET_SREGS2, &sregs);
	fuzz_check_crs(v, sregs.cr0, sregs.cr4);
}

static void op_set_events(struct fuzz_vcpu *v)
{
	struct kvm_vcpu_events old, events, got;
	bool ok = true, soft;
	int r;

	vcpu_events_get(v->vcpu, &old);
	events = old;
	events.exception.injected = fuzz_below(8) ? 1 : 0;
	events.exception.nr = fuzz_below(2) ? CP_VECTOR : fuzz_below(48);
	events.exception.has_error_code = fuzz_below(2);
	events.exception.error_code = fuzz_random();
	if (events.exception.injected &&
	    (events.exception.nr > 31 || events.exception.nr == NMI_VECTOR))
		ok = false;
	if (!fuzz_below(8)) {
		/* No capability has been enabled that defines one of these. */
		events.flags |= BIT(6 + fuzz_below(26));
		ok = false;
	}

	fuzz_record(v, "KVM_SET_VCPU_EVENTS: vector, error code",
		    events.exception.nr, events.exception.error_code);
	if (!ok)
		fuzz_before_refusal(v);
	r = __vcpu_ioctl(v->vcpu, KVM_SET_VCPU_EVENTS, &events);
	fuzz_see_ioctl("the exception", r);
	check_result(v, "the exception", !r, ok);
	if (!ok)
		return;

	/* #BP and #OF are not reported: the instruction is to be run again. */
	soft = events.exception.nr == BP_VECTOR || events.exception.nr == OF_VECTOR;
	vcpu_events_get(v->vcpu, &got);
	fuzz_see_bytes("KVM_GET_VCPU_EVENTS", &got, sizeof(got));
	FUZZ_ASSERT(got.exception.injected == (soft ? 0 : events.exception.injected),
		    "KVM_GET_VCPU_EVENTS has injected = %d", got.exception.injected);
	FUZZ_ASSERT(got.exception.nr == events.exception.nr &&
		    got.exception.has_error_code == events.exception.has_error_code &&
		    got.exception.error_code == events.exception.error_code,
		    "KVM_GET_VCPU_EVENTS has vector %u, error code %d: 0x%x",
		    got.exception.nr, got.exception.has_error_code,
		    got.exception.error_code);
	vcpu_events_set(v->vcpu, &old);
}

static void op_set_xsave(struct fuzz_vcpu *v)
{
	static struct kvm_xsave xsave;
	uint64_t *header = (void *)xsave.region + 512;
	bool ok = true;
	int r;

	vcpu_xsave_get(v->vcpu, &xsave);
	FUZZ_ASSERT(!(header[0] & XFEATURE_MASK_CET),
		    "KVM_GET_XSAVE has XSTATE_BV = 0x%lx", header[0]);
	switch (fuzz_below(4)) {
	case 0:
		header[0] |= fuzz_below(2) ? XFEATURE_MASK_CET_USER :
					     XFEATURE_MASK_CET_KERNEL;
		ok = false;
		break;
	case 1:
		header[1 + fuzz_below(7)] = fuzz_below(2) ? XFEATURE_MASK_CET :
							    BIT_ULL(63);
		ok = false;
		break;
	case 2:
		header[0] = 0;
		break;
	}

	fuzz_record(v, "KVM_SET_XSAVE: XSTATE_BV, XCOMP_BV", header[0], header[1]);
	if (!ok)
		fuzz_before_refusal(v);
	r = __vcpu_ioctl(v->vcpu, KVM_SET_XSAVE, &xsave);
	fuzz_see_ioctl("the XSAVE image", r);
	check_result(v, "the XSAVE image", !r, ok);
}

static bool is_left_out(const struct kvm_cpuid_entry2 *entry, uint32_t bits)
{
	if (entry->function != XSAVE_LEAF)
		return false;
	return (entry->index == 1 && !(bits & CPUID_SUB_LEAF_1)) ||
	       (entry->index == 11 && !(bits & CPUID_SUB_LEAF_11)) ||
	       (entry->index == 12 && !(bits & CPUID_SUB_LEAF_12));
}

static void fill_cpuid(struct kvm_cpuid2 *cpuid, uint32_t bits)
{
	const struct kvm_cpuid2 *from = kvm_get_supported_cpuid();
	struct kvm_cpuid_entry2 *to = cpuid->entries;
	int i;

	for (i = 0; i < from->nent; i++) {
		if (is_left_out(&from->entries[i], bits))
			continue;
		*to = from->entries[i];
		if (to->function == 7 && !to->index) {
			to->ecx &= ~(bits & CPUID_SHSTK ? 0 : BIT(7));
			to->edx &= ~(bits & CPUID_IBT ? 0 : BIT(20));
		} else if (to->function == 0x80000001) {
			to->edx &= ~(bits & CPUID_LM ? 0 : BIT(29));
		} else if (to->function == XSAVE_LEAF && to->index == 1) {
			to->eax &= ~(bits & CPUID_XSAVES ? 0 : BIT(3));
			to->ecx &= ~(bits & CPUID_XSS_11 ? 0 : BIT(11));
			to->ecx &= ~(bits & CPUID_XSS_12 ? 0 : BIT(12));
		}
		to++;
	}
	cpuid->nent = to - cpuid->entries;
}

static uint32_t random_shape(const struct model *m)
{
	uint32_t bits = CPUID_ALL;

	/* As before, but for SHSTK, which KVM may have taken away */
	if ((m->has_run || m->in_l2) && fuzz_below(2))
		return m->cpuid | (fuzz_random() & CPUID_SHSTK);

	if (!fuzz_below(4))
		bits &= ~CPUID_SHSTK;
	if (!fuzz_below(4))
		bits &= ~CPUID_IBT;
	if (!fuzz_below(8))
		bits &= ~CPUID_LM;
	if (!fuzz_below(3))
		bits &= fuzz_random() | fuzz_random() | CPUID_SHSTK | CPUID_IBT |
			CPUID_LM;
	return bits;
}

static uint32_t random_cpuid(const struct model *m)
{
	uint32_t bits = random_shape(m);

	if (fuzz_hidden)
		bits &= CPUID_LM | CPUID_XSAVES | CPUID_SUB_LEAF_1;
	if ((bits & CPUID_SHSTK) && model_hides_shstk(bits) && fuzz_known(NO_CET_U))
		bits &= ~CPUID_SHSTK;
	return bits;
}

void fuzz_set_cpuid(struct fuzz_vcpu *v)
{
	struct kvm_vcpu *vcpu = v->vcpu;
	uint32_t bits = random_cpuid(&v->model);
	bool ok;
	int r;

	if (v->model.in_l2 && fuzz_known(CPUID_IN_L2))
		return;
	/* L1 would find these in vmcs12, though it can't see them elsewhere. */
	if (v->nested && !(bits & CPUID_SHSTK) &&
	    (v->model.msrs[INT_SSP_TAB] || v->model.ssp) && fuzz_known(VMCS12_SSP))
		return;
	ok = model_set_cpuid(&v->model, bits);
	fuzz_record(v, "KVM_SET_CPUID2: SHSTK 1, IBT 2, LM 4, 0xD...; has", bits,
		    v->model.cpuid);
	if (!ok)
		fuzz_before_refusal(v);
	fill_cpuid(vcpu->cpuid, bits);
	r = __vcpu_set_cpuid(vcpu);
	fuzz_see_ioctl("the CPUID", r);
	if (r) {
		vcpu->cpuid->nent = kvm_get_supported_cpuid()->nent;
		vcpu_ioctl(vcpu, KVM_GET_CPUID2, vcpu->cpuid);
	}
	v->box->has_cet = model_has_cet(&v->model);
	check_result(v, "the CPUID", !r, ok);
	FUZZ_ASSERT(vcpu_cpuid_has(vcpu, X86_FEATURE_SHSTK) == v->model.shstk,
		    "KVM_GET_CPUID2 %s shadow stacks", v->model.shstk ? "lacks" : "has");
}

bool fuzz_is_offered(struct fuzz_vcpu *v, uint32_t msr, uint64_t control)
{
	uint64_t val = 0;

	FUZZ_ASSERT(cet_get_msr(v->vcpu, msr, &val), "KVM lacks MSR 0x%x", msr);
	return val >> 32 & control;
}

/* User space can take the controls away, whatever CPUID has. */
static void op_set_vmx_ctl(struct fuzz_vcpu *v)
{
	bool is_entry = fuzz_below(2), on = fuzz_below(3), ok;
	uint32_t msr = is_entry ? MSR_IA32_VMX_TRUE_ENTRY_CTLS :
				  MSR_IA32_VMX_TRUE_EXIT_CTLS;
	uint64_t bit = is_entry ? VM_ENTRY_LOAD_CET_STATE : VM_EXIT_LOAD_CET_STATE;
	struct model *m = &v->model;
	bool *has = is_entry ? &m->entry_ctl : &m->exit_ctl;
	uint64_t val = 0;

	if (!cet_get_msr(v->vcpu, msr, &val) || !v->can_load)
		return;
	FUZZ_ASSERT(fuzz_is_offered(v, msr, bit) == *has, "MSR 0x%x is 0x%lx", msr, val);
	val = on ? val | bit << 32 : val & ~(bit << 32);
	/* In VMX operation, KVM refuses even the present value. */
	ok = !v->box->vmxon && (on == *has || !m->has_run);

	fuzz_record(v, "KVM_SET_MSRS", msr, val);
	if (ok)
		*has = on;
	else
		fuzz_before_refusal(v);
	check_result(v, "the feature MSR", _vcpu_set_msr(v->vcpu, msr, val) == 1, ok);
	FUZZ_ASSERT(fuzz_is_offered(v, msr, bit) == *has, "MSR 0x%x has not kept 0x%lx",
		    msr, val);
}

/* Can user space restore the state, as far as it can read that? */
static bool can_restore(const struct model *m)
{
	/* These may have become illegal by a later change of CPUID. */
	if (fuzz_known(model_msr_differs(m, MSR_IA32_U_CET, m->msrs[U_CET], true)))
		return false;
	return m->lm && model_valid_crs(m, m->cr0, m->cr4) &&
	       (!model_has_cet(m) || model_valid_ctl(m, m->msrs[S_CET])) &&
	       !(m->xss & ~m->xss_mask);
}

/* A vCPU accepts all of its own state. */
static void op_restore(struct fuzz_vcpu *v)
{
	static struct snapshot s;
	int i, first = fuzz_below(6);

	fuzz_record(v, "all that was got is set, from", first, 0);
	if (!can_restore(&v->model))
		return;

	fuzz_take_snapshot(v, &s);
	fuzz_check_crs(v, s.sregs.cr0, s.sregs.cr4);
	for (i = first; i < first + 6; i++) {
		switch (i % 6) {
		case 0:
			vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &s.sregs);
			break;
		case 1:
			if (v->model.shstk)
				vcpu_set_reg(v->vcpu, SSP_ID, s.ssp);
			break;
		case 2:
			vcpu_ioctl(v->vcpu, KVM_SET_XSAVE, &s.xsave);
			break;
		case 3:
			vcpu_events_set(v->vcpu, &s.events);
			break;
		case 4:
			vcpu_regs_set(v->vcpu, &s.regs);
			break;
		case 5:
			vcpu_mp_state_set(v->vcpu, &s.mp_state);
			break;
		}
	}
	for (i = 0; i < CET_NR_MSRS && !fuzz_hidden; i++)
		cet_set_msr(v->vcpu, cet_msrs[i], s.msrs[i]);
	cet_set_msr(v->vcpu, MSR_IA32_XSS, s.msrs[CET_NR_MSRS]);
	fuzz_check(v);
}

/* Move to a new vCPU, in L2 if this one is.  Outside, CPUID can change. */
static void op_move(struct fuzz_vcpu *v)
{
	static struct snapshot old, new;
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	bool late = fuzz_below(2), loads;
	uint64_t ssp = v->model.ssp;
	int id;

	if (!can_restore(&v->model))
		return;
	if (v->model.in_l2 && v->box->nested.nr_msrs && fuzz_known(FORCED_EXIT))
		return;
	id = fuzz_new_vcpu_id();
	if (id < 0)
		return;

	fuzz_record(v, "all moves to vCPU", id, late);
	state = vcpu_save_state(v->vcpu);
	fuzz_take_snapshot(v, &old);
	vcpu = vm_arch_vcpu_recreate(v->vcpu->vm, id);
	vcpu_init_cpuid(vcpu, v->vcpu->cpuid);
	v->vcpu = vcpu;
	if (v->model.shstk && !late)
		vcpu_set_reg(vcpu, SSP_ID, old.ssp);
	vcpu_load_state(vcpu, state);
	if (v->model.shstk && late)
		vcpu_set_reg(vcpu, SSP_ID, old.ssp);
	loads = (state->nested.flags & KVM_STATE_NESTED_RUN_PENDING) &&
		v->box->nested.entry_loads;
	kvm_x86_state_cleanup(state);

	model_move(&v->model);
	if (loads)
		v->model.ssp = ssp;
	fuzz_check(v);
	fuzz_take_snapshot(v, &new);
	fuzz_check_crs(v, new.sregs.cr0, new.sregs.cr4);
	FUZZ_ASSERT(!memcmp(&old.regs, &new.regs, sizeof(new.regs)),
		    "The new vCPU has other registers");
}

/*
 * Compare the CPU's own rule for INT_SSP_TAB with the model.  Guests can't
 * write the MSR directly, and the host doesn't use it.
 */
static void op_native(struct fuzz_vcpu *v)
{
	uint64_t old, val = fuzz_value(v->model.msrs[INT_SSP_TAB]);
	static int fd = -1;
	bool ok;

	if (fd < 0)
		fd = open("/dev/cpu/0/msr", O_RDWR);
	fuzz_record(v, "WRMSR by the host", MSR_IA32_INT_SSP_TAB, val);
	if (fd < 0 ||
	    pread(fd, &old, sizeof(old), MSR_IA32_INT_SSP_TAB) != sizeof(old))
		return;

	ok = pwrite(fd, &val, sizeof(val), MSR_IA32_INT_SSP_TAB) == sizeof(val);
	pwrite(fd, &old, sizeof(old), MSR_IA32_INT_SSP_TAB);
	FUZZ_ASSERT(ok == model_canonical(val), "The CPU %s INT_SSP_TAB = 0x%lx",
		    ok ? "takes" : "refuses", val);
	fuzz_set_msr(v, MSR_IA32_INT_SSP_TAB, val);
}

void fuzz_ioctl(struct fuzz_vcpu *v)
{
	static void (*const ops[])(struct fuzz_vcpu *v) = {
		op_set_msr, op_set_msr, op_set_msr, op_set_msr,
		op_set_msr_list, op_get_msr, fuzz_set_one_reg, fuzz_set_one_reg,
		op_get_one_reg, op_set_sregs, op_set_sregs, op_set_events,
		op_set_xsave, fuzz_set_cpuid, op_restore, op_native,
		op_set_vmx_ctl, op_move, fuzz_host, fuzz_host,
	};

	fuzz_pick(ops)(v);
}

void fuzz_ioctl_in_l2(struct fuzz_vcpu *v)
{
	static void (*const ops[])(struct fuzz_vcpu *v) = {
		op_set_msr, op_set_msr, op_set_msr_list, fuzz_set_one_reg,
		fuzz_set_one_reg, fuzz_set_cpuid, op_set_vmx_ctl, op_move,
		fuzz_host_in_l2, fuzz_host_in_l2,
	};

	fuzz_pick(ops)(v);
}
