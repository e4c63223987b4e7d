/* SPDX-License-Identifier: MIT */
/* The buddy system under the kernel heap.
 *
 * All state lies outside the blocks. For each 64 bytes there is a tag:
 *
 *      0              inside a block
 *      order + 1      an allocated block of that order starts here
 *      FREE | order+1 a free block of that order starts here
 *
 * and for each order a bit tree of its free blocks. The buddy of a block is found by flipping the bit
 * of its size in its offset, and its tag tells at once whether the two can merge; taking it out of
 * its order's set is one bit. So allocating and freeing touch at most 15 tags and 15 trees, whatever
 * the heap looks like, and a write into a free block reaches nothing that the heap believes.
 *
 * Invariants (buddy_check): the blocks tile the region; no two free buddies of one order; a free
 * block is in its order's set and nothing else is; the counters agree. */
#include "mm/buddy.h"

#include "mm/bits.h"

#include <mm/log.h>

#define TAG_FREE       0x80u
#define TAG_ORDER(tag) (((unsigned)(tag)&0x7f) - 1)

static uint8_t *tag_at(const struct buddy *buddy, uint64_t offset)
{
    return &buddy->tags[offset / MIN_BLOCK_SIZE];
}

/* ---- starting ---- */

static uint64_t blocks_of_order(uint64_t region_bytes, unsigned order)
{
    return region_bytes / buddy_block_bytes(order);
}

uint64_t buddy_state_bytes(uint64_t region_bytes)
{
    uint64_t bytes = mm_round_up(region_bytes / MIN_BLOCK_SIZE, sizeof(uint64_t));

    for (unsigned order = 0; order < NUM_ORDERS; order++)
        bytes += bittree_words(blocks_of_order(region_bytes, order)) * sizeof(uint64_t);
    return bytes;
}

static void put_free(struct buddy *buddy, uint64_t offset, unsigned order)
{
    *tag_at(buddy, offset) = (uint8_t)(TAG_FREE | (order + 1));
    bittree_add(&buddy->free_blocks[order], offset / buddy_block_bytes(order));
}

static void take_free(struct buddy *buddy, uint64_t offset, unsigned order)
{
    *tag_at(buddy, offset) = 0;
    bittree_remove(&buddy->free_blocks[order], offset / buddy_block_bytes(order));
}

/* The largest order of which a block can start at `offset` and end inside the region. */
static unsigned largest_order_at(const struct buddy *buddy, uint64_t offset)
{
    unsigned order = NUM_ORDERS - 1;

    while (!mm_is_aligned(offset, buddy_block_bytes(order)) ||
           offset + buddy_block_bytes(order) > buddy->region_bytes)
        order--;
    return order;
}

void buddy_init(struct buddy *buddy, uint64_t region_bytes, uint64_t first_offset, void *state)
{
    uint64_t tag_bytes = mm_round_up(region_bytes / MIN_BLOCK_SIZE, sizeof(uint64_t));
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)state + tag_bytes);

    MM_ASSERT(mm_is_aligned(first_offset, MIN_BLOCK_SIZE) && first_offset <= region_bytes);
    *buddy = (struct buddy){
        .first_offset = first_offset,
        .region_bytes = region_bytes,
        .tags = state,
        .free_bytes = region_bytes - first_offset,
    };
    memset(buddy->tags, 0, tag_bytes);
    for (unsigned order = 0; order < NUM_ORDERS; order++) {
        uint64_t blocks = blocks_of_order(region_bytes, order);
        bittree_init(&buddy->free_blocks[order], blocks, words);
        words += bittree_words(blocks);
    }
    for (uint64_t offset = first_offset; offset < region_bytes;) {
        unsigned order = largest_order_at(buddy, offset);
        put_free(buddy, offset, order);
        offset += buddy_block_bytes(order);
    }
}

/* ---- allocating and freeing ---- */

unsigned buddy_order(uint64_t bytes)
{
    unsigned order = 0;

    MM_ASSERT(bytes <= MAX_BLOCK_SIZE);
    while (buddy_block_bytes(order) < bytes)
        order++;
    return order;
}

uint64_t buddy_alloc(struct buddy *buddy, unsigned order)
{
    unsigned from = order;

    while (from < NUM_ORDERS && bittree_is_empty(&buddy->free_blocks[from]))
        from++;
    if (from == NUM_ORDERS)
        return BUDDY_NO_BLOCK;
    uint64_t offset = bittree_lowest(&buddy->free_blocks[from]) * buddy_block_bytes(from);
    take_free(buddy, offset, from);
    while (from > order) {
        from--;
        put_free(buddy, offset + buddy_block_bytes(from), from);
    }
    *tag_at(buddy, offset) = (uint8_t)(order + 1);
    buddy->free_bytes -= buddy_block_bytes(order);
    buddy->used_blocks++;
    return offset;
}

