// SPDX-License-Identifier: GPL-2.0
/*
 * Save a vCPU and its VM's memory to a file, and run it from there, on another
 * kernel: once with all of its state, and once without each item.  A guest, or
 * an L2 whose L1 waits for it, is deep in calls on a shadow stack, and compares
 * all CET state with what it had before.
 *
 *	cet_cross save|save-l2 FILE
 *	cet_cross load FILE [ITEM]
 */
#include <fcntl.h>
#include <sys/utsname.h>

#include "cet_nested.h"
#include "cet_vmm.h"
#include "kselftest.h"

#define CET_BOTH_EN	(CET_SHSTK_EN | CET_ENDBR_EN)
#define RAN_ON_PORT	0x81
#define END_PORT	0x82
#define MAX_MSRS	512
#define L1_SSP_TAB	0x7000

/* Error code of a page fault */
#define PF_WRITE	BIT(1)
#define PF_SHSTK	BIT(6)

/* Capabilities that the vCPU has less of than KVM offers */
static const uint32_t vmx_msrs[] = {
	MSR_IA32_VMX_BASIC,
	MSR_IA32_VMX_TRUE_ENTRY_CTLS,
	MSR_IA32_VMX_TRUE_EXIT_CTLS,
};

/* What a guest can end with: state that differs, in L2 or a guest without L1 */
#define MSR(i)		BIT_ULL(i)	/* in the order of cet_msrs */
#define XSS		BIT_ULL(CET_NR_MSRS)
#define CR4_CET		BIT_ULL(CET_NR_MSRS + 1)
/* ... state that differs in L1, and why L2 has exited to it */
#define L1_S_CET	BIT_ULL(16)
#define L1_TABLE	BIT_ULL(17)
#define L1_CR4_CET	BIT_ULL(18)
#define L1_VMX(i)	BIT_ULL(19 + (i))	/* in the order of vmx_msrs */
#define L1_VMX_ALL	(L1_VMX(0) | L1_VMX(1) | L1_VMX(2))
#define REASON(reason)	((uint64_t)(reason) << 24)
/* ... or how it ended before it could compare */
#define DEAD		BIT_ULL(32)
#define RAN_ON		BIT_ULL(33)
/* ... L2: by an exception that L1 intercepts, as any page fault */
#define FAULT(vector, code)	((uint64_t)(vector) << 40 | \
				 (uint64_t)(code) << 48)

/* Guest data */
static uint64_t want[CET_NR_MSRS];
static uint64_t want_vmx[ARRAY_SIZE(vmx_msrs)];
static uint64_t differs;
static uint64_t l2_ssp;

/* Called from assembly */
void guest_compare(void)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		if (rdmsr(cet_msrs[i]) != want[i])
			differs |= MSR(i);
	}
	if (rdmsr(MSR_IA32_XSS) != XFEATURE_MASK_CET)
		differs |= XSS;
	if (!(get_cr4() & X86_CR4_CET))
		differs |= CR4_CET;
}

/* The same of L1 */
void guest_compare_l1(void)
{
	int i;

	differs |= REASON(vmreadz(VM_EXIT_REASON));
	if (vmreadz(VM_EXIT_REASON) == EXIT_REASON_EXCEPTION_NMI)
		differs |= FAULT(vmreadz(VM_EXIT_INTR_INFO) & 0xff,
				 vmreadz(VM_EXIT_INTR_ERROR_CODE));
	if (rdmsr(MSR_IA32_S_CET) != CET_BOTH_EN)
		differs |= L1_S_CET;
	if (rdmsr(MSR_IA32_INT_SSP_TAB) != L1_SSP_TAB)
		differs |= L1_TABLE;
	if (!(get_cr4() & X86_CR4_CET))
		differs |= L1_CR4_CET;
	for (i = 0; i < ARRAY_SIZE(vmx_msrs); i++) {
		if (rdmsr(vmx_msrs[i]) != want_vmx[i])
			differs |= L1_VMX(i);
	}
}

/* A payload for cet_run(), and a function of L2.  It is saved after OUT. */
static __attribute__((naked)) void guest_deep(void)
{
	asm("endbr64\n"
	    "call 1f\n"
	    "ret\n"
	    "1: call 2f\n"
	    "ret\n"
	    "2: out %al, $" __stringify(CET_PORT) "\n"
	    "endbr64\n"
	    "push %rbp\n"
	    "mov %rsp, %rbp\n"
	    "and $-16, %rsp\n"
	    "call guest_compare\n"
	    "leave\n"
	    "ret\n");
}

