/* SPDX-License-Identifier: MIT */
/* The fast paths of the heap, inlined where the size is a constant. Included by kheap.h; only the calls
 * that kheap.h describes are API, the rest may change.
 *
 *      heap->caches[slot] -> cache: one magazine for each size class
 *                            magazine: { block, its state byte }, { block, state byte }, ...
 *      heap->table[address / 2 MiB] -> pages[address / 4 KiB] -> span: owner, class, one state byte
 *                                                                for each block
 *
 * Each block has one state byte, outside of it. A cached block is KHEAP_BYTE_FREE; a pop makes it
 * ALLOCATED. The owner of a span (the slot that took it) frees its blocks with plain loads and stores;
 * every other slot changes ALLOCATED to REMOTE with one locked instruction and leaves the rest to
 * the owner, who believes only a state that it finds (mm/heap_remote.c). Absent caches are caches like the
 * others, which look empty and full and own nothing: they are not tested for. */
#ifndef MM_KHEAP_FAST_H
#define MM_KHEAP_FAST_H

#include <mm/magazine.h>
#include <mm/port_slot.h>
#include <mm/types.h>

MM_BEGIN_DECLS

/* Size classes: 16 to 128 bytes by 16, then eight for each doubling. */
#define KHEAP_CLASSES 80u
#define KHEAP_CLASS_LARGE                                                                          \
    56u /* the first of more than 8 KiB: few blocks to a span, few in a cache */
#define KHEAP_CLASS_MOST MM_KIB(64)

#define KHEAP_CHUNK_SHIFT 21u
#define KHEAP_CHUNK_PAGES 512u

enum {
    KHEAP_BYTE_FREE,
    KHEAP_BYTE_ALLOCATED,
    KHEAP_BYTE_ALIGNED, /* allocated, with an alignment that was asked for; or made smaller in place */
    KHEAP_BYTE_REMOTE,
    KHEAP_BYTE_QUARANTINE,
};

/* Compilers find these too long, but most of it falls away where they are used. */
#define KHEAP_INLINE static inline __attribute__((always_inline))

/* What a cache holds of a block. Bit 0 of `block`: it holds zeroes. */
struct kheap_entry {
    uintptr_t block;
    uint8_t *state;
};

struct kheap_magazine {
    struct magazine magazine;
    struct kheap_entry *entries;
};

struct kheap_cache {
    struct kheap_magazine classes[KHEAP_CLASSES];
    /* Behind them: caches and the first blocks of spans begin with a page, and a CPU holds a load back behind
     * a store to the same place of another page. */
    uint32_t slot; /* KHEAP_NOBODY in the absent one */
    /* The block that a call which is not inlined took last: often the next to be freed. Not followed. */
    uint32_t last_class;
    const void *last;
    /* the rest is mm/heap_parts.h's */
};

#define KHEAP_NO_OWNER UINT32_MAX       /* of a span: nobody */
#define KHEAP_NOBODY   (UINT32_MAX - 1) /* of an absent cache: owns nothing */

/* A run of pages cut into blocks of one size, or one large block. One state byte for each block stands
 * behind it (kheap_states). */
struct kheap_span {
    uint64_t base;
    uint32_t owner;       /* atomic; changed with the lock */
    uint32_t block_bytes; /* odd << shift */
    uint64_t inverse;     /* of the odd part, modulo 2^64 */
    uint16_t size_class;
    uint16_t blocks;
    uint32_t shift;
};

struct kheap_chunk {
    struct kheap_span *pages[KHEAP_CHUNK_PAGES]; /* atomic; NULL: none */
};

/* The beginning of struct kheap. */
struct kheap_front {
    /* What every call reads stands at the end of a page, where few blocks begin: a CPU holds a load back
     * behind a store to the same place of another page. */
    uint8_t unused[3968];
    uint64_t base;
    uint64_t bytes;
    struct kheap_chunk **table; /* atomic entries; NULL: none */
    struct kheap_cache *caches[MM_PORT_SLOT_TABLE];
};

extern struct kheap_front *kheap_default_front; /* never NULL; atomic */

/* The class of `bytes` (1 ... KHEAP_CLASS_MOST). */
KHEAP_INLINE unsigned kheap_class_of(size_t bytes)
{
    size_t last = bytes - 1;

    if (last < 128)
        return (unsigned)(last >> 4);
    unsigned power = 63u - (unsigned)__builtin_clzll(last);
    return (power - 7) * 8 + (unsigned)(last >> (power - 3));
}

/* The size of the blocks of a class. */
KHEAP_INLINE size_t kheap_class_bytes(unsigned size_class)
{
    if (size_class < 8)
        return (size_t)(size_class + 1) << 4;
    return (size_t)(size_class % 8 + 9) << (size_class / 8 + 3);
}

