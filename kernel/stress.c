/* SPDX-License-Identifier: MIT */
/* Owns the course of the stress test: rounds of half a second, a check after each, the report.
 *
 *   all CPUs:  thread of control   items, own pages, common pages, calls to the other CPUs
 *              timer handler       items; reads common pages; half of the time with interrupts on,
 *                                  so that a call nests in it
 *              call handler        items
 *   between rounds, boot CPU alone: every stamp, the frames' bitmaps, the heap's blocks, and that
 *              what is taken out is what the items and pages make
 *
 * Invariants: while a check runs, no other CPU is inside the test, in any context. The first error
 * is kept and ends the round on all CPUs; nothing is freed after an error. Which numbers a context
 * draws is fixed by STRESS_SEED and its CPU; how the CPUs' steps mix is the machine's. */
#include "kernel/stress.h"
#include "arch/x86_64/cpu.h"
#include "kernel/shootdown.h"
#include "kernel/smp.h"
#include "kernel/stress_parts.h"

#define STRESS_ROUND_MS    500u
#define STRESS_ROUND_STEPS 20000u /* where there is no clock, for each CPU */
#define STRESS_PROGRESS_MS 5000u
#define STRESS_BLOCK_MOST  MM_KIB(32)
#define STRESS_TIMER_BLOCK MM_KIB(1) /* small blocks only, in handlers */
#define STRESS_TIMER_STEPS 4u
#define STRESS_NONE        0u /* of `stress_error`: no error; being written; complete */
#define STRESS_WRITING     1u
#define STRESS_COMPLETE    2u

/* What was taken out of mm before the test began. */
struct stress_before {
    struct pmm_stats frames;
    struct kheap_stats heap;
    struct kvm_stats kvm;
    uint64_t tables; /* of the kernel's address space */
    uint64_t interrupts;
    uint64_t injected; /* failures of mm.fail= */
};

static struct stress_cpu *stress_cpus[MM_PORT_MAX_CPUS];
static struct stress_before stress_before;
static uint64_t stress_round_end_ms;
static struct stress_holdings stress_failures; /* until the last check; no frames, no blocks */
static uint32_t stress_stop;                   /* 1: the round is over; atomic */
static uint32_t stress_error;                  /* STRESS_NONE, _WRITING, _COMPLETE; atomic */
static char stress_error_text[MM_LOG_LINE_MAX - 32];

struct stress_cpu *stress_cpu(unsigned number)
{
    return stress_cpus[number];
}

/* ---- Errors ---- */

