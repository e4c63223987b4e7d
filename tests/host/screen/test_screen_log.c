/* SPDX-License-Identifier: MIT */
/* Pixels and the scrolling log: every layout of pixels, sizes from 640 x 480 to 4K, clipping,
 * wrapping, scrolling, colours, escape sequences. Each picture ends with its last pixel, so that a
 * stray write is seen by ASan, and bytes between lines are compared. */
#include "picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/screen/palette.h"
#include "kernel/screen/terminal.h"

static const struct {
    uint32_t width, height;
} sizes[] = { { 640, 480 }, { 1024, 768 }, { 1920, 1080 }, { 3840, 2160 }, { 1366, 768 } };

static struct terminal terminal;

/* ---- Surface ---- */

static void surface_fill_matches_a_model(void **state)
{
    static uint32_t model[60][70];

    (void)state;
    for (size_t i = 0; i < layout_count; i++) {
        struct picture picture = picture_create(&layouts[i], 70, 60);

        surface_fill(&picture.surface, 0, 0, 70, 60, 0x123456);
        for (size_t y = 0; y < 60; y++)
            for (size_t x = 0; x < 70; x++)
                model[y][x] = 0x123456;
        for (int round = 0; round < 200; round++) {
            uint32_t x = picture_random(90), y = picture_random(80);
            uint32_t width = picture_random(100), height = picture_random(100);
            uint32_t rgb = picture_random(0x1000000);

            if (round == 7)
                width = height = UINT32_MAX;
            surface_fill(&picture.surface, x, y, width, height, rgb);
            for (uint32_t v = y; v < 60 && v - y < height; v++)
                for (uint32_t u = x; u < 70 && u - x < width; u++)
                    model[v][u] = rgb;
        }
        for (uint32_t y = 0; y < 60; y++)
            for (uint32_t x = 0; x < 70; x++)
                assert_true(picture_shows(&picture, x, y, model[y][x]));
        picture_destroy(&picture);
    }
}

static void surface_text_is_clipped_at_every_edge(void **state)
{
    struct font_face faces[] = { font_face_of_height(16), font_face_of_height(24),
                                 font_face_of_height(64), font_face_of_height(128) };

    (void)state;
    for (size_t i = 0; i < layout_count; i++) {
        for (size_t f = 0; f < COUNT_OF(faces); f++) {
            struct picture picture = picture_create(&layouts[i], 131, 133);

            surface_fill(&picture.surface, 0, 0, 131, 133, 0);
            for (uint32_t at = 0; at < 150; at += 13)
                (void)text_draw(&picture.surface, &faces[f], at, at, UINT32_MAX, "Wg✨", 0xffffff,
                                0x000040);
            (void)text_draw(&picture.surface, &faces[f], 0, 0, UINT32_MAX, "M", 0xffffff, 0x40);
            assert_true(picture_has_glyph(&picture, &faces[f], 0, 0, 'M', 0xffffff, 0x40));
            picture_destroy(&picture);
        }
    }
}

static void surface_text_stops_at_its_limit(void **state)
{
    struct font_face face = font_face_of_height(16);
    struct picture picture = picture_create(&layouts[1], 100, 16);

    (void)state;
    surface_fill(&picture.surface, 0, 0, 100, 16, 0);
    assert_int_equal(text_draw(&picture.surface, &face, 0, 0, 39, "abcdef", 0xffffff, 1), 32);
    assert_true(picture_has_glyph(&picture, &face, 24, 0, 'd', 0xffffff, 1));
    assert_true(picture_shows(&picture, 32, 0, 0));
    assert_int_equal(text_draw(&picture.surface, &face, 0, 0, 15, "✨", 0xffffff, 1), 0);
    assert_int_equal(text_cells("a✨ü"), 4);
    picture_destroy(&picture);
}

