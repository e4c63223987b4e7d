/* SPDX-License-Identifier: MIT */
/* The last step: from the loader's world to the kernel's first instruction. */
#ifndef LOADER_HANDOVER_H
#define LOADER_HANDOVER_H

#include "loader/base.h"
#include "loader/hhdm.h"

/* What handover.S reads, by these offsets. */
struct handover {
    uint64_t bridge_root; /*  0: the kernel's tables and the loader's identity map */
    uint64_t kernel_root; /*  8: the kernel's tables */
    uint64_t hhdm_offset; /* 16 */
    uint64_t stack_top;   /* 24: an HHDM address */
    uint64_t entry;       /* 32 */
    uint64_t five_levels; /* 40: 1 or 0 */
};

/* Leaves the loader for good. root: the kernel's tables; stack_top: physical, 16-byte aligned. */
_Noreturn void handover(const struct hhdm *hhdm, uint64_t root, uint64_t stack_top, uint64_t entry);

/* Makes the tables on which the loader runs as well as the kernel; below 4 GiB.
 *   Returns: the physical address of the top-level table. */
uint64_t handover_build_bridge(const struct hhdm *hhdm, uint64_t root);

_Noreturn void handover_jump(const struct handover *handover);

#endif
