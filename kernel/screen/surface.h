/* SPDX-License-Identifier: MIT */
/* A rectangle of pixels in memory: a framebuffer, or a picture in a test.
 *
 * Pixels are only written, never read: a framebuffer is mapped write-combining, where each read
 * costs a trip to the device (SDM vol. 3, 11.3.1). Colours are 0xRRGGBB. Coordinates count from the
 * upper left corner; what lies outside is clipped. */
#ifndef KERNEL_SCREEN_SURFACE_H
#define KERNEL_SCREEN_SURFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a component lies in a pixel. */
struct surface_channel {
    uint8_t bits, shift;
};

struct surface {
    volatile uint8_t *base;
    uint32_t width, height; /* pixels */
    uint64_t pitch;         /* bytes from one line to the next */
    uint32_t pixel_bytes;   /* 2, 3 or 4 */
    struct surface_channel red, green, blue;
};

/* A pixel as it is stored. */
typedef uint32_t surface_pixel_t;

/* Tells whether pixels can be written: 15, 16, 24 or 32 bits deep (`bits_per_pixel`), the
 * components inside a pixel, a line inside the pitch.
 *   Returns:  NULL and surface->pixel_bytes is set; else what is wrong, in words. */
const char *surface_check(struct surface *surface, unsigned bits_per_pixel);

surface_pixel_t surface_pack(const struct surface *surface, uint32_t rgb);

/* Fills a rectangle. */
void surface_fill(const struct surface *surface, uint32_t x, uint32_t y, uint32_t width,
                  uint32_t height, uint32_t rgb);

/* One line of `count` (at most 32) dots, each `scale` pixels wide: bit 31 is the leftmost; set ones
 * in `on`, the others in `off`. */
void surface_draw_dots(const struct surface *surface, uint32_t x, uint32_t y, uint32_t dots,
                       unsigned count, uint32_t scale, surface_pixel_t on, surface_pixel_t off);

#endif
