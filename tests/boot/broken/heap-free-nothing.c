/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_free */
/* kheap_free, and with it kfree, does nothing.
 *
 * seen by: heap: kfree gives all of it back */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, kheap_free, struct kheap *heap, void *block);

void __wrap_kheap_free(struct kheap *heap, void *block)
{
    if (!broken_now)
        __real_kheap_free(heap, block);
}
