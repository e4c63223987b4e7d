/* SPDX-License-Identifier: MIT */
/* The calls of the kernel heap: fast paths first, what they leave over behind.
 *
 *      bytes      up to 64 KiB   size class: the slot's cache, no lock (kheap_fast.h, heap_cache.c)
 *                 up to 1 MiB    a run of pages of a chunk's buddy system, with the lock
 *                 more           pages of its own (heap_large.c)
 *
 * At the full level, while call sites are recorded, while faults are injected or calls are logged, the
 * caches look empty and full: everything comes through heap_slow_alloc() and heap_slow_free().
 *
 * A free is checked against the state byte of its block before anything changes. Zeroing and log lines
 * come when the block is its caller's alone. */
#include <mm/hhdm.h>
#include <mm/kheap.h>
#include <mm/log.h>

#include "mm/context.h"
#include "mm/heap_parts.h"

#include <mm/port_slot.h>

/* Stands in until there is a default heap: every cache is absent, no address is inside. */
static struct kheap_front no_heap = {
    .caches = { [0 ... MM_PORT_SLOT_TABLE - 1] = &heap_absent_cache },
};
struct kheap_front *kheap_default_front = &no_heap;

static struct kheap *heap_of(struct kheap_front *front)
{
    return front == &no_heap ? NULL : (struct kheap *)(void *)front;
}

/* ---- creating ---- */

mm_status_t kheap_init(void *base, size_t bytes, struct address_space *space, struct kheap **out)
{
    if (!mm_is_aligned((uintptr_t)base | bytes, MAX_BLOCK_SIZE))
        return MM_NOT_ALIGNED;
    if (base == NULL || bytes == 0)
        return MM_INVALID_ARGUMENT;
    struct heap_memory_config config = {
        .first = base,
        .first_bytes = bytes,
        .base = (uintptr_t)base,
        .bytes = bytes,
        .space = space,
    };
    return heap_memory_create(&config, out);
}

mm_status_t kheap_create(const struct kheap_config *config, struct kheap **out)
{
    struct heap_memory_config memory = {
        .first = config->first,
        .first_bytes = config->first_bytes,
        .first_is_zero = config->first_is_zero,
        .space = config->space,
        .source = { .pmm = config->pmm, .kvm = config->kvm, .lender = config->lender },
        .find_symbol = config->find_symbol,
        .base = config->base,
        .bytes = config->bytes,
    };
    mm_status_t status = heap_memory_create(&memory, out);

    if (status == MM_OK)
        (void)heap_cache_here(*out, mm_port_cpu_slot());
    return status;
}

/* ---- allocating ---- */

MM_COLD static void report_exhausted(struct kheap *heap, size_t bytes, const char *reason)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    heap->failed++;
    mm_port_unlock(&heap->lock, saved);
    if (heap->source.pmm == NULL && bytes > MAX_BLOCK_SIZE)
        mm_error("kmalloc of %lu bytes: more than the largest block, %lu bytes", bytes,
                 MAX_BLOCK_SIZE);
    else
        mm_error("kmalloc of %lu bytes: %s (largest free block: %lu bytes)", bytes, reason,
                 kheap_stats(heap).largest_free_block);
}

/* One search of the chunks under one lock; HEAP_SCARCE as in heap_cache.c. */
static struct heap_span *search_chunks(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                       enum heap_effort effort, enum heap_need *need, bool *zeroed)
{
    struct heap_doubles doubles;
    struct heap_span *span = NULL;
    uint64_t saved = mm_port_lock(&heap->lock);

