/* SPDX-License-Identifier: MIT */
/* The caches in front of the bitmap, one for each slot: made, filled, emptied, taken back, switched. What
 * lies in one is in pmm_parts.h; the fast paths are in pmm.c; how an entry comes back from another CPU
 * is in magazine.h.
 *
 *      chunk --refill: whole words of the hint chunk, lowest frame on top--> magazine
 *      chunk <--flush: the younger half, which the index gives up at once-- magazine
 *      chunk <--take back: all of it, from every slot, before memory is said to be out
 *
 * 2 MiB blocks are kept when they are freed, two for each slot, and never fetched (pmm_block.c).
 *
 * Invariants: a cache's frame is reserved; frames in a cache are used ones of their chunk; the index of
 * a cache finds each of its entries. */
#include "mm/pmm_parts.h"

/* What slots without a cache share: looks empty and full, and knows no range. */
struct pmm_slot pmm_absent_slot = { .dirty = MAGAZINE_ABSENT,
                                    .zero = MAGAZINE_ABSENT,
                                    .large = MAGAZINE_ABSENT };

void slot_reset_absent_locked(void)
{
    magazine_absent_reset(&pmm_absent_slot.dirty);
    magazine_absent_reset(&pmm_absent_slot.zero);
    magazine_absent_reset(&pmm_absent_slot.large);
}

static struct magazine *magazine_of(struct pmm_slot *slot, bool zero)
{
    return zero ? &slot->zero : &slot->dirty;
}

static uint64_t *entries_of(struct pmm_slot *slot, bool zero)
{
    return slot->entries + slot_first(zero);
}

/* ---- the index ---- */

static bool place_is_valid(const struct pmm_slot *slot, uint64_t place)
{
    bool zero = place >= SLOT_FIRST_ZERO;
    const struct magazine *magazine = zero ? &slot->zero : &slot->dirty;
    int64_t at = (int64_t)(place - slot_first(zero));

    return at >= __atomic_load_n(&magazine->floor, __ATOMIC_RELAXED) &&
           at < __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);
}

bool slot_holds(const struct pmm_slot *slot, paddr_t address)
{
    uint64_t place = load_place(&slot->newest[slot_hash(address)]);

    for (unsigned i = 0; i < SLOT_PLACES && place != SLOT_NONE; i++) {
        paddr_t entry = bits_load(&slot->entries[place]);
        if (entry_frame(entry) == address && place_is_valid(slot, place))
            return true;
        place = entry & SLOT_LINK;
    }
    return false;
}

void slot_unlink(struct pmm_slot *slot, uint64_t place)
{
    uint64_t older = slot->entries[place] & SLOT_LINK;
    uint16_t *newest = &slot->newest[slot_hash(slot->entries[place])];
    uint64_t younger = *newest;

    if (younger == place) {
        store_place(newest, (uint16_t)older);
        return;
    }
    for (unsigned i = 0; i < SLOT_PLACES && younger != SLOT_NONE; i++) {
        paddr_t entry = slot->entries[younger];
        if ((entry & SLOT_LINK) == place) {
            bits_store(&slot->entries[younger], entry_frame(entry) | older);
            return;
        }
        younger = entry & SLOT_LINK;
    }
}

static void index_add(struct pmm_slot *slot, uint64_t place, paddr_t address)
{
    uint16_t *newest = &slot->newest[slot_hash(address)];

    bits_store(&slot->entries[place], address | *newest);
    store_place(newest, (uint16_t)place);
}

typedef uint64_t __attribute__((may_alias)) four_places;

/* Makes the index anew from the entries. */
static void index_rebuild(struct pmm_slot *slot)
{
    four_places *newest = (four_places *)slot->newest;

    for (unsigned i = 0; i < SLOT_HASH / 4; i++)
        __atomic_store_n(&newest[i], SLOT_NONE, __ATOMIC_RELAXED);
    for (unsigned zero = 0; zero < 2; zero++) {
        const struct magazine *magazine = magazine_of(slot, zero != 0);
        for (int32_t i = magazine->floor; i < magazine->bottom; i++) {
            uint64_t place = (uint64_t)i + slot_first(zero != 0);
            index_add(slot, place, entry_frame(slot->entries[place]));
        }
    }
}

