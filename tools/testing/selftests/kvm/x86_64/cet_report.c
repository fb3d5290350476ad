// SPDX-License-Identifier: GPL-2.0
/*
 * A report for people on what KVM does about CET on this machine: who has it,
 * whether the MSRs keep what is written to them, and how two attacks on a guest
 * end.  Exits with 0 if all is as it should be, 1 otherwise.
 */
#include <stdio.h>

#include "cet.h"

static bool failed;

/* @ok: whether that is how it should be. */
static const char *mark(bool ok)
{
	failed |= !ok;
	return ok ? "" : "   <-- wrong";
}

static const char *yes(bool has)
{
	return has ? "yes" : "no";
}

static void report_features(void)
{
	bool shstk = kvm_cpu_has(X86_FEATURE_SHSTK);
	bool ibt = kvm_cpu_has(X86_FEATURE_IBT);
	uint32_t xss = get_cpuid_entry(kvm_get_supported_cpuid(), 0xd, 1)->ecx;

	printf("                             shadow stacks   indirect branch tracking\n");
	printf("  the CPU has                %-15s %s\n",
	       yes(this_cpu_has(X86_FEATURE_SHSTK)),
	       yes(this_cpu_has(X86_FEATURE_IBT)));
	printf("  KVM offers to guests       %-15s %s%s\n",
	       yes(shstk), yes(ibt), mark(shstk && ibt));
	printf("  KVM's guests can set in IA32_XSS: CET_U %s, CET_S %s%s\n\n",
	       yes(xss & XFEATURE_MASK_CET_USER),
	       yes(xss & XFEATURE_MASK_CET_KERNEL),
	       mark((xss & XFEATURE_MASK_CET) == XFEATURE_MASK_CET));
}

/* Values that differ from each other, and that the MSR can have. */
static uint64_t msr_value(int i)
{
	switch (cet_msrs[i]) {
	case MSR_IA32_U_CET:
		return 0x00005e1f00001000 | CET_SHSTK_EN | CET_ENDBR_EN;
	case MSR_IA32_S_CET:
		return 0xffff8e1f00002000 | CET_SHSTK_EN | CET_ENDBR_EN |
		       CET_NO_TRACK_EN;
	default:
		return 0xffff800000000ff8 + 0x1000 * i;
	}
}

static void print_value(bool got, uint64_t val, const char *not)
{
	if (got)
		printf("  %016lx", val);
	else
		printf("  %-16s", not);
}

static void report_msrs(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);
	int i;

	printf("  %-20s  %-16s  %-16s  %-16s  exits\n", "MSR", "KVM_SET_MSRS",
	       "KVM_GET_MSRS", "read by guest");

	/* Write all of them first, to notice one that changes another. */
	for (i = 0; i < CET_NR_MSRS; i++)
		_vcpu_set_msr(vcpu, cet_msrs[i], msr_value(i));

	for (i = 0; i < CET_NR_MSRS; i++) {
		const uint64_t want = msr_value(i);
		bool set, get, read, ok;
		uint64_t host = 0, guest = 0, exits = 0;

		set = _vcpu_set_msr(vcpu, cet_msrs[i], want) == 1;
		get = cet_get_msr(vcpu, cet_msrs[i], &host);
		read = !cet_rdmsr(vcpu, cet_msrs[i], &guest);
		if (read)
			exits = cet_call_exits(vcpu, guest_rdmsr, cet_msrs[i], 0);

		printf("  %-20s", cet_msr_name(cet_msrs[i]) + strlen("MSR_"));
		print_value(set, want, "refused");
		print_value(get, host, "refused");
		print_value(read, guest, "#GP");
		ok = set && get && host == want && read && guest == want &&
		     !exits;
		if (read)
			printf("  %5lu%s\n", exits, mark(ok));
		else
			printf("      -%s\n", mark(ok));
	}
	printf("\n");

	kvm_vm_free(vm);
}

/* What became of @payload: "runs on", or the #CP that stopped it. */
static const char *attack(struct kvm_vcpu *vcpu, void (*payload)(void),
			  uint64_t s_cet, uint64_t *error_code)
{
	static char outcome[64];
	struct cet_call *call = cet_run(vcpu, payload, s_cet);

	*error_code = 0;
	if (!call->vector && call->ret == 1)
		return "runs on";

	*error_code = call->error_code;
	snprintf(outcome, sizeof(outcome), "#%s, error code %lu",
		 call->vector == CP_VECTOR ? "CP" : "??", call->error_code);
	return outcome;
}

static void report_attack(const char *what, void (*payload)(void),
			  uint64_t s_cet, uint64_t error_code)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_cet(&vcpu, true, true);
	struct kvm_sregs sregs;
	uint64_t off, on = 0;

	printf("  %-32s", what);
	printf("%-18s", attack(vcpu, payload, 0, &off));
	vcpu_sregs_get(vcpu, &sregs);
	if (cet_mov_cr4(vcpu, sregs.cr4 | X86_CR4_CET))
		printf("not available: MOV CR4 raises #GP");
	else
		printf("%s", attack(vcpu, payload, s_cet, &on));
	printf("%s\n", mark(!off && on == error_code));

	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	report_features();
	report_msrs();

	printf("  a guest attacked by             CET off           CET on\n");
	report_attack("an overwritten return address", guest_smash_return,
		      CET_SHSTK_EN, CP_NEAR_RET);
	report_attack("a jump that lands off ENDBR64", guest_jump_off_endbr,
		      CET_ENDBR_EN, CP_ENDBRANCH);

	return failed;
}
