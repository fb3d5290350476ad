// SPDX-License-Identifier: GPL-2.0
/*
 * Helpers for tests of Intel CET, described in cet.h.
 */
#include <stdlib.h>
#include <unistd.h>

#include "cet.h"
#include "test_util.h"
#include "vmx.h"

/* All tries count the same, except for one VM exit per host interrupt. */
#define EXIT_COUNT_TRIES	10

/* 64-bit code and data, DPL 3 */
#define USER_CS_DESCRIPTOR	0x00affb000000ffffull
#define USER_DS_DESCRIPTOR	0x00cff3000000ffffull

const uint32_t cet_msrs[CET_NR_MSRS] = {
	MSR_IA32_U_CET,
	MSR_IA32_S_CET,
	MSR_IA32_PL0_SSP,
	MSR_IA32_PL1_SSP,
	MSR_IA32_PL2_SSP,
	MSR_IA32_PL3_SSP,
	MSR_IA32_INT_SSP_TAB,
};

const uint32_t cet_xsave_msrs[CET_NR_XSAVE_MSRS] = {
	MSR_IA32_U_CET,
	MSR_IA32_PL0_SSP,
	MSR_IA32_PL1_SSP,
	MSR_IA32_PL2_SSP,
	MSR_IA32_PL3_SSP,
};

static struct cet_call calls[CET_MAX_VCPUS];

/* Guest data of cet_guest.S: two addresses of the shadow stack's token. */
uint64_t cet_shadow_stack;
uint64_t cet_shadow_stack_alias;

uint64_t cet_cp_count;
uint64_t cet_cp_error_code;

const char *cet_msr_name(uint32_t msr)
{
	switch (msr) {
	case MSR_IA32_U_CET:
		return "MSR_IA32_U_CET";
	case MSR_IA32_S_CET:
		return "MSR_IA32_S_CET";
	case MSR_IA32_PL0_SSP:
		return "MSR_IA32_PL0_SSP";
	case MSR_IA32_PL1_SSP:
		return "MSR_IA32_PL1_SSP";
	case MSR_IA32_PL2_SSP:
		return "MSR_IA32_PL2_SSP";
	case MSR_IA32_PL3_SSP:
		return "MSR_IA32_PL3_SSP";
	case MSR_IA32_INT_SSP_TAB:
		return "MSR_IA32_INT_SSP_TAB";
	case MSR_IA32_XSS:
		return "MSR_IA32_XSS";
	default:
		TEST_FAIL("MSR 0x%x has no name here", msr);
	}
}

/* Valid for every MSR: 4-byte aligned, and above U_CET's control bits */
uint64_t cet_value(int seed, int i)
{
	return 0x100000ull * (seed + 1) + 0x4000 * (i + 1);
}

const struct kvm_cpuid_entry2 *cet_find_xsave_entry(uint32_t index)
{
	const struct kvm_cpuid2 *cpuid = kvm_get_supported_cpuid();
	int i;

	for (i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == XSAVE_LEAF &&
		    cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	}

	return NULL;
}

bool cet_is_forced(void)
{
	return getenv("KVM_CET_FORCE");
}

void cet_require(void)
{
	if (cet_is_forced())
		return;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SHSTK));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_IBT));
}

static void guest_main(struct cet_call *call)
{
	for (;;) {
		call->fn(call);
		GUEST_SYNC(0);
	}
}

void vm_set_raw_handler(struct kvm_vm *vm, int vector, void (*handler)(void))
{
	struct idt_entry *idt = addr_gva2hva(vm, vm->arch.idt);
	uint64_t entry = (uint64_t)handler;

	idt[vector].offset0 = entry;
	idt[vector].offset1 = entry >> 16;
	idt[vector].offset2 = entry >> 32;
}

void vm_make_shadow_stack(struct kvm_vm *vm, vm_vaddr_t gva)
{
	uint64_t *pte = vm_get_page_table_entry(vm, gva);

	/* A shadow stack is dirty, but not writable. */
	*pte &= ~PTE_WRITABLE_MASK;
	*pte |= PTE_ACCESSED_MASK | PTE_DIRTY_MASK;
}

vm_vaddr_t vm_alloc_shadow_stack(struct kvm_vm *vm, vm_vaddr_t *alias)
{
	vm_vaddr_t gva;

	*alias = vm_vaddr_alloc_page(vm);
	gva = vm_vaddr_unused_gap(vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	virt_map(vm, gva, addr_gva2gpa(vm, *alias), 1);

	vm_make_shadow_stack(vm, gva);
	return gva;
}

static void make_user(struct kvm_vm *vm, uint64_t *table, int level)
{
	int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*table); i++) {
		if (!(table[i] & PTE_PRESENT_MASK))
			continue;
		table[i] |= PTE_USER_MASK;
		if (level > PG_LEVEL_4K)
			make_user(vm, addr_gpa2hva(vm, PTE_GET_PA(table[i])),
				  level - 1);
	}
}

