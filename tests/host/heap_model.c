/* SPDX-License-Identifier: MIT */
/* See heap_model.h.
 *
 *   blocks[]: address, size asked for, size that the heap says, alignment, seed of the content
 *   gone[]:   addresses that were freed; one that lives again is never in a wrong call
 *
 * The bytes asked for are filled from the seed: all of them in small blocks, both ends and a word of
 * each 512 bytes in large ones. */
#include "heap_model.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS       256u
#define GONE         64u
#define REGION_BYTES MM_MIB(6)
#define GROWN_BYTES  MM_MIB(24)
#define FILLED_WHOLE 1024u

struct block {
    unsigned char *at;
    size_t asked, size, align;
    uint64_t seed;
};

static struct machine machine;
static void *grown; /* memory of HEAP_MODEL_GROWN */
static struct kheap *heap;
static struct block blocks[BLOCKS];
static unsigned char *gone[GONE];
static size_t live, gone_count, gone_next;
static uint64_t step_number, seed_next;
static heap_model_choose choose;
static enum kheap_level level_now;
static enum heap_model_kind kind_now;
static struct kheap_stats first_stats; /* of the heap as it was made */

struct kheap *heap_model_heap(void)
{
    return heap;
}

/* ---- Contents ---- */

static uint64_t word_at(uint64_t seed, size_t at)
{
    uint64_t value = (seed + at) * 0x9e3779b97f4a7c15u;

    return (value ^ value >> 31) | 1; /* no word is zero */
}

/* Calls `each` for every place that carries content: [at, at + bytes), at most a word. */
static void for_each_place(const struct block *block,
                           void (*each)(const struct block *block, size_t at, size_t bytes))
{
    size_t step = block->asked <= FILLED_WHOLE ? 8 : 512;

    for (size_t at = 0; at < block->asked; at += step)
        each(block, at, block->asked - at < 8 ? block->asked - at : 8);
    if (step != 8)
        each(block, block->asked - 8, 8);
}

static void fill_place(const struct block *block, size_t at, size_t bytes)
{
    uint64_t word = word_at(block->seed, at);

    memcpy(block->at + at, &word, bytes);
}

static void check_place(const struct block *block, size_t at, size_t bytes)
{
    uint64_t word = word_at(block->seed, at);

    /* The last word of a large block may lie over a part of the one before. */
    if (block->asked > FILLED_WHOLE && at % 512 == 0 && at + 8 > block->asked - 8 &&
        at != block->asked - 8)
        return;
    if (memcmp(block->at + at, &word, bytes) != 0)
        fail_msg("step %lu: block %p of %zu bytes: another content at %zu", step_number,
                 (void *)block->at, block->asked, at);
}

static void fill(struct block *block)
{
    block->seed = seed_next++ << 32;
    for_each_place(block, fill_place);
}

static void check(const struct block *block)
{
    for_each_place(block, check_place);
}

/* ---- The list ---- */

static void check_place_of(const struct block *block)
{
    size_t asked = block->asked, align = 16;

    if (mm_is_power_of_two(asked) && asked >= 16 && asked <= 4096)
        align = asked;
    else if (asked > MM_KIB(64))
        align = 4096;
    if (block->align > align)
        align = block->align;
    if (!mm_is_aligned((uintptr_t)block->at, align))
        fail_msg("step %lu: block %p of %zu bytes is not aligned to %zu", step_number,
                 (void *)block->at, asked, align);
    if (block->size < asked)
        fail_msg("step %lu: block of %zu bytes holds %zu", step_number, asked, block->size);
    for (size_t i = 0; i < live; i++)
        if (block != &blocks[i] && block->at < blocks[i].at + blocks[i].size &&
            blocks[i].at < block->at + block->size)
            fail_msg("step %lu: block %p of %zu bytes overlaps block %p of %zu", step_number,
                     (void *)block->at, block->size, (void *)blocks[i].at, blocks[i].size);
}

static bool is_live(const unsigned char *address)
{
    for (size_t i = 0; i < live; i++)
        if (blocks[i].at == address)
            return true;
    return false;
}

