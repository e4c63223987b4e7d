/* SPDX-License-Identifier: MIT */
/* The self-tests of page tables, and of what stands in the windows of kernel addresses. */
#include "mm/selftest_parts.h"

bool paging_case_map(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    paddr_t frame, found = 0;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE_STATUS(MM_OK, paging_map_page(run->space, run->scratch, frame, PAGING_WRITE));
    REQUIRE_STATUS(MM_OK, paging_translate(run->space, run->scratch + 0x123, &found));
    REQUIRE(found == frame + 0x123, "expected 0x%lx, got 0x%lx", frame + 0x123, found);
    REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, NULL));
    pmm_free_frame(pmm, frame);
    return true;
}

bool paging_case_refuse(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    paddr_t frame, found = 0;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE_STATUS(MM_INVALID_ARGUMENT,
                   paging_map_page(run->space, run->scratch, frame, PAGING_WRITE | PAGING_EXECUTE));
    REQUIRE_STATUS(MM_OK, paging_map_page(run->space, run->scratch, frame, PAGING_READ));
    REQUIRE_STATUS(MM_ALREADY_MAPPED,
                   paging_map_page(run->space, run->scratch, frame + FRAME_SIZE, PAGING_READ));
    REQUIRE_STATUS(MM_OK, paging_translate(run->space, run->scratch, &found));
    REQUIRE(found == frame, "expected the first mapping, 0x%lx, to stay, got 0x%lx", frame, found);
    REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, NULL));
    pmm_free_frame(pmm, frame);
    return true;
}

bool paging_case_unmap(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    paddr_t frame, unmapped = 0, found = 0;
    uint64_t tables = pmm_stats(pmm).table_frames;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE_STATUS(MM_OK, paging_map_page(run->space, run->scratch, frame, PAGING_WRITE));
    REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, &unmapped));
    REQUIRE(unmapped == frame, "expected frame 0x%lx, got 0x%lx", frame, unmapped);
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, run->scratch, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_unmap_page(run->space, run->scratch, NULL));
    uint64_t left = pmm_stats(pmm).table_frames;
    REQUIRE(left == tables, "expected %lu page tables as before, got %lu", tables, left);
    pmm_free_frame(pmm, frame);
    return true;
}

bool paging_case_large(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    const uint64_t frames = LARGE_PAGE_SIZE / FRAME_SIZE;
    struct paging_mapping leaf;
    paddr_t block;

    if (pmm_alloc_contiguous(pmm, frames, LARGE_PAGE_SIZE, PMM_NO_LIMIT, &block) != MM_OK) {
        mm_format(run->note, NOTE_BYTES, "left out: no 2 MB of memory in one piece");
        return true;
    }
    REQUIRE_STATUS(MM_OK, paging_map_range(run->space, run->scratch, block, LARGE_PAGE_SIZE,
                                           PAGING_WRITE));
    REQUIRE_STATUS(MM_OK, paging_query(run->space, run->scratch + PAGE_SIZE, &leaf));
    REQUIRE(leaf.leaf_bytes == LARGE_PAGE_SIZE && leaf.frame == block,
            "expected a 2 MB leaf at 0x%lx, got %lu KB at 0x%lx", block, leaf.leaf_bytes >> 10,
            leaf.frame);
    REQUIRE_STATUS(MM_ALREADY_MAPPED,
                   paging_map_page(run->space, run->scratch + PAGE_SIZE, block, PAGING_READ));
    size_t other = first_other_byte(phys_to_virt(block), 0, LARGE_PAGE_SIZE);
    REQUIRE(other == LARGE_PAGE_SIZE, "expected no entry written into the block, got one at 0x%lx",
            block + other);
    /* A part of it: the leaf is split, all its other pages stay what they are. */
    REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, NULL));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_query(run->space, run->scratch, &leaf));
    REQUIRE_STATUS(MM_OK, paging_query(run->space, run->scratch + PAGE_SIZE, &leaf));
    REQUIRE(leaf.leaf_bytes == PAGE_SIZE && leaf.frame == block + FRAME_SIZE &&
                leaf.rights == PAGING_WRITE,
            "expected a 4 KB leaf at 0x%lx, got %lu KB at 0x%lx", block + FRAME_SIZE,
            leaf.leaf_bytes >> 10, leaf.frame);
    REQUIRE_STATUS(MM_OK, paging_unmap_range(run->space, run->scratch + PAGE_SIZE,
                                             LARGE_PAGE_SIZE - PAGE_SIZE));
    pmm_free_contiguous(pmm, block, frames);
    return true;
}

bool paging_case_access(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    paddr_t frame;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE_STATUS(MM_OK, paging_map_page(run->space, run->scratch, frame, PAGING_WRITE));
    *word_at(run->scratch + 8) = 0x4d656c6c6f4f53;
    uint64_t found = word_of_frame(frame)[1];
    REQUIRE(found == 0x4d656c6c6f4f53, "expected 0x4d656c6c6f4f53 in frame 0x%lx, got 0x%lx", frame,
            found);
    REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, NULL));
    pmm_free_frame(pmm, frame);
    return true;
}

/* The same page leads to one frame, then to another: a translation that outlived the unmap shows. */
bool paging_case_flush(struct test_run *run)
{
    struct pmm *pmm = run->space->pmm;
    paddr_t frames[2];

    for (uint64_t i = 0; i < 2; i++) {
        REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frames[i]));
        *word_of_frame(frames[i]) = 100 + i;
    }
    for (uint64_t i = 0; i < 2; i++) {
        REQUIRE_STATUS(MM_OK, paging_map_page(run->space, run->scratch, frames[i], PAGING_WRITE));
        uint64_t found = *word_at(run->scratch);
        REQUIRE(found == 100 + i, "expected %lu through the page, got %lu", 100 + i, found);
        REQUIRE_STATUS(MM_OK, paging_unmap_page(run->space, run->scratch, NULL));
    }
    pmm_free_frame(pmm, frames[0]);
    pmm_free_frame(pmm, frames[1]);
    return true;
}

