/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_free_frame */
/* One of many frees is lost: no case sees it, the sum at the end does.
 *
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, pmm_free_frame, struct pmm *pmm, paddr_t frame);

void __wrap_pmm_free_frame(struct pmm *pmm, paddr_t frame)
{
    static unsigned count;

    if (!broken_now || ++count != 5)
        __real_pmm_free_frame(pmm, frame);
}
