/* SPDX-License-Identifier: MIT */
/* The full level: guarded spans.
 *
 *      block   | red zone | caller's bytes | red zone to the block's end |
 *              ^          ^ base + front   ^ + asked
 *      record  { asked, front, serial, call sites of allocation and free }       out of the block
 *
 * A block is cleared when it is freed and waits in the quarantine, a ring of the last ones; when it leaves
 * that, and again when it is handed out, it must still hold zeroes, or somebody has written to it after
 * the free. Blocks are taken from random places of a span. Spans with records but without zones and
 * quarantine serve kheap_record_sites().
 *
 * Guarded spans belong to nobody, so all of it runs under the heap's lock, but for looking at the bytes
 * of a block that is its caller's or the quarantine's alone.
 *
 * Invariants (kheap_verify): the zones of allocated blocks hold ZONE_BYTE; blocks in quarantine and
 * those that have been through it hold zeroes. */
#include "mm/heap_parts.h"

#include "mm/bits.h"

#include <mm/port_slot.h>

#define ZONE_BYTE        0xfdu
#define ZONE_LEAST       16u
#define QUARANTINE_PART  8u /* of the heap's memory, at most */
#define QUARANTINE_BYTES MM_MIB(16)

/* ---- looking at bytes ---- */

/* The first byte of [from, to) that is not `value`, or `to`. */
static vaddr_t find_other(vaddr_t from, vaddr_t to, uint8_t value)
{
    uint64_t word = value * 0x0101010101010101u;

    while (from < to && (from % 8 != 0 || to - from < 8)) {
        if (*(const uint8_t *)from != value)
            return from;
        from++;
    }
    while (to - from >= 8 && *(const uint64_t *)from == word)
        from += 8;
    while (from < to && *(const uint8_t *)from == value)
        from++;
    return from;
}

static const struct heap_record *record_of(const struct heap_span *span, unsigned index)
{
    return &span->records[index];
}

static vaddr_t block_start(const struct heap_span *span, unsigned index)
{
    return heap_block_address(span, index);
}

static vaddr_t block_end(const struct heap_span *span, unsigned index)
{
    return block_start(span, index) + heap_span_room(span);
}

static vaddr_t caller_start(const struct heap_span *span, unsigned index)
{
    return block_start(span, index) +
           __atomic_load_n(&record_of(span, index)->front, __ATOMIC_RELAXED);
}

static vaddr_t caller_end(const struct heap_span *span, unsigned index)
{
    return caller_start(span, index) +
           __atomic_load_n(&record_of(span, index)->asked, __ATOMIC_RELAXED);
}

static const char *check_zones(const struct heap_span *span, unsigned index, vaddr_t *at)
{
    vaddr_t start = caller_start(span, index), end = caller_end(span, index);

    *at = find_other(end, block_end(span, index), ZONE_BYTE);
    if (*at != block_end(span, index))
        return "write behind the end of";
    *at = find_other(block_start(span, index), start, ZONE_BYTE);
    return *at != start ? "write before the beginning of" : NULL;
}

static const char *check_zeroes(const struct heap_span *span, unsigned index, vaddr_t *at)
{
    *at = find_other(block_start(span, index), block_end(span, index), 0);
    return *at != block_end(span, index) ? "write after the free of" : NULL;
}

const char *heap_guard_check(const struct heap_span *span, unsigned index, vaddr_t *at)
{
    uint8_t state = __atomic_load_n(&span->states[index], __ATOMIC_RELAXED);

    if ((span->guards & HEAP_GUARD_FULL) == 0)
        return NULL;
    if (heap_state_is_used(state))
        return check_zones(span, index, at);
    if (state == KHEAP_BYTE_QUARANTINE)
        return check_zeroes(span, index, at);
    return NULL; /* the memory hooks may guard a free one */
}

static void paint_zones(const struct heap_span *span, unsigned index)
{
    vaddr_t start = caller_start(span, index), end = caller_end(span, index);

    memset((void *)block_start(span, index), ZONE_BYTE, start - block_start(span, index));
    memset((void *)end, ZONE_BYTE, block_end(span, index) - end);
}

/* ---- placing ---- */

/* What a block of these bytes takes, red zones in it. */
struct layout {
    uint64_t front, all;
    uint64_t align;
};

