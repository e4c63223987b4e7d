/* SPDX-License-Identifier: MIT */
/* The allocators that the heap suite measures, each behind the same pointers. */
#ifndef BENCH_HEAP_SUBJECTS_H
#define BENCH_HEAP_SUBJECTS_H

#include "bench/bench.h"

#define HEAP_SUBJECTS_MAX 8u

struct heap_subject {
    const char *name;
    const char *library;           /* of a peer: what dlopen is given; NULL: linked in */
    void *(*zeroed)(size_t bytes); /* a zeroed block: mello's and the seed's call */
    void *(*calloc)(size_t count, size_t bytes); /* or, where `zeroed` is NULL, the C library's */
    void *(*alloc)(size_t bytes);                /* a block of any content */
    void *(*resize)(void *block, size_t bytes);  /* realloc; NULL: has none */
    void (*release)(void *block);
    /* Called before and after its turn; NULL: nothing to do. */
    void (*enter)(void);
    void (*leave)(void);
    unsigned slow; /* so many times fewer calls are measured; 0: as many as of the others */
};

/* A zeroed block, by the call that the subject has for it. */
static inline void *heap_zeroed(const struct heap_subject *subject, size_t bytes)
{
    return subject->zeroed != NULL ? subject->zeroed(bytes) : subject->calloc(1, bytes);
}

/* Loads the peers and brings mello and the seed's buddy up on memory of their own. A peer that is not
 * installed is named in a note and left out.
 *   Returns:    true, and how many subjects[HEAP_SUBJECTS_MAX] holds: those that are wanted; 0 if none is.
 *   On failure: false: a peer is installed and does not load; a note says why. */
bool heap_subjects_start(struct bench *bench, struct heap_subject *subjects, unsigned *out_count);

/* The subject of that name alone, without a bench to tell; false if it is not there. */
bool heap_subject_start(const char *name, struct heap_subject *subject);

enum heap_peer { HEAP_PEER_FOUND, HEAP_PEER_ABSENT, HEAP_PEER_BROKEN };

/* Loads a library of others by dlopen; `why` gets the reason if it does not. One that is not installed
 * is absent; one that is there and cannot be loaded is broken. */
enum heap_peer heap_peer_load(const char *library, void **handle, char *why, size_t why_bytes);

#endif
