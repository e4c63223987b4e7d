/* SPDX-License-Identifier: MIT */
/* Owns the cells of the log and their way onto the pixels.
 *
 *   bytes --utf8, escapes out--> line[] --at the newline: coloured, wrapped--> cells[][] --> pixels
 *
 * The pixels are never read, and written seldom: when the last row is full, everything moves up by
 * a quarter of the screen at once, and only cells that then show something else are drawn.
 * Invariants: cells[][] is what the pixels show, when nobody else has drawn; next_row <= rows, and
 * no write leaves the arrays even if a failure report breaks in on another CPU's line. */
#include "kernel/screen/terminal.h"
#include "kernel/screen/palette.h"
#include "kernel/screen/text.h"

#define TERMINAL_COLUMNS_WANTED 96u
#define TERMINAL_ROWS_WANTED    24u
#define TERMINAL_COLUMNS_LEAST  20u
#define TERMINAL_ROWS_LEAST     4u
#define TERMINAL_TAB            8u
#define TERMINAL_COLOUR_SHIFT   12u

#define TERMINAL_TAG "[MM] "

#define TERMINAL_ESC        0x1bu
#define TERMINAL_CHECK      0x2713u
#define TERMINAL_CHECK_BOLD 0x2714u
#define TERMINAL_CROSS      0x2717u
#define TERMINAL_CROSS_BOLD 0x2718u
#define TERMINAL_SPARKLES   0x2728u

enum terminal_colour {
    TERMINAL_TEXT,
    TERMINAL_MEMORY, /* what mm says */
    TERMINAL_TAGGED, /* its tag */
    TERMINAL_ACCENT,
    TERMINAL_GOOD,
    TERMINAL_BAD,
    TERMINAL_WARNING,
    TERMINAL_SPARK,
};

static const uint32_t terminal_palette[] = {
    [TERMINAL_TEXT] = PALETTE_TEXT,       [TERMINAL_MEMORY] = PALETTE_MEMORY_LINE,
    [TERMINAL_TAGGED] = PALETTE_TAG,      [TERMINAL_ACCENT] = PALETTE_ACCENT,
    [TERMINAL_GOOD] = PALETTE_GOOD,       [TERMINAL_BAD] = PALETTE_BAD,
    [TERMINAL_WARNING] = PALETTE_WARNING, [TERMINAL_SPARK] = PALETTE_SPARK,
};

/* ---- Colours: by what a line says ---- */

static bool terminal_line_has_at(const struct terminal *terminal, uint32_t at, const char *words)
{
    for (uint32_t i = 0; words[i] != '\0'; i++) {
        if (at + i >= terminal->line_count || terminal->line[at + i] != (uint8_t)words[i])
            return false;
    }
    return true;
}

static bool terminal_line_has(const struct terminal *terminal, const char *words)
{
    for (uint32_t at = 0; at < terminal->line_count; at++) {
        if (terminal_line_has_at(terminal, at, words))
            return true;
    }
    return false;
}

static bool terminal_line_has_cross(const struct terminal *terminal)
{
    for (uint32_t at = 0; at < terminal->line_count; at++) {
        if (terminal->line[at] == TERMINAL_CROSS || terminal->line[at] == TERMINAL_CROSS_BOLD)
            return true;
    }
    return false;
}

static enum terminal_colour terminal_line_colour(const struct terminal *terminal)
{
    if (terminal_line_has(terminal, "ERROR") || terminal_line_has(terminal, "PANIC") ||
        terminal_line_has_cross(terminal))
        return TERMINAL_BAD;
    if (terminal_line_has(terminal, "WARNING"))
        return TERMINAL_WARNING;
    if (terminal_line_has(terminal, "=========="))
        return TERMINAL_ACCENT;
    if (terminal_line_has(terminal, "All tests passed"))
        return TERMINAL_GOOD;
    return terminal_line_has_at(terminal, 0, TERMINAL_TAG) ? TERMINAL_MEMORY : TERMINAL_TEXT;
}

