/* SPDX-License-Identifier: MIT */
/* Where the heap's memory comes from and goes to.
 *
 *      with a window:     addresses are reserved in the table under the lock, then kvm commits frames to
 *                         them without it
 *      without:           the heap lies in the HHDM, base is physical address 0, and the pmm's frames say
 *                         which addresses they are; a lender (a process) is told of what comes and goes
 *
 * Invariants: an address is reserved before frames are committed to it and until they are gone; a table
 * entry is never taken by two. heap->frames counts what the pmm has given, state included. */
#include "mm/heap_memory.h"

/* ---- addresses of the window ---- */

/* Reserves `count` neighbouring chunks' addresses. */
static bool reserve_locked(struct kheap *heap, uint64_t count, uint64_t *offset)
{
    uint64_t all = heap->front.bytes >> KHEAP_CHUNK_SHIFT;
    uint64_t run = 0;

    for (uint64_t i = 0; i < 2 * all; i++) {
        uint64_t at = (heap->search_from + i) % all;
        if (at == 0)
            run = 0; /* no run goes around the end */
        run = heap->front.table[at] == NULL ? run + 1 : 0;
        if (run < count)
            continue;
        uint64_t first = at + 1 - count;
        for (uint64_t j = first; j <= at; j++)
            __atomic_store_n(&heap->front.table[j], &heap_chunk_reserved.front, __ATOMIC_RELEASE);
        heap->search_from = (at + 1) % all;
        *offset = first << KHEAP_CHUNK_SHIFT;
        return true;
    }
    return false;
}

bool heap_window_reserve(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool done = reserve_locked(heap, bytes >> KHEAP_CHUNK_SHIFT, offset);

    mm_port_unlock(&heap->lock, saved);
    return done;
}

bool heap_window_reserve_at(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset >> KHEAP_CHUNK_SHIFT, end = (offset + bytes) >> KHEAP_CHUNK_SHIFT;
    uint64_t saved = mm_port_lock(&heap->lock);
    bool done = end <= heap->front.bytes >> KHEAP_CHUNK_SHIFT;

    for (uint64_t i = first; done && i < end; i++)
        done = heap->front.table[i] == NULL;
    for (uint64_t i = first; done && i < end; i++)
        __atomic_store_n(&heap->front.table[i], &heap_chunk_reserved.front, __ATOMIC_RELEASE);
    mm_port_unlock(&heap->lock, saved);
    return done;
}

void heap_window_unreserve(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap_chunks_drop_empty_locked(heap, offset, bytes, NULL);
    heap->search_from = offset >> KHEAP_CHUNK_SHIFT;
    mm_port_unlock(&heap->lock, saved);
}

/* ---- frames ---- */

void heap_frames_count(struct kheap *heap, int64_t frames)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap->frames += (uint64_t)frames;
    mm_port_unlock(&heap->lock, saved);
}

static bool commit_in_window(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    if (!heap_window_reserve(heap, HEAP_CHUNK_BYTES, offset))
        return false;
    if (kvm_heap_commit(heap->source.kvm, heap->front.base + *offset, bytes) == MM_OK)
        return true;
    heap_window_unreserve(heap, *offset, HEAP_CHUNK_BYTES);
    return false;
}

static bool commit_in_hhdm(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    paddr_t first;
    mm_status_t status = bytes == HEAP_CHUNK_BYTES
                             ? pmm_alloc_large(heap->source.pmm, PMM_NOZERO, &first)
                             : pmm_alloc_contiguous_flags(heap->source.pmm, bytes / FRAME_SIZE,
                                                          bytes, PMM_NO_LIMIT, PMM_NOZERO, &first);

    if (status != MM_OK)
        return false;
    *offset = first;
    return true;
}

bool heap_source_commit(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    return heap->source.kvm != NULL ? commit_in_window(heap, bytes, offset)
                                    : commit_in_hhdm(heap, bytes, offset);
}

bool heap_source_is_zero(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    const struct boot_lender *lender = heap->source.lender;

    if (heap->source.kvm != NULL)
        return true;
    return lender != NULL && lender->take((void *)(heap->front.base + offset), bytes);
}

void heap_source_decommit(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    mm_status_t status = MM_OK;

    mm_port_memory_allocated((void *)(heap->front.base + offset), bytes);
    if (heap->source.kvm != NULL)
        status = kvm_heap_decommit(heap->source.kvm, heap->front.base + offset, bytes);
    else if (heap->source.lender != NULL)
        heap->source.lender->give((void *)(heap->front.base + offset), bytes);
    if (heap->source.kvm == NULL)
        pmm_free_contiguous(heap->source.pmm, offset, bytes / FRAME_SIZE);
    if (heap->source.lender != NULL)
        heap->source.lender->given();
    MM_ASSERT(status == MM_OK);
    (void)status;
    heap_frames_count(heap, -(int64_t)(bytes / FRAME_SIZE));
}
