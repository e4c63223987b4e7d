/* SPDX-License-Identifier: MIT */
/* The kernel's memcpy, memmove, memset and memcmp (kernel/string.c), under other names: every size up to
 * 200 bytes at every alignment, every distance of an overlapping move, and some large ones, against
 * loops of bytes; what lies around must stay as it was. */
#include "support.h"

#define memcpy  string_memcpy
#define memmove string_memmove
#define memset  string_memset
#define memcmp  string_memcmp
void *string_memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *string_memmove(void *to, const void *from, size_t bytes);
void *string_memset(void *to, int value, size_t bytes);
int string_memcmp(const void *left, const void *right, size_t bytes);
#include "kernel/string.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp

#define SIZE_MOST 200u
#define MARGIN    64u
#define LARGE     70000u

static uint8_t expected[LARGE + 2 * MARGIN], got[LARGE + 2 * MARGIN];

static void pattern(uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

static void both(size_t count, uint64_t seed)
{
    pattern(expected, count, seed);
    pattern(got, count, seed);
}

static void assert_same(size_t count, const char *what, size_t bytes, size_t at)
{
    for (size_t i = 0; i < count; i++)
        if (expected[i] != got[i])
            fail_msg("%s of %zu bytes at %zu: byte %zu is 0x%x, not 0x%x", what, bytes, at, i,
                     got[i], expected[i]);
}

static void check_fill(size_t bytes, size_t at, int value)
{
    both(at + bytes + MARGIN, bytes);
    for (size_t i = 0; i < bytes; i++)
        expected[at + i] = (uint8_t)value;
    assert_ptr_equal(string_memset(got + at, value, bytes), got + at);
    assert_same(at + bytes + MARGIN, "memset", bytes, at);
}

static void check_move(size_t bytes, size_t to, size_t from, bool copy)
{
    size_t end = (to > from ? to : from) + bytes + MARGIN;
    uint8_t kept[LARGE];

    both(end, bytes);
    for (size_t i = 0; i < bytes; i++)
        kept[i] = expected[from + i];
    for (size_t i = 0; i < bytes; i++)
        expected[to + i] = kept[i];
    if (copy)
        assert_ptr_equal(string_memcpy(got + to, got + from, bytes), got + to);
    else
        assert_ptr_equal(string_memmove(got + to, got + from, bytes), got + to);
    assert_same(end, copy ? "memcpy" : "memmove", bytes, to);
}

static void memset_fills_just_what_it_is_told(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes <= SIZE_MOST; bytes++)
        for (size_t at = MARGIN; at < MARGIN + 16; at++)
            check_fill(bytes, at, (int)(bytes * 3 + at));
    check_fill(4096, MARGIN, 0);
    check_fill(LARGE - 3, MARGIN + 3, -1);
}

static void memcpy_copies_just_what_it_is_told(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes <= SIZE_MOST; bytes++)
        for (size_t at = 0; at < 16; at++)
            check_move(bytes, MARGIN + at, MARGIN + at * 5 % 16 + SIZE_MOST + 16, true);
    check_move(LARGE / 2 - 5, MARGIN + 1, MARGIN + LARGE / 2, true);
}

/* Distances from -70 to 70: nothing is read after it was overwritten. */
static void memmove_moves_over_itself(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes <= SIZE_MOST; bytes++)
        for (size_t distance = 0; distance <= 140; distance++)
            check_move(bytes, MARGIN + distance, MARGIN + 70, false);
    for (size_t distance = 1; distance < 40; distance++) {
        check_move(LARGE - 100, MARGIN + distance, MARGIN, false);
        check_move(LARGE - 100, MARGIN, MARGIN + distance, false);
    }
}

static int sign(int value)
{
    return (value > 0) - (value < 0);
}

static void memcmp_compares_bytes_without_sign(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes <= 40; bytes++) {
        for (size_t at = 0; at < bytes; at++) {
            both(MARGIN, bytes);
            assert_int_equal(string_memcmp(got + 3, expected + 3, bytes), 0);
            got[3 + at] ^= 0x80;
            if (at + 1 < bytes)
                got[3 + at + 1] ^= 0xff; /* what comes later does not count */
            assert_int_equal(sign(string_memcmp(got + 3, expected + 3, bytes)),
                             got[3 + at] > expected[3 + at] ? 1 : -1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(memset_fills_just_what_it_is_told),
        TEST(memcpy_copies_just_what_it_is_told),
        TEST(memmove_moves_over_itself),
        TEST(memcmp_compares_bytes_without_sign),
    };

    return RUN_TESTS(tests);
}
