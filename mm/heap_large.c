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

static void count_large_pages_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool add)
{
    for (uint64_t at = offset; at < offset + bytes; at += PAGE_SIZE) {
        struct heap_chunk *chunk = heap_chunk_at(heap, at);
        chunk->large_pages += add ? 1u : UINT32_MAX;
    }
}

/* Commits [offset, offset + bytes): what is no multiple of 2 MiB at the end is cut into pieces. */
static bool commit_large(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    return kvm_heap_commit(heap->source.kvm, heap->front.base + offset, bytes) == MM_OK;
}

/* In the window: one chunk's addresses below and at least a page above stay empty. */
static bool large_in_window(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                            uint64_t *offset)
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
    if (!commit_large(heap, start, bytes)) {
        heap_window_unreserve(heap, start - HEAP_CHUNK_BYTES, all);
        return false;
    }
    *offset = start;
    return true;
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

static uint64_t large_bytes(const struct kheap *heap, uint64_t bytes)
{
    return mm_round_up(bytes, heap->source.kvm != NULL ? KVM_HEAP_STEP_BYTES : PAGE_SIZE);
}

/* Spares a call that cannot end well the clearing of all free memory; not asked for small ones. */
static bool is_beyond_memory(const struct kheap *heap, uint64_t bytes)
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
        count_large_pages_locked(heap, *offset, bytes, true);
        heap->region_bytes += bytes;
        mm_port_unlock(&heap->lock, saved);
        return true;
    }
    heap_source_decommit(heap, *offset, bytes);
    if (heap->source.kvm != NULL)
        heap_window_unreserve(heap, *offset - HEAP_CHUNK_BYTES,
                              HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES));
    return false;
}

bool heap_large_take(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset,
                     bool *zeroed, uint64_t *moves)
{
    if (heap->source.pmm == NULL || bytes > heap->front.bytes)
        return false;
    bytes = large_bytes(heap, bytes);
    if (is_beyond_memory(heap, bytes))
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

    bytes = large_bytes(heap, bytes);
    heap_move_begin(heap);
    uint64_t saved = mm_port_lock(&heap->lock);
    count_large_pages_locked(heap, offset, bytes, false);
    heap->region_bytes -= bytes;
    heap_chunks_drop_empty_locked(heap, offset, bytes, in_window ? &heap_chunk_reserved : NULL);
    mm_port_unlock(&heap->lock, saved);
    heap_source_decommit(heap, offset, bytes);
    if (in_window)
        heap_window_unreserve(heap, offset - HEAP_CHUNK_BYTES,
                              HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES));
    heap_move_end(heap, true);
}

/* ---- resizing where the block stands ---- */

/* Behind the addresses of a large block of so many bytes at `offset`, its guard included. */
static uint64_t addresses_end(uint64_t offset, uint64_t bytes)
{
    return offset + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES);
}

static void set_run_locked(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t room = heap->front.base + span->run + bytes - span->front.base;

    heap->run_bytes += room - span->room;
    span->bytes = bytes;
    span->room = room;
}

/* A 2 MiB leaf that the new end would cut stays whole. */
static uint64_t bytes_that_stay(const struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    struct paging_mapping leaf;

    if (heap->source.kvm == NULL || mm_is_aligned(offset + bytes, LARGE_PAGE_SIZE))
        return bytes;
    mm_status_t status =
        paging_query(heap->source.kvm->space, heap->front.base + offset + bytes, &leaf);
    MM_ASSERT(status == MM_OK);
    (void)status;
    return leaf.leaf_bytes == LARGE_PAGE_SIZE ? mm_round_up(bytes, LARGE_PAGE_SIZE) : bytes;
}

