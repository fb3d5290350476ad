// SPDX-License-Identifier: GPL-2.0
/*
 * KVM accesses an XSAVE-managed CET MSR in the CPU's registers.  Interrupt it
 * before each instruction from where the guest's FPU is loaded to the access,
 * have a softirq or another task take the registers there, and check that no
 * value is wrong and no write lost.  Needs cet_race_mod.ko.
 *
 *	cet_race_test [-w BOUNDARIES]
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include "kvm_test_harness.h"
#include "cet_nested.h"
#include "cet_race_mod/cet_race.h"

/*
 * If a window has more boundaries, as on a debug kernel, try only some of them,
 * except near to where IRQs are turned off, and near to the access.
 */
static int max_walk = 4000;

/* In longer windows, test what all MSRs have in common only once. */
#define LONG_WINDOW		1000

/*
 * A pass can fail because of other interrupts, or because a CPU, or an emulator
 * of one, misses breakpoints: retry with more and more single steps.
 */
#define MAX_TRIES		10

struct race {
	struct kvm_vcpu *vcpu;
	int fd;
	pthread_t other;
	bool stop;

	/* What the MSRs should have */
	uint64_t val[CET_NR_XSAVE_MSRS];
	int seed;

	/* How many boundaries there were of each kind */
	int nr_irqs_on, nr_bh_off, nr_preempt_off, nr_irqs_off, nr_held_off;
	int nr_same;
	int stride;
};

FIXTURE(race)
{
	struct race race;
};

/* The way to an access */
struct path {
	void (*access)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
	bool write;
	/* The VM exit with which the window begins */
	int exit_reason;
	/* The vCPU has SHSTK, and not only IBT. */
	bool shstk;
	/* If the way is long, only this many boundaries, instead of max_walk */
	int max_walk;
};

FIXTURE_VARIANT(race)
{
	struct path path;
};

static void get_msrs(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	TEST_ASSERT(cet_get_msr(vcpu, msr, val), "KVM_GET_MSRS refused %s",
		    cet_msr_name(msr));
}

static void set_msrs(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	cet_set_msr(vcpu, msr, *val);
}

static void get_one_reg(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	vcpu_get_reg(vcpu, KVM_X86_REG_MSR(msr), val);
}

static void set_one_reg(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	vcpu_set_reg(vcpu, KVM_X86_REG_MSR(msr), *val);
}

static void guest_rdmsr_emulated(struct cet_call *call)
{
	call->vector = rdmsr_safe_fep(call->arg[0], &call->ret);
}

static void guest_wrmsr_emulated(struct cet_call *call)
{
	uint64_t error_code;

	call->vector = kvm_asm_safe_ec_fep("wrmsr", error_code,
					   "a"((uint32_t)call->arg[1]),
					   "d"(call->arg[1] >> 32),
					   "c"(call->arg[0]));
}

static void call_guest(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
		       uint32_t msr, uint64_t *val)
{
	struct cet_call *call = cet_call(vcpu, fn, msr, *val);

	TEST_ASSERT(!call->vector, "The guest's access of %s raised vector %lu",
		    cet_msr_name(msr), call->vector);
	if (fn == guest_rdmsr_emulated)
		*val = call->ret;
}

static void rdmsr_emulated(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	call_guest(vcpu, guest_rdmsr_emulated, msr, val);
}

static void wrmsr_emulated(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	call_guest(vcpu, guest_wrmsr_emulated, msr, val);
}

static void wrmsr_intercepted(struct kvm_vcpu *vcpu, uint32_t msr,
			      uint64_t *val)
{
	call_guest(vcpu, guest_wrmsr, msr, val);
}

/* An MSR list of L1's, of any kind: its address and its length */
static struct msr_list {
	struct {
		uint32_t index;
		uint32_t reserved;
		uint64_t val;
	} entry;
	uint64_t addr_field;
	uint64_t count_field;
} msr_list __aligned(64);

