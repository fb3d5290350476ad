// SPDX-License-Identifier: GPL-2.0
/*
 * Registers of a vCPU that user space accesses one by one: all MSRs, and those
 * registers that no other ioctl gives access to.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/uaccess.h>

#include "cet.h"
#include "one_reg.h"
#include "x86.h"

/* What all IDs begin with: architecture, size, and zeroes. */
#define ONE_REG_ID_FIXED	(KVM_REG_X86 | KVM_REG_SIZE_U64)
#define ONE_REG_ID_TYPE		GENMASK_ULL(39, 32)
#define ONE_REG_ID_INDEX	GENMASK_ULL(31, 0)

/*
 * SSP is the only register that is neither an MSR nor in another structure.  It
 * can also be accessed if KVM has hidden shadow stacks that the VMM asked for.
 */
static bool kvm_one_reg_exists(struct kvm_vcpu *vcpu, u64 id)
{
	if ((id & ~(ONE_REG_ID_TYPE | ONE_REG_ID_INDEX)) != ONE_REG_ID_FIXED)
		return false;

	if (FIELD_GET(ONE_REG_ID_TYPE, id) == KVM_X86_REG_TYPE_MSR)
		return true;

	return id == KVM_X86_REG_KVM(KVM_REG_GUEST_SSP) &&
	       (guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK) ||
		kvm_can_hide_shstk(vcpu));
}

static int kvm_one_reg_ssp(struct kvm_vcpu *vcpu, u64 *val, bool write)
{
	/* Like an MSR that KVM supports and the vCPU lacks, SSP is 0. */
	if (!guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK)) {
		if (write && *val)
			return -EINVAL;

		*val = 0;
		return 0;
	}

	if (!write) {
		*val = kvm_x86_call(get_ssp)(vcpu);
		return 0;
	}

	if (!kvm_is_valid_ssp(*val))
		return -EINVAL;

	kvm_x86_call(set_ssp)(vcpu, *val);
	return 0;
}

static int kvm_one_reg_msr(struct kvm_vcpu *vcpu, u32 index, u64 *val, bool write)
{
	int r;

	kvm_vcpu_srcu_read_lock(vcpu);
	r = kvm_msr_io_one(vcpu, index, val, write);
	kvm_vcpu_srcu_read_unlock(vcpu);

	return r;
}

int kvm_get_set_one_reg(struct kvm_vcpu *vcpu,
			const struct kvm_one_reg __user *ureg, bool write)
{
	struct kvm_one_reg reg;
	u64 __user *uval;
	u64 val = 0;
	int r;

	if (copy_from_user(&reg, ureg, sizeof(reg)))
		return -EFAULT;

	if (!kvm_one_reg_exists(vcpu, reg.id))
		return -EINVAL;

	uval = u64_to_user_ptr(reg.addr);
	if (write && get_user(val, uval))
		return -EFAULT;

	if (FIELD_GET(ONE_REG_ID_TYPE, reg.id) == KVM_X86_REG_TYPE_MSR)
		r = kvm_one_reg_msr(vcpu, FIELD_GET(ONE_REG_ID_INDEX, reg.id),
				    &val, write);
	else
		r = kvm_one_reg_ssp(vcpu, &val, write);
	if (r)
		return r;

	if (!write && put_user(val, uval))
		return -EFAULT;

	return 0;
}

int kvm_get_reg_list(struct kvm_vcpu *vcpu, struct kvm_reg_list __user *ulist)
{
	u64 n = guest_cpu_cap_has(vcpu, X86_FEATURE_SHSTK) ? 1 : 0;
	u64 user_n;

	if (get_user(user_n, &ulist->n) || put_user(n, &ulist->n))
		return -EFAULT;

	if (user_n < n)
		return -E2BIG;

	if (n && put_user(KVM_X86_REG_KVM(KVM_REG_GUEST_SSP), &ulist->reg[0]))
		return -EFAULT;

	return 0;
}
