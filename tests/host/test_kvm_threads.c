/* SPDX-License-Identifier: MIT */
/* Many CPUs in the windows at once: blocks, stacks, devices and heap steps, each page stamped by its
 * owner; a block that all free, of which one may win; a heap that grows in interrupt handlers.
 * ThreadSanitizer runs this program too. Threads only count; what they counted is judged after they are
 * joined. */
#include "threads.h"
#include "walker.h"

#include <signal.h>
#include <string.h>

#define THREADS 4u

static struct machine machine;
static struct address_space space;
static struct kvm kvm;
static unsigned errors;

static void on_log(enum mm_log_level level, const char *line)
{
    (void)level;
    (void)line;
}

static void on_violation(const char *what)
{
    (void)what;
    count(&errors);
}

static void set_up(void)
{
    const struct kvm_window taken = { 0xffffffff80000000, 0xffffffff80400000 };
    struct mm_cpu_features features = features_of(4, 46, true);
    struct hosted_hooks hooks = *support_hooks();

    hosted_cpu_reset(4);
    machine_set_up_simple(&machine, MM_MIB(48));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(kvm_init(&kvm, &space, &taken, 1));
    errors = 0;
    hooks.log = on_log;
    bugs_count_begin();
    hooks.violation = on_violation;
    hosted_set_hooks(&hooks);
}

static unsigned rounds(unsigned usual)
{
    return support_is_sanitized() ? usual / 4 : usual;
}

/* ---- Everything at once ---- */

/* Writes `stamp` to each page of [base, base + bytes), which holds `expected`. */
static void stamp(vaddr_t base, uint64_t bytes, uint64_t expected, uint64_t stamp)
{
    for (uint64_t at = 0; at < bytes; at += PAGE_SIZE) {
        paddr_t frame;
        uint64_t *word;

        if (paging_translate(&space, base + at, &frame) != MM_OK) {
            count(&errors);
            return;
        }
        word = phys_to_virt(frame);
        if (word[0] != expected || word[511] != expected)
            count(&errors);
        word[0] = word[511] = stamp;
    }
}

struct owned {
    enum kvm_place place;
    vaddr_t base;
    uint64_t bytes;
};

/* Step `slot` of this thread in the heap's window: steps of all threads share 2 MiB leaves' tables. */
static vaddr_t heap_step(uint64_t self, size_t slot)
{
    return kvm_heap_window(&kvm).base + (slot * THREADS + self) * KVM_HEAP_STEP_BYTES;
}

static mm_status_t take(struct owned *own, uint64_t self, size_t slot, uint64_t random)
{
    static const enum kvm_place places[] = { KVM_BLOCK, KVM_STACK, KVM_HEAP, KVM_DEVICE };
    mm_status_t status;

    own->place = places[random % 4];
    own->bytes = PAGE_SIZE * (1 + random / 4 % 9);
    switch (own->place) {
    case KVM_STACK:
        status = kvm_alloc_stack(&kvm, own->bytes, &own->base);
        own->base -= status == MM_OK ? own->bytes : 0;
        return status;
    case KVM_HEAP:
        own->base = heap_step(self, slot);
        own->bytes = KVM_HEAP_STEP_BYTES;
        return kvm_heap_commit(&kvm, own->base, own->bytes);
    case KVM_DEVICE:
        return kvm_map_device(&kvm, MM_GIB(4) * (self + 1), own->bytes, PAGING_UNCACHED,
                              &own->base);
    default:
        if (random / 64 % 16 == 0)
            own->bytes = MM_MIB(2) + PAGE_SIZE;
        return kvm_alloc(&kvm, own->bytes, 0, &own->base);
    }
}

static void drop(const struct owned *own)
{
    if (own->place == KVM_STACK)
        kvm_free_stack(&kvm, own->base + own->bytes);
    else if (own->place == KVM_DEVICE)
        kvm_unmap_device(&kvm, own->base);
    else if (own->place == KVM_BLOCK)
        kvm_free(&kvm, own->base);
    else if (kvm_heap_decommit(&kvm, own->base, own->bytes) != MM_OK)
        count(&errors);
}

static void *windows_body(void *argument)
{
    uint64_t random = (uintptr_t)argument, self = (uintptr_t)argument;
    struct owned own[24];
    bool has[COUNT_OF(own)] = { false };

    for (unsigned i = 0; i < rounds(4000); i++) {
        size_t slot = next_random(&random) % COUNT_OF(own);

        if (has[slot]) {
            if (own[slot].place != KVM_DEVICE)
                stamp(own[slot].base, own[slot].bytes, self, 0);
            drop(&own[slot]);
            has[slot] = false;
        } else if (take(&own[slot], self - 1, slot, next_random(&random)) == MM_OK) {
            if (own[slot].place != KVM_DEVICE)
                stamp(own[slot].base, own[slot].bytes, 0, self);
            has[slot] = true;
        } else {
            count(&errors); /* there is memory for all of it */
        }
    }
    for (size_t slot = 0; slot < COUNT_OF(own); slot++)
        if (has[slot])
            drop(&own[slot]);
    return NULL;
}