    doubles.count = 0;
    if (effort == HEAP_SCARCE)
        heap_caches_drain_locked(heap, KHEAP_ALL_SLOTS, mm_port_cpu_slot(), &doubles);
    uint64_t offset = heap_run_take_locked(heap, bytes, align_bytes, effort, zeroed);
    if (offset == HEAP_NO_OFFSET) {
        *need = HEAP_NEEDS_PAGES;
    } else {
        span = heap_run_span_locked(heap, offset, bytes, heap->front.base + offset, effort, need);
        if (span == NULL)
            heap_run_give_locked(heap, offset, bytes);
    }
    mm_port_unlock(&heap->lock, saved);
    heap_doubles_report(heap, &doubles);
    return span;
}

/* Pages of a chunk, in any way there is, as heap_class_alloc(). */
static struct heap_span *run_in_chunks(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                       bool *zeroed)
{
    enum heap_effort effort = HEAP_USUAL;
    unsigned tries = 0;

    for (;;) {
        enum heap_need need = HEAP_HAS_ALL;
        uint64_t moves = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE);
        struct heap_span *span = search_chunks(heap, bytes, align_bytes, effort, &need, zeroed);
        if (span != NULL)
            return span;
        if (heap_supply(heap, need, bytes > align_bytes ? bytes : align_bytes))
            continue;
        if (effort == HEAP_SCARCE && !heap_may_find_more(heap, moves, tries++))
            return NULL;
        effort = HEAP_SCARCE;
    }
}

struct heap_span *heap_run_span(struct kheap *heap, uint64_t offset, uint64_t bytes, uint64_t base)
{
    enum heap_effort effort = HEAP_USUAL;

    for (;;) {
        enum heap_need need = HEAP_HAS_ALL;
        uint64_t saved = mm_port_lock(&heap->lock);
        struct heap_span *span = heap_run_span_locked(heap, offset, bytes, base, effort, &need);
        mm_port_unlock(&heap->lock, saved);
        if (span != NULL)
            return span;
        if (heap_supply(heap, need, bytes))
            continue;
        if (effort == HEAP_SCARCE)
            return NULL;
        effort = HEAP_SCARCE;
    }
}

/* Pages of their own. */
static struct heap_span *take_large(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                    bool *zeroed, uint64_t *moves)
{
    uint64_t offset;

    if (!heap_large_take(heap, bytes, align_bytes, &offset, zeroed, moves))
        return NULL;
    struct heap_span *span =
        heap_run_span(heap, offset, bytes, mm_round_up(heap->front.base + offset, align_bytes));
    if (span == NULL) {
        heap_large_give(heap, offset, bytes);
        ++*moves;
        return NULL;
    }
    span->own_chunks = true;
    return span;
}

bool heap_gather_pages(struct kheap *heap, uint64_t moves, unsigned *tries)
{
    heap_caches_drain(heap, KHEAP_ALL_SLOTS, mm_port_cpu_slot());
    bool came = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE) != moves;
    *tries += came ? HEAP_TRIES_MAX / HEAP_TRIES_LARGE : 1;
    return heap_may_find_more(heap, moves, *tries);
}

/* Addresses of a window are aligned when they are chosen, frames by their physical address: there a place to
 * shift the block is taken besides. */
static struct heap_span *run_of_its_own(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                        bool *zeroed)
{
    bool is_placed = heap->source.kvm != NULL || mm_is_aligned(heap->front.base, align_bytes);
    uint64_t all = is_placed ? bytes : bytes + align_bytes;
    uint64_t moves;
    unsigned tries = 0;

    do {
        moves = __atomic_load_n(&heap->moves, __ATOMIC_ACQUIRE);
        struct heap_span *span = take_large(heap, all, align_bytes, zeroed, &moves);
        if (span != NULL)
            return span;
    } while (heap_gather_pages(heap, moves, &tries));
    return NULL;
}

