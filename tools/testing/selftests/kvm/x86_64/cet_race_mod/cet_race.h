/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What cet_race_mod offers to tests: interrupt a KVM ioctl between any two of
 * the instructions that lead to its access of an XSAVE-managed MSR.
 *
 * A boundary is the place before an instruction.  The boundaries of a window
 * are counted in the order in which the CPU gets to them.  The first one, 0, is
 * where the guest's FPU has just been loaded or a VM exit is about to be
 * handled; the last one is the first after the access at which IRQs are on.
 */
#ifndef CET_RACE_H
#define CET_RACE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CET_RACE_DEVICE		"/dev/cet_race"

/* What the interrupt is for. */
enum {
	/* A softirq, with PREEMPT_RT a thread, that uses the FPU */
	CET_RACE_SOFTIRQ,
	/* Waking up the task that is in CET_RACE_WAIT */
	CET_RACE_TASK,
};

/* What the softirq or thread leaves in the MSRs, as any user of the FPU may */
#define CET_RACE_POISON		0x5a5a5000

/* cet_race_arm.exit_reason: the window begins where the FPU is loaded. */
#define CET_RACE_NO_EXIT	(-1)
/* cet_race_arm.boundary: learn the boundaries. */
#define CET_RACE_LEARN		(-1)

struct cet_race_arm {
	/* The access with which the window ends */
	__u32 msr;
	__u32 write;
	/* The VM exit with which it begins */
	__s32 exit_reason;
	__u32 interrupt;
	/* Interrupt at the first preemptible boundary as well, before that. */
	__u32 twice;
	__s32 boundary;
	/* Set the breakpoint so many boundaries earlier, and single-step. */
	__u32 back;
};

struct cet_race_result {
	/* The window as it was learnt */
	__u32 nr_boundaries;
	/* The boundary before the access, 0 if there was no access */
	__u32 access;
	/* The first one with IRQs off from there to the access */
	__u32 irqs_off;
	/* So many boundaries are the same as in the window learnt before. */
	__u32 same;
	/* The boundary of the first interrupt with 'twice' */
	__u32 first;

	/* The boundary that CET_RACE_ARM asked for */
	__u64 ip;
	__u8 reached;
	__u8 irqs_on;
	__u8 bh_on;
	__u8 preemptible;

	/* Its interrupt, which came right there or later */
	__u64 arrived_ip;
	__u8 arrived;
	__u8 arrived_there;

	/* Is what the interrupt was for done, and was it before the access? */
	__u8 done;
	__u8 done_before;
	/* The value that was in the MSR then */
	__u64 left;

	/* The access: were IRQs on, and the registers not the guest's? */
	__u64 access_ip;
	__u8 accessed;
	__u8 access_irqs_on;
	__u8 access_stale;

	/* Other interrupts came, too: it may have been elsewhere. */
	__u8 disturbed;
};

struct cet_race_name {
	__u64 ip;
	char name[64];
};

/* Watch the window of the calling thread's next KVM ioctl; get the result. */
#define CET_RACE_ARM		_IOW('c', 0, struct cet_race_arm)
#define CET_RACE_RESULT		_IOR('c', 1, struct cet_race_result)
/* The kernel's name of an address */
#define CET_RACE_NAME		_IOWR('c', 2, struct cet_race_name)
/* Sleep until the interrupt comes, or CET_RACE_WAKE. */
#define CET_RACE_WAIT		_IO('c', 3)
#define CET_RACE_WAKE		_IO('c', 4)
/* Use the FPU in a softirq on each CPU every so many ns; 0 ends it. */
#define CET_RACE_STORM		_IOW('c', 5, __u64)
/* How often that was done */
#define CET_RACE_STORMED	_IOR('c', 6, __u64)
/* Bytes of the FPU state of the guest that was the last to have it loaded */
#define CET_RACE_FPSTATE	_IOR('c', 7, __u32)

#endif /* CET_RACE_H */
