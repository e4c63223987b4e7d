/* SPDX-License-Identifier: MIT */
/* Text on a surface: cells of one face, on a ground of one colour. */
#ifndef KERNEL_SCREEN_TEXT_H
#define KERNEL_SCREEN_TEXT_H

#include "kernel/screen/font.h"
#include "kernel/screen/surface.h"

/* Draws what one cell shows at (x, y), the cell's ground included. */
void text_draw_cell(const struct surface *surface, const struct font_face *face, uint32_t x,
                    uint32_t y, font_glyph_t glyph, uint32_t rgb, uint32_t ground);

/* Draws UTF-8 text from (x, y) on, which is the upper left corner of its first cell, up to the
 * first character that does not end at or left of `limit`. The sparkles keep their own colour.
 *   Returns:  x behind the last cell. */
uint32_t text_draw(const struct surface *surface, const struct font_face *face, uint32_t x,
                   uint32_t y, uint32_t limit, const char *text, uint32_t rgb, uint32_t ground);

/* Cells that a text takes. */
uint32_t text_cells(const char *text);

#endif
