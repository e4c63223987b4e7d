/* SPDX-License-Identifier: MIT */
/* UTF-8, byte by byte. */
#ifndef KERNEL_SCREEN_UTF8_H
#define KERNEL_SCREEN_UTF8_H

#include <stdint.h>

#define UTF8_REPLACEMENT 0xfffdu

/* All zeroes: between two characters. */
struct utf8 {
    uint32_t point;    /* bits so far */
    uint8_t missing;   /* bytes that must follow */
    uint8_t low, high; /* what the next of them may be */
};

enum utf8_step {
    UTF8_MORE,   /* the character is not complete yet */
    UTF8_DONE,   /* *point is set */
    UTF8_BROKEN, /* *point is U+FFFD for what came before; the byte is to be fed once more */
};

/* Takes one byte. A sequence that breaks off, an overlong form, a surrogate or a number above
 * U+10FFFF becomes one U+FFFD for each longest part that could have begun a character (The Unicode
 * Standard, 3.9, U+FFFD substitution of maximal subparts). */
enum utf8_step utf8_feed(struct utf8 *utf8, uint8_t byte, uint32_t *point);

/* The next code point of a text that ends with a zero, and on to the one behind it; 0 at the end.
 * */
uint32_t utf8_next(const char **text);

#endif
