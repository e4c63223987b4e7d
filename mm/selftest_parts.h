/* SPDX-License-Identifier: MIT */
/* What the self-tests are made of. Internal to mm: selftest.c has the list of the cases and runs it, the cases
 * stand in selftest_frames.c, selftest_paging.c and selftest_heap.c. */
#ifndef MM_SELFTEST_PARTS_H
#define MM_SELFTEST_PARTS_H

#include <mm/mm.h>

#define NOTE_BYTES 160

struct test_run {
    struct mm *mm;
    struct address_space *space; /* the space that the paging cases work in */
    vaddr_t scratch;             /* nothing is mapped in the GB from here on */
    bool memory_lies;            /* what was written was not there to be read: the tests end */
    char note[NOTE_BYTES];
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

/* The first byte that is not `value`, or `bytes`. */
static inline size_t first_other_byte(const void *memory, uint8_t value, size_t bytes)
{
    const volatile uint8_t *at = memory;
    size_t i = 0;

    while (i < bytes && at[i] == value)
        i++;
    return i;
}

static inline volatile uint64_t *word_at(vaddr_t address)
{
    return (volatile uint64_t *)(uintptr_t)address;
}

static inline volatile uint64_t *word_of_frame(paddr_t frame)
{
    return phys_to_virt(frame);
}

/* The cases: true, or false and a note. */

/* ---- selftest_frames.c ---- */

bool pmm_case_valid(struct test_run *run);
bool pmm_case_different(struct test_run *run);
bool pmm_case_comes_back(struct test_run *run);
bool pmm_case_zero(struct test_run *run);
bool pmm_case_contiguous(struct test_run *run);
bool pmm_case_ends(struct test_run *run);
bool pmm_case_counters(struct test_run *run);

/* ---- selftest_paging.c ---- */

bool paging_case_map(struct test_run *run);
bool paging_case_refuse(struct test_run *run);
bool paging_case_unmap(struct test_run *run);
bool paging_case_large(struct test_run *run);
bool paging_case_access(struct test_run *run);
bool paging_case_flush(struct test_run *run);
bool paging_case_rights(struct test_run *run);
bool paging_case_guards(struct test_run *run);
bool paging_case_lower_half(struct test_run *run);
bool paging_case_stack(struct test_run *run);
bool paging_case_block(struct test_run *run);

/* ---- selftest_heap.c ---- */

bool heap_case_alloc(struct test_run *run);
bool heap_case_zero(struct test_run *run);
bool heap_case_write(struct test_run *run);
bool heap_case_free(struct test_run *run);
bool heap_case_ten(struct test_run *run);
bool heap_case_limits(struct test_run *run);
bool heap_case_physical(struct test_run *run);
bool heap_case_state(struct test_run *run);

#endif
