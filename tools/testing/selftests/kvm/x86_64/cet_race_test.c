// SPDX-License-Identifier: GPL-2.0
/*
 * KVM accesses an XSAVE-managed CET MSR in the CPU's registers.  Interrupt it
 * before each instruction from where the guest's FPU is loaded to the access,
 * have a softirq or another task take the registers there, and check that no
 * value is wrong and no write lost.  Needs cet_race_mod.ko.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"
#include "cet_race_mod/cet_race.h"

/* Walks have a stride if a window, on a debug kernel, has more boundaries. */
#define MAX_WALK		8000

/* Don't do again for each MSR what is common to all of them. */
#define LONG_WINDOW		1000

/*
 * A pass can fail because of the host's timer, which changes the way, or of a
 * CPU, or an emulator of one, that misses breakpoints: go there by ever more
 * single steps.
 */
#define MAX_TRIES		10

FIXTURE(race)
{
	struct kvm_vcpu *vcpu;
	int fd;
	pthread_t other;
	bool stop;

	/* What the MSRs should have */
	uint64_t val[CET_NR_XSAVE_MSRS];
	int seed;

	/* How many boundaries there were of each kind */
	int nr_irqs_on, nr_bh_off, nr_preempt_off, nr_irqs_off, nr_held_off;
	int nr_windows, nr_same;
	int stride;
};

typedef FIXTURE_DATA(race) race_t;

FIXTURE_VARIANT(race)
{
	void (*access)(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val);
	bool write;
	/* With which the window begins; shstk: the vCPU has it, and not only IBT */
	int exit_reason;
	bool shstk;
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

FIXTURE_VARIANT_ADD(race, get_msrs) {
	.access = get_msrs,
	.exit_reason = CET_RACE_NO_EXIT,
	.shstk = true,
};

FIXTURE_VARIANT_ADD(race, set_msrs) {
	.access = set_msrs,
	.write = true,
	.exit_reason = CET_RACE_NO_EXIT,
	.shstk = true,
};

FIXTURE_VARIANT_ADD(race, get_one_reg) {
	.access = get_one_reg,
	.exit_reason = CET_RACE_NO_EXIT,
	.shstk = true,
};

FIXTURE_VARIANT_ADD(race, set_one_reg) {
	.access = set_one_reg,
	.write = true,
	.exit_reason = CET_RACE_NO_EXIT,
	.shstk = true,
};

/* The guest's accesses exit with the #UD of the forced emulation prefix. */
FIXTURE_VARIANT_ADD(race, rdmsr_emulated) {
	.access = rdmsr_emulated,
	.exit_reason = EXIT_REASON_EXCEPTION_NMI,
	.shstk = true,
};

FIXTURE_VARIANT_ADD(race, wrmsr_emulated) {
	.access = wrmsr_emulated,
	.write = true,
	.exit_reason = EXIT_REASON_EXCEPTION_NMI,
	.shstk = true,
};

/* KVM intercepts WRMSR of U_CET if the vCPU has only one of the features. */
FIXTURE_VARIANT_ADD(race, wrmsr_intercepted) {
	.access = wrmsr_intercepted,
	.write = true,
	.exit_reason = EXIT_REASON_MSR_WRITE,
};

/*
 * The other task.  With SCHED_FIFO, it has the CPU as soon as it wakes up and
 * until it waits again; it has its own values in the registers, a shadow stack
 * if the kernel lets it.
 */
static void *other_thread(void *arg)
{
	race_t *self = arg;

	cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	do {
		TEST_ASSERT(!ioctl(self->fd, CET_RACE_WAIT), "CET_RACE_WAIT failed");
	} while (!READ_ONCE(self->stop));
	cet_host_shadow_stack(ARCH_SHSTK_DISABLE);

	return NULL;
}

static void create_other_thread(race_t *self)
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
	TEST_ASSERT(!pthread_create(&self->other, &attr, other_thread, self),
		    "No thread with SCHED_FIFO");
}

FIXTURE_SETUP(race)
{
	/* No task but those that are told to shall come in between. */
	const struct sched_param param = { .sched_priority = 1 };
	int i;

	vm_create_cet(&self->vcpu, variant->shstk, true);
	kvm_pin_this_task_to_pcpu(0);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param),
		    "No SCHED_FIFO");

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		if (i && !variant->shstk)
			continue;
		self->val[i] = cet_value(0, i);
		cet_set_msr(self->vcpu, cet_xsave_msrs[i], self->val[i]);
	}

	self->fd = open(CET_RACE_DEVICE, O_RDWR);
	TEST_ASSERT(self->fd >= 0, "No " CET_RACE_DEVICE ": is cet_race_mod loaded?");
	create_other_thread(self);
}

