/* SPDX-License-Identifier: MIT */
/* The self-tests that run at every boot, on the memory that was really found.
 *
 * A case is one row of a table: a name and a function that does the thing, undoes it, and answers true,
 * or false with "expected ..., got ..." in the note (after a success the note is printed behind the
 * name). A case that fails may leave something behind; the last case of each part then fails too.
 * Where memory does not keep what is written, no later case runs: mm itself may have written there.
 *
 * `live` cases use the kernel's own page tables through real loads and stores; they are left out where
 * somebody else owns the page tables. */
#include <mm/mm.h>

#define NOTE_BYTES    160
#define PROBED_RANGES 64u
#define LIVE_ONLY     true
#define EVERYWHERE    false

struct test_run {
    struct mm *mm;
    struct address_space *space; /* the space that the paging cases work in */
    vaddr_t scratch;             /* nothing is mapped in the GB from here on */
    bool memory_lies;            /* what was written was not there to be read: the tests end */
    char note[NOTE_BYTES];
};

struct test_case {
    const char *name;
    bool (*run)(struct test_run *run);
    bool live_only;
};

/* Inside a case: if the condition does not hold, the case fails with this note. */
#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            mm_format(run->note, NOTE_BYTES, __VA_ARGS__);                                         \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

/* Inside a case: the call must answer `wanted`. */
#define REQUIRE_STATUS(wanted, call)                                                               \
    do {                                                                                           \
        mm_status_t status_ = (call);                                                              \
        REQUIRE(status_ == (wanted), "expected \"%s\" of %s, got \"%s\"", mm_status_name(wanted),  \
                #call, mm_status_name(status_));                                                   \
    } while (0)

static struct mm_test_result run_cases(struct test_run *run, const char *part,
                                       const struct test_case *cases, size_t count)
{
    struct mm_test_result result = { 0, 0 };

    for (size_t i = 0; i < count && !run->memory_lies; i++) {
        if (cases[i].live_only && run->mm->boot.paging_is_foreign)
            continue;
        run->note[0] = '\0';
        if (cases[i].run(run)) {
            const char *open = run->note[0] != '\0' ? " (" : "";
            result.passed++;
            mm_info("✓ %s: %s%s%s%s", part, cases[i].name, open, run->note,
                    run->note[0] != '\0' ? ")" : "");
        } else {
            result.failed++;
            mm_log_at(MM_LOG_ERROR, "✗ %s: %s: %s", part, cases[i].name, run->note);
        }
    }
    return result;
}

#define RUN_CASES(run, part, cases)                                                                \
    run_cases((run), (part), (cases), sizeof(cases) / sizeof((cases)[0]))

/* The first byte that is not `value`, or `bytes`. */
static size_t first_other_byte(const void *memory, uint8_t value, size_t bytes)
{
    const volatile uint8_t *at = memory;
    size_t i = 0;

    while (i < bytes && at[i] == value)
        i++;
    return i;
}

static volatile uint64_t *word_at(vaddr_t address)
{
    return (volatile uint64_t *)(uintptr_t)address;
}

static volatile uint64_t *word_of_frame(paddr_t frame)
{
    return phys_to_virt(frame);
}

/* ---- frames ---- */

static bool pmm_case_valid(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frame = 1;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE(mm_is_aligned(frame, FRAME_SIZE), "expected a multiple of 4096, got 0x%lx", frame);
    const struct mm_range *range = memmap_find(&run->mm->map, frame);
    REQUIRE(range != NULL && range->type == BOOT_USABLE, "expected usable memory, got 0x%lx: %s",
            frame, range == NULL ? "a hole" : memmap_type_name(range->type));
    REQUIRE(pmm_frame_state(pmm, frame) == PMM_FRAME_USED,
            "expected frame 0x%lx to be marked used, got another state", frame);
    pmm_free_frame(pmm, frame);
    return true;
}

static bool pmm_case_different(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frames[16];

    for (size_t i = 0; i < 16; i++) {
        REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frames[i]));
        for (size_t j = 0; j < i; j++)
            REQUIRE(frames[i] != frames[j], "expected 16 different frames, got 0x%lx twice",
                    frames[i]);
    }
    for (size_t i = 0; i < 16; i++)
        pmm_free_frame(pmm, frames[i]);
    return true;
}

