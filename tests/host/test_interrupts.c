/* SPDX-License-Identifier: MIT */
/* mm in interrupt handlers and under NMIs. Signals stand for interrupts: they come in wherever mm
 * has its interrupts on, and handlers of a higher line interrupt those of a lower one.
 *
 *   level 2          ... line 1 ...
 *   level 1     line 0 ........... line 0
 *   level 0  thread ........................ thread      slot = CPU * MM_PORT_LEVELS + level
 *
 * The model of who owns what: one word for each frame and each heap granule, zero or the owner's
 * number, set by compare-and-exchange right after an allocation and cleared right before a free; the
 * memory itself is stamped too. ThreadSanitizer runs this program too. */
#define _GNU_SOURCE /* gettid, SIGEV_THREAD_ID */
#include "threads.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static struct machine machine;
static struct kheap *heap;
static struct mm_port_lock lock;

static void set_up(void)
{
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 1024, MM_MIB(1), PMM_NO_LIMIT, &base));
    assert_ok(kheap_init(phys_to_virt(base), MM_MIB(4), NULL, &heap));
}

/* ---- Levels ---- */

static void interrupt_levels_have_slots_of_their_own(void **state)
{
    unsigned slot = mm_port_cpu_slot();

    (void)state;
    for (unsigned level = 1; level < MM_PORT_LEVELS; level++) {
        assert_true(hosted_interrupt_enter());
        assert_int_equal(mm_port_cpu_slot(), slot + level);
    }
    for (unsigned level = MM_PORT_LEVELS - 1; level > 0; level--) {
        hosted_interrupt_leave();
        assert_int_equal(mm_port_cpu_slot(), slot + level - 1);
    }
}

static void interrupt_nested_too_deep_is_a_violation(void **state)
{
    (void)state;
    violations_count();
    for (unsigned level = 1; level < MM_PORT_LEVELS; level++)
        assert_true(hosted_interrupt_enter());
    assert_false(hosted_interrupt_enter());
    assert_int_equal(violations_take(), 1);
    assert_non_null(strstr(violation_last(), "more than 3 interrupt handlers are nested"));
    assert_int_equal(mm_port_cpu_slot() % MM_PORT_LEVELS, MM_PORT_LEVELS - 1);
}

static void interrupt_out_of_order_is_a_violation(void **state)
{
    uint64_t saved;

    (void)state;
    violations_count();
    hosted_interrupt_leave();
    assert_int_equal(violations_take(), 1);
    saved = mm_port_lock(&lock);
    assert_false(hosted_interrupt_enter());
    assert_int_equal(violations_take(), 1);
    mm_port_unlock(&lock, saved);
    assert_true(hosted_interrupt_enter());
    saved = mm_port_lock(&lock);
    hosted_interrupt_leave();
    assert_int_equal(violations_take(), 1);
    assert_non_null(strstr(violation_last(), "interrupts off and 1 locks held"));
    mm_port_unlock(&lock, saved);
    hosted_nmi_leave();
    assert_int_equal(violations_take(), 1);
    hosted_interrupt_raise(HOSTED_LINES);
    assert_int_equal(violations_take(), 1);
}

/* ---- When a handler runs ---- */

static char order[64];
static unsigned order_length;

static void note(char what)
{
    order[order_length++ % sizeof order] = what;
}

static void order_begin(void)
{
    memset(order, 0, sizeof order);
    order_length = 0;
}

static void note_low(void)
{
    note('(');
    note((char)('0' + mm_port_cpu_slot() % MM_PORT_LEVELS));
    note(')');
}

static void note_high(void)
{
    note('[');
    note((char)('0' + mm_port_cpu_slot() % MM_PORT_LEVELS));
    note(']');
}

/* Raises its own line, a higher and, from there, a lower one. */
static void raise_all(void)
{
    static unsigned depth;

    note('<');
    if (depth++ == 0)
        hosted_interrupt_raise(1);
    hosted_interrupt_raise(2);
    hosted_interrupt_raise(0);
    note('>');
}