/* As in heap_large_give(), the tail's addresses are reused only when its frames are gone. */
static bool shrink_large(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t offset = span->run, old = large_bytes(heap, span->bytes);
    uint64_t stays = large_bytes(heap, bytes);
    bool in_window = heap->source.kvm != NULL;

    if (stays < old)
        stays = bytes_that_stay(heap, offset, stays);
    if (stays >= old)
        return false;
    uint64_t tail = offset + stays, tail_bytes = old - stays;
    heap_move_begin(heap);
    mm_port_memory_freed((void *)(heap->front.base + tail), span->bytes - stays);
    uint64_t saved = mm_port_lock(&heap->lock);
    heap_pages_set_locked(heap, tail, span->bytes - stays, NULL);
    count_large_pages_locked(heap, tail, tail_bytes, false);
    heap->region_bytes -= tail_bytes;
    set_run_locked(heap, span, stays);
    heap_chunks_drop_empty_locked(heap, tail, tail_bytes, in_window ? &heap_chunk_reserved : NULL);
    mm_port_unlock(&heap->lock, saved);
    heap_source_decommit(heap, tail, tail_bytes);
    uint64_t end = addresses_end(offset, stays), old_end = addresses_end(offset, old);
    if (in_window && end < old_end)
        heap_window_unreserve(heap, end, old_end - end);
    heap_move_end(heap, true);
    return true;
}

static void add_run_locked(struct kheap *heap, struct heap_span *span, uint64_t run_bytes)
{
    heap_pages_set_locked(heap, span->run + span->bytes, run_bytes - span->bytes, span);
    set_run_locked(heap, span, run_bytes);
}

/* Memory for [from, from + bytes) behind the block, whose addresses are the caller's; none if a step of the
 * window has left over enough.
 *   On failure: false; what was the guard may be an empty chunk. */
static bool add_tail(struct kheap *heap, struct heap_span *span, uint64_t from, uint64_t bytes,
                     uint64_t run_bytes)
{
    uint64_t saved;

    if (bytes == 0) {
        saved = mm_port_lock(&heap->lock);
        add_run_locked(heap, span, run_bytes);
        mm_port_unlock(&heap->lock, saved);
        return true;
    }
    if (!commit_large(heap, from, bytes))
        return false;
    heap_frames_count(heap, (int64_t)(bytes / FRAME_SIZE));
    if (!heap_chunks_make_and_lock(heap, from, bytes, &saved)) {
        heap_source_decommit(heap, from, bytes);
        return false;
    }
    count_large_pages_locked(heap, from, bytes, true);
    heap->region_bytes += bytes;
    add_run_locked(heap, span, run_bytes);
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* Its own pages behind the run, which a step of the window has left over, become part of it as well. */
static bool grow_large(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t offset = span->run, run = span->bytes;
    uint64_t old = large_bytes(heap, run), all = large_bytes(heap, bytes);
    uint64_t old_end = addresses_end(offset, old), end = addresses_end(offset, all);

    if (heap->source.kvm == NULL || is_beyond_memory(heap, all - old) ||
        !heap_window_reserve_at(heap, old_end, end - old_end))
        return false;
    heap_move_begin(heap);
    bool done = add_tail(heap, span, offset + old, all - old, bytes);
    if (done) {
        void *rest = (void *)(heap->front.base + offset + run);
        mm_port_memory_allocated(rest, bytes - run);
        memset(rest, 0, (bytes < old ? bytes : old) - run);
    } else {
        uint64_t saved = mm_port_lock(&heap->lock);
        heap_chunks_drop_empty_locked(heap, offset + old, old_end - (offset + old),
                                      &heap_chunk_reserved);
        mm_port_unlock(&heap->lock, saved);
        heap_window_unreserve(heap, old_end, end - old_end);
    }
    heap_move_end(heap, !done);
    return done;
}

/* While it changes, the block is in a state in which nobody else can free it. */
static bool claim_block(struct kheap *heap, struct heap_span *span, vaddr_t base, uint8_t *state)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    *state = __atomic_load_n(&span->states[0], __ATOMIC_RELAXED);
    bool right = heap_span_at(heap, base) == span && span->own_chunks && span->guards == 0 &&
                 span->front.base == base && heap_state_is_used(*state);

    if (right)
        __atomic_store_n(&span->states[0], KHEAP_BYTE_REMOTE, __ATOMIC_RELAXED);
    mm_port_unlock(&heap->lock, saved);
    return right;
}

bool heap_large_resize(struct kheap *heap, struct heap_span *span, vaddr_t base, size_t bytes)
{
    uint8_t state;

    if (bytes > heap->front.bytes || !claim_block(heap, span, base, &state))
        return false;
    uint64_t lead = base - (heap->front.base + span->run);
    uint64_t run = lead + mm_round_up(bytes, PAGE_SIZE);
    bool done = run > span->bytes ? grow_large(heap, span, run) : shrink_large(heap, span, run);
    __atomic_store_n(&span->states[0], state, __ATOMIC_RELEASE);
    return done;
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
