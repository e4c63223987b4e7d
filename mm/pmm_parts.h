/* SPDX-License-Identifier: MIT */
/* What the files of the physical memory manager share. Internal to mm.
 *
 *   range   a maximal run of RAM          | range 0        |     | range 1 |
 *   chunk   2 MiB of it, or its end       |--|----|----|---|     |-|----|--|   numbered through: 0..
 *   id      of a frame: chunk * 512 + its place in the 2 MiB; = frame number + range->bias
 *
 * Of each chunk is kept:
 *   taken[8]   64 bytes, one bit a frame: 0 is free. Places outside RAM are 1.
 *   info       free frames, the kind: what the set bits of `taken` are, and how long runs of free ones are
 *   plain      for each word of taken: 1 if it is valid and all its set bits are used frames (or in caches)
 *   clean      1: its free frames hold zeroes
 *   partial, whole, tables    three sets of chunks: some frames are free, all are, and free ones of those
 *                             that are tagged for page tables
 *
 *   kind       set bits of `taken`                            taken[] is valid
 *   BITMAP     used                                           yes
 *   MIXED      the chunk's side says: reserved, table, used   yes
 *   TABLE      page tables                                    yes
 *   FULL, RESERVED, RETIRED   all frames are that             no
 *   (a chunk in `whole`: all are free)                        no, nor is info; plain is 0
 *
 * So a wholly free or wholly used chunk costs one bit or one number, and pmm_init touches nothing for
 * each frame. Frames in caches are used, as far as all this is concerned.
 *
 * Locking: everything here is guarded by pmm->lock. The fast path of pmm_free_frame reads plain and
 * taken without it: what they say of a frame that the caller owns does not change. */
#ifndef MM_PMM_PARTS_H
#define MM_PMM_PARTS_H

#include "mm/bits.h"
#include "mm/bittree.h"
#include "mm/magazine.h"

#include <mm/hhdm.h>
#include <mm/log.h>
#include <mm/pmm.h>
#include <mm/port_slot.h>

#define CHUNK_FRAMES 512u
#define CHUNK_WORDS  8u
#define CHUNK_NONE   UINT64_MAX
#define CHUNK_FREE   0x3ffu /* the bits of `info` that count its free frames */
#define CHUNK_KIND   0x1c00u
#define CHUNK_RUN    0xe000u /* runs of free frames here have less than 2^(this + 1): pmm_run.c */
#define RUN_UNKNOWN  7u
#define RUN_GROUP    64u /* chunks of which `run_groups` keeps the most */

enum chunk_kind {
    CHUNK_BITMAP,
    CHUNK_MIXED,
    CHUNK_TABLE,
    CHUNK_FULL,
    CHUNK_RESERVED,
    CHUNK_RETIRED,
};

struct pmm_range {
    paddr_t base;
    uint64_t frames;
    uint64_t bias;                            /* id = frame number + bias */
    uint64_t free_frames;                     /* outside the caches */
    uint64_t reserved_frames, retired_frames; /* retired ones are counted as reserved, too */
    uint64_t table_frames;                    /* those in zero_tables included */
} __attribute__((aligned(64)));

/* What a MIXED chunk's set bits are; in none of the three: used. A bad frame is retired if it is reserved
 * as well, else it will be when it is freed. */
struct pmm_side {
    uint64_t reserved[CHUNK_WORDS];
    uint64_t table[CHUNK_WORDS];
    uint64_t bad[CHUNK_WORDS];
    uint64_t chunk;
    struct pmm_side *child[2]; /* pmm_side.c */
};

#define SLOT_WORDS    ((MM_PORT_SLOTS + BITS_PER_WORD - 1) / BITS_PER_WORD)
#define ZERO_TABLES   16u
#define FAILURES_KEPT 8u

/* A search for contiguous frames that found nothing. */
struct pmm_failure {
    uint64_t count, align_bytes, limit;
    uint64_t frees; /* core->frees then */
};

