/* SPDX-License-Identifier: MIT */
/* The chunks of the heap: 2 MiB of addresses, a buddy system of their pages, and which span a page is in.
 *
 *      base                                                             base + bytes
 *      | chunk | chunk | ----- | chunk | large block: chunks of its own | ----- |
 *      table:  one entry for each 2 MiB: a chunk, nothing, or heap_chunk_reserved
 *
 *      chunks[order]   by the order of its largest free block, so the tightest fit is found at once and
 *                      wholly free chunks are the last to be used
 *
 * Invariants (kheap_verify): a page of a chunk is absent, free in the buddy system, or belongs to one
 * span; what lies behind chunk->dirty_end was never handed out and holds zeroes. */
#include "mm/heap_memory.h"

struct heap_chunk heap_chunk_reserved;

static struct kheap_chunk **entry_of(const struct kheap *heap, uint64_t offset)
{
    return &heap->front.table[offset >> KHEAP_CHUNK_SHIFT];
}

struct heap_chunk *heap_chunk_at(const struct kheap *heap, uint64_t offset)
{
    return (struct heap_chunk *)(void *)__atomic_load_n(entry_of(heap, offset), __ATOMIC_RELAXED);
}

struct heap_span *heap_span_at(const struct kheap *heap, vaddr_t address)
{
    uint64_t offset = address - heap->front.base;

    if (offset >= heap->front.bytes)
        return NULL;
    const struct heap_chunk *chunk = heap_chunk_at(heap, offset);
    if (chunk == NULL)
        return NULL;
    return heap_span_of(
        __atomic_load_n(&chunk->front.pages[(offset >> FRAME_SHIFT) % KHEAP_CHUNK_PAGES],
                        __ATOMIC_RELAXED));
}

/* ---- chunks in the table ---- */

uint64_t heap_chunk_state_bytes(void)
{
    return mm_round_up(sizeof(struct heap_chunk) +
                           buddy_state_bytes(HEAP_CHUNK_BYTES, HEAP_PAGE_ORDER),
                       64);
}

/* Memory for a chunk, NULL if there is none. Without the lock. */
static struct heap_chunk *chunk_memory(struct kheap *heap)
{
    struct heap_chunk *chunk = NULL;
    uint64_t saved = mm_port_lock(&heap->lock);

    if (!heap_list_is_empty(&heap->free_chunks)) {
        chunk = HEAP_OF(heap->free_chunks.next, struct heap_chunk, link);
        heap_list_remove(&chunk->link);
    }
    mm_port_unlock(&heap->lock, saved);
    return chunk != NULL ? chunk : heap_state_alloc(heap, heap_chunk_state_bytes());
}

static void chunk_memory_give_locked(struct kheap *heap, struct heap_chunk *chunk)
{
    heap_list_add(&heap->free_chunks, &chunk->link);
}

static void chunk_start(struct heap_chunk *chunk, uint64_t offset)
{
    chunk->offset = offset;
    chunk->pooled = chunk->kept = chunk->growing = false;
    chunk->large_pages = 0;
    chunk->dirty_end = 0;
    heap_list_init(&chunk->link);
    buddy_init(&chunk->buddy, HEAP_CHUNK_BYTES, HEAP_PAGE_ORDER, chunk->buddy_state);
}

static bool is_chunk(const struct heap_chunk *chunk)
{
    return chunk != NULL && chunk != &heap_chunk_reserved;
}

bool heap_chunks_make(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;

    for (uint64_t at = mm_round_down(offset, HEAP_CHUNK_BYTES); at < end; at += HEAP_CHUNK_BYTES) {
        if (is_chunk(heap_chunk_at(heap, at)))
            continue;
        struct heap_chunk *chunk = chunk_memory(heap);
        if (chunk == NULL)
            return false;
        uint64_t saved = mm_port_lock(&heap->lock);
        if (is_chunk(heap_chunk_at(heap, at))) {
            chunk_memory_give_locked(heap, chunk);
        } else {
            chunk_start(chunk, at);
            heap_list_add(&heap->chunks[HEAP_CHUNK_LISTS - 1], &chunk->link);
            __atomic_store_n(entry_of(heap, at), &chunk->front, __ATOMIC_RELEASE);
        }
        mm_port_unlock(&heap->lock, saved);
    }
    return true;
}

