/* SPDX-License-Identifier: MIT */
/* The n-th failure in every call of the heap: for n = 1, 2, ... until the call succeeds, either the
 * heap says that there is no memory (kheap_inject) or the pmm does (pmm_fault_inject).
 *
 *      heap that is full  ->  call, n-th failure  ->  NULL: nothing has changed, n + 1
 *                                                 ->  a block: zeroes or the old content, the end
 *
 * The heap is filled first, so that each call has to ask the pmm for blocks; and its own state is
 * spent, so that it has to ask for that, too. "Nothing has changed": used frames, the heap's
 * statistics but for its counter of failures, the block that was to be resized and its content; and
 * both verify. Only what has become state meanwhile stays state: a few frames.
 *
 * The pmm fails in two ways: from the n-th call on, as when memory is gone, and in the n-th call
 * alone, where the heap may find another way. */
#include "support.h"

#include "mm/heap_memory.h"

#include <string.h>
#include <sys/mman.h>

/* What one call is asked for, and what it begins with. */
struct request {
    size_t bytes;
    void *old; /* resizing: of `old_bytes` */
    size_t old_bytes;
};

struct call {
    const char *name;
    void *(*make)(const struct request *request);
    bool zeroes;
    bool resizes;
    size_t align;
};

#define ALIGN MM_KIB(16)
#define OLD   0x5a

static struct machine machine;
static struct kheap *heap;

static void *call_alloc(const struct request *request)
{
    return kheap_alloc(heap, request->bytes);
}

static void *call_alloc_nozero(const struct request *request)
{
    return kheap_alloc_nozero(heap, request->bytes);
}

static void *call_alloc_aligned(const struct request *request)
{
    return kheap_alloc_aligned(heap, request->bytes, ALIGN);
}

static void *call_realloc(const struct request *request)
{
    return kheap_realloc(heap, request->old, request->bytes);
}

static void *call_kmalloc(const struct request *request)
{
    return kmalloc(request->bytes);
}

static void *call_kmalloc_nozero(const struct request *request)
{
    return kmalloc_nozero(request->bytes);
}

static void *call_kmalloc_aligned(const struct request *request)
{
    return kmalloc_aligned(request->bytes, ALIGN);
}

static void *call_kzalloc(const struct request *request)
{
    return kzalloc(request->bytes);
}

static void *call_kcalloc(const struct request *request)
{
    return kcalloc(request->bytes / 8, 8);
}

static void *call_krealloc(const struct request *request)
{
    return krealloc(request->old, request->bytes);
}

/* What a call of a constant size becomes. */
static void *call_kmalloc_constant(const struct request *request)
{
    return request->bytes == 64 ? kmalloc(64) : kmalloc(request->bytes);
}

static const struct call calls[] = {
    { "kheap_alloc", call_alloc, true, false, 1 },
    { "kheap_alloc_nozero", call_alloc_nozero, false, false, 1 },
    { "kheap_alloc_aligned", call_alloc_aligned, true, false, ALIGN },
    { "kheap_realloc", call_realloc, true, true, 1 },
    { "kmalloc", call_kmalloc, true, false, 1 },
    { "kmalloc of a constant", call_kmalloc_constant, true, false, 1 },
    { "kmalloc_nozero", call_kmalloc_nozero, false, false, 1 },
    { "kmalloc_aligned", call_kmalloc_aligned, true, false, ALIGN },
    { "kzalloc", call_kzalloc, true, false, 1 },
    { "kcalloc", call_kcalloc, true, false, 1 },
    { "krealloc", call_krealloc, true, true, 1 },
};

static const size_t sizes[] = { 64, 4096, MM_KIB(256), MM_MIB(4) };

/* ---- A full heap ---- */

static struct kheap_config config_of(size_t first_bytes)
{
    struct kheap_config config = { .first_bytes = first_bytes, .bytes = MM_MIB(64) };
    paddr_t base;

    machine_set_up_simple(&machine, MM_MIB(48));
    (void)madvise(hosted_ram_at(0), MM_MIB(48),
                  MADV_HUGEPAGE); /* few page faults: they are most of it */
    assert_ok(pmm_alloc_contiguous(&machine.pmm, first_bytes / FRAME_SIZE, MM_MIB(1), PMM_NO_LIMIT,
                                   &base));
    config.first = phys_to_virt(base);
    config.base = hhdm_offset();
    config.pmm = &machine.pmm;
    return config;
}

