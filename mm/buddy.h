/* SPDX-License-Identifier: MIT */
/* The buddy system under the kernel heap. Internal to mm.
 *
 * Blocks are named by their offset into one region; a block of order n has MIN_BLOCK_SIZE << n bytes
 * and starts at a multiple of its size. A buddy system is made for blocks from its lowest order on, the
 * `unit`; a run is any number of units side by side. The caller holds the lock of the heap. */
#ifndef MM_BUDDY_H
#define MM_BUDDY_H

#include "mm/bittree.h"

#include <mm/kheap.h>

struct buddy {
    uint64_t region_bytes;
    unsigned lowest;                        /* order */
    uint8_t *tags;                          /* one for each unit: see buddy.c */
    struct bittree free_blocks[NUM_ORDERS]; /* by order: offset / block size */
    uint64_t filled;                        /* bit: there are free blocks of that order */
    uint64_t free_bytes;
    uint64_t present_bytes; /* free or taken; the rest of the region is not there */
};

#define BUDDY_NO_BLOCK UINT64_MAX

static inline uint64_t buddy_block_bytes(unsigned order)
{
    return MIN_BLOCK_SIZE << order;
}

/* Bytes of state for a region of this size, with blocks from order `lowest` on. */
uint64_t buddy_state_bytes(uint64_t region_bytes, unsigned lowest);

/* Makes a buddy system in which nothing is present. `state` has buddy_state_bytes() bytes, 8-byte
 * aligned. */
void buddy_init(struct buddy *buddy, uint64_t region_bytes, unsigned lowest, void *state);

/* Makes the absent units [from, to) free, or the free ones absent. */
void buddy_add(struct buddy *buddy, uint64_t from, uint64_t to);
void buddy_remove(struct buddy *buddy, uint64_t from, uint64_t to);

/* True if all units of [from, to) are absent. */
bool buddy_is_absent(const struct buddy *buddy, uint64_t from, uint64_t to);

/* The smallest order whose blocks hold `bytes`; `bytes` is 1 ... MAX_BLOCK_SIZE. */
unsigned buddy_order(uint64_t bytes);

/* Takes `bytes` (a multiple of the unit): the beginning of the lowest block of the smallest order that
 * holds them and is as large as `align_bytes` (a power of two); the rest of that block stays free.
 *   Returns:  its offset, a multiple of align_bytes; or BUDDY_NO_BLOCK. */
uint64_t buddy_alloc(struct buddy *buddy, uint64_t bytes, uint64_t align_bytes);

/* Takes the run [offset, offset + bytes) of units, all free, wherever it begins. */
void buddy_take(struct buddy *buddy, uint64_t offset, uint64_t bytes);

/* Gives back the run that buddy_alloc() or buddy_take() gave, joining it with free buddies. */
void buddy_free(struct buddy *buddy, uint64_t offset, uint64_t bytes);

/* True if the unit at `offset` is in a free block. */
bool buddy_is_free(const struct buddy *buddy, uint64_t offset);

/* Bytes of the largest free block, 0 if there is none. */
uint64_t buddy_largest_free(const struct buddy *buddy);

/* NULL if everything agrees; else what does not, and at which offset. */
const char *buddy_check(const struct buddy *buddy, uint64_t *offset);

#endif
