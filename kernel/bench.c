/* SPDX-License-Identifier: MIT */
/* Measures workloads with the time-stamp counter and prints what one operation takes.
 *
 *   run once (caches and magazines fill) -> [tsc] run again [tsc] -> minus an empty pair -> / count
 *
 * Under QEMU's -icount shift=0 the counter goes up by one with each instruction, so the result is the
 * same in every run and on every host; a block of 1000 nops tells whether that is so. Interrupts are
 * off while a workload is timed: the timer's handler would count. */
#include "kernel/bench.h"
#include "kernel/bench_parts.h"

#include "arch/x86_64/cpu.h"
#include "kernel/console.h"

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

static bool bench_counts_instructions(uint64_t empty_pair)
{
    uint64_t start = cpu_read_tsc();

    __asm__ volatile(".rept 1000\n\tnop\n\t.endr");
    return cpu_read_tsc() - start - empty_pair == 1000;
}

static bool bench_time(struct mm *mm, const struct bench_work *work, uint64_t *ticks)
{
    uint64_t start;
    bool done;

    cpu_interrupts_off();
    done = work->run(mm, work->count);
    start = cpu_read_tsc();
    done = done && work->run(mm, work->count);
    *ticks = cpu_read_tsc() - start;
    cpu_interrupts_on();
    return done;
}

static bool bench_run_work(const struct bench_part *part, const struct bench_work *work)
{
    uint64_t empty_pair = bench_empty_pair(), ticks;
    const char *unit;

    cpu_interrupts_off();
    unit = bench_counts_instructions(empty_pair) ? "insn" : "ticks";
    cpu_interrupts_on();
    if (!bench_time(mm_kernel(), work, &ticks)) {
        console_print("[BENCH] ERROR: suite=%s workload=%s could not be run", part->name,
                      work->name);
        return false;
    }
    ticks -= empty_pair;
    console_print("[BENCH] suite=%s workload=%s unit=%s value=%lu", part->name, work->name, unit,
                  (ticks + work->count / 2) / work->count);
    return true;
}

static bool bench_run_part(const struct bench_part *part)
{
    bool done = true;

    if (part->begin != NULL && !part->begin(mm_kernel())) {
        console_print("[BENCH] ERROR: suite=%s: too little memory", part->name);
        return false;
    }
    for (size_t i = 0; i < part->work_count; i++)
        done &= bench_run_work(part, &part->works[i]);
    if (part->end != NULL)
        part->end(mm_kernel());
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
