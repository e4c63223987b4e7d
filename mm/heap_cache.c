/* SPDX-License-Identifier: MIT */
/* The caches of the slots: filling and emptying magazines, blocks that were freed elsewhere, draining.
 *
 *      owner of the span                          another slot
 *      kfree: ALLOCATED -> FREE, magazine         kfree: ALLOCATED -> REMOTE (locked), own list
 *      full magazine: half of it to its spans     full list, with the lock: bit in span->remote
 *      empty magazine, with the lock: each
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
 * Without a cache, nothing is pinned, and the lock is taken instead.
 *
 * A slot's spans become nobody's only by the slot's own call, or when it is over. Its magazines hold blocks
 * of its own spans; another slot may be handed one of these (steal_locked), and frees it as any of another
 * slot's: the owner is who may free with plain stores, whoever took the block. */
#include "mm/heap_parts.h"

#include "mm/bits.h"

#include <mm/port_slot.h>

#define ABSENT_MAGAZINE                                                                            \
    {                                                                                              \
        .magazine = MAGAZINE_ABSENT                                                                \
    }

struct kheap_cache heap_absent_cache = {
    .slot = KHEAP_NOBODY,
    .classes = { [0 ... KHEAP_CLASSES - 1] = ABSENT_MAGAZINE },
};

/* ---- making ---- */

#define CAPACITY_MOST 64u

/* Blocks that a magazine holds: enough that a program which takes some dozens of a size and frees them
 * again seldom needs the lock. Large ones keep their place meanwhile: what goes back to the buddy system is
 * cut anew, and worse each time. */
static uint32_t capacity_of(const struct kheap *heap, unsigned size_class)
{
    size_t bytes = kheap_class_bytes(size_class);
    uint32_t most = bytes <= 1024         ? CAPACITY_MOST
                    : bytes <= 2048       ? 32
                    : bytes <= 4096       ? 16
                    : bytes <= MM_KIB(16) ? 8
                                          : 4;

    return heap->small ? (most + 3) / 4 : most;
}

static uint64_t cache_bytes(const struct kheap *heap)
{
    uint64_t entries = 0;

    for (unsigned i = 0; i < KHEAP_CLASSES; i++)
        entries += capacity_of(heap, i);
    return sizeof(struct heap_cache) + entries * sizeof(struct kheap_entry);
}

static struct heap_cache *make_cache(struct kheap *heap, unsigned slot)
{
    struct heap_cache *cache = heap_state_alloc(heap, cache_bytes(heap));

    if (cache == NULL)
        return NULL;
    struct kheap_entry *entries = (struct kheap_entry *)(void *)(cache + 1);
    bool on = !__atomic_load_n(&heap->off, __ATOMIC_RELAXED);
    cache->front.slot = slot;
    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        magazine_init(&cache->front.classes[i].magazine, capacity_of(heap, i), on);
        cache->front.classes[i].entries = entries;
        entries += capacity_of(heap, i);
        heap_list_init(&cache->partial[i]);
        heap_list_init(&cache->full[i]);
    }
    heap_list_init(&cache->pending);
    magazine_init(&cache->remote.magazine, HEAP_REMOTE_MAX, on);
    cache->remote.entries = cache->remote_entries;
    uint64_t saved = mm_port_lock(&heap->lock);
    for (unsigned i = 0; i < KHEAP_CLASSES; i++) /* the switch may have been thrown since */
        magazine_switch_locked(&cache->front.classes[i].magazine, !heap->off);
    magazine_switch_locked(&cache->remote.magazine, !heap->off);
    __atomic_store_n(&heap->front.caches[slot], &cache->front, __ATOMIC_RELEASE);
    mm_port_unlock(&heap->lock, saved);
    return cache;
}

/* Only the slot itself makes its cache, so no two make the same. */
struct heap_cache *heap_cache_here(struct kheap *heap, unsigned slot)
{
    if (slot >= MM_PORT_SLOTS)
        return NULL;
    struct heap_cache *cache = heap_cache_at(heap, slot);
    return cache != NULL ? cache : make_cache(heap, slot);
}

/* ---- remote frees ---- */

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

/* `most` spans, the ones that have waited longest.
 *   Returns:  true if others are left. */
static bool settle_cache_locked(struct kheap *heap, struct heap_cache *cache, unsigned most,
                                struct heap_doubles *doubles)
{
    for (; most > 0 && !heap_list_is_empty(&cache->pending); most--)
        settle_span_locked(heap, HEAP_OF(cache->pending.next, struct heap_span, pending), doubles);
    return !heap_list_is_empty(&cache->pending);
}

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

