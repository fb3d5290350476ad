// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions that KVM emulates in user mode and in real mode: which of the CET
 * state is in effect there.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define CET_BOTH_EN	(CET_SHSTK_EN | CET_ENDBR_EN)

/*
 * RIP of the instruction, and in the frame of #UD.  The assembly knows the
 * offsets.
 */
struct {
	uint64_t rip, end_rip;
} seen;

/*
 * A payload for cet_run() that has KVM emulate the first instruction of @code in
 * user mode.  From there #UD leads back, be it that of the instruction, or that
 * of the UD2 at label 2, to which it should come.  The payload returns label 2.
 */
#define USER_PAYLOAD(name, prepare, code)		\
static __attribute__((naked)) void name(void)		\
{							\
	asm("endbr64\n"					\
	    "mov %rsp, %r10\n"				\
	    "push $" __stringify(USER_DS) "\n"		\
	    "lea -256(%r10), %rax\n"			\
	    "push %rax\n"				\
	    "pushf\n"					\
	    "push $" __stringify(USER_CS) "\n"		\
	    "lea 4f(%rip), %rax\n"			\
	    "push %rax\n"				\
	    "iretq\n"					\
	    "4: lea 1f(%rip), %rax\n"			\
	    "mov %rax, seen(%rip)\n"			\
	    "lea 2f(%rip), %rdx\n"			\
	    prepare "\n"				\
	    KVM_FEP "1:" code "\n"			\
	    "ud2\n"					\
	    "2: ud2\n");				\
}

USER_PAYLOAD(guest_user_call, "", "call 2f")
USER_PAYLOAD(guest_user_ret, "push %rdx", "ret")
USER_PAYLOAD(guest_user_jmp_reg, "", "jmp *%rdx")
USER_PAYLOAD(guest_user_jmp_far,
	     "push $" __stringify(USER_CS) "\nshlq $32, (%rsp)\nor %rdx, (%rsp)",
	     "ljmp *(%rsp)")

static __attribute__((naked)) void guest_user_ud_handler(void)
{
	asm("endbr64\n"
	    "mov %rdx, %rax\n"
	    "pop seen+8(%rip)\n"
	    "mov %r10, %rsp\n"
	    "ret\n");
}

KVM_ONE_VCPU_TEST_SUITE(emulate_modes);

/* At CPL 3, it is U_CET that matters to near branches. */
KVM_ONE_VCPU_TEST(emulate_modes, user_mode, NULL)
{
	static const struct {
		const char *name;
		void (*payload)(void);
		/* What KVM refuses it for; near: with U_CET only */
		uint64_t refused_for;
		bool near;
	} insns[] = {
		{ "CALL rel32", guest_user_call, CET_SHSTK_EN, true },
		{ "RET", guest_user_ret, CET_SHSTK_EN, true },
		{ "JMP r64", guest_user_jmp_reg, CET_ENDBR_EN, true },
		{ "JMP m16:32", guest_user_jmp_far, CET_ENDBR_EN },
	};
	/* To run with a supervisor shadow stack, #UD would need a second one. */
	static const struct {
		uint64_t u_cet, s_cet;
	} modes[] = {
		{ 0, 0 },
		{ 0, CET_ENDBR_EN },
		{ CET_ENDBR_EN, 0 },
		{ CET_SHSTK_EN, 0 },
		{ CET_SHSTK_EN, CET_ENDBR_EN },
		{ CET_BOTH_EN, 0 },
	};
	struct kvm_vm *vm = vcpu->vm;
	uint64_t enabled, target;
	int i, j;

	vm_init_cet(vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	vm_init_user_mode(vm);
	vm_set_raw_handler(vm, UD_VECTOR, guest_user_ud_handler);

	for (i = 0; i < ARRAY_SIZE(insns); i++) {
		for (j = 0; j < ARRAY_SIZE(modes); j++) {
			enabled = modes[j].u_cet;
			if (!insns[i].near)
				enabled |= modes[j].s_cet;

			cet_set_msr(vcpu, MSR_IA32_U_CET, modes[j].u_cet);
			target = cet_run(vcpu, insns[i].payload,
					 modes[j].s_cet)->ret;
			sync_global_from_guest(vm, seen);
			if (insns[i].refused_for & enabled)
				target = seen.rip;
			TEST_ASSERT(seen.end_rip == target,
				    "%s with U_CET = 0x%lx, S_CET = 0x%lx: #UD at 0x%lx, not 0x%lx",
				    insns[i].name, modes[j].u_cet, modes[j].s_cet,
				    seen.end_rip, target);
		}
	}
}

/* In real mode, there is no CET. */
KVM_ONE_VCPU_TEST(emulate_modes, real_mode, NULL)
{
	static const uint8_t code[] = {
		0x0f, 0x0b, 'k', 'v', 'm',	/* KVM_FEP */
		0xe8, 0, 0,			/* call 1f */
		0xe6, CET_PORT,			/* 1: out %al, $CET_PORT */
	};
	/* What #UD would get to */
	static const uint8_t handler[] = { 0xe6, CET_PORT + 1 };
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint32_t *ivt;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_set_msr(vcpu, MSR_IA32_S_CET, CET_BOTH_EN);

	ivt = addr_gpa2hva(vcpu->vm, 0);
	ivt[UD_VECTOR] = 0x1800;
	memcpy(addr_gpa2hva(vcpu->vm, 0x1000), code, sizeof(code));
	memcpy(addr_gpa2hva(vcpu->vm, 0x1800), handler, sizeof(handler));

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 &= ~(X86_CR0_PE | X86_CR0_PG);
	sregs.cr4 = X86_CR4_CET;
	sregs.efer = 0;
	sregs.idt.base = 0;
	sregs.idt.limit = 0xffff;
	sregs.cs = (struct kvm_segment) {
		.limit = 0xffff, .type = 3, .present = 1, .s = 1,
	};
	sregs.ds = sregs.cs;
	sregs.es = sregs.cs;
	sregs.ss = sregs.cs;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = 0x1000;
	regs.rsp = 0x2000;
	vcpu_regs_set(vcpu, &regs);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT(vcpu->run->io.port == CET_PORT, "CALL raised #UD");
}

int main(int argc, char *argv[])
{
	cet_require();
	__TEST_REQUIRE(kvm_is_forced_emulation_enabled(),
		       "Needs the parameter kvm.force_emulation_prefix=1");

	return test_harness_run(argc, argv);
}
