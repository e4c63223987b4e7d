/* SPDX-License-Identifier: MIT */
/* The kernel heap: kmalloc and kfree over a buddy system.
 *
 *      region   | struct kheap | tags and bit trees | blocks ...                         |
 *               base                                ^ buddy.first_offset       base + bytes
 *
 * The lock guards the buddy system only: zeroing and log lines come after it, when the block belongs
 * to the caller alone. A free is checked against the tags before anything changes. */
#include <mm/hhdm.h>
#include <mm/kheap.h>
#include <mm/log.h>

#include "mm/buddy.h"
#include "mm/context.h"

struct kheap {
    struct mm_port_lock lock;    /* guards buddy and failed_allocations */
    uint8_t *base;               /* constant */
    struct address_space *space; /* constant; NULL: the region lies in the HHDM */
    struct buddy buddy;
    uint64_t failed_allocations;
};

static struct kheap *default_heap;

mm_status_t kheap_init(void *base, size_t bytes, struct address_space *space, struct kheap **out)
{
    if (!mm_is_aligned((uintptr_t)base | bytes, MAX_BLOCK_SIZE))
        return MM_NOT_ALIGNED;
    uint64_t own_bytes = mm_round_up(sizeof(struct kheap), MIN_BLOCK_SIZE);
    uint64_t first = mm_round_up(own_bytes + buddy_state_bytes(bytes), MIN_BLOCK_SIZE);
    if (base == NULL || bytes == 0 || first >= bytes)
        return MM_INVALID_ARGUMENT;
    struct kheap *heap = base;
    *heap = (struct kheap){ .base = base, .space = space };
    buddy_init(&heap->buddy, bytes, first, heap->base + own_bytes);
    mm_port_memory_freed(heap->base + first, bytes - first);
    *out = heap;
    return MM_OK;
}

/* ---- allocating ---- */

MM_COLD static void report_exhausted(struct kheap *heap, size_t bytes)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    uint64_t largest = buddy_largest_free(&heap->buddy);

    heap->failed_allocations++;
    mm_port_unlock(&heap->lock, saved);
    if (bytes > MAX_BLOCK_SIZE)
        mm_error("kmalloc of %lu bytes: more than the largest block, %lu bytes", bytes,
                 MAX_BLOCK_SIZE);
    else
        mm_error("kmalloc of %lu bytes: out of memory (largest free block: %lu bytes)", bytes,
                 largest);
}

void *kheap_alloc(struct kheap *heap, size_t bytes)
{
    uint64_t offset = BUDDY_NO_BLOCK;
    unsigned order = 0;

    if (bytes == 0 || context_is_forbidden("kmalloc"))
        return NULL;
    if (bytes <= MAX_BLOCK_SIZE) {
        order = buddy_order(bytes);
        uint64_t saved = mm_port_lock(&heap->lock);
        offset = buddy_alloc(&heap->buddy, order);
        mm_port_unlock(&heap->lock, saved);
    }
    if (offset == BUDDY_NO_BLOCK) {
        report_exhausted(heap, bytes);
        return NULL;
    }
    void *block = heap->base + offset;
    mm_port_memory_allocated(block, buddy_block_bytes(order));
    memset(block, 0, buddy_block_bytes(order));
    mm_debug("heap: allocated %lu bytes at 0x%lx (a block of %lu)", bytes, (uintptr_t)block,
             buddy_block_bytes(order));
    return block;
}

/* ---- finding the block of an address ---- */

/* What the heap's state says about an address. */
struct finding {
    bool inside;  /* it lies among the heap's blocks */
    bool damaged; /* and none of them holds it */
    struct buddy_block block;
};

static struct finding find_locked(const struct kheap *heap, const void *address)
{
    uint64_t offset = (uintptr_t)address - (uintptr_t)heap->base;
    struct finding found = { 0 };

