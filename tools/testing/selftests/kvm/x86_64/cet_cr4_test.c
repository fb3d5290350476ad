// SPDX-License-Identifier: GPL-2.0
/*
 * CR4.CET: who may set it, and that it holds CR0.WP at 1.
 */
#include <errno.h>

#include "kvm_test_harness.h"
#include "cet.h"

FIXTURE(cr4)
{
	struct kvm_vcpu *vcpu;
	struct kvm_sregs sregs;
};

FIXTURE_VARIANT(cr4)
{
	bool shstk;
	bool ibt;
};

FIXTURE_VARIANT_ADD(cr4, both) { .shstk = true, .ibt = true };
FIXTURE_VARIANT_ADD(cr4, shstk_only) { .shstk = true };
FIXTURE_VARIANT_ADD(cr4, ibt_only) { .ibt = true };

FIXTURE_SETUP(cr4)
{
	vm_create_cet(&self->vcpu, variant->shstk, variant->ibt);
	vcpu_sregs_get(self->vcpu, &self->sregs);
}

FIXTURE_TEARDOWN(cr4)
{
	kvm_vm_free(self->vcpu->vm);
}

static uint64_t vcpu_get_cr4(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	return sregs.cr4;
}

TEST_F(cr4, guest_sets_and_clears_cet)
{
	const uint64_t cr4 = self->sregs.cr4;

	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(vcpu_get_cr4(self->vcpu), cr4 | X86_CR4_CET);
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, cr4), 0);
	TEST_ASSERT_EQ(vcpu_get_cr4(self->vcpu), cr4);
}

static void guest_toggle_cet(struct cet_call *call)
{
	call->vector = kvm_asm_safe("mov %[val], %%cr4",
				    [val]"r"(get_cr4() ^ X86_CR4_CET));
}

TEST_F(cr4, toggling_cet_costs_no_exit)
{
	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(cet_call_exits(self->vcpu, guest_toggle_cet, 0, 0), 0);
}

TEST_F(cr4, guest_sets_cet_without_wp)
{
	const uint64_t cr4 = self->sregs.cr4;

	/* The rest shows nothing if CR4.CET cannot be set at all. */
	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, cr4), 0);

	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, self->sregs.cr0 & ~X86_CR0_WP), 0);
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, cr4 | X86_CR4_CET), GP_VECTOR);
	/* CR4.VMXE makes KVM see the write whoever owns CR4.CET. */
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu,
				   cr4 | X86_CR4_CET | X86_CR4_VMXE),
		       GP_VECTOR);
	TEST_ASSERT_EQ(vcpu_get_cr4(self->vcpu), cr4);
}

TEST_F(cr4, guest_clears_wp_with_cet)
{
	const uint64_t cr0 = self->sregs.cr0;
	struct kvm_sregs sregs;

	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, cr0 & ~X86_CR0_WP), GP_VECTOR);
	/* The CPU leaves CR0.CD to KVM, and CR0.WP perhaps not. */
	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, (cr0 & ~X86_CR0_WP) ^ X86_CR0_CD),
		       GP_VECTOR);

	vcpu_sregs_get(self->vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr0, cr0);

	/* WP goes once CET has gone. */
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, self->sregs.cr4), 0);
	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, cr0 & ~X86_CR0_WP), 0);
}

static void expect_sregs_refused(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)
{
	struct kvm_sregs before, after;

	vcpu_sregs_get(vcpu, &before);
	TEST_ASSERT(_vcpu_sregs_set(vcpu, sregs) == -1 && errno == EINVAL,
		    "KVM_SET_SREGS accepted CR0 = 0x%llx, CR4 = 0x%llx",
		    sregs->cr0, sregs->cr4);
	vcpu_sregs_get(vcpu, &after);
	TEST_ASSERT_EQ(after.cr0, before.cr0);
	TEST_ASSERT_EQ(after.cr4, before.cr4);
}

