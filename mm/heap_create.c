/* SPDX-License-Identifier: MIT */
/* A heap begins: its first memory is cut.
 *
 *      first:  | struct kheap | table (region) | first chunks | spans' pages | kept for state | blocks ...
 *
 * A heap that grows has its table, which is for the whole window, in frames of its own.
 *
 * Invariants: the chunks of the first memory are `kept`: never given back. */
#include "mm/heap_memory.h"

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

    heap->front.table = config->source.pmm == NULL ? heap_state_bump(heap, bytes)
                                                   : heap_state_from_pmm(heap, bytes);
    return heap->front.table != NULL;
}

static void init_lists(struct kheap *heap)
{
    for (unsigned i = 0; i < HEAP_CHUNK_LISTS; i++)
        heap_list_init(&heap->chunks[i]);
    for (unsigned i = 0; i < HEAP_RUN_LISTS; i++)
        heap_list_init(&heap->runs[i]);
    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        heap_list_init(&heap->spans[i]);
        heap_list_init(&heap->guarded[i]);
    }
    heap_list_init(&heap->free_spans[0]);
    heap_list_init(&heap->free_spans[1]);
    heap_list_init(&heap->ended_spans[0]);
    heap_list_init(&heap->ended_spans[1]);
    heap_list_init(&heap->free_chunks);
    heap_list_init(&heap->late);
    for (unsigned i = 0; i < MM_PORT_SLOT_TABLE; i++)
        heap->front.caches[i] = &heap_absent_cache;
}

mm_status_t heap_memory_create(const struct heap_memory_config *config, struct kheap **out)
{
    uint64_t first = (uintptr_t)config->first - config->base;
    uint64_t chunks =
        mm_round_up(first + config->first_bytes, HEAP_CHUNK_BYTES) / HEAP_CHUNK_BYTES -
        first / HEAP_CHUNK_BYTES;
    uint64_t own = mm_round_up(sizeof(struct kheap), 64) + chunks * heap_chunk_state_bytes() +
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
    heap->find_symbol = config->find_symbol;
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
    if (!heap_chunks_make(heap, first, config->first_bytes))
        return MM_INVALID_ARGUMENT;
    for (uint64_t at = first; at < first + config->first_bytes; at += HEAP_CHUNK_BYTES)
        heap_chunk_at(heap, at)->kept = true;
    heap_chunk_at(heap, first + config->first_bytes - 1)->kept = true;
    heap->state_chunk = heap_chunk_at(heap, first);
    heap->region_bytes = heap->state_bytes = own;
    heap_pages_set_locked(heap, first, own, heap->state_span);
    heap_chunks_add_locked(heap, first + own, config->first_bytes - own, config->first_is_zero);
    *out = heap;
    return MM_OK;
}
