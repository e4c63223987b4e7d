/* SPDX-License-Identifier: MIT */
/* Each wrong use of the heap, for blocks of 64 bytes, 4 KiB, 256 KiB and 4 MiB, at both levels: one report
 * that names the address, and nothing changes; what the default level cannot see does no harm there.
 *
 *      red zone | block, as many bytes as were asked for | red zone        (full level)
 *         ^ underflow            ^ interior                ^ overflow
 *
 * Writes into freed blocks are left out under AddressSanitizer, which would see them first. */
#include "threads.h"

#include <stdlib.h>
#include <string.h>

#define HEAP_BYTES MM_MIB(96)

static const size_t sizes[] = { 64, 4096, 256 * 1024, 4 * 1024 * 1024 };
static const enum kheap_level levels[] = { KHEAP_DEFAULT, KHEAP_FULL };

static void *memory;
static struct kheap *heap;
static size_t size;
static enum kheap_level level;

/* Calls `row` for every size and level, on a fresh heap; it must leave the heap sound. */
static void for_each(void (*row)(void))
{
    for (size_t i = 0; i < COUNT_OF(levels); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            memory = aligned_alloc(MM_MIB(2), HEAP_BYTES);
            assert_non_null(memory);
            assert_true(mello_host_init(memory, HEAP_BYTES));
            heap = kheap_default();
            level = levels[i];
            size = sizes[j];
            kheap_set_level(heap, level);
            row();
            if (!kheap_verify(heap))
                fail_msg("%zu bytes, level %d: %s", size, level, log_line(log_lines() - 1));
            kheap_set_default(NULL);
            free(memory);
        }
    }
}

static unsigned char *alloc(void)
{
    unsigned char *block = kheap_alloc(heap, size);

    assert_non_null(block);
    assert_true(is_zero(block, size));
    return block;
}

static const char *words_of(const void *address)
{
    static char words[64];

    mm_format(words, sizeof words, "0x%lx", (uint64_t)(uintptr_t)address);
    return words;
}

/* Every call that takes a block reports this one; the counters stay. */
static void expect_bugs(void *address)
{
    struct kheap_stats before = kheap_stats(heap), after;

    EXPECT_BUG(words_of(address), kheap_free(heap, address));
    EXPECT_BUG(words_of(address), assert_int_equal(kheap_size(heap, address), 0));
    EXPECT_BUG(words_of(address), assert_null(kheap_realloc(heap, address, 32)));
    EXPECT_BUG(words_of(address), kfree(address));
    EXPECT_BUG(words_of(address), kfree_sized(address, size));
    after = kheap_stats(heap);
    assert_int_equal(after.used_blocks, before.used_blocks);
    assert_int_equal(after.used_bytes, before.used_bytes);
}

/* ---- Wrong frees ---- */

static void free_twice(void)
{
    unsigned char *block = alloc(), *other = alloc();

    kheap_free(heap, block);
    expect_bugs(block);
    kheap_free(heap, other);
    expect_bugs(block);
    expect_bugs(other);
}

static void heap_free_twice_is_reported(void **state)
{
    (void)state;
    for_each(free_twice);
}

static void free_twice_after_drain(void)
{
    unsigned char *block = alloc();

    kheap_free(heap, block);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    expect_bugs(block);
}

static void heap_free_twice_after_a_drain_is_reported(void **state)
{
    (void)state;
    for_each(free_twice_after_drain);
}

/* The next block is another one while the first is in quarantine. */
static void free_after_reuse(void)
{
    unsigned char *block = alloc(), *next;

    kheap_free(heap, block);
    next = alloc();
    if (level == KHEAP_FULL)
        assert_ptr_not_equal(next, block);
    if (next != block)
        expect_bugs(block);
    kheap_free(heap, next);
}

static void heap_free_after_reuse_is_reported_while_quarantined(void **state)
{
    (void)state;
    for_each(free_after_reuse);
}

static void free_inside(void)
{
    unsigned char *block = alloc();

    expect_bugs(block + 1);
    expect_bugs(block + 8);
    expect_bugs(block + 16);
    expect_bugs(block + size / 2);
    expect_bugs(block + size - 1);
    memset(block, 0x41, size); /* whatever a header might look like */
    expect_bugs(block + size / 2);
    for (size_t i = 0; i < size / sizeof(void *); i++)
        memcpy(block + i * sizeof(void *), &block, sizeof(void *));
    expect_bugs(block + 16);
    kheap_free(heap, block);
}

