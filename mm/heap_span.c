/* SPDX-License-Identifier: MIT */
/* Spans: runs of pages cut into blocks of one size.
 *
 *      pages   | block 0 | block 1 | block 2 | ... | block n-1 | rest |
 *      states  [   1     |    0    |    1    | ... |     0     ]        out of the pages
 *      free    {             1                 ...      n-1    }        the blocks that lie in the span
 *
 * A block is in its span (its bit in `free`), in a magazine, used, or on its way back from another slot
 * (its bit in `remote`, or in that slot's list). A span belongs to the slot that took it, or to nobody; it
 * is in the list of its owner and class that says whether it has blocks, and ends when it has all.
 *
 * Invariants (kheap_verify): a block in the span is KHEAP_BYTE_FREE; free_count counts the bits;
 * blocks from fresh_from on are all in the span. */
#include "mm/bits.h"
#include "mm/heap_parts.h"

/* Waste of less than a sixty-fourth is good enough. */
#define WASTE_PART 64u

/* Bytes of a span: enough for 256 blocks or 32 KiB, or one block where that is large; and the number of
 * pages that wastes least behind it. */
unsigned heap_span_bytes_of(unsigned size_class)
{
    uint64_t block = kheap_class_bytes(size_class);
    uint64_t least = block * HEAP_SPAN_BLOCKS < MM_KIB(32) ? block * HEAP_SPAN_BLOCKS : MM_KIB(32);
    uint64_t best = 0, best_waste = UINT64_MAX;

    if (size_class >= KHEAP_CLASS_LARGE)
        least = block;
    for (uint64_t bytes = mm_round_up(least, PAGE_SIZE); bytes <= HEAP_SPAN_PAGES * PAGE_SIZE;
         bytes += PAGE_SIZE) {
        uint64_t blocks = bytes / block;
        blocks = blocks > HEAP_SPAN_BLOCKS ? HEAP_SPAN_BLOCKS : blocks;
        uint64_t waste = (bytes - blocks * block) * 4096 / bytes;
        if (waste < best_waste) {
            best = bytes;
            best_waste = waste;
        }
        if (waste <= 4096 / WASTE_PART)
            break;
    }
    return (unsigned)best;
}

/* What the fast path divides with. Newton: each step doubles the bits that are right, from 3 on. */
static void set_block_bytes(struct kheap_span *span, uint32_t bytes)
{
    unsigned shift = (unsigned)__builtin_ctz(bytes);
    uint64_t odd = bytes >> shift, inverse = odd;

    for (unsigned bits = 3; bits < 64; bits *= 2)
        inverse *= 2 - odd * inverse;
    span->block_bytes = bytes;
    span->shift = shift;
    span->inverse = inverse;
}

vaddr_t heap_block_address(const struct heap_span *span, unsigned index)
{
    return span->front.base + (uint64_t)index * span->front.block_bytes;
}

bool heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index, bool *first)
{
    uint64_t inside = address - span->front.base;

    if (address < span->front.base)
        return false;
    if (span->front.size_class >= KHEAP_CLASSES) {
        *index = 0;
        *first = inside == 0;
        return span->front.size_class == HEAP_CLASS_RUN;
    }
    uint64_t exact = kheap_exact_index(inside, &span->front);
    if (exact < span->front.blocks) { /* without a division */
        *index = (unsigned)exact;
        *first = true;
        return true;
    }
    uint32_t block = __atomic_load_n(&span->front.block_bytes, __ATOMIC_RELAXED);
    if (block == 0) /* without the lock: memory that is just becoming another span */
        return false;
    *index = (unsigned)(inside / block);
    *first = inside % block == 0;
    return inside / block < span->front.blocks;
}