static void use_msr_list(void)
{
	vmwrite(msr_list.addr_field, cet_nested.prepare_arg);
	vmwrite(msr_list.count_field, 1);
}

/* L1 enters L2, which exits at once.  The way there or back has the access. */
static void run_l2(struct kvm_vcpu *vcpu, uint64_t addr_field,
		   uint64_t count_field, uint32_t msr, uint64_t *val)
{
	struct msr_list *list = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&msr_list);
	struct cet_nested *n = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_nested);

	if (!n->prepare) {
		n = vcpu_init_cet_nested(vcpu);
		n->prepare = use_msr_list;
		n->prepare_arg = addr_gva2gpa(vcpu->vm, (vm_vaddr_t)&msr_list);
		list->addr_field = addr_field;
		list->count_field = count_field;
	}

	list->entry.index = msr;
	list->entry.val = *val;
	cet_run_nested(vcpu);
	TEST_ASSERT(n->reason == EXIT_REASON_VMCALL,
		    "L2 did not run: error %lu, reason 0x%lx", n->error, n->reason);
	*val = list->entry.val;
	n->resume = true;
}

static void vmentry_load(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	run_l2(vcpu, VM_ENTRY_MSR_LOAD_ADDR, VM_ENTRY_MSR_LOAD_COUNT, msr, val);
}

static void vmexit_store(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	*val = ~*val;
	run_l2(vcpu, VM_EXIT_MSR_STORE_ADDR, VM_EXIT_MSR_STORE_COUNT, msr, val);
}

static void vmexit_load(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	run_l2(vcpu, VM_EXIT_MSR_LOAD_ADDR, VM_EXIT_MSR_LOAD_COUNT, msr, val);
}

FIXTURE_VARIANT_ADD(race, get_msrs) {
	.path = {
		.access = get_msrs,
		.exit_reason = CET_RACE_NO_EXIT,
		.shstk = true,
	},
};

FIXTURE_VARIANT_ADD(race, set_msrs) {
	.path = {
		.access = set_msrs,
		.write = true,
		.exit_reason = CET_RACE_NO_EXIT,
		.shstk = true,
	},
};

FIXTURE_VARIANT_ADD(race, get_one_reg) {
	.path = {
		.access = get_one_reg,
		.exit_reason = CET_RACE_NO_EXIT,
		.shstk = true,
	},
};

FIXTURE_VARIANT_ADD(race, set_one_reg) {
	.path = {
		.access = set_one_reg,
		.write = true,
		.exit_reason = CET_RACE_NO_EXIT,
		.shstk = true,
	},
};

/* The guest's accesses exit with the #UD of the forced emulation prefix. */
FIXTURE_VARIANT_ADD(race, rdmsr_emulated) {
	.path = {
		.access = rdmsr_emulated,
		.exit_reason = EXIT_REASON_EXCEPTION_NMI,
		.shstk = true,
	},
};

FIXTURE_VARIANT_ADD(race, wrmsr_emulated) {
	.path = {
		.access = wrmsr_emulated,
		.write = true,
		.exit_reason = EXIT_REASON_EXCEPTION_NMI,
		.shstk = true,
	},
};

/* KVM intercepts WRMSR of U_CET if the vCPU has only one of the features. */
FIXTURE_VARIANT_ADD(race, wrmsr_intercepted) {
	.path = {
		.access = wrmsr_intercepted,
		.write = true,
		.exit_reason = EXIT_REASON_MSR_WRITE,
	},
};

FIXTURE_VARIANT_ADD(race, vmentry_load) {
	.path = {
		.access = vmentry_load,
		.write = true,
		.exit_reason = EXIT_REASON_VMRESUME,
		.shstk = true,
		.max_walk = 500,
	},
};

FIXTURE_VARIANT_ADD(race, vmexit_store) {
	.path = {
		.access = vmexit_store,
		.exit_reason = EXIT_REASON_VMCALL,
		.shstk = true,
		.max_walk = 500,
	},
};

