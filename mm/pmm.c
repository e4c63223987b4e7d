/* SPDX-License-Identifier: MIT */
/* Single frames: the fast paths, which touch nothing but the cache of the running slot, and the slow ones
 * behind them, which take the lock.
 *
 *      alloc:  zero magazine -> dirty magazine (cleared) -> refill -> take back all caches -> no
 *      free:   right range? chunk and word known to hold used frames only? bit set? not in this cache?
 *              -> magazine -> flush of half of it
 *
 * A fast path that meets anything unusual calls the slow one, which asks again under the lock and decides.
 * Slots without a cache, and caches that are switched off, look empty and full, so the fast paths need
 * no test for them.
 *
 * Where the seed remembered the place of the last allocation, each slot remembers the chunk of its last
 * refill (slot->hint; core->hint for code without a cache). */
#include "mm/pmm_parts.h"

/* ---- reports ---- */

const char *pmm_state_name(enum pmm_frame_state state)
{
    switch (state) {
    case PMM_FRAME_FREE:
        return "free";
    case PMM_FRAME_USED:
        return "used";
    case PMM_FRAME_RESERVED:
        return "reserved";
    case PMM_FRAME_TABLE:
        return "page-table";
    case PMM_FRAME_RETIRED:
        return "retired";
    default:
        return "outside RAM";
    }
}

MM_COLD void pmm_report_free(paddr_t address, enum pmm_frame_state state,
                             enum pmm_frame_state expected)
{
    if (!mm_is_aligned(address, FRAME_SIZE))
        mm_bug("free of unaligned frame address 0x%lx", address);
    else if (state == PMM_FRAME_OUTSIDE)
        mm_bug("free of address 0x%lx, which is outside RAM", address);
    else
        mm_bug("free of a %s frame 0x%lx (expected a %s one)", pmm_state_name(state), address,
               pmm_state_name(expected));
}

MM_COLD void pmm_report_bugs(const struct pmm_bugs *bugs)
{
    for (unsigned i = 0; i < bugs->count && i < BUGS_KEPT; i++)
        mm_bug("free of a free frame 0x%lx: it was freed twice, on two CPUs", bugs->frames[i]);
    if (bugs->count > BUGS_KEPT)
        mm_bug("%u more frames were freed twice, on two CPUs", bugs->count - BUGS_KEPT);
}

MM_COLD bool pmm_is_forbidden(const char *call)
{
    if (mm_port_cpu_slot() != MM_PORT_NO_SLOT)
        return false;
    mm_bug("%s called from an NMI or machine check handler", call);
    return true;
}

uint64_t pmm_cleared_bytes(paddr_t frame)
{
    const uint64_t *words = phys_to_virt(frame);
    uint64_t i = 0;

    while (i < FRAME_SIZE / sizeof(*words) &&
           (words[i] | words[i + 1] | words[i + 2] | words[i + 3]) == 0)
        i += 4;
    while (i < FRAME_SIZE / sizeof(*words) && words[i] == 0)
        i++;
    return i * sizeof(*words);
}

/* ---- after the lock ---- */

void pmm_arm_low_water_locked(struct pmm *pmm)
{
    struct pmm_core *core = pmm->core;
    uint64_t cached = core->cached ? 2 * (uint64_t)core->dirty_capacity : 0;

    if (core->low_callback != NULL &&
        pmm->stats.free_frames + core->zero_table_count > core->low_mark + cached)
        core->low_armed = true;
}

bool pmm_inject_locked(struct pmm *pmm)
{
    struct pmm_core *core = pmm->core;

    pmm_arm_low_water_locked(pmm);
    if (core->inject_next == 0 || --core->inject_next > 0)
        return false;
    core->inject_next = core->inject_every;
    return true;
}

