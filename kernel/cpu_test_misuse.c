/* SPDX-License-Identifier: MIT */
/* Owns the test of wrong uses: each wrong call of heap and frames is reported, names what it was given,
 * and changes nothing.
 *
 *   level default, then full:  for each size 64 B, 4 KiB, 256 KiB, 4 MiB: each row of heap_rows
 *   the level of the boot:     each row of frame_rows
 *
 *   a row:  wrong call -> mm_bug() -> mm_port_bug() -> misuse_take(): counted, its text looked at, and
 *           the call returns, having changed nothing
 *           [MM] ✓ misuse: <row>, <size>, <level> level: N reports
 *
 * Invariants: nobody else uses mm; while a row runs, every report is of its making. After a row the
 * counters are as before and kheap_verify(), pmm_verify() find nothing. The first failure ends the test
 * (cpu_test_fail). What a trap must stop (guards, execution, constants) is kernel/fault_test.c. */
#include "arch/x86_64/cpu.h"
#include "kernel/cpu_test_parts.h"
#include "kernel/image.h"
#include "kernel/mm_port.h"
#include "kernel/smp.h"
#include <mm/mm.h>

#define MISUSE_SHARED     40u /* blocks that every CPU frees */
#define MISUSE_FEW        4u  /* of the large ones */
#define MISUSE_FREEING    9u  /* CPUs that free one frame */
#define MISUSE_TOUCHED    4096u
#define MISUSE_KEPT_BYTES MM_KIB(64)     /* of each 2 MiB: blocks that stay when all others go */
#define MISUSE_THIN_BYTES MM_KIB(256)    /* of a block that must be found between them */
#define MISUSE_ANY        ((uint64_t)-1) /* the text may name any address */

static const size_t misuse_sizes[] = { 64, 4096, 256 * 1024, 4 * 1024 * 1024 };

static struct {
    const char *row;
    size_t size;
    bool full;         /* the heap's level now */
    uint32_t reports;  /* of this row; atomic */
    uint64_t address;  /* that a report must name, or MISUSE_ANY */
    unsigned meetings; /* of all CPUs, so far */
    unsigned char *shared[MISUSE_SHARED];
} misuse;

static unsigned char misuse_data[256] __attribute__((aligned(64)));

/* ---- Reports ---- */

static bool misuse_names(const char *line, const char *words)
{
    for (; *line != '\0'; line++) {
        size_t i = 0;

        while (words[i] != '\0' && line[i] == words[i])
            i++;
        if (words[i] == '\0')
            return true;
    }
    return false;
}

/* In place of a panic. */
static void misuse_take(const char *line)
{
    char words[24];

    __atomic_fetch_add(&misuse.reports, 1, __ATOMIC_ACQ_REL);
    if (misuse.address == MISUSE_ANY)
        return;
    (void)mm_format(words, sizeof(words), "0x%lx", misuse.address);
    if (!misuse_names(line, words))
        cpu_test_fail("%s: a report does not name %s: %s", misuse.row, words, line);
}

static uint32_t misuse_begin(const void *address)
{
    misuse.address = (uint64_t)(uintptr_t)address;
    return __atomic_load_n(&misuse.reports, __ATOMIC_ACQUIRE);
}

static void misuse_end(uint32_t before, const char *call)
{
    uint32_t reports = __atomic_load_n(&misuse.reports, __ATOMIC_ACQUIRE) - before;

    if (reports != 1)
        cpu_test_fail("%s, %lu bytes, %s level: %u reports of %s with 0x%lx, not one", misuse.row,
                      misuse.size, misuse.full ? "full" : "default", reports, call, misuse.address);
}

/* The call makes exactly one report, which names the address. */
#define MISUSE_REPORTED(address, call)                                                             \
    do {                                                                                           \
        uint32_t before_ = misuse_begin(address);                                                  \
        call;                                                                                      \
        misuse_end(before_, #call);                                                                \
    } while (0)

#define MISUSE_REQUIRE(condition)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            cpu_test_fail("%s, %lu bytes, %s level: not so: %s", misuse.row, misuse.size,          \
                          misuse.full ? "full" : "default", #condition);                           \
    } while (0)

/* ---- Heap ---- */

