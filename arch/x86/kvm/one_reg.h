/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_X86_ONE_REG_H
#define __KVM_X86_ONE_REG_H

#include <linux/kvm_host.h>

/**
 * kvm_vcpu_ioctl_one_reg - KVM_GET_ONE_REG and KVM_SET_ONE_REG
 * @vcpu:	the vCPU, loaded
 * @ureg:	ID and address of the value in user space
 * @write:	true for KVM_SET_ONE_REG
 *
 * Return: 0, -EFAULT if user memory can't be accessed, -EINVAL if there is no
 * such register, or it can't have the value, neither of which changes it.
 */
int kvm_vcpu_ioctl_one_reg(struct kvm_vcpu *vcpu,
			   const struct kvm_one_reg __user *ureg, bool write);

/**
 * kvm_vcpu_ioctl_get_reg_list - KVM_GET_REG_LIST
 * @vcpu:	the vCPU, loaded
 * @ulist:	list in user space
 *
 * MSRs are left to KVM_GET_MSR_INDEX_LIST.
 *
 * Return: 0, -E2BIG if the list is too short, in which case its @n tells how
 * long it has to be, -EFAULT if user memory can't be accessed.
 */
int kvm_vcpu_ioctl_get_reg_list(struct kvm_vcpu *vcpu,
				struct kvm_reg_list __user *ulist);

#endif /* __KVM_X86_ONE_REG_H */
