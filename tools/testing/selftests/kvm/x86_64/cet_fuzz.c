// SPDX-License-Identifier: GPL-2.0
/*
 * A fuzzer of CET in guests: random operations of user space and of the guest
 * on two vCPUs, whose outcome is compared with a model.
 *
 *	cet_fuzz [-s SEED] [-n OPERATIONS]
 *
 * The seed determines everything.  Operations come in rounds, each with a new
 * VM and the next seed: a failure takes no longer than a round to repeat.
 *
 * With -c, another kernel is to be asked, not the model alone: a line for each
 * round has a hash of all that was seen.  scripts/fuzz-compare compares it.
 *
 *	-c		compare, but don't perform what mainline is known to do
 *			otherwise
 *	-u NAME		this difference isn't known
 *	-x		CET is hidden, or not there
 *	-o FILE		rounds and operations: a seed and units in each line
 *	-v		print all that is seen
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/timerfd.h>

#include "cet_fuzz_lib/cet_fuzz.h"

/* About 2000 operations; CPUID can change only before the vCPUs run. */
#define ROUND_STEPS		320
#define ROUND_STEPS_BEFORE_RUN	34
#define MAX_MOVES		100
#define NR_RECORDS		64
#define DISTURB_NS		2000000

static struct {
	struct fuzz_vcpu vcpus[NR_FUZZ_VCPUS];
	const struct fuzz_units *units;
	uint64_t nr_ops;
	uint64_t random;
	int step, part;
	bool ended;
	int nr_moves;
} fuzz_round;

static struct record {
	uint64_t nr;
	uint32_t vcpu;
	const char *what;
	uint64_t a, b;
} records[NR_RECORDS];

/* How often each happened.  Names are few, and compared by address. */
static struct {
	const char *what;
	uint64_t nr;
} counts[64];

static int kmsg = -1;

static bool disturbs_host;
uint64_t fuzz_nr_disturbed;

/* A step is wanted if one of its parts is. */
static bool is_wanted(const struct fuzz_units *units, int step, int part)
{
	int i;

	for (i = 0; i < units->nr; i++) {
		if (units->units[i] / FUZZ_PARTS == step &&
		    (!part || units->units[i] % FUZZ_PARTS == part))
			return true;
	}
	return !units->nr;
}

bool fuzz_begin_part(int part)
{
	uint64_t unit = fuzz_round.step * FUZZ_PARTS + part;

	/* The end of a step's parts has numbers of its own, too. */
	if (!part && fuzz_round.part)
		unit += FUZZ_PARTS - 1;
	fuzz_round.part = part;
	fuzz_round.random = fuzz_round.units->seed + unit * 0xd1342543de82ef95;
	return is_wanted(fuzz_round.units, fuzz_round.step, part);
}

