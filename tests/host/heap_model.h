/* SPDX-License-Identifier: MIT */
/* A naive heap, a list of living blocks and what they hold, that follows a kheap step by step.
 *
 *   choices (random, or bytes of a fuzzer) -> a program of calls -> kheap and list -> compare
 *
 * test_model_heap.c drives it with random numbers, tests/fuzz/fuzz_heap.c with what libFuzzer
 * invents. Whatever differs fails the test (outside of a test: ends the program). */
#ifndef TESTS_HOST_HEAP_MODEL_H
#define TESTS_HOST_HEAP_MODEL_H

#include "support.h"

typedef uint64_t (*heap_model_choose)(uint64_t bound);

enum heap_model_kind {
    HEAP_MODEL_REGION, /* kheap_init() on a region that never grows */
    HEAP_MODEL_GROWN,  /* the default heap of mello_host_init(): takes frames and gives them back */
};

/* A heap of that kind at that level, and an empty list. */
void heap_model_set_up(heap_model_choose choose, enum heap_model_kind kind, enum kheap_level level);

/* One call of the heap, and the comparison. */
void heap_model_step(void);

/* All blocks hold what they should, the counters agree, kheap_verify(). */
void heap_model_check(void);

/* Frees everything; then the largest block can be had. */
void heap_model_finish(void);

struct kheap *heap_model_heap(void);

#endif
