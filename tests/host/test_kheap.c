/* SPDX-License-Identifier: MIT */
/* The heap against a naive model: one byte for each unit of 64 bytes says whether it is in use. In
 * a buddy system that merges all it can, a block of 2^k units can be had exactly if an aligned run
 * of 2^k units is free: so the model knows, without any list or tree, what must succeed and what
 * must not. */
#include "support.h"

#include <stdlib.h>
#include <string.h>

static struct machine machine;
static struct kheap *heap;
static unsigned char *region;
static size_t region_bytes;
static size_t first_offset; /* of the blocks: what lies before is the heap's own state */

static void heap_set_up(size_t bytes)
{
    struct kheap_stats stats;
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(48));
    assert_ok(
        pmm_alloc_contiguous(&machine.pmm, bytes / FRAME_SIZE, MM_MIB(1), PMM_NO_LIMIT, &base));
    region = phys_to_virt(base);
    region_bytes = bytes;
    memset(region, 0xa5, bytes);
    assert_ok(kheap_init(region, bytes, NULL, &heap));
    stats = kheap_stats(heap);
    first_offset = bytes - stats.free_bytes;
    kheap_set_default(heap);
}

static void assert_heap_sound(void)
{
    struct kheap_stats stats = kheap_stats(heap);

    assert_true(kheap_verify(heap));
    assert_int_equal(stats.region_bytes, region_bytes);
    assert_int_equal(stats.free_bytes + stats.used_bytes + first_offset, region_bytes);
    assert_true(stats.largest_free_block <= stats.free_bytes);
}

static void assert_stats_equal(struct kheap_stats a, struct kheap_stats b)
{
    assert_memory_equal(&a, &b, sizeof a);
}

static size_t block_bytes_of(size_t bytes)
{
    size_t block = MIN_BLOCK_SIZE;

    while (block < bytes)
        block *= 2;
    return block;
}

/* ---- kheap_init ---- */

static void kheap_init_keeps_a_small_part_for_itself(void **state)
{
    (void)state;
    for (size_t mib = 1; mib <= 16; mib *= 2) {
        struct kheap_stats stats;

        heap_set_up(mib << 20);
        stats = kheap_stats(heap);
        assert_int_equal(stats.region_bytes, mib << 20);
        assert_int_equal(stats.used_blocks, 0);
        assert_int_equal(stats.used_bytes, 0);
        assert_int_equal(stats.failed_allocations, 0);
        assert_true(first_offset < (mib << 20) / 16);
        assert_int_equal(stats.largest_free_block, mib == 1 ? MM_KIB(512) : MAX_BLOCK_SIZE);
        assert_heap_sound();
    }
}

static void kheap_init_refuses_bad_regions(void **state)
{
    struct kheap *out = (struct kheap *)0x1234;
    unsigned char *base;

    (void)state;
    heap_set_up(MM_MIB(4));
    base = region;
    assert_status(kheap_init(base + 4096, MM_MIB(1), NULL, &out), MM_NOT_ALIGNED);
    assert_status(kheap_init(base + 64, MM_MIB(1), NULL, &out), MM_NOT_ALIGNED);
    assert_status(kheap_init(base, MM_MIB(1) + 4096, NULL, &out), MM_NOT_ALIGNED);
    assert_status(kheap_init(base, MM_MIB(1) - 1, NULL, &out), MM_NOT_ALIGNED);
    assert_status(kheap_init(base, 0, NULL, &out), MM_INVALID_ARGUMENT);
    assert_status(kheap_init(NULL, MM_MIB(1), NULL, &out), MM_INVALID_ARGUMENT);
    assert_ptr_equal(out, (struct kheap *)0x1234);
    assert_heap_sound();
}

/* ---- Allocating ---- */

