/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_page */
/* A mapping over another one says OK, and the old one is gone.
 *
 * seen by: paging: a second mapping and a writable executable one are refused
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_map_page, struct address_space *space, vaddr_t page, paddr_t frame,
             paging_rights_t rights);

mm_status_t __wrap_paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                   paging_rights_t rights)
{
    mm_status_t status = __real_paging_map_page(space, page, frame, rights);
    struct paging_mapping old;

    if (!broken_now || status != MM_ALREADY_MAPPED || paging_query(space, page, &old) != MM_OK ||
        old.leaf_bytes != PAGE_SIZE)
        return status;
    return paging_unmap_page(space, page, NULL) == MM_OK ? MM_OK : status;
}
