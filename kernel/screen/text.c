/* SPDX-License-Identifier: MIT */
/* Owns the way from a text to cells and from a cell to pixels.
 *
 *   UTF-8 --utf8--> code point --font_find--> glyph, one or two cells --font_row--> dots
 *
 * Invariant: a cell is drawn whole, ground included, line by line from top to bottom, so that
 * write-combining memory is filled in runs. */
#include "kernel/screen/text.h"
#include "kernel/screen/palette.h"
#include "kernel/screen/utf8.h"

#define TEXT_SPARKLES 0x2728u

void text_draw_cell(const struct surface *surface, const struct font_face *face, uint32_t x,
                    uint32_t y, font_glyph_t glyph, uint32_t rgb, uint32_t ground)
{
    surface_pixel_t on = surface_pack(surface, rgb);
    surface_pixel_t off = surface_pack(surface, ground);

    for (uint32_t row = 0; row < face->font->height; row++) {
        uint32_t dots = font_row(face->font, glyph, row);

        for (uint32_t i = 0; i < face->scale; i++)
            surface_draw_dots(surface, x, y + row * face->scale + i, dots, face->font->width,
                              face->scale, on, off);
    }
}

uint32_t text_draw(const struct surface *surface, const struct font_face *face, uint32_t x,
                   uint32_t y, uint32_t limit, const char *text, uint32_t rgb, uint32_t ground)
{
    uint32_t point;

    while ((point = utf8_next(&text)) != 0) {
        font_glyph_t glyph = font_find(point);
        uint32_t colour = point == TEXT_SPARKLES ? PALETTE_SPARK : rgb;
        uint32_t cells = (glyph & FONT_WIDE) != 0 ? 2 : 1;

        if (x + cells * face->width > limit)
            break;
        text_draw_cell(surface, face, x, y, glyph, colour, ground);
        x += face->width;
        if (cells == 2) {
            text_draw_cell(surface, face, x, y, glyph | FONT_RIGHT, colour, ground);
            x += face->width;
        }
    }
    return x;
}

uint32_t text_cells(const char *text)
{
    uint32_t cells = 0, point;

    while ((point = utf8_next(&text)) != 0)
        cells += (font_find(point) & FONT_WIDE) != 0 ? 2 : 1;
    return cells;
}
