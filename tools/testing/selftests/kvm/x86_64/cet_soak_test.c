// SPDX-License-Identifier: GPL-2.0
/*
 * XSAVE-managed CET MSRs of several vCPUs, written and read by user space and
 * guests for a while, on threads that change CPUs, amidst timers, network
 * traffic and, if cet_race_mod.ko is loaded, softirqs that use the FPU.
 *
 *	cet_soak_test [-d SECONDS]
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "cet_race_mod/cet_race.h"

#define NR_VMS			2
#define NR_VCPUS_PER_VM		2
#define NR_VCPUS		(NR_VMS * NR_VCPUS_PER_VM)

/* No two vCPUs have a value in common. */
#define SEEDS_PER_VCPU		0x1000000

/* Long enough for the vCPUs' threads to make progress */
#define TIMER_NS		1000000
#define STORM_NS		500000

static int seconds = 10;
static int nr_cpus;
static bool stop;

struct soaked {
	struct kvm_vcpu *vcpu;
	pthread_t writer, reader;
	int first_seed;
	uint64_t nr_writes, nr_reads, nr_migrations;
};

/* Any of the vCPU's values for the i-th MSR will do. */
static bool is_value_of(const struct soaked *soaked, int i, uint64_t val)
{
	uint64_t first = cet_value(soaked->first_seed, i);

	return val >= first &&
	       val < cet_value(soaked->first_seed + SEEDS_PER_VCPU, i) &&
	       (val - first) % (cet_value(1, i) - cet_value(0, i)) == 0;
}

static void migrate(struct soaked *soaked, int seed)
{
	cpu_set_t cpus;

	if (nr_cpus < 2)
		return;

	CPU_ZERO(&cpus);
	CPU_SET(seed % nr_cpus, &cpus);
	/* The CPU may be offline at the moment. */
	if (!sched_setaffinity(0, sizeof(cpus), &cpus))
		soaked->nr_migrations++;
}

struct msr_list {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[CET_NR_XSAVE_MSRS];
};

static void init_list(struct msr_list *list, int seed)
{
	int i;

	list->header.nmsrs = CET_NR_XSAVE_MSRS;
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		list->entries[i].index = cet_xsave_msrs[i];
		list->entries[i].data = cet_value(seed, i);
	}
}

/* arg[0] is the last seed, arg[1] the next one; ret counts wrong values. */
static void guest_check_and_write(struct cet_call *call)
{
	int i;

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		if (rdmsr(cet_xsave_msrs[i]) != cet_value(call->arg[0], i))
			call->ret++;
		wrmsr(cet_xsave_msrs[i], cet_value(call->arg[1], i));
	}
}

static void expect_all(struct kvm_vcpu *vcpu, int seed)
{
	struct msr_list list;
	uint64_t val;
	int i;

	init_list(&list, 0);
	vcpu_msrs_get(vcpu, &list.header);
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		TEST_ASSERT(list.entries[i].data == cet_value(seed, i),
			    "vCPU %u: KVM_GET_MSRS returned %s = 0x%llx, not 0x%lx",
			    vcpu->id, cet_msr_name(cet_xsave_msrs[i]),
			    list.entries[i].data, cet_value(seed, i));
		vcpu_get_reg(vcpu, KVM_X86_REG_MSR(cet_xsave_msrs[i]), &val);
		TEST_ASSERT(val == cet_value(seed, i),
			    "vCPU %u: KVM_GET_ONE_REG returned %s = 0x%lx, not 0x%lx",
			    vcpu->id, cet_msr_name(cet_xsave_msrs[i]), val,
			    cet_value(seed, i));
	}
}

/* The only thread that changes values, and knows them */
static void *writer_thread(void *arg)
{
	struct soaked *soaked = arg;
	struct kvm_vcpu *vcpu = soaked->vcpu;
	int seed = soaked->first_seed;
	struct cet_call *call;
	struct msr_list list;
	int i;

	while (!READ_ONCE(stop)) {
		migrate(soaked, seed);
		init_list(&list, ++seed);
		vcpu_msrs_set(vcpu, &list.header);
		expect_all(vcpu, seed);

		seed++;
		for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
			vcpu_set_reg(vcpu, KVM_X86_REG_MSR(cet_xsave_msrs[i]),
				     cet_value(seed, i));

		call = cet_call(vcpu, guest_check_and_write, seed, seed + 1);
		TEST_ASSERT(!call->ret, "vCPU %u: the guest read %lu wrong values",
			    vcpu->id, call->ret);
		expect_all(vcpu, ++seed);
		soaked->nr_writes += 3 * CET_NR_XSAVE_MSRS;
	}
	TEST_ASSERT(seed < soaked->first_seed + SEEDS_PER_VCPU - 3,
		    "Too many writes");
	return NULL;
}

/* Accesses the vCPU in between, with its own values in the registers. */
static void *reader_thread(void *arg)
{
	struct soaked *soaked = arg;
	struct msr_list list;
	int i;

	cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	while (!READ_ONCE(stop)) {
		init_list(&list, 0);
		vcpu_msrs_get(soaked->vcpu, &list.header);
		for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
			TEST_ASSERT(is_value_of(soaked, i, list.entries[i].data),
				    "vCPU %u: another thread read %s = 0x%llx, of another vCPU or of nobody",
				    soaked->vcpu->id,
				    cet_msr_name(cet_xsave_msrs[i]),
				    list.entries[i].data);
		soaked->nr_reads += CET_NR_XSAVE_MSRS;
		usleep(1000);
	}
	cet_host_shadow_stack(ARCH_SHSTK_DISABLE);
	return NULL;
}

