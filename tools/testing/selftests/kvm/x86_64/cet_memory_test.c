// SPDX-License-Identifier: GPL-2.0
/*
 * Shadow stacks as memory: they are logged as dirty, page faults are reported
 * as those of shadow stack accesses, and KVM does not emulate what it can't.
 * An ordinary stack may share its page with a page table that KVM shadows.
 */
#include <linux/bitmap.h>
#include <signal.h>

#include "kvm_test_harness.h"
#include "cet.h"

/* A shadow stack in a slot of its own, most of which stays untouched */
#define STACK_GPA		0x3000000
#define STACK_GVA		0x7d0000000000ull
#define STACK_SLOT		10
#define STACK_PAGES		16
#define STACK_TOKEN		(STACK_PAGES * PAGE_SIZE - sizeof(uint64_t))

/* Deep enough for another two pages */
#define CALLS			(2 * PAGE_SIZE / sizeof(uint64_t) + 16)
#define TOUCHED_PAGES		3

#define PFERR_SS_MASK		BIT(6)

/* An address that has a page directory of its own, and that as a stack */
#define MAPPED_GVA		0x700000000000ull
#define DIRECTORY_GVA		0x710000000000ull
#define DIRECTORY_STACK		(DIRECTORY_GVA + PAGE_SIZE - 64)
#define VECTOR			0x40

static __attribute__((naked)) void guest_call_deeply(void)
{
	asm("endbr64\n"
	    "mov %0, %%ecx\n"
	    "call 1f\n"
	    "mov $1, %%eax\n"
	    "ret\n"
	    "1: dec %%ecx\n"
	    "jz 2f\n"
	    "call 1b\n"
	    "2: ret\n" : : "i"(CALLS));
}

static __attribute__((naked)) void guest_mov_to_shadow_stack(void)
{
	asm("endbr64\n"
	    "mov cet_shadow_stack(%rip), %rcx\n"
	    "xor %eax, %eax\n"
	    "mov %rax, -64(%rcx)\n"
	    "mov $1, %eax\n"
	    "ret\n");
}

static __attribute__((naked)) void guest_wrss_to_shadow_stack(void)
{
	asm("endbr64\n"
	    "mov cet_shadow_stack(%rip), %rcx\n"
	    "xor %eax, %eax\n"
	    "wrssq %rax, -64(%rcx)\n"
	    "mov $1, %eax\n"
	    "ret\n");
}

static __attribute__((naked)) void guest_wrss_to_data(void)
{
	asm("endbr64\n"
	    "mov cet_shadow_stack_alias(%rip), %rcx\n"
	    "xor %eax, %eax\n"
	    "wrssq %rax, -64(%rcx)\n"
	    "mov $1, %eax\n"
	    "ret\n");
}

static void init(struct kvm_vcpu *vcpu)
{
	vm_init_cet(vcpu->vm);
	vcpu_init_cet(vcpu, true, true);
	cet_enable(vcpu);
}

/* Have cet_run() use a shadow stack that is in a slot with @flags. */
static void init_slot(struct kvm_vcpu *vcpu, uint32_t flags)
{
	struct kvm_vm *vm = vcpu->vm;
	int i;

	init(vcpu);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, STACK_GPA,
				    STACK_SLOT, STACK_PAGES, flags);
	virt_map(vm, STACK_GVA, STACK_GPA, STACK_PAGES);
	for (i = 0; i < STACK_PAGES; i++)
		vm_make_shadow_stack(vm, STACK_GVA + i * PAGE_SIZE);

	write_guest_global(vm, cet_shadow_stack, STACK_GVA + STACK_TOKEN);
}