static void heap_free_inside_a_block_is_reported(void **state)
{
    (void)state;
    for_each(free_inside);
}

static unsigned char in_data[256] __attribute__((aligned(64)));

static void free_elsewhere(void)
{
    unsigned char on_stack[256] __attribute__((aligned(64)));
    unsigned char *block = alloc();

    memset(on_stack, 0, sizeof on_stack);
    expect_bugs(on_stack + 64);
    expect_bugs(in_data + 64);
    expect_bugs((void *)(uintptr_t)&free_elsewhere);
    expect_bugs((void *)16);
    expect_bugs((void *)(uintptr_t)0x800000000000u);
    expect_bugs((void *)(uintptr_t)0xdeadbeef00000000u);
    expect_bugs((void *)(uintptr_t)0xfffffffffffffff0u);
    expect_bugs((unsigned char *)memory + HEAP_BYTES);
    expect_bugs((unsigned char *)memory - 4096);
    expect_bugs(memory);
    kheap_free(heap, block);
}

static void heap_free_of_what_is_no_block_is_reported(void **state)
{
    (void)state;
    for_each(free_elsewhere);
}

/* An address of the heap that was never handed out. */
static void free_never_allocated(void)
{
    unsigned char *block = alloc();
    struct kheap_peek peek;

    for (size_t distance = MM_KIB(64); distance < MM_MIB(16); distance *= 2) {
        unsigned char *address = block + size + distance;

        if (address < (unsigned char *)memory + HEAP_BYTES &&
            (!kheap_peek(heap, (uintptr_t)address, &peek) || peek.what != KHEAP_USED))
            expect_bugs(address);
    }
    kheap_free(heap, block);
}

static void heap_free_of_never_allocated_is_reported(void **state)
{
    (void)state;
    for_each(free_never_allocated);
}

static void free_with_another_size(void)
{
    unsigned char *block = alloc();

    if (level == KHEAP_FULL)
        EXPECT_BUG(words_of(block), kfree_sized(block, size - 1));
    if (level == KHEAP_FULL || size <= 4096) {
        EXPECT_BUG(words_of(block), kfree_sized(block, 4 * size));
        EXPECT_BUG(words_of(block), kfree_sized(block, size / 4));
    }
    kfree_sized(block, size);
    EXPECT_BUG(words_of(block), kfree_sized(block, size));
}

static void heap_free_with_another_size_is_reported(void **state)
{
    (void)state;
    for_each(free_with_another_size);
}

/* ---- Writes outside, and after ---- */

/* One report that names the block, at the full level. */
static void reports_end(const char *what, const void *block)
{
    unsigned reported = bugs_count_end();

    if (level == KHEAP_DEFAULT)
        return;
    if (reported != 1 || strstr(bug_last(), words_of(block)) == NULL)
        fail_msg("%s of %zu bytes: %u reports, the last one \"%s\", not one with %s", what, size,
                 reported, bug_last(), words_of(block));
}

static void write_outside(const char *what, ptrdiff_t from, size_t bytes)
{
    unsigned char *block = alloc();

    for (size_t i = 0; i < bytes; i++)
        block[from + (ptrdiff_t)i] ^= 0x5a;
    bugs_count_begin();
    kheap_free(heap, block);
    reports_end(what, block);
}

static bool free_memory_is_watched(void)
{
    return MM_MEMORY_HOOKS != 0;
}

/* A whole page, over the zone and the neighbours, which get back what was theirs. */
static void overflow_by_a_page(void)
{
    static unsigned char behind[PAGE_SIZE];
    unsigned char *block;

    if (level == KHEAP_DEFAULT || free_memory_is_watched())
        return;
    block = alloc();
    memcpy(behind, block + size, PAGE_SIZE);
    memset(block + size, 0x5a, PAGE_SIZE);
    bugs_count_begin();
    kheap_free(heap, block);
    reports_end("an overflow by one page", block);
    memcpy(block + size, behind, PAGE_SIZE);
    kheap_free(heap, block);
}

/* At the default level there may be somebody else's block. */
static void overflow(void)
{
    if (level == KHEAP_DEFAULT)
        return;
    write_outside("an overflow by 1 byte", (ptrdiff_t)size, 1);
    write_outside("an overflow by 8 bytes", (ptrdiff_t)size, 8);
}

static void overflow_of_odd_sizes(void)
{
    if (level == KHEAP_DEFAULT)
        return;
    for (size_t less = 1; less < 17; less += 5) {
        size -= less;
        write_outside("an overflow by 1 byte", (ptrdiff_t)size, 1);
        size += less;
    }
}

