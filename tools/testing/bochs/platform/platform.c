// SPDX-License-Identifier: GPL-2.0
/*
 * What firmware does to the host's CET state, for a machine that has none:
 *
 * - Suspend to RAM, by "echo mem >/sys/power/state".  The machine wakes up at
 *   once, with the boot CPU's CET and XSAVE state as after a reset.
 *
 * - With parameter firmware_us, each CPU is in calls of EFI runtime services
 *   most of the time, so many microseconds each.  They have no ENDBR64, and
 *   are called with preemption off, ENDBR_EN clear, and IRQs on.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include <linux/suspend.h>

#include <asm/fpu/types.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>

/* 6.12 has the old names. */
#ifndef rdmsrq
#define rdmsrq	rdmsrl
#define wrmsrq	wrmsrl
#endif

static unsigned int firmware_us;
module_param(firmware_us, uint, 0444);

static atomic_t firmware_calls;

/* Sealed for IBT, and not exported: only direct calls get there. */
DEFINE_STATIC_CALL_NULL(save, save_processor_state);
DEFINE_STATIC_CALL_NULL(restore, restore_processor_state);

static void *find(const char *name)
{
	struct kprobe probe = { .symbol_name = name };

	if (register_kprobe(&probe))
		return NULL;
	unregister_kprobe(&probe);
	return probe.addr;
}

/* Not by native_write_cr4(), which has the kernel's bits pinned. */
static void write_cr4(unsigned long cr4)
{
	asm volatile("mov %0, %%cr4" : : "r"(cr4) : "memory");
}

/* save_processor_state() has put the FPU's registers into memory. */
static void reset_cpu(void)
{
	u32 msr;

	write_cr4(__read_cr4() & ~X86_CR4_CET);
	wrmsrq(MSR_IA32_S_CET, 0);
	wrmsrq(MSR_IA32_U_CET, 0);
	for (msr = MSR_IA32_PL0_SSP; msr <= MSR_IA32_INT_SSP_TAB; msr++)
		wrmsrq(msr, 0);
	wrmsrq(MSR_IA32_XSS, 0);
	xsetbv(XCR_XFEATURE_ENABLED_MASK, XFEATURE_MASK_FP);
}

static int platform_enter(suspend_state_t state)
{
	u64 before, after;

	/* KVM has to have left VMX operation, as on any way into firmware. */
	WARN_ON(__read_cr4() & X86_CR4_VMXE);

	rdmsrq(MSR_IA32_S_CET, before);
	static_call_cond(save)();
	reset_cpu();
	static_call_cond(restore)();
	rdmsrq(MSR_IA32_S_CET, after);

	pr_info("IA32_S_CET was %llx, is %llx\n", before, after);
	return 0;
}

static const struct platform_suspend_ops platform_ops = {
	.valid	= suspend_valid_only_mem,
	.enter	= platform_enter,
};

static int call_firmware(void *unused)
{
	u64 s_cet;

	while (!kthread_should_stop()) {
		preempt_disable();
		rdmsrq(MSR_IA32_S_CET, s_cet);
		wrmsrq(MSR_IA32_S_CET, s_cet & ~CET_ENDBR_EN);
		udelay(firmware_us);
		wrmsrq(MSR_IA32_S_CET, s_cet);
		preempt_enable();

		atomic_inc(&firmware_calls);
		usleep_range(firmware_us / 4, firmware_us / 2);
	}

	return 0;
}

static struct task_struct *threads[NR_CPUS];

static void stop_threads(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		if (!IS_ERR_OR_NULL(threads[cpu]))
			kthread_stop(threads[cpu]);
	}

	if (firmware_us)
		pr_info("%d calls of firmware\n", atomic_read(&firmware_calls));
}

static int start_threads(void)
{
	int cpu;

	for_each_online_cpu(cpu) {
		threads[cpu] = kthread_run_on_cpu(call_firmware, NULL, cpu,
						  "firmware/%u");
		if (IS_ERR(threads[cpu]))
			return PTR_ERR(threads[cpu]);
	}

	return 0;
}

static int __init platform_init(void)
{
	void *save_state = find("save_processor_state");
	void *restore_state = find("restore_processor_state");
	int err = 0;

	if (!save_state || !restore_state)
		return -ENOENT;
	static_call_update(save, save_state);
	static_call_update(restore, restore_state);

	if (firmware_us) {
		cpus_read_lock();
		err = start_threads();
		cpus_read_unlock();
	}
	if (err)
		stop_threads();
	else
		suspend_set_ops(&platform_ops);
	return err;
}
module_init(platform_init);

static void __exit platform_exit(void)
{
	suspend_set_ops(NULL);
	stop_threads();
}
module_exit(platform_exit);

MODULE_DESCRIPTION("Firmware of the CET machine: suspend to RAM, EFI runtime calls");
MODULE_LICENSE("GPL");
