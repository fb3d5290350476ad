// SPDX-License-Identifier: GPL-2.0
/*
 * Stop a guest that is busy with shadow stacks at random instructions, read all
 * of its state, write it back in QEMU's order, and let the guest continue.  The
 * state must not have changed, and the guest must not notice.
 *
 *	cet_stop_test [-n STOPS]
 */
#include <errno.h>
#include <linux/stringify.h>
#include <signal.h>
#include <time.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "hyperv.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/* User mode enters the kernel by the first INTn, and ends by the second. */
#define CALL_VECTOR		0x81
#define END_VECTOR		0x82

/* 16000 instructions in the machine, a third of which is KVM_RUN's. */
#define MAX_DELAY_NS		400000

static int nr_stops = 300;

/* Guest data */
static uint64_t nr_loops, nr_calls;
static bool stop;

/*
 * A payload for cet_run() that goes to user mode.  Only that has a shadow
 * stack.  PL3_SSP changes all the time: INTn saves SSP to it, and IRET loads
 * it.
 */
static __attribute__((naked)) void guest_busy(void)
{
	asm("endbr64\n"
	    "lea -256(%rsp), %rax\n"
	    "push $" __stringify(USER_DS) "\n"
	    "push %rax\n"
	    "pushf\n"
	    "push $" __stringify(USER_CS) "\n"
	    "lea 1f(%rip), %rax\n"
	    "push %rax\n"
	    "iretq\n"
	    "1: mov $3, %ebx\n"
	    "lea 2f(%rip), %rax\n"
	    "call *%rax\n"
	    "incq nr_loops(%rip)\n"
	    "cmpb $0, stop(%rip)\n"
	    "je 1b\n"
	    "int $" __stringify(END_VECTOR) "\n"
	    /* Call EBX deep, and enter the kernel at the bottom. */
	    "2: endbr64\n"
	    "dec %ebx\n"
	    "jz 3f\n"
	    "call 2b\n"
	    "ret\n"
	    "3: int $" __stringify(CALL_VECTOR) "\n"
	    "ret\n");
}

static __attribute__((naked)) void guest_call_handler(void)
{
	asm("endbr64\n"
	    "incq nr_calls(%rip)\n"
	    "iretq\n");
}

static __attribute__((naked)) void guest_end_handler(void)
{
	asm("endbr64\n"
	    "out %al, $" __stringify(CET_PORT) "\n");
}

FIXTURE(stop)
{
	struct kvm_vcpu *vcpu;
	timer_t timer;
};

static struct kvm_run *running;

static void on_alarm(int sig)
{
	/* In case the signal comes before KVM_RUN */
	running->immediate_exit = true;
}

FIXTURE_SETUP(stop)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct kvm_vcpu *vcpu;
	struct kvm_sregs sregs;
	vm_vaddr_t gva, alias;
	struct kvm_vm *vm;
	struct idt_entry *idt;

	vm = vm_create_cet(&vcpu, true, true);
	self->vcpu = vcpu;
	running = vcpu->run;
	cet_enable(vcpu);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(vcpu, &sregs);

	vm_init_user_mode(vm);
	gva = vm_alloc_shadow_stack(vm, &alias);
	*vm_get_page_table_entry(vm, gva) |= PTE_USER_MASK;
	cet_set_msr(vcpu, MSR_IA32_PL3_SSP, gva + PAGE_SIZE);
	cet_set_msr(vcpu, MSR_IA32_U_CET, CET_SHSTK_EN | CET_ENDBR_EN);
	cet_set_msr(vcpu, MSR_IA32_PL1_SSP, 0x1000);
	cet_set_msr(vcpu, MSR_IA32_PL2_SSP, 0x2000);
	cet_set_msr(vcpu, MSR_IA32_INT_SSP_TAB, 0x3000);

	vm_set_raw_handler(vm, GP_VECTOR, guest_gp_handler);
	vm_set_raw_handler(vm, PF_VECTOR, guest_pf_handler);
	vm_set_raw_handler(vm, CALL_VECTOR, guest_call_handler);
	vm_set_raw_handler(vm, END_VECTOR, guest_end_handler);
	idt = addr_gva2hva(vm, vm->arch.idt);
	idt[CALL_VECTOR].dpl = 3;
	idt[END_VECTOR].dpl = 3;

	TEST_ASSERT(!sigaction(SIGALRM, &action, NULL) &&
		    !timer_create(CLOCK_MONOTONIC, NULL, &self->timer),
		    "No timer");
}

