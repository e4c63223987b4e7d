/* SPDX-License-Identifier: MIT */
/* Memory for the heap's own state: chunks, spans, caches, records. Never mixed with blocks.
 *
 *      first memory:  | struct kheap | bump --> ......... bump_end |  blocks ...
 *      then frames of the pmm; where it has none, pages from between the blocks
 *
 *      spans come in two sizes, by the blocks they can have; each kind is cut from pages of its own:
 *      page[kind] --> page_end[kind], then free_spans[kind]; ended_spans[kind] wait until no slot has
 *      them pinned, and until they are worth a barrier on every CPU
 *
 * A region that does not grow keeps bump ... bump_end for state, whole pages of which become memory for
 * blocks when nothing else is free.
 *
 * Invariants: state is zeroed when it is given out; it stays state for ever, because readers without the
 * lock may still look at it; given back by its users, it is used again as what it was. */
#include "mm/heap_memory.h"

#include <mm/hhdm.h>

void *heap_state_bump(struct kheap *heap, uint64_t bytes)
{
    uint8_t *at = heap->bump;

    bytes = mm_round_up(bytes, 64);
    if (bytes > (uint64_t)(heap->bump_end - at))
        return NULL;
    heap->bump += bytes;
    return at;
}

/* The rest of a new last page serves what comes next, if it is more than what is left of the one before.
 * (A region that does not grow goes on with what it keeps.) */
static void bump_rest_locked(struct kheap *heap, uint8_t *at, uint64_t bytes)
{
    uint8_t *rest = at + mm_round_up(bytes, 64), *end = at + mm_round_up(bytes, PAGE_SIZE);

    if (heap->source.pmm == NULL || end - rest <= heap->bump_end - heap->bump)
        return;
    heap->bump = rest;
    heap->bump_end = end;
}

void *heap_state_from_pmm(struct kheap *heap, uint64_t bytes)
{
    uint64_t frames = mm_round_up(bytes, FRAME_SIZE) / FRAME_SIZE;
    paddr_t first;
    mm_status_t status = frames == 1 ? pmm_alloc_frame(heap->source.pmm, &first)
                                     : pmm_alloc_contiguous(heap->source.pmm, frames, FRAME_SIZE,
                                                            PMM_NO_LIMIT, &first);

    if (status != MM_OK)
        return NULL;
    void *at = phys_to_virt(first);
    uint64_t saved = mm_port_lock(&heap->lock);
    heap->frames += frames;
    bump_rest_locked(heap, at, bytes);
    mm_port_unlock(&heap->lock, saved);
    return at;
}

static void *state_from_region_locked(struct kheap *heap, uint64_t bytes, enum heap_effort effort)
{
    bool zeroed;
    uint64_t run = mm_round_up(bytes, PAGE_SIZE);
    uint64_t offset = HEAP_NO_OFFSET;

    if (run <= MAX_BLOCK_SIZE && heap->source.pmm != NULL)
        offset = heap_run_take_for_state_locked(heap, run, &zeroed);
    else if (run <= MAX_BLOCK_SIZE)
        offset = heap_run_take_locked(heap, run, PAGE_SIZE, effort, &zeroed);
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
    void *at = heap_state_bump(heap, bytes);

    if (at != NULL)
        return at;
    at = state_from_region_locked(heap, bytes, effort);
    if (at != NULL)
        bump_rest_locked(heap, at, bytes);
    return at;
}

void *heap_state_alloc(struct kheap *heap, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    void *at = heap_state_bump(heap, bytes);

    mm_port_unlock(&heap->lock, saved);
    if (at == NULL && heap->source.pmm != NULL)
        at = heap_state_from_pmm(heap, bytes);
    if (at != NULL)
        return at;
    saved = mm_port_lock(&heap->lock);
    at = heap_state_alloc_locked(heap, bytes, HEAP_USUAL);
    mm_port_unlock(&heap->lock, saved);
    return at;
}

/* ---- for spans ---- */