FIXTURE_VARIANT_ADD(race, vmexit_load) {
	.path = {
		.access = vmexit_load,
		.write = true,
		.exit_reason = EXIT_REASON_VMCALL,
		.shstk = true,
		.max_walk = 500,
	},
};

/*
 * The other task.  With SCHED_FIFO, it has the CPU from when it wakes up until
 * it waits again.  It has its own values in the registers, and a shadow stack
 * if the kernel supports that.
 */
static void *other_thread(void *arg)
{
	struct race *race = arg;

	cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	do {
		TEST_ASSERT(!ioctl(race->fd, CET_RACE_WAIT), "CET_RACE_WAIT failed");
	} while (!READ_ONCE(race->stop));
	cet_host_shadow_stack(ARCH_SHSTK_DISABLE);

	return NULL;
}

static void create_other_thread(struct race *race)
{
	struct sched_param param = { .sched_priority = 2 };
	pthread_attr_t attr;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	TEST_ASSERT(!pthread_create(&race->other, &attr, other_thread, race),
		    "No thread with SCHED_FIFO");
}

FIXTURE_SETUP(race)
{
	/* No other task may run in between. */
	const struct sched_param param = { .sched_priority = 1 };
	const struct path *path = &variant->path;
	struct race *race = &self->race;
	int i;

	vm_create_cet(&race->vcpu, path->shstk, true);
	kvm_pin_this_task_to_pcpu(0);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param),
		    "No SCHED_FIFO");

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		if (i && !path->shstk)
			continue;
		race->val[i] = cet_value(0, i);
		cet_set_msr(race->vcpu, cet_xsave_msrs[i], race->val[i]);
	}

	race->fd = open(CET_RACE_DEVICE, O_RDWR);
	TEST_ASSERT(race->fd >= 0, "No " CET_RACE_DEVICE ": is cet_race_mod loaded?");
	create_other_thread(race);
}

FIXTURE_TEARDOWN(race)
{
	struct race *race = &self->race;

	WRITE_ONCE(race->stop, true);
	ioctl(race->fd, CET_RACE_WAKE);
	pthread_join(race->other, NULL);
	close(race->fd);
	kvm_vm_free(race->vcpu->vm);
}

static const char *name_of(struct race *race, uint64_t ip)
{
	static struct cet_race_name names[4];
	static int i;
	struct cet_race_name *name = &names[i++ % 4];

	name->ip = ip;
	TEST_ASSERT(!ioctl(race->fd, CET_RACE_NAME, name),
		    "CET_RACE_NAME failed");
	return name->name;
}

/* One access of the i-th MSR, with an interrupt if @arm says so. */
static uint64_t do_pass(struct race *race, const struct path *path,
			int i, const struct cet_race_arm *arm,
			struct cet_race_result *res)
{
	uint64_t val = race->val[i];

	if (path->write) {
		val = cet_value(++race->seed, i);
		race->val[i] = val;
	}
	TEST_ASSERT(!ioctl(race->fd, CET_RACE_ARM, arm),
		    "CET_RACE_ARM failed");
	path->access(race->vcpu, cet_xsave_msrs[i], &val);
	TEST_ASSERT(!ioctl(race->fd, CET_RACE_RESULT, res),
		    "CET_RACE_RESULT failed");
	if (path->write)
		get_msrs(race->vcpu, cet_xsave_msrs[i], &val);
	return val;
}

