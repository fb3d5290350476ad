// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's checks of a vCPU by ioctls: it has to be what the model says, and
 * a refused call must have left it alone.
 */
#include <errno.h>

#include "cet_fuzz.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

static struct snapshot before, after;
static bool taken;

static int ssp_get(struct fuzz_vcpu *v, uint64_t *ssp)
{
	return __vcpu_get_reg(v->vcpu, SSP_ID, ssp) ? errno : 0;
}

static void read_msrs(struct fuzz_vcpu *v, uint64_t *vals)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[CET_NR_MSRS + 1];
	} list = {};
	int i, n, first = fuzz_hidden ? CET_NR_MSRS : 0;

	for (i = first; i < CET_NR_MSRS; i++)
		list.entries[i - first].index = cet_msrs[i];
	list.entries[i - first].index = MSR_IA32_XSS;
	list.header.nmsrs = CET_NR_MSRS + 1 - first;
	n = __vcpu_ioctl(v->vcpu, KVM_GET_MSRS, &list.header);
	FUZZ_ASSERT(n == list.header.nmsrs, "KVM_GET_MSRS of all MSRs returned %d", n);
	for (i = first; i <= CET_NR_MSRS; i++)
		vals[i] = list.entries[i - first].data;
}

void fuzz_take_snapshot(struct fuzz_vcpu *v, struct snapshot *s)
{
	memset(s, 0, sizeof(*s));
	read_msrs(v, s->msrs);
	if (v->model.shstk)
		FUZZ_ASSERT(!ssp_get(v, &s->ssp), "KVM_GET_ONE_REG of SSP failed");
	vcpu_ioctl(v->vcpu, KVM_GET_SREGS2, &s->sregs);
	vcpu_regs_get(v->vcpu, &s->regs);
	vcpu_events_get(v->vcpu, &s->events);
	vcpu_mp_state_get(v->vcpu, &s->mp_state);
	vcpu_xsave_get(v->vcpu, &s->xsave);
}

void fuzz_check(struct fuzz_vcpu *v)
{
	uint64_t vals[CET_NR_MSRS + 1], ssp, val;
	int i, r;

	read_msrs(v, vals);
	for (i = 0; i < CET_NR_MSRS && !fuzz_hidden; i++) {
		model_get_msr(&v->model, cet_msrs[i], true, &val);
		if (!v->model.lm && i == INT_SSP_TAB && fuzz_known(TABLE_WITHOUT_LM))
			continue;
		fuzz_see(cet_msr_name(cet_msrs[i]), vals[i]);
		FUZZ_ASSERT(vals[i] == val, "vCPU %u has %s = 0x%lx, not 0x%lx",
			    v->vcpu->id, cet_msr_name(cet_msrs[i]), vals[i], val);
	}
	i = CET_NR_MSRS;
	fuzz_see("XSS", vals[i]);
	FUZZ_ASSERT(vals[i] == v->model.xss, "vCPU %u has XSS = 0x%lx, not 0x%lx",
		    v->vcpu->id, vals[i], v->model.xss);
	if (fuzz_hidden || (v->model.hides_shstk && fuzz_known(NO_CET_U)))
		return;

	ssp = 0;
	r = ssp_get(v, &ssp);
	fuzz_see("errno of SSP", r);
	fuzz_see("SSP", ssp);
	FUZZ_ASSERT(r == (model_has_ssp(&v->model) ? 0 : EINVAL),
		    "KVM_GET_ONE_REG of SSP: errno %d", r);
	val = v->model.shstk ? v->model.ssp : 0;
	FUZZ_ASSERT(r || ssp == val, "vCPU %u has SSP = 0x%lx, not 0x%lx",
		    v->vcpu->id, ssp, val);
}

void fuzz_see_all(struct fuzz_vcpu *v)
{
	static struct snapshot s;

	fuzz_take_snapshot(v, &s);
	fuzz_see_bytes("KVM_GET_SREGS2", &s.sregs, sizeof(s.sregs));
	fuzz_see_bytes("KVM_GET_REGS", &s.regs, sizeof(s.regs));
	/* Otherwise, it is the last one that was not the CPU's own. */
	if (!s.events.exception.injected && !s.events.exception.pending)
		memset(&s.events.exception, 0, sizeof(s.events.exception));
	fuzz_see_bytes("KVM_GET_VCPU_EVENTS", &s.events, sizeof(s.events));
	fuzz_see("KVM_GET_MP_STATE", s.mp_state.mp_state);
	fuzz_see_bytes("KVM_GET_XSAVE", &s.xsave, sizeof(s.xsave));
}

void fuzz_check_crs(struct fuzz_vcpu *v, uint64_t cr0, uint64_t cr4)
{
	FUZZ_ASSERT(cr0 == v->model.cr0, "vCPU %u has CR0 = 0x%lx, not 0x%lx",
		    v->vcpu->id, cr0, v->model.cr0);
	FUZZ_ASSERT(cr4 == v->model.cr4, "vCPU %u has CR4 = 0x%lx, not 0x%lx",
		    v->vcpu->id, cr4, v->model.cr4);
}

/* A snapshot is several times as expensive as most operations. */
void fuzz_before_refusal(struct fuzz_vcpu *v)
{
	taken = !fuzz_below(8);
	if (taken)
		fuzz_take_snapshot(v, &before);
}

void fuzz_check_refusal(struct fuzz_vcpu *v)
{
	fuzz_check(v);
	if (!taken)
		return;

	taken = false;
	fuzz_take_snapshot(v, &after);
	fuzz_check_crs(v, after.sregs.cr0, after.sregs.cr4);
	FUZZ_ASSERT(!memcmp(&before.sregs, &after.sregs, sizeof(after.sregs)),
		    "A refused call has changed what KVM_GET_SREGS2 returns");
	FUZZ_ASSERT(!memcmp(&before.regs, &after.regs, sizeof(after.regs)),
		    "A refused call has changed what KVM_GET_REGS returns");
	FUZZ_ASSERT(!memcmp(&before.events, &after.events, sizeof(after.events)),
		    "A refused call has changed what KVM_GET_VCPU_EVENTS returns");
	FUZZ_ASSERT(!memcmp(&before.xsave, &after.xsave, sizeof(after.xsave)),
		    "A refused call has changed what KVM_GET_XSAVE returns");
	FUZZ_ASSERT(!memcmp(&before, &after, sizeof(after)),
		    "A refused call has changed the vCPU");
}
