// SPDX-License-Identifier: GPL-2.0
/*
 * A vCPU's features can't change while it is in L2, even if user space put it
 * there and it has not run.  What it loses afterwards is lost for L2, too.
 */
#include <errno.h>
#include <signal.h>

#include "kvm_test_harness.h"
#include "cet_nested.h"

FIXTURE(in_l2)
{
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
};

/* The vCPU has the state of one that has run to L2's OUT. */
FIXTURE_SETUP(in_l2)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);

	vcpu_init_cet_nested(vcpu)->l2 = l2_read_out_write;
	cet_run_l2_to_out(vcpu);
	self->state = vcpu_save_state(vcpu);

	kvm_vm_release(vm);
	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_init_cpuid(self->vcpu, kvm_get_supported_cpuid());
	vcpu_load_state(self->vcpu, self->state);
	TEST_ASSERT(vcpu_is_in_l2(self->vcpu), "The vCPU is not in L2");
	self->n = addr_gva2hva(vm, (vm_vaddr_t)&cet_nested);
}

FIXTURE_TEARDOWN(in_l2)
{
	kvm_x86_state_cleanup(self->state);
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(in_l2, cpuid_refused)
{
	struct kvm_cpuid_entry2 *entry;

	entry = vcpu_get_cpuid_entry(self->vcpu, 7);
	entry->ecx &= ~BIT(X86_FEATURE_SHSTK.bit);
	TEST_ASSERT(__vcpu_set_cpuid(self->vcpu) == -1 && errno == EINVAL,
		    "KVM_SET_CPUID2 took shadow stacks away in L2");
	entry->ecx |= BIT(X86_FEATURE_SHSTK.bit);
	TEST_ASSERT(!__vcpu_set_cpuid(self->vcpu),
		    "KVM_SET_CPUID2 refused the same CPUID in L2");
}

static void interrupted(int sig)
{
}

/* KVM_RUN does all of its work except VM entry, as a signal is pending. */
static void run_interrupted(struct kvm_vcpu *vcpu)
{
	struct {
		struct kvm_signal_mask header;
		uint64_t set;
	} mask = { .header.len = sizeof(mask.set) };
	sigset_t set;

	signal(SIGUSR1, interrupted);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	TEST_ASSERT(!ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask), "No mask");
	raise(SIGUSR1);
	TEST_ASSERT(__vcpu_run(vcpu) && errno == EINTR, "KVM_RUN: errno %d",
		    errno);
	TEST_ASSERT(!ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, NULL), "No mask");
}

/* A vCPU that has not run leaves L2 by INIT, and loses CET, also for L2. */
TEST_F(in_l2, intercepts)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct cet_nested *n = self->n;

	run_interrupted(self->vcpu);
	vcpu_events_get(self->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	vcpu_events_set(self->vcpu, &events);
	vcpu_mp_state_get(self->vcpu, &mp_state);
	TEST_ASSERT(!vcpu_is_in_l2(self->vcpu), "The vCPU is in L2");

	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	vcpu_run(self->vcpu);
	cet_finish_nested(self->vcpu);

	/* L2 gets no further than to RDMSR, whose #GP nobody handles. */
	n->resume = true;
	n->l2_s_cet = -1ull;
	cet_prepare(self->vcpu, guest_nested, 0, 0);
	TEST_ASSERT_EQ(ioctl(self->vcpu->fd, KVM_RUN, NULL), 0);
	TEST_ASSERT(n->l2_s_cet == -1ull,
		    "L2 of a vCPU without CET has read S_CET = 0x%lx", n->l2_s_cet);
}

TEST_F(in_l2, feature_msr_refused)
{
	uint64_t val;

	val = vcpu_get_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES);
	TEST_ASSERT(!_vcpu_set_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES,
				   val ^ 1),
		    "KVM_SET_MSRS changed a feature MSR in L2");
	TEST_ASSERT(_vcpu_set_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES,
				  val) == 1,
		    "KVM_SET_MSRS refused the same value in L2");

	/* In VMX operation, KVM refuses these even if they stay the same. */
	val = vcpu_get_msr(self->vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS);
	TEST_ASSERT(!_vcpu_set_msr(self->vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS,
				   val),
		    "KVM_SET_MSRS set a VMX capability MSR in L2");
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
