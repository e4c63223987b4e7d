/* SPDX-License-Identifier: MIT */
/* Many CPUs at once: frames, heap blocks and mappings under contention, and bugs of which exactly
 * one CPU may win. Each thread is a CPU with interrupts, registers and TLB of its own.
 * ThreadSanitizer runs this program too. Threads only count; what they counted is judged after they
 * are joined, by the thread that runs the test. */
#include "threads.h"
#include "walker.h"

#include "mm/heap_parts.h"

#include <string.h>

#define THREADS 4u

static struct machine machine;
static struct kheap *heap;
static struct address_space space;

static unsigned bugs, violations, errors, torn_lines;

/* A line is whole, or somebody wrote into another's buffer. */
static void on_log(enum mm_log_level level, const char *line)
{
    size_t length = strlen(line);

    if (strncmp(line, "[MM] ", 5) != 0 || length >= MM_LOG_LINE_MAX || strchr(line, '\n') != NULL)
        count(&torn_lines);
    if (level == MM_LOG_ERROR)
        count(&errors);
}

static void on_bug(const char *line)
{
    (void)line;
    count(&bugs);
}

static void on_violation(const char *what)
{
    (void)what;
    count(&violations);
}

static void set_up(void)
{
    struct hosted_hooks hooks = *support_hooks();
    struct mm_cpu_features features = features_of(4, 52, true);
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(32));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 1024, MM_MIB(1), PMM_NO_LIMIT, &base));
    assert_ok(kheap_init(phys_to_virt(base), MM_MIB(4), NULL, &heap));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    bugs = violations = errors = torn_lines = 0;
    hooks.log = on_log;
    hooks.bug = on_bug;
    hooks.violation = on_violation;
    hosted_set_hooks(&hooks);
}

static void run_threads(void *(*body)(void *))
{
    threads_run(THREADS, body);
    assert_int_equal(counted(&violations), 0);
    assert_int_equal(counted(&torn_lines), 0);
}

static unsigned rounds(unsigned usual)
{
    return support_is_sanitized() ? usual / 4 : usual;
}

/* ---- Frames ---- */

static void *frames_body(void *argument)
{
    uint64_t random = (uintptr_t)argument, self = (uintptr_t)argument;
    paddr_t own[64] = { 0 };
    uint64_t counts[64] = { 0 };

    for (unsigned i = 0; i < rounds(20000); i++) {
        size_t slot = next_random(&random) % 64;
        uint64_t *memory;

        if (counts[slot] != 0) {
            memory = phys_to_virt(own[slot]);
            if (memory[0] != self || memory[counts[slot] * 512 - 1] != self)
                count(&errors);
            if (counts[slot] == 1)
                pmm_free_frame(&machine.pmm, own[slot]);
            else
                pmm_free_contiguous(&machine.pmm, own[slot], counts[slot]);
            counts[slot] = 0;
            continue;
        }
        counts[slot] = next_random(&random) % 8 == 0 ? 1 + next_random(&random) % 16 : 1;
        if ((counts[slot] == 1 ? pmm_alloc_frame(&machine.pmm, &own[slot])
                               : pmm_alloc_contiguous(&machine.pmm, counts[slot], FRAME_SIZE,
                                                      PMM_NO_LIMIT, &own[slot])) != MM_OK) {
            count(&errors);
            counts[slot] = 0;
            continue;
        }
        memory = phys_to_virt(own[slot]);
        if (!is_zero(memory, counts[slot] * FRAME_SIZE))
            count(&errors);
        memory[0] = memory[counts[slot] * 512 - 1] = self;
    }
    for (size_t slot = 0; slot < 64; slot++)
        if (counts[slot] != 0)
            pmm_free_contiguous(&machine.pmm, own[slot], counts[slot]);
    return NULL;
}

static void threads_share_no_frame(void **state)
{
    struct pmm_stats before;

    (void)state;
    set_up();
    before = pmm_stats(&machine.pmm);
    run_threads(frames_body);
    assert_int_equal(counted(&errors), 0);
    assert_int_equal(counted(&bugs), 0);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    assert_pmm_sound(&machine.pmm);
}