/* Outside of VMX operation, VMCALL is a hypercall, and L2 runs on. */
static __attribute__((naked)) void l2_deep(void)
{
	asm("endbr64\n"
	    "call guest_deep\n"
	    "vmcall\n"
	    "out %al, $" __stringify(RAN_ON_PORT) "\n");
}

/* L1's payload for cet_run(), with HOST_SSP, HOST_RSP and HOST_RIP */
static __attribute__((naked)) void l1_deep(void)
{
	asm("endbr64\n"
	    "call 1f\n"
	    "ret\n"
	    "1: push %rbp\n"
	    "push %rbx\n"
	    "push %r12\n"
	    "push %r13\n"
	    "push %r14\n"
	    "push %r15\n"
	    "rdsspq %rax\n"
	    "mov $0x6c1a, %ecx\n"
	    "vmwrite %rax, %rcx\n"
	    "mov $0x6c14, %ecx\n"
	    "vmwrite %rsp, %rcx\n"
	    "lea 2f(%rip), %rax\n"
	    "mov $0x6c16, %ecx\n"
	    "vmwrite %rax, %rcx\n"
	    "vmlaunch\n"
	    "2: call guest_compare_l1\n"
	    "pop %r15\n"
	    "pop %r14\n"
	    "pop %r13\n"
	    "pop %r12\n"
	    "pop %rbx\n"
	    "pop %rbp\n"
	    "ret\n");
}

/* A ucall is no way out: it has an address of the process that saved it. */
static void guest_run_to_end(struct cet_call *call)
{
	guest_run(call);
	differs |= FAULT(call->vector, call->error_code);
	asm volatile("out %%al, %0" : : "i"(END_PORT) : "memory");
}

static void guest_prepare(struct cet_call *call)
{
	GUEST_ASSERT(prepare_for_vmx_operation(cet_vmx));
	GUEST_ASSERT(load_vmcs(cet_vmx));
	guest_prepare_l2_vmcs(cet_vmx, l2_deep);
	vmwrite(EXCEPTION_BITMAP, BIT(CP_VECTOR));
	vmwrite(VM_ENTRY_CONTROLS,
		vmreadz(VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_CET_STATE);
	vmwrite(VM_EXIT_CONTROLS,
		vmreadz(VM_EXIT_CONTROLS) | VM_EXIT_LOAD_CET_STATE);
	call->vector = vmwrite(GUEST_S_CET, CET_BOTH_EN) |
		       vmwrite(GUEST_SSP, l2_ssp) |
		       vmwrite(GUEST_INTR_SSP_TABLE, want[6]) |
		       vmwrite(HOST_S_CET, CET_BOTH_EN) |
		       vmwrite(HOST_INTR_SSP_TABLE, L1_SSP_TAB);
}

static struct kvm_vcpu *create_vm(void)
{
	struct kvm_vcpu *vcpu;
	vm_vaddr_t alias;

	vm_create_cet(&vcpu, true, true);
	vcpu_init_cet_nested(vcpu);
	write_guest_global(vcpu->vm, l2_ssp,
			   vm_alloc_shadow_stack(vcpu->vm, &alias) + PAGE_SIZE);
	return vcpu;
}

static void remove_bits(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t bits)
{
	vcpu_set_msr(vcpu, msr, vcpu_get_msr(vcpu, msr) & ~bits);
}

/*
 * Have less than KVM offers: a vCPU that lost this would have it again.  And
 * have what both kernels offer: newer ones know mode-based execute control, and
 * its exit information.
 */
static void limit_vmx(struct kvm_vcpu *vcpu)
{
	static const uint64_t without[] = {
		VMX_BASIC_ANY_ERROR_CODE,
		(uint64_t)VM_ENTRY_LOAD_IA32_PAT << 32,
		(uint64_t)VM_EXIT_SAVE_IA32_PAT << 32,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(vmx_msrs); i++) {
		TEST_ASSERT(vcpu_get_msr(vcpu, vmx_msrs[i]) & without[i],
			    "MSR 0x%x lacks 0x%lx", vmx_msrs[i], without[i]);
		remove_bits(vcpu, vmx_msrs[i], without[i]);
		write_guest_global(vcpu->vm, want_vmx[i],
				   vcpu_get_msr(vcpu, vmx_msrs[i]));
	}
	remove_bits(vcpu, MSR_IA32_VMX_PROCBASED_CTLS2, BIT_ULL(32 + 22));
	remove_bits(vcpu, MSR_IA32_VMX_EPT_VPID_CAP, BIT_ULL(22));
}

/* All state of a vCPU; the memory follows in the file. */
static struct {
	struct utsname host;
	bool in_l2;
	bool has_nested;
	struct cet_vmm_state cet;
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_debugregs debugregs;
	union {
		struct kvm_nested_state nested;
		uint8_t nested_[16384];
	};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[MAX_MSRS];
	} msrs;
} state;