static enum terminal_colour terminal_point_colour(uint16_t point, enum terminal_colour usual)
{
    if (point == TERMINAL_CHECK || point == TERMINAL_CHECK_BOLD)
        return TERMINAL_GOOD;
    return point == TERMINAL_SPARKLES ? TERMINAL_SPARK : usual;
}

static void terminal_colour_line(struct terminal *terminal)
{
    enum terminal_colour usual = terminal_line_colour(terminal);
    uint32_t tag = terminal_line_has_at(terminal, 0, TERMINAL_TAG) ? sizeof(TERMINAL_TAG) - 1 : 0;

    for (uint32_t i = 0; i < terminal->line_count; i++)
        terminal->colour[i] = (uint8_t)(i < tag && usual != TERMINAL_BAD
                                            ? TERMINAL_TAGGED
                                            : terminal_point_colour(terminal->line[i], usual));
}

/* ---- Cells ---- */

static void terminal_draw_cell(const struct terminal *terminal, uint32_t column, uint32_t row,
                               terminal_cell_t cell)
{
    font_glyph_t glyph = cell & (FONT_NUMBER | FONT_WIDE | FONT_RIGHT);

    text_draw_cell(&terminal->surface, &terminal->face,
                   terminal->left + column * terminal->face.width,
                   terminal->top + row * terminal->face.height, glyph,
                   terminal_palette[cell >> TERMINAL_COLOUR_SHIFT], PALETTE_GROUND);
}

/* An empty cell looks the same in every colour. */
static bool terminal_looks_same(terminal_cell_t a, terminal_cell_t b)
{
    font_glyph_t all = FONT_NUMBER | FONT_WIDE | FONT_RIGHT;

    return a == b || ((a & all) == FONT_SPACE && (b & all) == FONT_SPACE);
}

static void terminal_set_cell(struct terminal *terminal, uint32_t column, uint32_t row,
                              terminal_cell_t cell)
{
    terminal_cell_t *at = &terminal->cells[row][column];

    if (!terminal_looks_same(*at, cell))
        terminal_draw_cell(terminal, column, row, cell);
    *at = cell;
}

static void terminal_scroll(struct terminal *terminal)
{
    uint32_t by = (terminal->rows + 3) / 4;

    for (uint32_t row = 0; row < terminal->rows; row++) {
        for (uint32_t column = 0; column < terminal->columns; column++)
            terminal_set_cell(terminal, column, row,
                              row + by < terminal->rows ? terminal->cells[row + by][column]
                                                        : FONT_SPACE);
    }
    terminal->next_row = terminal->rows - by;
}

/* ---- Lines ---- */

/* The row that the next cells go to; makes room. */
static uint32_t terminal_open_row(struct terminal *terminal)
{
    uint32_t row = terminal->next_row;

    if (row >= terminal->rows) {
        terminal_scroll(terminal);
        row = terminal->next_row;
    }
    terminal->next_row = row + 1;
    return row;
}

static void terminal_show_line(struct terminal *terminal)
{
    uint32_t indent = sizeof(TERMINAL_TAG) - 1;
    uint32_t row = terminal_open_row(terminal), column = 0;

    for (uint32_t i = 0; i < terminal->line_count; i++) {
        font_glyph_t glyph = font_find(terminal->line[i]);
        uint32_t cells = (glyph & FONT_WIDE) != 0 ? 2 : 1;
        uint32_t colour = (uint32_t)terminal->colour[i] << TERMINAL_COLOUR_SHIFT;

        if (column + cells > terminal->columns) {
            row = terminal_open_row(terminal);
            column = indent;
        }
        terminal_set_cell(terminal, column++, row, (terminal_cell_t)(colour | glyph));
        if (cells == 2)
            terminal_set_cell(terminal, column++, row,
                              (terminal_cell_t)(colour | glyph | FONT_RIGHT));
    }
}

static void terminal_end_line(struct terminal *terminal)
{
    terminal_colour_line(terminal);
    terminal_show_line(terminal);
    terminal->line_count = 0;
}

void terminal_drop_line(struct terminal *terminal)
{
    terminal->line_count = 0;
    terminal->utf8.missing = 0;
    terminal->escape = TERMINAL_PLAIN;
}

/* ---- Input ---- */

