/* SPDX-License-Identifier: MIT */
/* Blocks: 2 MiB ones, which are whole chunks and so one bit each, and runs of neighbouring frames.
 *
 *      2 MiB       whole -> FULL and back: no word of the bitmap is read or written; in front of that each
 *                  slot keeps the last two that it freed, as it keeps frames
 *      contiguous  found by pmm_run.c, then marked; a search that failed is remembered
 *
 * The memory of failed searches: (count, alignment, limit, core->frees then). As long as no frame has
 * become free since, nor a block of page tables open to all, a request that asks for at least as
 * much, aligned at least as strictly, below at most the same limit, must fail too. */
#include "mm/pmm_parts.h"

#define unlikely(x) __builtin_expect((x), 0)

/* ---- 2 MiB ---- */

static bool take_large_locked(struct pmm *pmm, struct pmm_range **range, uint64_t *chunk)
{
    struct pmm_core *core = pmm->core;

    *chunk = core->large_hint;
    core->large_hint = CHUNK_NONE;
    if ((*chunk >= core->chunks || !bittree_has(&core->whole, *chunk)) &&
        !bittree_next(&core->whole, core->high_chunk, chunk) &&
        !bittree_next(&core->whole, 0, chunk))
        return false;
    *range = pmm_range_of_chunk(pmm, *chunk);
    bittree_remove(&core->whole, *chunk);
    core->whole_count--;
    chunk_set_info(core, *chunk, CHUNK_FULL, 0);
    (*range)->free_frames -= CHUNK_FRAMES;
    pmm->stats.free_frames -= CHUNK_FRAMES;
    pmm->stats.used_frames += CHUNK_FRAMES;
    return true;
}

static MM_COLD mm_status_t alloc_large_slowly(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    struct pmm_bugs bugs = { 0 };
    struct pmm_range *range = NULL;
    uint64_t chunk = 0;
    bool zero = false;

    if ((flags & ~PMM_NOZERO) != 0)
        return MM_INVALID_ARGUMENT;
    if (pmm_is_forbidden("allocation of a 2 MB block"))
        return MM_UNSUPPORTED;
    uint64_t saved = mm_port_lock(&pmm->lock);
    if (pmm->slots[mm_port_slot()] == &pmm_absent_slot)
        slot_reset_absent_locked();
    bool found = !pmm_inject_locked(pmm) &&
                 (take_large_locked(pmm, &range, &chunk) ||
                  (pmm_take_back_locked(pmm, &bugs) && take_large_locked(pmm, &range, &chunk)));
    paddr_t block = found ? address_of(range, chunk * CHUNK_FRAMES) : 0;
    if (found)
        zero = bits_test(pmm->core->clean, chunk);
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    if (!found) {
        mm_debug("pmm: no free 2 MB block");
        return MM_OUT_OF_MEMORY;
    }
    mm_port_memory_allocated(phys_to_virt(block), LARGE_PAGE_SIZE);
    if (!zero && (flags & PMM_NOZERO) == 0)
        memset(phys_to_virt(block), 0, LARGE_PAGE_SIZE);
    *out = block;
    mm_debug("pmm: allocated 2 MB block 0x%lx", block);
    return MM_OK;
}

/* A block that was freed here, if there is one: no lock, and it holds what it holds. */
static inline bool pop_block(const struct pmm *pmm, paddr_t *block)
{
    struct pmm_slot *slot = __atomic_load_n(&pmm->slots[mm_port_slot()], __ATOMIC_RELAXED);

    if (unlikely(!magazine_pop(&slot->large, slot->blocks, block)))
        return false;
#if MM_MEMORY_HOOKS
    mm_port_memory_allocated(frame_content(pmm, *block), LARGE_PAGE_SIZE);
#endif
    return true;
}

