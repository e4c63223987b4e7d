/* SPDX-License-Identifier: MIT */
/* The fonts that tools/mkfont.c made, against the packaged files they were made of, which are read
 * here once more with other code; UTF-8; the choice of a size.
 *
 * SCREEN_FONTS is the folder with the unpacked PSF files, SCREEN_UNIFONT Unifont's hex file. */
#include "picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/screen/utf8.h"

#ifndef SCREEN_FONTS
#error "SCREEN_FONTS is the folder of the unpacked fonts"
#endif

/* ---- Sources ---- */

static size_t read_source(const char *path, uint8_t *content, size_t capacity)
{
    FILE *file = fopen(path, "rb");
    size_t bytes;

    if (file == NULL)
        fail_msg("cannot read %s", path);
    bytes = fread(content, 1, capacity, file);
    fclose(file);
    assert_true(bytes > 0 && bytes < capacity);
    return bytes;
}

/* Spleen keeps ASCII at its own numbers, which holds for all its PSF files. */
static void read_spleen(const struct font *font, uint8_t *rows)
{
    static uint8_t file[1 << 20];
    char path[512];
    size_t glyph_bytes = (size_t)font->height * ((font->width + 7u) / 8u), header;

    snprintf(path, sizeof(path), "%s/spleen-%ux%u.psfu", SCREEN_FONTS, font->width, font->height);
    assert_true(read_source(path, file, sizeof(file)) > 32 + 128 * glyph_bytes);
    header = file[0] == 0x36 ? 4 : 32;
    memcpy(rows, file + header, 128 * glyph_bytes);
}

/* Row `y` of a glyph of Unifont; *width is 8 or 16. */
static unsigned unifont_row(uint32_t point, unsigned y, unsigned *width)
{
    static char *file;
    char key[16], digits[5] = "";
    const char *line;

    if (file == NULL) {
        file = calloc(1, 8 << 20);
        assert_non_null(file);
        (void)read_source(SCREEN_UNIFONT, (uint8_t *)file, 8 << 20);
    }
    snprintf(key, sizeof(key), "\n%04X:", point);
    line = strstr(file, key);
    assert_non_null(line);
    line += strlen(key);
    *width = strcspn(line, "\n") == 64 ? 16 : 8;
    memcpy(digits, line + y * *width / 4, *width / 4);
    return (unsigned)strtoul(digits, NULL, 16);
}

/* ---- Glyphs ---- */

static bool dot(const struct font *font, uint32_t point, unsigned x, unsigned y)
{
    font_glyph_t glyph = font_find(point);

    if (x >= font->width) {
        glyph |= FONT_RIGHT;
        x -= font->width;
    }
    return font_row(font, glyph, y) >> (31 - x) & 1;
}

static void font_letters_are_spleens(void **state)
{
    static uint8_t rows[128 * 256];

    (void)state;
    assert_int_equal(font_list_count, 4);
    for (size_t i = 0; i < font_list_count; i++) {
        const struct font *font = &font_list[i];
        unsigned row_bytes = (font->width + 7u) / 8u;

        read_spleen(font, rows);
        for (uint32_t point = 0x20; point < 0x7f; point++) {
            for (unsigned y = 0; y < font->height; y++) {
                for (unsigned x = 0; x < font->width; x++) {
                    size_t at = (point * font->height + y) * row_bytes + x / 8;

                    assert_int_equal(dot(font, point, x, y), rows[at] >> (7 - x % 8) & 1);
                }
            }
        }
    }
}

static void font_signs_of_16_dots_are_unifonts(void **state)
{
    static const uint32_t points[] = { 0x2713, 0x2714, 0x2717, 0x2718, 0x2728, 0x2192, 0x25ba };
    const struct font *font = &font_list[0];

    (void)state;
    assert_int_equal(font->height, 16);
    for (size_t i = 0; i < COUNT_OF(points); i++) {
        for (unsigned y = 0; y < 16; y++) {
            unsigned width, row = unifont_row(points[i], y, &width);

            assert_int_equal(width == 16, (font_find(points[i]) & FONT_WIDE) != 0);
            for (unsigned x = 0; x < width; x++)
                assert_int_equal(dot(font, points[i], x, y), row >> (width - 1 - x) & 1);
        }
    }
}

/* Enlarged, a dot is a square of which at most two corners have changed. */
static void font_enlarged_signs_keep_their_shape(void **state)
{
    static const uint32_t points[] = { 0x2713, 0x2717, 0x2728 };

    (void)state;
    for (size_t f = 2; f < 4; f++) {
        const struct font *font = &font_list[f];
        unsigned n = font->height / 16u;

        for (size_t i = 0; i < COUNT_OF(points); i++) {
            for (unsigned at = 0; at < 256; at++) {
                unsigned width, same = 0;
                bool source = unifont_row(points[i], at / 16, &width) >> (15 - at % 16) & 1;

                for (unsigned j = 0; j < n * n; j++)
                    same +=
                        dot(font, points[i], at % 16 * n + j % n, at / 16 * n + j / n) == source;
                assert_true(same * 2 >= n * n);
            }
        }
    }
}

