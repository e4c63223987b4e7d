/* SPDX-License-Identifier: MIT */
/* Owns the test of mm_port_cpu_barrier(): what mm's per-CPU caches ask of it, and nothing else.
 *
 *   OWNER (each CPU but 0), n = 1, 2, ...        THIEF (CPU 0), k = 1, 2, ...
 *     place := n        a plain store              word := k              a plain store
 *     compiler barrier                             mm_port_cpu_barrier()
 *     seen := word      a plain load               found := place
 *
 * The owner's load may be done before its store is visible: that is the x86 memory model, and why
 * the fast path of a cache is fast. With the barrier, an owner that did not see k yet in its turn
 * n - 1 must have been found at n - 1 or later; without it, the thief finds older turns. Where CPUs take
 * turns on one of the host nothing is reordered: an owner that stores late stands in for one there.
 * Invariant: an owner notes the first turn in which it saw k before it says that it has. */
#include "kernel/cpu_test_parts.h"
#include "kernel/smp.h"
#include <mm/port.h>

#define BARRIER_LOOKS          600u
#define BARRIER_LOOKS_LEFT_OUT 100000u /* ends with the first store that is missed */
#define BARRIER_LATE           1000u   /* pauses from an owner's load to its store */
#define BARRIER_LINE           64
#define BARRIER_COMPILER()     __asm__ volatile("" : : : "memory")

static struct {
    volatile uint64_t place __attribute__((aligned(BARRIER_LINE)));
    uint64_t first_turn; /* in which it saw `told` */
    uint32_t told;       /* the last k that it has seen; atomic */
} barrier_owners[MM_PORT_MAX_CPUS];

static volatile uint32_t barrier_word __attribute__((aligned(BARRIER_LINE)));
static enum { BARRIER_CALLED, BARRIER_LEFT_OUT, BARRIER_STORES_LATE } barrier_way;
static uint32_t barrier_looks; /* of the thief, at most */

/* The turn is told, then the word is read. */
static uint32_t barrier_store(unsigned number, uint64_t turn)
{
    barrier_owners[number].place = turn;
    BARRIER_COMPILER();
    return barrier_word;
}

/* What it looks like from outside when the load is done before the store is visible. */
static uint32_t barrier_store_late(unsigned number, uint64_t turn)
{
    uint32_t seen = barrier_word;

    for (unsigned i = 0; i < BARRIER_LATE; i++)
        __builtin_ia32_pause();
    barrier_owners[number].place = turn;
    return seen;
}

static void barrier_own(unsigned number)
{
    uint32_t told = 0;

    for (uint64_t turn = 1; told < barrier_looks && !cpu_test_has_failed(); turn++) {
        uint32_t seen;

        seen = barrier_way == BARRIER_STORES_LATE ? barrier_store_late(number, turn)
                                                  : barrier_store(number, turn);
        if (seen == told)
            continue;
        told = seen;
        barrier_owners[number].first_turn = turn;
        __atomic_store_n(&barrier_owners[number].told, told, __ATOMIC_RELEASE);
    }
}

static void barrier_steal(uint32_t k)
{
    uint64_t found[MM_PORT_MAX_CPUS];

    barrier_word = k;
    if (barrier_way == BARRIER_CALLED)
        mm_port_cpu_barrier();
    else
        BARRIER_COMPILER();
    for (unsigned i = 1; i < smp_cpu_count(); i++)
        found[i] = barrier_owners[i].place;
    for (unsigned i = 1; i < smp_cpu_count(); i++) {
        if (!cpu_test_wait(&barrier_owners[i].told, k, "the owners"))
            return;
        if (found[i] + 1 < barrier_owners[i].first_turn)
            cpu_test_fail("look %u at CPU %u found its store %lu, not %lu, %s", k, i, found[i],
                          barrier_owners[i].first_turn - 1,
                          barrier_way == BARRIER_CALLED ? "with mm_port_cpu_barrier()"
                                                        : "without a barrier");
    }
}

static void barrier_thread(void *unused)
{
    unsigned number = smp_cpu_number();

    (void)unused;
    if (!cpu_test_meet(1))
        return;
    if (number != 0)
        barrier_own(number);
    for (uint32_t k = 1; number == 0 && k <= barrier_looks && !cpu_test_has_failed(); k++)
        barrier_steal(k);
}

void cpu_test_barrier(void)
{
    barrier_way = BARRIER_CALLED;
    barrier_looks = BARRIER_LOOKS;
    smp_call_all(barrier_thread, NULL);
}

void cpu_test_barrier_left_out(void)
{
    barrier_way = BARRIER_LEFT_OUT;
    barrier_looks = BARRIER_LOOKS_LEFT_OUT;
    smp_call_all(barrier_thread, NULL);
}

void cpu_test_barrier_stores_late(void)
{
    barrier_way = BARRIER_STORES_LATE;
    barrier_looks = BARRIER_LOOKS_LEFT_OUT;
    smp_call_all(barrier_thread, NULL);
}
