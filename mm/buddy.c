/* SPDX-License-Identifier: MIT */
/* The buddy system under the kernel heap.
 *
 * All state lies outside the blocks. For each unit (a block of the lowest order) there is a tag:
 *
 *      0              inside a block
 *      order + 1      an allocated block of that order starts here
 *      FREE | order+1 a free block of that order starts here
 *      ABSENT         no memory of this buddy system
 *
 * and for each order a bit tree of its free blocks. The buddy of a block is found by flipping the bit
 * of its size in its offset, and its tag tells at once whether the two can merge; taking it out of
 * its order's set is one bit. So allocating and freeing touch at most 15 tags and 15 trees, whatever
 * the region looks like.
 *
 * A run that is no power of two, or begins anywhere, is taken as the largest blocks that tile it, and the rest
 * of what it was cut from stays free: of eight units, five from the beginning are 4 + 1, and 1 + 2 stay.
 *
 * Invariants (buddy_check): the blocks tile what is present; no two free buddies of one order; a free
 * block is in its order's set and nothing else is; the counters agree. */
#include "mm/buddy.h"

#include "mm/bits.h"

#include <mm/log.h>

#define TAG_FREE       0x80u
#define TAG_ABSENT     0x7fu
#define TAG_ORDER(tag) (((unsigned)(tag)&0x7f) - 1)

static uint64_t unit_bytes(const struct buddy *buddy)
{
    return buddy_block_bytes(buddy->lowest);
}

static uint8_t *tag_at(const struct buddy *buddy, uint64_t offset)
{
    return &buddy->tags[offset / unit_bytes(buddy)];
}

/* ---- starting ---- */

static uint64_t blocks_of_order(uint64_t region_bytes, unsigned order)
{
    return region_bytes / buddy_block_bytes(order);
}

static uint64_t tag_bytes(uint64_t region_bytes, unsigned lowest)
{
    return mm_round_up(blocks_of_order(region_bytes, lowest), sizeof(uint64_t));
}

uint64_t buddy_state_bytes(uint64_t region_bytes, unsigned lowest)
{
    uint64_t bytes = tag_bytes(region_bytes, lowest);

    for (unsigned order = lowest; order < NUM_ORDERS; order++)
        bytes += bittree_words(blocks_of_order(region_bytes, order)) * sizeof(uint64_t);
    return bytes;
}

void buddy_init(struct buddy *buddy, uint64_t region_bytes, unsigned lowest, void *state)
{
    uint64_t bytes = tag_bytes(region_bytes, lowest);
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)state + bytes);

    *buddy = (struct buddy){ .region_bytes = region_bytes, .lowest = lowest, .tags = state };
    memset(buddy->tags, TAG_ABSENT, bytes);
    for (unsigned order = lowest; order < NUM_ORDERS; order++) {
        uint64_t blocks = blocks_of_order(region_bytes, order);
        bittree_init(&buddy->free_blocks[order], blocks, words);
        words += bittree_words(blocks);
    }
}

static void put_free(struct buddy *buddy, uint64_t offset, unsigned order)
{
    *tag_at(buddy, offset) = (uint8_t)(TAG_FREE | (order + 1));
    bittree_add(&buddy->free_blocks[order], offset / buddy_block_bytes(order));
    buddy->filled |= (uint64_t)1 << order;
}

static void take_free(struct buddy *buddy, uint64_t offset, unsigned order)
{
    *tag_at(buddy, offset) = 0;
    bittree_remove(&buddy->free_blocks[order], offset / buddy_block_bytes(order));
    if (bittree_is_empty(&buddy->free_blocks[order]))
        buddy->filled &= ~((uint64_t)1 << order);
}

/* The order of the largest block of at most `bytes`, which is MIN_BLOCK_SIZE or more. */
static unsigned order_within(uint64_t bytes)
{
    unsigned order = 63u - (unsigned)__builtin_clzll(bytes / MIN_BLOCK_SIZE);

    return order < NUM_ORDERS ? order : NUM_ORDERS - 1;
}

/* The largest order of which a block can start at `offset` and end at `end` or before. */
static unsigned largest_order_at(uint64_t offset, uint64_t end)
{
    unsigned order = order_within(end - offset);
    uint64_t aligned = offset | MAX_BLOCK_SIZE; /* its lowest bit */

    return order_within(aligned & -aligned) < order ? order_within(aligned & -aligned) : order;
}

