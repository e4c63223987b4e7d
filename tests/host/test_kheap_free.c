/* SPDX-License-Identifier: MIT */
/* Wrong frees of the heap, each reported and without effect, and the calls of the default heap. */
#include "heap_fixture.h"

#include <stdlib.h>
#include <string.h>

/* ---- Misuse ---- */

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

/* What is wrong with it is the address, whatever the size. */
static void kfree_sized_of_an_interior_address_is_reported_as_such(void **state)
{
    static const size_t blocks[] = { 64, 1024, 5000, KHEAP_CLASS_MOST, KHEAP_CLASS_MOST + 1 };
    static const size_t sizes[] = { 0, 16, 2000, KHEAP_CLASS_MOST, MM_MIB(1) };

    (void)state;
    heap_set_up(MM_MIB(4));
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        unsigned char *block = kmalloc(blocks[i]);
        for (size_t j = 0; j < COUNT_OF(sizes); j++)
            EXPECT_BUG_UNCHANGED(address_words("inside", block + 16),
                                 kfree_sized(block + 16, sizes[j]));
        EXPECT_BUG_UNCHANGED(address_words("inside", block + 16),
                             kfree_sized(block + 16, blocks[i]));
        kfree_sized(block, blocks[i]);
    }
    assert_all_free();
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

/* ---- Growing ---- */

/* What a pop leaves in the magazine of a block that is known to be zeroed is the address behind its
 * first byte's: to free that is wrong all the same. */
static void kfree_behind_the_first_byte_of_a_zeroed_block_is_reported(void **state)
{
    const struct kheap_magazine *magazine;
    struct kheap_stats before;
    unsigned char *first, *second;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    first = kmalloc(64);
    second = kmalloc(64);
    magazine = &heap->front.caches[mm_port_slot()]->classes[kheap_class_of(64)];
    assert_int_equal(magazine->entries[magazine->magazine.bottom].block, (uintptr_t)second + 1);
    before = kheap_stats(heap);
    EXPECT_BUG(address_words("free", second + 1), kfree(second + 1));
    EXPECT_BUG(address_words("free", second + 1), kheap_free(heap, second + 1));
    EXPECT_BUG(address_words("free", second + 1), kfree_sized(second + 1, 64)); /* a constant */
    EXPECT_BUG(address_words("free", second + 1), (kfree_sized)(second + 1, 64));
    assert_heap_stats_equal(kheap_stats(heap), before);
    assert_true(kheap_verify(heap));
    kfree(second);
    EXPECT_BUG(address_words("free", second), kfree(second));
    kfree(first);
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kfree_of_null_is_fine),
        TEST(kfree_twice_is_reported),
        TEST(kfree_after_the_span_has_ended_is_reported),
        TEST(kfree_after_the_slot_has_lost_the_span_goes_to_its_owner),
        TEST(kfree_sized_of_another_size_is_reported),
        TEST(kfree_sized_of_a_size_without_a_class_is_reported),
        TEST(kfree_of_an_interior_address_is_reported),
        TEST(kfree_sized_of_an_interior_address_is_reported_as_such),
        TEST(kfree_of_a_misaligned_address_in_free_memory_is_reported),
        TEST(kfree_outside_the_heap_is_reported),
        TEST(kfree_of_the_heaps_own_state_is_reported),
        TEST(kfree_of_a_forged_block_is_reported),
        TEST(kmalloc_without_a_heap_is_null),
        TEST(kmalloc_uses_the_default_heap),
        TEST(kfree_behind_the_first_byte_of_a_zeroed_block_is_reported),
    };

    return RUN_TESTS(tests);
}
