/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_unmap_page */
/* paging_unmap_page says OK and unmaps nothing: the first case passes, all later ones find its page
 * in their way.
 *
 * seen by: paging: a second mapping and a writable executable one are refused
 * seen by: paging: an unmapped page is gone, and its tables
 * seen by: paging: a 2 MB leaf is made, and never written into
 * seen by: paging: what is written through a page arrives in its frame
 * seen by: paging: an unmapped page leaves no translation
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_unmap_page, struct address_space *space, vaddr_t page,
             paddr_t *frame);

mm_status_t __wrap_paging_unmap_page(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    return broken_now ? MM_OK : __real_paging_unmap_page(space, page, frame);
}
