// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM offers to L1 for CET: the controls that load CET state, the fields
 * that come with them, and exceptions with any error code.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

/* The allowed 1-settings are the upper half. */
#define ENTRY_BIT	(VM_ENTRY_LOAD_CET_STATE << 32)
#define EXIT_BIT	(VM_EXIT_LOAD_CET_STATE << 32)

static const struct {
	uint32_t msr;
	uint64_t bit;
	/* The one without "true", which KVM derives from it. */
	uint32_t derived;
} ctls[] = {
	{ MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_BIT, MSR_IA32_VMX_ENTRY_CTLS },
	{ MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_BIT, MSR_IA32_VMX_EXIT_CTLS },
};

static const struct {
	uint64_t field;
	uint64_t ctl;
	uint16_t offset;
} fields[] = {
	{ GUEST_S_CET, ENTRY_BIT, VMCS12_GUEST_CET },
	{ GUEST_SSP, ENTRY_BIT, VMCS12_GUEST_CET + 8 },
	{ GUEST_INTR_SSP_TABLE, ENTRY_BIT, VMCS12_GUEST_CET + 16 },
	{ HOST_S_CET, EXIT_BIT, VMCS12_HOST_CET },
	{ HOST_SSP, EXIT_BIT, VMCS12_HOST_CET + 8 },
	{ HOST_INTR_SSP_TABLE, EXIT_BIT, VMCS12_HOST_CET + 16 },
};

static uint64_t field_value(int i)
{
	return 0x0123456789abc000ull * (i + 1);
}

static void expect_bit(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t bit,
		       bool set, const char *when)
{
	uint64_t val = vcpu_get_msr(vcpu, msr);

	TEST_ASSERT(!!(val & bit) == set, "%s: KVM_GET_MSRS: 0x%x is 0x%lx",
		    when, msr, val);
	TEST_ASSERT_EQ(cet_rdmsr(vcpu, msr, &val), 0);
	TEST_ASSERT(!!(val & bit) == set, "%s: RDMSR: 0x%x is 0x%lx", when, msr,
		    val);
}

static void expect_bits(struct kvm_vcpu *vcpu, bool set, const char *when)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		expect_bit(vcpu, ctls[i].msr, ctls[i].bit, set, when);
		expect_bit(vcpu, ctls[i].derived, ctls[i].bit, set, when);
	}
}

FIXTURE(offer)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(offer)
{
	bool shstk, ibt;
};

FIXTURE_VARIANT_ADD(offer, both) { .shstk = true, .ibt = true };
FIXTURE_VARIANT_ADD(offer, shstk_only) { .shstk = true };
FIXTURE_VARIANT_ADD(offer, ibt_only) { .ibt = true };

FIXTURE_SETUP(offer)
{
	vm_create_cet(&self->vcpu, variant->shstk, variant->ibt);
	vcpu_init_cet_nested(self->vcpu);
}

FIXTURE_TEARDOWN(offer)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(offer, controls)
{
	expect_bits(self->vcpu, true, "L1 has CET");
}

/* The MSRs decide what L1 can use, not CPUID. */
TEST_F(offer, controls_without_features)
{
	vcpu_init_cet(self->vcpu, false, false);
	expect_bits(self->vcpu, true, "L1 has no CET");
}

/* L1: exchange the fields' values, and collect what can't be written or read. */
static uint64_t exchanged[ARRAY_SIZE(fields)];
static uint64_t write_errors[ARRAY_SIZE(fields)];
static uint64_t read_errors[ARRAY_SIZE(fields)];

static void guest_exchange(struct cet_call *call)
{
	int i;

	GUEST_ASSERT(prepare_for_vmx_operation(cet_vmx));
	GUEST_ASSERT(load_vmcs(cet_vmx));
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		if (vmwrite(fields[i].field, exchanged[i]))
			write_errors[i] = vmreadz(VM_INSTRUCTION_ERROR);
	}
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		exchanged[i] = 0;
		if (vmread(fields[i].field, &exchanged[i]))
			read_errors[i] = vmreadz(VM_INSTRUCTION_ERROR);
	}
}

static void guest_vmclear(struct cet_call *call)
{
	call->ret = vmclear(cet_vmx->vmcs_gpa);
}

