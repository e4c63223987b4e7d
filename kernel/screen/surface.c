/* SPDX-License-Identifier: MIT */
/* Owns the way a pixel gets into memory: packing, clipping, the width of a store.
 *
 *   pixel = red << shift | green << shift | blue << shift, each cut to its bits
 *   depth 32: one 32-bit store; 15 and 16: one 16-bit store; 24: three bytes, low byte first
 *
 * Stores are volatile, so that the compiler neither widens nor splits them, and unaligned on
 * purpose: nothing promises that a pitch is a multiple of the pixel. Invariant: no store outside
 * [base, base + height * pitch), and none between a line's last pixel and the pitch. */
#include "kernel/screen/surface.h"

typedef uint32_t __attribute__((aligned(1), may_alias)) surface_word_t;
typedef uint16_t __attribute__((aligned(1), may_alias)) surface_half_t;

/* ---- Pixels ---- */

static bool surface_channel_fits(struct surface_channel channel, uint32_t pixel_bytes)
{
    return channel.bits >= 1 && channel.bits <= 16 &&
           (unsigned)channel.bits + channel.shift <= pixel_bytes * 8;
}

const char *surface_check(struct surface *surface, unsigned bits_per_pixel)
{
    if (bits_per_pixel != 15 && bits_per_pixel != 16 && bits_per_pixel != 24 &&
        bits_per_pixel != 32)
        return "its depth is not 15, 16, 24 or 32 bits";
    surface->pixel_bytes = (bits_per_pixel + 7) / 8;
    if (!surface_channel_fits(surface->red, surface->pixel_bytes) ||
        !surface_channel_fits(surface->green, surface->pixel_bytes) ||
        !surface_channel_fits(surface->blue, surface->pixel_bytes))
        return "its colour masks do not fit its depth";
    if (surface->pitch < (uint64_t)surface->width * surface->pixel_bytes)
        return "its lines are longer than its pitch";
    return NULL;
}

/* Eight bits become more by repeating them from the top on, so that 255 stays the brightest. */
static uint32_t surface_pack_channel(struct surface_channel channel, uint32_t value)
{
    uint32_t wide = value << 8 | value;

    return wide >> (16 - channel.bits) << channel.shift;
}

surface_pixel_t surface_pack(const struct surface *surface, uint32_t rgb)
{
    return surface_pack_channel(surface->red, rgb >> 16 & 0xff) |
           surface_pack_channel(surface->green, rgb >> 8 & 0xff) |
           surface_pack_channel(surface->blue, rgb & 0xff);
}

static inline void surface_store(volatile uint8_t *at, uint32_t pixel_bytes, surface_pixel_t pixel)
{
    if (pixel_bytes == 4) {
        *(volatile surface_word_t *)at = pixel;
    } else if (pixel_bytes == 2) {
        *(volatile surface_half_t *)at = (uint16_t)pixel;
    } else {
        at[0] = (uint8_t)pixel;
        at[1] = (uint8_t)(pixel >> 8);
        at[2] = (uint8_t)(pixel >> 16);
    }
}

static volatile uint8_t *surface_at(const struct surface *surface, uint32_t x, uint32_t y)
{
    return surface->base + (uint64_t)y * surface->pitch + (uint64_t)x * surface->pixel_bytes;
}

/* ---- Shapes ---- */

static void surface_fill_line(const struct surface *surface, uint32_t x, uint32_t y, uint32_t width,
                              surface_pixel_t pixel)
{
    volatile uint8_t *at = surface_at(surface, x, y);

    if (surface->pixel_bytes == 4) {
        for (uint32_t i = 0; i < width; i++)
            ((volatile surface_word_t *)at)[i] = pixel;
        return;
    }
    for (uint32_t i = 0; i < width; i++, at += surface->pixel_bytes)
        surface_store(at, surface->pixel_bytes, pixel);
}

void surface_fill(const struct surface *surface, uint32_t x, uint32_t y, uint32_t width,
                  uint32_t height, uint32_t rgb)
{
    surface_pixel_t pixel = surface_pack(surface, rgb);

    if (x >= surface->width || y >= surface->height)
        return;
    if (width > surface->width - x)
        width = surface->width - x;
    if (height > surface->height - y)
        height = surface->height - y;
    for (uint32_t line = 0; line < height; line++)
        surface_fill_line(surface, x, y + line, width, pixel);
}

/* The usual case: whole 32-bit pixels, a dot a pixel, nothing to clip. */
static void surface_draw_dots_fast(volatile surface_word_t *at, uint32_t dots, unsigned count,
                                   surface_pixel_t on, surface_pixel_t off)
{
    for (unsigned i = 0; i < count; i++, dots <<= 1)
        at[i] = dots >> 31 != 0 ? on : off;
}

void surface_draw_dots(const struct surface *surface, uint32_t x, uint32_t y, uint32_t dots,
                       unsigned count, uint32_t scale, surface_pixel_t on, surface_pixel_t off)
{
    volatile uint8_t *at;

    if (x >= surface->width || y >= surface->height)
        return;
    at = surface_at(surface, x, y);
    if (surface->pixel_bytes == 4 && scale == 1 && count <= surface->width - x) {
        surface_draw_dots_fast((volatile surface_word_t *)at, dots, count, on, off);
        return;
    }
    for (unsigned i = 0; i < count; i++, dots <<= 1) {
        for (uint32_t j = 0; j < scale && x < surface->width; j++, x++) {
            surface_store(at, surface->pixel_bytes, dots >> 31 != 0 ? on : off);
            at += surface->pixel_bytes;
        }
    }
}
