/* SPDX-License-Identifier: MIT */
/* The parts of the heap's memory and how they hang together. Internal to them; the rest of the heap sees
 * what heap_parts.h shows.
 *
 *      heap_create.c --> all of them
 *      heap_memory.c (grow, shrink), heap_large_resize.c --> heap_large.c (large blocks)
 *           |--> heap_source.c   addresses and frames
 *           |--> heap_chunk.c    2 MiB each: buddy system, table
 *                    |--> heap_state.c   memory for chunks, spans, caches */
#ifndef MM_HEAP_MEMORY_H
#define MM_HEAP_MEMORY_H

#include "mm/heap_parts.h"

/* ---- heap_state.c ---- */

/* State from what the first memory has for it; NULL: there is no more. With the lock, or alone. */
void *heap_state_bump(struct kheap *heap, uint64_t bytes);
/* State in frames of its own; NULL: the pmm has none. Without the lock. */
void *heap_state_from_pmm(struct kheap *heap, uint64_t bytes);
/* A page of spans of that kind (big or not). Without the lock.
 *   Returns:  false if there is none. */
bool heap_state_supply(struct kheap *heap, unsigned kind);
/* What was kept for state becomes memory for blocks.
 *   Returns:  true if it was something. */
bool heap_state_give_up_kept_locked(struct kheap *heap);

/* ---- heap_chunk.c ---- */

/* Stands in the table where addresses are reserved. */
extern struct heap_chunk heap_chunk_reserved;

uint64_t heap_chunk_state_bytes(void);

/* Makes sure that each 2 MiB of [offset, offset + bytes) has a chunk in the table; without the lock.
 *   On failure: false; chunks that were made stay until their addresses are given up. */
bool heap_chunks_make(struct kheap *heap, uint64_t offset, uint64_t bytes);
/* Makes the chunks of [offset, offset + bytes) and takes the lock. Another CPU that gives back the last
 * memory of a chunk drops it as long as ours does not count: then they are made again.
 *   Returns:    true and the lock held, *saved for its release.
 *   On failure: false without the lock, as heap_chunks_make(). */
bool heap_chunks_make_and_lock(struct kheap *heap, uint64_t offset, uint64_t bytes,
                               uint64_t *saved);
/* Takes chunks out of the table that hold nothing any more; `behind`: what stands there then. */
void heap_chunks_drop_empty_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                                   struct heap_chunk *behind);
/* Gives the buddy systems of existing chunks the memory [offset, offset + bytes). */
void heap_chunks_add_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool zeroed);
/* A run for state, which stays for ever: of the chunk that holds such state already, or else of the
 * roomiest, so that few chunks can never go back to the pmm because of it. As heap_run_take_locked(). */
uint64_t heap_run_take_for_state_locked(struct kheap *heap, uint64_t bytes, bool *zeroed);
/* Takes free memory of the chunk, which is to go back, out of it. */
void heap_chunk_pages_remove_locked(struct heap_chunk *chunk, uint64_t from, uint64_t to);
/* Puts a chunk into the lists of its largest free block and its longest run. */
void heap_chunk_file_locked(struct kheap *heap, struct heap_chunk *chunk);

/* Wholly free and to be given back, 2 MiB or the pieces that it has. */
bool heap_chunk_is_spare(const struct heap_chunk *chunk);
/* One more or less of them, if it `counts`. */
void heap_spare_count_locked(struct kheap *heap, bool counts, bool more);

/* ---- heap_source.c; without the lock ---- */

/* Reserves neighbouring addresses of the window, `bytes` a multiple of HEAP_CHUNK_BYTES. */
bool heap_window_reserve(struct kheap *heap, uint64_t bytes, uint64_t *offset);
/* Reserves just these, multiples of HEAP_CHUNK_BYTES; false if one of them is taken. */
bool heap_window_reserve_at(struct kheap *heap, uint64_t offset, uint64_t bytes);
/* Gives addresses up; what is committed there is gone already. */
void heap_window_unreserve(struct kheap *heap, uint64_t offset, uint64_t bytes);

/* 2 MiB, or less (a power of two), of memory at addresses of the heap that nobody has. */
bool heap_source_commit(struct kheap *heap, uint64_t bytes, uint64_t *offset);
/* Gives memory back; its addresses stay reserved. */
void heap_source_decommit(struct kheap *heap, uint64_t offset, uint64_t bytes);
/* What has just been committed holds zeroes: the window's always, frames of the HHDM if their lender
 * says so. To be asked once. */
bool heap_source_is_zero(struct kheap *heap, uint64_t offset, uint64_t bytes);
void heap_frames_count(struct kheap *heap, int64_t frames);

/* ---- heap_large.c, for heap_large_resize.c ---- */

/* The pages of a large block come or go; the chunks are there. */
void heap_large_count_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool add);
/* What a large block of so many bytes takes: steps of the window, or pages. */
uint64_t heap_large_bytes(const struct kheap *heap, uint64_t bytes);
/* Spares a call that cannot end well the clearing of all free memory; not asked for small ones. */
bool heap_large_is_beyond_memory(const struct kheap *heap, uint64_t bytes);
/* Addresses of the window for a large block: those of one chunk below and at least a page above stay
 * empty. `offset` of a block for giving them up. */
bool heap_large_reserve(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset);
void heap_large_unreserve(struct kheap *heap, uint64_t offset, uint64_t bytes);
/* Commits [offset, offset + bytes): what is no multiple of 2 MiB at the end is cut into pieces. */
bool heap_large_commit(struct kheap *heap, uint64_t offset, uint64_t bytes);

/* ---- heap_memory.c ---- */

/* Around a change that has memory neither in the pmm nor in the heap for a while. `arrived`: there is more
 * to be found now than at the beginning. With or without the lock. */
void heap_move_begin(struct kheap *heap);
void heap_move_end(struct kheap *heap, bool arrived);

#endif
