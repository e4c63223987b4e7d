/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc */
/* A block of 64 bytes begins in the middle of another one.
 *
 * seen by: heap: 10 blocks of 64 bytes do not overlap */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    static uint8_t *last;
    uint8_t *block = NULL;

    if (broken_now && bytes == 64 && last != NULL) {
        block = last + 32;
        last = NULL;
        return block;
    }
    block = __real_kheap_alloc(heap, bytes);
    if (broken_now && bytes == 64)
        last = block;
    return block;
}