struct pmm_core {
    uint64_t chunks;
    uint64_t high_chunk; /* the first at or above 4 GiB */
    uint64_t
        block_chunk; /* caches keep 2 MiB blocks from here on: none below 4 GiB if more is above */
    uint64_t *taken;
    uint16_t *info;
    uint64_t *plain;
    uint64_t *clean;
    uint8_t
        *run_groups; /* for each 64 chunks: more than `info` says of runs in any partly used one */
    struct bittree partial, whole, tables;
    uint64_t whole_count;
    size_t last_range; /* where the last search for a range ended */

    /* sides (pmm_side.c) */
    struct pmm_side *side_root, *side_unused;
    uint64_t side_count, side_unused_count;
    struct pmm_side *sides; /* the first ones, in the metadata */
    uint64_t sides_first;
    struct pmm_side_page *side_pages; /* the others, frame by frame */

    uint64_t clear_from,
        clear_to; /* ids that pmm_take_own_locked keeps clear of, while that is so */

    uint64_t hint;       /* chunk where code without a cache last found a frame */
    uint64_t table_hint; /* likewise for page tables in MIXED chunks */
    uint64_t large_hint; /* chunk of the last 2 MiB block freed, not below block_chunk */
    uint64_t frees;      /* goes on whenever there is more for a search to find */
    struct pmm_failure failures[FAILURES_KEPT];
    unsigned next_failure;

    uint64_t
        zero_tables[ZERO_TABLES]; /* ids of freed tables: free, although their bits say table */
    unsigned zero_table_count;

    /* the caches */
    bool small;       /* none because the machine is small */
    bool full, trace; /* none because of these */
    bool cached;      /* whether there are any */
    uint32_t dirty_capacity, zero_capacity;
    unsigned slots_end, slots_present;
    uint64_t suspended[SLOT_WORDS]; /* caches that stay off until their owner has come by */
    uint64_t leaving[SLOT_WORDS];   /* of these, those in bad frames: their owner leaves them */

    uint64_t inject_next, inject_every;

    uint64_t low_mark;
    pmm_low_water_fn low_callback;
    void *low_context;
    bool low_armed;
};

/* ---- caches ---- */

#define SLOT_DIRTY  256u
#define SLOT_ZERO   32u
#define SLOT_PLACES (1 + SLOT_DIRTY + SLOT_ZERO)
#define SLOT_BLOCKS 2u /* pmm_free_large() counts on two */
#define SLOT_NONE   0u /* the place in entries[] that holds no frame */
#define SLOT_HASH   512u
#define SLOT_LINK   (FRAME_SIZE - 1) /* the bits of an entry that are a place */

/* The same of a frame's number and of its id: they differ by a multiple of CHUNK_FRAMES. */
static inline uint64_t slot_hash(paddr_t address)
{
    return (address >> FRAME_SHIFT) % SLOT_HASH;
}

static inline uint64_t slot_hash_of_id(uint64_t id)
{
    return id % SLOT_HASH;
}

_Static_assert(CHUNK_FRAMES % SLOT_HASH == 0, "a hash of a number is one of the id");

/* The cache of one slot: a magazine of frames with any content, one of frames that hold zeroes, one of
 * 2 MiB blocks, which only frees fill (their chunks are FULL), and an index over the first two that
 * answers at once whether a frame lies in here:
 *
 *   newest[frame number % 512] -> the place of the youngest entry with that hash, or SLOT_NONE
 *   entries[place]                the frame's address, and in its lower 12 bits the place of the next
 *                                 older entry with that hash, or SLOT_NONE
 *
 * Places 1..256 are of the dirty magazine, those behind of the zero one. A stack gives back the
 * youngest first, so pop sets newest[] to what the entry itself says, as a rule: the index takes no
 * array of its own but newest[], and a push or pop touches nothing of it but one number. Entries that
 * another CPU has taken are left in the index until the owner compacts; slot_holds() knows them by
 * their place. */
struct pmm_slot {
    paddr_t entries[SLOT_PLACES]; /* first: gcc adds no constant to an index into an atomic array */
    struct magazine dirty __attribute__((aligned(64))); /* all that fast paths read in one line */
    struct magazine zero;
    paddr_t base; /* the range of the last freed frame */
    uint64_t frames;
    uint64_t first_id;
    uint64_t
        hint; /* lock: chunk where this slot last found frames (the seed's last-allocated hint) */
    struct magazine large;
    paddr_t blocks[SLOT_BLOCKS];
    uint16_t newest[SLOT_HASH] __attribute__((aligned(8)));
};

