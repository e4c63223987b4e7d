/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_to_phys */
/* kheap_to_phys names the neighbour of a block.
 *
 * seen by: heap: a block's physical address */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, kheap_to_phys, struct kheap *heap, const void *address, size_t bytes,
             paddr_t *out);

mm_status_t __wrap_kheap_to_phys(struct kheap *heap, const void *address, size_t bytes,
                                 paddr_t *out)
{
    mm_status_t status = __real_kheap_to_phys(heap, address, bytes, out);

    if (broken_now && status == MM_OK)
        *out += MIN_BLOCK_SIZE;
    return status;
}
