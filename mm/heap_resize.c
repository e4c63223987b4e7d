/* SPDX-License-Identifier: MIT */
/* Resizing a block: where it stands if it stays one of its class; with the pages it has if these are its
 * own (heap_large_resize.c); else a new block, a copy and a free. The room behind the bytes asked for holds
 * zeroes. */
#include <mm/kheap.h>

#include "mm/heap_parts.h"

/* The alignment that the block was given on request, at least; 1 if none. */
static size_t alignment_of(const struct heap_found *block)
{
    const struct heap_span *span = block->span;

    if (__atomic_load_n(&span->states[block->index], __ATOMIC_RELAXED) != KHEAP_BYTE_ALIGNED)
        return 1;
    if (span->front.size_class == HEAP_CLASS_RUN)
        return span->align;
    uint64_t bits = block->front != 0 ? block->front : span->front.block_bytes | PAGE_SIZE;
    return bits & (0 - bits);
}

static bool fits_in_place(const struct heap_span *span, size_t bytes)
{
    if (span->guards != 0)
        return false;
    /* One page is the least: a small block in it has an alignment that no class has. */
    if (span->front.size_class == HEAP_CLASS_RUN && heap_span_room(span) == PAGE_SIZE)
        return bytes <= PAGE_SIZE;
    if (span->front.size_class == HEAP_CLASS_RUN)
        return bytes > KHEAP_CLASS_MOST && bytes <= heap_span_room(span) &&
               bytes > heap_span_room(span) - heap_span_room(span) / 8;
    return bytes <= KHEAP_CLASS_MOST && kheap_class_of(bytes) == span->front.size_class;
}

/* There is no memory to move a block that gets smaller. From here on it is one of a size that its place
 * does not tell, as after an allocation with an alignment. */
static void stay_in_place(struct kheap *heap, const struct heap_found *found, void *block,
                          size_t bytes)
{
    memset((uint8_t *)block + bytes, 0, found->room - bytes);
    if (found->span->guards != 0)
        heap_guard_shrink(heap, found, bytes);
    else
        __atomic_store_n(&found->span->states[found->index], KHEAP_BYTE_ALIGNED, __ATOMIC_RELAXED);
}

/* A block of pages of its own keeps them, unless each call is to be seen.
 *   Returns:  where it is, or NULL. */
static void *resize_large(struct kheap *heap, struct heap_span *span, void *block, size_t bytes)
{
    if (bytes <= MAX_BLOCK_SIZE || !span->own_chunks || span->guards != 0 ||
        __atomic_load_n(&heap->off, __ATOMIC_RELAXED) || !heap_slot_is_thread(mm_port_cpu_slot()))
        return NULL;
    return (void *)heap_large_resize(heap, span, (uintptr_t)block, bytes);
}

/* A new block with the content of the old one, `kept` bytes, and zeroes behind it. */
static void *copy_of(struct kheap *heap, const void *old, size_t kept, size_t bytes, size_t align,
                     vaddr_t site)
{
    struct heap_found found;
    uint8_t *moved = align > 16 ? heap_slow_alloc(heap, bytes, align, false, site)
                                : heap_alloc(heap, bytes, false, site);

    if (moved == NULL)
        return NULL;
    memcpy(moved, old, kept);
    if (heap_find_block(heap, moved, &found)) {
        memset(moved + kept, 0, found.room - kept);
        heap_let_go(&found);
    }
    return moved;
}

static void *resize_found(struct kheap *heap, const struct heap_found *found, void *block,
                          size_t bytes, vaddr_t site)
{
    size_t old = found->room;

    if (fits_in_place(found->span, bytes)) {
        memset((uint8_t *)block + bytes, 0, old - bytes);
        return block;
    }
    uint8_t *moved = resize_large(heap, found->span, block, bytes);
    if (moved != NULL) {
        if (bytes < old) /* where it stands */
            memset(moved + bytes, 0, heap_span_room(found->span) - bytes);
        return moved;
    }
    moved = copy_of(heap, block, old < bytes ? old : bytes, bytes, alignment_of(found), site);
    if (moved == NULL && bytes <= old) {
        stay_in_place(heap, found, block, bytes);
        return block;
    }
    if (moved != NULL)
        heap_free(heap, block, site);
    return moved;
}

static void *resize(struct kheap *heap, void *block, size_t bytes, vaddr_t site)
{
    struct heap_found found;

    if (block == NULL)
        return heap_alloc(heap, bytes, true, site);
    if (!heap_find_block(heap, block, &found)) {
        heap_report_wrong(heap, "krealloc", block);
        return NULL;
    }
    void *resized = NULL;
    if (bytes == 0)
        heap_slow_free(heap, block, false, 0, site);
    else
        resized = resize_found(heap, &found, block, bytes, site);
    heap_let_go(&found);
    return resized;
}

void *kheap_realloc(struct kheap *heap, void *block, size_t bytes)
{
    return resize(heap, block, bytes, HEAP_CALL_SITE);
}

void *krealloc(void *block, size_t bytes)
{
    struct kheap *heap = kheap_default();

    return heap == NULL ? NULL : resize(heap, block, bytes, HEAP_CALL_SITE);
}
