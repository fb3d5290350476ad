// SPDX-License-Identifier: GPL-2.0
/*
 * Makes KVM try a VM entry that the processor must refuse: an LDT of a wrong
 * type is nothing that KVM checks.  For the machine's own tests.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

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
