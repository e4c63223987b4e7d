/* SPDX-License-Identifier: MIT */
/* The parts of libmello-malloc.so that can be looked at alone: its options, and memory on its way back
 * to the system. The library as a whole is tested from outside, by tests/programs. */
#include "malloc/memory.c"
#include "malloc/options.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define PAGES 20000u /* 78 MiB: more than what is kept */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- options ---- */

static void expect_options(const char *value, const char *expected)
{
    char line[320];

    if (value == NULL)
        unsetenv("MELLO_MALLOC");
    else
        setenv("MELLO_MALLOC", value, 1);
    malloc_options_read(line, sizeof line);
    assert_string_equal(line, expected);
}

static void options_become_a_command_line(void **state)
{
    (void)state;
    expect_options(NULL, "");
    expect_options("", "");
    expect_options("harden=full", " mm.harden=full");
    expect_options("harden=full,log=info", " mm.harden=full mm.log=info");
    expect_options(",,log=debug,", " mm.log=debug");
    expect_options("fail=nth:5", " mm.fail=nth:5");
}

static void options_with_odd_characters_are_left_out(void **state)
{
    (void)state;
    expect_options("log=in fo,harden=full", " mm.harden=full");
    expect_options("log=\n", "");
}

static void options_that_are_too_long_are_left_out(void **state)
{
    char value[600];

    (void)state;
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    memcpy(value, "log=info,", 9);
    char line[40];
    setenv("MELLO_MALLOC", value, 1);
    malloc_options_read(line, sizeof line);
    assert_string_equal(line, " mm.log=info");
}

/* Before the C library has set it up, `environ` is NULL: what the process began with counts then. The
 * program starts itself again to have begun with it. */
static void options_are_found_without_environ(void **state)
{
    char line[320];
    char **before = environ;

    (void)state;
    environ = NULL;
    malloc_options_read(line, sizeof line);
    environ = before;
    assert_string_equal(line, " mm.harden=full mm.log=error");
}

/* ---- memory ---- */

static unsigned char *pages;

/* A page that somebody else has got from the pmm in the meantime; PAGES: none. */
static uint64_t foreign_page = PAGES;
static unsigned holds;

bool malloc_frames_hold(uint64_t first, uint64_t end)
{
    if (first <= foreign_page && foreign_page < end)
        return false;
    holds++;
    return true;
}

void malloc_frames_release(uint64_t first, uint64_t end)
{
    assert_true(first < end && holds == 1);
    holds--;
}

static void make_memory(void)
{
    foreign_page = PAGES;
    memset(&memory, 0, sizeof memory);
    pages =
        mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    assert_true(malloc_memory_init(pages, PAGES * PAGE_SIZE));
}

static void end_memory(void)
{
    munmap(pages, PAGES * PAGE_SIZE);
    munmap(memory.dirty, (PAGES / PAGES_PER_WORD + 1) * sizeof(uint64_t));
}

static bool is_zero(unsigned first, unsigned count)
{
    for (size_t i = 0; i < count; i++)
        if (pages[(first + i) * PAGE_SIZE] != 0 || pages[(first + i + 1) * PAGE_SIZE - 1] != 0)
            return false;
    return true;
}

static bool take(unsigned first, unsigned count)
{
    return malloc_memory_take(pages + first * PAGE_SIZE, count * PAGE_SIZE);
}

static void give(unsigned first, unsigned count)
{
    malloc_memory_give(pages + first * PAGE_SIZE, count * PAGE_SIZE);
    malloc_memory_given();
}

static void dirty(unsigned first, unsigned count)
{
    for (size_t i = 0; i < count; i++)
        pages[(first + i) * PAGE_SIZE] = pages[(first + i + 1) * PAGE_SIZE - 1] = 0xee;
}

static void memory_given_back_is_kept_and_said_to_be_dirty(void **state)
{
    (void)state;
    make_memory();
    assert_true(take(512, 512));
    dirty(512, 512);
    give(512, 512);
    assert_false(is_zero(512, 512)); /* no system call for it */
    assert_false(take(512, 512));
    assert_true(take(1024, 512)); /* its neighbour is as it was */
    end_memory();
}