static bool misuse_is_zero(const unsigned char *block, size_t bytes)
{
    const uint64_t *words = (const uint64_t *)(const void *)block;

    for (size_t i = 0; i < bytes / sizeof(*words); i++)
        if (words[i] != 0)
            return false;
    return true;
}

/* A block of the row's size, zeroed. The machine has memory for every row. */
static unsigned char *misuse_alloc(void)
{
    unsigned char *block = kmalloc(misuse.size);

    if (block == NULL)
        mm_fatal("misuse: %s: no block of %lu bytes", misuse.row, misuse.size);
    MISUSE_REQUIRE(misuse_is_zero(block, misuse.size));
    return block;
}

/* Every call that takes a block. */
static void misuse_expect(void *address)
{
    if (cpu_test_has_failed())
        return;
    MISUSE_REPORTED(address, kfree(address));
    MISUSE_REPORTED(address, MISUSE_REQUIRE(ksize(address) == 0));
    MISUSE_REPORTED(address, MISUSE_REQUIRE(krealloc(address, 32) == NULL));
    MISUSE_REPORTED(address, kfree_sized(address, misuse.size));
}

static void misuse_free_twice(void)
{
    unsigned char *block = misuse_alloc(), *other = misuse_alloc();

    kfree(block);
    misuse_expect(block);
    kfree(other);
    misuse_expect(block);
    misuse_expect(other);
}

static void misuse_free_after_drain(void)
{
    unsigned char *block = misuse_alloc();

    kfree(block);
    kheap_drain(kheap_default(), KHEAP_ALL_SLOTS);
    misuse_expect(block);
}

/* At the default level the same block may come again, and is then its new owner's to free. */
static void misuse_free_after_reuse(void)
{
    unsigned char *block = misuse_alloc(), *next;

    kfree(block);
    next = misuse_alloc();
    MISUSE_REQUIRE(!misuse.full || next != block);
    if (next != block)
        misuse_expect(block);
    kfree(next);
}

static void misuse_free_inside(void)
{
    unsigned char *block = misuse_alloc();
    const size_t places[] = { 1, 8, 16, misuse.size / 2, misuse.size - 1 };

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        misuse_expect(block + places[i]);
    kfree(block);
}

/* Whatever a header might look like in front of the address. */
static void misuse_free_forged(void)
{
    unsigned char *block = misuse_alloc();

    memset(block, 0x41, misuse.size);
    misuse_expect(block + misuse.size / 2);
    for (size_t i = 0; i < misuse.size / sizeof(void *); i++)
        memcpy(block + i * sizeof(void *), &block, sizeof(void *));
    misuse_expect(block + 16);
    kfree(block);
}

static void misuse_free_elsewhere(void)
{
    unsigned char on_stack[64] __attribute__((aligned(64)));
    struct kvm_window window = kvm_heap_window(&mm_kernel()->kvm);
    const uint64_t places[] = {
        (uintptr_t)on_stack,
        (uintptr_t)misuse_data + 64,
        (uintptr_t)__text_begin + 64,
        (uintptr_t)__rodata_begin + 64,
        16,
        0x800000000000u,
        0xdeadbeef00000000u,
        0xfffffffffffffff0u,
        window.base - PAGE_SIZE,
        window.end - PAGE_SIZE,
        window.end,
        hhdm_offset() + MM_MIB(1),
    };

    memset(on_stack, 0, sizeof(on_stack));
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        misuse_expect((void *)(uintptr_t)places[i]);
}

/* Addresses near a block that nobody was given. */
static void misuse_free_never_allocated(void)
{
    unsigned char *block = misuse_alloc();
    struct kheap_peek peek;

    for (size_t distance = MM_KIB(64); distance < MM_MIB(16); distance *= 2) {
        unsigned char *address = block + misuse.size + distance;

        if (!kheap_peek(kheap_default(), (uintptr_t)address, &peek) || peek.what != KHEAP_USED)
            misuse_expect(address);
    }
    kfree(block);
}