#define SLOT_FIRST_DIRTY 1u
#define SLOT_FIRST_ZERO  (SLOT_FIRST_DIRTY + SLOT_DIRTY)

/* The place of the entry at the bottom of a magazine. */
static inline uint64_t slot_first(bool zero)
{
    return zero ? SLOT_FIRST_ZERO : SLOT_FIRST_DIRTY;
}

static inline paddr_t entry_frame(paddr_t entry)
{
    return entry & ~(paddr_t)SLOT_LINK;
}

static inline uint16_t load_place(const uint16_t *place)
{
    return __atomic_load_n(place, __ATOMIC_RELAXED);
}

static inline void store_place(uint16_t *place, uint16_t value)
{
    __atomic_store_n(place, value, __ATOMIC_RELAXED);
}

_Static_assert(sizeof(struct pmm_slot) <= FRAME_SIZE, "a cache fits in a frame");

/* Frames that turned out to be freed twice while the lock was held; reported when it is not. */
#define BUGS_KEPT 8u
struct pmm_bugs {
    unsigned count;
    paddr_t frames[BUGS_KEPT];
};

/* ---- pmm_chunk.c: chunks, and the states of frames in them ---- */

/* The eight bits of `plain` of one chunk. */
static inline unsigned chunk_plain(const struct pmm_core *core, uint64_t chunk)
{
    return (unsigned)(bits_load(&core->plain[chunk / 8]) >> chunk % 8 * 8) & 0xffu;
}

static inline void chunk_set_plain(struct pmm_core *core, uint64_t chunk, unsigned plain)
{
    uint64_t shift = chunk % 8 * 8, *word = &core->plain[chunk / 8];

    bits_store(word, (*word & ~((uint64_t)0xff << shift)) | (uint64_t)plain << shift);
}

static inline enum chunk_kind chunk_kind(const struct pmm_core *core, uint64_t chunk)
{
    return (enum chunk_kind)((__atomic_load_n(&core->info[chunk], __ATOMIC_RELAXED) & CHUNK_KIND) >>
                             10);
}

/* The same as chunk_kind() == CHUNK_FULL, in one comparison: it has no free frames. */
static inline bool chunk_is_full(const struct pmm_core *core, uint64_t chunk)
{
    return __atomic_load_n(&core->info[chunk], __ATOMIC_RELAXED) == CHUNK_FULL << 10;
}

static inline uint64_t chunk_free(const struct pmm_core *core, uint64_t chunk)
{
    return core->info[chunk] & CHUNK_FREE;
}

/* Frames of the chunk have become free: `info` says already that nothing is known of runs there. */
static inline void group_raise(struct pmm_core *core, uint64_t chunk)
{
    if (core->run_groups[chunk / RUN_GROUP] != RUN_UNKNOWN + 1)
        core->run_groups[chunk / RUN_GROUP] = RUN_UNKNOWN + 1;
}

static inline void chunk_set_info(struct pmm_core *core, uint64_t chunk, enum chunk_kind kind,
                                  uint64_t free_frames)
{
    unsigned run = free_frames == 0 ? 0 : CHUNK_RUN;

    __atomic_store_n(&core->info[chunk], (uint16_t)(run | (unsigned)kind << 10 | free_frames),
                     __ATOMIC_RELAXED);
    if (free_frames != 0)
        group_raise(core, chunk);
}

static inline uint64_t range_first_id(const struct pmm_range *range)
{
    return (range->base >> FRAME_SHIFT) + range->bias;
}

static inline uint64_t range_end_id(const struct pmm_range *range)
{
    return range_first_id(range) + range->frames;
}

static inline paddr_t range_end(const struct pmm_range *range)
{
    return range->base + range->frames * FRAME_SIZE;
}

static inline uint64_t id_of(const struct pmm_range *range, paddr_t address)
{
    return (address >> FRAME_SHIFT) + range->bias;
}