    if (offset < heap->buddy.first_offset || offset >= heap->buddy.region_bytes)
        return found;
    found.inside = true;
    found.damaged = !buddy_peek(&heap->buddy, offset, &found.block);
    return found;
}

/* Once the heap's state is wrong, no answer of the heap can be right. The lock is not held. */
static void require_undamaged(const struct finding *found, const void *address)
{
    if (found->damaged)
        mm_fatal("heap: no block holds 0x%lx: the heap's state is damaged", (uintptr_t)address);
}

/* Finds the block and says whether `address` is the first byte of an allocated one. If `release`,
 * such a block is freed in the same step. */
static bool check_block(struct kheap *heap, const void *address, bool release,
                        struct finding *found)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    *found = find_locked(heap, address);
    const struct buddy_block *block = &found->block;
    bool right = found->inside && block->allocated && heap->base + block->offset == address;
    if (right && release) {
        mm_port_memory_freed(heap->base + block->offset, buddy_block_bytes(block->order));
        buddy_free(&heap->buddy, block->offset);
    }
    mm_port_unlock(&heap->lock, saved);
    require_undamaged(found, address);
    return right;
}

MM_COLD static void report_wrong_block(const struct kheap *heap, const char *what,
                                       const void *address, const struct finding *found)
{
    struct buddy_block block = found->block;
    uintptr_t start = (uintptr_t)heap->base + block.offset;
    uintptr_t distance = (uintptr_t)address - start;

    if (!found->inside)
        mm_bug("%s of 0x%lx, which is outside the heap's blocks", what, (uintptr_t)address);
    else if (!block.allocated)
        mm_bug("%s of 0x%lx, which is free (in a free block of %lu bytes at 0x%lx): double free?",
               what, (uintptr_t)address, buddy_block_bytes(block.order), start);
    else
        mm_bug("%s of 0x%lx, which is %lu bytes inside the allocated block of %lu bytes at 0x%lx",
               what, (uintptr_t)address, distance, buddy_block_bytes(block.order), start);
}

void kheap_free(struct kheap *heap, void *address)
{
    struct finding found;

    if (address == NULL || context_is_forbidden("kfree"))
        return;
    if (check_block(heap, address, true, &found))
        mm_debug("heap: freed %lu bytes at 0x%lx", buddy_block_bytes(found.block.order),
                 (uintptr_t)address);
    else
        report_wrong_block(heap, "kfree", address, &found);
}

size_t kheap_size(struct kheap *heap, const void *address)
{
    struct finding found;

    if (check_block(heap, address, false, &found))
        return buddy_block_bytes(found.block.order);
    report_wrong_block(heap, "size", address, &found);
    return 0;
}

void *kheap_alloc_nozero(struct kheap *heap, size_t bytes)
{
    return kheap_alloc(heap, bytes);
}

/* A block of the buddy system is aligned to its size. */
void *kheap_alloc_aligned(struct kheap *heap, size_t bytes, size_t align_bytes)
{
    if (!mm_is_power_of_two(align_bytes) || align_bytes > KHEAP_ALIGN_MAX || bytes == 0)
        return NULL;
    return kheap_alloc(heap, bytes < align_bytes ? align_bytes : bytes);
}

void *kheap_realloc(struct kheap *heap, void *block, size_t bytes)
{
    if (block == NULL)
        return kheap_alloc(heap, bytes);
    size_t old = kheap_size(heap, block);
    if (old == 0)
        return NULL;
    if (bytes == 0) {
        kheap_free(heap, block);
        return NULL;
    }
    if (bytes <= old && bytes > old / 2) {
        memset((uint8_t *)block + bytes, 0, old - bytes);
        return block;
    }
    void *moved = kheap_alloc(heap, bytes);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, old < bytes ? old : bytes);
    kheap_free(heap, block);
    return moved;
}

/* ---- physical addresses ---- */

static mm_status_t translate(const struct kheap *heap, const uint8_t *address, paddr_t *out)
{
    if (heap->space != NULL)
        return paging_translate(heap->space, (uintptr_t)address, out);
    *out = virt_to_phys(address);
    return MM_OK;
}

