/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests buddy_free */
/* The count of used blocks is never lowered.
 *
 * seen by: heap: blocks and counters agree */
#include "tests/boot/broken/broken.h"

#include "mm/buddy.h"

BROKEN_WRAPS(void, buddy_free, struct buddy *buddy, uint64_t offset);

void __wrap_buddy_free(struct buddy *buddy, uint64_t offset)
{
    __real_buddy_free(buddy, offset);
    if (broken_now)
        buddy->used_blocks++;
}