/* ---- Heap ---- */

static void *heap_body(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    unsigned char *own[64] = { NULL };
    size_t sizes[64] = { 0 };

    for (unsigned i = 0; i < rounds(40000); i++) {
        size_t slot = next_random(&random) % 64;

        if (own[slot] != NULL) {
            if (own[slot][0] != (unsigned char)(uintptr_t)argument ||
                own[slot][sizes[slot] - 1] != (unsigned char)(uintptr_t)argument)
                count(&errors);
            kheap_free(heap, own[slot]);
            own[slot] = NULL;
            continue;
        }
        sizes[slot] = 1 + next_random(&random) % (1u << (4 + next_random(&random) % 10));
        own[slot] = kheap_alloc(heap, sizes[slot]);
        if (own[slot] == NULL || !is_zero(own[slot], sizes[slot])) {
            count(&errors);
            continue;
        }
        memset(own[slot], (int)(uintptr_t)argument, sizes[slot]);
    }
    for (size_t slot = 0; slot < 64; slot++)
        kheap_free(heap, own[slot]);
    return NULL;
}

static void threads_share_no_heap_block(void **state)
{
    (void)state;
    set_up();
    run_threads(heap_body);
    assert_int_equal(counted(&errors), 0);
    assert_int_equal(counted(&bugs), 0);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(kheap_stats(heap).largest_free_block, MAX_BLOCK_SIZE);
    assert_true(kheap_verify(heap));
}

/* A handler that comes in as soon as the caches were drained, and takes all there is. (The linker puts
 * the first function in the place of the second: tests/host/host.mk.) */
static bool thief_waits;
static void *stolen[4096];
static size_t stolen_blocks;

void __wrap_mm_port_cpu_barrier(void);
void __real_mm_port_cpu_barrier(void);

void __wrap_mm_port_cpu_barrier(void)
{
    __real_mm_port_cpu_barrier();
    if (thief_waits) {
        thief_waits = false;
        hosted_interrupt_raise(0); /* comes in when the heap's lock is released */
    }
}

static void steal_all(void)
{
    while (stolen_blocks < sizeof stolen / sizeof stolen[0] &&
           (stolen[stolen_blocks] = kheap_alloc(heap, 1024)) != NULL)
        stolen_blocks++;
}

/* Size classes, one after the other, keep a span each, until there are no pages for one more. */
static void fill_caches(size_t but_not)
{
    for (unsigned i = KHEAP_CLASS_LARGE;
         i > 0 && kheap_stats(heap).largest_free_block >= MM_KIB(32); i--)
        if (kheap_class_bytes(i - 1) / 2 > but_not || kheap_class_bytes(i - 1) < but_not)
            kheap_free(heap, kheap_alloc(heap, kheap_class_bytes(i - 1)));
    assert_true(kheap_stats(heap).largest_free_block < MM_KIB(32));
}

/* The caches hold all memory, and the thief takes what comes back: who asked first has his block. */
static void heap_gives_what_it_drained_to_who_drained_it(void **state)
{
    static const size_t sizes[] = { 3000, 60000, 200000 };
    void *large[3], *block;

    (void)state;
    assert_true(hosted_interrupt_attach(0, 0, steal_all));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        set_up();
        for (size_t j = 0; j < 3; j++)
            assert_non_null(large[j] = kheap_alloc(heap, MAX_BLOCK_SIZE));
        fill_caches(sizes[i]);
        stolen_blocks = 0;
        thief_waits = true;
        assert_non_null(block = kheap_alloc(heap, sizes[i]));
        assert_false(thief_waits);
        assert_true(stolen_blocks > 0);
        kheap_free(heap, block);
        while (stolen_blocks > 0)
            kheap_free(heap, stolen[--stolen_blocks]);
        for (size_t j = 0; j < 3; j++)
            kheap_free(heap, large[j]);
        kheap_drain(heap, KHEAP_ALL_SLOTS);
        assert_int_equal(kheap_stats(heap).used_blocks, 0);
        assert_int_equal(kheap_stats(heap).largest_free_block, MAX_BLOCK_SIZE);
        assert_true(kheap_verify(heap));
    }
    hosted_interrupt_detach(0);
}

