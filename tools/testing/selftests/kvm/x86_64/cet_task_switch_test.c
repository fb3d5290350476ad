// SPDX-License-Identifier: GPL-2.0
/*
 * Hardware task switches, which KVM emulates.  With shadow stacks or indirect
 * branch tracking enabled, it exits to user space instead, and does nothing:
 * neither instruction nor event is lost.
 */
#include "kvm_test_harness.h"
#include "cet.h"

/* All of this is in one slot, at physical addresses: there is no paging. */
#define BASE			0x2000000
#define CODE			BASE
#define TASK_CODE		(BASE + 0x100)
#define IDT			(BASE + 0x200)
#define GDT			(BASE + 0x1000)
#define TSS			(BASE + 0x2000)
#define TASK_TSS		(BASE + 0x2100)
#define PAGES			3
#define STACK			(BASE + PAGES * PAGE_SIZE)
#define SLOT			10

/* Selectors */
#define CS			0x08
#define DS			0x10
#define TSS_SEL			0x18
#define TASK_TSS_SEL		0x20

#define EFLAGS_NT		BIT(14)
#define EFLAGS_RF		BIT(16)

/* Types of descriptors, with "present" */
#define TASK_GATE		0x85ull
#define AVAILABLE_TSS		0x89
#define BUSY_TSS		0x8b

/* The task state segment, as far as it matters to a switch at CPL 0 */
struct tss32 {
	uint32_t unused[7];
	uint32_t cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint32_t iomap, ssp;
};

static const uint8_t jmp_to_task[] = {
	0xea, 0, 0, 0, 0, TASK_TSS_SEL, 0,	/* ljmp $TASK_TSS_SEL, $0 */
};

static const uint8_t task[] = {
	0xe6, CET_PORT,				/* out %al, $CET_PORT */
};

FIXTURE(task_switch)
{
	struct kvm_vcpu *vcpu;
};

static uint64_t tss_descriptor(uint64_t base, uint64_t type)
{
	return (sizeof(struct tss32) - 1) | (base & 0xffffff) << 16 |
	       type << 40 | (base >> 24) << 56;
}

/* The vCPU is at jmp_to_task, in 32-bit mode.  An NMI starts the task, too. */
FIXTURE_SETUP(task_switch)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, true, true);
	struct kvm_segment cs = {
		.limit = 0xffffffff, .selector = CS, .type = 0xb, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_segment ds = cs;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	uint64_t *gdt, *idt;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, BASE, SLOT, PAGES,
				    0);
	memcpy(addr_gpa2hva(vm, CODE), jmp_to_task, sizeof(jmp_to_task));
	memcpy(addr_gpa2hva(vm, TASK_CODE), task, sizeof(task));

	gdt = addr_gpa2hva(vm, GDT);
	gdt[CS / 8] = 0x00cf9b000000ffff;
	gdt[DS / 8] = 0x00cf93000000ffff;
	gdt[TSS_SEL / 8] = tss_descriptor(TSS, BUSY_TSS);
	gdt[TASK_TSS_SEL / 8] = tss_descriptor(TASK_TSS, AVAILABLE_TSS);

	idt = addr_gpa2hva(vm, IDT);
	idt[NMI_VECTOR] = TASK_GATE << 40 | TASK_TSS_SEL << 16;

	*(struct tss32 *)addr_gpa2hva(vm, TASK_TSS) = (struct tss32) {
		.eip = TASK_CODE, .eflags = X86_EFLAGS_FIXED, .esp = STACK,
		.cs = CS, .ss = DS, .ds = DS, .es = DS, .fs = DS, .gs = DS,
	};

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.cr0 &= ~X86_CR0_PG;
	sregs.cr4 = 0;
	sregs.efer = 0;
	sregs.cs = cs;
	ds.selector = DS;
	ds.type = 3;
	sregs.ds = ds;
	sregs.es = ds;
	sregs.ss = ds;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = TASK_TSS_SEL + 7;
	sregs.idt.base = IDT;
	sregs.idt.limit = NMI_VECTOR * 8 + 7;
	sregs.tr.base = TSS;
	sregs.tr.limit = sizeof(struct tss32) - 1;
	sregs.tr.selector = TSS_SEL;
	vcpu_sregs_set(self->vcpu, &sregs);

	vcpu_regs_get(self->vcpu, &regs);
	regs.rip = CODE;
	vcpu_regs_set(self->vcpu, &regs);
}

