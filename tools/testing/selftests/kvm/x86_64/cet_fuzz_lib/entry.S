/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where cet_fuzz's guest begins and ends a run, with whatever S_CET the host or
 * the guest itself has set; its handlers; and what it does on shadow stacks.
 */
#include "cet_fuzz.h"

#define MSR_IA32_S_CET		0x6a2
#define HOST_RSP		0x6c14
#define HOST_RIP		0x6c16

/* Offsets in struct nested_op */
#define NESTED_L2_S_CET		0
#define NESTED_L1_S_CET		16
#define NESTED_HAS_CET		24

/* \to = IA32_S_CET, if the vCPU has it */
.macro READ_S_CET has, to
	cmpq	$0, \has
	je	100f
	mov	$MSR_IA32_S_CET, %ecx
	rdmsr
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, \to
100:
.endm

.macro CLEAR_S_CET has
	cmpq	$0, \has
	je	100f
	mov	$MSR_IA32_S_CET, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
100:
.endm

.macro FORGET_SCRATCH_REGISTERS
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
.endm

/*
 * void fuzz_entry(struct mailbox *box): all that runs with S_CET in effect does
 * not touch the shadow stack, and begins with ENDBR64 after whatever can make
 * the tracker wait for one.
 */
.global fuzz_entry
fuzz_entry:
	endbr64
	mov	%rdi, %rbx
	/* It is aligned as if there was a return address. */
	sub	$8, %rsp
1:
	READ_S_CET BOX_HAS_CET(%rbx), BOX_S_CET(%rbx)
	CLEAR_S_CET BOX_HAS_CET(%rbx)
	mov	%rbx, %rdi
	call	fuzz_interpret
	cmpq	$0, BOX_HAS_CET(%rbx)
	je	3f
	mov	$MSR_IA32_S_CET, %ecx
	mov	BOX_S_CET(%rbx), %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	wrmsr
	endbr64
3:
	/* User space compares what is in registers. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	FORGET_SCRATCH_REGISTERS
	out	%al, $FUZZ_PORT
	endbr64
	jmp	1b

.global fuzz_nmi_handler
fuzz_nmi_handler:
	endbr64
	incq	fuzz_nmi_count(%rip)
	iretq

.global fuzz_int_handler
fuzz_int_handler:
	endbr64
	iretq

/* Payloads for guest_run(), see cet.h; RAX is what they return. */
.global fuzz_interrupt
fuzz_interrupt:
	endbr64
	int	$FUZZ_INT_VECTOR
	mov	$1, %eax
	ret

/* How far SSP is below the token, which is at the page's top. */
.global fuzz_rdssp
fuzz_rdssp:
	endbr64
	mov	cet_shadow_stack(%rip), %rax
	rdsspq	%rax
	sub	cet_shadow_stack(%rip), %rax
	ret

/* Leave a function without RET.  A CALL of what follows it would not push. */
.global fuzz_incssp
fuzz_incssp:
	endbr64
	call	1f
	ud2
1:	add	$8, %rsp
	mov	$1, %eax
	incsspq	%rax
	ret

/* Write to the shadow stack, and read that. */
.global fuzz_wrss
fuzz_wrss:
	endbr64
	mov	cet_shadow_stack(%rip), %rcx
	mov	$0x123456789abcdef, %rdx
	wrssq	%rdx, -256(%rcx)
	xor	%eax, %eax
	cmp	%rdx, -256(%rcx)
	sete	%al
	movq	$0, %rdx
	wrssq	%rdx, -256(%rcx)
	ret

/*
 * uint64_t fuzz_vmlaunch(struct nested_op *nested): VM exit may load any S_CET
 * and SSP.
 */
.global fuzz_vmlaunch
fuzz_vmlaunch:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi
	mov	$HOST_RSP, %eax
	vmwrite	%rsp, %rax
	mov	$HOST_RIP, %eax
	lea	1f(%rip), %rdx
	vmwrite	%rdx, %rax
	mov	%rdi, %rbx
	vmlaunch
	pushf
	pop	%rax
	jmp	2f
1:
	endbr64
	mov	(%rsp), %rbx
	READ_S_CET NESTED_HAS_CET(%rbx), NESTED_L1_S_CET(%rbx)
	CLEAR_S_CET NESTED_HAS_CET(%rbx)
	xor	%eax, %eax
2:
	pop	%rdi
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

/* L2: RBX is fuzz_vmlaunch()'s. */
.global fuzz_l2
fuzz_l2:
	endbr64
	READ_S_CET NESTED_HAS_CET(%rbx), NESTED_L2_S_CET(%rbx)
	FORGET_SCRATCH_REGISTERS
	out	%al, $FUZZ_L2_PORT
	endbr64
	READ_S_CET NESTED_HAS_CET(%rbx), NESTED_L2_S_CET+8(%rbx)
	vmcall

.section        .note.GNU-stack, "", %progbits
