/* SPDX-License-Identifier: MIT */
/* Two CPUs free the same block, and one of them stops at the worst moment: while it does, the other one
 * frees the block, its span ends, and the span's memory is to serve another span. Exactly one free takes
 * effect, the other is reported, and no other block is hit.
 *
 *   the test's CPU    kfree: looks the span up | ......................... | goes on
 *   another CPU                                 frees, drains, allocates
 *
 * The moments are behind each look-up of a span or of a block's number without the lock, and before the
 * lock: the link puts __wrap_heap_span_at(), __wrap_heap_block_index() and __wrap_mm_port_lock() in front
 * of the functions. */
#include "threads.h"

#include "mm/heap_parts.h"

#define NEWCOMERS 300u
#define FILLERS   300u

static struct machine machine;
static struct kheap *heap;
static unsigned moments_to_go; /* 0: nobody is stopped */
static unsigned locks_to_go;   /* the same before the lock */
static void *(*other_cpu)(void *);

static unsigned char *victim;
static bool aligned; /* the victim: its free does not take the short way */
static void *newcomers[NEWCOMERS], *fillers[FILLERS];
static size_t filler_count;

struct heap_span *__real_heap_span_at(const struct kheap *of, vaddr_t address);
struct heap_span *__wrap_heap_span_at(const struct kheap *of, vaddr_t address);
bool __real_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first);
bool __wrap_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first);
uint64_t __real_mm_port_lock(struct mm_port_lock *lock);
uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock);

static void on_other_cpu(void *(*body)(void *))
{
    pthread_t thread;

    threads_start(&thread, 1, body);
    threads_join(&thread, 1);
}

static void a_moment_has_come(void)
{
    if (moments_to_go != 0 && hosted_cpu()->locks_held == 0 && --moments_to_go == 0)
        on_other_cpu(other_cpu);
}

/* What the caller gets was looked up before the other CPU came. */
struct heap_span *__wrap_heap_span_at(const struct kheap *of, vaddr_t address)
{
    struct heap_span *span = __real_heap_span_at(of, address);

    a_moment_has_come();
    return span;
}

bool __wrap_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first)
{
    bool found = __real_heap_block_index(span, address, index, first);

    a_moment_has_come();
    return found;
}

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock)
{
    if (locks_to_go != 0 && lock == &heap->lock && --locks_to_go == 0)
        on_other_cpu(other_cpu);
    return __real_mm_port_lock(lock);
}

/* Frees the victim; where `to_go` gets from `nth` to 0, the other CPU runs `body`.
 *   Returns:  false if it does not get there. */
static bool free_victim_beside(void *(*body)(void *), unsigned *to_go, unsigned nth)
{
    other_cpu = body;
    *to_go = nth;
    kheap_free(heap, victim);
    bool stopped = *to_go == 0;
    *to_go = 0;
    return stopped;
}

static void set_up(void)
{
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(32));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 1024, MM_MIB(1), PMM_NO_LIMIT, &base));
    assert_ok(kheap_init(phys_to_virt(base), MM_MIB(4), NULL, &heap));
}

/* ---- the span's memory serves another span ---- */

static void *take_victim(void *argument)
{
    void *first = kheap_alloc(heap, 64);

    (void)argument;
    /* not the first of its span: no other block begins there */
    victim = aligned ? kheap_alloc_aligned(heap, 64, 64) : kheap_alloc(heap, 64);
    kheap_free(heap, first);
    return NULL;
}

static bool holds(const unsigned char *block, const unsigned char *address)
{
    return address >= block && address < block + kheap_size(heap, block);
}

/* Its pages go to a block of another kind, and the memory of its span to that of the newcomers. */
static void *free_victim_and_take(void *argument)
{
    (void)argument;
    kheap_free(heap, victim);
    kheap_set_level(heap, KHEAP_DEFAULT);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    while (filler_count < FILLERS) {
        unsigned char *filler = kheap_alloc(heap, MM_KIB(10));
        fillers[filler_count] = filler;
        filler_count += filler != NULL;
        if (filler == NULL || holds(filler, victim))
            break;
    }
    for (size_t i = 0; i < NEWCOMERS; i++)
        newcomers[i] = kheap_alloc(heap, 64);
    return NULL;
}

static void free_newcomers(void)
{
    for (size_t i = 0; i < NEWCOMERS; i++) {
        if (newcomers[i] != NULL)
            assert_int_equal(kheap_size(heap, newcomers[i]), 64);
        kheap_free(heap, newcomers[i]);
        newcomers[i] = NULL;
    }
    for (size_t i = 0; i < filler_count; i++)
        kheap_free(heap, fillers[i]);
    filler_count = 0;
}

/* Frees the victim and, at the nth moment, lets the other CPU do so, too.
 *   Returns:  false if there were not so many. */