/* ---- magazines, with the lock ---- */

/* The owner: leaves out the `drop` oldest entries and moves the others down. */
static void compact_locked(struct kheap_magazine *magazine, uint32_t drop)
{
    struct magazine *marks = &magazine->magazine;
    int32_t from = marks->floor + (int32_t)drop;
    int32_t count = __atomic_load_n(&marks->bottom, __ATOMIC_RELAXED) - from;
    struct kheap_entry *to = magazine->entries;
    const struct kheap_entry *at = to + from, *end = at + count;

    for (; from > 0 && at < end; at++, to++) {
        __atomic_store_n(&to->block, at->block, __ATOMIC_RELAXED);
        __atomic_store_n(&to->state, at->state, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&marks->bottom, count, __ATOMIC_RELEASE);
    magazine_set_floor_locked(marks, 0);
}

static struct kheap_entry entry_at(const struct kheap_magazine *magazine, int32_t at)
{
    return (struct kheap_entry){
        __atomic_load_n(&magazine->entries[at].block, __ATOMIC_RELAXED),
        __atomic_load_n(&magazine->entries[at].state, __ATOMIC_RELAXED),
    };
}

/* The owner. */
static void add_entry(struct kheap_magazine *magazine, struct kheap_entry entry)
{
    int32_t at = __atomic_load_n(&magazine->magazine.bottom, __ATOMIC_RELAXED);

    __atomic_store_n(&magazine->entries[at].block, entry.block, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->entries[at].state, entry.state, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->magazine.bottom, at + 1, __ATOMIC_RELEASE);
}

/* Blocks out of a magazine go back to their spans, which are often the same for some in a row. A span ends
 * with the last of its blocks, so none of it can follow. */
static void put_home_locked(struct kheap *heap, const struct kheap_magazine *magazine, int32_t from,
                            uint32_t count)
{
    const struct kheap_entry *at = &magazine->entries[from], *end = at + count;

    while (at < end) {
        struct heap_span *span = heap_span_at(heap, __atomic_load_n(&at->block, __ATOMIC_RELAXED));
        const struct kheap_entry *first = at;
        do {
            uint8_t *state = __atomic_load_n(&at->state, __ATOMIC_RELAXED);
            heap_span_mark_free_locked(span, (unsigned)(state - span->states));
            at++;
        } while (at < end &&
                 __atomic_load_n(&at->block, __ATOMIC_RELAXED) - span->front.base < span->bytes);
        heap_span_count_free_locked(heap, span, (unsigned)(at - first), false);
    }
}

static void empty_remote_locked(struct kheap *heap, struct heap_cache *cache, int32_t from,
                                uint32_t count, struct heap_doubles *doubles)
{
    struct heap_span *span = NULL;

    for (uint32_t i = 0; i < count; i++)
        span = deliver_locked(heap, span, entry_at(&cache->remote, from + (int32_t)i), doubles);
}

/* The owner: its list of other slots' blocks is delivered. */
static void deliver_own_locked(struct kheap *heap, struct heap_cache *cache,
                               struct heap_doubles *doubles)
{
    uint32_t count = magazine_count_locked(&cache->remote.magazine);

    empty_remote_locked(heap, cache, cache->remote.magazine.floor, count, doubles);
    compact_locked(&cache->remote, count);
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
        add_entry(&cache->remote, entry);
        return;
    }
    uint64_t saved = mm_port_lock(&heap->lock);
    deliver_own_locked(heap, cache, &doubles);
    (void)deliver_locked(heap, NULL, entry, &doubles);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
}

/* ---- freeing ---- */

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
        add_entry(&cache->remote, (struct kheap_entry){ (uintptr_t)block, state });
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

/* ---- filling ---- */

static void adopt_locked(struct kheap *heap, struct heap_cache *cache, struct heap_span *span)
{
    if (cache != NULL)
        __atomic_store_n(&span->front.owner, cache->front.slot, __ATOMIC_RELAXED);
    heap_span_file_locked(heap, span);
}

/* A span of the class with a block in it: own, nobody's, or new. */
static struct heap_span *find_span_locked(struct kheap *heap, struct heap_cache *cache,
                                          unsigned size_class, enum heap_effort effort,
                                          enum heap_need *need)
{
    struct heap_span *span;

    if (cache != NULL && !heap_list_is_empty(&cache->partial[size_class]))
        return HEAP_OF(cache->partial[size_class].next, struct heap_span, link);
    if (!heap_list_is_empty(&heap->spans[size_class]))
        span = HEAP_OF(heap->spans[size_class].next, struct heap_span, link);
    else
        span = heap_span_new_locked(heap, size_class, effort, need);
    if (span != NULL)
        adopt_locked(heap, cache, span);
    return span;
}

