/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_release_range */
/* A counter says more than the bitmaps.
 *
 * seen by: pmm: counters and bitmaps agree */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_release_range, struct pmm *pmm, paddr_t base, paddr_t end);

mm_status_t __wrap_pmm_release_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    if (broken_now)
        pmm->stats.reserved_frames++;
    return __real_pmm_release_range(pmm, base, end);
}
