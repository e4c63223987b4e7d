/* SPDX-License-Identifier: MIT */
/* The chunks of the heap: 2 MiB of addresses, which of their pages are free, and which span a page is in.
 *
 *      base                                                             base + bytes
 *      | chunk | chunk | ----- | chunk | large block: chunks of its own | ----- |
 *      table:  one entry for each 2 MiB: a chunk, nothing, or heap_chunk_reserved
 *
 *      runs[pages]     by its longest run of free pages (struct runs): a run comes out of the chunk whose longest
 *                      one is the shortest that holds it, so that others keep theirs, and wholly free
 *                      chunks are the last to be used
 *      chunks[order]   by the order of its largest free block (struct buddy), for what is to be aligned
 *
 * The buddy system makes the free blocks and joins them; the map of free pages says where a run fits whose
 * pages are no power of two, or begin anywhere. Out of blocks alone, a run of nine pages waits for sixteen
 * at a multiple of sixteen: a third of the memory was left between runs of 9 to 16 pages, and ever more of it.
 *
 * Invariants (kheap_verify): a page of a chunk is absent, free in the buddy system and in the map, or
 * belongs to one span; what lies behind chunk->dirty_end was never handed out and holds zeroes. */
#include "mm/heap_memory.h"

struct heap_chunk heap_chunk_reserved;

static unsigned page_of(uint64_t bytes)
{
    return (unsigned)(bytes >> FRAME_SHIFT);
}

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
                        __ATOMIC_ACQUIRE)); /* what it is made of was written before */
}

/* ---- lists of chunks ---- */

static unsigned list_of(const struct heap_chunk *chunk)
{
    uint64_t largest = buddy_largest_free(&chunk->buddy);

    if (chunk->buddy.free_bytes == HEAP_CHUNK_BYTES)
        return NUM_ORDERS;
    return largest == 0 ? HEAP_CHUNK_LISTS - 1 : buddy_order(largest);
}

static unsigned run_list_of(const struct heap_chunk *chunk)
{
    unsigned longest = chunk->runs.longest;

    return longest == KHEAP_CHUNK_PAGES ? HEAP_RUN_LISTS - 1
           : longest < HEAP_RUN_PAGES   ? longest
                                        : HEAP_RUN_PAGES;
}

static void lists_leave_locked(struct kheap *heap, struct heap_chunk *chunk)
{
    heap_list_remove(&chunk->link);
    heap_list_remove(&chunk->run_link);
    if (heap_list_is_empty(&heap->runs[chunk->run_list]))
        bits_clear(heap->runs_filled, chunk->run_list);
}

void heap_chunk_file_locked(struct kheap *heap, struct heap_chunk *chunk)
{
    lists_leave_locked(heap, chunk);
    chunk->run_list = run_list_of(chunk);
    heap_list_add(&heap->chunks[list_of(chunk)], &chunk->link);
    heap_list_add(&heap->runs[chunk->run_list], &chunk->run_link);
    bits_set(heap->runs_filled, chunk->run_list);
}

bool heap_chunks_are_filed(const struct kheap *heap)
{
    int64_t difference = 0;

    for (unsigned list = 0; list < HEAP_CHUNK_LISTS; list++) {
        const struct heap_link *head = &heap->chunks[list];
        for (const struct heap_link *link = head->next; link != head; link = link->next) {
            difference++;
            if (list_of(HEAP_OF(link, struct heap_chunk, link)) != list)
                return false;
        }
    }
    for (unsigned list = 0; list < HEAP_RUN_LISTS; list++) {
        const struct heap_link *head = &heap->runs[list];
        if (bits_test(heap->runs_filled, list) == heap_list_is_empty(head))
            return false;
        for (const struct heap_link *link = head->next; link != head; link = link->next) {
            const struct heap_chunk *chunk = HEAP_OF(link, struct heap_chunk, run_link);
            difference--;
            if (chunk->run_list != list || run_list_of(chunk) != list)
                return false;
        }
    }
    return difference == 0;
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
    heap_list_init(&chunk->run_link);
    chunk->run_list = 0; /* in none yet */
    runs_init(&chunk->runs);
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
            heap_chunk_file_locked(heap, chunk);
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
            lists_leave_locked(heap, chunk);
            chunk_memory_give_locked(heap, chunk);
        }
        __atomic_store_n(entry_of(heap, at), behind != NULL ? &behind->front : NULL,
                         __ATOMIC_RELEASE);
    }
}

