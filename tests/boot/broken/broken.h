/* SPDX-License-Identifier: MIT */
/* What the files here share: a kernel with one function of mm broken, to prove that the self-tests see
 * it (make BREAK=name; tests/boot/cases_broken.py).
 *
 * The linker hands calls of a wrapped function to __wrap_NAME; the sound one is __real_NAME. A break
 * is on only while the self-tests run: bringing up memory stays sound, so that what fails is a test.
 * Each file has one line "wrap:" with the functions for the linker (run_memory_tests always), and a
 * line "seen by:" for each case that must fail. */
#ifndef TESTS_BOOT_BROKEN_H
#define TESTS_BOOT_BROKEN_H

#include <mm/mm.h>

/* Declares the sound function and the broken one. */
#define BROKEN_WRAPS(type, name, ...)                                                              \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

BROKEN_WRAPS(struct mm_test_result, run_memory_tests, struct mm *mm);

static bool broken_now;

/* A page of the kernel's data to map where nothing should be. */
static uint8_t broken_bytes[PAGE_SIZE] __attribute__((aligned(4096), unused));
#define broken_page ((vaddr_t)broken_bytes)

static inline paddr_t broken_frame(const struct mm *mm)
{
    return mm->boot.kernel_phys + (broken_page - mm->boot.kernel_virt);
}

/* A file that spoils something once, before the tests, defines BROKEN_BEGIN as its function for that. */
#ifdef BROKEN_BEGIN
static void BROKEN_BEGIN(struct mm *mm);
#endif

static inline void broken_require(mm_status_t status)
{
    if (status != MM_OK)
        mm_fatal("broken on purpose, but not as planned: %s", mm_status_name(status));
}

/* Maps a page where there must be none. */
static inline void broken_map(struct mm *mm, vaddr_t page)
{
    broken_require(paging_map_page(&mm->kernel_space, page, broken_frame(mm), PAGING_GLOBAL));
}

/* Addresses that no window, no HHDM and no self-test uses, for what the audit alone can see. */
#define BROKEN_SPARE ((vaddr_t)0xffffd00000000000)

static inline void broken_map_spare(struct mm *mm, paddr_t frame, paging_rights_t rights)
{
    broken_require(paging_map_page(&mm->kernel_space, BROKEN_SPARE, frame, rights));
}

/* Gives a page that is mapped by 4 KiB other rights. */
static inline void broken_remap(struct mm *mm, vaddr_t page, paging_rights_t rights)
{
    paddr_t frame = 0;

    broken_require(paging_unmap_page(&mm->kernel_space, page, &frame));
    broken_require(paging_map_page(&mm->kernel_space, page, frame, rights));
}

struct mm_test_result __wrap_run_memory_tests(struct mm *mm)
{
    struct mm_test_result result;

#ifdef BROKEN_BEGIN
    BROKEN_BEGIN(mm);
#endif
    broken_now = true;
    result = __real_run_memory_tests(mm);
    broken_now = false;
    return result;
}

#endif
