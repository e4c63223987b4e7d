/* SPDX-License-Identifier: MIT */
/* The heap: sizes and alignment, zeroing, out of memory, wrong frees, the calls of the default heap, and a
 * random program against a naive model that knows every block and every byte of it. */
#include "support.h"

#include "mm/heap_memory.h"

#include <stdlib.h>
#include <stdio.h>
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
    assert_true(stats.free_bytes + stats.used_bytes <= region_bytes - first_offset);
    assert_true(stats.largest_free_block <= stats.free_bytes);
}

static void assert_stats_equal(struct kheap_stats a, struct kheap_stats b)
{
    assert_memory_equal(&a, &b, sizeof a);
}

/* What the header says of sizes: a class of at most an eighth more (16 at least), from 8 KiB on 4 KiB. */
static size_t room_at_most(size_t bytes)
{
    size_t more = bytes <= 128 ? 15 : bytes <= MM_KIB(8) ? bytes / 8 : 4095;

    return bytes + more;
}

/* Nothing is used, and all memory is in whole blocks again. */
static void assert_all_free(void)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_int_equal(kheap_stats(heap).used_bytes, 0);
    assert_true(kheap_verify(heap));
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
    heap_set_up(MM_MIB(4));
    for (size_t bytes = 16; bytes <= MAX_BLOCK_SIZE; bytes *= 4) {
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
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    EXPECT_BUG_UNCHANGED(address_words("free", b), kheap_free(heap, b)); /* merged by now */
}

/* A cache still has the entry of the block that came out last; its span has ended, and the state of the
 * block is now that of another block, which is allocated. */
static void kfree_after_the_span_has_ended_is_reported(void **state)
{
    void *last, *second, *others[64];

    (void)state;
    heap_set_up(MM_MIB(8));
    kheap_free(heap, kheap_alloc(heap, 64)); /* fills the cache */
    last = kheap_alloc(heap, 64);
    second = kheap_alloc(heap, 64);
    kheap_free(heap, second);
    kheap_record_sites(heap, true); /* the caches are off: the blocks go to their span */
    kheap_free(heap, last);
    kheap_record_sites(heap, false);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    for (size_t i = 0; i < COUNT_OF(others); i++)
        assert_non_null(others[i] = kheap_alloc(heap, 128));
    EXPECT_BUG_UNCHANGED("free", kfree_sized(last, 64));
    EXPECT_BUG_UNCHANGED("free", kheap_free(heap, second));
    for (size_t i = 0; i < COUNT_OF(others); i++)
        kheap_free(heap, others[i]);
    assert_all_free();
}

/* The slot has given up its spans: the block is another's to take back. */
static void kfree_after_the_slot_has_lost_the_span_goes_to_its_owner(void **state)
{
    struct heap_span *span;
    unsigned index;
    bool first;
    void *block;

    (void)state;
    heap_set_up(MM_MIB(8));
    kheap_free(heap, kheap_alloc(heap, 64));
    block = kheap_alloc(heap, 64);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    span = heap_span_at(heap, (uintptr_t)block);
    assert_non_null(span);
    assert_true(heap_block_index(span, (uintptr_t)block, &index, &first) && first);
    assert_int_equal(span->front.owner, KHEAP_NO_OWNER);
    kheap_free(heap, block);
    assert_int_equal(span->states[index], KHEAP_BYTE_REMOTE);
    EXPECT_BUG_UNCHANGED(address_words("free", block), kheap_free(heap, block));
    assert_all_free();
}

static void kfree_sized_of_another_size_is_reported(void **state)
{
    volatile size_t bytes = 100; /* not a constant */
    void *a;

    (void)state;
    heap_set_up(MM_MIB(1));
    a = kmalloc(bytes);
    EXPECT_BUG_UNCHANGED("kfree_sized|130 bytes", kfree_sized(a, bytes + 30));
    EXPECT_BUG_UNCHANGED("kfree_sized|64 bytes", kfree_sized(a, 64));
    kfree_sized(a, bytes);
    a = kmalloc(64);
    kfree_sized(a, 64);
    EXPECT_BUG_UNCHANGED("free", kfree_sized(a, 64));
    a = kmalloc(bytes * 1000);
    kfree_sized(a, bytes * 1000);
    assert_all_free();
}

