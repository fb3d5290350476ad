// SPDX-License-Identifier: GPL-2.0
/*
 * CET state on hosts with more than one CPU: each CPU lets XSAVES manage it, it
 * follows its vCPU from one CPU to another, and no CPU keeps it when the host
 * runs something else.
 */
#include <fcntl.h>
#include <sched.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define MIN_CPUS			2
#define NR_HOPS			50
#define CPU1_ONLINE		"/sys/devices/system/cpu/cpu1/online"

static uint64_t read_host_msr(int cpu, uint32_t msr)
{
	char path[32];
	uint64_t val;
	int fd;

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	fd = open_path_or_exit(path, O_RDONLY);
	TEST_ASSERT(pread(fd, &val, sizeof(val), msr) == sizeof(val),
		    "CPU %d has no %s", cpu, cet_msr_name(msr));
	close(fd);
	return val;
}

static void set_cpu1_online(char val)
{
	int fd = open_path_or_exit(CPU1_ONLINE, O_WRONLY);

	TEST_ASSERT(write(fd, &val, 1) == 1, "Cannot write " CPU1_ONLINE);
	close(fd);
}

static void expect_host_xss(void)
{
	uint64_t xss;
	int cpu;

	for (cpu = 0; cpu < MIN_CPUS; cpu++) {
		xss = read_host_msr(cpu, MSR_IA32_XSS);
		TEST_ASSERT((xss & XFEATURE_MASK_CET) == XFEATURE_MASK_CET,
			    "The host's IA32_XSS is 0x%lx on CPU %d", xss, cpu);
	}
}

TEST(xss_of_each_cpu)
{
	expect_host_xss();
}

TEST(xss_of_cpu_that_comes_online)
{
	expect_host_xss();
	set_cpu1_online('0');
	set_cpu1_online('1');
	expect_host_xss();
}

FIXTURE(cpus)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(cpus)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(cpus)
{
	kvm_vm_free(self->vcpu->vm);
}

static void guest_nop(struct cet_call *call)
{
}

/* Only the guest runs with its own IA32_XSS. */
TEST_F(cpus, xss_kept_after_run)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(self->vcpu, &sregs);
	cet_set_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET_USER);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_host_xss();
}

/* A legal value of each MSR, another one for each seed. */
static uint64_t value(int seed, int i)
{
	return 0x100000 * (seed + 1) + 0x1000 * i;
}

/* Read what the last hop has left, arg[0], and write arg[1]. */
static void guest_hop(struct cet_call *call)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		call->ret += rdmsr(cet_msrs[i]) != value(call->arg[0], i);
		wrmsr(cet_msrs[i], value(call->arg[1], i));
	}
}

TEST_F(cpus, vcpu_moves_between_cpus)
{
	struct cet_call *call;
	int i, hop;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(self->vcpu, cet_msrs[i], value(0, i));

	for (hop = 0; hop < NR_HOPS; hop++) {
		kvm_pin_this_task_to_pcpu(hop % MIN_CPUS);
		call = cet_call(self->vcpu, guest_hop, hop, hop + 1);
		TEST_ASSERT(!call->ret, "The guest read %lu wrong values on CPU %d",
			    call->ret, hop % MIN_CPUS);

		/* By the host on the other CPU. */
		kvm_pin_this_task_to_pcpu((hop + 1) % MIN_CPUS);
		for (i = 0; i < CET_NR_MSRS; i++)
			cet_expect_msr(self->vcpu, cet_msrs[i], value(hop + 1, i));
	}
}

TEST_F(cpus, nothing_left_for_tasks)
{
	uint32_t msr;

	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_PL2_SSP; msr++)
		cet_set_msr(self->vcpu, msr, 0x1000);

	kvm_pin_this_task_to_pcpu(0);
	cet_call(self->vcpu, guest_nop, 0, 0);
	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_PL2_SSP; msr++) {
		cet_expect_msr(self->vcpu, msr, 0x1000);
		TEST_ASSERT(!read_host_msr(0, msr),
			    "The host runs with the guest's %s",
			    cet_msr_name(msr));
	}
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(sysconf(_SC_NPROCESSORS_ONLN) >= MIN_CPUS || cet_is_forced());

	return test_harness_run(argc, argv);
}
