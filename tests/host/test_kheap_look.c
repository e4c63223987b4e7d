/* SPDX-License-Identifier: MIT */
/* What can be asked of the heap: device addresses, what an address is, whether its state is sound. */
#include "heap_fixture.h"

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
    assert_ok(paging_init(&space, &heap_machine.pmm, &features));
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
    for (size_t i = 0; i < RUNS_WORDS; i++)
        EXPECT_SEEN(chunk->runs.free[i], chunk->runs.free[i] ^ 0x10);
    EXPECT_SEEN(chunk->runs.longest, chunk->runs.longest + 1);
    EXPECT_SEEN(chunk->run_list, chunk->run_list + 1);
    EXPECT_SEEN(chunk->front.pages[(size_t)(run - region) / PAGE_SIZE + 1],
                chunk->front.pages[(size_t)(block - region) / PAGE_SIZE]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kheap_to_phys_in_the_hhdm),
        TEST(kheap_to_phys_over_scattered_frames),
        TEST(kheap_peek_tells_what_an_address_is),
        TEST(kheap_verify_sees_spoiled_state),
    };

    return RUN_TESTS(tests);
}
