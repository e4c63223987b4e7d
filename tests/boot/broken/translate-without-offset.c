/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_translate */
/* paging_translate forgets the offset in the page. The case that sees it leaves its page mapped, so
 * that the next ones find it in their way.
 *
 * seen by: paging: a mapped page translates
 * seen by: paging: a second mapping and a writable executable one are refused
 * seen by: paging: an unmapped page is gone, and its tables
 * seen by: paging: a 2 MB leaf is made, and never written into
 * seen by: paging: what is written through a page arrives in its frame
 * seen by: paging: an unmapped page leaves no translation
 * seen by: heap: a block's physical address
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, paging_translate, struct address_space *space, vaddr_t address,
             paddr_t *out);

mm_status_t __wrap_paging_translate(struct address_space *space, vaddr_t address, paddr_t *out)
{
    mm_status_t status = __real_paging_translate(space, address, out);

    if (broken_now && status == MM_OK)
        *out = mm_round_down(*out, FRAME_SIZE);
    return status;
}
