// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts KVM at a chosen instruction between loading the guest's FPU and
 * RDMSR or WRMSR of an XSAVE-managed MSR, and takes the guest's values out of
 * the registers there.
 *
 * A pass that learns single-steps the window, and notes every boundary.  Each
 * other pass has a hardware breakpoint at one of them, whose handler sends the
 * CPU an interrupt: the CPU takes it before it executes the next instruction if
 * IRQs are on, or else as soon as they are.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kdebug.h>
#include <linux/kernel_stat.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/debugreg.h>
#include <asm/fpu/api.h>
#include <asm/hardirq.h>
#include <asm/irq_vectors.h>
#include <asm/msr.h>
#include <asm/vmx.h>

#include "cet_race.h"

#ifndef CONFIG_PREEMPTION
#error "Tasks can't be scheduled out in the kernel"
#endif

/* Enough for a kernel with KASAN and lockdep. */
#define MAX_STEPS	(1 << 19)

/* Breakpoints 0 and 1 are for instructions. */
#define DR7_BREAKPOINTS	(DR_GLOBAL_ENABLE | (DR_GLOBAL_ENABLE << DR_ENABLE_SIZE))

struct step {
	unsigned long ip;
	bool irqs_on;
};

/* A place to stop: @steps single steps after the CPU's nth arrival at ip */
struct stop {
	unsigned long ip;
	unsigned int nth;
	unsigned int steps;
};

static struct {
	/* Only this thread, and interrupts on top of it, use the rest. */
	struct task_struct *target;
	enum {
		ARMED,		/* until the window begins */
		LEARNING,	/* by single steps */
		WATCHING,	/* by breakpoints */
		DONE,
	} state;
	struct cet_race_arm arm;
	struct cet_race_result result;

	/* Steps are counted from the probe on, boundaries from @begin on. */
	unsigned int nr_steps;
	unsigned int begin;
	/* How many are the same as in the window before */
	unsigned int nr_same;

	/* The boundaries to interrupt at, and which one is next */
	struct stop stops[2];
	unsigned int nr_stops;
	unsigned int stop;

	/* The interrupt is pending, and @ip is the boundary meanwhile. */
	bool raised;
	unsigned long ip;
	/* The interrupt is pending, or its handler has not returned yet. */
	bool stepping;

	/* What nr_interrupts() should be if there are no others */
	u64 nr_interrupts;
} race;

static struct step *steps;
static unsigned long in_use;
static u32 fpstate_size;
static DECLARE_COMPLETION(wake);

/*
 * Code that calls kernel_fpu_begin() owns all of the registers, and may leave
 * anything in them.
 */
static void use_fpu(void)
{
	u32 msr;

	kernel_fpu_begin();
	asm volatile("pcmpeqd %%xmm0, %%xmm0" : : : "memory");
	wrmsrl_safe(MSR_IA32_U_CET, CET_RACE_POISON);
	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_PL3_SSP; msr++)
		wrmsrl_safe(msr, CET_RACE_POISON);
	kernel_fpu_end();
}

static void note_done(void)
{
	struct cet_race_result *res = &race.result;

	preempt_disable();
	rdmsrl_safe(race.arm.msr, &res->left);
	preempt_enable();

	res->done_before = !res->accessed || res->arrived_ip == res->access_ip;
	res->done = true;
}

static void softirq_func(struct tasklet_struct *unused)
{
	use_fpu();
	note_done();
}

static DECLARE_TASKLET(softirq, softirq_func);

/* With PREEMPT_RT, softirqs run in threads.  This is one with RT priority. */
static void thread_func(struct kthread_work *unused)
{
	use_fpu();
	note_done();
}

static DEFINE_KTHREAD_WORK(thread_work, thread_func);
static struct kthread_worker *thread;

static void interrupt_func(struct irq_work *unused)
{
	struct cet_race_result *res = &race.result;

	race.raised = false;
	race.nr_interrupts++;
	res->arrived = true;
	res->arrived_ip = race.ip;

	if (race.arm.interrupt == CET_RACE_TASK)
		complete(&wake);
	else if (IS_ENABLED(CONFIG_PREEMPT_RT))
		kthread_queue_work(thread, &thread_work);
	else
		tasklet_hi_schedule(&softirq);
}

static struct irq_work interrupt = IRQ_WORK_INIT_HARD(interrupt_func);