/* Sizes that no class has, of blocks of the class with the highest number, of others, and of runs. */
static void kfree_sized_of_a_size_without_a_class_is_reported(void **state)
{
    static const size_t blocks[] = { 16, 64, 4096, KHEAP_CLASS_MOST, KHEAP_CLASS_MOST + 1 };
    volatile size_t none = 0; /* not a constant */

    (void)state;
    for (unsigned full = 0; full < 2; full++) {
        heap_set_up(MM_MIB(4));
        kheap_set_level(heap, full ? KHEAP_FULL : KHEAP_DEFAULT);
        for (size_t i = 0; i < COUNT_OF(blocks); i++) {
            void *block = kmalloc(blocks[i]);
            EXPECT_BUG_UNCHANGED("kfree_sized|0 bytes", kfree_sized(block, none));
            EXPECT_BUG_UNCHANGED("kfree_sized|0 bytes", kfree_sized(block, 0));
            EXPECT_BUG_UNCHANGED("kfree_sized|1048576 bytes", kfree_sized(block, MM_MIB(1)));
            EXPECT_BUG_UNCHANGED("kfree_sized", kfree_sized(block, SIZE_MAX));
            kfree_sized(block, blocks[i]);
        }
        kfree_sized(NULL, none);
        assert_all_free();
    }
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

/* One field of each kind is spoiled, seen, and repaired. */
#define EXPECT_SEEN(field, wrong)                                                                  \
    do {                                                                                           \
        __typeof__(field) right = (field);                                                         \
        (field) = (__typeof__(field))(wrong);                                                      \
        log_clear();                                                                               \
        assert_false(kheap_verify(heap));                                                          \
        log_expect_count("[MM] ERROR:", 1);                                                        \
        (field) = right;                                                                           \
        assert_true(kheap_verify(heap));                                                           \
    } while (0)

static void kheap_verify_sees_spoiled_state(void **state)
{
    struct heap_span *span;
    struct heap_chunk *chunk;
    unsigned char *block, *run;

    (void)state;
    heap_set_up(MM_MIB(1));
    block = kheap_alloc(heap, 100);
    run = kheap_alloc(heap, 100000);
    span = heap_span_at(heap, (uintptr_t)block);
    chunk = heap_chunk_at(heap, 0);
    assert_heap_sound();
    EXPECT_SEEN(span->free_count, span->free_count + 1);
    EXPECT_SEEN(span->free[0], span->free[0] ^ (uint64_t)1 << 40);
    EXPECT_SEEN(span->states[40], KHEAP_BYTE_ALLOCATED);
    EXPECT_SEEN(span->states[0], 77);
    EXPECT_SEEN(span->remote[0], 1);
    EXPECT_SEEN(span->front.block_bytes, 128);
    EXPECT_SEEN(span->front.size_class, 200);
    EXPECT_SEEN(span->front.base, span->front.base + 16);
    EXPECT_SEEN(span->front.blocks, 0);
    EXPECT_SEEN(heap->out[kheap_class_of(100)], 0);
    EXPECT_SEEN(heap->run_blocks, 2);
    EXPECT_SEEN(chunk->buddy.free_bytes, chunk->buddy.free_bytes + 4096);
    EXPECT_SEEN(chunk->buddy.present_bytes, chunk->buddy.present_bytes + 4096);
    for (size_t i = 0; i < 256; i++)
        if (chunk->buddy.tags[i] != 0)
            EXPECT_SEEN(chunk->buddy.tags[i], chunk->buddy.tags[i] ^ 0x80);
    EXPECT_SEEN(chunk->front.pages[(size_t)(run - region) / PAGE_SIZE + 1],
                chunk->front.pages[(size_t)(block - region) / PAGE_SIZE]);
}

/* ---- Faults ---- */

static void kheap_faults_are_injected_as_asked(void **state)
{
    struct kheap_faults faults = { .nth = 3 };
    uint64_t failed = 0;

    (void)state;
    heap_set_up(MM_MIB(1));
    kheap_inject(heap, &faults);
    for (unsigned i = 1; i <= 6; i++) {
        void *block = kheap_alloc(heap, 64);
        assert_int_equal(block == NULL, i == 3);
        kheap_free(heap, block);
    }
    assert_int_equal(kheap_injected(heap), 1);
    log_expect_count("[MM] ERROR: kmalloc of 64 bytes: failure injected", 1);
    faults = (struct kheap_faults){ .every = 4, .least = 100, .most = 200 };
    kheap_inject(heap, &faults);
    for (unsigned i = 1; i <= 40; i++) {
        assert_non_null(kheap_alloc(heap, 64));
        failed += kheap_alloc(heap, 150) == NULL;
    }
    assert_int_equal(failed, 10);
    faults = (struct kheap_faults){ .chance = 500 };
    kheap_inject(heap, &faults);
    failed = 0;
    for (unsigned i = 0; i < 1000; i++)
        failed += kheap_alloc(heap, 16) == NULL;
    assert_true(failed > 400 && failed < 600);
    kheap_inject(heap, NULL);
    assert_non_null(kheap_alloc(heap, 64));
    assert_heap_sound();
}

static void kheap_faults_are_read_from_text(void **state)
{
    static const char *const wrong[] = { "",
                                         "nth",
                                         "nth:",
                                         "nth:0",
                                         "every:x",
                                         "chance:1001",
                                         "size:9-8",
                                         "nth:1,",
                                         "nth:1 ",
                                         ",nth:1",
                                         "seed:0",
                                         "site:0",
                                         "every:99999999999999999999",
                                         "size:0" };
    static const char all[] = "nth:7,every:100,chance:3,seed:0x10,size:64-128,site:0x1000-0x2000";
    struct kheap_faults faults = { .nth = 99 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        if (kheap_faults_read(wrong[i], strlen(wrong[i]), &faults))
            fail_msg("'%s' was taken", wrong[i]);
    assert_int_equal(faults.nth, 99);
    assert_true(kheap_faults_read(all, strlen(all), &faults));
    assert_int_equal(faults.nth, 7);
    assert_int_equal(faults.every, 100);
    assert_int_equal(faults.chance, 3);
    assert_int_equal(faults.seed, 16);
    assert_int_equal(faults.least, 64);
    assert_int_equal(faults.most, 128);
    assert_int_equal(faults.site, 0x1000);
    assert_int_equal(faults.behind, 0x2000);
}

/* ---- The full level ---- */

static void full_set_up(size_t bytes)
{
    heap_set_up(bytes);
    kheap_set_level(heap, KHEAP_FULL);
    assert_int_equal(kheap_level(heap), KHEAP_FULL);
}

static const size_t row_sizes[] = { 1, 24, 64, 100, 4096, 5000, 70000, 262144 };

static void full_blocks_are_zero_aligned_and_exact(void **state)
{
    (void)state;
    full_set_up(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        size_t align = (bytes & (bytes - 1)) == 0 && bytes >= 16 && bytes <= 4096 ? bytes : 16;

        for (unsigned round = 0; round < 20; round++) {
            unsigned char *block = kheap_alloc(heap, bytes);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            assert_int_equal(kheap_size(heap, block), bytes);
            assert_true(is_zero(block, bytes));
            memset(block, 0xee, bytes);
            assert_int_equal(kheap_stats(heap).used_blocks, 1);
            kheap_free(heap, block);
            assert_true(is_zero(block, bytes)); /* read after free: zeroes */
        }
    }
    assert_true(kheap_verify(heap));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

static void full_writes_around_a_block_are_reported_at_its_free(void **state)
{
    (void)state;
    full_set_up(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block = kheap_alloc(heap, bytes);

        block[bytes] = 1;
        assert_false(kheap_verify(heap));
        log_clear();
        EXPECT_BUG("write behind the end|allocated by 0x", kheap_free(heap, block));
        memset(block + bytes, 2, 8);
        EXPECT_BUG("write behind the end", kheap_free(heap, block));
        block[-1] = 1;
        EXPECT_BUG("write before the beginning", kheap_free(heap, block));
        block[-8] = 1;
        EXPECT_BUG("write before the beginning", kheap_free(heap, block));
        kheap_free(heap, block); /* repaired */
        EXPECT_BUG("free|quarantine|freed by 0x", kheap_free(heap, block));
    }
    assert_true(kheap_verify(heap));
}

static void full_writes_after_a_free_are_reported(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block;

        full_set_up(MM_MIB(8));
        block = kheap_alloc(heap, bytes);
        kheap_free(heap, block);
        block[bytes / 2] = 0x77;
        EXPECT_BUG("write after the free|is 0x77", kheap_set_level(heap, KHEAP_DEFAULT));
        assert_all_free();
    }
}

static void full_wrong_frees_are_reported(void **state)
{
    (void)state;
    full_set_up(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block = kheap_alloc(heap, bytes);

        EXPECT_BUG("inside", kheap_free(heap, block + 1));
        EXPECT_BUG("inside", kheap_free(heap, block - 8));
        if (bytes > 16)
            EXPECT_BUG("16 bytes inside", kheap_free(heap, block + 16));
        EXPECT_BUG("kfree_sized", kfree_sized(block, bytes + 1));
        block = kheap_realloc(heap, block, bytes + 1);
        assert_int_equal(kheap_size(heap, block), bytes + 1);
        kheap_free(heap, block);
    }
}

static void blocks_of_both_levels_live_side_by_side(void **state)
{
    void *plain, *guarded;

    (void)state;
    heap_set_up(MM_MIB(4));
    plain = kheap_alloc(heap, 100);
    kheap_set_level(heap, KHEAP_FULL);
    guarded = kheap_alloc(heap, 100);
    kheap_free(heap, plain);
    EXPECT_BUG("free", kheap_free(heap, plain));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_int_equal(kheap_size(heap, guarded), 100);
    kheap_free(heap, guarded);
    EXPECT_BUG("free", kheap_free(heap, guarded));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

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

/* ---- Leaks ---- */

/* One call site, whatever the compiler makes of a loop around it. */
static __attribute__((noinline)) void *leak_here(void)
{
    void *block = kheap_alloc(heap, 100);

    __asm__ volatile("" : "+r"(block)); /* no tail call */
    return block;
}

static void kheap_report_since_lists_what_is_alive(void **state)
{
    void *before, *kept[3], *gone;
    uint64_t mark;

    (void)state;
    heap_set_up(MM_MIB(4));
    kheap_record_sites(heap, true);
    before = kheap_alloc(heap, 1000);
    mark = kheap_mark(heap);
    for (size_t i = 0; i < 3; i++)
        kept[i] = leak_here();
    gone = kheap_alloc(heap, 500);
    kheap_free(heap, gone);
    log_clear();
    assert_int_equal(kheap_report_since(heap, mark), 3);
    log_expect_count("leak: 3 blocks, 300 bytes allocated by 0x", 1);
    assert_int_equal(log_lines(), 1);
    for (size_t i = 0; i < 3; i++)
        kheap_free(heap, kept[i]);
    assert_int_equal(kheap_report_since(heap, mark), 0);
    kheap_free(heap, before);
    kheap_record_sites(heap, false);
    assert_all_free();
}

/* ---- Growing ---- */

static bool (*symbols)(vaddr_t address, struct boot_symbol *out); /* of the next heap */

static void growing_set_up(uint64_t ram)
{
    struct kheap_config config = {
        .first_bytes = MM_MIB(1), .first_is_zero = true, .bytes = MM_MIB(64), .find_symbol = symbols
    };
    paddr_t base;

    machine_set_up_simple(&machine, ram);
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 256, MM_MIB(1), PMM_NO_LIMIT, &base));
    config.first = phys_to_virt(base);
    memset(config.first, 0, config.first_bytes);
    config.base = hhdm_offset();
    config.pmm = &machine.pmm;
    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
}

/* Two functions of this kernel have names; each call site is looked up by the byte before it. */
static vaddr_t named_site;

static bool find_named(vaddr_t address, struct boot_symbol *out)
{
    if (address != named_site - 1)
        return false;
    *out = (struct boot_symbol){ .name = "leak_here", .begin = named_site - 0x42, .bytes = 0x42 };
    return true;
}

static vaddr_t alloc_site_of(const void *block)
{
    struct kheap_peek peek;

    assert_true(kheap_peek(heap, (uintptr_t)block, &peek));
    return peek.alloc_site;
}

static void kheap_reports_name_call_sites(void **state)
{
    char words[100];
    uint64_t mark;
    void *blocks[2];

    (void)state;
    symbols = find_named;
    growing_set_up(MM_MIB(48));
    symbols = NULL;
    kheap_set_level(heap, KHEAP_FULL);
    mark = kheap_mark(heap);
    blocks[0] = leak_here();
    blocks[1] = kheap_alloc(heap, 300);
    named_site = alloc_site_of(blocks[0]);
    log_clear();
    assert_int_equal(kheap_report_since(heap, mark), 2);
    assert_int_equal(log_lines(), 2);
    snprintf(words, sizeof words, "leak: 1 blocks, 300 bytes allocated by 0x%lx",
             alloc_site_of(blocks[1]));
    log_expect_count(words, 1);
    log_expect_count(" (", 1); /* one of the sites has a name */
    snprintf(words, sizeof words, "leak: 1 blocks, 100 bytes allocated by 0x%lx (leak_here + 0x42)",
             named_site);
    log_expect_count(words, 1);
    snprintf(words, sizeof words, "1 bytes inside|; allocated by 0x%lx (leak_here + 0x42)",
             named_site);
    EXPECT_BUG(words, kheap_free(heap, (char *)blocks[0] + 1));
    kheap_free(heap, blocks[0]);
    snprintf(words, sizeof words, "quarantine|allocated by 0x%lx (leak_here + 0x42), freed by 0x",
             named_site);
    EXPECT_BUG(words, kheap_free(heap, blocks[0]));
    kheap_free(heap, blocks[1]);
    kheap_set_level(heap, KHEAP_DEFAULT);
}

static void heap_grows_and_gives_memory_back(void **state)
{
    static unsigned char *blocks[300];
    uint64_t used;
    struct kheap_stats before;

    (void)state;
    growing_set_up(MM_MIB(48));
    before = kheap_stats(heap);
    used = pmm_stats(&machine.pmm).used_frames;
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = kheap_alloc(heap, 50000 + i * 300);
        assert_non_null(blocks[i]);
        assert_true(is_zero(blocks[i], 50000));
        memset(blocks[i], 0xab, 50000 + i * 300);
    }
    assert_true(kheap_stats(heap).region_bytes > before.region_bytes);
    assert_int_equal(pmm_stats(&machine.pmm).used_frames - used,
                     kheap_stats(heap).frames - before.frames);
    assert_true(kheap_verify(heap));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kheap_free(heap, blocks[i]);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_true(kheap_verify(heap));
    assert_int_equal(pmm_stats(&machine.pmm).used_frames - used,
                     kheap_stats(heap).frames - before.frames);
    assert_true(kheap_stats(heap).frames - before.frames < 100); /* state stays for reuse */
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
}

