// SPDX-License-Identifier: GPL-2.0
/*
 * What VM entry checks of the CET state in L1's VMCS.  Each rule is tested by
 * values that it refuses and by their neighbours, which have to get to L2, or
 * back to L1.
 */
#include "kvm_test_harness.h"
#include "cet_nested.h"

/* Canonical for no CPU */
#define NON_CANONICAL		0x7000000000000000ull

FIXTURE(checks)
{
	struct kvm_vcpu *vcpu;
	struct cet_nested *n;
	/* Linear addresses have that many bits. */
	int width;
};

FIXTURE_VARIANT(checks)
{
	bool shstk, ibt;
};

FIXTURE_VARIANT_ADD(checks, both) { .shstk = true, .ibt = true };
FIXTURE_VARIANT_ADD(checks, shstk_only) { .shstk = true };
FIXTURE_VARIANT_ADD(checks, ibt_only) { .ibt = true };

FIXTURE_SETUP(checks)
{
	vm_create_cet(&self->vcpu, variant->shstk, variant->ibt);
	self->n = vcpu_init_cet_nested(self->vcpu);
	self->n->l2 = l2_read;
	self->width = kvm_cpu_has(X86_FEATURE_LA57) ? 57 : 48;
}

FIXTURE_TEARDOWN(checks)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Run L2 with one field, which is among those in *n, set to @val. */
static void run_with(struct kvm_vcpu *vcpu, uint64_t *field, uint64_t val)
{
	*field = val;
	cet_run_nested(vcpu);
	*field = 0;
}

static void refuse_guest(struct kvm_vcpu *vcpu, struct cet_nested *n,
			 uint64_t *field, uint64_t val)
{
	run_with(vcpu, field, val);
	TEST_ASSERT(!n->error && n->reason == INVALID_GUEST_STATE &&
		    !n->qualification,
		    "Guest field 0x%lx: error %ld, reason 0x%lx, qualification 0x%lx",
		    val, n->error, n->reason, n->qualification);
}

static void accept_guest(struct kvm_vcpu *vcpu, struct cet_nested *n,
			 uint64_t *field, uint64_t val)
{
	struct cet_vmcs_state guest;

	run_with(vcpu, field, val);
	TEST_ASSERT(!n->error && n->reason == EXIT_REASON_VMCALL,
		    "Guest field 0x%lx: error %ld, reason 0x%lx", val, n->error,
		    n->reason);

	/* L2 has run with it. */
	guest = (struct cet_vmcs_state) { };
	*(uint64_t *)((void *)&guest + ((void *)field - (void *)&n->guest)) = val;
	cet_expect_state(&n->saved, &guest, "guest");
	TEST_ASSERT_EQ(n->l2_s_cet, guest.s_cet);
}

static void refuse_host(struct kvm_vcpu *vcpu, struct cet_nested *n,
			uint64_t *field, uint64_t val)
{
	run_with(vcpu, field, val);
	TEST_ASSERT(n->error == INVALID_HOST_STATE_FIELD,
		    "Host field 0x%lx: error %ld, reason 0x%lx", val, n->error,
		    n->reason);
}

/* VM exit has loaded it, and L1 runs with it. */
static void accept_host(struct kvm_vcpu *vcpu, struct cet_nested *n,
			uint64_t *field, uint64_t val)
{
	struct cet_vmcs_state host = { };

	run_with(vcpu, field, val);
	TEST_ASSERT(!n->error && n->reason == EXIT_REASON_VMCALL,
		    "Host field 0x%lx: error %ld, reason 0x%lx", val, n->error,
		    n->reason);

	*(uint64_t *)((void *)&host + ((void *)field - (void *)&n->host)) = val;
	TEST_ASSERT_EQ(n->l1_s_cet, host.s_cet);
	if (vcpu_cpuid_has(vcpu, X86_FEATURE_SHSTK))
		vcpu_expect_cet_state(vcpu, &host, "host");
}

typedef void (*check_fn)(struct kvm_vcpu *vcpu, struct cet_nested *n,
			 uint64_t *field, uint64_t val);

/* Without shadow stacks, L1 could not see what is loaded: only 0 is legal. */
static void check_absent(struct kvm_vcpu *vcpu, struct cet_nested *n,
			 uint64_t *field, check_fn refuse)
{
	int nr;

	for (nr = 0; nr < 64; nr++)
		refuse(vcpu, n, field, BIT_ULL(nr));
	run_with(vcpu, field, 0);
	TEST_ASSERT(!n->error && n->reason == EXIT_REASON_VMCALL,
		    "0 is refused: error %ld, reason 0x%lx", n->error, n->reason);
}

/* One bit at a time, and combinations */
static void check_s_cet(struct kvm_vcpu *vcpu, struct cet_nested *n,
			uint64_t *field, int width, bool shstk, bool ibt,
			check_fn accept, check_fn refuse)
{
	const uint64_t high = ~0ull << (width - 1);
	check_fn check;
	int nr;

	refuse(vcpu, n, field, CET_SUPPRESS | CET_WAIT_ENDBR);
	refuse(vcpu, n, field, NON_CANONICAL);

	for (nr = 0; nr < 64; nr++) {
		if (nr < 2)
			check = shstk ? accept : refuse;
		else if ((nr >= 6 && nr <= 9) || nr >= width - 1)
			check = refuse;
		else
			check = ibt ? accept : refuse;
		check(vcpu, n, field, BIT_ULL(nr));
	}

	(ibt ? accept : refuse)(vcpu, n, field, high);
	(ibt ? accept : refuse)(vcpu, n, field, high | 0x3c);
	(ibt ? accept : refuse)(vcpu, n, field, ~high & ~0xfffull);
	refuse(vcpu, n, field, high << 1);
	(shstk && ibt ? accept : refuse)(vcpu, n, field,
					 high | 0x3f | CET_WAIT_ENDBR);
}

