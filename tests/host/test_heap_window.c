/* SPDX-License-Identifier: MIT */
/* Large blocks that grow and shrink where they stand, in a heap with a window. The window is ordinary memory
 * of the process here, page by page accessible when it is committed:
 *
 *   | 2 MiB reserved | block ........ | guard | ... |     window_bytes of PROT_NONE
 *
 * The link puts __wrap_kvm_heap_commit(), __wrap_kvm_heap_decommit() and __wrap_paging_query() in front of the
 * functions; they keep which 64 KiB are committed, and take frames of the pmm for them. */
#include "heap_fixture.h"

#include <string.h>
#include <sys/mman.h>

#define WINDOW_BYTES MM_MIB(64)
#define STEP         KVM_HEAP_STEP_BYTES
#define STEPS        (WINDOW_BYTES / STEP)
#define RAM          MM_MIB(24)

static unsigned char *window;
static struct kvm kvm;
static bool committed[STEPS];
static paddr_t frames_of[STEPS][STEP / FRAME_SIZE];
static unsigned commits_to_fail; /* 0: none */

mm_status_t __wrap_kvm_heap_commit(struct kvm *of, vaddr_t base, uint64_t bytes);
mm_status_t __wrap_kvm_heap_decommit(struct kvm *of, vaddr_t base, uint64_t bytes);
mm_status_t __wrap_paging_query(struct address_space *space, vaddr_t address,
                                struct paging_mapping *out);

static size_t step_of(vaddr_t address)
{
    return (address - (uintptr_t)window) / STEP;
}

mm_status_t __wrap_kvm_heap_commit(struct kvm *of, vaddr_t base, uint64_t bytes)
{
    size_t first = step_of(base), count = bytes / STEP;

    assert_ptr_equal(of, &kvm);
    assert_true(bytes != 0 && mm_is_aligned(base | bytes, STEP) && first + count <= STEPS);
    if (commits_to_fail != 0 && --commits_to_fail == 0)
        return MM_OUT_OF_MEMORY;
    if (pmm_stats(&heap_machine.pmm).free_frames < bytes / FRAME_SIZE)
        return MM_OUT_OF_MEMORY;
    for (size_t i = first; i < first + count; i++) {
        assert_false(committed[i]);
        committed[i] = true;
        assert_ok(pmm_alloc_frames(&heap_machine.pmm, STEP / FRAME_SIZE, PMM_NOZERO, frames_of[i]));
    }
    assert_int_equal(mprotect((void *)base, bytes, PROT_READ | PROT_WRITE), 0);
    return MM_OK;
}

mm_status_t __wrap_kvm_heap_decommit(struct kvm *of, vaddr_t base, uint64_t bytes)
{
    size_t first = step_of(base), count = bytes / STEP;

    assert_ptr_equal(of, &kvm);
    assert_true(bytes != 0 && mm_is_aligned(base | bytes, STEP) && first + count <= STEPS);
    for (size_t i = first; i < first + count; i++) {
        assert_true(committed[i]);
        committed[i] = false;
        pmm_free_frames(&heap_machine.pmm, frames_of[i], STEP / FRAME_SIZE);
    }
    assert_int_equal(madvise((void *)base, bytes, MADV_DONTNEED), 0);
    assert_int_equal(mprotect((void *)base, bytes, PROT_NONE), 0);
    return MM_OK;
}

/* Small leaves only. */
mm_status_t __wrap_paging_query(struct address_space *space, vaddr_t address,
                                struct paging_mapping *out)
{
    (void)space;
    assert_true(committed[step_of(address)]);
    *out = (struct paging_mapping){ .leaf_bytes = PAGE_SIZE };
    return MM_OK;
}