/*
 * Code on the way into and out of an interrupt runs on the thread's behalf, and
 * is no part of the window.  Have the timer and devices, whose vectors are
 * lower, wait until it has ended, and count the rest.
 */
static void hold_other_interrupts(bool hold)
{
	unsigned long class = hold ? (IRQ_WORK_VECTOR >> 4) - 1 : 0;

	asm volatile("mov %0, %%cr8" : : "r"(class) : "memory");
}

static u64 nr_interrupts(void)
{
	irq_cpustat_t *stat = get_cpu_ptr(&irq_stat);
	u64 nr;

	nr = kstat_this_cpu->irqs_sum + stat->apic_timer_irqs +
	     stat->irq_spurious_count + stat->apic_irq_work_irqs +
	     stat->irq_resched_count + stat->irq_call_count;
	put_cpu_ptr(&irq_stat);

	return nr;
}

/* Single steps find out where it comes. */
static void raise_interrupt(struct pt_regs *regs)
{
	struct cet_race_result *res = &race.result;

	res->ip = regs->ip;
	res->arrived = false;
	res->arrived_there = true;
	res->done = false;
	race.raised = true;
	race.stepping = true;
	irq_work_queue(&interrupt);
	regs->flags |= X86_EFLAGS_TF;
}

/* #DB is treated like an NMI. */
static unsigned int preempt_count_before_db(void)
{
	return preempt_count() - NMI_OFFSET - HARDIRQ_OFFSET;
}

static bool in_thread_before_db(void)
{
	return !in_serving_softirq() &&
	       !(preempt_count_before_db() & (HARDIRQ_MASK | NMI_MASK));
}

static bool is_insn(unsigned long ip, u8 second)
{
	const u8 *insn = (const u8 *)ip;

	return insn[0] == 0x0f && insn[1] == second;
}

static bool is_access(struct pt_regs *regs)
{
	return regs->cx == race.arm.msr &&
	       is_insn(regs->ip, race.arm.write ? 0x30 : 0x32);
}

/* XRSTORS with its REX prefix */
static bool is_restore(unsigned long ip)
{
	return *(const u8 *)ip == 0x48 && is_insn(ip + 1, 0xc7) &&
	       *(const u8 *)(ip + 3) == 0x1f;
}

static void learn(struct pt_regs *regs)
{
	struct cet_race_result *res = &race.result;
	bool irqs_on = regs->flags & X86_EFLAGS_IF;
	unsigned int nr = race.nr_steps;

	/* A softirq that comes with IRQs on again isn't part of the window. */
	if (!in_thread_before_db()) {
		race.state = DONE;
		goto out;
	}

	/* TF also traps between the iterations of a string instruction. */
	if (nr && steps[nr - 1].ip == regs->ip)
		return;

	if (nr == MAX_STEPS || user_mode(regs)) {
		race.state = DONE;
		goto out;
	}

	if (race.nr_same == nr && steps[nr].ip == regs->ip)
		race.nr_same++;
	steps[nr] = (struct step) { .ip = regs->ip, .irqs_on = irqs_on };
	race.nr_steps++;

	if (!race.begin) {
		if (race.arm.exit_reason == CET_RACE_NO_EXIT &&
		    !(nr && is_restore(steps[nr - 1].ip)))
			return;
		race.begin = nr ?: 1;
	}
	if (nr < race.begin)
		return;

	if (res->accessed && irqs_on) {
		res->nr_boundaries = race.nr_steps - race.begin;
		res->same = max(race.nr_same, race.begin) - race.begin;
		race.state = DONE;
		goto out;
	}

	if (is_access(regs)) {
		res->accessed = true;
		res->access_ip = regs->ip;
		res->access = nr - race.begin;
		while (nr > race.begin && !steps[nr].irqs_on && !steps[nr - 1].irqs_on)
			nr--;
		res->irqs_off = nr - race.begin;
	} else if (race.arm.twice && !res->first && irqs_on && !preempt_count_before_db()) {
		res->first = nr - race.begin;
		raise_interrupt(regs);
	}
	return;
out:
	hold_other_interrupts(false);
	regs->flags &= ~X86_EFLAGS_TF;
}

static void write_breakpoints(void)
{
	bool more = race.stop < race.nr_stops;

	set_debugreg(more ? race.stops[race.stop].ip : 0, 0);
	set_debugreg(race.result.accessed ? 0 : race.result.access_ip, 1);
}

