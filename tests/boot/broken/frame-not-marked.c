/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* The first frame that is handed out stays free in the bitmap.
 *
 * seen by: pmm: a frame is valid */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    static bool done;
    mm_status_t status = __real_pmm_alloc_frame(pmm, out);

    if (broken_now && !done && status == MM_OK) {
        done = true;
        pmm_free_frame(pmm, *out);
    }
    return status;
}
