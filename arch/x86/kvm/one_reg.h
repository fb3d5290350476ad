/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_ONE_REG_H
#define __KVM_X86_ONE_REG_H

#include <linux/kvm_host.h>

/*
 * KVM_GET_ONE_REG and KVM_SET_ONE_REG.  The vCPU is loaded.  Return 0, -EINVAL
 * if there is no such register or it can't have the value, -EFAULT if user
 * memory can't be accessed.  A failure changes nothing.
 */
int kvm_get_set_one_reg(struct kvm_vcpu *vcpu,
			const struct kvm_one_reg __user *ureg, bool write);

/*
 * KVM_GET_REG_LIST.  MSRs are left to KVM_GET_MSR_INDEX_LIST.  The vCPU is
 * loaded.  Return 0, -E2BIG if the list is too short, in which case its n says
 * how long it has to be, -EFAULT if user memory can't be accessed.
 */
int kvm_get_reg_list(struct kvm_vcpu *vcpu, struct kvm_reg_list __user *ulist);

#endif /* __KVM_X86_ONE_REG_H */