static void large_blocks_have_pages_of_their_own(void **state)
{
    (void)state;
    growing_set_up(MM_MIB(48));
    for (size_t bytes = MM_MIB(1) + 1; bytes <= MM_MIB(20); bytes = bytes * 3 / 2) {
        unsigned char *block = kheap_alloc(heap, bytes);

        assert_non_null(block);
        assert_true(is_zero(block, bytes));
        memset(block, 0xcd, bytes);
        assert_true(kheap_size(heap, block) >= bytes);
        EXPECT_BUG("inside", kheap_free(heap, block + bytes / 2));
        kheap_free(heap, block);
        EXPECT_BUG("kfree", kheap_free(heap, block));
        assert_true(kheap_verify(heap));
    }
    for (size_t align = MM_MIB(1); align <= MM_MIB(16); align *= 2) {
        unsigned char *block = kheap_alloc_aligned(heap, 5000, align);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % align, 0);
        kheap_free(heap, block);
    }
    log_clear();
    assert_null(kheap_alloc(heap, MM_MIB(60)));
    log_expect_count("[MM] ERROR:", 1);
    assert_null(kheap_alloc(heap, SIZE_MAX));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
}

/* The n-th frame cannot be had, for n from 1 until nothing fails any more: NULL, and nothing is lost. */
/* What a pop leaves in the magazine of a block that is known to be zeroed is the address behind its
 * first byte's: to free that is wrong all the same. */