/* The default level knows a block's class; above the classes only what the caller says. */
static void misuse_free_other_size(void)
{
    unsigned char *block = misuse_alloc();

    if (misuse.full)
        MISUSE_REPORTED(block, kfree_sized(block, misuse.size - 1));
    if (misuse.full || misuse.size <= 4096) {
        MISUSE_REPORTED(block, kfree_sized(block, 4 * misuse.size));
        MISUSE_REPORTED(block, kfree_sized(block, misuse.size / 4));
    }
    kfree_sized(block, misuse.size);
    MISUSE_REPORTED(block, kfree_sized(block, misuse.size));
}

/* A report at the free, once; the block stays allocated and its zones are mended. */
static void misuse_write_outside(size_t size, ptrdiff_t from, size_t bytes)
{
    unsigned char *block = kmalloc(size);

    if (block == NULL)
        mm_fatal("misuse: %s: no block of %lu bytes", misuse.row, size);
    for (size_t i = 0; i < bytes; i++)
        block[from + (ptrdiff_t)i] ^= 0x5a;
    MISUSE_REPORTED(block, kfree(block));
    kfree(block);
}

/* A block with memory of the heap behind it for a page more. Behind a small one that is others', where a
 * span ends at the heap's end nothing. */
static unsigned char *misuse_alloc_before_a_page(void)
{
    unsigned char *block = misuse_alloc();
    struct kheap_peek peek;
    vaddr_t last = (uintptr_t)block + misuse.size + PAGE_SIZE - 1;

    if (kheap_peek(kheap_default(), last, &peek))
        return block;
    unsigned char *other = misuse_alloc_before_a_page();
    kfree(block);
    return other;
}

/* A whole page, over the zone and the neighbours, which get back what was theirs. */
static void misuse_overflow_by_a_page(void)
{
    static unsigned char behind[PAGE_SIZE];
    unsigned char *block = misuse_alloc_before_a_page();

    memcpy(behind, block + misuse.size, PAGE_SIZE);
    memset(block + misuse.size, 0x5a, PAGE_SIZE);
    MISUSE_REPORTED(block, kfree(block));
    memcpy(block + misuse.size, behind, PAGE_SIZE);
    kfree(block);
}

static void misuse_overflow(void)
{
    for (size_t less = 0; less < 17; less += 4) {
        size_t size = misuse.size - less;

        misuse_write_outside(size, (ptrdiff_t)size, 1);
        misuse_write_outside(size, (ptrdiff_t)size, 8);
    }
    misuse_overflow_by_a_page();
}

static void misuse_underflow(void)
{
    misuse_write_outside(misuse.size, -1, 1);
    misuse_write_outside(misuse.size, -8, 8);
}

/* Reported when the block leaves quarantine. */
static void misuse_write_after_free(void)
{
    const size_t places[] = { 0, 8, misuse.size / 2 + 3, misuse.size - 1 };

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        unsigned char *block = misuse_alloc();

        memset(block, 0x11, misuse.size);
        kfree(block);
        block[places[i]] ^= 0x77;
        MISUSE_REPORTED(block, kheap_drain(kheap_default(), KHEAP_ALL_SLOTS));
    }
}

/* What the heap has given back is not there to be written. */
static void misuse_scribble(unsigned char *block)
{
    void *lure = misuse_data + 64;
    paddr_t frame;

    if (paging_translate(&mm_kernel()->kernel_space, (uintptr_t)block, &frame) != MM_OK)
        return;
    for (size_t at = 0; at < misuse.size && at < MISUSE_TOUCHED; at += sizeof(lure))
        memcpy(block + at, &lure, sizeof(lure));
}

static bool misuse_overlap(const unsigned char *a, const unsigned char *b)
{
    return a < b + misuse.size && b < a + misuse.size;
}

/* No write into free blocks steers the heap: what comes then lies in its window, is zero, and nobody
 * else's. (The full level reports the writes.) */
