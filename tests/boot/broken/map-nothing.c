/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_page */
/* The first paging_map_page says OK and maps nothing. (Once: a store to the page would fault.)
 *
 * seen by: paging: a mapped page translates
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_map_page, struct address_space *space, vaddr_t page, paddr_t frame,
             paging_rights_t rights);

mm_status_t __wrap_paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                   paging_rights_t rights)
{
    static bool done;

    if (!broken_now || done)
        return __real_paging_map_page(space, page, frame, rights);
    done = true;
    return MM_OK;
}