static void underflow(void)
{
    if (level == KHEAP_DEFAULT)
        return;
    write_outside("an underflow by 1 byte", -1, 1);
    write_outside("an underflow by 8 bytes", -8, 8);
}

static void heap_overflow_is_reported_at_free(void **state)
{
    (void)state;
    for_each(overflow);
    for_each(overflow_of_odd_sizes);
    for_each(overflow_by_a_page);
}

static void heap_underflow_is_reported_at_free(void **state)
{
    (void)state;
    for_each(underflow);
}

/* What was freed meanwhile may be looked at when it is used again, or leaves quarantine. */
static void push_out_of_quarantine(void)
{
    for (unsigned i = 0; i < 4000 && bugs_counted() == 0; i++)
        kheap_free(heap, kheap_alloc(heap, size));
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    (void)kheap_verify(heap);
}

static void write_after_free_at(size_t at)
{
    unsigned char *block;

    memory = aligned_alloc(MM_MIB(2), HEAP_BYTES);
    assert_non_null(memory);
    assert_true(mello_host_init(memory, HEAP_BYTES));
    heap = kheap_default();
    kheap_set_level(heap, KHEAP_FULL);
    block = alloc();
    memset(block, 0x11, size);
    kheap_free(heap, block);
    bugs_count_begin();
    block[at] ^= 0x77;
    push_out_of_quarantine();
    unsigned reported = bugs_count_end();
    if (reported == 0 || strstr(bug_last(), words_of(block)) == NULL)
        fail_msg("a write after free at %zu of %zu bytes: %u reports, \"%s\"", at, size, reported,
                 bug_last());
    kheap_set_default(NULL);
    free(memory);
}

static void heap_write_after_free_is_reported_in_the_end(void **state)
{
    (void)state;
    if (free_memory_is_watched())
        return;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size = sizes[i];
        write_after_free_at(0);
        write_after_free_at(8);
        write_after_free_at(size / 2 + 3);
        write_after_free_at(size - 1);
    }
}

/* No write into free blocks steers the heap: what is handed out is the heap's, zero, and nobody's. */
static void scribble_over_free_blocks(void)
{
    unsigned char *blocks[64];
    size_t count = size <= 4096 ? COUNT_OF(blocks) : 6;

    if (level == KHEAP_FULL)
        return;
    for (size_t i = 0; i < count; i++)
        blocks[i] = alloc();
    for (size_t i = 0; i < count; i++)
        kheap_free(heap, blocks[i]);
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < size && at < 4096; at += sizeof(void *)) {
            void *lure = in_data + 64;

            memcpy(blocks[i] + at, &lure, sizeof lure);
        }
    for (size_t i = 0; i < count; i++) {
        blocks[i] = alloc();
        assert_true(blocks[i] >= (unsigned char *)memory &&
                    blocks[i] + size <= (unsigned char *)memory + HEAP_BYTES);
        for (size_t j = 0; j < i; j++)
            assert_true(blocks[j] + size <= blocks[i] || blocks[i] + size <= blocks[j]);
    }
    for (size_t i = 0; i < count; i++)
        kheap_free(heap, blocks[i]);
}

static void heap_scribbled_free_blocks_do_not_steer_it(void **state)
{
    (void)state;
    if (free_memory_is_watched())
        return;
    for_each(scribble_over_free_blocks);
}

static void content_of_reused(void)
{
    for (unsigned i = 0; i < 50; i++) {
        unsigned char *block = alloc();

        memset(block, 0xa7, size);
        kheap_free(heap, block);
    }
}

static void heap_new_blocks_hold_zeroes_only(void **state)
{
    (void)state;
    for_each(content_of_reused);
}

/* ---- Sizes, alignments, no memory ---- */

static void odd_arguments(void)
{
    struct kheap_stats before = kheap_stats(heap), after;

    assert_null(kmalloc(0));
    assert_null(kmalloc(SIZE_MAX));
    assert_null(kmalloc(SIZE_MAX - size));
    assert_null(kmalloc((size_t)1 << 62));
    assert_null(kmalloc_nozero(SIZE_MAX));
    assert_null(kcalloc(SIZE_MAX / 2, 3));
    assert_null(kcalloc(0, size));
    assert_null(kcalloc(size, 0));
    assert_null(kcalloc((size_t)1 << 33, (size_t)1 << 33));
    assert_null(kmalloc_aligned(size, 0));
    assert_null(kmalloc_aligned(size, 3));
    assert_null(kmalloc_aligned(size, (size_t)KHEAP_ALIGN_MAX * 2));
    assert_null(kmalloc_aligned(SIZE_MAX, 64));
    assert_null(kmalloc_aligned(0, 64));
    assert_null(krealloc(NULL, 0));
    kfree(NULL);
    kfree_sized(NULL, size);
    after = kheap_stats(heap);
    assert_int_equal(after.used_blocks, before.used_blocks);
    assert_int_equal(after.used_bytes, before.used_bytes);
}

