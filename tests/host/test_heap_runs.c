/* SPDX-License-Identifier: MIT */
/* Runs of pages: the map of a chunk's free pages, the buddy system beside it, and what both leave unused of
 * the heap's memory. */
#include "heap_fixture.h"

#include "mm/runs.h"

#include <string.h>

/* ---- the map alone ---- */

static struct runs runs;

/* "..##.": two free units, two taken ones, and so on; behind it nothing is free. */
static void draw(const char *map)
{
    runs_init(&runs);
    for (unsigned i = 0; map[i] != '\0'; i++)
        if (map[i] == '.')
            runs_give(&runs, i, 1);
}

static void runs_alloc_takes_the_shortest_run_that_holds(void **state)
{
    (void)state;
    draw("....#..#...#...#.....");
    assert_int_equal(runs.longest, 5);
    assert_int_equal(runs_alloc(&runs, 3), 8);
    assert_int_equal(runs_alloc(&runs, 3), 12);
    assert_int_equal(runs_alloc(&runs, 3), 0);
    assert_int_equal(runs_alloc(&runs, 1), 3);
    assert_int_equal(runs_alloc(&runs, 1), 5);
    assert_int_equal(runs.longest, 5);
    assert_int_equal(runs_alloc(&runs, 5), 16);
    assert_int_equal(runs.longest, 1);
    assert_int_equal(runs_alloc(&runs, 1), 6);
    assert_int_equal(runs.longest, 0);
}

static void runs_that_are_given_join_their_neighbours(void **state)
{
    (void)state;
    runs_init(&runs);
    runs_give(&runs, 60, 2);
    runs_give(&runs, 130, 10);
    assert_int_equal(runs.longest, 10);
    runs_give(&runs, 62, 68);
    assert_int_equal(runs.longest, 80);
    assert_int_equal(runs_alloc(&runs, 80), 60);
    runs_give(&runs, 0, RUNS_UNITS / 2);
    runs_give(&runs, RUNS_UNITS / 2, RUNS_UNITS / 2);
    assert_int_equal(runs.longest, RUNS_UNITS);
    assert_int_equal(runs_alloc(&runs, RUNS_UNITS), 0);
}

/* Where the shortest run of at least `units` begins that the bytes tell, and the longest one's length. */
static unsigned search(const bool *free, unsigned units, unsigned *longest)
{
    unsigned best = RUNS_UNITS, best_units = RUNS_UNITS + 1;

    *longest = 0;
    for (unsigned at = 0, end; at < RUNS_UNITS; at = end + 1) {
        for (end = at; end < RUNS_UNITS && free[end]; end++) {
        }
        if (end - at > *longest)
            *longest = end - at;
        if (end - at >= units && end - at < best_units) {
            best = at;
            best_units = end - at;
        }
    }
    return best;
}

#define HELD_MOST 400u

/* Random runs of a chunk, in the map, the buddy system and an array of bytes at once. */
static void runs_and_blocks_agree_with_a_search(void **state)
{
    static bool free[RUNS_UNITS];
    static uint64_t words[1024];
    struct {
        unsigned first, units;
    } held[HELD_MOST];
    unsigned held_count = 0, longest;
    struct buddy buddy;
    uint64_t offset;

    (void)state;
    assert_true(buddy_state_bytes(HEAP_CHUNK_BYTES, HEAP_PAGE_ORDER) <= sizeof words);
    buddy_init(&buddy, HEAP_CHUNK_BYTES, HEAP_PAGE_ORDER, words);
    buddy_add(&buddy, 0, HEAP_CHUNK_BYTES);
    runs_init(&runs);
    runs_give(&runs, 0, RUNS_UNITS);
    memset(free, true, sizeof free);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned most = i / 4000 % 2 == 0 ? 20 : 100;
        unsigned units = 1 + (unsigned)random_below(most);
        unsigned wanted = search(free, units, &longest);
        assert_int_equal(runs.longest, longest);
        if (units <= longest && held_count < HELD_MOST && random_chance(60)) {
            uint64_t block = buddy_block_bytes(buddy_order(units * PAGE_SIZE));
            if (random_chance(10) && buddy_largest_free(&buddy) >= block) { /* an aligned one */
                wanted = (unsigned)(buddy_alloc(&buddy, units * PAGE_SIZE, PAGE_SIZE) / PAGE_SIZE);
                runs_take(&runs, wanted, units);
            } else if (random_chance(10)) { /* the end of the one that fits */
                while (wanted + units < RUNS_UNITS && free[wanted + units])
                    wanted++;
                runs_take(&runs, wanted, units);
                buddy_take(&buddy, wanted * PAGE_SIZE, units * PAGE_SIZE);
            } else {
                assert_int_equal(runs_alloc(&runs, units), wanted);
                buddy_take(&buddy, wanted * PAGE_SIZE, units * PAGE_SIZE);
            }
            memset(&free[wanted], false, units);
            held[held_count].first = wanted;
            held[held_count++].units = units;
        } else if (held_count > 0) {
            unsigned victim = (unsigned)random_below(held_count);
            wanted = held[victim].first;
            units = held[victim].units;
            held[victim] = held[--held_count];
            runs_give(&runs, wanted, units);
            buddy_free(&buddy, wanted * PAGE_SIZE, units * PAGE_SIZE);
            memset(&free[wanted], true, units);
        }
        assert_null(buddy_check(&buddy, &offset));
        assert_true(runs_is_consistent(&runs));
        for (unsigned unit = 0; unit < RUNS_UNITS; unit++) {
            assert_int_equal(buddy_is_free(&buddy, unit * PAGE_SIZE), free[unit]);
            assert_int_equal(bits_test(runs.free, unit), free[unit]);
        }
    }
}

