/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests buddy_free */
/* The count of free bytes grows by more than what is freed.
 *
 * seen by: heap: blocks and counters agree */
#include "tests/boot/broken/broken.h"

#include "mm/buddy.h"

BROKEN_WRAPS(void, buddy_free, struct buddy *buddy, uint64_t offset, uint64_t bytes);

void __wrap_buddy_free(struct buddy *buddy, uint64_t offset, uint64_t bytes)
{
    __real_buddy_free(buddy, offset, bytes);
    if (broken_now)
        buddy->free_bytes += MIN_BLOCK_SIZE;
}