static void heap_set_up(size_t first_bytes, enum kheap_level level)
{
    struct kheap_config config = config_of(first_bytes);

    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
    kheap_set_level(heap, level);
}

/* Large blocks first, so that what is left over becomes small ones; the pmm has nothing. */
static void *fill(void)
{
    void *chain = NULL;

    pmm_fault_inject(&machine.pmm, 1, 1);
    for (size_t bytes = MM_MIB(1); bytes >= 16; bytes /= 4) {
        void **block;
        while ((block = kheap_alloc(heap, bytes)) != NULL) {
            *block = chain;
            chain = block;
        }
    }
    pmm_fault_inject(&machine.pmm, 0, 0);
    return chain;
}

static void free_chain(void *chain)
{
    while (chain != NULL) {
        void *next = *(void **)chain;
        kheap_free(heap, chain);
        chain = next;
    }
}

#define SPENT_MAX    4096u
#define STATE_FRAMES 8u /* at most, that one call makes state of */

static struct heap_span *spent[SPENT_MAX];
static size_t spent_count;

/* What the heap has of state in store is out of its reach: what there is for spans until it is
 * restored, the rest for good. */
static void spend_state(void)
{
    static const unsigned blocks[] = { HEAP_SPAN_BLOCKS, 1 }; /* both kinds */
    struct heap_span *span;

    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        while ((span = heap_span_memory_take_locked(heap, blocks[i], HEAP_USUAL)) != NULL) {
            assert_true(spent_count < SPENT_MAX);
            spent[spent_count++] = span;
        }
    while (heap_state_bump(heap, 64) != NULL)
        ;
}

static void restore_state(void)
{
    while (spent_count > 0)
        heap_span_memory_give_locked(heap, spent[--spent_count]);
}

/* ---- Nothing has changed ---- */

struct picture {
    struct kheap_stats heap;
    uint64_t used_frames;
};

/* Of what is left when the caches are empty. */
static struct picture take_picture(void)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    pmm_drain(&machine.pmm);
    return (struct picture){ kheap_stats(heap), pmm_stats(&machine.pmm).used_frames };
}

static void assert_sound(void)
{
    assert_true(kheap_verify(heap));
    assert_pmm_sound(&machine.pmm);
}

static void assert_unchanged(const struct picture *before, uint64_t state_frames)
{
    struct picture now = take_picture();

    assert_int_equal(now.heap.failed_allocations, before->heap.failed_allocations + 1);
    assert_int_equal(now.heap.used_blocks, before->heap.used_blocks);
    assert_int_equal(now.heap.used_bytes, before->heap.used_bytes);
    assert_int_equal(now.heap.region_bytes, before->heap.region_bytes);
    assert_int_equal(now.heap.free_bytes, before->heap.free_bytes);
    assert_int_equal(now.heap.largest_free_block, before->heap.largest_free_block);
    if (now.heap.frames - before->heap.frames > state_frames)
        fail_msg("%lu frames of the heap are %lu; at most %lu more may be its state",
                 before->heap.frames, now.heap.frames, state_frames);
    assert_int_equal(now.used_frames - now.heap.frames, before->used_frames - before->heap.frames);
    assert_sound();
}

static bool holds(const void *block, unsigned char byte, size_t bytes)
{
    const unsigned char *at = block;

    return at[0] == byte && memcmp(at, at + 1, bytes - 1) == 0;
}

static void assert_old_block(const struct request *request)
{
    if (request->old == NULL)
        return;
    assert_true(kheap_size(heap, request->old) >= request->old_bytes);
    assert_true(holds(request->old, OLD, request->old_bytes));
}

static void assert_block(const struct call *call, const struct request *request, void *block)
{
    assert_true(kheap_size(heap, block) >= request->bytes);
    assert_int_equal((uintptr_t)block % call->align, 0);
    if (call->resizes)
        assert_true(holds(block, OLD, request->old_bytes));
    if (call->zeroes)
        assert_true(is_zero((char *)block + request->old_bytes,
                            kheap_size(heap, block) - request->old_bytes));
    memset(block, 0xee, request->bytes);
    assert_sound();
}