static void add(void *at, size_t asked, size_t align, bool zeroed)
{
    struct block *block = &blocks[live];

    block->at = at;
    block->asked = asked;
    block->align = align;
    block->size = kheap_size(heap, at);
    check_place_of(block);
    if (zeroed && !is_zero(at, block->size))
        fail_msg("step %lu: a new block of %zu bytes is not zero", step_number, asked);
    live++;
    fill(block);
}

static struct block remove_one(size_t index)
{
    struct block block = blocks[index];

    check(&block);
    if (kheap_size(heap, block.at) != block.size)
        fail_msg("step %lu: block %p has another size", step_number, (void *)block.at);
    blocks[index] = blocks[--live];
    gone[gone_next++ % GONE] = block.at;
    gone_count = gone_count < GONE ? gone_count + 1 : GONE;
    return block;
}

/* ---- Calls ---- */

/* Small sizes mostly, powers of two and their neighbours often, now and then all that there is. */
static size_t choose_size(void)
{
    size_t size;

    switch (choose(8)) {
    case 0:
        size = (size_t)1 << choose(17);
        return size + choose(3) - 1 + (size == 1);
    case 1:
        return 1 + choose(MM_KIB(64));
    case 2:
        return choose(8) == 0 ? 1 + choose(MM_MIB(3)) : 1 + choose(MM_KIB(8));
    default:
        return 1 + choose(600);
    }
}

/* NULL is right only if memory is short. */
static void expect_short_of(size_t bytes)
{
    struct kheap_stats stats = kheap_stats(heap);

    if (level_now == KHEAP_DEFAULT && live == 0 && bytes <= MAX_BLOCK_SIZE)
        fail_msg("step %lu: no block of %zu bytes though nothing is allocated", step_number, bytes);
    if (stats.used_blocks != live)
        fail_msg("step %lu: a failed call: %lu blocks, not %zu", step_number, stats.used_blocks,
                 live);
}

static void do_alloc(void)
{
    size_t bytes = choose_size();
    bool zeroed = choose(4) != 0;
    void *at;

    if (live == BLOCKS)
        return;
    at = zeroed ? kheap_alloc(heap, bytes) : kheap_alloc_nozero(heap, bytes);
    if (at == NULL)
        expect_short_of(bytes);
    else
        add(at, bytes, 1, zeroed);
}

static void add_constant(void *at, size_t bytes)
{
    if (at == NULL)
        expect_short_of(bytes);
    else
        add(at, bytes, 1, true);
}

static void do_alloc_aligned(void)
{
    size_t bytes = choose_size(), align = (size_t)1 << choose(choose(4) == 0 ? 22 : 13);
    void *at;

    if (live == BLOCKS)
        return;
    at = kheap_alloc_aligned(heap, bytes, align);
    if (at != NULL)
        add(at, bytes, align, true);
}

/* Sizes that are known to the compiler go another way, and so do their frees. */
static void do_alloc_constant(void)
{
    if (live == BLOCKS)
        return;
    switch (choose(5)) {
    case 0:
        add_constant(kmalloc(16), 16);
        break;
    case 1:
        add_constant(kzalloc(64), 64);
        break;
    case 2:
        add_constant(kmalloc(100), 100);
        break;
    case 3:
        add_constant(kmalloc(256), 256);
        break;
    default:
        add_constant(kcalloc(8, 128), 1024);
        break;
    }
}

static void free_sized(const struct block *block)
{
    switch (block->asked) {
    case 16:
        kfree_sized(block->at, 16);
        break;
    case 64:
        kfree_sized(block->at, 64);
        break;
    case 256:
        kfree_sized(block->at, 256);
        break;
    default:
        kfree_sized(block->at, block->asked);
        break;
    }
}

static void do_free_sized(void)
{
    size_t index;
    struct block block;

    if (live == 0)
        return;
    index = choose(live);
    if (blocks[index].align > 1)
        return;
    block = remove_one(index);
    free_sized(&block);
}

static void do_free(void)
{
    if (live > 0)
        kheap_free(heap, remove_one(choose(live)).at);
}

