/* SPDX-License-Identifier: MIT */
/* See window_fixture.h. */
#define _GNU_SOURCE 1 /* mremap() */
#include "window_fixture.h"

#include "threads.h"

#include <string.h>
#include <sys/mman.h>

unsigned window_commits_to_fail, window_moves_to_fail, window_moves;
void *(*window_beside_move)(void *argument);
unsigned char *window_moving_from, *window_moving_to;

static unsigned char *window;
static struct kvm window_kvm;
static bool committed[STEPS];
static paddr_t frames_of[STEPS][STEP / FRAME_SIZE];

mm_status_t __wrap_kvm_heap_commit(struct kvm *of, vaddr_t base, uint64_t bytes);
mm_status_t __wrap_kvm_heap_decommit(struct kvm *of, vaddr_t base, uint64_t bytes);
mm_status_t __wrap_kvm_heap_move(struct kvm *of, vaddr_t from, vaddr_t to, uint64_t bytes);
mm_status_t __wrap_paging_query(struct address_space *space, vaddr_t address,
                                struct paging_mapping *out);

static size_t step_of(vaddr_t address)
{
    return (address - (uintptr_t)window) / STEP;
}

/* The steps of a range, which must be one of the window: the first one, and how many in *count. */
static size_t steps_of(const struct kvm *of, vaddr_t base, uint64_t bytes, size_t *count)
{
    size_t first = step_of(base);

    *count = bytes / STEP;
    assert_ptr_equal(of, &window_kvm);
    assert_true(bytes != 0 && mm_is_aligned(base | bytes, STEP) && first + *count <= STEPS);
    return first;
}

#define STEP_FRAMES (STEP / FRAME_SIZE)
#define PIECE_STEPS (LARGE_PAGE_SIZE / STEP)

/* All or nothing: up to each multiple of 2 MiB one call of the pmm, which may be made to fail. */
static bool take_frames(size_t first, size_t end)
{
    struct pmm *pmm = &heap_machine.pmm;
    size_t at = first, count;

    for (; at < end; at += count) {
        count = PIECE_STEPS - at % PIECE_STEPS;
        count = count < end - at ? count : end - at;
        if (pmm_alloc_frames(pmm, count * STEP_FRAMES, PMM_NOZERO, frames_of[at]) != MM_OK)
            break;
        for (size_t i = at; i < at + count; i++) {
            assert_false(committed[i]);
            committed[i] = true;
        }
    }
    if (at == end)
        return true;
    while (at-- > first) {
        committed[at] = false;
        pmm_free_frames(pmm, frames_of[at], STEP_FRAMES);
    }
    return false;
}

mm_status_t __wrap_kvm_heap_commit(struct kvm *of, vaddr_t base, uint64_t bytes)
{
    size_t count, first = steps_of(of, base, bytes, &count);

    if (window_commits_to_fail != 0 && --window_commits_to_fail == 0)
        return MM_OUT_OF_MEMORY;
    if (pmm_stats(&heap_machine.pmm).free_frames < bytes / FRAME_SIZE)
        return MM_OUT_OF_MEMORY;
    if (!take_frames(first, first + count))
        return MM_OUT_OF_MEMORY;
    assert_int_equal(mprotect((void *)base, bytes, PROT_READ | PROT_WRITE), 0);
    return MM_OK;
}

mm_status_t __wrap_kvm_heap_decommit(struct kvm *of, vaddr_t base, uint64_t bytes)
{
    size_t count, first = steps_of(of, base, bytes, &count);

    for (size_t i = first; i < first + count; i++) {
        assert_true(committed[i]);
        committed[i] = false;
        pmm_free_frames(&heap_machine.pmm, frames_of[i], STEP / FRAME_SIZE);
    }
    assert_int_equal(madvise((void *)base, bytes, MADV_DONTNEED), 0);
    assert_int_equal(mprotect((void *)base, bytes, PROT_NONE), 0);
    return MM_OK;
}

static void let_other_cpu_in(void)
{
    pthread_t thread;

    if (window_beside_move == NULL)
        return;
    threads_start(&thread, 1, window_beside_move);
    threads_join(&thread, 1);
}

