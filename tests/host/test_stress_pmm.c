/* SPDX-License-Identifier: MIT */
/* Two, four and eight CPUs do everything to one pmm at once, each from all its interrupt levels. A frame
 * carries its owner's stamp while it is allocated, and frames wander: what one CPU has allocated
 * another one frees.
 *
 *   each CPU     own frames, tables, blocks <-> mailbox <-> other CPUs
 *   a round      .... everybody works .... | barrier: one verifies and counts | ....
 *
 * Steering: drains, the low-water mark, trace, injected failures and idle work come from anybody.
 *
 * Bad RAM: frames are retired meanwhile. Each gets the number of its retiring; who asked for memory when
 * that was over must not get it.
 *
 * Maps: a few MiB, where memory runs out all the time and CPUs take from each other; several ranges;
 * 64 GiB, of which little is touched. ThreadSanitizer runs this program too: threads only count, and
 * what they counted is judged after they are joined. */
#include "threads.h"

#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 8u
#define OWN         96u
#define MAILBOXES   64u

enum kind { FRAME, CLEARED_FRAME, TABLE, BLOCK }; /* CLEARED: zeroes but for the stamp */

struct item {
    paddr_t first;
    uint32_t frames;
    enum kind kind;
    uint64_t stamp; /* nobody else's */
};

struct worker {
    struct item own[OWN];
    size_t count;
    uint64_t random, taken; /* items ever */
    uint64_t held;          /* frames */
    uint32_t retired;       /* retirings that were over before this call */
};

static struct machine machine;
static struct worker workers[THREADS_MAX];
static struct item *mailbox[MAILBOXES];
static size_t threads_now;
static unsigned failures, largest, low_waters;

#define BAD_END   MM_MIB(16) /* only frames below it are retired */
#define BAD_CALLS 400u

static pthread_mutex_t bad_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool with_steering, with_bad_ram, was_reserved[BAD_END / FRAME_SIZE];
static uint32_t retirings, retired_in[BAD_END / FRAME_SIZE]; /* 0: not retired */

/* ---- Stamps: the first word of every frame of an item ---- */

static uint64_t *word_of(const struct item *item, uint32_t frame)
{
    return phys_to_virt(item->first + frame * FRAME_SIZE);
}

static void stamp(const struct item *item)
{
    for (uint32_t i = 0; i < item->frames; i++)
        *word_of(item, i) = item->stamp + i;
}

static void check_and_clear(const struct item *item)
{
    for (uint32_t i = 0; i < item->frames; i++) {
        if (*word_of(item, i) != item->stamp + i)
            count(&failures);
        *word_of(item, i) = 0;
    }
}

/* ---- Bad RAM ---- */

