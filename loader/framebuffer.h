/* SPDX-License-Identifier: MIT */
/* A linear framebuffer, however it came about: set up here (bochs.c) or by who started us. */
#ifndef LOADER_FRAMEBUFFER_H
#define LOADER_FRAMEBUFFER_H

#include "loader/base.h"

struct framebuffer {
    uint64_t base; /* physical; bytes is 0 when there is none */
    uint64_t bytes;
    uint32_t width;
    uint32_t height;
    uint32_t pitch; /* bytes from one line to the next */
    uint16_t bits;  /* per pixel */
    uint8_t red_bits, red_shift;
    uint8_t green_bits, green_shift;
    uint8_t blue_bits, blue_shift;
};

/* May it be drawn on and handed on? */
bool framebuffer_is_sound(const struct framebuffer *framebuffer);

/* A mode as loader.mode names it. */
struct display_mode {
    const char *text; /* the value of the key; NULL: nobody has asked, so it may be left out */
    uint32_t width;   /* a multiple of 8 */
    uint32_t height;
    uint32_t bits; /* 15, 16, 24 or 32 */
};

/* Switches QEMU's standard VGA to a mode.
 *   Returns:    false, and the display as it was, when there is none that can show it.
 *   On failure: a mode that was asked for fails by name instead. */
bool bochs_set_mode(const struct display_mode *mode, struct framebuffer *out);

#endif
