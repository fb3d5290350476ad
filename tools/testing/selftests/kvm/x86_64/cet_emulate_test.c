// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions that KVM emulates: with CET enabled, KVM refuses those that are
 * subject to CET at a privilege level which they involve, and emulates all
 * others.
 */
#include "kvm_test_harness.h"
#include "cet.h"

#define CET_BOTH_EN	(CET_SHSTK_EN | CET_ENDBR_EN)

/*
 * RIP and RSP before the instruction, and after it or in the frame of the
 * exception that it raised (vector 0: none).  The assembly knows the offsets.
 */
struct {
	uint64_t rip, rsp, end_rip, end_rsp, vector, error_code;
} seen;

/*
 * A payload for cet_run() that has KVM emulate the first instruction of @code.
 * That leads to label 2 if the instruction did what it should, else to 3.
 */
#define PAYLOAD(name, prepare, code)			\
static __attribute__((naked)) void name(void)		\
{							\
	asm("endbr64\n"					\
	    "mov %rsp, %r10\n"				\
	    "lea 3f(%rip), %r8\n"			\
	    prepare "\n"				\
	    "lea 1f(%rip), %rax\n"			\
	    "mov %rax, seen(%rip)\n"			\
	    "mov %rsp, seen+8(%rip)\n"			\
	    "xor %eax, %eax\n"				\
	    KVM_FEP "1:" code "\n"			\
	    "2: mov %rsp, seen+24(%rip)\n"		\
	    "mov $1, %eax\n"				\
	    "3: mov %r10, %rsp\n"			\
	    "ret\n");					\
}

/* The library's code segment is at 8.  That of 32-bit code will be at 256. */
#define TARGET		"lea 2f(%rip), %rdx\n"
#define FAR_POINTER	TARGET "movl $8, 4(%rsp)\nmov %edx, (%rsp)"

PAYLOAD(guest_call_rel32, "", "call 2f; jmp 3f")
PAYLOAD(guest_call_reg, TARGET, "call *%rdx; jmp 3f")
PAYLOAD(guest_call_far, "push $0\n" FAR_POINTER, "lcall *(%rsp); jmp 3f")
/* With 64 bits of offset, which takes REX.W, and without */
#define WIDE_POINTER	TARGET "push $8\npush %rdx"
PAYLOAD(guest_call_far64, WIDE_POINTER, "rex.w lcall *(%rsp); jmp 3f")
PAYLOAD(guest_jmp_far64, WIDE_POINTER, "rex.w ljmp *(%rsp); jmp 3f")
PAYLOAD(guest_ret_far32, "push $0\n" FAR_POINTER, "lretl; jmp 3f")
PAYLOAD(guest_ret, TARGET "push %rdx", "ret; jmp 3f")
PAYLOAD(guest_ret_imm, TARGET "push $0\npush %rdx", "ret $8; jmp 3f")
PAYLOAD(guest_ret_far, TARGET "push $8\npush %rdx", "lretq; jmp 3f")
PAYLOAD(guest_ret_far_imm, TARGET "push $0\npush $8\npush %rdx",
	"lretq $8; jmp 3f")
PAYLOAD(guest_jmp_reg, TARGET, "jmp *%rdx; jmp 3f")
PAYLOAD(guest_jmp_far, "push $0\n" FAR_POINTER, "ljmp *(%rsp); jmp 3f")
PAYLOAD(guest_int3, "", "int3; jmp 3f")
PAYLOAD(guest_int_n, "", "int $0x80; jmp 3f")
PAYLOAD(guest_iret, "", "iretq; jmp 3f")
/* With the MSRs STAR and LSTAR set to come to label 2 */
PAYLOAD(guest_syscall,
	"mov $0xc0000081, %ecx\nxor %eax, %eax\nmov $8, %edx\nwrmsr\n"
	"inc %ecx\nlea 2f(%rip), %rax\nxor %edx, %edx\nwrmsr",
	"syscall; jmp 3f")