void buddy_free(struct buddy *buddy, uint64_t offset)
{
    unsigned order = TAG_ORDER(*tag_at(buddy, offset));

    MM_ASSERT(*tag_at(buddy, offset) != 0 && (*tag_at(buddy, offset) & TAG_FREE) == 0);
    *tag_at(buddy, offset) = 0;
    buddy->free_bytes += buddy_block_bytes(order);
    buddy->used_blocks--;
    for (; order < NUM_ORDERS - 1; order++) {
        uint64_t other = offset ^ buddy_block_bytes(order);
        if (other < buddy->first_offset || other >= buddy->region_bytes ||
            *tag_at(buddy, other) != (TAG_FREE | (order + 1)))
            break;
        take_free(buddy, other, order);
        offset &= ~buddy_block_bytes(order);
    }
    put_free(buddy, offset, order);
}

/* ---- asking ---- */

bool buddy_peek(const struct buddy *buddy, uint64_t offset, struct buddy_block *out)
{
    for (unsigned order = 0; order < NUM_ORDERS; order++) {
        uint64_t start = mm_round_down(offset, buddy_block_bytes(order));
        uint8_t tag = *tag_at(buddy, start);
        if (tag == 0 || TAG_ORDER(tag) < order)
            continue;
        *out = (struct buddy_block){ start, TAG_ORDER(tag), (tag & TAG_FREE) == 0 };
        return TAG_ORDER(tag) < NUM_ORDERS;
    }
    return false;
}

uint64_t buddy_largest_free(const struct buddy *buddy)
{
    for (unsigned order = NUM_ORDERS; order > 0; order--)
        if (!bittree_is_empty(&buddy->free_blocks[order - 1]))
            return buddy_block_bytes(order - 1);
    return 0;
}

/* What is wrong with the block that starts at `offset`, or NULL. */
static const char *check_block(const struct buddy *buddy, uint64_t offset)
{
    uint8_t tag = *tag_at(buddy, offset);
    unsigned order = TAG_ORDER(tag);

    if (tag == 0 || order >= NUM_ORDERS)
        return "no block starts where one must";
    uint64_t bytes = buddy_block_bytes(order);
    if (!mm_is_aligned(offset, bytes) || offset + bytes > buddy->region_bytes)
        return "a block is not aligned to its size, or leaves the region";
    for (uint64_t inside = offset + MIN_BLOCK_SIZE; inside < offset + bytes;
         inside += MIN_BLOCK_SIZE)
        if (*tag_at(buddy, inside) != 0)
            return "a block starts inside another";
    if (bittree_has(&buddy->free_blocks[order], offset / bytes) != ((tag & TAG_FREE) != 0))
        return "a block's state and the set of free blocks differ";
    uint64_t other = offset ^ bytes;
    if ((tag & TAG_FREE) != 0 && order < NUM_ORDERS - 1 && other >= buddy->first_offset &&
        other < buddy->region_bytes && *tag_at(buddy, other) == tag)
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

const char *buddy_check(const struct buddy *buddy, uint64_t *offset)
{
    uint64_t free_bytes = 0, free_blocks = 0, used_blocks = 0, in_sets = 0;

    for (*offset = buddy->first_offset; *offset < buddy->region_bytes;) {
        const char *wrong = check_block(buddy, *offset);
        if (wrong != NULL)
            return wrong;
        uint8_t tag = *tag_at(buddy, *offset);
        uint64_t bytes = buddy_block_bytes(TAG_ORDER(tag));
        bool is_free = (tag & TAG_FREE) != 0;
        free_bytes += is_free ? bytes : 0;
        free_blocks += is_free;
        used_blocks += !is_free;
        *offset += bytes;
    }
    for (unsigned order = 0; order < NUM_ORDERS; order++) {
        uint64_t blocks = blocks_of_order(buddy->region_bytes, order);
        in_sets += count_set(&buddy->free_blocks[order], blocks);
        if (!bittree_is_consistent(&buddy->free_blocks[order], blocks))
            return "the levels of a set of free blocks differ";
    }
    if (in_sets != free_blocks)
        return "a set of free blocks holds what is no free block";
    if (free_bytes != buddy->free_bytes || used_blocks != buddy->used_blocks)
        return "the counters differ from the blocks";
    return NULL;
}
