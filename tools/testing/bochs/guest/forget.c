// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded into QEMU, makes it forget a part of its guests' state.  FORGET in
 * the environment names the MSR, or the register, that never gets to KVM.
 */
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned long long forgotten(void)
{
	return strtoull(getenv("FORGET") ?: "0", NULL, 0);
}

static void tell(void)
{
	static int told;

	if (!told++)
		fprintf(stderr, "forgotten: 0x%llx\n", forgotten());
}

static int set_msrs(int fd, const struct kvm_msrs *from)
{
	size_t size = sizeof(*from) + from->nmsrs * sizeof(from->entries[0]);
	struct kvm_msrs *msrs = malloc(size);
	int dropped = 0, ret;
	unsigned int i;

	if (!msrs)
		abort();
	memcpy(msrs, from, size);
	for (i = msrs->nmsrs = 0; i < from->nmsrs; i++) {
		if (from->entries[i].index != forgotten())
			msrs->entries[msrs->nmsrs++] = from->entries[i];
		else
			dropped++;
	}
	if (dropped)
		tell();
	ret = syscall(SYS_ioctl, fd, KVM_SET_MSRS, msrs);
	free(msrs);
	return ret < 0 ? ret : ret + dropped;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);

	if (request == KVM_SET_MSRS)
		return set_msrs(fd, arg);
	if (request == KVM_SET_ONE_REG && ((struct kvm_one_reg *)arg)->id == forgotten()) {
		tell();
		return 0;
	}
	return syscall(SYS_ioctl, fd, request, arg);
}