static void misuse_steer(void)
{
    struct kvm_window window = kvm_heap_window(&mm_kernel()->kvm);
    size_t count = misuse.size <= 4096 ? MISUSE_SHARED : MISUSE_FEW;
    unsigned char **blocks = misuse.shared;

    for (size_t i = 0; i < count; i++)
        blocks[i] = misuse_alloc();
    for (size_t i = 0; i < count; i++)
        kfree(blocks[i]);
    for (size_t i = 0; i < count; i++)
        misuse_scribble(blocks[i]);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = misuse_alloc();
        MISUSE_REQUIRE((uintptr_t)blocks[i] >= window.base &&
                       (uintptr_t)blocks[i] + misuse.size <= window.end);
        for (size_t j = 0; j < i; j++)
            MISUSE_REQUIRE(!misuse_overlap(blocks[i], blocks[j]));
    }
    for (size_t i = 0; i < count; i++)
        kfree(blocks[i]);
}

/* What a block gets when it grows, to a size that may have been its own before, holds zeroes. */
static void misuse_resized(void)
{
    size_t bytes = misuse.size, less = bytes - bytes / 4;
    unsigned char *block = misuse_alloc();

    memset(block, 0x5a, bytes);
    for (unsigned round = 0; round < 3; round++) {
        block = krealloc(block, 2 * bytes);
        MISUSE_REQUIRE(block != NULL && block[0] == 0x5a && block[less - 1] == 0x5a);
        MISUSE_REQUIRE(misuse_is_zero(block + bytes, bytes));
        memset(block, 0x5a, 2 * bytes);
        block = krealloc(block, less);
        MISUSE_REQUIRE(block != NULL && block[0] == 0x5a && block[less - 1] == 0x5a);
        MISUSE_REQUIRE(kheap_verify(kheap_default()));
        block = krealloc(block, bytes);
        MISUSE_REQUIRE(block != NULL && misuse_is_zero(block + less, bytes - less));
        memset(block, 0x5a, bytes);
    }
    kfree(block);
}

static void misuse_old_content(void)
{
    for (unsigned i = 0; i < 20; i++) {
        unsigned char *block = misuse_alloc();

        memset(block, 0xa7, misuse.size);
        kfree(block);
    }
    misuse_resized();
}

/* NULL without a report. */
static void misuse_arguments(void)
{
    size_t none = 0, most = SIZE_MAX;

    MISUSE_REQUIRE(kmalloc(none) == NULL);
    MISUSE_REQUIRE(kcalloc(most / 2, 3) == NULL);
    MISUSE_REQUIRE(kcalloc(none, misuse.size) == NULL);
    MISUSE_REQUIRE(kcalloc(misuse.size, 0) == NULL);
    MISUSE_REQUIRE(kcalloc((size_t)1 << 33, (size_t)1 << 33) == NULL);
    MISUSE_REQUIRE(kmalloc_aligned(misuse.size, 0) == NULL);
    MISUSE_REQUIRE(kmalloc_aligned(misuse.size, 3) == NULL);
    MISUSE_REQUIRE(kmalloc_aligned(misuse.size, (size_t)KHEAP_ALIGN_MAX * 2) == NULL);
    MISUSE_REQUIRE(kmalloc_aligned(none, 64) == NULL);
    MISUSE_REQUIRE(krealloc(NULL, 0) == NULL);
    kfree(NULL);
    kfree_sized(NULL, misuse.size);
}

/* One error line for each. */
static void misuse_too_large(void)
{
    MISUSE_REQUIRE(kmalloc(SIZE_MAX) == NULL);
    MISUSE_REQUIRE(kmalloc(SIZE_MAX - misuse.size) == NULL);
    MISUSE_REQUIRE(kmalloc_nozero((size_t)1 << 62) == NULL);
}

/* Frees the blocks of a list but those at the beginning of each 2 MiB, so that nothing goes back to the
 * pmm. A block at the full level, which should have pages of its own, is content with others then.
 *   Returns:    the list of the rest. */
static void **misuse_thin_out(void **last)
{
    void **rest = NULL, **block;

    while (last != NULL) {
        block = *last;
        if ((uintptr_t)last % LARGE_PAGE_SIZE < MISUSE_KEPT_BYTES) {
            *last = rest;
            rest = last;
        } else {
            kfree(last);
        }
        last = block;
    }
    block = kmalloc_nozero(MISUSE_THIN_BYTES);
    MISUSE_REQUIRE(block != NULL);
    kfree(block);
    return rest;
}