/* ---- Another free comes in where the heap is about to take its lock ---- */

static unsigned locks_to_go; /* 0: nobody waits */
static void *victim, *newcomer;
static size_t newcomer_bytes; /* 0: none comes */

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock);
uint64_t __real_mm_port_lock(struct mm_port_lock *lock);

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock)
{
    if (locks_to_go != 0 && lock == &heap->lock && --locks_to_go == 0)
        hosted_interrupt_raise(0);
    return __real_mm_port_lock(lock);
}

static void free_victim(void)
{
    kheap_free(heap, victim);
    if (newcomer_bytes != 0)
        newcomer = kheap_alloc(heap, newcomer_bytes);
}

/* Frees the victim, and once more before the lock is taken for the `nth` time.
 *   Returns:  false if it is not taken so often. */
static bool free_again_at_lock(unsigned nth)
{
    locks_to_go = nth;
    bugs = 0;
    kheap_free(heap, victim);
    if (locks_to_go == 0)
        return true;
    locks_to_go = 0;
    assert_int_equal(counted(&bugs), 0);
    return false;
}

/* Who comes second may be either; when it is over, the pages are another block's. */
static void heap_run_freed_twice_at_once_spares_the_next_one(void **state)
{
    (void)state;
    set_up();
    assert_true(hosted_interrupt_attach(0, 0, free_victim));
    newcomer_bytes = MM_KIB(500);
    for (unsigned nth = 1;; nth++) {
        void *beside;
        victim = kheap_alloc(heap, MM_KIB(100));
        beside = kheap_alloc(heap, MM_KIB(100)); /* so the newcomer stands elsewhere */
        newcomer = NULL;
        assert_non_null(victim);
        if (!free_again_at_lock(nth)) {
            kheap_free(heap, beside);
            assert_true(nth > 1);
            break;
        }
        assert_int_equal(counted(&bugs), 1);
        assert_non_null(newcomer);
        assert_ptr_not_equal(newcomer, victim);
        assert_int_equal(kheap_size(heap, newcomer), MM_KIB(500));
        assert_true(kheap_verify(heap));
        kheap_free(heap, newcomer);
        kheap_free(heap, beside);
        assert_int_equal(counted(&bugs), 1);
        assert_int_equal(kheap_stats(heap).used_blocks, 0);
    }
    newcomer_bytes = 0;
    hosted_interrupt_detach(0);
}

/* Guarded blocks: when they are freed, and when they leave the quarantine. */
static void heap_guarded_block_freed_twice_at_once_is_reported(void **state)
{
    static const size_t sizes[] = { 64, 5000, 100000 };

    (void)state;
    assert_true(hosted_interrupt_attach(0, 0, free_victim));
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        bool again = true;
        set_up();
        kheap_record_sites(heap, true);
        kheap_set_level(heap, i % 2 != 0 ? KHEAP_FULL : KHEAP_DEFAULT);
        for (unsigned nth = 1; again; nth++) {
            assert_non_null(victim = kheap_alloc(heap, sizes[i / 2]));
            again = free_again_at_lock(nth);
            assert_int_equal(counted(&bugs), again);
            kheap_drain(heap, KHEAP_ALL_SLOTS);
            assert_int_equal(kheap_stats(heap).used_blocks, 0);
            assert_true(kheap_verify(heap));
        }
        for (unsigned nth = 1; nth < 8; nth++) {
            assert_non_null(victim = kheap_alloc(heap, sizes[i / 2]));
            kheap_free(heap, victim);
            bugs = 0;
            locks_to_go = nth;
            kheap_drain(heap, KHEAP_ALL_SLOTS);
            again = locks_to_go == 0;
            locks_to_go = 0;
            assert_int_equal(counted(&bugs), again);
            assert_int_equal(kheap_stats(heap).used_blocks, 0);
            assert_true(kheap_verify(heap));
        }
    }
    hosted_interrupt_detach(0);
}

