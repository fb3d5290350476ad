// SPDX-License-Identifier: GPL-2.0
/*
 * Helpers for tests of nested CET state, described in cet_nested.h.
 */
#include "cet_nested.h"
#include "test_util.h"

/* KVM_GET_NESTED_STATE and the host's view rely on it being in one page. */
struct cet_nested cet_nested __aligned(1024);
struct vmx_pages *cet_vmx;

/* L1 is in VMX operation, which it never leaves. */
static bool in_vmx_operation;

void l2_nop(void)
{
	vmcall();
}

static void read_msrs(void)
{
	cet_nested.l2_s_cet = rdmsr(MSR_IA32_S_CET);
	rdmsr_safe(MSR_IA32_INT_SSP_TAB, &cet_nested.l2_ssp_tbl);
	/* Have it written before the exit that follows. */
	barrier();
}

void l2_read(void)
{
	read_msrs();
	vmcall();
}

void l2_read_out_write(void)
{
	read_msrs();
	asm volatile("out %%al, %0" : : "i"(CET_PORT) : "memory");
	read_msrs();
	wrmsr(MSR_IA32_S_CET, cet_nested.l2_write_s_cet);
	wrmsr_safe(MSR_IA32_INT_SSP_TAB, cet_nested.l2_write_ssp_tbl);
	vmcall();
}

static bool write_field(uint64_t field, uint64_t val)
{
	if (!vmwrite(field, val))
		return true;

	cet_nested.refused_field = field;
	return false;
}

static bool write_fields(void)
{
	struct cet_nested *n = &cet_nested;

	return write_field(GUEST_S_CET, n->guest.s_cet) &&
	       write_field(GUEST_SSP, n->guest.ssp) &&
	       write_field(GUEST_INTR_SSP_TABLE, n->guest.ssp_tbl) &&
	       write_field(HOST_S_CET, n->host.s_cet) &&
	       write_field(HOST_SSP, n->host.ssp) &&
	       write_field(HOST_INTR_SSP_TABLE, n->host.ssp_tbl);
}

/* KVM takes each VMWRITE for a change: skip those that change nothing. */
static void set_control(uint64_t field, uint64_t control, bool set)
{
	const uint64_t old = vmreadz(field);
	const uint64_t val = (old & ~control) | (set ? control : 0);

	if (val != old)
		GUEST_ASSERT(!vmwrite(field, val));
}

/*
 * VMLAUNCH, from which VM exit returns to here, or VMRESUME, which writes no
 * field.  Returns whether it failed.  The stack is the same for all calls.
 */
static __attribute__((naked)) bool enter_l2(bool resume)
{
	asm("push %rbp\n"
	    "push %rbx\n"
	    "push %r12\n"
	    "push %r13\n"
	    "push %r14\n"
	    "push %r15\n"
	    "test %dil, %dil\n"
	    "jnz 2f\n"
	    "mov $0x6c14, %eax\n"	/* HOST_RSP */
	    "vmwrite %rsp, %rax\n"
	    "lea 1f(%rip), %rcx\n"
	    "mov $0x6c16, %eax\n"	/* HOST_RIP */
	    "vmwrite %rcx, %rax\n"
	    "vmlaunch\n"
	    "jmp 3f\n"
	    "2: vmresume\n"
	    "3: mov $1, %eax\n"
	    "jmp 4f\n"
	    "1: xor %eax, %eax\n"
	    "4: pop %r15\n"
	    "pop %r14\n"
	    "pop %r13\n"
	    "pop %r12\n"
	    "pop %rbx\n"
	    "pop %rbp\n"
	    "ret\n");
}

void guest_nested(struct cet_call *call)
{
	struct cet_nested *n = &cet_nested;
	bool failed;

	if (!in_vmx_operation) {
		GUEST_ASSERT(prepare_for_vmx_operation(cet_vmx));
		in_vmx_operation = true;
	}

	if (!n->resume) {
		GUEST_ASSERT(load_vmcs(cet_vmx));
		guest_prepare_l2_vmcs(cet_vmx, n->l2);
		if (!n->without_cet && !write_fields())
			return;
	}

	set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_CET_STATE, n->load_guest);
	set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_CET_STATE, n->load_host);
	if (n->prepare)
		n->prepare();

	failed = enter_l2(n->resume);
	n->error = failed ? vmreadz(VM_INSTRUCTION_ERROR) : 0;
	if (!failed) {
		n->reason = vmreadz(VM_EXIT_REASON);
		n->qualification = vmreadz(EXIT_QUALIFICATION);
		n->intr_info = vmreadz(VM_EXIT_INTR_INFO);
		n->intr_error_code = vmreadz(VM_EXIT_INTR_ERROR_CODE);
		n->idt_info = vmreadz(IDT_VECTORING_INFO_FIELD);
		n->idt_error_code = vmreadz(IDT_VECTORING_ERROR_CODE);
	}

	n->saved.s_cet = vmreadz(GUEST_S_CET);
	n->saved.ssp = vmreadz(GUEST_SSP);
	n->saved.ssp_tbl = vmreadz(GUEST_INTR_SSP_TABLE);
	rdmsr_safe(MSR_IA32_S_CET, &n->l1_s_cet);
	rdmsr_safe(MSR_IA32_INT_SSP_TAB, &n->l1_ssp_tbl);
}