FIXTURE_TEARDOWN(task_switch)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_cr4_cet(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_CET;
	TEST_ASSERT(!_vcpu_sregs_set(vcpu, &sregs),
		    "KVM_SET_SREGS refused CR4.CET");
}

static void expect_switched(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_IO,
		    "No task switch: exit reason %u", vcpu->run->exit_reason);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.tr.selector, TASK_TSS_SEL);
}

static void expect_refused(struct kvm_vcpu *vcpu)
{
	void *mem = addr_gpa2hva(vcpu->vm, BASE);
	struct kvm_sregs sregs_before, sregs;
	struct kvm_regs regs_before, regs;
	uint8_t before[PAGES * PAGE_SIZE];
	struct kvm_run *run = vcpu->run;

	memcpy(before, mem, sizeof(before));
	vcpu_sregs_get(vcpu, &sregs_before);
	vcpu_regs_get(vcpu, &regs_before);
	vcpu_run(vcpu);
	TEST_ASSERT(run->exit_reason == KVM_EXIT_INTERNAL_ERROR,
		    "Task switch with CET: exit reason %u", run->exit_reason);
	TEST_ASSERT_EQ(run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);

	vcpu_sregs_get(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT_EQ(regs.rip, regs_before.rip);
	/* RF may be set after an exit amid the delivery of an event. */
	regs.rflags &= ~EFLAGS_RF;
	TEST_ASSERT(!memcmp(&sregs, &sregs_before, sizeof(sregs)) &&
		    !memcmp(&regs, &regs_before, sizeof(regs)),
		    "The task switch has changed registers");
	TEST_ASSERT(!memcmp(mem, before, sizeof(before)),
		    "The task switch has changed memory");
}

/* The control: KVM can do this. */
TEST_F(task_switch, done_without_cet)
{
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SHSTK);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_IBT);
	expect_switched(self->vcpu);
}

TEST_F(task_switch, done_with_cr4_cet_clear)
{
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_SHSTK_EN | CET_ENDBR_EN);
	cet_set_msr(self->vcpu, MSR_IA32_U_CET, CET_SHSTK_EN | CET_ENDBR_EN);
	expect_switched(self->vcpu);
}

/* Bits that enable nothing by themselves don't matter. */
TEST_F(task_switch, done_with_nothing_enabled)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_NO_TRACK_EN);
	cet_set_msr(self->vcpu, MSR_IA32_U_CET, CET_WRSS_EN);
	expect_switched(self->vcpu);
}

TEST_F(task_switch, refused_with_s_cet_shstk)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_SHSTK_EN);
	expect_refused(self->vcpu);
}

TEST_F(task_switch, refused_with_s_cet_endbr)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_ENDBR_EN);
	expect_refused(self->vcpu);
}

TEST_F(task_switch, refused_with_u_cet_shstk)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_U_CET, CET_SHSTK_EN);
	expect_refused(self->vcpu);
}

TEST_F(task_switch, refused_with_u_cet_endbr)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_U_CET, CET_ENDBR_EN);
	expect_refused(self->vcpu);
}

/* What user space can do: turn CET off, and run on. */
TEST_F(task_switch, done_after_cet_is_off)
{
	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_ENDBR_EN);
	expect_refused(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, 0);
	expect_switched(self->vcpu);
}

TEST_F(task_switch, nmi_done_after_cet_is_off)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	set_cr4_cet(self->vcpu);
	cet_set_msr(self->vcpu, MSR_IA32_S_CET, CET_ENDBR_EN);
	vcpu_ioctl(self->vcpu, KVM_NMI, NULL);
	expect_refused(self->vcpu);
	vcpu_events_get(self->vcpu, &events);
	TEST_ASSERT(events.nmi.injected, "The NMI is lost");

	cet_set_msr(self->vcpu, MSR_IA32_S_CET, 0);
	expect_switched(self->vcpu);
	vcpu_regs_get(self->vcpu, &regs);
	TEST_ASSERT(regs.rflags & EFLAGS_NT, "It was the JMP");
}

int main(int argc, char *argv[])
{
	cet_require();

	return test_harness_run(argc, argv);
}
