/* SPDX-License-Identifier: MIT */
/* The heap: its beginning, sizes and alignment, zeroing, out of memory, blocks made smaller, merging. What
 * else it does is in the other test_kheap_*.c, its set-ups are in heap_fixture.c. */
#include "heap_fixture.h"

#include <string.h>

/* What the header says of sizes: a class of at most an eighth more (16 at least), from 8 KiB on 4 KiB. */
static size_t room_at_most(size_t bytes)
{
    size_t more = bytes <= 128 ? 15 : bytes <= MM_KIB(8) ? bytes / 8 : 4095;

    return bytes + more;
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
        assert_true(first_offset < (mib << 20) / 8);
        assert_int_equal(stats.largest_free_block,
                         mib == 1 ? stats.free_bytes - heap_state_kept_locked(heap)
                                  : MAX_BLOCK_SIZE);
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

static void kheap_alloc_of_any_size_fits_is_aligned_and_zero(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(8));
    for (size_t bytes = 1; bytes <= MAX_BLOCK_SIZE; bytes += 1 + bytes / 16) {
        size_t align = (bytes & (bytes - 1)) == 0 && bytes >= 16 && bytes <= 4096 ? bytes : 16;

        for (unsigned round = 0; round < 3; round++) {
            unsigned char *block = kheap_alloc(heap, bytes);

            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            assert_true(block >= region && block + bytes <= region + region_bytes);
            assert_true(kheap_size(heap, block) >= bytes);
            assert_true(kheap_size(heap, block) <= room_at_most(bytes));
            assert_int_equal(kheap_stats(heap).used_bytes, kheap_size(heap, block));
            assert_int_equal(kheap_stats(heap).used_blocks, 1);
            assert_true(is_zero(block, kheap_size(heap, block)));
            memset(block, 0xff, kheap_size(heap, block));
            kheap_free(heap, block);
        }
    }
    assert_all_free();
}

static void kheap_alloc_aligned_is_aligned(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(8));
    for (size_t align = 1; align <= MAX_BLOCK_SIZE; align *= 2) {
        for (size_t bytes = 1; bytes <= MM_KIB(300); bytes = bytes * 5 + 3) {
            unsigned char *a = kheap_alloc_aligned(heap, bytes, align);
            unsigned char *b = kheap_alloc_aligned(heap, bytes, align);

            assert_non_null(a);
            assert_non_null(b);
            assert_int_equal((uintptr_t)a % align, 0);
            assert_int_equal((uintptr_t)b % align, 0);
            assert_true(is_zero(a, bytes));
            memset(a, 0x5a, bytes);
            a = kheap_realloc(heap, a, bytes * 2);
            assert_int_equal((uintptr_t)a % align, 0);
            assert_int_equal(a[bytes - 1], 0x5a);
            kheap_free(heap, a);
            kheap_free(heap, b);
        }
    }
    assert_null(kheap_alloc_aligned(heap, 64, 0));
    assert_null(kheap_alloc_aligned(heap, 64, 3));
    assert_null(kheap_alloc_aligned(heap, 64, 2 * KHEAP_ALIGN_MAX));
    assert_null(kheap_alloc_aligned(heap, 0, 64));
    assert_int_equal(log_lines(), 0);
    assert_all_free();
}

