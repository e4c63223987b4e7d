/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_alloc_frame */
/* The first frame that is handed out belongs to the kernel's own image.
 *
 * seen by: pmm: a frame is valid */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame, struct pmm *pmm, paddr_t *out);

mm_status_t __wrap_pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    static bool done;

    if (!broken_now || done)
        return __real_pmm_alloc_frame(pmm, out);
    done = true;
    *out = mm_kernel()->boot.kernel_phys;
    return MM_OK;
}
