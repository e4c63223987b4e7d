/* SPDX-License-Identifier: MIT */
/* What the cache of a slot keeps when the heap grows for that slot. */
#include "heap_fixture.h"
#include "threads.h"

#include "mm/bits.h"

#include <string.h>

#define USED_BYTES 1024u
#define USED_COUNT 1000u

static void *blocks[USED_COUNT], *runs[64];
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

static struct heap_cache *cache(void)
{
    return heap_cache_at(heap, mm_port_cpu_slot());
}

static unsigned count_of(size_t bytes)
{
    return magazine_count_locked(&cache()->front.classes[kheap_class_of(bytes)].magazine);
}

/* Blocks of one size are used and freed. */
static void use(size_t bytes)
{
    for (unsigned i = 0; i < USED_COUNT; i++)
        assert_non_null(blocks[i] = kheap_alloc_nozero(heap, bytes));
    for (unsigned i = 0; i < USED_COUNT; i++)
        kheap_free(heap, blocks[i]);
}

/* Runs are taken and freed again, of more bytes than the heap grows by. */
static void churn(void)
{
    for (unsigned i = 0; i < 40; i++)
        kheap_free(heap, kheap_alloc_nozero(heap, MM_KIB(300)));
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

/* Nothing of the size stays, its spans neither. */
static void heap_cache_is_emptied_if_much_was_taken(void **state)
{
    unsigned size_class = kheap_class_of(USED_BYTES);

    (void)state;
    set_up(MM_MIB(4));
    churn();
    assert_false(heap_empty_before_growth(heap)); /* there is nothing */
    use(USED_BYTES);
    assert_false(heap_empty_before_growth(heap));
    assert_true(count_of(USED_BYTES) > 0);
    churn();
    assert_true(heap_empty_before_growth(heap));
    assert_int_equal(count_of(USED_BYTES), 0);
    assert_true(heap_list_is_empty(&cache()->partial[size_class]));
    assert_true(heap_list_is_empty(&cache()->full[size_class]));
    assert_true(kheap_verify(heap));
    use(USED_BYTES);
    assert_false(heap_empty_before_growth(heap));
    assert_true(count_of(USED_BYTES) > 0);
    free_all();
}

/* Thousands of blocks may be the last ones of as many spans: interrupts and other CPUs come in between. */
static void heap_cache_is_emptied_class_by_class(void **state)
{
    (void)state;
    set_up(MM_MIB(4));
    use(USED_BYTES);
    churn();
    uint64_t before = hosted_cpu()->lock_section;
    assert_true(heap_empty_before_growth(heap));
    assert_true((hosted_cpu()->lock_section - before) / 2 >= KHEAP_CLASSES);
    free_all();
}

/* ---- blocks that another CPU frees ---- */

static size_t other_from, other_end;

static void *free_on_other_cpu(void *argument)
{
    (void)argument;
    for (size_t i = other_from; i < other_end; i++)
        kheap_free(heap, blocks[i]);
    kheap_drain(heap, mm_port_cpu_slot()); /* to their spans */
    return NULL;
}

/* Another CPU frees these, and this one takes a block of a size that its cache has not, so that they come
 * home. */
static void free_elsewhere(size_t from, size_t end, size_t of_bytes)
{
    pthread_t thread;

    other_from = from;
    other_end = end;
    threads_start(&thread, 1, free_on_other_cpu);
    threads_join(&thread, 1);
    kheap_free(heap, kheap_alloc(heap, of_bytes));
}

static struct heap_span *span_of(const void *block)
{
    return heap_span_at(heap, (uintptr_t)block);
}

/* All blocks of a span come home, which is then the only one of its owner with any.
 *   Returns:  how many there are; the last one of blocks[]. */
static size_t make_spare(struct heap_span **spare)
{
    const struct heap_link *head = &cache()->partial[kheap_class_of(USED_BYTES)];
    size_t count = 0, first;

    for (; count < 100 || !heap_list_is_empty(head) || count_of(USED_BYTES) > 0; count++) {
        assert_true(count < USED_COUNT);
        assert_non_null(blocks[count] = kheap_alloc_nozero(heap, USED_BYTES));
    }
    *spare = span_of(blocks[count - 1]);
    for (first = count; span_of(blocks[first - 1]) == *spare;)
        first--;
    assert_int_equal(count - first, (*spare)->front.blocks);
    free_elsewhere(first, count, MM_KIB(2));
    assert_ptr_equal(head->next, &(*spare)->link);
    assert_int_equal((*spare)->free_count, (*spare)->front.blocks);
    return first;
}

/* The wholly free span that its owner keeps goes, too, with one behind it that blocks came home to. */
static void heap_ends_a_spare_span_before_others(void **state)
{
    const struct heap_link *head;
    struct heap_span *spare, *behind;

    (void)state;
    set_up(MM_MIB(4));
    size_t left = make_spare(&spare);
    head = &cache()->partial[kheap_class_of(USED_BYTES)];
    behind = span_of(blocks[0]);
    assert_ptr_not_equal(spare, behind);
    free_elsewhere(0, 3, MM_KIB(4));
    assert_ptr_equal(head->next, &spare->link);
    assert_ptr_equal(head->prev, &behind->link);
    churn();
    assert_true(heap_empty_before_growth(heap));
    assert_ptr_equal(head->next, &behind->link);
    assert_ptr_equal(head->prev, &behind->link);
    assert_true(kheap_verify(heap));
    for (size_t i = 3; i < left; i++)
        kheap_free(heap, blocks[i]);
    free_all();
}

/* A span whose owner has not yet looked at what another CPU has freed stays until it has: the second free of
 * a block that is home is still to be reported. */
static void heap_keeps_a_spare_span_with_a_report_due(void **state)
{
    struct heap_span *spare;

    (void)state;
    set_up(MM_MIB(4));
    size_t left = make_spare(&spare);
    bits_set(spare->remote, 5);
    heap_list_add(&cache()->pending, &spare->pending);
    churn();
    assert_true(heap_empty_before_growth(heap));
    EXPECT_BUG(address_words("free", (void *)heap_block_address(spare, 5)),
               kheap_drain(heap, KHEAP_ALL_SLOTS));
    for (size_t i = 0; i < left; i++)
        kheap_free(heap, blocks[i]);
    free_all();
}

/* ---- when ---- */

/* The blocks in the magazine lie side by side: together they are room for a larger one. */
static void heap_uses_what_its_cache_holds_before_it_grows(void **state)
{
    uint64_t bytes;
    unsigned count = 0;

    (void)state;
    set_up(MM_MIB(4));
    churn();
    bytes = kheap_stats(heap).region_bytes;
    while (kheap_stats(heap).largest_free_block >= KHEAP_CLASS_MOST)
        assert_non_null(blocks[count++] = kheap_alloc_nozero(heap, KHEAP_CLASS_MOST));
    assert_int_equal(kheap_stats(heap).region_bytes, bytes);
    for (unsigned i = 10; i < 14; i++)
        kheap_free(heap, blocks[i]);
    assert_int_equal(count_of(KHEAP_CLASS_MOST), 4);
    assert_ptr_equal(kheap_alloc_nozero(heap, 4 * KHEAP_CLASS_MOST), blocks[10]);
    assert_int_equal(kheap_stats(heap).region_bytes, bytes);
    kheap_free(heap, blocks[14]);
    runs[run_count++] = kheap_alloc_nozero(heap, KHEAP_CLASS_MOST + 1);
    assert_int_equal(kheap_stats(heap).region_bytes, bytes + MM_MIB(2));
    for (unsigned i = 0; i < count; i++)
        if (i < 11 || i > 14)
            kheap_free(heap, blocks[i]);
    free_all();
}

static void heap_that_is_small_keeps_what_it_has(void **state)
{
    (void)state;
    set_up(MM_MIB(2));
    use(USED_BYTES);
    unsigned count = count_of(USED_BYTES);
    assert_true(count > 0);
    churn();
    for (unsigned i = 0; i < 4; i++)
        grow();
    assert_int_equal(count_of(USED_BYTES), count);
    free_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_cache_is_emptied_if_much_was_taken),
        TEST(heap_cache_is_emptied_class_by_class),
        TEST(heap_ends_a_spare_span_before_others),
        TEST(heap_keeps_a_spare_span_with_a_report_due),
        TEST(heap_uses_what_its_cache_holds_before_it_grows),
        TEST(heap_that_is_small_keeps_what_it_has),
    };

    return RUN_TESTS(tests);
}
