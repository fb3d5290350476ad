// SPDX-License-Identifier: GPL-2.0
/*
 * CET state and the host's scheduler: the guest's values get into and out of
 * the CPU's registers correctly even if the thread is scheduled out in between,
 * and the VMM's own shadow stack stays intact.
 */
#include <pthread.h>
#include <sched.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "userfaultfd_util.h"

/* How often the list of an ioctl goes through the MSRs. */
#define NR_SEEDS		45
#define NR_ENTRIES		(NR_SEEDS * CET_NR_XSAVE_MSRS)
#define NR_ROUNDS		60

struct msr_list {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[NR_ENTRIES];
};

/*
 * Nearly as many entries as a list may have, for one ioctl to take long.  No
 * two have the same value: those of the last seed are to remain.
 */
static void init_list(struct msr_list *list, int seed)
{
	int i;

	list->header.nmsrs = NR_ENTRIES;
	for (i = 0; i < NR_ENTRIES; i++) {
		list->entries[i].index = cet_xsave_msrs[i % CET_NR_XSAVE_MSRS];
		list->entries[i].data = cet_value(seed + i / CET_NR_XSAVE_MSRS,
						  i % CET_NR_XSAVE_MSRS);
	}
}

static void expect_values(struct kvm_vcpu *vcpu, int seed)
{
	int i;

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
		cet_expect_msr(vcpu, cet_xsave_msrs[i], cet_value(seed, i));
}

static bool stop;

/* Takes the CPU whenever the scheduler lets it. */
static void *busy_thread(void *arg)
{
	kvm_pin_this_task_to_pcpu(0);
	while (!READ_ONCE(stop))
		cpu_relax();
	return NULL;
}

FIXTURE(preempt)
{
	struct kvm_vcpu *vcpu;
	pthread_t busy;
};

FIXTURE_SETUP(preempt)
{
	vm_create_cet(&self->vcpu, true, true);
	kvm_pin_this_task_to_pcpu(0);
	TEST_ASSERT(!pthread_create(&self->busy, NULL, busy_thread, NULL),
		    "No thread");
}

FIXTURE_TEARDOWN(preempt)
{
	WRITE_ONCE(stop, true);
	pthread_join(self->busy, NULL);
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(preempt, set_msrs_preempted)
{
	static struct msr_list list;
	int i;

	for (i = 0; i < NR_ROUNDS; i++) {
		init_list(&list, i);
		vcpu_msrs_set(self->vcpu, &list.header);
		expect_values(self->vcpu, i + NR_SEEDS - 1);
	}
}

TEST_F(preempt, get_msrs_preempted)
{
	static struct msr_list list;
	int i, j;

	init_list(&list, 0);
	list.header.nmsrs = CET_NR_XSAVE_MSRS;
	vcpu_msrs_set(self->vcpu, &list.header);
	list.header.nmsrs = NR_ENTRIES;

	for (i = 0; i < NR_ROUNDS; i++) {
		vcpu_msrs_get(self->vcpu, &list.header);
		for (j = 0; j < NR_ENTRIES; j++)
			TEST_ASSERT_EQ(list.entries[j].data,
				       cet_value(0, j % CET_NR_XSAVE_MSRS));
	}
}

/* Read them all again and again; ret counts the values that were wrong. */
static void guest_watch(struct cet_call *call)
{
	uint64_t val;
	int i, j;

	for (i = 0; i < call->arg[1]; i++) {
		for (j = 0; j < CET_NR_XSAVE_MSRS; j++) {
			val = rdmsr(cet_xsave_msrs[j]);
			if (val != cet_value(call->arg[0], j))
				call->ret++;
		}
	}
}

static void write_values(struct kvm_vcpu *vcpu, int seed)
{
	uint8_t vector;
	int i;

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		vector = cet_wrmsr(vcpu, cet_xsave_msrs[i],
				   cet_value(seed, i));
		TEST_ASSERT(!vector, "WRMSR of %s raised vector %u",
			    cet_msr_name(cet_xsave_msrs[i]), vector);
	}
}

struct watcher {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	int seed;
};

#define NR_WATCHERS		2
#define NR_RUNS			20
#define NR_READS		3000

static void *watch_thread(void *arg)
{
	struct watcher *watcher = arg;
	struct cet_call *call;
	int i;

	kvm_pin_this_task_to_pcpu(0);
	write_values(watcher->vcpu, watcher->seed);

	for (i = 0; i < NR_RUNS; i++) {
		call = cet_call(watcher->vcpu, guest_watch, watcher->seed,
				NR_READS);
		TEST_ASSERT(!call->ret, "The guest read %lu wrong values",
			    call->ret);
		sched_yield();
		expect_values(watcher->vcpu, watcher->seed);
	}
	return NULL;
}