struct heap_span *heap_run_alloc(struct kheap *heap, size_t bytes, size_t align_bytes,
                                 uint8_t state, bool *zeroed)
{
    uint64_t run = mm_round_up(bytes, PAGE_SIZE);
    uint64_t align = align_bytes < PAGE_SIZE ? PAGE_SIZE : align_bytes;
    bool fits =
        run <= MAX_BLOCK_SIZE && align <= MAX_BLOCK_SIZE && mm_is_aligned(heap->front.base, align);
    struct heap_span *span = NULL;

    if (bytes > heap->front.bytes || run < bytes)
        return NULL;
    if (!fits || heap_guard_wants_pages(heap))
        span = run_of_its_own(heap, run, align, zeroed);
    /* Chunks that hold anything else do not go back: their free pages may be all that is left. */
    if (span == NULL && fits)
        span = run_in_chunks(heap, run, align, zeroed);
    if (span == NULL)
        return NULL;
    span->align = align_bytes;
    uint64_t saved = mm_port_lock(&heap->lock);
    heap->run_blocks++;
    heap->run_bytes += heap_span_room(span);
    mm_port_unlock(&heap->lock, saved);
    __atomic_store_n(&span->states[0], state, __ATOMIC_RELEASE);
    return span;
}

static void *run_block(struct kheap *heap, size_t bytes, size_t align_bytes, bool clear)
{
    bool zeroed = false;
    uint8_t state = align_bytes > 16 ? KHEAP_BYTE_ALIGNED : KHEAP_BYTE_ALLOCATED;
    struct heap_span *span = heap_run_alloc(heap, bytes, align_bytes, state, &zeroed);

    if (span == NULL)
        return NULL;
    void *block = (void *)span->front.base;
    uint64_t room = heap_span_room(span);
    mm_port_memory_allocated(block, room);
    if (clear && !zeroed)
        memset(block, 0, room);
    return block;
}

static void *class_block(struct kheap *heap, unsigned slot, unsigned size_class, uint8_t state,
                         bool clear)
{
    struct kheap_entry entry;

    if (!heap_class_alloc(heap, slot, size_class, &entry))
        return NULL;
    __atomic_store_n(entry.state, state, __ATOMIC_RELAXED);
    void *block = (void *)(entry.block & ~(uintptr_t)1);
    mm_port_memory_allocated(block, kheap_class_bytes(size_class));
    if (clear && (entry.block & 1) == 0)
        kheap_clear_class(block, size_class);
    return block;
}

/* The class whose blocks are aligned so, or KHEAP_CLASSES. */
static unsigned class_aligned(size_t bytes, size_t align_bytes)
{
    if (bytes > KHEAP_CLASS_MOST || align_bytes > PAGE_SIZE)
        return KHEAP_CLASSES;
    unsigned size_class = kheap_class_of(bytes);
    while (size_class < KHEAP_CLASSES && !mm_is_aligned(kheap_class_bytes(size_class), align_bytes))
        size_class++;
    return size_class;
}

/* What an interrupt handler could not give back goes now. */
static void shrink_if_due(struct kheap *heap)
{
    if (__atomic_load_n(&heap->shrink_due, __ATOMIC_RELAXED))
        heap_shrink(heap, 0);
}

void *heap_slow_alloc(struct kheap *heap, size_t bytes, size_t align_bytes, bool clear,
                      vaddr_t site)
{
    unsigned slot = mm_port_cpu_slot();
    void *block = NULL;

    if (bytes == 0 || context_is_forbidden("kmalloc") || heap == NULL)
        return NULL;
    if (heap_fault_is_due(heap, bytes, site)) {
        report_exhausted(heap, bytes, "failure injected");
        return NULL;
    }
    unsigned size_class = class_aligned(bytes, align_bytes);
    uint8_t state = align_bytes > 16 ? KHEAP_BYTE_ALIGNED : KHEAP_BYTE_ALLOCATED;
    if (__atomic_load_n(&heap->guards, __ATOMIC_RELAXED) != 0)
        block = heap_guard_alloc(heap, bytes, align_bytes, clear, site);
    else if (size_class < KHEAP_CLASSES)
        block = class_block(heap, slot, size_class, state, clear);
    else
        block = run_block(heap, bytes, align_bytes, clear);
    if (block == NULL)
        report_exhausted(heap, bytes, "out of memory");
    else
        mm_debug("heap: allocated %lu bytes at 0x%lx", bytes, (uintptr_t)block);
    shrink_if_due(heap);
    return block;
}