static void check_value(struct race *race, const struct path *path, int i,
			const struct cet_race_arm *arm,
			const struct cet_race_result *res, uint64_t val)
{
	const char *how = "after the FPU was loaded, before";

	if (val == race->val[i])
		return;

	if (res->access_stale)
		how = res->access_irqs_on ? "between reload check and" :
					    "FPU not reloaded with IRQs off before";

	printf("# interrupted for %s, boundary %d of %u%s\n",
	       arm->interrupt == CET_RACE_TASK ? "another task" : "a softirq",
	       arm->boundary, res->nr_boundaries,
	       arm->twice ? ", and once before" : "");
	TEST_FAIL("%s %s, 0x%lx, not 0x%lx: interrupted at %s, IRQs were %s there, %s %s at %s",
		  cet_msr_name(cet_xsave_msrs[i]),
		  path->write ? "write lost" : "read wrong", val, race->val[i],
		  name_of(race, res->ip), res->irqs_on ? "on" : "off", how,
		  path->write ? "WRMSR" : "RDMSR",
		  name_of(race, res->access_ip));
}

/* Whether the interrupt came where it should.  Else the pass proves nothing. */
static bool came_there(const struct cet_race_result *res, bool held_off)
{
	return res->reached && res->accessed && !res->disturbed && res->done &&
	       res->arrived_there == res->irqs_on && res->done_before == !held_off;
}

static bool is_near(int boundary, int other, int most)
{
	return abs(boundary - other) <= most / 20;
}

/* Interrupt at each boundary from @from on. */
static void walk(struct race *race, const struct path *path, int i,
		 struct cet_race_arm *arm, const struct cet_race_result *learnt,
		 int from)
{
	int last = learnt->nr_boundaries - 1;
	struct cet_race_result res;
	const int most = path->max_walk ? min(path->max_walk, max_walk) :
					  max_walk;
	bool held_off, seen_access = false;
	uint64_t val, unsafe = 0;
	int stride, tries;

	stride = learnt->nr_boundaries / most + 1;
	race->stride = max(race->stride, stride);

	for (arm->boundary = from; arm->boundary <= last; arm->boundary++) {
		if (arm->boundary % stride &&
		    !is_near(arm->boundary, learnt->irqs_off, most) &&
		    !is_near(arm->boundary, learnt->access, most))
			continue;

		/* Without IRQs until the access, it does no harm. */
		held_off = arm->boundary >= learnt->irqs_off;

		for (tries = 0; tries < MAX_TRIES; tries++) {
			arm->back = BIT(tries) - 1;
			val = do_pass(race, path, i, arm, &res);
			check_value(race, path, i, arm, &res, val);
			/* This is wrong wherever the interrupt came. */
			if (res.access_irqs_on || res.access_stale)
				unsafe = res.ip;
			if (came_there(&res, held_off))
				break;
		}
		TEST_ASSERT(res.reached && res.accessed && !res.disturbed,
			    "KVM came to boundary %d of %d, %s: %d, to the access: %d, other interrupts: %d",
			    arm->boundary, last, name_of(race, res.ip),
			    res.reached, res.accessed, res.disturbed);
		seen_access |= arm->boundary == learnt->access;

		/* The interrupt came there, or, with IRQs off, later. */
		TEST_ASSERT(res.arrived && res.arrived_there == res.irqs_on,
			    "Interrupt sent at %s, IRQs %s, came at %s",
			    name_of(race, res.ip), res.irqs_on ? "on" : "off",
			    res.arrived ? name_of(race, res.arrived_ip) : "no place");

		TEST_ASSERT(res.done && res.done_before == !held_off,
			    "Interrupt at %s, IRQs %s, came at %s; done: %d, before the access: %d",
			    name_of(race, res.ip), res.irqs_on ? "on" : "off",
			    name_of(race, res.arrived_ip), res.done,
			    res.done_before);
		TEST_ASSERT(res.left != race->val[i],
			    "The registers still had the guest's value, 0x%lx",
			    val);

		if (held_off)
			race->nr_held_off++;
		else if (!res.irqs_on)
			race->nr_irqs_off++;
		else if (!res.bh_on)
			race->nr_bh_off++;
		else if (!res.preemptible)
			race->nr_preempt_off++;
		else
			race->nr_irqs_on++;
	}
	TEST_ASSERT(seen_access, "The access was not among the boundaries");
	/* Right values could be luck: the access has to be safe, too. */
	TEST_ASSERT(!unsafe,
		    "Access with IRQs on, or the FPU not reloaded, after an interrupt at %s",
		    name_of(race, unsafe));
}