static bool is_at(struct stop *stop, struct pt_regs *regs)
{
	if (stop->nth) {
		if (regs->ip != stop->ip || --stop->nth)
			return false;
	} else if (regs->ip != race.ip) {
		stop->steps--;
	}

	if (stop->steps)
		regs->flags |= X86_EFLAGS_TF;
	return !stop->steps;
}

static void watch(struct pt_regs *regs, bool step)
{
	struct cet_race_result *res = &race.result;
	bool irqs_on = regs->flags & X86_EFLAGS_IF;
	struct stop *stop = &race.stops[race.stop];

	/* A breakpoint is a fault: RF lets the instruction execute. */
	regs->flags |= X86_EFLAGS_RF;

	/* What leads into and out of the interrupt is not single-stepped. */
	if (!in_thread_before_db() || (race.stepping && !step))
		return;

	race.stepping = race.raised;
	if (race.raised)
		res->arrived_there = false;
	else
		regs->flags &= ~X86_EFLAGS_TF;

	if (!res->accessed && regs->ip == res->access_ip && is_access(regs)) {
		res->accessed = true;
		res->access_irqs_on = irqs_on;
		res->access_stale = test_thread_flag(TIF_NEED_FPU_LOAD);
	}

	if (race.stop < race.nr_stops && is_at(stop, regs)) {
		race.stop++;
		if (race.stop == race.nr_stops) {
			res->reached = true;
			res->irqs_on = irqs_on;
			res->bh_on = !softirq_count();
			res->preemptible = irqs_on &&
					   !preempt_count_before_db();
		}
		raise_interrupt(regs);
	}

	write_breakpoints();
}

static int debug_notify(struct notifier_block *nb, unsigned long val,
			void *data)
{
	struct die_args *args = data;

	if (val != DIE_DEBUG || current != race.target)
		return NOTIFY_DONE;

	switch (race.state) {
	case LEARNING:
		learn(args->regs);
		race.ip = args->regs->ip;
		return NOTIFY_STOP;
	case WATCHING:
		watch(args->regs, *(unsigned long *)args->err & DR_STEP);
		race.ip = args->regs->ip;
		return NOTIFY_STOP;
	default:
		if (!(args->regs->flags & X86_EFLAGS_TF))
			return NOTIFY_DONE;
		args->regs->flags &= ~X86_EFLAGS_TF;
		return NOTIFY_STOP;
	}
}

static struct notifier_block debug_notifier = {
	.notifier_call	= debug_notify,
};

static void begin_window(struct pt_regs *regs)
{
	hold_other_interrupts(true);
	race.nr_interrupts = nr_interrupts();
	if (race.arm.boundary == CET_RACE_LEARN) {
		race.state = LEARNING;
		regs->flags |= X86_EFLAGS_TF;
	} else {
		race.state = WATCHING;
		write_breakpoints();
		set_debugreg(DR7_FIXED_1 | DR7_BREAKPOINTS, 7);
	}
}

/*
 * The probes' handlers are called after the first instruction of the function:
 * TF and breakpoints would interfere with what a kprobe does to it.
 */
static void load_probe_post(struct kprobe *probe, struct pt_regs *regs,
			    unsigned long flags)
{
	struct fpu_guest *guest_fpu = (void *)regs->di;
	bool enter_guest = (u8)regs->si;

	fpstate_size = guest_fpu->fpstate->size;
	if (current == race.target && race.state == ARMED && enter_guest &&
	    race.arm.exit_reason == CET_RACE_NO_EXIT)
		begin_window(regs);
}

static struct kprobe load_probe = {
	.symbol_name	= "fpu_swap_kvm_fpstate",
	.post_handler	= load_probe_post,
};

/* IRQs have been off since before VM entry. */
static void exit_probe_post(struct kprobe *probe, struct pt_regs *regs,
			    unsigned long flags)
{
	unsigned long reason;

	if (current != race.target || race.state != ARMED ||
	    race.arm.exit_reason == CET_RACE_NO_EXIT)
		return;

	asm volatile("vmread %1, %0"
		     : "=r"(reason) : "r"((unsigned long)VM_EXIT_REASON) : "cc");
	if (reason == race.arm.exit_reason)
		begin_window(regs);
}

static struct kprobe exit_probe = {
	.symbol_name	= "vmx_handle_exit_irqoff",
	.post_handler	= exit_probe_post,
};

static struct kprobe *probes[] = { &load_probe, &exit_probe };

