/* SPDX-License-Identifier: MIT */
/* Owns memcpy, memmove, memset and memcmp.
 *
 * Copies and fills are string instructions in inline assembly: a loop in C would be recognised by
 * the compiler as what it is and turned into a call of itself. Eight bytes at a time, then the
 * rest: fast string hardware takes both widths alike (SDM vol. 1, 7.3.9.3), an emulator works by
 * the step. Invariant: the direction flag is clear outside of memmove. */
#include "kernel/string.h"
#include <stdint.h>

static void string_copy_up(uint8_t *to, const uint8_t *from, size_t bytes)
{
    size_t words = bytes / 8;
    size_t rest = bytes % 8;

    __asm__ volatile("rep movsq\n\t"
                     "movq %3, %2\n\t"
                     "rep movsb"
                     : "+&D"(to), "+&S"(from), "+&c"(words)
                     : "r"(rest)
                     : "memory");
}

/* From the last byte to the first. */
static void string_copy_down(uint8_t *to, const uint8_t *from, size_t bytes)
{
    to += bytes - 1;
    from += bytes - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld"
                     : "+D"(to), "+S"(from), "+c"(bytes)
                     :
                     : "memory", "cc");
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    string_copy_up(to, from, bytes);
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    /* Wraps to a large number where `to` lies below `from`. */
    uint64_t distance = (uint64_t)to - (uint64_t)from;

    if (distance >= bytes)
        string_copy_up(to, from, bytes);
    else if (distance != 0)
        string_copy_down(to, from, bytes);
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    uint8_t *at = to;
    size_t words = bytes / 8;
    size_t rest = bytes % 8;

    __asm__ volatile("rep stosq\n\t"
                     "movq %3, %1\n\t"
                     "rep stosb"
                     : "+&D"(at), "+&c"(words)
                     : "a"((uint8_t)value * 0x0101010101010101ull), "r"(rest)
                     : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t bytes)
{
    const uint8_t *a = left;
    const uint8_t *b = right;

    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}
