/* SPDX-License-Identifier: MIT */
/* Blocks that another slot frees than the owner of their span, and the frees that need the lock.
 *
 *      owner of the span                          another slot
 *      kfree: ALLOCATED -> FREE, magazine         kfree: ALLOCATED -> REMOTE (locked), own list
 *      empty magazine, with the lock: each        full list, with the lock: bit in span->remote
 *      remote block: REMOTE -> FREE, span
 *
 * The owner changes a state byte without a locked instruction: so it may overwrite REMOTE, if both free the
 * same block at the same time. Then the block is in the magazine, and when the owner comes to the
 * remote bit it does not find REMOTE: the other free is reported and nothing else happens. Nobody but
 * the owner does that last step, so it is never in the middle of its own free meanwhile; a span of
 * nobody has no plain stores, and whoever has the lock does it. The exception is a drain by another
 * slot: kheap_drain, and each search when memory is scarce, which drains all slots first. It does the last
 * step, and ends spans, for owners that run, and a free that one of them has begun at that moment, of a block
 * that is free, or that another CPU has freed too, may be accepted.
 *
 * The state byte is out of the block, in its span's memory. Another CPU that frees the same block may be
 * faster, the span end, and its memory be another span's when the locked instruction comes: it would free
 * a block of that one. So who frees pins the span first, with a plain store, and then looks whether
 * it is still the one at the address; a span that has ended serves again when, behind an
 * mm_port_cpu_barrier(), no slot has it pinned (heap_state.c); tests/model/pin.pml is the model of it.
 * Without a cache, nothing is pinned, and the lock is taken instead. */
#include "mm/heap_parts.h"

/* ---- blocks that two CPUs have freed ---- */

static void add_double(struct heap_doubles *doubles, vaddr_t block)
{
    if (doubles->count < HEAP_DOUBLES_NAMED)
        doubles->blocks[doubles->count] = block;
    doubles->count++;
}

void heap_doubles_report(struct kheap *heap, const struct heap_doubles *doubles)
{
    unsigned named = doubles->count < HEAP_DOUBLES_NAMED ? doubles->count : HEAP_DOUBLES_NAMED;

    for (unsigned i = 0; i < named; i++)
        heap_report_twice(heap, doubles->blocks[i]);
    if (doubles->count > named)
        mm_bug("kfree: %u more blocks were freed by two CPUs at once", doubles->count - named);
}

/* ---- coming home ---- */

/* A block comes home. Nobody else changes REMOTE: a free on another CPU wants ALLOCATED, and who settles a span
 * is its owner, or has the lock of one that is nobody's. So a plain load and a plain store do; a drain by
 * another slot is the exception above. */
