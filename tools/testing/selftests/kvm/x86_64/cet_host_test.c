// SPDX-License-Identifier: GPL-2.0
/*
 * The host's own CET state: each VM exit restores IA32_S_CET, which the host
 * kernel needs for its indirect branch tracking.
 */
#include <fcntl.h>

#include "kvm_test_harness.h"
#include "cet.h"

#define CPU			0

static uint64_t read_host_msr(uint32_t msr)
{
	uint64_t val;
	int fd;

	fd = open_path_or_exit("/dev/cpu/" __stringify(CPU) "/msr", O_RDONLY);
	TEST_ASSERT(pread(fd, &val, sizeof(val), msr) == sizeof(val),
		    "The host's %s cannot be read", cet_msr_name(msr));
	close(fd);
	return val;
}

FIXTURE(host)
{
	struct kvm_vcpu *vcpu;
	uint64_t s_cet;
};

FIXTURE_SETUP(host)
{
	vm_create_cet(&self->vcpu, true, true);
	kvm_pin_this_task_to_pcpu(CPU);
	self->s_cet = read_host_msr(MSR_IA32_S_CET);

	/*
	 * ENDBR_EN may be clear because earlier guests have cleared it, which
	 * is what to look for.  The CPU's flag is there unless "ibt=off" is.
	 */
	if (!(self->s_cet & CET_ENDBR_EN) &&
	    (!cet_is_forced() || system("grep -qw ibt /proc/cpuinfo")))
		SKIP(return, "The host kernel does not use IBT");
}

/* The guest has run with a value of its own: the host's must be unchanged. */
static void expect_host_s_cet(uint64_t s_cet)
{
	uint64_t val = read_host_msr(MSR_IA32_S_CET);

	TEST_ASSERT(val == s_cet, "The host's IA32_S_CET is 0x%lx, was 0x%lx",
		    val, s_cet);
	TEST_ASSERT(val & CET_ENDBR_EN,
		    "The host's IA32_S_CET is 0x%lx, without ENDBR_EN", val);
}

FIXTURE_TEARDOWN(host)
{
	kvm_vm_free(self->vcpu->vm);
}

static void guest_nop(struct cet_call *call)
{
}

TEST_F(host, s_cet_kept_with_zero_in_guest)
{
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, 0);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_host_s_cet(self->s_cet);
	cet_expect_msr(self->vcpu, MSR_IA32_S_CET, 0);
}

TEST_F(host, s_cet_kept_with_other_value_in_guest)
{
	const uint64_t val = CET_SHSTK_EN | CET_WRSS_EN | CET_NO_TRACK_EN;

	TEST_ASSERT(!cet_wrmsr(self->vcpu, MSR_IA32_S_CET, val),
		    "WRMSR of IA32_S_CET faulted");
	expect_host_s_cet(self->s_cet);
	cet_expect_msr(self->vcpu, MSR_IA32_S_CET, val);
}

TEST_F(host, s_cet_kept_after_cp)
{
	cet_enable(self->vcpu);
	TEST_ASSERT_EQ(cet_run(self->vcpu, guest_jump_off_endbr,
			       CET_SHSTK_EN | CET_ENDBR_EN)->error_code,
		       CP_ENDBRANCH);
	expect_host_s_cet(self->s_cet);
}

/* Also after a vCPU without CET */
TEST_F(host, s_cet_kept_without_features)
{
	vcpu_init_cet(self->vcpu, false, false);
	cet_call(self->vcpu, guest_nop, 0, 0);
	expect_host_s_cet(self->s_cet);
}

/* VM exit restores the interrupt SSP table's address as well. */
TEST_F(host, int_ssp_tab_kept)
{
	cet_set_msr(self->vcpu, MSR_IA32_INT_SSP_TAB, 0x1000);
	cet_call(self->vcpu, guest_nop, 0, 0);
	TEST_ASSERT_EQ(read_host_msr(MSR_IA32_INT_SSP_TAB), 0);
	cet_expect_msr(self->vcpu, MSR_IA32_INT_SSP_TAB, 0x1000);
}

/* The OUT exits to the host: L1 doesn't intercept it. */
static void l2_guest_code(void)
{
	asm volatile("out %%al, %0\n\t"
		     "vmcall" : : "i"(CET_PORT));
}

static void guest_run_l2(struct cet_call *call)
{
	struct vmx_pages *vmx = (void *)call->arg[0];

	call->vector = wrmsr_safe(MSR_IA32_S_CET, call->arg[1]);
	if (call->vector)
		return;

	guest_prepare_l2(vmx, l2_guest_code);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);

	call->ret = rdmsr(MSR_IA32_S_CET);
}

TEST_F(host, s_cet_kept_after_nested_guest)
{
	const uint64_t val = CET_SHSTK_EN | CET_WRSS_EN;
	struct cet_call *call;
	vm_vaddr_t vmx;

	if (!kvm_cpu_has(X86_FEATURE_VMX))
		SKIP(return, "KVM does not nest");

	vcpu_alloc_vmx(self->vcpu->vm, &vmx);
	call = cet_prepare(self->vcpu, guest_run_l2, vmx, val);
	vcpu_run(self->vcpu);
	TEST_ASSERT(!call->vector, "WRMSR of IA32_S_CET raised vector %lu",
		    call->vector);

	/* An exit from L2, and one from L1 */
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(self->vcpu->run->io.port, CET_PORT);
	expect_host_s_cet(self->s_cet);
	vcpu_run(self->vcpu);
	cet_finish(self->vcpu);
	expect_host_s_cet(self->s_cet);

	/* L1's value is still there, too. */
	TEST_ASSERT_EQ(call->ret, val);
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
