/* SPDX-License-Identifier: MIT */
/* What a boot loader says about the screen: plain C, no boot protocol in it. */
#ifndef KERNEL_SCREEN_FRAMEBUFFER_H
#define KERNEL_SCREEN_FRAMEBUFFER_H

#include <stdbool.h>
#include <stdint.h>

struct boot_framebuffer {
    void *base; /* mapped; NULL: there is no screen */
    uint64_t width, height;
    uint64_t pitch; /* bytes from one line to the next */
    uint16_t bits_per_pixel;
    bool is_rgb; /* a pixel holds its colour; else an index, or it is a text mode */
    uint8_t red_bits, red_shift, green_bits, green_shift, blue_bits, blue_shift;
};

#endif