static void kfree_behind_the_first_byte_of_a_zeroed_block_is_reported(void **state)
{
    const struct kheap_magazine *magazine;
    struct kheap_stats before;
    unsigned char *first, *second;

    (void)state;
    growing_set_up(MM_MIB(48));
    first = kmalloc(64);
    second = kmalloc(64);
    magazine = &heap->front.caches[mm_port_slot()]->classes[kheap_class_of(64)];
    assert_int_equal(magazine->entries[magazine->magazine.bottom].block, (uintptr_t)second + 1);
    before = kheap_stats(heap);
    EXPECT_BUG(address_words("free", second + 1), kfree(second + 1));
    EXPECT_BUG(address_words("free", second + 1), kheap_free(heap, second + 1));
    EXPECT_BUG(address_words("free", second + 1), kfree_sized(second + 1, 64)); /* a constant */
    EXPECT_BUG(address_words("free", second + 1), (kfree_sized)(second + 1, 64));
    assert_stats_equal(kheap_stats(heap), before);
    assert_true(kheap_verify(heap));
    kfree(second);
    EXPECT_BUG(address_words("free", second), kfree(second));
    kfree(first);
    assert_all_free();
}

/* Memory that came, and went because nothing was left for its state: a search that ran meanwhile has missed
 * it, and is told to look again. */