/* Takes blocks until there are no more, each leading to the one before; two error lines. */
static void misuse_exhaust(void)
{
    struct kheap_stats before = kheap_stats(kheap_default());
    size_t bytes = misuse.size < 8192 ? 8192 : misuse.size, count = 0;
    void **last = NULL, **block;

    while ((block = kmalloc_nozero(bytes)) != NULL) {
        *block = last;
        last = block;
        count++;
    }
    MISUSE_REQUIRE(count > 0);
    MISUSE_REQUIRE(kheap_stats(kheap_default()).used_blocks == before.used_blocks + count);
    if (last != NULL) {
        MISUSE_REQUIRE(krealloc(last, mm_kernel()->map.total_bytes) == NULL);
        MISUSE_REQUIRE(ksize(last) >= bytes);
    }
    if (bytes < MISUSE_KEPT_BYTES)
        last = misuse_thin_out(last);
    while (last != NULL) {
        block = *last;
        kfree(last);
        last = block;
    }
    kfree(misuse_alloc());
}

/* ---- All CPUs free the same blocks ---- */

static void misuse_free_shared(void *unused)
{
    (void)unused;
    if (!cpu_test_meet(misuse.meetings))
        return;
    for (size_t i = 0; i < MISUSE_SHARED; i++)
        kfree(misuse.shared[i]);
}

static void misuse_expect_reports(uint32_t expected)
{
    if (misuse.reports != expected)
        cpu_test_fail("%s, %lu bytes, %s level: %u reports, not %u", misuse.row, misuse.size,
                      misuse.full ? "full" : "default", misuse.reports, expected);
}

/* One free of each block takes effect; the others are reported, at the full level at once, else at the
 * latest at a drain. */
static void misuse_free_by_all(void)
{
    size_t count = misuse.size <= 256 * 1024 ? MISUSE_SHARED : MISUSE_FEW;
    uint32_t expected = (uint32_t)(count * (smp_cpu_count() - 1));

    for (size_t i = 0; i < MISUSE_SHARED; i++)
        misuse.shared[i] = i < count ? misuse_alloc() : NULL;
    misuse.address = MISUSE_ANY;
    misuse.meetings++;
    smp_call_all(misuse_free_shared, NULL);
    if (!misuse.full)
        kheap_drain(kheap_default(), KHEAP_ALL_SLOTS);
    misuse_expect_reports(expected);
}

/* ---- Frames ---- */

/* Every call that takes one frame. */
static void misuse_expect_frame(paddr_t frame)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    const void *named = (const void *)(uintptr_t)frame;

    if (cpu_test_has_failed())
        return;
    MISUSE_REPORTED(named, pmm_free_frame(pmm, frame));
    MISUSE_REPORTED(named, pmm_free_zeroed_frame(pmm, frame));
    MISUSE_REPORTED(named, pmm_free_frames(pmm, &frame, 1));
    MISUSE_REPORTED(named, pmm_free_contiguous(pmm, frame, 1));
}

static paddr_t misuse_frame(void)
{
    paddr_t frame = 0;

    if (pmm_alloc_frame(&mm_kernel()->pmm, &frame) != MM_OK)
        mm_fatal("misuse: %s: no frame", misuse.row);
    return frame;
}

static void misuse_frame_twice(void)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    paddr_t frame = misuse_frame(), other = misuse_frame();

    pmm_free_frame(pmm, frame);
    misuse_expect_frame(frame);
    pmm_free_frame(pmm, other);
    misuse_expect_frame(frame);
    misuse_expect_frame(other);
}

static void misuse_frame_reserved(void)
{
    struct mm *mm = mm_kernel();

    misuse_expect_frame(0);
    misuse_expect_frame(mm->boot.kernel_phys);
    misuse_expect_frame(mm_round_down(virt_to_phys(mm->map.ranges), FRAME_SIZE));
}

static void misuse_frame_table(void)
{
    misuse_expect_frame(mm_kernel()->kernel_space.root);
}

static void misuse_frame_outside(void)
{
    misuse_expect_frame(MM_GIB(512));
    misuse_expect_frame((paddr_t)1 << 52);
    misuse_expect_frame(~(paddr_t)0xfff);
}

