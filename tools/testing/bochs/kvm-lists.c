// SPDX-License-Identifier: GPL-2.0
/*
 * Prints what KVM supports, as user space asks /dev/kvm for it: a line for each
 * entry of CPUID, for each MSR to be saved, and for each feature MSR with its
 * value.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>

/* What VMMs make do with, e.g. those on top of kvm-bindings */
#define NR_CPUID	80
#define NR_MSRS		1000

static void print_cpuid(int kvm, unsigned long cmd, const char *what)
{
	static struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[NR_CPUID];
	} cpuid;
	const struct kvm_cpuid_entry2 *e;

	cpuid.header.nent = NR_CPUID;
	if (ioctl(kvm, cmd, &cpuid))
		err(1, "%s does not fit into %d entries", what, NR_CPUID);
	for (e = cpuid.entries; e < cpuid.entries + cpuid.header.nent; e++)
		printf("%s %x.%x: flags %x, %08x %08x %08x %08x\n", what,
		       e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx);
}

static void print_msrs(int kvm, unsigned long cmd, const char *what, int values)
{
	static struct {
		struct kvm_msr_list header;
		__u32 indices[NR_MSRS];
	} list;
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} get = { .header.nmsrs = 1 };

	list.header.nmsrs = NR_MSRS;
	if (ioctl(kvm, cmd, &list))
		err(1, "%s", what);
	for (__u32 i = 0; i < list.header.nmsrs; i++) {
		printf("%s %x", what, list.indices[i]);
		get.entry.index = list.indices[i];
		if (values && ioctl(kvm, KVM_GET_MSRS, &get) != 1)
			printf(": none");
		else if (values)
			printf(": %016llx", get.entry.data);
		printf("\n");
	}
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR);

	if (kvm < 0)
		err(1, "/dev/kvm");
	print_cpuid(kvm, KVM_GET_SUPPORTED_CPUID, "cpuid");
	print_cpuid(kvm, KVM_GET_EMULATED_CPUID, "emulated");
	print_msrs(kvm, KVM_GET_MSR_INDEX_LIST, "msr", 0);
	print_msrs(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, "feature", 1);
	return 0;
}
