// SPDX-License-Identifier: GPL-2.0
/*
 * Has the kernel call a function by a pointer, first where it begins with
 * ENDBR64, then behind that, which indirect branch tracking must not let pass.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>

#include <asm/ibt.h>
#include <asm/nospec-branch.h>

static noinline void call_me(void)
{
	barrier();
}

/* A retpoline would be no indirect branch. */
static void call_pointer(unsigned long pointer)
{
	asm volatile(ANNOTATE_RETPOLINE_SAFE
		     "call *%[pointer]"
		     : ASM_CALL_CONSTRAINT
		     : [pointer] "r" (pointer)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
}

static int __init indirect_call_init(void)
{
	unsigned long pointer = (unsigned long)call_me;

	OPTIMIZER_HIDE_VAR(pointer);
	if (!is_endbr(*(u32 *)pointer))
		return -ENOEXEC;

	call_pointer(pointer);
	pr_info("with ENDBR64: returned\n");
	call_pointer(pointer + ENDBR_INSN_SIZE);
	pr_info("without ENDBR64: returned\n");

	/* There is no more to it. */
	return -ECANCELED;
}
module_init(indirect_call_init);

MODULE_DESCRIPTION("Indirect calls with and without ENDBR64");
MODULE_LICENSE("GPL");
