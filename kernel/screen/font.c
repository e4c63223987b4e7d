/* SPDX-License-Identifier: MIT */
/* Owns the way from a code point to dots, and the choice of a size. The tables are generated.
 *
 *   code point --binary search--> glyph number --font, row--> 32 bits, leftmost dot in bit 31
 *
 * Invariant: every glyph number that font_find() gives has a bitmap in every font. */
#include "kernel/screen/font.h"

#define FONT_REPLACEMENT 0xfffdu
#define FONT_SCALE_MAX   4u /* 32 x 64 dots four times as large: 128 x 256 */

/* The index of `point` in a sorted list, or `count`. */
static size_t font_search(const uint16_t *points, size_t count, uint32_t point)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (points[middle] < point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && points[low] == point ? low : count;
}

font_glyph_t font_find(uint32_t point)
{
    size_t index = font_search(font_narrow_points, font_narrow_count, point);

    if (index < font_narrow_count)
        return (font_glyph_t)index;
    index = font_search(font_wide_points, font_wide_count, point);
    if (index < font_wide_count)
        return (font_glyph_t)(FONT_WIDE | index);
    return point == FONT_REPLACEMENT ? FONT_SPACE : font_find(FONT_REPLACEMENT);
}

uint32_t font_row(const struct font *font, font_glyph_t glyph, unsigned y)
{
    bool wide = (glyph & FONT_WIDE) != 0;
    unsigned row_bytes = (font->width * (wide ? 2u : 1u) + 7) / 8;
    size_t first = ((size_t)(glyph & FONT_NUMBER) * font->height + y) * row_bytes;
    const uint8_t *row = (wide ? font->wide : font->narrow) + first;
    uint64_t bits = 0;

    for (unsigned i = 0; i < row_bytes; i++)
        bits |= (uint64_t)row[i] << (56 - 8 * i);
    if ((glyph & FONT_RIGHT) != 0)
        bits <<= font->width;
    return (uint32_t)(bits >> 32);
}

static struct font_face font_face(const struct font *font, uint32_t scale)
{
    struct font_face face = { font, scale, font->width * scale, font->height * scale };

    return face;
}

struct font_face font_face_for(uint32_t width, uint32_t height, uint32_t columns, uint32_t rows)
{
    struct font_face best = font_face(&font_list[0], 1);

    for (uint32_t scale = 1; scale <= FONT_SCALE_MAX; scale++) {
        for (size_t i = 0; i < font_list_count; i++) {
            struct font_face face = font_face(&font_list[i], scale);

            /* Enlarged dots must be worth it: a quarter larger than what came before. */
            if (face.width * 4 >= best.width * 5 && width / face.width >= columns &&
                height / face.height >= rows)
                best = face;
        }
    }
    return best;
}

static uint32_t font_distance(uint32_t a, uint32_t b)
{
    return a > b ? a - b : b - a;
}

struct font_face font_face_of_height(uint32_t height)
{
    struct font_face best = font_face(&font_list[0], 1);

    for (uint32_t scale = 1; scale <= FONT_SCALE_MAX; scale++) {
        for (size_t i = 0; i < font_list_count; i++) {
            struct font_face face = font_face(&font_list[i], scale);
            uint32_t now = font_distance(face.height, height);
            uint32_t before = font_distance(best.height, height);

            if (now < before || (now == before && face.height < best.height))
                best = face;
        }
    }
    return best;
}
