/* SPDX-License-Identifier: MIT */
/* What a framebuffer must be like to be handed on: numbers that firmware and boot loaders give are
 * checked once, here, so that nobody after this draws outside of it. */
#include "loader/framebuffer.h"

#define PHYSICAL_END (1ul << 52)

static bool framebuffer_has_colour(const struct framebuffer *framebuffer, unsigned bits,
                                   unsigned shift)
{
    return bits > 0 && bits <= 16 && bits + shift <= framebuffer->bits;
}

bool framebuffer_is_sound(const struct framebuffer *framebuffer)
{
    uint64_t pixel_bytes = (framebuffer->bits + 7u) / 8;

    return framebuffer->base != 0 && framebuffer->width > 0 && framebuffer->height > 0 &&
           framebuffer->bits >= 15 && framebuffer->bits <= 32 &&
           framebuffer->pitch >= framebuffer->width * pixel_bytes &&
           framebuffer->base < PHYSICAL_END &&
           framebuffer->bytes <= PHYSICAL_END - framebuffer->base &&
           framebuffer_has_colour(framebuffer, framebuffer->red_bits, framebuffer->red_shift) &&
           framebuffer_has_colour(framebuffer, framebuffer->green_bits, framebuffer->green_shift) &&
           framebuffer_has_colour(framebuffer, framebuffer->blue_bits, framebuffer->blue_shift);
}