static void do_free_many(void)
{
    size_t count = choose(40);

    while (count-- > 0 && live > 0)
        do_free();
}

static void do_realloc(void)
{
    size_t index, bytes = choose_size(), kept;
    struct block block;
    unsigned char *at;

    if (live == 0)
        return;
    index = choose(live);
    block = blocks[index];
    check(&block);
    if (choose(2) == 0)
        bytes = 1 + choose(block.asked + 16);
    at = kheap_realloc(heap, block.at, bytes);
    if (at == NULL) {
        check(&block);
        assert_int_equal(kheap_size(heap, block.at), block.size);
        return;
    }
    /* The content that the old block had and the new one has room for. */
    kept = bytes < block.asked ? bytes : block.asked;
    blocks[index].at = at;
    if (block.asked <= FILLED_WHOLE) {
        for (size_t done = 0; done < kept; done += 8)
            check_place(&(struct block){ at, kept, kept, 1, block.seed }, done,
                        kept - done < 8 ? kept - done : 8);
    } else {
        for (size_t done = 0; done + 8 <= kept && done + 16 <= block.asked; done += 512)
            check_place(&(struct block){ at, block.asked, 0, 1, block.seed }, done, 8);
    }
    blocks[index].asked = bytes;
    blocks[index].size = kheap_size(heap, at);
    check_place_of(&blocks[index]);
    /* Up to its size the old block may have held anything: only the caller knows what was asked. */
    kept = block.size;
    if (blocks[index].size > kept && !is_zero(at + kept, blocks[index].size - kept))
        fail_msg("step %lu: realloc from %zu to %zu bytes: what is new is not zero", step_number,
                 block.asked, bytes);
    fill(&blocks[index]);
}

static void do_nothing(void)
{
    assert_null(kheap_alloc(heap, 0));
    assert_null(kheap_alloc(heap, SIZE_MAX));
    assert_null(kheap_alloc(heap, SIZE_MAX - 4095));
    assert_null(kheap_alloc_aligned(heap, 64, 0));
    assert_null(kheap_alloc_aligned(heap, 64, 48));
    assert_null(kheap_alloc_aligned(heap, 64, (size_t)KHEAP_ALIGN_MAX << 1));
    kheap_free(heap, NULL);
}

static void do_drain(void)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
}

static void do_peek(void)
{
    struct kheap_peek peek;
    size_t index, offset;

    if (live == 0)
        return;
    index = choose(live);
    offset = choose(blocks[index].asked);
    assert_true(kheap_peek(heap, (uintptr_t)blocks[index].at + offset, &peek));
    assert_int_equal(peek.what, KHEAP_USED);
    assert_int_equal(peek.start, (uintptr_t)blocks[index].at);
    assert_true(peek.bytes >= blocks[index].size && peek.asked >= blocks[index].asked);
}

/* ---- Wrong calls: one report each, and nothing changes ---- */

static unsigned char *wrong_address(void)
{
    static unsigned char in_data[64];
    unsigned char *inside;

    switch (choose(4)) {
    case 0:
        return in_data + 16 * choose(4);
    case 1:
        return (unsigned char *)((uint64_t)0x8000 << choose(48)); /* low, or not canonical */
    case 2:
        if (live == 0)
            return in_data;
        inside = blocks[choose(live)].at;
        return inside + (choose(2) == 0 ? 1 + choose(32) : 16 * (1 + choose(64)));
    default:
        return gone_count == 0 ? in_data : gone[choose(gone_count)];
    }
}

static void do_wrong_free(void)
{
    unsigned char *address = wrong_address();
    char words[64];

    if (is_live(address))
        return;
    mm_format(words, sizeof words, "0x%lx", (uint64_t)(uintptr_t)address);
    switch (choose(4)) {
    case 0:
        EXPECT_BUG(words, assert_int_equal(kheap_size(heap, address), 0));
        break;
    case 1:
        EXPECT_BUG(words, assert_null(kheap_realloc(heap, address, 100)));
        break;
    default:
        EXPECT_BUG(words, kheap_free(heap, address));
        break;
    }
}

