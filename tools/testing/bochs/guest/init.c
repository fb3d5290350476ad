// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of a Linux guest: reports what it sees of CET, uses it, abuses it
 * and is caught.  The kernel's parameter "mode" says how far to go:
 *
 *	report	CPUID, what the kernel makes of it, and access to the MSRs
 *	test	the report, and a line of KTAP for each of the tests
 *	deep	the report, then processes deep in calls, which stay there
 *		while the guest is moved: see deep()
 *
 * As any other process, it reports, and ignores the mode.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define ARCH_SHSTK_ENABLE	0x5001
#define ARCH_SHSTK_SHSTK	1
#ifndef SEGV_CPERR
#define SEGV_CPERR		10
#endif

#define FRAMES			3000
#define THREADS			4
#define SIGNALS			10
#define MAX_CPUS		8

/* Exit status of a process that returned to where it was not called from */
#define RAN_ON			42
#define CAUGHT			43
#define NO_SHSTK		44

#define noinline		__attribute__((noinline, noclone))
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

/* Inlined: a function can't return after it has turned the shadow stack on. */
static inline __attribute__((always_inline)) long arch_prctl(long op, long arg)
{
	long ret;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "a"(SYS_arch_prctl), "D"(op), "S"(arg)
		     : "rcx", "r11", "memory");
	return ret;
}

/* 0 without a shadow stack */
static unsigned long read_ssp(void)
{
	unsigned long ssp = 0;

	asm volatile("rdsspq %0" : "+r"(ssp));
	return ssp;
}

static void __attribute__((noreturn)) fail(const char *why)
{
	printf("# %s\n", why);
	_exit(1);
}

static void check(bool good, const char *what)
{
	if (!good)
		fail(what);
}

/* Starts @func in a process with a shadow stack or without. */
static pid_t start(bool shstk, void (*func)(int arg), int arg)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (shstk && arch_prctl(ARCH_SHSTK_ENABLE, ARCH_SHSTK_SHSTK))
		_exit(NO_SHSTK);
	func(arg);
	_exit(0);
}

static int end_of(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run(bool shstk, void (*func)(int arg), int arg)
{
	return end_of(start(shstk, func, arg));
}

/* Calls and returns */

static __thread unsigned long ssp_at_top;

static noinline unsigned int recurse(unsigned int frames, void (*bottom)(int arg), int arg)
{
	unsigned int returned;

	if (!frames) {
		check(ssp_at_top - read_ssp() >= 8 * FRAMES, "the shadow stack doesn't grow");
		bottom(arg);
		return 0;
	}
	returned = recurse(frames - 1, bottom, arg);
	/* Not a loop */
	asm volatile("" : "+r"(returned));
	return returned + 1;
}

static void call_deep(void (*bottom)(int arg), int arg)
{
	ssp_at_top = read_ssp();
	check(ssp_at_top, "no shadow stack");
	check(recurse(FRAMES, bottom, arg) == FRAMES, "frames are missing");
	check(read_ssp() == ssp_at_top, "SSP isn't what it was");
}

static void nothing(int arg)
{
}

static void test_recursion(int arg)
{
	call_deep(nothing, 0);
}

static volatile int usr1, usr2, alrm;

static void on_signal(int sig)
{
	unsigned long ssp = read_ssp();

	switch (sig) {
	case SIGUSR1:
		raise(SIGUSR2);
		usr1++;
		break;
	case SIGUSR2:
		usr2++;
		break;
	case SIGALRM:
		alrm++;
		break;
	}
	check(read_ssp() == ssp, "SSP isn't what it was after a signal");
}

static void take_signals(int arg)
{
	while (usr1 < SIGNALS)
		raise(SIGUSR1);
	while (alrm < SIGNALS)
		;
}

static void test_signals(int arg)
{
	static const struct itimerval often = { { 0, 4000 }, { 0, 4000 } }, never;

	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	signal(SIGALRM, on_signal);
	setitimer(ITIMER_REAL, &often, NULL);
	call_deep(take_signals, 0);
	setitimer(ITIMER_REAL, &never, NULL);
	check(usr2 == SIGNALS, "signals in signals are missing");
}

static pthread_barrier_t barrier;
static unsigned long ssp_of_thread[THREADS];

static void meet(int arg)
{
	ssp_of_thread[arg] = read_ssp();
	pthread_barrier_wait(&barrier);
}

static void *thread(void *arg)
{
	call_deep(meet, (long)arg);
	return arg;
}

static void test_threads(int arg)
{
	pthread_t threads[THREADS];
	void *returned;
	long i, j;

	pthread_barrier_init(&barrier, NULL, THREADS);
	for (i = 0; i < THREADS; i++)
		check(!pthread_create(&threads[i], NULL, thread, (void *)i), "pthread_create");
	for (i = 0; i < THREADS; i++)
		check(!pthread_join(threads[i], &returned) && returned == (void *)i, "pthread_join");
	for (i = 0; i < THREADS; i++)
		for (j = 0; j < i; j++)
			check(labs((long)(ssp_of_thread[i] - ssp_of_thread[j])) >= 8 * FRAMES,
			      "threads share a shadow stack");
}

static void fork_there(int arg)
{
	pid_t pid = fork();

	check(pid >= 0, "fork");
	if (pid)
		check(!end_of(pid), "the child didn't return");
}

static void test_fork(int arg)
{
	call_deep(fork_there, 0);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(!sched_setaffinity(0, sizeof(set), &set) && sched_getcpu() == cpu, "sched_setaffinity");
}

static void switch_cpus(int cpus)
{
	int i;

	for (i = 0; i < 10 * cpus; i++)
		pin(i % cpus);
}

static void test_cpus(int arg)
{
	call_deep(switch_cpus, sysconf(_SC_NPROCESSORS_ONLN));
}

/* Attacks */

static void ran_on(void)
{
	_exit(RAN_ON);
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
	_exit(info->si_code == SEGV_CPERR ? CAUGHT : 1);
}

static noinline void smash_return(void)
{
	void *volatile *frame = __builtin_frame_address(0);

	frame[1] = ran_on;
}

static void attack(int arg)
{
	struct sigaction action = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &action, NULL);
	smash_return();
}