static void misuse_frame_unaligned(void)
{
    paddr_t frame = misuse_frame();

    misuse_expect_frame(frame + 1);
    misuse_expect_frame(frame + 8);
    misuse_expect_frame(frame + 4095);
    pmm_free_frame(&mm_kernel()->pmm, frame);
}

static void misuse_frames_too_far(void)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    const void *named;
    paddr_t first = 0;

    if (pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &first) != MM_OK)
        mm_fatal("misuse: no 8 frames side by side");
    named = (const void *)(uintptr_t)first;
    pmm_free_contiguous(pmm, first + 5 * FRAME_SIZE, 1);
    MISUSE_REPORTED(named, pmm_free_contiguous(pmm, first, 8));
    MISUSE_REPORTED(named, pmm_free_contiguous(pmm, first, 0));
    MISUSE_REPORTED(named, pmm_free_contiguous(pmm, first, UINT64_MAX));
    pmm_free_contiguous(pmm, first, 5);
    pmm_free_contiguous(pmm, first + 6 * FRAME_SIZE, 2);
}

static paddr_t misuse_shared_frame;

static void misuse_free_shared_frame(void *unused)
{
    (void)unused;
    if (cpu_test_meet(misuse.meetings) && smp_cpu_number() < MISUSE_FREEING)
        pmm_free_frame(&mm_kernel()->pmm, misuse_shared_frame);
}

/* As with blocks; one at a time, since a drain tells of eight in lines of their own. */
static void misuse_frames_by_all(void)
{
    unsigned cpus = smp_cpu_count() < MISUSE_FREEING ? smp_cpu_count() : MISUSE_FREEING;

    for (unsigned i = 1; i <= MISUSE_SHARED && !cpu_test_has_failed(); i++) {
        misuse_shared_frame = misuse_frame();
        misuse.address = misuse_shared_frame;
        misuse.meetings++;
        smp_call_all(misuse_free_shared_frame, NULL);
        if (!misuse.full)
            pmm_drain(&mm_kernel()->pmm);
        misuse_expect_reports(i * (cpus - 1));
    }
}

/* A status without a report. */
static void misuse_frame_arguments(void)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    paddr_t first = 0;

    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, 0, FRAME_SIZE, PMM_NO_LIMIT, &first) != MM_OK);
    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, UINT64_MAX, FRAME_SIZE, PMM_NO_LIMIT, &first) !=
                   MM_OK);
    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, 1ull << 52, FRAME_SIZE, PMM_NO_LIMIT, &first) !=
                   MM_OK);
    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, 1, 0, PMM_NO_LIMIT, &first) != MM_OK);
    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, 1, 3 * FRAME_SIZE, PMM_NO_LIMIT, &first) != MM_OK);
    MISUSE_REQUIRE(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, 0, &first) != MM_OK);
    MISUSE_REQUIRE(pmm_alloc_frames(pmm, UINT64_MAX, 0, &first) != MM_OK);
}

/* ---- Rows ---- */

enum misuse_levels { MISUSE_DEFAULT = 1, MISUSE_FULL = 2, MISUSE_BOTH = 3 };

struct misuse_row {
    const char *name;
    void (*run)(void);
    unsigned
        levels;  /* of the heap; rows that one of them answers by other means are left out there */
    size_t most; /* bytes, 0: any; above, free memory is unmapped, and a write to it traps */
};

static const struct misuse_row heap_rows[] = {
    { "freed twice", misuse_free_twice, MISUSE_BOTH, 0 },
    { "freed twice with a drain between", misuse_free_after_drain, MISUSE_BOTH, 0 },
    { "freed twice, another handed out between", misuse_free_after_reuse, MISUSE_BOTH, 0 },
    { "free inside a block", misuse_free_inside, MISUSE_BOTH, 0 },
    { "free behind a forged header", misuse_free_forged, MISUSE_BOTH, 0 },
    { "free of no block", misuse_free_elsewhere, MISUSE_BOTH, 0 },
    { "free of what was never handed out", misuse_free_never_allocated, MISUSE_BOTH, 0 },
    { "free with another size", misuse_free_other_size, MISUSE_BOTH, 0 },
    { "freed by all CPUs at once", misuse_free_by_all, MISUSE_BOTH, 0 },
    { "written behind its end", misuse_overflow, MISUSE_FULL, 0 },
    { "written before its beginning", misuse_underflow, MISUSE_FULL, 0 },
    { "written after its free", misuse_write_after_free, MISUSE_FULL, 0 },
    { "free blocks overwritten", misuse_steer, MISUSE_DEFAULT, MM_KIB(256) },
    { "old content", misuse_old_content, MISUSE_BOTH, 0 },
    { "senseless arguments", misuse_arguments, MISUSE_BOTH, 0 },
    { "larger than all memory", misuse_too_large, MISUSE_BOTH, 0 },
    { "out of memory", misuse_exhaust, MISUSE_BOTH, 0 },
};

