/* SPDX-License-Identifier: MIT */
/* Log lines and the formatter: against snprintf for everything that both know, cut lines, levels,
 * statuses' names. */
#include "support.h"

#include <stdio.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wformat"
#pragma GCC diagnostic ignored "-Wformat-security"
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wformat-overflow"
#pragma GCC diagnostic ignored "-Wformat-truncation"
#endif

#define TEXT_MAX 512

/* Formats by both into buffers of that capacity and compares text, length and the bytes behind. */
#define COMPARE(capacity, ...)                                                                     \
    do {                                                                                           \
        char ours[TEXT_MAX], theirs[TEXT_MAX];                                                     \
        memset(ours, 0x7e, sizeof ours);                                                           \
        memset(theirs, 0x7e, sizeof theirs);                                                       \
        size_t our_length = mm_format(ours, (capacity), __VA_ARGS__);                              \
        int their_length = snprintf(theirs, (capacity), __VA_ARGS__);                              \
        if (our_length != (size_t)their_length)                                                    \
            fail_msg("%s: length %zu, snprintf says %d", #__VA_ARGS__, our_length, their_length);  \
        if ((capacity) > 0 && strcmp(ours, theirs) != 0)                                           \
            fail_msg("%s: \"%s\", snprintf says \"%s\"", #__VA_ARGS__, ours, theirs);              \
        assert_memory_equal(ours + (capacity), theirs + (capacity), sizeof ours - (capacity));     \
    } while (0)

static void format_plain_text_and_percent(void **state)
{
    (void)state;
    COMPARE(TEXT_MAX, "%s", "");
    COMPARE(TEXT_MAX, "hello");
    COMPARE(TEXT_MAX, "100%%");
    COMPARE(TEXT_MAX, "%%%%");
    COMPARE(TEXT_MAX, "✓ ünïcode ✨");
}

static void format_integers_of_every_length(void **state)
{
    (void)state;
    COMPARE(TEXT_MAX, "%d %i %u %x %X", -1, INT32_MIN, UINT32_MAX, 0xdeadbeefu, 0xdeadbeefu);
    COMPARE(TEXT_MAX, "%hhd %hhu %hhx", 511, 511, -1);
    COMPARE(TEXT_MAX, "%hd %hu %hx", 65537, -1, 0x12345678);
    COMPARE(TEXT_MAX, "%ld %lu %lx", INT64_MIN, UINT64_MAX, UINT64_MAX);
    COMPARE(TEXT_MAX, "%lld %llu %llX", (long long)INT64_MIN, (long long)-1, (long long)-1);
    COMPARE(TEXT_MAX, "%zd %zu %zx", (size_t)-1, SIZE_MAX, SIZE_MAX);
    COMPARE(TEXT_MAX, "%jd %ju %jx", INTMAX_MIN, UINTMAX_MAX, (intmax_t)255);
    COMPARE(TEXT_MAX, "%td %tx", (ptrdiff_t)-5, (ptrdiff_t)255);
    COMPARE(TEXT_MAX, "%d %u %x %X %#x", 0, 0, 0, 0, 0);
}

static void format_flags_width_and_precision(void **state)
{
    (void)state;
    COMPARE(TEXT_MAX, "[%5d] [%-5d] [%05d] [%5d] [%-05d]", 42, 42, 42, -42, 42);
    COMPARE(TEXT_MAX, "[%#x] [%#10x] [%#010x] [%-#10x] [%#X]", 255, 255, 255, 255, 255);
    COMPARE(TEXT_MAX, "[%.3d] [%8.3d] [%-8.3d] [%08.3d] [%.0d] [%.0d]", 7, 7, -7, 7, 0, 1);
    COMPARE(TEXT_MAX, "[%.*d] [%*d] [%-*d] [%*d] [%.*d]", 4, 7, 6, 7, 6, 7, -6, 7, -1, 7);
    COMPARE(TEXT_MAX, "[%016lx] [%#018lx] [%.16lx]", 0xabcul, 0xabcul, 0xabcul);
    COMPARE(TEXT_MAX, "[%#.4x] [%#8.4x] [%.0x]", 15, 15, 0);
    COMPARE(TEXT_MAX, "[%100d] [%-100d]", 1, 2);
}

static void format_strings_and_characters(void **state)
{
    const char not_terminated[3] = { 'a', 'b', 'c' };

    (void)state;
    COMPARE(TEXT_MAX, "[%s] [%10s] [%-10s] [%.2s] [%10.2s] [%-10.2s]", "text", "text", "text",
            "text", "text", "text");
    COMPARE(TEXT_MAX, "[%.3s] [%.*s] [%.0s] [%s]", not_terminated, 2, not_terminated, "x", "");
    COMPARE(TEXT_MAX, "[%c%c%c] [%3c] [%-3c]", 'a', '%', 'z', 'b', 'c');
    COMPARE(TEXT_MAX, "%.*s", -1, "all of it");
}

static void format_pointers(void **state)
{
    char text[64];

    (void)state;
    COMPARE(TEXT_MAX, "%p", (void *)0x1234abcd);
    COMPARE(TEXT_MAX, "%p", (void *)UINTPTR_MAX);
    mm_format(text, sizeof text, "%p", NULL);
    assert_string_equal(text, "0x0");
    mm_format(text, sizeof text, "%s", (const char *)NULL);
    assert_string_equal(text, "(null)");
}

static void format_unknown_conversions_are_copied(void **state)
{
    static const char *const unknown[] = {
        "%k", "%5q", "%-08.3lk", "%", "%l", "%-", "100% ", "%.*"
    };
    char text[64];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(unknown); i++) {
        size_t length = mm_format(text, sizeof text, unknown[i], 7, 8);

        assert_string_equal(text, unknown[i]);
        assert_int_equal(length, strlen(unknown[i]));
    }
    mm_format(text, sizeof text, "%k %d", 5);
    assert_string_equal(text, "%k 5");
}

static void format_cuts_at_the_capacity(void **state)
{
    (void)state;
    for (size_t capacity = 0; capacity < 40; capacity++) {
        COMPARE(capacity, "%s-%d-%08lx", "eleven char", 12345, 0xabcdeful);
        COMPARE(capacity, "%s", "");
        COMPARE(capacity, "%30d|%-30s|", 5, "left");
    }
    assert_int_equal(mm_format(NULL, 0, "%s", "five5"), 5);
}

/* ---- Random ---- */

static size_t random_conversion(char *format, char *letter)
{
    static const char *const lengths[] = { "", "hh", "h", "l", "ll", "z", "j", "t" };
    static const char letters[] = "diuxX";
    size_t used = 0;

    format[used++] = '%';
    *letter = letters[random_below(5)];
    if (random_chance(30))
        format[used++] = '-';
    if (random_chance(30))
        format[used++] = '0';
    if (random_chance(30) && (*letter == 'x' || *letter == 'X'))
        format[used++] = '#';
    if (random_chance(50))
        used += (size_t)sprintf(format + used, "%u", 1 + (unsigned)random_below(30));
    if (random_chance(30))
        used += (size_t)sprintf(format + used, ".%u", (unsigned)random_below(25));
    used += (size_t)sprintf(format + used, "%s%c", lengths[random_below(8)], *letter);
    return used;
}

static void format_random_conversions_agree_with_snprintf(void **state)
{
    (void)state;
    for (seeds_begin(20000); seeds_next();) {
        char format[160], letter, ours[TEXT_MAX], theirs[TEXT_MAX];
        size_t used = 0, capacity = (size_t)random_below(200);
        uint64_t a = random_u64() >> random_below(64), b = random_u64() >> random_below(64);
        size_t our_length;
        int their_length;

        used += random_conversion(format + used, &letter);
        used += (size_t)sprintf(format + used, " %%%u.%us ", (unsigned)random_below(12),
                                (unsigned)random_below(12));
        used += random_conversion(format + used, &letter);
        format[used] = '\0';
        our_length = mm_format(ours, capacity, format, a, "some text", b);
        their_length = snprintf(theirs, capacity, format, a, "some text", b);
        if (our_length != (size_t)their_length || (capacity > 0 && strcmp(ours, theirs) != 0))
            fail_msg("\"%s\" of 0x%lx, 0x%lx: \"%s\" (%zu), expected \"%s\" (%d)", format, a, b,
                     ours, our_length, theirs, their_length);
    }
}

/* ---- Lines ---- */

static void log_lines_begin_with_the_tag(void **state)
{
    (void)state;
    mm_error("disk %d", 1);
    mm_info("answer %d", 42);
    assert_string_equal(log_line(0), "[MM] ERROR: disk 1");
    assert_string_equal(log_line(1), "[MM] answer 42");
    assert_int_equal(log_lines(), 2);
}

static void log_levels_drop_what_is_above_them(void **state)
{
    (void)state;
    for (int level = MM_LOG_ERROR; level <= MM_LOG_DEBUG; level++) {
        log_clear();
        mm_log_level = (enum mm_log_level)level;
        mm_error("one");
        mm_info("two");
        mm_debug("three");
        assert_int_equal(log_lines(), level + 1);
    }
}

static unsigned evaluations;

static int evaluate(void)
{
    return (int)++evaluations;
}

static void log_arguments_of_dropped_lines_are_not_evaluated(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_INFO;
    mm_debug("%d", evaluate());
    assert_int_equal(evaluations, 0);
    mm_info("%d", evaluate());
    assert_int_equal(evaluations, 1);
}

static void log_long_lines_are_cut(void **state)
{
    static char text[1000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    mm_info("%s", text);
    assert_int_equal(log_lines(), 1);
    assert_int_equal(strlen(log_line(0)), MM_LOG_LINE_MAX - 1);
    assert_memory_equal(log_line(0), "[MM] xxx", 8);
}

static void log_bug_is_a_line_and_a_report(void **state)
{
    (void)state;
    EXPECT_BUG("wrong thing 0x1f", mm_bug("wrong thing 0x%x", 31));
    assert_string_equal(log_line(0), "[MM] ERROR: wrong thing 0x1f");
    assert_int_equal(log_lines(), 1);
}

static void log_bug_is_reported_at_every_level(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_ERROR;
    EXPECT_BUG("quiet", mm_bug("quiet"));
}

static void log_fatal_is_a_line_and_a_halt(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_ERROR;
    EXPECT_HALT("no way on: 7", mm_fatal("no way on: %d", 7));
}

#if MM_DEBUG
static void log_failed_assertion_halts_with_its_place(void **state)
{
    volatile int two = 2;

    (void)state;
    MM_ASSERT(two == 2);
    EXPECT_HALT("two == 3|test_log.c", MM_ASSERT(two == 3));
}
#endif

static void status_names_are_words_of_their_own(void **state)
{
    (void)state;
    for (int a = 0; a < MM_STATUS_COUNT; a++) {
        assert_non_null(mm_status_name((mm_status_t)a));
        assert_true(strlen(mm_status_name((mm_status_t)a)) > 1);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(mm_status_name((mm_status_t)a), mm_status_name((mm_status_t)b));
    }
    assert_string_equal(mm_status_name(MM_OUT_OF_MEMORY), "out of memory");
    assert_non_null(mm_status_name(MM_STATUS_COUNT));
    assert_non_null(mm_status_name((mm_status_t)-1));
    assert_non_null(mm_status_name((mm_status_t)1000000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(format_plain_text_and_percent),
        TEST(format_integers_of_every_length),
        TEST(format_flags_width_and_precision),
        TEST(format_strings_and_characters),
        TEST(format_pointers),
        TEST(format_unknown_conversions_are_copied),
        TEST(format_cuts_at_the_capacity),
        TEST(format_random_conversions_agree_with_snprintf),
        TEST(log_lines_begin_with_the_tag),
        TEST(log_levels_drop_what_is_above_them),
        TEST(log_arguments_of_dropped_lines_are_not_evaluated),
        TEST(log_long_lines_are_cut),
        TEST(log_bug_is_a_line_and_a_report),
        TEST(log_bug_is_reported_at_every_level),
        TEST(log_fatal_is_a_line_and_a_halt),
#if MM_DEBUG
        TEST(log_failed_assertion_halts_with_its_place),
#endif
        TEST(status_names_are_words_of_their_own),
    };

    return RUN_TESTS(tests);
}