static void file_locked(struct kheap *heap, struct heap_span *span, bool last)
{
    unsigned size_class = span->front.size_class;
    struct heap_cache *owner =
        span->front.owner < MM_PORT_SLOTS ? heap_cache_at(heap, span->front.owner) : NULL;
    struct heap_link *head = NULL;

    heap_list_remove(&span->link);
    if (owner != NULL)
        head = span->free_count > 0 ? &owner->partial[size_class] : &owner->full[size_class];
    else if (span->free_count > 0)
        head = span->guards != 0 ? &heap->guarded[size_class] : &heap->spans[size_class];
    if (head != NULL)
        heap_list_add(last ? head->prev : head, &span->link);
}

void heap_span_file_locked(struct kheap *heap, struct heap_span *span)
{
    file_locked(heap, span, false);
}

static void fill_free_bits(struct heap_span *span)
{
    for (unsigned i = 0; i < HEAP_FREE_WORDS; i++)
        span->free[i] = bits_mask(i, 0, span->front.blocks);
}

/* Pages for a span: as many as it should have, or where memory is scarce as many as there are. */
static uint64_t take_pages_locked(struct kheap *heap, uint64_t block, enum heap_effort effort,
                                  uint64_t *bytes, bool *zeroed)
{
    uint64_t offset = heap_run_take_locked(heap, *bytes, PAGE_SIZE, effort, zeroed);

    while (offset == HEAP_NO_OFFSET && effort == HEAP_SCARCE &&
           *bytes >= mm_round_up(block, PAGE_SIZE) + PAGE_SIZE) {
        *bytes -= PAGE_SIZE;
        offset = heap_run_take_locked(heap, *bytes, PAGE_SIZE, effort, zeroed);
    }
    return offset;
}

static unsigned blocks_in(uint64_t bytes, uint64_t block)
{
    return bytes / block > HEAP_SPAN_BLOCKS ? HEAP_SPAN_BLOCKS : (unsigned)(bytes / block);
}

struct heap_span *heap_span_new_locked(struct kheap *heap, unsigned size_class,
                                       enum heap_effort effort, enum heap_need *need)
{
    uint64_t bytes = heap_span_bytes_of(size_class);
    uint32_t block = (uint32_t)kheap_class_bytes(size_class);
    unsigned blocks = blocks_in(bytes, block);
    bool zeroed;
    struct heap_span *span = heap_span_memory_take_locked(heap, blocks, effort);

    if (span == NULL) {
        *need = blocks > HEAP_SMALL_STATES ? HEAP_NEEDS_BIG_STATE : HEAP_NEEDS_SMALL_STATE;
        return NULL;
    }
    uint64_t offset = take_pages_locked(heap, block, effort, &bytes, &zeroed);
    blocks = blocks_in(bytes, block);
    if (offset == HEAP_NO_OFFSET) {
        heap_span_memory_give_locked(heap, span);
        *need = HEAP_NEEDS_PAGES;
        return NULL;
    }
    span->front.base = heap->front.base + offset;
    span->front.owner = KHEAP_NO_OWNER;
    set_block_bytes(&span->front, block);
    span->front.size_class = (uint16_t)size_class;
    span->front.blocks = (uint16_t)blocks;
    span->bytes = bytes;
    span->run = offset;
    span->free_count = (uint16_t)blocks;
    span->fresh = zeroed;
    memset(span->states, KHEAP_BYTE_FREE, blocks);
    fill_free_bits(span);
    heap_pages_set_locked(heap, offset, bytes, span);
    return span;
}

struct heap_span *heap_run_span_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                                       uint64_t base, enum heap_effort effort, enum heap_need *need)
{
    struct heap_span *span = heap_span_memory_take_locked(heap, 1, effort);

