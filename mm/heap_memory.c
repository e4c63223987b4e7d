/* SPDX-License-Identifier: MIT */
/* The memory of the heap: chunks of 2 MiB with a buddy system each, memory for the heap's own state, and
 * growing and shrinking.
 *
 *      base                                                             base + bytes
 *      | chunk | chunk | ----- | chunk | large block: chunks of its own | ----- |
 *      table:  one entry for each 2 MiB
 *
 *      chunks[order]   by the order of its largest free block, so the tightest fit is found at once and
 *                      wholly free chunks are the last to be used
 *
 * Without a window of its own the heap lies in the HHDM: base is physical address 0, chunks are 2 MiB
 * frames, or, where memory has none, pieces of 64 KiB in a chunk that holds nothing else. With one, an
 * address range is reserved in the table under the lock, then memory is committed to it without.
 * State comes from the first memory, then as frames from the pmm (a heap without: from its own pages),
 * and is kept for reuse: readers without the lock may still look at it.
 *
 * Invariants (kheap_verify): a page of a chunk is absent, free in the buddy system, or belongs to one
 * span; what lies behind chunk->dirty_end was never handed out and holds zeroes. */
#include "mm/heap_parts.h"

#include <mm/hhdm.h>
#include <mm/port_slot.h>

#define PIECE_BYTES MM_KIB(64)

/* Stands in the table where addresses are reserved. */
static struct heap_chunk reserved;

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

/* ---- memory for state ---- */

static uint64_t chunk_state_bytes(void)
{
    return mm_round_up(sizeof(struct heap_chunk) +
                           buddy_state_bytes(HEAP_CHUNK_BYTES, HEAP_PAGE_ORDER),
                       64);
}

static void *bump(struct kheap *heap, uint64_t bytes)
{
    uint8_t *at = heap->bump;

    bytes = mm_round_up(bytes, 64);
    if (bytes > (uint64_t)(heap->bump_end - at))
        return NULL;
    heap->bump += bytes;
    return at;
}

static void *state_from_pmm(struct kheap *heap, uint64_t bytes)
{
    uint64_t frames = mm_round_up(bytes, FRAME_SIZE) / FRAME_SIZE;
    paddr_t first;
    mm_status_t status = frames == 1 ? pmm_alloc_frame(heap->source.pmm, &first)
                                     : pmm_alloc_contiguous(heap->source.pmm, frames, FRAME_SIZE,
                                                            PMM_NO_LIMIT, &first);

    if (status != MM_OK)
        return NULL;
    uint64_t saved = mm_port_lock(&heap->lock);
    heap->frames += frames;
    mm_port_unlock(&heap->lock, saved);
    return phys_to_virt(first);
}

static void *state_from_region_locked(struct kheap *heap, uint64_t bytes, enum heap_effort effort)
{
    bool zeroed;
    uint64_t run = mm_round_up(bytes, PAGE_SIZE);
    uint64_t offset = run > MAX_BLOCK_SIZE
                          ? HEAP_NO_OFFSET
                          : heap_run_take_locked(heap, run, PAGE_SIZE, effort, &zeroed);

    if (offset == HEAP_NO_OFFSET)
        return NULL;
    heap_pages_set_locked(heap, offset, run, heap->state_span);
    heap->state_bytes += run;
    void *at = (void *)(heap->front.base + offset);
    mm_port_memory_allocated(at, run);
    memset(at, 0, run);
    return at;
}

void *heap_state_alloc_locked(struct kheap *heap, uint64_t bytes, enum heap_effort effort)
{
    void *at = bump(heap, bytes);

    return at != NULL ? at : state_from_region_locked(heap, bytes, effort);
}

void *heap_state_alloc(struct kheap *heap, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    void *at = bump(heap, bytes);

    mm_port_unlock(&heap->lock, saved);
    if (at == NULL && heap->source.pmm != NULL)
        at = state_from_pmm(heap, bytes);
    if (at != NULL)
        return at;
    saved = mm_port_lock(&heap->lock);
    at = heap_state_alloc_locked(heap, bytes, HEAP_USUAL);
    mm_port_unlock(&heap->lock, saved);
    return at;
}

static uint64_t span_bytes(unsigned kind)
{
    return mm_round_up(sizeof(struct heap_span) + (kind ? HEAP_SPAN_BLOCKS : HEAP_SMALL_STATES),
                       64);
}