/* ---- Everybody frees the same: one takes effect, all others are reported ---- */

#define SHARED 200u

static void *shared_blocks[SHARED];
static paddr_t shared_frames[SHARED];

static void *free_the_same_body(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < SHARED; i++) {
        threads_meet();
        kheap_free(heap, shared_blocks[i]);
        pmm_free_frame(&machine.pmm, shared_frames[i]);
    }
    return NULL;
}

static void threads_free_the_same_and_one_wins(void **state)
{
    struct pmm_stats before;

    (void)state;
    set_up();
    before = pmm_stats(&machine.pmm);
    for (size_t i = 0; i < SHARED; i++) {
        shared_blocks[i] = kheap_alloc(heap, 64);
        assert_ok(pmm_alloc_frame(&machine.pmm, &shared_frames[i]));
    }
    run_threads(free_the_same_body);
    assert_int_equal(counted(&bugs), 2 * SHARED * (THREADS - 1));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    assert_pmm_sound(&machine.pmm);
}

/* ---- Mappings ---- */

#define CONTESTED ((vaddr_t)0xffffc00000000000)

static unsigned maps_won, unmaps_won;

/* All map and unmap the same few pages: each success of one side is matched by one of the other. */
static void *mappings_body(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    for (unsigned i = 0; i < rounds(10000); i++) {
        vaddr_t page = CONTESTED + (next_random(&random) % 4) * MM_MIB(2);
        mm_status_t status;

        if (next_random(&random) % 2 == 0) {
            status = paging_map_page(&space, page, (uintptr_t)argument << 12, PAGING_WRITE);
            if (status == MM_OK)
                count(&maps_won);
            else if (status != MM_ALREADY_MAPPED)
                count(&errors);
        } else {
            paddr_t frame = 0;

            status = paging_unmap_page(&space, page, &frame);
            if (status == MM_OK)
                count(&unmaps_won);
            if (status == MM_OK && (frame == 0 || frame > THREADS << 12))
                count(&errors);
        }
    }
    return NULL;
}

static void threads_map_the_same_pages_and_one_wins(void **state)
{
    uint64_t left;
    struct pmm_stats before;

    (void)state;
    set_up();
    before = pmm_stats(&machine.pmm);
    maps_won = unmaps_won = 0;
    run_threads(mappings_body);
    assert_int_equal(counted(&errors), 0);
    assert_true(counted(&maps_won) > 0);
    left = space.stats.leaves[0];
    assert_int_equal(counted(&maps_won) - counted(&unmaps_won), left);
    assert_space_sound(&space);
    for (vaddr_t page = CONTESTED; page < CONTESTED + MM_MIB(8); page += MM_MIB(2))
        left -= paging_unmap_page(&space, page, NULL) == MM_OK;
    assert_int_equal(left, 0);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
}

/* ---- Everything that logs, at debug ---- */

static void *logging_body(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    for (unsigned i = 0; i < rounds(4000); i++) {
        paddr_t frame;

        kheap_free(heap, kheap_alloc(heap, 1 + next_random(&random) % 4096));
        if (pmm_alloc_frame(&machine.pmm, &frame) == MM_OK)
            pmm_free_frame(&machine.pmm, frame);
    }
    return NULL;
}

static void threads_log_whole_lines(void **state)
{
    (void)state;
    set_up();
    mm_log_level = MM_LOG_DEBUG;
    run_threads(logging_body);
    assert_int_equal(counted(&errors), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(threads_share_no_frame),
        TEST(threads_share_no_heap_block),
        TEST(heap_gives_what_it_drained_to_who_drained_it),
        TEST(heap_run_freed_twice_at_once_spares_the_next_one),
        TEST(heap_guarded_block_freed_twice_at_once_is_reported),
        TEST(threads_free_the_same_and_one_wins),
        TEST(threads_map_the_same_pages_and_one_wins),
        TEST(threads_log_whole_lines),
    };

    return RUN_TESTS(tests);
}
