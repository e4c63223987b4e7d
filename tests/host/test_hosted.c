/* SPDX-License-Identifier: MIT */
/* The hosted port itself: what the other tests lean on must be true. mello_host_init(), locks, the
 * strict CPU, holes in the RAM, marks for ASan; the MMU and the TLB are in test_hosted_mmu.c. */
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

/* ---- mello_host_init ---- */

/* Page-aligned memory at an address that is `skew` bytes past a multiple of 1 MiB. */
static void *memory_at(size_t skew, size_t bytes, void **whole)
{
    *whole = aligned_alloc(MM_MIB(1), mm_round_up(bytes + skew, MM_MIB(1)));
    assert_non_null(*whole);
    memset(*whole, 0xa5, mm_round_up(bytes + skew, MM_MIB(1)));
    return (char *)*whole + skew;
}

static void check_heap_works(void)
{
    void *blocks[64];

    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = kmalloc(64 * (i + 1));
        assert_non_null(blocks[i]);
        assert_true(is_zero(blocks[i], 64 * (i + 1)));
        memset(blocks[i], 0xff, 64 * (i + 1));
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kfree(blocks[i]);
    assert_int_equal(kheap_stats(kheap_default()).used_blocks, 0);
    assert_true(kheap_verify(kheap_default()));
    assert_true(pmm_verify(&mm_kernel()->pmm));
}

static void init_foreign_with_odd_base_works(void **state)
{
    static const size_t skews[] = { 0, 4096, 8192, 0x7f000, 0xff000 };
    static const size_t sizes[] = { HOSTED_MIN_BYTES, HOSTED_MIN_BYTES + 5000, MM_MIB(16),
                                    MM_MIB(40), MM_MIB(100) + 4096 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(skews); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            void *whole, *base = memory_at(skews[i], sizes[j], &whole);

            assert_true(mello_host_init(base, sizes[j]));
            assert_int_equal(hhdm_offset(), (uintptr_t)base);
            assert_non_null(kheap_default());
            assert_true((void *)kheap_default() >= base &&
                        (char *)kheap_default() < (char *)base + sizes[j]);
            check_heap_works();
            assert_int_equal(log_count("[MM]"), 0);
            kheap_set_default(NULL);
            free(whole);
        }
    }
}

static void host_init_refuses_bad_memory_and_changes_nothing(void **state)
{
    void *whole, *base = memory_at(0, MM_MIB(16), &whole), *block;
    void *whole_2, *other = memory_at(0, MM_MIB(16), &whole_2);

    (void)state;
    assert_true(mello_host_init(base, MM_MIB(16)));
    assert_null(mm_kernel()->boot.map); /* its rows are gone */
    block = kmalloc(100);
    assert_false(mello_host_init(NULL, MM_MIB(16)));
    assert_false(mello_host_init((char *)other + 1, MM_MIB(8)));
    assert_false(mello_host_init((char *)other + 512, MM_MIB(8)));
    assert_false(mello_host_init(other, 0));
    assert_false(mello_host_init(other, 4096));
    assert_false(mello_host_init(other, HOSTED_MIN_BYTES - 1));
    assert_false(mello_host_init((void *)(UINTPTR_MAX - MM_MIB(8) + 1), MM_MIB(16)));
    assert_int_equal(log_lines(), 0);
    assert_int_equal(hhdm_offset(), (uintptr_t)base);
    assert_int_equal(kheap_size(kheap_default(), block), 112);
    kfree(block);
    check_heap_works();
    free(whole);
    free(whole_2);
}

/* A CPU that addresses 1 MiB: mm gives up half-way. The hosted port undoes it and says false. */
static void host_init_after_a_halt_leaves_the_old_heap(void **state)
{
    void *whole, *base = memory_at(0, MM_MIB(16), &whole), *block;
    void *whole_2, *other = memory_at(4096, MM_MIB(16), &whole_2);

    (void)state;
    assert_true(mello_host_init(base, MM_MIB(16)));
    block = kmalloc(100);
    hosted_cpu()->leaf_8000_0008.eax = 20;
    assert_false(mello_host_init(other, MM_MIB(16)));
    hosted_cpu_reset(4);
    log_expect_count("[MM] ERROR:", 1);
    assert_int_equal(hhdm_offset(), (uintptr_t)base);
    assert_int_equal(kheap_size(kheap_default(), block), 112);
    kfree(block);
    check_heap_works();
    assert_true(mello_host_init(other, MM_MIB(16)));
    assert_int_equal(hhdm_offset(), (uintptr_t)other);
    check_heap_works();
    free(whole);
    free(whole_2);
}

/* ---- Hooks ---- */

/* Runs `act` in a child with the default hooks; returns how it ended. */
static int status_of(void (*act)(void))
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        /* cmocka's handlers would fail the test in the child and go on with the next one. */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(99);
        hosted_set_hooks(NULL);
        act();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void act_nothing(void)
{
}