static void call_deeply(struct kvm_vcpu *vcpu)
{
	uint64_t *token = addr_gpa2hva(vcpu->vm, STACK_GPA + STACK_TOKEN);
	struct cet_call *call;

	*token = STACK_GVA + STACK_TOKEN;
	call = cet_run(vcpu, guest_call_deeply, CET_SHSTK_EN);
	TEST_ASSERT(!call->vector, "Vector %lu, error code %lu", call->vector,
		    call->error_code);
	TEST_ASSERT_EQ(call->ret, 1);
}

/* Use the stack, and check that its pages are logged as dirty. */
static void expect_logged(struct kvm_vcpu *vcpu)
{
	unsigned long log = 0;

	call_deeply(vcpu);
	kvm_vm_get_dirty_log(vcpu->vm, STACK_SLOT, &log);
	TEST_ASSERT(log == GENMASK(STACK_PAGES - 1, STACK_PAGES - TOUCHED_PAGES),
		    "Dirty pages of the shadow stack: 0x%lx", log);
}

KVM_ONE_VCPU_TEST_SUITE(memory);

KVM_ONE_VCPU_TEST(memory, dirty_log, NULL)
{
	unsigned long log;

	init_slot(vcpu, 0);
	call_deeply(vcpu);

	/* The pages are mapped already when logging begins. */
	vm_mem_region_set_flags(vcpu->vm, STACK_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	expect_logged(vcpu);
	expect_logged(vcpu);

	/* Nothing is in the log but what the guest does. */
	kvm_vm_get_dirty_log(vcpu->vm, STACK_SLOT, &log);
	TEST_ASSERT_EQ(log, 0);
}

/* The pages get mapped while KVM logs. */
KVM_ONE_VCPU_TEST(memory, dirty_log_from_start, NULL)
{
	init_slot(vcpu, KVM_MEM_LOG_DIRTY_PAGES);
	expect_logged(vcpu);
}

/* KVM would have to emulate writes that the slot refuses: it exits instead. */
KVM_ONE_VCPU_TEST(memory, read_only_slot, NULL)
{
	uint64_t *token;

	init_slot(vcpu, KVM_MEM_READONLY);
	token = addr_gpa2hva(vcpu->vm, STACK_GPA + STACK_TOKEN);
	*token = STACK_GVA + STACK_TOKEN;
	cet_prepare_run(vcpu, guest_call_return, CET_SHSTK_EN);
	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR,
		    "Exit reason %u", vcpu->run->exit_reason);
	TEST_ASSERT_EQ(vcpu->run->internal.suberror,
		       KVM_INTERNAL_ERROR_EMULATION);
	TEST_ASSERT_EQ(*token, STACK_GVA + STACK_TOKEN);
}

/* KVM's own walk of the page table */
KVM_ONE_VCPU_TEST(memory, translate, NULL)
{
	struct kvm_translation tr = {};

	init_slot(vcpu, 0);
	tr.linear_address = STACK_GVA + STACK_TOKEN;
	vcpu_ioctl(vcpu, KVM_TRANSLATE, &tr);
	TEST_ASSERT(tr.valid, "KVM_TRANSLATE finds no shadow stack");
	TEST_ASSERT_EQ(tr.physical_address, STACK_GPA + STACK_TOKEN);
}

static void expect_pf(struct kvm_vcpu *vcpu, void (*payload)(void),
		      uint64_t error_code)
{
	struct cet_call *call;

	call = cet_run(vcpu, payload, CET_SHSTK_EN | CET_WRSS_EN);
	TEST_ASSERT_EQ(call->vector, error_code ? PF_VECTOR : 0);
	TEST_ASSERT_EQ(call->error_code, error_code);
	TEST_ASSERT_EQ(call->ret, !error_code);
}

KVM_ONE_VCPU_TEST(memory, page_fault_error_codes, NULL)
{
	const uint64_t write = PFERR_PRESENT_MASK | PFERR_WRITE_MASK;

	init(vcpu);
	vm_set_raw_handler(vcpu->vm, PF_VECTOR, guest_pf_handler);
	expect_pf(vcpu, guest_wrss_to_shadow_stack, 0);
	expect_pf(vcpu, guest_mov_to_shadow_stack, write);
	expect_pf(vcpu, guest_wrss_to_data, write | PFERR_SS_MASK);
}

