/* SPDX-License-Identifier: MIT */
/* Two, four and eight CPUs do everything to one heap at once, each from all its interrupt levels. A block
 * is filled with its owner's mark while it is allocated, and blocks wander: what one CPU has allocated
 * another one frees.
 *
 *   each CPU     own blocks <-> mailbox <-> other CPUs
 *   a round      .... everybody works .... | barrier: one verifies and counts | ....
 *
 * CPUs come and go: in the last round each thread ends with blocks of its own alive, which the test's
 * thread frees. ThreadSanitizer runs this program too: threads only count, and what they counted is
 * judged after they are joined. MELLO_SOAK=seconds makes a soak of it. */
#include "threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 8u
#define OWN         120u
#define MAILBOXES   32u
#define HEAP_BYTES  MM_MIB(48)

struct block {
    unsigned char *at;
    size_t bytes;
};

struct worker {
    struct block own[OWN];
    size_t count;
    uint64_t random;
    unsigned char mark;
};

static void *memory;
static struct kheap *heap;
static struct worker workers[THREADS_MAX];
static struct block *mailbox[MAILBOXES];
static size_t threads_now;
static unsigned failures;

/* What a thread says that must not end the program here; shown by end(). */
static char violation[256];

static void on_violation(const char *what)
{
    count(&failures);
    mm_format(violation, sizeof violation, "%s", what);
}

static void on_log(enum mm_log_level level, const char *line)
{
    (void)level;
    (void)line;
}

/* No thread can go on after this; the test's end would wait for it. */
static void on_halt(const char *line)
{
    fprintf(stderr, "%s\n", line);
    abort();
}

static size_t choose_size(struct worker *worker)
{
    switch (next_random_below(&worker->random, 16)) {
    case 0:
        return 1 + next_random_below(&worker->random, MM_KIB(40));
    case 1:
        return (size_t)1 << next_random_below(&worker->random, 14);
    case 2:
        return next_random_below(&worker->random, 8) == 0
                   ? MM_MIB(1) + next_random_below(&worker->random, MM_MIB(1))
                   : 3000;
    default:
        return 1 + next_random_below(&worker->random, 300);
    }
}

/* ---- Blocks: the first, the last and some bytes between carry the mark ---- */

static void mark(const struct worker *worker, const struct block *block)
{
    for (size_t at = 0; at < block->bytes; at += 1 + block->bytes / 16)
        block->at[at] = worker->mark;
    block->at[block->bytes - 1] = worker->mark;
}

static void check(const struct block *block)
{
    unsigned char wanted = block->at[0];

    for (size_t at = 0; at < block->bytes; at += 1 + block->bytes / 16)
        if (block->at[at] != wanted)
            count(&failures);
    if (block->at[block->bytes - 1] != wanted || wanted == 0)
        count(&failures);
}

static void give(const struct block *block)
{
    check(block);
    kheap_free(heap, block->at);
}

static void take_one(struct worker *worker)
{
    struct block *block = &worker->own[worker->count];
    bool zeroed = next_random_below(&worker->random, 4) != 0;

    block->bytes = choose_size(worker);
    if (next_random_below(&worker->random, 16) == 0)
        block->at = kheap_alloc_aligned(heap, block->bytes,
                                        (size_t)1 << next_random_below(&worker->random, 14));
    else
        block->at =
            zeroed ? kheap_alloc(heap, block->bytes) : kheap_alloc_nozero(heap, block->bytes);
    if (block->at == NULL)
        return;
    if (zeroed && (block->at[0] != 0 || block->at[block->bytes - 1] != 0))
        count(&failures);
    worker->count++;
    mark(worker, block);
}

static void give_one(struct worker *worker)
{
    size_t index = next_random_below(&worker->random, worker->count);
    struct block block = worker->own[index];

    worker->own[index] = worker->own[--worker->count];
    give(&block);
}

static void resize_one(struct worker *worker)
{
    struct block *block = &worker->own[next_random_below(&worker->random, worker->count)];
    size_t bytes = choose_size(worker);
    unsigned char *at;

    check(block);
    at = kheap_realloc(heap, block->at, bytes);
    if (at == NULL)
        return;
    if (at[0] == 0)
        count(&failures);
    block->at = at;
    block->bytes = bytes;
    mark(worker, block);
}

/* Puts a block into a mailbox and frees what lay in there: another CPU's, most often. */
static void exchange(struct worker *worker)
{
    struct block *mine = malloc(sizeof *mine), *other;

    if (mine == NULL)
        return;
    *mine = worker->own[--worker->count];
    other = __atomic_exchange_n(&mailbox[next_random_below(&worker->random, MAILBOXES)], mine,
                                __ATOMIC_ACQ_REL);
    if (other != NULL)
        give(other);
    free(other);
}

static void work_once(size_t thread)
{
    struct worker *worker = &workers[thread];
    uint64_t what = next_random_below(&worker->random, 16);

    if (what < 4 && worker->count > 0)
        exchange(worker);
    else if (what == 4 && worker->count > 0)
        resize_one(worker);
    else if (what == 5 && next_random_below(&worker->random, 64) == 0)
        kheap_drain(heap, KHEAP_ALL_SLOTS);
    else if (worker->count < OWN && next_random_below(&worker->random, OWN) >= worker->count)
        take_one(worker);
    else if (worker->count > 0)
        give_one(worker);
}