/* @there: the controls whose fields exist */
static void exchange(struct kvm_vcpu *vcpu, uint64_t there)
{
	struct kvm_vm *vm = vcpu->vm;
	uint64_t expected;
	int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++)
		exchanged[i] = field_value(i);
	sync_global_to_guest(vm, exchanged);
	cet_call(vcpu, guest_exchange, 0, 0);
	sync_global_from_guest(vm, exchanged);
	sync_global_from_guest(vm, write_errors);
	sync_global_from_guest(vm, read_errors);

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		expected = fields[i].ctl & there ? 0 : UNSUPPORTED_VMCS_COMPONENT;
		TEST_ASSERT(write_errors[i] == expected,
			    "VMWRITE of field 0x%lx: error %lu",
			    fields[i].field, write_errors[i]);
		TEST_ASSERT(read_errors[i] == expected,
			    "VMREAD of field 0x%lx: error %lu",
			    fields[i].field, read_errors[i]);
		if (!expected)
			TEST_ASSERT_EQ(exchanged[i], field_value(i));
	}
}

TEST_F(offer, fields)
{
	exchange(self->vcpu, ENTRY_BIT | EXIT_BIT);
}

/* All are where older kernels' struct vmcs12 has zeros. */
TEST_F(offer, fields_in_nested_state)
{
	struct kvm_x86_state *state;
	uint64_t *vmcs12;
	int i;

	exchange(self->vcpu, ENTRY_BIT | EXIT_BIT);
	state = vcpu_save_state(self->vcpu);
	vmcs12 = (void *)state->nested.data.vmx[0].vmcs12;
	for (i = 0; i < ARRAY_SIZE(fields); i++)
		TEST_ASSERT(vmcs12[fields[i].offset / 8] == field_value(i),
			    "vmcs12 has 0x%lx at %u",
			    vmcs12[fields[i].offset / 8], fields[i].offset);
	kvm_x86_state_cleanup(state);
}

TEST_F(offer, fields_in_vmcs_region)
{
	struct vmx_pages *vmx;
	vm_vaddr_t *gva;
	uint64_t *vmcs12;
	int i;

	exchange(self->vcpu, ENTRY_BIT | EXIT_BIT);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_vmclear, 0, 0)->ret, 0);

	gva = addr_gva2hva(self->vcpu->vm, (vm_vaddr_t)&cet_vmx);
	vmx = addr_gva2hva(self->vcpu->vm, *gva);
	vmcs12 = vmx->vmcs_hva;
	for (i = 0; i < ARRAY_SIZE(fields); i++)
		TEST_ASSERT_EQ(vmcs12[fields[i].offset / 8], field_value(i));
}

TEST_F(offer, fields_without_features)
{
	vcpu_init_cet(self->vcpu, false, false);
	exchange(self->vcpu, ENTRY_BIT | EXIT_BIT);
}

static void guest_nop(struct cet_call *call)
{
}

/* What was set before the vCPU has run is accepted afterwards, too. */
TEST_F(offer, same_value_after_run)
{
	uint64_t val;
	int i;

	vcpu_init_cet(self->vcpu, false, false);
	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		val = kvm_get_feature_msr(ctls[i].msr);
		TEST_ASSERT(val & ctls[i].bit, "KVM's MSR 0x%x is 0x%lx",
			    ctls[i].msr, val);
		TEST_ASSERT_EQ(_vcpu_set_msr(self->vcpu, ctls[i].msr, val), 1);
	}

	cet_call(self->vcpu, guest_nop, 0, 0);
	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		val = kvm_get_feature_msr(ctls[i].msr);
		TEST_ASSERT(_vcpu_set_msr(self->vcpu, ctls[i].msr, val) == 1,
			    "KVM_SET_MSRS refused 0x%x = 0x%lx once more",
			    ctls[i].msr, val);
		TEST_ASSERT(!_vcpu_set_msr(self->vcpu, ctls[i].msr,
					   val & ~ctls[i].bit),
			    "KVM_SET_MSRS took a control away after KVM_RUN");
	}
}

FIXTURE(ctls)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(ctls)
{
	/* The controls that user space leaves to L1 */
	bool entry, exit;
};

FIXTURE_VARIANT_ADD(ctls, entry_and_exit) { .entry = true, .exit = true };
FIXTURE_VARIANT_ADD(ctls, entry_only) { .entry = true };
FIXTURE_VARIANT_ADD(ctls, exit_only) { .exit = true };
FIXTURE_VARIANT_ADD(ctls, none) { };