void pmm_unlock_after_alloc(struct pmm *pmm, uint64_t saved, const struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;
    pmm_low_water_fn callback = NULL;
    void *context = core->low_context;

    if (core->low_callback != NULL) {
        uint64_t free_frames = pmm->stats.free_frames + core->zero_table_count;
        pmm_arm_low_water_locked(pmm);
        if (free_frames < core->low_mark && core->low_armed) {
            core->low_armed = false;
            callback = core->low_callback;
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    if (bugs->count > 0)
        pmm_report_bugs(bugs);
    if (callback != NULL)
        callback(context);
}

/* ---- the magazines of the running slot ---- */

#define FAST        static inline __attribute__((always_inline))
#define likely(x)   __builtin_expect((x), 1)
#define unlikely(x) __builtin_expect((x), 0)

FAST void hook_allocated(const struct pmm *pmm, paddr_t address)
{
#if MM_MEMORY_HOOKS
    mm_port_memory_allocated(frame_content(pmm, address), FRAME_SIZE);
#endif
    (void)pmm;
    (void)address;
}

FAST void hook_freed(const struct pmm *pmm, paddr_t address)
{
#if MM_MEMORY_HOOKS
    mm_port_memory_freed(frame_content(pmm, address), FRAME_SIZE);
#endif
    (void)pmm;
    (void)address;
}

FAST struct pmm_slot *slot_here(const struct pmm *pmm)
{
    return __atomic_load_n(&pmm->slots[mm_port_slot()], __ATOMIC_RELAXED);
}

/* Takes the youngest entry of one magazine; false: to the slow path, also where it is not the youngest
 * with its hash, which takes a walk through the index. */
FAST bool slot_pop(struct pmm_slot *slot, struct magazine *magazine, uint64_t first_place,
                   paddr_t *address)
{
    int32_t at;

    if (unlikely(!magazine_pop_at(magazine, &at)))
        return false;
    uint64_t place = (uint32_t)(at + 1) + (first_place - 1);
    uint64_t entry = bits_load(&slot->entries[place]);
    uint16_t *newest = &slot->newest[slot_hash(entry)];
    if (unlikely(load_place(newest) != place)) {
        magazine_unpop(magazine, at);
        return false;
    }
    store_place(newest, (uint16_t)(entry & SLOT_LINK));
    *address = entry_frame(entry);
    return true;
}

/* Adds a frame whose youngest neighbour with that hash is *newest. */
FAST bool slot_push(struct pmm_slot *slot, struct magazine *magazine, uint64_t first_place,
                    paddr_t address, uint16_t *newest)
{
    int32_t at = __atomic_load_n(&magazine->bottom, __ATOMIC_RELAXED);

    if (unlikely(at >= __atomic_load_n(&magazine->limit, __ATOMIC_RELAXED)))
        return false;
    uint64_t place = (uint32_t)(at + 1) + (first_place - 1);
    bits_store(&slot->entries[place], address | load_place(newest));
    store_place(newest, (uint16_t)place);
    __atomic_store_n(&magazine->bottom, at + 1, __ATOMIC_RELEASE);
    return true;
}

/* ---- allocation ---- */

/* One frame past the caches. */
static bool take_uncached(struct pmm *pmm, uint64_t *hint, paddr_t *address, bool *zero)
{
    uint64_t chunk = pmm_find_chunk_locked(pmm, *hint, false);

    if (chunk == CHUNK_NONE)
        return false;
    struct pmm_range *range = pmm_range_of_chunk(pmm, chunk);
    *hint = chunk;
    *zero = bits_test(pmm->core->clean, chunk);
    *address = address_of(range, pmm_claim_one_locked(pmm, range, chunk));
    return true;
}

static bool take_cached(struct pmm *pmm, struct pmm_slot *slot, bool want_zero, paddr_t *address,
                        bool *zero)
{
    for (unsigned tries = 0; tries < 2; tries++) {
        *zero = want_zero;
        if (slot_pop_locked(slot, want_zero, address))
            return true;
        *zero = !want_zero;
        if (slot_pop_locked(slot, !want_zero, address))
            return true;
        if (!slot_is_worth_refilling_locked(pmm))
            break;
        if (tries == 0)
            slot_refill_locked(pmm, slot);
    }
    return false;
}

static bool take_frame_locked(struct pmm *pmm, struct pmm_slot *slot, bool want_zero,
                              paddr_t *address, bool *zero)
{
    if (slot != NULL && take_cached(pmm, slot, want_zero, address, zero))
        return true;
    return take_uncached(pmm, &pmm->core->hint, address, zero);
}

static MM_COLD mm_status_t alloc_slowly(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    struct pmm_bugs bugs = { 0 };
    bool want_zero = (flags & PMM_NOZERO) == 0, zero = false, found = false;
    unsigned index = mm_port_cpu_slot();
    paddr_t address = 0;

    if (index == MM_PORT_NO_SLOT) {
        (void)pmm_is_forbidden("allocation of a frame");
        return MM_UNSUPPORTED;
    }
    if ((flags & ~PMM_NOZERO) != 0)
        return MM_INVALID_ARGUMENT;
    uint64_t saved = mm_port_lock(&pmm->lock);
    if (!pmm_inject_locked(pmm)) {
        struct pmm_slot *slot = slot_get_locked(pmm, index, &bugs);
        found = take_frame_locked(pmm, slot, want_zero, &address, &zero) ||
                (pmm_take_back_locked(pmm, &bugs) &&
                 take_frame_locked(pmm, slot, want_zero, &address, &zero));
    }
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    if (!found) {
        mm_debug("pmm: no free frame");
        return MM_OUT_OF_MEMORY;
    }
    hook_allocated(pmm, address);
    if (want_zero && !zero)
        memset(frame_content(pmm, address), 0, FRAME_SIZE);
    *out = address;
    mm_debug("pmm: allocated used frame 0x%lx", address);
    return MM_OK;
}

FAST mm_status_t alloc_zeroed(struct pmm *pmm, paddr_t *out)
{
    struct pmm_slot *slot = slot_here(pmm);
    paddr_t address;

    if (!magazine_looks_empty(&slot->zero) &&
        slot_pop(slot, &slot->zero, SLOT_FIRST_ZERO, &address)) {
        hook_allocated(pmm, address);
        *out = address;
        return MM_OK;
    }
    if (unlikely(!slot_pop(slot, &slot->dirty, SLOT_FIRST_DIRTY, &address)))
        return alloc_slowly(pmm, 0, out);
    hook_allocated(pmm, address);
    *out = address;
    memset(frame_content(pmm, address), 0, FRAME_SIZE);
    return MM_OK;
}

mm_status_t pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    return alloc_zeroed(pmm, out);
}

static __attribute__((noinline)) mm_status_t alloc_other(struct pmm *pmm, unsigned flags,
                                                         paddr_t *out)
{
    return flags == 0 ? alloc_zeroed(pmm, out) : alloc_slowly(pmm, flags, out);
}

mm_status_t pmm_alloc_frame_flags(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    if (flags != PMM_NOZERO)
        return alloc_other(pmm, flags, out);
    struct pmm_slot *slot = slot_here(pmm);
    paddr_t address;
    if (unlikely(!slot_pop(slot, &slot->dirty, SLOT_FIRST_DIRTY, &address)))
        return alloc_slowly(pmm, flags, out);
    hook_allocated(pmm, address);
    *out = address;
    return MM_OK;
}

/* ---- many at once ---- */

/* Claims `count` frames straight from the chunks; bit 0 of an address says that the frame is zero. */
static uint64_t take_many_locked(struct pmm *pmm, uint64_t *hint, uint64_t count, paddr_t *out)
{
    uint64_t done = 0, masks[CHUNK_WORDS];

    while (done < count) {
        uint64_t chunk = pmm_find_chunk_locked(pmm, *hint, pmm->core->cached);
        if (chunk == CHUNK_NONE)
            break;
        struct pmm_range *range = pmm_range_of_chunk(pmm, chunk);
        uint64_t zero = bits_test(pmm->core->clean, chunk) ? 1 : 0;
        *hint = chunk;
        (void)pmm_claim_locked(pmm, range, chunk, count - done, masks);
        for (unsigned w = 0; w < CHUNK_WORDS; w++)
            for (uint64_t bits = masks[w]; bits != 0; bits &= bits - 1)
                out[done++] = address_of(range, (chunk * CHUNK_WORDS + w) * BITS_PER_WORD +
                                                    bits_lowest(bits)) |
                              zero;
    }
    return done;
}

/* From the cache as long as it lasts. */
static uint64_t pop_many(struct pmm *pmm, uint64_t count, unsigned flags, paddr_t *out)
{
    uint64_t done = 0;

    for (; done < count; done++) {
        struct pmm_slot *slot = slot_here(pmm);
        paddr_t address;
        bool zero = (flags & PMM_NOZERO) == 0 && !magazine_looks_empty(&slot->zero) &&
                    slot_pop(slot, &slot->zero, SLOT_FIRST_ZERO, &address);
        if (!zero && !slot_pop(slot, &slot->dirty, SLOT_FIRST_DIRTY, &address))
            break;
        out[done] = address | zero;
    }
    return done;
}

static void finish_many(const struct pmm *pmm, uint64_t count, unsigned flags, paddr_t *out)
{
    for (uint64_t i = 0; i < count; i++) {
        bool zero = (out[i] & 1) != 0;
        out[i] &= ~(paddr_t)1;
        hook_allocated(pmm, out[i]);
        if (!zero && (flags & PMM_NOZERO) == 0)
            memset(frame_content(pmm, out[i]), 0, FRAME_SIZE);
    }
}

/* Gives back what take_many_locked has put into `out`. */
static void undo_many_locked(struct pmm *pmm, const paddr_t *out, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct pmm_range *range = pmm_range_of(pmm, out[i]);
        (void)pmm_give_one_locked(pmm, range, id_of(range, out[i]), (out[i] & 1) != 0);
    }
}