/* Breakpoints are of the thread, not of the CPU. */
static void sched_in(struct preempt_notifier *notifier, int cpu)
{
	if (race.state == WATCHING) {
		write_breakpoints();
		set_debugreg(DR7_FIXED_1 | DR7_BREAKPOINTS, 7);
	}
}

static void sched_out(struct preempt_notifier *notifier,
		      struct task_struct *next)
{
	struct cet_race_result *res = &race.result;

	/*
	 * An interrupt suspends single-stepping until it returns.  If the
	 * thread schedules by itself, TF is still set, and would be for the
	 * next thread.
	 */
	if (native_save_fl() & X86_EFLAGS_TF)
		race.state = DONE;
	/* KVM takes another path after that. */
	if (race.state == LEARNING && (!res->arrived || res->done))
		race.state = DONE;
	if (race.state == DONE)
		hold_other_interrupts(false);
	set_debugreg(DR7_FIXED_1, 7);
}

static struct preempt_ops preempt_ops = {
	.sched_in	= sched_in,
	.sched_out	= sched_out,
};

static struct preempt_notifier preempt_notifier;

/* The stop at @boundary, if the CPU was at step @from last */
static struct stop find_stop(unsigned int boundary, unsigned int from)
{
	unsigned int i, to = race.begin + boundary;
	unsigned int steps_back = min(race.arm.back, to - from);
	struct stop stop = { .steps = steps_back };

	to -= steps_back;
	stop.ip = steps[to].ip;
	for (i = from; i <= to; i++)
		stop.nth += steps[i].ip == stop.ip;
	return stop;
}

/* Called by the thread itself, or when it ends */
static void disarm(void)
{
	if (!race.target)
		return;

	if (race.state == WATCHING)
		race.result.disturbed = nr_interrupts() != race.nr_interrupts;
	race.state = DONE;
	set_debugreg(DR7_FIXED_1, 7);
	hold_other_interrupts(false);
	preempt_notifier_unregister(&preempt_notifier);
	race.target->thread.virtual_dr6 &= ~DR_TRAP0;
	irq_work_sync(&interrupt);
	put_task_struct(race.target);
	race.target = NULL;
}

static int arm(const struct cet_race_arm *arg)
{
	struct cet_race_result *res = &race.result;
	unsigned int from = 0;

	if (race.target)
		return -EBUSY;

	race.arm = *arg;
	race.nr_stops = 0;
	race.stop = 0;
	race.raised = false;
	race.stepping = false;

	if (arg->boundary == CET_RACE_LEARN) {
		memset(res, 0, sizeof(*res));
		race.nr_steps = 0;
		race.nr_same = 0;
		race.begin = 0;
	} else {
		if (arg->boundary >= res->nr_boundaries ||
		    (arg->twice && arg->boundary <= res->first))
			return -EINVAL;

		/* Keep what was learnt. */
		memset(&res->ip, 0, offsetof(typeof(*res), access_ip) -
				    offsetof(typeof(*res), ip));
		res->accessed = false;
		res->disturbed = false;

		if (arg->twice) {
			race.stops[race.nr_stops++] = find_stop(res->first, 0);
			from = race.begin + res->first + 1;
		}
		race.stops[race.nr_stops++] = find_stop(arg->boundary, from);
		res->ip = steps[race.begin + arg->boundary].ip;
	}

	reinit_completion(&wake);
	race.state = ARMED;
	race.target = get_task_struct(current);
	/* Perf's handler of #DB comes first: have it pass breakpoints on. */
	current->thread.virtual_dr6 |= DR_TRAP0;
	preempt_notifier_init(&preempt_notifier, &preempt_ops);
	preempt_notifier_register(&preempt_notifier);
	return 0;
}

static DEFINE_PER_CPU(struct hrtimer, storm_timer);
static DEFINE_PER_CPU(u64, nr_stormed);
static u64 storm_period;

static enum hrtimer_restart storm_func(struct hrtimer *timer)
{
	use_fpu();
	this_cpu_inc(nr_stormed);
	hrtimer_forward_now(timer, ns_to_ktime(storm_period));
	return HRTIMER_RESTART;
}

static void start_storm(void *unused)
{
	struct hrtimer *timer = this_cpu_ptr(&storm_timer);

	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_SOFT);
	timer->function = storm_func;
	hrtimer_start(timer, ns_to_ktime(storm_period),
		      HRTIMER_MODE_REL_PINNED_SOFT);
}

