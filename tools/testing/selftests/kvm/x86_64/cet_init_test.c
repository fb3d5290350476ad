// SPDX-License-Identifier: GPL-2.0
/*
 * RESET and INIT of a vCPU that has CET state: all of it is cleared, except
 * that INIT keeps IA32_XSS.
 */
#include <sys/syscall.h>

#include "kvm_test_harness.h"
#include "apic.h"
#include "cet.h"

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

static void guest_nop(struct cet_call *call)
{
}

FIXTURE(init)
{
	struct kvm_vcpu *vcpu;
	/* A second vCPU, so not the bootstrap processor: it waits for SIPI. */
	struct kvm_vcpu *ap;
};

FIXTURE_SETUP(init)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);

	self->ap = vm_vcpu_add(vm, 1, NULL);
	vcpu_init_cet(self->ap, true, true);
}

FIXTURE_TEARDOWN(init)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_cet_state(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	vcpu_set_reg(vcpu, SSP_ID, 0x1000);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 |= X86_CR0_WP;
	sregs.cr4 |= X86_CR4_CET;
	TEST_ASSERT(!_vcpu_sregs_set(vcpu, &sregs),
		    "KVM_SET_SREGS refused CR4.CET");
}

static void pend_init(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags = KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = true;
	vcpu_events_set(vcpu, &events);
}

/* The vCPU still has what set_cet_state() has set. */
static void expect_kept(struct kvm_vcpu *vcpu)
{
	uint64_t ssp;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], 0x4000 * (i + 1));
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, 0x1000);
}

static void expect_cleared(struct kvm_vcpu *vcpu, uint64_t xss)
{
	struct kvm_sregs sregs;
	uint64_t ssp;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], 0);
	cet_expect_msr(vcpu, MSR_IA32_XSS, xss);
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, 0);

	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cr4 & X86_CR4_CET, 0);
}

TEST_F(init, reset)
{
	expect_cleared(self->vcpu, 0);
	expect_cleared(self->ap, 0);
}

/*
 * INIT clears all but XSS.  KVM_GET_MP_STATE processes it, with no guest FPU
 * loaded.
 */
TEST_F(init, init_before_first_run)
{
	struct kvm_mp_state mp_state;

	set_cet_state(self->ap);
	pend_init(self->ap);
	vcpu_mp_state_get(self->ap, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	expect_cleared(self->ap, XFEATURE_MASK_CET);
}

/* What the VMM has in XMM15, before and after an ioctl. */
#define XMM_VALUE		0x0123456789abcdefull

static void ioctl_keeps_xmm(int fd, unsigned long cmd, void *arg, long want)
{
	uint64_t xmm;
	long r;

	asm volatile("movq %[val], %%xmm15\n\t"
		     "syscall\n\t"
		     "movq %%xmm15, %[xmm]"
		     : "=a"(r), [xmm]"=r"(xmm)
		     : "0"((long)__NR_ioctl), "D"((long)fd), "S"(cmd), "d"(arg),
		       [val]"r"(XMM_VALUE)
		     : "rcx", "r11", "xmm15", "memory");
	TEST_ASSERT(r == want, "ioctl 0x%lx returned %ld, not %ld", cmd, r,
		    want);
	TEST_ASSERT_EQ(xmm, XMM_VALUE);
}

/*
 * The IOAPIC sends INIT when user space restores it.  That involves neither the
 * vCPU nor its thread.  The vCPU's FPU has never been loaded; the registers are
 * the VMM's.
 */
TEST_F(init, init_by_ioapic_before_first_run)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	const int pin = 1;

	set_cet_state(self->ap);

	/* KVM learns the vCPU's APIC ID from this. */
	vcpu_ioctl(self->ap, KVM_GET_LAPIC, &lapic);
	vcpu_ioctl(self->ap, KVM_SET_LAPIC, &lapic);

	vm_ioctl(self->ap->vm, KVM_GET_IRQCHIP, &chip);
	memset(&chip.chip.ioapic.redirtbl[pin], 0,
	       sizeof(chip.chip.ioapic.redirtbl[pin]));
	chip.chip.ioapic.redirtbl[pin].fields.delivery_mode = APIC_DM_INIT >> 8;
	chip.chip.ioapic.redirtbl[pin].fields.dest_id = self->ap->id;
	chip.chip.ioapic.irr = BIT(pin);

	ioctl_keeps_xmm(self->ap->vm->fd, KVM_SET_IRQCHIP, &chip, 0);
	ioctl_keeps_xmm(self->ap->fd, KVM_GET_MP_STATE, &mp_state, 0);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	expect_cleared(self->ap, XFEATURE_MASK_CET);
}

/* INIT clears the state of one vCPU; what the other has in hardware stays. */
TEST_F(init, init_keeps_other_vcpu)
{
	struct kvm_mp_state mp_state;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(self->vcpu, cet_msrs[i], 0x8000 * (i + 1));
	cet_call(self->vcpu, guest_nop, 0, 0);

	set_cet_state(self->ap);
	pend_init(self->ap);
	ioctl_keeps_xmm(self->ap->fd, KVM_GET_MP_STATE, &mp_state, 0);
	expect_cleared(self->ap, XFEATURE_MASK_CET);

	cet_call(self->vcpu, guest_nop, 0, 0);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i], 0x8000 * (i + 1));
}

