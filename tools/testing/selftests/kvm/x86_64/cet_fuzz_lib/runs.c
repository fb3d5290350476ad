// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's KVM_RUNs: what the guest does, many operations at once, and what
 * gets in between: exceptions, NMI, SMI and INIT.
 */
#include "cet_fuzz.h"

#define SMRAM_GPA		0x1000000
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_PAGES		16
#define SMRAM_HANDLER		0x8000
#define SMRAM_SSP		0xff18
#define SMI_PORT		0x81

static const uint8_t smi_handler[] = {
	0xe6, SMI_PORT,			/* out %al, $SMI_PORT */
	0x0f, 0xaa,			/* rsm */
};

void fuzz_init_vm(struct kvm_vm *vm)
{
	void *smram;

	memset(model_filter, 0, sizeof(model_filter));
	vm_init_cet(vm);
	vm_set_raw_handler(vm, NMI_VECTOR, fuzz_nmi_handler);
	vm_set_raw_handler(vm, FUZZ_INT_VECTOR, fuzz_int_handler);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	smram = addr_gpa2hva(vm, SMRAM_GPA);
	memcpy(smram + SMRAM_HANDLER, smi_handler, sizeof(smi_handler));
}

void fuzz_init_vcpu(struct fuzz_vcpu *v, int i)
{
	struct kvm_xcrs xcrs = {
		.nr_xcrs = 1,
		.xcrs[0].value = XFEATURE_MASK_FP | XFEATURE_MASK_SSE,
	};
	struct kvm_sregs sregs;
	vm_vaddr_t vmx;

	v->box = addr_gva2hva(v->vcpu->vm, (vm_vaddr_t)&mailboxes[i]);
	memset(v->box, 0, sizeof(*v->box));
	vcpu_arch_set_entry_point(v->vcpu, fuzz_entry);
	vcpu_args_set(v->vcpu, 1, &mailboxes[i]);
	TEST_ASSERT(_vcpu_set_msr(v->vcpu, MSR_IA32_SMBASE, SMRAM_GPA) == 1,
		    "KVM_SET_MSRS refused SMBASE");

	vcpu_sregs_get(v->vcpu, &sregs);
	/* MOV CR0 would set ET. */
	sregs.cr0 |= X86_CR0_WP | X86_CR0_ET;
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(v->vcpu, &sregs);
	vcpu_xcrs_set(v->vcpu, &xcrs);
	vcpu_sregs_get(v->vcpu, &sregs);

	v->model = (struct model) {
		.cr0 = sregs.cr0, .cr4 = sregs.cr4,
		.entry_ctl = fuzz_is_offered(v, MSR_IA32_VMX_TRUE_ENTRY_CTLS,
					     VM_ENTRY_LOAD_CET_STATE),
		.exit_ctl = fuzz_is_offered(v, MSR_IA32_VMX_TRUE_EXIT_CTLS,
					    VM_EXIT_LOAD_CET_STATE),
	};
	v->can_load = v->model.entry_ctl && v->model.exit_ctl;
	model_set_cpuid(&v->model, fuzz_hidden ? CPUID_LM | CPUID_XSAVES | CPUID_SUB_LEAF_1 :
						 CPUID_ALL);
	v->box->has_cet = model_has_cet(&v->model);
	if (v->nested) {
		vcpu_alloc_vmx(v->vcpu->vm, &vmx);
		v->box->vmx = (struct vmx_pages *)vmx;
	}
}

static void expect_out(struct fuzz_vcpu *v, uint16_t port)
{
	struct kvm_run *run = v->vcpu->run;
	struct ucall uc;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == port) {
		/* Otherwise, the next KVM_RUN would skip an instruction. */
		vcpu_run_complete_io(v->vcpu);
		return;
	}
	if (run->exit_reason == KVM_EXIT_IO &&
	    get_ucall(v->vcpu, &uc) == UCALL_ABORT)
		fuzz_fail("The guest failed: %s", uc.buffer);
	if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		fuzz_fail("KVM_EXIT_FAIL_ENTRY, reason 0x%llx",
			  run->fail_entry.hardware_entry_failure_reason);
	if (run->exit_reason == KVM_EXIT_IO)
		fuzz_fail("KVM_RUN ended with port 0x%x, not 0x%x; VMLAUNCH: %lu, 0x%lx",
			  run->io.port, port, v->box->nested.error,
			  v->box->nested.reason);
	fuzz_fail("KVM_RUN ended with exit reason %u (%s)", run->exit_reason,
		  exit_reason_str(run->exit_reason));
}