static __attribute__((noinline)) mm_status_t alloc_large_other(struct pmm *pmm, unsigned flags,
                                                               paddr_t *out)
{
    paddr_t block;

    if (flags != 0 || !pop_block(pmm, &block))
        return alloc_large_slowly(pmm, flags, out);
    memset(frame_content(pmm, block), 0, LARGE_PAGE_SIZE);
    *out = block;
    return MM_OK;
}

mm_status_t pmm_alloc_large(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    paddr_t block;

    if (flags != PMM_NOZERO)
        return alloc_large_other(pmm, flags, out);
    if (unlikely(!pop_block(pmm, &block)))
        return alloc_large_slowly(pmm, flags, out);
    *out = block;
    return MM_OK;
}

/* Into the cache of this slot, if it has one that is not full. */
static bool keep_block_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t id,
                              struct pmm_bugs *bugs)
{
    unsigned index = mm_port_cpu_slot();

    if (index >= MM_PORT_SLOTS || pmm->slots[index] == &pmm_absent_slot ||
        id / CHUNK_FRAMES < pmm->core->block_chunk)
        return false;
    struct pmm_slot *slot = slot_get_locked(pmm, index, bugs);
    if (slot == NULL || slot == &pmm_absent_slot || !magazine_is_on_locked(&slot->large))
        return false;
    slot_compact_locked(slot);
    slot->base = range->base;
    slot->frames = range->frames;
    slot->first_id = range_first_id(range);
    return magazine_push(&slot->large, slot->blocks, address_of(range, id));
}