mm_status_t pmm_alloc_frames(struct pmm *pmm, uint64_t count, unsigned flags, paddr_t *out)
{
    struct pmm_bugs bugs = { 0 };
    struct pmm_core *core = pmm->core;
    unsigned index = mm_port_cpu_slot();
    uint64_t done = 0;

    if (index == MM_PORT_NO_SLOT) {
        (void)pmm_is_forbidden("allocation of frames");
        return MM_UNSUPPORTED;
    }
    if ((flags & ~PMM_NOZERO) != 0)
        return MM_INVALID_ARGUMENT;
    if (count <= magazine_count_locked(&slot_here(pmm)->dirty))
        done = pop_many(pmm, count, flags, out);
    if (done < count) {
        uint64_t saved = mm_port_lock(&pmm->lock), wanted = count - done, zeroed, got = 0;
        struct pmm_slot *slot = slot_get_locked(pmm, index, &bugs);
        uint64_t *hint = slot != NULL ? &slot->hint : &core->hint;
        bool failed = pmm_inject_locked(pmm);

        if (!failed && wanted > pmm->stats.free_frames)
            failed = wanted > pmm->stats.free_frames + pmm_count_cached_locked(pmm, &zeroed) ||
                     !pmm_take_back_locked(pmm, &bugs);
        if (!failed && wanted <= pmm->stats.free_frames)
            got = take_many_locked(pmm, hint, wanted, out + done);
        failed = got < wanted;
        if (failed)
            undo_many_locked(pmm, out + done, got);
        pmm_unlock_after_alloc(pmm, saved, &bugs);
        if (failed) {
            finish_many(pmm, done, PMM_NOZERO, out);
            pmm_free_frames(pmm, out, done);
            mm_debug("pmm: no %lu free frames", count);
            return MM_OUT_OF_MEMORY;
        }
    }
    finish_many(pmm, count, flags, out);
    mm_debug("pmm: allocated %lu used frames", count);
    return MM_OK;
}