static void withhold(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t bit)
{
	uint64_t val = vcpu_get_msr(vcpu, msr);

	TEST_ASSERT(val & bit, "0x%x is 0x%lx, without the bit", msr, val);
	TEST_ASSERT(_vcpu_set_msr(vcpu, msr, val & ~bit) == 1,
		    "KVM_SET_MSRS refused to clear 0x%lx of 0x%x", bit, msr);
}

FIXTURE_SETUP(ctls)
{
	vm_create_cet(&self->vcpu, true, true);
	vcpu_init_cet_nested(self->vcpu);
	if (!variant->entry)
		withhold(self->vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_BIT);
	if (!variant->exit)
		withhold(self->vcpu, MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_BIT);
}

FIXTURE_TEARDOWN(ctls)
{
	kvm_vm_free(self->vcpu->vm);
}

/* KVM_SET_CPUID2 does not bring back what user space has cleared. */
TEST_F(ctls, stay_cleared)
{
	vcpu_init_cet(self->vcpu, false, false);
	vcpu_init_cet(self->vcpu, true, true);
	expect_bit(self->vcpu, MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_BIT,
		   variant->entry, "entry");
	expect_bit(self->vcpu, MSR_IA32_VMX_ENTRY_CTLS, ENTRY_BIT,
		   variant->entry, "entry");
	expect_bit(self->vcpu, MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_BIT,
		   variant->exit, "exit");
	expect_bit(self->vcpu, MSR_IA32_VMX_EXIT_CTLS, EXIT_BIT,
		   variant->exit, "exit");
}

TEST_F(ctls, fields)
{
	exchange(self->vcpu, (variant->entry ? ENTRY_BIT : 0) |
			     (variant->exit ? EXIT_BIT : 0));
}

static void guest_launch(struct cet_call *call)
{
	guest_prepare_l2(cet_vmx, l2_nop);
	vmwrite(VM_ENTRY_CONTROLS, vmreadz(VM_ENTRY_CONTROLS) | call->arg[0]);
	vmwrite(VM_EXIT_CONTROLS, vmreadz(VM_EXIT_CONTROLS) | call->arg[1]);
	call->ret = vmlaunch() ? vmreadz(VM_INSTRUCTION_ERROR) : 0;
}

TEST_F(ctls, entry_control)
{
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_launch,
				VM_ENTRY_LOAD_CET_STATE, 0)->ret,
		       variant->entry ? 0 : INVALID_CONTROL_FIELD);
}

TEST_F(ctls, exit_control)
{
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_launch, 0,
				VM_EXIT_LOAD_CET_STATE)->ret,
		       variant->exit ? 0 : INVALID_CONTROL_FIELD);
}

/* An L1 without CET can use the controls that it has.  They load 0. */
TEST_F(ctls, launch_without_features)
{
	vcpu_init_cet(self->vcpu, false, false);
	TEST_ASSERT_EQ(cet_call(self->vcpu, guest_launch,
				variant->entry ? VM_ENTRY_LOAD_CET_STATE : 0,
				variant->exit ? VM_EXIT_LOAD_CET_STATE : 0)->ret,
		       0);
}

FIXTURE(ctl_msrs)
{
	struct kvm_vcpu *vcpu;
};

/* The vCPU never runs. */
FIXTURE_SETUP(ctl_msrs)
{
	vm_create_with_one_vcpu(&self->vcpu, NULL);
}

FIXTURE_TEARDOWN(ctl_msrs)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_features(struct kvm_vcpu *vcpu, bool has_cet)
{
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_SHSTK, has_cet);
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_IBT, has_cet);
}

static void set_msrs(struct kvm_vcpu *vcpu, bool set)
{
	uint64_t val;
	int i;

	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		val = kvm_get_feature_msr(ctls[i].msr);
		TEST_ASSERT(val & ctls[i].bit, "KVM's MSR 0x%x is 0x%lx",
			    ctls[i].msr, val);
		if (!set)
			val &= ~ctls[i].bit;
		TEST_ASSERT(_vcpu_set_msr(vcpu, ctls[i].msr, val) == 1,
			    "KVM_SET_MSRS refused 0x%x = 0x%lx", ctls[i].msr,
			    val);
	}
}

static void host_expect_bits(struct kvm_vcpu *vcpu, bool set, const char *when)
{
	uint64_t val;
	int i;

	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		val = vcpu_get_msr(vcpu, ctls[i].msr);
		TEST_ASSERT(!!(val & ctls[i].bit) == set, "%s: 0x%x is 0x%lx",
			    when, ctls[i].msr, val);
		val = vcpu_get_msr(vcpu, ctls[i].derived);
		TEST_ASSERT(!!(val & ctls[i].bit) == set, "%s: 0x%x is 0x%lx",
			    when, ctls[i].derived, val);
	}
}