static bool pmm_case_comes_back(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t first, again;
    uint64_t used_before = pmm_stats(pmm).used_frames;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &first));
    pmm_free_frame(pmm, first);
    uint64_t used_after = pmm_stats(pmm).used_frames;
    REQUIRE(used_after == used_before, "expected %lu used frames, got %lu", used_before,
            used_after);
    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &again));
    REQUIRE(again == first, "expected frame 0x%lx again, got 0x%lx", first, again);
    pmm_free_frame(pmm, again);
    return true;
}

static bool pmm_case_zero(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frame;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    memset(phys_to_virt(frame), 0xa5, FRAME_SIZE);
    pmm_free_frame(pmm, frame);
    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    size_t other = first_other_byte(phys_to_virt(frame), 0, FRAME_SIZE);
    REQUIRE(other == FRAME_SIZE, "expected zeroes in frame 0x%lx, got another byte at offset %lu",
            frame, other);
    pmm_free_frame(pmm, frame);
    return true;
}

static bool pmm_case_contiguous(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t block;

    REQUIRE_STATUS(MM_OK, pmm_alloc_contiguous(pmm, 8, MM_KIB(32), MM_GIB(4), &block));
    REQUIRE(mm_is_aligned(block, MM_KIB(32)) && block + MM_KIB(32) <= MM_GIB(4),
            "expected 32 KB below 4 GB, aligned to 32 KB, got 0x%lx", block);
    for (paddr_t frame = block; frame < block + MM_KIB(32); frame += FRAME_SIZE)
        REQUIRE(pmm_frame_state(pmm, frame) == PMM_FRAME_USED,
                "expected frame 0x%lx of the block to be used, got another state", frame);
    pmm_free_contiguous(pmm, block, 8);
    REQUIRE(pmm_frame_state(pmm, block) == PMM_FRAME_FREE,
            "expected the block at 0x%lx to be free again, got another state", block);
    REQUIRE_STATUS(MM_OUT_OF_MEMORY,
                   pmm_alloc_contiguous(pmm, UINT64_MAX, FRAME_SIZE, PMM_NO_LIMIT, &block));
    return true;
}

/* Takes the free frame nearest to one end of a range; false if none is free. */
static bool take_end_frame(struct pmm *pmm, struct mm_extent extent, bool highest, paddr_t *out)
{
    for (uint64_t distance = 0; distance < extent.end - extent.base; distance += FRAME_SIZE) {
        paddr_t frame = highest ? extent.end - FRAME_SIZE - distance : extent.base + distance;
        if (pmm_reserve_range(pmm, frame, frame + FRAME_SIZE) != MM_OK)
            continue;
        *out = frame;
        return true;
    }
    return false;
}

static uint64_t probe_pattern(paddr_t frame)
{
    return frame ^ 0x5eed5eed5eed5eedu;
}

/* The lowest and the highest free frame of each range are all written before the first is read, so
 * that two addresses of one memory cell would be found out. */
static bool pmm_case_ends(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    size_t ranges = pmm_stats(pmm).range_count, count = 0;
    size_t first = ranges > PROBED_RANGES ? ranges - PROBED_RANGES : 0;
    paddr_t frames[2 * PROBED_RANGES];

    for (size_t i = first; i < ranges; i++)
        for (unsigned highest = 0; highest < 2; highest++)
            if (take_end_frame(pmm, pmm_range_extent(pmm, i), highest != 0, &frames[count]))
                count++;
    for (size_t i = 0; i < count; i++) {
        word_of_frame(frames[i])[0] = probe_pattern(frames[i]);
        word_of_frame(frames[i])[511] = ~probe_pattern(frames[i]);
    }
    REQUIRE(count > 0, "expected a free frame, got none");
    for (size_t i = 0; i < count; i++) {
        uint64_t low = word_of_frame(frames[i])[0], high = word_of_frame(frames[i])[511];
        run->memory_lies = low != probe_pattern(frames[i]) || high != ~low;
        REQUIRE(!run->memory_lies, "expected 0x%lx in frame 0x%lx, got 0x%lx and 0x%lx",
                probe_pattern(frames[i]), frames[i], low, high);
        REQUIRE_STATUS(MM_OK, pmm_release_range(pmm, frames[i], frames[i] + FRAME_SIZE));
    }
    mm_format(run->note, NOTE_BYTES, "%lu frames, up to 0x%lx", count, frames[count - 1]);
    return true;
}