static bool settle_state(uint8_t *state)
{
    if (__atomic_load_n(state, __ATOMIC_RELAXED) != KHEAP_BYTE_REMOTE)
        return false;
    __atomic_store_n(state, KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    return true;
}

static void settle_block_locked(struct kheap *heap, struct heap_span *span, unsigned index,
                                struct heap_doubles *doubles)
{
    if (settle_state(&span->states[index]))
        heap_span_put_locked(heap, span, index);
    else
        add_double(doubles, heap_block_address(span, index));
}

/* Those of one word of remote[] that are free now. */
static uint64_t settle_word(struct heap_span *span, unsigned word, struct heap_doubles *doubles)
{
    uint64_t home = 0, bits = span->remote[word];

    for (; bits != 0; bits &= bits - 1) {
        unsigned index = word * BITS_PER_WORD + bits_lowest(bits);
        if (settle_state(&span->states[index]))
            home |= bits & -bits;
        else
            add_double(doubles, heap_block_address(span, index));
    }
    span->remote[word] = 0;
    return home;
}

/* The remote blocks of a span go home; with the last one it ends. Until then it is the last one to be taken
 * from: the blocks that another CPU is freeing now are likely the ones behind these, and their states
 * share a cache line. */
static void settle_span_locked(struct kheap *heap, struct heap_span *span,
                               struct heap_doubles *doubles)
{
    uint64_t home[HEAP_FREE_WORDS];

    heap_list_remove(&span->pending);
    for (unsigned word = 0; word < HEAP_FREE_WORDS; word++)
        home[word] = span->remote[word] != 0 ? settle_word(span, word, doubles) : 0;
    heap_span_put_words_locked(heap, span, home);
}

bool heap_remote_settle_locked(struct kheap *heap, struct heap_cache *cache, unsigned most,
                               struct heap_doubles *doubles)
{
    for (; most > 0 && !heap_list_is_empty(&cache->pending); most--)
        settle_span_locked(heap, HEAP_OF(cache->pending.next, struct heap_span, pending), doubles);
    return !heap_list_is_empty(&cache->pending);
}

/* ---- reaching the span ---- */

/* The span that holds the block whose state byte that is, without records; NULL if it has ended. */
static struct heap_span *class_span_locked(const struct kheap *heap, vaddr_t block,
                                           const uint8_t *state, unsigned *index)
{
    struct heap_span *span = heap_span_at(heap, block);
    bool first;

    if (span == NULL || span->front.size_class >= KHEAP_CLASSES || span->guards != 0 ||
        !heap_block_index(span, block, index, &first) || !first || &span->states[*index] != state)
        return NULL;
    return span;
}

/* The same, if it may be `guess`, which may be NULL: blocks come in rows of one span. */
static struct heap_span *entry_span_locked(const struct kheap *heap, struct heap_span *guess,
                                           struct kheap_entry entry, unsigned *index)
{
    if (guess != NULL && entry.block - guess->front.base < guess->bytes) {
        uintptr_t number = (uintptr_t)entry.state - (uintptr_t)guess->states;
        *index = (unsigned)number;
        if (number < guess->front.blocks && heap_block_address(guess, *index) == entry.block)
            return guess;
    }
    return class_span_locked(heap, entry.block, entry.state, index);
}

/* A block that this or another slot has freed reaches its span.
 *   Returns:  its span if that is still there. */
static struct heap_span *deliver_locked(struct kheap *heap, struct heap_span *guess,
                                        struct kheap_entry entry, struct heap_doubles *doubles)
{
    unsigned index;
    struct heap_span *span = entry_span_locked(heap, guess, entry, &index);

    if (span == NULL) {
        add_double(doubles, entry.block); /* its span has ended */
        return NULL;
    }
    struct heap_cache *owner =
        span->front.owner < MM_PORT_SLOTS ? heap_cache_at(heap, span->front.owner) : NULL;
    if (owner == NULL) {
        settle_block_locked(heap, span, index, doubles);
        return NULL;
    }
    if (bits_test(span->remote, index)) { /* there already: this one is the second */
        add_double(doubles, entry.block);
        return span;
    }
    bits_set(span->remote, index);
    if (heap_list_is_empty(&span->pending))
        heap_list_add(owner->pending.prev, &span->pending);
    return span;
}

void heap_remote_deliver_locked(struct kheap *heap, struct heap_cache *cache, int32_t from,
                                uint32_t count, struct heap_doubles *doubles)
{
    struct heap_span *span = NULL;

    for (uint32_t i = 0; i < count; i++)
        span =
            deliver_locked(heap, span, heap_entry_at(&cache->remote, from + (int32_t)i), doubles);
}

/* The owner: its list of other slots' blocks is delivered. */
static void deliver_own_locked(struct kheap *heap, struct heap_cache *cache,
                               struct heap_doubles *doubles)
{
    uint32_t count = magazine_count_locked(&cache->remote.magazine);

    heap_remote_deliver_locked(heap, cache, cache->remote.magazine.floor, count, doubles);
    heap_entries_compact_locked(&cache->remote, count);
}

/* A block of another slot's span, KHEAP_BYTE_REMOTE now. */
static void add_remote(struct kheap *heap, struct heap_cache *cache, unsigned size_class,
                       struct kheap_entry entry)
{
    struct heap_doubles doubles;

    doubles.count = 0;
    if (size_class < KHEAP_CLASS_LARGE &&
        __atomic_load_n(&cache->remote.magazine.bottom, __ATOMIC_RELAXED) <
            __atomic_load_n(&cache->remote.magazine.limit, __ATOMIC_RELAXED)) {
        heap_entry_add(&cache->remote, entry);
        return;
    }
    uint64_t saved = mm_port_lock(&heap->lock);
    deliver_own_locked(heap, cache, &doubles);
    (void)deliver_locked(heap, NULL, entry, &doubles);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
}

/* ---- pins ---- */

struct heap_span *heap_pin(const struct kheap *heap, struct heap_cache *cache, vaddr_t address,
                           struct heap_span **before)
{
    struct heap_span *span = heap_span_at(heap, address);

    *before = NULL;
    if (cache == NULL)
        return span;
    *before = __atomic_load_n(&cache->pin, __ATOMIC_RELAXED);
    for (;;) {
        __atomic_store_n(&cache->pin, span, __ATOMIC_RELAXED);
        /* The compiler keeps store and load in order; the CPU need not, which is why who reuses a span
         * calls mm_port_cpu_barrier(). */
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        struct heap_span *now = heap_span_at(heap, address);
        if (now == span)
            return span;
        span = now;
    }
}

void heap_unpin(struct heap_cache *cache, struct heap_span *before)
{
    if (cache != NULL)
        __atomic_store_n(&cache->pin, before, __ATOMIC_RELEASE);
}

void heap_caches_forked_locked(struct kheap *heap)
{
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++)
        heap_unpin(heap_cache_at(heap, slot), NULL);
}

/* ---- freeing ---- */