static void retire_some(struct worker *worker)
{
    struct mm_extent extent = pmm_range_extent(&machine.pmm, 0);
    uint64_t frames = (extent.end - extent.base) / FRAME_SIZE;
    paddr_t base = extent.base + next_random_below(&worker->random, frames) * FRAME_SIZE;
    paddr_t end = base + (1 + next_random_below(&worker->random, 2)) * FRAME_SIZE;

    pthread_mutex_lock(&bad_mutex);
    if (retirings < BAD_CALLS && pmm_retire_range(&machine.pmm, base, end, NULL) == MM_OK) {
        for (paddr_t at = base; at < end && at < extent.end; at += FRAME_SIZE)
            if (retired_in[at / FRAME_SIZE] == 0)
                __atomic_store_n(&retired_in[at / FRAME_SIZE], retirings + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&retirings, retirings + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&bad_mutex);
}

/* The frame was given to this CPU in the call that is under way. */
static void check_not_bad(const struct worker *worker, paddr_t frame)
{
    uint32_t number =
        frame >= BAD_END ? 0 : __atomic_load_n(&retired_in[frame / FRAME_SIZE], __ATOMIC_RELAXED);

    if (number != 0 && number <= worker->retired)
        count(&failures);
}

/* What was retired is out of service when all is free, but for caches whose owners are gone.
 *   Returns:  how many of them were not reserved before. */
static uint64_t judge_bad_ram(uint64_t retired)
{
    uint64_t found = 0, waiting = 0, reserved = 0;

    for (paddr_t frame = 0; frame < BAD_END; frame += FRAME_SIZE) {
        enum pmm_frame_state state = pmm_frame_state(&machine.pmm, frame);

        if (retired_in[frame / FRAME_SIZE] == 0)
            continue;
        found += state == PMM_FRAME_RETIRED;
        reserved += state == PMM_FRAME_RETIRED && was_reserved[frame / FRAME_SIZE];
        waiting += state == PMM_FRAME_RESERVED;
        assert_true(state == PMM_FRAME_RETIRED || state == PMM_FRAME_RESERVED);
    }
    assert_int_equal(found, retired);
    assert_true(retired > 0 && waiting <= (threads_now + 1) * MM_PORT_LEVELS);
    return found - reserved;
}

/* ---- Work ---- */

static void keep(struct worker *worker, paddr_t first, uint32_t frames, enum kind kind, bool zeroed)
{
    struct item *item = &worker->own[worker->count++];

    worker->taken++;
    *item = (struct item){ first, frames, kind,
                           (uint64_t)(worker - workers + 1) << 56 | worker->taken << 16 };
    for (uint32_t i = 0; i < frames; i++)
        check_not_bad(worker, first + i * FRAME_SIZE);
    for (uint32_t i = 0; zeroed && i < frames; i++)
        if (word_of(item, i)[0] != 0 || word_of(item, i)[511] != 0)
            count(&failures);
    stamp(item);
    worker->held += frames;
}

static void take_one(struct worker *worker)
{
    struct pmm *pmm = &machine.pmm;
    uint64_t what = next_random_below(&worker->random, 16);
    paddr_t first;

    if (what < 7) {
        if (pmm_alloc_frame(pmm, &first) == MM_OK)
            keep(worker, first, 1, CLEARED_FRAME, true);
    } else if (what < 11) {
        if (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &first) == MM_OK)
            keep(worker, first, 1, FRAME, false);
    } else if (what < 13) {
        if (pmm_alloc_table(pmm, &first) == MM_OK)
            keep(worker, first, 1, TABLE, true);
    } else if (what < 15 || next_random_below(&worker->random, 8) != 0) {
        uint64_t frames = 1 + next_random_below(&worker->random, 9);
        uint64_t align = FRAME_SIZE << next_random_below(&worker->random, 3);
        paddr_t limit = next_random_below(&worker->random, 2) == 0 ? PMM_NO_LIMIT : MM_MIB(3);

        if (pmm_alloc_contiguous(pmm, frames, align, limit, &first) == MM_OK) {
            if (!mm_is_aligned(first, align) || first + frames * FRAME_SIZE > limit)
                count(&failures);
            keep(worker, first, (uint32_t)frames, BLOCK, true);
        }
    } else if (pmm_alloc_large(pmm, PMM_NOZERO, &first) == MM_OK) {
        count(&largest);
        keep(worker, first, 512, BLOCK, false);
    }
}

static void give(struct worker *worker, const struct item *item)
{
    struct pmm *pmm = &machine.pmm;
    uint32_t part;

    check_and_clear(item);
    if (item->kind == CLEARED_FRAME && with_steering) {
        pmm_free_zeroed_frame(pmm, item->first);
    } else if (item->kind == TABLE) {
        pmm_free_table(pmm, item->first);
    } else if (item->kind == FRAME || item->kind == CLEARED_FRAME) {
        pmm_free_frame(pmm, item->first);
    } else if (item->frames == 512 && next_random_below(&worker->random, 2) == 0) {
        pmm_free_large(pmm, item->first);
    } else {
        part = (uint32_t)next_random_below(&worker->random, item->frames);
        if (part > 0)
            pmm_free_contiguous(pmm, item->first, part);
        pmm_free_contiguous(pmm, item->first + part * FRAME_SIZE, item->frames - part);
    }
}

static void give_one(struct worker *worker)
{
    size_t index = next_random_below(&worker->random, worker->count);
    struct item item = worker->own[index];

    worker->own[index] = worker->own[--worker->count];
    worker->held -= item.frames;
    give(worker, &item);
}

#define BULK 24u

/* Takes and gives many at once. */
static void bulk(struct worker *worker)
{
    paddr_t list[BULK];
    uint64_t frames = 1 + next_random_below(&worker->random, BULK);

    if (pmm_alloc_frames(&machine.pmm, frames, PMM_NOZERO, list) != MM_OK)
        return;
    for (uint64_t i = 0; i < frames; i++) {
        check_not_bad(worker, list[i]);
        *(uint64_t *)phys_to_virt(list[i]) = list[i] + worker->random;
    }
    for (uint64_t i = 0; i < frames; i++)
        if (*(uint64_t *)phys_to_virt(list[i]) != list[i] + worker->random)
            count(&failures);
    pmm_free_frames(&machine.pmm, list, frames);
}