/* ---- Failing ---- */

#define TRIES_MAX 60u

/* Asks `n` times for a frame: was the n-th failure still to come, one of them finds none. */
static bool pmm_failure_is_over(uint64_t n)
{
    paddr_t frames[TRIES_MAX];
    uint64_t count = 0;

    while (count < n && pmm_alloc_frame(&machine.pmm, &frames[count]) == MM_OK)
        count++;
    pmm_fault_inject(&machine.pmm, 0, 0);
    pmm_free_frames(&machine.pmm, frames, count);
    return count == n;
}

enum source { HEAP_NTH, PMM_FROM_NTH_ON, PMM_NTH_ALONE };

/* Returns true if the failure came; the block, or NULL, is in *out. */
static bool fail_nth(const struct call *call, const struct request *request, enum source source,
                     uint64_t n, void **out)
{
    bool came;

    if (source == HEAP_NTH) {
        kheap_inject(heap, &(struct kheap_faults){ .nth = n });
        *out = call->make(request);
        came = kheap_injected(heap) != 0;
        kheap_inject(heap, NULL);
        return came;
    }
    pmm_fault_inject(&machine.pmm, n, source == PMM_FROM_NTH_ON);
    *out = call->make(request);
    if (source == PMM_NTH_ALONE)
        return pmm_failure_is_over(n);
    pmm_fault_inject(&machine.pmm, 0, 0);
    return *out == NULL; /* what never ends cannot be got over */
}

static struct request begin(const struct call *call, size_t bytes)
{
    struct request request = { .bytes = bytes };

    if (!call->resizes)
        return request;
    request.old_bytes = bytes / 2;
    request.old = kheap_alloc(heap, request.old_bytes);
    assert_non_null(request.old);
    memset(request.old, OLD, request.old_bytes);
    return request;
}

/* Where there is no frame at all nothing can become state. */
static bool gets_frames(enum source source, uint64_t n)
{
    return source == PMM_NTH_ALONE || (source == PMM_FROM_NTH_ON && n > 1);
}

/* The heap's own state that is there in store when the call is made. */
enum store { ALL, NONE, ONLY_CHUNKS };

/* Returns true if the n-th failure came; *failed: there was no block for it. */
static bool attempt(const struct call *call, size_t bytes, enum source source, uint64_t n,
                    enum store store, bool *failed)
{
    struct request request = begin(call, bytes);

    if (store == ONLY_CHUNKS) /* what is freed again leaves them */
        kheap_free(heap, kheap_alloc(heap, MM_MIB(6)));
    void *chain = fill(), *block;
    struct picture before = take_picture(), after;

    if (store != ALL)
        spend_state();
    bool came = fail_nth(call, &request, source, n, &block);
    restore_state();
    *failed = block == NULL;
    if (block == NULL) {
        if (!came)
            fail_msg("%s of %zu bytes: NULL without a failure", call->name, bytes);
        assert_unchanged(&before, gets_frames(source, n) ? STATE_FRAMES : 0);
        assert_old_block(&request);
        block = call->make(&request);
        assert_non_null(block);
    }
    assert_block(call, &request, block);
    kheap_free(heap, block);
    free_chain(chain);
    after = take_picture();
    assert_int_equal(after.heap.used_blocks, 0);
    assert_int_equal(after.used_frames - after.heap.frames,
                     before.used_frames - before.heap.frames);
    assert_sound();
    return came;
}

/* Each in a heap of its own: what one failure leaves as state would help the next. */
static unsigned fail_all(const struct call *call, size_t bytes, size_t first_bytes,
                         enum kheap_level level, enum source source, enum store store)
{
    unsigned failures = 0;
    bool came = true, failed;

    for (uint64_t n = 1; came; n++) {
        assert_true(n < TRIES_MAX);
        heap_set_up(first_bytes, level);
        mm_log_level = MM_LOG_ERROR;
        came = attempt(call, bytes, source, n, store, &failed);
        failures += failed;
        kheap_set_default(NULL);
    }
    return failures;
}

