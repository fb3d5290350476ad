/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of an L1 whose VM entries and VM exits load CET state: they
 * write the VMCS, run L2 once, and collect the state afterwards.
 */
#ifndef SELFTEST_KVM_CET_NESTED_H
#define SELFTEST_KVM_CET_NESTED_H

#include "cet.h"
#include "vmx.h"

/* Fields of the VMCS */
#define GUEST_S_CET		0x6828
#define GUEST_SSP		0x682a
#define GUEST_INTR_SSP_TABLE	0x682c
#define HOST_S_CET		0x6c18
#define HOST_SSP		0x6c1a
#define HOST_INTR_SSP_TABLE	0x6c1c

/* VM-instruction errors */
#define INVALID_CONTROL_FIELD		7
#define INVALID_HOST_STATE_FIELD	8
#define UNSUPPORTED_VMCS_COMPONENT	12

#define INVALID_GUEST_STATE	(EXIT_REASON_FAILED_VMENTRY | \
				 EXIT_REASON_INVALID_STATE)
#define MSR_LOAD_FAILED		(EXIT_REASON_FAILED_VMENTRY | \
				 EXIT_REASON_MSR_LOAD_FAIL)

/* Interruption information: that of #CP, with its error code */
#define INTR_VALID		BIT_ULL(31)
#define INTR_HAS_ERROR_CODE	BIT_ULL(11)
#define INTR_TYPE(type)		((uint64_t)(type) << 8)
#define INTR_EXCEPTION		(INTR_VALID | INTR_TYPE(3))
#define CP_INFO			(INTR_EXCEPTION | INTR_HAS_ERROR_CODE | \
				 CP_VECTOR)

#define VMX_BASIC_ANY_ERROR_CODE	BIT_ULL(56)

#define SSP_ID			KVM_X86_REG_KVM(KVM_REG_GUEST_SSP)

/*
 * The part of the CET state that a VMCS has, for L1 and for L2.  In struct
 * vmcs12 of KVM_GET_NESTED_STATE, it is at these offsets.
 */
struct cet_vmcs_state {
	uint64_t s_cet;
	uint64_t ssp;
	uint64_t ssp_tbl;
};

#define VMCS12_PIN_CTLS		744
#define VMCS12_ENTRY_INTR_INFO	788
#define VMCS12_INTERRUPTIBILITY	912
#define VMCS12_HOST_CET		680
#define VMCS12_GUEST_CET	704

/* One run of L2: what guest_nested() puts into the VMCS, and the results. */
struct cet_nested {
	/* Whether VM entry loads L2's state, and VM exit L1's. */
	bool load_guest;
	bool load_host;
	/* Use VMRESUME, and write only the controls to the VMCS. */
	bool resume;
	/* L1 knows nothing of CET, and writes none of its fields. */
	bool without_cet;
	/* Written to the fields, whether or not they are to be loaded */
	struct cet_vmcs_state guest;
	struct cet_vmcs_state host;
	void (*l2)(void);
	/* Called in L1 just before VM entry, unless NULL */
	void (*prepare)(void);
	uint64_t prepare_arg;

	/* The field that VMWRITE refused; there was no VM entry then. */
	uint64_t refused_field;
	/* VM-instruction error, 0 if VM entry did not fail that early. */
	uint64_t error;
	uint64_t reason;
	uint64_t qualification;
	/* The exception that caused the exit, and the event it interrupted */
	uint64_t intr_info;
	uint64_t intr_error_code;
	uint64_t idt_info;
	uint64_t idt_error_code;
	/* The fields of L2's state, after VM exit. */
	struct cet_vmcs_state saved;
	/* The MSRs as L1 reads them after VM exit. */
	uint64_t l1_s_cet;
	uint64_t l1_ssp_tbl;
	/* What L2 has read, and what it is to write */
	uint64_t l2_s_cet;
	uint64_t l2_ssp_tbl;
	uint64_t l2_write_s_cet;
	uint64_t l2_write_ssp_tbl;
};

/* Guest data; the tests' guest code may use it. */
extern struct cet_nested cet_nested;
extern struct vmx_pages *cet_vmx;

/* Prepare @vcpu, of vm_create_cet(), for L2.  Returns the host's cet_nested. */
struct cet_nested *vcpu_init_cet_nested(struct kvm_vcpu *vcpu);

/* L1's part, a guest function for cet_call(), with no arguments. */
void guest_nested(struct cet_call *call);

/* L2s that end by VMCALL: at once, or after they have read both MSRs. */
void l2_nop(void);
void l2_read(void);
/* Reads both MSRs, OUT to CET_PORT, reads them again, and writes them. */
void l2_read_out_write(void);

/* Run guest_nested() to its end.  VM entry must have been tried. */
void cet_run_nested(struct kvm_vcpu *vcpu);
/* The same in two steps: to L2's OUT to CET_PORT, and from there to the end. */
void cet_run_l2_to_out(struct kvm_vcpu *vcpu);
void cet_finish_nested(struct kvm_vcpu *vcpu);

/* Whether KVM_GET_NESTED_STATE says that L2 is active. */
bool vcpu_is_in_l2(struct kvm_vcpu *vcpu);

/* The state of L1 or L2, whichever is active, by ioctls */
void vcpu_set_cet_state(struct kvm_vcpu *vcpu,
			const struct cet_vmcs_state *state);
void vcpu_expect_cet_state(struct kvm_vcpu *vcpu,
			   const struct cet_vmcs_state *state, const char *when);
void cet_expect_state(const struct cet_vmcs_state *got,
		      const struct cet_vmcs_state *state, const char *when);

#endif /* SELFTEST_KVM_CET_NESTED_H */
