/* SPDX-License-Identifier: MIT */
/* Large blocks: pages of their own, in chunks that hold nothing else.
 *
 *      window:  | reserved 2 MiB | block, from 2 MiB on ............ | at least a page, reserved |
 *      HHDM:    contiguous frames; small ones share the 2 MiB at their ends, which large_pages counts
 *
 * A block that an interrupt handler frees is free at once, but its pages, which other CPUs must forget, go
 * later: its span waits in heap->late for a thread of control.
 *
 * Invariants: region_bytes counts a large block from when its chunks count it until they do not; its
 * addresses are reused only when its frames are gone; frames on their way count as moving. */
#include "mm/heap_memory.h"

void heap_large_count_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool add)
{
    uint64_t end = offset + bytes;

    while (offset < end) {
        struct heap_chunk *chunk = heap_chunk_at(heap, offset);
        uint64_t stop = mm_round_down(offset, HEAP_CHUNK_BYTES) + HEAP_CHUNK_BYTES;
        uint32_t pages = (uint32_t)(((stop < end ? stop : end) - offset) / PAGE_SIZE);
        chunk->large_pages += add ? pages : 0 - pages;
        offset = stop;
    }
}

bool heap_large_commit(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    return kvm_heap_commit(heap->source.kvm, heap->front.base + offset, bytes) == MM_OK;
}

bool heap_large_reserve(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset)
{
    uint64_t all = HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES);
    uint64_t slack = align_bytes > HEAP_CHUNK_BYTES ? align_bytes : 0;
    uint64_t base = heap->front.base, first, start;

    if (!heap_window_reserve(heap, all + slack, &first))
        return false;
    start = mm_round_up(base + first + HEAP_CHUNK_BYTES,
                        align_bytes > HEAP_CHUNK_BYTES ? align_bytes : HEAP_CHUNK_BYTES) -
            base;
    /* The addresses around that alignment does not need go back. */
    if (start - HEAP_CHUNK_BYTES > first)
        heap_window_unreserve(heap, first, start - HEAP_CHUNK_BYTES - first);
    if (first + all + slack > start - HEAP_CHUNK_BYTES + all)
        heap_window_unreserve(heap, start - HEAP_CHUNK_BYTES + all,
                              first + slack - (start - HEAP_CHUNK_BYTES));
    *offset = start;
    return true;
}

void heap_large_unreserve(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    heap_window_unreserve(heap, offset - HEAP_CHUNK_BYTES,
                          HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES));
}

static bool large_in_window(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                            uint64_t *offset)
{
    if (!heap_large_reserve(heap, bytes, align_bytes, offset))
        return false;
    if (heap_large_commit(heap, *offset, bytes))
        return true;
    heap_large_unreserve(heap, *offset, bytes);
    return false;
}

static bool large_in_hhdm(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                          uint64_t *offset)
{
    paddr_t first;
    uint64_t align = align_bytes < HEAP_CHUNK_BYTES && bytes >= HEAP_CHUNK_BYTES ? HEAP_CHUNK_BYTES
                     : align_bytes < PAGE_SIZE                                   ? PAGE_SIZE
                                                                                 : align_bytes;

    struct pmm *pmm = heap->source.pmm;
    uint64_t frames = bytes / FRAME_SIZE;
    mm_status_t status =
        pmm_alloc_contiguous_flags(pmm, frames, align, PMM_NO_LIMIT, PMM_NOZERO, &first);
    if (status != MM_OK && align > PAGE_SIZE && align_bytes <= PAGE_SIZE)
        status =
            pmm_alloc_contiguous_flags(pmm, frames, PAGE_SIZE, PMM_NO_LIMIT, PMM_NOZERO, &first);
    if (status != MM_OK)
        return false;
    *offset = first;
    return true;
}

uint64_t heap_large_bytes(const struct kheap *heap, uint64_t bytes)
{
    return mm_round_up(bytes, heap->source.kvm != NULL ? KVM_HEAP_STEP_BYTES : PAGE_SIZE);
}

bool heap_large_is_beyond_memory(const struct kheap *heap, uint64_t bytes)
{
    return bytes >= LARGE_PAGE_SIZE && bytes / FRAME_SIZE > pmm_stats(heap->source.pmm).free_frames;
}

static bool take(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset,
                 bool *zeroed)
{
    if (heap->source.kvm != NULL ? !large_in_window(heap, bytes, align_bytes, offset)
                                 : !large_in_hhdm(heap, bytes, align_bytes, offset))
        return false;
    heap_frames_count(heap, (int64_t)(bytes / FRAME_SIZE));
    *zeroed = heap_source_is_zero(heap, *offset, bytes);
    uint64_t saved;
    if (heap_chunks_make_and_lock(heap, *offset, bytes, &saved)) {
        heap_large_count_locked(heap, *offset, bytes, true);
        heap->region_bytes += bytes;
        mm_port_unlock(&heap->lock, saved);
        return true;
    }
    heap_source_decommit(heap, *offset, bytes);
    if (heap->source.kvm != NULL)
        heap_large_unreserve(heap, *offset, bytes);
    return false;
}

bool heap_large_take(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset,
                     bool *zeroed, uint64_t *moves)
{
    if (heap->source.pmm == NULL || bytes > heap->front.bytes)
        return false;
    bytes = heap_large_bytes(heap, bytes);
    if (heap_large_is_beyond_memory(heap, bytes))
        return false;
    heap_move_begin(heap);
    bool done = take(heap, bytes, align_bytes, offset, zeroed);
    heap_move_end(heap, !done);
    *moves += !done;
    return done;
}

/* The addresses are reused only when the frames are gone, so the table entries fall last. */
void heap_large_give(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    bool in_window = heap->source.kvm != NULL;

    bytes = heap_large_bytes(heap, bytes);
    heap_move_begin(heap);
    uint64_t saved = mm_port_lock(&heap->lock);
    heap_large_count_locked(heap, offset, bytes, false);
    heap->region_bytes -= bytes;
    heap_chunks_drop_empty_locked(heap, offset, bytes, in_window ? &heap_chunk_reserved : NULL);
    mm_port_unlock(&heap->lock, saved);
    heap_source_decommit(heap, offset, bytes);
    if (in_window)
        heap_large_unreserve(heap, offset, bytes);
    heap_move_end(heap, true);
}

/* ---- blocks that interrupt handlers have freed ---- */

/* The span stays in the table, so that a second free finds a block that is free. */
void heap_large_put_off_locked(struct kheap *heap, struct heap_span *span)
{
    heap_list_add(&heap->late, &span->link);
    __atomic_store_n(&heap->shrink_due, true, __ATOMIC_RELAXED);
}

static bool take_late(struct kheap *heap, uint64_t *offset, uint64_t *bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool found = !heap_list_is_empty(&heap->late);

    if (found) {
        struct heap_span *span = HEAP_OF(heap->late.next, struct heap_span, link);
        *offset = span->run;
        *bytes = span->bytes;
        heap_move_begin(heap);
        heap_span_end_locked(heap, span);
    }
    mm_port_unlock(&heap->lock, saved);
    return found;
}

void heap_large_give_late(struct kheap *heap)
{
    uint64_t offset, bytes;

    while (take_late(heap, &offset, &bytes)) {
        heap_large_give(heap, offset, bytes);
        heap_move_end(heap, false);
    }
}
