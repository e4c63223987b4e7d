/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_free_frame pmm_free_frames */
/* pmm_free_frame and pmm_free_frames do nothing.
 *
 * seen by: pmm: a freed frame comes back
 * seen by: paging: a kernel stack stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, pmm_free_frame, struct pmm *pmm, paddr_t frame);
BROKEN_WRAPS(void, pmm_free_frames, struct pmm *pmm, const paddr_t *frames, uint64_t count);

void __wrap_pmm_free_frame(struct pmm *pmm, paddr_t frame)
{
    if (!broken_now)
        __real_pmm_free_frame(pmm, frame);
}

void __wrap_pmm_free_frames(struct pmm *pmm, const paddr_t *frames, uint64_t count)
{
    if (!broken_now)
        __real_pmm_free_frames(pmm, frames, count);
}