/*
 * VM exit loads L1's state here.  What L1 has after an entry that fails is
 * tested by cet_nested_load_test.
 */
TEST_F(checks, guest_s_cet)
{
	self->n->load_guest = true;
	self->n->load_host = true;
	check_s_cet(self->vcpu, self->n, &self->n->guest.s_cet, self->width,
		    variant->shstk, variant->ibt, accept_guest, refuse_guest);
}

TEST_F(checks, host_s_cet)
{
	self->n->load_host = true;
	check_s_cet(self->vcpu, self->n, &self->n->host.s_cet, self->width,
		    variant->shstk, variant->ibt, accept_host, refuse_host);
}

/*
 * According to the SDM, the uppermost bit of an address may differ from those
 * above it.  KVM leaves that bit to the processor, and not every emulated one
 * supports it.  XRSTORS and IRET can load SSP even without shadow stacks in
 * CPUID.
 */
TEST_F(checks, guest_ssp)
{
	uint64_t *field = &self->n->guest.ssp;
	int nr;

	self->n->load_guest = true;
	self->n->load_host = true;
	for (nr = 0; nr < 64; nr++) {
		if (nr == self->width - 1)
			continue;
		if (nr < 2 || nr >= self->width)
			refuse_guest(self->vcpu, self->n, field, BIT_ULL(nr));
		else
			accept_guest(self->vcpu, self->n, field, BIT_ULL(nr));
	}

	accept_guest(self->vcpu, self->n, field, ~0ull << (self->width - 1));
	accept_guest(self->vcpu, self->n, field, ~3ull);
	refuse_guest(self->vcpu, self->n, field, ~0ull << (self->width + 1));
	refuse_guest(self->vcpu, self->n, field, NON_CANONICAL);
	refuse_guest(self->vcpu, self->n, field, 0x1003);
}

TEST_F(checks, host_ssp)
{
	uint64_t *field = &self->n->host.ssp;
	int nr;

	self->n->load_host = true;
	if (!variant->shstk) {
		check_absent(self->vcpu, self->n, field, refuse_host);
		return;
	}

	for (nr = 0; nr < 64; nr++) {
		if (nr < 2 || nr >= self->width - 1)
			refuse_host(self->vcpu, self->n, field, BIT_ULL(nr));
		else
			accept_host(self->vcpu, self->n, field, BIT_ULL(nr));
	}

	accept_host(self->vcpu, self->n, field, ~0ull << (self->width - 1));
	accept_host(self->vcpu, self->n, field, ~3ull);
	refuse_host(self->vcpu, self->n, field, ~0ull << self->width);
	refuse_host(self->vcpu, self->n, field, NON_CANONICAL);
	refuse_host(self->vcpu, self->n, field, 0x1003);
}

/* A linear address of any alignment */
static void check_ssp_tbl(struct kvm_vcpu *vcpu, struct cet_nested *n,
			  uint64_t *field, int width, check_fn accept,
			  check_fn refuse)
{
	int nr;

	for (nr = 0; nr < 64; nr++)
		(nr < width - 1 ? accept : refuse)(vcpu, n, field, BIT_ULL(nr));

	accept(vcpu, n, field, ~0ull << (width - 1));
	accept(vcpu, n, field, ~0ull);
	refuse(vcpu, n, field, ~0ull << width);
	refuse(vcpu, n, field, NON_CANONICAL);
}

TEST_F(checks, guest_ssp_tbl)
{
	self->n->load_guest = true;
	self->n->load_host = true;
	if (!variant->shstk) {
		check_absent(self->vcpu, self->n, &self->n->guest.ssp_tbl,
			     refuse_guest);
		return;
	}

	check_ssp_tbl(self->vcpu, self->n, &self->n->guest.ssp_tbl, self->width,
		      accept_guest, refuse_guest);
}

TEST_F(checks, host_ssp_tbl)
{
	self->n->load_host = true;
	if (!variant->shstk) {
		check_absent(self->vcpu, self->n, &self->n->host.ssp_tbl,
			     refuse_host);
		return;
	}

	check_ssp_tbl(self->vcpu, self->n, &self->n->host.ssp_tbl, self->width,
		      accept_host, refuse_host);
}

static const struct cet_vmcs_state bad = {
	.s_cet = NON_CANONICAL | BIT(6), .ssp = NON_CANONICAL | 1,
	.ssp_tbl = NON_CANONICAL,
};

/* Each control has its own three fields checked, and no other. */
TEST_F(checks, not_loaded)
{
	self->n->guest = bad;
	self->n->host = bad;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(self->n->l2_s_cet, 0);
	TEST_ASSERT_EQ(self->n->l1_s_cet, 0);
}

TEST_F(checks, guest_not_loaded)
{
	self->n->guest = bad;
	self->n->load_host = true;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(self->n->l2_s_cet, 0);
}

TEST_F(checks, host_not_loaded)
{
	self->n->host = bad;
	self->n->load_guest = true;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, 0);
	TEST_ASSERT_EQ(self->n->reason, EXIT_REASON_VMCALL);
	TEST_ASSERT_EQ(self->n->l1_s_cet, 0);
}

/* Host state is checked before guest state. */
TEST_F(checks, host_before_guest)
{
	self->n->guest = bad;
	self->n->host = bad;
	self->n->load_guest = true;
	self->n->load_host = true;
	cet_run_nested(self->vcpu);
	TEST_ASSERT_EQ(self->n->error, INVALID_HOST_STATE_FIELD);
}

int main(int argc, char *argv[])
{
	cet_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
