/* SPDX-License-Identifier: MIT */
/* wrap: kfree */
/* A wrong free changes nothing and says nothing.
 *
 * seen as: freed twice, 64 bytes, default level: 0 reports of kfree\(address\) with 0x[0-9a-f]+, not one */
#include "tests/boot/broken/misuse/misuse.h"

BROKEN_WRAPS(void, kfree, void *block);

void __wrap_kfree(void *block)
{
    struct kheap_peek peek;

    if (kheap_peek(kheap_default(), (uintptr_t)block, &peek) && peek.what == KHEAP_USED &&
        peek.start == (uintptr_t)block)
        __real_kfree(block);
}
