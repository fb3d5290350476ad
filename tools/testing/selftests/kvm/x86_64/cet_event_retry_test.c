// SPDX-License-Identifier: GPL-2.0
/*
 * Events whose delivery writes to page directories of L1's EPT, which KVM
 * shadows and write-protects.  CET is off.
 */
#include <signal.h>
#include <sys/time.h>

#include "kvm_test_harness.h"
#include "cet.h"
#include "vmx.h"

/* Page directories for the third and the second GiB of L2's memory, or both */
#define DIR2_GPA	0x50000000ull
#define DIR1_GPA	0x90000000ull
#define DIR3_GPA	0x20000000ull
#define DIR2_SLOT	10
#define DIR1_SLOT	11
#define DIR3_SLOT	12

/* DIR1 and what comes behind it in virtual memory, and DIR2 */
#define DIR1_GVA	0x60000000ull
#define DIR2_GVA	0x70000000ull

/*
 * Page directories for GiB 4 and up of L2's memory, and a page of each such
 * GiB, in virtual memory.  L2's EPT maps the page table there already.
 */
#define NR_DIRS		20
#define DIRS_GPA	0x30000000ull
#define DIRS_SLOT	13
#define DIRS_GVA	(DIR1_GVA + 0x40000)
#define L2_GPA(i)	((uint64_t)((i) + 4) << 30)
#define L2_GVA		(DIR1_GVA + 0x80000)

#define INT_VECTOR	0x41

#define NR_PUSHES	12

#define EPT_RWX		0x7
#define EPT_WB		(6 << 3)
#define EPT_2M		BIT_ULL(7)

/* Guest data */
static struct vmx_pages *vmx;
uint64_t nmis;

static __attribute__((naked)) void handle_nmi(void)
{
	asm("incq nmis(%rip)\n\t"
	    "iretq");
}

static __attribute__((naked)) void handle_ud(void)
{
	asm("vmcall");
}

static __attribute__((naked)) void handle_int(void)
{
	asm("iretq");
}

static void l2_read(void)
{
	READ_ONCE(*(uint64_t *)DIR1_GVA);
	vmcall();
}

/* The frame of the exception crosses into the next page. */
static void l2_ud(void)
{
	asm volatile("mov %0, %%rsp\n\t"
		     "ud2" : : "r"(DIR1_GVA + PAGE_SIZE + 16));
}

static void run_l2(void *code)
{
	GUEST_ASSERT(load_vmcs(vmx));
	guest_prepare_l2_vmcs(vmx, code);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

/* User space injects an event that comes before the PUSH. */
static noinline void out_and_push(uint64_t rsp)
{
	asm volatile("mov %%rsp, %%rbx\n\t"
		     "mov %0, %%rsp\n\t"
		     "out %%al, %1\n\t"
		     "push %%rax\n\t"
		     "mov %%rbx, %%rsp"
		     : : "r"(rsp), "i"(CET_PORT) : "rbx", "memory");
}

static void guest_push(struct cet_call *call)
{
	int i;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	for (i = 0; i < NR_PUSHES; i++) {
		/* KVM write-protects the directory again. */
		run_l2(l2_read);
		out_and_push(DIR2_GVA + PAGE_SIZE / 2);
	}
	call->ret = nmis;
}

static void l2_read_all(void)
{
	int i;

	for (i = 0; i < NR_DIRS; i++)
		READ_ONCE(*(uint64_t *)(L2_GVA + i * PAGE_SIZE));
	vmcall();
}

static noinline void int_on(uint64_t rsp)
{
	asm volatile("mov %%rsp, %%rbx\n\t"
		     "mov %0, %%rsp\n\t"
		     "int %1\n\t"
		     "mov %%rbx, %%rsp"
		     : : "r"(rsp), "i"(INT_VECTOR) : "rbx", "memory");
}

/* One event comes after the other, and nothing else exits in between. */
static void guest_int(struct cet_call *call)
{
	int i;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	run_l2(l2_read_all);
	for (i = 0; i < NR_DIRS; i++)
		int_on(DIRS_GVA + i * PAGE_SIZE + PAGE_SIZE / 2);
	call->ret = i;
}

static void guest_ud(struct cet_call *call)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	run_l2(l2_ud);
}

/* Map the page of a directory in another one. */
static void map_dir(struct kvm_vm *vm, uint64_t dir_gpa, uint64_t gpa)
{
	uint64_t *dir = addr_gpa2hva(vm, dir_gpa);

	dir[gpa >> 21 & 511] = (gpa & GENMASK_ULL(51, 21)) | EPT_RWX | EPT_WB |
			       EPT_2M;
}

FIXTURE(retry)
{
	struct kvm_vcpu *vcpu;
	uint64_t *pdpt;
};

