/* SPDX-License-Identifier: MIT */
/* wrap: stress_run pmm_alloc_frame_flags */
/* Now and then two CPUs are given the same frame.
 *
 * seen as: frame at 0x[0-9a-f]+ .*(two owners|lost its stamp|is overwritten|is not zero).* */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(mm_status_t, pmm_alloc_frame_flags, struct pmm *pmm, unsigned flags, paddr_t *out);

static paddr_t broken_last;

mm_status_t __wrap_pmm_alloc_frame_flags(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    paddr_t last = __atomic_load_n(&broken_last, __ATOMIC_RELAXED);
    mm_status_t status;

    if (broken_this_time() && last != 0 && pmm_frame_state(pmm, last) == PMM_FRAME_USED) {
        memset(phys_to_virt(last), 0, FRAME_SIZE);
        *out = last;
        return MM_OK;
    }
    status = __real_pmm_alloc_frame_flags(pmm, flags, out);
    __atomic_store_n(&broken_last, *out, __ATOMIC_RELAXED);
    return status;
}
