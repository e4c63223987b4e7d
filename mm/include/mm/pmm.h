/* SPDX-License-Identifier: MIT */
/* The physical memory manager: hands out frames of 4 KiB, blocks of 2 MiB and runs of frames. This header
 * is part of the public API of mm/.
 *
 * It owns the RAM of a memory map: usable ranges, and the loader's, the kernel's and mm's own, which
 * are reserved. Each frame is free, used, reserved, retired or a page table. free + used + reserved =
 * total at every moment (page tables count as used, retired frames as reserved).
 *
 * In front of the shared state each CPU and interrupt level has a cache of free frames (a slot, port.h);
 * what lies in a cache is free, and is taken back before anybody is told that memory is out. Machines
 * below PMM_SMALL_BYTES have no caches.
 *
 * A caller's bug (a free of a frame that is not allocated, an unaligned address, ...) is reported by
 * mm_bug() and changes nothing. When a double free is seen: at once if the frame is in no cache, or in
 * that of the calling slot; else, at the default level, when a copy goes back from its cache to the
 * shared state and the frame is free there already (a 2 MiB block: or lies in another cache). If an
 * allocation took a copy first, two own the frame, and it is told only when it is freed again. At the
 * full level there are no caches: always at once. */
#ifndef MM_PMM_H
#define MM_PMM_H

#include <mm/memmap.h>
#include <mm/port.h>

MM_BEGIN_DECLS

#define PMM_NO_LIMIT    UINT64_MAX /* `limit` of pmm_alloc_contiguous: anywhere */
#define PMM_SMALL_BYTES MM_MIB(48) /* less RAM than this: no caches, unless the config asks */

/* Flags of pmm_alloc_*_flags, pmm_alloc_frames and pmm_alloc_large. */
#define PMM_NOZERO 1u /* any content: the caller writes all of it */

/* How a pmm is to work; all zeroes, or no config at all, is the usual. */
struct pmm_config {
    bool low_memory;          /* also hand out frames below 1 MiB */
    bool full_harden;         /* no caches; content that is said to be zero is checked */
    bool memory_is_zero;      /* all usable memory holds zeroes (fresh from mmap) */
    bool trace;               /* as pmm_set_trace(pmm, true) */
    uint64_t magazine_frames; /* size of a cache, at most 256; 0: 256, none on small machines */
};

struct pmm_range; /* one run of RAM */
struct pmm_slot;  /* one cache */
struct pmm_core;  /* everything behind the lock */

struct pmm_stats {
    uint64_t total_frames;
    uint64_t free_frames;     /* cached ones included */
    uint64_t used_frames;     /* page tables included */
    uint64_t table_frames;    /* page tables */
    uint64_t reserved_frames; /* retired ones, and those that hold the caches, included */
    uint64_t range_count;
    uint64_t cached_frames;  /* free frames in caches */
    uint64_t zeroed_frames;  /* of these, known to hold zeroes */
    uint64_t retired_frames; /* bad RAM */
};

/* Called when free memory has fallen below the mark, in the context of whoever took the frame that
 * did it: see pmm_set_low_water. */
typedef void (*pmm_low_water_fn)(void *context);

struct pmm {
    /* The caches; written under the lock, each entry read by its slot. First, so that finding one
     * takes no addition. */
    struct pmm_slot *slots[MM_PORT_SLOT_TABLE] __attribute__((aligned(64)));
    /* Constant after pmm_init(); what the fast paths read. */
    const uint64_t *taken; /* one bit for each frame */
    const uint64_t
        *plain;    /* one bit for each word of `taken`: it is valid, its set bits are used */
    uint64_t hhdm; /* hhdm_offset() */
    struct pmm_range *ranges; /* sorted by address, in the metadata */
    size_t range_count;
    struct pmm_core *core;
    /* Guards everything below, and core. */
    struct mm_port_lock lock __attribute__((aligned(64)));
    struct pmm_stats stats; /* frames in caches count as used here; pmm_stats() corrects that */
};

