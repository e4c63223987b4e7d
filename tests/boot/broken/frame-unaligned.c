/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* The first frame that is handed out does not begin at a multiple of 4096.
 *
 * seen by: pmm: a frame is valid */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    static bool done;
    mm_status_t status = __real_pmm_alloc_frame(pmm, out);

    if (!broken_now || done || status != MM_OK)
        return status;
    done = true;
    pmm_free_frame(pmm, *out); /* so that nothing else is wrong */
    *out += 16;
    return MM_OK;
}