/* Everybody stands still. */
static void judge_round(void)
{
    uint64_t live = 0;

    for (size_t i = 0; i < threads_now; i++)
        live += workers[i].count;
    for (size_t i = 0; i < MAILBOXES; i++)
        live += mailbox[i] != NULL;
    if (kheap_stats(heap).used_blocks != live || !kheap_verify(heap))
        count(&failures);
}

static uint64_t *random_of(size_t thread)
{
    return &workers[thread].random;
}

static void begin(enum kheap_level level)
{
    struct hosted_hooks hooks = *support_hooks();

    memory = aligned_alloc(MM_MIB(2), HEAP_BYTES);
    assert_non_null(memory);
    assert_true(mello_host_init(memory, HEAP_BYTES));
    heap = kheap_default();
    kheap_set_level(heap, level);
    bugs_count_begin();
    hooks.log = on_log;
    hooks.violation = on_violation;
    hooks.halt = on_halt;
    hosted_set_hooks(&hooks);
    memset(workers, 0, sizeof workers);
    failures = 0;
    violation[0] = '\0';
}

/* The threads are gone: what they have left is freed by this one, then nothing is alive. */
static void end(void)
{
    for (size_t i = 0; i < threads_now; i++)
        while (workers[i].count > 0)
            give(&workers[i].own[--workers[i].count]);
    for (size_t i = 0; i < MAILBOXES; i++) {
        if (mailbox[i] != NULL)
            give(mailbox[i]);
        free(mailbox[i]);
        mailbox[i] = NULL;
    }
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    if (counted(&failures) != 0 || bugs_counted() != 0)
        fail_msg("%u failures, %u reports; violation: \"%s\"", counted(&failures), bugs_counted(),
                 violation);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
    kheap_set_default(NULL);
    free(memory);
}

static void run(size_t threads, enum kheap_level level)
{
    const struct threads_work work = {
        .rounds = 4,
        .calls = (support_is_sanitized() ? 3000 : 60000) / (unsigned)threads,
        .random = random_of,
        .work = work_once,
        .judge = judge_round,
        .failures = &failures,
    };

    begin(level);
    threads_now = threads;
    for (size_t i = 0; i < threads; i++) {
        workers[i].random = random_u64();
        workers[i].mark = (unsigned char)(i + 1);
    }
    threads_run_rounds(threads, &work);
    end();
}

static void stress_of_the_heap(void **state)
{
    (void)state;
    for (size_t threads = 2; threads <= THREADS_MAX; threads *= 2)
        run(threads, KHEAP_DEFAULT);
}

static void stress_of_the_heap_at_the_full_level(void **state)
{
    (void)state;
    for (size_t threads = 2; threads <= THREADS_MAX; threads *= 2)
        run(threads, KHEAP_FULL);
}

/* Everybody frees the same blocks at the same moments: one takes effect, all others are reported. */
#define SHARED 400u

static void *shared[SHARED];

static void *free_the_same_body(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < SHARED; i++) {
        if (i % 16 == 0)
            threads_meet();
        kheap_free(heap, shared[i]);
    }
    return NULL;
}

static void free_the_same(size_t threads, enum kheap_level level)
{
    begin(level);
    threads_now = 0;
    for (size_t i = 0; i < SHARED; i++)
        assert_non_null(shared[i] = kheap_alloc(heap, 16 + i * 8));
    threads_run(threads, free_the_same_body);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    if (bugs_counted() != SHARED * (threads - 1) || kheap_stats(heap).used_blocks != 0)
        fail_msg("%zu CPUs, level %d: %u reports, not %zu; %lu blocks are left", threads, level,
                 bugs_counted(), SHARED * (threads - 1), kheap_stats(heap).used_blocks);
    bugs_count_begin();
    end();
}

static void stress_of_the_same_blocks(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 4; round++)
        for (size_t threads = 2; threads <= THREADS_MAX; threads *= 2) {
            free_the_same(threads, KHEAP_DEFAULT);
            free_the_same(threads, KHEAP_FULL);
        }
}

/* For MELLO_SOAK seconds; one round at least. */
static void soak(void **state)
{
    const char *wanted = getenv("MELLO_SOAK");
    uint64_t until =
        mm_port_time_ns() + (wanted != NULL ? strtoull(wanted, NULL, 10) : 0) * 1000000000u;

    (void)state;
    for (uint64_t seed = 1; seed == 1 || mm_port_time_ns() < until; seed++) {
        random_seed(seed);
        run(2 + seed % (THREADS_MAX - 1), seed % 2 == 0 ? KHEAP_DEFAULT : KHEAP_FULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(stress_of_the_heap),
        TEST(stress_of_the_heap_at_the_full_level),
        TEST(stress_of_the_same_blocks),
        TEST(soak),
    };

    return RUN_TESTS(tests);
}
