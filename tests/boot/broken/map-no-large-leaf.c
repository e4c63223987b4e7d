/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_range */
/* paging_map_range maps every page by itself. The case that sees it leaves its pages mapped, so that
 * the next ones find them in their way.
 *
 * seen by: paging: a 2 MB leaf is made, and never written into
 * seen by: paging: what is written through a page arrives in its frame
 * seen by: paging: an unmapped page leaves no translation
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_map_range, struct address_space *space, vaddr_t page,
             paddr_t frame, uint64_t bytes, paging_rights_t rights);

mm_status_t __wrap_paging_map_range(struct address_space *space, vaddr_t page, paddr_t frame,
                                    uint64_t bytes, paging_rights_t rights)
{
    mm_status_t status = MM_OK;

    if (!broken_now)
        return __real_paging_map_range(space, page, frame, bytes, rights);
    for (uint64_t at = 0; at < bytes && status == MM_OK; at += PAGE_SIZE)
        status = paging_map_page(space, page + at, frame + at, rights);
    return status;
}