/* ---- making a cache ---- */

static struct pmm_slot *make_slot(struct pmm *pmm, unsigned index)
{
    struct pmm_core *core = pmm->core;
    struct pmm_slot *slot = NULL;

    /* Not out of the last frames that there are. */
    if (side_ensure_locked(pmm, 1) && pmm->stats.free_frames > core->dirty_capacity)
        slot = pmm_take_own_locked(pmm);
    if (slot == NULL) {
        slot_reset_absent_locked();
        return NULL;
    }
    memset(slot, 0, sizeof(*slot));
    magazine_init(&slot->dirty, core->dirty_capacity, true);
    magazine_init(&slot->zero, core->zero_capacity, true);
    magazine_init(&slot->large, SLOT_BLOCKS, true);
    slot->hint = CHUNK_NONE;
    slot->entries[SLOT_NONE] = ~(paddr_t)SLOT_LINK; /* no frame, and none behind it */
    index_rebuild(slot);
    core->slots_present++;
    core->slots_end = index < core->slots_end ? core->slots_end : index + 1;
    __atomic_store_n(&pmm->slots[index], slot, __ATOMIC_RELEASE);
    return slot;
}

static void switch_slot(struct pmm_slot *slot, bool on)
{
    magazine_switch_locked(&slot->dirty, on);
    magazine_switch_locked(&slot->zero, on);
    magazine_switch_locked(&slot->large, on);
}

/* The owner comes by: what a fast path has left in the cache since it was suspended goes back.
 *   Returns:  false if there is no memory for leaving a bad frame: then it stays suspended. */
static bool resume_locked(struct pmm *pmm, unsigned index, struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;
    struct pmm_slot *slot = pmm->slots[index];

    slot_empty_locked(pmm, slot, bugs);
    if (bits_test(core->leaving, index)) {
        if (!side_ensure_all_locked(pmm, 1, bugs))
            return false;
        struct pmm_range *range = pmm_range_of(pmm, virt_to_phys(slot));
        uint64_t id = id_of(range, virt_to_phys(slot));
        __atomic_store_n(&pmm->slots[index], &pmm_absent_slot, __ATOMIC_RELEASE);
        core->slots_present--;
        bits_clear(core->leaving, index);
        pmm_change_locked(pmm, range, id, id + 1, PMM_FRAME_RESERVED, PMM_FRAME_RETIRED);
    } else {
        switch_slot(slot, true);
    }
    bits_clear(core->suspended, index);
    return true;
}

uint64_t slot_leave_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                           uint64_t to)
{
    unsigned first = 0;

    for (unsigned i = 0; i < pmm->core->slots_end; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        paddr_t at = virt_to_phys(pmm->slots[i]);
        if (at < address_of(range, from) || at >= address_of(range, to))
            continue;
        to = id_of(range, at);
        first = i;
    }
    if (to == from)
        bits_set(pmm->core->leaving, first);
    return to;
}

void slot_leave_own_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                           uint64_t to, struct pmm_bugs *bugs)
{
    unsigned own = mm_port_cpu_slot();

    if (own >= MM_PORT_SLOTS || pmm->slots[own] == &pmm_absent_slot)
        return;
    paddr_t at = virt_to_phys(pmm->slots[own]);
    if (at < address_of(range, from) || at >= address_of(range, to))
        return;
    bits_set(pmm->core->leaving, own);
    (void)resume_locked(pmm, own, bugs);
}

