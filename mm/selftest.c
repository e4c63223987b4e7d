/* SPDX-License-Identifier: MIT */
/* The self-tests that run at every boot, on the memory that was really found: the list of the cases, which
 * stand in the other selftest_*.c, and who runs it.
 *
 * A case is one row of a table: a name and a function that does the thing, undoes it, and answers true,
 * or false with "expected ..., got ..." in the note (after a success the note is printed behind the
 * name). A case that fails may leave something behind; the last case of each part then fails too.
 * Where memory does not keep what is written, no later case runs: mm itself may have written there.
 *
 * `live` cases use the kernel's own page tables through real loads and stores; they are left out where
 * somebody else owns the page tables. */
#include "mm/selftest_parts.h"

#define LIVE_ONLY  true
#define EVERYWHERE false

struct test_case {
    const char *name;
    bool (*run)(struct test_run *run);
    bool live_only;
};

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

/* ---- the list ---- */

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
