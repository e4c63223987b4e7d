/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A leaf has a bit beyond MAXPHYADDR; nobody uses the page.
 *
 * seen by: audit: no reserved bit is set */
#define BROKEN_BEGIN audit_reserved_bit
#include "tests/boot/broken/broken.h"

static void audit_reserved_bit(struct mm *mm)
{
    struct paging_level way[PAGING_LEVELS_MAX];
    size_t levels;

    broken_map_spare(mm, broken_frame(mm), PAGING_READ);
    levels = paging_peek(&mm->kernel_space, BROKEN_SPARE, way);
    *(uint64_t *)phys_to_virt(way[levels - 1].table) |= (uint64_t)1 << 51;
}
