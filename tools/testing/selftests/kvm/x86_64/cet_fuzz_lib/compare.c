// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's comparison of two kernels: a hash of all that the host sees, and
 * which differences are known.  scripts/fuzz-compare compares the hashes.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "cet_fuzz.h"

/* A round takes a few seconds, unless KVM_RUN doesn't return. */
#define ROUND_SECONDS		120

bool fuzz_compare, fuzz_hidden, fuzz_verbose;

/* For -u, and as patches/mainline.rst names them */
static struct {
	const char *name, *what;
	bool in_base, not_in_mainline, unknown;
} differences[NR_DIFFERENCES] = {
	[NO_CET_U] = { "no-cet-u", "SHSTK in CPUID, but no CET_U in leaf 0xD" },
	[XSS_ALONE] = { "xss", "CET bits of IA32_XSS, with neither feature in CPUID" },
	[XSS_KEPT] = { "xss-kept",
		       "IA32_XSS that a vCPU without XSAVES has kept: 0 by user space" },
	[BITMAP_BASE] = { "bitmap", "Bits 13:12 of IA32_U_CET, IA32_S_CET" },
	[NOT_CANONICAL] = { "canonical", "Other values of these that are not canonical" },
	[U_CET_OTHER] = { "u-cet", "IA32_U_CET by user space: bits of the other feature" },
	[WRMSR_OTHER] = { "wrmsr", "The same by WRMSR" },
	[TABLE_WITHOUT_LM] = { "table", "The same of a vCPU without 64-bit mode" },
	[WIDE_SSP] = { "ssp", "SSP that has one bit more than a canonical address" },
	[SREGS_WITHOUT_WP] = { "sregs", "KVM_SET_SREGS: CR4.CET without CR0.WP" },
	[SSP_AS_MSR] = { "ssp-msr", "MSR 0x4b564dff" },
	[VMCS12_FIELDS] = { "fields", "CET fields of vmcs12" },
	[VMCS12_SSP] = { "vmcs12-ssp", "vmcs12: SSP of the host, or table address, without SHSTK" },
	[FAILED_ENTRY] = { "failed-entry",
			   "VM entry of L1 that fails, without the VM-exit control" },
	[SMI_IN_L2] = { "smi",
			"SMI in L2, with the VM-exit control or a list of MSRs for VM exit" },
	[FORCED_EXIT] = { "forced-exit", "Forced exits from L2 with such a list" },
	[STALE_FIELDS] = { "stale-fields",
			   "VM entry of L1 after user space has taken the vCPU out of L2",
			   .in_base = true },
	[CPUID_IN_L2] = { "cpuid-in-l2",
			  "KVM: x86: Refuse changes of CPUID and feature MSRs while L2 is active",
			  .in_base = true, .not_in_mainline = true },
};

/* What the process that carries out a round tells the one that prints it */
static struct {
	uint64_t nr_ops, hash;
	struct {
		uint64_t known, tried, accepted;
	} counts[NR_DIFFERENCES];
	char failure[256];
} *shared;

static void add(uint64_t val)
{
	uint64_t x = (shared->hash ^ val) * 0x9fb21c651e98df25;

	shared->hash = x ^ (x >> 32);
}

void fuzz_see(const char *what, uint64_t val)
{
	if (!fuzz_compare)
		return;
	add(val);
	if (fuzz_verbose)
		printf("\t%s: 0x%lx\n", what, val);
}

void fuzz_see_ioctl(const char *what, int r)
{
	int error = errno;

	fuzz_see(what, r);
	if (r < 0)
		fuzz_see("errno", error);
}

void fuzz_see_bytes(const char *what, const void *data, size_t size)
{
	const uint64_t *words = data;
	int i;

	if (!fuzz_compare)
		return;
	if (fuzz_verbose)
		printf("\t%s:", what);
	for (i = 0; i < size / sizeof(*words); i++) {
		add(words[i]);
		if (fuzz_verbose && words[i])
			printf(" %zu=0x%lx", i * sizeof(*words), words[i]);
	}
	if (fuzz_verbose)
		printf("\n");
}

