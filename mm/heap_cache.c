/* SPDX-License-Identifier: MIT */
/* The caches of the slots: making, filling and emptying magazines, draining.
 *
 *      span's free blocks --half a magazine--> magazine --kmalloc--> used
 *             ^------------ its older half, when full, <--kfree---------'      by the owner of the span
 *
 * What another slot frees is heap_remote.c's: it comes home when the owner finds its magazine empty, or in
 * a drain.
 *
 * A slot's spans become nobody's only by the slot's own call, or when it is over. Its magazines hold blocks
 * of its own spans; another slot may be handed one of these (steal_locked), and frees it as any of another
 * slot's: the owner is who may free with plain stores, whoever took the block.
 *
 * Another CPU takes back what a magazine holds by the protocol of <mm/magazine.h>, with the lock. */
#include "mm/heap_parts.h"

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

/* ---- magazines, with the lock ---- */

void heap_entries_compact_locked(struct kheap_magazine *magazine, uint32_t drop)
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
            *out = heap_entry_at(magazine, at);
            __atomic_store_n(&magazine->magazine.bottom, at, __ATOMIC_RELEASE);
            return true;
        }
        heap_entries_compact_locked(magazine, 0);
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

    while (cache != NULL && heap_remote_settle_locked(heap, cache, SETTLE_MOST, doubles)) {
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
    heap_entries_compact_locked(magazine, drop);
    heap_entry_add(magazine, entry);
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
    heap_remote_deliver_locked(heap, cache, from, count, doubles);
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
    heap_entries_compact_locked(magazine, count);
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
        (void)heap_remote_settle_locked(heap, heap_cache_at(heap, i), UINT32_MAX, doubles);
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
        heap_remote_count_locked(heap, cache, blocks, bytes);
    }
}
