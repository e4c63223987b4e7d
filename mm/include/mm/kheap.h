/* SPDX-License-Identifier: MIT */
/* The kernel heap. This header is part of the public API of mm/.
 *
 * A buddy system of blocks from 64 bytes to 1 MiB over one region of mapped memory. What is handed
 * out is zero. All state lies outside the blocks, so that a stray write into a block cannot mislead
 * the heap, and kfree() needs no size. A wrong free is reported by mm_bug() and changes nothing. */
#ifndef MM_KHEAP_H
#define MM_KHEAP_H

#include <mm/kvm.h>

MM_BEGIN_DECLS

#define MIN_BLOCK_SIZE ((size_t)64)
#define MAX_BLOCK_SIZE ((size_t)1 << 20)
#define NUM_ORDERS     15 /* 64 B << 0 ... 64 B << 14 */

struct kheap; /* one heap */

struct kheap_stats {
    uint64_t region_bytes;
    uint64_t free_bytes;
    uint64_t used_bytes; /* in blocks: sizes rounded up */
    uint64_t used_blocks;
    uint64_t failed_allocations;
    uint64_t largest_free_block;
};

/* Makes a heap of the region [base, base + bytes): mapped, writable, zeroes not required. The heap's
 * own state is taken from the region's beginning.
 *   Units:      base: a multiple of MAX_BLOCK_SIZE; bytes: a multiple too, at least one.
 *   Returns:    MM_OK and the heap in *out.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ARGUMENT.
 *   `space`:    used by kheap_to_phys; NULL if the region lies in the HHDM. */
MM_MUST_USE mm_status_t kheap_init(void *base, size_t bytes, struct address_space *space,
                                   struct kheap **out);

/* Takes a block of at least `bytes`, zeroed, aligned to its size rounded up to a power of two
 * (at most 1 MiB).
 *   Returns:    the block; NULL for 0 bytes, for more than MAX_BLOCK_SIZE and when the heap is
 *               exhausted (the last two with one error line).
 *   Context:    any CPU, also interrupt handlers; from an NMI or machine check handler it is a bug
 *               of the caller. */
void *kheap_alloc(struct kheap *heap, size_t bytes);

/* Gives a block back; NULL is fine. Anything that is not an allocated block's first byte is a bug of
 * the caller. */
void kheap_free(struct kheap *heap, void *block);

/* Bytes that the block can hold; 0 and a report if it is not an allocated block. */
size_t kheap_size(struct kheap *heap, const void *block);

/* The physical address of `bytes` at `address` inside an allocated block, for a device.
 *   On failure: MM_INVALID_ADDRESS (not inside one block), MM_INVALID_ARGUMENT (0 bytes),
 *               MM_NOT_CONTIGUOUS (the frames are not neighbours). */
MM_MUST_USE mm_status_t kheap_to_phys(struct kheap *heap, const void *address, size_t bytes,
                                      paddr_t *out);

enum kheap_place {
    KHEAP_STATE, /* the heap's own bookkeeping */
    KHEAP_FREE,
    KHEAP_USED,
    KHEAP_DAMAGED, /* no block holds the address: the bookkeeping is wrong, or was changing */
};

/* What an address of the heap's region is. */
struct kheap_peek {
    enum kheap_place what;
    vaddr_t start;  /* of the block; KHEAP_STATE and KHEAP_DAMAGED: of the region */
    uint64_t bytes; /* of the block; likewise 0 */
};

/* Looks an address up without a lock, for fault reports: while another CPU allocates or frees there,
 * any answer may come, KHEAP_DAMAGED included.
 *   Returns:    true and the answer in *out; false if the address lies outside the region.
 *   Context:    any. */
MM_MUST_USE bool kheap_peek(const struct kheap *heap, vaddr_t address, struct kheap_peek *out);

struct kheap_stats kheap_stats(struct kheap *heap);

/* Full consistency check: every block in one place, no two free buddies side by side, the counters.
 *   Returns:    true; else false and one error line for the first difference. */
bool kheap_verify(struct kheap *heap);

/* The default heap: what kmalloc and kfree use. NULL (at first): kmalloc returns NULL. */
void kheap_set_default(struct kheap *heap);
struct kheap *kheap_default(void);

void *kmalloc(size_t bytes);
void kfree(void *block);

MM_END_DECLS
#endif