void vm_init_user_mode(struct kvm_vm *vm)
{
	uint64_t *gdt = addr_gva2hva(vm, vm->arch.gdt);
	void *tss = addr_gva2hva(vm, vm->arch.tss);

	gdt[USER_CS / sizeof(*gdt)] = USER_CS_DESCRIPTOR;
	gdt[USER_DS / sizeof(*gdt)] = USER_DS_DESCRIPTOR;
	*(uint64_t *)(tss + TSS_RSP0) = vm_vaddr_alloc_page(vm) + PAGE_SIZE;
	make_user(vm, addr_gpa2hva(vm, vm->pgd), PG_LEVEL_512G);
}

void vm_make_supervisor(struct kvm_vm *vm, vm_vaddr_t gva)
{
	*vm_get_page_table_entry(vm, gva) &= ~PTE_USER_MASK;
}

void vm_init_cet(struct kvm_vm *vm)
{
	const size_t token = PAGE_SIZE - sizeof(uint64_t);
	vm_vaddr_t gva, alias;

	gva = vm_alloc_shadow_stack(vm, &alias);
	write_guest_global(vm, cet_shadow_stack, gva + token);
	write_guest_global(vm, cet_shadow_stack_alias, alias + token);

	/* The library's entry of #CP has no ENDBR64 and no error code. */
	vm_set_raw_handler(vm, CP_VECTOR, guest_cp_handler);
}

void vcpu_init_cet(struct kvm_vcpu *vcpu, bool shstk, bool ibt)
{
	struct kvm_sregs sregs;

	TEST_ASSERT(vcpu->id < CET_MAX_VCPUS, "No cet_call() for vCPU %u",
		    vcpu->id);

	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_SHSTK, shstk);
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_IBT, ibt);

	/* CR4.CET demands CR0.WP. */
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 |= X86_CR0_WP;
	vcpu_sregs_set(vcpu, &sregs);

	vcpu_arch_set_entry_point(vcpu, guest_main);
	vcpu_args_set(vcpu, 1, &calls[vcpu->id]);
}

struct kvm_vm *vm_create_cet(struct kvm_vcpu **vcpu, bool shstk, bool ibt)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_main);

	vm_init_cet(vm);
	vcpu_init_cet(*vcpu, shstk, ibt);
	return vm;
}

static struct cet_call *vcpu_get_call(struct kvm_vcpu *vcpu)
{
	return addr_gva2hva(vcpu->vm, (vm_vaddr_t)&calls[vcpu->id]);
}

struct cet_call *cet_prepare(struct kvm_vcpu *vcpu,
			     void (*fn)(struct cet_call *),
			     uint64_t arg0, uint64_t arg1)
{
	struct cet_call *call = vcpu_get_call(vcpu);

	*call = (struct cet_call) { .fn = fn, .arg = { arg0, arg1 } };
	return call;
}

struct cet_call *cet_finish(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return vcpu_get_call(vcpu);
}

struct cet_call *cet_call(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
			  uint64_t arg0, uint64_t arg1)
{
	cet_prepare(vcpu, fn, arg0, arg1);
	vcpu_run(vcpu);
	return cet_finish(vcpu);
}

uint64_t cet_vcpu_stat(struct kvm_vcpu *vcpu, const char *name)
{
	struct kvm_stats_desc *descs, *desc;
	struct kvm_stats_header header;
	bool found = false;
	uint64_t val;
	int fd, i;

	fd = vcpu_get_stats_fd(vcpu);
	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);

	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		if (!strcmp(desc->name, name)) {
			read_stat_data(fd, &header, desc, &val, 1);
			found = true;
		}
	}

	free(descs);
	close(fd);

	TEST_ASSERT(found, "vCPUs have no statistic '%s'", name);
	return val;
}

uint64_t cet_call_exits(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
			uint64_t arg0, uint64_t arg1)
{
	uint64_t exits, least = UINT64_MAX;
	int i;

	/* Touch everything first: EPT violations exit, too. */
	cet_call(vcpu, fn, arg0, arg1);

	for (i = 0; i < EXIT_COUNT_TRIES; i++) {
		exits = cet_vcpu_stat(vcpu, "exits");
		cet_call(vcpu, fn, arg0, arg1);
		exits = cet_vcpu_stat(vcpu, "exits") - exits;
		least = min(least, exits);
	}

	return least - 1;
}