/* splitmix64 */
uint64_t fuzz_random(void)
{
	uint64_t x = fuzz_round.random += 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

uint64_t fuzz_below(uint64_t n)
{
	return fuzz_random() % n;
}

uint64_t fuzz_value(uint64_t now)
{
	static const uint64_t edges[] = {
		0, BIT_ULL(32), BIT_ULL(47) - 0x1000, BIT_ULL(47),
		-BIT_ULL(47), -BIT_ULL(47) - 0x1000, BIT_ULL(56) - 0x1000,
		BIT_ULL(56), -BIT_ULL(56), -BIT_ULL(56) - 0x1000, -0x1000ull,
		/* The same for SSP, which has one bit more */
		BIT_ULL(48) - 0x1000, BIT_ULL(48), -BIT_ULL(48),
		-BIT_ULL(48) - 0x1000, BIT_ULL(57) - 0x1000, BIT_ULL(57),
		-BIT_ULL(57), -BIT_ULL(57) - 0x1000,
	};

	switch (fuzz_below(8)) {
	case 0:
		return 0;
	case 1:
		return BIT_ULL(fuzz_below(64));
	case 2:
	case 3:
		return fuzz_pick(edges) + (fuzz_random() & fuzz_random() & 0xfff);
	case 4:
		return (int64_t)(fuzz_random() << 16) >> 16;
	case 5:
		return fuzz_random();
	case 6:
		return now ^ BIT_ULL(fuzz_below(64));
	default:
		return fuzz_random() & 0xfff;
	}
}

uint64_t fuzz_valid_ctl(const struct model *m)
{
	uint64_t val = fuzz_random();

	/* Few bits, and at most one of SUPPRESS and TRACKER */
	val &= fuzz_below(2) ? 0x7fff8000043full : 0x7fff8000083full;
	if (!m->shstk)
		val &= ~(CET_SHSTK_EN | CET_WRSS_EN);
	if (!m->ibt)
		val &= CET_SHSTK_EN | CET_WRSS_EN;
	return model_valid_ctl(m, val) ? val : 0;
}

uint64_t fuzz_ctl(const struct model *m, uint64_t now)
{
	switch (fuzz_below(8)) {
	case 0:
	case 1:
		return fuzz_value(now);
	case 2:
		return fuzz_valid_ctl(m) ^ BIT_ULL(fuzz_below(64));
	case 3:
		return fuzz_valid_ctl(m) | CET_SUPPRESS | CET_WAIT_ENDBR;
	case 4:
		return fuzz_valid_ctl(&model_both);
	default:
		return fuzz_valid_ctl(m);
	}
}

uint64_t fuzz_ssp(uint64_t now)
{
	uint64_t val = fuzz_value(now);

	return fuzz_below(4) ? val & ~3ull : val;
}

uint64_t fuzz_msr_value(const struct model *m, uint32_t msr)
{
	uint64_t now = 0;

	model_get_msr(m, msr, true, &now);
	switch (msr) {
	case MSR_IA32_XSS:
		return fuzz_below(4) ? fuzz_random() & XFEATURE_MASK_CET : fuzz_value(now);
	case MSR_IA32_U_CET:
		if (!fuzz_below(4))
			return fuzz_valid_ctl(&model_both);
		fallthrough;
	case MSR_IA32_S_CET:
		return fuzz_ctl(m, now);
	default:
		return fuzz_ssp(now);
	}
}

uint32_t fuzz_msr(void)
{
	static const uint32_t others[] = {
		MSR_IA32_XSS, MSR_IA32_XSS, MSR_IA32_XSS, 0x69f, 0x6a1, 0x6a3,
		0x6a9, 0x6aa, 0xd9f, 0xda1,
		/* KVM's internal index of SSP */
		0x4b564dff,
	};
	uint32_t msr = fuzz_below(5) ? fuzz_pick(cet_msrs) : fuzz_pick(others);

	return msr == 0x4b564dff && fuzz_known(SSP_AS_MSR) ? MSR_IA32_XSS : msr;
}

void fuzz_record(struct fuzz_vcpu *v, const char *what, uint64_t a, uint64_t b)
{
	int i;

	fuzz_see_operation(v, fuzz_round.step * FUZZ_PARTS + fuzz_round.part, what, a, b);
	records[fuzz_round.nr_ops++ % NR_RECORDS] = (struct record) {
		fuzz_round.nr_ops, v->vcpu->id, what, a, b,
	};
	for (i = 0; counts[i].what && counts[i].what != what; i++)
		;
	counts[i].what = what;
	counts[i].nr++;
}

void fuzz_fail(const char *fmt, ...)
{
	const struct record *r;
	char text[256];
	va_list args;
	int i;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (fuzz_compare)
		fuzz_compare_failed(text);
	printf("The last operations:\n");
	for (i = 0; i < NR_RECORDS; i++) {
		r = &records[(fuzz_round.nr_ops + i) % NR_RECORDS];
		if (r->what)
			printf("%8lu  vCPU %u  %s 0x%lx 0x%lx\n", r->nr, r->vcpu,
			       r->what, r->a, r->b);
	}
	printf("not ok: operation %lu of the round with seed %lu: %s\n",
	       fuzz_round.nr_ops, fuzz_round.units->seed, text);
	printf("Again: %s %s-s %lu -n %lu\n", program_invocation_short_name,
	       disturbs_host ? "-d " : "",
	       fuzz_round.units->seed, fuzz_round.nr_ops);
	exit(1);
}

void fuzz_end_vcpus(void)
{
	fuzz_round.ended = true;
}

int fuzz_new_vcpu_id(void)
{
	if (fuzz_round.nr_moves == MAX_MOVES)
		return -1;
	return NR_FUZZ_VCPUS + fuzz_round.nr_moves++;
}

/* Fail if the kernel has complained. */
static void check_kmsg(void)
{
	static const char *const splats[] = {
		"WARNING:", "BUG:", "UBSAN:", "KASAN:", "Call Trace",
		"unchecked MSR access", "general protection", "INFO: task",
	};
	char line[4096];
	ssize_t n;
	int i;

	for (;;) {
		n = read(kmsg, line, sizeof(line) - 1);
		/* EPIPE: there was more than the kernel keeps. */
		if (n < 0 && errno != EPIPE)
			return;
		line[max(n, 0l)] = 0;
		for (i = 0; i < ARRAY_SIZE(splats); i++)
			FUZZ_ASSERT(!strstr(line, splats[i]), "The kernel says: %s",
				    line);
	}
}

static void do_step(int step)
{
	struct fuzz_vcpu *v = &fuzz_pick(fuzz_round.vcpus);

	if (step <= NR_FUZZ_VCPUS)
		fuzz_set_cpuid(&fuzz_round.vcpus[step - 1]);
	else if (step <= ROUND_STEPS_BEFORE_RUN || fuzz_below(5))
		fuzz_ioctl(v);
	else
		fuzz_run(v);
	if (fuzz_compare && !fuzz_round.ended)
		fuzz_see_all(v);
}

/* A new VM, for @nr operations at most */
uint64_t fuzz_do_round(const struct fuzz_units *units, uint64_t nr)
{
	struct kvm_vm *vm = vm_create(NR_FUZZ_VCPUS);
	struct fuzz_vcpu *v;
	int i;

	memset(records, 0, sizeof(records));
	memset(&fuzz_round, 0, sizeof(fuzz_round));
	fuzz_round.units = units;
	fuzz_begin_part(0);

	fuzz_init_vm(vm);
	for (i = 0; i < NR_FUZZ_VCPUS; i++) {
		v = &fuzz_round.vcpus[i];
		v->vcpu = vm_vcpu_add(vm, i, NULL);
		v->nested = fuzz_below(2);
		fuzz_init_vcpu(v, i);
	}
	for (i = 1; i < ROUND_STEPS && fuzz_round.nr_ops < nr && !fuzz_round.ended; i++) {
		fuzz_round.step = i;
		fuzz_round.part = 0;
		if (fuzz_begin_part(0))
			do_step(i);
	}
	check_kmsg();
	kvm_vm_free(vm);
	return fuzz_round.nr_ops;
}

static void guest_endbr(struct cet_call *call)
{
	wrmsr(MSR_IA32_S_CET, call->arg[0]);
	asm volatile("endbr64");
	call->ret = rdmsr(MSR_IA32_S_CET);
}

/* The manual says that ENDBR64 is a NOP with IBT off.  Emulated CPUs differ. */
static void probe_endbr(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);

	if (kvm_cpu_has(X86_FEATURE_IBT))
		model_endbr_always = !cet_call(vcpu, guest_endbr, CET_WAIT_ENDBR, 0)->ret;
	if (model_endbr_always)
		printf("# This CPU's ENDBR64 resets the tracker with IBT off, too\n");
	kvm_vm_free(vm);
}