static void interrupt_waits_until_the_lock_is_released(void **state)
{
    struct mm_port_lock inner = { 0 };
    uint64_t saved, saved_inner;

    (void)state;
    assert_true(hosted_interrupt_attach(0, SIGUSR1, note_low));
    order_begin();
    saved = mm_port_lock(&lock);
    saved_inner = mm_port_lock(&inner);
    note('a');
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR1), 0);
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR1), 0);
    note('b');
    mm_port_unlock(&inner, saved_inner);
    note('c');
    mm_port_unlock(&lock, saved);
    note('d');
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR1), 0);
    usleep(0); /* ThreadSanitizer delivers signals at calls */
    hosted_interrupt_detach(0);
    assert_string_equal(order, "abc(1)d(1)");
    assert_int_equal(hosted_cpu()->interrupts_served, 2);
}

static void interrupt_of_a_higher_line_nests_and_others_wait(void **state)
{
    (void)state;
    assert_true(hosted_interrupt_attach(0, 0, note_low));
    assert_true(hosted_interrupt_attach(1, 0, raise_all));
    assert_true(hosted_interrupt_attach(2, 0, note_high));
    order_begin();
    hosted_interrupt_raise(1);
    assert_string_equal(order, "<[2]><[2]>(1)");
    order_begin();
    hosted_nmi_enter();
    hosted_interrupt_raise(0);
    hosted_interrupt_raise(2);
    note('n');
    hosted_nmi_leave();
    assert_string_equal(order, "n[1](1)");
    for (unsigned line = 0; line < HOSTED_LINES; line++)
        hosted_interrupt_detach(line);
}

static void interrupt_lines_are_attached_once(void **state)
{
    (void)state;
    assert_false(hosted_interrupt_attach(HOSTED_LINES, SIGUSR1, note_low));
    assert_false(hosted_interrupt_attach(0, SIGUSR1, NULL));
    assert_false(hosted_interrupt_attach(0, SIGKILL, note_low));
    assert_true(hosted_interrupt_attach(0, SIGUSR1, note_low));
    assert_false(hosted_interrupt_attach(0, SIGUSR2, note_low));
    hosted_interrupt_detach(0);
    order_begin();
    hosted_interrupt_raise(0); /* nobody's line: nothing happens */
    assert_string_equal(order, "");
    assert_true(hosted_interrupt_attach(0, SIGUSR1, note_low));
    hosted_interrupt_detach(0);
}

/* ---- What a lock would be that leaves interrupts on ---- */

static void take_a_frame(void)
{
    paddr_t frame;

    (void)!pmm_alloc_frame(&machine.pmm, &frame);
}

/* The handler asks for a frame in the middle of its own thread's allocation. */
static void interrupt_under_a_lock_with_interrupts_on_is_caught(void **state)
{
    (void)state;
    set_up();
    violations_count();
    assert_true(hosted_interrupt_attach(0, 0, take_a_frame));
    (void)mm_port_lock(&machine.pmm.lock); /* released by the handler, as things go wrong */
    hosted_interrupt_raise(0);
    assert_int_equal(hosted_cpu()->interrupts_served, 0);
    hosted_cpu()->interrupts = true;
    hosted_interrupt_raise(0);
    assert_int_equal(hosted_cpu()->interrupts_served, 1);
    assert_true(violations_take() >= 1);
    hosted_interrupt_detach(0);
}

/* ---- NMI ---- */

#define NMI_BUG "called from an NMI or machine check handler"