/* Smaller blocks grow the heap by memory that can become state itself. */
static enum store last_store(size_t bytes)
{
    return bytes > MAX_BLOCK_SIZE ? ONLY_CHUNKS : NONE;
}

static void fail_all_calls(size_t first_bytes, enum kheap_level level)
{
    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            const struct call *call = &calls[i];
            unsigned from[3] = { 0 };

            assert_int_equal(fail_all(call, sizes[j], first_bytes, level, HEAP_NTH, ALL), 1);
            for (enum store store = ALL; store <= last_store(sizes[j]); store++) {
                from[store] = fail_all(call, sizes[j], first_bytes, level, PMM_FROM_NTH_ON, store);
                fail_all(call, sizes[j], first_bytes, level, PMM_NTH_ALONE, store);
            }
            /* Blocks need a frame, and so does their state. */
            assert_true(from[ALL] > 0 && from[NONE] > 1 && from[NONE] >= from[ALL]);
            assert_true(from[ONLY_CHUNKS] > 0 || last_store(sizes[j]) == NONE);
        }
    }
}

/* The first memory decides how the heap grows: by 2 MiB, or where it is small by 64 KiB. */
static void every_failure_leaves_all_as_it_was(void **state)
{
    (void)state;
    fail_all_calls(MM_MIB(1), KHEAP_DEFAULT);
    fail_all_calls(MM_MIB(4), KHEAP_DEFAULT);
}

static void every_failure_leaves_all_as_it_was_at_the_full_level(void **state)
{
    (void)state;
    fail_all_calls(MM_MIB(1), KHEAP_FULL);
    fail_all_calls(MM_MIB(4), KHEAP_FULL);
}

/* A block that gets smaller moves; where it cannot, it stays. */
static void no_failure_keeps_a_block_from_getting_smaller(void **state)
{
    (void)state;
    for (enum kheap_level level = KHEAP_DEFAULT; level <= KHEAP_FULL; level++) {
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            unsigned char *block;

            heap_set_up(MM_MIB(4), level);
            block = kheap_alloc(heap, sizes[i]);
            assert_non_null(block);
            memset(block, OLD, sizes[i]);
            kheap_inject(heap, &(struct kheap_faults){ .nth = 1 });
            assert_ptr_equal(krealloc(block, sizes[i] / 4), block);
            assert_int_equal(kheap_injected(heap), 1);
            kheap_inject(heap, NULL);
            assert_true(holds(block, OLD, sizes[i] / 4));
            if (level == KHEAP_FULL)
                assert_int_equal(kheap_size(heap, block), sizes[i] / 4);
            assert_sound();
            kheap_free(heap, block);
            assert_int_equal(take_picture().heap.used_blocks, 0);
            kheap_set_default(NULL);
        }
    }
}

/* A heap that cannot begin takes nothing. */
static void kheap_create_fails_at_every_frame(void **state)
{
    struct kheap_config config = config_of(MM_MIB(1));
    uint64_t used = pmm_stats(&machine.pmm).used_frames, failures = 0;
    mm_status_t status = MM_OUT_OF_MEMORY;

    (void)state;
    for (uint64_t n = 1; status != MM_OK; n++) {
        struct kheap *none = NULL;

        assert_true(n < TRIES_MAX);
        pmm_fault_inject(&machine.pmm, n, 1);
        status = kheap_create(&config, &none);
        pmm_fault_inject(&machine.pmm, 0, 0);
        if (status == MM_OK) {
            heap = none;
            break;
        }
        assert_status(status, MM_OUT_OF_MEMORY);
        assert_null(none);
        assert_int_equal(pmm_stats(&machine.pmm).used_frames, used);
        assert_pmm_sound(&machine.pmm);
        failures++;
    }
    assert_true(failures > 0);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_int_equal(pmm_stats(&machine.pmm).used_frames - used, kheap_stats(heap).frames);
    assert_sound();
    kheap_free(heap, kheap_alloc(heap, 100));
    assert_sound();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_failure_leaves_all_as_it_was),
        TEST(every_failure_leaves_all_as_it_was_at_the_full_level),
        TEST(no_failure_keeps_a_block_from_getting_smaller),
        TEST(kheap_create_fails_at_every_frame),
    };

    return RUN_TESTS(tests);
}