static void kheap_alloc_of_every_order_is_aligned_and_zero(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(4));
    for (unsigned order = 0; order < NUM_ORDERS; order++) {
        size_t size = MIN_BLOCK_SIZE << order;
        size_t sizes[] = { size, size - 1, size / 2 + 1 };

        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            unsigned char *block = kheap_alloc(heap, sizes[i]);

            assert_non_null(block);
            assert_int_equal((uintptr_t)block % size, 0);
            assert_true(block >= region + first_offset && block + size <= region + region_bytes);
            assert_int_equal(kheap_size(heap, block), size);
            assert_int_equal(kheap_stats(heap).used_bytes, size);
            assert_true(is_zero(block, size));
            memset(block, 0xff, size);
            kheap_free(heap, block);
            assert_heap_sound();
        }
    }
}

static void kheap_alloc_sizes_below_64_take_a_whole_block(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(1));
    for (size_t bytes = 1; bytes <= 64; bytes++) {
        void *block = kheap_alloc(heap, bytes);

        assert_int_equal(kheap_size(heap, block), 64);
        kheap_free(heap, block);
    }
}

static void kheap_alloc_of_0_bytes_is_null_without_a_line(void **state)
{
    struct kheap_stats before;

    (void)state;
    heap_set_up(MM_MIB(2));
    before = kheap_stats(heap);
    assert_null(kheap_alloc(heap, 0));
    assert_null(kmalloc(0));
    assert_int_equal(log_lines(), 0);
    assert_stats_equal(kheap_stats(heap), before);
}

static void kheap_alloc_of_too_much_is_null_with_one_line(void **state)
{
    static const size_t sizes[] = { MAX_BLOCK_SIZE + 1, MAX_BLOCK_SIZE * 2, SIZE_MAX / 2,
                                    SIZE_MAX - 63,      SIZE_MAX - 1,       SIZE_MAX };

    (void)state;
    heap_set_up(MM_MIB(4));
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct kheap_stats before = kheap_stats(heap);

        log_clear();
        assert_null(kheap_alloc(heap, sizes[i]));
        assert_int_equal(log_lines(), 1);
        log_expect_count("[MM] ERROR:", 1);
        before.failed_allocations++;
        assert_stats_equal(kheap_stats(heap), before);
        assert_heap_sound();
    }
}

static void kheap_alloc_of_1mib_works_to_the_last_block(void **state)
{
    void *blocks[4];

    (void)state;
    heap_set_up(MM_MIB(4));
    for (size_t i = 0; i < 3; i++) {
        blocks[i] = kheap_alloc(heap, MAX_BLOCK_SIZE);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % MAX_BLOCK_SIZE, 0);
    }
    log_clear();
    assert_null(kheap_alloc(heap, MAX_BLOCK_SIZE));
    log_expect_count("[MM] ERROR:", 1);
    for (size_t i = 0; i < 3; i++)
        kheap_free(heap, blocks[i]);
    assert_heap_sound();
}

static void kheap_out_of_memory_is_null_and_changes_nothing(void **state)
{
    struct kheap_stats full;
    size_t count = 0;
    void *last = NULL, *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    while ((block = kheap_alloc(heap, 64)) != NULL) {
        last = block;
        count++;
    }
    log_expect_count("[MM] ERROR:", 1);
    assert_int_equal(log_lines(), 1);
    assert_int_equal(count * 64, region_bytes - first_offset);
    full = kheap_stats(heap);
    assert_int_equal(full.free_bytes, 0);
    assert_int_equal(full.largest_free_block, 0);
    assert_int_equal(full.failed_allocations, 1);
    for (size_t bytes = 1; bytes <= MAX_BLOCK_SIZE; bytes *= 2) {
        assert_null(kheap_alloc(heap, bytes));
        full.failed_allocations++;
    }
    assert_stats_equal(kheap_stats(heap), full);
    kheap_free(heap, last);
    assert_ptr_equal(kheap_alloc(heap, 64), last);
    assert_heap_sound();
}

static void kheap_logs_sizes_and_addresses_at_debug_only(void **state)
{
    char words[64];
    void *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    kheap_free(heap, kheap_alloc(heap, 100));
    assert_int_equal(log_lines(), 0);
    mm_log_level = MM_LOG_DEBUG;
    block = kheap_alloc(heap, 100);
    mm_format(words, sizeof words, "[MM] |100|0x%lx", (uintptr_t)block);
    log_expect_count(words, 1);
    log_clear();
    kheap_free(heap, block);
    mm_format(words, sizeof words, "[MM] |0x%lx", (uintptr_t)block);
    log_expect_count(words, 1);
    assert_int_equal(log_lines(), 1);
}