FIXTURE_TEARDOWN(race)
{
	WRITE_ONCE(self->stop, true);
	ioctl(self->fd, CET_RACE_WAKE);
	pthread_join(self->other, NULL);
	close(self->fd);
	kvm_vm_free(self->vcpu->vm);
}

static const char *name_of(race_t *self, uint64_t ip)
{
	static struct cet_race_name names[4];
	static int i;
	struct cet_race_name *name = &names[i++ % 4];

	name->ip = ip;
	TEST_ASSERT(!ioctl(self->fd, CET_RACE_NAME, name),
		    "CET_RACE_NAME failed");
	return name->name;
}

/* One access of the i-th MSR, with an interrupt if @arm says so. */
static uint64_t do_pass(race_t *self, const FIXTURE_VARIANT(race) *variant,
			int i, const struct cet_race_arm *arm,
			struct cet_race_result *res)
{
	uint64_t val = self->val[i];

	if (variant->write) {
		val = cet_value(++self->seed, i);
		self->val[i] = val;
	}
	TEST_ASSERT(!ioctl(self->fd, CET_RACE_ARM, arm),
		    "CET_RACE_ARM failed");
	variant->access(self->vcpu, cet_xsave_msrs[i], &val);
	TEST_ASSERT(!ioctl(self->fd, CET_RACE_RESULT, res),
		    "CET_RACE_RESULT failed");
	if (variant->write)
		get_msrs(self->vcpu, cet_xsave_msrs[i], &val);
	return val;
}

static void check_value(race_t *self, const FIXTURE_VARIANT(race) *variant,
			int i, const struct cet_race_arm *arm,
			const struct cet_race_result *res, uint64_t val)
{
	const char *insn = variant->write ? "WRMSR" : "RDMSR";

	if (val == self->val[i])
		return;

	TEST_FAIL("%s of %s %s: 0x%lx, not 0x%lx; interrupted for %s at %s, boundary %d of %u%s, IRQs were %s there, %s %s at %s",
		  variant->write ? "write" : "read",
		  cet_msr_name(cet_xsave_msrs[i]),
		  variant->write ? "lost" : "wrong", val, self->val[i],
		  arm->interrupt == CET_RACE_TASK ? "another task" : "a softirq",
		  name_of(self, res->ip), arm->boundary, res->nr_boundaries,
		  arm->twice ? ", and once before" : "",
		  res->irqs_on ? "on" : "off",
		  !res->access_stale ? "not between FPU loaded and" :
		  res->access_irqs_on ? "between reload check and" :
					"FPU not reloaded with IRQs off before",
		  insn, name_of(self, res->access_ip));
}

/* Interrupt at each boundary from @from on. */
static void walk(race_t *self, const FIXTURE_VARIANT(race) *variant, int i,
		 struct cet_race_arm *arm, const struct cet_race_result *learnt,
		 int from)
{
	int last = learnt->nr_boundaries - 1;
	struct cet_race_result res;
	bool held_off, seen_access = false;
	uint64_t val, unsafe = 0;
	int stride, tries;

	stride = learnt->nr_boundaries / MAX_WALK + 1;
	self->stride = max(self->stride, stride);

	for (arm->boundary = from; arm->boundary <= last; arm->boundary++) {
		if (arm->boundary % stride && arm->boundary != learnt->access)
			continue;

		for (tries = 0; tries < MAX_TRIES; tries++) {
			arm->back = BIT(tries) - 1;
			val = do_pass(self, variant, i, arm, &res);
			check_value(self, variant, i, arm, &res, val);
			if (res.reached)
				break;
		}
		TEST_ASSERT(res.reached && res.accessed,
			    "KVM came to boundary %d of %d, %s: %d, to the access: %d",
			    arm->boundary, last, name_of(self, res.ip),
			    res.reached, res.accessed);
		seen_access |= arm->boundary == learnt->access;

		/* The interrupt came there, or, with IRQs off, later. */
		TEST_ASSERT(res.arrived && res.arrived_there == res.irqs_on,
			    "Interrupt sent at %s, IRQs %s, came at %s",
			    name_of(self, res.ip), res.irqs_on ? "on" : "off",
			    res.arrived ? name_of(self, res.arrived_ip) : "no place");

		/* Too late to do harm if there are no IRQs until the access. */
		held_off = arm->boundary >= learnt->irqs_off;
		TEST_ASSERT(res.done && res.done_before == !held_off,
			    "Interrupt at %s, IRQs %s, came at %s; what it is for was done: %d, before the access: %d",
			    name_of(self, res.ip), res.irqs_on ? "on" : "off",
			    name_of(self, res.arrived_ip), res.done,
			    res.done_before);
		TEST_ASSERT(res.left != self->val[i],
			    "The registers still had the guest's value, 0x%lx",
			    val);

		if (res.access_irqs_on || res.access_stale)
			unsafe = res.ip;

		if (held_off)
			self->nr_held_off++;
		else if (!res.irqs_on)
			self->nr_irqs_off++;
		else if (!res.bh_on)
			self->nr_bh_off++;
		else if (!res.preemptible)
			self->nr_preempt_off++;
		else
			self->nr_irqs_on++;
	}
	TEST_ASSERT(seen_access, "The walk missed the access");
	/* That no harm was done is no accident. */
	TEST_ASSERT(!unsafe,
		    "Access with IRQs on, or the FPU not reloaded, after an interrupt at %s",
		    name_of(self, unsafe));
}