/* ---- starting ---- */

/* Bytes of metadata that pmm_init needs for this map: 33.8 KiB for each GiB of RAM and a little for each
 * range. Does not change when memmap_take() carves them out. */
uint64_t pmm_metadata_bytes(const struct memmap *map);

/* Takes over the RAM of the map: usable frames become free, all others reserved. Frames below 1 MiB
 * are reserved unless config->low_memory. Frame 0 is reserved always.
 *   Units:      `metadata` has pmm_metadata_bytes(map) bytes, 64-byte aligned, any content; `config` may
 *               be NULL.
 *   Context:    boot CPU.
 *   Cost:       by ranges, of which there may be very many (65 536 of one frame each: some ms); of the
 *               rest 12 bits are written for each 2 MiB. No other call here costs by ranges but those that go
 *               over all memory (pmm_largest_free, pmm_report, pmm_verify). */
void pmm_init(struct pmm *pmm, const struct memmap *map, void *metadata,
              const struct pmm_config *config);

/* ---- single frames ---- */

/* Takes one frame.
 *   Returns:    MM_OK and the frame's physical address in *out, 4096-byte aligned.
 *   On failure: MM_OUT_OF_MEMORY: no frame is free, in no cache either; *out and the pool are as before.
 *   Content:    zeroes. A frame that is known to hold them is not cleared again; with PMM_NOZERO in
 *               `flags` any content.
 *   Context:    any CPU, also interrupt handlers; from an NMI or machine check handler it is a bug
 *               of the caller (MM_UNSUPPORTED).
 *   Locking:    the lock of the pmm at most, and none of it while the low-water callback runs: what
 *               that may need, the caller must not hold (pmm_set_low_water).
 *   Cost:       usually no lock, no locked instruction, no line that another CPU writes; one frame is
 *               cleared. */
MM_MUST_USE mm_status_t pmm_alloc_frame(struct pmm *pmm, paddr_t *out);
MM_MUST_USE mm_status_t pmm_alloc_frame_flags(struct pmm *pmm, unsigned flags, paddr_t *out);

/* Gives a frame back, on any CPU. A frame that is not allocated is a bug of the caller.
 *   Context:    as pmm_alloc_frame.
 *   Cost:       as pmm_alloc_frame, nothing is cleared. */
void pmm_free_frame(struct pmm *pmm, paddr_t frame);

/* The same for a frame that holds zeroes, as its caller promises: it is not cleared again. The full level
 * checks the promise. */
void pmm_free_zeroed_frame(struct pmm *pmm, paddr_t frame);

/* Takes `count` single frames at once, or none.
 *   Returns:    MM_OK and the addresses in out[count].
 *   On failure: MM_OUT_OF_MEMORY; the pool is as before, out[] is written at most where another CPU took
 *               memory at the same moment.
 *   Content, Context, Locking: as pmm_alloc_frame. */
MM_MUST_USE mm_status_t pmm_alloc_frames(struct pmm *pmm, uint64_t count, unsigned flags,
                                         paddr_t *out);

/* Gives `count` frames back, each as pmm_free_frame: a wrong one is reported, the others are freed. */
void pmm_free_frames(struct pmm *pmm, const paddr_t *frames, uint64_t count);

/* Page-table frames are told apart, so that pmm_free_frame on one is reported. They come out of 2 MiB
 * blocks of their own where memory allows it.
 *   Returns:    MM_OK and the frame's physical address in *out, 4096-byte aligned.
 *   On failure: MM_OUT_OF_MEMORY: no frame is free, in no cache either; *out and the pool are as
 *               before.
 *   Content:    zeroes, and a table that is freed must hold zeroes: it is not cleared again. Debug
 *               builds and the full level check that.
 *   Context, Locking: as pmm_alloc_frame.
 *   Cost:       a lock; one frame is cleared, but for the few tables that were freed last. */
