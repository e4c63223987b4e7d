/* SPDX-License-Identifier: MIT */
/* Frames behind addresses: what heap, stacks and blocks are made of, and how it goes back.
 *
 *      kvm_back    piece by piece (a piece ends at a multiple of 2 MiB):
 *                      one 2 MiB frame             -> one leaf
 *                      else all frames of a piece  -> their addresses in the first one -> leaves
 *      kvm_unback  round by round: unmap, learning the frames; then free them
 *                      a round is a run of 2 MiB leaves, or the 4 KiB leaves of one piece
 *      kvm_move    leaf by leaf, or the 4 KiB leaves of a piece at once: map the frames a second time;
 *                  then unmap all of the old addresses, which takes no memory
 *
 * All frames of a piece are taken before the first is mapped, and a piece is mapped in one call. So a
 * piece that fails has mapped nothing, and what a range of one piece takes is never unmapped again: that
 * is why a heap can grow in an interrupt handler.
 *
 * Invariant: a frame is freed after the unmapping call has returned, when no CPU can reach it. */
#include "mm/kvm_parts.h"

#include <mm/hhdm.h>
#include <mm/log.h>

#define NOTED_ON_FEW  MM_TLB_BATCH_MAX
#define NOTED_ON_PAGE (FRAME_SIZE / sizeof(paddr_t))

_Static_assert(NOTED_ON_PAGE >= LARGE_PAGE_SIZE / FRAME_SIZE,
               "the first frame of a piece holds the addresses of all of them");

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

/* The list of the frames needs no memory of its own: it stands in the first of them, and is cleared before
 * anybody knows the address. */
static mm_status_t back_with_frames(struct address_space *space, vaddr_t base, uint64_t count,
                                    unsigned flags)
{
    paddr_t first;
    mm_status_t status = pmm_alloc_frame_flags(space->pmm, flags, &first);

    if (status != MM_OK)
        return status;
    paddr_t *frames = phys_to_virt(first);
    frames[0] = first;
    if (count > 1)
        status = pmm_alloc_frames(space->pmm, count - 1, flags, &frames[1]);
    if (status == MM_OK) {
        status = paging_map_frames(space, base, frames, count, KVM_DATA_RIGHTS);
        if (status != MM_OK)
            pmm_free_frames(space->pmm, &frames[1], count - 1);
    }
    memset(frames, 0, count * sizeof(*frames));
    if (status != MM_OK)
        pmm_free_frame(space->pmm, first);
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
            status = back_with_frames(space, at, piece / PAGE_SIZE, frame_flags);
        if (status != MM_OK) {
            kvm_unback(space, base, done);
            return status;
        }
        done += piece;
    }
    return MM_OK;
}

/* ---- notes ---- */

/* Where one round notes frames. Those of a longer range take a frame; without one, more rounds are made. */
struct notes {
    paddr_t *frame;
    size_t capacity;
    paddr_t few[NOTED_ON_FEW];
    paddr_t page; /* if has_page */
    bool has_page;
};

static void notes_begin(struct notes *notes, struct address_space *space, uint64_t bytes)
{
    notes->frame = notes->few;
    notes->capacity = NOTED_ON_FEW;
    notes->has_page = bytes / PAGE_SIZE > NOTED_ON_FEW &&
                      pmm_alloc_frame_flags(space->pmm, PMM_NOZERO, &notes->page) == MM_OK;
    if (notes->has_page) {
        notes->frame = phys_to_virt(notes->page);
        notes->capacity = NOTED_ON_PAGE;
    }
}

static void notes_end(const struct notes *notes, struct address_space *space)
{
    if (notes->has_page)
        pmm_free_frame(space->pmm, notes->page);
}

/* The pages of one round from `base` on: up to the next multiple of 2 MiB. */
static uint64_t round_pages(const struct notes *notes, vaddr_t base, uint64_t bytes)
{
    uint64_t piece = LARGE_PAGE_SIZE - (base & (LARGE_PAGE_SIZE - 1));
    uint64_t count = (piece < bytes ? piece : bytes) / PAGE_SIZE;

    return count < notes->capacity ? count : notes->capacity;
}

/* ---- taking apart ---- */

static uint64_t leaf_bytes_at(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    struct paging_mapping leaf = { 0 };
    mm_status_t status = paging_query(space, page, &leaf);

    MM_ASSERT(status == MM_OK && leaf.leaf_bytes <= LARGE_PAGE_SIZE);
    (void)status;
    *frame = leaf.frame;
    return leaf.leaf_bytes;
}

/* The 2 MiB leaves from `base` on, as many as there are one after the other.
 *   Returns:   the bytes that they mapped. */