static void memory_that_cannot_be_added_counts_as_moved(void **state)
{
    paddr_t base, frame;
    uint64_t moves;

    (void)state;
    growing_set_up(MM_MIB(48));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 16, MM_KIB(64), PMM_NO_LIMIT, &base));
    while (pmm_alloc_frame(&machine.pmm, &frame) == MM_OK)
        ;
    while (heap_state_alloc(heap, heap_chunk_state_bytes()) != NULL)
        ;
    /* No chunk is there: the 64 KiB are the first of their 2 MiB. */
    assert_null(heap_chunk_at(heap, base));
    pmm_free_contiguous(&machine.pmm, base, 16);
    moves = heap->moves;
    assert_false(heap_supply(heap, HEAP_NEEDS_PAGES, PAGE_SIZE));
    assert_true(heap->moves > moves);
    assert_true(heap_may_find_more(heap, moves, 0));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 16, MM_KIB(64), PMM_NO_LIMIT, &base));
}

/* The pmm's low-water mark calls in the allocation that has crossed it, once: also a handler's. */
static void what_a_handler_drains_goes_back_with_the_next_slow_call(void **state)
{
    void *blocks[4], *block;
    uint64_t frames;

    (void)state;
    growing_set_up(MM_MIB(48));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        assert_non_null(blocks[i] = kheap_alloc(heap, MAX_BLOCK_SIZE));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kheap_free(heap, blocks[i]);
    frames = kheap_stats(heap).frames;
    assert_int_not_equal(heap->spare_chunks, 0); /* kept, as long as there are few */
    assert_true(hosted_interrupt_enter());
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_non_null(block = kheap_alloc(heap, 40));
    hosted_interrupt_leave();
    assert_int_not_equal(heap->spare_chunks, 0);
    kheap_free(heap, block);
    assert_non_null(block = kheap_alloc(heap, 400));
    assert_int_equal(heap->spare_chunks, 0);
    assert_true(kheap_stats(heap).frames < frames);
    kheap_free(heap, block);
    assert_all_free();
}

