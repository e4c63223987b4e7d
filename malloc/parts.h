/* SPDX-License-Identifier: MIT */
/* What the files of libmello-malloc.so tell each other. Everything is hidden but malloc.c's calls. */
#ifndef MALLOC_PARTS_H
#define MALLOC_PARTS_H

#include <mm/mm.h>

#define MALLOC_ALIGNMENT ((size_t)16) /* what every block has: alignof(max_align_t) */

/* Brings mm up, once; any later call costs one load.
 *   Returns:    true if the heap is there.
 *   On failure: false: no address space for the region, or the call came from within the start. */
bool malloc_start(void);

/* Bytes of the region; 0 before the start. */
size_t malloc_region_bytes(void);

/* Reads MELLO_MALLOC into a command line for mm: "harden=full,log=info" ->
 * " mm.harden=full mm.log=info"; "" if it is not set.
 *   On failure: what does not fit, or has an odd character, is left out. */
void malloc_options_read(char *line, size_t capacity);

/* Prepares for memory of the region to go back and forth. */
MM_MUST_USE bool malloc_memory_init(void *base, size_t bytes);

/* Called by the heap when it has got frames of the region.
 *   Returns:    true if they hold zeroes. */
bool malloc_memory_take(void *start, uint64_t bytes);

/* Called by the heap before it gives frames back, and when it has: sooner or later they are the
 * system's. */
void malloc_memory_give(void *start, uint64_t bytes);
void malloc_memory_given(void);

/* Takes the pages [first, end) of the region out of the hands of the pmm, and puts them back.
 *   On failure: false: not all of them are free. */
MM_MUST_USE bool malloc_frames_hold(uint64_t first, uint64_t end);
void malloc_frames_release(uint64_t first, uint64_t end);

/* Over a fork(). */
void malloc_memory_lock(void);
void malloc_memory_unlock(void);

/* Makes fork() safe: both sides go on with the heap unlocked and whole. Once. */
MM_MUST_USE bool malloc_fork_init(void);

#endif
