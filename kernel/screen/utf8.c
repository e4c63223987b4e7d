/* SPDX-License-Identifier: MIT */
/* Owns the rules of well-formed UTF-8 (The Unicode Standard, table 3-7):
 *
 *   00..7F | C2..DF t | E0 A0..BF t | E1..EC t t | ED 80..9F t | EE..EF t t
 *          | F0 90..BF t t | F1..F3 t t t | F4 80..8F t t          t: 80..BF
 *
 * Invariant: a byte that cannot continue a sequence is looked at again as the first of the next. */
#include "kernel/screen/utf8.h"

static enum utf8_step utf8_expect(struct utf8 *utf8, uint32_t bits, uint8_t missing, uint8_t low,
                                  uint8_t high)
{
    utf8->point = bits;
    utf8->missing = missing;
    utf8->low = low;
    utf8->high = high;
    return UTF8_MORE;
}

/* A byte that stands where a character begins. */
static enum utf8_step utf8_begin(struct utf8 *utf8, uint8_t byte, uint32_t *point)
{
    if (byte >= 0xc2 && byte <= 0xdf)
        return utf8_expect(utf8, byte & 0x1fu, 1, 0x80, 0xbf);
    if (byte >= 0xe0 && byte <= 0xef)
        return utf8_expect(utf8, byte & 0x0fu, 2, byte == 0xe0 ? 0xa0 : 0x80,
                           byte == 0xed ? 0x9f : 0xbf);
    if (byte >= 0xf0 && byte <= 0xf4)
        return utf8_expect(utf8, byte & 0x07u, 3, byte == 0xf0 ? 0x90 : 0x80,
                           byte == 0xf4 ? 0x8f : 0xbf);
    *point = byte < 0x80 ? byte : UTF8_REPLACEMENT;
    return UTF8_DONE;
}

enum utf8_step utf8_feed(struct utf8 *utf8, uint8_t byte, uint32_t *point)
{
    if (utf8->missing == 0)
        return utf8_begin(utf8, byte, point);
    if (byte < utf8->low || byte > utf8->high) {
        utf8->missing = 0;
        *point = UTF8_REPLACEMENT;
        return UTF8_BROKEN;
    }
    (void)utf8_expect(utf8, utf8->point << 6 | (byte & 0x3fu), (uint8_t)(utf8->missing - 1), 0x80,
                      0xbf);
    *point = utf8->point;
    return utf8->missing == 0 ? UTF8_DONE : UTF8_MORE;
}

uint32_t utf8_next(const char **text)
{
    struct utf8 utf8 = { .missing = 0 };

    while (**text != '\0') {
        uint32_t point = 0;
        enum utf8_step step = utf8_feed(&utf8, (uint8_t) * *text, &point);

        if (step != UTF8_BROKEN)
            (*text)++;
        if (step != UTF8_MORE)
            return point;
    }
    return utf8.missing != 0 ? UTF8_REPLACEMENT : 0;
}