static void attack_deep(int arg)
{
	call_deep(nothing, 0);
	attack(0);
}

static void *attacking_thread(void *arg)
{
	attack_deep(0);
	return NULL;
}

static void attack_in_thread(int arg)
{
	pthread_t thread;

	check(!pthread_create(&thread, NULL, attacking_thread, NULL), "pthread_create");
	pthread_join(thread, NULL);
}

/* The kernel */

static bool kernel_said(const char *text)
{
	static char log[1 << 18];
	int n = klogctl(3, log, sizeof(log) - 1);

	if (n < 0)
		return false;
	log[n] = 0;
	return strstr(log, text);
}

static void load_module(int arg)
{
	int fd = open("/indirect_call.ko", O_RDONLY);

	check(fd >= 0, "/indirect_call.ko");
	check(!syscall(SYS_finit_module, fd, "", 0), "finit_module");
}

static const char *const ibt_is_on = "CET detected: Indirect Branch Tracking enabled";

/* At the module's second call, the kernel kills the process that loads it. */
static bool kernel_is_caught(void)
{
	return run(false, load_module, 0) == 128 + SIGSEGV && kernel_said("indirect_call: with ENDBR64") &&
	       kernel_said("Missing ENDBR: call_me") && !kernel_said("indirect_call: without ENDBR64");
}

/* Reports */

static bool cpuinfo_has(const char *flag)
{
	char *line = NULL, *word;
	bool has = false;
	size_t size = 0;
	FILE *file = fopen("/proc/cpuinfo", "r");

	while (file && !has && getline(&line, &size, file) > 0) {
		if (strncmp(line, "flags", 5))
			continue;
		for (word = strtok(line, " \n"); word && !has; word = strtok(NULL, " \n"))
			has = !strcmp(word, flag);
	}
	if (file)
		fclose(file);
	return has;
}

static void enable(int arg)
{
}

static void report(void)
{
	static const unsigned int msrs[] = { 0x6a0, 0x6a2, 0x6a4, 0x6a5, 0x6a6, 0x6a7, 0x6a8 };
	int fd = open("/dev/cpu/0/msr", O_RDWR);
	unsigned int a, b, c, d, i;
	unsigned long value;

	__cpuid_count(7, 0, a, b, c, d);
	printf("cpuid: shstk %u, ibt %u\n", c >> 7 & 1, d >> 20 & 1);
	__cpuid_count(0xd, 1, a, b, c, d);
	printf("cpuid: xss cet_u %u, cet_s %u\n", c >> 11 & 1, c >> 12 & 1);
	printf("cpuinfo: user_shstk %u, ibt %u\n", cpuinfo_has("user_shstk"), cpuinfo_has("ibt"));
	printf("kernel: ibt %s\n", kernel_said(ibt_is_on) ? "on" : "off");
	printf("process: shadow stack %s\n", run(true, enable, 0) ? "refused" : "on");
	for (i = 0; i < ARRAY_SIZE(msrs); i++) {
		value = 0;
		printf("msr %x: read %s", msrs[i], pread(fd, &value, 8, msrs[i]) == 8 ? "yes" : strerrorname_np(errno));
		printf(", write %s\n", pwrite(fd, &value, 8, msrs[i]) == 8 ? "yes" : strerrorname_np(errno));
	}
	close(fd);
}