static struct kheap_entry take_from_locked(struct kheap *heap, struct heap_span *span)
{
    struct kheap_entry entry = { 0, NULL };
    unsigned taken = heap_span_take_locked(heap, span, &entry, 1);

    MM_ASSERT(taken == 1);
    (void)taken;
    return entry;
}

/* Half of the magazine, so that as many frees fit; the lowest address comes out first. */
static void fill_locked(struct kheap *heap, struct heap_cache *cache, unsigned size_class)
{
    struct kheap_magazine *magazine = &cache->front.classes[size_class];
    struct heap_link *spans = &cache->partial[size_class];
    unsigned count = 0, wanted = (unsigned)magazine->magazine.capacity / 2;
    struct kheap_entry entries[CAPACITY_MOST / 2];

    while (count < wanted && !heap_list_is_empty(spans))
        count += heap_span_take_locked(heap, HEAP_OF(spans->next, struct heap_span, link),
                                       &entries[count], wanted - count);
    int32_t bottom = __atomic_load_n(&magazine->magazine.bottom, __ATOMIC_RELAXED);
    for (struct kheap_entry *to = &magazine->entries[bottom]; count > 0; to++, bottom++) {
        count--;
        __atomic_store_n(&to->block, entries[count].block, __ATOMIC_RELAXED);
        __atomic_store_n(&to->state, entries[count].state, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&magazine->magazine.bottom, bottom, __ATOMIC_RELEASE);
}

static bool refill_locked(struct kheap *heap, struct heap_cache *cache, unsigned size_class,
                          enum heap_effort effort, struct kheap_entry *out, enum heap_need *need)
{
    if (cache != NULL) {
        struct kheap_magazine *magazine = &cache->front.classes[size_class];
        uint32_t count = magazine_count_locked(&magazine->magazine);
        if (count > 0) { /* it only looked empty */
            int32_t at = magazine->magazine.bottom - 1;
            *out = entry_at(magazine, at);
            __atomic_store_n(&magazine->magazine.bottom, at, __ATOMIC_RELEASE);
            return true;
        }
        compact_locked(magazine, 0);
    }
    struct heap_span *span = find_span_locked(heap, cache, size_class, effort, need);
    if (span == NULL)
        return false;
    *out = take_from_locked(heap, span);
    if (cache != NULL && !heap->off && size_class < KHEAP_CLASS_LARGE)
        fill_locked(heap, cache, size_class);
    return true;
}

static bool steal_locked(struct kheap *heap, unsigned size_class, struct kheap_entry *out)
{
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++) {
        struct heap_cache *cache = heap_cache_at(heap, slot);
        if (cache == NULL || heap_list_is_empty(&cache->partial[size_class]))
            continue;
        *out = take_from_locked(heap,
                                HEAP_OF(cache->partial[size_class].next, struct heap_span, link));
        return true;
    }
    return false;
}

/* Spans that are settled under one lock, with interrupts off: 0.6 us each. A million blocks that another CPU has
 * freed are some thousands of spans. */
#define SETTLE_MOST 64u

/* Takes the lock, and keeps it when the blocks that others have delivered are home. That ends: they are this
 * slot's, and it takes none meanwhile. */
static uint64_t lock_and_settle(struct kheap *heap, struct heap_cache *cache,
                                struct heap_doubles *doubles)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    while (cache != NULL && settle_cache_locked(heap, cache, SETTLE_MOST, doubles)) {
        mm_port_unlock(&heap->lock, saved);
        saved = mm_port_lock(&heap->lock);
    }
    return saved;
}

/* One search under one lock. HEAP_SCARCE: what all caches hold comes back and is used before anybody
 * else can take it, so that a search without success means that there was nothing. */
static bool search_class(struct kheap *heap, unsigned slot, unsigned size_class,
                         enum heap_effort effort, struct kheap_entry *out, enum heap_need *need)
{
    struct heap_cache *cache = heap_cache_here(heap, slot);
    struct heap_doubles doubles;

    doubles.count = 0;
    uint64_t saved = lock_and_settle(heap, cache, &doubles);
    if (effort == HEAP_SCARCE)
        heap_caches_drain_locked(heap, KHEAP_ALL_SLOTS, slot, &doubles);
    bool done = refill_locked(heap, cache, size_class, effort, out, need) ||
                (effort == HEAP_SCARCE && steal_locked(heap, size_class, out));
    if (done)
        __atomic_store_n(out->state, KHEAP_BYTE_ALLOCATED, __ATOMIC_RELAXED);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
    return done;
}