/* Use the FPU's registers, and preempt KVM, every now and then. */
static void *disturb(void *arg)
{
	struct itimerspec spec = {
		.it_value.tv_nsec = DISTURB_NS,
		.it_interval.tv_nsec = DISTURB_NS,
	};
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t ticks, tick;

	TEST_ASSERT(fd >= 0 && !timerfd_settime(fd, 0, &spec, NULL), "No timer");
	for (tick = 1; read(fd, &ticks, sizeof(ticks)) == sizeof(ticks); tick++) {
		asm volatile("movq %0, %%xmm15" : : "r"(ticks) : "xmm15");
		if (disturbs_host)
			fuzz_disturb(tick);
	}
	return NULL;
}

/* Doesn't return: it uses a shadow stack of its own, which KVM must keep. */
static void __noreturn fuzz(uint64_t seed, uint64_t nr)
{
	static struct fuzz_units units;
	uint64_t done, rounds, begin = rdtsc();
	int i;

	cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	for (done = 0, rounds = 0; done < nr; rounds++) {
		units.seed = seed + rounds;
		done += fuzz_do_round(&units, nr - done);
		if (rounds % 50 == 49)
			printf("# %lu of %lu operations\n", done, nr);
	}
	for (i = 0; counts[i].what; i++)
		printf("# %8lu  %s\n", counts[i].nr, counts[i].what);
	if (disturbs_host)
		printf("# %8lu  times the host was suspended, or lost or got a CPU\n",
		       fuzz_nr_disturbed);
	/* An emulated TSC may count instructions. */
	if (done)
		printf("# %lu ticks of the TSC each\n", (rdtsc() - begin) / done);
	printf("ok: %lu operations in %lu rounds, seeds %lu to %lu\n", done, rounds,
	       seed, seed + rounds - 1);
	exit(0);
}

int main(int argc, char *argv[])
{
	uint64_t seed = time(NULL), nr = 20000;
	const char *file = NULL;
	pthread_t thread;
	int opt;

	while ((opt = getopt(argc, argv, "s:n:dcu:xo:v")) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			nr = strtoull(optarg, NULL, 0);
			break;
		case 'd':
			disturbs_host = true;
			break;
		case 'c':
			fuzz_compare = true;
			break;
		case 'x':
			fuzz_hidden = true;
			break;
		case 'o':
			file = optarg;
			break;
		case 'v':
			fuzz_verbose = true;
			break;
		case 'u':
			if (fuzz_treat_as_unknown(optarg))
				break;
			fallthrough;
		default:
			printf("Usage: %s [-d] [-s SEED] [-n OPERATIONS]\n", argv[0]);
			printf("       %s -c [-u NAME] [-xv] [-s SEED -n OPERATIONS | -o FILE]\n",
			       argv[0]);
			exit(2);
		}
	}

	cet_require();
	setbuf(stdout, NULL);
	printf("%s %s-s %lu -n %lu\n", program_invocation_short_name,
	       disturbs_host ? "-d " : "", seed, nr);

	if (!fuzz_hidden)
		probe_endbr();
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	TEST_ASSERT(kmsg >= 0 && lseek(kmsg, 0, SEEK_END) >= 0, "No /dev/kmsg");
	TEST_ASSERT(!pthread_create(&thread, NULL, disturb, NULL), "No thread");
	if (fuzz_compare)
		fuzz_compare_rounds(seed, nr, file);
	fuzz(seed, nr);
}