static void act_log(void)
{
    mm_info("a line");
}

static void act_bug(void)
{
    mm_bug("a bug");
}

static void act_halt(void)
{
    mm_fatal("the end");
}

static void act_violation(void)
{
    hosted_violation("an example");
}

static void host_hooks_by_default_abort(void **state)
{
    (void)state;
    assert_int_equal(status_of(act_nothing), 0);
    assert_int_equal(status_of(act_log), 0);
    assert_true(WIFSIGNALED(status_of(act_bug)) && WTERMSIG(status_of(act_bug)) == SIGABRT);
    assert_true(WIFSIGNALED(status_of(act_halt)) && WTERMSIG(status_of(act_halt)) == SIGABRT);
    assert_true(WIFSIGNALED(status_of(act_violation)));
}

static void host_clock_never_goes_back(void **state)
{
    uint64_t last = mm_port_time_ns(), first = last;

    (void)state;
    while (last < first + 2000000) {
        uint64_t now = mm_port_time_ns();

        assert_true(now >= last);
        last = now;
    }
}

/* ---- Locks ---- */

static void host_lock_keeps_interrupts_away(void **state)
{
    struct mm_port_lock outer = { 0 }, inner = { 0 };
    uint64_t saved_outer, saved_inner;

    (void)state;
    assert_true(hosted_cpu()->interrupts);
    saved_outer = mm_port_lock(&outer);
    assert_false(hosted_cpu()->interrupts);
    saved_inner = mm_port_lock(&inner);
    assert_int_equal(hosted_cpu()->locks_held, 2);
    mm_port_unlock(&inner, saved_inner);
    assert_false(hosted_cpu()->interrupts);
    mm_port_unlock(&outer, saved_outer);
    assert_true(hosted_cpu()->interrupts);
    assert_int_equal(hosted_cpu()->locks_held, 0);
    assert_int_equal(outer.word, 0);
}

static void host_lock_misuse_is_a_violation(void **state)
{
    struct mm_port_lock lock = { 0 };
    uint64_t saved;

    (void)state;
    violations_count();
    mm_port_unlock(&lock, 1);
    assert_int_equal(violations_take(), 1);
    saved = mm_port_lock(&lock);
    (void)mm_port_lock(&lock);
    assert_int_equal(violations_take(), 1);
    assert_non_null(strstr(violation_last(), "deadlock"));
    mm_port_log(MM_LOG_INFO, "[MM] under a lock");
    (void)mm_port_time_ns();
    assert_int_equal(violations_take(), 2);
    mm_port_unlock(&lock, saved);
    mm_port_log(MM_LOG_INFO, "[MM] without");
    assert_int_equal(violations_take(), 0);
}

/* ---- The strict CPU ---- */

static void host_cpu_reports_what_would_be_a_gp(void **state)
{
    struct hosted_cpu before;

    (void)state;
    ram_set_up(MM_MIB(1));
    violations_count();
    hosted_cpu()->leaf_1.edx = 0;
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ 0 };
    hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 20);
    before = *hosted_cpu();
    EXPECT_VIOLATION(mm_port_read_msr(0x1b));
    EXPECT_VIOLATION(mm_port_write_msr(0x1b, 0));
    EXPECT_VIOLATION(mm_port_read_msr(0x277)); /* PAT without the feature */
    EXPECT_VIOLATION(mm_port_write_msr(0xc0000080, before.efer | (uint64_t)1 << 11));
    EXPECT_VIOLATION(mm_port_write_msr(0xc0000080, before.efer & ~((uint64_t)1 << 8)));
    EXPECT_VIOLATION(mm_port_write_cr(4, before.cr4 | (uint64_t)1 << 7));
    EXPECT_VIOLATION(mm_port_write_cr(4, before.cr4 | (uint64_t)1 << 11));
    EXPECT_VIOLATION(mm_port_write_cr(4, before.cr4 | (uint64_t)1 << 20));
    EXPECT_VIOLATION(mm_port_write_cr(4, before.cr4 | (uint64_t)1 << 21));
    EXPECT_VIOLATION(mm_port_write_cr(4, before.cr4 | (uint64_t)1 << 12));
    EXPECT_VIOLATION(mm_port_write_cr(4, 0)); /* PAE in long mode */
    EXPECT_VIOLATION(mm_port_write_cr(0, 0));
    EXPECT_VIOLATION(mm_port_write_cr(3, 1));
    EXPECT_VIOLATION(mm_port_write_cr(3, MM_MIB(1)));
    EXPECT_VIOLATION(mm_port_write_cr(3, (uint64_t)1 << 52));
    EXPECT_VIOLATION(mm_port_write_cr(8, 0));
    EXPECT_VIOLATION(mm_port_read_cr(2));
    before.leaf_1.edx = hosted_cpu()->leaf_1.edx = (uint32_t)1 << 16;
    EXPECT_VIOLATION(mm_port_write_msr(0x277, 2));
    EXPECT_VIOLATION(mm_port_write_msr(0x277, (uint64_t)8 << 56));
    assert_memory_equal(hosted_cpu(), &before, sizeof before);
}

