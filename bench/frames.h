/* SPDX-License-Identifier: MIT */
/* Subjects of the frames suite: allocators of 4 KiB frames behind one table of pointers.
 *
 * The signatures are those of mm/pmm.h, so that nothing stands between the pointer and mm; the
 * stand-ins follow. Frames are physical addresses; physical 0 stands at frames_ram. Only what is
 * cleared is touched there, and what the intrusive list needs.
 *
 * Stand-ins are written as well as their idea allows, and take a plain spinning lock where their
 * model has a lock. Ours may be called from interrupt handlers at any time. Of the others only
 * stack_irq could be, as it stands: it is what to compare with in a kernel. */
#ifndef BENCH_FRAMES_H
#define BENCH_FRAMES_H

#include "bench/bench.h"

#include <mm/pmm.h>

#define FRAMES_NOZERO PMM_NOZERO

struct frames_subject {
    const char *name;
    /* Bytes of metadata for so much memory from physical 0 on, and how it is made ready. */
    uint64_t (*metadata_bytes)(uint64_t bytes);
    void *(*create)(void *metadata, uint64_t bytes);
    /* 0: the frame is in *out; else there is none. */
    int (*get)(void *self, unsigned flags, uint64_t *out);
    void (*put)(void *self, uint64_t frame);
    void (*put_zero)(void *self, uint64_t frame); /* NULL: does not know zero frames */
    int (*get_large)(void *self, unsigned flags, uint64_t *out); /* NULL: no 2 MiB blocks */
    void (*put_large)(void *self, uint64_t block);
    int (*get_run)(void *self, unsigned flags, uint64_t *out); /* 128 neighbours; NULL: none */
    int (*get_many)(void *self, uint64_t count, unsigned flags, uint64_t *out);
    void (*put_many)(void *self, const uint64_t *frames, uint64_t count);
    void (*drain)(void *self); /* gives back what CPUs hold; NULL: nothing is held */
    uint64_t most_bytes;       /* more memory takes too much metadata or time to measure */
    bool touches_memory;       /* keeps its state in the frames themselves */
};

/* Defines frames_NAME of the functions NAME_bytes, NAME_create, NAME_get and NAME_put, and of the
 * fields that follow. */
#define FRAMES_SUBJECT(subject, ...)                                                               \
    const struct frames_subject frames_##subject = { .name = #subject,                             \
                                                     .metadata_bytes = subject##_bytes,            \
                                                     .create = subject##_create,                   \
                                                     .get = subject##_get,                         \
                                                     .put = subject##_put,                         \
                                                     __VA_ARGS__ }

extern const struct frames_subject frames_mello, frames_naive, frames_stack, frames_stack_irq,
    frames_list, frames_linux;

extern char *frames_ram;

/* The list's memory is not that of the others, which clear theirs. */
#define FRAMES_BYTES      MM_GIB(16)
#define FRAMES_LIST_BYTES MM_MIB(512)

static inline void frames_clear(uint64_t frame)
{
    __builtin_memset(frames_ram + frame, 0, 4096);
}

/* ---- The lock of the stand-ins ---- */

struct frames_lock {
    uint32_t word;
} __attribute__((aligned(64)));

void frames_lock_wait(struct frames_lock *lock);

static inline void frames_lock(struct frames_lock *lock)
{
    if (__builtin_expect(__atomic_exchange_n(&lock->word, 1, __ATOMIC_ACQUIRE) != 0, 0))
        frames_lock_wait(lock);
}

static inline void frames_unlock(struct frames_lock *lock)
{
    __atomic_store_n(&lock->word, 0, __ATOMIC_RELEASE);
}

/* ---- Parts of the suite ---- */

/* A subject on memory of this size, made ready. */
struct frames_run {
    const struct frames_subject *subject;
    void *self, *metadata;
    uint64_t bytes;
    uint64_t metadata_bytes;
};

void frames_begin(struct frames_run *run, const struct frames_subject *subject, uint64_t bytes);
void frames_end(struct frames_run *run);
_Noreturn void frames_die(const struct frames_run *run, const char *what);

#define FRAMES_SUBJECTS 6u
extern const struct frames_subject *frames_subjects[FRAMES_SUBJECTS]; /* those that are measured */
extern unsigned frames_count;

/* Each measures its workloads with all subjects in turn. */
void frames_measure_hot(struct bench *bench, struct frames_run *runs);
void frames_measure_fill(struct bench *bench, struct frames_run *runs);
void frames_measure_full(struct bench *bench, struct frames_run *runs);
void frames_measure_large(struct bench *bench);
void frames_measure_threads(struct bench *bench, struct frames_run *runs);
void frames_measure_init(struct bench *bench);

/* Takes frames until there is none or `most` are taken; returns how many. */
uint64_t frames_fill(const struct frames_run *run, uint64_t *frames, uint64_t most);
void frames_put_all(const struct frames_run *run, const uint64_t *frames, uint64_t count);
/* The same number of frames, in another order. */
void frames_shuffle(uint64_t *frames, uint64_t count, uint64_t seed);

/* Distributions of the 90 % workload, for the plot: one for each subject, and the timer's own. */
extern struct bench_histogram frames_latency[FRAMES_SUBJECTS], frames_timer;

#endif