mm_status_t kheap_to_phys(struct kheap *heap, const void *address, size_t bytes, paddr_t *out)
{
    const uint8_t *first = address;
    struct finding found;
    paddr_t base, next;

    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    (void)check_block(heap, address, false, &found);
    uint64_t offset = (uintptr_t)address - (uintptr_t)heap->base - found.block.offset;
    if (!found.inside || !found.block.allocated ||
        bytes > buddy_block_bytes(found.block.order) - offset)
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

/* ---- asking ---- */

bool kheap_peek(const struct kheap *heap, vaddr_t address, struct kheap_peek *out)
{
    uint64_t offset = address - (uintptr_t)heap->base;
    struct buddy_block block;

    if (address < (uintptr_t)heap->base || offset >= heap->buddy.region_bytes)
        return false;
    *out = (struct kheap_peek){ .what = KHEAP_DAMAGED, .start = (uintptr_t)heap->base };
    if (offset < heap->buddy.first_offset) {
        out->what = KHEAP_STATE;
    } else if (buddy_peek(&heap->buddy, offset, &block)) {
        out->what = block.allocated ? KHEAP_USED : KHEAP_FREE;
        out->start += block.offset;
        out->bytes = buddy_block_bytes(block.order);
    }
    return true;
}

struct kheap_stats kheap_stats(struct kheap *heap)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    const struct buddy *buddy = &heap->buddy;
    struct kheap_stats stats = {
        .region_bytes = buddy->region_bytes,
        .free_bytes = buddy->free_bytes,
        .used_bytes = buddy->region_bytes - buddy->first_offset - buddy->free_bytes,
        .used_blocks = buddy->used_blocks,
        .failed_allocations = heap->failed_allocations,
        .largest_free_block = buddy_largest_free(buddy),
    };

    mm_port_unlock(&heap->lock, saved);
    return stats;
}

bool kheap_verify(struct kheap *heap)
{
    uint64_t offset;
    uint64_t saved = mm_port_lock(&heap->lock);
    const char *wrong = buddy_check(&heap->buddy, &offset);

    mm_port_unlock(&heap->lock, saved);
    if (wrong != NULL)
        mm_error("heap: %s (at 0x%lx)", wrong, (uintptr_t)heap->base + offset);
    return wrong == NULL;
}

/* ---- the default heap ---- */

void kheap_set_default(struct kheap *heap)
{
    __atomic_store_n(&default_heap, heap, __ATOMIC_RELEASE);
}

struct kheap *kheap_default(void)
{
    return __atomic_load_n(&default_heap, __ATOMIC_ACQUIRE);
}

void *kmalloc(size_t bytes)
{
    struct kheap *heap = kheap_default();

    return heap == NULL ? NULL : kheap_alloc(heap, bytes);
}

void kfree(void *block)
{
    struct kheap *heap = kheap_default();

    if (heap != NULL)
        kheap_free(heap, block);
    else if (block != NULL)
        mm_bug("kfree of 0x%lx before there is a heap", (uintptr_t)block);
}

void *kmalloc_nozero(size_t bytes)
{
    return kmalloc(bytes);
}

void *kmalloc_aligned(size_t bytes, size_t align_bytes)
{
    struct kheap *heap = kheap_default();

    return heap == NULL ? NULL : kheap_alloc_aligned(heap, bytes, align_bytes);
}

void *krealloc(void *block, size_t bytes)
{
    struct kheap *heap = kheap_default();

    return heap == NULL ? NULL : kheap_realloc(heap, block, bytes);
}

size_t ksize(const void *block)
{
    struct kheap *heap = kheap_default();

    return heap == NULL || block == NULL ? 0 : kheap_size(heap, block);
}

void kfree_sized(void *block, size_t bytes)
{
    (void)bytes;
    kfree(block);
}
