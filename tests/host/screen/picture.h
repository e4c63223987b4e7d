/* SPDX-License-Identifier: MIT */
/* What the screen's tests share: pictures in memory whose surroundings are watched, in every layout
 * of pixels, and read back with code of its own. */
#ifndef TESTS_HOST_SCREEN_PICTURE_H
#define TESTS_HOST_SCREEN_PICTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/screen/surface.h"
#include "kernel/screen/text.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

struct layout {
    const char *name;
    unsigned bits_per_pixel;
    struct surface_channel red, green, blue;
    unsigned pitch_extra; /* bytes behind the last pixel of a line */
};

extern const struct layout layouts[];
extern const size_t layout_count;

struct picture {
    struct surface surface;
    uint8_t *memory; /* exactly as long as the surface, so that ASan sees the first byte outside */
    size_t bytes;
};

/* A surface of this size; every byte holds a pattern that no drawing leaves. */
struct picture picture_create(const struct layout *layout, uint32_t width, uint32_t height);

/* Fails if a byte between the lines has changed; then frees the picture. */
void picture_destroy(struct picture *picture);

/* The pixel as it is stored. */
uint32_t picture_raw(const struct picture *picture, uint32_t x, uint32_t y);

/* Tells whether the pixel shows this colour. */
bool picture_shows(const struct picture *picture, uint32_t x, uint32_t y, uint32_t rgb);

/* Tells whether the cell at (x, y) shows this character in this colour, dot by dot. */
bool picture_has_glyph(const struct picture *picture, const struct font_face *face, uint32_t x,
                       uint32_t y, uint32_t point, uint32_t rgb, uint32_t ground);

/* Pixels of line y that show a colour. */
uint32_t picture_count(const struct picture *picture, uint32_t y, uint32_t rgb);

/* Two pictures of one layout hold the same pixels. */
void picture_expect_equal(const struct picture *a, const struct picture *b);

uint32_t picture_random(uint32_t below);

#endif