struct cet_nested *vcpu_init_cet_nested(struct kvm_vcpu *vcpu)
{
	struct kvm_vm *vm = vcpu->vm;
	struct cet_nested *n;
	vm_vaddr_t gva;

	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, cet_vmx, (struct vmx_pages *)gva);

	n = addr_gva2hva(vm, (vm_vaddr_t)&cet_nested);
	n->l2 = l2_nop;
	return n;
}

/* Overwrite what the last run has found. */
static void forget_results(struct cet_nested *n)
{
	const size_t start = offsetof(struct cet_nested, error);

	n->refused_field = 0;
	memset((void *)n + start, 0xff,
	       offsetof(struct cet_nested, l2_write_s_cet) - start);
}

void cet_finish_nested(struct kvm_vcpu *vcpu)
{
	struct cet_nested *n = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_nested);

	cet_finish(vcpu);
	TEST_ASSERT(!n->refused_field, "VMWRITE refused field 0x%lx",
		    n->refused_field);
}

void cet_run_nested(struct kvm_vcpu *vcpu)
{
	forget_results(addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_nested));
	cet_prepare(vcpu, guest_nested, 0, 0);
	vcpu_run(vcpu);
	cet_finish_nested(vcpu);
}

void cet_run_l2_to_out(struct kvm_vcpu *vcpu)
{
	struct cet_nested *n = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_nested);

	forget_results(n);
	cet_prepare(vcpu, guest_nested, 0, 0);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	if (vcpu->run->io.port != CET_PORT) {
		cet_finish_nested(vcpu);
		TEST_FAIL("L2 did not get to its OUT: error %lu, reason 0x%lx",
			  n->error, n->reason);
	}
	vcpu_run_complete_io(vcpu);
}

bool vcpu_is_in_l2(struct kvm_vcpu *vcpu)
{
	struct kvm_x86_state *state = calloc(1, sizeof(*state));
	bool in_l2;

	state->nested.size = sizeof(state->nested_);
	vcpu_nested_state_get(vcpu, &state->nested);
	in_l2 = state->nested.flags & KVM_STATE_NESTED_GUEST_MODE;
	free(state);
	return in_l2;
}

void vcpu_set_cet_state(struct kvm_vcpu *vcpu,
			const struct cet_vmcs_state *state)
{
	cet_set_msr(vcpu, MSR_IA32_S_CET, state->s_cet);
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, state->ssp_tbl);
	vcpu_set_reg(vcpu, SSP_ID, state->ssp);
}

void cet_expect_state(const struct cet_vmcs_state *got,
		      const struct cet_vmcs_state *state, const char *when)
{
	TEST_ASSERT(got->s_cet == state->s_cet, "%s: S_CET is 0x%lx, not 0x%lx",
		    when, got->s_cet, state->s_cet);
	TEST_ASSERT(got->ssp == state->ssp, "%s: SSP is 0x%lx, not 0x%lx",
		    when, got->ssp, state->ssp);
	TEST_ASSERT(got->ssp_tbl == state->ssp_tbl,
		    "%s: SSP table is 0x%lx, not 0x%lx", when, got->ssp_tbl,
		    state->ssp_tbl);
}

void vcpu_expect_cet_state(struct kvm_vcpu *vcpu,
			   const struct cet_vmcs_state *state, const char *when)
{
	struct cet_vmcs_state got;

	TEST_ASSERT(cet_get_msr(vcpu, MSR_IA32_S_CET, &got.s_cet) &&
		    cet_get_msr(vcpu, MSR_IA32_INT_SSP_TAB, &got.ssp_tbl),
		    "KVM_GET_MSRS refused CET MSRs");
	vcpu_get_reg(vcpu, SSP_ID, &got.ssp);
	cet_expect_state(&got, state, when);
}
