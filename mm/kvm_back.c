/* SPDX-License-Identifier: MIT */
/* Frames behind addresses: what heap, stacks and blocks are made of, and how it goes back.
 *
 *      kvm_back    piece by piece (a piece ends at a multiple of 2 MiB):
 *                      one 2 MiB frame             -> one leaf
 *                      else all frames of a piece  -> a chain -> runs of neighbours -> leaves
 *      kvm_unback  round by round: note the leaves, unmap them in one call, free their frames
 *
 * All frames of a piece are taken before the first is mapped, and only the first mapping of a piece can
 * need page tables. So a piece that fails has mapped nothing, and what a range of one piece takes is
 * never unmapped again: that is why a heap can grow in an interrupt handler.
 *
 * Invariant: a frame is freed after the unmapping call has returned, when no CPU can reach it. */
#include "mm/kvm_parts.h"

#include <mm/hhdm.h>
#include <mm/log.h>

#define NOTED_ON_FEW  MM_TLB_BATCH_MAX
#define NOTED_ON_PAGE (FRAME_SIZE / sizeof(uint64_t))
#define NOTE_LARGE    ((uint64_t)1) /* low bit of a noted frame: a 2 MiB leaf */

/* ---- frames of one piece ---- */

/* Frames in the order in which they were taken, each but the last with the next one's address in its
 * first word. */
struct chain {
    paddr_t first;
    paddr_t last;
    uint64_t count;
};

static uint64_t *chain_link(paddr_t frame)
{
    return phys_to_virt(frame);
}

static void chain_put(struct chain *chain, paddr_t frame)
{
    if (chain->count == 0)
        chain->first = frame;
    else
        *chain_link(chain->last) = frame;
    chain->last = frame;
    chain->count++;
}

static paddr_t chain_take(struct chain *chain)
{
    paddr_t frame = chain->first;

    MM_ASSERT(chain->count > 0);
    if (--chain->count > 0) {
        chain->first = *chain_link(frame);
        *chain_link(frame) = 0;
    }
    return frame;
}

static void chain_release(struct chain *chain, struct pmm *pmm)
{
    while (chain->count > 0)
        pmm_free_frame(pmm, chain_take(chain));
}

static mm_status_t chain_fill(struct chain *chain, struct pmm *pmm, uint64_t count, unsigned flags)
{
    mm_status_t status = MM_OK;
    paddr_t frame;

    while (status == MM_OK && chain->count < count) {
        status = pmm_alloc_frame_flags(pmm, flags, &frame);
        if (status == MM_OK)
            chain_put(chain, frame);
    }
    if (status != MM_OK)
        chain_release(chain, pmm);
    return status;
}

/* ---- backing ---- */

static mm_status_t back_with_large(struct address_space *space, vaddr_t base, unsigned flags)
{
    paddr_t frame;
    mm_status_t status = pmm_alloc_large(space->pmm, flags, &frame);

    if (status != MM_OK)
        return status;
    status = paging_map_range(space, base, frame, LARGE_PAGE_SIZE, KVM_DATA_RIGHTS);
    if (status != MM_OK)
        pmm_free_large(space->pmm, frame);
    return status;
}

/* Maps the frames of the chain at `base`, neighbours in one call. */
static mm_status_t map_chain(struct address_space *space, vaddr_t base, struct chain *chain)
{
    uint64_t done = 0;

    while (chain->count > 0) {
        paddr_t first = chain_take(chain);
        uint64_t bytes = FRAME_SIZE;
        while (chain->count > 0 && chain->first == first + bytes) {
            (void)chain_take(chain);
            bytes += FRAME_SIZE;
        }
        mm_status_t status = paging_map_range(space, base + done, first, bytes, KVM_DATA_RIGHTS);
        if (status != MM_OK) {
            for (uint64_t at = 0; at < bytes; at += FRAME_SIZE)
                pmm_free_frame(space->pmm, first + at);
            kvm_unback(space, base, done);
            return status;
        }
        done += bytes;
    }
    return MM_OK;
}