static void watch(struct watcher *watchers)
{
	int i;

	for (i = 0; i < NR_WATCHERS; i++) {
		watchers[i].seed = i;
		TEST_ASSERT(!pthread_create(&watchers[i].thread, NULL,
					    watch_thread, &watchers[i]),
			    "No thread");
	}
	for (i = 0; i < NR_WATCHERS; i++)
		pthread_join(watchers[i].thread, NULL);
}

TEST_F(preempt, two_vms_on_one_cpu)
{
	struct watcher watchers[NR_WATCHERS] = { { self->vcpu } };
	struct kvm_vm *vm = vm_create_cet(&watchers[1].vcpu, true, true);

	watch(watchers);
	kvm_vm_free(vm);
}

TEST_F(preempt, two_vcpus_on_one_cpu)
{
	struct watcher watchers[NR_WATCHERS] = { { self->vcpu } };

	watchers[1].vcpu = vm_vcpu_add(self->vcpu->vm, 1, NULL);
	vcpu_init_cet(watchers[1].vcpu, true, true);
	watch(watchers);
}

KVM_ONE_VCPU_TEST_SUITE(blocked);

static int nr_faults;

static int provide_page(int mode, int uffd, struct uffd_msg *msg)
{
	struct uffdio_zeropage zeropage = {
		.range.start = msg->arg.pagefault.address & ~(PAGE_SIZE - 1),
		.range.len = PAGE_SIZE,
	};

	nr_faults++;
	return ioctl(uffd, UFFDIO_ZEROPAGE, &zeropage);
}

/*
 * Between two CET MSRs, KVM writes the wall clock to a page that only another
 * thread can provide.  Whatever was in the CPU's registers is gone after that.
 */
KVM_ONE_VCPU_TEST(blocked, set_msrs_blocked, NULL)
{
	vm_vaddr_t clock = vm_vaddr_alloc_page(vcpu->vm);
	void *hva = addr_gva2hva(vcpu->vm, clock);
	static struct msr_list list;
	struct uffd_desc *uffd;
	int i, entries = 0;

	vcpu_init_cet(vcpu, true, true);

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		list.entries[entries].index = cet_xsave_msrs[i];
		list.entries[entries++].data = cet_value(0, i);
	}
	list.entries[entries].index = MSR_KVM_WALL_CLOCK_NEW;
	list.entries[entries++].data = addr_gva2gpa(vcpu->vm, clock);
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		list.entries[entries].index = cet_xsave_msrs[i];
		list.entries[entries++].data = cet_value(1, i);
	}
	list.header.nmsrs = entries;

	TEST_ASSERT(!madvise(hva, PAGE_SIZE, MADV_DONTNEED), "madvise() failed");
	uffd = uffd_setup_demand_paging(UFFDIO_REGISTER_MODE_MISSING, 0, hva,
					PAGE_SIZE, 1, provide_page);
	vcpu_msrs_set(vcpu, &list.header);
	uffd_stop_demand_paging(uffd);

	TEST_ASSERT_EQ(nr_faults, 1);
	expect_values(vcpu, 1);
}

FIXTURE(vmm)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(vmm)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(vmm)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(vmm, shadow_stack_of_vmm_survives)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	static struct msr_list list;
	uint64_t before, after;
	long ret;

	init_list(&list, 0);

	ret = cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	if (ret && !cet_is_forced())
		SKIP(return, "The host kernel has no user shadow stacks");
	TEST_ASSERT(!ret, "No user shadow stack in the host, errno %ld", -ret);
	before = cet_host_ssp();

	vcpu_msrs_set(vcpu, &list.header);
	expect_values(vcpu, NR_SEEDS - 1);
	cet_enable(vcpu);
	TEST_ASSERT_EQ(cet_run(vcpu, guest_smash_return,
			       CET_SHSTK_EN)->error_code, CP_NEAR_RET);
	cet_expect_msr(vcpu, MSR_IA32_U_CET, cet_value(NR_SEEDS - 1, 0));

	after = cet_host_ssp();
	cet_host_shadow_stack(ARCH_SHSTK_DISABLE);
	TEST_ASSERT(before, "RDSSP found no shadow stack");
	TEST_ASSERT_EQ(after, before);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