/* A block for the caller alone, KHEAP_BYTE_ALLOCATED, in any way there is; without the lock. */
bool heap_class_alloc(struct kheap *heap, unsigned slot, unsigned size_class,
                      struct kheap_entry *out)
{
    enum heap_effort effort = HEAP_USUAL;
    unsigned tries = 0;

    if (slot == MM_PORT_SHARED_SLOT)
        magazine_absent_reset(&heap_absent_cache.classes[size_class].magazine);
    for (;;) {
        enum heap_need need = HEAP_HAS_ALL;
        uint64_t moves = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE);
        if (search_class(heap, slot, size_class, effort, out, &need))
            return true;
        if (heap_supply(heap, need, heap_span_bytes_of(size_class)))
            continue;
        if (effort == HEAP_SCARCE && !heap_may_find_more(heap, moves, tries++))
            return false;
        effort = HEAP_SCARCE;
    }
}

/* ---- emptying ---- */

void heap_keep_locked(struct kheap *heap, struct heap_cache *cache, struct heap_span *span,
                      unsigned index)
{
    if (cache == NULL || heap->off) {
        heap_span_put_locked(heap, span, index);
        return;
    }
    struct kheap_magazine *magazine = &cache->front.classes[span->front.size_class];
    int32_t from = magazine->magazine.floor;
    uint32_t count = magazine_count_locked(&magazine->magazine);
    uint32_t drop = count >= (uint32_t)magazine->magazine.capacity ? (count + 1) / 2 : 0;
    struct kheap_entry entry = { heap_block_address(span, index), &span->states[index] };
    put_home_locked(heap, magazine, from, drop);
    compact_locked(magazine, drop);
    add_entry(magazine, entry);
}

/* Takes back, behind the barrier, what was in one cache. */
static void take_all_locked(struct kheap *heap, struct heap_cache *cache,
                            struct heap_doubles *doubles)
{
    int32_t from;
    uint32_t count;

    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        struct kheap_magazine *magazine = &cache->front.classes[i];
        count = magazine_take_end_locked(&magazine->magazine, &from);
        put_home_locked(heap, magazine, from, count);
    }
    count = magazine_take_end_locked(&cache->remote.magazine, &from);
    empty_remote_locked(heap, cache, from, count, doubles);
}

static void begin_taking_locked(struct heap_cache *cache)
{
    for (unsigned i = 0; i < KHEAP_CLASSES; i++)
        magazine_take_begin_locked(&cache->front.classes[i].magazine);
    magazine_take_begin_locked(&cache->remote.magazine);
}

/* The owner may be in the middle of a push there, but not of one of these blocks: whoever frees a block
 * of a span without any is wrong, and who loses his spans is not running. So what the owner stores
 * meanwhile is not what is looked for here, and stays. */