static bool lay_out(uint8_t guards, size_t bytes, size_t align_bytes, struct layout *out)
{
    bool natural = mm_is_power_of_two(bytes) && bytes <= PAGE_SIZE && bytes > align_bytes;

    *out = (struct layout){ .all = bytes, .align = natural ? bytes : align_bytes };
    if ((guards & HEAP_GUARD_FULL) == 0)
        return true;
    out->front = out->align > ZONE_LEAST ? out->align : ZONE_LEAST;
    if (bytes > KHEAP_CLASS_MOST - PAGE_SIZE && out->front < PAGE_SIZE)
        out->front = PAGE_SIZE; /* a run: a page on each side */
    uint64_t zones = out->front + (bytes > KHEAP_CLASS_MOST - PAGE_SIZE ? PAGE_SIZE : ZONE_LEAST);
    return !__builtin_add_overflow(bytes, zones, &out->all);
}

static unsigned class_of_layout(const struct layout *layout)
{
    if (layout->all > KHEAP_CLASS_MOST || layout->align > PAGE_SIZE)
        return KHEAP_CLASSES;
    unsigned size_class = kheap_class_of(layout->all);
    while (size_class < KHEAP_CLASSES &&
           !mm_is_aligned(kheap_class_bytes(size_class), layout->align))
        size_class++;
    return size_class;
}

bool heap_guard_wants_pages(const struct kheap *heap)
{
    uint8_t guards = __atomic_load_n(&heap->guards, __ATOMIC_RELAXED);

    return (guards & HEAP_GUARD_FULL) != 0 && heap->source.kvm != NULL &&
           heap_slot_is_thread(mm_port_cpu_slot());
}

/* ---- guarded spans ---- */

static struct heap_record *take_records_locked(struct kheap *heap, unsigned size_class)
{
    struct heap_record *records = heap->free_records[size_class];

    if (records != NULL)
        heap->free_records[size_class] = *(struct heap_record **)(void *)records;
    return records;
}

static uint64_t records_bytes(unsigned size_class)
{
    return heap_span_bytes_of(size_class) / kheap_class_bytes(size_class) *
           sizeof(struct heap_record);
}

static struct heap_record *make_records(struct kheap *heap, unsigned size_class)
{
    struct heap_record *records;
    uint64_t saved = mm_port_lock(&heap->lock);

    records = take_records_locked(heap, size_class);
    mm_port_unlock(&heap->lock, saved);
    if (records == NULL)
        records = heap_state_alloc(heap, records_bytes(size_class));
    return records;
}

/* A span with free blocks whose guards are those asked for; spans of the other kind go behind. */
static struct heap_span *find_span_locked(struct kheap *heap, unsigned size_class, uint8_t guards)
{
    struct heap_link *head = &heap->guarded[size_class];

    for (struct heap_link *link = head->next; link != head; link = link->next) {
        struct heap_span *span = HEAP_OF(link, struct heap_span, link);
        if (span->guards == guards)
            return span;
    }
    return NULL;
}

static struct heap_span *new_span_locked(struct kheap *heap, unsigned size_class, uint8_t guards,
                                         enum heap_effort effort, struct heap_record **records,
                                         enum heap_need *need)
{
    struct heap_span *span = heap_span_new_locked(heap, size_class, effort, need);

    if (span == NULL)
        return NULL;
    memset(*records, 0, span->front.blocks * sizeof(struct heap_record));
    __atomic_store_n(&span->records, *records, __ATOMIC_RELEASE);
    span->guards = guards;
    *records = NULL;
    heap_span_file_locked(heap, span);
    return span;
}

/* A free block at random, so that the next one's address cannot be guessed. */
static unsigned take_random_locked(struct kheap *heap, struct heap_span *span)
{
    unsigned index = (unsigned)(heap_random(&heap->random) % span->front.blocks);

    while (!bits_test(span->free, index))
        index = (index + 1) % span->front.blocks;
    bits_clear(span->free, index);
    heap->out[span->front.size_class]++;
    if (--span->free_count == 0)
        heap_span_file_locked(heap, span);
    return index;
}

/* A block of a span that has one, or of a new span for which *records are there (HEAP_SCARCE, which is
 * as in heap_cache.c: or can be had).
 *   *dirty: its content is unknown, not zeroes. */
static struct heap_span *search_class(struct kheap *heap, unsigned size_class, uint8_t guards,
                                      enum heap_effort effort, struct heap_record **records,
                                      enum heap_need *need, unsigned *index, bool *dirty)
{
    struct heap_doubles doubles;
    uint64_t saved = mm_port_lock(&heap->lock);

