/* SPDX-License-Identifier: MIT */
/* Measures workloads with the time-stamp counter and prints what one operation takes.
 *
 *   run once (caches and magazines fill) -> [tsc] run again [tsc] -> minus an empty pair -> / count
 *                                           what a workload only needs to be there is not timed
 *
 * Under QEMU's -icount shift=0 the counter goes up by one with each instruction, so the result is the
 * same in every run and on every host; a block of 1000 nops tells whether that is so. Interrupts are
 * off while a workload is timed: the timer's handler would count. A machine with little memory leaves out,
 * by name, what it has no memory for; on any other that is an error. */
#include "kernel/bench.h"
#include "kernel/bench_parts.h"

#include "arch/x86_64/cpu.h"
#include "kernel/console.h"

#define BENCH_ENOUGH_BYTES MM_MIB(32) /* of free memory: each workload can be run */

static const struct {
    unsigned bit;
    const struct bench_part *part;
} bench_parts[] = {
    { MM_BENCH_FRAMES, &bench_frames },
    { MM_BENCH_PAGING, &bench_paging },
    { MM_BENCH_HEAP, &bench_heap },
};

/* What two readings one after the other take; the least of many. */
static uint64_t bench_empty_pair(void)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < 100; i++) {
        uint64_t start = cpu_read_tsc();
        uint64_t ticks = cpu_read_tsc() - start;

        if (ticks < least)
            least = ticks;
    }
    return least;
}

/* True where the clock counts instructions: the first reading, the copy and 1000 that do nothing. In
 * one piece, so that no compiler puts anything of its own between the readings. */
static bool bench_counts_instructions(void)
{
    uint32_t ticks, high, start;

    __asm__ volatile("rdtsc\n\tmovl %%eax, %2\n\t.rept 1000\n\tnop\n\t.endr\n\t"
                     "rdtsc\n\tsubl %2, %%eax"
                     : "=a"(ticks), "=d"(high), "=&r"(start)
                     :
                     : "cc");
    (void)high;
    return ticks == 1002;
}

static uint64_t bench_free_bytes(void)
{
    return pmm_stats(&mm_kernel()->pmm).free_frames * FRAME_SIZE;
}

/* Two readings of the counter; no second one yet: end 0. */
static struct {
    uint64_t start;
    uint64_t end;
} bench_clock;

void bench_clock_start(void)
{
    bench_clock.end = 0;
    bench_clock.start = cpu_read_tsc();
}

void bench_clock_stop(void)
{
    bench_clock.end = cpu_read_tsc();
}

/* Once for the caches, once on time. */
static bool bench_time(const struct bench_part *part, const struct bench_work *work,
                       uint64_t *ticks)
{
    struct mm *mm = mm_kernel();
    bool done;

    if (part->begin != NULL && !part->begin(mm))
        return false;
    cpu_interrupts_off();
    done = work->run(mm, work->count);
    bench_clock_start();
    done = done && work->run(mm, work->count);
    if (bench_clock.end == 0)
        bench_clock_stop();
    *ticks = bench_clock.end - bench_clock.start;
    cpu_interrupts_on();
    if (part->end != NULL)
        part->end(mm);
    return done;
}

/* What could not be run.
 *   Returns:  true if that is right on this machine. */
static bool bench_leave_out(const struct bench_part *part, const struct bench_work *work,
                            uint64_t free_bytes)
{
    bool skipped = free_bytes < BENCH_ENOUGH_BYTES;

    console_print("[BENCH] %ssuite=%s workload=%s %s", skipped ? "" : "ERROR: ", part->name,
                  work->name, skipped ? "skipped: too little memory" : "could not be run");
    return skipped;
}

static bool bench_run_work(const struct bench_part *part, const struct bench_work *work)
{
    uint64_t empty_pair = bench_empty_pair(), free_bytes = bench_free_bytes(), ticks;
    const char *unit;

    cpu_interrupts_off();
    unit = bench_counts_instructions() ? "insn" : "ticks";
    cpu_interrupts_on();
    if (!bench_time(part, work, &ticks))
        return bench_leave_out(part, work, free_bytes);
    ticks -= empty_pair;
    console_print("[BENCH] suite=%s workload=%s unit=%s value=%lu", part->name, work->name, unit,
                  (ticks + work->count / 2) / work->count);
    return true;
}

static bool bench_run_part(const struct bench_part *part)
{
    bool done = true;

    for (size_t i = 0; i < part->work_count; i++)
        done &= bench_run_work(part, &part->works[i]);
    return done;
}

bool bench_run(unsigned suites)
{
    bool done = true;

    for (size_t i = 0; i < sizeof(bench_parts) / sizeof(bench_parts[0]); i++)
        if ((suites & bench_parts[i].bit) != 0)
            done &= bench_run_part(bench_parts[i].part);
    return done;
}