static void call_everything(paddr_t frame, void *block)
{
    paddr_t out = 1;

    EXPECT_BUG(NMI_BUG, assert_status(pmm_alloc_frame(&machine.pmm, &out), MM_UNSUPPORTED));
    EXPECT_BUG(NMI_BUG,
               assert_status(pmm_alloc_contiguous(&machine.pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, &out),
                             MM_UNSUPPORTED));
    EXPECT_BUG(NMI_BUG, pmm_free_frame(&machine.pmm, frame));
    EXPECT_BUG(NMI_BUG, pmm_free_contiguous(&machine.pmm, frame, 1));
    EXPECT_BUG(NMI_BUG, assert_status(pmm_reserve_range(&machine.pmm, frame, frame + FRAME_SIZE),
                                      MM_UNSUPPORTED));
    EXPECT_BUG(NMI_BUG, assert_status(pmm_release_range(&machine.pmm, frame, frame + FRAME_SIZE),
                                      MM_UNSUPPORTED));
    EXPECT_BUG(NMI_BUG,
               assert_status(pmm_retire_range(&machine.pmm, frame, frame + FRAME_SIZE, NULL),
                             MM_UNSUPPORTED));
    EXPECT_BUG(NMI_BUG, pmm_drain(&machine.pmm));
    EXPECT_BUG(NMI_BUG, pmm_drain_slot(&machine.pmm));
    EXPECT_BUG(NMI_BUG, pmm_set_trace(&machine.pmm, true));
    EXPECT_BUG(NMI_BUG, pmm_fault_inject(&machine.pmm, 1, 1));
    EXPECT_BUG(NMI_BUG, pmm_set_low_water(&machine.pmm, 1, NULL, NULL));
    EXPECT_BUG(NMI_BUG, assert_false(pmm_idle_work(&machine.pmm)));
    EXPECT_BUG(NMI_BUG, assert_null(kheap_alloc(heap, 64)));
    EXPECT_BUG(NMI_BUG, kheap_free(heap, block));
    assert_int_equal(out, 1);
}

static void nmi_calls_are_refused_and_change_nothing(void **state)
{
    struct pmm_stats before;
    struct kheap_stats heap_before, heap_after;
    paddr_t frame;
    void *block;
    uint64_t saved;

    (void)state;
    set_up();
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    block = kheap_alloc(heap, 64);
    assert_non_null(block);
    before = pmm_stats(&machine.pmm);
    heap_before = kheap_stats(heap);
    hosted_nmi_enter();
    hosted_nmi_enter();
    assert_int_equal(mm_port_cpu_slot(), MM_PORT_NO_SLOT);
    hosted_nmi_leave();
    call_everything(frame, block);
    hosted_nmi_leave();
    saved = mm_port_lock(&machine.pmm.lock); /* an NMI comes whatever is held */
    hosted_nmi_enter();
    call_everything(frame, block);
    hosted_nmi_leave();
    mm_port_unlock(&machine.pmm.lock, saved);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    heap_after = kheap_stats(heap);
    assert_memory_equal(&heap_after, &heap_before, sizeof heap_before);
    pmm_free_frame(&machine.pmm, frame);
    kheap_free(heap, block);
    assert_pmm_sound(&machine.pmm);
}

/* ---- Stress: threads and two levels of handlers allocate and free ---- */

#define THREADS 3u
#define KEEP    24u

/* What one level of one CPU holds. Handlers of one level never interrupt each other. */
struct holder {
    uint64_t owner; /* its number: never 0 */
    uint64_t random;
    paddr_t frames[KEEP];
    uint64_t frame_counts[KEEP];
    uint64_t *blocks[KEEP];
    size_t block_words[KEEP];
};

static struct holder holders[THREADS + 1][MM_PORT_LEVELS];
static uint64_t frame_owners[MM_MIB(17) / FRAME_SIZE];
#define GRANULE 16 /* of the smallest blocks */
static uint64_t granule_owners[MM_MIB(4) / GRANULE];
static unsigned wrong, bugs, logged, runs[MM_PORT_LEVELS];