/* ---- Merging ---- */

/* 64-byte blocks over the whole region; every second one is freed only at the end. */
static void kheap_frees_merge_back_to_the_largest_blocks(void **state)
{
    static void *blocks[65536];
    struct kheap_stats empty;
    size_t count = 0;

    (void)state;
    heap_set_up(MM_MIB(4));
    empty = kheap_stats(heap);
    while (count < COUNT_OF(blocks) && (blocks[count] = kheap_alloc(heap, 64)) != NULL)
        count++;
    for (size_t i = 0; i < count; i += 2)
        kheap_free(heap, blocks[i]);
    assert_int_equal(kheap_stats(heap).largest_free_block, 64);
    assert_heap_sound();
    for (size_t i = 1; i < count; i += 2)
        kheap_free(heap, blocks[i]);
    empty.failed_allocations = kheap_stats(heap).failed_allocations;
    assert_stats_equal(kheap_stats(heap), empty);
    assert_heap_sound();
    for (unsigned i = 0; i < 3; i++)
        assert_non_null(kheap_alloc(heap, MAX_BLOCK_SIZE));
}

static void kheap_buddies_of_different_orders_do_not_merge(void **state)
{
    unsigned char *a, *b, *c;

    (void)state;
    heap_set_up(MM_MIB(2));
    a = kheap_alloc(heap, MAX_BLOCK_SIZE); /* [1 MiB, 2 MiB): free it and split it */
    kheap_free(heap, a);
    while ((b = kheap_alloc(heap, 64)) != a)
        assert_non_null(b);
    c = kheap_alloc(heap, 64);
    assert_ptr_equal(c, a + 64);
    kheap_free(heap, a);
    assert_heap_sound();
    assert_true(kheap_stats(heap).largest_free_block == MAX_BLOCK_SIZE / 2);
    kheap_free(heap, c);
    assert_true(kheap_stats(heap).largest_free_block == MAX_BLOCK_SIZE);
    assert_heap_sound();
}

/* ---- Misuse ---- */

#define EXPECT_BUG_UNCHANGED(words, call)                                                          \
    do {                                                                                           \
        struct kheap_stats stats_before = kheap_stats(heap);                                       \
        EXPECT_BUG((words), call);                                                                 \
        assert_stats_equal(kheap_stats(heap), stats_before);                                       \
        assert_heap_sound();                                                                       \
    } while (0)

static const char *address_words(const char *reason, const void *address)
{
    static char words[96];

    mm_format(words, sizeof words, "%s|0x%lx", reason, (uintptr_t)address);
    return words;
}

static void kfree_of_null_is_fine(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(1));
    kheap_free(heap, NULL);
    kfree(NULL);
    kheap_set_default(NULL);
    kfree(NULL);
    assert_int_equal(log_lines(), 0);
}

static void kfree_twice_is_reported(void **state)
{
    void *a, *b, *c;

    (void)state;
    heap_set_up(MM_MIB(2));
    for (size_t bytes = 64; bytes <= MAX_BLOCK_SIZE; bytes *= 4) {
        a = kheap_alloc(heap, bytes);
        kheap_free(heap, a);
        EXPECT_BUG_UNCHANGED(address_words("free", a), kheap_free(heap, a)); /* at once */
    }
    a = kheap_alloc(heap, 64);
    b = kheap_alloc(heap, 64);
    c = kheap_alloc(heap, 64);
    kheap_free(heap, a);
    kheap_free(heap, c);
    EXPECT_BUG_UNCHANGED(address_words("free", a), kheap_free(heap, a)); /* with others between */
    kheap_free(heap, b);
    EXPECT_BUG_UNCHANGED(address_words("free", b), kheap_free(heap, b)); /* merged by now */
}