bool heap_chunks_make_and_lock(struct kheap *heap, uint64_t offset, uint64_t bytes, uint64_t *saved)
{
    uint64_t end = offset + bytes;

    while (heap_chunks_make(heap, offset, bytes)) {
        bool all = true;

        *saved = mm_port_lock(&heap->lock);
        for (uint64_t at = mm_round_down(offset, HEAP_CHUNK_BYTES); at < end;
             at += HEAP_CHUNK_BYTES)
            all = all && is_chunk(heap_chunk_at(heap, at));
        if (all)
            return true;
        mm_port_unlock(&heap->lock, *saved);
    }
    return false;
}

void heap_chunks_drop_empty_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                                   struct heap_chunk *behind)
{
    uint64_t end = offset + bytes;

    for (uint64_t at = mm_round_down(offset, HEAP_CHUNK_BYTES); at < end; at += HEAP_CHUNK_BYTES) {
        struct heap_chunk *chunk = heap_chunk_at(heap, at);
        if (is_chunk(chunk)) {
            if (chunk->buddy.present_bytes != 0 || chunk->large_pages != 0)
                continue;
            heap_list_remove(&chunk->link);
            chunk_memory_give_locked(heap, chunk);
        }
        __atomic_store_n(entry_of(heap, at), behind != NULL ? &behind->front : NULL,
                         __ATOMIC_RELEASE);
    }
}

void heap_pages_set_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                           struct heap_span *span)
{
    struct kheap_span *front = span != NULL ? &span->front : NULL;
    uint64_t at = offset, end = offset + bytes;

    while (at < end) {
        struct kheap_span **pages = heap_chunk_at(heap, at)->front.pages;
        uint64_t stop = mm_round_down(at, HEAP_CHUNK_BYTES) + HEAP_CHUNK_BYTES;
        for (stop = stop < end ? stop : end; at < stop; at += PAGE_SIZE)
            __atomic_store_n(&pages[(at >> FRAME_SHIFT) % KHEAP_CHUNK_PAGES], front,
                             __ATOMIC_RELEASE);
    }
}

/* ---- their memory ---- */

static unsigned list_of(const struct heap_chunk *chunk)
{
    uint64_t largest = buddy_largest_free(&chunk->buddy);

    if (chunk->buddy.free_bytes == HEAP_CHUNK_BYTES)
        return NUM_ORDERS;
    return largest == 0 ? HEAP_CHUNK_LISTS - 1 : buddy_order(largest);
}

void heap_chunk_file_locked(struct kheap *heap, struct heap_chunk *chunk)
{
    heap_list_remove(&chunk->link);
    heap_list_add(&heap->chunks[list_of(chunk)], &chunk->link);
}

bool heap_chunk_is_spare(const struct heap_chunk *chunk)
{
    return chunk->buddy.present_bytes != 0 && !chunk->kept &&
           chunk->buddy.free_bytes == chunk->buddy.present_bytes;
}

/* Read without the lock, to see whether shrinking is worth while. */
void heap_spare_count_locked(struct kheap *heap, bool counts, bool more)
{
    unsigned count = heap->spare_chunks;

    if (counts)
        __atomic_store_n(&heap->spare_chunks, more ? count + 1 : count - 1, __ATOMIC_RELAXED);
}