static void own(uint64_t *word, uint64_t from, uint64_t to)
{
    if (!__atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        count(&wrong);
}

static void own_frames(paddr_t first, uint64_t total, uint64_t from, uint64_t to)
{
    for (uint64_t i = 0; i < total; i++)
        own(&frame_owners[first / FRAME_SIZE + i], from, to);
}

static void own_block(const uint64_t *block, size_t words, uint64_t from, uint64_t to)
{
    size_t first = (size_t)((const char *)block - (const char *)heap) / GRANULE;

    for (size_t at = 0; at < words * 8; at += GRANULE)
        own(&granule_owners[first + at / GRANULE], from, to);
}

static void stamp(uint64_t *memory, size_t words, uint64_t owner)
{
    if (!is_zero(memory, words * 8))
        count(&wrong);
    memory[0] = memory[words - 1] = owner;
}

static void check_stamp(const uint64_t *memory, size_t words, uint64_t owner)
{
    if (memory[0] != owner || memory[words - 1] != owner)
        count(&wrong);
}

static void turn_frame(struct holder *self, size_t i)
{
    uint64_t total = self->frame_counts[i];

    if (total != 0) {
        check_stamp(phys_to_virt(self->frames[i]), total * 512, self->owner);
        own_frames(self->frames[i], total, self->owner, 0);
        self->frame_counts[i] = 0;
        if (total == 1)
            pmm_free_frame(&machine.pmm, self->frames[i]);
        else
            pmm_free_contiguous(&machine.pmm, self->frames[i], total);
        return;
    }
    total = next_random(&self->random) % 4 == 0 ? 2 : 1;
    if ((total == 1 ? pmm_alloc_frame(&machine.pmm, &self->frames[i])
                    : pmm_alloc_contiguous(&machine.pmm, total, FRAME_SIZE, PMM_NO_LIMIT,
                                           &self->frames[i])) != MM_OK) {
        count(&wrong);
        return;
    }
    own_frames(self->frames[i], total, 0, self->owner);
    stamp(phys_to_virt(self->frames[i]), total * 512, self->owner);
    self->frame_counts[i] = total;
}

static void turn_block(struct holder *self, size_t i)
{
    if (self->blocks[i] != NULL) {
        check_stamp(self->blocks[i], self->block_words[i], self->owner);
        own_block(self->blocks[i], self->block_words[i], self->owner, 0);
        kheap_free(heap, self->blocks[i]);
        self->blocks[i] = NULL;
        return;
    }
    self->block_words[i] = 1 + next_random(&self->random) % 128;
    self->blocks[i] = kheap_alloc(heap, self->block_words[i] * 8);
    if (self->blocks[i] == NULL) {
        count(&wrong);
        return;
    }
    own_block(self->blocks[i], self->block_words[i], 0, self->owner);
    stamp(self->blocks[i], self->block_words[i], self->owner);
}

/* One step of the running level; checks that no other code runs at it. */
static void work(void)
{
    unsigned slot = mm_port_cpu_slot();
    struct holder *self = &holders[slot / MM_PORT_LEVELS][slot % MM_PORT_LEVELS];

    if (self->owner != slot + 1) {
        count(&wrong);
        return;
    }
    count(&runs[slot % MM_PORT_LEVELS]);
    turn_frame(self, next_random(&self->random) % KEEP);
    turn_block(self, next_random(&self->random) % KEEP);
    if (mm_port_cpu_slot() != slot)
        count(&wrong);
}

static void low_handler(void)
{
    work();
    if (counted(&runs[1]) % 4 == 0)
        hosted_interrupt_raise(1);
    work();
}

/* A timer that sends `signal` to this thread over and over. */
static timer_t timer_start(int signal, long period_ns)
{
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signal };
    struct itimerspec period = { .it_interval = { 0, period_ns }, .it_value = { 0, period_ns } };
    timer_t timer = NULL;

    event.sigev_notify_thread_id = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &period, NULL) != 0)
        count(&wrong);
    return timer;
}

static void give_all_back(struct holder *self)
{
    for (size_t i = 0; i < KEEP; i++) {
        if (self->frame_counts[i] != 0)
            turn_frame(self, i);
        if (self->blocks[i] != NULL)
            turn_block(self, i);
    }
}

