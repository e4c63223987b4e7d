/* SPDX-License-Identifier: MIT */
/* Large blocks that change their size, in this order:
 *
 *      smaller                   the tail goes to the pmm
 *      the addresses are free    | block ....... | new | guard |                        frames behind it
 *      they are not              | nothing ..... | another one |  ...  | block ... | new | guard |
 *                                its frames move to other addresses: page tables change, nothing is copied
 *
 * The last two need a window. All that can fail, the memory of what is new, chunks, a span and page tables,
 * is there before the old place changes, and is given back otherwise.
 *
 * Invariants: while it changes, a block is in a state in which nobody else can free it; addresses are
 * reused only when no CPU has a translation of them; at both places the chunks count the pages of a block
 * that moves. */
#include "mm/heap_memory.h"

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

/* ---- where it stands ---- */

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
static bool shrink(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t offset = span->run, old = heap_large_bytes(heap, span->bytes);
    uint64_t stays = heap_large_bytes(heap, bytes);
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
    heap_large_count_locked(heap, tail, tail_bytes, false);
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
    if (!heap_large_commit(heap, from, bytes))
        return false;
    heap_frames_count(heap, (int64_t)(bytes / FRAME_SIZE));
    if (!heap_chunks_make_and_lock(heap, from, bytes, &saved)) {
        heap_source_decommit(heap, from, bytes);
        return false;
    }
    heap_large_count_locked(heap, from, bytes, true);
    heap->region_bytes += bytes;
    add_run_locked(heap, span, run_bytes);
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* Its own pages behind the run, which a step of the window has left over, become part of the block as well;
 * they may hold anything. */
static void open_rest(struct kheap *heap, uint64_t offset, uint64_t run, uint64_t bytes,
                      uint64_t old)
{
    void *rest = (void *)(heap->front.base + offset + run);

    mm_port_memory_allocated(rest, bytes - run);
    memset(rest, 0, (bytes < old ? bytes : old) - run);
}

/* The addresses behind the block, up to its new guard, are reserved. */
static bool grow_in_place(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t offset = span->run, run = span->bytes;
    uint64_t old = heap_large_bytes(heap, run), all = heap_large_bytes(heap, bytes);
    uint64_t old_end = addresses_end(offset, old), end = addresses_end(offset, all);

    if (add_tail(heap, span, offset + old, all - old, bytes)) {
        open_rest(heap, offset, run, bytes, old);
        return true;
    }
    uint64_t saved = mm_port_lock(&heap->lock);
    heap_chunks_drop_empty_locked(heap, offset + old, old_end - (offset + old),
                                  &heap_chunk_reserved);
    mm_port_unlock(&heap->lock, saved);
    heap_window_unreserve(heap, old_end, end - old_end);
    return false;
}

/* ---- to other addresses ---- */

/* The chunks of a new place at `to`, and its span, of a run of `bytes`.
 *   On failure: NULL; chunks may be there, which count no pages. */
static struct heap_span *make_place(struct kheap *heap, uint64_t to, uint64_t bytes)
{
    uint64_t all = heap_large_bytes(heap, bytes), saved;

    if (!heap_chunks_make_and_lock(heap, to, all, &saved))
        return NULL;
    heap_large_count_locked(heap, to, all, true);
    mm_port_unlock(&heap->lock, saved);
    struct heap_span *span = heap_run_span(heap, to, bytes, heap->front.base + to);
    if (span != NULL) {
        span->own_chunks = true;
        return span;
    }
    saved = mm_port_lock(&heap->lock);
    heap_large_count_locked(heap, to, all, false);
    mm_port_unlock(&heap->lock, saved);
    return NULL;
}

static void unmake_place(struct kheap *heap, struct heap_span *place)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap_large_count_locked(heap, place->run, heap_large_bytes(heap, place->bytes), false);
    heap_span_end_locked(heap, place);
    mm_port_unlock(&heap->lock, saved);
}