void heap_chunks_add_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool zeroed)
{
    uint64_t end = offset + bytes;

    heap->region_bytes += bytes;
    mm_port_memory_freed((void *)(heap->front.base + offset), bytes);
    while (offset < end) {
        struct heap_chunk *chunk = heap_chunk_at(heap, offset);
        uint64_t from = offset - chunk->offset;
        uint64_t to =
            end - chunk->offset < HEAP_CHUNK_BYTES ? end - chunk->offset : HEAP_CHUNK_BYTES;
        /* Zeroes are known from one point on only, so what lies before pieces is not believed. */
        chunk->dirty_end = !zeroed ? HEAP_CHUNK_BYTES : chunk->pooled ? chunk->dirty_end : from;
        chunk->pooled = true;
        heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), false);
        buddy_add(&chunk->buddy, from, to);
        heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), true);
        heap_chunk_file_locked(heap, chunk);
        offset = chunk->offset + to;
    }
}

/* ---- runs ---- */

/* A run of the chunk, which has one. */
static uint64_t take_run_locked(struct kheap *heap, struct heap_chunk *chunk, uint64_t bytes,
                                uint64_t align_bytes, bool *zeroed)
{
    heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), false);
    uint64_t offset = buddy_alloc(&chunk->buddy, bytes, align_bytes);
    MM_ASSERT(offset != BUDDY_NO_BLOCK);
    heap_chunk_file_locked(heap, chunk);
    *zeroed = offset >= chunk->dirty_end;
    if (offset + bytes > chunk->dirty_end)
        chunk->dirty_end = offset + bytes;
    return chunk->offset + offset;
}

static uint64_t take_from_chunk_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                       bool *zeroed)
{
    unsigned list = buddy_order(bytes > align_bytes ? bytes : align_bytes);

    while (list <= NUM_ORDERS && heap_list_is_empty(&heap->chunks[list]))
        list++;
    if (list > NUM_ORDERS)
        return HEAP_NO_OFFSET;
    return take_run_locked(heap, HEAP_OF(heap->chunks[list].next, struct heap_chunk, link), bytes,
                           align_bytes, zeroed);
}

static struct heap_chunk *roomiest_chunk_locked(const struct kheap *heap)
{
    for (unsigned list = NUM_ORDERS + 1; list > 0; list--) {
        if (!heap_list_is_empty(&heap->chunks[list - 1]))
            return HEAP_OF(heap->chunks[list - 1].next, struct heap_chunk, link);
    }
    return NULL;
}

static bool chunk_has_run(const struct heap_chunk *chunk, uint64_t bytes)
{
    uint64_t largest = chunk == NULL ? 0 : buddy_largest_free(&chunk->buddy);

    return largest != 0 && buddy_order(largest) >= buddy_order(bytes);
}

uint64_t heap_run_take_for_state_locked(struct kheap *heap, uint64_t bytes, bool *zeroed)
{
    struct heap_chunk *chunk = heap->state_chunk;

    if (!chunk_has_run(chunk, bytes))
        chunk = roomiest_chunk_locked(heap);
    if (!chunk_has_run(chunk, bytes))
        return HEAP_NO_OFFSET;
    heap->state_chunk = chunk;
    return take_run_locked(heap, chunk, bytes, PAGE_SIZE, zeroed);
}

uint64_t heap_run_take_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                              enum heap_effort effort, bool *zeroed)
{
    uint64_t offset = take_from_chunk_locked(heap, bytes, align_bytes, zeroed);

    if (offset == HEAP_NO_OFFSET && effort == HEAP_SCARCE && heap_state_give_up_kept_locked(heap))
        offset = take_from_chunk_locked(heap, bytes, align_bytes, zeroed);
    return offset;
}

void heap_run_give_locked(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    struct heap_chunk *chunk = heap_chunk_at(heap, offset);

    heap_pages_set_locked(heap, offset, bytes, NULL);
    buddy_free(&chunk->buddy, offset - chunk->offset, bytes);
    heap_chunk_file_locked(heap, chunk);
    heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), true);
}