static void result(bool good, const char *name)
{
	static int n;

	printf("%s %d %s\n", good ? "ok" : "not ok", ++n, name);
}

static void test(void)
{
	result(!run(true, test_recursion, 0), "calls and returns");
	result(!run(true, test_signals, 0), "signals");
	result(!run(true, test_threads, 0), "threads");
	result(!run(true, test_fork, 0), "fork");
	result(!run(true, test_cpus, 0), "change of CPU");
	result(run(false, attack, 0) == RAN_ON, "without a shadow stack, a smashed return runs on");
	result(run(true, attack, 0) == CAUGHT, "smashed return is caught");
	result(run(true, attack_deep, 0) == CAUGHT, "smashed return is caught after many calls");
	result(run(true, attack_in_thread, 0) == CAUGHT, "smashed return is caught in a thread");
	result(kernel_said(ibt_is_on), "IBT of the kernel is on");
	result(kernel_is_caught(), "kernel is caught calling what has no ENDBR64");
}

/* Being moved */

static struct {
	/* For each process that is deep in calls: how often it was seen alive */
	volatile unsigned long alive[MAX_CPUS + 1];
	volatile bool end;
} *shared;

static noinline void tell_alive(int i)
{
	shared->alive[i]++;
}

static void spin(int i)
{
	while (!shared->end)
		tell_alive(i);
}

static void sleep_some(int i)
{
	while (!shared->end) {
		usleep(10000);
		tell_alive(i);
	}
}

static void deep_process(int i)
{
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (i < cpus)
		pin(i);
	call_deep(i < cpus ? spin : sleep_some, i);
	printf("process %d: returned from %d calls\n", i, FRAMES);
	attack(0);
}

/*
 * On each CPU, a process is deep in calls and does nothing but count, which
 * keeps SSP in use.  Another one mostly sleeps.  For each word "hop" on the
 * console, reports whether all continue.  "end" lets them return, and then be
 * caught.
 */
static void deep(void)
{
	int i, status, hops = 0, count = sysconf(_SC_NPROCESSORS_ONLN) + 1;
	unsigned long before[MAX_CPUS + 1];
	pid_t pids[MAX_CPUS + 1];
	char word[80];

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(shared != MAP_FAILED, "mmap");
	for (i = 0; i < count; i++)
		pids[i] = start(true, deep_process, i);
	do {
		for (i = 0; i < count; i++)
			before[i] = shared->alive[i];
		for (i = 0; i < count; i++) {
			while (shared->alive[i] == before[i] && !waitpid(pids[i], &status, WNOHANG))
				usleep(2000);
			if (shared->alive[i] == before[i])
				printf("process %d is lost: wait status %x\n", i, status);
		}
		printf("hop %d\n", hops++);
		check(fgets(word, sizeof(word), stdin), "end of console");
	} while (strcmp(word, "end\n"));
	shared->end = true;
	for (i = 0; i < count; i++)
		result(end_of(pids[i]) == CAUGHT, "returned, and smashed return is caught");
}

int main(void)
{
	const char *mode = getenv("mode") ?: "test";
	struct termios tty;
	int fd;

	if (getpid() != 1) {
		report();
		return 0;
	}
	mkdir("/proc", 0555);
	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/dev/ttyS0", O_RDWR);
	for (int i = 0; i <= STDERR_FILENO; i++)
		dup2(fd, i);
	tcgetattr(fd, &tty);
	tty.c_lflag &= ~ECHO;
	tty.c_oflag &= ~OPOST;
	tcsetattr(fd, TCSANOW, &tty);
	setvbuf(stdout, NULL, _IOLBF, 0);

	report();
	if (!strcmp(mode, "test"))
		test();
	if (!strcmp(mode, "deep"))
		deep();
	printf("end\n");
	tcdrain(fd);
	reboot(RB_AUTOBOOT);
	return 1;
}