static void kvm_threads_share_no_page(void **state)
{
    struct pmm_stats before;

    (void)state;
    set_up();
    before = pmm_stats(&machine.pmm);
    threads_run(THREADS, windows_body);
    assert_int_equal(counted(&errors), 0);
    assert_int_equal(bugs_counted(), 0);
    assert_int_equal(pmm_stats(&machine.pmm).used_frames, before.used_frames);
    assert_int_equal(kvm_stats(&kvm).node_frames, 0);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, 0);
    assert_int_equal(kvm_stats(&kvm).stack_bytes, 0);
    assert_int_equal(kvm_stats(&kvm).block_bytes, 0);
    assert_space_sound(&space);
    assert_pmm_sound(&machine.pmm);
}

/* ---- Everybody frees the same ---- */

#define SHARED 100u

static vaddr_t blocks[SHARED], tops[SHARED];

static void *free_the_same_body(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < SHARED; i++) {
        threads_meet();
        kvm_free(&kvm, blocks[i]);
        kvm_free_stack(&kvm, tops[i]);
    }
    return NULL;
}

static void kvm_threads_free_the_same_and_one_wins(void **state)
{
    struct pmm_stats before;

    (void)state;
    set_up();
    before = pmm_stats(&machine.pmm);
    for (size_t i = 0; i < SHARED; i++) {
        assert_ok(kvm_alloc(&kvm, PAGE_SIZE * (1 + i % 3), 0, &blocks[i]));
        assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &tops[i]));
    }
    threads_run(THREADS, free_the_same_body);
    assert_int_equal(counted(&errors), 0);
    assert_int_equal(bugs_counted(), 2 * SHARED * (THREADS - 1));
    assert_int_equal(pmm_stats(&machine.pmm).used_frames, before.used_frames);
    assert_space_sound(&space);
}

/* ---- A heap that grows in an interrupt handler ---- */

#define GROWN_STEPS 32u /* of 2 MiB each in which the handler commits 64 KiB */

static unsigned grown, handled;
static bool threads_go_on;

/* Takes the next piece, if the thread has not stopped it. It comes in wherever the thread of its CPU has
 * its interrupts on: in the middle of kvm_alloc() and kvm_free(), too. */
static void grow(void)
{
    unsigned step = __atomic_load_n(&grown, __ATOMIC_RELAXED);

    count(&handled);
    if (step >= GROWN_STEPS)
        return;
    vaddr_t base = kvm_heap_window(&kvm).base + step * MM_MIB(2);
    if (kvm_heap_commit(&kvm, base, KVM_HEAP_STEP_BYTES) != MM_OK)
        count(&errors);
    __atomic_store_n(&grown, step + 1, __ATOMIC_RELAXED);
}

static void *busy_body(void *argument)
{
    (void)argument;
    while (__atomic_load_n(&threads_go_on, __ATOMIC_RELAXED)) {
        vaddr_t block;

        if (kvm_alloc(&kvm, MM_KIB(300), 0, &block) == MM_OK)
            kvm_free(&kvm, block);
    }
    return NULL;
}

static void kvm_heap_grows_in_an_interrupt_handler(void **state)
{
    pthread_t other, self = pthread_self();
    vaddr_t block;

    (void)state;
    set_up();
    struct pmm_stats before = pmm_stats(&machine.pmm);
    grown = handled = 0;
    threads_go_on = true;
    assert_true(hosted_interrupt_attach(0, SIGUSR1, grow));
    assert_int_equal(pthread_create(&other, NULL, busy_body, NULL), 0);
    while (grown < GROWN_STEPS) {
        assert_int_equal(pthread_kill(self, SIGUSR1), 0);
        assert_ok(kvm_alloc(&kvm, MM_KIB(60), 0, &block));
        hosted_interrupt_raise(0);
        kvm_free(&kvm, block);
    }
    __atomic_store_n(&threads_go_on, false, __ATOMIC_RELAXED);
    assert_int_equal(pthread_join(other, NULL), 0);
    hosted_interrupt_detach(0);
    assert_true(handled >= GROWN_STEPS);
    assert_int_equal(counted(&errors), 0);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, GROWN_STEPS * KVM_HEAP_STEP_BYTES);
    for (unsigned step = 0; step < GROWN_STEPS; step++)
        assert_ok(kvm_heap_decommit(&kvm, kvm_heap_window(&kvm).base + step * MM_MIB(2),
                                    KVM_HEAP_STEP_BYTES));
    assert_int_equal(pmm_stats(&machine.pmm).used_frames, before.used_frames);
    assert_space_sound(&space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_threads_share_no_page),
        TEST(kvm_threads_free_the_same_and_one_wins),
        TEST(kvm_heap_grows_in_an_interrupt_handler),
    };

    return RUN_TESTS(tests);
}
