// SPDX-License-Identifier: GPL-2.0
/*
 * L2's stacks in a page that L1's EPT, or a memslot of the VMM, makes unfit for
 * a stack.  Each access has to end within a few exits: in L1, in user space, or
 * in L2 itself.  No event may be lost once the mapping is repaired.
 *
 * By default, the mappings and instructions are those that KVM handles
 * differently.  With -a, all are tried, with and without exceptions intercepted
 * by L1.
 *
 * Two cases are left out, as they made no difference.  One is an L1 with an
 * enlightened VMCS, on ordinary stacks: it has no CET controls, and no
 * page-modification log.  The other is two vCPUs in L2 on shadow stacks of one
 * memslot, which is deleted, read-only, logged or mprotect()ed now and then.
 * KVM takes no controls for mode-based execution from user space, and lets no
 * L1 have them.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "kvm_test_harness.h"
#include "cet_nested.h"
#include "test_util.h"

/* The page in question: L1's and L2's physical, and their virtual addresses */
#define PAGE_GPA	0x40000000ull
#define L2_PAGE_GPA	0x80000000ull
#define PAGE_GVA	0x60000000ull
#define ALIAS_GVA	(PAGE_GVA + PAGE_SIZE)
#define L1_GVA		(PAGE_GVA + 2 * PAGE_SIZE)
#define SLOT		10
#define SLOT_PAGES	512
/* What else L2 maps, by a page directory of its own in L1's EPT */
#define OTHER_GPA	0x100400000ull
#define OTHER_GVA	0x70000000ull
#define APIC_GPA	0xfee00000ull

#define STACK_OFFSET	0xf80
/* PAGE_GVA + STACK_OFFSET, in assembly */
#define TOKEN_GVA	"0x60000f80"

#define RFLAGS_IF	BIT(9)

#define EPT_R		BIT_ULL(0)
#define EPT_W		BIT_ULL(1)
#define EPT_X		BIT_ULL(2)
#define EPT_WB		(6ull << 3)
#define EPT_HUGE	BIT_ULL(7)
#define EPT_AD		GENMASK_ULL(9, 8)
#define EPT_SSS		BIT_ULL(60)
#define EPT_RX		(EPT_R | EPT_X | EPT_WB | EPT_AD)
#define EPT_RWX		(EPT_RX | EPT_W)
#define EPT_ADDRESS	GENMASK_ULL(51, 12)
#define EPTP_AD		BIT_ULL(6)

/* An interrupt, and one on a stack of its own */
#define VECTOR		0x40
#define IST_VECTOR	0x41
#define L1_VECTOR	0x42
#define EXTERNAL_INTR	(INTR_VALID | INTR_TYPE(0) | VECTOR)

/*
 * KVM_RUN has to return within a second, and at most this often.  It takes some
 * exits to map all of the VM again after a memslot was deleted, and some for
 * L1's VMCS if KVM does not shadow it.
 */
#define MAX_RETURNS	10
#define MAX_EXITS	80

/* What an instruction does to the page. */
enum access {
	WRITES,		/* as does the delivery of a #UD that it raises */
	READS,
	TOKEN,		/* reads and writes, #UD is delivered elsewhere */
	DELIVERS,	/* an event's delivery writes */
	NR_ACCESSES,
};

enum where { IN_SLOT, IN_APIC, IN_EPT, IN_DIRECTORY, IN_EPT_ROOT };

/* Between L2's first instructions, which touch the page, and the tested one */
enum action {
	NOTHING,
	TRACK_DIRTY,
	MAKE_READ_ONLY,
	DELETE,
	CREATE,
	PROTECT,
	PROTECT_WRITES,
};

struct mapping {
	const char *name;
	/* The entry of L1's EPT, but for the address. */
	uint64_t ept;
	enum where where;
	enum action action;
	bool only_all;
	bool touched;
	bool shadowed;	/* L1 has no EPT for L2 */
	bool without_ad;
	bool log_full;	/* L1's page-modification log */
	bool huge;	/* for the VMM, too */
	bool beyond_repair;
	/*
	 * The expected outcomes: "L1" is an exit to L1, "exit" one with
	 * KVM_INTERNAL_ERROR_DELIVERY_EV, "EFAULT" an error of KVM_RUN.  After
	 * these, the mapping is repaired.  "ok" or "#UD" is where L2 gets to.
	 */
	const char *expect[NR_ACCESSES];
};

#define ALL(what)	{ what, what, what, what }
#define ALL_BUT_READS(what)	{ what, "ok", what, what }
#define READ_ONLY	{ "exit #UD", "ok", "#UD", "exit ok" }
#define NO_MEMORY	{ "exit #UD", "exit #UD", "#UD", "exit ok" }