/* ---- Programs ---- */

static void (*const calls[])(void) = {
    do_alloc,   do_alloc, do_alloc,          do_alloc,          do_alloc,      do_free,
    do_free,    do_free,  do_free,           do_alloc_aligned,  do_free_many,  do_realloc,
    do_realloc, do_peek,  do_nothing,        do_drain,          do_wrong_free, do_alloc,
    do_alloc,   do_free,  do_alloc_constant, do_alloc_constant, do_free_sized, do_free_sized,
};

static void call_at_level(void (*call)(void), uint64_t level)
{
    if (level == 0) {
        call();
        return;
    }
    assert_true(hosted_interrupt_enter());
    call_at_level(call, level - 1);
    hosted_interrupt_leave();
}

void heap_model_step(void)
{
    void (*call)(void) = calls[choose(COUNT_OF(calls))];
    uint64_t level = choose(4) == 0 ? choose(MM_PORT_LEVELS) : 0;

    step_number++;
    if (call == do_drain && choose(8) != 0)
        call = do_free;
    call_at_level(call, level);
    if (live > 0)
        check(&blocks[choose(live)]);
}

/* A region stays what it is. A heap that grows holds what it began with, and beyond that at most the
 * frames that it has taken since: its own state lies in some of them. Blocks lie in it. */
static void check_region(const struct kheap_stats *stats)
{
    if (kind_now == HEAP_MODEL_REGION)
        assert_int_equal(stats->region_bytes, REGION_BYTES);
    assert_true(stats->region_bytes >= first_stats.region_bytes);
    assert_true(stats->frames >= first_stats.frames);
    assert_true(stats->region_bytes - first_stats.region_bytes <=
                (stats->frames - first_stats.frames) * FRAME_SIZE);
    assert_true(stats->used_bytes <= stats->region_bytes);
    assert_true(stats->free_bytes <= stats->region_bytes - stats->used_bytes);
    assert_true(stats->largest_free_block <= stats->free_bytes);
}

void heap_model_check(void)
{
    struct kheap_stats stats = kheap_stats(heap);
    uint64_t bytes = 0;

    check_region(&stats);

    for (size_t i = 0; i < live; i++) {
        check(&blocks[i]);
        assert_int_equal(kheap_size(heap, blocks[i].at), blocks[i].size);
        bytes += blocks[i].size;
    }
    assert_int_equal(stats.used_blocks, live);
    if (level_now == KHEAP_DEFAULT)
        assert_int_equal(stats.used_bytes, bytes);
    assert_true(kheap_verify(heap));
}

static void set_up_region(void)
{
    paddr_t base;

    machine_set_up_simple(&machine, REGION_BYTES + MM_MIB(4));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, REGION_BYTES / FRAME_SIZE, MM_MIB(1), PMM_NO_LIMIT,
                                   &base));
    assert_ok(kheap_init(phys_to_virt(base), REGION_BYTES, NULL, &heap));
}

void heap_model_set_up(heap_model_choose chooser, enum heap_model_kind kind, enum kheap_level level)
{
    choose = chooser;
    live = gone_count = gone_next = 0;
    step_number = 0;
    if (kind == HEAP_MODEL_REGION) {
        set_up_region();
    } else {
        free(grown);
        grown = aligned_alloc(MM_MIB(2), GROWN_BYTES);
        assert_non_null(grown);
        assert_true(mello_host_init(grown, GROWN_BYTES));
        heap = kheap_default();
    }
    kheap_set_default(heap);
    level_now = level;
    kind_now = kind;
    kheap_set_level(heap, level);
    first_stats = kheap_stats(heap);
    heap_model_check();
}

void heap_model_finish(void)
{
    void *largest;

    heap_model_check();
    while (live > 0)
        do_free();
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    heap_model_check();
    if (level_now != KHEAP_DEFAULT)
        return;
    largest = kheap_alloc(heap, MAX_BLOCK_SIZE);
    assert_non_null(largest);
    kheap_free(heap, largest);
}