FIXTURE_TEARDOWN(stop)
{
	timer_delete(self->timer);
	kvm_vm_free(self->vcpu->vm);
}

/* All that QEMU reads and writes when it stops a guest and resumes it */
struct whole_state {
	struct kvm_x86_state *x86;
	struct kvm_sregs2 sregs2;
	struct kvm_lapic_state lapic;
	uint64_t ssp;
};

static void get_state(struct kvm_vcpu *vcpu, struct whole_state *state)
{
	state->x86 = vcpu_save_state(vcpu);
	vcpu_ioctl(vcpu, KVM_GET_SREGS2, &state->sregs2);
	/* SS after an interrupt of user mode: KVM sets "accessed" anyway. */
	if (state->sregs2.ss.unusable) {
		state->sregs2.ss.type |= 1;
		state->x86->sregs.ss.type |= 1;
	}
	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &state->lapic);
	vcpu_get_reg(vcpu, SSP_ID, &state->ssp);
}

static void set_state(struct kvm_vcpu *vcpu, struct whole_state *state)
{
	vcpu_ioctl(vcpu, KVM_SET_SREGS2, &state->sregs2);
	vcpu_nested_state_set(vcpu, &state->x86->nested);
	vcpu_regs_set(vcpu, &state->x86->regs);
	vcpu_xsave_set(vcpu, state->x86->xsave);
	vcpu_xcrs_set(vcpu, &state->x86->xcrs);
	vcpu_msrs_set(vcpu, &state->x86->msrs);
	vcpu_set_reg(vcpu, SSP_ID, state->ssp);
	vcpu_events_set(vcpu, &state->x86->events);
	vcpu_mp_state_set(vcpu, &state->x86->mp_state);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &state->lapic);
	vcpu_debugregs_set(vcpu, &state->x86->debugregs);
}

/* Clocks continue. */
static bool is_clock(uint32_t msr)
{
	return msr == MSR_IA32_TSC || msr == HV_X64_MSR_TIME_REF_COUNT ||
	       msr == HV_X64_MSR_VP_RUNTIME;
}

static void expect_same_bytes(const void *old, const void *new, size_t size,
			      const char *what, int nr)
{
	const uint8_t *a = old, *b = new;
	size_t i;

	for (i = 0; i < size; i++)
		TEST_ASSERT(a[i] == b[i],
			    "Stop %d: %s has changed at byte %lu, 0x%x to 0x%x",
			    nr, what, i, a[i], b[i]);
}

#define MEMBER(name)							\
	{ #name, offsetof(struct kvm_x86_state, name),			\
	  sizeof(((struct kvm_x86_state *)0)->name) }

static const struct {
	const char *name;
	size_t offset, size;
} members[] = {
	MEMBER(events), MEMBER(mp_state), MEMBER(regs), MEMBER(xcrs),
	MEMBER(sregs), MEMBER(debugregs), MEMBER(nested),
};

static void expect_same(const struct whole_state *a,
			const struct whole_state *b, int nr)
{
	const struct kvm_msr_entry *old, *new;
	int i;

	TEST_ASSERT(a->ssp == b->ssp, "Stop %d: SSP from 0x%lx to 0x%lx", nr,
		    a->ssp, b->ssp);
	expect_same_bytes(&a->sregs2, &b->sregs2, sizeof(a->sregs2), "sregs2",
			  nr);
	expect_same_bytes(&a->lapic, &b->lapic, sizeof(a->lapic), "lapic", nr);
	expect_same_bytes(a->x86->xsave, b->x86->xsave,
			  kvm_check_cap(KVM_CAP_XSAVE2), "xsave", nr);
	for (i = 0; i < ARRAY_SIZE(members); i++)
		expect_same_bytes((void *)a->x86 + members[i].offset,
				  (void *)b->x86 + members[i].offset,
				  members[i].size, members[i].name, nr);

	TEST_ASSERT_EQ(a->x86->msrs.nmsrs, b->x86->msrs.nmsrs);
	for (i = 0; i < a->x86->msrs.nmsrs; i++) {
		old = &a->x86->msrs.entries[i];
		new = &b->x86->msrs.entries[i];
		TEST_ASSERT(old->data == new->data || is_clock(old->index),
			    "Stop %d: MSR 0x%x from 0x%llx to 0x%llx", nr,
			    old->index, old->data, new->data);
	}
}

