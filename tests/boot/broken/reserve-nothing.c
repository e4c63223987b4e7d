/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests pmm_reserve_range */
/* pmm_reserve_range says OK and leaves the frames free.
 *
 * seen by: pmm: lowest and highest frame of each range keep what is written */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, pmm_reserve_range, struct pmm *pmm, paddr_t base, paddr_t end);

mm_status_t __wrap_pmm_reserve_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    mm_status_t status = __real_pmm_reserve_range(pmm, base, end);

    if (broken_now && status == MM_OK)
        return pmm_release_range(pmm, base, end);
    return status;
}