static void heap_odd_arguments_change_nothing(void **state)
{
    (void)state;
    for_each(odd_arguments);
}

#define MANY 20000u

static void out_of_memory(void)
{
    static unsigned char *blocks[MANY];
    struct kheap_stats before = kheap_stats(heap), full;
    size_t bytes = size < 8192 ? 8192 : size, count = 0;

    log_clear();
    while (count < MANY && (blocks[count] = kheap_alloc_nozero(heap, bytes)) != NULL)
        count++;
    assert_true(count > 0 && count < MANY);
    log_expect_count("[MM] ERROR:", 1);
    full = kheap_stats(heap);
    assert_int_equal(full.used_blocks, count);
    assert_null(kheap_realloc(heap, blocks[0], HEAP_BYTES));
    assert_int_equal(kheap_stats(heap).used_blocks, count);
    assert_true(kheap_size(heap, blocks[0]) >= bytes);
    while (count > 0)
        kheap_free(heap, blocks[--count]);
    assert_int_equal(kheap_stats(heap).used_blocks, before.used_blocks);
    if (level == KHEAP_DEFAULT)
        kheap_free(heap, alloc());
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    /* What was needed to keep account of so many blocks does not keep their memory from the pmm. */
    uint64_t more = kheap_stats(heap).frames - before.frames;
    if (more > full.frames / 8)
        fail_msg("%zu bytes, level %d: %lu frames more of %lu", size, level, more, full.frames);
}

static void heap_out_of_memory_is_null_and_one_line(void **state)
{
    (void)state;
    for_each(out_of_memory);
}

/* ---- NMI ---- */

static void in_nmi(void)
{
    unsigned char *block = alloc();

    hosted_nmi_enter();
    EXPECT_BUG("NMI", assert_null(kheap_alloc(heap, size)));
    EXPECT_BUG("NMI", kheap_free(heap, block));
    hosted_nmi_leave();
    kheap_free(heap, block);
}

static void heap_calls_in_an_nmi_are_reported(void **state)
{
    (void)state;
    for_each(in_nmi);
}

/* ---- Two CPUs free the same block ---- */

#define SHARED 40u

static unsigned char *shared[SHARED];

static void *free_all_body(void *argument)
{
    (void)argument;
    threads_meet();
    for (size_t i = 0; i < SHARED; i++)
        kheap_free(heap, shared[i]);
    return NULL;
}

/* Exactly one free takes effect, the other one is reported at the latest when the list of what other CPUs
 * have freed is drained. */
static void free_by_two(void)
{
    size_t count = size <= 256 * 1024 ? SHARED : 4;

    for (size_t i = 0; i < SHARED; i++)
        shared[i] = i < count ? alloc() : NULL;
    bugs_count_begin();
    threads_run(2, free_all_body);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(bugs_count_end(), count);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
}

static void heap_free_by_two_cpus_takes_effect_once(void **state)
{
    (void)state;
    for_each(free_by_two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_free_twice_is_reported),
        TEST(heap_free_twice_after_a_drain_is_reported),
        TEST(heap_free_after_reuse_is_reported_while_quarantined),
        TEST(heap_free_inside_a_block_is_reported),
        TEST(heap_free_of_what_is_no_block_is_reported),
        TEST(heap_free_of_never_allocated_is_reported),
        TEST(heap_free_with_another_size_is_reported),
        TEST(heap_overflow_is_reported_at_free),
        TEST(heap_underflow_is_reported_at_free),
        TEST(heap_write_after_free_is_reported_in_the_end),
        TEST(heap_scribbled_free_blocks_do_not_steer_it),
        TEST(heap_new_blocks_hold_zeroes_only),
        TEST(heap_odd_arguments_change_nothing),
        TEST(heap_out_of_memory_is_null_and_one_line),
        TEST(heap_calls_in_an_nmi_are_reported),
        TEST(heap_free_by_two_cpus_takes_effect_once),
    };

    return RUN_TESTS(tests);
}
