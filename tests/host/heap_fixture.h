/* SPDX-License-Identifier: MIT */
/* The heap under test of test_kheap*.c: one that lives in its region, or one that grows, over a fake
 * machine of its own.
 *
 *   region  [ first_offset: the heap's own state | blocks ... )  region_bytes */
#ifndef TESTS_HOST_HEAP_FIXTURE_H
#define TESTS_HOST_HEAP_FIXTURE_H

#include "support.h"

#include "mm/heap_memory.h"

extern struct machine heap_machine;
extern struct kheap *heap;
extern unsigned char *region;
extern size_t region_bytes;
extern size_t first_offset; /* of the blocks: what lies before is the heap's own state */

/* A heap of so many bytes that does not grow, in memory that holds anything. It is the default heap, as
 * are those of the other set-ups. */
void heap_set_up(size_t bytes);

/* The same at the full level. */
void heap_set_up_full(size_t bytes);

/* A heap with 1 MiB that takes more from the pmm of a machine of `ram` bytes. */
void heap_set_up_growing(uint64_t ram, bool (*symbols)(vaddr_t address, struct boot_symbol *out));

void assert_heap_sound(void);
void assert_heap_stats_equal(struct kheap_stats a, struct kheap_stats b);

/* Nothing is used, and all memory is in whole blocks again. */
void assert_all_free(void);

/* The words of a report about an address, for EXPECT_BUG; they stay until the next call. */
const char *address_words(const char *reason, const void *address);

/* The call is reported, and nothing has happened. */
#define EXPECT_BUG_UNCHANGED(words, call)                                                          \
    do {                                                                                           \
        struct kheap_stats stats_before = kheap_stats(heap);                                       \
        EXPECT_BUG((words), call);                                                                 \
        assert_heap_stats_equal(kheap_stats(heap), stats_before);                                  \
        assert_heap_sound();                                                                       \
    } while (0)

#endif