/* Who was moving memory is not there in the child of a fork(). */
static void nobody_moves_memory_after_a_fork(void **state)
{
    uint64_t saved;

    (void)state;
    growing_set_up(MM_MIB(48));
    heap->moving = 1;
    assert_true(heap_may_find_more(heap, heap->moves, 0));
    saved = kheap_lock_all(heap);
    kheap_forked(heap);
    kheap_unlock_all(heap, saved);
    assert_false(heap_may_find_more(heap, heap->moves, 0));
}

static void threads_are_told_from_handlers_by_their_slot(void **state)
{
    (void)state;
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++)
        assert_int_equal(heap_slot_is_thread(slot), slot % MM_PORT_LEVELS == 0);
    assert_true(heap_slot_is_thread(MM_PORT_SHARED_SLOT));
    assert_false(heap_slot_is_thread(MM_PORT_NO_SLOT));
}

static void heap_without_frames_gives_null_and_loses_nothing(void **state)
{
    (void)state;
    for (uint64_t left = 0; left < 40; left++) {
        static paddr_t taken[16384];
        size_t count;
        unsigned char *blocks[4];
        static const size_t sizes[4] = { 16, 3000, 70000, 3000000 };

        growing_set_up(MM_MIB(24));
        mm_log_level = MM_LOG_ERROR;
        count = pmm_drain_to(&machine.pmm, left, taken, COUNT_OF(taken));
        for (size_t i = 0; i < 4; i++) {
            void *chain = NULL, *next;
            while ((next = kheap_alloc(heap, sizes[i])) != NULL) {
                *(void **)next = chain;
                chain = next;
            }
            assert_true(kheap_verify(heap));
            for (; chain != NULL; chain = next) {
                next = *(void **)chain;
                kheap_free(heap, chain);
            }
            kheap_drain(heap, KHEAP_ALL_SLOTS);
        }
        assert_int_equal(kheap_stats(heap).used_blocks, 0);
        assert_true(kheap_verify(heap));
        pmm_free_frames(&machine.pmm, taken, count);
        for (size_t i = 0; i < 4; i++) {
            blocks[i] = kheap_alloc(heap, sizes[i]);
            assert_non_null(blocks[i]);
            kheap_free(heap, blocks[i]);
        }
    }
}