struct pmm_slot *slot_get_locked(struct pmm *pmm, unsigned index, struct pmm_bugs *bugs)
{
    if (!pmm->core->cached || index >= MM_PORT_SLOTS) {
        slot_reset_absent_locked();
        return NULL;
    }
    if (__builtin_expect(bits_test(pmm->core->suspended, index), 0) &&
        !resume_locked(pmm, index, bugs))
        return NULL;
    if (pmm->slots[index] != &pmm_absent_slot)
        return pmm->slots[index];
    return make_slot(pmm, index);
}

/* ---- the owner, with the lock ---- */

bool slot_pop_locked(struct pmm_slot *slot, bool zero, paddr_t *address)
{
    struct magazine *magazine = magazine_of(slot, zero);
    int32_t at = magazine->bottom - 1;

    if (magazine_count_locked(magazine) == 0)
        return false;
    uint64_t place = (uint64_t)at + slot_first(zero);
    slot_unlink(slot, place);
    __atomic_store_n(&magazine->bottom, at, __ATOMIC_RELEASE);
    *address = entry_frame(slot->entries[place]);
    return true;
}

void slot_push_locked(struct pmm_slot *slot, bool zero, paddr_t address)
{
    struct magazine *magazine = magazine_of(slot, zero);
    int32_t at = magazine->bottom;

    MM_ASSERT(at < magazine->capacity);
    index_add(slot, (uint64_t)at + slot_first(zero), address);
    __atomic_store_n(&magazine->bottom, at + 1, __ATOMIC_RELEASE);
}

bool slot_is_full_locked(const struct pmm_slot *slot, bool zero)
{
    const struct magazine *magazine = zero ? &slot->zero : &slot->dirty;

    return magazine->bottom >= magazine->capacity;
}

/* ---- giving entries back ---- */

/* The `count` youngest: their places in the index are where pop would look, and nothing moves. */
void slot_flush_locked(struct pmm *pmm, struct pmm_slot *slot, bool zero, uint32_t count,
                       struct pmm_bugs *bugs)
{
    struct magazine *magazine = magazine_of(slot, zero);
    uint64_t *entries = entries_of(slot, zero);
    uint64_t first_place = slot_first(zero);
    uint32_t held = magazine_count_locked(magazine);
    int32_t bottom = magazine->bottom;

    count = count < held ? count : held;
    for (int32_t i = bottom - 1; i >= bottom - (int32_t)count; i--) {
        uint64_t place = (uint64_t)i + first_place;
        uint16_t *newest = &slot->newest[slot_hash(entries[i])];
        if (__builtin_expect(*newest == place, 1))
            store_place(newest, (uint16_t)(entries[i] & SLOT_LINK));
        else
            slot_unlink(slot, place);
    }
    __atomic_store_n(&magazine->bottom, bottom - (int32_t)count, __ATOMIC_RELEASE);
    pmm_give_entries_locked(pmm, entries + bottom - count, count, zero, bugs);
}

static void flush_blocks(struct pmm *pmm, struct pmm_slot *slot, struct pmm_bugs *bugs)
{
    uint32_t count = magazine_count_locked(&slot->large);
    int32_t floor = slot->large.floor;

    if (count == 0)
        return;
    __atomic_store_n(&slot->large.bottom, floor, __ATOMIC_RELEASE);
    pmm_give_blocks_locked(pmm, slot->blocks + floor, count, bugs);
}

/* Brings the entries down to place 0 again after others have taken some. */
void slot_compact_locked(struct pmm_slot *slot)
{
    if (slot->large.floor != 0)
        (void)magazine_compact_locked(&slot->large, slot->blocks, 0);
    if (slot->dirty.floor == 0 && slot->zero.floor == 0)
        return;
    (void)magazine_compact_locked(&slot->dirty, entries_of(slot, false), 0);
    (void)magazine_compact_locked(&slot->zero, entries_of(slot, true), 0);
    index_rebuild(slot);
}

