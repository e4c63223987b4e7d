/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_page */
/* A mapping under a 2 MiB leaf is refused, but an entry has been written into the leaf's data. The
 * case that sees it leaves its leaf mapped, so that the next ones find it in their way.
 *
 * seen by: paging: a 2 MB leaf is made, and never written into
 * seen by: paging: what is written through a page arrives in its frame
 * seen by: paging: an unmapped page leaves no translation
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_map_page, struct address_space *space, vaddr_t page, paddr_t frame,
             paging_rights_t rights);

mm_status_t __wrap_paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                   paging_rights_t rights)
{
    mm_status_t status = __real_paging_map_page(space, page, frame, rights);
    struct paging_mapping leaf;

    if (broken_now && status == MM_ALREADY_MAPPED && paging_query(space, page, &leaf) == MM_OK &&
        leaf.leaf_bytes == LARGE_PAGE_SIZE)
        ((uint64_t *)phys_to_virt(leaf.frame))[page / PAGE_SIZE % PAGING_ENTRIES] = frame | 1;
    return status;
}