/* ---- Random program against the model ---- */

#define BLOCKS_MAX 2048u

static struct {
    struct {
        unsigned char *address;
        size_t bytes;
        unsigned char fill;
    } block[BLOCKS_MAX];
    size_t count;
} model;

static void check_content(size_t index, size_t bytes)
{
    unsigned char fill = model.block[index].fill;

    for (size_t at = 0; at < bytes; at++)
        if (model.block[index].address[at] != fill)
            fail_msg("byte %zu of the block of %zu at %p was overwritten", at,
                     model.block[index].bytes, (void *)model.block[index].address);
}

static void fill_block(size_t index, unsigned char *address, size_t bytes)
{
    model.block[index].address = address;
    model.block[index].bytes = bytes;
    model.block[index].fill = (unsigned char)(1 + random_below(255));
    memset(address, model.block[index].fill, bytes);
}

static size_t random_size(void)
{
    size_t most = (size_t)16 << random_below(random_chance(90) ? 9 : 14);

    return 1 + (size_t)random_below(most);
}

static void step_alloc(void)
{
    size_t bytes = random_size();
    size_t align = random_chance(10) ? (size_t)1 << random_below(14) : 1;
    unsigned char *block =
        align > 1 ? kheap_alloc_aligned(heap, bytes, align) : kheap_alloc(heap, bytes);

    if (block == NULL || model.count == BLOCKS_MAX) {
        kheap_free(heap, block);
        return;
    }
    assert_int_equal((uintptr_t)block % align, 0);
    assert_true(kheap_size(heap, block) >= bytes);
    assert_true(is_zero(block, bytes));
    for (size_t i = 0; i < model.count; i++)
        assert_true(block + bytes <= model.block[i].address ||
                    model.block[i].address + model.block[i].bytes <= block);
    fill_block(model.count++, block, bytes);
}

static void step_free(void)
{
    size_t index;

    if (model.count == 0)
        return;
    index = (size_t)random_below(model.count);
    check_content(index, model.block[index].bytes);
    if (random_chance(30)) {
        size_t bytes = random_size(), old = model.block[index].bytes;
        unsigned char *moved = kheap_realloc(heap, model.block[index].address, bytes);
        if (moved == NULL)
            return;
        model.block[index].address = moved;
        check_content(index, bytes < old ? bytes : old);
        assert_true(bytes <= old || is_zero(moved + old, bytes - old));
        fill_block(index, moved, bytes);
        return;
    }
    kheap_free(heap, model.block[index].address);
    model.block[index] = model.block[--model.count];
}