/* Let the guest run for a random time, to somewhere. */
static void run_some(struct kvm_vcpu *vcpu, timer_t timer)
{
	struct itimerspec delay = {
		.it_value.tv_nsec = 1 + random() % MAX_DELAY_NS,
	};
	int r;

	TEST_ASSERT(!timer_settime(timer, 0, &delay, NULL), "timer_settime()");
	r = __vcpu_run(vcpu);
	TEST_ASSERT(r == -1 && errno == EINTR,
		    "The guest ended: KVM_RUN returned %d, errno %d, exit %u",
		    r, errno, vcpu->run->exit_reason);
	vcpu->run->immediate_exit = false;
}

static uint64_t pl3_ssp_of(const struct whole_state *state)
{
	int i;

	for (i = 0; i < state->x86->msrs.nmsrs; i++) {
		if (state->x86->msrs.entries[i].index == MSR_IA32_PL3_SSP)
			return state->x86->msrs.entries[i].data;
	}
	TEST_FAIL("IA32_PL3_SSP is not saved");
}

TEST_F_TIMEOUT(stop, nothing_changes, 86400)
{
	int i, in_user = 0, moved = 0, deeper = 0;
	struct kvm_vcpu *vcpu = self->vcpu;
	struct whole_state before, after;
	uint64_t rip = 0, ssp = 0, pl3_ssp = 0;
	struct cet_call *call;

	cet_prepare_run(vcpu, guest_busy, CET_ENDBR_EN);
	for (i = 0; i < nr_stops; i++) {
		run_some(vcpu, self->timer);
		get_state(vcpu, &before);
		set_state(vcpu, &before);
		get_state(vcpu, &after);
		expect_same(&before, &after, i);

		in_user += before.sregs2.cs.dpl == 3;
		moved += before.x86->regs.rip != rip;
		deeper += before.ssp != ssp || pl3_ssp_of(&before) != pl3_ssp;
		rip = before.x86->regs.rip;
		ssp = before.ssp;
		pl3_ssp = pl3_ssp_of(&before);
		kvm_x86_state_cleanup(before.x86);
		kvm_x86_state_cleanup(after.x86);
	}

	write_guest_global(vcpu->vm, stop, true);
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason != KVM_EXIT_IO ||
	    vcpu->run->io.port != CET_PORT) {
		call = cet_finish(vcpu);
		TEST_FAIL("The guest ended by vector %lu, error code 0x%lx",
			  call->vector, call->error_code);
	}
	sync_global_from_guest(vcpu->vm, nr_loops);
	sync_global_from_guest(vcpu->vm, nr_calls);
	printf("# %d stops, %d in user mode, %d at another RIP, %d SSP\n",
	       nr_stops, in_user, moved, deeper);
	printf("# %lu loops, %lu calls\n", nr_loops, nr_calls);
	TEST_ASSERT_EQ(nr_loops, nr_calls);

	/* The stops have to be all over the guest's code. */
	TEST_ASSERT(in_user > nr_stops / 10 && in_user < nr_stops &&
		    moved > nr_stops / 8 && deeper > nr_stops / 8,
		    "The guest was not stopped at random");
}

int main(int argc, char *argv[])
{
	cet_require();

	if (argc > 2 && !strcmp(argv[1], "-n")) {
		nr_stops = atoi_positive("Stops", argv[2]);
		argv[2] = argv[0];
		argv += 2;
		argc -= 2;
	}
	return test_harness_run(argc, argv);
}