static const struct misuse_row frame_rows[] = {
    { "frame freed twice", misuse_frame_twice, MISUSE_BOTH, 0 },
    { "free of a reserved frame", misuse_frame_reserved, MISUSE_BOTH, 0 },
    { "free of a page table", misuse_frame_table, MISUSE_BOTH, 0 },
    { "free of a frame outside RAM", misuse_frame_outside, MISUSE_BOTH, 0 },
    { "free of an unaligned frame", misuse_frame_unaligned, MISUSE_BOTH, 0 },
    { "free of frames of which one is free", misuse_frames_too_far, MISUSE_BOTH, 0 },
    { "frames freed by all CPUs at once", misuse_frames_by_all, MISUSE_BOTH, 0 },
    { "senseless counts and alignments", misuse_frame_arguments, MISUSE_BOTH, 0 },
};

static void misuse_run_row(const struct misuse_row *row, const char *size)
{
    struct mm *mm = mm_kernel();
    struct kheap_stats heap = kheap_stats(mm->heap), after;
    uint64_t frames = pmm_stats(&mm->pmm).used_frames - heap.frames;

    misuse.row = row->name;
    misuse.reports = 0;
    misuse.address = MISUSE_ANY;
    row->run();
    kheap_drain(mm->heap, KHEAP_ALL_SLOTS);
    after = kheap_stats(mm->heap);
    if (cpu_test_has_failed())
        return;
    MISUSE_REQUIRE(after.used_blocks == heap.used_blocks && after.used_bytes == heap.used_bytes);
    MISUSE_REQUIRE(kheap_verify(mm->heap) && pmm_verify(&mm->pmm));
    if (size == NULL)
        MISUSE_REQUIRE(pmm_stats(&mm->pmm).used_frames - after.frames == frames);
    if (!cpu_test_has_failed())
        mm_info("✓ misuse: %s, %s%s%s level: %u reports", row->name, size != NULL ? size : "",
                size != NULL ? ", " : "", misuse.full ? "full" : "default", misuse.reports);
}

static void misuse_run_heap(bool full)
{
    static const char *const names[] = { "64 bytes", "4 KB", "256 KB", "4 MB" };
    unsigned level = full ? MISUSE_FULL : MISUSE_DEFAULT;

    misuse.full = full;
    kheap_set_level(kheap_default(), full ? KHEAP_FULL : KHEAP_DEFAULT);
    for (size_t i = 0; i < sizeof(misuse_sizes) / sizeof(misuse_sizes[0]); i++) {
        misuse.size = misuse_sizes[i];
        for (size_t j = 0; j < sizeof(heap_rows) / sizeof(heap_rows[0]); j++) {
            const struct misuse_row *row = &heap_rows[j];

            if ((row->levels & level) != 0 && (row->most == 0 || misuse.size <= row->most) &&
                !cpu_test_has_failed())
                misuse_run_row(row, names[i]);
        }
    }
}

void cpu_test_misuse(void)
{
    bool full = mm_kernel()->options.full_harden;

    mm_port_set_bug_taker(misuse_take);
    misuse_run_heap(false);
    misuse_run_heap(true);
    kheap_set_level(kheap_default(), full ? KHEAP_FULL : KHEAP_DEFAULT);
    misuse.full = full;
    misuse.size = FRAME_SIZE;
    for (size_t i = 0; i < sizeof(frame_rows) / sizeof(frame_rows[0]); i++)
        if (!cpu_test_has_failed())
            misuse_run_row(&frame_rows[i], NULL);
    mm_port_set_bug_taker(NULL);
}
