// SPDX-License-Identifier: GPL-2.0
/*
 * cet_fuzz's model of a vCPU: what of CET it has, may have, and must refuse.
 */
#include "cet_fuzz.h"

/* 5:0 are the controls, 10 is SUPPRESS, 11 is TRACKER, 63:12 is an address. */
#define CTL_RESERVED		0x3c0ull
#define CTL_BITMAP_LOW		0x3000ull
#define CTL_OF_SHSTK		0x3ull
#define CTL_SUPPRESS		BIT_ULL(10)
#define CTL_TRACKER		BIT_ULL(11)

const struct model model_both = { .shstk = true, .ibt = true };

/* Are bits 63:@first all the same? */
static bool is_uniform(uint64_t val, int first)
{
	return !(val >> first) || !(~val >> first);
}

/* The width of a linear address */
static int address_bits(void)
{
	static int bits;

	if (!bits)
		bits = this_cpu_has(X86_FEATURE_LA57) ? 57 : 48;
	return bits;
}

bool model_canonical(uint64_t val)
{
	return is_uniform(val, address_bits() - 1);
}

bool model_has_cet(const struct model *m)
{
	return m->shstk || m->ibt;
}

bool model_has_ssp(const struct model *m)
{
	return (m->shstk || m->hides_shstk) && !fuzz_hidden;
}

bool model_valid_ctl(const struct model *m, uint64_t val)
{
	if (val & CTL_RESERVED)
		return false;
	if (!m->shstk && (val & CTL_OF_SHSTK))
		return false;
	if (!m->ibt && (val & ~CTL_OF_SHSTK))
		return false;
	if ((val & CTL_SUPPRESS) && (val & CTL_TRACKER))
		return false;
	return model_canonical(val);
}

bool model_valid_ssp_msr(uint64_t val)
{
	return val % 4 == 0 && model_canonical(val);
}

bool model_valid_ssp(uint64_t val)
{
	return val % 4 == 0 && is_uniform(val, address_bits());
}

static int msr_position(uint32_t msr)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		if (cet_msrs[i] == msr)
			return i;
	}
	return -1;
}

static uint64_t xss_of_cpuid(uint32_t cpuid)
{
	return (cpuid & CPUID_XSS_11 ? XFEATURE_MASK_CET_USER : 0) |
	       (cpuid & CPUID_XSS_12 ? XFEATURE_MASK_CET_KERNEL : 0);
}

uint32_t model_filter[2];

static bool is_filtered(uint32_t msr, bool write)
{
	int i = msr == MSR_IA32_XSS ? CET_NR_MSRS : msr_position(msr);

	return i >= 0 && (model_filter[write] & BIT(i));
}

static bool has_msr(const struct model *m, int i)
{
	switch (i) {
	case U_CET:
	case S_CET:
		return model_has_cet(m);
	case INT_SSP_TAB:
		return m->shstk && m->lm;
	default:
		return m->shstk;
	}
}

bool model_set_msr(struct model *m, uint32_t msr, uint64_t val, bool host)
{
	int i = msr_position(msr);

	if (!host && is_filtered(msr, true))
		return false;

	if (msr == MSR_IA32_XSS) {
		if (!m->xsaves && (!host || val))
			return false;
		if (val & ~m->xss_mask)
			return false;
		m->xss = val;
		return true;
	}

	/* No MSR of those that the fuzzer knows, or that KVM knows */
	if (i < 0 || fuzz_hidden)
		return false;

	/* User space may write 0 if KVM has the MSR, but the vCPU doesn't. */
	if (!has_msr(m, i))
		return host && !val;

	switch (i) {
	case U_CET:
		/* User space restores what the guest loads by XRSTORS. */
		if (!model_valid_ctl(host ? &model_both : m, val))
			return false;
		break;
	case S_CET:
		if (!model_valid_ctl(m, val))
			return false;
		break;
	case INT_SSP_TAB:
		if (!model_canonical(val))
			return false;
		break;
	default:
		if (!model_valid_ssp_msr(val))
			return false;
		break;
	}
	m->msrs[i] = val;
	return true;
}

bool model_get_msr(const struct model *m, uint32_t msr, bool host, uint64_t *val)
{
	int i = msr_position(msr);

	if (!host && is_filtered(msr, false))
		return false;

	if (msr == MSR_IA32_XSS) {
		*val = m->xss;
		return host || m->xsaves;
	}
	if (i < 0 || fuzz_hidden)
		return false;
	*val = has_msr(m, i) ? m->msrs[i] : 0;
	return host || has_msr(m, i);
}