MM_MUST_USE mm_status_t pmm_alloc_table(struct pmm *pmm, paddr_t *out);
/* With PMM_NOZERO its content is anything: the caller writes all entries before it is used.
 * Everything else as pmm_alloc_table. */
MM_MUST_USE mm_status_t pmm_alloc_table_flags(struct pmm *pmm, unsigned flags, paddr_t *out);
/* Gives a table back. A frame that is no page table, and one that is seen not to hold zeroes, is a
 * bug of the caller; nothing changes.
 *   Context:    as pmm_alloc_frame. */
void pmm_free_table(struct pmm *pmm, paddr_t frame);

/* ---- blocks ---- */

/* Takes a block of 2 MiB, aligned to its size; above 4 GiB if there is one.
 *   Returns:    MM_OK and the block's physical address in *out.
 *   On failure: MM_OUT_OF_MEMORY, MM_INVALID_ARGUMENT (flags); nothing changed.
 *   Content, Context, Locking: as pmm_alloc_frame.
 *   Cost:       as pmm_alloc_frame for one of the last two blocks that this slot has freed; else a lock,
 *               no search; with no cached frames the answer "no" takes less than 1 us with up to 32
 *               caches: two lines of each are looked at. */
MM_MUST_USE mm_status_t pmm_alloc_large(struct pmm *pmm, unsigned flags, paddr_t *out);

/* Gives the whole block back; for a part use pmm_free_contiguous or pmm_free_frame. An address that is
 * not aligned to 2 MiB is a bug of the caller. */
void pmm_free_large(struct pmm *pmm, paddr_t block);

/* Takes `count_frames` neighbouring frames: above 4 GiB first unless `limit` says otherwise; there first
 * where 2 MiB blocks are partly used already; then the lowest place that fits.
 *   Units:      `align_bytes` a power of two, at least FRAME_SIZE; the block ends at or below `limit`
 *               (an exclusive physical address, e.g. MM_GIB(4)), or PMM_NO_LIMIT.
 *   Returns:    MM_OK and the first frame's address in *out.
 *   Content:    zeroes, or any with PMM_NOZERO.
 *   On failure: MM_INVALID_ARGUMENT (count 0, bad alignment), MM_OUT_OF_MEMORY; nothing changed. Free
 *               frames inside 2 MiB blocks of page tables are not considered.
 *   Context:    as pmm_alloc_frame.
 *   Cost:       a lock; a search that passes over 2 MiB blocks whose runs of free frames are known to be too
 *               short (by powers of two up to 128; it looks at one byte for each 128 MiB), so that "no" takes
 *               less than 1 us for 64 GiB, about as long for 1 TiB. In vain it looks at a block once (some
 *               50 ns for a cold one), until frames there become free again; at more where runs are long
 *               enough but not aligned, where a power of two lies between them and the request, and, for
 *               more than 1022 frames, at each group of free 2 MiB blocks. All of a search that failed is
 *               remembered as well: until there is more to be found, a request that is not easier is
 *               refused without one. Cached frames are taken back before the last "no"; a request for more
 *               than is free leaves the caches alone. */
MM_MUST_USE mm_status_t pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames,
                                             uint64_t align_bytes, paddr_t limit, paddr_t *out);
MM_MUST_USE mm_status_t pmm_alloc_contiguous_flags(struct pmm *pmm, uint64_t count_frames,
                                                   uint64_t align_bytes, paddr_t limit,
                                                   unsigned flags, paddr_t *out);

/* Gives back `count_frames` frames from `first` on; a part of a contiguous block is allowed. If one
 * of them is not allocated, that is a bug of the caller and none is freed. */
void pmm_free_contiguous(struct pmm *pmm, paddr_t first, uint64_t count_frames);

/* ---- taking out of service ---- */