PAYLOAD(guest_sysenter, "", "sysenter; jmp 3f")
PAYLOAD(guest_sysexit, "", "sysexitl; jmp 3f")

PAYLOAD(guest_jmp_rel8, "", "jmp 2f; jmp 3f")
PAYLOAD(guest_jmp_rel32, "", "jmp.d32 2f; jmp 3f")
PAYLOAD(guest_jcc, "", "jz 2f; jmp 3f")
PAYLOAD(guest_jcxz, "xor %ecx, %ecx", "jrcxz 2f; jmp 3f")
PAYLOAD(guest_loop, "mov $2, %ecx", "loop 2f; jmp 3f")
PAYLOAD(guest_push, "", "push %rax")
PAYLOAD(guest_pop, "push $0", "pop %rdx")
PAYLOAD(guest_enter, "mov %rbp, %r9", "enter $16, $0; mov %r9, %rbp")
PAYLOAD(guest_leave, "push %rbp\nmov %rsp, %rbp\npush $0", "leave")
PAYLOAD(guest_mov, "xor %ecx, %ecx", "mov $1, %ecx; jrcxz 3f")

/* CET's own instructions, with a shadow stack at hand */
#define SHADOW_STACK	"mov cet_shadow_stack(%rip), %rdx\nsub $64, %rdx"

PAYLOAD(guest_incssp, "mov $1, %ecx", "incsspq %rcx")
PAYLOAD(guest_rdssp, "", "rdsspq %rdx")
PAYLOAD(guest_saveprevssp, "", "saveprevssp")
PAYLOAD(guest_rstorssp, SHADOW_STACK, "rstorssp (%rdx)")
PAYLOAD(guest_wrss, SHADOW_STACK, "wrssq %rax, (%rdx)")
PAYLOAD(guest_wruss, SHADOW_STACK, "wrussq %rax, (%rdx)")
PAYLOAD(guest_setssbsy, "", "setssbsy")
PAYLOAD(guest_clrssbsy, SHADOW_STACK, "clrssbsy (%rdx)")
PAYLOAD(guest_endbr64, "", "endbr64")

PAYLOAD(guest_mov_to_shadow_stack, SHADOW_STACK, "mov %rax, (%rdx)")

/* To the 32-bit code segment, and back by an instruction of the processor. */
PAYLOAD(guest_jmp_compat,
	"lea 4f(%rip), %rdx\npush $0\nmovl $256, 4(%rsp)\nmov %edx, (%rsp)",
	"ljmp *(%rsp); jmp 3f; 4: .code32; ljmp $8, $2f; .code64")

/*
 * The handlers of exceptions end the payload.  With a shadow stack, IRET can
 * only return to where the exception came from: turn CET off.
 */
#define END_PAYLOAD				\
	"pop seen+16(%rip)\n"			\
	"push %r8\n"				\
	"mov 24(%rsp), %rax\n"			\
	"mov %rax, seen+24(%rip)\n"		\
	"mov %cr4, %rax\n"			\
	"btr $23, %rax\n"			\
	"mov %rax, %cr4\n"			\
	"xor %eax, %eax\n"			\
	"iretq\n"

static __attribute__((naked)) void guest_ud_handler(void)
{
	asm("endbr64\n"
	    "movq $6, seen+32(%rip)\n"
	    END_PAYLOAD);
}

static __attribute__((naked)) void guest_np_handler(void)
{
	asm("endbr64\n"
	    "movq $11, seen+32(%rip)\n"
	    "pop seen+40(%rip)\n"
	    END_PAYLOAD);
}

static __attribute__((naked)) void guest_insn_gp_handler(void)
{
	asm("endbr64\n"
	    "movq $13, seen+32(%rip)\n"
	    "pop seen+40(%rip)\n"
	    END_PAYLOAD);
}

static __attribute__((naked)) void guest_mov_pf_handler(void)
{
	asm("endbr64\n"
	    "movq $14, seen+32(%rip)\n"
	    "pop seen+40(%rip)\n"
	    END_PAYLOAD);
}

