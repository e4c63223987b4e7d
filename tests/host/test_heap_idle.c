/* SPDX-License-Identifier: MIT */
/* What the cache of a slot keeps of sizes that the slot does not use any more, while the heap grows. */
#include "heap_fixture.h"

#include <string.h>

#define IDLE_BYTES 1024u
#define IDLE_COUNT 1000u
#define BUSY_BYTES 512u

static void *blocks[IDLE_COUNT], *runs[64];
static unsigned run_count;

/* A heap that grows by 2 MiB; one of less than 4 MiB grows by less. */
static void set_up(uint64_t first_bytes)
{
    static struct kheap_config config;
    paddr_t base;

    machine_set_up_simple(&heap_machine, MM_MIB(64));
    config = (struct kheap_config){
        .first_bytes = first_bytes,
        .first_is_zero = true,
        .bytes = MM_MIB(64),
        .base = hhdm_offset(),
        .pmm = &heap_machine.pmm,
    };
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, first_bytes / FRAME_SIZE, MM_MIB(2),
                                   PMM_NO_LIMIT, &base));
    config.first = phys_to_virt(base);
    memset(config.first, 0, config.first_bytes);
    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
    run_count = 0;
}

static const struct heap_cache *cache(void)
{
    return heap_cache_at(heap, mm_port_cpu_slot());
}

static unsigned count_of(size_t bytes)
{
    return magazine_count_locked(&cache()->front.classes[kheap_class_of(bytes)].magazine);
}

/* Blocks of one size were used, and are not any more. */
static void use(size_t bytes)
{
    for (unsigned i = 0; i < IDLE_COUNT; i++)
        assert_non_null(blocks[i] = kheap_alloc_nozero(heap, bytes));
    for (unsigned i = 0; i < IDLE_COUNT; i++)
        kheap_free(heap, blocks[i]);
}

static void grow(void)
{
    uint64_t before = kheap_stats(heap).region_bytes;

    while (kheap_stats(heap).region_bytes == before) {
        assert_true(run_count < COUNT_OF(runs));
        assert_non_null(runs[run_count++] = kheap_alloc_nozero(heap, MM_KIB(300)));
    }
}

static void free_all(void)
{
    while (run_count > 0)
        kheap_free(heap, runs[--run_count]);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
}

static void heap_that_grows_keeps_nothing_of_a_size_out_of_use(void **state)
{
    unsigned size_class = kheap_class_of(IDLE_BYTES);

    (void)state;
    set_up(MM_MIB(4));
    use(IDLE_BYTES);
    grow();
    assert_true(count_of(IDLE_BYTES) > 0); /* it has been in use till now */
    grow();
    assert_int_equal(count_of(IDLE_BYTES), 0);
    assert_true(heap_list_is_empty(&cache()->partial[size_class]));
    assert_true(heap_list_is_empty(&cache()->full[size_class]));
    assert_true(kheap_verify(heap));
    free_all();
}

static void heap_that_grows_keeps_what_is_in_use(void **state)
{
    void *block;

    (void)state;
    set_up(MM_MIB(4));
    use(BUSY_BYTES);
    for (unsigned i = 0; i < 4; i++) {
        unsigned count = count_of(BUSY_BYTES);
        assert_true(count > 1);
        grow();
        assert_int_equal(count_of(BUSY_BYTES), count);
        assert_non_null(block = kheap_alloc_nozero(heap, BUSY_BYTES));
        kheap_free(heap, kheap_alloc_nozero(heap, 2 * BUSY_BYTES)); /* not what is looked at */
        blocks[i] = block;
    }
    for (unsigned i = 0; i < 4; i++)
        kheap_free(heap, blocks[i]);
    free_all();
}

static void heap_that_is_small_keeps_what_it_has(void **state)
{
    (void)state;
    set_up(MM_MIB(2));
    use(IDLE_BYTES);
    unsigned count = count_of(IDLE_BYTES);
    assert_true(count > 0);
    for (unsigned i = 0; i < 4; i++)
        grow();
    assert_int_equal(count_of(IDLE_BYTES), count);
    free_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_that_grows_keeps_nothing_of_a_size_out_of_use),
        TEST(heap_that_grows_keeps_what_is_in_use),
        TEST(heap_that_is_small_keeps_what_it_has),
    };

    return RUN_TESTS(tests);
}