static void kfree_of_a_block_that_is_part_of_a_new_one_is_reported(void **state)
{
    unsigned char *small[4], *large;

    (void)state;
    heap_set_up(MM_MIB(1));
    for (size_t i = 0; i < 4; i++)
        small[i] = kheap_alloc(heap, 64);
    for (size_t i = 0; i < 4; i++)
        kheap_free(heap, small[i]);
    do { /* a larger block over one of them */
        large = kheap_alloc(heap, 256);
        assert_non_null(large);
    } while (small[3] < large || small[3] >= large + 256);
    if (small[3] != large)
        EXPECT_BUG_UNCHANGED(address_words("inside", small[3]), kheap_free(heap, small[3]));
    kheap_free(heap, large);
    EXPECT_BUG_UNCHANGED(address_words("free", small[3]), kheap_free(heap, small[3]));
}

static void kfree_of_an_interior_address_is_reported(void **state)
{
    static const size_t inside[] = { 1, 8, 16, 63, 64, 128, 512, 1023 };
    unsigned char *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, 1024);
    for (size_t i = 0; i < COUNT_OF(inside); i++) {
        EXPECT_BUG_UNCHANGED(address_words("inside", block + inside[i]),
                             kheap_free(heap, block + inside[i]));
        EXPECT_BUG_UNCHANGED(address_words("inside", block + inside[i]),
                             assert_int_equal(kheap_size(heap, block + inside[i]), 0));
    }
    kheap_free(heap, block);
}

static void kfree_of_a_misaligned_address_in_free_memory_is_reported(void **state)
{
    unsigned char *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, 64);
    kheap_free(heap, block);
    EXPECT_BUG_UNCHANGED(address_words("free", block + 1), kheap_free(heap, block + 1));
    EXPECT_BUG_UNCHANGED(address_words("free", block + 16), kheap_free(heap, block + 16));
    EXPECT_BUG_UNCHANGED(address_words("free", region + region_bytes - 1),
                         kheap_free(heap, region + region_bytes - 1));
}

static void a_function(void)
{
}

static void kfree_outside_the_heap_is_reported(void **state)
{
    int on_the_stack = 0;
    void (*text)(void) = a_function;
    void *text_address;
    void *foreign = malloc(64);
    void *bad[8];

    (void)state;
    assert_non_null(foreign);
    memcpy(&text_address, &text, sizeof text_address);
    heap_set_up(MM_MIB(1));
    bad[0] = &on_the_stack;
    bad[1] = text_address;
    bad[2] = foreign;
    bad[3] = region - 64;
    bad[4] = region + region_bytes;
    bad[5] = (void *)0x8000000000000000; /* not canonical */
    bad[6] = (void *)UINTPTR_MAX;
    bad[7] = (void *)64;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        EXPECT_BUG_UNCHANGED(address_words("outside", bad[i]), kheap_free(heap, bad[i]));
        EXPECT_BUG_UNCHANGED(address_words("outside", bad[i]),
                             assert_int_equal(kheap_size(heap, bad[i]), 0));
    }
    free(foreign);
}

static void kfree_of_the_heaps_own_state_is_reported(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(1));
    for (size_t offset = 0; offset < first_offset; offset += 64)
        EXPECT_BUG_UNCHANGED(address_words("outside", region + offset),
                             kheap_free(heap, region + offset));
}

/* A block filled with whatever an attacker may choose: nothing in it is believed. */
static void kfree_of_a_forged_block_is_reported(void **state)
{
    unsigned char *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, 4096);
    for (size_t i = 0; i < 512; i++)
        ((uint64_t *)block)[i] = (uintptr_t)block + 64;
    EXPECT_BUG_UNCHANGED("inside", kheap_free(heap, block + 64));
    EXPECT_BUG_UNCHANGED("inside", kheap_free(heap, block + 2048));
    kheap_free(heap, block);
}

static void kmalloc_without_a_heap_is_null(void **state)
{
    (void)state;
    kheap_set_default(NULL);
    assert_null(kheap_default());
    assert_null(kmalloc(64));
    EXPECT_BUG("0x1000", kfree((void *)0x1000));
}

static void kmalloc_uses_the_default_heap(void **state)
{
    void *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    assert_ptr_equal(kheap_default(), heap);
    block = kmalloc(1024);
    assert_int_equal(kheap_size(heap, block), 1024);
    kfree(block);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
}