/*
 * User space may restore MSRs and CPUID in either order: KVM_SET_MSRS only
 * wants VMX in CPUID.
 */
TEST_F(ctl_msrs, set_before_features)
{
	set_features(self->vcpu, false);
	host_expect_bits(self->vcpu, true, "CPUID without CET");
	set_msrs(self->vcpu, true);
	host_expect_bits(self->vcpu, true, "set, CPUID without CET");
	set_features(self->vcpu, true);
	host_expect_bits(self->vcpu, true, "set, CPUID with CET");
}

TEST_F(ctl_msrs, cleared_before_features)
{
	set_features(self->vcpu, false);
	set_msrs(self->vcpu, false);
	set_features(self->vcpu, true);
	host_expect_bits(self->vcpu, false, "cleared, CPUID with CET");
}

TEST_F(ctl_msrs, set_after_features)
{
	set_features(self->vcpu, true);
	set_msrs(self->vcpu, false);
	host_expect_bits(self->vcpu, false, "cleared");
	set_msrs(self->vcpu, true);
	host_expect_bits(self->vcpu, true, "set again");
}

/* Bits that KVM does not support, one at a time */
TEST_F(ctl_msrs, unsupported_refused)
{
	uint64_t supported, bit;
	int i, nr;

	set_features(self->vcpu, true);
	for (i = 0; i < ARRAY_SIZE(ctls); i++) {
		supported = kvm_get_feature_msr(ctls[i].msr);
		TEST_ASSERT(supported & ctls[i].bit, "KVM's MSR 0x%x is 0x%lx",
			    ctls[i].msr, supported);
		for (nr = 32; nr < 64; nr++) {
			bit = BIT_ULL(nr);
			TEST_ASSERT(_vcpu_set_msr(self->vcpu, ctls[i].msr,
						  supported | bit) ==
				    !!(supported & bit),
				    "KVM_SET_MSRS of 0x%x = 0x%lx",
				    ctls[i].msr, supported | bit);
		}
	}
}

/* The bit is set, as on any processor with CET. */
TEST_F(ctl_msrs, vmx_basic)
{
	const uint64_t basic = kvm_get_feature_msr(MSR_IA32_VMX_BASIC);
	struct kvm_vcpu *vcpu = self->vcpu;
	int nr;

	set_features(vcpu, true);
	TEST_ASSERT(basic & VMX_BASIC_ANY_ERROR_CODE,
		    "KVM's IA32_VMX_BASIC is 0x%lx", basic);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_VMX_BASIC), basic);

	for (nr = 57; nr < 64; nr++)
		TEST_ASSERT(!_vcpu_set_msr(vcpu, MSR_IA32_VMX_BASIC,
					   basic | BIT_ULL(nr)),
			    "KVM_SET_MSRS set bit %d of IA32_VMX_BASIC", nr);

	withhold(vcpu, MSR_IA32_VMX_BASIC, VMX_BASIC_ANY_ERROR_CODE);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_VMX_BASIC),
		       basic & ~VMX_BASIC_ANY_ERROR_CODE);
	TEST_ASSERT_EQ(_vcpu_set_msr(vcpu, MSR_IA32_VMX_BASIC, basic), 1);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_VMX_BASIC), basic);
}

/* Error codes need no CET. */
TEST_F(ctl_msrs, vmx_basic_without_features)
{
	set_features(self->vcpu, false);
	TEST_ASSERT(vcpu_get_msr(self->vcpu, MSR_IA32_VMX_BASIC) &
		    VMX_BASIC_ANY_ERROR_CODE, "IA32_VMX_BASIC without bit 56");
}

/* Bits 9:1 are the highest index of a field, in its own bits 9:1. */
TEST_F(ctl_msrs, vmcs_enum_covers_fields)
{
	set_features(self->vcpu, true);
	TEST_ASSERT((vcpu_get_msr(self->vcpu, MSR_IA32_VMX_VMCS_ENUM) & 0x3fe) >=
		    (GUEST_INTR_SSP_TABLE & 0x3fe), "IA32_VMX_VMCS_ENUM is 0x%lx",
		    vcpu_get_msr(self->vcpu, MSR_IA32_VMX_VMCS_ENUM));
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