struct page {
	uint64_t gpa;
	uint8_t data[PAGE_SIZE];
};

/* @op: read() or write() */
#define transfer(op, fd, data)						\
	TEST_ASSERT(op(fd, data, sizeof(*(data))) == sizeof(*(data)),	\
		    "The file can't be transferred, errno %d", errno)

static struct kvm_vcpu *create_guest(bool in_l2)
{
	struct kvm_vcpu *vcpu = create_vm();
	struct kvm_vm *vm = vcpu->vm;
	struct kvm_sregs sregs;
	uint64_t val;
	int i;

	limit_vmx(vcpu);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	vcpu_sregs_set(vcpu, &sregs);
	cet_enable(vcpu);
	cet_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	for (i = 0; i < CET_NR_MSRS; i++) {
		val = cet_msrs[i] == MSR_IA32_S_CET ? CET_BOTH_EN :
		      cet_value(0, i);
		write_guest_global(vm, want[i], val);
		if (cet_msrs[i] != MSR_IA32_S_CET)
			cet_set_msr(vcpu, cet_msrs[i], val);
	}
	if (in_l2) {
		TEST_ASSERT(!cet_call(vcpu, guest_prepare, 0, 0)->vector,
			    "VMWRITE refused a field");
	}

	cet_prepare_run(vcpu, in_l2 ? l1_deep : guest_deep, CET_BOTH_EN)->fn =
		guest_run_to_end;
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, CET_PORT);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT_EQ(vcpu_is_in_l2(vcpu), in_l2);

	/* SETSSBSY has used PL0_SSP.  Wait for ENDBR64, which comes next. */
	cet_set_msr(vcpu, MSR_IA32_PL0_SSP, cet_value(0, 2));
	cet_set_msr(vcpu, MSR_IA32_S_CET, CET_BOTH_EN | CET_WAIT_ENDBR);
	return vcpu;
}

/* Not those that the example for VMMs has saved already */
static bool is_cet_msr(uint32_t msr)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		if (cet_msrs[i] == msr)
			return true;
	}
	return msr == MSR_IA32_XSS;
}

static void save_msrs(struct kvm_vcpu *vcpu)
{
	const struct kvm_msr_list *list = kvm_get_msr_index_list();
	int i;

	TEST_ASSERT(list->nmsrs <= MAX_MSRS, "%u MSRs", list->nmsrs);
	for (i = 0; i < list->nmsrs; i++) {
		if (!is_cet_msr(list->indices[i]))
			state.msrs.entries[state.msrs.header.nmsrs++].index =
				list->indices[i];
	}
	vcpu_msrs_get(vcpu, &state.msrs.header);
}

static void save_memory(struct kvm_vm *vm, int fd)
{
	static const uint8_t zeros[PAGE_SIZE];
	struct userspace_mem_region *region;
	struct page page;
	int ctr;

	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node) {
		uint64_t start = region->region.guest_phys_addr;
		uint64_t end = start + region->region.memory_size;

		for (page.gpa = start; page.gpa < end; page.gpa += PAGE_SIZE) {
			memcpy(page.data, addr_gpa2hva(vm, page.gpa),
			       PAGE_SIZE);
			if (memcmp(page.data, zeros, PAGE_SIZE))
				transfer(write, fd, &page);
		}
	}
}

static void save(const char *file, bool in_l2)
{
	struct kvm_vcpu *vcpu = create_guest(in_l2);
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	TEST_ASSERT(fd >= 0, "%s: errno %d", file, errno);
	uname(&state.host);
	state.in_l2 = in_l2;
	state.has_nested = true;
	TEST_ASSERT_EQ(cet_vmm_save(vcpu->fd, &state.cet), 0);
	vcpu_regs_get(vcpu, &state.regs);
	vcpu_events_get(vcpu, &state.events);
	vcpu_mp_state_get(vcpu, &state.mp_state);
	vcpu_debugregs_get(vcpu, &state.debugregs);
	state.nested.size = sizeof(state.nested_);
	vcpu_nested_state_get(vcpu, &state.nested);
	save_msrs(vcpu);
	transfer(write, fd, &state);
	save_memory(vcpu->vm, fd);
	TEST_ASSERT(!close(fd), "%s: errno %d", file, errno);
	kvm_vm_free(vcpu->vm);
}