static void kheap_realloc_keeps_content_and_zeroes_the_rest(void **state)
{
    static const size_t sizes[] = {
        1, 16, 17, 100, 112, 113, 1000, 4096, 5000, 60000, 70000, 300000
    };
    unsigned char *block;

    (void)state;
    heap_set_up(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            size_t kept = sizes[i] < sizes[j] ? sizes[i] : sizes[j];

            block = kheap_alloc(heap, sizes[i]);
            memset(block, 0xc3, sizes[i]);
            block = kheap_realloc(heap, block, sizes[j]);
            assert_non_null(block);
            for (size_t at = 0; at < kept; at++)
                assert_int_equal(block[at], 0xc3);
            assert_true(is_zero(block + kept, kheap_size(heap, block) - kept));
            kheap_free(heap, block);
        }
    }
    block = kheap_realloc(heap, NULL, 100);
    assert_non_null(block);
    assert_null(kheap_realloc(heap, block, MM_MIB(64)));
    assert_int_equal(kheap_size(heap, block), 112);
    assert_null(kheap_realloc(heap, block, 0));
    log_clear();
    EXPECT_BUG("free", assert_null(kheap_realloc(heap, block, 10)));
    assert_all_free();
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
    assert_heap_stats_equal(kheap_stats(heap), before);
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
        assert_heap_stats_equal(kheap_stats(heap), before);
        assert_heap_sound();
    }
}

static void kheap_alloc_of_1mib_works_to_the_last_block(void **state)
{
    void *blocks[4];
    size_t count = 0;

    (void)state;
    heap_set_up(MM_MIB(4));
    while (count < 4 && (blocks[count] = kheap_alloc(heap, MAX_BLOCK_SIZE)) != NULL)
        assert_int_equal((uintptr_t)blocks[count++] % PAGE_SIZE, 0);
    assert_int_equal(count, 3);
    log_expect_count("[MM] ERROR:", 1);
    while (count > 0)
        kheap_free(heap, blocks[--count]);
    assert_all_free();
}

static void kheap_out_of_memory_is_null_and_changes_nothing(void **state)
{
    static const size_t sizes[] = { 16, 64, 100, PAGE_SIZE, 5000, 50000, 100000 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct kheap_stats full;
        uint64_t count = 0;
        void *last = NULL, *block;

        heap_set_up(MM_MIB(1));
        log_clear();
        while ((block = kheap_alloc(heap, sizes[i])) != NULL) {
            *(void **)block = last;
            last = block;
            count++;
        }
        log_expect_count("[MM] ERROR:", 1);
        assert_int_equal(log_lines(), 1);
        full = kheap_stats(heap);
        assert_int_equal(full.used_blocks, count);
        assert_int_equal(full.failed_allocations, 1);
        if (count * sizes[i] <= (region_bytes - first_offset) / 2)
            fail_msg("only %lu blocks of %zu", count, sizes[i]);
        /* Where one more block would have found its pages there are none. */
        assert_true(full.largest_free_block < mm_round_up(sizes[i], PAGE_SIZE));
        if (sizes[i] == PAGE_SIZE)
            assert_true(full.free_bytes < PAGE_SIZE);
        for (unsigned j = 0; j < 3; j++)
            assert_null(kheap_alloc(heap, sizes[i]));
        assert_int_equal(kheap_stats(heap).used_bytes, full.used_bytes);
        while (last != NULL) {
            block = *(void **)last;
            kheap_free(heap, last);
            last = block;
        }
        assert_all_free();
    }
}

