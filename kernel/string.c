/* SPDX-License-Identifier: MIT */
/* Owns memcpy, memmove, memset and memcmp.
 *
 *   up to 16 bytes    two loads or stores that may overlap:     |aaaaaaaa|
 *                                                                    |bbbbbbbb|
 *   up to 64          the same from both ends, 8 bytes at a time
 *   more              one string instruction for whole words, the last 8 bytes as above
 *
 * A string instruction has a start-up cost of some 30 cycles, which a short one does not earn back; a long
 * one moves 32 to 64 bytes a cycle where the CPU has fast strings (ERMS; SDM vol. 1, 7.3.9.3), for words
 * as for bytes, and an emulator works by the step, so words are eight times as fast there. Larger steps
 * would need vector registers, which the kernel does not have.
 *
 * Stores and loads of a word are memcpy calls to the compiler's eyes unless they go through a type
 * that may alias everything; a loop in C would be recognised as what it is and turned into a call of
 * itself, so there is none that writes. Invariants: the direction flag is clear outside of memmove;
 * everything that a move needs of the source's end is read before the first store. */
#include "kernel/string.h"
#include <stdint.h>

#define STRING_SHORT 64u /* bytes; more: a string instruction */

typedef uint64_t __attribute__((may_alias, aligned(1))) string_word;
typedef uint32_t __attribute__((may_alias, aligned(1))) string_half;
typedef uint16_t __attribute__((may_alias, aligned(1))) string_quarter;

/* ---- Filling ---- */

/* 0 to 16 bytes. */
static inline void string_fill_tiny(uint8_t *to, uint64_t words, size_t bytes)
{
    uint8_t *end = to + bytes;

    if (bytes >= 8) {
        *(string_word *)to = words;
        *(string_word *)(end - 8) = words;
    } else if (bytes >= 4) {
        *(string_half *)to = (uint32_t)words;
        *(string_half *)(end - 4) = (uint32_t)words;
    } else if (bytes >= 2) {
        *(string_quarter *)to = (uint16_t)words;
        *(string_quarter *)(end - 2) = (uint16_t)words;
    } else if (bytes == 1) {
        *to = (uint8_t)words;
    }
}

/* 17 to 64 bytes: 16 from each end, then 16 more from each. */
static inline void string_fill_short(uint8_t *to, uint64_t words, size_t bytes)
{
    uint8_t *end = to + bytes;

    *(string_word *)to = words;
    *(string_word *)(to + 8) = words;
    *(string_word *)(end - 16) = words;
    *(string_word *)(end - 8) = words;
    if (bytes <= 32)
        return;
    *(string_word *)(to + 16) = words;
    *(string_word *)(to + 24) = words;
    *(string_word *)(end - 32) = words;
    *(string_word *)(end - 24) = words;
}

void *memset(void *to, int value, size_t bytes)
{
    uint64_t words = (uint8_t)value * 0x0101010101010101ull;
    uint8_t *at = to;
    size_t count = bytes / 8;

    if (bytes <= 16) {
        string_fill_tiny(at, words, bytes);
    } else if (bytes <= STRING_SHORT) {
        string_fill_short(at, words, bytes);
    } else {
        *(string_word *)(at + bytes - 8) = words;
        __asm__ volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(words) : "memory");
    }
    return to;
}

/* ---- Copying ---- */

/* 0 to 16 bytes, overlapping or not: all loads come first. */
static inline void string_copy_tiny(uint8_t *to, const uint8_t *from, size_t bytes)
{
    if (bytes >= 8) {
        uint64_t first = *(const string_word *)from,
                 last = *(const string_word *)(from + bytes - 8);

        *(string_word *)to = first;
        *(string_word *)(to + bytes - 8) = last;
    } else if (bytes >= 4) {
        uint32_t first = *(const string_half *)from,
                 last = *(const string_half *)(from + bytes - 4);

        *(string_half *)to = first;
        *(string_half *)(to + bytes - 4) = last;
    } else if (bytes >= 2) {
        uint16_t first = *(const string_quarter *)from;
        uint16_t last = *(const string_quarter *)(from + bytes - 2);

        *(string_quarter *)to = first;
        *(string_quarter *)(to + bytes - 2) = last;
    } else if (bytes == 1) {
        *to = *from;
    }
}

/* 17 to 32 bytes, likewise. */
static inline void string_copy_short(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint64_t a = *(const string_word *)from, b = *(const string_word *)(from + 8);
    uint64_t c = *(const string_word *)(from + bytes - 16);
    uint64_t d = *(const string_word *)(from + bytes - 8);

    *(string_word *)to = a;
    *(string_word *)(to + 8) = b;
    *(string_word *)(to + bytes - 16) = c;
    *(string_word *)(to + bytes - 8) = d;
}

/* From the first byte on; 8 bytes or more. */
static void string_copy_up(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint8_t *tail = to + bytes - 8;
    uint64_t last = *(const string_word *)(from + bytes - 8);
    size_t count = bytes / 8;

    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    *(string_word *)tail = last;
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

void *memmove(void *to, const void *from, size_t bytes)
{
    /* Wraps to a large number where `to` lies below `from`. */
    uint64_t distance = (uint64_t)to - (uint64_t)from;

    if (bytes <= 16)
        string_copy_tiny(to, from, bytes);
    else if (bytes <= 32)
        string_copy_short(to, from, bytes);
    else if (distance >= bytes)
        string_copy_up(to, from, bytes);
    else if (distance != 0)
        string_copy_down(to, from, bytes);
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    if (bytes <= 16)
        string_copy_tiny(to, from, bytes);
    else if (bytes <= 32)
        string_copy_short(to, from, bytes);
    else
        string_copy_up(to, from, bytes);
    return to;
}

/* ---- Comparing ---- */

int memcmp(const void *left, const void *right, size_t bytes)
{
    const uint8_t *a = left;
    const uint8_t *b = right;

    for (; bytes >= 8; a += 8, b += 8, bytes -= 8) {
        if (*(const string_word *)a != *(const string_word *)b)
            break;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}