static uint64_t span_bytes(unsigned kind)
{
    return mm_round_up(offsetof(struct heap_span, states) +
                           (kind ? HEAP_SPAN_BLOCKS : HEAP_SMALL_STATES),
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

#define ENDED_MANY 16u

void heap_span_memory_reuse_locked(struct kheap *heap)
{
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++) {
        struct heap_cache *cache = heap_cache_at(heap, slot);
        struct heap_span *span =
            cache != NULL ? __atomic_load_n(&cache->pin, __ATOMIC_ACQUIRE) : NULL;
        if (span != NULL)
            span->pinned = true;
    }
    for (unsigned kind = 0; kind < 2; kind++) {
        struct heap_link *head = &heap->ended_spans[kind];
        for (struct heap_link *link = head->next, *next; link != head; link = next) {
            struct heap_span *span = HEAP_OF(link, struct heap_span, link);
            next = link->next;
            if (!span->pinned) {
                heap_list_remove(link);
                heap_list_add(&heap->free_spans[kind], link);
                heap->ended_count[kind]--;
            }
            span->pinned = false;
        }
    }
}

/* The barrier: a slot whose pin is not seen behind it does not find the span any more. */
static void reuse_ended_locked(struct kheap *heap, unsigned kind, unsigned many)
{
    if (heap->ended_count[kind] < many || !heap_list_is_empty(&heap->free_spans[kind]))
        return;
    mm_port_cpu_barrier();
    heap_span_memory_reuse_locked(heap);
}

static struct heap_span *span_memory_locked(struct kheap *heap, unsigned kind, unsigned many)
{
    uint64_t bytes = span_bytes(kind);
    struct heap_span *span;

    reuse_ended_locked(heap, kind, many);
    if (!heap_list_is_empty(&heap->free_spans[kind])) {
        span = HEAP_OF(heap->free_spans[kind].next, struct heap_span, link);
        heap_list_remove(&span->link);
    } else if ((uint64_t)(heap->page_end[kind] - heap->page[kind]) >= bytes) {
        span = (struct heap_span *)(void *)heap->page[kind];
        heap->page[kind] += bytes;
    } else {
        span = heap_state_bump(heap, bytes);
    }
    return span;
}

struct heap_span *heap_span_memory_take_locked(struct kheap *heap, unsigned blocks,
                                               enum heap_effort effort)
{
    unsigned kind = blocks > HEAP_SMALL_STATES;
    bool scarce = heap->source.pmm == NULL || effort == HEAP_SCARCE;
    struct heap_span *span = span_memory_locked(heap, kind, ENDED_MANY);

    if (span == NULL && scarce)
        span = span_memory_locked(heap, kind, 1);
    if (span == NULL && scarce) {
        uint8_t *page = state_from_region_locked(heap, PAGE_SIZE, effort);
        if (page == NULL)
            return NULL;
        add_span_page_locked(heap, kind, page);
        span = span_memory_locked(heap, kind, ENDED_MANY);
    }
    if (span == NULL)
        return NULL;
    memset(span, 0, sizeof(*span));
    span->big = kind != 0;
    heap_list_init(&span->link);
    heap_list_init(&span->pending);
    return span;
}

void heap_span_memory_give_locked(struct kheap *heap, struct heap_span *span)
{
    heap_list_add(&heap->free_spans[span->big], &span->link);
}

void heap_span_memory_retire_locked(struct kheap *heap, struct heap_span *span)
{
    span->pinned = false;
    heap_list_add(&heap->ended_spans[span->big], &span->link);
    heap->ended_count[span->big]++;
}

bool heap_state_supply(struct kheap *heap, unsigned kind)
{
    uint8_t *page = heap_state_alloc(heap, PAGE_SIZE);

    if (page == NULL)
        return false;
    uint64_t saved = mm_port_lock(&heap->lock);
    add_span_page_locked(heap, kind, page);
    mm_port_unlock(&heap->lock, saved);
    return true;
}

/* ---- what a region that does not grow keeps ---- */

uint64_t heap_state_kept_locked(const struct kheap *heap)
{
    uint64_t from = mm_round_up((uintptr_t)heap->bump, PAGE_SIZE);

    return heap->source.pmm == NULL ? (uintptr_t)heap->bump_end - from : 0;
}

bool heap_state_give_up_kept_locked(struct kheap *heap)
{
    vaddr_t end = (uintptr_t)heap->bump_end, from = end - heap_state_kept_locked(heap);

    if (from == end)
        return false;
    heap->bump_end = (uint8_t *)from;
    heap->state_bytes -= end - from;
    heap->region_bytes -= end - from;
    heap_pages_set_locked(heap, from - heap->front.base, end - from, NULL);
    heap_chunks_add_locked(heap, from - heap->front.base, end - from, false);
    return true;
}
