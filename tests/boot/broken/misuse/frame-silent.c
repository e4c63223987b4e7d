/* SPDX-License-Identifier: MIT */
/* wrap: pmm_free_frame */
/* A wrong free of a frame changes nothing and says nothing.
 *
 * seen as: frame freed twice, 4096 bytes, default level: 0 reports of pmm_free_frame\(.*, not one */
#include "tests/boot/broken/misuse/misuse.h"

BROKEN_WRAPS(void, pmm_free_frame, struct pmm *pmm, paddr_t frame);

void __wrap_pmm_free_frame(struct pmm *pmm, paddr_t frame)
{
    if (pmm_frame_state(pmm, frame) == PMM_FRAME_USED)
        __real_pmm_free_frame(pmm, frame);
}
