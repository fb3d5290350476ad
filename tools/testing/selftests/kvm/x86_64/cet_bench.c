// SPDX-License-Identifier: GPL-2.0
/*
 * Measure what KVM costs with and without CET: TSC ticks of exits, ioctls and
 * switches, one line each, for scripts that make tables of them.  In an
 * emulator whose TSC counts instructions, the numbers repeat exactly.
 */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/auxv.h>

#include "cet.h"
#include "vmx.h"
#include "cet_race_mod/cet_race.h"

#define NR_SAMPLES	201
#define NR_WARM_UP	7
#define NR_PASSES	(NR_WARM_UP + NR_SAMPLES)

/* The vCPUs of a VM where each pass has a new one; divides NR_PASSES */
#define NR_VCPUS	16

/* Does the guest have CET, and use it? */
static bool cet;

/* The only line to measure, with a trace of one of its passes */
static const char *traced;

/* Shared with the guest */
static uint64_t samples[NR_PASSES];
static bool tracing;
static struct vmx_pages *vmx;

static struct kvm_vcpu *vcpu;

static __always_inline uint64_t now(void)
{
	uint32_t low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low | (uint64_t)high << 32;
}

/* A breakpoint in some emulators, a NOP elsewhere */
static __always_inline void mark(int pass)
{
	if (tracing && pass == NR_PASSES - 1)
		asm volatile("xchg %%bx, %%bx" : : : "memory");
}

#define MEASURE(pass, op)			\
do {						\
	uint64_t begin, end;			\
						\
	mark(pass);				\
	begin = now();				\
	op;					\
	end = now();				\
	mark(pass);				\
	samples[pass] = end - begin;		\
} while (0)

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Not the mean: an interrupt of the host makes some samples longer. */
static uint64_t median(struct kvm_vm *vm, uint64_t *same)
{
	uint64_t *all = vm ? addr_gva2hva(vm, (vm_vaddr_t)samples) : samples;
	uint64_t sorted[NR_SAMPLES], val;
	int i;

	memcpy(sorted, &all[NR_WARM_UP], sizeof(sorted));
	qsort(sorted, NR_SAMPLES, sizeof(*sorted), compare);
	val = sorted[NR_SAMPLES / 2];
	*same = 0;
	for (i = 0; i < NR_SAMPLES; i++)
		*same += sorted[i] == val;
	return val;
}

/* @overhead: what the measurement takes by itself */
static void report(const char *what, struct kvm_vm *vm, uint64_t overhead,
		   bool exits)
{
	uint64_t same, val = median(vm, &same);

	printf("%s\t%lu%s\t%lu%%\n", what, val - overhead,
	       exits ? " (exit)" : "", same * 100 / NR_SAMPLES);
}

static bool wanted(const char *what)
{
	tracing = traced && !strcmp(traced, what);
	return !traced || tracing;
}

/*
 * A guest that has XSAVE in use, as any operating system has, and CET for its
 * user space.
 */
static void init_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	int i;

	vcpu_init_cet(vcpu, cet, cet);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr4 |= X86_CR4_OSXSAVE;
	if (cet)
		sregs.cr4 |= X86_CR4_CET;
	vcpu_sregs_set(vcpu, &sregs);
	if (!cet)
		return;

	vcpu_set_msr(vcpu, MSR_IA32_XSS, XFEATURE_MASK_CET);
	for (i = 0; i < CET_NR_XSAVE_MSRS; i++)
		cet_set_msr(vcpu, cet_xsave_msrs[i], cet_value(0, i));
	cet_set_msr(vcpu, MSR_IA32_U_CET, CET_SHSTK_EN | CET_ENDBR_EN);
}

static struct kvm_vm *create_vm(int nr_vcpus, struct kvm_vcpu **vcpus)
{
	struct kvm_vm *vm = vm_create(nr_vcpus);
	int i;

	vm_init_cet(vm);
	for (i = 0; i < nr_vcpus; i++) {
		vcpus[i] = vm_vcpu_add(vm, i, NULL);
		init_vcpu(vcpus[i]);
	}
	sync_global_to_guest(vm, tracing);
	return vm;
}

static void guest_nothing(struct cet_call *call)
{
	int i;

	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, (void)0);
}