/* Takes exactly the free frames [base, end) out of service, or puts them back. Release what you have
 * reserved, or memory of the loader that nobody needs any more: the pmm cannot know who still lives in
 * a reserved frame. Retired frames in the range stay out of service.
 *   Context:    as pmm_alloc_frame, here and for pmm_retire_range.
 *   On failure: MM_NOT_ALIGNED; MM_INVALID_ADDRESS (not RAM of this pmm, empty, or a release of
 *               frame 0); MM_NOT_FREE (reserve: one is used or reserved already; release: one is not
 *               reserved, or holds what the pmm keeps itself); MM_OUT_OF_MEMORY (reserve: no other
 *               frame is free, in no cache either, and one is needed for bookkeeping). Nothing
 *               changed. */
MM_MUST_USE mm_status_t pmm_reserve_range(struct pmm *pmm, paddr_t base, paddr_t end);
MM_MUST_USE mm_status_t pmm_release_range(struct pmm *pmm, paddr_t base, paddr_t end);

/* Takes bad RAM out of service for ever: free and cached frames of [base, end) at once, reserved ones at
 * once (whoever lives there goes on), used ones and page tables when they are freed; of the pmm's own
 * frames, caches of other slots when their owner next takes the lock. Frames that are not RAM of this
 * pmm are passed over. A frame that another CPU is freeing at this very moment is not handed out again.
 *   Returns:    MM_OK, and in *waiting (which may be NULL) how many frames are still in use.
 *   On failure: MM_NOT_ALIGNED; MM_INVALID_ADDRESS (empty); MM_OUT_OF_MEMORY (no frame outside the range is
 *               free, and one is needed for bookkeeping: a part may have been retired). */
MM_MUST_USE mm_status_t pmm_retire_range(struct pmm *pmm, paddr_t base, paddr_t end,
                                         uint64_t *waiting);

/* ---- steering ---- */

/* Calls callback(context) whenever free memory falls below `frames`; NULL: no more. Cached frames are not
 * looked at, so it may come early by as much as lies in caches, and it comes again only after
 * memory has risen above the mark, by the size of two caches where there are any.
 *   Context:    as pmm_alloc_frame.
 *   Passed:     called without a lock of mm, in the call that crossed the mark (pmm_alloc_*,
 *               pmm_reserve_range, pmm_retire_range, and all that take frames, such as kmalloc and
 *               paging_*) and in its context: a thread, or an interrupt handler. It may call mm as
 *               that context may.
 *   Locking:    the callback that mm_init() sets is the heap's, kheap_drain(): in a thread it
 *               unmaps what the heap gives back (the lock of the kernel's space, a shootdown that
 *               waits for every CPU). So a thread that takes frames holds no lock for which another
 *               CPU may wait with interrupts off without answering (mm_port_lock() answers), and
 *               nobody who takes frames holds a lock that the callback takes. */
void pmm_set_low_water(struct pmm *pmm, uint64_t frames, pmm_low_water_fn callback, void *context);

/* One bit of work for an idle CPU: clears one free frame, so that a later allocation need not.
 *   Returns:    false if there is nothing (more) to do.
 *   Context:    as pmm_alloc_frame. */
bool pmm_idle_work(struct pmm *pmm);

/* Empties all caches, or that of the running slot (before its thread ends).
 *   Context:    as pmm_alloc_frame; other CPUs may be at work.
 *   Cost:       pmm_drain: an mm_port_cpu_barrier(). */
void pmm_drain(struct pmm *pmm);
void pmm_drain_slot(struct pmm *pmm);

/* A debug line for each allocation and free. While it is on there are no caches: the switch makes them
 * look empty and full, and the fast paths test nothing for it.
 *   Context:    as pmm_drain. */
void pmm_set_trace(struct pmm *pmm, bool on);

/* For tests: the nth call from now that allocates (1: the next) fails with MM_OUT_OF_MEMORY, then every
 * `every`-th; every = 0: only that one. nth = 0: no more. While it is on there are no caches.
 *   Context:    as pmm_drain. */
void pmm_fault_inject(struct pmm *pmm, uint64_t nth, uint64_t every);