static const char *check(unsigned bits, uint64_t pitch, struct surface_channel red)
{
    struct surface surface = {
        .width = 100, .height = 100, .pitch = pitch, .red = red, .green = { 8, 8 }, .blue = { 8, 0 }
    };

    return surface_check(&surface, bits);
}

static void surface_that_cannot_be_is_refused(void **state)
{
    const struct surface_channel usual = { 8, 16 };

    (void)state;
    assert_null(check(32, 400, usual));
    assert_null(check(24, 300, usual));
    assert_non_null(strstr(check(8, 400, usual), "depth"));
    assert_non_null(strstr(check(48, 4000, usual), "depth"));
    assert_non_null(strstr(check(0, 400, usual), "depth"));
    assert_non_null(strstr(check(32, 399, usual), "pitch"));
    assert_non_null(strstr(check(24, 299, usual), "pitch"));
    assert_non_null(strstr(check(24, 300, (struct surface_channel){ 8, 17 }), "masks"));
    assert_non_null(strstr(check(32, 400, (struct surface_channel){ 0, 16 }), "masks"));
    assert_non_null(strstr(check(32, 400, (struct surface_channel){ 17, 0 }), "masks"));
    assert_non_null(strstr(check(32, 400, (struct surface_channel){ 8, 255 }), "masks"));
    assert_non_null(strstr(check(16, 400, usual), "masks"));
}

/* ---- The log ---- */

static void write_text(const char *text)
{
    terminal_write(&terminal, text, strlen(text));
}

static uint32_t cell_x(uint32_t column)
{
    return terminal.left + column * terminal.face.width;
}

static uint32_t cell_y(uint32_t row)
{
    return terminal.top + row * terminal.face.height;
}

static bool shows(const struct picture *picture, uint32_t column, uint32_t row, uint32_t point,
                  uint32_t rgb)
{
    return picture_has_glyph(picture, &terminal.face, cell_x(column), cell_y(row), point, rgb,
                             PALETTE_GROUND);
}

/* Draws all that the cells hold into a fresh picture and compares. */
static void expect_pixels_match_cells(const struct picture *picture, const struct layout *layout)
{
    static struct terminal copy;
    struct picture fresh = picture_create(layout, picture->surface.width, picture->surface.height);

    copy = terminal;
    copy.surface = fresh.surface;
    terminal_redraw(&copy);
    picture_expect_equal(picture, &fresh);
    picture_destroy(&fresh);
}

static void terminal_draws_at_every_size_and_layout(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t i = 0; i < layout_count; i++) {
            struct picture picture = picture_create(&layouts[i], sizes[s].width, sizes[s].height);

            assert_true(terminal_init(&terminal, &picture.surface));
            assert_true(terminal.columns >= 78 && terminal.columns < 160 && terminal.rows >= 24);
            for (uint32_t y = 0; y < sizes[s].height; y += 11)
                assert_int_equal(picture_count(&picture, y, PALETTE_GROUND), sizes[s].width);
            write_text("Box ─ and ✨\n[MM] ✓ yes\n");
            assert_true(shows(&picture, 0, 0, 'B', PALETTE_TEXT));
            assert_true(shows(&picture, 4, 0, 0x2500, PALETTE_TEXT));
            assert_true(shows(&picture, 10, 0, 0x2728, PALETTE_SPARK));
            assert_true(shows(&picture, 1, 1, 'M', PALETTE_TAG));
            assert_true(shows(&picture, 5, 1, 0x2713, PALETTE_GOOD));
            assert_true(shows(&picture, 8, 1, 'y', PALETTE_MEMORY_LINE));
            picture_destroy(&picture);
        }
    }
}

