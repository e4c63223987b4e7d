/* SPDX-License-Identifier: MIT */
/* The heap's memory grows and shrinks: chunks of 2 MiB, or where the pmm has none, pieces of 64 KiB in a
 * chunk that holds nothing else.
 *
 *      search under the lock --- fails ---> heap_supply() without it: pmm -> chunk -> search again
 *      last block of a chunk freed -------> heap_shrink() without it: chunk -> pmm
 *
 * Memory on its way is in neither: `moving` counts who moves some, `moves` what has arrived, so that a
 * search that failed can tell whether it came at a bad moment.
 *
 * Invariants: a chunk that gets a piece is `growing` and nobody else's until the piece is there; only
 * wholly free chunks leave; not in an interrupt handler, which leaves that to the next thread of control. */
#include "mm/heap_memory.h"

#include <mm/port_slot.h>

#define PIECE_BYTES MM_KIB(64)

/* ---- growing ---- */

/* The rest of a chunk that was begun with pieces: the window's next piece lies behind the last. The chunk is
 * the caller's until add_memory() or leave_piece(): an interrupt handler that needs memory, too, begins
 * another chunk instead of waiting for the code that it interrupted. */
static bool next_piece(struct kheap *heap, uint64_t *offset)
{
    bool found = false;
    uint64_t saved = mm_port_lock(&heap->lock);

    for (unsigned list = 0; heap->source.kvm != NULL && !found && list < HEAP_CHUNK_LISTS; list++) {
        struct heap_link *head = &heap->chunks[list];
        for (struct heap_link *link = head->next; !found && link != head; link = link->next) {
            struct heap_chunk *chunk = HEAP_OF(link, struct heap_chunk, link);
            uint64_t at = chunk->buddy.present_bytes;
            if (!chunk->pooled || chunk->kept || chunk->growing || at % PIECE_BYTES != 0 ||
                at >= HEAP_CHUNK_BYTES)
                continue;
            chunk->growing = true;
            *offset = chunk->offset + at;
            found = true;
        }
    }
    mm_port_unlock(&heap->lock, saved);
    return found;
}

static void leave_piece(struct kheap *heap, uint64_t offset)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap_chunk_at(heap, offset)->growing = false;
    mm_port_unlock(&heap->lock, saved);
}

static bool add_memory(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    bool zeroed = heap_source_is_zero(heap, offset, bytes);

    heap_frames_count(heap, (int64_t)(bytes / FRAME_SIZE));
    uint64_t saved;
    if (!heap_chunks_make_and_lock(heap, offset, bytes, &saved)) {
        heap_source_decommit(heap, offset, bytes);
        /* A piece never comes here: its chunk is there. */
        heap_window_unreserve(heap, offset, bytes);
        /* Who searched meanwhile has found neither the heap nor the pmm with it. */
        __atomic_fetch_add(&heap->moves, 1, __ATOMIC_ACQ_REL);
        return false;
    }
    heap_chunks_add_locked(heap, offset, bytes, zeroed);
    heap_chunk_at(heap, offset)->growing = false;
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* Memory for runs of up to `bytes`: 2 MiB, or where that cannot be had, pieces. */
static bool grow(struct kheap *heap, uint64_t bytes)
{
    uint64_t offset;
    uint64_t step = HEAP_CHUNK_BYTES;

    if (heap->source.pmm == NULL)
        return false;
    if (!heap->small && heap_source_commit(heap, step, &offset) && add_memory(heap, offset, step))
        return true;
    step = PIECE_BYTES;
    while (step < bytes)
        step *= 2;
    if (step == PIECE_BYTES && next_piece(heap, &offset)) {
        if (kvm_heap_commit(heap->source.kvm, heap->front.base + offset, step) != MM_OK) {
            leave_piece(heap, offset);
            return false;
        }
    } else if (!heap_source_commit(heap, step, &offset)) {
        return false;
    }
    return add_memory(heap, offset, step);
}

/* ---- memory on its way ---- */

void heap_move_begin(struct kheap *heap)
{
    __atomic_fetch_add(&heap->moving, 1, __ATOMIC_ACQ_REL);
}

void heap_move_end(struct kheap *heap, bool arrived)
{
    if (arrived)
        __atomic_fetch_add(&heap->moves, 1, __ATOMIC_ACQ_REL);
    __atomic_fetch_sub(&heap->moving, 1, __ATOMIC_ACQ_REL);
}

bool heap_supply(struct kheap *heap, enum heap_need need, uint64_t bytes)
{
    if (need == HEAP_NEEDS_PAGES && heap_empty_before_growth(heap))
        return true;
    heap_move_begin(heap);
    bool done = need == HEAP_NEEDS_PAGES ? grow(heap, bytes)
                                         : heap_state_supply(heap, need == HEAP_NEEDS_BIG_STATE);
    heap_move_end(heap, done);
    return done;
}

/* Who is moving memory may be what this handler has interrupted: only a thread of control waits, by
 * searching again. */
bool heap_may_find_more(struct kheap *heap, uint64_t moves, unsigned tries)
{
    bool may_wait = heap_slot_is_thread(mm_port_cpu_slot());

    if (tries >= HEAP_TRIES_MAX)
        return false;
    if (may_wait && __atomic_load_n(&heap->shrink_due, __ATOMIC_RELAXED))
        heap_shrink(heap, 0);
    return (may_wait && __atomic_load_n(&heap->moving, __ATOMIC_ACQUIRE) != 0) ||
           __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE) != moves;
}