/* Puts an item into a mailbox and frees what lay in there: another CPU's, most often. */
static void exchange(struct worker *worker)
{
    struct item *mine, *other;

    if (worker->count == 0)
        return;
    mine = malloc(sizeof *mine);
    if (mine == NULL)
        return;
    *mine = worker->own[--worker->count];
    worker->held -= mine->frames;
    other = __atomic_exchange_n(&mailbox[next_random_below(&worker->random, MAILBOXES)], mine,
                                __ATOMIC_ACQ_REL);
    if (other != NULL)
        give(worker, other);
    free(other);
}

static void reserve_and_release(struct worker *worker)
{
    struct mm_extent extent = pmm_range_extent(&machine.pmm, 0);
    uint64_t frames = (extent.end - extent.base) / FRAME_SIZE;
    paddr_t base = extent.base + next_random_below(&worker->random, frames) * FRAME_SIZE;
    paddr_t end = base + (1 + next_random_below(&worker->random, 4)) * FRAME_SIZE;

    if (end > extent.end || pmm_reserve_range(&machine.pmm, base, end) != MM_OK)
        return;
    if (pmm_frame_state(&machine.pmm, base) != PMM_FRAME_RESERVED)
        count(&failures);
    if (pmm_release_range(&machine.pmm, base, end) != MM_OK)
        count(&failures);
}

/* What a frame allocator is told now and then, by anybody, in the middle of everything. */
static void low_water(void *context)
{
    count(context);
    pmm_drain_slot(&machine.pmm);
}

static void steer(struct worker *worker)
{
    struct pmm *pmm = &machine.pmm;
    uint64_t number = next_random_below(&worker->random, 64);

    switch (next_random_below(&worker->random, 12)) {
    case 0:
        pmm_drain(pmm);
        break;
    case 1:
        pmm_drain_slot(pmm);
        break;
    case 2:
        pmm_set_low_water(pmm, number * 8, low_water, &low_waters);
        break;
    case 3:
        pmm_set_trace(pmm, number % 4 == 0);
        break;
    case 4:
        pmm_fault_inject(pmm, number % 2 * number, number / 2);
        break;
    default:
        (void)pmm_idle_work(pmm);
        break;
    }
}

static void steering_ends(void)
{
    pmm_set_low_water(&machine.pmm, 0, NULL, NULL);
    pmm_set_trace(&machine.pmm, false);
    pmm_fault_inject(&machine.pmm, 0, 0);
}

static void work_once(size_t thread)
{
    struct worker *worker = &workers[thread];

    if (with_steering && next_random_below(&worker->random, 16) == 0)
        steer(worker);
    worker->retired = __atomic_load_n(&retirings, __ATOMIC_ACQUIRE);
    switch (next_random_below(&worker->random, 12)) {
    case 0:
        bulk(worker);
        break;
    case 1:
        exchange(worker);
        break;
    case 2:
        if (!with_bad_ram)
            reserve_and_release(worker);
        else if (next_random_below(&worker->random, 8) == 0)
            retire_some(worker);
        break;
    case 3:
        if (pmm_stats(&machine.pmm).total_frames == 0)
            count(&failures);
        break;
    default:
        if (worker->count < OWN && next_random_below(&worker->random, OWN) >= worker->count)
            take_one(worker);
        else if (worker->count > 0)
            give_one(worker);
        break;
    }
}

/* Everybody stands still. */
static void judge_round(void)
{
    struct pmm_stats stats = pmm_stats(&machine.pmm);
    uint64_t held = 0;

    for (size_t i = 0; i < threads_now; i++)
        held += workers[i].held;
    for (size_t i = 0; i < MAILBOXES; i++)
        held += mailbox[i] != NULL ? mailbox[i]->frames : 0;
    if (stats.used_frames != held || !pmm_verify(&machine.pmm) ||
        stats.free_frames + stats.used_frames + stats.reserved_frames != stats.total_frames)
        count(&failures);
}

static uint64_t *random_of(size_t thread)
{
    return &workers[thread].random;
}

static void leave(size_t thread)
{
    while (workers[thread].count > 0)
        give_one(&workers[thread]);
}

/* When all are gone, the one CPU that is left gets every frame. */
static void take_all(const struct pmm_stats *before)
{
    struct pmm_stats stats = pmm_stats(&machine.pmm);
    uint64_t taken = 0, kept;
    paddr_t frame;

    assert_int_equal(stats.used_frames, before->used_frames);
    if (stats.total_frames > MM_MIB(64) / FRAME_SIZE)
        return;
    while (pmm_alloc_frame_flags(&machine.pmm, PMM_NOZERO, &frame) == MM_OK)
        taken++;
    stats = pmm_stats(&machine.pmm);
    kept = stats.reserved_frames - before->reserved_frames; /* caches, bookkeeping, bad RAM */
    assert_int_equal(taken + kept, before->free_frames);
    if (with_bad_ram)
        kept -= judge_bad_ram(stats.retired_frames);
    assert_true(kept <= 2 * (threads_now + 1) * MM_PORT_LEVELS);
    assert_int_equal(stats.free_frames, 0);
    assert_true(pmm_verify(&machine.pmm));
}

