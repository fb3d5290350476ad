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
	} list = { .header.nmsrs = CET_NR_MSRS + 1 };
	int i, n;

	for (i = 0; i < CET_NR_MSRS; i++)
		list.entries[i].index = cet_msrs[i];
	list.entries[i].index = MSR_IA32_XSS;
	n = __vcpu_ioctl(v->vcpu, KVM_GET_MSRS, &list.header);
	FUZZ_ASSERT(n == CET_NR_MSRS + 1, "KVM_GET_MSRS of all MSRs returned %d", n);
	for (i = 0; i <= CET_NR_MSRS; i++)
		vals[i] = list.entries[i].data;
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
	for (i = 0; i < CET_NR_MSRS; i++) {
		model_get_msr(&v->model, cet_msrs[i], true, &val);
		FUZZ_ASSERT(vals[i] == val, "vCPU %u has %s = 0x%lx, not 0x%lx",
			    v->vcpu->id, cet_msr_name(cet_msrs[i]), vals[i], val);
	}
	FUZZ_ASSERT(vals[i] == v->model.xss, "vCPU %u has XSS = 0x%lx, not 0x%lx",
		    v->vcpu->id, vals[i], v->model.xss);

	r = ssp_get(v, &ssp);
	FUZZ_ASSERT(r == (model_has_ssp(&v->model) ? 0 : EINVAL),
		    "KVM_GET_ONE_REG of SSP: errno %d", r);
	val = v->model.shstk ? v->model.ssp : 0;
	FUZZ_ASSERT(r || ssp == val, "vCPU %u has SSP = 0x%lx, not 0x%lx",
		    v->vcpu->id, ssp, val);
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
