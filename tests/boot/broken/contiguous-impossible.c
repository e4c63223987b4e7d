/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_contiguous */
/* A contiguous block that is larger than all memory is said to be there.
 *
 * seen by: pmm: contiguous frames are aligned, below their limit, and freed */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_contiguous, struct pmm *pmm, uint64_t count_frames,
             uint64_t align_bytes, paddr_t limit, paddr_t *out);

mm_status_t __wrap_pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames,
                                        uint64_t align_bytes, paddr_t limit, paddr_t *out)
{
    if (broken_now && count_frames > pmm_stats(pmm).total_frames) {
        *out = mm_kernel()->boot.kernel_phys;
        return MM_OK;
    }
    return __real_pmm_alloc_contiguous(pmm, count_frames, align_bytes, limit, out);
}
