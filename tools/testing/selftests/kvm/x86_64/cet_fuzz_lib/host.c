// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's operations on what surrounds a vCPU's state: memory slots, the MSR
 * filter, the host's CPUs, and VM entries that fail.
 */
#include <fcntl.h>
#include <sched.h>

#include <linux/bitmap.h>

#include "cet_fuzz.h"

/* The guest's own code is in it, its stacks, page tables and L1's VMCS. */
#define SLOT			0

static void set_slot(struct kvm_vm *vm, uint32_t flags, uint64_t size)
{
	struct kvm_userspace_memory_region2 *region = &memslot2region(vm, SLOT)->region;

	vm_set_user_memory_region(vm, SLOT, flags, region->guest_phys_addr, size,
				  (void *)region->userspace_addr);
	region->flags = size ? flags : 0;
}

/* Guests don't notice when their memory is logged, or goes and comes back. */
static void op_memory(struct fuzz_vcpu *v)
{
	struct kvm_vm *vm = v->vcpu->vm;
	struct kvm_userspace_memory_region2 *region = &memslot2region(vm, SLOT)->region;
	uint64_t size = region->memory_size;
	uint32_t flags = region->flags;
	unsigned long *bitmap;
	int what = fuzz_below(3);

	fuzz_record(v, "memory slot: dirty log, its end, or a new one", what, flags);
	switch (what) {
	case 0:
		set_slot(vm, KVM_MEM_LOG_DIRTY_PAGES, size);
		break;
	case 1:
		if (flags) {
			bitmap = bitmap_zalloc(size / vm->page_size);
			kvm_vm_get_dirty_log(vm, SLOT, bitmap);
			free(bitmap);
		}
		set_slot(vm, 0, size);
		break;
	case 2:
		set_slot(vm, 0, 0);
		set_slot(vm, flags, size);
		break;
	}
	fuzz_check(v);
}

/* User space takes MSRs from the guests of the VM. */
static void op_filter(struct fuzz_vcpu *v)
{
	/* The guest's own code needs these two. */
	const uint32_t can = GENMASK(CET_NR_MSRS, 0) & ~(BIT(S_CET) | BIT(PL0_SSP));
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	struct kvm_msr_filter_range *range = filter.ranges;
	struct nested_op *n = &v->box->nested;
	/* As much as KVM reads for one MSR */
	static unsigned long none;
	int i;

	for (i = 0; i < ARRAY_SIZE(model_filter); i++)
		model_filter[i] = fuzz_below(2) ? fuzz_random() & can : 0;
	/* To fail at it during VM exit would be the end of the VM. */
	for (i = 0; v->model.in_l2 && n->nr_msrs && i < CET_NR_MSRS; i++) {
		if (cet_msrs[i] == n->msr.index)
			model_filter[1] &= ~BIT(i);
	}

	for (i = 0; i <= CET_NR_MSRS; i++) {
		range->flags = (model_filter[0] & BIT(i) ? KVM_MSR_FILTER_READ : 0) |
			       (model_filter[1] & BIT(i) ? KVM_MSR_FILTER_WRITE : 0);
		if (!range->flags)
			continue;
		range->base = i == CET_NR_MSRS ? MSR_IA32_XSS : cet_msrs[i];
		range->nmsrs = 1;
		range->bitmap = (uint8_t *)&none;
		range++;
	}
	fuzz_record(v, "KVM_X86_SET_MSR_FILTER: reading, writing", model_filter[0],
		    model_filter[1]);
	vm_ioctl(v->vcpu->vm, KVM_X86_SET_MSR_FILTER, &filter);
	fuzz_check(v);
}

static void op_cpu(struct fuzz_vcpu *v)
{
	uint64_t cpu = fuzz_below(8);
	cpu_set_t cpus;

	/* What other CPUs there are, and whether they are online, is not known. */
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	fuzz_record(v, "to CPU", cpu, 0);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	fuzz_check(v);
}

/*
 * A code segment that is both of 64 and of 32 bits: KVM takes it, the CPU
 * doesn't.  Nothing changes, and user space may do anything before it repairs
 * that.
 */
static void op_fail_entry(struct fuzz_vcpu *v)
{
	struct kvm_run *run = v->vcpu->run;
	struct kvm_sregs2 sregs;
	int i;

	if (!v->model.lm || !model_valid_crs(&v->model, v->model.cr0, v->model.cr4) ||
	    !fuzz_can_run(v))
		return;

	fuzz_record(v, "VM entry fails", 0, 0);
	vcpu_ioctl(v->vcpu, KVM_GET_SREGS2, &sregs);
	sregs.cs.db = 1;
	vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &sregs);
	vcpu_run(v->vcpu);
	v->model.has_run = true;
	fuzz_see("exit reason", run->exit_reason);
	FUZZ_ASSERT(run->exit_reason == KVM_EXIT_FAIL_ENTRY,
		    "CS with L and D: exit reason %u (%s)", run->exit_reason,
		    exit_reason_str(run->exit_reason));
	fuzz_check(v);

	for (i = fuzz_below(4); i; i--)
		fuzz_ioctl(v);
	vcpu_ioctl(v->vcpu, KVM_GET_SREGS2, &sregs);
	sregs.cs.db = 0;
	vcpu_ioctl(v->vcpu, KVM_SET_SREGS2, &sregs);
	fuzz_check(v);
}

void fuzz_host(struct fuzz_vcpu *v)
{
	static void (*const ops[])(struct fuzz_vcpu *v) = {
		op_memory, op_filter, op_filter, op_cpu, op_fail_entry,
	};

	fuzz_pick(ops)(v);
}

void fuzz_host_in_l2(struct fuzz_vcpu *v)
{
	static void (*const ops[])(struct fuzz_vcpu *v) = {
		op_memory, op_filter, op_filter, op_cpu,
	};

	fuzz_pick(ops)(v);
}

/* Every so many ticks of the thread that disturbs */
#define DISTURB_TICKS		256

void fuzz_disturb(uint64_t tick)
{
	static const struct {
		const char *file, *text;
	} what[] = {
		{ "/sys/power/state", "mem" },
		{ "/sys/devices/system/cpu/cpu1/online", "0" },
		{ "/sys/devices/system/cpu/cpu1/online", "1" },
	};
	int i = tick / DISTURB_TICKS % ARRAY_SIZE(what), fd;

	if (tick % DISTURB_TICKS)
		return;
	fd = open(what[i].file, O_WRONLY);
	if (fd < 0)
		return;
	if (write(fd, what[i].text, strlen(what[i].text)) > 0)
		fuzz_nr_disturbed++;
	close(fd);
}
