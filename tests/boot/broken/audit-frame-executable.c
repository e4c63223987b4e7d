/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A page of allocated memory is executable, which the HHDM lets write.
 *
 * seen by: audit: no frame is writable and executable, in any two mappings */
#define BROKEN_BEGIN audit_frame_executable
#include "tests/boot/broken/broken.h"

static void audit_frame_executable(struct mm *mm)
{
    paddr_t frame = 0;

    broken_require(pmm_alloc_frame(&mm->pmm, &frame));
    broken_map_spare(mm, frame, PAGING_EXECUTE);
}
