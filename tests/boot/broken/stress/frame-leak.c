/* SPDX-License-Identifier: MIT */
/* wrap: stress_run pmm_free_frame */
/* Now and then a freed frame does not come back.
 *
 * seen as: [0-9]+ frames are taken, not [0-9]+ */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(void, pmm_free_frame, struct pmm *pmm, paddr_t frame);

void __wrap_pmm_free_frame(struct pmm *pmm, paddr_t frame)
{
    if (!broken_this_time())
        __real_pmm_free_frame(pmm, frame);
}