/* Checks the rights of the page that holds `address`, as far as `mask` names them. */
static bool rights_are(struct test_run *run, const char *what, vaddr_t address,
                       paging_rights_t wanted)
{
    const paging_rights_t mask = PAGING_WRITE | PAGING_EXECUTE | PAGING_USER | PAGING_GLOBAL;
    struct paging_mapping leaf;

    REQUIRE_STATUS(MM_OK, paging_query(run->space, address, &leaf));
    REQUIRE((leaf.rights & mask) == wanted, "expected rights 0x%x of %s at 0x%lx, got 0x%x", wanted,
            what, address, leaf.rights & mask);
    return true;
}

bool paging_case_rights(struct test_run *run)
{
    const struct boot_info *boot = &run->mm->boot;
    vaddr_t alias = hhdm_offset() + boot->kernel_phys - boot->kernel_virt;
    const paging_rights_t constant = PAGING_GLOBAL, data = PAGING_GLOBAL | PAGING_WRITE;

    return rights_are(run, ".text", boot->text.begin, PAGING_GLOBAL | PAGING_EXECUTE) &&
           rights_are(run, ".rodata", boot->rodata.begin, constant) &&
           rights_are(run, ".data", boot->data.begin, data) &&
           rights_are(run, "the alias of .text", alias + boot->text.begin, constant) &&
           rights_are(run, "the alias of .rodata", alias + boot->rodata.begin, constant) &&
           rights_are(run, "the alias of .data", alias + boot->data.begin, data) &&
           rights_are(run, "the heap", (uintptr_t)run->mm->heap, data);
}

bool paging_case_guards(struct test_run *run)
{
    const struct boot_info *boot = &run->mm->boot;
    const struct kvm *kvm = &run->mm->kvm;
    vaddr_t heap = (uintptr_t)run->mm->heap;
    paddr_t found;

    for (uint32_t i = 0; i < boot->guard_count; i++)
        REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, boot->guard[i].begin, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, heap - 1, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, heap + kvm->heap_bytes, &found));
    mm_format(run->note, NOTE_BYTES, "%u pages at boot stacks, 2 at the heap", boot->guard_count);
    return true;
}

bool paging_case_lower_half(struct test_run *run)
{
    const volatile uint64_t *root = word_of_frame(run->space->root);

    for (unsigned i = 0; i < PAGING_ENTRIES / 2; i++)
        REQUIRE(root[i] == 0, "expected no entry %u in the root table, got 0x%lx", i, root[i]);
    return true;
}

bool paging_case_stack(struct test_run *run)
{
    struct kvm *kvm = &run->mm->kvm;
    const uint64_t bytes = MM_KIB(16);
    uint64_t used_before = pmm_stats(run->space->pmm).used_frames;
    vaddr_t top;
    paddr_t found;

    REQUIRE_STATUS(MM_OK, kvm_alloc_stack(kvm, bytes, &top));
    for (vaddr_t at = top - bytes; at < top; at += 8)
        *word_at(at) = at;
    for (vaddr_t at = top - bytes; at < top; at += 8)
        REQUIRE(*word_at(at) == at, "expected 0x%lx on the stack, got 0x%lx", at, *word_at(at));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, top, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, top - bytes - 1, &found));
    kvm_free_stack(kvm, top);
    uint64_t used_after = pmm_stats(run->space->pmm).used_frames;
    REQUIRE(used_after == used_before, "expected %lu used frames as before, got %lu", used_before,
            used_after);
    return true;
}

#define BLOCK_SMALL_BYTES (3 * PAGE_SIZE)

/* 2 MB and three pages where there is memory, so that leaves of both sizes are used. */
static uint64_t block_bytes(struct pmm *pmm)
{
    bool is_tiny = pmm_stats(pmm).free_frames * FRAME_SIZE < 4 * LARGE_PAGE_SIZE;

    return is_tiny ? BLOCK_SMALL_BYTES : LARGE_PAGE_SIZE + BLOCK_SMALL_BYTES;
}

bool paging_case_block(struct test_run *run)
{
    struct kvm *kvm = &run->mm->kvm;
    const uint64_t bytes = block_bytes(&run->mm->pmm);
    vaddr_t block;
    paddr_t found;

    REQUIRE_STATUS(MM_OK, kvm_alloc(kvm, bytes, 0, &block));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, block - 1, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, block + bytes, &found));
    size_t other = first_other_byte((const void *)(uintptr_t)block, 0, bytes);
    REQUIRE(other == bytes, "expected zeroes, got another byte at offset %lu of the block", other);
    for (vaddr_t at = block; at < block + bytes; at += PAGE_SIZE)
        *word_at(at) = at;
    for (vaddr_t at = block; at < block + bytes; at += PAGE_SIZE)
        REQUIRE(*word_at(at) == at, "expected 0x%lx in the block, got 0x%lx", at, *word_at(at));
    kvm_free(kvm, block);
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, block, &found));
    REQUIRE_STATUS(MM_NOT_MAPPED, paging_translate(run->space, block + bytes - 1, &found));
    mm_format(run->note, NOTE_BYTES, "%lu KB", bytes >> 10);
    return true;
}
