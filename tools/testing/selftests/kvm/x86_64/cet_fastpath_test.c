// SPDX-License-Identifier: GPL-2.0
/*
 * A guest with CET active does what KVM handles right after the VM exit, with
 * IRQs off, and has KVM emulate the same.  KVM must not look at CET state there
 * that it reads with IRQs on.  Only a kernel with lockdep complains about that.
 * The test itself checks that the guest works.
 */
#include <linux/stringify.h>

#include "kvm_test_harness.h"
#include "apic.h"
#include "cet.h"

#define IRQ_VECTOR		0x40
#define TSC_DEADLINE_MODE	(2 << 17)
/* Far enough to set the timer before it expires */
#define DELAY			50000

static uint64_t nr_irqs;

static __attribute__((naked)) void guest_irq_handler(void)
{
	asm("endbr64\n"
	    "push %rax\n"
	    "push %rcx\n"
	    "push %rdx\n"
	    "incq nr_irqs(%rip)\n"
	    "mov $0x80b, %ecx\n" /* EOI */
	    "xor %eax, %eax\n"
	    "xor %edx, %edx\n"
	    "wrmsr\n"
	    "pop %rdx\n"
	    "pop %rcx\n"
	    "pop %rax\n"
	    "iretq\n");
}

static void guest_init_apic(struct cet_call *call)
{
	x2apic_enable();
	x2apic_write_reg(APIC_LVTT, IRQ_VECTOR | TSC_DEADLINE_MODE);
}

#define SEND_IPI(prefix)					\
	"mov $0x830, %ecx\n" /* ICR, to APIC ID 0 */		\
	"mov $" __stringify(IRQ_VECTOR) ", %eax\n"		\
	"xor %edx, %edx\n"					\
	prefix "wrmsr\n"

#define SET_DEADLINE(prefix)					\
	"mov $0x6e0, %ecx\n"					\
	"rdtsc\n"						\
	"add $" __stringify(DELAY) ", %eax\n"			\
	"adc $0, %edx\n"					\
	prefix "wrmsr\n"

/*
 * A payload for cet_run(): @code causes one more interrupt.  It is in a
 * function of its own, to have a frame on the shadow stack.
 */
#define PAYLOAD(name, code)					\
static __attribute__((naked)) void name(void)			\
{								\
	asm("endbr64\n"						\
	    "lea 1f(%rip), %rax\n"				\
	    "call *%rax\n"					\
	    "mov $1, %eax\n"					\
	    "ret\n"						\
	    "1: endbr64\n"					\
	    "mov nr_irqs(%rip), %r8\n"				\
	    code						\
	    "sti\n"						\
	    "2: cmp nr_irqs(%rip), %r8\n"			\
	    "je 2b\n"						\
	    "cli\n"						\
	    "ret\n");						\
}

PAYLOAD(guest_ipi, SEND_IPI(""))
PAYLOAD(guest_emulated_ipi, SEND_IPI(KVM_FEP))
/* Waits in the guest, until the timer that KVM uses for that expires. */
PAYLOAD(guest_deadline, SET_DEADLINE(""))
PAYLOAD(guest_emulated_deadline, SET_DEADLINE(KVM_FEP))
PAYLOAD(guest_hlt, SET_DEADLINE("") "sti\nhlt\n")
PAYLOAD(guest_emulated_hlt, SET_DEADLINE(KVM_FEP) "sti\n" KVM_FEP "hlt\n")
PAYLOAD(guest_invd, "invd\n" SEND_IPI(""))
PAYLOAD(guest_emulated_invd, KVM_FEP "invd\n" SEND_IPI(""))

static const struct {
	const char *name;
	void (*payload)(void);
} payloads[] = {
	{ "ICR", guest_ipi },
	{ "ICR, emulated", guest_emulated_ipi },
	{ "TSC_DEADLINE", guest_deadline },
	{ "TSC_DEADLINE, emulated", guest_emulated_deadline },
	{ "HLT", guest_hlt },
	{ "HLT, emulated", guest_emulated_hlt },
	{ "INVD", guest_invd },
	{ "INVD, emulated", guest_emulated_invd },
};

KVM_ONE_VCPU_TEST_SUITE(fastpath);

static void run_all(struct kvm_vcpu *vcpu, uint64_t u_cet, uint64_t s_cet)
{
	const bool cet = u_cet || s_cet;
	struct cet_call *call;
	uint64_t irqs;
	int i;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, cet, cet);
	vcpu_set_cpuid_feature(vcpu, X86_FEATURE_TSC_DEADLINE_TIMER);
	vm_set_raw_handler(vcpu->vm, IRQ_VECTOR, guest_irq_handler);
	if (cet) {
		cet_enable(vcpu);
		cet_set_msr(vcpu, MSR_IA32_U_CET, u_cet);
	}
	cet_call(vcpu, guest_init_apic, 0, 0);

	for (i = 0; i < ARRAY_SIZE(payloads); i++) {
		call = cet_run(vcpu, payloads[i].payload, s_cet);
		TEST_ASSERT(!call->vector && call->ret == 1,
			    "%s: vector %lu, error code 0x%lx",
			    payloads[i].name, call->vector, call->error_code);
		sync_global_from_guest(vcpu->vm, nr_irqs);
		irqs = i + 1;
		TEST_ASSERT(nr_irqs == irqs, "%s: %lu interrupts, not %lu",
			    payloads[i].name, nr_irqs, irqs);
	}
}

KVM_ONE_VCPU_TEST(fastpath, both, NULL)
{
	run_all(vcpu, CET_SHSTK_EN | CET_ENDBR_EN, CET_SHSTK_EN | CET_ENDBR_EN);
}

KVM_ONE_VCPU_TEST(fastpath, user_only, NULL)
{
	run_all(vcpu, CET_SHSTK_EN | CET_ENDBR_EN, 0);
}

/* The control: the guest's code is fine. */
KVM_ONE_VCPU_TEST(fastpath, without_cet, NULL)
{
	run_all(vcpu, 0, 0);
}

int main(int argc, char *argv[])
{
	cet_require();
	__TEST_REQUIRE(kvm_is_forced_emulation_enabled(),
		       "Needs the parameter kvm.force_emulation_prefix=1");

	return test_harness_run(argc, argv);
}