static void storm(u64 period)
{
	int cpu;

	if (storm_period)
		for_each_online_cpu(cpu)
			hrtimer_cancel(per_cpu_ptr(&storm_timer, cpu));

	storm_period = period;
	if (storm_period)
		on_each_cpu(start_storm, NULL, true);
}

static long race_ioctl(struct file *file, unsigned int cmd, unsigned long addr)
{
	void __user *uaddr = (void __user *)addr;
	struct cet_race_name name;
	struct cet_race_arm arg;
	u64 val = 0;
	int cpu;

	switch (cmd) {
	case CET_RACE_ARM:
		if (copy_from_user(&arg, uaddr, sizeof(arg)))
			return -EFAULT;
		return arm(&arg);
	case CET_RACE_RESULT:
		if (race.target != current)
			return -EINVAL;
		disarm();
		return copy_to_user(uaddr, &race.result, sizeof(race.result)) ?
		       -EFAULT : 0;
	case CET_RACE_NAME:
		if (copy_from_user(&name, uaddr, sizeof(name)))
			return -EFAULT;
		snprintf(name.name, sizeof(name.name), "%pS",
			 (void *)(unsigned long)name.ip);
		return copy_to_user(uaddr, &name, sizeof(name)) ? -EFAULT : 0;
	case CET_RACE_WAIT:
		/*
		 * The task comes from user space, where the registers had its
		 * own values, and the vCPU's thread is yet to be scheduled in.
		 */
		if (race.target && race.result.arrived)
			note_done();
		return wait_for_completion_interruptible(&wake);
	case CET_RACE_WAKE:
		complete(&wake);
		return 0;
	case CET_RACE_STORM:
		if (copy_from_user(&val, uaddr, sizeof(val)))
			return -EFAULT;
		storm(val);
		return 0;
	case CET_RACE_STORMED:
		for_each_possible_cpu(cpu)
			val += per_cpu(nr_stormed, cpu);
		return copy_to_user(uaddr, &val, sizeof(val)) ? -EFAULT : 0;
	case CET_RACE_FPSTATE:
		return put_user(fpstate_size, (u32 __user *)uaddr);
	default:
		return -ENOTTY;
	}
}

/* There is one race at a time. */
static int race_open(struct inode *inode, struct file *file)
{
	return test_and_set_bit(0, &in_use) ? -EBUSY : 0;
}

static int race_release(struct inode *inode, struct file *file)
{
	disarm();
	storm(0);
	clear_bit(0, &in_use);
	return 0;
}

static const struct file_operations race_fops = {
	.owner		= THIS_MODULE,
	.open		= race_open,
	.release	= race_release,
	.unlocked_ioctl	= race_ioctl,
};

static struct miscdevice race_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "cet_race",
	.fops	= &race_fops,
	.mode	= 0600,
};

static int create_thread(void)
{
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		return 0;

	thread = kthread_create_worker_on_cpu(0, 0, "cet_race");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	sched_set_fifo(thread->task);
	return 0;
}

static void destroy_thread(void)
{
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		kthread_destroy_worker(thread);
}

static int __init race_init(void)
{
	int err;

	steps = vzalloc(MAX_STEPS * sizeof(*steps));
	if (!steps)
		return -ENOMEM;

	err = create_thread();
	if (err)
		goto free;
	err = register_die_notifier(&debug_notifier);
	if (err)
		goto destroy;
	err = register_kprobes(probes, ARRAY_SIZE(probes));
	if (err)
		goto unregister_notifier;
	preempt_notifier_inc();
	err = misc_register(&race_device);
	if (err)
		goto unregister_probes;
	return 0;

unregister_probes:
	preempt_notifier_dec();
	unregister_kprobes(probes, ARRAY_SIZE(probes));
unregister_notifier:
	unregister_die_notifier(&debug_notifier);
destroy:
	destroy_thread();
free:
	vfree(steps);
	return err;
}
module_init(race_init);

static void __exit race_exit(void)
{
	misc_deregister(&race_device);
	preempt_notifier_dec();
	unregister_kprobes(probes, ARRAY_SIZE(probes));
	unregister_die_notifier(&debug_notifier);
	tasklet_kill(&softirq);
	destroy_thread();
	vfree(steps);
}
module_exit(race_exit);

MODULE_DESCRIPTION("Interrupts KVM between loading the guest's FPU and accessing an MSR");
MODULE_LICENSE("GPL");
