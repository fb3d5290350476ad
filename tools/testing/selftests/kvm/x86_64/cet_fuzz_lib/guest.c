// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's guest: it carries out the operations that the host has put into
 * its mailbox, and notes what came of them.
 */
#include "cet_fuzz.h"

struct mailbox mailboxes[NR_FUZZ_VCPUS];
uint64_t fuzz_nmi_count;

/* The part of it that XSAVES and XRSTORS of components 11 and 12 use */
struct xsave_image {
	uint8_t legacy[512];
	uint64_t xstate_bv;
	uint64_t xcomp_bv;
	uint64_t reserved[6];
	uint64_t components[8];
} __aligned(64);

static struct xsave_image image;

#define XCOMP_BV_COMPACTED	BIT_ULL(63)

/* The components are next to each other, in the compacted format. */
static const uint64_t *image_find(int i)
{
	/* cet_xsave_msrs[]: component 11 is the first and the last one. */
	if (i == 0 || i == 4)
		return &image.components[i == 4];
	return &image.components[i - 1 +
				 (image.xcomp_bv & XFEATURE_MASK_CET_USER ? 2 : 0)];
}

static uint64_t image_component(int i)
{
	return i == 0 || i == 4 ? XFEATURE_MASK_CET_USER :
				  XFEATURE_MASK_CET_KERNEL;
}

static void do_xsaves(struct guest_op *op)
{
	int i;

	memset(&image, 0, sizeof(image));
	op->vector = kvm_asm_safe("xsaves64 (%[image])", [image]"r"(&image),
				  "a"(op->index), "d"(0));
	op->ret = image.xstate_bv;
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
		op->data[i] = image.xcomp_bv & image_component(i) ?
			      *image_find(i) : 0;
}

static void do_xrstors(struct guest_op *op)
{
	int i;

	memset(&image, 0, sizeof(image));
	image.xstate_bv = op->val;
	image.xcomp_bv = XCOMP_BV_COMPACTED | op->index;
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++) {
		if (op->index & image_component(i))
			*(uint64_t *)image_find(i) = op->data[i];
	}
	op->vector = kvm_asm_safe("xrstors64 (%[image])", [image]"r"(&image),
				  "a"(op->index), "d"(0));
}

/* Set S_CET, read it, and clear it. */
static uint8_t try_s_cet(uint64_t val, uint64_t *ret)
{
	uint64_t error_code, lo = (uint32_t)val, hi = val >> 32;
	uint8_t vector;

	asm volatile(KVM_ASM_SAFE("wrmsr\n\t"
				  "endbr64\n\t"
				  "rdmsr\n\t"
				  "mov %%eax, %%esi\n\t"
				  "mov %%edx, %%edi\n\t"
				  "xor %%eax, %%eax\n\t"
				  "xor %%edx, %%edx\n\t"
				  "wrmsr")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code),
		       "+a"(lo), "+d"(hi), "=S"(*ret), "=D"(val)
		     : "c"(MSR_IA32_S_CET)
		     : KVM_ASM_SAFE_CLOBBERS);
	*ret |= val << 32;
	return vector;
}

static void access_s_cet(struct mailbox *box, struct guest_op *op)
{
	if (!box->has_cet) {
		op->vector = op->kind == GUEST_WRMSR ?
			     wrmsr_safe(op->index, op->val) :
			     rdmsr_safe(op->index, &op->ret);
		return;
	}

	op->vector = try_s_cet(op->kind == GUEST_WRMSR ? op->val : box->s_cet,
			       &op->ret);
	if (!op->vector)
		box->s_cet = op->ret;
}

static void run_payload(struct guest_op *op)
{
	static void (*const payloads[NR_PAYLOADS])(void) = {
		[CALL_RETURN] = guest_call_return,
		[SMASH_RETURN] = guest_smash_return,
		[JUMP_TO_ENDBR] = guest_jump_to_endbr,
		[JUMP_OFF_ENDBR] = guest_jump_off_endbr,
		[INTERRUPT] = fuzz_interrupt,
		[RDSSP] = fuzz_rdssp,
		[INCSSP] = fuzz_incssp,
		[WRSS] = fuzz_wrss,
	};
	struct cet_call call = {
		.arg = { (uint64_t)payloads[op->index], op->val },
	};

	if (op->val & CET_SHSTK_EN)
		wrmsr(MSR_IA32_PL0_SSP, cet_shadow_stack);
	guest_run(&call);
	op->ret = call.ret;
	op->vector = call.vector;
	op->data[0] = call.error_code;
}

void fuzz_interpret(struct mailbox *box)
{
	struct guest_op *op;
	int i;

	for (i = 0; i < box->nr_ops; i++) {
		op = &box->ops[i];
		switch (op->kind) {
		case GUEST_WRMSR:
			if (op->index == MSR_IA32_S_CET)
				access_s_cet(box, op);
			else
				op->vector = wrmsr_safe(op->index, op->val);
			break;
		case GUEST_RDMSR:
			if (op->index == MSR_IA32_S_CET)
				access_s_cet(box, op);
			else
				op->vector = rdmsr_safe(op->index, &op->ret);
			break;
		case GUEST_MOV_CR0:
			op->vector = kvm_asm_safe("mov %[val], %%cr0",
						  [val]"r"(get_cr0() ^ op->val));
			op->ret = get_cr0();
			break;
		case GUEST_MOV_CR4:
			op->vector = kvm_asm_safe("mov %[val], %%cr4",
						  [val]"r"(get_cr4() ^ op->val));
			op->ret = get_cr4();
			break;
		case GUEST_XSAVES:
			do_xsaves(op);
			break;
		case GUEST_XRSTORS:
			do_xrstors(op);
			break;
		case GUEST_PAYLOAD:
			run_payload(op);
			break;
		case GUEST_VMLAUNCH:
			fuzz_nested(box);
			break;
		}
	}
}