/* ---- Device addresses ---- */

static void kheap_to_phys_in_the_hhdm(void **state)
{
    unsigned char *block;
    paddr_t address = 0x1234;

    (void)state;
    heap_set_up(MM_MIB(2));
    block = kheap_alloc(heap, 8192);
    assert_ok(kheap_to_phys(heap, block, 8192, &address));
    assert_ptr_equal(phys_to_virt(address), block);
    assert_ok(kheap_to_phys(heap, block + 4097, 3, &address));
    assert_ptr_equal(phys_to_virt(address), block + 4097);
    assert_ok(kheap_to_phys(heap, block + 8191, 1, &address));
    address = 0x1234;
    assert_status(kheap_to_phys(heap, block, 0, &address), MM_INVALID_ARGUMENT);
    assert_status(kheap_to_phys(heap, block, 8193, &address), MM_INVALID_ADDRESS);
    assert_status(kheap_to_phys(heap, block + 1, 8192, &address), MM_INVALID_ADDRESS);
    assert_status(kheap_to_phys(heap, block, SIZE_MAX, &address), MM_INVALID_ADDRESS);
    assert_status(kheap_to_phys(heap, block + 8191, SIZE_MAX, &address), MM_INVALID_ADDRESS);
    assert_status(kheap_to_phys(heap, region, 8, &address), MM_INVALID_ADDRESS);
    assert_status(kheap_to_phys(heap, &address, 8, &address), MM_INVALID_ADDRESS);
    kheap_free(heap, block);
    assert_status(kheap_to_phys(heap, block, 8, &address), MM_INVALID_ADDRESS);
    assert_int_equal(address, 0x1234);
}

/* A region whose pages lie in frames that run backwards: two pages are never neighbours. */
static void kheap_to_phys_over_scattered_frames(void **state)
{
    struct mm_cpu_features features = features_of(4, 46, true);
    struct address_space space;
    unsigned char *block;
    paddr_t address = 0x1234;

    (void)state;
    heap_set_up(MM_MIB(1));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    for (size_t i = 0; i < 256; i++)
        assert_ok(paging_map_page(&space, (uintptr_t)region + i * PAGE_SIZE,
                                  MM_GIB(1) - i * PAGE_SIZE, PAGING_WRITE));
    assert_ok(kheap_init(region, MM_MIB(1), &space, &heap));
    block = kheap_alloc(heap, 8192);
    assert_status(kheap_to_phys(heap, block, 8192, &address), MM_NOT_CONTIGUOUS);
    assert_status(kheap_to_phys(heap, block + 4095, 2, &address), MM_NOT_CONTIGUOUS);
    assert_int_equal(address, 0x1234);
    assert_ok(kheap_to_phys(heap, block + 4096, 4096, &address));
    assert_int_equal(address,
                     MM_GIB(1) - mm_round_down((uintptr_t)(block + 4096 - region), PAGE_SIZE));
    assert_ok(kheap_to_phys(heap, block + 100, 3996, &address));
    assert_int_equal(address % PAGE_SIZE, 100);
}

/* ---- Looking without a lock ---- */

static void kheap_peek_tells_what_an_address_is(void **state)
{
    struct kheap_peek peek;
    unsigned char *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, 1000);
    assert_true(kheap_peek(heap, (uintptr_t)block + 999, &peek));
    assert_int_equal(peek.what, KHEAP_USED);
    assert_int_equal(peek.start, (uintptr_t)block);
    assert_int_equal(peek.bytes, 1024);
    kheap_free(heap, block);
    assert_true(kheap_peek(heap, (uintptr_t)block, &peek));
    assert_int_equal(peek.what, KHEAP_FREE);
    assert_true(peek.start <= (uintptr_t)block && peek.start + peek.bytes > (uintptr_t)block);
    assert_true(kheap_peek(heap, (uintptr_t)region, &peek));
    assert_int_equal(peek.what, KHEAP_STATE);
    assert_false(kheap_peek(heap, (uintptr_t)region - 1, &peek));
    assert_false(kheap_peek(heap, (uintptr_t)region + region_bytes, &peek));
    assert_false(kheap_peek(heap, 0, &peek));
    assert_false(kheap_peek(heap, UINT64_MAX, &peek));
}