static const struct insn {
	const char *name;
	void (*payload)(void);
	/* The enable bits that make KVM refuse it; near: only those of S_CET */
	uint64_t refused_for;
	bool near;
	/* What it adds to RSP */
	int64_t stack;
	/* Emulation gets to this #GP, or to KVM's exit to give up */
	bool gp, gives_up;
} insns[] = {
	{ "CALL rel32", guest_call_rel32, CET_SHSTK_EN, true, -8 },
	{ "CALL r64", guest_call_reg, CET_BOTH_EN, true, -8 },
	{ "CALL m16:32", guest_call_far, CET_BOTH_EN, .stack = -8 },
	{ "CALL m16:64", guest_call_far64, CET_BOTH_EN, .stack = -16 },
	{ "RET", guest_ret, CET_SHSTK_EN, true, 8 },
	{ "RET imm16", guest_ret_imm, CET_SHSTK_EN, true, 16 },
	{ "far RET", guest_ret_far, CET_SHSTK_EN, .stack = 16 },
	{ "far RET of 32 bits", guest_ret_far32, CET_SHSTK_EN, .stack = 8 },
	{ "far RET imm16", guest_ret_far_imm, CET_SHSTK_EN, .stack = 24 },
	{ "JMP r64", guest_jmp_reg, CET_ENDBR_EN, true },
	{ "JMP m16:32", guest_jmp_far, CET_ENDBR_EN },
	{ "JMP m16:64", guest_jmp_far64, CET_ENDBR_EN },
	{ "INT n", guest_int_n, CET_BOTH_EN, .gives_up = true },
	{ "IRET", guest_iret, CET_SHSTK_EN, .gives_up = true },
	{ "SYSCALL", guest_syscall, CET_BOTH_EN },
	{ "SYSENTER", guest_sysenter, CET_BOTH_EN, .gives_up = true },
	{ "SYSEXIT", guest_sysexit, CET_SHSTK_EN, .gp = true },
	{ "JMP rel8", guest_jmp_rel8 },
	{ "JMP rel32", guest_jmp_rel32 },
	{ "Jcc", guest_jcc },
	{ "JRCXZ", guest_jcxz },
	{ "LOOP", guest_loop },
	{ "PUSH", guest_push, .stack = -8 },
	{ "POP", guest_pop, .stack = 8 },
	{ "ENTER", guest_enter, .stack = -24 },
	{ "LEAVE", guest_leave, .stack = 16 },
	{ "MOV", guest_mov },
	{ "INT3", guest_int3, CET_BOTH_EN, .gives_up = true },
};

/*
 * The emulator knows none of these.  It takes those with gives_up for a kind of
 * NOP that it does not know, either.
 */
static const struct insn cet_insns[] = {
	{ "INCSSP", guest_incssp },
	{ "RDSSP", guest_rdssp, .gives_up = true },
	{ "SAVEPREVSSP", guest_saveprevssp },
	{ "RSTORSSP", guest_rstorssp },
	{ "WRSS", guest_wrss },
	{ "WRUSS", guest_wruss },
	{ "SETSSBSY", guest_setssbsy },
	{ "CLRSSBSY", guest_clrssbsy },
	{ "ENDBR64", guest_endbr64, .gives_up = true },
};

static void init(struct kvm_vcpu *vcpu, bool cet)
{
	struct kvm_sregs sregs;

	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, cet, cet);

	/* For SYSCALL.  SYSENTER_CS stays 0, for the #GP. */
	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer |= EFER_SCE;
	vcpu_sregs_set(vcpu, &sregs);
}

/* Returns whether KVM gave up, i.e. exited with an emulation error. */
static bool run(struct kvm_vcpu *vcpu, void (*payload)(void), uint64_t s_cet,
		bool *done)
{
	bool gave_up;

	/* After cet_enable(), which has the library handle #GP */
	vm_set_raw_handler(vcpu->vm, UD_VECTOR, guest_ud_handler);
	vm_set_raw_handler(vcpu->vm, GP_VECTOR, guest_insn_gp_handler);

	memset(&seen, 0, sizeof(seen));
	sync_global_to_guest(vcpu->vm, seen);
	cet_prepare_run(vcpu, payload, s_cet);
	vcpu_run(vcpu);
	gave_up = vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
		  vcpu->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION;
	if (gave_up)
		vcpu_run(vcpu);
	*done = cet_finish(vcpu)->ret;

	sync_global_from_guest(vcpu->vm, seen);
	return gave_up;
}