static bool pmm_case_counters(struct test_run *run)
{
    REQUIRE(pmm_verify(&run->mm->pmm), "expected counters and bitmaps to agree, got a difference");
    return true;
}

/* *lies: memory does not keep what is written. */
static struct mm_test_result test_frames(struct mm *mm, bool *lies)
{
    static const struct test_case cases[] = {
        { "a frame is valid", pmm_case_valid, EVERYWHERE },
        { "frames are different", pmm_case_different, EVERYWHERE },
        { "a freed frame comes back", pmm_case_comes_back, EVERYWHERE },
        { "a frame is zeroed", pmm_case_zero, EVERYWHERE },
        { "contiguous frames are aligned, below their limit, and freed", pmm_case_contiguous,
          EVERYWHERE },
        { "lowest and highest frame of each range keep what is written", pmm_case_ends,
          EVERYWHERE },
        { "counters and bitmaps agree", pmm_case_counters, EVERYWHERE },
    };
    struct test_run run = { .mm = mm };
    struct mm_test_result result = RUN_CASES(&run, "pmm", cases);

    *lies = run.memory_lies;
    return result;
}

struct mm_test_result test_pmm(struct mm *mm)
{
    bool lies;

    return test_frames(mm, &lies);
}

/* ---- page tables ---- */

static bool paging_case_map(struct test_run *run)
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

static bool paging_case_refuse(struct test_run *run)
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

static bool paging_case_unmap(struct test_run *run)
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

static bool paging_case_large(struct test_run *run)
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

static bool paging_case_access(struct test_run *run)
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
static bool paging_case_flush(struct test_run *run)
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

static bool paging_case_rights(struct test_run *run)
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

static bool paging_case_guards(struct test_run *run)
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

static bool paging_case_lower_half(struct test_run *run)
{
    const volatile uint64_t *root = word_of_frame(run->space->root);

    for (unsigned i = 0; i < PAGING_ENTRIES / 2; i++)
        REQUIRE(root[i] == 0, "expected no entry %u in the root table, got 0x%lx", i, root[i]);
    return true;
}

static bool paging_case_stack(struct test_run *run)
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

static bool paging_case_block(struct test_run *run)
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

struct mm_test_result test_paging(struct mm *mm)
{
    static const struct test_case cases[] = {
        { "a mapped page translates", paging_case_map, EVERYWHERE },
        { "a second mapping and a writable executable one are refused", paging_case_refuse,
          EVERYWHERE },
        { "an unmapped page is gone, and its tables", paging_case_unmap, EVERYWHERE },
        { "a 2 MB leaf is made, and never written into", paging_case_large, EVERYWHERE },
        { "what is written through a page arrives in its frame", paging_case_access, LIVE_ONLY },
        { "an unmapped page leaves no translation", paging_case_flush, LIVE_ONLY },
        { "text is R-X, rodata R--, data and heap RW-, their aliases never executable",
          paging_case_rights, LIVE_ONLY },
        { "guard pages are not mapped", paging_case_guards, LIVE_ONLY },
        { "the lower half is empty", paging_case_lower_half, LIVE_ONLY },
        { "a kernel stack stands between guard pages", paging_case_stack, LIVE_ONLY },
        { "a block of scattered frames stands between guard pages", paging_case_block, LIVE_ONLY },
    };
    struct test_run run = { .mm = mm, .space = &mm->kernel_space };
    struct address_space own;
    bool foreign = mm->boot.paging_is_foreign;

