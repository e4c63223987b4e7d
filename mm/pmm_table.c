/* SPDX-License-Identifier: MIT */
/* Page-table frames. They are told apart from used ones, so that a wrong free is seen.
 *
 *      zero_tables   a few tables that were freed last: handed out again uncleared
 *      TABLE chunks  2 MiB blocks whose set bits are all tables: no side needed
 *      MIXED chunks  where memory is too small for a block of its own: the side says which are tables
 *
 * Everything here happens under the lock: a table is taken for 512 pages at least. */
#include "mm/pmm_parts.h"

#define WHOLE_FOR_TABLES 24u /* so many wholly free chunks must there be before one is tagged */

/* ---- finding one ---- */

static bool take_from_table_chunk(struct pmm *pmm, uint64_t chunk, struct pmm_range **range,
                                  uint64_t *id)
{
    struct pmm_core *core = pmm->core;

    *range = pmm_range_of_chunk(pmm, chunk);
    /* pmm_claim_one_locked takes an empty chunk out of `partial`, where this one is not. */
    *id = pmm_claim_one_locked(pmm, *range, chunk);
    if (chunk_free(core, chunk) == 0)
        bittree_remove(&core->tables, chunk);
    pmm->stats.table_frames++;
    (*range)->table_frames++;
    return true;
}

static bool tag_whole_chunk(struct pmm *pmm, uint64_t *chunk)
{
    struct pmm_core *core = pmm->core;

    if (core->whole_count < WHOLE_FOR_TABLES ||
        (!bittree_next(&core->whole, core->high_chunk, chunk) &&
         !bittree_next(&core->whole, 0, chunk)))
        return false;
    chunk_open_locked(pmm, pmm_range_of_chunk(pmm, *chunk), *chunk);
    bittree_remove(&core->partial, *chunk);
    bittree_add(&core->tables, *chunk);
    chunk_set_plain(core, *chunk, 0);
    chunk_set_info(core, *chunk, CHUNK_TABLE, CHUNK_FRAMES);
    return true;
}

/* A free frame of a chunk, in a word that has special frames already if there is one. */
static uint64_t mixed_place(const struct pmm_core *core, uint64_t chunk)
{
    uint64_t found = 0;

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t word = chunk * CHUNK_WORDS + w, free = ~core->taken[word];
        if (free == 0)
            continue;
        found = word * BITS_PER_WORD + bits_lowest(free);
        if (!bits_test(core->plain, word))
            break;
    }
    return found;
}

static bool take_mixed(struct pmm *pmm, struct pmm_range **range, uint64_t *id)
{
    struct pmm_core *core = pmm->core;

    if (!side_ensure_locked(pmm, 2))
        return false;
    uint64_t chunk = pmm_find_chunk_locked(pmm, core->table_hint, false);
    if (chunk == CHUNK_NONE)
        return false;
    core->table_hint = chunk;
    *range = pmm_range_of_chunk(pmm, chunk);
    chunk_open_locked(pmm, *range, chunk);
    *id = mixed_place(core, chunk);
    pmm_change_locked(pmm, *range, *id, *id + 1, PMM_FRAME_FREE, PMM_FRAME_TABLE);
    return true;
}

static bool take_table(struct pmm *pmm, struct pmm_range **range, uint64_t *id)
{
    uint64_t chunk;

    if (bittree_next(&pmm->core->tables, 0, &chunk) || tag_whole_chunk(pmm, &chunk))
        return take_from_table_chunk(pmm, chunk, range, id);
    return take_mixed(pmm, range, id);
}

/* ---- giving one back ---- */

void pmm_give_table_locked(struct pmm *pmm, uint64_t id)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk = id / CHUNK_FRAMES;
    struct pmm_range *range = pmm_range_of_chunk(pmm, chunk);

    if (chunk_kind(core, chunk) != CHUNK_TABLE) {
        const struct pmm_side *side = side_find(core, chunk);
        bool bad = side != NULL && bits_test(side->bad, id % CHUNK_FRAMES);
        pmm_change_locked(pmm, range, id, id + 1, PMM_FRAME_TABLE,
                          bad ? PMM_FRAME_RETIRED : PMM_FRAME_FREE);
        return;
    }
    bits_clear(core->taken, id);
    core->info[chunk]++;
    uint64_t free_frames = chunk_free(core, chunk);
    if (free_frames == 1)
        bittree_add(&core->tables, chunk);
    if (free_frames == CHUNK_FRAMES) {
        bittree_remove(&core->tables, chunk);
        bittree_add(&core->whole, chunk);
        core->whole_count++;
    }
    core->frees++;
    range->free_frames++;
    range->table_frames--;
    pmm->stats.free_frames++;
    pmm->stats.used_frames--;
    pmm->stats.table_frames--;
}