static void set_up(void)
{
    struct kheap_config config = { .first_bytes = MM_MIB(1), .first_is_zero = true };
    uintptr_t mapping;

    machine_set_up_simple(&heap_machine, RAM);
    mapping = (uintptr_t)mmap(NULL, WINDOW_BYTES + LARGE_PAGE_SIZE, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    window = (unsigned char *)mm_round_up(mapping, LARGE_PAGE_SIZE);
    memset(committed, 0, sizeof committed);
    commits_to_fail = 0;
    assert_ok(__wrap_kvm_heap_commit(&kvm, (uintptr_t)window, config.first_bytes));
    config.first = window;
    config.base = (uintptr_t)window;
    config.bytes = WINDOW_BYTES;
    config.pmm = &heap_machine.pmm;
    config.kvm = &kvm;
    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
}

static size_t committed_bytes(void)
{
    size_t count = 0;

    for (size_t i = 0; i < STEPS; i++)
        count += committed[i];
    return count * STEP;
}

static void fill(unsigned char *block, size_t from, size_t to)
{
    for (size_t at = from; at < to; at++)
        block[at] = (unsigned char)(1 + (at >> 7) % 250);
}

static void expect_filled(const unsigned char *block, size_t bytes)
{
    for (size_t at = 0; at < bytes; at++)
        if (block[at] != (unsigned char)(1 + (at >> 7) % 250))
            assert_int_equal(at, SIZE_MAX);
}

/* What the counters say is what is there; behind the block's last step nothing is. */
static void expect_block(const unsigned char *block, size_t bytes)
{
    size_t size = kheap_size(heap, block);
    size_t end = step_of((uintptr_t)block + mm_round_up(size, STEP));

    assert_true(size >= bytes && size < bytes + STEP + PAGE_SIZE);
    assert_true(committed[end - 1]);
    assert_false(committed[end]);
    assert_false(committed[step_of((uintptr_t)block) - 1]);
    assert_int_equal(kheap_stats(heap).used_bytes, size);
    assert_int_equal(kheap_stats(heap).region_bytes, committed_bytes());
    assert_true(kheap_verify(heap));
}

/* Each way of a size to another: behind the old content zeroes, also where there was a longer one before. */
static void large_block_in_a_window_changes_its_size_in_place(void **state)
{
    static const size_t sizes[] = {
        MM_MIB(3) + 1,           MM_MIB(3) + PAGE_SIZE + 1,
        MM_MIB(3) + STEP,        MM_MIB(3) + STEP + 1,
        MM_MIB(2) + 500,         MM_MIB(4) - STEP,
        MM_MIB(4) - PAGE_SIZE,   MM_MIB(4),
        MM_MIB(4) + 1,           MM_MIB(1) + PAGE_SIZE,
        MM_MIB(9) + MM_KIB(100), MM_MIB(6),
        MM_MIB(6) + 2 * STEP,    MM_MIB(1) + 1,
    };
    unsigned char *block;
    size_t old = MM_MIB(1) + 100;

    (void)state;
    set_up();
    block = kheap_alloc(heap, old);
    assert_non_null(block);
    fill(block, 0, old);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t bytes = sizes[i], kept = old < bytes ? old : bytes;
        assert_ptr_equal(kheap_realloc(heap, block, bytes), block);
        expect_filled(block, kept);
        assert_true(is_zero(block + kept, kheap_size(heap, block) - kept));
        expect_block(block, bytes);
        fill(block, kept, bytes);
        old = bytes;
    }
    kheap_free(heap, block);
    assert_all_free();
    assert_int_equal(kheap_stats(heap).region_bytes, committed_bytes());
}

/* The last step has the pages already: that needs no memory. */
static void large_block_grows_within_its_step_without_memory(void **state)
{
    unsigned char *block;

    (void)state;
    set_up();
    block = kheap_alloc(heap, MM_MIB(3) + 1);
    assert_non_null(block);
    fill(block, 0, MM_MIB(3) + 1);
    (void)pmm_drain_to(&heap_machine.pmm, 0, NULL, 0);
    for (size_t bytes = MM_MIB(3) + 2 * PAGE_SIZE; bytes <= MM_MIB(3) + STEP; bytes += PAGE_SIZE) {
        assert_ptr_equal(kheap_realloc(heap, block, bytes), block);
        assert_int_equal(kheap_size(heap, block), bytes);
        expect_block(block, bytes);
    }
    assert_null(kheap_realloc(heap, block, MM_MIB(3) + STEP + 1));
    expect_filled(block, MM_MIB(3) + 1);
    assert_true(is_zero(block + MM_MIB(3) + 1, STEP - 1));
    expect_block(block, MM_MIB(3) + STEP);
    kheap_free(heap, block);
    assert_all_free();
}

