/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* A freed frame is counted as free, but another one is handed out.
 *
 * seen by: pmm: a freed frame comes back
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    static paddr_t last;
    paddr_t skipped = 0;
    mm_status_t status = __real_pmm_alloc_frame(pmm, out);

    if (!broken_now || status != MM_OK)
        return status;
    if (*out == last) {
        skipped = *out;
        status = __real_pmm_alloc_frame(pmm, out);
        pmm_free_frame(pmm, skipped);
    }
    last = *out;
    return status;
}