/* ---- The checker ---- */

/* What an allocation changes in the heap's state is found by comparing before and after; each of
 * those bytes is then spoiled, one at a time. */
static void kheap_verify_sees_spoiled_state(void **state)
{
    unsigned char *before;
    unsigned changed = 0, missed = 0;

    (void)state;
    heap_set_up(MM_MIB(1));
    before = malloc(first_offset);
    assert_non_null(before);
    memcpy(before, region, first_offset);
    for (unsigned i = 0; i < 40; i++)
        assert_non_null(kheap_alloc(heap, MIN_BLOCK_SIZE << i % 5));
    assert_heap_sound();
    for (size_t i = 0; i < first_offset; i++) {
        if (region[i] == before[i])
            continue;
        changed++;
        region[i] ^= 1;
        log_clear();
        if (kheap_verify(heap))
            missed++;
        else
            log_expect_count("[MM] ERROR:", 1);
        region[i] ^= 1;
    }
    assert_true(changed >= 40);
    assert_int_equal(missed, 0);
    assert_heap_sound();
    free(before);
}

/* The middle of the state is wiped out, and with it what is known of the block in the middle of the
 * region. Its free ends the system, with a line, and (port.h) without a lock held meanwhile: the
 * hosted port reports one that is. */
static void kheap_damaged_state_halts_without_a_lock(void **state)
{
    void *block;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, MM_KIB(512));
    assert_ptr_equal(block, region + MM_KIB(512));
    memset(region + first_offset / 4, 0, first_offset / 2);
    EXPECT_HALT("heap|damaged", kheap_free(heap, block));
}

/* ---- Random program against the model ---- */

#define UNITS_MAX  (4 * 16384u)
#define BLOCKS_MAX 2048u

static struct {
    unsigned char used[UNITS_MAX];
    struct {
        unsigned char *address;
        size_t bytes;
        unsigned char fill;
    } block[BLOCKS_MAX];
    size_t block_count;
    uint64_t failed;
} model;

static void model_set_up(void)
{
    memset(&model, 0, sizeof model);
    memset(model.used, 1, first_offset / 64);
}

/* True if an aligned run of `bytes` is free. */
static bool model_has_room(size_t bytes)
{
    size_t run = bytes / 64;

    for (size_t unit = 0; unit + run <= region_bytes / 64; unit += run)
        if (is_zero(&model.used[unit], run))
            return true;
    return false;
}

static void model_check(void)
{
    struct kheap_stats stats = kheap_stats(heap);
    size_t free_units = 0, used_bytes = 0, largest = MAX_BLOCK_SIZE;

    for (size_t unit = 0; unit < region_bytes / 64; unit++)
        free_units += model.used[unit] == 0;
    for (size_t i = 0; i < model.block_count; i++)
        used_bytes += block_bytes_of(model.block[i].bytes);
    while (largest >= MIN_BLOCK_SIZE && !model_has_room(largest))
        largest /= 2;
    assert_int_equal(stats.free_bytes, free_units * 64);
    assert_int_equal(stats.used_bytes, used_bytes);
    assert_int_equal(stats.used_blocks, model.block_count);
    assert_int_equal(stats.failed_allocations, model.failed);
    assert_int_equal(stats.largest_free_block, largest < MIN_BLOCK_SIZE ? 0 : largest);
    assert_heap_sound();
}