void stress_fail(const char *format, ...)
{
    uint32_t none = STRESS_NONE;
    va_list arguments;

    if (__atomic_compare_exchange_n(&stress_error, &none, STRESS_WRITING, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED)) {
        va_start(arguments, format);
        (void)mm_vformat(stress_error_text, sizeof(stress_error_text), format, arguments);
        va_end(arguments);
        __atomic_store_n(&stress_error, STRESS_COMPLETE, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&stress_stop, 1, __ATOMIC_RELEASE);
}

static bool stress_has_failed(void)
{
    return __atomic_load_n(&stress_error, __ATOMIC_ACQUIRE) != STRESS_NONE;
}

/* ---- Time ---- */

static bool stress_has_clock(void)
{
    return mm_port_time_ns() != 0 || smp_info()->timer_hz != 0;
}

static uint64_t stress_now_ms(void)
{
    uint64_t ns = mm_port_time_ns();
    uint32_t hz = smp_info()->timer_hz;

    if (ns != 0 || hz == 0)
        return ns / 1000000;
    return smp_cpu_stats(0).ticks * 1000 / hz;
}

static bool stress_round_is_over(uint64_t steps)
{
    if (__atomic_load_n(&stress_stop, __ATOMIC_ACQUIRE) != 0)
        return true;
    return stress_has_clock() ? stress_now_ms() >= stress_round_end_ms
                              : steps >= STRESS_ROUND_STEPS;
}

/* ---- What runs on all CPUs ---- */

static void stress_on_call(void *unused)
{
    struct stress_cpu *cpu = stress_cpus[smp_cpu_number()];

    (void)unused;
    stress_set_step(&cpu->sets[STRESS_CALL]);
    stress_pages_read(&cpu->sets[STRESS_CALL]);
}

static void stress_on_timer(void)
{
    struct stress_cpu *cpu = stress_cpus[smp_cpu_number()];
    struct stress_set *set = &cpu->sets[STRESS_TIMER];

    if (__atomic_load_n(&stress_stop, __ATOMIC_ACQUIRE) != 0)
        return;
    if ((++cpu->ticks & 1) != 0)
        cpu_interrupts_on();
    for (unsigned i = 0; i < STRESS_TIMER_STEPS && !stress_has_failed(); i++) {
        stress_set_step(set);
        stress_pages_read(set);
    }
}

/* The rare steps wait for all CPUs; with many CPUs they become rarer. */
static void stress_thread_step(struct stress_cpu *cpu)
{
    struct stress_set *set = &cpu->sets[STRESS_THREAD];
    uint64_t choice = stress_random(&set->random, 128 + 8 * smp_cpu_count());

    stress_set_step(set);
    if (choice < 3)
        stress_pages_own(cpu);
    else if (choice < 4)
        stress_pages_block(cpu);
    else if (choice < 8)
        stress_pages_change(cpu);
    else if (choice < 9)
        smp_interrupt_others(stress_on_call, NULL);
    else
        stress_pages_read(set);
}

/* One step at least: an emulator that runs many CPUs in turn may come to the last ones when the round is
 * over. */
static void stress_run_thread(void *unused)
{
    struct stress_cpu *cpu = stress_cpus[smp_cpu_number()];
    uint64_t steps = 0;

    (void)unused;
    if (stress_has_failed())
        return;
    do {
        stress_thread_step(cpu);
        __builtin_ia32_pause(); /* such an emulator goes to the next CPU here */
    } while (!stress_round_is_over(++steps));
}

/* ---- Start ---- */

/* The largest block so that one is always free: live items spoil at most a quarter of the places
 * where a block of this size can lie. */
static uint32_t stress_block_most(unsigned cpus)
{
    uint64_t items = (uint64_t)cpus * (STRESS_CONTEXTS * STRESS_ITEMS_MAX + STRESS_BOX);
    uint64_t most = STRESS_BLOCK_MOST;

    while (most > MIN_BLOCK_SIZE && 4 * items * most > stress_before.heap.free_bytes)
        most /= 2;
    return 4 * items * most > stress_before.heap.free_bytes ? 0 : (uint32_t)most;
}

static void stress_note_before(void)
{
    struct mm *mm = mm_kernel();

    stress_before.frames = pmm_stats(&mm->pmm);
    stress_before.heap = kheap_stats(mm->heap);
    stress_before.kvm = kvm_stats(&mm->kvm);
    stress_before.tables = mm->kernel_space.stats.table_frames;
    stress_before.injected = kheap_injected(mm->heap);
    stress_before.interrupts = 0;
    for (unsigned i = 0; i < smp_cpu_count(); i++)
        stress_before.interrupts += smp_cpu_stats(i).interrupts;
}

/* In a frame of its own: a heap that is broken does not break the test. */
static bool stress_make_cpu(unsigned number, uint32_t block_most, bool large)
{
    struct stress_cpu *cpu;
    paddr_t frame;
    uint32_t small = block_most < STRESS_TIMER_BLOCK ? block_most : (uint32_t)STRESS_TIMER_BLOCK;

    _Static_assert(sizeof(*cpu) <= FRAME_SIZE, "a CPU's data is one frame");
    if (pmm_alloc_frame(&mm_kernel()->pmm, &frame) != MM_OK)
        return false;
    cpu = phys_to_virt(frame);
    for (unsigned i = 0; i < STRESS_CONTEXTS; i++)
        stress_set_init(&cpu->sets[i], number, (enum stress_context)i,
                        i == STRESS_THREAD ? block_most : small, large);
    stress_cpus[number] = cpu;
    return true;
}

/* The CPUs' own data is a part of what must not be lost. */
static bool stress_start(void)
{
    unsigned cpus = smp_cpu_count();
    uint64_t frames = (uint64_t)cpus * (STRESS_CONTEXTS * STRESS_ITEMS_MAX + 4 * STRESS_BOX);
    uint64_t large_frames = (uint64_t)cpus * (LARGE_PAGE_SIZE / FRAME_SIZE) * (1 + STRESS_BOX);
    uint32_t block_most;
    bool large;

    stress_note_before();
    block_most = stress_block_most(cpus);
    if (block_most == 0 || stress_before.frames.free_frames < 2 * frames ||
        stress_before.heap.largest_free_block < MM_KIB(4)) {
        stress_fail("too little memory for %u CPUs: %lu KB of frames and %lu KB of heap are free",
                    cpus, stress_before.frames.free_frames * 4,
                    stress_before.heap.free_bytes >> 10);
        return false;
    }
    large = stress_before.frames.free_frames > 2 * (frames + large_frames);
    for (unsigned i = 0; i < cpus; i++) {
        if (!stress_make_cpu(i, block_most, large)) {
            stress_fail("no memory for the data of %u CPUs", cpus);
            return false;
        }
    }
    mm_info("Stress: %u CPUs, seed 0x%lx, blocks of up to %u bytes", cpus, (uint64_t)STRESS_SEED,
            block_most);
    return stress_pages_start();
}

/* ---- Checks ---- */

static void stress_compare(const char *what, uint64_t got, uint64_t expected)
{
    if (got != expected)
        stress_fail("%lu %s are taken, not %lu", got, what, expected);
}

/* What the caches of mm keep for a CPU and interrupt level, once it has used mm there: no frame of
 * anybody's, and it stays. */
static void stress_check_reserved(uint64_t reserved)
{
    uint64_t before = stress_before.frames.reserved_frames;
    uint64_t caches = (uint64_t)smp_cpu_count() * MM_PORT_LEVELS;

    if (reserved < before || reserved > before + caches)
        stress_fail("%lu frames are reserved, not %lu, with at most %lu for caches", reserved,
                    before, caches);
}

/* Allocations fail on purpose only, and who asked has got no block, or kept one that was to get smaller. */
static void stress_check_failures(uint64_t all_failed, const struct stress_holdings *held)
{
    uint64_t failed = all_failed - stress_before.heap.failed_allocations;
    uint64_t injected = kheap_injected(mm_kernel()->heap) - stress_before.injected;

    if (failed != injected || held->refused > injected || injected - held->refused > held->stayed)
        stress_fail("%lu allocations have failed, %lu of them on purpose; %lu gave no block",
                    failed, injected, held->refused);
}

/* `held`: what the items, the common pages and the CPUs' data hold. What the heap and the address windows
 * have taken for themselves counts with what they had before. */
static void stress_check_counters(struct stress_holdings held)
{
    struct mm *mm = mm_kernel();
    struct pmm_stats frames = pmm_stats(&mm->pmm);
    struct kheap_stats heap = kheap_stats(mm->heap);
    struct kvm_stats kvm = kvm_stats(&mm->kvm);
    const struct pmm_stats *before = &stress_before.frames;
    uint64_t own =
        heap.frames - stress_before.heap.frames + kvm.node_frames - stress_before.kvm.node_frames;

    stress_compare("frames", frames.used_frames - frames.table_frames,
                   before->used_frames - before->table_frames + held.frames + own);
    stress_compare("page tables", frames.table_frames - before->table_frames,
                   mm->kernel_space.stats.table_frames - stress_before.tables);
    stress_check_reserved(frames.reserved_frames);
    stress_compare("kernel blocks", kvm.blocks, stress_before.kvm.blocks);
    stress_compare("heap blocks", heap.used_blocks, stress_before.heap.used_blocks + held.blocks);
    stress_check_failures(heap.failed_allocations, &held);
}

static void stress_check(void)
{
    struct stress_holdings held = { .frames = stress_pages_frames() + smp_cpu_count() };

    for (unsigned i = 0; i < smp_cpu_count(); i++)
        stress_check_cpu(stress_cpus[i], &held);
    stress_failures = (struct stress_holdings){ .refused = held.refused, .stayed = held.stayed };
    if (!pmm_verify(&mm_kernel()->pmm))
        stress_fail("the frames' bitmaps and counters differ");
    if (!kheap_verify(mm_kernel()->heap))
        stress_fail("the heap's blocks and counters differ");
    stress_check_counters(held);
}

/* The lower half, where the test's pages were, is empty again. The heap may have grown, and its window's
 * tables with it: one for each 2 MiB, and one for each level above. */
static void stress_check_tables(struct mm *mm)
{
    uint64_t before = stress_before.tables, now = mm->kernel_space.stats.table_frames;
    uint64_t region = kheap_stats(mm->heap).region_bytes;
    uint64_t grown =
        region > stress_before.heap.region_bytes ? region - stress_before.heap.region_bytes : 0;
    struct paging_run run;

    if (!paging_next_run(&mm->kernel_space, 0, &run) || run.begin >> 63 == 0)
        stress_fail("the lower half is not empty in the end: 0x%lx", run.begin);
    if (grown == 0)
        stress_compare("page tables in the end", now, before);
    else if (now > before + grown / LARGE_PAGE_SIZE + mm->kernel_space.levels)
        stress_fail("%lu page tables in the end, not %lu, and the heap has grown by %lu KB", now,
                    before, grown >> 10);
}

/* Everything is as before, to the last frame and byte. */
static void stress_check_end(void)
{
    struct mm *mm = mm_kernel();

    kheap_drain(mm->heap, KHEAP_ALL_SLOTS);
    stress_check_counters(stress_failures);
    stress_check_tables(mm);
    stress_compare("bytes of heap blocks in the end", kheap_stats(mm->heap).used_bytes,
                   stress_before.heap.used_bytes);
    if (!pmm_verify(&mm->pmm) || !kheap_verify(mm->heap))
        stress_fail("bitmaps, blocks and counters differ in the end");
}

/* ---- The report ---- */

struct stress_sums {
    uint64_t operations, received, mappings, ticks, interrupts;
};

static struct stress_sums stress_sums(void)
{
    struct stress_sums sums = { .interrupts = 0 - stress_before.interrupts };

    for (unsigned i = 0; i < smp_cpu_count(); i++) {
        for (unsigned context = 0; context < STRESS_CONTEXTS; context++) {
            sums.operations += stress_cpus[i]->sets[context].operations;
            sums.received += stress_cpus[i]->sets[context].received;
        }
        sums.mappings += stress_cpus[i]->mappings;
        sums.ticks += stress_cpus[i]->ticks;
        sums.interrupts += smp_cpu_stats(i).interrupts;
    }
    return sums;
}

/* Every CPU has worked in its thread, and in its timer handler where there is a timer. */
static void stress_check_work(void)
{
    for (unsigned i = 0; i < smp_cpu_count(); i++) {
        if (stress_cpus[i]->sets[STRESS_THREAD].operations == 0)
            stress_fail("CPU %u has done nothing", i);
        if (smp_info()->timer_hz != 0 && stress_cpus[i]->ticks == 0)
            stress_fail("the timer of CPU %u has done nothing", i);
    }
}

static void stress_report(struct stress_sums sums, unsigned rounds)
{
    uint64_t injected = kheap_injected(mm_kernel()->heap) - stress_before.injected;

    if (injected > 0)
        mm_info("Stress: %lu allocations failed on purpose (mm.fail)", injected);
    if (stress_has_failed())
        mm_log_at(MM_LOG_ERROR, "✗ stress: %s", stress_error_text);
    else
        mm_info("✓ stress: cpus=%u ops=%lu interrupts=%lu ticks=%lu received=%lu mappings=%lu "
                "shootdowns=%lu rounds=%u",
                smp_cpu_count(), sums.operations, sums.interrupts, sums.ticks, sums.received,
                sums.mappings, shootdown_stats().sent, rounds);
}

/* ---- Rounds ---- */

static void stress_run_round(uint64_t end_ms)
{
    uint64_t now = stress_now_ms();

    stress_round_end_ms = now + STRESS_ROUND_MS < end_ms ? now + STRESS_ROUND_MS : end_ms;
    __atomic_store_n(&stress_stop, 0, __ATOMIC_RELEASE);
    smp_set_timer_function(stress_on_timer);
    smp_call_all(stress_run_thread, NULL);
    smp_set_timer_function(NULL);
    if (!stress_has_failed())
        stress_check();
}

/* Returns how many rounds were done. Without a clock a second is one round. */
static unsigned stress_run_rounds(uint32_t seconds)
{
    uint64_t start = stress_now_ms(), end = start + (uint64_t)seconds * 1000;
    uint64_t told = start;
    unsigned rounds = 0;

    while (!stress_has_failed() &&
           (stress_has_clock() ? stress_now_ms() < end : rounds < seconds)) {
        stress_run_round(end);
        rounds++;
        if (stress_now_ms() - told >= STRESS_PROGRESS_MS && !stress_has_failed()) {
            told = stress_now_ms();
            mm_info("Stress: %lu of %u s, ops=%lu", (told - start) / 1000, seconds,
                    stress_sums().operations);
        }
    }
    return rounds;
}

/* Gives everything back, the CPUs' data last; nothing after an error. */
static void stress_end(void)
{
    stress_pages_stop();
    for (unsigned i = 0; i < smp_cpu_count() && !stress_has_failed(); i++)
        stress_release_cpu(stress_cpus[i]);
    for (unsigned i = 0; i < smp_cpu_count() && !stress_has_failed(); i++)
        pmm_free_frame(&mm_kernel()->pmm, virt_to_phys(stress_cpus[i]));
    if (!stress_has_failed())
        stress_check_end();
}

bool stress_run(uint32_t seconds)
{
    struct stress_sums sums = { 0 };
    unsigned rounds = 0;
    smp_idle_function idle;

    if (seconds == 0)
        return true;
    idle = smp_set_idle_function(NULL); /* nobody else uses mm */
    if (stress_start()) {
        rounds = stress_run_rounds(seconds);
        stress_check_work();
        sums = stress_sums();
        if (!stress_has_failed())
            stress_end();
    }
    (void)smp_set_idle_function(idle);
    stress_report(sums, rounds);
    return !stress_has_failed();
}