static void terminal_append(struct terminal *terminal, uint16_t point)
{
    uint32_t count = terminal->line_count;

    if (count >= TERMINAL_LINE_MAX) {
        terminal_end_line(terminal);
        count = 0;
    }
    terminal->line[count] = point;
    terminal->line_count = count + 1;
}

static void terminal_take_plain(struct terminal *terminal, uint32_t point)
{
    if (point == '\n') {
        terminal_end_line(terminal);
    } else if (point == '\t') {
        do
            terminal_append(terminal, ' ');
        while (terminal->line_count % TERMINAL_TAB != 0);
    } else if (point == TERMINAL_ESC) {
        terminal->escape = TERMINAL_ESCAPE;
    } else if (point >= ' ' && (point < 0x7f || point >= 0xa0)) {
        terminal_append(terminal, point <= 0xffff ? (uint16_t)point : (uint16_t)UTF8_REPLACEMENT);
    }
}

/* ECMA-48, 5.4: a control sequence is ESC [, then 0x20 ... 0x3f, then one of 0x40 ... 0x7e. What
 * cannot be part of one ends it and counts. */
static void terminal_take(struct terminal *terminal, uint32_t point)
{
    if (terminal->escape == TERMINAL_ESCAPE) {
        terminal->escape = point == '[' ? TERMINAL_SEQUENCE : TERMINAL_PLAIN;
        if (point == '[')
            return;
    } else if (terminal->escape == TERMINAL_SEQUENCE) {
        if (point >= 0x20 && point <= 0x3f)
            return;
        terminal->escape = TERMINAL_PLAIN;
        if (point >= 0x40 && point <= 0x7e)
            return;
    }
    terminal_take_plain(terminal, point);
}

void terminal_write(struct terminal *terminal, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        enum utf8_step step;
        uint32_t point;

        do {
            step = utf8_feed(&terminal->utf8, (uint8_t)bytes[i], &point);
            if (step != UTF8_MORE)
                terminal_take(terminal, point);
        } while (step == UTF8_BROKEN);
    }
}

/* ---- The whole ---- */

static uint32_t terminal_least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Half a letter stays free on every side. */
static void terminal_place(struct terminal *terminal, uint32_t width, uint32_t height)
{
    uint32_t margin = terminal->face.width / 2;
    uint32_t columns = (width - 2 * margin) / terminal->face.width;
    uint32_t rows = (height - 2 * margin) / terminal->face.height;

    terminal->columns = terminal_least(columns, TERMINAL_COLUMNS_MAX);
    terminal->rows = terminal_least(rows, TERMINAL_ROWS_MAX);
    terminal->left = margin;
    terminal->top = margin;
}

bool terminal_init(struct terminal *terminal, const struct surface *surface)
{
    struct font_face face = font_face_for(surface->width, surface->height, TERMINAL_COLUMNS_WANTED,
                                          TERMINAL_ROWS_WANTED);

    if (surface->width < (TERMINAL_COLUMNS_LEAST + 1) * face.width ||
        surface->height < (TERMINAL_ROWS_LEAST + 1) * face.height)
        return false;
    terminal->surface = *surface;
    terminal->face = face;
    terminal_place(terminal, surface->width, surface->height);
    terminal->next_row = 0;
    for (uint32_t row = 0; row < TERMINAL_ROWS_MAX; row++) {
        for (uint32_t column = 0; column < TERMINAL_COLUMNS_MAX; column++)
            terminal->cells[row][column] = FONT_SPACE;
    }
    terminal_drop_line(terminal);
    terminal_redraw(terminal);
    return true;
}

void terminal_redraw(const struct terminal *terminal)
{
    surface_fill(&terminal->surface, 0, 0, terminal->surface.width, terminal->surface.height,
                 PALETTE_GROUND);
    for (uint32_t row = 0; row < terminal->rows; row++) {
        for (uint32_t column = 0; column < terminal->columns; column++) {
            if (!terminal_looks_same(terminal->cells[row][column], FONT_SPACE))
                terminal_draw_cell(terminal, column, row, terminal->cells[row][column]);
        }
    }
}