/* The frames of the block come to the place, whose tail has its own; then the old place ends. */
static bool move_to_place(struct kheap *heap, struct heap_span *span, struct heap_span *place)
{
    uint64_t from = span->run, to = place->run, base = heap->front.base;
    uint64_t old = heap_large_bytes(heap, span->bytes), all = heap_large_bytes(heap, place->bytes);

    if (kvm_heap_move(heap->source.kvm, base + from, base + to, old) != MM_OK)
        return false;
    mm_port_memory_allocated((void *)(base + to), span->bytes);
    open_rest(heap, to, span->bytes, place->bytes, old);
    uint64_t saved = mm_port_lock(&heap->lock);
    place->align = span->align;
    heap->run_bytes += place->room - span->room;
    heap->region_bytes += all - old;
    heap_large_count_locked(heap, from, old, false);
    heap_span_end_locked(heap, span);
    heap_chunks_drop_empty_locked(heap, from, old, &heap_chunk_reserved);
    mm_port_unlock(&heap->lock, saved);
    heap_large_unreserve(heap, from, old);
    return true;
}

/* Returns: where the block is then, with its span in a state in which nobody can free it; NULL if that
 * is impossible. */
static struct heap_span *grow_elsewhere(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    uint64_t old = heap_large_bytes(heap, span->bytes), all = heap_large_bytes(heap, bytes), to;
    struct heap_span *place = NULL;

    if (span->front.base != heap->front.base + span->run ||
        !heap_large_reserve(heap, all, span->align, &to))
        return NULL;
    if (heap_large_commit(heap, to + old, all - old)) {
        heap_frames_count(heap, (int64_t)((all - old) / FRAME_SIZE));
        place = make_place(heap, to, bytes);
        if (place != NULL && move_to_place(heap, span, place))
            return place;
        if (place != NULL)
            unmake_place(heap, place);
        heap_source_decommit(heap, to + old, all - old);
    }
    heap_large_unreserve(heap, to, all);
    return NULL;
}

/* Returns: the span of the block, which is as long now, or NULL; *moves as of heap_large_take(). */
static struct heap_span *try_to_grow(struct kheap *heap, struct heap_span *span, uint64_t bytes,
                                     uint64_t *moves)
{
    uint64_t old = heap_large_bytes(heap, span->bytes), all = heap_large_bytes(heap, bytes);
    uint64_t old_end = addresses_end(span->run, old), end = addresses_end(span->run, all);
    struct heap_span *grown = NULL;

    if (heap_large_is_beyond_memory(heap, all - old))
        return NULL;
    heap_move_begin(heap);
    if (!heap_window_reserve_at(heap, old_end, end - old_end))
        grown = grow_elsewhere(heap, span, bytes);
    else if (grow_in_place(heap, span, bytes))
        grown = span;
    heap_move_end(heap, grown == NULL);
    *moves += grown == NULL;
    return grown;
}

/* The frames that it takes may be where the heap keeps some: a copy would want more than these. */
static struct heap_span *grow(struct kheap *heap, struct heap_span *span, uint64_t bytes)
{
    struct heap_span *grown;
    uint64_t moves;
    unsigned tries = 0;

    if (heap->source.kvm == NULL)
        return NULL;
    do {
        moves = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE);
        grown = try_to_grow(heap, span, bytes, &moves);
    } while (grown == NULL && heap_gather_pages(heap, moves, &tries));
    return grown;
}

/* ---- the call ---- */

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

vaddr_t heap_large_resize(struct kheap *heap, struct heap_span *span, vaddr_t base, size_t bytes)
{
    struct heap_span *resized = NULL;
    uint8_t state;

    if (bytes > heap->front.bytes || !claim_block(heap, span, base, &state))
        return 0;
    uint64_t run = base - (heap->front.base + span->run) + mm_round_up(bytes, PAGE_SIZE);
    if (run > span->bytes)
        resized = grow(heap, span, run);
    else if (shrink(heap, span, run))
        resized = span;
    base = resized != NULL ? resized->front.base : 0;
    __atomic_store_n(&(resized != NULL ? resized : span)->states[0], state, __ATOMIC_RELEASE);
    return base;
}