/* A page of spans of that kind. What another CPU has brought meanwhile, and the rest of the page
 * before, is not lost. */
static void add_span_page_locked(struct kheap *heap, unsigned kind, uint8_t *page)
{
    while ((uint64_t)(heap->page_end[kind] - heap->page[kind]) >= span_bytes(kind)) {
        struct heap_span *span = (struct heap_span *)(void *)heap->page[kind];
        heap->page[kind] += span_bytes(kind);
        heap_list_add(&heap->free_spans[kind], &span->link);
    }
    heap->page[kind] = page;
    heap->page_end[kind] = page + PAGE_SIZE;
}

static struct heap_span *span_memory_locked(struct kheap *heap, unsigned kind)
{
    uint64_t bytes = span_bytes(kind);
    struct heap_span *span;

    if (!heap_list_is_empty(&heap->free_spans[kind])) {
        span = HEAP_OF(heap->free_spans[kind].next, struct heap_span, link);
        heap_list_remove(&span->link);
    } else if ((uint64_t)(heap->page_end[kind] - heap->page[kind]) >= bytes) {
        span = (struct heap_span *)(void *)heap->page[kind];
        heap->page[kind] += bytes;
    } else {
        span = bump(heap, bytes);
    }
    return span;
}

struct heap_span *heap_span_memory_take_locked(struct kheap *heap, unsigned blocks,
                                               enum heap_effort effort)
{
    unsigned kind = blocks > HEAP_SMALL_STATES;
    struct heap_span *span = span_memory_locked(heap, kind);

    if (span == NULL && (heap->source.pmm == NULL || effort == HEAP_SCARCE)) {
        uint8_t *page = state_from_region_locked(heap, PAGE_SIZE, effort);
        if (page == NULL)
            return NULL;
        add_span_page_locked(heap, kind, page);
        span = span_memory_locked(heap, kind);
    }
    if (span == NULL)
        return NULL;
    memset(span, 0, sizeof(*span));
    span->big = kind != 0;
    heap_list_init(&span->link);
    heap_list_init(&span->pending);
    span->front.states = span->states;
    return span;
}

void heap_span_memory_give_locked(struct kheap *heap, struct heap_span *span)
{
    heap_list_add(&heap->free_spans[span->big], &span->link);
}