/* ---- asking ---- */

enum pmm_frame_state {
    PMM_FRAME_FREE,
    PMM_FRAME_USED,
    PMM_FRAME_RESERVED,
    PMM_FRAME_TABLE,
    PMM_FRAME_OUTSIDE, /* not RAM of this pmm */
    PMM_FRAME_RETIRED, /* bad RAM */
};

/* What the frame that holds `address` is now; PMM_FRAME_OUTSIDE for what is no RAM of this pmm.
 * Frames in caches are free.
 *   Context:    any CPU, also interrupt handlers; not an NMI or machine check handler, which may
 *               have interrupted the owner of the lock (pmm_peek_frame takes none).
 *   Cost:       a lock; for a frame that is used, a look into the caches. */
enum pmm_frame_state pmm_frame_state(struct pmm *pmm, paddr_t address);

/* "free", "used", "reserved", "page-table", "outside RAM", "retired". */
const char *pmm_state_name(enum pmm_frame_state state);

/* The same without a lock, for fault reports: while another CPU changes the frame, or one near it, any
 * state.
 *   Context:    any, also before pmm_init (then PMM_FRAME_OUTSIDE). */
enum pmm_frame_state pmm_peek_frame(const struct pmm *pmm, paddr_t address);

/* What pmm_peek_frame would say of many frames: of each in the 256 KiB around an address, one bit, the
 * lowest first. */
#define PMM_PEEK_BYTES ((uint64_t)64 * FRAME_SIZE)
struct pmm_peek {
    uint64_t known; /* frames of the same range as the address; the others' bits mean nothing */
    uint64_t free;
    uint64_t table;
};

/* Context and content as pmm_peek_frame.
 *   Cost:       some 20 ns, and 1 ns for each frame that lies in a cache. */
struct pmm_peek pmm_peek_frames(const struct pmm *pmm, paddr_t address);

/* The counters. Exact if nobody allocates or frees meanwhile, else each true at some moment of the call.
 *   Context:    as pmm_frame_state.
 *   Cost:       a lock, and a line for each cache; no counter is shared by the fast paths. */
struct pmm_stats pmm_stats(struct pmm *pmm);

/* The extent of range `index`, lowest first, and the counters of its frames: added up over all ranges
 * they are those of pmm_stats(), if nobody allocates or frees meanwhile.
 *   Units:      `index` below stats.range_count; a larger one is a bug of the caller that only
 *               debug builds see (MM_ASSERT).
 *   Context:    pmm_range_extent: any, it takes no lock and its answer never changes after
 *               pmm_init; pmm_range_stats: as pmm_frame_state.
 *   Cost:       pmm_range_stats: a lock, and a look at each entry of each cache. */
struct mm_extent pmm_range_extent(const struct pmm *pmm, size_t index);
struct pmm_range_stats { /* each as in struct pmm_stats */
    struct mm_extent extent;
    uint64_t total_frames;
    uint64_t free_frames;
    uint64_t used_frames;
    uint64_t table_frames;
    uint64_t reserved_frames;
    uint64_t cached_frames;
    uint64_t zeroed_frames;
    uint64_t retired_frames;
};
struct pmm_range_stats pmm_range_stats(struct pmm *pmm, size_t index);

/* Frames of the longest run of free ones outside the caches.
 *   Context:    as pmm_frame_state.
 *   Cost:       looks at each 2 MiB block, with the lock. */
uint64_t pmm_largest_free(struct pmm *pmm);

/* Writes the state as `[MM]` lines at level info: sums, the same for each range (the first 16), the
 * longest free run. */
void pmm_report(struct pmm *pmm);

/* Checks everything against everything: bits, counters, summaries, marks, caches; each frame has one
 * owner.
 *   Returns:    true if all agree; else false and one error line for the first difference.
 *   Context:    nobody allocates or frees meanwhile. */
bool pmm_verify(struct pmm *pmm);

MM_END_DECLS
#endif
