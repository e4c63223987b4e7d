/* SPDX-License-Identifier: MIT */
/* The buddy system under the kernel heap. Internal to mm.
 *
 * Blocks are named by their offset into one region; a block of order n has MIN_BLOCK_SIZE << n bytes
 * and starts at a multiple of its size. The caller holds the lock of the heap for every call. */
#ifndef MM_BUDDY_H
#define MM_BUDDY_H

#include "mm/bittree.h"

#include <mm/kheap.h>

struct buddy {
    uint64_t first_offset; /* below it lies the state itself */
    uint64_t region_bytes;
    uint8_t *tags;                          /* one for each MIN_BLOCK_SIZE bytes: see buddy.c */
    struct bittree free_blocks[NUM_ORDERS]; /* by order: offset / block size */
    uint64_t free_bytes;
    uint64_t used_blocks;
};

#define BUDDY_NO_BLOCK UINT64_MAX

/* Bytes of state for a region of this size. */
uint64_t buddy_state_bytes(uint64_t region_bytes);

/* Makes a buddy system of the bytes [first_offset, region_bytes) of a region, all free. `state` has
 * buddy_state_bytes(region_bytes) bytes, 8-byte aligned. */
void buddy_init(struct buddy *buddy, uint64_t region_bytes, uint64_t first_offset, void *state);

static inline uint64_t buddy_block_bytes(unsigned order)
{
    return MIN_BLOCK_SIZE << order;
}

/* The smallest order whose blocks hold `bytes`; `bytes` is 1 ... MAX_BLOCK_SIZE. */
unsigned buddy_order(uint64_t bytes);

/* Takes the lowest block of the smallest order that is large enough, and splits it.
 *   Returns:  its offset, or BUDDY_NO_BLOCK. */
uint64_t buddy_alloc(struct buddy *buddy, unsigned order);

/* Gives back the allocated block that starts at `offset`, merging it with free buddies. */
void buddy_free(struct buddy *buddy, uint64_t offset);

struct buddy_block {
    uint64_t offset;
    unsigned order;
    bool allocated;
};

/* The block that holds the byte at `offset` (first_offset <= offset < region_bytes). May be called
 * without the lock, by a fault report.
 *   Returns:  false if no block was found there: the state is damaged, or was changing. */
MM_MUST_USE bool buddy_peek(const struct buddy *buddy, uint64_t offset, struct buddy_block *out);

/* Bytes of the largest free block, 0 if there is none. */
uint64_t buddy_largest_free(const struct buddy *buddy);

/* NULL if everything agrees; else what does not, and at which offset. */
const char *buddy_check(const struct buddy *buddy, uint64_t *offset);

#endif
