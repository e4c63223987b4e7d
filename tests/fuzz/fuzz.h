/* SPDX-License-Identifier: MIT */
/* What the fuzz targets share: the bytes of an input are the decisions of a program, one or more bytes
 * for each, until they are used up. The programs and what is compared after each of their calls are
 * those of tests/host/..._model.h; what differs ends the process, which libFuzzer reports. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "tests/host/support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The next decision, below `bound`; 0 when the input is used up. */
uint64_t fuzz_choose(uint64_t bound);

/* True until then. */
bool fuzz_goes_on(void);

/* Runs `program` on an input, from a fresh state to a fresh state. */
void fuzz_run(const uint8_t *data, size_t bytes, void (*program)(void));

#endif
