/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_unmap_page */
/* paging_unmap_page names another frame than the one that was mapped.
 *
 * seen by: paging: an unmapped page is gone, and its tables
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_unmap_page, struct address_space *space, vaddr_t page,
             paddr_t *frame);

mm_status_t __wrap_paging_unmap_page(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    mm_status_t status = __real_paging_unmap_page(space, page, frame);

    if (broken_now && status == MM_OK && frame != NULL)
        *frame += FRAME_SIZE;
    return status;
}