static void terminal_scrolls_and_keeps_the_last_lines(void **state)
{
    static const size_t used[] = { 0, 5 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(used); i++) {
        const struct layout *layout = &layouts[used[i]];
        struct picture picture = picture_create(layout, 640, 480);
        char line[64];

        assert_true(terminal_init(&terminal, &picture.surface));
        for (unsigned n = 0; n < 500; n++) {
            uint32_t last;

            snprintf(line, sizeof(line), "%c line %u %.*s\n", 'A' + n % 26, n, (int)(n % 40),
                     "----------------------------------------");
            write_text(line);
            assert_true(terminal.next_row > 0 && terminal.next_row <= terminal.rows);
            last = terminal.next_row - 1;
            assert_true(shows(&picture, 0, last, 'A' + n % 26, PALETTE_TEXT));
            /* What came before stands above, three quarters of the screen at least. */
            for (uint32_t back = 1; back <= last; back++)
                assert_true(shows(&picture, 0, last - back, 'A' + (n - back) % 26, PALETTE_TEXT));
            if (n >= terminal.rows)
                assert_true(last + 1 >= terminal.rows * 3 / 4);
        }
        expect_pixels_match_cells(&picture, layout);
        picture_destroy(&picture);
    }
}

static void terminal_wraps_long_lines(void **state)
{
    struct picture picture = picture_create(&layouts[0], 640, 480);
    char line[3000];

    (void)state;
    assert_true(terminal_init(&terminal, &picture.surface));
    memset(line, 'x', sizeof(line));
    line[terminal.columns] = 'y'; /* the first of the second row */
    terminal_write(&terminal, line, terminal.columns + 3);
    write_text("\nnext\n");
    assert_true(shows(&picture, terminal.columns - 1, 0, 'x', PALETTE_TEXT));
    assert_true(shows(&picture, 5, 1, 'y', PALETTE_TEXT));
    assert_true(shows(&picture, 7, 1, 'x', PALETTE_TEXT));
    assert_true(shows(&picture, 8, 1, ' ', PALETTE_TEXT));
    assert_true(shows(&picture, 0, 2, 'n', PALETTE_TEXT));
    /* A wide character that does not fit whole goes to the next row. */
    line[terminal.columns - 1] = '\0';
    write_text(line);
    write_text("✨\n");
    assert_true(shows(&picture, terminal.columns - 1, 3, ' ', PALETTE_TEXT));
    assert_true(shows(&picture, 5, 4, 0x2728, PALETTE_SPARK));
    /* Longer than any line may be: nothing is lost, nothing overflows. */
    line[terminal.columns - 1] = 'x';
    terminal_write(&terminal, line, sizeof(line));
    write_text("\n");
    expect_pixels_match_cells(&picture, &layouts[0]);
    picture_destroy(&picture);
}

static void terminal_colours_lines_by_what_they_say(void **state)
{
    struct picture picture = picture_create(&layouts[0], 1024, 768);

    (void)state;
    assert_true(terminal_init(&terminal, &picture.surface));
    write_text("[MM] ERROR: no\n[MM] ✗ heap: no\nPANIC: no\nWARNING: hm\n"
               "[MM] ========== Memory Tests ==========\n[MM] All tests passed! ✨\nplain\n"
               "\033[31m[MM] x\033[0m\n");
    assert_true(shows(&picture, 1, 0, 'M', PALETTE_BAD));
    assert_true(shows(&picture, 12, 0, 'n', PALETTE_BAD));
    assert_true(shows(&picture, 5, 1, 0x2717, PALETTE_BAD));
    assert_true(shows(&picture, 0, 2, 'P', PALETTE_BAD));
    assert_true(shows(&picture, 0, 3, 'W', PALETTE_WARNING));
    assert_true(shows(&picture, 16, 4, 'M', PALETTE_ACCENT));
    assert_true(shows(&picture, 5, 5, 'A', PALETTE_GOOD));
    assert_true(shows(&picture, 23, 5, 0x2728, PALETTE_SPARK));
    assert_true(shows(&picture, 0, 6, 'p', PALETTE_TEXT));
    assert_true(shows(&picture, 0, 7, '[', PALETTE_TAG));
    assert_true(shows(&picture, 5, 7, 'x', PALETTE_MEMORY_LINE));
    assert_true(shows(&picture, 6, 7, ' ', PALETTE_TEXT));
    picture_destroy(&picture);
}

