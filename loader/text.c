/* SPDX-License-Identifier: MIT */
/* Strings and numbers out of text, and the four memory functions the compiler calls by itself.
 *
 * The memory functions use the string instructions: short, and fast enough on real CPUs and under
 * emulation for the few MiB that a boot copies and clears. The direction flag is always clear. */
#include "loader/text.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    void *cursor = to;

    __asm__ volatile("rep movsb" : "+D"(cursor), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((uintptr_t)to - (uintptr_t)from >= bytes) {
        return memcpy(to, from, bytes);
    }
    char *target = (char *)to + bytes - 1;
    const char *source = (const char *)from + bytes - 1;

    __asm__ volatile("std; rep movsb; cld" : "+D"(target), "+S"(source), "+c"(bytes) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    void *cursor = to;
    size_t words = bytes / 8, rest = bytes % 8;
    uint64_t pattern = (uint8_t)value * 0x0101010101010101ul;

    __asm__ volatile("rep stosq" : "+D"(cursor), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(cursor), "+c"(rest) : "a"(pattern) : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t bytes)
{
    const uint8_t *l = left, *r = right;

    for (size_t i = 0; i < bytes; i++) {
        if (l[i] != r[i]) {
            return l[i] < r[i] ? -1 : 1;
        }
    }
    return 0;
}

size_t text_length(const char *text)
{
    size_t length = 0;

    while (text[length] != '\0') {
        length++;
    }
    return length;
}

bool text_equals(const char *left, const char *right)
{
    return text_span_equals(left, text_length(left), right);
}

bool text_span_equals(const char *word, size_t length, const char *name)
{
    return text_length(name) == length && memcmp(word, name, length) == 0;
}

/* The value of a digit, or 16 for any other character. */
static unsigned text_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return (unsigned)(c - '0');
    }
    if (c >= 'a' && c <= 'f') {
        return (unsigned)(c - 'a') + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return (unsigned)(c - 'A') + 10;
    }
    return 16;
}

bool text_parse_number(const char **cursor, uint64_t *out)
{
    const char *at = *cursor;
    unsigned radix = 10;
    uint64_t value = 0;

    if (at[0] == '0' && (at[1] == 'x' || at[1] == 'X')) {
        radix = 16;
        at += 2;
    }
    if (text_digit(*at) >= radix) {
        return false;
    }
    for (; text_digit(*at) < radix; at++) {
        if (__builtin_mul_overflow(value, radix, &value) ||
            __builtin_add_overflow(value, text_digit(*at), &value)) {
            return false;
        }
    }
    *cursor = at;
    *out = value;
    return true;
}

bool text_parse_whole_number(const char *text, uint64_t *out)
{
    return text_parse_number(&text, out) && *text == '\0';
}