void pmm_free_frames(struct pmm *pmm, const paddr_t *frames, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        pmm_free_frame(pmm, frames[i]);
}

/* ---- free ---- */

/* What the frame is for one who frees it: free also if it lies in the cache of this slot, or, where
 * there is none, in any. */
static enum pmm_frame_state state_to_free(const struct pmm *pmm, const struct pmm_slot *slot,
                                          const struct pmm_range *range, paddr_t address)
{
    if (range == NULL)
        return PMM_FRAME_OUTSIDE;
    enum pmm_frame_state state = pmm_state_of_id(pmm->core, id_of(range, address));
    if (state == PMM_FRAME_TABLE && pmm_is_free_table(pmm->core, id_of(range, address)))
        return PMM_FRAME_FREE;
    if (state != PMM_FRAME_USED)
        return state;
    if (chunk_kind(pmm->core, id_of(range, address) / CHUNK_FRAMES) == CHUNK_FULL)
        return pmm_block_is_cached(pmm, address) ? PMM_FRAME_FREE : state;
    return (slot != NULL ? slot_holds(slot, address) : pmm_is_cached(pmm, address)) ? PMM_FRAME_FREE
                                                                                    : state;
}

/* The frame is a used one: into the cache, or back to its chunk. */
static void give_frame_locked(struct pmm *pmm, struct pmm_slot *slot, struct pmm_range *range,
                              paddr_t address, bool zero, struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;
    uint64_t id = id_of(range, address), chunk = id / CHUNK_FRAMES;

    if (slot != NULL && chunk_kind(core, chunk) == CHUNK_FULL)
        chunk_open_locked(pmm, range, chunk);
    const struct pmm_side *side =
        slot == NULL || bits_test(core->plain, id / BITS_PER_WORD) ? NULL : side_find(core, chunk);
    if (slot == NULL || (side != NULL && bits_test(side->bad, id % CHUNK_FRAMES))) {
        (void)pmm_give_one_locked(pmm, range, id, zero);
        return;
    }
    slot->base = range->base;
    slot->frames = range->frames;
    slot->first_id = range_first_id(range);
    slot_compact_locked(slot);
    if (zero && slot_is_full_locked(slot, true))
        zero = false;
    if (slot_is_full_locked(slot, zero))
        slot_flush_locked(pmm, slot, zero, (core->dirty_capacity + 1) / 2, bugs);
    slot_push_locked(slot, zero, address);
}