/* Somebody stands behind the addresses: the block moves, and the other one is not touched. */
static void large_block_in_a_window_moves_where_another_one_stands(void **state)
{
    unsigned char *block, *beside, *moved;

    (void)state;
    set_up();
    block = kheap_alloc(heap, MM_MIB(3));
    beside = kheap_alloc(heap, MM_MIB(3));
    assert_true(block != NULL && beside > block && beside - block < (long)MM_MIB(8));
    fill(block, 0, MM_MIB(3));
    fill(beside, 0, MM_MIB(3));
    moved = kheap_realloc(heap, block, MM_MIB(7));
    assert_true(moved != NULL && moved != block);
    expect_filled(moved, MM_MIB(3));
    expect_filled(beside, MM_MIB(3));
    assert_true(is_zero(moved + MM_MIB(3), MM_MIB(4)));
    assert_int_equal(kheap_stats(heap).region_bytes, committed_bytes());
    assert_true(kheap_verify(heap));
    kheap_free(heap, beside);
    kheap_free(heap, moved);
    assert_all_free();
}

/* Takes all memory that there is. */
static void **take_all(void)
{
    void **all = NULL;

    for (size_t bytes = MM_KIB(256); bytes >= 64; bytes /= 2)
        for (void **block; (block = kheap_alloc(heap, bytes)) != NULL; all = block)
            *block = all;
    return all;
}

static void free_all(void **all)
{
    for (void **next; all != NULL; all = next) {
        next = *all;
        kheap_free(heap, all);
    }
}

#define SHORT (MM_MIB(4) - STEP)
#define LONG  MM_MIB(6)

/* So many frames are left for what it takes beside those of the block, or the nth commit fails.
 *   Returns:  true if it has grown nevertheless. */
static bool grows_with(uint64_t left, unsigned nth)
{
    static paddr_t taken[RAM / FRAME_SIZE];
    struct kheap_stats before;
    unsigned char *block;
    uint64_t count = (LONG - SHORT) / FRAME_SIZE + left;
    void **rest;

    set_up();
    block = kheap_alloc(heap, SHORT);
    assert_non_null(block);
    fill(block, 0, SHORT);
    assert_true(pmm_drain_to(&heap_machine.pmm, 0, taken, COUNT_OF(taken)) > count);
    rest = take_all();
    pmm_free_frames(&heap_machine.pmm, taken, count);
    before = kheap_stats(heap);
    commits_to_fail = nth;
    unsigned char *again = kheap_realloc(heap, block, LONG);
    commits_to_fail = 0;
    assert_true(again == NULL || again == block);
    size_t size = again == NULL ? SHORT : LONG;
    expect_filled(block, SHORT);
    assert_true(is_zero(block + SHORT, size - SHORT));
    assert_int_equal(kheap_size(heap, block), size);
    assert_int_equal(kheap_stats(heap).used_bytes, before.used_bytes + size - SHORT);
    assert_int_equal(kheap_stats(heap).region_bytes, committed_bytes());
    assert_true(committed[step_of((uintptr_t)block + size) - 1]);
    assert_false(committed[step_of((uintptr_t)block + size)]);
    assert_true(kheap_verify(heap));
    kheap_free(heap, block);
    /* Its addresses are free again, and so are those behind it. */
    assert_ptr_equal(kheap_alloc(heap, SHORT), block);
    kheap_free(heap, block);
    free_all(rest);
    assert_all_free();
    assert_int_equal(kheap_stats(heap).region_bytes, committed_bytes());
    return again != NULL;
}

static void large_block_that_cannot_grow_is_as_before(void **state)
{
    uint64_t left = 0;

    (void)state;
    while (!grows_with(left, 0))
        left++;
    assert_true(left > 0 && left < 8); /* the last failures are inside, when the pages are there */
    assert_false(grows_with(left, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_in_a_window_changes_its_size_in_place),
        TEST(large_block_grows_within_its_step_without_memory),
        TEST(large_block_in_a_window_moves_where_another_one_stands),
        TEST(large_block_that_cannot_grow_is_as_before),
    };

    return RUN_TESTS(tests);
}
