/* SPDX-License-Identifier: MIT */
/* CPU features that memory protection rests on. This header is part of the public API of mm/.
 *
 * Each enable_* function sets the bit, reads it back, and touches nothing where CPUID lacks the
 * feature. Context: boot, interrupts off, on the CPU concerned. */
#ifndef MM_CPU_H
#define MM_CPU_H

#include <mm/status.h>

MM_BEGIN_DECLS

struct mm_cpu_features {
    bool nx, pge, pat, smep, smap, umip, huge_pages, la57;
    unsigned physical_bits; /* MAXPHYADDR, at most 52 (SDM vol. 3, 4.1.4) */
    unsigned levels;        /* page table levels in use: 4 or 5 (CR4.LA57) */
};

/* Reads CPUID leaves 1, 7, 0x80000001 and 0x80000008, and CR4. */
struct mm_cpu_features mm_cpu_features(void);

/* EFER.NXE, MSR 0xC0000080 bit 11 (SDM vol. 3, 4.1.1). MM_UNSUPPORTED without NX, or if it does not
 * read back as set. */
MM_MUST_USE mm_status_t enable_nx_bit(void);

/* CR0.WP, bit 16: read-only pages bind the kernel too (SDM vol. 3, 4.6.1). */
MM_MUST_USE mm_status_t enable_write_protect(void);

/* NX and WP, which must be there, then SMEP, SMAP, UMIP, PGE where CPUID has them, and the PAT in
 * the order of the Limine protocol (entry 5 is write-combining); all read back. Logs one line.
 *   On failure: MM_UNSUPPORTED; an error line names the feature. */
MM_MUST_USE mm_status_t enable_cpu_protection(const struct mm_cpu_features *features);

MM_END_DECLS
#endif