KHEAP_INLINE struct kheap_cache *kheap_cache_of(const struct kheap_front *front, unsigned slot)
{
    return __atomic_load_n(&front->caches[slot], __ATOMIC_RELAXED);
}

KHEAP_INLINE struct kheap_cache *kheap_cache_here(const struct kheap_front *front)
{
    return kheap_cache_of(front, mm_port_slot());
}

KHEAP_INLINE uint8_t *kheap_states(struct kheap_span *span)
{
    return (uint8_t *)(span + 1);
}

typedef uint64_t kheap_word __attribute__((may_alias));

/* `bytes`: 16 or 64. In words, as a kernel has no wider registers; where there are some, the compiler makes one store
 * of two words. */
KHEAP_INLINE void kheap_clear_words(void *block, size_t bytes)
{
    kheap_word *at = (kheap_word *)block;

    at[0] = at[1] = 0;
    if (bytes == 64)
        at[2] = at[3] = at[4] = at[5] = at[6] = at[7] = 0;
}

/* Clears a block of a class: `bytes` is a multiple of 16, not 0. The last stores may fall on what
 * the ones before have cleared: sizes that come at random are then one wrong guess of the CPU's, not two.
 *   The empty asm keeps the compiler from making a call of memset out of the loop. */
KHEAP_INLINE void kheap_clear(void *block, size_t bytes)
{
    char *at = (char *)block;

    if (bytes < 64) { /* 16, 32 or 48 */
        kheap_clear_words(at, 16);
        kheap_clear_words(at + (bytes / 2 & 16), 16);
        kheap_clear_words(at + bytes - 16, 16);
        return;
    }
    char *last = at + bytes - 64;
    for (; at < last; at += 64) {
        kheap_clear_words(at, 64);
        __asm__ volatile("" : "+r"(at) : : "memory");
    }
    kheap_clear_words(last, 64);
}

/* The same for constants of at most KHEAP_CLEAR_UNROLLED: stores and nothing else. */
#define KHEAP_CLEAR_UNROLLED 256u

KHEAP_INLINE void kheap_clear_constant(void *block, size_t bytes)
{
    char *at = (char *)block;
    size_t done = 0;

#pragma GCC unroll 4
    for (; done + 64 <= bytes; done += 64) {
        kheap_clear_words(at + done, 64);
        __asm__ volatile("" : : : "memory");
    }
#pragma GCC unroll 4
    for (; done < bytes; done += 16) {
        kheap_clear_words(at + done, 16);
        __asm__ volatile("" : : : "memory");
    }
}

/* Up to this size a loop of stores is quicker than a call of memset: a string instruction, as a kernel has
 * it, takes some 10 ns to begin, and what stands behind it waits for its end. */
#define KHEAP_CLEAR_MOST 1024u

KHEAP_INLINE void kheap_clear_class(void *block, unsigned size_class)
{
    size_t bytes = kheap_class_bytes(size_class);

    if (bytes <= KHEAP_CLEAR_MOST)
        kheap_clear(block, bytes);
    else
        __builtin_memset(block, 0, bytes);
}

/* Takes a block of the class out of this slot's cache.
 *   Returns:  false: the slow path must decide, nothing has changed. */
KHEAP_INLINE bool kheap_pop(struct kheap_cache *cache, unsigned size_class, void **out,
                            bool *zeroed)
{
    struct kheap_magazine *magazine = &cache->classes[size_class];
    int32_t at;

    if (__builtin_expect(!magazine_pop_at(&magazine->magazine, &at), 0))
        return false;
    const struct kheap_entry *entry = &magazine->entries[at];
    uintptr_t block = __atomic_load_n(&entry->block, __ATOMIC_RELAXED);
    uint8_t *state = __atomic_load_n(&entry->state, __ATOMIC_RELAXED);
    __atomic_store_n(state, KHEAP_BYTE_ALLOCATED, __ATOMIC_RELAXED);
    *zeroed = (block & 1) != 0;
    *out = (void *)(block & ~(uintptr_t)1);
    mm_port_memory_allocated(*out, kheap_class_bytes(size_class));
    return true;
}

/* Gives back the block that this slot took last out of the class, if no other one was freed into it since:
 * the entry still stands where it would go, so neither its span nor its number has to be found, and
 * nothing is stored but its state and `bottom`.
 *   No block has an odd address, but an entry of a zeroed block looks like one.
 *   An entry that a pop has left is true as long as the slot owns the span (heap_cache_forget_locked).
 *   Returns:  false for any other block, right or wrong: nothing has changed then. */
