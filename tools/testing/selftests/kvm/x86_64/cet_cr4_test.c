// SPDX-License-Identifier: GPL-2.0
/*
 * CR4.CET: which vCPUs may set it, and that it keeps CR0.WP from being cleared.
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

	/* The rest shows nothing unless CR4.CET can be set. */
	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, cr4), 0);

	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, self->sregs.cr0 & ~X86_CR0_WP), 0);
	TEST_ASSERT_EQ(cet_mov_cr4(self->vcpu, cr4 | X86_CR4_CET), GP_VECTOR);
	/* KVM intercepts changes of CR4.VMXE, whoever owns CR4.CET. */
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
	/* KVM intercepts changes of CR0.CD, but perhaps not of CR0.WP. */
	TEST_ASSERT_EQ(cet_mov_cr0(self->vcpu, (cr0 & ~X86_CR0_WP) ^ X86_CR0_CD),
		       GP_VECTOR);

	vcpu_sregs_get(self->vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr0, cr0);

	/* Without CR4.CET, WP can be cleared. */
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
 * LMSW and CLTS write other bits of CR0, and still work.  The LMSW changes
 * CR0.MP, for KVM to intercept it.
 */
static void guest_lmsw_clts(struct cet_call *call)
{
	/* One statement, as the compiler may use the FPU in between. */
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

/* VM-instruction error */
#define INVALID_HOST_STATE	8

static struct vmx_pages *vmx;	/* guest data */

static void l2_vmcall(void)
{
	vmcall();
}

/* L1: launch L2 with CR4.CET; returns the outcome. */
static uint64_t l1_launch(uint64_t cr0_field, uint64_t cr4_field, bool wp)
{
	uint64_t cr0;

	GUEST_ASSERT(load_vmcs(vmx));
	guest_prepare_l2_vmcs(vmx, l2_vmcall);
	cr0 = vmreadz(cr0_field);
	vmwrite(cr0_field, wp ? cr0 | X86_CR0_WP : cr0 & ~X86_CR0_WP);
	vmwrite(cr4_field, vmreadz(cr4_field) | X86_CR4_CET);
	return vmlaunch() ? vmreadz(VM_INSTRUCTION_ERROR) :
			    vmreadz(VM_EXIT_REASON);
}

/* L1: in the guest-state area or the host-state area, with WP and without */
static void guest_launch_guest_state(struct cet_call *call)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	call->arg[0] = l1_launch(GUEST_CR0, GUEST_CR4, true);
	call->arg[1] = l1_launch(GUEST_CR0, GUEST_CR4, false);
}

static void guest_launch_host_state(struct cet_call *call)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	call->arg[0] = l1_launch(HOST_CR0, HOST_CR4, true);
	call->arg[1] = l1_launch(HOST_CR0, HOST_CR4, false);
}

static struct cet_call *call_l1(struct kvm_vcpu *vcpu,
				void (*fn)(struct cet_call *))
{
	struct cet_call *call;
	vm_vaddr_t gva;

	vcpu_alloc_vmx(vcpu->vm, &gva);
	write_guest_global(vcpu->vm, vmx, (struct vmx_pages *)gva);
	call = cet_call(vcpu, fn, 0, 0);
	TEST_ASSERT(call->arg[0] == EXIT_REASON_VMCALL,
		    "VMLAUNCH with CR4.CET and CR0.WP: 0x%lx", call->arg[0]);
	return call;
}

TEST_F(cr4, vmlaunch_with_guest_cet_without_wp)
{
	TEST_ASSERT_EQ(call_l1(self->vcpu, guest_launch_guest_state)->arg[1],
		       EXIT_REASON_FAILED_VMENTRY | EXIT_REASON_INVALID_STATE);
}

TEST_F(cr4, vmlaunch_with_host_cet_without_wp)
{
	TEST_ASSERT_EQ(call_l1(self->vcpu, guest_launch_host_state)->arg[1],
		       INVALID_HOST_STATE);
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
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