static void enter(struct fuzz_vcpu *v)
{
	int r = _vcpu_run(v->vcpu);

	fuzz_see_ioctl("KVM_RUN", r);
	fuzz_see("exit reason", v->vcpu->run->exit_reason);
	if (v->vcpu->run->exit_reason == KVM_EXIT_IO)
		fuzz_see("port", v->vcpu->run->io.port);
	FUZZ_ASSERT(!r, "KVM_RUN: errno %d", errno);
	v->model.has_run = true;
}

void fuzz_enter(struct fuzz_vcpu *v, uint16_t port)
{
	enter(v);
	expect_out(v, port);
}

bool fuzz_can_run(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;

	/* The emulated CPU refuses an SSP that is legal, but not canonical. */
	if (!model_canonical(m->ssp)) {
		if (!m->shstk)
			return false;
		fuzz_set_ssp(v, fuzz_token(v));
	}

	/* The guest writes S_CET back.  Without CET, it must enable nothing. */
	if (model_has_cet(m)) {
		if (!model_valid_ctl(m, m->msrs[S_CET]))
			fuzz_set_msr(v, MSR_IA32_S_CET, fuzz_valid_ctl(m));
		return true;
	}
	return !model_armed(m, m->msrs[S_CET], CET_SHSTK_EN | CET_ENDBR_EN);
}

static void op_guest(struct fuzz_vcpu *v)
{
	fuzz_prepare_ops(v, 1 + fuzz_below(MAX_GUEST_OPS));
	fuzz_enter(v, FUZZ_PORT);
	fuzz_check_ops(v);
}

/* Have the vCPU on a shadow stack for an exception, or need none. */
static bool prepare_exception(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;
	uint64_t s_cet = m->msrs[S_CET];

	if (!model_armed(m, ~0ull, CET_SHSTK_EN))
		return true;

	if (m->shstk && fuzz_below(2)) {
		fuzz_set_ssp(v, fuzz_token(v));
		s_cet = CET_SHSTK_EN | (m->ibt ? fuzz_random() & CET_ENDBR_EN : 0);
		fuzz_set_msr(v, MSR_IA32_S_CET, s_cet);
		return true;
	}
	return !(s_cet & CET_SHSTK_EN);
}

/* #CP or NMI before the guest's first instruction */
static void op_exception(struct fuzz_vcpu *v)
{
	bool is_nmi = fuzz_below(2);
	uint64_t *count = addr_gva2hva(v->vcpu->vm, is_nmi ?
				       (vm_vaddr_t)&fuzz_nmi_count :
				       (vm_vaddr_t)&cet_cp_count);
	uint64_t *code = addr_gva2hva(v->vcpu->vm, (vm_vaddr_t)&cet_cp_error_code);
	struct kvm_vcpu_events events;
	uint64_t old = *count;

	if (!prepare_exception(v))
		return;

	vcpu_events_get(v->vcpu, &events);
	events.exception.injected = 1;
	events.exception.nr = CP_VECTOR;
	events.exception.has_error_code = 1;
	events.exception.error_code = fuzz_random() & 0x7fff;
	fuzz_record(v, is_nmi ? "KVM_NMI and KVM_RUN" : "#CP and KVM_RUN", CP_VECTOR,
		    events.exception.error_code);
	if (is_nmi)
		vcpu_ioctl(v->vcpu, KVM_NMI, NULL);
	else
		vcpu_events_set(v->vcpu, &events);

	fuzz_prepare_ops(v, fuzz_below(4));
	fuzz_enter(v, FUZZ_PORT);
	FUZZ_ASSERT(*count == old + 1, "%lu exceptions, not 1", *count - old);
	FUZZ_ASSERT(is_nmi || *code == events.exception.error_code,
		    "#CP with error code 0x%lx, not 0x%x", *code,
		    events.exception.error_code);
	fuzz_check_ops(v);
}

/*
 * SMM is not 64-bit mode.  The emulated CPU refuses VM entries with more than
 * 32 bits in S_CET or SSP there.
 */
