// SPDX-License-Identifier: GPL-2.0
/*
 * L1 runs beyond the addresses of 48 bits, L2 and an SMI handler don't use
 * 57-bit addresses: RSM and user space return to L2 nevertheless.
 *
 * L1 gets that address by KVM_SET_NESTED_STATE, and L2 doesn't exit to it.
 */
#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

/* The memory slot is one of SMM's address space. */
#define SMRAM_GPA		0x1000000
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_PAGES		16
#define SMRAM_HANDLER		0x8000

#define SMI_PORT		0x81
#define END_PORT		0x82

/* In struct vmcs12 of KVM_GET_NESTED_STATE */
#define VMCS12_HOST_CR4		600
#define VMCS12_HOST_RIP		672

/* In 16-bit code: out %al, $SMI_PORT; rsm */
static const uint8_t smi_handler[] = { 0xe6, SMI_PORT, 0x0f, 0xaa };

/* Guest data */
static struct vmx_pages *vmx;

static void l2_outs(void)
{
	asm volatile("out %%al, %0" : : "i"(CET_PORT));
	asm volatile("out %%al, %0" : : "i"(END_PORT));
}

static void guest_l1(struct cet_call *call)
{
	guest_prepare_l2(vmx, l2_outs);
	vmlaunch();
}

FIXTURE(la57)
{
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(la57)
{
	uint64_t cr4;
	int bits;
	bool refused;
};

FIXTURE_VARIANT_ADD(la57, 57_bits) { X86_CR4_LA57, 57 };
FIXTURE_VARIANT_ADD(la57, 58_bits) { X86_CR4_LA57, 58, true };
FIXTURE_VARIANT_ADD(la57, 57_bits_without_la57) { 0, 57, true };

static void run_to_out(struct kvm_vcpu *vcpu, uint16_t port)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, port);
	vcpu_run_complete_io(vcpu);
}

FIXTURE_SETUP(la57)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, false, false);
	vm_vaddr_t gva;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_LA57));

	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_PAGES, 0);
	vcpu_set_msr(self->vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
	memcpy(addr_gpa2hva(vm, SMRAM_GPA + SMRAM_HANDLER), smi_handler,
	       sizeof(smi_handler));

	cet_prepare(self->vcpu, guest_l1, 0, 0);
	run_to_out(self->vcpu, CET_PORT);
}

FIXTURE_TEARDOWN(la57)
{
	kvm_vm_free(self->vcpu->vm);
}

/* The highest address of L1's own ones with so many bits */
static int set_host_rip(struct kvm_vcpu *vcpu, uint64_t cr4, int bits)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	uint8_t *vmcs12 = state->nested.data.vmx[0].vmcs12;
	int r;

	*(uint64_t *)&vmcs12[VMCS12_HOST_CR4] |= cr4;
	*(uint64_t *)&vmcs12[VMCS12_HOST_RIP] = BIT_ULL(bits - 1) - 1;
	r = __vcpu_ioctl(vcpu, KVM_SET_NESTED_STATE, &state->nested);
	kvm_x86_state_cleanup(state);
	return r;
}

TEST_F(la57, restored_in_l2)
{
	int r = set_host_rip(self->vcpu, variant->cr4, variant->bits);

	TEST_ASSERT_EQ(!!r, variant->refused);
	if (!r)
		run_to_out(self->vcpu, END_PORT);
}

TEST_F(la57, rsm)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(self->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = true;
	vcpu_events_set(self->vcpu, &events);
	run_to_out(self->vcpu, SMI_PORT);
	TEST_ASSERT_EQ(set_host_rip(self->vcpu, variant->cr4, variant->bits), 0);

	if (variant->refused) {
		vcpu_run(self->vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_SHUTDOWN);
	} else {
		run_to_out(self->vcpu, END_PORT);
	}
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