/* Mainline's rules for U_CET and S_CET, apart from which bits the vCPU has */
static bool mainline_valid_ctl(uint64_t val)
{
	return !(val & (CTL_RESERVED | CTL_BITMAP_LOW)) &&
	       (val & (CTL_SUPPRESS | CTL_TRACKER)) != (CTL_SUPPRESS | CTL_TRACKER);
}

enum fuzz_difference model_msr_differs(const struct model *m, uint32_t msr,
				       uint64_t val, bool host)
{
	struct model next = *m;
	bool ok = model_set_msr(&next, msr, val, host);

	switch (msr) {
	case MSR_IA32_XSS:
		if (ok && !m->xsaves && m->xss)
			return XSS_KEPT;
		return !ok && m->xsaves && !(val & ~xss_of_cpuid(m->cpuid)) ?
		       XSS_ALONE : SAME;
	case MSR_IA32_U_CET:
	case MSR_IA32_S_CET:
		break;
	default:
		return SAME;
	}
	if (!model_has_cet(m))
		return SAME;

	/* What a guest has written needs to be restored. */
	if (ok && (val & CTL_BITMAP_LOW))
		return BITMAP_BASE;
	if (!host)
		return ok == model_valid_ctl(&model_both, val) ? SAME : WRMSR_OTHER;
	if ((!m->shstk && (val & CTL_OF_SHSTK)) || (!m->ibt && (val & ~CTL_OF_SHSTK)))
		return ok ? U_CET_OTHER : SAME;
	return !ok && mainline_valid_ctl(val) ? NOT_CANONICAL : SAME;
}

bool model_valid_crs(const struct model *m, uint64_t cr0, uint64_t cr4)
{
	if (!(cr4 & X86_CR4_CET))
		return true;
	return model_has_cet(m) && (cr0 & X86_CR0_WP);
}

/* Without the sub-leaf, its bits are 0. */
static uint32_t seen_cpuid(uint32_t cpuid)
{
	if (!(cpuid & CPUID_SUB_LEAF_1))
		cpuid &= ~(CPUID_XSAVES | CPUID_XSS_11 | CPUID_XSS_12);
	return cpuid;
}

/* No CPU has shadow stacks that can't be switched. */
bool model_hides_shstk(uint32_t cpuid)
{
	uint32_t needed = CPUID_XSAVES | CPUID_XSS_11 | CPUID_SUB_LEAF_11;

	cpuid = seen_cpuid(cpuid);
	if (cpuid & CPUID_XSS_12)
		needed |= CPUID_SUB_LEAF_12;
	return (cpuid & needed) != needed;
}

bool model_set_cpuid(struct model *m, uint32_t cpuid)
{
	bool hides_shstk = model_hides_shstk(cpuid);

	cpuid = seen_cpuid(cpuid);
	if (hides_shstk)
		cpuid &= ~CPUID_SHSTK;

	if ((m->has_run || m->in_l2) && cpuid != m->cpuid)
		return false;

	m->cpuid = cpuid;
	m->hides_shstk = hides_shstk;
	m->shstk = cpuid & CPUID_SHSTK;
	m->ibt = cpuid & CPUID_IBT;
	m->lm = cpuid & CPUID_LM;
	m->xsaves = cpuid & CPUID_XSAVES;
	m->xss_mask = m->xsaves && model_has_cet(m) ? xss_of_cpuid(cpuid) : 0;
	return true;
}

void model_move(struct model *m)
{
	int i;

	for (i = 0; i < CET_NR_MSRS; i++) {
		if (!has_msr(m, i))
			m->msrs[i] = 0;
	}
	if (!m->shstk)
		m->ssp = 0;
	m->has_run = false;
}

void model_init(struct model *m)
{
	memset(m->msrs, 0, sizeof(m->msrs));
	m->ssp = 0;
}

bool model_armed(const struct model *m, uint64_t s_cet, uint64_t bits)
{
	return (m->cr4 & X86_CR4_CET) && (s_cet & bits);
}

bool model_endbr_always;

void model_endbr(struct model *m)
{
	if (model_endbr_always || model_armed(m, m->msrs[S_CET], CET_ENDBR_EN))
		m->msrs[S_CET] &= ~(CTL_SUPPRESS | CTL_TRACKER);
}