void slot_empty_locked(struct pmm *pmm, struct pmm_slot *slot, struct pmm_bugs *bugs)
{
    slot_flush_locked(pmm, slot, false, UINT32_MAX, bugs);
    slot_flush_locked(pmm, slot, true, UINT32_MAX, bugs);
    flush_blocks(pmm, slot, bugs);
    slot_compact_locked(slot);
}

/* ---- refilling ---- */

/* Adds the 64 frames from `base` on, none of which shares its hash with an entry, the lowest as the
 * youngest. Four numbers of the index are written at once: 1.5 instructions for each frame. */
static void push_word(struct pmm_slot *slot, uint64_t place, paddr_t base)
{
    const uint64_t ones = 0x0001000100010001u;
    four_places *newest = (four_places *)&slot->newest[slot_hash(base)];
    uint64_t four = (place + BITS_PER_WORD - 1) * ones - 0x0003000200010000u;

    for (unsigned i = 0; i < BITS_PER_WORD; i += 4) {
        uint64_t *entries = &slot->entries[place + BITS_PER_WORD - 4 - i];
        paddr_t frame = base + i * FRAME_SIZE;
        bits_store(&entries[3], frame);
        bits_store(&entries[2], frame + FRAME_SIZE);
        bits_store(&entries[1], frame + 2 * FRAME_SIZE);
        bits_store(&entries[0], frame + 3 * FRAME_SIZE);
        __atomic_store_n(&newest[i / 4], four, __ATOMIC_RELAXED);
        four -= 4 * ones;
    }
}

/* Some of them, which may share it.
 *   Returns:  the place behind them. */
static uint64_t push_bits(struct pmm_slot *slot, uint64_t place, paddr_t base, uint64_t bits)
{
    while (bits != 0) {
        unsigned bit = BITS_PER_WORD - 1 - (unsigned)__builtin_clzll(bits);
        index_add(slot, place++, base + bit * FRAME_SIZE);
        bits &= ~((uint64_t)1 << bit);
    }
    return place;
}

/* Pushes the frames of the masks, highest first, so that the lowest is handed out first. The eight words of
 * a chunk have hashes of their own: `used` says of which words there may be some in the cache. */
static void push_claimed(struct pmm_slot *slot, const struct pmm_range *range, uint64_t chunk,
                         const uint64_t masks[CHUNK_WORDS], bool zero, unsigned *used)
{
    struct magazine *magazine = magazine_of(slot, zero);
    uint64_t place = slot_first(zero) + (uint64_t)magazine->bottom;
    paddr_t base = address_of(range, chunk * CHUNK_FRAMES);

    for (unsigned w = CHUNK_WORDS; w-- > 0;) {
        paddr_t first = base + w * BITS_PER_WORD * FRAME_SIZE;
        if (masks[w] == UINT64_MAX && (*used >> w & 1) == 0) {
            push_word(slot, place, first);
            place += BITS_PER_WORD;
        } else {
            place = push_bits(slot, place, first, masks[w]);
        }
        *used |= masks[w] != 0 ? 1u << w : 0;
    }
    __atomic_store_n(&magazine->bottom, (int32_t)(place - slot_first(zero)), __ATOMIC_RELEASE);
}

/* Half a magazine; less where little is free, so that one CPU does not take what others need. */
static uint64_t refill_frames(const struct pmm *pmm)
{
    const struct pmm_core *core = pmm->core;
    uint64_t half = (core->dirty_capacity + 1) / 2, parts = 2 * (uint64_t)core->slots_present;

    if (__builtin_expect(pmm->stats.free_frames >= half * parts, 1))
        return half;
    return pmm->stats.free_frames / parts + 1;
}

bool slot_is_worth_refilling_locked(const struct pmm *pmm)
{
    return pmm->stats.free_frames >= 2 * (uint64_t)pmm->core->slots_present;
}