bool pmm_is_free_table(const struct pmm_core *core, uint64_t id)
{
    for (unsigned i = 0; i < core->zero_table_count; i++)
        if (core->zero_tables[i] == id)
            return true;
    return false;
}

static bool is_bad(const struct pmm_core *core, uint64_t id)
{
    uint64_t chunk = id / CHUNK_FRAMES;
    const struct pmm_side *side =
        chunk_kind(core, chunk) == CHUNK_MIXED ? side_find(core, chunk) : NULL;

    return side != NULL && bits_test(side->bad, id % CHUNK_FRAMES);
}

/* ---- the calls ---- */

mm_status_t pmm_alloc_table_flags(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    struct pmm_core *core = pmm->core;
    struct pmm_bugs bugs = { 0 };
    struct pmm_range *range = NULL;
    uint64_t id = 0;

    if (pmm_is_forbidden("allocation of a page table"))
        return MM_UNSUPPORTED;
    uint64_t saved = mm_port_lock(&pmm->lock);
    bool injected = pmm_inject_locked(pmm);
    bool cleared = !injected && core->zero_table_count > 0;
    bool found = cleared;
    if (cleared) {
        id = core->zero_tables[--core->zero_table_count];
        range = pmm_range_of_chunk(pmm, id / CHUNK_FRAMES);
        pmm->stats.used_frames++;
        pmm->stats.table_frames++;
    } else if (!injected) {
        found = take_table(pmm, &range, &id) ||
                (pmm_take_back_locked(pmm, &bugs) && take_table(pmm, &range, &id));
    }
    paddr_t frame = found ? address_of(range, id) : 0;
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    if (!found) {
        mm_debug("pmm: no free frame for a page table");
        return MM_OUT_OF_MEMORY;
    }
    mm_port_memory_allocated(phys_to_virt(frame), FRAME_SIZE);
    if (!cleared && (flags & PMM_NOZERO) == 0)
        memset(phys_to_virt(frame), 0, FRAME_SIZE);
    *out = frame;
    mm_debug("pmm: allocated page-table frame 0x%lx", frame);
    return MM_OK;
}

mm_status_t pmm_alloc_table(struct pmm *pmm, paddr_t *out)
{
    return pmm_alloc_table_flags(pmm, 0, out);
}

void pmm_free_table(struct pmm *pmm, paddr_t frame)
{
    struct pmm_core *core = pmm->core;
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    uint64_t clear = FRAME_SIZE;

    if (pmm_is_forbidden("free of a page table"))
        return;
    if (!mm_is_aligned(frame, FRAME_SIZE)) {
        mm_bug("free of unaligned frame address 0x%lx", frame);
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    const struct pmm_range *range = pmm_range_of(pmm, frame);
    if (range != NULL) {
        uint64_t id = id_of(range, frame);
        state = pmm_state_of_id(core, id);
        if (state == PMM_FRAME_TABLE ? pmm_is_free_table(core, id)
                                     : state == PMM_FRAME_USED && pmm_is_cached(pmm, frame))
            state = PMM_FRAME_FREE;
        if (state == PMM_FRAME_TABLE && (core->full || MM_DEBUG))
            clear = pmm_cleared_bytes(frame);
        if (state == PMM_FRAME_TABLE && clear == FRAME_SIZE) {
            mm_port_memory_freed(phys_to_virt(frame), FRAME_SIZE);
            if (core->zero_table_count < ZERO_TABLES && !is_bad(core, id)) {
                core->zero_tables[core->zero_table_count++] = id;
                pmm->stats.used_frames--;
                pmm->stats.table_frames--;
            } else {
                pmm_give_table_locked(pmm, id);
            }
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    if (state != PMM_FRAME_TABLE)
        pmm_report_free(frame, state, PMM_FRAME_TABLE);
    else if (clear < FRAME_SIZE)
        mm_bug("free of page-table frame 0x%lx, which is not empty: byte %lu is not 0", frame,
               clear);
    else
        mm_debug("pmm: freed page-table frame 0x%lx", frame);
}