static void learn(struct race *race, const struct path *path, int i,
		  struct cet_race_arm *arm, struct cet_race_result *res)
{
	uint64_t val;
	int tries;

	/* The first access may include work that KVM does only once. */
	val = race->val[i];
	path->access(race->vcpu, cet_xsave_msrs[i], &val);

	arm->boundary = CET_RACE_LEARN;
	for (tries = 0; tries < MAX_TRIES; tries++) {
		val = do_pass(race, path, i, arm, res);
		if (res->nr_boundaries)
			break;
	}
	TEST_ASSERT(res->accessed && res->nr_boundaries > res->access,
		    "No window: %u boundaries, access seen: %d",
		    res->nr_boundaries, res->accessed);
	check_value(race, path, i, arm, res, val);
}

static void walk_all(struct race *race, const struct path *path,
		     int interrupt)
{
	struct cet_race_arm arm = {
		.write = path->write,
		.exit_reason = path->exit_reason,
		.interrupt = interrupt,
	};
	uint32_t off[2] = {}, nr[2] = {};
	struct cet_race_result res;
	int i, from;

	/* If interrupted twice, only the reload takes another way. */
	for (arm.twice = 0; arm.twice < 2; arm.twice++) {
		for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
			if (i && !path->shstk)
				continue;

			arm.msr = cet_xsave_msrs[i];
			learn(race, path, i, &arm, &res);

			from = 0;
			if (arm.twice) {
				from = max(res.first + 1, res.irqs_off - 16);
			} else if (i && res.nr_boundaries > LONG_WINDOW) {
				from = min(res.same, res.irqs_off - 16);
				race->nr_same += from;
			}
			walk(race, path, i, &arm, &res, from);

			nr[arm.twice] = max(nr[arm.twice], res.nr_boundaries);
			off[arm.twice] = max(off[arm.twice],
					     res.nr_boundaries - 1 -
					     res.irqs_off);
		}
	}

	printf("# boundaries: up to %u, %u with a reload\n", nr[0], nr[1]);
	printf("# instructions with IRQs off: %u, %u with a reload\n", off[0],
	       off[1]);
	printf("# interrupted with IRQs on: %d\n", race->nr_irqs_on);
	printf("# ... but softirqs off: %d\n", race->nr_bh_off);
	printf("# ... but preemption off: %d\n", race->nr_preempt_off);
	printf("# with IRQs off: %d\n", race->nr_irqs_off);
	printf("# with IRQs off until after the access: %d\n",
	       race->nr_held_off);
	if (race->nr_same)
		printf("# not again on the way that another MSR took: %d\n",
		       race->nr_same);
	if (race->stride > 1)
		printf("# every %d-th of them, and those near to the end\n",
		       race->stride);
	TEST_ASSERT(race->nr_irqs_on && race->nr_held_off,
		    "Not a boundary where IRQs are on, or off for the access");
}

TEST_F_TIMEOUT(race, softirq, 3600)
{
	walk_all(&self->race, &variant->path, CET_RACE_SOFTIRQ);
}

TEST_F_TIMEOUT(race, task, 3600)
{
	walk_all(&self->race, &variant->path, CET_RACE_TASK);
}

int main(int argc, char *argv[])
{
	cet_require();
	if (!cet_is_forced())
		TEST_REQUIRE(!access(CET_RACE_DEVICE, R_OK | W_OK));

	if (argc > 2 && !strcmp(argv[1], "-w")) {
		max_walk = atoi_positive("Boundaries", argv[2]);
		argv[2] = argv[0];
		argv += 2;
		argc -= 2;
	}
	return test_harness_run(argc, argv);
}