static void terminal_bad_input_is_shown_or_left_out(void **state)
{
    struct picture picture = picture_create(&layouts[0], 1024, 768);

    (void)state;
    assert_true(terminal_init(&terminal, &picture.surface));
    write_text("a\xffz\xe2\x9c!\n\033[1;31mred\033[0m \033Mb\033[\nc\n\x01\x7f\r.\n\ta\n文\n");
    assert_true(shows(&picture, 1, 0, 0xfffd, PALETTE_TEXT));
    assert_true(shows(&picture, 2, 0, 'z', PALETTE_TEXT));
    assert_true(shows(&picture, 3, 0, 0xfffd, PALETTE_TEXT));
    assert_true(shows(&picture, 4, 0, '!', PALETTE_TEXT));
    assert_true(shows(&picture, 0, 1, 'r', PALETTE_TEXT));
    assert_true(shows(&picture, 4, 1, 'M', PALETTE_TEXT)); /* not a control sequence */
    assert_true(shows(&picture, 0, 2, 'c', PALETTE_TEXT)); /* a sequence broken by its line's end */
    assert_true(shows(&picture, 0, 3, '.', PALETTE_TEXT));
    assert_true(shows(&picture, 8, 4, 'a', PALETTE_TEXT));
    assert_true(shows(&picture, 0, 5, 0xfffd, PALETTE_TEXT));
    picture_destroy(&picture);
}

static void terminal_random_bytes_never_leave_the_picture(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        const struct layout *layout = &layouts[picture_random((uint32_t)layout_count)];
        struct picture picture =
            picture_create(layout, 168 + picture_random(700), 80 + picture_random(500));
        char bytes[256];

        assert_true(terminal_init(&terminal, &picture.surface));
        for (unsigned n = 0; n < 100; n++) {
            for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (char)(picture_random(6) == 0 ? '\n' : (int)picture_random(256));
            terminal_write(&terminal, bytes, sizeof(bytes));
        }
        expect_pixels_match_cells(&picture, layout);
        picture_destroy(&picture);
    }
}

static void terminal_unusual_sizes(void **state)
{
    static const struct {
        uint32_t width, height;
        bool fits;
    } cases[] = { { 1, 1, false },    { 167, 480, false },  { 640, 79, false },  { 168, 80, true },
                  { 320, 200, true }, { 20000, 100, true }, { 200, 6000, true }, { 0, 0, false } };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t height = cases[i].height == 0 ? 1 : cases[i].height;
        uint32_t width = cases[i].width == 0 ? 1 : cases[i].width;
        struct picture picture = picture_create(&layouts[0], width, height);

        picture.surface.width = cases[i].width;
        picture.surface.height = cases[i].height;
        assert_int_equal(terminal_init(&terminal, &picture.surface), cases[i].fits);
        for (unsigned n = 0; cases[i].fits && n < 300; n++)
            write_text("a line that is long enough to be wrapped on a narrow screen ✓\n");
        picture.surface.width = width;
        picture_destroy(&picture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(surface_fill_matches_a_model),
        cmocka_unit_test(surface_text_is_clipped_at_every_edge),
        cmocka_unit_test(surface_text_stops_at_its_limit),
        cmocka_unit_test(surface_that_cannot_be_is_refused),
        cmocka_unit_test(terminal_draws_at_every_size_and_layout),
        cmocka_unit_test(terminal_scrolls_and_keeps_the_last_lines),
        cmocka_unit_test(terminal_wraps_long_lines),
        cmocka_unit_test(terminal_colours_lines_by_what_they_say),
        cmocka_unit_test(terminal_bad_input_is_shown_or_left_out),
        cmocka_unit_test(terminal_random_bytes_never_leave_the_picture),
        cmocka_unit_test(terminal_unusual_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