/* What the heap keeps of its own state when all blocks are free again stands at the beginning. */
static void kheap_state_does_not_stand_between_blocks(void **state)
{
    void *last = NULL;

    (void)state;
    heap_set_up(MM_MIB(2));
    while (kheap_stats(heap).free_bytes > MM_KIB(256)) {
        void **block = kheap_alloc(heap, 64);
        assert_non_null(block);
        *block = last;
        last = block;
    }
    while (last != NULL) {
        void *next = *(void **)last;
        kheap_free(heap, last);
        last = next;
    }
    assert_all_free();
    assert_int_equal(kheap_stats(heap).largest_free_block, MM_MIB(1));
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
    kheap_log_level_changed(heap);
    log_clear();
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

/* Blocks of every size; every second one is freed first. */
static void kheap_frees_merge_back_to_the_largest_blocks(void **state)
{
    static void *blocks[4096];
    size_t count = 0, bytes = 16;

    (void)state;
    heap_set_up(MM_MIB(8));
    while (count < COUNT_OF(blocks) && (blocks[count] = kheap_alloc(heap, bytes)) != NULL) {
        count++;
        bytes = bytes > MM_KIB(90) ? 16 : bytes + bytes / 3;
    }
    for (size_t i = 0; i < count; i += 2)
        kheap_free(heap, blocks[i]);
    assert_heap_sound();
    for (size_t i = 1; i < count; i += 2)
        kheap_free(heap, blocks[i]);
    assert_all_free();
    for (unsigned i = 0; i < 5; i++) /* of 8: the heap's own state is kept, here and there */
        assert_non_null(kheap_alloc(heap, MAX_BLOCK_SIZE));
}

/* ---- The full level ---- */

static void kheap_realloc_to_less_never_fails(void **state)
{
    struct kheap_faults all = { .every = 1 };
    unsigned char *aligned, *run;

    (void)state;
    heap_set_up(MM_MIB(4));
    aligned = kheap_alloc_aligned(heap, 24, MM_KIB(64));
    assert_ptr_equal(kheap_realloc(heap, aligned, 24), aligned);
    run = kheap_alloc(heap, MM_KIB(200));
    memset(run, 0x5a, kheap_size(heap, run));
    kheap_inject(heap, &all);
    assert_ptr_equal(kheap_realloc(heap, run, 10), run);
    assert_null(kheap_realloc(heap, run, MM_KIB(400)));
    kheap_inject(heap, NULL);
    assert_int_equal(run[9], 0x5a);
    assert_true(is_zero(run + 10, kheap_size(heap, run) - 10));
    kheap_free(heap, run);
    kheap_free(heap, aligned);
    assert_all_free();
}

/* Its owner knows its new size, and may say it. */
static void kheap_block_made_smaller_in_place_is_freed_with_its_size(void **state)
{
    static const enum kheap_level levels[] = { KHEAP_DEFAULT, KHEAP_FULL };
    static const size_t sizes[] = { 100, 4096, 5000, 70000, 300000 };
    struct kheap_faults all = { .every = 1 };

    (void)state;
    heap_set_up(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(sizes) * COUNT_OF(levels); i++) {
        size_t bytes = sizes[i / COUNT_OF(levels)];

        kheap_set_level(heap, levels[i % COUNT_OF(levels)]);
        unsigned char *block = kheap_alloc(heap, bytes);
        memset(block, 0x5a, bytes);
        kheap_inject(heap, &all);
        for (; bytes >= 3; bytes /= 3)
            assert_ptr_equal(kheap_realloc(heap, block, bytes / 3), block);
        kheap_inject(heap, NULL);
        assert_int_equal(block[0], 0x5a);
        assert_true(kheap_verify(heap));
        kfree_sized(block, bytes);
        EXPECT_BUG("free", kfree_sized(block, bytes));
    }
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kheap_init_keeps_a_small_part_for_itself),
        TEST(kheap_init_refuses_bad_regions),
        TEST(kheap_alloc_of_any_size_fits_is_aligned_and_zero),
        TEST(kheap_alloc_aligned_is_aligned),
        TEST(kheap_realloc_to_less_never_fails),
        TEST(kheap_block_made_smaller_in_place_is_freed_with_its_size),
        TEST(kheap_realloc_keeps_content_and_zeroes_the_rest),
        TEST(kheap_alloc_of_0_bytes_is_null_without_a_line),
        TEST(kheap_alloc_of_too_much_is_null_with_one_line),
        TEST(kheap_alloc_of_1mib_works_to_the_last_block),
        TEST(kheap_out_of_memory_is_null_and_changes_nothing),
        TEST(kheap_state_does_not_stand_between_blocks),
        TEST(kheap_logs_sizes_and_addresses_at_debug_only),
        TEST(kheap_frees_merge_back_to_the_largest_blocks),
    };

    return RUN_TESTS(tests);
}