static void *stress_body(void *argument)
{
    unsigned number = mm_port_cpu_slot() / MM_PORT_LEVELS;
    unsigned rounds = support_is_sanitized() ? 4000 : 20000;
    timer_t low, high;

    (void)argument;
    if (number == 0 || number > THREADS)
        count(&wrong);
    threads_meet();
    low = timer_start(SIGUSR1, 70000);
    high = timer_start(SIGUSR2, 110000);
    for (unsigned i = 0; i < rounds; i++)
        work();
    timer_delete(low);
    timer_delete(high);
    threads_meet();
    return NULL;
}

static void on_log(enum mm_log_level level, const char *line)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

    pthread_mutex_lock(&mutex); /* a handler in the middle of this would wait for its own thread */
    logged += level <= MM_LOG_DEBUG && strncmp(line, "[MM] ", 5) == 0;
    pthread_mutex_unlock(&mutex);
}

static void on_bug(const char *line)
{
    (void)line;
    count(&bugs);
}

static void on_violation(const char *what)
{
    (void)what;
    count(&bugs);
}

static void stress_set_up(uint64_t seed, bool with_log)
{
    struct hosted_hooks hooks = *support_hooks();

    set_up();
    memset(holders, 0, sizeof holders);
    memset(frame_owners, 0, sizeof frame_owners);
    memset(granule_owners, 0, sizeof granule_owners);
    for (unsigned slot = 0; slot < (THREADS + 1) * MM_PORT_LEVELS; slot++) {
        struct holder *holder = &holders[slot / MM_PORT_LEVELS][slot % MM_PORT_LEVELS];

        holder->owner = slot + 1;
        holder->random = seed + slot;
    }
    wrong = bugs = logged = 0;
    memset(runs, 0, sizeof runs);
    mm_log_level = with_log ? MM_LOG_DEBUG : MM_LOG_INFO;
    hooks.log = on_log;
    hooks.bug = on_bug;
    hooks.violation = on_violation;
    hosted_set_hooks(&hooks);
}

static void run_stress(void)
{
    assert_true(hosted_interrupt_attach(0, SIGUSR1, low_handler));
    assert_true(hosted_interrupt_attach(1, SIGUSR2, work));
    threads_run(THREADS, stress_body);
    hosted_interrupt_detach(0);
    hosted_interrupt_detach(1);
}

static void judge_stress(const struct pmm_stats *before)
{
    for (unsigned slot = 0; slot < (THREADS + 1) * MM_PORT_LEVELS; slot++)
        give_all_back(&holders[slot / MM_PORT_LEVELS][slot % MM_PORT_LEVELS]);
    assert_int_equal(counted(&wrong), 0);
    assert_int_equal(counted(&bugs), 0);
    assert_true(counted(&runs[1]) > 0 && counted(&runs[2]) > 0);
    assert_int_equal(counted(&runs[3]), 0);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), *before);
    assert_pmm_sound(&machine.pmm);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
}

static void interrupt_stress_shares_no_frame_and_no_block(void **state)
{
    struct pmm_stats before;

    (void)state;
    for (seeds_begin(4); seeds_next();) {
        stress_set_up(random_u64(), false);
        before = pmm_stats(&machine.pmm);
        run_stress();
        judge_stress(&before);
    }
}

static void interrupt_stress_with_every_log_line(void **state)
{
    struct pmm_stats before;

    (void)state;
    stress_set_up(7, true);
    before = pmm_stats(&machine.pmm);
    run_stress();
    mm_log_level = MM_LOG_INFO;
    assert_true(logged > THREADS * 1000);
    judge_stress(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(interrupt_levels_have_slots_of_their_own),
        TEST(interrupt_nested_too_deep_is_a_violation),
        TEST(interrupt_out_of_order_is_a_violation),
        TEST(interrupt_waits_until_the_lock_is_released),
        TEST(interrupt_of_a_higher_line_nests_and_others_wait),
        TEST(interrupt_lines_are_attached_once),
        TEST(interrupt_under_a_lock_with_interrupts_on_is_caught),
        TEST(nmi_calls_are_refused_and_change_nothing),
        TEST(interrupt_stress_shares_no_frame_and_no_block),
        TEST(interrupt_stress_with_every_log_line),
    };

    return RUN_TESTS(tests);
}