static inline paddr_t address_of(const struct pmm_range *range, uint64_t id)
{
    return (id - range->bias) << FRAME_SHIFT;
}

/* The bits of word `word` (numbered over all chunks) that are frames of the range. */
static inline uint64_t range_mask(const struct pmm_range *range, uint64_t word)
{
    return bits_mask(word, range_first_id(range), range_end_id(range));
}

/* The first range that ends behind the address; range_count if none does. Cost: by the logarithm of the
 * ranges, for these three. */
size_t pmm_range_from(const struct pmm *pmm, paddr_t address);

/* The range of an address or of a chunk; NULL if the address is not RAM. */
struct pmm_range *pmm_range_of(const struct pmm *pmm, paddr_t address);
struct pmm_range *pmm_range_of_chunk(const struct pmm *pmm, uint64_t chunk);

/* Makes taken[] of a chunk valid, and its kind BITMAP or MIXED. Needs a free side if its frames are
 * reserved, retired or page tables. */
void chunk_open_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk);

/* Brings info, plain and the three sets in line with taken[] and the side of a BITMAP or MIXED chunk. */
void chunk_settle_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk);

/* The frames of one word of taken[] that are in `state`; frames in caches are used. */
uint64_t pmm_state_mask(const struct pmm_core *core, uint64_t word, enum pmm_frame_state state);
enum pmm_frame_state pmm_state_of_id(const struct pmm_core *core, uint64_t id);

/* The first frame in [from, to), all of one range, that is not in `state`; `to` if all are. */
uint64_t pmm_find_other_locked(const struct pmm *pmm, uint64_t from, uint64_t to,
                               enum pmm_frame_state state);

/* Moves the frames [from, to) of a range, all in state `old`, to `new`, with the counters. Sides as for
 * chunk_open_locked: at most two. */
void pmm_change_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to,
                       enum pmm_frame_state old, enum pmm_frame_state new);

/* Gives used frames of one word of taken[] back; `zero`: they hold zeroes.
 *   Returns:  those of `mask` that are not used ones: with them nothing happens. */
uint64_t pmm_give_locked(struct pmm *pmm, struct pmm_range *range, uint64_t word, uint64_t mask,
                         bool zero);

/* True if all frames of the chunk are used and some are bad. A block in a suspended cache may be so: a fast
 * path that was under way had it in its hands, in no cache, while it was retired, and has put it there
 * afterwards. */
bool pmm_block_is_retiring_locked(const struct pmm *pmm, uint64_t chunk);

/* Gives 2 MiB blocks back that were in a cache; those that are free, or still in a cache, are noted in
 * *bugs. */
struct pmm_bugs;
void pmm_give_blocks_locked(struct pmm *pmm, const paddr_t *blocks, uint32_t count,
                            struct pmm_bugs *bugs);

/* The same for frames of any words; those that are not used ones are noted in *bugs. */
void pmm_give_entries_locked(struct pmm *pmm, const paddr_t *entries, uint32_t count, bool zero,
                             struct pmm_bugs *bugs);

/* The same for one frame; false if it is not a used one. */
static inline bool pmm_give_one_locked(struct pmm *pmm, struct pmm_range *range, uint64_t id,
                                       bool zero)
{
    return pmm_give_locked(pmm, range, id / BITS_PER_WORD, (uint64_t)1 << id % BITS_PER_WORD,
                           zero) == 0;
}

/* Where the content of a frame stands. Cost: one load. */
static inline void *frame_content(const struct pmm *pmm, paddr_t address)
{
    return (void *)(uintptr_t)(pmm->hhdm + address);
}

/* ---- pmm_side.c ---- */

struct pmm_side *side_find(const struct pmm_core *core, uint64_t chunk); /* NULL if it has none */
struct pmm_side *side_add_locked(struct pmm_core *core, uint64_t chunk); /* all zeroes */
void side_drop_locked(struct pmm_core *core, uint64_t chunk);

/* The first ones. */
void side_start(struct pmm_core *core, struct pmm_side *sides, uint64_t count);

