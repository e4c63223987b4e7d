/* SPDX-License-Identifier: MIT */
/* Owns the tests of mello.test=<name>, found by name.
 *
 *   shootdown              CPU 0 lets a page lead to another frame while all other CPUs keep its
 *                          translation: all must see the other frame
 *   shootdown-without-ipi  the same with INVLPG on CPU 0 alone: the others must not, or the test
 *                          above proves nothing; so this one fails where TLBs are real
 *   barrier                what a CPU stores before its load of a word is found by who changed that
 *                          word and then called mm_port_cpu_barrier() (cpu_test_barrier.c)
 *   barrier-left-out       the same without the call: stores are missed where CPUs run at the same time,
 *                          so this one fails there
 *   barrier-stores-late    the same where CPUs store late, as if reordered: this one fails everywhere
 *   demand                 pages that are mapped when they are touched (cpu_test_demand.c)
 *   leaks                  what is alive since a mark, by call site (cpu_test_leaks.c)
 *   misuse                 every wrong use of heap and frames is reported (cpu_test_misuse.c)
 *   idle                   CPUs without work clear frames, and stop when they are told to
 *   nested-interrupts      a call inside a timer handler inside a thread, on each CPU: each in a
 *                          slot of its own, and allocating
 *
 * The CPUs of a test go from step to step together (cpu_test_meet). Invariants: a CPU that waits
 * gives up after CPU_TEST_MS and fails the test; the first failure is kept and ends the waiting of
 * all. */
#include "kernel/cpu_test.h"
#include "kernel/cpu_test_parts.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/patience.h"
#include "kernel/console.h"
#include "kernel/power.h"
#include "kernel/shootdown.h"
#include "kernel/smp.h"
#include "kernel/walk.h"
#include <mm/mm.h>

#define CPU_TEST_MS      20000u
#define CPU_TEST_PAGE    ((vaddr_t)0x410000000000) /* in the lower half, which is empty */
#define CPU_TEST_CHANGES 50u
#define CPU_TEST_ADDRESS 0x000ffffffffff000u /* of a page table entry (SDM vol. 3, 4.5.4) */
#define CPU_TEST_BLOCK   256u

static uint32_t cpu_test_failed; /* 0, 1: the text is being written, 2; atomic */
static char cpu_test_text[MM_LOG_LINE_MAX - 64];
static uint32_t cpu_test_arrivals; /* at meetings, since the test began; atomic */

/* ---- Failing and waiting ---- */

