/* SPDX-License-Identifier: MIT */
/* Owns the test of the list of what is alive (mello.test=leaks, with mm.leaks=on or mm.harden=full).
 *
 *   mark -> each CPU: leaks_small() x 3; CPU 0: leaks_large() -> the heap lists two call sites by name
 *        -> all are freed -> the heap lists nothing
 *
 * The names in the list are for who reads the log to check: tests/boot does.
 * Invariants: each function takes its blocks at one call site of its own. */
#include "kernel/cpu_test_parts.h"
#include "kernel/smp.h"
#include <mm/mm.h>

#define LEAKS_EACH        3u
#define LEAKS_SMALL_BYTES 100u
#define LEAKS_LARGE_BYTES MM_KIB(300)

static void *leaks_blocks[MM_PORT_MAX_CPUS][LEAKS_EACH];

/* The empty assembly behind a call keeps it from becoming a jump, which no call site would be left of. */
static __attribute__((noinline)) void *leaks_small(void)
{
    void *block = kmalloc(LEAKS_SMALL_BYTES);

    __asm__ volatile("" : "+r"(block));
    return block;
}

static __attribute__((noinline)) void *leaks_large(void)
{
    void *block = kmalloc(LEAKS_LARGE_BYTES);

    __asm__ volatile("" : "+r"(block));
    return block;
}

static void leaks_take(void *unused)
{
    void **blocks = leaks_blocks[smp_cpu_number()];

    (void)unused;
    for (unsigned i = 0; i < LEAKS_EACH; i++) {
        blocks[i] = leaks_small();
        if (blocks[i] == NULL)
            cpu_test_fail("no memory for block %u of CPU %u", i, smp_cpu_number());
    }
}

static void leaks_expect(uint64_t mark, uint64_t expected)
{
    uint64_t alive = kheap_report_since(mm_kernel()->heap, mark);

    if (alive != expected)
        cpu_test_fail("%lu blocks are alive since the mark, not %lu", alive, expected);
}

void cpu_test_leaks(void)
{
    uint64_t mark = kheap_mark(mm_kernel()->heap);

    smp_call_all(leaks_take, NULL);
    void *large = leaks_large();
    if (large == NULL)
        cpu_test_fail("no memory for %lu bytes", LEAKS_LARGE_BYTES);
    leaks_expect(mark, LEAKS_EACH * smp_cpu_count() + 1);
    for (unsigned cpu = 0; cpu < smp_cpu_count(); cpu++)
        for (unsigned i = 0; i < LEAKS_EACH; i++)
            kfree(leaks_blocks[cpu][i]);
    kfree(large);
    leaks_expect(mark, 0);
}
