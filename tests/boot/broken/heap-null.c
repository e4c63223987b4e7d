/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc */
/* The first allocation from the heap gives NULL.
 *
 * seen by: heap: kmalloc(1024) gives an aligned block */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    static bool done;

    if (!broken_now || done)
        return __real_kheap_alloc(heap, bytes);
    done = true;
    return NULL;
}