/* ---- the heap ---- */

#define ODD_PAGES 17u /* more than a power of two */
#define ODD_BYTES (ODD_PAGES * PAGE_SIZE)

static unsigned char *blocks[200];

static unsigned fill(size_t bytes)
{
    unsigned count = 0;

    while (count < COUNT_OF(blocks) && (blocks[count] = kheap_alloc(heap, bytes)) != NULL)
        count++;
    return count;
}

/* Of one chunk, less is left over than one more block would take. */
static void heap_blocks_of_any_size_lie_side_by_side(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(2));
    uint64_t free = kheap_stats(heap).free_bytes;
    unsigned count = fill(ODD_BYTES);
    assert_int_equal(count, free / ODD_BYTES);
    assert_true(kheap_stats(heap).largest_free_block < ODD_BYTES);
    for (unsigned i = 0; i < count; i++)
        kheap_free(heap, blocks[i]);
    assert_all_free();
}

/* A block that is freed leaves room for one of its size, wherever it begins; for a shorter one, what fits
 * better is taken. */
static void heap_run_goes_where_it_fits_best(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(4));
    unsigned count = fill(ODD_BYTES);
    assert_true(count > 40);
    unsigned char *longer = blocks[4], *exact = blocks[20], *first = blocks[30];
    kheap_free(heap, longer);
    kheap_free(heap, blocks[5]);
    kheap_free(heap, exact);
    assert_ptr_equal(kheap_alloc(heap, ODD_BYTES), exact);
    assert_ptr_equal(kheap_alloc(heap, ODD_BYTES), longer);
    kheap_free(heap, first);
    kheap_free(heap, blocks[31]);
    assert_int_equal(kheap_stats(heap).largest_free_block, 2 * ODD_BYTES);
    assert_ptr_equal(kheap_alloc(heap, ODD_BYTES), blocks[5]);
    assert_ptr_equal(kheap_alloc(heap, 2 * ODD_BYTES), first);
    assert_heap_sound();
}

/* What is aligned beyond its size is a block of the buddy system. */
static void heap_aligned_runs_stand_between_others(void **state)
{
    (void)state;
    heap_set_up(MM_MIB(4));
    unsigned char *odd = kheap_alloc(heap, ODD_BYTES);
    unsigned char *aligned = kheap_alloc_aligned(heap, MM_KIB(128), MM_KIB(128));
    assert_non_null(odd);
    assert_non_null(aligned);
    assert_true(mm_is_aligned((uintptr_t)aligned, MM_KIB(128)));
    assert_heap_sound();
    kheap_free(heap, odd);
    assert_heap_sound();
    kheap_free(heap, aligned);
    assert_all_free();
}

/* ---- what it takes for what lives in it ---- */

static void set_up_large(void)
{
    static struct kheap_config config;
    paddr_t base;

    machine_set_up_simple(&heap_machine, MM_MIB(128));
    config = (struct kheap_config){
        .first_bytes = MM_MIB(4),
        .first_is_zero = true,
        .bytes = MM_MIB(128),
        .base = hhdm_offset(),
        .pmm = &heap_machine.pmm,
    };
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, 1024, MM_MIB(2), PMM_NO_LIMIT, &base));
    config.first = phys_to_virt(base);
    memset(config.first, 0, config.first_bytes);
    assert_ok(kheap_create(&config, &heap));
}

