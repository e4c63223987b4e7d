/* SPDX-License-Identifier: MIT */
/* What the heap has for those who look for bugs: failures on purpose, lists of what is alive by call site,
 * and call sites with names in reports. */
#include "heap_fixture.h"

#include <stdio.h>
#include <string.h>

/* ---- Faults ---- */

static void kheap_faults_are_injected_as_asked(void **state)
{
    struct kheap_faults faults = { .nth = 3 };
    uint64_t failed = 0;

    (void)state;
    heap_set_up(MM_MIB(1));
    kheap_inject(heap, &faults);
    for (unsigned i = 1; i <= 6; i++) {
        void *block = kheap_alloc(heap, 64);
        assert_int_equal(block == NULL, i == 3);
        kheap_free(heap, block);
    }
    assert_int_equal(kheap_injected(heap), 1);
    log_expect_count("[MM] ERROR: kmalloc of 64 bytes: failure injected", 1);
    faults = (struct kheap_faults){ .every = 4, .least = 100, .most = 200 };
    kheap_inject(heap, &faults);
    for (unsigned i = 1; i <= 40; i++) {
        assert_non_null(kheap_alloc(heap, 64));
        failed += kheap_alloc(heap, 150) == NULL;
    }
    assert_int_equal(failed, 10);
    faults = (struct kheap_faults){ .chance = 500 };
    kheap_inject(heap, &faults);
    failed = 0;
    for (unsigned i = 0; i < 1000; i++)
        failed += kheap_alloc(heap, 16) == NULL;
    assert_true(failed > 400 && failed < 600);
    kheap_inject(heap, NULL);
    assert_non_null(kheap_alloc(heap, 64));
    assert_heap_sound();
}

static void kheap_faults_are_read_from_text(void **state)
{
    static const char *const wrong[] = { "",
                                         "nth",
                                         "nth:",
                                         "nth:0",
                                         "every:x",
                                         "chance:1001",
                                         "size:9-8",
                                         "nth:1,",
                                         "nth:1 ",
                                         ",nth:1",
                                         "seed:0",
                                         "site:0",
                                         "every:99999999999999999999",
                                         "size:0" };
    static const char all[] = "nth:7,every:100,chance:3,seed:0x10,size:64-128,site:0x1000-0x2000";
    struct kheap_faults faults = { .nth = 99 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        if (kheap_faults_read(wrong[i], strlen(wrong[i]), &faults))
            fail_msg("'%s' was taken", wrong[i]);
    assert_int_equal(faults.nth, 99);
    assert_true(kheap_faults_read(all, strlen(all), &faults));
    assert_int_equal(faults.nth, 7);
    assert_int_equal(faults.every, 100);
    assert_int_equal(faults.chance, 3);
    assert_int_equal(faults.seed, 16);
    assert_int_equal(faults.least, 64);
    assert_int_equal(faults.most, 128);
    assert_int_equal(faults.site, 0x1000);
    assert_int_equal(faults.behind, 0x2000);
}

/* ---- Leaks ---- */

/* One call site, whatever the compiler makes of a loop around it. */
static __attribute__((noinline)) void *leak_here(void)
{
    void *block = kheap_alloc(heap, 100);

    __asm__ volatile("" : "+r"(block)); /* no tail call */
    return block;
}

static void kheap_report_since_lists_what_is_alive(void **state)
{
    void *before, *kept[3], *gone;
    uint64_t mark;

    (void)state;
    heap_set_up(MM_MIB(4));
    kheap_record_sites(heap, true);
    before = kheap_alloc(heap, 1000);
    mark = kheap_mark(heap);
    for (size_t i = 0; i < 3; i++)
        kept[i] = leak_here();
    gone = kheap_alloc(heap, 500);
    kheap_free(heap, gone);
    log_clear();
    assert_int_equal(kheap_report_since(heap, mark), 3);
    log_expect_count("leak: 3 blocks, 300 bytes allocated by 0x", 1);
    assert_int_equal(log_lines(), 1);
    for (size_t i = 0; i < 3; i++)
        kheap_free(heap, kept[i]);
    assert_int_equal(kheap_report_since(heap, mark), 0);
    kheap_free(heap, before);
    kheap_record_sites(heap, false);
    assert_all_free();
}

/* ---- Growing ---- */

/* Two functions of this kernel have names; each call site is looked up by the byte before it. */
static vaddr_t named_site;

static bool find_named(vaddr_t address, struct boot_symbol *out)
{
    if (address != named_site - 1)
        return false;
    *out = (struct boot_symbol){ .name = "leak_here", .begin = named_site - 0x42, .bytes = 0x42 };
    return true;
}

static vaddr_t alloc_site_of(const void *block)
{
    struct kheap_peek peek;

    assert_true(kheap_peek(heap, (uintptr_t)block, &peek));
    return peek.alloc_site;
}

static void kheap_reports_name_call_sites(void **state)
{
    char words[100];
    uint64_t mark;
    void *blocks[2];

    (void)state;
    heap_set_up_growing(MM_MIB(48), find_named);
    kheap_set_level(heap, KHEAP_FULL);
    mark = kheap_mark(heap);
    blocks[0] = leak_here();
    blocks[1] = kheap_alloc(heap, 300);
    named_site = alloc_site_of(blocks[0]);
    log_clear();
    assert_int_equal(kheap_report_since(heap, mark), 2);
    assert_int_equal(log_lines(), 2);
    snprintf(words, sizeof words, "leak: 1 blocks, 300 bytes allocated by 0x%lx",
             alloc_site_of(blocks[1]));
    log_expect_count(words, 1);
    log_expect_count(" (", 1); /* one of the sites has a name */
    snprintf(words, sizeof words, "leak: 1 blocks, 100 bytes allocated by 0x%lx (leak_here + 0x42)",
             named_site);
    log_expect_count(words, 1);
    snprintf(words, sizeof words, "1 bytes inside|; allocated by 0x%lx (leak_here + 0x42)",
             named_site);
    EXPECT_BUG(words, kheap_free(heap, (char *)blocks[0] + 1));
    kheap_free(heap, blocks[0]);
    snprintf(words, sizeof words, "quarantine|allocated by 0x%lx (leak_here + 0x42), freed by 0x",
             named_site);
    EXPECT_BUG(words, kheap_free(heap, blocks[0]));
    kheap_free(heap, blocks[1]);
    kheap_set_level(heap, KHEAP_DEFAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kheap_faults_are_injected_as_asked),
        TEST(kheap_faults_are_read_from_text),
        TEST(kheap_report_since_lists_what_is_alive),
        TEST(kheap_reports_name_call_sites),
    };

    return RUN_TESTS(tests);
}
