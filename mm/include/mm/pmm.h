/* SPDX-License-Identifier: MIT */
/* The physical memory manager: hands out 4 KiB frames. This header is part of the public API of mm/.
 *
 * It owns the RAM of a memory map: usable ranges, and the loader's, the kernel's and mm's own, which
 * are reserved. Each frame is free, used, reserved or a page table. free + used + reserved = total at
 * every moment (page tables count as used).
 *
 * A caller's bug (a free of a frame that is not allocated, an unaligned address, ...) is reported by
 * mm_bug() and changes nothing. */
#ifndef MM_PMM_H
#define MM_PMM_H

#include <mm/memmap.h>
#include <mm/port.h>

MM_BEGIN_DECLS

#define PMM_NO_LIMIT UINT64_MAX /* `limit` of pmm_alloc_contiguous: anywhere */

/* Flags of pmm_alloc_frame_flags and others. */
#define PMM_NOZERO 1u /* any content: the caller writes all of it */

/* How a pmm is to work; all zeroes, or no config at all, is the usual. */
struct pmm_config {
    bool low_memory;          /* also hand out frames below 1 MiB */
    bool full_harden;         /* no per-CPU caches: every double free is told at once, on any CPU */
    bool memory_is_zero;      /* all usable memory holds zeroes (fresh from mmap) */
    bool trace;               /* a debug line for each call; also pmm_set_trace() */
    uint64_t magazine_frames; /* size of a CPU's cache: 0: 256, none on small machines */
};

struct pmm_range; /* one run of RAM and its bitmap */

struct pmm_stats {
    uint64_t total_frames;
    uint64_t free_frames;
    uint64_t used_frames; /* page tables included */
    uint64_t table_frames;
    uint64_t reserved_frames;
    uint64_t range_count;
};

struct pmm {
    struct mm_port_lock lock; /* guards everything below but range_count and ranges */
    struct pmm_range *ranges; /* sorted by address, in the metadata */
    size_t range_count;
    struct pmm_stats stats;
    size_t last_range; /* where the search for a frame goes on: behind the last allocated one */
};

/* Bytes of metadata that pmm_init needs for this map. */
uint64_t pmm_metadata_bytes(const struct memmap *map);

/* Takes over the RAM of the map: usable frames become free, all others reserved. Frames below 1 MiB
 * are reserved unless config->low_memory. Frame 0 is reserved always.
 *   Units:      `metadata` has pmm_metadata_bytes(map) bytes, 64-byte aligned, any content; `config` may
 *               be NULL.
 *   Context:    boot CPU. */
void pmm_init(struct pmm *pmm, const struct memmap *map, void *metadata,
              const struct pmm_config *config);

/* Takes one frame and zeroes it.
 *   Returns:    MM_OK and the frame's physical address in *out, 4096-byte aligned.
 *   On failure: MM_OUT_OF_MEMORY; *out and the pool are as before.
 *   Context:    any CPU, also interrupt handlers; from an NMI or machine check handler it is a bug
 *               of the caller. */
MM_MUST_USE mm_status_t pmm_alloc_frame(struct pmm *pmm, paddr_t *out);

MM_MUST_USE mm_status_t pmm_alloc_frame_flags(struct pmm *pmm, unsigned flags, paddr_t *out);

/* Gives a frame back. A frame that is not allocated is a bug of the caller.
 *   Context:    as pmm_alloc_frame. */
void pmm_free_frame(struct pmm *pmm, paddr_t frame);

/* The same for a frame that the caller knows to hold zeroes: it is not cleared again. */
void pmm_free_zeroed_frame(struct pmm *pmm, paddr_t frame);

/* `count` single frames at once: all of them, or none and MM_OUT_OF_MEMORY. */
MM_MUST_USE mm_status_t pmm_alloc_frames(struct pmm *pmm, uint64_t count, unsigned flags,
                                         paddr_t *out);
void pmm_free_frames(struct pmm *pmm, const paddr_t *frames, uint64_t count);

/* A block of 2 MiB, aligned to its size. */
MM_MUST_USE mm_status_t pmm_alloc_large(struct pmm *pmm, unsigned flags, paddr_t *out);
void pmm_free_large(struct pmm *pmm, paddr_t block);

/* Takes `count_frames` neighbouring frames, the lowest that fit.
 *   Units:      `align_bytes` a power of two, at least FRAME_SIZE; the block ends at or below `limit`
 *               (an exclusive physical address, e.g. MM_GIB(4)), or PMM_NO_LIMIT.
 *   Returns:    MM_OK and the first frame's address in *out.
 *   Content:    zeroes.
 *   On failure: MM_INVALID_ARGUMENT (count 0, bad alignment), MM_OUT_OF_MEMORY; nothing changed.
 *   Context:    as pmm_alloc_frame. */
MM_MUST_USE mm_status_t pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames,
                                             uint64_t align_bytes, paddr_t limit, paddr_t *out);

MM_MUST_USE mm_status_t pmm_alloc_contiguous_flags(struct pmm *pmm, uint64_t count_frames,
                                                   uint64_t align_bytes, paddr_t limit,
                                                   unsigned flags, paddr_t *out);

/* Gives back `count_frames` frames from `first` on; a part of a contiguous block is allowed. If one
 * of them is not allocated, that is a bug of the caller and none is freed. */
void pmm_free_contiguous(struct pmm *pmm, paddr_t first, uint64_t count_frames);

/* Page-table frames are tagged, so that pmm_free_frame on one is reported. Zeroed. */
MM_MUST_USE mm_status_t pmm_alloc_table(struct pmm *pmm, paddr_t *out);
void pmm_free_table(struct pmm *pmm, paddr_t frame);

/* Takes exactly the free frames [base, end) out of service, or puts them back. Release what you have
 * reserved, or memory of the loader that nobody needs any more: the pmm cannot know who still lives in
 * a reserved frame.
 *   On failure: MM_NOT_ALIGNED; MM_INVALID_ADDRESS (not RAM of this pmm, empty, or a release of
 *               frame 0); MM_NOT_FREE
 *               (reserve: one is used or reserved already; release: one is not reserved). */
MM_MUST_USE mm_status_t pmm_reserve_range(struct pmm *pmm, paddr_t base, paddr_t end);
MM_MUST_USE mm_status_t pmm_release_range(struct pmm *pmm, paddr_t base, paddr_t end);

enum pmm_frame_state {
    PMM_FRAME_FREE,
    PMM_FRAME_USED,
    PMM_FRAME_RESERVED,
    PMM_FRAME_TABLE,
    PMM_FRAME_OUTSIDE, /* not RAM of this pmm */
};

enum pmm_frame_state pmm_frame_state(struct pmm *pmm, paddr_t address);

/* The same without a lock, for fault reports: while another CPU changes the frame, either state.
 *   Context:    any, also before pmm_init (then PMM_FRAME_OUTSIDE). */
enum pmm_frame_state pmm_peek_frame(const struct pmm *pmm, paddr_t address);

/* A consistent copy of the counters. */
struct pmm_stats pmm_stats(struct pmm *pmm);

/* The extent of range `index` (below stats.range_count), lowest first. */
struct mm_extent pmm_range_extent(const struct pmm *pmm, size_t index);

/* Recounts every bitmap and compares with the counters.
 *   Returns:    true if all agree; else false and one error line for the first difference. */
bool pmm_verify(struct pmm *pmm);

MM_END_DECLS
#endif