/* Makes sure that `count` sides (at most 2) can be added; false if no frame is free outside the caches; the
 * second one empties the caches before it says so. A range of free frames that are to stay so is set
 * apart before by pmm_keep_clear_locked(). */
bool side_ensure_locked(struct pmm *pmm, uint64_t count);
bool side_ensure_all_locked(struct pmm *pmm, uint64_t count, struct pmm_bugs *bugs);

/* True if each side is in the tree or in the chain, as the counters say, and enough are kept. */
bool side_are_consistent(const struct pmm_core *core);

/* True if sides lie in the frames [from, to), the first ones aside. */
bool side_lies_in(const struct pmm_core *core, const struct pmm_range *range, uint64_t from,
                  uint64_t to);

/* Moves the sides that lie in the frames [from, to) elsewhere, and retires what they leave; false if no
 * other frame is free: some may have moved. */
bool side_leave_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to);

/* A free frame for what the pmm keeps itself, which becomes reserved; a side can be added (the kept ones
 * count). In a MIXED chunk if there is one, so that no other chunk becomes one.
 *   Returns:  where it stands, with any content; NULL if no frame is free outside the caches. */
void *pmm_take_own_locked(struct pmm *pmm);

/* From here on pmm_take_own_locked takes no frame of [from, to); 0, 0: any. */
static inline void pmm_keep_clear_locked(struct pmm *pmm, uint64_t from, uint64_t to)
{
    pmm->core->clear_from = from;
    pmm->core->clear_to = to;
}

/* ---- pmm_find.c: where free frames are ---- */

/* A chunk of kind BITMAP or MIXED with a free frame, or a wholly free one (still to be opened: see
 * pmm_claim_locked, chunk_open_locked); `hint` if it is one of the first; with `plain` no MIXED one if that
 * is easy. CHUNK_NONE if nothing is free outside the caches. */
uint64_t pmm_find_chunk_locked(struct pmm *pmm, uint64_t hint, bool plain);

/* Marks up to `most` (not 0) free frames of the chunk used, lowest first; opens it if need be.
 * masks[w] are those of its word w.
 *   Returns:  how many. */
uint64_t pmm_claim_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk, uint64_t most,
                          uint64_t masks[CHUNK_WORDS]);

/* The same for one frame.
 *   Returns:  its id. */
uint64_t pmm_claim_one_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk);

/* ---- pmm_run.c: free frames side by side ---- */

/* The largest run of neighbouring free frames, for reports. */
uint64_t pmm_longest_run_locked(struct pmm *pmm);

/* A block as pmm_alloc_contiguous wants it, still free; false if there is none. */
bool pmm_find_block_locked(struct pmm *pmm, uint64_t count, uint64_t align_bytes, paddr_t limit,
                           struct pmm_range **range, uint64_t *first);

/* True if `info` and run_groups do not say that runs of the chunk, which is partly used, are shorter
 * than they are. */
bool pmm_runs_are_known(const struct pmm *pmm, const struct pmm_range *range, uint64_t chunk);

/* ---- pmm_slot.c ---- */

extern struct pmm_slot pmm_absent_slot;

/* For each slow way of an allocation that finds no cache (magazine.h, MAGAZINE_ABSENT). */
void slot_reset_absent_locked(void);

/* The cache of slot `index`, which is the running one, made if need be; NULL if it has none. */
struct pmm_slot *slot_get_locked(struct pmm *pmm, unsigned index, struct pmm_bugs *bugs);

/* The running slot's cache leaves its frame at once if that is in [from, to). All caches are suspended. */
void slot_leave_own_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                           uint64_t to, struct pmm_bugs *bugs);

/* The first frame of [from, to), all reserved ones, in which a cache stands; `to` if none does. Its owner
 * leaves it when it comes by; then the frame is retired. All caches are suspended. */
uint64_t slot_leave_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                           uint64_t to);

/* True if the frame lies in this cache, as seen by its owner, or by anybody while the owner is not at
 * work. */
bool slot_holds(const struct pmm_slot *slot, paddr_t address);

/* True if the frame lies in any cache; if it lies in a 2 MiB block in one. */
bool pmm_is_cached(const struct pmm *pmm, paddr_t address);
bool pmm_block_is_cached(const struct pmm *pmm, paddr_t address);