static bool supply_state(struct kheap *heap, unsigned kind)
{
    uint8_t *page = heap_state_alloc(heap, PAGE_SIZE);

    if (page == NULL)
        return false;
    uint64_t saved = mm_port_lock(&heap->lock);
    add_span_page_locked(heap, kind, page);
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* ---- chunks ---- */

static unsigned list_of(const struct heap_chunk *chunk)
{
    uint64_t largest = buddy_largest_free(&chunk->buddy);

    if (chunk->buddy.free_bytes == HEAP_CHUNK_BYTES)
        return NUM_ORDERS;
    return largest == 0 ? HEAP_CHUNK_LISTS - 1 : buddy_order(largest);
}

static void file_chunk_locked(struct kheap *heap, struct heap_chunk *chunk)
{
    heap_list_remove(&chunk->link);
    heap_list_add(&heap->chunks[list_of(chunk)], &chunk->link);
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
    return chunk != NULL ? chunk : heap_state_alloc(heap, chunk_state_bytes());
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

/* Wholly free and to be given back, 2 MiB or the pieces that it has. */
static bool is_spare(const struct heap_chunk *chunk)
{
    return chunk->buddy.present_bytes != 0 && !chunk->kept &&
           chunk->buddy.free_bytes == chunk->buddy.present_bytes;
}

/* Read without the lock, to see whether shrinking is worth while. */
static void count_spare_locked(struct kheap *heap, bool counts, bool more)
{
    unsigned count = heap->spare_chunks;

    if (counts)
        __atomic_store_n(&heap->spare_chunks, more ? count + 1 : count - 1, __ATOMIC_RELAXED);
}

static bool is_chunk(const struct heap_chunk *chunk)
{
    return chunk != NULL && chunk != &reserved;
}

/* Makes sure that each 2 MiB of [offset, offset + bytes) has a chunk in the table; without the lock.
 *   On failure: false; chunks that were made stay until their addresses are given up. */
static bool make_chunks(struct kheap *heap, uint64_t offset, uint64_t bytes)
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

/* Makes the chunks of [offset, offset + bytes) and takes the lock. Another CPU that gives back the last
 * memory of a chunk drops it as long as ours does not count: then they are made again.
 *   Returns:    true and the lock held, *saved for its release.
 *   On failure: false without the lock, as make_chunks(). */
static bool make_chunks_and_lock(struct kheap *heap, uint64_t offset, uint64_t bytes,
                                 uint64_t *saved)
{
    uint64_t end = offset + bytes;

    while (make_chunks(heap, offset, bytes)) {
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

/* Takes chunks out of the table that hold nothing any more; `behind`: what stands there then. */
static void drop_empty_chunks_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
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

    for (uint64_t at = offset; at < offset + bytes; at += PAGE_SIZE) {
        struct heap_chunk *chunk = heap_chunk_at(heap, at);
        __atomic_store_n(&chunk->front.pages[(at >> FRAME_SHIFT) % KHEAP_CHUNK_PAGES], front,
                         __ATOMIC_RELEASE);
    }
}

/* Gives the buddy systems of existing chunks the memory [offset, offset + bytes). */
static void add_memory_locked(struct kheap *heap, uint64_t offset, uint64_t bytes, bool zeroed)
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
        count_spare_locked(heap, is_spare(chunk), false);
        buddy_add(&chunk->buddy, from, to);
        count_spare_locked(heap, is_spare(chunk), true);
        file_chunk_locked(heap, chunk);
        offset = chunk->offset + to;
    }
}

/* ---- runs ---- */

uint64_t heap_state_kept_locked(const struct kheap *heap)
{
    uint64_t from = mm_round_up((uintptr_t)heap->bump, PAGE_SIZE);

    return heap->source.pmm == NULL ? (uintptr_t)heap->bump_end - from : 0;
}

/* What was kept for state becomes memory for blocks.
 *   Returns:    true if it was something. */
static bool give_up_kept_state_locked(struct kheap *heap)
{
    vaddr_t end = (uintptr_t)heap->bump_end, from = end - heap_state_kept_locked(heap);

    if (from == end)
        return false;
    heap->bump_end = (uint8_t *)from;
    heap->state_bytes -= end - from;
    heap->region_bytes -= end - from;
    heap_pages_set_locked(heap, from - heap->front.base, end - from, NULL);
    add_memory_locked(heap, from - heap->front.base, end - from, false);
    return true;
}

static uint64_t take_from_chunk_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                       bool *zeroed)
{
    unsigned list = buddy_order(bytes > align_bytes ? bytes : align_bytes);

    while (list <= NUM_ORDERS && heap_list_is_empty(&heap->chunks[list]))
        list++;
    if (list > NUM_ORDERS)
        return HEAP_NO_OFFSET;
    struct heap_chunk *chunk = HEAP_OF(heap->chunks[list].next, struct heap_chunk, link);
    count_spare_locked(heap, is_spare(chunk), false);
    uint64_t offset = buddy_alloc(&chunk->buddy, bytes, align_bytes);
    MM_ASSERT(offset != BUDDY_NO_BLOCK);
    file_chunk_locked(heap, chunk);
    *zeroed = offset >= chunk->dirty_end;
    if (offset + bytes > chunk->dirty_end)
        chunk->dirty_end = offset + bytes;
    return chunk->offset + offset;
}

uint64_t heap_run_take_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                              enum heap_effort effort, bool *zeroed)
{
    uint64_t offset = take_from_chunk_locked(heap, bytes, align_bytes, zeroed);

    if (offset == HEAP_NO_OFFSET && effort == HEAP_SCARCE && give_up_kept_state_locked(heap))
        offset = take_from_chunk_locked(heap, bytes, align_bytes, zeroed);
    return offset;
}

void heap_run_give_locked(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    struct heap_chunk *chunk = heap_chunk_at(heap, offset);

    heap_pages_set_locked(heap, offset, bytes, NULL);
    buddy_free(&chunk->buddy, offset - chunk->offset, bytes);
    file_chunk_locked(heap, chunk);
    count_spare_locked(heap, is_spare(chunk), true);
}

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
            __atomic_store_n(&heap->front.table[j], &reserved.front, __ATOMIC_RELEASE);
        heap->search_from = (at + 1) % all;
        *offset = first << KHEAP_CHUNK_SHIFT;
        return true;
    }
    return false;
}

static bool reserve(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool done = reserve_locked(heap, bytes >> KHEAP_CHUNK_SHIFT, offset);

    mm_port_unlock(&heap->lock, saved);
    return done;
}