/* The pages go with their content; mremap() leaves a hole in the process. */
mm_status_t __wrap_kvm_heap_move(struct kvm *of, vaddr_t from, vaddr_t to, uint64_t bytes)
{
    size_t count, first = steps_of(of, from, bytes, &count),
                  there = steps_of(of, to, bytes, &count);

    assert_true(mm_is_aligned(from - to, LARGE_PAGE_SIZE));
    for (size_t i = 0; i < count; i++)
        assert_true(committed[first + i] && !committed[there + i]);
    if (window_moves_to_fail != 0 && --window_moves_to_fail == 0)
        return MM_OUT_OF_MEMORY;
    window_moving_from = (unsigned char *)from;
    window_moving_to = (unsigned char *)to;
    let_other_cpu_in();
    for (size_t i = 0; i < count; i++) {
        committed[first + i] = false;
        committed[there + i] = true;
        memcpy(frames_of[there + i], frames_of[first + i], sizeof frames_of[0]);
    }
    assert_ptr_equal(mremap((void *)from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to),
                     (void *)to);
    assert_ptr_equal(mmap((void *)from, bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0),
                     (void *)from);
    window_moves++;
    let_other_cpu_in();
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

void window_set_up(void)
{
    struct kheap_config config = { .first_bytes = MM_MIB(1), .first_is_zero = true };
    uintptr_t mapping;

    machine_set_up_simple(&heap_machine, WINDOW_RAM);
    mapping = (uintptr_t)mmap(NULL, WINDOW_BYTES + LARGE_PAGE_SIZE, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    window = (unsigned char *)mm_round_up(mapping, LARGE_PAGE_SIZE);
    memset(committed, 0, sizeof committed);
    window_commits_to_fail = window_moves_to_fail = window_moves = 0;
    window_beside_move = NULL;
    assert_ok(__wrap_kvm_heap_commit(&window_kvm, (uintptr_t)window, config.first_bytes));
    config.first = window;
    config.base = (uintptr_t)window;
    config.bytes = WINDOW_BYTES;
    config.pmm = &heap_machine.pmm;
    config.kvm = &window_kvm;
    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
}

size_t window_step_of(const void *address)
{
    return step_of((uintptr_t)address);
}

bool window_is_committed(size_t step)
{
    return committed[step];
}

size_t window_committed_bytes(void)
{
    size_t count = 0;

    for (size_t i = 0; i < STEPS; i++)
        count += committed[i];
    return count * STEP;
}

size_t window_taken_addresses(void)
{
    size_t taken = 0;

    for (size_t i = 0; i < WINDOW_BYTES / LARGE_PAGE_SIZE; i++)
        taken += heap->front.table[i] != NULL;
    return taken;
}

paddr_t window_frame_at(const void *address)
{
    size_t step = window_step_of(address);

    assert_true(committed[step]);
    return frames_of[step][(uintptr_t)address / PAGE_SIZE % (STEP / PAGE_SIZE)];
}

/* Groups of bytes that are the same. */
#define GROUP 128u

static size_t group_end(size_t at, size_t end)
{
    size_t next = at / GROUP * GROUP + GROUP;

    return next < end ? next : end;
}

static int group_byte(size_t at)
{
    return (int)(1 + at / GROUP % 250);
}

void window_fill(unsigned char *block, size_t from, size_t to)
{
    for (size_t at = from; at < to; at = group_end(at, to))
        memset(block + at, group_byte(at), group_end(at, to) - at);
}

void window_expect_filled(const unsigned char *block, size_t bytes)
{
    unsigned char group[GROUP];

    for (size_t at = 0; at < bytes; at = group_end(at, bytes)) {
        memset(group, group_byte(at), sizeof group);
        if (memcmp(block + at, group, group_end(at, bytes) - at) != 0)
            fail_msg("byte %zu or one of those behind it is not what it was", at);
    }
}

void window_expect_block(const unsigned char *block, size_t bytes)
{
    size_t size = kheap_size(heap, block);
    size_t end = step_of((uintptr_t)block + mm_round_up(size, STEP));

    assert_true(size >= bytes && size < bytes + STEP + PAGE_SIZE);
    assert_true(committed[end - 1]);
    assert_false(committed[end]);
    assert_false(committed[step_of((uintptr_t)block) - 1]);
    assert_int_equal(kheap_stats(heap).used_bytes, size);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_true(kheap_verify(heap));
}

void **window_take_all(void)
{
    void **all = NULL;

    for (size_t bytes = MM_KIB(256); bytes >= 64; bytes /= 2)
        for (void **block; (block = kheap_alloc(heap, bytes)) != NULL; all = block)
            *block = all;
    return all;
}

void window_free_all(void **all)
{
    for (void **next; all != NULL; all = next) {
        next = *all;
        kheap_free(heap, all);
    }
}