static bool free_victim_stopped_at(unsigned nth)
{
    struct heap_span *span, *next;

    on_other_cpu(take_victim);
    assert_non_null(victim);
    span = __real_heap_span_at(heap, (uintptr_t)victim);
    bugs_count_begin();
    bool stopped = free_victim_beside(free_victim_and_take, &moments_to_go, nth);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(bugs_count_end(), stopped);
    if (stopped && nth == 1) { /* its pages and its memory were wanted by others */
        next = __real_heap_span_at(heap, (uintptr_t)victim);
        assert_true(next != NULL && next != span);
    }
    free_newcomers();
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_true(kheap_verify(heap));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    return stopped;
}

static void heap_block_freed_twice_at_once_spares_those_of_the_next_span(void **state)
{
    (void)state;
    set_up();
    for (unsigned nth = 1; free_victim_stopped_at(nth); nth++)
        assert_true(nth < 100);
    aligned = true;
    for (unsigned nth = 1; free_victim_stopped_at(nth); nth++)
        assert_true(nth < 100);
    aligned = false;
}

/* A span that was looked at while it ended serves again later: state does not pile up. */
static void state_stays_the_same(unsigned nth)
{
    struct kheap_stats before;

    for (unsigned i = 0; i < 50; i++) /* some may wait for others before all of them serve again */
        assert_true(free_victim_stopped_at(nth));
    before = kheap_stats(heap);
    for (unsigned i = 0; i < 200; i++)
        assert_true(free_victim_stopped_at(nth));
    assert_int_equal(kheap_stats(heap).free_bytes, before.free_bytes);
}

/* Behind the last look-up of the short way, and of the other one that comes after it. */
static void heap_spans_that_were_pinned_serve_again(void **state)
{
    (void)state;
    set_up();
    state_stays_the_same(2);
    aligned = true;
    state_stays_the_same(5);
    aligned = false;
}

/* ---- a run, freed by a CPU that has no cache and so pins nothing ---- */

#define RUN_BYTES MM_KIB(256)

enum place { ELSEWHERE, AROUND, OF_A_CLASS };

static unsigned char *runs[MM_MIB(4) / RUN_BYTES];
static size_t run_count;
static void *newcomer;
static size_t newcomer_bytes;

/* Nothing is left in which the newcomer could stand. */
static void *fill(void *argument)
{
    (void)argument;
    run_count = filler_count = 0;
    while (run_count < COUNT_OF(runs) && (runs[run_count] = kheap_alloc(heap, RUN_BYTES)) != NULL)
        run_count++;
    while (filler_count < FILLERS &&
           (fillers[filler_count] = kheap_alloc(heap, KHEAP_CLASS_MOST)) != NULL)
        filler_count++;
    return NULL;
}

static void *free_all(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < run_count; i++)
        kheap_free(heap, runs[i]);
    for (size_t i = 0; i < filler_count; i++)
        kheap_free(heap, fillers[i]);
    filler_count = 0;
    return NULL;
}

static unsigned char **run_at(const unsigned char *address)
{
    for (size_t i = 0; i < run_count; i++)
        if (runs[i] == address)
            return &runs[i];
    return NULL;
}

/* Takes two runs that are one when both are free out of `runs`; not those at `end`, where others end, nor
 * the first, before which a few pages may be free.
 *   Returns:  the first of them. */
static unsigned char *take_pair(const unsigned char *end)
{
    for (size_t i = 1; i < run_count; i++) {
        unsigned char *run = runs[i];
        if (run == NULL || run == end || run_at(run + RUN_BYTES) == NULL)
            continue;
        *run_at(run + RUN_BYTES) = NULL;
        runs[i] = NULL;
        return run;
    }
    fail_msg("no two runs side by side");
    return NULL;
}

static void *free_victim_and_take_newcomer(void *argument)
{
    (void)argument;
    kheap_free(heap, victim);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    newcomer = kheap_alloc(heap, newcomer_bytes);
    return NULL;
}

/* Frees a run and, where `to_go` gets to 0, lets the other CPU do so, too, and then take a block with the
 * memory of the run's span.
 *   Returns:  false if it does not get there. */
static bool free_run_stopped_at(unsigned *to_go, unsigned nth, enum place place)
{
    struct heap_span *span;
    unsigned char *pair, *other;

    set_up();
    on_other_cpu(fill);
    pair = take_pair(NULL);
    victim = pair + RUN_BYTES;
    other = take_pair(victim + RUN_BYTES);
    newcomer_bytes = place == OF_A_CLASS ? KHEAP_CLASS_MOST : 2 * RUN_BYTES;
    if (place == AROUND)
        kheap_free(heap, pair);
    if (place == ELSEWHERE) {
        kheap_free(heap, other);
        kheap_free(heap, other + RUN_BYTES);
    }
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    span = __real_heap_span_at(heap, (uintptr_t)victim);
    assert_null(heap_cache_at(heap, mm_port_cpu_slot()));
    newcomer = NULL;
    bugs_count_begin();
    bool stopped = free_victim_beside(free_victim_and_take_newcomer, to_go, nth);
    assert_int_equal(bugs_count_end(), stopped);
    if (stopped) {
        assert_ptr_equal(newcomer, place == ELSEWHERE ? other : place == AROUND ? pair : victim);
        assert_ptr_equal(__real_heap_span_at(heap, (uintptr_t)newcomer), span);
        assert_int_equal(kheap_size(heap, newcomer), newcomer_bytes);
    }
    assert_true(kheap_verify(heap));
    kheap_free(heap, newcomer);
    if (place != AROUND)
        kheap_free(heap, pair);
    if (place != ELSEWHERE) {
        kheap_free(heap, other);
        kheap_free(heap, other + RUN_BYTES);
    }
    on_other_cpu(free_all);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_true(kheap_verify(heap));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    return stopped;
}