static __attribute__((naked)) void handle_vector(void)
{
	asm("endbr64\n"
	    "mov %rbx, %rsp\n"
	    "jmp *%r12\n");
}

static void on_alarm(int signal)
{
}

/* Use the directory, then have an INT use the stack at arg[0] in it. */
static void guest_int_on_directory(struct cet_call *call)
{
	for (; call->ret < call->arg[1]; call->ret++) {
		READ_ONCE(*(uint64_t *)MAPPED_GVA);
		asm volatile("mov %%rsp, %%rbx\n"
			     "lea 1f(%%rip), %%r12\n"
			     "mov %0, %%rsp\n"
			     "int $" __stringify(VECTOR) "\n"
			     "1:\n"
			     : : "r"(call->arg[0]) : "rbx", "r12", "memory");
	}
}

/* Without EPT, KVM write-protects the directory whenever it has been used. */
static void map_directory(struct kvm_vcpu *vcpu)
{
	struct kvm_vm *vm = vcpu->vm;
	int level = PG_LEVEL_2M;
	uint64_t *directory;

	vm_init_cet(vm);
	vcpu_init_cet(vcpu, false, false);
	virt_map(vm, MAPPED_GVA, 0, 1);
	directory = __vm_get_page_table_entry(vm, MAPPED_GVA, &level);
	virt_map(vm, DIRECTORY_GVA, addr_hva2gpa(vm, directory), 1);
}

KVM_ONE_VCPU_TEST(memory, stack_in_page_directory, NULL)
{
	map_directory(vcpu);
	vm_set_raw_handler(vcpu->vm, VECTOR, handle_vector);

	/* The entries there map nothing. */
	TEST_ASSERT_EQ(cet_call(vcpu, guest_int_on_directory, DIRECTORY_STACK,
				2)->ret, 2);
}

/* The same by an exception in user mode. */
static void guest_ud_in_user_mode(struct cet_call *call)
{
	READ_ONCE(*(uint64_t *)MAPPED_GVA);
	asm volatile("mov %%rsp, %%rbx\n"
		     "lea 1f(%%rip), %%r12\n"
		     "lea 2f(%%rip), %%rax\n"
		     "push %0\n"
		     "push %%rbx\n"
		     "pushfq\n"
		     "push %1\n"
		     "push %%rax\n"
		     "iretq\n"
		     "2: ud2\n"
		     "1:\n"
		     : : "r"((uint64_t)USER_DS), "r"((uint64_t)USER_CS)
		     : "rax", "rbx", "r12", "memory");
	call->ret = 1;
}

KVM_ONE_VCPU_TEST(memory, kernel_stack_in_page_directory, NULL)
{
	const struct sigaction action = { .sa_handler = on_alarm };
	struct kvm_vm *vm = vcpu->vm;
	uint64_t *rsp0;
	int r;

	map_directory(vcpu);
	vm_set_raw_handler(vm, UD_VECTOR, handle_vector);
	vm_init_user_mode(vm);
	vm_make_supervisor(vm, DIRECTORY_GVA);
	rsp0 = addr_gva2hva(vm, vm->arch.tss + TSS_RSP0);
	*rsp0 = DIRECTORY_STACK;

	cet_prepare(vcpu, guest_ud_in_user_mode, 0, 0);
	sigaction(SIGALRM, &action, NULL);
	alarm(2);
	r = __vcpu_run(vcpu);
	alarm(0);
	TEST_ASSERT(!r, "KVM_RUN did not end by itself, errno %d", errno);
	TEST_ASSERT_EQ(cet_finish(vcpu)->ret, 1);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_READONLY_MEM));

	return test_harness_run(argc, argv);
}