static MM_COLD void free_large_slowly(struct pmm *pmm, paddr_t block)
{
    struct pmm_core *core = pmm->core;
    struct pmm_bugs bugs = { 0 };

    if (pmm_is_forbidden("free of a 2 MB block"))
        return;
    if (!mm_is_aligned(block, LARGE_PAGE_SIZE)) {
        mm_bug("free of 2 MB block 0x%lx, which is not aligned to 2 MB", block);
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_range *range = &pmm->ranges[core->last_range];
    if (block < range->base || block >= range_end(range))
        range = pmm_range_of(pmm, block);
    uint64_t chunk = range == NULL ? 0 : id_of(range, block) / CHUNK_FRAMES;
    if (range == NULL || bittree_has(&core->whole, chunk) ||
        chunk_kind(core, chunk) != CHUNK_FULL || pmm_block_is_cached(pmm, block)) {
        mm_port_unlock(&pmm->lock, saved);
        pmm_free_contiguous(pmm, block, CHUNK_FRAMES);
        return;
    }
    mm_port_memory_freed(phys_to_virt(block), LARGE_PAGE_SIZE);
    if (!keep_block_locked(pmm, range, chunk * CHUNK_FRAMES, &bugs))
        pmm_give_blocks_locked(pmm, &block, 1, &bugs);
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
    mm_debug("pmm: freed 2 MB block 0x%lx", block);
}

/* True if the block is surely one that is allocated as a whole: no free frame, and none that is told
 * apart. Both are so as long as its owner has it. */
static inline bool is_surely_full(const struct pmm *pmm, const struct pmm_slot *slot, paddr_t block)
{
    const struct pmm_core *core = pmm->core;
    uint64_t offset = block - slot->base;
    /* Rotated, as in pmm.c: an unaligned address is far above any count of frames. */
    uint64_t place = offset >> FRAME_SHIFT | offset << (64 - FRAME_SHIFT);
    uint64_t id = slot->first_id + place, chunk = id / CHUNK_FRAMES;

    return place < slot->frames && id % CHUNK_FRAMES == 0 && chunk >= core->block_chunk &&
           chunk_is_full(core, chunk) && !bittree_has_inline(&core->whole, chunk);
}

void pmm_free_large(struct pmm *pmm, paddr_t block)
{
    struct pmm_slot *slot = __atomic_load_n(&pmm->slots[mm_port_slot()], __ATOMIC_RELAXED);

    /* One entry is all that it can hold and not be full: more are the slow way's to look at. */
    if (unlikely(!is_surely_full(pmm, slot, block)) ||
        unlikely(__atomic_load_n(&slot->large.bottom, __ATOMIC_RELAXED) > 0 &&
                 bits_load(&slot->blocks[0]) == block)) {
        free_large_slowly(pmm, block);
        return;
    }
#if MM_MEMORY_HOOKS
    mm_port_memory_freed(frame_content(pmm, block), LARGE_PAGE_SIZE);
#endif
    if (unlikely(!magazine_push(&slot->large, slot->blocks, block))) {
#if MM_MEMORY_HOOKS
        mm_port_memory_allocated(frame_content(pmm, block), LARGE_PAGE_SIZE);
#endif
        free_large_slowly(pmm, block);
    }
}

/* ---- contiguous frames ---- */

static bool is_known_to_fail(const struct pmm_core *core, uint64_t count, uint64_t align_bytes,
                             paddr_t limit)
{
    for (unsigned i = 0; i < FAILURES_KEPT; i++) {
        const struct pmm_failure *failure = &core->failures[i];
        if (failure->count != 0 && failure->frees == core->frees && count >= failure->count &&
            align_bytes >= failure->align_bytes && limit <= failure->limit)
            return true;
    }
    return false;
}

static bool take_block_locked(struct pmm *pmm, uint64_t count, uint64_t align_bytes, paddr_t limit,
                              paddr_t *out)
{
    struct pmm_core *core = pmm->core;
    struct pmm_range *range;
    uint64_t first;

    /* Frame 0, the only multiple of such an alignment, is never free. */
    if (count > pmm->stats.free_frames ||
        align_bytes >= range_end(&pmm->ranges[pmm->range_count - 1]))
        return false;
    if (is_known_to_fail(core, count, align_bytes, limit))
        return false;
    if (!pmm_find_block_locked(pmm, count, align_bytes, limit, &range, &first)) {
        core->failures[core->next_failure++ % FAILURES_KEPT] =
            (struct pmm_failure){ count, align_bytes, limit, core->frees };
        return false;
    }
    pmm_change_locked(pmm, range, first, first + count, PMM_FRAME_FREE, PMM_FRAME_USED);
    *out = address_of(range, first);
    return true;
}

/* True if emptying the caches may help: it costs a barrier and everybody's cache. */
static bool may_be_had_locked(const struct pmm *pmm, uint64_t count)
{
    uint64_t zeroed;

    return count <= pmm->stats.free_frames + pmm_count_cached_locked(pmm, &zeroed);
}

mm_status_t pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames, uint64_t align_bytes,
                                 paddr_t limit, paddr_t *out)
{
    return pmm_alloc_contiguous_flags(pmm, count_frames, align_bytes, limit, 0, out);
}

mm_status_t pmm_alloc_contiguous_flags(struct pmm *pmm, uint64_t count_frames, uint64_t align_bytes,
                                       paddr_t limit, unsigned flags, paddr_t *out)
{
    struct pmm_bugs bugs = { 0 };
    paddr_t first = 0;

    if (count_frames == 0 || !mm_is_power_of_two(align_bytes) || align_bytes < FRAME_SIZE ||
        (flags & ~PMM_NOZERO) != 0)
        return MM_INVALID_ARGUMENT;
    if (pmm_is_forbidden("allocation of contiguous frames"))
        return MM_UNSUPPORTED;
    uint64_t saved = mm_port_lock(&pmm->lock);
    bool found = !pmm_inject_locked(pmm) && count_frames <= pmm->stats.total_frames &&
                 (take_block_locked(pmm, count_frames, align_bytes, limit, &first) ||
                  (may_be_had_locked(pmm, count_frames) && pmm_take_back_locked(pmm, &bugs) &&
                   take_block_locked(pmm, count_frames, align_bytes, limit, &first)));
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    if (!found) {
        mm_debug("pmm: no %lu contiguous frames (align 0x%lx, limit 0x%lx)", count_frames,
                 align_bytes, limit);
        return MM_OUT_OF_MEMORY;
    }
    mm_port_memory_allocated(phys_to_virt(first), count_frames * FRAME_SIZE);
    if ((flags & PMM_NOZERO) == 0)
        memset(phys_to_virt(first), 0, count_frames * FRAME_SIZE);
    *out = first;
    mm_debug("pmm: allocated %lu contiguous frames at 0x%lx", count_frames, first);
    return MM_OK;
}

