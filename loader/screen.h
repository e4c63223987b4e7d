/* SPDX-License-Identifier: MIT */
/* The last words of the loader on a screen, for machines without a serial port. */
#ifndef LOADER_SCREEN_H
#define LOADER_SCREEN_H

#include "loader/base.h"
#include "loader/framebuffer.h"

/* VGA text: two bytes for each character, its code and its colours. */
struct text_screen {
    uint64_t base; /* physical; columns is 0 when there is none */
    uint32_t pitch;
    uint32_t columns;
    uint32_t rows;
};

/* Chooses where screen_char() draws. The pixels or characters must be within the loader's reach. */
void screen_use_pixels(const struct framebuffer *framebuffer);
void screen_use_text(const struct text_screen *text);

/* Draws the next character; the first one clears the screen. Nothing happens without a screen, or
 * when it is full. */
void screen_char(char c);

#endif
