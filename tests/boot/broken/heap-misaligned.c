/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc */
/* The first block does not begin at a multiple of its size.
 *
 * seen by: heap: kmalloc(1024) gives an aligned block */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    static bool done;
    uint8_t *block = __real_kheap_alloc(heap, bytes);

    if (!broken_now || done || block == NULL)
        return block;
    done = true;
    return block + 32;
}
