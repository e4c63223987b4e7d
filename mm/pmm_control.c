/* SPDX-License-Identifier: MIT */
/* What steers the physical memory manager from outside: trace and fault injection, which act through the
 * switch of the caches; emptying caches; the low-water mark; work for idle CPUs. */
#include "mm/pmm_parts.h"

/* ---- the switch ---- */

void pmm_set_trace(struct pmm *pmm, bool on)
{
    struct pmm_bugs bugs = { 0 };
    if (pmm_is_forbidden("switching of the trace"))
        return;
    uint64_t saved = mm_port_lock(&pmm->lock);

    pmm->core->trace = on;
    pmm_switch_locked(pmm, &bugs);
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
}

void pmm_fault_inject(struct pmm *pmm, uint64_t nth, uint64_t every)
{
    struct pmm_bugs bugs = { 0 };
    if (pmm_is_forbidden("fault injection"))
        return;
    uint64_t saved = mm_port_lock(&pmm->lock);

    pmm->core->inject_next = nth;
    pmm->core->inject_every = every;
    pmm_switch_locked(pmm, &bugs);
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
}

/* ---- emptying ---- */

void pmm_drain(struct pmm *pmm)
{
    struct pmm_bugs bugs = { 0 };
    if (pmm_is_forbidden("emptying of caches"))
        return;
    uint64_t saved = mm_port_lock(&pmm->lock);

    (void)pmm_take_back_locked(pmm, &bugs);
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
}

void pmm_drain_slot(struct pmm *pmm)
{
    struct pmm_bugs bugs = { 0 };
    unsigned index = mm_port_cpu_slot();

    if (index >= MM_PORT_SLOTS) {
        (void)pmm_is_forbidden("emptying of a cache");
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_slot *slot = pmm->slots[index];
    if (slot != &pmm_absent_slot)
        slot_empty_locked(pmm, slot, &bugs);
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
}

/* ---- low water ---- */

void pmm_set_low_water(struct pmm *pmm, uint64_t frames, pmm_low_water_fn callback, void *context)
{
    if (pmm_is_forbidden("setting of the low-water mark"))
        return;
    uint64_t saved = mm_port_lock(&pmm->lock);

    pmm->core->low_mark = frames;
    pmm->core->low_callback = callback;
    pmm->core->low_context = context;
    pmm->core->low_armed = true;
    mm_port_unlock(&pmm->lock, saved);
}

/* ---- idle ---- */

/* A free frame whose content is not known, for clearing; it is used meanwhile. */
static bool take_dirty(struct pmm *pmm, unsigned index, paddr_t *address)
{
    struct pmm_core *core = pmm->core;
    struct pmm_bugs bugs = { 0 };
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_slot *slot = slot_get_locked(pmm, index, &bugs);

    if (slot != NULL)
        slot_compact_locked(slot); /* what others have taken leaves room */
    bool found = slot != NULL && !slot_is_full_locked(slot, true);
    if (found && !slot_pop_locked(slot, false, address)) {
        uint64_t chunk = pmm_find_chunk_locked(pmm, slot->hint, true);
        found = chunk != CHUNK_NONE && !bits_test(core->clean, chunk);
        if (found) {
            struct pmm_range *range = pmm_range_of_chunk(pmm, chunk);
            *address = address_of(range, pmm_claim_one_locked(pmm, range, chunk));
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    pmm_report_bugs(&bugs);
    return found;
}

bool pmm_idle_work(struct pmm *pmm)
{
    paddr_t address = 0;
    unsigned index = mm_port_cpu_slot();

    if (index >= MM_PORT_SLOTS) {
        (void)pmm_is_forbidden("clearing of a free frame");
        return false;
    }
    if (!take_dirty(pmm, index, &address))
        return false;
    void *content = frame_content(pmm, address);
    mm_port_memory_allocated(content, FRAME_SIZE);
    memset(content, 0, FRAME_SIZE);
    pmm_free_zeroed_frame(pmm, address);
    return true;
}
