/* SPDX-License-Identifier: MIT */
/* Pictures for the screen's tests; see picture.h. Reading back shares no code with drawing: a pixel
 * is put together byte by byte, and colours are compared in the precision of each channel. */
#include "picture.h"

#include <stdlib.h>
#include <string.h>

#define PICTURE_PATTERN 0xa5

const struct layout layouts[] = {
    { "32 bits", 32, { 8, 16 }, { 8, 8 }, { 8, 0 }, 0 },
    { "32 bits, odd pitch", 32, { 8, 16 }, { 8, 8 }, { 8, 0 }, 7 },
    { "32 bits, blue first", 32, { 8, 0 }, { 8, 8 }, { 8, 16 }, 64 },
    { "32 bits, red on top", 32, { 8, 24 }, { 8, 16 }, { 8, 8 }, 3 },
    { "32 bits, ten a colour", 32, { 10, 20 }, { 10, 10 }, { 10, 0 }, 0 },
    { "24 bits", 24, { 8, 16 }, { 8, 8 }, { 8, 0 }, 0 },
    { "24 bits, blue first, odd pitch", 24, { 8, 0 }, { 8, 8 }, { 8, 16 }, 5 },
    { "16 bits", 16, { 5, 11 }, { 6, 5 }, { 5, 0 }, 1 },
    { "15 bits", 15, { 5, 10 }, { 5, 5 }, { 5, 0 }, 2 },
};
const size_t layout_count = COUNT_OF(layouts);

struct picture picture_create(const struct layout *layout, uint32_t width, uint32_t height)
{
    struct picture picture = { .surface = { .width = width,
                                            .height = height,
                                            .red = layout->red,
                                            .green = layout->green,
                                            .blue = layout->blue } };
    uint32_t pixel_bytes = (layout->bits_per_pixel + 7) / 8;

    picture.surface.pitch = (uint64_t)width * pixel_bytes + layout->pitch_extra;
    assert_null(surface_check(&picture.surface, layout->bits_per_pixel));
    assert_int_equal(picture.surface.pixel_bytes, pixel_bytes);
    /* Nothing stands behind the last line's last pixel. */
    picture.bytes = (size_t)(picture.surface.pitch * height - layout->pitch_extra);
    picture.memory = malloc(picture.bytes);
    assert_non_null(picture.memory);
    memset(picture.memory, PICTURE_PATTERN, picture.bytes);
    picture.surface.base = picture.memory;
    return picture;
}

void picture_destroy(struct picture *picture)
{
    const struct surface *surface = &picture->surface;
    size_t line_bytes = (size_t)surface->width * surface->pixel_bytes;

    for (size_t at = 0; at < picture->bytes; at += surface->pitch) {
        for (size_t i = line_bytes; i < surface->pitch && at + i < picture->bytes; i++)
            assert_int_equal(picture->memory[at + i], PICTURE_PATTERN);
    }
    free(picture->memory);
}

uint32_t picture_raw(const struct picture *picture, uint32_t x, uint32_t y)
{
    const struct surface *surface = &picture->surface;
    const uint8_t *at = picture->memory + y * surface->pitch + x * surface->pixel_bytes;
    uint32_t raw = 0;

    for (unsigned i = 0; i < surface->pixel_bytes; i++)
        raw |= (uint32_t)at[i] << (8 * i);
    return raw;
}

/* The brightest value stands for 255, and so on in proportion, cut. */
static uint32_t expected_channel(struct surface_channel channel, uint32_t value)
{
    uint32_t most = (1u << channel.bits) - 1;

    return channel.bits <= 8 ? value >> (8 - channel.bits) : value * most / 255;
}

static bool channel_shows(struct surface_channel channel, uint32_t raw, uint32_t value)
{
    uint32_t most = (1u << channel.bits) - 1;
    uint32_t got = raw >> channel.shift & most;
    uint32_t expected = expected_channel(channel, value);

    return got == expected || (channel.bits > 8 && (got == expected + 1 || got + 1 == expected));
}

bool picture_shows(const struct picture *picture, uint32_t x, uint32_t y, uint32_t rgb)
{
    const struct surface *surface = &picture->surface;
    uint32_t raw = picture_raw(picture, x, y);

    return channel_shows(surface->red, raw, rgb >> 16 & 0xff) &&
           channel_shows(surface->green, raw, rgb >> 8 & 0xff) &&
           channel_shows(surface->blue, raw, rgb & 0xff);
}

bool picture_has_glyph(const struct picture *picture, const struct font_face *face, uint32_t x,
                       uint32_t y, uint32_t point, uint32_t rgb, uint32_t ground)
{
    font_glyph_t glyph = font_find(point);
    uint32_t width = face->width * ((glyph & FONT_WIDE) != 0 ? 2 : 1);

    if (x + width > picture->surface.width || y + face->height > picture->surface.height)
        return false;
    for (uint32_t row = 0; row < face->height; row++) {
        for (uint32_t column = 0; column < width; column++) {
            bool right = column >= face->width;
            uint32_t dots =
                font_row(face->font, right ? glyph | FONT_RIGHT : glyph, row / face->scale);
            bool set = dots >> (31 - column % face->width / face->scale) & 1;

            if (!picture_shows(picture, x + column, y + row, set ? rgb : ground))
                return false;
        }
    }
    return true;
}

uint32_t picture_count(const struct picture *picture, uint32_t y, uint32_t rgb)
{
    uint32_t count = 0;

    for (uint32_t x = 0; x < picture->surface.width; x++)
        count += picture_shows(picture, x, y, rgb) ? 1 : 0;
    return count;
}

void picture_expect_equal(const struct picture *a, const struct picture *b)
{
    assert_int_equal(a->bytes, b->bytes);
    for (uint32_t y = 0; y < a->surface.height; y++) {
        for (uint32_t x = 0; x < a->surface.width; x++) {
            if (picture_raw(a, x, y) != picture_raw(b, x, y))
                fail_msg("the pictures differ at (%u, %u): 0x%x and 0x%x", x, y,
                         picture_raw(a, x, y), picture_raw(b, x, y));
        }
    }
}

uint32_t picture_random(uint32_t below)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}