    doubles.count = 0;
    if (effort == HEAP_SCARCE)
        heap_caches_drain_locked(heap, KHEAP_ALL_SLOTS, mm_port_cpu_slot(), &doubles);
    struct heap_span *span = find_span_locked(heap, size_class, guards);
    if (span == NULL && *records == NULL && effort == HEAP_SCARCE) {
        *records = take_records_locked(heap, size_class);
        if (*records == NULL)
            *records = heap_state_alloc_locked(heap, records_bytes(size_class), effort);
    }
    if (span == NULL && *records != NULL)
        span = new_span_locked(heap, size_class, guards, effort, records, need);
    if (span != NULL) {
        *index = take_random_locked(heap, span);
        *dirty = (guards & HEAP_GUARD_FULL) == 0 ||
                 (record_of(span, *index)->serial == 0 && !span->fresh);
        /* Nobody else may take the block for free from here on. */
        __atomic_store_n(&span->states[*index], KHEAP_BYTE_REMOTE, __ATOMIC_RELAXED);
    }
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
    return span;
}

static void give_records(struct kheap *heap, unsigned size_class, struct heap_record *records)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    *(struct heap_record **)(void *)records = heap->free_records[size_class];
    heap->free_records[size_class] = records;
    mm_port_unlock(&heap->lock, saved);
}

/* As heap_class_alloc(); blocks in quarantine are the caller's matter. */
static struct heap_span *take_in_class(struct kheap *heap, unsigned size_class, uint8_t guards,
                                       unsigned *index, bool *dirty)
{
    struct heap_span *span = NULL;
    struct heap_record *records = NULL;
    enum heap_effort effort = HEAP_USUAL;
    unsigned tries = 0;

    for (;;) {
        enum heap_need need = HEAP_HAS_ALL;
        uint64_t moves = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE);
        span = search_class(heap, size_class, guards, effort, &records, &need, index, dirty);
        if (span != NULL)
            break;
        if (records == NULL) {
            records = make_records(heap, size_class);
            if (records != NULL)
                continue;
        } else if (heap_supply(heap, need, heap_span_bytes_of(size_class))) {
            continue;
        }
        if (effort == HEAP_SCARCE && !heap_may_find_more(heap, moves, tries++))
            break;
        effort = HEAP_SCARCE;
    }
    if (records != NULL)
        give_records(heap, size_class, records);
    return span;
}

static struct heap_span *take_block(struct kheap *heap, const struct layout *layout, uint8_t guards,
                                    unsigned *index, bool *dirty)
{
    unsigned size_class = class_of_layout(layout);
    bool zeroed = false;
    struct heap_span *span;

    if (size_class < KHEAP_CLASSES)
        return take_in_class(heap, size_class, guards, index, dirty);
    span = heap_run_alloc(heap, layout->all, layout->align, KHEAP_BYTE_REMOTE, &zeroed);
    if (span != NULL) {
        __atomic_store_n(&span->records, &span->record, __ATOMIC_RELEASE);
        span->guards = guards;
    }
    *index = 0;
    *dirty = !zeroed;
    return span;
}

/* ---- allocating ---- */

static void fill_record(struct kheap *heap, struct heap_span *span, unsigned index,
                        const struct layout *layout, size_t bytes, vaddr_t site)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    struct heap_record *record = &span->records[index];

    /* Atomic, because a report on another CPU may look at the block before. */
    __atomic_store_n(&record->asked, bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&record->front, layout->front, __ATOMIC_RELAXED);
    __atomic_store_n(&record->serial, ++heap->serial, __ATOMIC_RELAXED);
    __atomic_store_n(&record->alloc_site, site, __ATOMIC_RELAXED);
    __atomic_store_n(&record->free_site, 0, __ATOMIC_RELAXED);
    mm_port_unlock(&heap->lock, saved);
}

/* Another CPU may be faster to take what the quarantine held: tried again as long as it held
 * something, some times.
 *   Returns:    true if something came, or the first time (another CPU may have emptied it). */
static bool may_empty_quarantine(struct kheap *heap, unsigned tries)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    bool any = heap->quarantine.count != 0;

    mm_port_unlock(&heap->lock, saved);
    heap_guard_flush(heap);
    return tries == 0 || (any && tries < HEAP_TRIES_LARGE);
}

