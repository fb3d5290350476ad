// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions that KVM emulates in user mode, in 32-bit mode and in real mode:
 * which of the CET state is in effect there.  INT n in real mode is emulated if
 * its delivery faults.
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

/* 32-bit code of user mode, at a place that is free in the GDT */
#define USER_CS32		0x12b
#define USER_CS32_DESCRIPTOR	0x00cffb000000ffffull

/*
 * A payload for cet_run() that has KVM emulate the first instruction of @code
 * in user mode.  #UD leads back from there: that of the instruction, or that of
 * the UD2 at label 2, its target.  The payload returns label 2.
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

USER_PAYLOAD(guest_user_jmp_compat,
	     "push $" __stringify(USER_CS32) "\nshlq $32, (%rsp)\nor %rdx, (%rsp)",
	     "ljmp *(%rsp)")

static __attribute__((naked)) void guest_user_ud_handler(void)
{
	asm("endbr64\n"
	    "mov %rdx, %rax\n"
	    "pop seen+8(%rip)\n"
	    "mov %r10, %rsp\n"
	    "ret\n");
}

/* The payload returns 0. */
static __attribute__((naked)) void guest_user_gp_handler(void)
{
	asm("endbr64\n"
	    "xor %eax, %eax\n"
	    "pop %rcx\n"
	    "pop seen+8(%rip)\n"
	    "mov %r10, %rsp\n"
	    "ret\n");
}

static void init_user(struct kvm_vcpu *vcpu)
{
	struct kvm_vm *vm = vcpu->vm;
	uint64_t *gdt;

	vm_init_cet(vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
	vm_init_user_mode(vm);
	gdt = addr_gva2hva(vm, vm->arch.gdt);
	gdt[USER_CS32 / sizeof(*gdt)] = USER_CS32_DESCRIPTOR;
	vm_set_raw_handler(vm, UD_VECTOR, guest_user_ud_handler);
}

KVM_ONE_VCPU_TEST_SUITE(emulate_modes);

/* At CPL 3, it is U_CET that matters to near branches. */
KVM_ONE_VCPU_TEST(emulate_modes, user_mode, NULL)
{
	static const struct {
		const char *name;
		void (*payload)(void);
		/* Enable bits that make KVM refuse it; near: those of U_CET */
		uint64_t refused_for;
		bool near;
	} insns[] = {
		{ "CALL rel32", guest_user_call, CET_SHSTK_EN, true },
		{ "RET", guest_user_ret, CET_SHSTK_EN, true },
		{ "JMP r64", guest_user_jmp_reg, CET_ENDBR_EN, true },
		{ "JMP m16:32", guest_user_jmp_far, CET_ENDBR_EN },
	};
	/* With SHSTK_EN in S_CET, #UD would need a shadow stack of its own. */
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
	uint64_t enabled, target;
	int i, j;

	init_user(vcpu);
	for (i = 0; i < ARRAY_SIZE(insns); i++) {
		for (j = 0; j < ARRAY_SIZE(modes); j++) {
			enabled = modes[j].u_cet;
			if (!insns[i].near)
				enabled |= modes[j].s_cet;

			cet_set_msr(vcpu, MSR_IA32_U_CET, modes[j].u_cet);
			target = cet_run(vcpu, insns[i].payload,
					 modes[j].s_cet)->ret;
			sync_global_from_guest(vcpu->vm, seen);
			if (insns[i].refused_for & enabled)
				target = seen.rip;
			TEST_ASSERT(seen.end_rip == target,
				    "%s with U_CET = 0x%lx, S_CET = 0x%lx: #UD at 0x%lx, not 0x%lx",
				    insns[i].name, modes[j].u_cet, modes[j].s_cet,
				    seen.end_rip, target);
		}
	}
}

/* The shadow stack that has to fit is that of U_CET and IA32_PL3_SSP. */
KVM_ONE_VCPU_TEST(emulate_modes, user_jmp_to_compat, NULL)
{
	static const struct {
		uint64_t u_cet, ssp;
		bool faults;
	} modes[] = {
		{ 0, 0, false },
		{ CET_SHSTK_EN, 0xfffffffc, false },
		{ CET_SHSTK_EN, 0x100000000, true },
		{ CET_SHSTK_EN, 0x7f0000000000, true },
	};
	uint64_t target;
	int i;

	init_user(vcpu);
	vm_set_raw_handler(vcpu->vm, GP_VECTOR, guest_user_gp_handler);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		cet_set_msr(vcpu, MSR_IA32_U_CET, modes[i].u_cet);
		cet_set_msr(vcpu, MSR_IA32_PL3_SSP, modes[i].ssp);
		target = cet_run(vcpu, guest_user_jmp_compat, 0)->ret;
		sync_global_from_guest(vcpu->vm, seen);
		TEST_ASSERT(!target == modes[i].faults,
			    "U_CET = 0x%lx, SSP = 0x%lx: %s", modes[i].u_cet,
			    modes[i].ssp, target ? "no #GP" : "#GP");
		TEST_ASSERT_EQ(seen.end_rip, target ?: seen.rip);
	}
}

/* Code for 32-bit mode without paging, and where it comes to if emulated */
#define CODE			0x2000000
#define CODE_SLOT		10
#define CODE_TARGET		0x40
#define CODE_GDT		0x800
#define CS			8