/* A VM that has nothing but the memory of the file, and a fresh vCPU */
static struct kvm_vcpu *load_vm(int fd)
{
	struct kvm_vm *vm = create_vm()->vm;
	struct userspace_mem_region *region;
	struct page page;
	int ctr, n;

	kvm_vm_release(vm);
	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node)
		memset(region->host_mem, 0, region->region.memory_size);

	TEST_ASSERT_EQ(lseek(fd, 0, SEEK_SET), 0);
	transfer(read, fd, &state);
	while ((n = read(fd, &page, sizeof(page))) > 0) {
		TEST_ASSERT_EQ(n, sizeof(page));
		memcpy(addr_gpa2hva(vm, page.gpa), page.data, PAGE_SIZE);
	}

	kvm_vm_restart(vm);
	return __vm_vcpu_add(vm, 0);
}

static uint64_t run_to_end(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN)
		return DEAD;
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	sync_global_from_guest(vcpu->vm, differs);
	if (vcpu->run->io.port == RAN_ON_PORT)
		return differs | RAN_ON;
	TEST_ASSERT_EQ(vcpu->run->io.port, END_PORT);
	return differs;
}

/* What is left out */

static struct kvm_msr_entry *find_msr(uint32_t index)
{
	int i;

	for (i = 0; i < state.cet.msrs.header.nmsrs; i++) {
		if (state.cet.msrs.entries[i].index == index)
			return &state.cet.msrs.entries[i];
	}
	TEST_FAIL("%s is not saved", cet_msr_name(index));
}

static void lose_msr(uint32_t index)
{
	struct kvm_msr_entry *entry = find_msr(index);

	*entry = state.cet.msrs.entries[--state.cet.msrs.header.nmsrs];
}

static void lose_tracker(void)
{
	find_msr(MSR_IA32_S_CET)->data &= ~CET_WAIT_ENDBR;
}

static void lose_cr4_cet(void)
{
	state.cet.sregs.cr4 &= ~X86_CR4_CET;
}

static void lose_ssp(void)
{
	state.cet.has_ssp = false;
}

static void lose_in_vmcs12(int offset)
{
	memset(&state.nested.data.vmx[0].vmcs12[offset], 0,
	       sizeof(struct cet_vmcs_state));
}

static void lose_guest_fields(void)
{
	lose_in_vmcs12(VMCS12_GUEST_CET);
}

static void lose_host_fields(void)
{
	lose_in_vmcs12(VMCS12_HOST_CET);
}

static void lose_nested(void)
{
	state.has_nested = false;
}

static void lose_vmx_msrs(void)
{
	int i, nr = state.msrs.header.nmsrs;
	struct kvm_msr_entry *entry;

	state.msrs.header.nmsrs = 0;
	for (i = 0; i < nr; i++) {
		entry = &state.msrs.entries[i];
		if (entry->index < MSR_IA32_VMX_BASIC ||
		    entry->index > MSR_IA32_VMX_VMFUNC)
			state.msrs.entries[state.msrs.header.nmsrs++] = *entry;
	}
}

#define VMCALL		REASON(EXIT_REASON_VMCALL)
#define IMPOSSIBLE	(~0ull)