/* Twice as large, a corner of a dot takes the colour of the two sides that meet there, if these
 * agree and the opposite ones differ from them: slanted lines have no steps. */
static void font_twice_as_large_signs_have_smooth_corners(void **state)
{
    const struct font *small = &font_list[0], *large = &font_list[2];
    unsigned rounded = 0;

    (void)state;
    assert_int_equal(large->height, 2 * small->height);
    for (unsigned y = 1; y < 31; y++) {
        for (unsigned x = 1; x < 31; x++) {
            unsigned side_x = x % 2 == 0 ? x / 2 - 1 : x / 2 + 1;
            unsigned side_y = y % 2 == 0 ? y / 2 - 1 : y / 2 + 1;
            bool self = dot(small, 0x2728, x / 2, y / 2), expected = self;
            bool beside, above;

            if (side_x > 15 || side_y > 15 || x / 2 == 0 || y / 2 == 0 || x / 2 == 15 ||
                y / 2 == 15)
                continue;
            beside = dot(small, 0x2728, side_x, y / 2);
            above = dot(small, 0x2728, x / 2, side_y);
            if (beside == above && beside != dot(small, 0x2728, 2 * (x / 2) - side_x, y / 2) &&
                above != dot(small, 0x2728, x / 2, 2 * (y / 2) - side_y))
                expected = beside;
            rounded += expected != self;
            assert_int_equal(dot(large, 0x2728, x, y), expected);
        }
    }
    assert_true(rounded > 8);
}

static void font_blocks_fill_their_part_of_the_cell(void **state)
{
    (void)state;
    for (size_t i = 0; i < font_list_count; i++) {
        const struct font *font = &font_list[i];

        for (unsigned y = 0; y < font->height; y++) {
            for (unsigned x = 0; x < font->width; x++) {
                assert_true(dot(font, 0x2588, x, y));
                assert_int_equal(dot(font, 0x2584, x, y), y >= font->height / 2u);
                assert_int_equal(dot(font, 0x2580, x, y), y < font->height / 2u);
                assert_int_equal(dot(font, 0x2596, x, y),
                                 y >= font->height / 2u && x < font->width / 2u);
                assert_int_equal(dot(font, 0x2597, x, y),
                                 y >= font->height / 2u && x >= font->width / 2u);
                assert_int_equal(dot(font, 0x259e, x, y),
                                 (y < font->height / 2u) != (x < font->width / 2u));
            }
        }
    }
}

static void font_box_lines_reach_the_cells_edges(void **state)
{
    (void)state;
    for (size_t i = 0; i < font_list_count; i++) {
        const struct font *font = &font_list[i];
        unsigned top = 0, left = 0;

        for (unsigned x = 0; x < font->width; x++)
            top += dot(font, 0x2502, x, 0) && dot(font, 0x2502, x, font->height - 1u);
        for (unsigned y = 0; y < font->height; y++)
            left += dot(font, 0x2500, 0, y) && dot(font, 0x2500, font->width - 1u, y);
        assert_true(top > 0 && left > 0);
    }
}

static void font_unknown_point_is_the_replacement(void **state)
{
    (void)state;
    assert_int_equal(font_find(0x4e00), font_find(0xfffd));
    assert_int_equal(font_find(0x10ffff), font_find(0xfffd));
    assert_int_equal(font_find(0x07), font_find(0xfffd));
    assert_int_not_equal(font_find(0xfffd), FONT_SPACE);
    assert_int_equal(font_find(' '), FONT_SPACE);
    for (size_t i = 1; i < font_narrow_count; i++)
        assert_true(font_narrow_points[i - 1] < font_narrow_points[i]);
    assert_true(font_narrow_count <= FONT_NUMBER + 1u);
    assert_int_equal(font_wide_count, 5);
}

/* ---- Sizes ---- */