static const uint8_t fep[] = { 0x0f, 0x0b, 'k', 'v', 'm' };
static const uint8_t far_target[6] = {
	CODE_TARGET, 0, CODE >> 16 & 0xff, CODE >> 24, CS, 0,
};

static const uint8_t jmp_to_target[6] = { 0xeb, CODE_TARGET - 8 };

static const struct insn32 {
	const char *name;
	uint8_t opcode;
	/* What follows it in memory */
	const uint8_t *then;
	uint64_t refused_for;
} insns32[] = {
	{ "CALL ptr16:32", 0x9a, far_target, CET_BOTH_EN },
	{ "JMP ptr16:32", 0xea, far_target, CET_ENDBR_EN },
	/* Refused even if OF is clear, where INTO does nothing */
	{ "INTO", 0xce, jmp_to_target, CET_BOTH_EN },
};

/* #UD is a triple fault here.  Do not use a VM after that. */
static bool is_emulated_in_32_bit_mode(const struct insn32 *insn, uint64_t s_cet)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = CS, .type = 0xb, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_run *run = vcpu->run;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	bool emulated;
	uint8_t *code;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, CODE, CODE_SLOT,
				    1, 0);
	code = addr_gpa2hva(vm, CODE);
	memcpy(code, fep, sizeof(fep));
	code[sizeof(fep)] = insn->opcode;
	memcpy(code + sizeof(fep) + 1, insn->then, sizeof(far_target));
	code[CODE_TARGET] = 0xe6;	/* out %al, $CET_PORT */
	code[CODE_TARGET + 1] = CET_PORT;
	((uint64_t *)(code + CODE_GDT))[CS / 8] = 0x00cf9b000000ffff;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 &= ~X86_CR0_PG;
	sregs.cr4 = X86_CR4_CET;
	sregs.efer = 0;
	sregs.cs = flat;
	flat.type = 3;
	sregs.ds = flat;
	sregs.es = flat;
	sregs.ss = flat;
	sregs.gdt.base = CODE + CODE_GDT;
	sregs.gdt.limit = CS + 7;
	sregs.idt.limit = 0;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = CODE;
	regs.rsp = CODE + PAGE_SIZE;
	regs.rflags = X86_EFLAGS_FIXED;
	vcpu_regs_set(vcpu, &regs);
	cet_set_msr(vcpu, MSR_IA32_S_CET, s_cet);

	vcpu_run(vcpu);
	emulated = run->exit_reason == KVM_EXIT_IO && run->io.port == CET_PORT;
	TEST_ASSERT(emulated || run->exit_reason == KVM_EXIT_SHUTDOWN,
		    "%s with S_CET = 0x%lx: exit reason %u", insn->name, s_cet,
		    run->exit_reason);
	kvm_vm_free(vm);
	return emulated;
}

/* Each case has a VM of its own.  This gives all of them some time. */
FIXTURE(insns32)
{
	int nr;
};

FIXTURE_SETUP(insns32)
{
	self->nr = ARRAY_SIZE(insns32);
}

FIXTURE_TEARDOWN(insns32)
{
}

/* Instructions that 64-bit mode does not have */
TEST_F_TIMEOUT(insns32, protected_mode, 600)
{
	static const uint64_t s_cet[] = {
		0, CET_SHSTK_EN, CET_ENDBR_EN, CET_BOTH_EN,
	};
	const struct insn32 *insn;
	int i, j;

	for (i = 0; i < self->nr; i++) {
		for (j = 0; j < ARRAY_SIZE(s_cet); j++) {
			insn = &insns32[i];
			TEST_ASSERT(is_emulated_in_32_bit_mode(insn, s_cet[j]) ==
				    !(insn->refused_for & s_cet[j]),
				    "%s with S_CET = 0x%lx is%s emulated",
				    insn->name, s_cet[j],
				    insn->refused_for & s_cet[j] ? "" : " not");
		}
	}
}

/* Have the vCPU be at @code in real mode, with @handler for @vector. */
static void init_real_mode(struct kvm_vcpu *vcpu, const void *code, size_t size,
			   int vector, const uint8_t handler[2])
{
	uint32_t *ivt = addr_gpa2hva(vcpu->vm, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	ivt[vector] = 0x1800;
	memcpy(addr_gpa2hva(vcpu->vm, 0x1000), code, size);
	memcpy(addr_gpa2hva(vcpu->vm, 0x1800), handler, 2);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 &= ~(X86_CR0_PE | X86_CR0_PG);
	sregs.cr4 = 0;
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
}

/* In real mode, there is no CET. */
KVM_ONE_VCPU_TEST(emulate_modes, real_mode, NULL)
{
	static const uint8_t code[] = {
		0x0f, 0x0b, 'k', 'v', 'm',	/* KVM_FEP */
		0xe8, 0, 0,			/* call 1f */
		0xe6, CET_PORT,			/* 1: out %al, $CET_PORT */
	};
	/* The handler of #UD */
	static const uint8_t handler[] = { 0xe6, CET_PORT + 1 };
	struct kvm_sregs sregs;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_set_msr(vcpu, MSR_IA32_S_CET, CET_BOTH_EN);
	init_real_mode(vcpu, code, sizeof(code), UD_VECTOR, handler);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 = X86_CR4_CET;
	vcpu_sregs_set(vcpu, &sregs);

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