TEST_F(cr4, set_sregs)
{
	struct kvm_sregs sregs = self->sregs;

	sregs.cr4 |= X86_CR4_CET;
	TEST_ASSERT(!_vcpu_sregs_set(self->vcpu, &sregs),
		    "KVM_SET_SREGS refused CR4.CET");
	TEST_ASSERT_EQ(vcpu_get_cr4(self->vcpu), sregs.cr4);

	sregs.cr0 &= ~X86_CR0_WP;
	expect_sregs_refused(self->vcpu, &sregs);
}

TEST_F(cr4, set_sregs2)
{
	struct kvm_sregs2 sregs;

	vcpu_ioctl(self->vcpu, KVM_GET_SREGS2, &sregs);
	sregs.cr4 |= X86_CR4_CET;
	TEST_ASSERT(!__vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs),
		    "KVM_SET_SREGS2 refused CR4.CET");

	sregs.cr0 &= ~X86_CR0_WP;
	TEST_ASSERT(__vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs) == -1 &&
		    errno == EINVAL,
		    "KVM_SET_SREGS2 accepted CR4.CET without CR0.WP");
}

TEST_F(cr4, sync_sregs)
{
	struct kvm_run *run = self->vcpu->run;

	run->kvm_valid_regs = KVM_SYNC_X86_SREGS;
	cet_enable(self->vcpu);

	run->s.regs.sregs.cr0 &= ~X86_CR0_WP;
	run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
	TEST_ASSERT(__vcpu_run(self->vcpu) == -1 && errno == EINVAL,
		    "KVM_RUN accepted CR4.CET without CR0.WP");
}

/*
 * LMSW and CLTS write other bits of CR0, and don't mind.  It takes CR0.MP for
 * KVM to see the LMSW.
 */
static void guest_lmsw_clts(struct cet_call *call)
{
	/* In one go: what the compiler adds may want CR0.TS clear. */
	asm volatile("lmsw %w2\n\t"
		     "mov %%cr0, %0\n\t"
		     "clts\n\t"
		     "mov %%cr0, %1"
		     : "=&r"(call->arg[0]), "=&r"(call->arg[1])
		     : "r"((get_cr0() & 0xf) ^ (X86_CR0_MP | X86_CR0_TS)));
}

TEST_F(cr4, lmsw_and_clts_keep_wp)
{
	const uint64_t mask = X86_CR0_WP | X86_CR0_TS | X86_CR0_MP;
	struct cet_call *call;

	TEST_ASSERT_EQ(self->sregs.cr0 & mask, X86_CR0_WP);
	cet_enable(self->vcpu);
	call = cet_call(self->vcpu, guest_lmsw_clts, 0, 0);
	TEST_ASSERT_EQ(call->arg[0] & mask, mask);
	TEST_ASSERT_EQ(call->arg[1] & mask, X86_CR0_WP | X86_CR0_MP);
}

KVM_ONE_VCPU_TEST_SUITE(cr4_cet);

KVM_ONE_VCPU_TEST(cr4_cet, refused_without_features, NULL)
{
	struct kvm_sregs sregs;

	vcpu_init_cet(vcpu, false, false);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_CET;

	expect_sregs_refused(vcpu, &sregs);
	TEST_ASSERT_EQ(cet_mov_cr4(vcpu, sregs.cr4), GP_VECTOR);
}

/* A new vCPU has no feature, whatever KVM supports. */
KVM_ONE_VCPU_TEST(cr4_cet, refused_before_cpuid, NULL)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct kvm_vcpu *fresh = __vm_vcpu_add(vm, 0);
	struct kvm_sregs sregs;

	vcpu_sregs_get(fresh, &sregs);
	sregs.cr0 |= X86_CR0_WP;
	TEST_ASSERT(!_vcpu_sregs_set(fresh, &sregs),
		    "KVM_SET_SREGS refused CR0.WP");

	sregs.cr4 |= X86_CR4_CET;
	expect_sregs_refused(fresh, &sregs);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