static void font_face_suits_the_screen(void **state)
{
    static const struct {
        uint32_t width, height, columns, rows, cell_width;
    } cases[] = {
        { 640, 480, 96, 24, 8 },    { 800, 600, 96, 24, 8 },    { 1024, 768, 96, 24, 8 },
        { 1280, 800, 96, 24, 12 },  { 1366, 768, 96, 24, 12 },  { 1920, 1080, 96, 24, 16 },
        { 2560, 1440, 96, 24, 24 }, { 3840, 2160, 96, 24, 32 }, { 7680, 4320, 96, 24, 64 },
        { 1920, 400, 96, 24, 8 },   { 100, 100, 96, 24, 8 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct font_face face =
            font_face_for(cases[i].width, cases[i].height, cases[i].columns, cases[i].rows);

        assert_int_equal(face.width, cases[i].cell_width);
        assert_int_equal(face.width, face.font->width * face.scale);
        assert_int_equal(face.height, face.font->height * face.scale);
    }
    assert_int_equal(font_face_of_height(32).width, 16);
    assert_int_equal(font_face_of_height(64).scale, 1);
    assert_int_equal(font_face_of_height(128).width, 64);
}

/* ---- UTF-8 ---- */

static void expect_points(const char *bytes, size_t count, const uint32_t *points, size_t expected)
{
    struct utf8 utf8 = { .missing = 0 };
    size_t got = 0;

    for (size_t i = 0; i < count; i++) {
        enum utf8_step step;
        uint32_t point;

        do {
            step = utf8_feed(&utf8, (uint8_t)bytes[i], &point);
            if (step != UTF8_MORE) {
                assert_true(got < expected);
                assert_int_equal(point, points[got++]);
            }
        } while (step == UTF8_BROKEN);
    }
    assert_int_equal(got, expected);
}

#define EXPECT_POINTS(bytes, ...)                                                                  \
    do {                                                                                           \
        const uint32_t points_[] = { __VA_ARGS__ };                                                \
        expect_points((bytes), sizeof(bytes) - 1, points_, COUNT_OF(points_));                     \
    } while (0)

static void utf8_bad_sequences_become_replacements(void **state)
{
    (void)state;
    EXPECT_POINTS("a\x80z", 'a', 0xfffd, 'z');                         /* a lonely continuation */
    EXPECT_POINTS("\xc3(", 0xfffd, '(');                               /* broken off */
    EXPECT_POINTS("\xe2\x9c!", 0xfffd, '!');                           /* broken off after two */
    EXPECT_POINTS("\xe2\x9c\xe2\x9c\x93", 0xfffd, 0x2713);             /* broken off by another */
    EXPECT_POINTS("\xc0\xaf", 0xfffd, 0xfffd);                         /* overlong */
    EXPECT_POINTS("\xe0\x80\xaf", 0xfffd, 0xfffd, 0xfffd);             /* overlong */
    EXPECT_POINTS("\xed\xa0\x80", 0xfffd, 0xfffd, 0xfffd);             /* surrogate */
    EXPECT_POINTS("\xf4\x90\x80\x80", 0xfffd, 0xfffd, 0xfffd, 0xfffd); /* above 10FFFF */
    EXPECT_POINTS("\xf5\xff", 0xfffd, 0xfffd);
    EXPECT_POINTS("\xef\xbf\xbd.", 0xfffd, '.'); /* U+FFFD itself */
    EXPECT_POINTS("\xf0\x9f\x98\x80.", 0x1f600, '.');
}

static size_t encode(uint32_t point, char *out)
{
    unsigned more = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = { 0x00, 0xc0, 0xe0, 0xf0 };

    out[0] = (char)(lead[more] | point >> (6 * more));
    for (unsigned i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (point >> (6 * (more - i)) & 0x3f));
    out[more + 1] = '\0';
    return more + 1;
}

static void utf8_every_character_is_read(void **state)
{
    (void)state;
    for (uint32_t point = 1; point <= 0x10ffff; point++) {
        char text[8];
        const char *at = text;

        if (point >= 0xd800 && point <= 0xdfff)
            continue;
        size_t bytes = encode(point, text);
        assert_int_equal(utf8_next(&at), point);
        assert_ptr_equal(at, text + bytes);
        assert_int_equal(utf8_next(&at), 0);
        /* Cut off: one replacement, and not a byte behind the end is read. */
        text[bytes - 1] = '\0';
        at = text;
        assert_int_equal(utf8_next(&at), bytes > 1 ? 0xfffd : 0);
        assert_ptr_equal(at, text + bytes - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(font_letters_are_spleens),
        cmocka_unit_test(font_signs_of_16_dots_are_unifonts),
        cmocka_unit_test(font_enlarged_signs_keep_their_shape),
        cmocka_unit_test(font_twice_as_large_signs_have_smooth_corners),
        cmocka_unit_test(font_blocks_fill_their_part_of_the_cell),
        cmocka_unit_test(font_box_lines_reach_the_cells_edges),
        cmocka_unit_test(font_unknown_point_is_the_replacement),
        cmocka_unit_test(font_face_suits_the_screen),
        cmocka_unit_test(utf8_bad_sequences_become_replacements),
        cmocka_unit_test(utf8_every_character_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