void slot_refill_locked(struct pmm *pmm, struct pmm_slot *slot)
{
    struct pmm_core *core = pmm->core;
    uint64_t wanted = refill_frames(pmm), masks[CHUNK_WORDS];

    slot_compact_locked(slot);
    unsigned used = slot->dirty.bottom == 0 && slot->zero.bottom == 0 ? 0 : UINT8_MAX;
    while (wanted > 0) {
        uint64_t chunk = pmm_find_chunk_locked(pmm, slot->hint, true);
        if (chunk == CHUNK_NONE)
            return;
        struct pmm_range *range = pmm_range_of_chunk(pmm, chunk);
        bool zero = bits_test(core->clean, chunk);
        const struct magazine *magazine = magazine_of(slot, zero);
        uint64_t room = (uint64_t)(magazine->capacity - magazine->bottom);
        if (room == 0)
            return;
        /* Whole words as a rule: the last one may bring more than was wanted. */
        uint64_t most = wanted < BITS_PER_WORD ? wanted : mm_round_up(wanted, BITS_PER_WORD);
        uint64_t got = pmm_claim_locked(pmm, range, chunk, most < room ? most : room, masks);
        push_claimed(slot, range, chunk, masks, zero, &used);
        slot->hint = chunk;
        wanted -= got < wanted ? got : wanted;
    }
}

/* ---- all caches ---- */

uint64_t pmm_count_cached_locked(const struct pmm *pmm, uint64_t *zeroed)
{
    const struct pmm_core *core = pmm->core;
    uint64_t dirty = 0;

    *zeroed = core->zero_table_count;
    for (unsigned i = 0; i < core->slots_end; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        dirty += magazine_count_locked(&pmm->slots[i]->dirty);
        *zeroed += magazine_count_locked(&pmm->slots[i]->zero);
        dirty += CHUNK_FRAMES * (uint64_t)magazine_count_locked(&pmm->slots[i]->large);
    }
    return dirty + *zeroed;
}

static bool magazine_has(const struct magazine *magazine, const uint64_t *entries, paddr_t address)
{
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);

    for (int32_t i = __atomic_load_n(&magazine->floor, __ATOMIC_RELAXED); i < bottom; i++)
        if (entry_frame(bits_load(&entries[i])) == address)
            return true;
    return false;
}

bool pmm_is_cached(const struct pmm *pmm, paddr_t address)
{
    unsigned end = __atomic_load_n(&pmm->core->slots_end, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < end; i++) {
        const struct pmm_slot *slot = __atomic_load_n(&pmm->slots[i], __ATOMIC_ACQUIRE);
        if (slot != &pmm_absent_slot &&
            (slot_holds_block(slot, address) ||
             magazine_has(&slot->dirty, slot->entries + SLOT_FIRST_DIRTY, address) ||
             magazine_has(&slot->zero, slot->entries + SLOT_FIRST_ZERO, address)))
            return true;
    }
    return false;
}

bool pmm_block_is_cached(const struct pmm *pmm, paddr_t address)
{
    unsigned end = __atomic_load_n(&pmm->core->slots_end, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < end; i++) {
        const struct pmm_slot *slot = __atomic_load_n(&pmm->slots[i], __ATOMIC_ACQUIRE);
        if (slot != &pmm_absent_slot && slot_holds_block(slot, address))
            return true;
    }
    return false;
}

/* Which of the 64 frames from `base` on lie in a magazine. */
static uint64_t magazine_mask(const struct magazine *magazine, const uint64_t *entries,
                              paddr_t base)
{
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);
    uint64_t mask = 0;

    for (int32_t i = __atomic_load_n(&magazine->floor, __ATOMIC_RELAXED); i < bottom; i++) {
        uint64_t distance = (bits_load(&entries[i]) - base) >> FRAME_SHIFT;
        if (distance < BITS_PER_WORD)
            mask |= (uint64_t)1 << distance;
    }
    return mask;
}