/* Gives addresses up; what is committed there is gone already. */
static void unreserve(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    drop_empty_chunks_locked(heap, offset, bytes, NULL);
    heap->search_from = offset >> KHEAP_CHUNK_SHIFT;
    mm_port_unlock(&heap->lock, saved);
}

static void count_frames(struct kheap *heap, int64_t frames)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap->frames += (uint64_t)frames;
    mm_port_unlock(&heap->lock, saved);
}

/* ---- growing ---- */

/* 2 MiB, or 64 KiB, of memory at addresses of the heap. */
static bool commit_in_window(struct kheap *heap, uint64_t bytes, uint64_t *offset)
{
    if (!reserve(heap, HEAP_CHUNK_BYTES, offset))
        return false;
    if (kvm_heap_commit(heap->source.kvm, heap->front.base + *offset, bytes) == MM_OK)
        return true;
    unreserve(heap, *offset, HEAP_CHUNK_BYTES);
    return false;
}

/* What has just been committed holds zeroes: the window's always, frames of the HHDM if their
 * lender says so. */
static bool is_zero_when_taken(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    const struct boot_lender *lender = heap->source.lender;

    if (heap->source.kvm != NULL)
        return true;
    return lender != NULL && lender->take((void *)(heap->front.base + offset), bytes);
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

static void decommit(struct kheap *heap, uint64_t offset, uint64_t bytes)
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
    count_frames(heap, -(int64_t)(bytes / FRAME_SIZE));
}

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
    bool zeroed = is_zero_when_taken(heap, offset, bytes);

    count_frames(heap, (int64_t)(bytes / FRAME_SIZE));
    uint64_t saved;
    if (!make_chunks_and_lock(heap, offset, bytes, &saved)) {
        decommit(heap, offset, bytes);
        unreserve(heap, offset, bytes); /* a piece never comes here: its chunk is there */
        return false;
    }
    add_memory_locked(heap, offset, bytes, zeroed);
    heap_chunk_at(heap, offset)->growing = false;
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* Memory for runs of up to `bytes`: 2 MiB, or where that cannot be had, pieces. */
static bool grow(struct kheap *heap, uint64_t bytes)
{
    uint64_t offset;
    bool in_window = heap->source.kvm != NULL;
    uint64_t step = HEAP_CHUNK_BYTES;

    if (heap->source.pmm == NULL)
        return false;
    if (!heap->small &&
        (in_window ? commit_in_window(heap, step, &offset) : commit_in_hhdm(heap, step, &offset)) &&
        add_memory(heap, offset, step))
        return true;
    step = PIECE_BYTES;
    while (step < bytes)
        step *= 2;
    if (in_window && step == PIECE_BYTES && next_piece(heap, &offset)) {
        if (kvm_heap_commit(heap->source.kvm, heap->front.base + offset, step) != MM_OK) {
            leave_piece(heap, offset);
            return false;
        }
    } else if (in_window ? !commit_in_window(heap, step, &offset)
                         : !commit_in_hhdm(heap, step, &offset)) {
        return false;
    }
    return add_memory(heap, offset, step);
}

/* ---- memory on its way ---- */

static void begin_move(struct kheap *heap)
{
    __atomic_fetch_add(&heap->moving, 1, __ATOMIC_ACQ_REL);
}

static void end_move(struct kheap *heap, bool arrived)
{
    if (arrived)
        __atomic_fetch_add(&heap->moves, 1, __ATOMIC_ACQ_REL);
    __atomic_fetch_sub(&heap->moving, 1, __ATOMIC_ACQ_REL);
}

bool heap_supply(struct kheap *heap, enum heap_need need, uint64_t bytes)
{
    begin_move(heap);
    bool done = need == HEAP_NEEDS_PAGES ? grow(heap, bytes)
                                         : supply_state(heap, need == HEAP_NEEDS_BIG_STATE);
    end_move(heap, done);
    return done;
}

/* Who is moving memory may be what this handler has interrupted: only a thread of control waits, by
 * searching again. */
bool heap_may_find_more(struct kheap *heap, uint64_t moves, unsigned tries)
{
    bool may_wait = mm_port_cpu_slot() % MM_PORT_LEVELS == 0;

    if (tries >= HEAP_TRIES_MAX)
        return false;
    return (may_wait && __atomic_load_n(&heap->moving, __ATOMIC_ACQUIRE) != 0) ||
           __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE) != moves;
}

/* ---- shrinking ---- */