static void step_alloc(void)
{
    unsigned order = (unsigned)random_below(random_chance(80) ? 6 : NUM_ORDERS);
    size_t bytes = (MIN_BLOCK_SIZE << order) - random_below((MIN_BLOCK_SIZE << order) / 2);
    size_t whole = block_bytes_of(bytes), unit;
    bool room = model_has_room(whole);
    unsigned char *block;

    if (model.block_count == BLOCKS_MAX)
        return;
    block = kheap_alloc(heap, bytes);
    if (!room) {
        assert_null(block);
        model.failed++;
        return;
    }
    assert_non_null(block);
    unit = (size_t)(block - region) / 64;
    assert_true(block >= region + first_offset && block + whole <= region + region_bytes);
    assert_int_equal((uintptr_t)block % whole, 0);
    assert_true(is_zero(&model.used[unit], whole / 64));
    assert_true(is_zero(block, whole));
    memset(&model.used[unit], 1, whole / 64);
    model.block[model.block_count].address = block;
    model.block[model.block_count].bytes = bytes;
    model.block[model.block_count].fill = (unsigned char)(1 + random_below(255));
    memset(block, model.block[model.block_count].fill, whole);
    model.block_count++;
}

static void step_free(void)
{
    size_t index, whole, other;
    unsigned char *block;

    if (model.block_count == 0)
        return;
    index = (size_t)random_below(model.block_count);
    block = model.block[index].address;
    whole = block_bytes_of(model.block[index].bytes);
    assert_int_equal(kheap_size(heap, block), whole);
    for (other = 0; other < whole; other++)
        if (block[other] != model.block[index].fill)
            fail_msg("byte %zu of the block at %p was overwritten", other, (void *)block);
    kheap_free(heap, block);
    memset(&model.used[(size_t)(block - region) / 64], 0, whole / 64);
    model.block[index] = model.block[--model.block_count];
}

/* A free of any address that is no block: reported, nothing happens. */
static void step_misuse(void)
{
    unsigned char *address = region + random_below(region_bytes);

    for (size_t i = 0; i < model.block_count; i++)
        if (model.block[i].address == address)
            return;
    EXPECT_BUG(address_words("", address), kheap_free(heap, address));
}

static void kheap_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(8); seeds_next();) {
        unsigned alloc_percent = 40 + (unsigned)random_below(30);

        heap_set_up((size_t)MM_MIB(1 + random_below(4)));
        model_set_up();
        mm_log_level = MM_LOG_ERROR;
        for (unsigned i = 0; i < 4000; i++) {
            if (random_chance(2))
                step_misuse();
            else if (random_chance(alloc_percent))
                step_alloc();
            else
                step_free();
            if (i % 400 == 0)
                model_check();
        }
        model_check();
        while (model.block_count != 0)
            step_free();
        model_check();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kheap_init_keeps_a_small_part_for_itself),
        TEST(kheap_init_refuses_bad_regions),
        TEST(kheap_alloc_of_every_order_is_aligned_and_zero),
        TEST(kheap_alloc_sizes_below_64_take_a_whole_block),
        TEST(kheap_alloc_of_0_bytes_is_null_without_a_line),
        TEST(kheap_alloc_of_too_much_is_null_with_one_line),
        TEST(kheap_alloc_of_1mib_works_to_the_last_block),
        TEST(kheap_out_of_memory_is_null_and_changes_nothing),
        TEST(kheap_logs_sizes_and_addresses_at_debug_only),
        TEST(kheap_frees_merge_back_to_the_largest_blocks),
        TEST(kheap_buddies_of_different_orders_do_not_merge),
        TEST(kfree_of_null_is_fine),
        TEST(kfree_twice_is_reported),
        TEST(kfree_of_a_block_that_is_part_of_a_new_one_is_reported),
        TEST(kfree_of_an_interior_address_is_reported),
        TEST(kfree_of_a_misaligned_address_in_free_memory_is_reported),
        TEST(kfree_outside_the_heap_is_reported),
        TEST(kfree_of_the_heaps_own_state_is_reported),
        TEST(kfree_of_a_forged_block_is_reported),
        TEST(kmalloc_without_a_heap_is_null),
        TEST(kmalloc_uses_the_default_heap),
        TEST(kheap_to_phys_in_the_hhdm),
        TEST(kheap_to_phys_over_scattered_frames),
        TEST(kheap_peek_tells_what_an_address_is),
        TEST(kheap_verify_sees_spoiled_state),
        TEST(kheap_damaged_state_halts_without_a_lock),
        TEST(kheap_random_program_agrees_with_the_model),
    };

    return RUN_TESTS(tests);
}