static mm_status_t back_with_frames(struct address_space *space, vaddr_t base, uint64_t bytes,
                                    unsigned flags)
{
    struct chain chain = { 0 };
    mm_status_t status = chain_fill(&chain, space->pmm, bytes / FRAME_SIZE, flags);

    if (status == MM_OK)
        status = map_chain(space, base, &chain);
    chain_release(&chain, space->pmm);
    return status;
}

mm_status_t kvm_back(struct address_space *space, vaddr_t base, uint64_t bytes, uint32_t flags)
{
    const unsigned frame_flags = (flags & KVM_NO_ZERO) != 0 ? PMM_NOZERO : 0;
    uint64_t done = 0;

    while (done < bytes) {
        vaddr_t at = base + done;
        uint64_t piece = LARGE_PAGE_SIZE - (at & (LARGE_PAGE_SIZE - 1));
        mm_status_t status = MM_OUT_OF_MEMORY;
        if (piece > bytes - done)
            piece = bytes - done;
        if (piece == LARGE_PAGE_SIZE)
            status = back_with_large(space, at, frame_flags);
        if (status == MM_OUT_OF_MEMORY)
            status = back_with_frames(space, at, piece, frame_flags);
        if (status != MM_OK) {
            kvm_unback(space, base, done);
            return status;
        }
        done += piece;
    }
    return MM_OK;
}

/* ---- taking apart ---- */

/* Where one round notes the leaves that it is about to unmap. */
struct notes {
    uint64_t *leaf; /* frame | NOTE_LARGE */
    size_t capacity;
    size_t count;
    uint64_t bytes; /* that the noted leaves map */
};

static void note_leaves(struct address_space *space, vaddr_t base, uint64_t bytes,
                        struct notes *notes)
{
    struct paging_mapping leaf;

    notes->count = 0;
    notes->bytes = 0;
    while (notes->bytes < bytes && notes->count < notes->capacity) {
        mm_status_t status = paging_query(space, base + notes->bytes, &leaf);
        MM_ASSERT(status == MM_OK && leaf.leaf_bytes <= LARGE_PAGE_SIZE);
        (void)status;
        notes->leaf[notes->count++] = leaf.frame | (leaf.leaf_bytes > FRAME_SIZE ? NOTE_LARGE : 0);
        notes->bytes += leaf.leaf_bytes;
    }
    MM_ASSERT(notes->bytes <= bytes);
}

static void free_noted(struct pmm *pmm, const struct notes *notes)
{
    for (size_t i = 0; i < notes->count; i++) {
        paddr_t frame = notes->leaf[i] & ~NOTE_LARGE;
        if ((notes->leaf[i] & NOTE_LARGE) != 0)
            pmm_free_large(pmm, frame);
        else
            pmm_free_frame(pmm, frame);
    }
}

/* The notes of a longer range take a frame; without one, more rounds are made. */
void kvm_unback(struct address_space *space, vaddr_t base, uint64_t bytes)
{
    uint64_t few[NOTED_ON_FEW];
    struct notes notes = { .leaf = few, .capacity = NOTED_ON_FEW };
    paddr_t page = 0;
    bool has_page = bytes / PAGE_SIZE > NOTED_ON_FEW &&
                    pmm_alloc_frame_flags(space->pmm, PMM_NOZERO, &page) == MM_OK;

    if (has_page) {
        notes.leaf = phys_to_virt(page);
        notes.capacity = NOTED_ON_PAGE;
    }
    while (bytes > 0) {
        note_leaves(space, base, bytes, &notes);
        mm_status_t status = paging_unmap_range(space, base, notes.bytes);
        MM_ASSERT(status == MM_OK);
        (void)status;
        free_noted(space->pmm, &notes);
        base += notes.bytes;
        bytes -= notes.bytes;
    }
    if (has_page)
        pmm_free_frame(space->pmm, page);
}