void cpu_test_fail(const char *format, ...)
{
    uint32_t none = 0;
    va_list arguments;

    if (!__atomic_compare_exchange_n(&cpu_test_failed, &none, 1, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return;
    va_start(arguments, format);
    (void)mm_vformat(cpu_test_text, sizeof(cpu_test_text), format, arguments);
    va_end(arguments);
    __atomic_store_n(&cpu_test_failed, 2, __ATOMIC_RELEASE);
}

bool cpu_test_has_failed(void)
{
    return __atomic_load_n(&cpu_test_failed, __ATOMIC_ACQUIRE) != 0;
}

bool cpu_test_wait(const uint32_t *value, uint32_t least, const char *what)
{
    struct patience patience = patience_of_ms(CPU_TEST_MS);

    while (__atomic_load_n(value, __ATOMIC_ACQUIRE) < least) {
        if (cpu_test_has_failed())
            return false;
        if (!patience_lasts(&patience)) {
            cpu_test_fail("CPU %u has waited %u seconds for %s", smp_cpu_number(),
                          CPU_TEST_MS / 1000, what);
            return false;
        }
    }
    return true;
}

bool cpu_test_meet(unsigned number)
{
    __atomic_fetch_add(&cpu_test_arrivals, 1, __ATOMIC_ACQ_REL);
    return cpu_test_wait(&cpu_test_arrivals, number * smp_cpu_count(), "the other CPUs");
}

/* ---- Shootdown ---- */

enum shootdown_way {
    SHOOTDOWN_BY_PAGING, /* paging_unmap_page(), paging_map_page() */
    SHOOTDOWN_BY_PORT,   /* the entry is written, then mm_port_tlb_shootdown() */
    SHOOTDOWN_LEFT_OUT,  /* the entry is written, then INVLPG here */
};

static struct {
    bool left_out;
    paddr_t frames[2];  /* the page leads to one of them */
    uint32_t stale;     /* reads through the old translation; atomic */
    uint32_t stale_cpu; /* a CPU that did so */
} shootdown_test;

static void shootdown_test_everywhere(void)
{
    struct mm_tlb_batch batch = { .count = 1, .pages = { CPU_TEST_PAGE } };

    mm_port_tlb_shootdown(&batch);
}

/* Writes the entry behind mm's back. */
static void shootdown_test_write_entry(paddr_t frame)
{
    struct walk walk;
    volatile uint64_t *entry;

    walk_tables(CPU_TEST_PAGE, &walk);
    if (walk.end != WALK_LEAF) {
        cpu_test_fail("the page has no entry");
        return;
    }
    entry = phys_to_virt(walk.entry[walk.count - 1].at);
    *entry = (*entry & ~CPU_TEST_ADDRESS) | frame;
}

static void shootdown_test_change(enum shootdown_way way, paddr_t frame)
{
    struct address_space *space = &mm_kernel()->kernel_space;

    if (way == SHOOTDOWN_BY_PAGING) {
        if (paging_unmap_page(space, CPU_TEST_PAGE, NULL) != MM_OK ||
            paging_map_page(space, CPU_TEST_PAGE, frame, PAGING_READ) != MM_OK)
            cpu_test_fail("the page cannot be mapped anew");
        return;
    }
    shootdown_test_write_entry(frame);
    if (way == SHOOTDOWN_BY_PORT)
        shootdown_test_everywhere();
    else
        mm_port_invlpg(CPU_TEST_PAGE);
}

/* Every frame of the test holds its address at its beginning. */
static void shootdown_test_look(paddr_t expected)
{
    if (*(volatile uint64_t *)CPU_TEST_PAGE == expected)
        return;
    shootdown_test.stale_cpu = smp_cpu_number();
    __atomic_fetch_add(&shootdown_test.stale, 1, __ATOMIC_ACQ_REL);
}

/* One change of the page; four meetings. */
static bool shootdown_test_round(unsigned round)
{
    enum shootdown_way way = shootdown_test.left_out ? SHOOTDOWN_LEFT_OUT
                             : round % 2 == 0        ? SHOOTDOWN_BY_PAGING
                                                     : SHOOTDOWN_BY_PORT;
    paddr_t before = shootdown_test.frames[round % 2], after = shootdown_test.frames[1 - round % 2];

    shootdown_test_look(before);
    if (!cpu_test_meet(4 * round + 1))
        return false;
    if (smp_cpu_number() == 0)
        shootdown_test_change(way, after);
    if (!cpu_test_meet(4 * round + 2))
        return false;
    shootdown_test_look(after);
    if (!cpu_test_meet(4 * round + 3))
        return false;
    if (smp_cpu_number() == 0)
        shootdown_test_everywhere(); /* what was left out is made up for */
    return cpu_test_meet(4 * round + 4);
}

static void shootdown_test_thread(void *unused)
{
    (void)unused;
    for (unsigned round = 0; round < CPU_TEST_CHANGES && shootdown_test_round(round); round++) {
    }
}

static bool shootdown_test_prepare(void)
{
    struct mm *mm = mm_kernel();

    for (unsigned i = 0; i < 2; i++) {
        if (pmm_alloc_frame(&mm->pmm, &shootdown_test.frames[i]) != MM_OK)
            return false;
        *(uint64_t *)phys_to_virt(shootdown_test.frames[i]) = shootdown_test.frames[i];
    }
    return paging_map_page(&mm->kernel_space, CPU_TEST_PAGE, shootdown_test.frames[0],
                           PAGING_READ) == MM_OK;
}

static void shootdown_test_clean(void)
{
    struct mm *mm = mm_kernel();

    if (paging_unmap_page(&mm->kernel_space, CPU_TEST_PAGE, NULL) != MM_OK)
        cpu_test_fail("the page cannot be unmapped");
    for (unsigned i = 0; i < 2; i++)
        pmm_free_frame(&mm->pmm, shootdown_test.frames[i]);
}

static void shootdown_test_run(bool left_out)
{
    shootdown_test.left_out = left_out;
    if (!shootdown_test_prepare()) {
        cpu_test_fail("out of memory");
        return;
    }
    smp_call_all(shootdown_test_thread, NULL);
    shootdown_test_clean();
    if (shootdown_test.stale > 0)
        cpu_test_fail("%u stale translations used in %u changes by %s, one of them by CPU %u",
                      shootdown_test.stale, CPU_TEST_CHANGES,
                      left_out ? "INVLPG on CPU 0 alone"
                               : "paging_unmap_page and mm_port_tlb_shootdown",
                      shootdown_test.stale_cpu);
}

static void cpu_test_shootdown(void)
{
    shootdown_test_run(false);
}

static void cpu_test_shootdown_without_ipi(void)
{
    shootdown_test_run(true);
}

/* ---- Nested interrupts ---- */

#define NESTED_LEVELS 3u /* thread, timer, call */

/* What one CPU has seen; written by it alone, in the context of that level. */
static struct {
    uint32_t thread_inside; /* 1: its thread has its memory */
    uint32_t timer_inside;  /* 1: its timer handler waits, interrupts on */
    uint32_t call_done;     /* 1: the call has run inside; atomic */
    uint32_t slots[NESTED_LEVELS];
    void *blocks[NESTED_LEVELS];
    paddr_t frames[NESTED_LEVELS];
} nested_test[MM_PORT_MAX_CPUS];
static uint32_t nested_test_caller; /* the CPU that calls the others */
static uint32_t nested_test_inside; /* how many timer handlers wait; atomic */

static bool nested_test_alloc(unsigned level)
{
    unsigned number = smp_cpu_number();

    nested_test[number].slots[level] = mm_port_cpu_slot();
    nested_test[number].blocks[level] = kmalloc(CPU_TEST_BLOCK);
    if (nested_test[number].blocks[level] == NULL ||
        pmm_alloc_frame(&mm_kernel()->pmm, &nested_test[number].frames[level]) != MM_OK) {
        cpu_test_fail("CPU %u: no memory at level %u", number, level);
        return false;
    }
    return true;
}

static void nested_test_free(unsigned level)
{
    unsigned number = smp_cpu_number();

    kfree(nested_test[number].blocks[level]);
    pmm_free_frame(&mm_kernel()->pmm, nested_test[number].frames[level]);
}

static void nested_test_check_slots(unsigned number)
{
    for (unsigned level = 0; level < NESTED_LEVELS; level++) {
        uint32_t slot = nested_test[number].slots[level];

        if (slot != number * MM_PORT_LEVELS + level)
            cpu_test_fail("CPU %u at level %u has slot %u", number, level, slot);
        for (unsigned other = 0; other < level; other++) {
            if (nested_test[number].blocks[other] == nested_test[number].blocks[level] ||
                nested_test[number].frames[other] == nested_test[number].frames[level])
                cpu_test_fail("CPU %u: levels %u and %u have the same memory", number, other,
                              level);
        }
    }
}

static void nested_test_on_call(void *unused)
{
    unsigned number = smp_cpu_number();

    (void)unused;
    if (nested_test_alloc(2)) {
        nested_test_check_slots(number);
        nested_test_free(2);
    }
    __atomic_store_n(&nested_test[number].call_done, 1, __ATOMIC_RELEASE);
}

/* Once in each thread but the caller's: waits inside, interrupts on, until the call has come. */
static void nested_test_on_timer(void)
{
    unsigned number = smp_cpu_number();

    if (nested_test[number].thread_inside == 0 || nested_test[number].timer_inside != 0)
        return;
    nested_test[number].timer_inside = 1;
    if (!nested_test_alloc(1))
        return;
    cpu_interrupts_on();
    __atomic_fetch_add(&nested_test_inside, 1, __ATOMIC_ACQ_REL);
    (void)cpu_test_wait(&nested_test[number].call_done, 1, "a call inside its timer handler");
    cpu_interrupts_off();
    if (mm_port_cpu_slot() != number * MM_PORT_LEVELS + 1)
        cpu_test_fail("CPU %u: slot %u after a nested call", number, mm_port_cpu_slot());
    nested_test_free(1);
}

/* The caller waits for all timer handlers, the others for their call. */
static void nested_test_thread(void *unused)
{
    unsigned number = smp_cpu_number();

    (void)unused;
    if (number == nested_test_caller) {
        if (cpu_test_wait(&nested_test_inside, smp_cpu_count() - 1, "the timers of the others"))
            smp_interrupt_others(nested_test_on_call, NULL);
        return;
    }
    if (!nested_test_alloc(0))
        return;
    __atomic_store_n(&nested_test[number].thread_inside, 1, __ATOMIC_RELEASE);
    if (cpu_test_wait(&nested_test[number].call_done, 1, "its timer and a call"))
        nested_test_free(0);
    if (mm_port_cpu_slot() != number * MM_PORT_LEVELS)
        cpu_test_fail("CPU %u: slot %u after its timer handler", number, mm_port_cpu_slot());
}

static void nested_test_run(unsigned caller)
{
    memset(nested_test, 0, sizeof(nested_test));
    nested_test_caller = caller;
    nested_test_inside = 0;
    smp_set_timer_function(nested_test_on_timer);
    smp_call_all(nested_test_thread, NULL);
    smp_set_timer_function(NULL);
}

/* Once called by CPU 0, once by CPU 1, so that each CPU has been called. */
static void cpu_test_nested(void)
{
    nested_test_run(0);
    if (!cpu_test_has_failed())
        nested_test_run(1);
}

/* ---- Idle work ---- */

static bool idle_test_work(void)
{
    return pmm_idle_work(&mm_kernel()->pmm);
}

/* Frames that CPUs without work have cleared are there before anybody asks, and none goes on afterwards. */
static void cpu_test_idle(void)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    struct patience patience = patience_of_ms(CPU_TEST_MS);
    struct pmm_stats before, after;

    pmm_drain(pmm); /* what was cleared before this */
    before = pmm_stats(pmm);
    (void)smp_set_idle_function(idle_test_work);
    while (pmm_stats(pmm).zeroed_frames <= before.zeroed_frames && patience_lasts(&patience)) {
    }
    (void)smp_set_idle_function(NULL);
    after = pmm_stats(pmm);
    if (after.zeroed_frames <= before.zeroed_frames)
        cpu_test_fail("%lu zeroed frames are known after %u seconds, %lu before",
                      after.zeroed_frames, CPU_TEST_MS / 1000, before.zeroed_frames);
    if (after.used_frames != before.used_frames)
        cpu_test_fail("%lu frames are used, not %lu", after.used_frames, before.used_frames);
    if (!pmm_verify(pmm))
        cpu_test_fail("the frames' bitmaps and counters differ");
}

/* ---- By name ---- */

static const struct {
    const char *name;
    void (*run)(void);
    const char *good; /* what it has shown; with the number of CPUs before it */
} cpu_tests[] = {
    { "shootdown", cpu_test_shootdown, "used no stale translation" },
    { "shootdown-without-ipi", cpu_test_shootdown_without_ipi,
      "used no stale translation although no IPI was sent: their TLBs keep nothing" },
    { "barrier", cpu_test_barrier, "found every store of each other" },
    { "barrier-left-out", cpu_test_barrier_left_out,
      "found every store of each other although nobody asked for it: they take turns" },
    { "barrier-stores-late", cpu_test_barrier_stores_late,
      "found every store of each other although all were late" },
    { "demand", cpu_test_demand, "touched pages that came when they were touched" },
    { "leaks", cpu_test_leaks, "kept blocks that were listed until they were freed" },
    { "misuse", cpu_test_misuse, "misused heap and frames, and every wrong call was reported" },
    { "idle", cpu_test_idle, "had frames cleared while they had no work" },
    { "nested-interrupts", cpu_test_nested, "allocated at levels 0, 1 and 2, each in its slot" },
};

#define CPU_TESTS (sizeof(cpu_tests) / sizeof(cpu_tests[0]))

static _Noreturn void cpu_test_reject(const struct mm_cmdline_word *word)
{
    char names[CONSOLE_LINE_MAX - 64];
    size_t used = 0;

    names[0] = '\0';
    for (size_t i = 0; i < CPU_TESTS && used < sizeof(names); i++)
        used += mm_format(names + used, sizeof(names) - used, " %s", cpu_tests[i].name);
    console_print("ERROR: mello.test=%.*s: no such test; known:%s", (int)word->value_bytes,
                  word->value, names);
    power_end(POWER_PANIC);
}

static bool cpu_test_one(size_t index)
{
    smp_idle_function idle;

    if (smp_cpu_count() < 2) {
        console_print("ERROR: mello.test=%s needs two CPUs", cpu_tests[index].name);
        power_end(POWER_PANIC);
    }
    idle = smp_set_idle_function(NULL);
    cpu_tests[index].run();
    (void)smp_set_idle_function(idle);
    if (cpu_test_has_failed())
        mm_log_at(MM_LOG_ERROR, "✗ %s: %s", cpu_tests[index].name, cpu_test_text);
    else
        mm_info("✓ %s: %u CPUs %s", cpu_tests[index].name, smp_cpu_count(), cpu_tests[index].good);
    return !cpu_test_has_failed();
}

bool cpu_test_run(const struct mm_cmdline_word *word)
{
    for (size_t i = 0; i < CPU_TESTS; i++) {
        if (mm_cmdline_value_is(word, cpu_tests[i].name))
            return cpu_test_one(i);
    }
    cpu_test_reject(word);
}