static MM_COLD void free_slowly(struct pmm *pmm, paddr_t address, bool zero)
{
    struct pmm_bugs bugs = { 0 };
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    unsigned index = mm_port_cpu_slot();
    uint64_t clear = FRAME_SIZE;

    if (index == MM_PORT_NO_SLOT) {
        (void)pmm_is_forbidden("free of a frame");
        return;
    }
    if (mm_is_aligned(address, FRAME_SIZE)) {
        uint64_t saved = mm_port_lock(&pmm->lock);
        struct pmm_slot *slot = slot_get_locked(pmm, index, &bugs);
        struct pmm_range *range = pmm_range_of(pmm, address);
        state = state_to_free(pmm, slot, range, address);
        if (state == PMM_FRAME_USED && zero && pmm->core->full)
            clear = pmm_cleared_bytes(address);
        if (state == PMM_FRAME_USED && clear == FRAME_SIZE) {
            mm_port_memory_freed(phys_to_virt(address), FRAME_SIZE);
            give_frame_locked(pmm, slot, range, address, zero, &bugs);
        }
        mm_port_unlock(&pmm->lock, saved);
    }
    pmm_report_bugs(&bugs);
    if (state != PMM_FRAME_USED)
        pmm_report_free(address, state, PMM_FRAME_USED);
    else if (clear < FRAME_SIZE)
        mm_bug("free of frame 0x%lx as a zeroed one: byte %lu is not 0", address, clear);
    else
        mm_debug("pmm: freed used frame 0x%lx", address);
}

/* True if all that a free must know of the frame can be had without the lock and is in order, but for
 * the slot's own cache. */
FAST bool is_surely_used(const struct pmm *pmm, const struct pmm_slot *slot, paddr_t address,
                         uint64_t *id_out)
{
    uint64_t offset = address - slot->base;
    /* Rotated: an unaligned address or one below the range is far above any count of frames. */
    uint64_t place = offset >> FRAME_SHIFT | offset << (64 - FRAME_SHIFT);

    if (unlikely(place >= slot->frames))
        return false;
    uint64_t id = *id_out = slot->first_id + place;
    return likely(bits_test(pmm->plain, id / BITS_PER_WORD)) && likely(bits_test(pmm->taken, id));
}

/* False, at once, if no entry of the cache is this frame: it has no youngest one with its hash, or one
 * that is another frame and has none behind it. */
FAST bool may_be_here(const struct pmm_slot *slot, const uint16_t *newest, paddr_t address)
{
    uint64_t entry = bits_load(&slot->entries[load_place(newest)]);

    return unlikely((entry & SLOT_LINK) != SLOT_NONE) || unlikely(entry == address);
}

/* The frame may be in this cache: walks through the index. */
static __attribute__((noinline)) void free_walking(struct pmm *pmm, paddr_t address, bool zero)
{
    struct pmm_slot *slot = slot_here(pmm);

    if (slot_holds(slot, address)) {
        free_slowly(pmm, address, zero);
        return;
    }
    hook_freed(pmm, address);
    if (!slot_push(slot, zero ? &slot->zero : &slot->dirty, slot_first(zero), address,
                   &slot->newest[slot_hash(address)])) {
        hook_allocated(pmm, address);
        free_slowly(pmm, address, zero);
    }
}

FAST void free_fast(struct pmm *pmm, paddr_t address, bool zero)
{
    struct pmm_slot *slot = slot_here(pmm);
    struct magazine *magazine = zero ? &slot->zero : &slot->dirty;

    uint64_t id;

    if (unlikely(!is_surely_used(pmm, slot, address, &id))) {
        free_slowly(pmm, address, zero);
        return;
    }
    uint16_t *newest = &slot->newest[slot_hash_of_id(id)];
    if (may_be_here(slot, newest, address)) {
        free_walking(pmm, address, zero);
        return;
    }
    hook_freed(pmm, address);
    if (unlikely(!slot_push(slot, magazine, slot_first(zero), address, newest))) {
        hook_allocated(pmm, address);
        free_slowly(pmm, address, zero);
    }
}

void pmm_free_frame(struct pmm *pmm, paddr_t address)
{
    free_fast(pmm, address, false);
}

void pmm_free_zeroed_frame(struct pmm *pmm, paddr_t address)
{
    free_fast(pmm, address, true);
}
