// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_CPUID2 on a vCPU that has CET state: it decides what the vCPU can
 * have from then on, and changes no state.  In L2, it decides nothing any more.
 */
#include <errno.h>
#include <signal.h>

#include "kvm_test_harness.h"
#include "cet_nested.h"

#define CTL			(0x5000 | CET_ENDBR_EN | CET_WAIT_ENDBR | \
				 CET_SHSTK_EN | CET_WRSS_EN)
#define SSP			0x3000

FIXTURE(change)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(change)
{
	vm_create_cet(&self->vcpu, true, true);
}

FIXTURE_TEARDOWN(change)
{
	kvm_vm_free(self->vcpu->vm);
}

static uint64_t msr_value(uint32_t msr)
{
	return msr <= MSR_IA32_S_CET ? CTL : 0x100000 + 0x1000 * (msr & 0xf);
}

static void set_state(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_set_msr(vcpu, cet_msrs[i], msr_value(cet_msrs[i]));
	vcpu_set_reg(vcpu, SSP_ID, SSP);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

static void expect_state(struct kvm_vcpu *vcpu)
{
	uint64_t ssp;
	int i;

	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(vcpu, cet_msrs[i], msr_value(cet_msrs[i]));
	vcpu_get_reg(vcpu, SSP_ID, &ssp);
	TEST_ASSERT_EQ(ssp, SSP);
	cet_expect_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
}

TEST_F(change, same_cpuid)
{
	set_state(self->vcpu);
	vcpu_set_cpuid(self->vcpu);
	expect_state(self->vcpu);
}

TEST_F(change, unrelated_bit)
{
	set_state(self->vcpu);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SMEP);
	expect_state(self->vcpu);
}

/* What was taken away is out of reach, and back with the features. */
TEST_F(change, taken_away_and_back)
{
	uint64_t ssp;
	int i;

	set_state(self->vcpu);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	for (i = 0; i < CET_NR_MSRS; i++)
		cet_expect_msr(self->vcpu, cet_msrs[i], 0);
	TEST_ASSERT(__vcpu_get_reg(self->vcpu, SSP_ID, &ssp) && errno == EINVAL,
		    "KVM_GET_ONE_REG returned SSP without shadow stacks");
	cet_refuse_msr(self->vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	expect_state(self->vcpu);
}

/* A vCPU that never had CET can get it, and lose it, as long as it hasn't run. */
TEST_F(change, intercepts)
{
	uint64_t val;
	int i;

	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	for (i = 0; i < CET_NR_MSRS; i++)
		TEST_ASSERT(cet_rdmsr(self->vcpu, cet_msrs[i], &val) == GP_VECTOR,
			    "RDMSR of %s, which the vCPU has lost, works",
			    cet_msr_name(cet_msrs[i]));
}

/* A vCPU without CPUID is a vCPU without CET, as is its SSP. */
TEST_F(change, no_ssp_before_cpuid)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct kvm_vcpu *vcpu = __vm_vcpu_add(vm, 0);
	uint64_t ssp = 0;

	vcpu_get_reg(self->vcpu, SSP_ID, &ssp);
	TEST_ASSERT(__vcpu_get_reg(vcpu, SSP_ID, &ssp) && errno == EINVAL,
		    "KVM_GET_ONE_REG returned SSP before KVM_SET_CPUID2");
	TEST_ASSERT(__vcpu_set_reg(vcpu, SSP_ID, 0) && errno == EINVAL,
		    "KVM_SET_ONE_REG set SSP before KVM_SET_CPUID2");
	kvm_vm_free(vm);
}

/*
 * A vCPU that has not run, but that user space has put into L2.  Returns its VM;
 * @state is that of a vCPU which has run to there.
 */
static struct kvm_vcpu *put_into_l2(struct kvm_vcpu *vcpu,
				    struct kvm_x86_state **state)
{
	struct kvm_vm *vm = vcpu->vm;

	vcpu_init_cet_nested(vcpu)->l2 = l2_read_out_write;
	cet_run_l2_to_out(vcpu);
	*state = vcpu_save_state(vcpu);

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_init_cpuid(vcpu, kvm_get_supported_cpuid());
	vcpu_load_state(vcpu, *state);
	TEST_ASSERT(vcpu_is_in_l2(vcpu), "The vCPU is not in L2");
	return vcpu;
}

TEST_F(change, refused_in_l2)
{
	struct kvm_cpuid_entry2 *entry;
	struct kvm_x86_state *state;

	self->vcpu = put_into_l2(self->vcpu, &state);
	entry = vcpu_get_cpuid_entry(self->vcpu, 7);
	entry->ecx &= ~BIT(X86_FEATURE_SHSTK.bit);
	TEST_ASSERT(__vcpu_set_cpuid(self->vcpu) == -1 && errno == EINVAL,
		    "KVM_SET_CPUID2 took shadow stacks away in L2");
	entry->ecx |= BIT(X86_FEATURE_SHSTK.bit);
	TEST_ASSERT(!__vcpu_set_cpuid(self->vcpu),
		    "KVM_SET_CPUID2 refused the same CPUID in L2");
	kvm_x86_state_cleanup(state);
}

static void interrupted(int sig)
{
}

/* KVM_RUN does all of its work but for VM entry: it finds a signal. */
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
	vcpu_ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask);
	raise(SIGUSR1);
	TEST_ASSERT(__vcpu_run(vcpu) && errno == EINTR, "KVM_RUN: errno %d",
		    errno);
	TEST_ASSERT(!ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, NULL), "No mask");
}

/* A vCPU that has not run leaves L2 by INIT, and loses CET: so does L2. */
TEST_F(change, intercepts_of_l2)
{
	struct kvm_vcpu_events events;
	struct kvm_x86_state *state;
	struct kvm_mp_state mp_state;
	struct cet_nested *n;

	self->vcpu = put_into_l2(self->vcpu, &state);
	n = addr_gva2hva(self->vcpu->vm, (vm_vaddr_t)&cet_nested);
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

	/* L2 gets no further than to RDMSR. */
	n->resume = true;
	n->l2_s_cet = -1ull;
	cet_prepare(self->vcpu, guest_nested, 0, 0);
	_vcpu_run(self->vcpu);
	TEST_ASSERT(n->l2_s_cet == -1ull,
		    "L2 of a vCPU without CET has read S_CET = 0x%lx", n->l2_s_cet);
	kvm_x86_state_cleanup(state);
}

TEST_F(change, feature_msr_refused_in_l2)
{
	struct kvm_x86_state *state;
	uint64_t val;

	self->vcpu = put_into_l2(self->vcpu, &state);
	val = vcpu_get_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES);
	TEST_ASSERT(!_vcpu_set_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES,
				   val ^ 1),
		    "KVM_SET_MSRS changed a feature MSR in L2");
	TEST_ASSERT(_vcpu_set_msr(self->vcpu, MSR_IA32_ARCH_CAPABILITIES,
				  val) == 1,
		    "KVM_SET_MSRS refused the same value in L2");
	kvm_x86_state_cleanup(state);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