TEST_F(init, init_between_runs)
{
	struct kvm_mp_state mp_state;

	cet_call(self->ap, guest_nop, 0, 0);
	set_cet_state(self->ap);
	pend_init(self->ap);
	vcpu_mp_state_get(self->ap, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	expect_cleared(self->ap, XFEATURE_MASK_CET);
}

static void run_and_exit_at_once(struct kvm_vcpu *vcpu)
{
	vcpu->run->immediate_exit = true;
	ioctl_keeps_xmm(vcpu->fd, KVM_RUN, NULL, -EINTR);
	vcpu->run->immediate_exit = false;
}

/* An INIT that KVM_RUN had no time for stays pending, and is processed once. */
static void init_after_immediate_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state mp_state;

	set_cet_state(vcpu);
	pend_init(vcpu);
	run_and_exit_at_once(vcpu);
	expect_kept(vcpu);
	ioctl_keeps_xmm(vcpu->fd, KVM_GET_MP_STATE, &mp_state, 0);
	expect_cleared(vcpu, XFEATURE_MASK_CET);

	set_cet_state(vcpu);
	run_and_exit_at_once(vcpu);
	ioctl_keeps_xmm(vcpu->fd, KVM_GET_MP_STATE, &mp_state, 0);
	expect_kept(vcpu);
}

TEST_F(init, immediate_exit)
{
	init_after_immediate_exit(self->ap);
	init_after_immediate_exit(self->vcpu);
}

/* A vCPU that waits for SIPI takes INIT in KVM_RUN, and continues to wait. */
TEST_F(init, init_while_blocked)
{
	struct kvm_mp_state mp_state = { KVM_MP_STATE_UNINITIALIZED };

	vcpu_mp_state_set(self->ap, &mp_state);
	set_cet_state(self->ap);
	pend_init(self->ap);
	ioctl_keeps_xmm(self->ap->fd, KVM_RUN, NULL, -EAGAIN);
	expect_cleared(self->ap, XFEATURE_MASK_CET);
	vcpu_mp_state_get(self->ap, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
}

/* The page in whose last 16 bytes a processor starts. */
#define RESET_PAGE		0xfffff000ul
#define RESET_SLOT		10

TEST_F(init, init_in_run)
{
	struct kvm_run *run = self->vcpu->run;

	vm_userspace_mem_region_add(self->vcpu->vm, VM_MEM_SRC_ANONYMOUS,
				    RESET_PAGE, RESET_SLOT, 1, 0);
	memcpy(addr_gpa2hva(self->vcpu->vm, RESET_PAGE), guest_init_page,
	       PAGE_SIZE);

	set_cet_state(self->vcpu);
	pend_init(self->vcpu);
	vcpu_run(self->vcpu);

	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, CET_PORT);
	TEST_ASSERT_EQ(*(uint32_t *)((void *)run + run->io.data_offset), 0);
	expect_cleared(self->vcpu, XFEATURE_MASK_CET);
}

/* All of these are guest data. */
static struct vmx_pages *vmx;
static struct vmx_msr_entry exit_load = {
	.index = MSR_IA32_PL3_SSP,
	.value = 0x3000,
};

static void l2_out(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
}

/* L1: run L2 with exit_load, of which arg[0] is the physical address. */
static void guest_l1(struct cet_call *call)
{
	call->vector = wrmsr_safe(MSR_IA32_PL3_SSP, 0x1000);
	if (call->vector)
		return;

	guest_prepare_l2(vmx, l2_out);
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, call->arg[0]);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
	GUEST_ASSERT(!vmlaunch());
	call->arg[0] = vmreadz(VM_EXIT_REASON);
	call->ret = rdmsr(MSR_IA32_PL3_SSP);
}

/*
 * INIT in L2 is a VM exit to L1, which loads an MSR of the guest's FPU state.
 * KVM_GET_MP_STATE processes it, with no guest FPU loaded.
 */
TEST_F(init, init_in_l2)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_mp_state mp_state;
	struct cet_call *call;
	vm_vaddr_t gva;

	vcpu_alloc_vmx(vcpu->vm, &gva);
	write_guest_global(vcpu->vm, vmx, (struct vmx_pages *)gva);
	call = cet_prepare(vcpu, guest_l1,
			   addr_gva2gpa(vcpu->vm, (vm_vaddr_t)&exit_load), 0);
	vcpu_run(vcpu);
	TEST_ASSERT(!call->vector, "WRMSR of PL3_SSP in L1 raised vector %lu",
		    call->vector);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
	vcpu_run_complete_io(vcpu);
	cet_expect_msr(vcpu, MSR_IA32_PL3_SSP, 0x1000);

	pend_init(vcpu);
	run_and_exit_at_once(vcpu);
	cet_expect_msr(vcpu, MSR_IA32_PL3_SSP, 0x1000);
	vcpu_mp_state_get(vcpu, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_RUNNABLE);
	cet_expect_msr(vcpu, MSR_IA32_PL3_SSP, exit_load.value);

	/* The INIT is not processed again. */
	cet_set_msr(vcpu, MSR_IA32_PL3_SSP, 0x2000);
	run_and_exit_at_once(vcpu);
	vcpu_mp_state_get(vcpu, &mp_state);
	cet_expect_msr(vcpu, MSR_IA32_PL3_SSP, 0x2000);
	cet_set_msr(vcpu, MSR_IA32_PL3_SSP, exit_load.value);

	vcpu_run(vcpu);
	cet_finish(vcpu);
	TEST_ASSERT_EQ(call->arg[0], EXIT_REASON_INIT_SIGNAL);
	TEST_ASSERT_EQ(call->ret, exit_load.value);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
