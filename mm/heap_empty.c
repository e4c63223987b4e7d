/* SPDX-License-Identifier: MIT */
/* A slot's cache is emptied before the heap grows for that slot.
 *
 *      search fails --> the slot's magazines go to their spans, search again --> fails --> the heap grows
 *
 * Some dozens of blocks in a magazine may each keep a span of 32 KiB from ending; over all sizes, many of
 * them out of use, these are megabytes, at the very moment when the heap is largest. It takes some 12 us, so it
 * is done only if much has been taken from the chunks since the heap grew last, and freed again: a program that
 * does nothing but fill memory has no use for it. In a small heap, which grows by less, and in one that does
 * not grow, nothing is emptied.
 *
 * Invariant: only the slot itself empties its magazines here, and not in the middle of a call. */
#include "mm/heap_parts.h"

#include <mm/port_slot.h>

/* Four times what the heap grows by. */
#define MANY_BYTES MM_MIB(8)

/* If much was taken since this was asked last. */
static bool is_due(struct kheap *heap, struct heap_cache *cache)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool due = heap->taken_bytes - cache->taken_seen >= MANY_BYTES;

    cache->taken_seen = heap->taken_bytes;
    mm_port_unlock(&heap->lock, saved);
    return due;
}

/* A lock for each class: up to 64 spans end, 0.2 us each, with interrupts off. */
static bool empty_class(struct kheap *heap, struct heap_cache *cache, unsigned size_class)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool some = magazine_count_locked(&cache->front.classes[size_class].magazine) > 0;

    heap_cache_empty_class_locked(heap, cache, size_class);
    mm_port_unlock(&heap->lock, saved);
    return some;
}

bool heap_empty_before_growth(struct kheap *heap)
{
    unsigned slot = mm_port_cpu_slot();
    bool some = false;

    if (slot >= MM_PORT_SLOTS || heap->small || heap->source.pmm == NULL)
        return false;
    struct heap_cache *cache = heap_cache_at(heap, slot);
    if (cache == NULL || !is_due(heap, cache))
        return false;
    for (unsigned i = 0; i < KHEAP_CLASSES; i++)
        some = empty_class(heap, cache, i) || some;
    return some;
}