static void run(const struct boot_range *list, size_t ranges, size_t threads,
                const struct pmm_config *config)
{
    struct pmm_stats before;
    const struct threads_work work = {
        .rounds = 4,
        .calls = (support_is_short() ? 8000 : 80000) / (unsigned)threads,
        .random = random_of,
        .work = work_once,
        .judge = judge_round,
        .leave = leave,
        .failures = &failures,
    };

    machine_set_up_config(&machine, list, ranges, config);
    before = pmm_stats(&machine.pmm);
    bugs_count_begin();
    memset(workers, 0, sizeof workers);
    threads_now = threads;
    failures = 0;
    retirings = 0;
    memset(retired_in, 0, sizeof retired_in);
    for (paddr_t frame = 0; frame < BAD_END; frame += FRAME_SIZE)
        was_reserved[frame / FRAME_SIZE] =
            pmm_frame_state(&machine.pmm, frame) == PMM_FRAME_RESERVED;
    for (size_t i = 0; i < threads; i++)
        workers[i].random = random_u64();
    threads_run_rounds(threads, &work);
    steering_ends();
    for (size_t i = 0; i < MAILBOXES; i++) {
        if (mailbox[i] != NULL)
            give(&workers[0], mailbox[i]);
        free(mailbox[i]);
        mailbox[i] = NULL;
    }
    assert_int_equal(counted(&failures), 0);
    assert_int_equal(bugs_counted(), 0);
    take_all(&before);
}

static void run_all(const struct boot_range *list, size_t ranges)
{
    static const struct pmm_config configs[] = {
        { .magazine_frames = 4 },
        { .magazine_frames = 64 },
        { .full_harden = true },
    };

    for (size_t threads = 2; threads <= THREADS_MAX; threads *= 2)
        for (size_t i = 0; i < COUNT_OF(configs); i++)
            run(list, ranges, threads, &configs[i]);
}

static void stress_where_memory_runs_out(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(1) + 300 * FRAME_SIZE, BOOT_USABLE) };

    (void)state;
    run_all(list, COUNT_OF(list));
}

static void stress_of_several_ranges(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(1) + 40 * FRAME_SIZE, BOOT_USABLE),
        ROW(MM_MIB(2) - 3 * FRAME_SIZE, MM_MIB(6) + FRAME_SIZE, BOOT_USABLE),
        ROW(MM_MIB(9), MM_MIB(9) + FRAME_SIZE, BOOT_USABLE),
        ROW(MM_GIB(4), MM_GIB(4) + 100 * FRAME_SIZE, BOOT_USABLE),
    };

    (void)state;
    run_all(list, COUNT_OF(list));
}

static void stress_of_64_gib(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_GIB(3), BOOT_USABLE),
        ROW(MM_GIB(4), MM_GIB(65), BOOT_USABLE),
    };

    (void)state;
    for (size_t threads = 2; threads <= THREADS_MAX; threads *= 2)
        run(list, COUNT_OF(list), threads, &(struct pmm_config){ .magazine_frames = 0 });
    assert_true(counted(&largest) > 0);
}

static void stress_while_ram_goes_bad(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(5), BOOT_USABLE) };

    (void)state;
    with_bad_ram = true;
    run_all(list, COUNT_OF(list));
    with_bad_ram = false;
}

/* Drains, marks, the switches of trace and fault injection, idle work, frames that come back as
 * zeroes: while all the rest goes on, where memory runs out and where it does not. */
static void stress_while_all_is_switched(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(1) + 300 * FRAME_SIZE, BOOT_USABLE),
        ROW(MM_MIB(9), MM_MIB(13), BOOT_USABLE),
    };

    (void)state;
    with_steering = true;
    low_waters = 0;
    run_all(list, 1);
    run_all(list, COUNT_OF(list));
    with_steering = false;
    assert_true(counted(&low_waters) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(stress_where_memory_runs_out),
        TEST(stress_of_several_ranges),
        TEST(stress_of_64_gib),
        TEST(stress_while_ram_goes_bad),
        TEST(stress_while_all_is_switched),
    };

    return RUN_TESTS(tests);
}