static bool prepare_smi(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;

	/* RSM couldn't load the control registers. */
	if (!m->lm || !model_valid_crs(m, m->cr0, m->cr4))
		return false;
	if (m->shstk && m->ssp >> 32)
		fuzz_set_ssp(v, fuzz_token(v));
	if (model_has_cet(m) && m->msrs[S_CET] >> 32)
		fuzz_set_msr(v, MSR_IA32_S_CET, (uint32_t)m->msrs[S_CET]);
	return !(m->ssp >> 32) && !(m->msrs[S_CET] >> 32);
}

/* SMI stores SSP, and RSM loads it.  The handler has all other CET state. */
bool fuzz_smi(struct fuzz_vcpu *v, bool may_fail)
{
	uint64_t *slot = addr_gpa2hva(v->vcpu->vm, SMRAM_GPA + SMRAM_SSP);
	struct model *m = &v->model;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct model outside;
	int i;

	if (!prepare_smi(v))
		return false;

	fuzz_record(v, "SMI", 0, 0);
	vcpu_events_get(v->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = 1;
	vcpu_events_set(v->vcpu, &events);
	fuzz_enter(v, SMI_PORT);

	fuzz_see("SSP in SMRAM", *slot);
	FUZZ_ASSERT(*slot == (m->shstk ? m->ssp : 0), "SMRAM has SSP = 0x%lx, not 0x%lx",
		    *slot, m->shstk ? m->ssp : 0);
	vcpu_sregs_get(v->vcpu, &sregs);
	FUZZ_ASSERT(!(sregs.cr4 & X86_CR4_CET), "CR4.CET is set in SMM");
	outside = *m;
	m->cr0 = sregs.cr0;
	m->cr4 = sregs.cr4;
	fuzz_check(v);

	for (i = fuzz_below(4); i; i--)
		fuzz_set_msr(v, fuzz_pick(cet_msrs), (uint32_t)fuzz_value(0));
	if (m->shstk && fuzz_below(2))
		fuzz_set_ssp(v, (uint32_t)fuzz_random() & ~3u);
	m->cr0 = outside.cr0;
	m->cr4 = outside.cr4;
	if (m->shstk)
		m->ssp = outside.ssp;
	if (m->shstk && fuzz_below(2)) {
		*slot = fuzz_ssp(m->ssp);
		/* The guest can't run with all that RSM can load. */
		if (!model_canonical(*slot) || (!may_fail && *slot % 4))
			*slot = may_fail ? 1 : 0;
		fuzz_record(v, "SSP in SMRAM", *slot, 0);
		m->ssp = *slot;
	}
	return true;
}

static void op_smi(struct fuzz_vcpu *v)
{
	struct model *m = &v->model;

	if (!fuzz_smi(v, true))
		return;

	if (m->shstk && !model_valid_ssp(m->ssp)) {
		enter(v);
		FUZZ_ASSERT(v->vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN,
			    "RSM with a bad SSP ended with exit reason %u (%s)",
			    v->vcpu->run->exit_reason,
			    exit_reason_str(v->vcpu->run->exit_reason));
		fuzz_end_vcpus();
		return;
	}
	fuzz_prepare_ops(v, fuzz_below(4));
	fuzz_enter(v, FUZZ_PORT);
	fuzz_check_ops(v);
}

/* KVM_GET_MP_STATE processes it. */
static void op_init(struct fuzz_vcpu *v)
{
	struct kvm_mp_state mp_state = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events events;
	struct snapshot s;

	/* VMX operation blocks INIT.  Control registers must be restorable. */
	if (v->box->vmxon || !v->model.lm ||
	    !model_valid_crs(&v->model, v->model.cr0, v->model.cr4))
		return;

	fuzz_record(v, "INIT", 0, 0);
	fuzz_take_snapshot(v, &s);
	events = s.events;
	events.flags = KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	vcpu_events_set(v->vcpu, &events);
	vcpu_mp_state_get(v->vcpu, &s.mp_state);
	vcpu_mp_state_set(v->vcpu, &mp_state);

	model_init(&v->model);
	fuzz_check(v);
	vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &s.sregs);
	vcpu_regs_set(v->vcpu, &s.regs);
	fuzz_check(v);
}

void fuzz_run(struct fuzz_vcpu *v)
{
	static void (*const ops[])(struct fuzz_vcpu *v) = {
		op_guest, op_guest, op_guest, op_guest, op_guest, op_guest,
		op_exception, op_exception, op_smi, op_init,
	};

	if (!fuzz_can_run(v))
		return;
	if (v->nested && fuzz_below(2))
		fuzz_run_nested(v);
	else
		fuzz_pick(ops)(v);
}