static void guest_cpuid(struct cet_call *call)
{
	uint32_t eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, cpuid(0, &eax, &ebx, &ecx, &edx));
}

static void guest_out(struct cet_call *call)
{
	int i;

	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, asm volatile("outb %%al, %0" : : "i"(CET_PORT)));
}

static void guest_out_forever(struct cet_call *call)
{
	for (;;)
		asm volatile("outb %%al, %0" : : "i"(CET_PORT));
}

static void guest_write(struct cet_call *call)
{
	uint32_t msr = call->arg[0], low = call->arg[1];
	uint32_t high = call->arg[1] >> 32;
	int i;

	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, asm volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high)
					: "memory"));
}

/* Without the overhead of a library */
static __always_inline long raw_ioctl(int fd, unsigned long nr, void *arg)
{
	long ret;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "a"(SYS_ioctl), "D"(fd), "S"(nr), "d"(arg)
		     : "rcx", "r11", "memory");
	return ret;
}

/* Let another task have the CPU before each KVM_RUN. */
static bool yielding;

/* KVM_RUN until the guest exits by anything but its port. */
static struct cet_call *run(struct kvm_vcpu *vcpu, void (*fn)(struct cet_call *),
			    uint64_t arg0, uint64_t arg1)
{
	cet_prepare(vcpu, fn, arg0, arg1);
	do {
		if (yielding)
			sched_yield();
		TEST_ASSERT(!raw_ioctl(vcpu->fd, KVM_RUN, NULL), "KVM_RUN failed");
	} while (vcpu->run->exit_reason == KVM_EXIT_IO &&
		 vcpu->run->io.port == CET_PORT);
	return cet_finish(vcpu);
}

static uint64_t guest_overhead(struct kvm_vcpu *vcpu)
{
	bool keep = tracing;
	uint64_t same;

	tracing = false;
	sync_global_to_guest(vcpu->vm, tracing);
	run(vcpu, guest_nothing, 0, 0);
	tracing = keep;
	sync_global_to_guest(vcpu->vm, tracing);
	return median(vcpu->vm, &same);
}

static void measure_exits(void)
{
	struct kvm_vm *vm = create_vm(1, &vcpu);
	uint64_t overhead = guest_overhead(vcpu);
	char what[64];
	int i;

	if (wanted("exit handled in the kernel: CPUID")) {
		sync_global_to_guest(vm, tracing);
		run(vcpu, guest_cpuid, 0, 0);
		report("exit handled in the kernel: CPUID", vm, overhead, false);
	}
	if (wanted("exit to user space and back: OUT")) {
		sync_global_to_guest(vm, tracing);
		run(vcpu, guest_out, 0, 0);
		report("exit to user space and back: OUT", vm, overhead, false);
	}
	for (i = 0; cet && i < CET_NR_MSRS; i++) {
		uint64_t val = 0;

		cet_get_msr(vcpu, cet_msrs[i], &val);
		snprintf(what, sizeof(what), "guest WRMSR %s",
			 cet_msr_name(cet_msrs[i]) + strlen("MSR_"));
		if (!wanted(what))
			continue;
		sync_global_to_guest(vm, tracing);
		run(vcpu, guest_write, cet_msrs[i], val);
		report(what, vm, overhead,
		       cet_call_exits(vcpu, guest_wrmsr, cet_msrs[i], val));
	}
	kvm_vm_free(vm);
}

static bool stop;

static void *run_other(void *arg)
{
	struct kvm_vcpu *other = arg;

	cet_prepare(other, guest_out_forever, 0, 0);
	while (!READ_ONCE(stop)) {
		TEST_ASSERT(!raw_ioctl(other->fd, KVM_RUN, NULL), "KVM_RUN failed");
		sched_yield();
	}
	return NULL;
}

/* Two tasks that take turns whenever their guests exit to user space */
static void measure_switch(void)
{
	/* With SCHED_FIFO, a task has the CPU until it yields. */
	const struct sched_param param = { .sched_priority = 1 };
	const struct sched_param normal = {};
	const char *what = "switch to another task's vCPU and back";
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm;
	uint64_t overhead;
	pthread_t other;

	if (!wanted(what))
		return;
	vm = create_vm(2, vcpus);
	overhead = guest_overhead(vcpus[0]);

	kvm_pin_this_task_to_pcpu(0);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param), "No SCHED_FIFO");
	pthread_create(&other, NULL, run_other, vcpus[1]);
	yielding = true;
	run(vcpus[0], guest_out, 0, 0);
	yielding = false;
	WRITE_ONCE(stop, true);
	pthread_join(other, NULL);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_OTHER, &normal), "No SCHED_OTHER");
	report(what, vm, overhead, false);
	kvm_vm_free(vm);
}