/* The units of [from, to), part of what was one free block, are free blocks. */
static void put_parts(struct buddy *buddy, uint64_t from, uint64_t to)
{
    while (from < to) {
        unsigned part = largest_order_at(from, to);
        put_free(buddy, from, part);
        from += buddy_block_bytes(part);
    }
}

/* A run that is its holder's: the blocks that it is freed as. */
static void mark_parts(struct buddy *buddy, uint64_t from, uint64_t to)
{
    while (from < to) {
        unsigned part = largest_order_at(from, to);
        *tag_at(buddy, from) = (uint8_t)(part + 1);
        from += buddy_block_bytes(part);
    }
}

/* ---- allocating and freeing ---- */

unsigned buddy_order(uint64_t bytes)
{
    MM_ASSERT(bytes <= MAX_BLOCK_SIZE);
    return bytes <= MIN_BLOCK_SIZE ? 0
                                   : 64u - (unsigned)__builtin_clzll((bytes - 1) / MIN_BLOCK_SIZE);
}

/* A block that nobody holds becomes free, and joins with its buddy as often as that is free. */
static void join_free(struct buddy *buddy, uint64_t offset, unsigned order)
{
    *tag_at(buddy, offset) = 0;
    for (; order < NUM_ORDERS - 1; order++) {
        uint64_t other = offset ^ buddy_block_bytes(order);
        if (other + buddy_block_bytes(order) > buddy->region_bytes ||
            *tag_at(buddy, other) != (TAG_FREE | (order + 1)))
            break;
        take_free(buddy, other, order);
        offset &= ~buddy_block_bytes(order);
    }
    put_free(buddy, offset, order);
}

uint64_t buddy_alloc(struct buddy *buddy, uint64_t bytes, uint64_t align_bytes)
{
    unsigned order = buddy_order(bytes > align_bytes ? bytes : align_bytes), from;
    uint64_t fit = buddy->filled & UINT64_MAX << order, end;

    if (fit == 0)
        return BUDDY_NO_BLOCK;
    from = bits_lowest(fit);
    uint64_t offset = bittree_lowest(&buddy->free_blocks[from]) * buddy_block_bytes(from);
    take_free(buddy, offset, from);
    end = offset + buddy_block_bytes(from);
    mark_parts(buddy, offset, offset + bytes);
    put_parts(buddy, offset + bytes, end);
    buddy->free_bytes -= bytes;
    return offset;
}

/* The free block that the unit at `at` is in; its order in *order. */
static uint64_t free_block_of(const struct buddy *buddy, uint64_t at, unsigned *order)
{
    for (*order = buddy->lowest; *order < NUM_ORDERS; ++*order) {
        uint64_t start = at & ~(buddy_block_bytes(*order) - 1);
        if (*tag_at(buddy, start) == (TAG_FREE | (*order + 1)))
            return start;
    }
    return BUDDY_NO_BLOCK;
}

void buddy_take(struct buddy *buddy, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;

    for (uint64_t at = offset; at < end;) {
        unsigned order;
        uint64_t start = free_block_of(buddy, at, &order);
        MM_ASSERT(start != BUDDY_NO_BLOCK);
        at = start + buddy_block_bytes(order);
        take_free(buddy, start, order);
        put_parts(buddy, start, offset);
        put_parts(buddy, end, at);
    }
    mark_parts(buddy, offset, end);
    buddy->free_bytes -= bytes;
}

void buddy_free(struct buddy *buddy, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;

    buddy->free_bytes += bytes;
    while (offset < end) {
        unsigned order = largest_order_at(offset, end);
        MM_ASSERT(*tag_at(buddy, offset) == order + 1);
        join_free(buddy, offset, order);
        offset += buddy_block_bytes(order);
    }
}

/* ---- what is present ---- */

void buddy_add(struct buddy *buddy, uint64_t from, uint64_t to)
{
    MM_ASSERT(buddy_is_absent(buddy, from, to) && to <= buddy->region_bytes);
    memset(tag_at(buddy, from), 0, (to - from) / unit_bytes(buddy));
    buddy->present_bytes += to - from;
    buddy->free_bytes += to - from;
    while (from < to) {
        unsigned order = largest_order_at(from, to);
        join_free(buddy, from, order);
        from += buddy_block_bytes(order);
    }
}

/* Only whole free blocks: what is removed is what was added, and merging goes no further than that
 * (a chunk is added and removed whole). */