void *heap_guard_alloc(struct kheap *heap, size_t bytes, size_t align_bytes, bool clear,
                       vaddr_t site)
{
    uint8_t guards = __atomic_load_n(&heap->guards, __ATOMIC_RELAXED);
    uint8_t state = align_bytes > 16 ? KHEAP_BYTE_ALIGNED : KHEAP_BYTE_ALLOCATED;
    struct layout layout;
    unsigned index;
    bool dirty;
    vaddr_t at;

    if (!lay_out(guards, bytes, align_bytes, &layout))
        return NULL;
    struct heap_span *span = take_block(heap, &layout, guards, &index, &dirty);
    for (unsigned tries = 0; span == NULL && may_empty_quarantine(heap, tries); tries++)
        span = take_block(heap, &layout, guards, &index, &dirty);
    if (span == NULL)
        return NULL;
    mm_port_memory_allocated((void *)block_start(span, index), heap_span_room(span));
    if (dirty && (clear || (guards & HEAP_GUARD_FULL) != 0))
        memset((void *)block_start(span, index), 0, heap_span_room(span));
    else if ((guards & HEAP_GUARD_FULL) != 0 && check_zeroes(span, index, &at) != NULL) {
        heap_report_write(heap, "write after the free of", span, index, at);
        memset((void *)block_start(span, index), 0, heap_span_room(span));
    }
    fill_record(heap, span, index, &layout, bytes, site);
    if ((guards & HEAP_GUARD_FULL) != 0)
        paint_zones(span, index);
    vaddr_t block = caller_start(span, index);
    __atomic_store_n(&span->states[index], state, __ATOMIC_RELEASE);
    return (void *)block;
}

/* ---- finding ---- */

/* True if a block of that span, and a guarded one, is allocated whose caller's first byte is `address`. */
static bool is_block_locked(const struct kheap *heap, const struct heap_span *span, vaddr_t address,
                            unsigned *index)
{
    bool first;

    return heap_span_at(heap, address) == span && span->guards != 0 &&
           heap_block_index(span, address, index, &first) &&
           heap_state_is_used(__atomic_load_n(&span->states[*index], __ATOMIC_ACQUIRE)) &&
           address == caller_start(span, *index);
}

/* Under the lock, as the span may end at any moment, if another CPU frees the block, and its records go. */
bool heap_guard_find(struct kheap *heap, vaddr_t address, struct heap_found *out)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    struct heap_span *span = heap_span_at(heap, address);
    bool found = span != NULL && is_block_locked(heap, span, address, &out->index);

    if (found) {
        const struct heap_record *record = record_of(span, out->index);
        out->span = span;
        out->room = record->asked;
        out->front = record->front;
    }
    mm_port_unlock(&heap->lock, saved);
    return found;
}

/* What was written outside of it is not painted over: the zone behind the old end stays. */
void heap_guard_shrink(struct kheap *heap, const struct heap_found *block, size_t bytes)
{
    struct heap_span *span = block->span;
    vaddr_t start = block_start(span, block->index) + block->front;

    if ((span->guards & HEAP_GUARD_FULL) != 0)
        memset((void *)(start + bytes), ZONE_BYTE, block->room - bytes);
    uint64_t saved = mm_port_lock(&heap->lock);
    unsigned index;
    if (is_block_locked(heap, span, start, &index))
        __atomic_store_n(&span->records[index].asked, bytes, __ATOMIC_RELAXED);
    mm_port_unlock(&heap->lock, saved);
}

/* ---- freeing ---- */

/* The block, which the caller has claimed or taken out of the quarantine, goes back to its span, or its
 * run ends. Until then it stays in a state in which nobody else can free it. */