/* An instruction that is not emulated must have no effect. */
static void expect_untouched(const char *name, bool done)
{
	TEST_ASSERT(!done, "%s came through, and raised vector %lu", name,
		    seen.vector);
	TEST_ASSERT(seen.end_rip == seen.rip && seen.end_rsp == seen.rsp,
		    "%s: RIP from 0x%lx to 0x%lx, RSP from 0x%lx to 0x%lx",
		    name, seen.rip, seen.end_rip, seen.rsp, seen.end_rsp);
}

static void expect_refused(struct kvm_vcpu *vcpu, const struct insn *insn,
			   uint64_t s_cet)
{
	bool done, gave_up = run(vcpu, insn->payload, s_cet, &done);

	TEST_ASSERT(!gave_up, "%s got as far as KVM giving up", insn->name);
	TEST_ASSERT(seen.vector == UD_VECTOR,
		    "%s raised vector %lu, not #UD, with S_CET = 0x%lx",
		    insn->name, seen.vector, s_cet);
	expect_untouched(insn->name, done);
}

static void expect_emulated(struct kvm_vcpu *vcpu, const struct insn *insn,
			    uint64_t s_cet)
{
	bool done, gave_up = run(vcpu, insn->payload, s_cet, &done);

	TEST_ASSERT(gave_up == insn->gives_up,
		    "%s, with S_CET = 0x%lx: KVM %s", insn->name, s_cet,
		    gave_up ? "gave up" : "did not get to execute it");
	if (insn->gives_up || insn->gp) {
		TEST_ASSERT(seen.vector == (insn->gp ? GP_VECTOR : UD_VECTOR),
			    "%s raised vector %lu with S_CET = 0x%lx",
			    insn->name, seen.vector, s_cet);
		expect_untouched(insn->name, done);
		return;
	}
	TEST_ASSERT(done && !seen.vector,
		    "%s raised vector %lu with S_CET = 0x%lx", insn->name,
		    seen.vector, s_cet);
	TEST_ASSERT(seen.end_rsp == seen.rsp + insn->stack,
		    "%s moved RSP from 0x%lx to 0x%lx", insn->name, seen.rsp,
		    seen.end_rsp);
}

static void expect_all_emulated(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(insns); i++)
		expect_emulated(vcpu, &insns[i], 0);
}

static void expect_all(struct kvm_vcpu *vcpu, uint64_t u_cet, uint64_t s_cet)
{
	const struct insn *insn;
	uint64_t enabled;
	int i;

	cet_set_msr(vcpu, MSR_IA32_U_CET, u_cet);
	for (i = 0; i < ARRAY_SIZE(insns); i++) {
		insn = &insns[i];
		enabled = insn->near ? s_cet : u_cet | s_cet;

		/* The handlers have cleared CR4.CET. */
		cet_enable(vcpu);
		if (insn->refused_for & enabled)
			expect_refused(vcpu, insn, s_cet);
		else
			expect_emulated(vcpu, insn, s_cet);
	}
}

KVM_ONE_VCPU_TEST_SUITE(emulate);

/* The instructions run at CPL 0, which S_CET is for. */
KVM_ONE_VCPU_TEST(emulate, s_cet, NULL)
{
	init(vcpu, true);
	expect_all(vcpu, 0, 0);
	expect_all(vcpu, 0, CET_ENDBR_EN);
	expect_all(vcpu, 0, CET_BOTH_EN);
	expect_all(vcpu, 0, CET_SHSTK_EN);
}