    run.scratch = foreign ? MM_GIB(1) : mm->kvm.stacks.end - MM_GIB(1);
    if (foreign) {
        run.space = &own;
        if (paging_init(&own, &mm->pmm, &mm->cpu) != MM_OK) {
            mm_error("paging: no frame for an address space to test");
            return (struct mm_test_result){ 0, 1 };
        }
    }
    struct mm_test_result result = RUN_CASES(&run, "paging", cases);
    if (foreign)
        paging_destroy(&own);
    return result;
}

/* ---- heap ---- */

static bool heap_case_alloc(struct test_run *run)
{
    void *block = kheap_alloc(run->mm->heap, 1024);

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    REQUIRE(mm_is_aligned((uintptr_t)block, 1024), "expected alignment to 1024, got 0x%lx",
            (uintptr_t)block);
    size_t bytes = kheap_size(run->mm->heap, block);
    kheap_free(run->mm->heap, block);
    REQUIRE(bytes == 1024, "expected a size of 1024, got %lu", bytes);
    return true;
}

static bool heap_case_zero(struct test_run *run)
{
    void *block = kheap_alloc(run->mm->heap, 4096);

    REQUIRE(block != NULL, "expected a block of 4096 bytes, got NULL");
    memset(block, 0xa5, 4096);
    kheap_free(run->mm->heap, block);
    block = kheap_alloc(run->mm->heap, 4096);
    REQUIRE(block != NULL, "expected a block of 4096 bytes, got NULL");
    size_t other = first_other_byte(block, 0, 4096);
    kheap_free(run->mm->heap, block);
    REQUIRE(other == 4096, "expected zeroes, got another byte at offset %lu", other);
    return true;
}

static bool heap_case_write(struct test_run *run)
{
    volatile uint64_t *block = kheap_alloc(run->mm->heap, 1024);
    uint64_t wrong = 0;

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    for (uint64_t i = 0; i < 128; i++)
        block[i] = i * 0x9e3779b97f4a7c15u;
    for (uint64_t i = 0; i < 128; i++)
        wrong += block[i] != i * 0x9e3779b97f4a7c15u;
    kheap_free(run->mm->heap, (void *)(uintptr_t)block);
    REQUIRE(wrong == 0, "expected to read what was written, got %lu other words of 128", wrong);
    return true;
}

static bool heap_case_free(struct test_run *run)
{
    struct kheap_stats before = kheap_stats(run->mm->heap);
    void *block = kheap_alloc(run->mm->heap, 1024);

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    kheap_free(run->mm->heap, block);
    struct kheap_stats after = kheap_stats(run->mm->heap);
    REQUIRE(after.free_bytes == before.free_bytes &&
                after.largest_free_block == before.largest_free_block,
            "expected %lu bytes free, %lu in one block, got %lu and %lu", before.free_bytes,
            before.largest_free_block, after.free_bytes, after.largest_free_block);
    return true;
}

static bool heap_case_ten(struct test_run *run)
{
    uint8_t *blocks[10];

    for (uint8_t i = 0; i < 10; i++) {
        blocks[i] = kheap_alloc(run->mm->heap, 64);
        REQUIRE(blocks[i] != NULL, "expected 10 blocks of 64 bytes, got %u", i);
        memset(blocks[i], i + 1, 64);
    }
    for (uint8_t i = 0; i < 10; i++) {
        size_t other = first_other_byte(blocks[i], (uint8_t)(i + 1), 64);
        REQUIRE(other == 64, "expected block %u untouched by the others, got byte %u at offset %lu",
                i, blocks[i][other], other);
    }
    for (uint8_t i = 0; i < 10; i++)
        kheap_free(run->mm->heap, blocks[i]);
    return true;
}

