/* SPDX-License-Identifier: MIT */
/* Threads of the host tests; see threads.h.
 *
 *   the test's thread   start                                        join, judge
 *   thread 1 .. total         work ... | all meet: thread 1 judges | work ... | leave
 *
 * There is one barrier, because one test runs at a time. */
#include "threads.h"

#define THREADS_MAX 16u

static pthread_barrier_t barrier;
static const struct threads_work *work_now; /* stays while its threads run */

void threads_start(pthread_t *threads, size_t total, void *(*body)(void *))
{
    for (size_t i = 0; i < total; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, body, (void *)(i + 1)), 0);
}

void threads_join(const pthread_t *threads, size_t total)
{
    for (size_t i = 0; i < total; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

void threads_meet_begin(unsigned total)
{
    assert_int_equal(pthread_barrier_init(&barrier, NULL, total), 0);
}

void threads_meet(void)
{
    pthread_barrier_wait(&barrier);
}

void threads_meet_end(void)
{
    pthread_barrier_destroy(&barrier);
}

void threads_run(size_t total, void *(*body)(void *))
{
    pthread_t threads[THREADS_MAX];

    assert_true(total <= THREADS_MAX);
    threads_meet_begin((unsigned)total);
    threads_start(threads, total, body);
    threads_join(threads, total);
    threads_meet_end();
}

/* ---- Rounds of work ---- */

static void work_at_level(const struct threads_work *work, size_t thread, uint64_t level)
{
    if (level == 0) {
        work->work(thread);
    } else if (hosted_interrupt_enter()) {
        work_at_level(work, thread, level - 1);
        hosted_interrupt_leave();
    } else {
        count(work->failures);
    }
}

static void *rounds_body(void *argument)
{
    const struct threads_work *work = work_now;
    size_t thread = (size_t)argument - 1;
    uint64_t *random = work->random(thread);

    for (unsigned round = 0; round < work->rounds; round++) {
        for (unsigned i = 0; i < work->calls; i++) {
            bool handler = next_random_below(random, 8) == 0;

            work_at_level(work, thread, handler ? next_random_below(random, MM_PORT_LEVELS) : 0);
        }
        threads_meet();
        if (thread == 0)
            work->judge();
        threads_meet();
    }
    if (work->leave != NULL)
        work->leave(thread);
    return NULL;
}

void threads_run_rounds(size_t total, const struct threads_work *work)
{
    work_now = work;
    threads_run(total, rounds_body);
    work_now = NULL;
}