/* A free of any address that is no block: reported, nothing happens. */
static void step_misuse(void)
{
    unsigned char *address = region + random_below(region_bytes);

    for (size_t i = 0; i < model.count; i++)
        if (model.block[i].address == address)
            return;
    EXPECT_BUG(address_words("", address), kheap_free(heap, address));
}

static void step(unsigned alloc_percent)
{
    if (random_chance(2))
        step_misuse();
    else if (random_chance(alloc_percent))
        step_alloc();
    else
        step_free();
}

static void run_program(unsigned steps)
{
    unsigned alloc_percent = 40 + (unsigned)random_below(25);

    model.count = 0;
    mm_log_level = MM_LOG_ERROR;
    for (unsigned i = 0; i < steps; i++) {
        step(alloc_percent);
        if (i % 500 == 0) {
            assert_int_equal(kheap_stats(heap).used_blocks, model.count);
            assert_heap_sound();
        }
    }
    while (model.count != 0) {
        check_content(model.count - 1, model.block[model.count - 1].bytes);
        kheap_free(heap, model.block[--model.count].address);
    }
}

static void kheap_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(8); seeds_next();) {
        heap_set_up((size_t)MM_MIB(1 + random_below(4)));
        run_program(4000);
        assert_all_free();
    }
}

static void kheap_random_program_agrees_at_the_full_level(void **state)
{
    (void)state;
    for (seeds_begin(4); seeds_next();) {
        full_set_up((size_t)MM_MIB(2 + random_below(4)));
        run_program(3000);
        kheap_set_level(heap, KHEAP_DEFAULT);
        assert_all_free();
    }
}

static void kheap_random_program_agrees_while_the_heap_grows(void **state)
{
    (void)state;
    for (seeds_begin(4); seeds_next();) {
        growing_set_up(MM_MIB(24));
        region = phys_to_virt(MM_MIB(1));
        region_bytes = MM_MIB(24);
        model.count = 0;
        mm_log_level = MM_LOG_ERROR;
        for (unsigned i = 0; i < 6000; i++)
            step(55);
        while (model.count != 0) {
            check_content(model.count - 1, model.block[model.count - 1].bytes);
            kheap_free(heap, model.block[--model.count].address);
        }
        assert_all_free();
    }
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
        TEST(kfree_of_null_is_fine),
        TEST(kfree_twice_is_reported),
        TEST(kfree_after_the_span_has_ended_is_reported),
        TEST(kfree_after_the_slot_has_lost_the_span_goes_to_its_owner),
        TEST(kfree_sized_of_another_size_is_reported),
        TEST(kfree_sized_of_a_size_without_a_class_is_reported),
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
        TEST(kheap_faults_are_injected_as_asked),
        TEST(kheap_faults_are_read_from_text),
        TEST(full_blocks_are_zero_aligned_and_exact),
        TEST(full_writes_around_a_block_are_reported_at_its_free),
        TEST(full_writes_after_a_free_are_reported),
        TEST(full_wrong_frees_are_reported),
        TEST(blocks_of_both_levels_live_side_by_side),
        TEST(kheap_report_since_lists_what_is_alive),
        TEST(kheap_reports_name_call_sites),
        TEST(heap_grows_and_gives_memory_back),
        TEST(large_blocks_have_pages_of_their_own),
        TEST(kfree_behind_the_first_byte_of_a_zeroed_block_is_reported),
        TEST(memory_that_cannot_be_added_counts_as_moved),
        TEST(what_a_handler_drains_goes_back_with_the_next_slow_call),
        TEST(nobody_moves_memory_after_a_fork),
        TEST(threads_are_told_from_handlers_by_their_slot),
        TEST(heap_without_frames_gives_null_and_loses_nothing),
        TEST(kheap_random_program_agrees_with_the_model),
        TEST(kheap_random_program_agrees_at_the_full_level),
        TEST(kheap_random_program_agrees_while_the_heap_grows),
    };

    return RUN_TESTS(tests);
}
