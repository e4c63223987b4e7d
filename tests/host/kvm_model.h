/* SPDX-License-Identifier: MIT */
/* A naive list of what stands in the windows of kernel virtual memory, which follows it call by call.
 *
 *   choices (random, or bytes of a fuzzer) -> a program of calls -> windows and list -> compare
 *
 * The comparison asks the hosted MMU, page by page, and the frames. test_model_kvm.c drives it with random
 * numbers, tests/fuzz/fuzz_kvm.c with what libFuzzer invents. Whatever differs fails the test. */
#ifndef TESTS_HOST_KVM_MODEL_H
#define TESTS_HOST_KVM_MODEL_H

#include "kvm_fixture.h"

typedef uint64_t (*kvm_model_choose)(uint64_t bound);

/* A small machine with empty windows. */
void kvm_model_set_up(kvm_model_choose choose);

/* One call; what it made or took away is compared, with the pages around it, and the counters. */
void kvm_model_step(void);

/* Compares everything that stands: each page and its content, guards, trees, the number of leaves. */
void kvm_model_check(void);

/* Takes everything away; every frame is back. */
void kvm_model_finish(void);

#endif