void buddy_remove(struct buddy *buddy, uint64_t from, uint64_t to)
{
    buddy->present_bytes -= to - from;
    buddy->free_bytes -= to - from;
    for (uint64_t at = from; at < to;) {
        uint8_t tag = *tag_at(buddy, at);
        MM_ASSERT((tag & TAG_FREE) != 0);
        take_free(buddy, at, TAG_ORDER(tag));
        at += buddy_block_bytes(TAG_ORDER(tag));
    }
    memset(tag_at(buddy, from), TAG_ABSENT, (to - from) / unit_bytes(buddy));
}

bool buddy_is_absent(const struct buddy *buddy, uint64_t from, uint64_t to)
{
    for (uint64_t at = from; at < to; at += unit_bytes(buddy))
        if (*tag_at(buddy, at) != TAG_ABSENT)
            return false;
    return true;
}

/* ---- asking ---- */

bool buddy_is_free(const struct buddy *buddy, uint64_t offset)
{
    unsigned order;

    return free_block_of(buddy, offset, &order) != BUDDY_NO_BLOCK;
}

uint64_t buddy_largest_free(const struct buddy *buddy)
{
    return buddy->filled == 0 ? 0
                              : buddy_block_bytes(63u - (unsigned)__builtin_clzll(buddy->filled));
}

/* What is wrong with the block that starts at `offset`, or NULL. */
static const char *check_block(const struct buddy *buddy, uint64_t offset)
{
    uint8_t tag = *tag_at(buddy, offset);
    unsigned order = TAG_ORDER(tag);

    if (tag == 0 || order >= NUM_ORDERS || order < buddy->lowest)
        return "no block starts where one must";
    uint64_t bytes = buddy_block_bytes(order);
    if (!mm_is_aligned(offset, bytes) || offset + bytes > buddy->region_bytes)
        return "a block is not aligned to its size, or leaves the region";
    for (uint64_t inside = offset + unit_bytes(buddy); inside < offset + bytes;
         inside += unit_bytes(buddy))
        if (*tag_at(buddy, inside) != 0)
            return "a block starts inside another";
    if (bittree_has(&buddy->free_blocks[order], offset / bytes) != ((tag & TAG_FREE) != 0))
        return "a block's state and the set of free blocks differ";
    uint64_t other = offset ^ bytes;
    if ((tag & TAG_FREE) != 0 && order < NUM_ORDERS - 1 && other + bytes <= buddy->region_bytes &&
        *tag_at(buddy, other) == tag)
        return "two free buddies were not merged";
    return NULL;
}

static uint64_t count_set(const struct bittree *tree, uint64_t size)
{
    uint64_t count = 0;

    for (uint64_t word = 0; word * BITS_PER_WORD < size; word++)
        count += bits_count(tree->level[0][word]);
    return count;
}

/* The blocks alone: what they sum up to. */
static const char *check_blocks(const struct buddy *buddy, uint64_t *offset, uint64_t *free_blocks,
                                uint64_t *free_bytes, uint64_t *present_bytes)
{
    for (*offset = 0; *offset < buddy->region_bytes;) {
        uint8_t tag = *tag_at(buddy, *offset);
        if (tag == TAG_ABSENT) {
            *offset += unit_bytes(buddy);
            continue;
        }
        const char *wrong = check_block(buddy, *offset);
        if (wrong != NULL)
            return wrong;
        uint64_t bytes = buddy_block_bytes(TAG_ORDER(tag));
        bool is_free = (tag & TAG_FREE) != 0;
        *free_bytes += is_free ? bytes : 0;
        *free_blocks += is_free;
        *present_bytes += bytes;
        *offset += bytes;
    }
    return NULL;
}

const char *buddy_check(const struct buddy *buddy, uint64_t *offset)
{
    uint64_t free_blocks = 0, free_bytes = 0, present_bytes = 0, in_sets = 0;
    const char *wrong = check_blocks(buddy, offset, &free_blocks, &free_bytes, &present_bytes);

    if (wrong != NULL)
        return wrong;
    for (unsigned order = buddy->lowest; order < NUM_ORDERS; order++) {
        uint64_t blocks = blocks_of_order(buddy->region_bytes, order);
        in_sets += count_set(&buddy->free_blocks[order], blocks);
        if (!bittree_is_consistent(&buddy->free_blocks[order], blocks) ||
            bittree_is_empty(&buddy->free_blocks[order]) == (buddy->filled >> order & 1))
            return "the levels of a set of free blocks differ";
    }
    if (in_sets != free_blocks)
        return "a set of free blocks holds what is no free block";
    if (free_bytes != buddy->free_bytes || present_bytes != buddy->present_bytes)
        return "the counters differ from the blocks";
    return NULL;
}
