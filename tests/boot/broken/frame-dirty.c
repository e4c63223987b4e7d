/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* The last byte of a frame is not zeroed.
 *
 * seen by: pmm: a frame is zeroed
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    mm_status_t status = __real_pmm_alloc_frame(pmm, out);

    if (broken_now && status == MM_OK)
        ((uint8_t *)phys_to_virt(*out))[FRAME_SIZE - 1] = 0xa5;
    return status;
}
