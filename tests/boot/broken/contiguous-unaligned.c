/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_contiguous */
/* A contiguous block of 8 frames ignores the alignment that was asked for.
 *
 * seen by: pmm: contiguous frames are aligned, below their limit, and freed
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_contiguous, struct pmm *pmm, uint64_t count_frames,
             uint64_t align_bytes, paddr_t limit, paddr_t *out);

mm_status_t __wrap_pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames,
                                        uint64_t align_bytes, paddr_t limit, paddr_t *out)
{
    mm_status_t status;

    if (!broken_now || count_frames != 8)
        return __real_pmm_alloc_contiguous(pmm, count_frames, align_bytes, limit, out);
    status = __real_pmm_alloc_contiguous(pmm, count_frames + 1, align_bytes, limit, out);
    if (status == MM_OK) {
        pmm_free_contiguous(pmm, *out, 1);
        *out += FRAME_SIZE;
    }
    return status;
}