/* State stays for ever, and keeps its chunk from the pmm: it does not fill the small gaps of all chunks, but comes
 * out of one with much room, and then again out of that. */
static void heap_state_comes_out_of_one_chunk(void **state)
{
    uint64_t saved, offsets[30], chunk;
    unsigned count;
    bool zeroed;

    (void)state;
    set_up_large();
    count = fill(ODD_BYTES);
    chunk = ((uintptr_t)blocks[count - 1] - heap->front.base) / HEAP_CHUNK_BYTES;
    saved = mm_port_lock(&heap->lock);
    heap->state_chunk = NULL;
    for (unsigned i = 0; i < COUNT_OF(offsets); i++)
        offsets[i] = heap_run_take_for_state_locked(heap, PAGE_SIZE, &zeroed);
    for (unsigned i = 0; i < COUNT_OF(offsets); i++) {
        assert_int_equal(offsets[i] / HEAP_CHUNK_BYTES, chunk);
        heap_run_give_locked(heap, offsets[i], PAGE_SIZE);
    }
    mm_port_unlock(&heap->lock, saved);
    for (unsigned i = 0; i < count; i++)
        kheap_free(heap, blocks[i]);
    assert_all_free();
}

/* So does what is really taken for state, when there is nothing else for it. */
static void heap_state_that_is_needed_comes_out_of_one_chunk(void **state)
{
    unsigned count, pages = 0;

    (void)state;
    set_up_large();
    count = fill(ODD_BYTES);
    uint64_t chunk = ((uintptr_t)blocks[count - 1] - heap->front.base) / HEAP_CHUNK_BYTES;
    uint64_t saved = mm_port_lock(&heap->lock);
    heap->state_chunk = NULL;
    for (unsigned i = 0; i < 60; i++) {
        uintptr_t page = (uintptr_t)heap_state_alloc_locked(heap, PAGE_SIZE, HEAP_SCARCE);
        assert_int_not_equal(page, 0);
        if (heap_span_at(heap, page) != heap->state_span)
            continue; /* it was kept for state before */
        assert_int_equal((page - heap->front.base) / HEAP_CHUNK_BYTES, chunk);
        pages++;
    }
    mm_port_unlock(&heap->lock, saved);
    assert_int_not_equal(pages, 0);
    for (unsigned i = 0; i < count; i++)
        kheap_free(heap, blocks[i]);
    assert_true(kheap_verify(heap));
}

#define LIVE 3000u

static struct {
    void *block;
    size_t bytes;
} living[LIVE];

static size_t live_bytes;

/* 2^first to 2^last bytes, as many of each doubling. */
static void replace(unsigned first, unsigned last)
{
    size_t at = random_below(LIVE), bytes = (size_t)1 << (first + random_below(last - first));

    kheap_free(heap, living[at].block);
    live_bytes -= living[at].bytes;
    bytes += random_below(bytes);
    living[at].block = kheap_alloc_nozero(heap, bytes);
    living[at].bytes = bytes;
    assert_non_null(living[at].block);
    live_bytes += bytes;
}

/* 16 B to 64 KiB, then small ones only, then all again, then large ones only; at the end nothing may be much
 * larger than what lives. */
static void heap_takes_little_more_than_what_lives(void **state)
{
    (void)state;
    set_up_large();
    memset(living, 0, sizeof living);
    live_bytes = 0;
    for (unsigned phase = 0; phase < 4; phase++)
        for (unsigned i = 0; i < 20 * LIVE; i++)
            replace(phase == 3 ? 10 : 4, phase == 1 ? 10 : 16);
    assert_true(kheap_verify(heap));
    assert_true(kheap_stats(heap).region_bytes < live_bytes + live_bytes / 3);
    for (unsigned i = 0; i < LIVE; i++)
        kheap_free(heap, living[i].block);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_int_equal(kheap_stats(heap).region_bytes, MM_MIB(4));
    assert_true(kheap_verify(heap));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(runs_alloc_takes_the_shortest_run_that_holds),
        TEST(runs_that_are_given_join_their_neighbours),
        TEST(runs_and_blocks_agree_with_a_search),
        TEST(heap_blocks_of_any_size_lie_side_by_side),
        TEST(heap_run_goes_where_it_fits_best),
        TEST(heap_aligned_runs_stand_between_others),
        TEST(heap_state_comes_out_of_one_chunk),
        TEST(heap_state_that_is_needed_comes_out_of_one_chunk),
        TEST(heap_takes_little_more_than_what_lives),
    };

    return RUN_TESTS(tests);
}