/* ---- giving them back ---- */

/* The first frame of [from, to) that is not allocated; `to` if all are. A chunk of which only whole words
 * of used frames are known may still have some of them in caches. */
static uint64_t find_not_used(const struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                              uint64_t to)
{
    uint64_t other = pmm_find_other_locked(pmm, from, to, PMM_FRAME_USED);

    if (pmm->core->slots_present == 0)
        return other;
    for (uint64_t word = from / BITS_PER_WORD; word * BITS_PER_WORD < other; word++) {
        if (chunk_kind(pmm->core, word / CHUNK_WORDS) == CHUNK_FULL) {
            if (pmm_block_is_cached(pmm, address_of(range, word * BITS_PER_WORD)))
                return word * BITS_PER_WORD > from ? word * BITS_PER_WORD : from;
            word |= CHUNK_WORDS - 1; /* single frames of such a chunk are in no cache */
            continue;
        }
        uint64_t cached = pmm_cached_mask(pmm, address_of(range, word * BITS_PER_WORD)) &
                          bits_mask(word, from, other);
        if (cached != 0)
            return word * BITS_PER_WORD + bits_lowest(cached);
    }
    return other;
}

/* Those of [from, to) that are bad leave service, the others become free. */
static void give_block_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    const struct pmm_core *core = pmm->core;

    while (from < to) {
        uint64_t chunk = from / CHUNK_FRAMES, end = (chunk + 1) * CHUNK_FRAMES;
        end = end < to ? end : to;
        if (chunk_kind(core, chunk) == CHUNK_MIXED) {
            for (uint64_t id = from; id < end; id++)
                (void)pmm_give_one_locked(pmm, range, id, false);
        } else {
            pmm_change_locked(pmm, range, from, end, PMM_FRAME_USED, PMM_FRAME_FREE);
        }
        from = end;
    }
}

void pmm_free_contiguous(struct pmm *pmm, paddr_t first, uint64_t count_frames)
{
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    paddr_t wrong = first;
    bool done = false;

    if (pmm_is_forbidden("free of contiguous frames"))
        return;
    if (!mm_is_aligned(first, FRAME_SIZE) || count_frames == 0) {
        mm_bug("free of %lu contiguous frames at 0x%lx: %s", count_frames, first,
               count_frames == 0 ? "the count is 0" : "the address is not aligned");
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_range *range = pmm_range_of(pmm, first);
    if (range != NULL) {
        uint64_t from = id_of(range, first);
        uint64_t inside = range_end_id(range) - from; /* no wrap: `first` lies in the range */
        uint64_t to = from + (count_frames < inside ? count_frames : inside);
        uint64_t other = find_not_used(pmm, range, from, to);
        wrong = address_of(range, other);
        if (other < to) {
            state = pmm_state_of_id(pmm->core, other);
            /* A free table, or one in a cache. */
            if (state == PMM_FRAME_USED ||
                (state == PMM_FRAME_TABLE && pmm_is_free_table(pmm->core, other)))
                state = PMM_FRAME_FREE;
        } else if (count_frames <= inside) {
            mm_port_memory_freed(phys_to_virt(first), count_frames * FRAME_SIZE);
            give_block_locked(pmm, range, from, to);
            done = true;
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    if (done)
        mm_debug("pmm: freed %lu contiguous frames at 0x%lx", count_frames, first);
    else
        mm_bug("free of %lu contiguous frames at 0x%lx: frame 0x%lx is %s", count_frames, first,
               wrong, pmm_state_name(state));
}
