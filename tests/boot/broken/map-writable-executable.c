/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_page */
/* A mapping that is writable and executable is accepted.
 *
 * seen by: paging: a second mapping and a writable executable one are refused
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_map_page, struct address_space *space, vaddr_t page, paddr_t frame,
             paging_rights_t rights);

mm_status_t __wrap_paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                   paging_rights_t rights)
{
    if (broken_now && (rights & PAGING_WRITE) != 0 && (rights & PAGING_EXECUTE) != 0)
        return MM_OK;
    return __real_paging_map_page(space, page, frame, rights);
}