/* U_CET matters to all that could change the privilege level. */
KVM_ONE_VCPU_TEST(emulate, u_cet, NULL)
{
	init(vcpu, true);
	expect_all(vcpu, CET_ENDBR_EN, 0);
	expect_all(vcpu, CET_BOTH_EN, 0);
	expect_all(vcpu, CET_SHSTK_EN, CET_ENDBR_EN);
	expect_all(vcpu, CET_SHSTK_EN, 0);
}

/* KVM itself can read the MSRs that user space denies to the guest. */
KVM_ONE_VCPU_TEST(emulate, msr_filter, NULL)
{
	uint8_t none = 0;
	struct kvm_msr_filter deny = {
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_READ,
			.base = MSR_IA32_U_CET,
			.nmsrs = MSR_IA32_S_CET - MSR_IA32_U_CET + 1,
			.bitmap = &none,
		},
	};

	init(vcpu, true);
	vm_ioctl(vcpu->vm, KVM_X86_SET_MSR_FILTER, &deny);
	expect_all(vcpu, 0, CET_ENDBR_EN);
	expect_all(vcpu, CET_SHSTK_EN, 0);
}

/* None of these is emulated, with or without shadow stacks. */
KVM_ONE_VCPU_TEST(emulate, cet_instructions, NULL)
{
	static const uint64_t s_cet[] = {
		CET_SHSTK_EN | CET_WRSS_EN, CET_ENDBR_EN, 0
	};
	const struct insn *insn;
	bool done, gave_up;
	int i, j;

	init(vcpu, true);
	for (i = 0; i < ARRAY_SIZE(cet_insns); i++) {
		for (j = 0; j < ARRAY_SIZE(s_cet); j++) {
			insn = &cet_insns[i];
			cet_enable(vcpu);
			gave_up = run(vcpu, insn->payload, s_cet[j], &done);
			TEST_ASSERT(gave_up == insn->gives_up,
				    "%s: KVM gave up: %d", insn->name, gave_up);
			TEST_ASSERT(seen.vector == UD_VECTOR,
				    "%s raised vector %lu, not #UD",
				    insn->name, seen.vector);
			expect_untouched(insn->name, done);
		}
	}
}

/* To the emulator, a shadow stack is a page that is not writable. */
KVM_ONE_VCPU_TEST(emulate, mov_to_shadow_stack, NULL)
{
	bool done;

	init(vcpu, true);
	cet_enable(vcpu);
	vm_set_raw_handler(vcpu->vm, PF_VECTOR, guest_mov_pf_handler);
	TEST_ASSERT(!run(vcpu, guest_mov_to_shadow_stack, CET_SHSTK_EN, &done),
		    "KVM gave up on MOV");
	expect_untouched("MOV to a shadow stack", done);
	TEST_ASSERT_EQ(seen.vector, PF_VECTOR);
	TEST_ASSERT_EQ(seen.error_code,
		       PFERR_PRESENT_MASK | PFERR_WRITE_MASK);
}

KVM_ONE_VCPU_TEST(emulate, cr4_cet_clear, NULL)
{
	init(vcpu, true);
	cet_set_msr(vcpu, MSR_IA32_S_CET, CET_BOTH_EN);
	cet_set_msr(vcpu, MSR_IA32_U_CET, CET_BOTH_EN);
	expect_all_emulated(vcpu);
}

/* 32-bit code, readable, accessed, flat */
#define COMPAT_DESCRIPTOR	0x00cf9b000000ffffull
#define DESCRIPTOR_PRESENT	BIT_ULL(47)
#define COMPAT_CS		256
#define WIDE_GVA		0x7f0000000000ull

static void set_compat_descriptor(struct kvm_vcpu *vcpu, uint64_t descriptor)
{
	uint64_t *gdt = addr_gva2hva(vcpu->vm, vcpu->vm->arch.gdt);

	gdt[COMPAT_CS / sizeof(*gdt)] = descriptor;
}