/* The class of up to 1 KiB, by sixteen bytes: one load, where kheap_class_of() has a branch and a bit
 * scan. */
#define CLASS_TABLE_MOST 1024u

static const uint8_t class_table[CLASS_TABLE_MOST / 16] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18, 18,
    19, 19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 24, 24, 25, 25, 25, 25, 26, 26, 26, 26,
    27, 27, 27, 27, 28, 28, 28, 28, 29, 29, 29, 29, 30, 30, 30, 30, 31, 31, 31, 31,
};

/* kheap_class_of() of what is no constant: 1 ... KHEAP_CLASS_MOST.
 *   A bit scan waits for the old value of the register that it writes, whatever that was for (SDM vol.
 *   2, BSR: unchanged if there is no bit), and so for what the call before has loaded last; 0 waits for
 *   nothing. */
static inline unsigned class_of(size_t bytes)
{
    uint64_t last = bytes - 1, power = 0;

    if (__builtin_expect(last < CLASS_TABLE_MOST, 1))
        return class_table[last >> 4];
    __asm__("bsrq %1, %0" : "+r"(power) : "r"(last) : "cc");
    return (unsigned)((power - 7) * 8 + (last >> (power - 3)));
}

/* What the caches have, or NULL. Who calls heap_slow_alloc() then looks up where the call came from, so that
 * it takes no register here. */
static inline __attribute__((always_inline)) void *alloc_cached(struct kheap_front *front,
                                                                size_t bytes, bool clear)
{
    void *block;
    bool zeroed;

    if (__builtin_expect(bytes - 1 >= KHEAP_CLASS_MOST, 0))
        return NULL;
    unsigned size_class = class_of(bytes);
    struct kheap_cache *cache = kheap_cache_here(front);
    if (__builtin_expect(!kheap_pop(cache, size_class, &block, &zeroed), 0))
        return NULL;
    cache->last = block;
    cache->last_class = size_class;
    if (clear && !zeroed)
        kheap_clear_class(block, size_class);
    return block;
}

void *heap_alloc(struct kheap *heap, size_t bytes, bool clear, vaddr_t site)
{
    void *block = alloc_cached(&heap->front, bytes, clear);

    return block != NULL ? block : heap_slow_alloc(heap, bytes, 1, clear, site);
}

void *kheap_alloc(struct kheap *heap, size_t bytes)
{
    void *block = alloc_cached(&heap->front, bytes, true);

    return block != NULL ? block : heap_slow_alloc(heap, bytes, 1, true, HEAP_CALL_SITE);
}

void *kheap_alloc_nozero(struct kheap *heap, size_t bytes)
{
    void *block = alloc_cached(&heap->front, bytes, false);

    return block != NULL ? block : heap_slow_alloc(heap, bytes, 1, false, HEAP_CALL_SITE);
}

static void *alloc_aligned(struct kheap *heap, size_t bytes, size_t align_bytes, vaddr_t site)
{
    if (!mm_is_power_of_two(align_bytes) || align_bytes > KHEAP_ALIGN_MAX)
        return NULL;
    return heap_slow_alloc(heap, bytes, align_bytes, true, site);
}

void *kheap_alloc_aligned(struct kheap *heap, size_t bytes, size_t align_bytes)
{
    return alloc_aligned(heap, bytes, align_bytes, HEAP_CALL_SITE);
}

/* ---- freeing ---- */

/* Another CPU that frees the same block at this moment may have been first, and the span may be another
 * run's meanwhile: nothing that was read of it before the lock is believed. */