static uint64_t host_overhead(void)
{
	bool keep = tracing;
	uint64_t same;
	int i;

	tracing = false;
	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, (void)0);
	tracing = keep;
	return median(NULL, &same);
}

/* @want: what the ioctl has to return, or else there is no line */
static void measure_ioctl(const char *what, unsigned long nr, void *arg, long want)
{
	uint64_t overhead;
	long ret = want;
	int i;

	if (!wanted(what))
		return;
	overhead = host_overhead();
	for (i = 0; i < NR_PASSES && ret == want; i++)
		MEASURE(i, ret = raw_ioctl(vcpu->fd, nr, arg));
	if (ret == want)
		report(what, NULL, overhead, false);
}

struct msr_list {
	struct kvm_msrs header;
	struct kvm_msr_entry entries[CET_NR_MSRS];
};

static void measure_msrs(const char *what, const uint32_t *msrs, int nr)
{
	struct msr_list list = { .header.nmsrs = nr };
	char name[64];
	int i;

	for (i = 0; i < nr; i++)
		list.entries[i].index = msrs[i];
	snprintf(name, sizeof(name), "KVM_GET_MSRS: %s", what);
	measure_ioctl(name, KVM_GET_MSRS, &list, nr);
	snprintf(name, sizeof(name), "KVM_SET_MSRS: %s", what);
	measure_ioctl(name, KVM_SET_MSRS, &list, nr);
}

static void measure_ioctls(void)
{
	static const uint32_t s_cet = MSR_IA32_S_CET, u_cet = MSR_IA32_U_CET;
	static const uint32_t sysenter_cs = MSR_IA32_SYSENTER_CS;
	uint64_t ssp = 0;
	struct kvm_one_reg reg = {
		.id = KVM_X86_REG_KVM(KVM_REG_GUEST_SSP),
		.addr = (uint64_t)&ssp,
	};
	struct kvm_vm *vm = create_vm(1, &vcpu);

	/* Have the state that a vCPU has between two runs. */
	run(vcpu, guest_nothing, 0, 0);
	measure_msrs("SYSENTER_CS", &sysenter_cs, 1);
	measure_msrs("S_CET", &s_cet, 1);
	measure_msrs("U_CET", &u_cet, 1);
	measure_msrs("all seven of CET", cet_msrs, CET_NR_MSRS);
	measure_ioctl("KVM_GET_ONE_REG: SSP", KVM_GET_ONE_REG, &reg, 0);
	measure_ioctl("KVM_SET_ONE_REG: SSP", KVM_SET_ONE_REG, &reg, 0);
	kvm_vm_free(vm);
}

/* Uses no stack: that of a new vCPU would have to be mapped first. */
static void __attribute__((naked)) guest_exit(void)
{
	asm volatile("1: outb %al, $0x80; jmp 1b");
}

/* Without CET, have the CPUID of a kernel without CET. */
static void set_cpuid(struct kvm_vcpu *vcpu)
{
	struct kvm_cpuid2 *cpuid = vcpu->cpuid;
	int i;

	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_SHSTK, cet);
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_IBT, cet);
	if (cet)
		return;

	__vcpu_get_cpuid_entry(vcpu, XSAVE_LEAF, 1)->ecx &= ~XFEATURE_MASK_CET;
	for (i = cpuid->nent - 1; i >= 0; i--) {
		if (cpuid->entries[i].function == XSAVE_LEAF &&
		    BIT_ULL(cpuid->entries[i].index) & XFEATURE_MASK_CET)
			memmove(&cpuid->entries[i], &cpuid->entries[i + 1],
				(--cpuid->nent - i) * sizeof(cpuid->entries[0]));
	}
	vcpu_set_cpuid(vcpu);
}

/*
 * CPUID can change only until the vCPU runs: have a new vCPU for each pass.
 * KVM then does work for all vCPUs of the VM: always have as many of them.
 */
