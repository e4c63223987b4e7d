/* SPDX-License-Identifier: MIT */
/* What the tests with several threads share. Each thread is a CPU of the fake machine, with interrupts,
 * registers and TLB of its own. Only the thread that runs the test may fail it: the others count, and
 * what they counted is judged after they are joined. */
#ifndef TESTS_HOST_THREADS_H
#define TESTS_HOST_THREADS_H

#include "support.h"

#include <pthread.h>

/* ---- Counters and random numbers of threads ---- */

static inline void count(unsigned *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static inline unsigned counted(const unsigned *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* A linear congruence; 31 bits of it. Each thread has a state of its own. */
static inline uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* 0 .. bound - 1 */
static inline uint64_t next_random_below(uint64_t *state, uint64_t bound)
{
    return next_random(state) % bound;
}

/* ---- Starting, meeting, joining ---- */

/* Starts `total` threads; each gets its number, 1 .. total, as its argument. */
void threads_start(pthread_t *threads, size_t total, void *(*body)(void *));
void threads_join(const pthread_t *threads, size_t total);

/* A barrier for so many, until it is set again or threads_meet_end(). */
void threads_meet_begin(unsigned total);
void threads_meet(void);
void threads_meet_end(void);

/* Starts `total` threads that may meet each other, and joins them. */
void threads_run(size_t total, void *(*body)(void *));

/* ---- Rounds of work ---- */

/* What each thread does `calls` times in a round, mostly at level 0, else at one of the interrupt levels
 * above it. Between two rounds everybody stands still, and one of them judges. */
struct threads_work {
    unsigned rounds, calls;
    uint64_t *(*random)(size_t thread); /* the state of a thread, 0 .. total - 1 */
    void (*work)(size_t thread);
    void (*judge)(void);
    void (*leave)(size_t thread); /* before a thread ends; NULL: nothing */
    unsigned *failures;           /* counted where a level could not be entered */
};

void threads_run_rounds(size_t total, const struct threads_work *work);

#endif
