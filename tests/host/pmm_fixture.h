/* SPDX-License-Identifier: MIT */
/* The frame allocator on a fake machine of its own, for the tests of what stands in front of and beside its
 * bitmap (test_pmm_cache.c and its neighbours).
 *
 * Slots are the interrupt levels of one fake CPU: level_up() and level_down() move between them. */
#ifndef TESTS_HOST_PMM_FIXTURE_H
#define TESTS_HOST_PMM_FIXTURE_H

#include "support.h"

#include "mm/pmm_parts.h"

extern struct machine pmm_machine;
extern struct pmm *const pmm;

/* A machine with so much memory, its metadata holding anything before. */
void pmm_set_up(uint64_t bytes, struct pmm_config config);

/* The same with caches of so many frames. */
void pmm_set_up_cached(uint64_t bytes, uint64_t frames);

void level_up(void);
void level_down(void);

/* A frame, which is zero. */
paddr_t alloc_one(void);

/* Both ways to ask say so. */
void assert_state(paddr_t frame, enum pmm_frame_state expected);

/* The free of this frame is reported with these words, and nothing is broken. */
void expect_free_bug(const char *state, paddr_t frame);

/* A frame comes and goes on the upper slot.
 *   Returns:  the slot's cache. */
struct pmm_slot *make_cache_in_the_upper_slot(void);

#endif
