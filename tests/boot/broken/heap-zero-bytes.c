/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc */
/* An allocation of 0 bytes gives a block.
 *
 * seen by: heap: 0 bytes, NULL and the largest block */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    return __real_kheap_alloc(heap, broken_now && bytes == 0 ? 1 : bytes);
}
