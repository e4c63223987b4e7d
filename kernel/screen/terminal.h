/* SPDX-License-Identifier: MIT */
/* The scrolling log on a surface. Memory is part of the object, so that it works before any heap.
 * */
#ifndef KERNEL_SCREEN_TERMINAL_H
#define KERNEL_SCREEN_TERMINAL_H

#include "kernel/screen/font.h"
#include "kernel/screen/surface.h"
#include "kernel/screen/utf8.h"

/* font_face_for() keeps an 8K screen below 160 columns; a screen with more cells leaves its lower
 * and right part empty. */
#define TERMINAL_COLUMNS_MAX 200u
#define TERMINAL_ROWS_MAX    128u
#define TERMINAL_LINE_MAX    640u /* characters of one line; a longer one goes on as a new line */

/* What a cell shows and in which colour: a glyph in the low bits, enum terminal_colour above. */
typedef uint16_t terminal_cell_t;

enum terminal_escape {
    TERMINAL_PLAIN,
    TERMINAL_ESCAPE,  /* behind ESC */
    TERMINAL_SEQUENCE /* behind ESC [ */
};

struct terminal {
    struct surface surface;
    struct font_face face;
    uint32_t left, top;     /* pixels around the cells */
    uint32_t columns, rows; /* cells in use */
    uint32_t next_row;      /* where the next line goes; == rows: scroll first */
    struct utf8 utf8;
    enum terminal_escape escape;
    uint32_t line_count;               /* characters of the line so far */
    uint16_t line[TERMINAL_LINE_MAX];  /* code points; 0xfffd for those above 0xffff */
    uint8_t colour[TERMINAL_LINE_MAX]; /* enum terminal_colour */
    terminal_cell_t cells[TERMINAL_ROWS_MAX][TERMINAL_COLUMNS_MAX];
};

/* Chooses the size of the letters (about 100 columns, where the screen has room), and
 * paints the surface empty.
 *   Returns:  false if not even 20 columns x 4 rows fit; nothing is drawn then. */
bool terminal_init(struct terminal *terminal, const struct surface *surface);

/* Takes text in UTF-8. A line appears when its newline has come, coloured by what it says; one that
 * is too long goes on in the next row, indented. Escape sequences are left out, tabs are spaces. */
void terminal_write(struct terminal *terminal, const char *bytes, size_t count);

/* Forgets what is left of an unfinished line. */
void terminal_drop_line(struct terminal *terminal);

/* Paints everything anew, for when somebody else has drawn over it. */
void terminal_redraw(const struct terminal *terminal);

#endif