static void put_back(struct kheap *heap, struct heap_span *span, unsigned index)
{
    if (span->front.size_class == HEAP_CLASS_RUN) {
        bool right = heap_run_free(heap, span, span->front.base, true);
        MM_ASSERT(right);
        (void)right;
        return;
    }
    mm_port_memory_freed((void *)block_start(span, index), heap_span_room(span));
    uint64_t saved = mm_port_lock(&heap->lock);
    __atomic_store_n(&span->states[index], KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    heap_span_put_locked(heap, span, index);
    mm_port_unlock(&heap->lock, saved);
}

/* Takes the oldest block out if the ring is full, the bytes are too many, or all are to leave. */
static bool take_oldest(struct kheap *heap, bool all, struct heap_span **span, unsigned *index)
{
    struct heap_quarantine *ring = &heap->quarantine;
    uint64_t saved = mm_port_lock(&heap->lock);
    uint64_t most = heap->region_bytes / QUARANTINE_PART;
    bool found = ring->count > 0 &&
                 (all || ring->count == HEAP_QUARANTINE_MAX ||
                  (ring->count > 1 && (ring->bytes > QUARANTINE_BYTES || ring->bytes > most)));

    if (found) {
        *span = ring->blocks[ring->first].span;
        *index = ring->blocks[ring->first].index;
        ring->first = (ring->first + 1) % HEAP_QUARANTINE_MAX;
        ring->count--;
        ring->bytes -= heap_span_room(*span);
    }
    mm_port_unlock(&heap->lock, saved);
    return found;
}

static void evict(struct kheap *heap, bool all)
{
    struct heap_span *span;
    unsigned index;
    vaddr_t at;

    while (take_oldest(heap, all, &span, &index)) {
        if (check_zeroes(span, index, &at) != NULL) {
            heap_report_write(heap, "write after the free of", span, index, at);
            memset((void *)block_start(span, index), 0, heap_span_room(span));
        }
        put_back(heap, span, index);
    }
}

void heap_guard_flush(struct kheap *heap)
{
    evict(heap, true);
}

/* What a free may find. */
enum claim { CLAIMED, NO_BLOCK, OTHER_SIZE };

/* The block becomes the caller's alone, by one CPU only. The span may have ended meanwhile, and its memory
 * be another's: nothing of it is read before the lock. `sized`: it must be one of *asked bytes.
 *   Returns:  CLAIMED, and the block's number, the state that it had and its bytes; OTHER_SIZE and its bytes. */
static enum claim claim(struct kheap *heap, struct heap_span *span, vaddr_t address, bool sized,
                        vaddr_t site, unsigned *index, uint8_t *state, uint64_t *asked)
{
    enum claim result = NO_BLOCK;
    uint64_t saved = mm_port_lock(&heap->lock);

    if (is_block_locked(heap, span, address, index)) {
        struct heap_record *record = &span->records[*index];
        result = sized && *asked != record->asked ? OTHER_SIZE : CLAIMED;
        *asked = record->asked;
        *state = __atomic_load_n(&span->states[*index], __ATOMIC_RELAXED);
        if (result == CLAIMED) {
            __atomic_store_n(&record->free_site, site, __ATOMIC_RELAXED);
            __atomic_store_n(&span->states[*index], KHEAP_BYTE_REMOTE, __ATOMIC_RELAXED);
        }
    }
    mm_port_unlock(&heap->lock, saved);
    return result;
}

static void quarantine(struct kheap *heap, struct heap_span *span, unsigned index)
{
    struct heap_quarantine *ring = &heap->quarantine;
    bool added = false;

    while (!added) {
        evict(heap, false);
        uint64_t saved = mm_port_lock(&heap->lock);
        if (ring->count < HEAP_QUARANTINE_MAX) {
            unsigned last = (ring->first + ring->count++) % HEAP_QUARANTINE_MAX;
            ring->blocks[last].span = span;
            ring->blocks[last].index = index;
            ring->bytes += heap_span_room(span);
            __atomic_store_n(&span->states[index], KHEAP_BYTE_QUARANTINE, __ATOMIC_RELAXED);
            added = true;
        }
        mm_port_unlock(&heap->lock, saved);
    }
}

/* A found write is repaired, and the block stays allocated, so that a report has changed nothing. */
void heap_guard_free(struct kheap *heap, struct heap_span *span, void *address, bool sized,
                     size_t bytes, vaddr_t site)
{
    unsigned index;
    uint8_t state;
    uint64_t asked = bytes;
    vaddr_t at;

    switch (claim(heap, span, (uintptr_t)address, sized, site, &index, &state, &asked)) {
    case CLAIMED:
        break;
    case OTHER_SIZE:
        mm_bug("kfree_sized of 0x%lx with %lu bytes, which is a block of %lu", (uintptr_t)address,
               bytes, asked);
        return;
    default:
        heap_report_wrong(heap, "kfree", address);
        return;
    }
    bool full = (span->guards & HEAP_GUARD_FULL) != 0;
    const char *wrong = full ? check_zones(span, index, &at) : NULL;
    if (wrong != NULL) {
        heap_report_write(heap, wrong, span, index, at);
        paint_zones(span, index);
        __atomic_store_n(&span->states[index], state, __ATOMIC_RELEASE);
        return;
    }
    if (full) {
        memset((void *)block_start(span, index), 0, heap_span_room(span));
        quarantine(heap, span, index);
    } else {
        put_back(heap, span, index);
    }
    mm_debug("heap: freed %lu bytes at 0x%lx", asked, (uintptr_t)address);
}