/* Far JMP to compatibility mode; returns whether that raised #GP(0). */
static bool jmp_compat_faults(struct kvm_vcpu *vcpu, uint64_t s_cet)
{
	bool done, gave_up;

	set_compat_descriptor(vcpu, COMPAT_DESCRIPTOR);
	gave_up = run(vcpu, guest_jmp_compat, s_cet, &done);
	TEST_ASSERT(!gave_up, "KVM gave up on JMP to compatibility mode");
	if (done) {
		TEST_ASSERT_EQ(seen.vector, 0);
		TEST_ASSERT_EQ(seen.end_rsp, seen.rsp);
		return false;
	}

	TEST_ASSERT_EQ(seen.vector, GP_VECTOR);
	TEST_ASSERT_EQ(seen.error_code, 0);
	expect_untouched("JMP to compatibility mode", done);
	return true;
}

/* Move the shadow stack to above 4 GiB. */
static void widen_ssp(struct kvm_vcpu *vcpu)
{
	uint64_t *ssp = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_shadow_stack);

	virt_map(vcpu->vm, WIDE_GVA,
		 addr_gva2gpa(vcpu->vm, *ssp) & ~(PAGE_SIZE - 1), 1);
	vm_make_shadow_stack(vcpu->vm, WIDE_GVA);
	*ssp = WIDE_GVA + (*ssp & (PAGE_SIZE - 1));
}

KVM_ONE_VCPU_TEST(emulate, jmp_to_compat_with_wide_ssp, NULL)
{
	static const struct insn far_jmp = { "JMP m16:32", guest_jmp_far };

	init(vcpu, true);
	widen_ssp(vcpu);
	cet_enable(vcpu);
	TEST_ASSERT(jmp_compat_faults(vcpu, CET_SHSTK_EN),
		    "No #GP although SSP is above 4 GiB");

	/* A JMP to 64-bit code does not fault. */
	cet_enable(vcpu);
	expect_emulated(vcpu, &far_jmp, CET_SHSTK_EN);
}

/* In the second case, SSP is above 4 GiB, but the shadow stack is disabled. */
KVM_ONE_VCPU_TEST(emulate, jmp_to_compat_with_narrow_or_unused_ssp, NULL)
{
	init(vcpu, true);
	cet_enable(vcpu);
	TEST_ASSERT(!jmp_compat_faults(vcpu, CET_SHSTK_EN),
		    "#GP although SSP is below 4 GiB");

	widen_ssp(vcpu);
	cet_run(vcpu, guest_call_return, CET_SHSTK_EN);
	TEST_ASSERT(!jmp_compat_faults(vcpu, 0),
		    "#GP although there is no shadow stack");
}

/* The segment's present bit is checked before SSP. */
KVM_ONE_VCPU_TEST(emulate, jmp_to_absent_compat_with_wide_ssp, NULL)
{
	bool done;

	init(vcpu, true);
	widen_ssp(vcpu);
	set_compat_descriptor(vcpu, COMPAT_DESCRIPTOR & ~DESCRIPTOR_PRESENT);
	cet_enable(vcpu);
	vm_set_raw_handler(vcpu->vm, NP_VECTOR, guest_np_handler);
	TEST_ASSERT(!run(vcpu, guest_jmp_compat, CET_SHSTK_EN, &done),
		    "KVM gave up on JMP to a segment that is not present");
	expect_untouched("JMP to a segment that is not present", done);
	TEST_ASSERT_EQ(seen.vector, NP_VECTOR);
	TEST_ASSERT_EQ(seen.error_code, COMPAT_CS);
}

/* The control: KVM can emulate all of these. */
KVM_ONE_VCPU_TEST(emulate, all_emulated_without_cet, NULL)
{
	init(vcpu, false);
	expect_all_emulated(vcpu);
	TEST_ASSERT(!jmp_compat_faults(vcpu, 0), "#GP without CET");
}

int main(int argc, char *argv[])
{
	cet_require();
	__TEST_REQUIRE(kvm_is_forced_emulation_enabled(),
		       "Needs the parameter kvm.force_emulation_prefix=1");

	return test_harness_run(argc, argv);
}