static uint64_t unback_large(struct address_space *space, vaddr_t base, uint64_t bytes,
                             const struct notes *notes)
{
    size_t count = 0;

    while (count < notes->capacity && count * LARGE_PAGE_SIZE < bytes &&
           leaf_bytes_at(space, base + count * LARGE_PAGE_SIZE, &notes->frame[count]) ==
               LARGE_PAGE_SIZE)
        count++;
    mm_status_t status = paging_unmap_range(space, base, count * LARGE_PAGE_SIZE);
    MM_ASSERT(status == MM_OK);
    (void)status;
    for (size_t i = 0; i < count; i++)
        pmm_free_large(space->pmm, notes->frame[i]);
    return count * LARGE_PAGE_SIZE;
}

/* The 4 KiB leaves from `base` up to the next multiple of 2 MiB. */
static uint64_t unback_frames(struct address_space *space, vaddr_t base, uint64_t bytes,
                              const struct notes *notes)
{
    uint64_t count = round_pages(notes, base, bytes);
    mm_status_t status = paging_unmap_frames(space, base, notes->frame, count);
    MM_ASSERT(status == MM_OK);
    (void)status;
    pmm_free_frames(space->pmm, notes->frame, count);
    return count * PAGE_SIZE;
}

void kvm_unback(struct address_space *space, vaddr_t base, uint64_t bytes)
{
    paddr_t ignored;
    struct notes notes;

    notes_begin(&notes, space, bytes);
    while (bytes > 0) {
        bool is_large = leaf_bytes_at(space, base, &ignored) == LARGE_PAGE_SIZE;
        uint64_t done = is_large ? unback_large(space, base, bytes, &notes)
                                 : unback_frames(space, base, bytes, &notes);
        base += done;
        bytes -= done;
    }
    notes_end(&notes, space);
}

/* ---- moving ---- */

/* Maps what stands at `from` at `to`, too: one 2 MiB leaf, or 4 KiB leaves up to a multiple of 2 MiB. A
 * piece that begins with a leaf of 4 KiB has a table of them.
 *   Returns:   their bytes in *bytes, at most what was in it. */
static mm_status_t map_again(struct address_space *space, vaddr_t from, vaddr_t to, uint64_t *bytes,
                             const struct notes *notes)
{
    struct paging_mapping leaf;
    mm_status_t status = paging_query(space, from, &leaf);

    if (status != MM_OK)
        return status;
    if (leaf.leaf_bytes != PAGE_SIZE) {
        if (!mm_is_aligned(from, leaf.leaf_bytes) || *bytes < leaf.leaf_bytes)
            return MM_LARGE_PAGE;
        *bytes = leaf.leaf_bytes;
        return paging_map_range(space, to, leaf.frame, leaf.leaf_bytes, KVM_DATA_RIGHTS);
    }
    uint64_t count = round_pages(notes, from, *bytes);
    for (uint64_t i = 0; status == MM_OK && i < count; i++)
        status = paging_translate(space, from + i * PAGE_SIZE, &notes->frame[i]);
    *bytes = count * PAGE_SIZE;
    return status == MM_OK ? paging_map_frames(space, to, notes->frame, count, KVM_DATA_RIGHTS)
                           : status;
}

static void unmap_whole_leaves(struct address_space *space, vaddr_t base, uint64_t bytes)
{
    mm_status_t status = bytes > 0 ? paging_unmap_range(space, base, bytes) : MM_OK;

    MM_ASSERT(status == MM_OK);
    (void)status;
}

mm_status_t kvm_move(struct address_space *space, vaddr_t from, vaddr_t to, uint64_t bytes)
{
    struct notes notes;
    mm_status_t status = MM_OK;
    uint64_t done = 0;

    notes_begin(&notes, space, bytes);
    while (status == MM_OK && done < bytes) {
        uint64_t piece = bytes - done;
        status = map_again(space, from + done, to + done, &piece, &notes);
        if (status == MM_OK)
            done += piece;
    }
    notes_end(&notes, space);
    unmap_whole_leaves(space, status == MM_OK ? from : to, done);
    return status;
}

/* ---- guards ---- */

bool kvm_guards_are_unmapped(struct address_space *space, const char *what, vaddr_t base,
                             vaddr_t end)
{
    const vaddr_t guards[] = { base - PAGE_SIZE, end };
    paddr_t frame;

    for (size_t i = 0; i < 2; i++) {
        if (paging_translate(space, guards[i], &frame) == MM_NOT_MAPPED)
            continue;
        mm_bug("free of the %s at 0x%lx: its guard page 0x%lx is mapped to frame 0x%lx", what, base,
               guards[i], frame);
        return false;
    }
    return true;
}