static const struct item {
	const char *name;
	/* What is lost: an MSR, or by a function */
	uint32_t msr;
	void (*lose)(void);
	/* The guest goes on behind the ENDBR64 that it waits for. */
	bool off_endbr;
	/* What a guest ends with, and an L2.  vmcs12 has L2's CR4, too. */
	uint64_t guest, l2;
} items[] = {
	{ "nothing", .guest = 0, .l2 = VMCALL },
	{ "u_cet", MSR_IA32_U_CET, .guest = MSR(0), .l2 = MSR(0) | VMCALL },
	{ "s_cet", MSR_IA32_S_CET, .guest = MSR(1), .l2 = MSR(1) | VMCALL },
	{ "pl0_ssp", MSR_IA32_PL0_SSP, .guest = MSR(2), .l2 = MSR(2) | VMCALL },
	{ "pl1_ssp", MSR_IA32_PL1_SSP, .guest = MSR(3), .l2 = MSR(3) | VMCALL },
	{ "pl2_ssp", MSR_IA32_PL2_SSP, .guest = MSR(4), .l2 = MSR(4) | VMCALL },
	{ "pl3_ssp", MSR_IA32_PL3_SSP, .guest = MSR(5), .l2 = MSR(5) | VMCALL },
	{ "int_ssp_tab", MSR_IA32_INT_SSP_TAB, .guest = MSR(6),
	  .l2 = MSR(6) | VMCALL },
	{ "xss", MSR_IA32_XSS, .guest = XSS, .l2 = XSS | VMCALL },
	{ "cr4_cet", .lose = lose_cr4_cet, .guest = CR4_CET, .l2 = VMCALL },
	{ "ssp", .lose = lose_ssp, .guest = DEAD,
	  .l2 = FAULT(PF_VECTOR, PF_WRITE | PF_SHSTK) },
	{ "nothing, off ENDBR64", .off_endbr = true,
	  .guest = FAULT(CP_VECTOR, CP_ENDBRANCH),
	  .l2 = FAULT(CP_VECTOR, CP_ENDBRANCH) },
	{ "tracker, off ENDBR64", .lose = lose_tracker, .off_endbr = true,
	  .guest = 0, .l2 = VMCALL },
	{ "vmcs12's guest fields", .lose = lose_guest_fields,
	  .guest = IMPOSSIBLE, .l2 = VMCALL },
	{ "vmcs12's host fields", .lose = lose_host_fields,
	  .guest = IMPOSSIBLE, .l2 = L1_S_CET | L1_TABLE | VMCALL },
	{ "VMX capabilities", .lose = lose_vmx_msrs,
	  .guest = 0, .l2 = L1_VMX_ALL | VMCALL },
	{ "nested state", .lose = lose_nested, .guest = 0, .l2 = RAN_ON },
};

static void load(int fd, const struct item *item)
{
	struct kvm_vcpu *vcpu = load_vm(fd);
	uint64_t wanted = state.in_l2 ? item->l2 : item->guest, got;

	if (wanted == IMPOSSIBLE) {
		kvm_vm_free(vcpu->vm);
		return;
	}

	if (item->msr)
		lose_msr(item->msr);
	if (item->lose)
		item->lose();
	if (item->off_endbr)
		state.regs.rip += 4;

	TEST_ASSERT_EQ(cet_vmm_check(vcpu->vm->kvm_fd, &state.cet), 0);
	TEST_ASSERT_EQ(cet_vmm_set_cpuid(vcpu->fd, &state.cet), 0);
	vcpu_msrs_set(vcpu, &state.msrs.header);
	TEST_ASSERT_EQ(cet_vmm_set_sregs(vcpu->fd, &state.cet), 0);
	TEST_ASSERT_EQ(cet_vmm_set_fpu(vcpu->fd, &state.cet), 0);
	vcpu_events_set(vcpu, &state.events);
	vcpu_mp_state_set(vcpu, &state.mp_state);
	vcpu_debugregs_set(vcpu, &state.debugregs);
	if (state.has_nested)
		vcpu_nested_state_set(vcpu, &state.nested);
	/* After that, which has RIP of its own */
	vcpu_regs_set(vcpu, &state.regs);
	TEST_ASSERT_EQ(cet_vmm_set_msrs(vcpu->fd, &state.cet), 0);
	TEST_ASSERT_EQ(cet_vmm_set_ssp(vcpu->fd, &state.cet), 0);

	got = run_to_end(vcpu);
	if (got != wanted)
		ksft_print_msg("ended with 0x%lx, not 0x%lx\n", got, wanted);
	ksft_test_result(got == wanted, "%s without %s\n",
			 state.in_l2 ? "L2" : "guest", item->name);
	kvm_vm_free(vcpu->vm);
}

int main(int argc, char *argv[])
{
	bool to_save = argc == 3 && !strncmp(argv[1], "save", 4);
	int fd, i;

	TEST_ASSERT(to_save || (argc >= 3 && !strcmp(argv[1], "load")),
		    "usage: %s save|save-l2 FILE | load FILE [ITEM]", argv[0]);
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	if (to_save) {
		save(argv[2], !strcmp(argv[1], "save-l2"));
		return 0;
	}

	fd = open(argv[2], O_RDONLY);
	TEST_ASSERT(fd >= 0, "%s: errno %d", argv[2], errno);
	transfer(read, fd, &state);
	ksft_print_header();
	ksft_print_msg("saved by Linux %s\n", state.host.release);
	for (i = 0; i < ARRAY_SIZE(items); i++) {
		if (argc == 3 || !strcmp(argv[3], items[i].name))
			load(fd, &items[i]);
	}
	printf("1..%u\n", ksft_test_num());
	TEST_ASSERT(ksft_test_num(), "There is no item %s", argv[3]);
	return ksft_get_fail_cnt() ? 1 : 0;
}
