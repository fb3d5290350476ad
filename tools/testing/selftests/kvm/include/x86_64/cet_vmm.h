/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An example for VMMs: how to save and restore the CET state of a vCPU, and the
 * state that it depends on.  It needs nothing but <linux/kvm.h>.  It is
 * independent of the selftest library, and can be copied as it is.
 * Documentation/virt/kvm/x86/cet-migration.rst has the reasons.
 *
 * All functions return 0 or a negative errno.
 */
#ifndef SELFTEST_KVM_CET_VMM_H
#define SELFTEST_KVM_CET_VMM_H

#include <stdbool.h>
#include <linux/kvm.h>

/* More than any KVM accepts (KVM_MAX_CPUID_ENTRIES) is never needed. */
#define CET_VMM_NR_CPUID	256
#define CET_VMM_NR_MSRS		8

/* A list that follows its header, as the ioctls want it. */
struct cet_vmm_cpuid {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[CET_VMM_NR_CPUID];
};

struct cet_vmm_msrs {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[CET_VMM_NR_MSRS];
};

struct cet_vmm_state {
	struct cet_vmm_cpuid cpuid;
	struct kvm_sregs sregs;		/* CR4.CET, and CR0.WP, which it needs */
	struct kvm_xcrs xcrs;
	struct kvm_xsave xsave;		/* user state only, no CET */
	struct cet_vmm_msrs msrs;	/* IA32_XSS, and those of CET */
	bool has_ssp;
	__u64 ssp;
};

/*
 * Save the state of a vCPU that is not in KVM_RUN, and has no I/O left to
 * complete (KVM_RUN with immediate_exit set does that).
 */
int cet_vmm_save(int vcpu_fd, struct cet_vmm_state *state);

/*
 * Whether KVM, on the host of @kvm_fd (/dev/kvm), has what the vCPU has used:
 * -EOPNOTSUPP if not.  Call this first: KVM_SET_CPUID2 accepts CPUID bits that
 * KVM does not support, and the vCPU has no CET then.
 */
int cet_vmm_check(int kvm_fd, const struct cet_vmm_state *state);

/* Restore all of it to a fresh vCPU.  These are its steps, in their order: */
int cet_vmm_restore(int vcpu_fd, struct cet_vmm_state *state);

int cet_vmm_set_cpuid(int vcpu_fd, struct cet_vmm_state *state);
int cet_vmm_set_sregs(int vcpu_fd, struct cet_vmm_state *state);
int cet_vmm_set_fpu(int vcpu_fd, struct cet_vmm_state *state);
int cet_vmm_set_msrs(int vcpu_fd, struct cet_vmm_state *state);
int cet_vmm_set_ssp(int vcpu_fd, struct cet_vmm_state *state);

#endif /* SELFTEST_KVM_CET_VMM_H */
