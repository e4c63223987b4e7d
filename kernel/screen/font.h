/* SPDX-License-Identifier: MIT */
/* The fonts of the screen: bitmaps of fixed cells, several sizes of the same characters.
 *
 * tools/mkfont.c makes the tables at build time. A narrow glyph fills one cell, a wide one two
 * (check marks, the sparkles). A face is a font whose dots are squares of `scale` pixels. */
#ifndef KERNEL_SCREEN_FONT_H
#define KERNEL_SCREEN_FONT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct font {
    uint8_t width, height; /* of a cell, in dots */
    const uint8_t *narrow; /* `height` rows of (width + 7) / 8 bytes for each glyph */
    const uint8_t *wide;   /* `height` rows of (2 * width + 7) / 8 bytes */
};

/* Fonts, smallest first; code points, ascending: glyph i is that of point i, in every font. */
extern const struct font font_list[];
extern const size_t font_list_count;
extern const uint16_t font_narrow_points[], font_wide_points[];
extern const size_t font_narrow_count, font_wide_count;

/* What one cell shows: a number below 512, and for the halves of a wide glyph these bits. */
typedef uint16_t font_glyph_t;
#define FONT_NUMBER ((font_glyph_t)0x1ff)
#define FONT_WIDE   ((font_glyph_t)0x200)
#define FONT_RIGHT  ((font_glyph_t)0x400) /* the second cell of a wide glyph */
#define FONT_SPACE  ((font_glyph_t)0)     /* U+0020 is the first code point */

/* The glyph of a code point (of a wide one, its left half), or that of U+FFFD. */
font_glyph_t font_find(uint32_t point);

/* Row `y` of what a cell shows, `font->width` dots, leftmost in bit 31. */
uint32_t font_row(const struct font *font, font_glyph_t glyph, unsigned y);

struct font_face {
    const struct font *font;
    uint32_t scale;
    uint32_t width, height; /* of a cell, in pixels */
};

/* The largest face of which at least columns x rows cells fit (a smaller one where it is finer and
 * nearly as large), else the smallest one. */
struct font_face font_face_for(uint32_t width, uint32_t height, uint32_t columns, uint32_t rows);

/* The face whose cells are nearest to `height` pixels high; of two, the smaller one. */
struct font_face font_face_of_height(uint32_t height);

#endif