static void learn(race_t *self, const FIXTURE_VARIANT(race) *variant, int i,
		  struct cet_race_arm *arm, struct cet_race_result *res)
{
	uint64_t val;
	int tries;

	/* The first time, KVM may have to do what it need not do again. */
	val = self->val[i];
	variant->access(self->vcpu, cet_xsave_msrs[i], &val);

	arm->boundary = CET_RACE_LEARN;
	for (tries = 0; tries < MAX_TRIES; tries++) {
		val = do_pass(self, variant, i, arm, res);
		if (res->nr_boundaries)
			break;
	}
	TEST_ASSERT(res->accessed && res->nr_boundaries > res->access,
		    "No window: %u boundaries, access seen: %d",
		    res->nr_boundaries, res->accessed);
	res->access_stale = res->access_irqs_on = 0;
	check_value(self, variant, i, arm, res, val);
}

static void walk_all(race_t *self, const FIXTURE_VARIANT(race) *variant,
		     int interrupt)
{
	struct cet_race_arm arm = {
		.write = variant->write,
		.exit_reason = variant->exit_reason,
		.interrupt = interrupt,
	};
	uint32_t off[2] = {}, nr[2] = {};
	struct cet_race_result res;
	int i, from;

	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		if (i && !variant->shstk)
			continue;

		arm.msr = cet_xsave_msrs[i];
		arm.twice = false;
		learn(self, variant, i, &arm, &res);
		nr[0] = max(nr[0], res.nr_boundaries);
		off[0] = max(off[0], res.nr_boundaries - 1 - res.irqs_off);
		/* The emulator takes long, and the same way for all MSRs. */
		from = 0;
		if (i && res.nr_boundaries > LONG_WINDOW) {
			from = min(res.same, res.irqs_off - 16);
			self->nr_same += from;
		}
		walk(self, variant, i, &arm, &res, from);

		/* The registers are not the guest's: walk through the reload. */
		arm.twice = true;
		learn(self, variant, i, &arm, &res);
		nr[1] = max(nr[1], res.nr_boundaries);
		off[1] = max(off[1], res.nr_boundaries - 1 - res.irqs_off);
		walk(self, variant, i, &arm, &res,
		     max(res.first + 1, res.irqs_off - 16));
		self->nr_windows += 2;
	}

	printf("# %d windows of up to %u boundaries, %u with a reload; IRQs off for %u instructions, %u with a reload\n",
	       self->nr_windows, nr[0], nr[1], off[0], off[1]);
	printf("# interrupted at %d boundaries: %d with IRQs on, %d and softirqs off, %d and preemption off, %d and IRQs off, %d and IRQs off until after the access\n",
	       self->nr_irqs_on + self->nr_bh_off + self->nr_preempt_off +
	       self->nr_irqs_off + self->nr_held_off, self->nr_irqs_on,
	       self->nr_bh_off, self->nr_preempt_off, self->nr_irqs_off,
	       self->nr_held_off);
	if (self->nr_same)
		printf("# not at %d boundaries that are on the way to another MSR, too\n",
		       self->nr_same);
	if (self->stride > 1)
		printf("# not at every boundary: at every %d-th where there are more than %d\n",
		       self->stride, MAX_WALK);
	TEST_ASSERT(self->nr_irqs_on && self->nr_held_off,
		    "Not a boundary where IRQs are on, or off for the access");
}

TEST_F_TIMEOUT(race, softirq, 3600)
{
	walk_all(self, variant, CET_RACE_SOFTIRQ);
}

TEST_F_TIMEOUT(race, task, 3600)
{
	walk_all(self, variant, CET_RACE_TASK);
}

int main(int argc, char *argv[])
{
	cet_require();
	if (!cet_is_forced())
		TEST_REQUIRE(!access(CET_RACE_DEVICE, R_OK | W_OK));

	return test_harness_run(argc, argv);
}
