/* SPDX-License-Identifier: MIT */
/* The memory map under test of test_memmap*.c, and the rows that it is built from. */
#ifndef TESTS_HOST_MEMMAP_FIXTURE_H
#define TESTS_HOST_MEMMAP_FIXTURE_H

#include "memmap_model.h"

#define LIMIT ((paddr_t)1 << 52)

extern struct rows rows;
extern struct memmap map;

/* Builds the map of `list` and checks everything that the model can check. */
void build_ok(const struct boot_range *list, size_t count);

#define BUILD_OK(list) build_ok((list), COUNT_OF(list))

/* No map of `list` can be built, and nothing has changed. */
void assert_refused(const struct boot_range *list, size_t count);

void assert_type_at(paddr_t address, uint64_t type);

#endif
