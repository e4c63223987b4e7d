/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc */
/* The last byte of a block is not zeroed.
 *
 * seen by: heap: a block is zeroed */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    uint8_t *block = __real_kheap_alloc(heap, bytes);

    if (broken_now && block != NULL)
        block[bytes - 1] = 0xa5;
    return block;
}