void guest_rdmsr(struct cet_call *call)
{
	call->vector = rdmsr_safe(call->arg[0], &call->ret);
}

void guest_wrmsr(struct cet_call *call)
{
	call->vector = wrmsr_safe(call->arg[0], call->arg[1]);
}

void guest_mov_cr0(struct cet_call *call)
{
	call->vector = kvm_asm_safe("mov %[val], %%cr0",
				    [val]"r"(call->arg[0]));
	call->ret = get_cr0();
}

void guest_mov_cr4(struct cet_call *call)
{
	call->vector = kvm_asm_safe("mov %[val], %%cr4",
				    [val]"r"(call->arg[0]));
	call->ret = get_cr4();
}

void guest_prepare_l2_vmcs(struct vmx_pages *vmx, void (*l2)(void))
{
	static uint64_t l2_stack[512] __aligned(16);

	/* The ABI wants RSP as it is after a CALL. */
	prepare_vmcs(vmx, l2, &l2_stack[ARRAY_SIZE(l2_stack) - 1]);

	/* The bitmap is all 0: L1 intercepts no MSR. */
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
}

void guest_prepare_l2(struct vmx_pages *vmx, void (*l2)(void))
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	guest_prepare_l2_vmcs(vmx, l2);
}

uint8_t cet_rdmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	struct cet_call *call = cet_call(vcpu, guest_rdmsr, msr, 0);

	*val = call->ret;
	return call->vector;
}

uint8_t cet_wrmsr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val)
{
	return cet_call(vcpu, guest_wrmsr, msr, val)->vector;
}

uint8_t cet_mov_cr0(struct kvm_vcpu *vcpu, uint64_t val)
{
	return cet_call(vcpu, guest_mov_cr0, val, 0)->vector;
}

uint8_t cet_mov_cr4(struct kvm_vcpu *vcpu, uint64_t val)
{
	return cet_call(vcpu, guest_mov_cr4, val, 0)->vector;
}

void cet_enable(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	uint8_t vector;

	vcpu_sregs_get(vcpu, &sregs);
	vector = cet_mov_cr4(vcpu, sregs.cr4 | X86_CR4_CET);
	TEST_ASSERT(!vector, "CR4.CET refused: MOV CR4 raised vector %u",
		    vector);
}

struct cet_call *cet_prepare_run(struct kvm_vcpu *vcpu, void (*payload)(void),
				 uint64_t s_cet)
{
	uint64_t *ssp = addr_gva2hva(vcpu->vm, (vm_vaddr_t)&cet_shadow_stack);

	if (s_cet & CET_SHSTK_EN)
		cet_set_msr(vcpu, MSR_IA32_PL0_SSP, *ssp);

	return cet_prepare(vcpu, guest_run, (uint64_t)payload, s_cet);
}

struct cet_call *cet_run(struct kvm_vcpu *vcpu, void (*payload)(void),
			 uint64_t s_cet)
{
	cet_prepare_run(vcpu, payload, s_cet);
	vcpu_run(vcpu);
	return cet_finish(vcpu);
}

uint64_t *cet_shadow_stack_hva(struct kvm_vm *vm)
{
	vm_vaddr_t *gva = addr_gva2hva(vm, (vm_vaddr_t)&cet_shadow_stack);

	return addr_gva2hva(vm, *gva);
}

void cet_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val)
{
	TEST_ASSERT(_vcpu_set_msr(vcpu, msr, val) == 1,
		    "KVM_SET_MSRS refused %s = 0x%lx", cet_msr_name(msr), val);
}

void cet_refuse_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val)
{
	TEST_ASSERT(!_vcpu_set_msr(vcpu, msr, val),
		    "KVM_SET_MSRS accepted %s = 0x%lx", cet_msr_name(msr), val);
}

bool cet_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *val)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} get = {
		.header.nmsrs = 1,
		.entry.index = msr,
	};

	if (__vcpu_ioctl(vcpu, KVM_GET_MSRS, &get.header) != 1)
		return false;

	*val = get.entry.data;
	return true;
}

void cet_expect_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t val)
{
	uint64_t got = ~val;

	TEST_ASSERT(cet_get_msr(vcpu, msr, &got), "KVM_GET_MSRS refused %s",
		    cet_msr_name(msr));
	TEST_ASSERT(got == val,
		    "KVM_GET_MSRS returned %s = 0x%lx, not 0x%lx",
		    cet_msr_name(msr), got, val);
}
