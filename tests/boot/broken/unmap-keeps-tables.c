/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_unmap_page */
/* Unmapping leaves a page table behind (one that maps something else, 4 MiB away).
 *
 * seen by: paging: an unmapped page is gone, and its tables
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_unmap_page, struct address_space *space, vaddr_t page,
             paddr_t *frame);

mm_status_t __wrap_paging_unmap_page(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    mm_status_t status = __real_paging_unmap_page(space, page, frame);

    if (broken_now && status == MM_OK && frame != NULL &&
        paging_map_page(space, page + 2 * LARGE_PAGE_SIZE, *frame, PAGING_READ) != MM_OK)
        return MM_OUT_OF_MEMORY;
    return status;
}