bool heap_claim_state(uint8_t *state, uint8_t to)
{
    uint8_t found = __atomic_load_n(state, __ATOMIC_RELAXED);

    return heap_state_is_used(found) &&
           __atomic_compare_exchange_n(state, &found, to, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

/* Makes an allocated block of another slot's span KHEAP_BYTE_REMOTE: its state byte, or NULL. The span is
 * pinned. */
static uint8_t *claim_remote(struct heap_span *span, vaddr_t block, unsigned slot,
                             unsigned known_class)
{
    unsigned size_class = span->front.size_class;
    uint64_t index = kheap_exact_index(block - span->front.base, &span->front);
    uint8_t expected = KHEAP_BYTE_ALLOCATED;

    if (span->guards != 0 || size_class >= KHEAP_CLASS_LARGE ||
        (known_class != KHEAP_CLASSES && size_class != known_class) ||
        index >= span->front.blocks ||
        __atomic_load_n(&span->front.owner, __ATOMIC_RELAXED) == slot)
        return NULL;
    uint8_t *state = &span->states[index];
    return __atomic_compare_exchange_n(state, &expected, KHEAP_BYTE_REMOTE, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED)
               ? state
               : NULL;
}

bool heap_free_elsewhere(struct kheap *heap, struct kheap_cache *front, void *block,
                         unsigned known_class)
{
    if (front->slot >= MM_PORT_SLOTS)
        return false;
    struct heap_cache *cache = (struct heap_cache *)(void *)front;
    if (__atomic_load_n(&cache->remote.magazine.bottom, __ATOMIC_RELAXED) >=
        __atomic_load_n(&cache->remote.magazine.limit, __ATOMIC_RELAXED))
        return false;
    struct heap_span *before;
    struct heap_span *span = heap_pin(heap, cache, (uintptr_t)block, &before);
    uint8_t *state =
        span != NULL ? claim_remote(span, (uintptr_t)block, front->slot, known_class) : NULL;
    if (state != NULL) {
        mm_port_memory_freed(block, span->front.block_bytes);
        heap_entry_add(&cache->remote, (struct kheap_entry){ (uintptr_t)block, state });
    }
    heap_unpin(cache, before);
    return state != NULL;
}

/* With the lock, so that the span is what it seems: of the own slot, or for want of a cache. */
static bool free_locked(struct kheap *heap, struct heap_cache *cache, struct kheap_entry entry,
                        struct heap_doubles *doubles)
{
    unsigned index;
    struct heap_span *span = class_span_locked(heap, entry.block, entry.state, &index);

    if (span == NULL)
        return false;
    if (cache == NULL || span->front.owner != cache->front.slot) {
        if (!heap_claim_state(entry.state, KHEAP_BYTE_REMOTE))
            return false;
        mm_port_memory_freed((void *)entry.block, span->front.block_bytes);
        (void)deliver_locked(heap, NULL, entry, doubles);
        return true;
    }
    if (!heap_state_is_used(__atomic_load_n(entry.state, __ATOMIC_RELAXED)))
        return false;
    mm_port_memory_freed((void *)entry.block, span->front.block_bytes);
    __atomic_store_n(entry.state, KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    heap_keep_locked(heap, cache, span, index);
    return true;
}

bool heap_class_free(struct kheap *heap, unsigned slot, struct heap_cache *cache,
                     struct heap_span *span, vaddr_t block)
{
    unsigned index;
    bool first;

    if (!heap_block_index(span, block, &index, &first) || !first)
        return false;
    struct kheap_entry entry = { block, &span->states[index] };
    if (cache != NULL && __atomic_load_n(&span->front.owner, __ATOMIC_RELAXED) != slot) {
        if (!heap_claim_state(entry.state, KHEAP_BYTE_REMOTE))
            return false;
        mm_port_memory_freed((void *)block, span->front.block_bytes);
        add_remote(heap, cache, span->front.size_class, entry);
        return true;
    }
    struct heap_doubles doubles;
    doubles.count = 0;
    uint64_t saved = mm_port_lock(&heap->lock);
    bool done = free_locked(heap, cache, entry, &doubles);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
    return done;
}

/* ---- counting ---- */

void heap_remote_count_locked(const struct kheap *heap, const struct heap_cache *cache,
                              uint64_t *blocks, uint64_t *bytes)
{
    uint32_t count = magazine_count_locked(&cache->remote.magazine);

    for (uint32_t i = 0; i < count; i++) {
        struct kheap_entry entry =
            heap_entry_at(&cache->remote, cache->remote.magazine.floor + (int32_t)i);
        const struct heap_span *span = heap_span_at(heap, entry.block);
        *blocks += span != NULL;
        *bytes += span != NULL ? span->front.block_bytes : 0;
    }
    for (const struct heap_link *link = cache->pending.next; link != &cache->pending;
         link = link->next) {
        const struct heap_span *span = HEAP_OF(link, struct heap_span, pending);
        for (unsigned i = 0; i < HEAP_FREE_WORDS; i++) {
            *blocks += bits_count(span->remote[i]);
            *bytes += bits_count(span->remote[i]) * (uint64_t)span->front.block_bytes;
        }
    }
}