static void host_cpuid_hides_leaves_above_the_highest(void **state)
{
    (void)state;
    assert_int_not_equal(mm_port_cpuid(7, 0).ebx, 0);
    assert_int_equal(mm_port_cpuid(7, 1).ebx, 0);
    hosted_cpu()->leaf_0.eax = 6;
    assert_int_equal(mm_port_cpuid(7, 0).ebx, 0);
    hosted_cpu()->leaf_8000_0000.eax = 0x80000001;
    assert_int_equal(mm_port_cpuid(0x80000008, 0).eax, 0);
    assert_int_not_equal(mm_port_cpuid(0x80000001, 0).edx, 0);
}

/* ---- Fake RAM ---- */

static void host_ram_is_zero_and_aligned(void **state)
{
    unsigned char *base = hosted_ram_create(MM_GIB(64));

    (void)state;
    assert_non_null(base);
    assert_int_equal((uintptr_t)base % MM_GIB(1), 0);
    assert_ptr_equal(hosted_ram_at(0), base);
    assert_ptr_equal(hosted_ram_at(MM_GIB(64) - 1), base + MM_GIB(64) - 1);
    assert_null(hosted_ram_at(MM_GIB(64)));
    assert_true(is_zero(base + MM_GIB(63), MM_MIB(1)));
    assert_null(hosted_ram_create(MM_MIB(1))); /* one at a time */
    hosted_ram_destroy();
    assert_null(hosted_ram_at(0));
    assert_non_null(hosted_ram_create(MM_MIB(1)));
}

static paddr_t touched;

static void act_touch(void)
{
    *(volatile char *)((char *)hosted_ram_at(0) + touched) = 1;
}

static void host_ram_holes_are_not_accessible(void **state)
{
    (void)state;
    ram_set_up(MM_MIB(4));
    hosted_ram_make_hole(MM_MIB(1), MM_MIB(2));
    touched = MM_MIB(1) - 1;
    assert_int_equal(status_of(act_touch), 0);
    touched = MM_MIB(1);
    assert_int_not_equal(status_of(act_touch), 0);
    touched = MM_MIB(2) - 1;
    assert_int_not_equal(status_of(act_touch), 0);
    touched = MM_MIB(2);
    assert_int_equal(status_of(act_touch), 0);
    touched = MM_MIB(4); /* behind the end */
    assert_int_not_equal(status_of(act_touch), 0);
}

/* ---- Marks for ASan ---- */

#if MM_MEMORY_HOOKS && defined(__SANITIZE_ADDRESS__)
int __asan_address_is_poisoned(void const volatile *address);

static void host_free_memory_traps_under_asan(void **state)
{
    struct machine machine;
    struct kheap *heap;
    paddr_t frame, base;
    char *block;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(8));
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_false(__asan_address_is_poisoned(phys_to_virt(frame)));
    pmm_free_frame(&machine.pmm, frame);
    assert_true(__asan_address_is_poisoned(phys_to_virt(frame)));
    assert_true(__asan_address_is_poisoned(phys_to_virt(MM_MIB(9) - 1)));
    touched = frame;
    assert_int_not_equal(status_of(act_touch), 0);
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 256, MM_MIB(1), PMM_NO_LIMIT, &base));
    assert_false(__asan_address_is_poisoned(phys_to_virt(base + MM_MIB(1) - 1)));
    assert_ok(kheap_init(phys_to_virt(base), MM_MIB(1), NULL, &heap));
    block = kheap_alloc(heap, 64);
    assert_false(__asan_address_is_poisoned(block + 63));
    assert_true(__asan_address_is_poisoned(block + 64));
    kheap_free(heap, block);
    assert_true(__asan_address_is_poisoned(block));
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(init_foreign_with_odd_base_works),
        TEST(host_init_refuses_bad_memory_and_changes_nothing),
        TEST(host_init_after_a_halt_leaves_the_old_heap),
        TEST(host_hooks_by_default_abort),
        TEST(host_clock_never_goes_back),
        TEST(host_lock_keeps_interrupts_away),
        TEST(host_lock_misuse_is_a_violation),
        TEST(host_cpu_reports_what_would_be_a_gp),
        TEST(host_cpuid_hides_leaves_above_the_highest),
        TEST(host_ram_is_zero_and_aligned),
        TEST(host_ram_holes_are_not_accessible),
#if MM_MEMORY_HOOKS && defined(__SANITIZE_ADDRESS__)
        TEST(host_free_memory_traps_under_asan),
#endif
    };

    return RUN_TESTS(tests);
}
