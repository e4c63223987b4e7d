/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A frame was freed and is still mapped.
 *
 * seen by: audit: no mapping of a free frame */
#define BROKEN_BEGIN audit_freed_frame_mapped
#include "tests/boot/broken/broken.h"

static void audit_freed_frame_mapped(struct mm *mm)
{
    paddr_t frame = 0;

    broken_require(pmm_alloc_frame(&mm->pmm, &frame));
    broken_map_spare(mm, frame, PAGING_READ);
    pmm_free_frame(&mm->pmm, frame);
}