/* ---- shrinking ---- */

static struct heap_chunk *find_spare_locked(struct kheap *heap)
{
    for (unsigned list = HEAP_CHUNK_LISTS; list > 0; list--) {
        struct heap_link *head = &heap->chunks[list - 1];
        for (struct heap_link *link = head->next; link != head; link = link->next)
            if (heap_chunk_is_spare(HEAP_OF(link, struct heap_chunk, link)) &&
                !HEAP_OF(link, struct heap_chunk, link)->growing)
                return HEAP_OF(link, struct heap_chunk, link);
    }
    return NULL;
}

/* The first run of memory of a chunk, which is wholly free, leaves the buddy system; if it was the last one,
 * only the chunk's address stays, reserved. */
static void take_spare_run_locked(struct kheap *heap, struct heap_chunk *chunk, uint64_t *offset,
                                  uint64_t *bytes)
{
    uint64_t from = 0, to;

    while (buddy_is_absent(&chunk->buddy, from, from + PAGE_SIZE))
        from += PAGE_SIZE;
    for (to = from; to < HEAP_CHUNK_BYTES; to += PAGE_SIZE)
        if (buddy_is_absent(&chunk->buddy, to, to + PAGE_SIZE))
            break;
    *offset = chunk->offset + from;
    *bytes = to - from;
    heap->region_bytes -= *bytes;
    heap_chunk_pages_remove_locked(chunk, from, to);
    heap_chunk_file_locked(heap, chunk);
    if (chunk->buddy.present_bytes != 0)
        return;
    heap_spare_count_locked(heap, true, false);
    heap_chunks_drop_empty_locked(heap, chunk->offset, HEAP_CHUNK_BYTES, &heap_chunk_reserved);
}

static bool take_spare_run(struct kheap *heap, unsigned keep, uint64_t *offset, uint64_t *bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    struct heap_chunk *chunk = heap->spare_chunks > keep ? find_spare_locked(heap) : NULL;

    if (chunk != NULL) {
        heap_move_begin(heap);
        take_spare_run_locked(heap, chunk, offset, bytes);
    }
    mm_port_unlock(&heap->lock, saved);
    return chunk != NULL;
}

/* Decommitting waits for other CPUs: not in an interrupt handler. The pmm's low-water mark may call in one,
 * and only once for each fall: the next thread of control does what that one could not. */
void heap_shrink(struct kheap *heap, unsigned keep)
{
    uint64_t offset, bytes;

    if (heap->source.pmm == NULL)
        return;
    if (!heap_slot_is_thread(mm_port_cpu_slot())) {
        if (keep == 0)
            __atomic_store_n(&heap->shrink_due, true, __ATOMIC_RELAXED);
        return;
    }
    if (keep == 0) {
        __atomic_store_n(&heap->shrink_due, false, __ATOMIC_RELAXED);
        heap_large_give_late(heap);
    }
    while (take_spare_run(heap, keep, &offset, &bytes)) {
        heap_source_decommit(heap, offset, bytes);
        heap_window_unreserve(heap, mm_round_down(offset, HEAP_CHUNK_BYTES), HEAP_CHUNK_BYTES);
        heap_move_end(heap, true);
    }
}