static struct heap_chunk *find_spare_locked(struct kheap *heap)
{
    for (unsigned list = HEAP_CHUNK_LISTS; list > 0; list--) {
        struct heap_link *head = &heap->chunks[list - 1];
        for (struct heap_link *link = head->next; link != head; link = link->next)
            if (is_spare(HEAP_OF(link, struct heap_chunk, link)) &&
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
    buddy_remove(&chunk->buddy, from, to);
    file_chunk_locked(heap, chunk);
    if (chunk->buddy.present_bytes != 0)
        return;
    count_spare_locked(heap, true, false);
    drop_empty_chunks_locked(heap, chunk->offset, HEAP_CHUNK_BYTES, &reserved);
}

static bool take_spare_run(struct kheap *heap, unsigned keep, uint64_t *offset, uint64_t *bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    struct heap_chunk *chunk = heap->spare_chunks > keep ? find_spare_locked(heap) : NULL;

    if (chunk != NULL) {
        begin_move(heap);
        take_spare_run_locked(heap, chunk, offset, bytes);
    }
    mm_port_unlock(&heap->lock, saved);
    return chunk != NULL;
}

/* Decommitting waits for other CPUs: not in an interrupt handler. */
void heap_shrink(struct kheap *heap, unsigned keep)
{
    uint64_t offset, bytes;

    if (heap->source.pmm == NULL || mm_port_cpu_slot() % MM_PORT_LEVELS != 0)
        return;
    while (take_spare_run(heap, keep, &offset, &bytes)) {
        decommit(heap, offset, bytes);
        unreserve(heap, mm_round_down(offset, HEAP_CHUNK_BYTES), HEAP_CHUNK_BYTES);
        end_move(heap, true);
    }
}

/* ---- large blocks ---- */

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

    if (!reserve(heap, all + slack, &first))
        return false;
    start = mm_round_up(base + first + HEAP_CHUNK_BYTES,
                        align_bytes > HEAP_CHUNK_BYTES ? align_bytes : HEAP_CHUNK_BYTES) -
            base;
    /* The addresses around that alignment does not need go back. */
    if (start - HEAP_CHUNK_BYTES > first)
        unreserve(heap, first, start - HEAP_CHUNK_BYTES - first);
    if (first + all + slack > start - HEAP_CHUNK_BYTES + all)
        unreserve(heap, start - HEAP_CHUNK_BYTES + all, first + slack - (start - HEAP_CHUNK_BYTES));
    if (!commit_large(heap, start, bytes)) {
        unreserve(heap, start - HEAP_CHUNK_BYTES, all);
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

bool heap_large_take(struct kheap *heap, uint64_t bytes, uint64_t align_bytes, uint64_t *offset,
                     bool *zeroed)
{
    if (heap->source.pmm == NULL || bytes > heap->front.bytes)
        return false;
    bytes = large_bytes(heap, bytes);
    if (heap->source.kvm != NULL ? !large_in_window(heap, bytes, align_bytes, offset)
                                 : !large_in_hhdm(heap, bytes, align_bytes, offset))
        return false;
    count_frames(heap, (int64_t)(bytes / FRAME_SIZE));
    *zeroed = is_zero_when_taken(heap, *offset, bytes);
    uint64_t saved;
    if (make_chunks_and_lock(heap, *offset, bytes, &saved)) {
        count_large_pages_locked(heap, *offset, bytes, true);
        heap->region_bytes += bytes;
        mm_port_unlock(&heap->lock, saved);
        return true;
    }
    decommit(heap, *offset, bytes);
    if (heap->source.kvm != NULL)
        unreserve(heap, *offset - HEAP_CHUNK_BYTES,
                  HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES));
    return false;
}

/* The addresses are reused only when the frames are gone, so the table entries fall last. */
void heap_large_give(struct kheap *heap, uint64_t offset, uint64_t bytes)
{
    bool in_window = heap->source.kvm != NULL;

    bytes = large_bytes(heap, bytes);
    uint64_t saved = mm_port_lock(&heap->lock);
    count_large_pages_locked(heap, offset, bytes, false);
    heap->region_bytes -= bytes;
    drop_empty_chunks_locked(heap, offset, bytes, in_window ? &reserved : NULL);
    mm_port_unlock(&heap->lock, saved);
    decommit(heap, offset, bytes);
    if (in_window)
        unreserve(heap, offset - HEAP_CHUNK_BYTES,
                  HEAP_CHUNK_BYTES + mm_round_up(bytes + PAGE_SIZE, HEAP_CHUNK_BYTES));
}

/* ---- creating ---- */

#define STATE_PAGES 2u /* of each kind of span, at the beginning */
/* A region that does not grow keeps a sixteenth, at most this, for more state: between the blocks it
 * would stand in the way of large ones for good. Given up when memory is scarce. */
#define STATE_KEPT_PART 16u
#define STATE_KEPT_MOST (MAX_BLOCK_SIZE / 2)

static uint64_t table_bytes(const struct heap_memory_config *config)
{
    return mm_round_up(mm_round_up(config->bytes, HEAP_CHUNK_BYTES) / HEAP_CHUNK_BYTES *
                           sizeof(struct kheap_chunk *),
                       64);
}

static uint64_t kept_bytes(const struct heap_memory_config *config)
{
    uint64_t bytes = config->first_bytes / STATE_KEPT_PART;

    if (config->source.pmm != NULL)
        return 0;
    return bytes < STATE_KEPT_MOST ? bytes : STATE_KEPT_MOST;
}

/* The table is part of the first memory, but where it is for more than that. */
static bool place_table(struct kheap *heap, const struct heap_memory_config *config)
{
    uint64_t bytes = table_bytes(config);

    heap->front.table =
        config->source.pmm == NULL ? bump(heap, bytes) : state_from_pmm(heap, bytes);
    return heap->front.table != NULL;
}

static void init_lists(struct kheap *heap)
{
    for (unsigned i = 0; i < HEAP_CHUNK_LISTS; i++)
        heap_list_init(&heap->chunks[i]);
    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        heap_list_init(&heap->spans[i]);
        heap_list_init(&heap->guarded[i]);
    }
    heap_list_init(&heap->free_spans[0]);
    heap_list_init(&heap->free_spans[1]);
    heap_list_init(&heap->free_chunks);
    for (unsigned i = 0; i < MM_PORT_SLOT_TABLE; i++)
        heap->front.caches[i] = &heap_absent_cache;
}

mm_status_t heap_memory_create(const struct heap_memory_config *config, struct kheap **out)
{
    uint64_t first = (uintptr_t)config->first - config->base;
    uint64_t chunks =
        mm_round_up(first + config->first_bytes, HEAP_CHUNK_BYTES) / HEAP_CHUNK_BYTES -
        first / HEAP_CHUNK_BYTES;
    uint64_t own = mm_round_up(sizeof(struct kheap), 64) + chunks * chunk_state_bytes() +
                   (config->source.pmm == NULL ? table_bytes(config) : 0) +
                   STATE_PAGES * 2 * PAGE_SIZE + kept_bytes(config);
    struct kheap *heap = config->first;

    own = mm_round_up(own, PAGE_SIZE);
    if (own >= config->first_bytes)
        return MM_INVALID_ARGUMENT;
    memset(heap, 0, own);
    heap->front.base = config->base;
    heap->front.bytes = config->bytes;
    heap->first = (uintptr_t)config->first;
    heap->space = config->space;
    heap->source = config->source;
    heap->small = config->first_bytes < MM_MIB(4);
    heap->random = mm_port_time_ns() ^ 0x9e3779b97f4a7c15u;
    heap->bump = (uint8_t *)heap + mm_round_up(sizeof(*heap), 64);
    heap->bump_end = (uint8_t *)heap + own;
    init_lists(heap);
    if (!place_table(heap, config))
        return MM_OUT_OF_MEMORY;
    heap->state_span = heap_span_memory_take_locked(heap, 1, HEAP_USUAL);
    heap->state_span->front.base = (uintptr_t)heap;
    heap->state_span->front.owner = KHEAP_NO_OWNER;
    heap->state_span->front.size_class = HEAP_CLASS_STATE;
    if (!make_chunks(heap, first, config->first_bytes))
        return MM_INVALID_ARGUMENT;
    for (uint64_t at = first; at < first + config->first_bytes; at += HEAP_CHUNK_BYTES)
        heap_chunk_at(heap, at)->kept = true;
    heap_chunk_at(heap, first + config->first_bytes - 1)->kept = true;
    heap->region_bytes = heap->state_bytes = own;
    heap_pages_set_locked(heap, first, own, heap->state_span);
    add_memory_locked(heap, first + own, config->first_bytes - own, config->first_is_zero);
    *out = heap;
    return MM_OK;
}