void heap_cache_forget_locked(struct kheap *heap, struct heap_span *span)
{
    if (span->front.owner >= MM_PORT_SLOTS || span->front.size_class >= KHEAP_CLASSES)
        return;
    struct kheap_magazine *magazine =
        &heap_cache_at(heap, span->front.owner)->front.classes[span->front.size_class];
    for (int32_t i = 0; i < magazine->magazine.capacity; i++) {
        uintptr_t block = __atomic_load_n(&magazine->entries[i].block, __ATOMIC_RELAXED);
        if (block - span->front.base < span->bytes)
            (void)__atomic_compare_exchange_n(&magazine->entries[i].block, &block, 0, false,
                                              __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
}

static void disown_list_locked(struct kheap *heap, struct heap_link *list)
{
    while (!heap_list_is_empty(list)) {
        struct heap_span *span = HEAP_OF(list->next, struct heap_span, link);
        heap_cache_forget_locked(heap, span);
        __atomic_store_n(&span->front.owner, KHEAP_NO_OWNER, __ATOMIC_RELAXED);
        if (span->free_count == span->front.blocks)
            heap_span_end_locked(heap, span);
        else
            heap_span_file_locked(heap, span);
    }
}

static void end_if_spare_locked(struct kheap *heap, const struct heap_link *head,
                                struct heap_link *link)
{
    struct heap_span *span = HEAP_OF(link, struct heap_span, link);

    if (link != head && span->free_count == span->front.blocks &&
        heap_list_is_empty(&span->pending))
        heap_span_end_locked(heap, span);
}

/* A span that was left to its owner, being the only one with blocks, was alone in the list. Spans to which the
 * owner gave blocks back came in front of it, those to which another CPU did behind it; between some of both
 * it is not looked for. */
void heap_cache_empty_class_locked(struct kheap *heap, struct heap_cache *cache,
                                   unsigned size_class)
{
    struct kheap_magazine *magazine = &cache->front.classes[size_class];
    struct heap_link *head = &cache->partial[size_class];
    uint32_t count = magazine_count_locked(&magazine->magazine);

    end_if_spare_locked(heap, head, head->next);
    put_home_locked(heap, magazine, magazine->magazine.floor, count);
    compact_locked(magazine, count);
    end_if_spare_locked(heap, head, head->prev);
}

/* Spans that are wholly free end; with `disown` all others become nobody's. */
static void release_spans_locked(struct kheap *heap, struct heap_cache *cache, bool disown)
{
    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        struct heap_link *head = &cache->partial[i];
        for (struct heap_link *link = head->next, *next; link != head; link = next) {
            struct heap_span *span = HEAP_OF(link, struct heap_span, link);
            next = link->next;
            if (span->free_count == span->front.blocks)
                heap_span_end_locked(heap, span);
        }
        if (disown) {
            disown_list_locked(heap, &cache->full[i]);
            disown_list_locked(heap, &cache->partial[i]);
        }
    }
}

static bool is_meant(const struct kheap *heap, unsigned slot, unsigned i)
{
    return (slot == KHEAP_ALL_SLOTS || slot == i) && heap_cache_at(heap, i) != NULL;
}

void heap_caches_drain_locked(struct kheap *heap, unsigned slot, unsigned own_slot,
                              struct heap_doubles *doubles)
{
    for (unsigned i = 0; i < MM_PORT_SLOTS; i++)
        if (is_meant(heap, slot, i))
            begin_taking_locked(heap_cache_at(heap, i));
    mm_port_cpu_barrier();
    heap_span_memory_reuse_locked(heap);
    for (unsigned i = 0; i < MM_PORT_SLOTS; i++)
        if (is_meant(heap, slot, i))
            take_all_locked(heap, heap_cache_at(heap, i), doubles);
    for (unsigned i = 0; i < MM_PORT_SLOTS; i++) {
        if (!is_meant(heap, slot, i))
            continue;
        (void)settle_cache_locked(heap, heap_cache_at(heap, i), UINT32_MAX, doubles);
        release_spans_locked(heap, heap_cache_at(heap, i), slot == i || own_slot == i);
    }
}

void heap_caches_drain(struct kheap *heap, unsigned slot, unsigned own_slot)
{
    struct heap_doubles doubles;
    uint64_t saved = mm_port_lock(&heap->lock);

    doubles.count = 0;
    heap_caches_drain_locked(heap, slot, own_slot, &doubles);
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
    heap_shrink(heap, 0);
}

void heap_caches_switch_locked(struct kheap *heap, bool off, struct heap_doubles *doubles)
{
    __atomic_store_n(&heap->off, off, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < MM_PORT_SLOTS; i++) {
        struct heap_cache *cache = heap_cache_at(heap, i);
        for (unsigned j = 0; cache != NULL && j < KHEAP_CLASSES; j++)
            magazine_switch_locked(&cache->front.classes[j].magazine, !off);
        if (cache != NULL)
            magazine_switch_locked(&cache->remote.magazine, !off);
    }
    if (!off)
        return;
    mm_port_cpu_barrier();
    for (unsigned i = 0; i < MM_PORT_SLOTS; i++)
        if (heap_cache_at(heap, i) != NULL)
            take_all_locked(heap, heap_cache_at(heap, i), doubles);
}

/* ---- counting ---- */

static void count_remote_locked(const struct kheap *heap, const struct heap_cache *cache,
                                uint64_t *blocks, uint64_t *bytes)
{
    uint32_t count = magazine_count_locked(&cache->remote.magazine);

    for (uint32_t i = 0; i < count; i++) {
        struct kheap_entry entry =
            entry_at(&cache->remote, cache->remote.magazine.floor + (int32_t)i);
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

void heap_cached_locked(const struct kheap *heap, uint64_t *blocks, uint64_t *bytes)
{
    *blocks = *bytes = 0;
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++) {
        const struct heap_cache *cache = heap_cache_at(heap, slot);
        if (cache == NULL)
            continue;
        for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
            uint64_t count = magazine_count_locked(&cache->front.classes[i].magazine);
            *blocks += count;
            *bytes += count * kheap_class_bytes(i);
        }
        count_remote_locked(heap, cache, blocks, bytes);
    }
}