KHEAP_INLINE bool kheap_push_again(struct kheap_cache *cache, void *block, unsigned size_class)
{
    struct kheap_magazine *magazine = &cache->classes[size_class];
    int32_t at = __atomic_load_n(&magazine->magazine.bottom, __ATOMIC_RELAXED);

    if (__builtin_expect(block == NULL || ((uintptr_t)block & 1) != 0 ||
                             at >= __atomic_load_n(&magazine->magazine.limit, __ATOMIC_RELAXED),
                         0))
        return false;
    struct kheap_entry *entry = &magazine->entries[at];
    if (__atomic_load_n(&entry->block, __ATOMIC_RELAXED) != (uintptr_t)block)
        return false;
    uint8_t *state = __atomic_load_n(&entry->state, __ATOMIC_RELAXED);
    if (__builtin_expect(__atomic_load_n(state, __ATOMIC_RELAXED) != KHEAP_BYTE_ALLOCATED, 0))
        return false;
    mm_port_memory_freed(block, kheap_class_bytes(size_class));
    __atomic_store_n(state, KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->magazine.bottom, at + 1, __ATOMIC_RELEASE);
    return true;
}

/* inside / block_bytes if that leaves no rest and `inside` is not negative; else a number far beyond all
 * blocks: multiplying by the inverse divides exactly, and the rotation moves bits that should be 0 to
 * the top. */
KHEAP_INLINE uint64_t kheap_exact_index(uint64_t inside, const struct kheap_span *span)
{
    uint64_t product = inside * span->inverse;

    return product >> span->shift | product << (64 - span->shift) % 64;
}

/* Gives a block of this slot's own spans to its cache; false if the slow path must decide: nothing has changed
 * then. A slot without a cache owns nothing.
 *   `slot`, `cache`: mm_port_slot(), kheap_cache_of() it.
 *   `known_class`:   KHEAP_CLASSES, or the class that the block must have. */
KHEAP_INLINE bool kheap_push(struct kheap_front *front, unsigned slot, struct kheap_cache *cache,
                             void *block, unsigned known_class)
{
    uint64_t offset = (uintptr_t)block - front->base;

    if (__builtin_expect(offset >= front->bytes, 0))
        return false;
    struct kheap_chunk *chunk =
        __atomic_load_n(&front->table[offset >> KHEAP_CHUNK_SHIFT], __ATOMIC_RELAXED);
    if (__builtin_expect(chunk == NULL, 0))
        return false;
    struct kheap_span *span =
        __atomic_load_n(&chunk->pages[(offset >> FRAME_SHIFT) % KHEAP_CHUNK_PAGES],
                        __ATOMIC_RELAXED);
    if (__builtin_expect(span == NULL || __atomic_load_n(&span->owner, __ATOMIC_RELAXED) != slot,
                         0))
        return false;
    unsigned size_class = span->size_class;
    if (known_class != KHEAP_CLASSES && __builtin_expect(size_class != known_class, 0))
        return false;
    uint64_t inside = (uintptr_t)block - span->base;
    uint64_t index = kheap_exact_index(inside, span);
    if (__builtin_expect(index >= span->blocks, 0))
        return false;
    uint8_t *state = &kheap_states(span)[index];
    struct kheap_magazine *magazine = &cache->classes[size_class];
    int32_t at = __atomic_load_n(&magazine->magazine.bottom, __ATOMIC_RELAXED);
    if (__builtin_expect(__atomic_load_n(state, __ATOMIC_RELAXED) != KHEAP_BYTE_ALLOCATED ||
                             at >= __atomic_load_n(&magazine->magazine.limit, __ATOMIC_RELAXED),
                         0))
        return false;
    mm_port_memory_freed(block, span->block_bytes);
    struct kheap_entry *entry = &magazine->entries[at];
    __atomic_store_n(state, KHEAP_BYTE_FREE, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->block, (uintptr_t)block, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->state, state, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->magazine.bottom, at + 1, __ATOMIC_RELEASE);
    return true;
}

void *kheap_slow_alloc(struct kheap_front *front, size_t bytes);
void kheap_free_other(struct kheap_front *front, void *block, size_t bytes);

/* kmalloc() of a constant: class and size are known when it is compiled. */
KHEAP_INLINE void *kheap_alloc_constant(size_t bytes)
{
    struct kheap_front *front = __atomic_load_n(&kheap_default_front, __ATOMIC_RELAXED);
    unsigned size_class = kheap_class_of(bytes);
    void *block;
    bool zeroed;

    if (__builtin_expect(!kheap_pop(kheap_cache_here(front), size_class, &block, &zeroed), 0))
        return kheap_slow_alloc(front, bytes);
    if (kheap_class_bytes(size_class) <= KHEAP_CLEAR_UNROLLED)
        kheap_clear_constant(block, kheap_class_bytes(size_class));
    else
        kheap_clear_class(block, size_class);
    return block;
}

KHEAP_INLINE void kheap_free_constant(void *block, size_t bytes)
{
    struct kheap_front *front = __atomic_load_n(&kheap_default_front, __ATOMIC_RELAXED);

    if (__builtin_expect(!kheap_push_again(kheap_cache_here(front), block, kheap_class_of(bytes)),
                         0))
        kheap_free_other(front, block, bytes);
}

MM_END_DECLS
#endif
