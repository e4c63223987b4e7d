/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* A frame is handed out a second time while it is in use.
 *
 * seen by: pmm: frames are different
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    static paddr_t last;
    static bool done;

    if (broken_now && !done && last != 0 && pmm_frame_state(pmm, last) == PMM_FRAME_USED) {
        done = true;
        *out = last;
        return MM_OK;
    }
    mm_status_t status = __real_pmm_alloc_frame(pmm, out);
    if (broken_now && status == MM_OK)
        last = *out;
    return status;
}
