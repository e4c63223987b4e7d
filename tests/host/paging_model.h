/* SPDX-License-Identifier: MIT */
/* A naive map, one entry for each page of a few regions, that follows two address spaces step by step.
 *
 *   choices (random, or bytes of a fuzzer) -> a program of calls -> page tables and map -> compare
 *
 * The comparison is a walk of its own, written from SDM vol. 3, 4.5, that also looks at reserved bits
 * and memory types. test_model_paging.c drives it with random numbers, tests/fuzz/fuzz_paging.c with
 * what libFuzzer invents. Whatever differs fails the test (outside of a test: ends the program). */
#ifndef TESTS_HOST_PAGING_MODEL_H
#define TESTS_HOST_PAGING_MODEL_H

#include "walker.h"

typedef uint64_t (*paging_model_choose)(uint64_t bound);

/* A kernel space and one that shares its upper half, both empty, on a random CPU. */
void paging_model_set_up(paging_model_choose choose);

/* One call, and the comparison of the pages that it touched, their neighbours, one page anywhere, and
 * the bytes that each space maps. */
void paging_model_step(void);

/* Compares every page, every run, and the counters; no table is empty. */
void paging_model_check(void);

/* Unmaps everything and destroys both spaces; every frame is back. */
void paging_model_finish(void);

#endif
