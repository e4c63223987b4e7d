/* SPDX-License-Identifier: MIT */
/* Calls on the whole heap: draining, levels and other switches, injected failures, what a fork needs. */
#include <mm/kheap.h>
#include <mm/log.h>

#include "mm/context.h"
#include "mm/heap_parts.h"

void kheap_drain(struct kheap *heap, unsigned slot)
{
    if (context_is_forbidden("kheap_drain"))
        return;
    if (slot == KHEAP_ALL_SLOTS)
        heap_guard_flush(heap);
    heap_caches_drain(heap, slot, mm_port_cpu_slot());
}

/* The caches are on when nothing has to see each call. */
static void update_switch_locked(struct kheap *heap, struct heap_doubles *doubles)
{
    bool off = heap->guards != 0 || heap->faults.on ||
               __atomic_load_n(&mm_log_level, __ATOMIC_RELAXED) >= MM_LOG_DEBUG;

    if (off != heap->off)
        heap_caches_switch_locked(heap, off, doubles);
}

/* What the switch depends on changes with it, under one lock: two changes at once are both made. */
static uint64_t begin_change(struct kheap *heap, struct heap_doubles *doubles)
{
    doubles->count = 0;
    return mm_port_lock(&heap->lock);
}

static void end_change(struct kheap *heap, struct heap_doubles *doubles, uint64_t saved)
{
    update_switch_locked(heap, doubles);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, doubles);
}

static void set_guard(struct kheap *heap, uint8_t guard, bool on)
{
    struct heap_doubles doubles;
    uint64_t saved = begin_change(heap, &doubles);
    unsigned others = heap->guards & ~(unsigned)guard;

    __atomic_store_n(&heap->guards, (uint8_t)(on ? others | guard : others), __ATOMIC_RELAXED);
    end_change(heap, &doubles, saved);
}

void kheap_log_level_changed(struct kheap *heap)
{
    struct heap_doubles doubles;
    uint64_t saved = begin_change(heap, &doubles);

    end_change(heap, &doubles, saved);
}

void kheap_set_level(struct kheap *heap, enum kheap_level level)
{
    set_guard(heap, HEAP_GUARD_FULL, level == KHEAP_FULL);
    if (level != KHEAP_FULL)
        heap_guard_flush(heap);
}

enum kheap_level kheap_level(const struct kheap *heap)
{
    uint8_t guards = __atomic_load_n(&heap->guards, __ATOMIC_RELAXED);

    return (guards & HEAP_GUARD_FULL) != 0 ? KHEAP_FULL : KHEAP_DEFAULT;
}

void kheap_record_sites(struct kheap *heap, bool on)
{
    set_guard(heap, HEAP_GUARD_SITES, on);
}

void kheap_inject(struct kheap *heap, const struct kheap_faults *faults)
{
    struct heap_doubles doubles;
    uint64_t saved = begin_change(heap, &doubles);

    heap_faults_set_locked(heap, faults);
    end_change(heap, &doubles, saved);
}

uint64_t kheap_lock_all(struct kheap *heap)
{
    return mm_port_lock(&heap->lock);
}

void kheap_unlock_all(struct kheap *heap, uint64_t saved)
{
    mm_port_unlock(&heap->lock, saved);
}

void kheap_forked(struct kheap *heap)
{
    __atomic_store_n(&heap->moving, 0, __ATOMIC_RELEASE);
    heap_caches_forked_locked(heap);
}