uint64_t pmm_cached_mask(const struct pmm *pmm, paddr_t base)
{
    unsigned end = __atomic_load_n(&pmm->core->slots_end, __ATOMIC_RELAXED);
    uint64_t mask = 0;

    for (unsigned i = 0; i < end; i++) {
        const struct pmm_slot *slot = __atomic_load_n(&pmm->slots[i], __ATOMIC_ACQUIRE);
        if (slot == &pmm_absent_slot)
            continue;
        if (slot_holds_block(slot, base))
            mask = UINT64_MAX;
        mask |= magazine_mask(&slot->dirty, slot->entries + SLOT_FIRST_DIRTY, base) |
                magazine_mask(&slot->zero, slot->entries + SLOT_FIRST_ZERO, base);
    }
    return mask;
}

static void take_tables(struct pmm *pmm)
{
    struct pmm_core *core = pmm->core;

    while (core->zero_table_count > 0) {
        uint64_t id = core->zero_tables[--core->zero_table_count];
        pmm->stats.used_frames++;
        pmm->stats.table_frames++;
        pmm_give_table_locked(pmm, id);
    }
}

static void take_end(struct pmm *pmm, struct pmm_slot *slot, bool zero, struct pmm_bugs *bugs)
{
    int32_t from;
    uint32_t count = magazine_take_end_locked(magazine_of(slot, zero), &from);

    pmm_give_entries_locked(pmm, entries_of(slot, zero) + from, count, zero, bugs);
}

static void take_blocks_end(struct pmm *pmm, struct pmm_slot *slot, struct pmm_bugs *bugs)
{
    int32_t from;
    uint32_t count = magazine_take_end_locked(&slot->large, &from);

    pmm_give_blocks_locked(pmm, slot->blocks + from, count, bugs);
}

/* Behind magazine_take_begin_locked() or a switching off of all magazines. */
static void finish_taking(struct pmm *pmm, struct pmm_bugs *bugs)
{
    mm_port_cpu_barrier();
    for (unsigned i = 0; i < pmm->core->slots_end; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        take_end(pmm, pmm->slots[i], false, bugs);
        take_end(pmm, pmm->slots[i], true, bugs);
        take_blocks_end(pmm, pmm->slots[i], bugs);
    }
}

bool pmm_take_back_locked(struct pmm *pmm, struct pmm_bugs *bugs)
{
    uint64_t zeroed, before = pmm->stats.free_frames;
    unsigned own = mm_port_cpu_slot();

    take_tables(pmm);
    if (own < MM_PORT_SLOTS && pmm->slots[own] != &pmm_absent_slot)
        slot_empty_locked(pmm, pmm->slots[own], bugs);
    /* Those that look empty need no barrier: a free counts from when it is seen. */
    if (pmm_count_cached_locked(pmm, &zeroed) > 0) {
        for (unsigned i = 0; i < pmm->core->slots_end; i++) {
            if (pmm->slots[i] == &pmm_absent_slot)
                continue;
            magazine_take_begin_locked(&pmm->slots[i]->dirty);
            magazine_take_begin_locked(&pmm->slots[i]->zero);
            magazine_take_begin_locked(&pmm->slots[i]->large);
        }
        finish_taking(pmm, bugs);
    }
    return pmm->stats.free_frames > before;
}

void pmm_suspend_locked(struct pmm *pmm, struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;

    take_tables(pmm);
    for (unsigned i = 0; i < core->slots_end; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        bits_set(core->suspended, i);
        switch_slot(pmm->slots[i], false);
    }
    if (core->slots_present > 0)
        finish_taking(pmm, bugs);
}

void pmm_switch_locked(struct pmm *pmm, struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;
    bool on = !core->small && !core->full && !core->trace && core->inject_next == 0;

    if (on == core->cached)
        return;
    core->cached = on;
    for (unsigned i = 0; i < core->slots_end; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        switch_slot(pmm->slots[i], on && !bits_test(core->suspended, i));
    }
    if (!on && core->slots_present > 0)
        finish_taking(pmm, bugs);
}