/* 256 entries, twice for each block of 1 MiB: unrolled, two go to the cache in a cycle. */
void heap_pages_set_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                           struct heap_span *span)
{
    struct kheap_span *front = span != NULL ? &span->front : NULL;
    uint64_t at = offset, end = offset + bytes;

    while (at < end) {
        struct kheap_span **entry =
            &heap_chunk_at(heap, at)->front.pages[(at >> FRAME_SHIFT) % KHEAP_CHUNK_PAGES];
        uint64_t stop = mm_round_down(at, HEAP_CHUNK_BYTES) + HEAP_CHUNK_BYTES;
        stop = stop < end ? stop : end;
        struct kheap_span **last = entry + ((stop - at) >> FRAME_SHIFT);
#pragma GCC unroll 4
        for (; entry < last; entry++)
            __atomic_store_n(entry, front, __ATOMIC_RELEASE);
        at = stop;
    }
}

/* ---- their memory ---- */

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
        runs_give(&chunk->runs, page_of(from), page_of(to - from));
        heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), true);
        heap_chunk_file_locked(heap, chunk);
        offset = chunk->offset + to;
    }
}

void heap_chunk_pages_remove_locked(struct heap_chunk *chunk, uint64_t from, uint64_t to)
{
    buddy_remove(&chunk->buddy, from, to);
    runs_take(&chunk->runs, page_of(from), page_of(to - from));
}

/* ---- runs ---- */

/* Where the chunk has that run. What is to be aligned is looked for among the blocks of the buddy system, all
 * else where it fits best. */
static uint64_t place_run(struct heap_chunk *chunk, uint64_t bytes, uint64_t align_bytes)
{
    uint64_t offset;

    if (align_bytes > PAGE_SIZE) {
        offset = buddy_alloc(&chunk->buddy, bytes, align_bytes);
        MM_ASSERT(offset != BUDDY_NO_BLOCK);
        runs_take(&chunk->runs, page_of(offset), page_of(bytes));
        return offset;
    }
    offset = (uint64_t)runs_alloc(&chunk->runs, page_of(bytes)) * PAGE_SIZE;
    buddy_take(&chunk->buddy, offset, bytes);
    return offset;
}

/* A run of the chunk, which has one. */
static uint64_t take_run_locked(struct kheap *heap, struct heap_chunk *chunk, uint64_t bytes,
                                uint64_t align_bytes, bool *zeroed)
{
    heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), false);
    uint64_t offset = place_run(chunk, bytes, align_bytes);
    heap_chunk_file_locked(heap, chunk);
    heap->taken_bytes += bytes;
    *zeroed = offset >= chunk->dirty_end;
    if (offset + bytes > chunk->dirty_end)
        chunk->dirty_end = offset + bytes;
    return chunk->offset + offset;
}

/* The chunk whose largest free block is the smallest that holds the bytes. */
static struct heap_chunk *chunk_with_block_locked(const struct kheap *heap, uint64_t bytes)
{
    unsigned list = buddy_order(bytes);

    while (list <= NUM_ORDERS && heap_list_is_empty(&heap->chunks[list]))
        list++;
    return list > NUM_ORDERS ? NULL : HEAP_OF(heap->chunks[list].next, struct heap_chunk, link);
}

/* The chunk whose longest run is the shortest that holds the bytes. */
static struct heap_chunk *chunk_with_run_locked(const struct kheap *heap, uint64_t bytes)
{
    unsigned list = page_of(bytes), word = list / BITS_PER_WORD;
    uint64_t filled = heap->runs_filled[word] & UINT64_MAX << (list % BITS_PER_WORD);

    while (filled == 0) {
        if (++word > HEAP_RUN_LISTS / BITS_PER_WORD)
            return NULL;
        filled = heap->runs_filled[word];
    }
    list = word * BITS_PER_WORD + bits_lowest(filled);
    return HEAP_OF(heap->runs[list].next, struct heap_chunk, run_link);
}

static uint64_t take_from_chunk_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                       bool *zeroed)
{
    struct heap_chunk *chunk =
        align_bytes > PAGE_SIZE
            ? chunk_with_block_locked(heap, bytes > align_bytes ? bytes : align_bytes)
            : chunk_with_run_locked(heap, bytes);

    return chunk != NULL ? take_run_locked(heap, chunk, bytes, align_bytes, zeroed)
                         : HEAP_NO_OFFSET;
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
    return chunk != NULL && chunk->runs.longest >= page_of(bytes);
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
    runs_give(&chunk->runs, page_of(offset - chunk->offset), page_of(bytes));
    heap_chunk_file_locked(heap, chunk);
    heap_spare_count_locked(heap, heap_chunk_is_spare(chunk), true);
}
