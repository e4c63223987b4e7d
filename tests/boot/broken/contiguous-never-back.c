/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_free_contiguous */
/* pmm_free_contiguous does nothing.
 *
 * seen by: pmm: contiguous frames are aligned, below their limit, and freed
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, pmm_free_contiguous, struct pmm *pmm, paddr_t first, uint64_t count_frames);

void __wrap_pmm_free_contiguous(struct pmm *pmm, paddr_t first, uint64_t count_frames)
{
    if (!broken_now)
        __real_pmm_free_contiguous(pmm, first, count_frames);
}
