// SPDX-License-Identifier: GPL-2.0
/*
 * Run a guest on each CPU, deep in calls on a shadow stack and with indirect
 * branch tracking, while the host runs a command that disturbs the host itself.
 * The guests continue with all of their CET state, on any CPU, and return from
 * all calls in the end.
 *
 *	cet_while [COMMAND [ARG...]]
 */
#include <pthread.h>
#include <sched.h>

#include "kvm_util.h"
#include "cet.h"

#define MAX_GUESTS		8
#define DEPTH			300
#define S_CET			(CET_SHSTK_EN | CET_ENDBR_EN)

/* A guest that makes no progress for this long has failed. */
#define MAX_SECONDS		20

/* Of each guest */
static uint64_t nr_loops;
static uint64_t nr_wrong;
static bool end;

/* Called from assembly */
void guest_spin(void)
{
	uint64_t val;
	int i;

	while (!READ_ONCE(end)) {
		/* Not a switch, which could be a jump by a table */
		for (i = 0; i < CET_NR_MSRS; i++) {
			if (cet_msrs[i] == MSR_IA32_S_CET)
				val = S_CET;
			else if (cet_msrs[i] == MSR_IA32_PL0_SSP)
				val = cet_shadow_stack;
			else
				val = cet_value(0, i);
			nr_wrong += rdmsr(cet_msrs[i]) != val;
		}
		WRITE_ONCE(nr_loops, nr_loops + 1);
	}
}

/*
 * DEPTH calls, with guest_spin() in the innermost one.  Each call counts itself
 * when it returns.  Without STI, the emulated CPU of tools/testing/bochs would
 * not exit for an interrupt.
 */
void guest_payload(void);
asm("guest_payload:\n"
	"endbr64\n"
	"sti\n"
	"mov $" __stringify(DEPTH) ", %ecx\n"
	"call 1f\n"
	"ret\n"
	"1: dec %ecx\n"
	"jz 2f\n"
	"call 1b\n"
	"inc %rax\n"
	"ret\n"
	"2: push %rbp\n"
	"mov %rsp, %rbp\n"
	"and $-16, %rsp\n"
	"call guest_spin\n"
	"leave\n"
	"mov $1, %eax\n"
	"ret");

struct guest {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	bool ended;
};

static struct guest guests[MAX_GUESTS];
static int nr_guests;

#define global_of(guest, name) \
	(*(typeof(name) *)addr_gva2hva((guest)->vcpu->vm, (vm_vaddr_t)&(name)))

static void run_command(int argc, char *argv[])
{
	char command[1024] = {};
	int i;

	for (i = 1; i < argc; i++) {
		strncat(command, argv[i], sizeof(command) - 2 - strlen(command));
		strcat(command, " ");
	}

	TEST_ASSERT(!system(argc > 1 ? command : "sleep 1"),
		    "The command failed");
}

static void go_to(pthread_t thread, int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	TEST_ASSERT(!pthread_setaffinity_np(thread, sizeof(cpus), &cpus),
		    "Cannot go to CPU %d", cpu);
}

static void expect_progress(struct guest *guest)
{
	uint64_t before = READ_ONCE(global_of(guest, nr_loops));
	struct cet_call *call;
	int i;

	for (i = 0; i < MAX_SECONDS * 100 && !READ_ONCE(guest->ended); i++) {
		if (READ_ONCE(global_of(guest, nr_loops)) != before)
			return;
		usleep(10000);
	}

	TEST_ASSERT(guest->ended, "Guest %ld stands still", guest - guests);
	call = cet_finish(guest->vcpu);
	TEST_FAIL("Guest %ld has ended, vector %lu, error code %lu",
		  guest - guests, call->vector, call->error_code);
}

static void *guest_thread(void *arg)
{
	struct guest *guest = arg;

	vcpu_run(guest->vcpu);
	WRITE_ONCE(guest->ended, true);
	return NULL;
}

static void start_guest(struct guest *guest)
{
	int i;

	vm_create_cet(&guest->vcpu, true, true);
	for (i = 0; i < CET_NR_MSRS; i++) {
		if (cet_msrs[i] != MSR_IA32_S_CET)
			cet_set_msr(guest->vcpu, cet_msrs[i], cet_value(0, i));
	}
	cet_enable(guest->vcpu);
	cet_prepare_run(guest->vcpu, guest_payload, S_CET);

	TEST_ASSERT(!pthread_create(&guest->thread, NULL, guest_thread, guest),
		    "No thread");
	go_to(guest->thread, guest - guests);
	expect_progress(guest);
}

static void end_guest(struct guest *guest)
{
	struct cet_call *call;

	WRITE_ONCE(global_of(guest, end), true);
	pthread_join(guest->thread, NULL);
	call = cet_finish(guest->vcpu);

	TEST_ASSERT(!call->vector, "Vector %lu, error code %lu in guest %ld",
		    call->vector, call->error_code, guest - guests);
	TEST_ASSERT(call->ret == DEPTH, "Guest %ld returned %lu times",
		    guest - guests, call->ret);
	TEST_ASSERT(!global_of(guest, nr_wrong), "Guest %ld read %lu wrong values",
		    guest - guests, global_of(guest, nr_wrong));
	kvm_vm_free(guest->vcpu->vm);
}

int main(int argc, char *argv[])
{
	struct guest *guest;

	cet_require();

	nr_guests = min_t(int, sysconf(_SC_NPROCESSORS_ONLN), MAX_GUESTS);
	for (guest = guests; guest < guests + nr_guests; guest++)
		start_guest(guest);

	run_command(argc, argv);

	for (guest = guests; guest < guests + nr_guests; guest++) {
		expect_progress(guest);
		go_to(guest->thread, (guest - guests + 1) % nr_guests);
		expect_progress(guest);
	}
	for (guest = guests; guest < guests + nr_guests; guest++)
		end_guest(guest);

	return 0;
}