static bool run_is_right_locked(const struct kheap *heap, struct heap_span *span, vaddr_t base,
                                bool claimed)
{
    if (heap_span_at(heap, base) != span || span->front.size_class != HEAP_CLASS_RUN ||
        span->front.base != base || (span->guards != 0) != claimed)
        return false;
    if (!claimed)
        return heap_claim_state(&span->states[0], KHEAP_BYTE_FREE);
    __atomic_store_n(&span->states[0], KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    return true;
}

bool heap_run_free(struct kheap *heap, struct heap_span *span, vaddr_t base, bool claimed)
{
    uint64_t offset = 0, bytes = 0;
    bool own_chunks = false, put_off = false;
    uint64_t saved = mm_port_lock(&heap->lock);
    bool right = run_is_right_locked(heap, span, base, claimed);

    if (right) {
        uint64_t room = heap_span_room(span);
        offset = span->run;
        bytes = span->bytes;
        own_chunks = span->own_chunks;
        mm_port_memory_freed((void *)base, room);
        heap->run_blocks--;
        heap->run_bytes -= room;
        put_off = own_chunks && !heap_slot_is_thread(mm_port_cpu_slot());
        if (put_off)
            heap_large_put_off_locked(heap, span);
        else
            heap_span_end_locked(heap, span);
    }
    mm_port_unlock(&heap->lock, saved);
    if (right && own_chunks && !put_off)
        heap_large_give(heap, offset, bytes);
    return right;
}

static bool size_is_right(const struct heap_span *span, unsigned index, size_t bytes)
{
    if (bytes == 0)
        return false;
    if (__atomic_load_n(&span->states[index], __ATOMIC_RELAXED) == KHEAP_BYTE_ALIGNED)
        return bytes <= heap_span_room(span);
    if (span->front.size_class == HEAP_CLASS_RUN)
        return bytes > KHEAP_CLASS_MOST && bytes <= heap_span_room(span);
    return bytes <= KHEAP_CLASS_MOST && kheap_class_of(bytes) == span->front.size_class;
}

/* Wholly free memory goes back where it came from, all but some. */
static void shrink_if_much(struct kheap *heap)
{
    shrink_if_due(heap);
    if (__atomic_load_n(&heap->spare_chunks, __ATOMIC_RELAXED) > HEAP_SPARE_CHUNKS)
        heap_shrink(heap, HEAP_SPARE_CHUNKS);
}

/* `sized`: the caller says that it asked for `bytes`. `span` is pinned. */
static void free_in_span(struct kheap *heap, unsigned slot, struct heap_cache *cache,
                         struct heap_span *span, void *address, bool sized, size_t bytes,
                         vaddr_t site)
{
    unsigned index = 0;
    bool first = false;
    bool right = span != NULL && heap_block_index(span, (uintptr_t)address, &index, &first);

    if (right && span->guards != 0) {
        heap_guard_free(heap, span, address, sized, bytes, site);
        return;
    }
    right = right && first;
    uint64_t room = right ? heap_span_room(span) : 0; /* the span may be gone afterwards */
    if (right && sized && !size_is_right(span, index, bytes)) {
        mm_bug("kfree_sized of 0x%lx with %lu bytes, which is a block of %lu", (uintptr_t)address,
               bytes, room);
        return;
    }
    if (right)
        right = span->front.size_class == HEAP_CLASS_RUN
                    ? heap_run_free(heap, span, (uintptr_t)address, false)
                    : heap_class_free(heap, slot, cache, span, (uintptr_t)address);
    if (!right)
        heap_report_wrong(heap, "kfree", address);
    else
        mm_debug("heap: freed %lu bytes at 0x%lx", room, (uintptr_t)address);
}

/* A slot that only frees gets its cache with the first block that it would keep there. */
static struct heap_cache *cache_to_free(struct kheap *heap, unsigned slot, vaddr_t address)
{
    const struct heap_span *span = heap_span_at(heap, address);
    bool keeps = span != NULL && span->front.size_class < KHEAP_CLASSES && span->guards == 0;

    if (slot >= MM_PORT_SLOTS)
        return NULL;
    return keeps ? heap_cache_here(heap, slot) : heap_cache_at(heap, slot);
}

void heap_slow_free(struct kheap *heap, void *address, bool sized, size_t bytes, vaddr_t site)
{
    unsigned slot = mm_port_cpu_slot();
    struct heap_span *before;

    if (address == NULL || context_is_forbidden("kfree"))
        return;
    if (heap == NULL) {
        mm_bug("kfree of 0x%lx before there is a heap", (uintptr_t)address);
        return;
    }
    struct heap_cache *cache = cache_to_free(heap, slot, (uintptr_t)address);
    struct heap_span *span = heap_pin(heap, cache, (uintptr_t)address, &before);
    free_in_span(heap, slot, cache, span, address, sized, bytes, site);
    heap_unpin(cache, before);
    shrink_if_much(heap);
}

/* False for what the cache does not take. */
static inline __attribute__((always_inline)) bool free_cached(struct kheap_front *front,
                                                              void *block)
{
    unsigned slot = mm_port_slot();
    struct kheap_cache *cache = kheap_cache_of(front, slot);

    if (__atomic_load_n(&cache->last, __ATOMIC_RELAXED) == block &&
        kheap_push_again(cache, block, cache->last_class))
        return true;
    return kheap_push(front, slot, cache, block, KHEAP_CLASSES);
}

/* Blocks of other slots' spans, and all that needs more. */
static __attribute__((noinline)) void free_other(struct kheap_front *front, void *block,
                                                 vaddr_t site)
{
    if (!heap_free_elsewhere(heap_of(front), kheap_cache_here(front), block, KHEAP_CLASSES))
        heap_slow_free(heap_of(front), block, false, 0, site);
}

void heap_free(struct kheap *heap, void *block, vaddr_t site)
{
    if (__builtin_expect(!free_cached(&heap->front, block), 0))
        free_other(&heap->front, block, site);
}

void kheap_free(struct kheap *heap, void *block)
{
    if (__builtin_expect(!free_cached(&heap->front, block), 0))
        free_other(&heap->front, block, HEAP_CALL_SITE);
}

/* ---- sizes ---- */

static bool find_in_span(struct kheap *heap, vaddr_t address, struct heap_found *out)
{
    bool first;

    if (out->span == NULL || !heap_block_index(out->span, address, &out->index, &first))
        return false;
    if (out->span->guards != 0)
        return heap_guard_find(heap, address, out);
    out->room = heap_span_room(out->span);
    out->front = 0;
    return first &&
           heap_state_is_used(__atomic_load_n(&out->span->states[out->index], __ATOMIC_RELAXED));
}

bool heap_find_block(struct kheap *heap, const void *address, struct heap_found *out)
{
    unsigned slot = mm_port_cpu_slot();

    out->cache = slot < MM_PORT_SLOTS ? heap_cache_at(heap, slot) : NULL;
    out->span = heap_pin(heap, out->cache, (uintptr_t)address, &out->before);
    bool found = find_in_span(heap, (uintptr_t)address, out);
    if (!found)
        heap_let_go(out);
    return found;
}

void heap_let_go(const struct heap_found *block)
{
    heap_unpin(block->cache, block->before);
}

size_t kheap_size(struct kheap *heap, const void *address)
{
    struct heap_found found;

    if (heap_find_block(heap, address, &found)) {
        heap_let_go(&found);
        return found.room;
    }
    heap_report_wrong(heap, "size", address);
    return 0;
}

/* ---- physical addresses ---- */

static mm_status_t translate(const struct kheap *heap, const uint8_t *address, paddr_t *out)
{
    if (heap->space != NULL)
        return paging_translate(heap->space, (uintptr_t)address, out);
    *out = virt_to_phys(address);
    return MM_OK;
}

/* True if all bytes lie in one allocated block. */
static bool is_in_block(struct kheap *heap, vaddr_t address, size_t bytes)
{
    struct kheap_peek peek;

    return kheap_peek(heap, address, &peek) && peek.what == KHEAP_USED &&
           bytes <= peek.asked - (address - peek.start);
}

mm_status_t kheap_to_phys(struct kheap *heap, const void *address, size_t bytes, paddr_t *out)
{
    const uint8_t *first = address;
    paddr_t base, next;

    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    if (!is_in_block(heap, (uintptr_t)address, bytes))
        return MM_INVALID_ADDRESS;
    mm_status_t status = translate(heap, first, &base);
    for (size_t at = PAGE_SIZE - ((uintptr_t)address & (PAGE_SIZE - 1));
         status == MM_OK && at < bytes; at += PAGE_SIZE) {
        status = translate(heap, first + at, &next);
        if (status == MM_OK && next != base + at)
            status = MM_NOT_CONTIGUOUS;
    }
    if (status == MM_OK)
        *out = base;
    return status;
}

/* ---- the default heap ---- */

static struct kheap_front *default_front(void)
{
    return __atomic_load_n(&kheap_default_front, __ATOMIC_ACQUIRE);
}

void kheap_set_default(struct kheap *heap)
{
    __atomic_store_n(&kheap_default_front, heap != NULL ? &heap->front : &no_heap,
                     __ATOMIC_RELEASE);
}

struct kheap *kheap_default(void)
{
    return heap_of(default_front());
}

void *(kmalloc)(size_t bytes)
{
    struct kheap_front *front = default_front();
    void *block = alloc_cached(front, bytes, true);

    return block != NULL ? block : heap_slow_alloc(heap_of(front), bytes, 1, true, HEAP_CALL_SITE);
}

void *kmalloc_nozero(size_t bytes)
{
    struct kheap_front *front = default_front();
    void *block = alloc_cached(front, bytes, false);

    return block != NULL ? block : heap_slow_alloc(heap_of(front), bytes, 1, false, HEAP_CALL_SITE);
}

void *kmalloc_aligned(size_t bytes, size_t align_bytes)
{
    return alloc_aligned(kheap_default(), bytes, align_bytes, HEAP_CALL_SITE);
}

void kfree(void *block)
{
    struct kheap_front *front = default_front();

    if (__builtin_expect(!free_cached(front, block), 0))
        free_other(front, block, HEAP_CALL_SITE);
}

/* What no span has: the fast path leaves the block to the slow one. */
#define NO_CLASS UINT32_MAX

static void free_sized(struct kheap_front *front, void *block, size_t bytes, vaddr_t site)
{
    unsigned size_class = bytes - 1 < KHEAP_CLASS_MOST ? kheap_class_of(bytes) : NO_CLASS;

    unsigned slot = mm_port_slot();
    struct kheap_cache *cache = kheap_cache_of(front, slot);
    if (__builtin_expect(!kheap_push(front, slot, cache, block, size_class), 0) &&
        !heap_free_elsewhere(heap_of(front), cache, block, size_class))
        heap_slow_free(heap_of(front), block, true, bytes, site);
}

void(kfree_sized)(void *block, size_t bytes)
{
    free_sized(default_front(), block, bytes, HEAP_CALL_SITE);
}

size_t ksize(const void *block)
{
    struct kheap *heap = kheap_default();

    return heap == NULL || block == NULL ? 0 : kheap_size(heap, block);
}

/* What inlined calls of a constant size leave over. */
void *kheap_slow_alloc(struct kheap_front *front, size_t bytes)
{
    return heap_slow_alloc(heap_of(front), bytes, 1, true, HEAP_CALL_SITE);
}

void kheap_free_other(struct kheap_front *front, void *block, size_t bytes)
{
    free_sized(front, block, bytes, HEAP_CALL_SITE);
}