void fuzz_see_operation(struct fuzz_vcpu *v, int unit, const char *what,
			uint64_t a, uint64_t b)
{
	if (!fuzz_compare)
		return;
	shared->nr_ops++;
	add(unit);
	add(a);
	add(b);
	if (fuzz_verbose)
		printf("%d vCPU %u  %s 0x%lx 0x%lx\n", unit, v->vcpu->id, what, a, b);
}

static bool is_known(enum fuzz_difference difference)
{
	if (!fuzz_compare || difference == SAME || differences[difference].unknown)
		return false;
	return fuzz_hidden ? differences[difference].in_base :
			     !differences[difference].not_in_mainline;
}

bool fuzz_known(enum fuzz_difference difference)
{
	if (!is_known(difference))
		return false;
	shared->counts[difference].known++;
	return true;
}

void fuzz_tried(enum fuzz_difference difference, bool accepted)
{
	shared->counts[difference].tried++;
	shared->counts[difference].accepted += accepted;
}

bool fuzz_treat_as_unknown(const char *name)
{
	int i;

	for (i = SAME + 1; i < NR_DIFFERENCES; i++) {
		if (!strcmp(differences[i].name, name))
			return differences[i].unknown = true;
	}
	return false;
}

void fuzz_compare_failed(const char *text)
{
	if (fuzz_verbose)
		printf("\twrong: %s\n", text);
	snprintf(shared->failure, sizeof(shared->failure), "%s", text);
	_exit(1);
}

/* Doesn't return: it uses a shadow stack of its own, which KVM must keep. */
static void __noreturn do_round(const struct fuzz_units *units)
{
	alarm(ROUND_SECONDS);
	cet_host_shadow_stack(ARCH_SHSTK_ENABLE);
	fuzz_do_round(units, -1ull);
	_exit(0);
}

static void print_round(const struct fuzz_units *units)
{
	int status;
	pid_t pid;

	shared->hash = units->seed;
	shared->nr_ops = 0;
	shared->failure[0] = 0;
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid)
		do_round(units);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");

	printf("round %lu: %lu operations, ", units->seed, shared->nr_ops);
	if (!status)
		printf("0x%016lx\n", shared->hash);
	else if (shared->failure[0])
		printf("wrong: %s\n", shared->failure);
	else
		printf("wrong: wait status 0x%x\n", status);
}

static void print_listed(const char *file)
{
	static struct fuzz_units units;
	static char line[1 << 17];
	FILE *f = fopen(file, "r");
	char *p, *end;

	TEST_ASSERT(f, "Cannot read %s", file);
	while (fgets(line, sizeof(line), f)) {
		units.seed = strtoull(line, &p, 10);
		for (units.nr = 0; units.nr < ARRAY_SIZE(units.units); units.nr++) {
			units.units[units.nr] = strtol(p, &end, 10);
			if (end == p)
				break;
			p = end;
		}
		print_round(&units);
	}
	fclose(f);
}

void fuzz_compare_rounds(uint64_t seed, uint64_t nr, const char *file)
{
	static struct fuzz_units units;
	uint64_t done;
	int i;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(shared != MAP_FAILED, "mmap() failed");
	if (file) {
		print_listed(file);
		exit(0);
	}
	for (done = 0; done < nr; done += shared->nr_ops) {
		units.seed = seed++;
		print_round(&units);
		TEST_ASSERT(shared->nr_ops, "Nothing was done");
	}
	for (i = SAME + 1; i < NR_DIFFERENCES; i++) {
		if (!is_known(i))
			continue;
		printf("known %s: %lu times, %lu of %lu accepted: %s\n",
		       differences[i].name, shared->counts[i].known,
		       shared->counts[i].accepted, shared->counts[i].tried,
		       differences[i].what);
	}
	printf("done: %lu operations\n", done);
	exit(0);
}
