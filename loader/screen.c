/* SPDX-License-Identifier: MIT */
/* The last words of the loader on a screen, for machines without a serial port.
 *
 *   pixels   | 8 x 16 glyph, scaled | ...      a framebuffer that firmware or bochs.c has set up
 *   text     | code, colours | ...             VGA text mode
 *
 * Only the message of a failed boot is drawn here, one cell away from the edges: a boot that
 * works leaves the screen to the kernel. The cells are counted, not stored; nothing is scrolled,
 * because one message fits. Glyphs (font.awk) exist for the printable ASCII characters, all
 * others are shown as '?'. */
#include "loader/screen.h"

#define GLYPH_WIDTH   8u
#define GLYPH_HEIGHT  16u
#define GLYPH_FIRST   ' '
#define GLYPH_LAST    '~'
#define COLUMNS_LEAST 80u /* the glyphs are scaled up as long as that many fit */

#define TEXT_COLOURS 0x0f00u /* white on black */

extern const uint8_t screen_font[GLYPH_LAST - GLYPH_FIRST + 1][GLYPH_HEIGHT];

static struct framebuffer pixels;
static struct text_screen text;
static uint32_t scale;         /* of a glyph's dots, in pixels */
static uint32_t columns, rows; /* of cells; 0 without a screen */
static uint32_t column, row;   /* of the next character */
static bool cleared;

void screen_use_pixels(const struct framebuffer *framebuffer)
{
    pixels = *framebuffer;
    scale = framebuffer->width / (COLUMNS_LEAST * GLYPH_WIDTH);
    scale = scale == 0 ? 1 : scale;
    columns = framebuffer->width / (GLYPH_WIDTH * scale);
    rows = framebuffer->height / (GLYPH_HEIGHT * scale);
}

void screen_use_text(const struct text_screen *from)
{
    text = *from;
    columns = from->columns;
    rows = from->rows;
}

static void screen_set_pixel(uint32_t x, uint32_t y, uint32_t value)
{
    uint32_t bytes = (pixels.bits + 7u) / 8;
    volatile uint8_t *place =
        phys_pointer(pixels.base + (uint64_t)y * pixels.pitch + (uint64_t)x * bytes);

    for (uint32_t i = 0; i < bytes; i++) {
        place[i] = (uint8_t)(value >> (8 * i));
    }
}

/* All bits of all three colours. */
static uint32_t screen_white(void)
{
    return ((1u << pixels.red_bits) - 1) << pixels.red_shift |
           ((1u << pixels.green_bits) - 1) << pixels.green_shift |
           ((1u << pixels.blue_bits) - 1) << pixels.blue_shift;
}

static void screen_draw_pixels(uint8_t glyph)
{
    uint32_t left = column * GLYPH_WIDTH * scale, top = row * GLYPH_HEIGHT * scale;
    uint32_t white = screen_white();

    for (uint32_t y = 0; y < GLYPH_HEIGHT * scale; y++) {
        uint8_t dots = screen_font[glyph][y / scale];

        for (uint32_t x = 0; x < GLYPH_WIDTH * scale; x++) {
            bool lit = (dots >> (GLYPH_WIDTH - 1 - x / scale) & 1) != 0;

            screen_set_pixel(left + x, top + y, lit ? white : 0);
        }
    }
}

static void screen_draw_text(char c)
{
    volatile uint16_t *place =
        phys_pointer(text.base + (uint64_t)row * text.pitch + column * sizeof(uint16_t));

    *place = (uint16_t)(TEXT_COLOURS | (uint8_t)c);
}

static void screen_draw(char c)
{
    if (c < GLYPH_FIRST || c > GLYPH_LAST) {
        c = '?';
    }
    if (text.columns != 0) {
        screen_draw_text(c);
    } else {
        screen_draw_pixels((uint8_t)(c - GLYPH_FIRST));
    }
}

static void screen_clear(void)
{
    for (row = 0; row < rows; row++) {
        for (column = 0; column < columns; column++) {
            screen_draw(' ');
        }
    }
    row = column = 1;
    cleared = true;
}

void screen_char(char c)
{
    if (columns <= 2 || rows <= 2) {
        return;
    }
    if (!cleared) {
        screen_clear();
    }
    if (c == '\r') {
        return;
    }
    if (c == '\n' || column == columns - 1) {
        column = 1;
        row++;
    }
    if (c != '\n' && row < rows - 1) {
        screen_draw(c);
        column++;
    }
}