static void measure_cpuid(const char *what, bool measure_run)
{
	struct kvm_vcpu *vcpus[NR_VCPUS];
	uint64_t overhead;
	struct kvm_vm *vm = NULL;
	int i;

	if (!wanted(what))
		return;
	overhead = host_overhead();
	for (i = 0; i < NR_PASSES; i++) {
		if (i % NR_VCPUS == 0)
			vm = vm_create_with_vcpus(NR_VCPUS, guest_exit, vcpus);
		vcpu = vcpus[i % NR_VCPUS];
		set_cpuid(vcpu);
		if (measure_run) {
			MEASURE(i, raw_ioctl(vcpu->fd, KVM_RUN, NULL));
			TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
		} else {
			MEASURE(i, raw_ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->cpuid));
		}
		if (i % NR_VCPUS == NR_VCPUS - 1)
			kvm_vm_free(vm);
	}
	report(what, NULL, overhead, false);
}

/* Not inlined: vmcall() pushes, which would overwrite a leaf's red zone. */
static noinline void l2_vmcall(void)
{
	vmcall();
}

static void l2(void)
{
	int i;

	for (i = 0; i < NR_PASSES; i++)
		MEASURE(i, l2_vmcall());
	l2_vmcall();
}

static void guest_run_l2(struct cet_call *call)
{
	int i;

	guest_prepare_l2(vmx, l2);
	GUEST_ASSERT(!vmlaunch());
	for (i = 0; i < NR_PASSES; i++) {
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) +
				   vmreadz(VM_EXIT_INSTRUCTION_LEN));
		GUEST_ASSERT(!vmresume());
	}
}

static void measure_nested(void)
{
	const char *what = "L2 to L1 and back: VMCALL";
	uint64_t overhead;
	struct kvm_vm *vm;
	vm_vaddr_t gva;

	if (!wanted(what))
		return;
	vm = create_vm(1, &vcpu);
	overhead = guest_overhead(vcpu);
	vcpu_alloc_vmx(vm, &gva);
	write_guest_global(vm, vmx, (struct vmx_pages *)gva);
	run(vcpu, guest_run_l2, 0, 0);
	report(what, vm, overhead, false);
	kvm_vm_free(vm);
}

/* Memory per task */
static void report_task(void)
{
	FILE *file = fopen("/sys/kernel/slab/task_struct/object_size", "r");
	int size;

	if (file && fscanf(file, "%d", &size) == 1)
		printf("bytes of a task (task_struct)\t%d\n", size);
	printf("bytes of a signal frame (AT_MINSIGSTKSZ)\t%lu\n",
	       getauxval(AT_MINSIGSTKSZ));
}

/* Memory per vCPU.  This needs the module, whose probes slow KVM down. */
static void report_vcpu(void)
{
	struct kvm_vm *vm = create_vm(1, &vcpu);
	int fd = open(CET_RACE_DEVICE, O_RDWR);
	__u32 size;

	TEST_ASSERT(fd >= 0, "No " CET_RACE_DEVICE ": is cet_race_mod loaded?");
	run(vcpu, guest_nothing, 0, 0);
	TEST_ASSERT(!ioctl(fd, CET_RACE_FPSTATE, &size), "CET_RACE_FPSTATE failed");
	printf("bytes of a vCPU's FPU state\t%u\n", size);
	close(fd);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	bool only_vcpu = false;
	int option;

	while ((option = getopt(argc, argv, "cft:")) != -1) {
		switch (option) {
		case 'c':
			cet = true;
			break;
		case 'f':
			only_vcpu = true;
			break;
		case 't':
			traced = optarg;
			break;
		default:
			TEST_FAIL("usage: %s [-c] [-f] [-t LINE]\n"
				  "  -c: a guest with CET\n"
				  "  -f: the size of its FPU state, by cet_race_mod\n"
				  "  -t: only this LINE, one pass between two breakpoints",
				  argv[0]);
		}
	}

	if (cet) {
		TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SHSTK));
		TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_IBT));
	}
	if (only_vcpu) {
		report_vcpu();
		return 0;
	}

	measure_exits();
	measure_switch();
	measure_ioctls();
	measure_cpuid("KVM_SET_CPUID2", false);
	measure_cpuid("first KVM_RUN", true);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		measure_nested();
	if (!traced)
		report_task();

	return 0;
}
