/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Guest code that runs with CET enabled.  In assembly, so that each CALL, RET
 * and indirect JMP is the one that the test means, and none is the compiler's.
 */

/* Offsets in struct cet_call */
#define CALL_ARG0		8
#define CALL_ARG1		16
#define CALL_RET		24
#define CALL_VECTOR		32
#define CALL_ERROR_CODE		40
#define CALL_RECOVERY_RSP	48

/* Their headers do not lend themselves to assembly. */
#define MSR_IA32_S_CET		0x6a2
#define GP_VECTOR		13
#define PF_VECTOR		14
#define CP_VECTOR		21
#define CET_PORT		0x80

/* IA32_S_CET = RAX */
.macro WRITE_S_CET
	mov	%rax, %rdx
	shr	$32, %rdx
	mov	$MSR_IA32_S_CET, %ecx
	wrmsr
.endm

/*
 * void guest_run(struct cet_call *call): run the payload arg[0] with
 * IA32_S_CET = arg[1].  With arg[1] == 0 leave the MSR alone, so that the
 * payload also runs on a vCPU that has no such MSR.
 */
.global guest_run
guest_run:
	push	%rbx
	mov	%rdi, %rbx
	mov	%rdi, guest_running(%rip)
	mov	%rsp, CALL_RECOVERY_RSP(%rbx)

	mov	CALL_ARG1(%rbx), %rax
	test	%rax, %rax
	jz	1f

	/*
	 * The token at the top of the shadow stack is its own address, plus a
	 * busy bit that SETSSBSY wants clear, and sets.  The shadow stack is
	 * not writable, so write through the page's other mapping.
	 */
	mov	cet_shadow_stack(%rip), %rcx
	mov	cet_shadow_stack_alias(%rip), %rdx
	mov	%rcx, (%rdx)

	WRITE_S_CET
	testb	$1, CALL_ARG1(%rbx)
	jz	1f
	setssbsy
1:
	/* An indirect CALL: with ENDBR_EN the payload has to begin so. */
	call	*CALL_ARG0(%rbx)
	mov	%rax, CALL_RET(%rbx)
guest_run_end:
	/* The RETs from here on have no frame on this shadow stack. */
	mov	CALL_ARG1(%rbx), %rax
	test	%rax, %rax
	jz	1f
	xor	%eax, %eax
	WRITE_S_CET
1:
	movq	$0, guest_running(%rip)
	pop	%rbx
	ret

/*
 * The handler of #CP.  Its delivery counts as an indirect branch: ENDBR64.
 * A #CP in a payload ends that payload, the handler leaves without IRET.  Any
 * other is counted, for tests that have KVM inject one.
 */
.macro END_PAYLOAD vector
	mov	guest_running(%rip), %rbx
	movq	$\vector, CALL_VECTOR(%rbx)
	pop	CALL_ERROR_CODE(%rbx)
	mov	CALL_RECOVERY_RSP(%rbx), %rsp
	jmp	guest_run_end
.endm

.global guest_cp_handler
guest_cp_handler:
	endbr64
	cmpq	$0, guest_running(%rip)
	je	1f
	END_PAYLOAD CP_VECTOR
1:
	incq	cet_cp_count(%rip)
	pop	cet_cp_error_code(%rip)
	iretq

.global guest_gp_handler
guest_gp_handler:
	endbr64
	END_PAYLOAD GP_VECTOR

.global guest_pf_handler
guest_pf_handler:
	endbr64
	END_PAYLOAD PF_VECTOR

.global guest_call_return
guest_call_return:
	endbr64
	call	1f
	mov	$1, %eax
	ret
1:	ret

.global guest_exit_and_return
guest_exit_and_return:
	endbr64
	call	1f
	mov	$1, %eax
	ret
1:	out	%al, $CET_PORT
	ret

.global guest_smash_return
guest_smash_return:
	endbr64
	call	1f
	xor	%eax, %eax
	ret
1:	lea	2f(%rip), %rax
	mov	%rax, (%rsp)
	ret
2:	mov	$1, %eax
	ret

.global guest_jump_to_endbr
guest_jump_to_endbr:
	endbr64
	lea	1f(%rip), %rax
	jmp	*%rax
1:	endbr64
	mov	$1, %eax
	ret

.global guest_jump_off_endbr
guest_jump_off_endbr:
	endbr64
	lea	1f(%rip), %rax
	jmp	*%rax
1:	mov	$1, %eax
	ret

/*
 * For the page below 4 GiB at which a processor starts, in real mode: OR all
 * CET MSRs together, and OUT the result.  The vector is the page's last 16
 * bytes, from where it jumps back to the code at the page's start.
 */
.pushsection .rodata
.code16
.global guest_init_page
guest_init_page:
	xor	%ebx, %ebx
.irp msr, 0x6a0, 0x6a2, 0x6a4, 0x6a5, 0x6a6, 0x6a7, 0x6a8
	mov	$\msr, %ecx
	rdmsr
	or	%eax, %ebx
	or	%edx, %ebx
.endr
	mov	%ebx, %eax
	out	%eax, $CET_PORT
.org guest_init_page + 0xff0
	jmp	guest_init_page
.org guest_init_page + 0x1000
.code64
.popsection

.pushsection .data
.balign 8
guest_running:
	.quad	0
.popsection

.section        .note.GNU-stack, "", %progbits