static void heap_run_that_nobody_has_pinned_spares_the_next_one(void **state)
{
    (void)state;
    for (enum place place = ELSEWHERE; place <= AROUND; place++)
        for (unsigned nth = 1; free_run_stopped_at(&moments_to_go, nth, place); nth++)
            assert_true(nth < 100);
}

/* In the last moment: a block of a class that begins where the run did would still be a wrong free. */
static void heap_run_that_ended_before_the_lock_is_reported(void **state)
{
    (void)state;
    for (enum place place = ELSEWHERE; place <= OF_A_CLASS; place++)
        assert_true(free_run_stopped_at(&locks_to_go, 1, place));
}

static unsigned number_of(const unsigned char *block)
{
    unsigned index = 0;
    bool first;

    assert_true(__real_heap_block_index(__real_heap_span_at(heap, (uintptr_t)block),
                                        (uintptr_t)block, &index, &first));
    return index;
}

/* The victim was allocated at the full level, by a slot without a cache, which pins nothing; what its span's
 * memory serves next has no records. */
static bool free_guarded_victim_stopped_at(unsigned nth)
{
    set_up();
    kheap_set_level(heap, KHEAP_FULL);
    heap->random = 1; /* the same places each time */
    victim = kheap_alloc(heap, 64);
    /* No filler begins there, and the newcomers take a block of its number. */
    while ((uintptr_t)victim % 2048 == 0 || number_of(victim) >= 64) {
        kheap_free(heap, victim);
        victim = kheap_alloc(heap, 64);
    }
    assert_null(heap_cache_at(heap, mm_port_cpu_slot()));
    bugs_count_begin();
    bool stopped = free_victim_beside(free_victim_and_take, &moments_to_go, nth);
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_int_equal(bugs_count_end(), stopped);
    free_newcomers();
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_true(kheap_verify(heap));
    return stopped;
}

static void heap_guarded_block_freed_twice_at_once_is_reported_once(void **state)
{
    unsigned nth = 1;

    (void)state;
    while (free_guarded_victim_stopped_at(nth))
        nth++;
    assert_true(nth > 3 && nth < 100);
}

/* ---- the owner has overwritten what the other CPU did ---- */

#define BLOCKS 600u

static unsigned char *blocks[BLOCKS];

/* The other CPU's list is full of blocks of other spans, so that the free reaches the span. */
static void *free_first_at_last(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < HEAP_REMOTE_MAX; i++)
        kheap_free(heap, blocks[BLOCKS - 1 - i]);
    kheap_free(heap, blocks[0]);
    return NULL;
}

static void heap_second_free_outlives_the_last_block_of_the_span(void **state)
{
    struct heap_span *span;

    (void)state;
    set_up();
    for (size_t i = 0; i < BLOCKS; i++)
        assert_non_null(blocks[i] = kheap_alloc(heap, 512));
    on_other_cpu(free_first_at_last);
    span = __real_heap_span_at(heap, (uintptr_t)blocks[0]);
    assert_int_equal(span->front.owner, mm_port_cpu_slot());
    /* The owner's free had found the block allocated, before the other one's locked step. */
    __atomic_store_n(&span->states[((uintptr_t)blocks[0] - span->front.base) / 512],
                     KHEAP_BYTE_ALLOCATED, __ATOMIC_RELAXED);
    bugs_count_begin();
    kheap_free(heap, blocks[0]);
    for (size_t i = 1; i < BLOCKS - HEAP_REMOTE_MAX; i++)
        kheap_free(heap, blocks[i]);
    assert_int_equal(bugs_counted(), 0);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(bugs_count_end(), 1);
    assert_true(kheap_verify(heap));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_block_freed_twice_at_once_spares_those_of_the_next_span),
        TEST(heap_spans_that_were_pinned_serve_again),
        TEST(heap_run_that_nobody_has_pinned_spares_the_next_one),
        TEST(heap_run_that_ended_before_the_lock_is_reported),
        TEST(heap_guarded_block_freed_twice_at_once_is_reported_once),
        TEST(heap_second_free_outlives_the_last_block_of_the_span),
    };

    return RUN_TESTS(tests);
}