FIXTURE_SETUP(retry)
{
	struct kvm_vm *vm = vm_create_cet(&self->vcpu, false, false);
	uint64_t *pml4;
	struct vmx_pages *pages;
	vm_vaddr_t gva;

	pages = vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DIR2_GPA,
				    DIR2_SLOT, 1, 0);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DIR1_GPA,
				    DIR1_SLOT, 1, 0);
	virt_map(vm, DIR1_GVA, DIR1_GPA, 1);
	virt_map(vm, DIR1_GVA + PAGE_SIZE, DIR2_GPA, 1);
	virt_map(vm, DIR2_GVA, DIR2_GPA, 1);

	prepare_eptp(pages, vm, 0);
	nested_map_memslot(pages, vm, 0);
	pml4 = pages->eptp_hva;
	self->pdpt = addr_gpa2hva(vm, pml4[0] & GENMASK_ULL(51, 12));
	self->pdpt[1] = DIR1_GPA | EPT_RWX;
	self->pdpt[2] = DIR2_GPA | EPT_RWX;

	/* Each of the two directories maps the other one. */
	map_dir(vm, DIR1_GPA, DIR2_GPA);
	map_dir(vm, DIR2_GPA, DIR1_GPA);

	vm_set_raw_handler(vm, INT_VECTOR, handle_int);
	vm_set_raw_handler(vm, NMI_VECTOR, handle_nmi);
	vm_set_raw_handler(vm, UD_VECTOR, handle_ud);
}

FIXTURE_TEARDOWN(retry)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_to_out(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
}

/* That the PUSH was retried at this RIP and address doesn't count for the NMI. */
TEST_F(retry, event_after_instruction)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	int i;

	cet_prepare(vcpu, guest_push, 0, 0);
	run_to_out(vcpu);
	for (i = 1; i < NR_PUSHES; i++) {
		run_to_out(vcpu);
		vcpu_ioctl(vcpu, KVM_NMI, NULL);
	}
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(cet_finish(vcpu)->ret, NR_PUSHES - 1);
}

/* Each event is another one, however many KVM retries in a row. */
TEST_F(retry, events_in_a_row)
{
	struct kvm_vm *vm = self->vcpu->vm;
	uint64_t gpa, *dir;
	int i;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DIRS_GPA,
				    DIRS_SLOT, NR_DIRS, 0);
	virt_map(vm, DIRS_GVA, DIRS_GPA, NR_DIRS);
	for (i = 0; i < NR_DIRS; i++) {
		gpa = DIRS_GPA + i * PAGE_SIZE;
		virt_map(vm, L2_GVA + i * PAGE_SIZE, L2_GPA(i), 1);
		self->pdpt[L2_GPA(i) >> 30] = gpa | EPT_RWX;
		dir = addr_gpa2hva(vm, gpa);
		dir[0] = EPT_RWX | EPT_WB | EPT_2M;
	}

	cet_prepare(self->vcpu, guest_int, 0, 0);
	vcpu_run(self->vcpu);
	TEST_ASSERT_EQ(cet_finish(self->vcpu)->ret, NR_DIRS);
}

static void on_alarm(int signal)
{
}

static void run_to_error(struct kvm_vcpu *vcpu)
{
	const struct itimerval second = { .it_value.tv_sec = 1 }, off = { };
	const struct sigaction action = { .sa_handler = on_alarm };
	int r;

	sigaction(SIGALRM, &action, NULL);
	cet_prepare(vcpu, guest_ud, 0, 0);
	setitimer(ITIMER_REAL, &second, NULL);
	r = __vcpu_run(vcpu);
	setitimer(ITIMER_REAL, &off, NULL);
	TEST_ASSERT(!r, "KVM_RUN did not end by itself, errno %d", errno);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
	TEST_ASSERT_EQ(vcpu->run->internal.suberror,
		       KVM_INTERNAL_ERROR_DELIVERY_EV);
}

/* To let go of one directory takes the other one from L2. */
TEST_F(retry, two_directories)
{
	TEST_REQUIRE(kvm_cpu_has_ept());
	run_to_error(self->vcpu);
}

/* User space has a third directory map both pages: one retry is enough. */
TEST_F(retry, repaired)
{
	struct kvm_vm *vm = self->vcpu->vm;

	TEST_REQUIRE(kvm_cpu_has_ept());
	run_to_error(self->vcpu);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DIR3_GPA,
				    DIR3_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vm, DIR3_GPA), addr_gpa2hva(vm, DIR1_GPA), PAGE_SIZE);
	map_dir(vm, DIR3_GPA, DIR1_GPA);
	map_dir(vm, DIR3_GPA, DIR2_GPA);
	self->pdpt[1] = DIR3_GPA | EPT_RWX;
	self->pdpt[2] = DIR3_GPA | EPT_RWX;
	vcpu_run(self->vcpu);
	cet_finish(self->vcpu);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
