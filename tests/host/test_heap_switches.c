/* SPDX-License-Identifier: MIT */
/* The heap's switches are thrown by several CPUs at once, while others allocate and free: each change is
 * made, and the caches are on in the end if nothing wants them off. ThreadSanitizer runs this program,
 * too. Threads only count; what they counted is judged after they are joined. */
#include "threads.h"

#include "mm/heap_parts.h"

#define SWITCHERS 3u
#define WORKERS   2u
#define ROUNDS    200u

static struct machine machine;
static struct kheap *heap;
static unsigned failures;

static void on_violation(const char *what)
{
    (void)what;
    count(&failures);
}

static void on_bug(const char *line)
{
    (void)line;
    count(&failures);
}

static void on_log(enum mm_log_level level, const char *line)
{
    (void)level;
    (void)line;
}

static void set_up(void)
{
    struct hosted_hooks hooks = *support_hooks();
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(32));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 2048, MM_MIB(1), PMM_NO_LIMIT, &base));
    assert_ok(kheap_init(phys_to_virt(base), MM_MIB(8), NULL, &heap));
    failures = 0;
    hooks.log = on_log;
    hooks.bug = on_bug;
    hooks.violation = on_violation;
    hosted_set_hooks(&hooks);
}

/* Sizes that nobody asks for here: the caches are off, and nothing fails. */
static const struct kheap_faults no_fault = { .every = 1, .least = MM_MIB(2) };

static void throw_switch(size_t which, bool on)
{
    if (which == 1)
        kheap_set_level(heap, on ? KHEAP_FULL : KHEAP_DEFAULT);
    else if (which == 2)
        kheap_record_sites(heap, on);
    else
        kheap_inject(heap, on ? &no_fault : NULL);
}

static void work(uint64_t *random)
{
    unsigned char *block = kheap_alloc(heap, 1 + next_random_below(random, 5000));

    if (block == NULL || block[0] != 0)
        count(&failures);
    if (block != NULL)
        block[0] = 1;
    kheap_free(heap, block);
}

static bool ends_on; /* how each switch stands in the end */

static void *body(void *argument)
{
    size_t self = (uintptr_t)argument;
    uint64_t random = self;

    threads_meet();
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (self > SWITCHERS)
            for (unsigned j = 0; j < 8; j++)
                work(&random);
        else
            throw_switch(self, i + 1 == ROUNDS ? ends_on : i % 2 == 0);
    }
    return NULL;
}

static void heap_switches_of_several_cpus_are_all_made(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        set_up();
        ends_on = i % 2 != 0;
        threads_run(SWITCHERS + WORKERS, body);
        assert_int_equal(counted(&failures), 0);
        assert_int_equal(heap->guards, ends_on ? HEAP_GUARD_FULL | HEAP_GUARD_SITES : 0);
        assert_int_equal(heap->faults.on, ends_on);
        assert_int_equal(heap->off, ends_on);
        for (size_t which = 1; which <= SWITCHERS; which++)
            throw_switch(which, false);
        assert_false(heap->off);
        kheap_drain(heap, KHEAP_ALL_SLOTS);
        assert_int_equal(kheap_stats(heap).used_blocks, 0);
        assert_true(kheap_verify(heap));
    }
}

/* One change comes in where another one is about to take the heap's lock, on the same CPU: the port's lock
 * is what makes them one after the other. */
static unsigned locks_to_go; /* 0: none comes */

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock);
uint64_t __real_mm_port_lock(struct mm_port_lock *lock);

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock)
{
    if (heap != NULL && lock == &heap->lock && locks_to_go != 0 && --locks_to_go == 0)
        kheap_record_sites(heap, true);
    return __real_mm_port_lock(lock);
}

static void heap_switch_between_the_steps_of_another_stays(void **state)
{
    (void)state;
    for (unsigned nth = 1;; nth++) {
        set_up();
        kheap_set_level(heap, KHEAP_FULL);
        locks_to_go = nth;
        kheap_set_level(heap, KHEAP_DEFAULT);
        bool came = locks_to_go == 0;
        locks_to_go = 0;
        if (!came) {
            assert_true(nth > 1);
            return;
        }
        assert_int_equal(heap->guards, HEAP_GUARD_SITES);
        assert_true(heap->off);
        kheap_record_sites(heap, false);
        assert_false(heap->off);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_switches_of_several_cpus_are_all_made),
        TEST(heap_switch_between_the_steps_of_another_stays),
    };

    return RUN_TESTS(tests);
}
