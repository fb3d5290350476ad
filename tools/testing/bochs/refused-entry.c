// SPDX-License-Identifier: GPL-2.0
/*
 * Makes KVM try a VM entry that the processor must refuse, for an LDT of a
 * wrong type, which KVM doesn't check.  For the machine's own tests, and for
 * KVM's dump of such a vCPU, which has CET state if KVM lets it.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static void set_cet(int kvm, int vcpu)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .header.nent = 256 };
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[2];
	} msrs = {
		.header.nmsrs = 2,
		.entries = {
			{ .index = 0x6a2, .data = 0x1234000 }, /* IA32_S_CET */
			{ .index = 0x6a8, .data = 0x3456000 }, /* IA32_INTERRUPT_SSP_TABLE_ADDR */
		},
	};
	__u64 ssp = 0x2345000;
	struct kvm_one_reg reg = { .id = 0x2030000300000000, .addr = (__u64)&ssp };

	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) || ioctl(vcpu, KVM_SET_CPUID2, &cpuid))
		err(1, "CPUID");
	ioctl(vcpu, KVM_SET_MSRS, &msrs);
	ioctl(vcpu, KVM_SET_ONE_REG, &reg);
}

int main(void)
{
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int kvm, vm, vcpu;

	kvm = open("/dev/kvm", O_RDWR);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "no vCPU");
	set_cet(kvm, vcpu);
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.ldt.present = 1;
	sregs.ldt.unusable = 0;
	sregs.ldt.type = 15;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_RUN, 0))
		err(1, "KVM_RUN");
	printf("exit reason %u, hardware entry failure reason %#llx\n", run->exit_reason,
	       run->fail_entry.hardware_entry_failure_reason);
	return run->exit_reason != KVM_EXIT_FAIL_ENTRY;
}