static const struct mapping mappings[] = {
	{ "rwx", EPT_RWX, .expect = ALL("ok") },
	{ "absent", 0, .expect = ALL("L1 ok") },
	{ "r", EPT_RX & ~EPT_X, .expect = ALL_BUT_READS("L1 ok") },
	{ "misconfigured", EPT_RWX & ~EPT_R, .expect = ALL("L1 ok") },
	{ "dirty", EPT_RWX, .action = TRACK_DIRTY, .touched = true,
	  .expect = ALL("ok") },
	{ "read_only", EPT_RWX, .action = MAKE_READ_ONLY, .expect = READ_ONLY },
	{ "deleted", EPT_RWX, .action = DELETE, .expect = NO_MEMORY },
	{ "created", EPT_RWX, .action = CREATE, .expect = ALL("ok") },
	{ "protected", EPT_RWX, .action = PROTECT, .touched = true,
	  .expect = ALL("EFAULT ok") },
	{ "directory", EPT_RWX, .where = IN_DIRECTORY,
	  .expect = { "#UD", "ok", "#UD", "ok" } },

	/* With -a */
	{ "rx", EPT_RX, .only_all = true, .expect = ALL_BUT_READS("L1 ok") },
	{ "rw", EPT_RWX & ~EPT_X, .only_all = true, .expect = ALL("ok") },
	{ "x", EPT_X | EPT_WB | EPT_AD, .only_all = true,
	  .expect = ALL("L1 ok") },
	{ "reserved_bit", EPT_RWX | BIT_ULL(51), .only_all = true,
	  .expect = ALL("L1 ok") },
	{ "rwx_without_ad", EPT_RWX & ~EPT_AD, .only_all = true,
	  .without_ad = true, .expect = ALL("ok") },
	{ "rx_without_ad", EPT_RX & ~EPT_AD, .only_all = true,
	  .without_ad = true, .expect = ALL_BUT_READS("L1 ok") },
	{ "rwx_ad_clear", EPT_RWX & ~EPT_AD, .only_all = true,
	  .expect = ALL("ok") },
	{ "rx_ad_clear", EPT_RX & ~EPT_AD, .only_all = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	/* KVM does not offer the control: this bit has no effect. */
	{ "rwx_sss", EPT_RWX | EPT_SSS, .only_all = true, .expect = ALL("ok") },
	{ "rx_sss", EPT_RX | EPT_SSS, .only_all = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	/* The same for mode-based execute control */
	{ "rx_user_x", EPT_RX | BIT_ULL(10), .only_all = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	{ "rwx_uc", EPT_RWX & ~EPT_WB, .only_all = true, .expect = ALL("ok") },
	{ "huge_rwx", EPT_RWX | EPT_HUGE, .only_all = true,
	  .expect = ALL("ok") },
	{ "huge_rx", EPT_RX | EPT_HUGE, .only_all = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	{ "huge_dirty", EPT_RWX | EPT_HUGE, .action = TRACK_DIRTY,
	  .only_all = true, .touched = true, .expect = ALL("ok") },
	{ "huge_read_only", EPT_RWX | EPT_HUGE, .action = MAKE_READ_ONLY,
	  .only_all = true, .expect = READ_ONLY },
	{ "dirty_ad_clear", EPT_RWX & ~EPT_AD, .action = TRACK_DIRTY,
	  .only_all = true, .expect = ALL("ok") },
	{ "read_only_touched", EPT_RWX, .action = MAKE_READ_ONLY,
	  .only_all = true, .touched = true, .expect = READ_ONLY },
	{ "deleted_touched", EPT_RWX, .action = DELETE, .only_all = true,
	  .touched = true, .expect = NO_MEMORY },
	{ "apic", EPT_RWX, .where = IN_APIC, .only_all = true,
	  .beyond_repair = true, .expect = NO_MEMORY },
	{ "writes_protected", EPT_RWX, .action = PROTECT_WRITES,
	  .only_all = true, .touched = true,
	  .expect = ALL_BUT_READS("EFAULT ok") },
	{ "ept", EPT_RWX, .where = IN_EPT, .only_all = true,
	  .expect = ALL("ok") },
	{ "ept_root", EPT_RWX, .where = IN_EPT_ROOT, .only_all = true,
	  .beyond_repair = true, .expect = READ_ONLY },
	{ "log_full", EPT_RWX & ~EPT_AD, .only_all = true, .log_full = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	{ "all_huge_rwx", EPT_RWX | EPT_HUGE, .only_all = true, .huge = true,
	  .touched = true, .expect = ALL("ok") },
	{ "all_huge_rx", EPT_RX | EPT_HUGE, .only_all = true, .huge = true,
	  .expect = ALL_BUT_READS("L1 ok") },
	{ "all_huge_dirty", EPT_RWX | EPT_HUGE, .action = TRACK_DIRTY,
	  .only_all = true, .huge = true, .touched = true,
	  .expect = ALL("ok") },
	{ "all_huge_read_only", EPT_RWX | EPT_HUGE, .action = MAKE_READ_ONLY,
	  .only_all = true, .huge = true, .touched = true,
	  .expect = READ_ONLY },
	{ "all_huge_deleted", EPT_RWX | EPT_HUGE, .action = DELETE,
	  .only_all = true, .huge = true, .touched = true,
	  .expect = NO_MEMORY },
	{ "all_huge_protected", EPT_RWX | EPT_HUGE, .action = PROTECT,
	  .only_all = true, .huge = true, .touched = true,
	  .expect = ALL("EFAULT ok") },
	{ "shadowed_rwx", .shadowed = true, .only_all = true,
	  .expect = ALL("ok") },
	{ "shadowed_read_only", .shadowed = true, .action = MAKE_READ_ONLY,
	  .only_all = true, .expect = READ_ONLY },
	{ "shadowed_deleted", .shadowed = true, .action = DELETE,
	  .only_all = true, .touched = true, .expect = NO_MEMORY },
	{ "shadowed_created", .shadowed = true, .action = CREATE,
	  .only_all = true, .expect = ALL("ok") },
};

/* Guest data */
static uint64_t l2_touch_read, l2_touch_write;
static uint64_t l2_token, l2_rsp;
static uint64_t l2_vector, l2_done;
static uint64_t l1_bitmap, l1_eptp_clear, l1_event, l1_log;
static uint64_t *l1_ept_entry;
static uint64_t l1_ept_good;

/* Only RIP and RSP of L2's registers survive an exit to L1. */
#define L2(name, code)						\
static __attribute__((naked)) void name(void)			\
{								\
	asm("mov l2_touch_read(%rip), %rcx\n"				\
	    "mov (%rcx), %rax\n"				\
	    "mov l2_touch_write(%rip), %rcx\n"			\
	    "orq $0, (%rcx)\n"					\
	    "mov l2_rsp(%rip), %rsp\n"				\
	    "vmcall\n"						\
	    code						\
	    "movq $1, l2_done(%rip)\n"				\
	    "vmcall\n");					\
}

#define SAVEPREVSSP	"rstorssp (%rcx)\n saveprevssp\n"

/* On a shadow stack in the page, or at a token there */
L2(l2_call, "call 1f\n jmp 2f\n 1: ret\n 2:\n")
L2(l2_ret, "lea 1f(%rip), %rdx\n push %rdx\n ret\n l2_return: 1:\n")
L2(l2_wrss, "wrssq %rax, " TOKEN_GVA "\n")
L2(l2_setssbsy, "setssbsy\n")
L2(l2_clrssbsy, "clrssbsy " TOKEN_GVA "\n")
L2(l2_rstorssp, "rstorssp " TOKEN_GVA "\n")
L2(l2_saveprevssp, "mov l2_token(%rip), %rcx\n" SAVEPREVSSP)
L2(l2_int_ist, "int $0x41\n")
/* On either stack */
L2(l2_int, "int $0x40\n")
L2(l2_interrupted, "nop\n")
/* KVM doesn't emulate it. */
L2(l2_fnstenv, "fnstenv -32(%rsp)\n")

extern char l2_return[];

/*
 * No handler returns: if the delivery of INT n ends in an exit, some emulators
 * do not report the instruction's length, and the return address is wrong.
 */
static __attribute__((naked)) void handle_vector(void)
{
	asm("movq $1, l2_done(%rip)\n"
	    "vmcall\n");
}

static __attribute__((naked)) void handle_l1_vector(void)
{
	asm("mov %rbx, %rsp\n"
	    "jmp *%r12\n");
}

static __attribute__((naked)) void handle_ud(void)
{
	asm("movq $6, l2_vector(%rip)\n"
	    "vmcall\n");
}

/* Where the shadow stack is, and what is in the page. */
enum on {
	SHADOW_STACK,	/* the page */
	TO_RETURN,	/* the page, with an address to return to */
	FOR_SETSSBSY,	/* elsewhere, with tokens in the page for these */
	FOR_CLRSSBSY,
	FOR_RSTORSSP,
	FOR_IST,
	FROM_TOKEN,	/* the page, and a token to switch to elsewhere */
	STACK,		/* none: it's the ordinary stack */
	L1_STACK,	/* the same for L1, after L2 has run */
};

static const struct instruction {
	const char *name;
	void (*l2)(void);
	enum access access;
	enum on on;
	bool only_all;
	uint64_t event;
} instructions[] = {
	{ "CALL", l2_call, WRITES, SHADOW_STACK },
	{ "RET", l2_ret, READS, TO_RETURN },
	{ "WRSS", l2_wrss, WRITES, SHADOW_STACK, .only_all = true },
	{ "SETSSBSY", l2_setssbsy, TOKEN, FOR_SETSSBSY },
	{ "CLRSSBSY", l2_clrssbsy, TOKEN, FOR_CLRSSBSY, .only_all = true },
	{ "RSTORSSP", l2_rstorssp, TOKEN, FOR_RSTORSSP, .only_all = true },
	{ "SAVEPREVSSP", l2_saveprevssp, TOKEN, FROM_TOKEN, .only_all = true },
	{ "INT", l2_int, DELIVERS, SHADOW_STACK },
	{ "INT by IST", l2_int_ist, DELIVERS, FOR_IST },
	{ "interrupt", l2_interrupted, DELIVERS, SHADOW_STACK,
	  .event = EXTERNAL_INTR },

	{ "FNSTENV", l2_fnstenv, WRITES, STACK },
	{ "INT", l2_int, DELIVERS, STACK },
	{ "interrupt", l2_interrupted, DELIVERS, STACK,
	  .event = EXTERNAL_INTR },

	{ "INT", l2_interrupted, DELIVERS, L1_STACK },
};

/* guest_nested() calls these before VM entry: for the first time, ... */
static void l1_first(void)
{
	vmwrite(EXCEPTION_BITMAP, l1_bitmap);
	vmwrite(PAGE_FAULT_ERROR_CODE_MATCH, 0);
	vmwrite(GUEST_RFLAGS, vmreadz(GUEST_RFLAGS) | RFLAGS_IF);
	if (l1_eptp_clear)
		vmwrite(EPT_POINTER, vmreadz(EPT_POINTER) & ~l1_eptp_clear);
	if (l1_log) {
		vmwrite(SECONDARY_VM_EXEC_CONTROL,
			vmreadz(SECONDARY_VM_EXEC_CONTROL) |
			SECONDARY_EXEC_ENABLE_PML);
		vmwrite(PML_ADDRESS, l1_log);
		vmwrite(GUEST_PML_INDEX, 0xffff);
	}
}

/* ... after the VMCALL of L2(), ... */
static void l1_second(void)
{
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + 3);
	vmwrite(VM_ENTRY_INTR_INFO_FIELD, l1_event);
}

static void l1_read(struct cet_call *call)
{
	READ_ONCE(*(uint64_t *)call->arg[0]);
}

/* ... and after an exit by EPT, perhaps during the delivery of an event. */
static void l1_mend(void)
{
	struct {
		uint64_t eptp;
		uint64_t reserved;
	} all = { };
	const uint64_t info = vmreadz(IDT_VECTORING_INFO_FIELD);

	if (l1_log)
		vmwrite(GUEST_PML_INDEX, 511);
	WRITE_ONCE(*l1_ept_entry, l1_ept_good);
	asm volatile("invept %0, %1" : : "m"(all), "r"(2ul) : "memory", "cc");

	if (info & INTR_VALID) {
		/* The length of INT n, which some emulators do not report */
		vmwrite(VM_ENTRY_INTR_INFO_FIELD, info & ~BIT_ULL(12));
		vmwrite(VM_ENTRY_INSTRUCTION_LEN, 2);
	}
}

static void l1_int(struct cet_call *call)
{
	asm volatile("mov %%rsp, %%rbx\n"
		     "lea 1f(%%rip), %%r12\n"
		     "mov %0, %%rsp\n"
		     "int $0x42\n"
		     "1:\n"
		     : : "r"(call->arg[0]) : "rbx", "r12", "memory");
}

struct test {
	const struct mapping *m;
	const struct instruction *i;
	bool intercept;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
	/* The page as the VMM sees it, NULL if it does not. */
	void *page;
	uint64_t target;
	char outcome[100];
};

static void note(struct test *t, const char *what)
{
	size_t len = strlen(t->outcome);

	snprintf(t->outcome + len, sizeof(t->outcome) - len, "%s%s",
		 len ? " " : "", what);
}

static bool has_cet(struct test *t)
{
	return t->i->on < STACK;
}

static void set_slot(struct test *t, bool present, uint32_t flags)
{
	vm_set_user_memory_region(t->vm, SLOT, flags, PAGE_GPA,
				  present ? SLOT_PAGES * PAGE_SIZE : 0,
				  memslot2region(t->vm, SLOT)->host_mem);
}

static void protect(struct test *t, int prot)
{
	TEST_ASSERT(!mprotect(t->page, PAGE_SIZE, prot), "mprotect() failed");
}

static void act(struct test *t)
{
	switch (t->m->action) {
	case NOTHING:
		break;
	case TRACK_DIRTY:
		set_slot(t, true, KVM_MEM_LOG_DIRTY_PAGES);
		break;
	case MAKE_READ_ONLY:
		set_slot(t, false, 0);
		set_slot(t, true, KVM_MEM_READONLY);
		break;
	case DELETE:
		set_slot(t, false, 0);
		break;
	case CREATE:
		set_slot(t, true, 0);
		break;
	case PROTECT:
		protect(t, PROT_NONE);
		break;
	case PROTECT_WRITES:
		protect(t, PROT_READ);
		break;
	}
}

static void mend(struct test *t)
{
	switch (t->m->action) {
	case MAKE_READ_ONLY:
		set_slot(t, false, 0);
		fallthrough;
	case DELETE:
		set_slot(t, true, 0);
		break;
	default:
		protect(t, PROT_READ | PROT_WRITE);
	}
}

/* The entry of L1's EPT that maps @gpa at @level, and is in a table there. */
static uint64_t *ept_entry(struct kvm_vm *vm, void *root, uint64_t gpa,
			   int level)
{
	uint64_t *entry = root;
	int l;

	for (l = PG_LEVEL_512G; ; l--) {
		entry += (gpa / PG_LEVEL_SIZE(l)) & 511;
		if (l == level)
			return entry;
		entry = addr_gpa2hva(vm, *entry & EPT_ADDRESS);
	}
}

static void map_by_ept(struct test *t)
{
	struct kvm_vm *vm = t->vm;
	struct vmx_pages **gva = addr_gva2hva(vm, (vm_vaddr_t)&cet_vmx);
	struct vmx_pages *vmx = addr_gva2hva(vm, (vm_vaddr_t)*gva);
	const int level = t->m->ept & EPT_HUGE ? PG_LEVEL_2M : PG_LEVEL_4K;
	uint64_t *entry, table;
	vm_vaddr_t table_gva;

	prepare_eptp(vmx, vm, 0);
	nested_identity_map_1g(vmx, vm, 0, PG_LEVEL_SIZE(PG_LEVEL_1G));
	nested_pg_map(vmx, vm, L2_PAGE_GPA, PAGE_GPA);
	nested_pg_map(vmx, vm, OTHER_GPA, PAGE_GPA + 16 * PAGE_SIZE);
	virt_map(vm, PAGE_GVA, L2_PAGE_GPA, 1);
	virt_map(vm, ALIAS_GVA, L2_PAGE_GPA, 1);
	virt_map(vm, OTHER_GVA, OTHER_GPA, 1);

	entry = ept_entry(vm, vmx->eptp_hva, L2_PAGE_GPA, level);
	table = *ept_entry(vm, vmx->eptp_hva, L2_PAGE_GPA, level + 1);
	table &= EPT_ADDRESS;

	switch (t->m->where) {
	case IN_SLOT:
		break;
	case IN_APIC:
		t->target = APIC_GPA;
		break;
	case IN_EPT:
		t->target = table;
		break;
	case IN_DIRECTORY:
		t->target = *ept_entry(vm, vmx->eptp_hva, OTHER_GPA,
				       PG_LEVEL_1G) & EPT_ADDRESS;
		/* Have it in use, and shadowed by KVM. */
		write_guest_global(vm, l2_touch_read, OTHER_GVA);
		break;
	case IN_EPT_ROOT:
		t->target = vmx->eptp_gpa;
		break;
	}

	*entry = t->m->ept ? t->target | t->m->ept : 0;
	table_gva = vm_vaddr_unused_gap(vm, PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	virt_map(vm, table_gva, table, 1);
	write_guest_global(vm, l1_ept_entry,
			   (void *)table_gva + ((uint64_t)entry & ~PAGE_MASK));
	write_guest_global(vm, l1_ept_good, t->target | EPT_RWX |
			   (t->m->ept & EPT_HUGE));
}

static void prepare_shadow_stack(struct test *t)
{
	const uint64_t ssp = PAGE_GVA + STACK_OFFSET;
	struct cet_vmcs_state *guest = &t->n->guest;
	uint64_t good, in_page = 0;
	vm_vaddr_t alias;
	uint64_t *table;

	cet_enable(t->vcpu);
	vm_make_shadow_stack(t->vm, PAGE_GVA);
	good = vm_alloc_shadow_stack(t->vm, &alias);
	table = addr_gva2hva(t->vm, alias);

	t->n->load_guest = true;
	t->n->load_host = true;
	guest->s_cet = CET_SHSTK_EN | CET_WRSS_EN;
	guest->ssp = good + STACK_OFFSET;
	guest->ssp_tbl = good;

	switch (t->i->on) {
	case TO_RETURN:
		in_page = (uint64_t)l2_return;
		fallthrough;
	case SHADOW_STACK:
		guest->ssp = ssp;
		break;
	case FOR_SETSSBSY:
		cet_set_msr(t->vcpu, MSR_IA32_PL0_SSP, ssp);
		in_page = ssp;
		break;
	case FOR_CLRSSBSY:
		in_page = ssp | 1;
		break;
	case FOR_RSTORSSP:
		in_page = (ssp + 8) | 1;
		break;
	case FOR_IST:
		table[1] = ssp;
		in_page = ssp;
		break;
	case FROM_TOKEN:
		write_guest_global(t->vm, l2_token, good + STACK_OFFSET);
		table[STACK_OFFSET / 8] = (good + STACK_OFFSET + 8) | 1;
		guest->ssp = ssp;
		break;
	default:
		TEST_FAIL("No shadow stack");
	}
	if (t->page && in_page)
		*(uint64_t *)(t->page + STACK_OFFSET) = in_page;
}

static void prepare(struct test *t)
{
	struct kvm_vm *vm = vm_create_cet(&t->vcpu, true, true);
	const vm_vaddr_t stack = vm_vaddr_alloc_page(vm) + STACK_OFFSET;
	const vm_vaddr_t ist = vm_vaddr_alloc_page(vm) + STACK_OFFSET;
	const vm_paddr_t log = addr_gva2gpa(vm, vm_vaddr_alloc_page(vm));
	struct idt_entry *idt = addr_gva2hva(vm, vm->arch.idt);

	t->vm = vm;
	t->target = PAGE_GPA;
	vm_userspace_mem_region_add(vm, t->m->huge ?
				    VM_MEM_SRC_ANONYMOUS_THP :
				    VM_MEM_SRC_ANONYMOUS, PAGE_GPA, SLOT,
				    SLOT_PAGES, 0);
	t->n = vcpu_init_cet_nested(t->vcpu);

	write_guest_global(vm, l2_touch_read, stack);
	write_guest_global(vm, l2_touch_write, t->m->touched ? ALIAS_GVA : stack);
	write_guest_global(vm, l2_rsp,
			   has_cet(t) ? stack : ALIAS_GVA + STACK_OFFSET);
	write_guest_global(vm, l1_bitmap, t->intercept ? ~0u : 0);
	write_guest_global(vm, l1_eptp_clear, t->m->without_ad ? EPTP_AD : 0);
	write_guest_global(vm, l1_event, t->i->event);
	write_guest_global(vm, l1_log, t->m->log_full ? log : 0);

	vm_set_raw_handler(vm, UD_VECTOR, handle_ud);
	vm_set_raw_handler(vm, VECTOR, handle_vector);
	vm_set_raw_handler(vm, IST_VECTOR, handle_vector);
	vm_set_raw_handler(vm, L1_VECTOR, handle_l1_vector);
	idt[IST_VECTOR].ist = 1;
	memcpy(addr_gva2hva(vm, vm->arch.tss) + TSS_IST1, &ist, sizeof(ist));

	if (t->m->shadowed) {
		virt_map(vm, PAGE_GVA, PAGE_GPA, 1);
		virt_map(vm, ALIAS_GVA, PAGE_GPA, 1);
	} else {
		map_by_ept(t);
	}
	virt_map(vm, L1_GVA, t->target, 1);
	if (t->m->where != IN_APIC)
		t->page = addr_gpa2hva(vm, t->target);

	t->n->l2 = t->i->l2;
	t->n->without_cet = !has_cet(t);
	if (has_cet(t))
		prepare_shadow_stack(t);

	if (t->m->action == CREATE) {
		set_slot(t, false, 0);
		write_guest_global(vm, l2_touch_read, ALIAS_GVA);
	}
}

static bool out_of_time;

static void on_alarm(int signal)
{
	WRITE_ONCE(out_of_time, true);
}

/* The delivery of an event to the page ended in an exit to user space. */
static bool is_delivery_exit(struct test *t)
{
	struct kvm_run *run = t->vcpu->run;
	uint64_t gpa = t->target;

	if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR ||
	    run->internal.suberror != KVM_INTERNAL_ERROR_DELIVERY_EV)
		return false;

	if (t->i->on != L1_STACK && !t->m->shadowed)
		gpa = L2_PAGE_GPA;
	TEST_ASSERT(run->internal.data[0] & INTR_VALID, "No event");
	TEST_ASSERT_EQ(run->internal.data[3] & PAGE_MASK, gpa);
	return true;
}

/*
 * KVM_RUN until what cet_prepare() has prepared is done.  User space repairs
 * the mapping only if the same exit comes a second time.
 */
static bool run(struct test *t, uint64_t max_exits)
{
	const struct itimerval second = { .it_value.tv_sec = 1 }, off = { };
	const uint64_t before = cet_vcpu_stat(t->vcpu, "exits");
	struct kvm_run *run = t->vcpu->run;
	const char *stopped = NULL, *what;
	uint64_t exits = 0;
	char text[60];
	int i, r;

	for (i = 0; i < MAX_RETURNS; i++) {
		setitimer(ITIMER_REAL, &second, NULL);
		r = __vcpu_run(t->vcpu) ? errno : 0;
		setitimer(ITIMER_REAL, &off, NULL);

		exits = cet_vcpu_stat(t->vcpu, "exits") - before;
		if (READ_ONCE(out_of_time) || exits > max_exits)
			break;

		if (!r && run->exit_reason == KVM_EXIT_IO) {
			cet_finish(t->vcpu);
			return true;
		}
		if (!r && run->exit_reason == KVM_EXIT_MMIO) {
			memset(run->mmio.data, 0, sizeof(run->mmio.data));
			continue;
		}

		if (r == EFAULT)
			what = "EFAULT";
		else if (!r && is_delivery_exit(t))
			what = "exit";
		else
			break;

		if (!stopped) {
			stopped = what;
			continue;
		}
		TEST_ASSERT(stopped == what, "%s, then %s", stopped, what);
		note(t, what);
		if (t->m->beyond_repair) {
			what = (uint8_t)run->internal.data[0] == UD_VECTOR ?
			       "#UD" : "ok";
			note(t, what);
			return false;
		}
		mend(t);
	}

	if (READ_ONCE(out_of_time) || exits > max_exits || i == MAX_RETURNS)
		snprintf(text, sizeof(text), "no end");
	else
		snprintf(text, sizeof(text), "errno %d, exit reason %d", r,
			 run->exit_reason);
	note(t, text);
	return false;
}

/* One VM entry, and where L2 gets to. */
static void run_l2(struct test *t, void (*prepare)(void))
{
	const uint64_t *vector = addr_gva2hva(t->vm, (vm_vaddr_t)&l2_vector);
	const uint64_t *done = addr_gva2hva(t->vm, (vm_vaddr_t)&l2_done);
	struct cet_nested *n = t->n;
	char text[40];

	n->prepare = prepare;
	n->reason = -1;
	n->resume = prepare != l1_first;
	cet_prepare(t->vcpu, guest_nested, 0, 0);
	/* L1's preparations take many exits. */
	if (!run(t, prepare == l1_first ? 1000 : MAX_EXITS))
		return;

	switch (n->reason) {
	case EXIT_REASON_VMCALL:
		if (prepare != l1_first)
			note(t, *vector ? "#UD" : *done ? "ok" : "nowhere");
		break;
	case EXIT_REASON_EXCEPTION_NMI:
		snprintf(text, sizeof(text), (uint8_t)n->intr_info == UD_VECTOR ?
			 "#UD" : "exception 0x%lx", n->intr_info);
		note(t, text);
		break;
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIG:
	case EXIT_REASON_PML_FULL:
		note(t, "L1");
		if (prepare != l1_mend) {
			run_l2(t, l1_mend);
			break;
		}
		fallthrough;
	default:
		snprintf(text, sizeof(text), "error %lu, reason 0x%lx",
			 n->error, n->reason);
		note(t, text);
	}
}

/* Twice at the same RIP and RSP; in between, KVM maps all of L2 again. */
static void run_l1(struct test *t)
{
	cet_prepare(t->vcpu, l1_int, L1_GVA + STACK_OFFSET, 0);
	if (!run(t, MAX_EXITS))
		return;
	run_l2(t, l1_first);
	cet_prepare(t->vcpu, l1_int, L1_GVA + STACK_OFFSET, 0);
	if (run(t, MAX_EXITS))
		note(t, "ok");
}

static void run_test(struct test *t)
{
	const struct sigaction action = { .sa_handler = on_alarm };

	sigaction(SIGALRM, &action, NULL);
	prepare(t);
	run_l2(t, l1_first);
	if (t->m->huge && t->m->touched)
		TEST_ASSERT(vm_get_stat(t->vm, "pages_2m"), "No huge page");
	if (t->i->on == L1_STACK && t->m->action == CREATE) {
		cet_prepare(t->vcpu, l1_read, L1_GVA, 0);
		run(t, MAX_EXITS);
	}
	act(t);
	if (t->i->on == L1_STACK)
		run_l1(t);
	else
		run_l2(t, l1_second);
}

/* Run in a process of its own, as it may crash or hang. */
static bool passes(const struct mapping *m, const struct instruction *i,
		   bool intercept)
{
	struct test t = { .m = m, .i = i, .intercept = intercept };
	const char *expect = m->expect[i->access];
	int status;
	pid_t pid;

	if (intercept && !strcmp(expect, "exit #UD"))
		expect = "#UD";
	if (i->on == L1_STACK && !strcmp(expect, "L1 ok"))
		expect = "ok";	/* L1 does not run on this EPT */

	fflush(stdout);
	pid = fork();
	if (!pid) {
		run_test(&t);
		if (strcmp(t.outcome, expect))
			ksft_print_msg("%s, exceptions %sintercepted: \"%s\", not \"%s\"\n",
				       i->name, intercept ? "" : "not ",
				       t.outcome, expect);
		_exit(strcmp(t.outcome, expect) ? 1 : 0);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "No process");
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

enum suite { SHADOW_STACKS, STACKS, L1_STACKS };

static enum suite suite_of(const struct instruction *i)
{
	if (i->on == L1_STACK)
		return L1_STACKS;
	return i->on == STACK ? STACKS : SHADOW_STACKS;
}

/* All instructions of @which that are to be tried, on @m */
static bool try(const struct mapping *m, enum suite which, bool all)
{
	const struct instruction *in;
	bool pass = true;
	int i;

	for (i = 0; i < ARRAY_SIZE(instructions); i++) {
		in = &instructions[i];
		if (suite_of(in) != which || (in->only_all && !all))
			continue;
		pass &= passes(m, in, false);
		if (all && which != L1_STACKS)
			pass &= passes(m, in, true);
	}

	return pass;
}

FIXTURE(l2)
{
	const struct mapping *m;
};

FIXTURE_VARIANT(l2)
{
	const char *mapping;
};

FIXTURE_VARIANT_ADD(l2, rwx) { "rwx" };
FIXTURE_VARIANT_ADD(l2, absent) { "absent" };
FIXTURE_VARIANT_ADD(l2, r) { "r" };
FIXTURE_VARIANT_ADD(l2, misconfigured) { "misconfigured" };
FIXTURE_VARIANT_ADD(l2, dirty) { "dirty" };
FIXTURE_VARIANT_ADD(l2, read_only) { "read_only" };
FIXTURE_VARIANT_ADD(l2, deleted) { "deleted" };
FIXTURE_VARIANT_ADD(l2, created) { "created" };
FIXTURE_VARIANT_ADD(l2, protected) { "protected" };
FIXTURE_VARIANT_ADD(l2, directory) { "directory" };

FIXTURE_SETUP(l2)
{
	self->m = mappings;
	while (strcmp(self->m->name, variant->mapping))
		self->m++;
}

FIXTURE_TEARDOWN(l2)
{
}

TEST_F(l2, shadow_stack)
{
	EXPECT_TRUE(try(self->m, SHADOW_STACKS, false));
}

TEST_F(l2, stack)
{
	EXPECT_TRUE(try(self->m, STACKS, false));
}

TEST_F(l2, l1_stack)
{
	EXPECT_TRUE(try(self->m, L1_STACKS, false));
}

static int try_all(void)
{
	int m;

	ksft_print_header();
	ksft_set_plan(2 * ARRAY_SIZE(mappings));
	for (m = 0; m < ARRAY_SIZE(mappings); m++) {
		ksft_test_result(try(&mappings[m], SHADOW_STACKS, true),
				 "all.%s.shadow_stack\n", mappings[m].name);
		ksft_test_result(try(&mappings[m], STACKS, true),
				 "all.%s.stack\n", mappings[m].name);
	}
	ksft_finished();
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));
	TEST_REQUIRE(kvm_cpu_has_ept());

	if (argc == 2 && !strcmp(argv[1], "-a"))
		return try_all();
	return test_harness_run(argc, argv);
}