static bool heap_case_limits(struct test_run *run)
{
    struct kheap *heap = run->mm->heap;
    void *nothing = kheap_alloc(heap, 0);

    REQUIRE(nothing == NULL, "expected NULL for 0 bytes, got 0x%lx", (uintptr_t)nothing);
    kheap_free(heap, NULL);
    uint64_t largest = kheap_stats(heap).largest_free_block;
    void *block = kheap_alloc(heap, largest);
    REQUIRE(block != NULL, "expected the largest free block, %lu bytes, got NULL", largest);
    kheap_free(heap, block);
    return true;
}

static bool heap_case_physical(struct test_run *run)
{
    volatile uint64_t *block = kheap_alloc(run->mm->heap, 64);
    paddr_t frame;

    REQUIRE(block != NULL, "expected a block of 64 bytes, got NULL");
    block[3] = 0xfeedbeef;
    REQUIRE_STATUS(MM_OK, kheap_to_phys(run->mm->heap, (void *)(uintptr_t)block, 64, &frame));
    uint64_t found = word_of_frame(frame)[3];
    kheap_free(run->mm->heap, (void *)(uintptr_t)block);
    REQUIRE(found == 0xfeedbeef, "expected 0xfeedbeef at physical 0x%lx, got 0x%lx", frame, found);
    return true;
}

static bool heap_case_state(struct test_run *run)
{
    uint64_t blocks = kheap_stats(run->mm->heap).used_blocks;

    REQUIRE(kheap_verify(run->mm->heap), "expected a consistent heap, got a difference");
    mm_format(run->note, NOTE_BYTES, "%lu blocks in use", blocks);
    return true;
}

struct mm_test_result test_allocator(struct mm *mm)
{
    static const struct test_case cases[] = {
        { "kmalloc(1024) gives an aligned block", heap_case_alloc, EVERYWHERE },
        { "a block is zeroed", heap_case_zero, EVERYWHERE },
        { "a block keeps what is written", heap_case_write, EVERYWHERE },
        { "kfree gives all of it back", heap_case_free, EVERYWHERE },
        { "10 blocks of 64 bytes do not overlap", heap_case_ten, EVERYWHERE },
        { "0 bytes, NULL and the largest block", heap_case_limits, EVERYWHERE },
        { "a block's physical address", heap_case_physical, EVERYWHERE },
        { "blocks and counters agree", heap_case_state, EVERYWHERE },
    };
    struct test_run run = { .mm = mm };

    return RUN_CASES(&run, "heap", cases);
}

/* ---- all of them ---- */

static void add_result(struct mm_test_result *sum, struct mm_test_result part)
{
    sum->passed += part.passed;
    sum->failed += part.failed;
}

/* What the heap takes for its own state it keeps. */
static uint64_t used_beside_heap(struct mm *mm)
{
    return pmm_stats(&mm->pmm).used_frames - kheap_stats(mm->heap).frames;
}

/* What must be true after all cases. */
static void check_frames_left(struct mm *mm, uint64_t used_before, struct mm_test_result *result)
{
    kheap_drain(mm->heap, KHEAP_ALL_SLOTS);
    uint64_t used_after = used_beside_heap(mm);
    if (used_after == used_before)
        return;
    result->failed++;
    mm_log_at(MM_LOG_ERROR, "✗ pmm: the tests leave no frame behind: expected %lu used, got %lu",
              used_before, used_after);
}

struct mm_test_result run_memory_tests(struct mm *mm)
{
    struct mm_test_result result = { 0, 0 };
    uint64_t used_before = used_beside_heap(mm);
    bool lies;

    mm_info("========== Memory Tests ==========");
    add_result(&result, test_frames(mm, &lies));
    if (lies) {
        mm_log_at(MM_LOG_ERROR,
                  "memory does not keep what is written: the other tests are left out");
    } else {
        add_result(&result, test_paging(mm));
        add_result(&result, test_allocator(mm));
        check_frames_left(mm, used_before, &result);
    }
    if (result.failed == 0)
        mm_info("All tests passed! ✨");
    else
        mm_log_at(MM_LOG_ERROR, "%u of %u tests failed", result.failed,
                  result.passed + result.failed);
    mm_info("==========");
    return result;
}