    if (span == NULL) {
        *need = HEAP_NEEDS_SMALL_STATE;
        return NULL;
    }
    span->front.base = base;
    span->front.owner = KHEAP_NO_OWNER;
    span->front.size_class = HEAP_CLASS_RUN;
    span->front.blocks = 1;
    span->bytes = bytes;
    span->room = heap->front.base + offset + bytes - base;
    span->run = offset;
    __atomic_store_n(&span->states[0], KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    heap_pages_set_locked(heap, offset, bytes, span);
    return span;
}

/* The owner falls last: until then a wrong free on another CPU finds blocks that are free. */
void heap_span_end_locked(struct kheap *heap, struct heap_span *span)
{
    heap_cache_forget_locked(heap, span);
    heap_list_remove(&span->link);
    heap_list_remove(&span->pending);
    if (!span->own_chunks)
        heap_run_give_locked(heap, span->run, span->bytes);
    else
        heap_pages_set_locked(heap, span->run, span->bytes, NULL);
    __atomic_store_n(&span->front.owner, KHEAP_NO_OWNER, __ATOMIC_RELAXED);
    if (span->records != NULL && span->front.size_class < KHEAP_CLASSES) {
        *(struct heap_record **)(void *)span->records = heap->free_records[span->front.size_class];
        heap->free_records[span->front.size_class] = span->records;
        __atomic_store_n(&span->records, NULL, __ATOMIC_RELEASE);
    }
    heap_span_memory_retire_locked(heap, span);
}

unsigned heap_span_take_locked(struct kheap *heap, struct heap_span *span,
                               struct kheap_entry *entries, unsigned wanted)
{
    unsigned taken = 0, index = 0;
    unsigned fresh_from = span->fresh ? span->fresh_from : HEAP_SPAN_BLOCKS;
    vaddr_t base = span->front.base, block_bytes = span->front.block_bytes;

    for (unsigned word = 0; word < HEAP_FREE_WORDS && taken < wanted; word++) {
        uint64_t bits = span->free[word];
        for (; bits != 0 && taken < wanted; bits &= bits - 1) {
            index = word * BITS_PER_WORD + bits_lowest(bits);
            entries[taken++] = (struct kheap_entry){
                (base + index * block_bytes) | (index >= fresh_from ? 1u : 0u),
                &span->states[index],
            };
        }
        span->free[word] = bits;
    }
    if (taken == 0)
        return 0;
    if (index >= span->fresh_from)
        span->fresh_from = (uint16_t)(index + 1);
    heap->out[span->front.size_class] += taken;
    span->free_count = (uint16_t)(span->free_count - taken);
    if (span->free_count == 0)
        heap_span_file_locked(heap, span);
    return taken;
}

/* A span that has all of its blocks ends, unless it is the only one of its owner with any: the owner
 * will want it again. */
static bool is_wanted(struct kheap *heap, const struct heap_span *span)
{
    unsigned size_class = span->front.size_class;
    struct heap_cache *owner =
        span->front.owner < MM_PORT_SLOTS ? heap_cache_at(heap, span->front.owner) : NULL;

    return owner != NULL && size_class < KHEAP_CLASS_LARGE && !heap->small && !heap->off &&
           owner->partial[size_class].next == &span->link &&
           owner->partial[size_class].prev == &span->link;
}

void heap_span_end_if_whole_locked(struct kheap *heap, struct heap_span *span)
{
    if (span->free_count == span->front.blocks && heap_list_is_empty(&span->pending) &&
        !is_wanted(heap, span))
        heap_span_end_locked(heap, span);
}

void heap_span_count_free_locked(struct kheap *heap, struct heap_span *span, unsigned count,
                                 bool last)
{
    bool had_none = span->free_count == 0;

    heap->out[span->front.size_class] -= count;
    span->free_count = (uint16_t)(span->free_count + count);
    if (had_none && count > 0)
        file_locked(heap, span, last);
    heap_span_end_if_whole_locked(heap, span);
}

void heap_span_put_locked(struct kheap *heap, struct heap_span *span, unsigned index)
{
    heap_span_mark_free_locked(span, index);
    heap_span_count_free_locked(heap, span, 1, false);
}

void heap_span_put_words_locked(struct kheap *heap, struct heap_span *span, const uint64_t *blocks)
{
    unsigned count = 0;

    for (unsigned word = 0; word < HEAP_FREE_WORDS; word++) {
        MM_ASSERT((span->free[word] & blocks[word]) == 0);
        span->free[word] |= blocks[word];
        count += blocks[word] != 0 ? bits_count(blocks[word]) : 0;
    }
    heap_span_count_free_locked(heap, span, count, true);
}