static uint64_t nr_packets, nr_ticks;

/* Each packet is a softirq. */
static void *network_thread(void *arg)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t len = sizeof(addr);
	char packet[256] = {};

	TEST_ASSERT(fd >= 0 && !bind(fd, (void *)&addr, len) &&
		    !getsockname(fd, (void *)&addr, &len) &&
		    !connect(fd, (void *)&addr, len), "No loopback network");
	while (!READ_ONCE(stop)) {
		TEST_ASSERT(send(fd, packet, sizeof(packet), 0) == sizeof(packet) &&
			    recv(fd, packet, sizeof(packet), 0) == sizeof(packet),
			    "Packet lost");
		nr_packets++;
		usleep(500);
	}
	close(fd);
	return NULL;
}

static void *timer_thread(void *arg)
{
	struct itimerspec spec = {
		.it_value.tv_nsec = TIMER_NS,
		.it_interval.tv_nsec = TIMER_NS,
	};
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t ticks;

	TEST_ASSERT(fd >= 0 && !timerfd_settime(fd, 0, &spec, NULL),
		    "No timer");
	while (!READ_ONCE(stop)) {
		TEST_ASSERT(read(fd, &ticks, sizeof(ticks)) == sizeof(ticks),
			    "The timer has stopped");
		nr_ticks += ticks;
	}
	close(fd);
	return NULL;
}

FIXTURE(soak)
{
	struct kvm_vm *vms[NR_VMS];
	struct soaked soaked[NR_VCPUS];
	int fd;
};

FIXTURE_SETUP(soak)
{
	struct soaked *soaked = self->soaked;
	struct kvm_vcpu *vcpu;
	struct msr_list list;
	int i, j;

	nr_cpus = sysconf(_SC_NPROCESSORS_CONF);
	self->fd = open(CET_RACE_DEVICE, O_RDWR);

	for (i = 0; i < NR_VMS; i++) {
		self->vms[i] = vm_create_cet(&vcpu, true, true);
		for (j = 0; j < NR_VCPUS_PER_VM; j++, soaked++) {
			if (j) {
				vcpu = vm_vcpu_add(self->vms[i], j, NULL);
				vcpu_init_cet(vcpu, true, true);
			}
			soaked->vcpu = vcpu;
			soaked->first_seed = (soaked - self->soaked) *
					     SEEDS_PER_VCPU;
			init_list(&list, soaked->first_seed);
			vcpu_msrs_set(vcpu, &list.header);
		}
	}
}

FIXTURE_TEARDOWN(soak)
{
	int i;

	for (i = 0; i < NR_VMS; i++)
		kvm_vm_free(self->vms[i]);
}

static pthread_t create_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	TEST_ASSERT(!pthread_create(&thread, NULL, fn, arg), "No thread");
	return thread;
}

TEST_F_TIMEOUT(soak, no_wrong_value, 86400)
{
	uint64_t nr_writes = 0, nr_reads = 0, nr_migrations = 0;
	uint64_t storm = STORM_NS, nr_stormed = 0;
	pthread_t network, timer;
	struct soaked *soaked;
	int i;

	if (self->fd >= 0)
		TEST_ASSERT(!ioctl(self->fd, CET_RACE_STORM, &storm),
			    "CET_RACE_STORM failed");
	network = create_thread(network_thread, NULL);
	timer = create_thread(timer_thread, NULL);
	for (i = 0; i < NR_VCPUS; i++) {
		soaked = &self->soaked[i];
		soaked->writer = create_thread(writer_thread, soaked);
		soaked->reader = create_thread(reader_thread, soaked);
	}

	sleep(seconds);
	WRITE_ONCE(stop, true);

	for (i = 0; i < NR_VCPUS; i++) {
		soaked = &self->soaked[i];
		pthread_join(soaked->writer, NULL);
		pthread_join(soaked->reader, NULL);
		TEST_ASSERT(soaked->nr_writes && soaked->nr_reads,
			    "vCPU %d of %d has not been accessed", i, NR_VCPUS);
		nr_writes += soaked->nr_writes;
		nr_reads += soaked->nr_reads;
		nr_migrations += soaked->nr_migrations;
	}
	pthread_join(network, NULL);
	pthread_join(timer, NULL);

	printf("# %d s: %lu writes, %lu reads by others\n", seconds, nr_writes,
	       nr_reads);
	printf("# %lu packets, %lu ticks, %lu times to another of %d CPUs\n",
	       nr_packets, nr_ticks, nr_migrations, nr_cpus);
	TEST_ASSERT(nr_packets && nr_ticks, "Neither network nor timers");
	TEST_ASSERT(nr_migrations || nr_cpus < 2, "No vCPU has changed CPUs");

	if (self->fd < 0) {
		printf("# cet_race_mod is not loaded: no softirq uses the FPU\n");
		return;
	}
	TEST_ASSERT(!ioctl(self->fd, CET_RACE_STORMED, &nr_stormed),
		    "CET_RACE_STORMED failed");
	printf("# %lu softirqs used the FPU\n", nr_stormed);
	TEST_ASSERT(nr_stormed, "No softirq used the FPU");
}

int main(int argc, char *argv[])
{
	cet_require();

	if (argc > 2 && !strcmp(argv[1], "-d")) {
		seconds = atoi_positive("Duration", argv[2]);
		argv[2] = argv[0];
		argv += 2;
		argc -= 2;
	}
	return test_harness_run(argc, argv);
}