/* Those of the 64 frames from `base` on that lie in a cache, one bit each. */
uint64_t pmm_cached_mask(const struct pmm *pmm, paddr_t base);

/* True if it lies in a 2 MiB block in this cache; Context as slot_holds. */
static inline bool slot_holds_block(const struct pmm_slot *slot, paddr_t address)
{
    int32_t bottom = __atomic_load_n(&slot->large.bottom, __ATOMIC_ACQUIRE);

    for (int32_t i = __atomic_load_n(&slot->large.floor, __ATOMIC_RELAXED); i < bottom; i++)
        if (address - bits_load(&slot->blocks[i]) < LARGE_PAGE_SIZE)
            return true;
    return false;
}

/* Slow ways of the owner: takes the youngest entry; adds one where the magazine is not full. */
bool slot_pop_locked(struct pmm_slot *slot, bool zero, paddr_t *address);
void slot_push_locked(struct pmm_slot *slot, bool zero, paddr_t address);
bool slot_is_full_locked(const struct pmm_slot *slot, bool zero);

void slot_compact_locked(struct pmm_slot *slot);
void slot_empty_locked(struct pmm *pmm, struct pmm_slot *slot, struct pmm_bugs *bugs);
/* Fills an empty cache; where so little is free that it would get one frame, that is not worth the way
 * through it. */
bool slot_is_worth_refilling_locked(const struct pmm *pmm);
void slot_refill_locked(struct pmm *pmm, struct pmm_slot *slot);
void slot_flush_locked(struct pmm *pmm, struct pmm_slot *slot, bool zero, uint32_t count,
                       struct pmm_bugs *bugs);

/* Takes an entry out of the index that is not the youngest with its hash. */
void slot_unlink(struct pmm_slot *slot, uint64_t place);

/* Frames in all caches; of these, known to be zero. */
uint64_t pmm_count_cached_locked(const struct pmm *pmm, uint64_t *zeroed);

/* Empties all caches and the stack of tables; true if there was anything in them. */
bool pmm_take_back_locked(struct pmm *pmm, struct pmm_bugs *bugs);

/* Empties all caches and the stack of tables, and keeps each cache off until its owner comes by with the
 * lock: a fast path that was under way, and so knew nothing of what the caller is about to do, is over by
 * then, and a frame that it has still put into the cache goes back to its chunk. */
void pmm_suspend_locked(struct pmm *pmm, struct pmm_bugs *bugs);

/* Switches the caches on or off, as trace, full and injection say. */
void pmm_switch_locked(struct pmm *pmm, struct pmm_bugs *bugs);

/* ---- pmm_table.c ---- */

/* Gives a table back to its chunk; it is one, and in zero_tables no more. */
void pmm_give_table_locked(struct pmm *pmm, uint64_t id);

/* True if the frame is a table that was freed and lies in zero_tables. */
bool pmm_is_free_table(const struct pmm_core *core, uint64_t id);

/* ---- pmm.c ---- */

/* Reports a free of a frame that is in `state`, not in the one that it should be in. */
void pmm_report_free(paddr_t address, enum pmm_frame_state state, enum pmm_frame_state expected);

/* How many bytes of a frame from its first on are 0, in steps of 8. */
uint64_t pmm_cleared_bytes(paddr_t frame);

/* Reports what was collected. Not under the lock. */
void pmm_report_bugs(const struct pmm_bugs *bugs);

/* Before memory is taken: frees do not look at the low-water mark, so it may have risen above it since
 * the last time. */
void pmm_arm_low_water_locked(struct pmm *pmm);

/* Begins an allocation: arms low water.
 *   Returns:  true if this call is one of those that pmm_fault_inject wants to fail. */
bool pmm_inject_locked(struct pmm *pmm);

/* Unlocks after an allocation, then reports, and calls the low-water callback if it is time. */
void pmm_unlock_after_alloc(struct pmm *pmm, uint64_t saved, const struct pmm_bugs *bugs);

/* Reports a call from an NMI or machine check handler. */
bool pmm_is_forbidden(const char *call);

#endif
