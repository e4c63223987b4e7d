/* SPDX-License-Identifier: MIT */
/* Sizes that a slot does not use any more do not keep memory while the heap grows.
 *
 *      a program's phases    small blocks | all sizes | large blocks only: the heap grows
 *      magazines of small    ............. in use ... | 1st growth: seen | 2nd: as seen, so they are emptied
 *
 * Some dozens of blocks in a magazine may each keep a span of 32 KiB from ending; over all sizes these are
 * megabytes, at the very moment when the heap is largest. A magazine counts as idle when it holds as many
 * blocks, with the same one on top, as when the slot made the heap grow before: between the two lie 2 MiB
 * of other sizes. One that is in use after all, and only looked the same, is filled again at its next
 * call. In a small heap, which grows by less, nothing is emptied.
 *
 * Invariant: only the slot itself looks at its magazines, and not in the middle of a call. */
#include "mm/heap_parts.h"

#include <mm/port_slot.h>

/* 0: the magazine is empty. */
static uint64_t look_of(const struct kheap_magazine *magazine)
{
    uint32_t count = magazine_count_locked(&magazine->magazine);
    int32_t top = magazine->magazine.floor + (int32_t)count - 1;

    return count == 0 ? 0 : (uint64_t)magazine->entries[top].block * 2 * PAGE_SIZE + count;
}

void heap_idle_empty(struct kheap *heap)
{
    unsigned slot = mm_port_cpu_slot();

    if (slot >= MM_PORT_SLOTS || heap->small)
        return;
    uint64_t saved = mm_port_lock(&heap->lock);
    struct heap_cache *cache = heap_cache_at(heap, slot);
    for (unsigned i = 0; cache != NULL && i < KHEAP_CLASSES; i++) {
        uint64_t look = look_of(&cache->front.classes[i]);
        if (look == cache->seen[i])
            heap_cache_empty_class_locked(heap, cache, i);
        cache->seen[i] = look_of(&cache->front.classes[i]);
    }
    mm_port_unlock(&heap->lock, saved);
}
