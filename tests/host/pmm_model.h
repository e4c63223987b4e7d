/* SPDX-License-Identifier: MIT */
/* A naive frame allocator, one byte of state for each frame, that follows a pmm step by step.
 *
 *   choices (random, or bytes of a fuzzer) -> a program of calls -> pmm and model -> compare
 *
 * test_model_pmm.c drives it with random numbers, tests/fuzz/fuzz_pmm.c with what libFuzzer invents.
 * Whatever differs fails the test (outside of a test: ends the program).
 *
 * The pmm may keep frames of its own for its caches: frames that the model calls free and the pmm
 * reserved, PMM_MODEL_HIDDEN at most. */
#ifndef TESTS_HOST_PMM_MODEL_H
#define TESTS_HOST_PMM_MODEL_H

#include "support.h"

#define PMM_MODEL_FRAMES 4096u
#define PMM_MODEL_HIDDEN 8u

/* Where decisions come from: a number below `bound`. */
typedef uint64_t (*pmm_model_choose)(uint64_t bound);

enum pmm_model_flags {
    PMM_MODEL_LEVELS = 1, /* calls come from all interrupt levels: other slots */
    PMM_MODEL_MISUSE = 2, /* wrong calls, which must be reported at once */
};

/* Sets up a machine with a random map and config, and the model beside it. Returns the flags that
 * fit this config. */
unsigned pmm_model_set_up(pmm_model_choose choose);

/* The same with the map [base, base + frames) and so on given. */
void pmm_model_set_up_map(pmm_model_choose choose, const struct boot_range *list, size_t count,
                          const struct pmm_config *config);

/* One call of the pmm, and the comparison. */
void pmm_model_step(unsigned flags);

/* Compares every frame, and pmm_verify(). */
void pmm_model_check(void);

/* Gives everything back that is allocated; then what was free at first is free again. */
void pmm_model_finish(void);

struct pmm *pmm_model_pmm(void);

#endif