static void memory_beyond_what_is_kept_goes_to_the_system_oldest_first(void **state)
{
    (void)state;
    make_memory();
    for (unsigned at = 0; at < 16384; at += 512) { /* 64 MiB */
        assert_true(take(at, 512));
        dirty(at, 512);
    }
    for (unsigned at = 0; at < 16384; at += 512)
        give(at, 512);
    assert_true(memory.dirty_pages <= KEPT_BYTES / PAGE_SIZE);
    assert_true(is_zero(0, 512) && take(0, 512));
    assert_false(take(16384 - 512, 512));
    end_memory();
}

static void memory_in_use_again_is_not_discarded(void **state)
{
    (void)state;
    make_memory();
    assert_true(take(0, 1024));
    dirty(0, 1024);
    give(0, 1024);
    assert_false(take(100, 300));
    dirty(100, 300);
    assert_true(take(1024, 10000));
    give(1024, 10000); /* pushes the first range out */
    assert_int_equal(pages[100 * PAGE_SIZE], 0xee);
    assert_int_equal(pages[399 * PAGE_SIZE], 0xee);
    assert_true(is_zero(0, 100) && is_zero(400, 600));
    end_memory();
}

/* mm's own state may come to lie in a page that the heap gave back: it is not the lender's to discard, and
 * counts as dirty for good. */
static void memory_that_somebody_else_uses_is_left_alone(void **state)
{
    (void)state;
    make_memory();
    assert_true(take(0, 512));
    dirty(0, 512);
    give(0, 512);
    foreign_page = 77;
    assert_true(take(1024, 10000));
    give(1024, 10000); /* pushes the first range out */
    assert_int_equal(pages[77 * PAGE_SIZE], 0xee);
    assert_true(is_zero(0, 77) && is_zero(78, 512 - 78));
    assert_false(take(77, 1));
    end_memory();
}

/* Runs of pages are taken and given at random, beside a model that knows who is in use and what was
 * written. What is said to be zero is zero; what is in use keeps its content. */
static void memory_random_program_keeps_its_promise(void **state)
{
    static unsigned runs[400][2];
    uint64_t random = 4711;
    unsigned said_zero = 0, said_dirty = 0;

    (void)state;
    make_memory();
    for (unsigned step = 0; step < 20000; step++) {
        unsigned slot = (unsigned)(next_random(&random) % 400);
        unsigned first = slot * 50;

        if (runs[slot][1] != 0) {
            for (unsigned i = 0; i < runs[slot][1]; i++)
                assert_int_equal(pages[(runs[slot][0] + i) * PAGE_SIZE], 0xee);
            give(runs[slot][0], runs[slot][1]);
            runs[slot][1] = 0;
            continue;
        }
        runs[slot][1] = 1 + (unsigned)(next_random(&random) % 50);
        runs[slot][0] = first + (unsigned)(next_random(&random) % (51 - runs[slot][1]));
        if (take(runs[slot][0], runs[slot][1])) {
            assert_true(is_zero(runs[slot][0], runs[slot][1]));
            said_zero++;
        } else {
            said_dirty++;
        }
        dirty(runs[slot][0], runs[slot][1]);
    }
    assert_true(said_zero > 100 && said_dirty > 100);
    uint64_t counted = 0;
    for (unsigned i = 0; i <= PAGES / PAGES_PER_WORD; i++)
        counted += (uint64_t)__builtin_popcountll(memory.dirty[i]);
    assert_int_equal(counted, memory.dirty_pages);
    end_memory();
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_found_without_environ),
        cmocka_unit_test(options_become_a_command_line),
        cmocka_unit_test(options_with_odd_characters_are_left_out),
        cmocka_unit_test(options_that_are_too_long_are_left_out),
        cmocka_unit_test(memory_given_back_is_kept_and_said_to_be_dirty),
        cmocka_unit_test(memory_beyond_what_is_kept_goes_to_the_system_oldest_first),
        cmocka_unit_test(memory_in_use_again_is_not_discarded),
        cmocka_unit_test(memory_that_somebody_else_uses_is_left_alone),
        cmocka_unit_test(memory_random_program_keeps_its_promise),
    };

    if (count == 1) {
        char *again[] = { arguments[0], (char[]){ "again" }, NULL };

        setenv("MELLO_MALLOC", "harden=full,log=error", 1);
        execv("/proc/self/exe", again);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
