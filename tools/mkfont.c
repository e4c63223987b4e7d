/* SPDX-License-Identifier: MIT */
/* Makes the kernel's fonts out of packaged ones: mkfont OUTPUT.c UNIFONT.hex SPLEEN.psfu...
 *
 *   Spleen, one PSF file for each cell size  --clean Latin, boxes-->  narrow glyphs, one cell each
 *   Unifont, 16 dots high                    --what Spleen lacks--->  narrow, and wide: two cells
 *   geometry                                 --block elements------>  narrow
 *
 * The output is C for <kernel/screen/font.h>: the two sorted lists of code points, and for each
 * font its glyphs, rows of whole bytes with the leftmost dot in the highest bit. Unifont's dots are
 * enlarged so that they fill the cell. Invariants: every listed code point has a glyph in every
 * font; a file that cannot be read, or that is not what it should be, is one message and status 1.
 * */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FONTS_MAX      8
#define POINTS_MAX     512 /* font.h: nine bits of a glyph number */
#define HEIGHT_MAX     64
#define WIDTH_MAX      64 /* of a wide glyph */
#define UNIFONT_HEIGHT 16
#define ENLARGE_MAX    (4 * WIDTH_MAX)

/* What the kernel writes, and what a reader of other people's log lines meets: plain and Latin-1
 * text, punctuation, arrows, frames and bars. Everything else is shown as U+FFFD. */
static const struct {
    uint16_t first, last;
} mkfont_narrow[] = {
    { 0x0020, 0x007e }, /* ASCII */
    { 0x00a0, 0x00ff }, /* Latin-1, with the micro sign and the middle dot */
    { 0x2013, 0x2014 }, /* dashes */
    { 0x2018, 0x2019 }, /* single quotes */
    { 0x201c, 0x201d }, /* double quotes */
    { 0x2022, 0x2022 }, /* bullet */
    { 0x2026, 0x2026 }, /* ellipsis */
    { 0x2190, 0x2195 }, /* arrows */
    { 0x221e, 0x221e }, /* infinity */
    { 0x2248, 0x2248 }, /* almost equal */
    { 0x2264, 0x2265 }, /* less or equal, greater or equal */
    { 0x2500, 0x257f }, /* box drawing */
    { 0x2580, 0x259f }, /* block elements */
    { 0x25a0, 0x25a0 }, /* black square */
    { 0x25b2, 0x25b2 }, /* triangles */
    { 0x25ba, 0x25ba }, { 0x25bc, 0x25bc }, { 0x25c4, 0x25c4 }, { 0x25cb, 0x25cb }, /* circles */
    { 0x25cf, 0x25cf }, { 0xfffd, 0xfffd }, /* stands for what has no glyph */
};

/* Check marks, crosses, sparkles. Spleen has the crosses too, in one cell, but not the marks: all
 * of them come from one hand, so that they stand in line below each other. */
static const uint16_t mkfont_wide[] = { 0x2713, 0x2714, 0x2717, 0x2718, 0x2728 };

#define WIDE_COUNT (sizeof(mkfont_wide) / sizeof(mkfont_wide[0]))

struct bitmap {
    unsigned width, height;
    uint8_t dot[ENLARGE_MAX][ENLARGE_MAX]; /* [y][x]: 0 or 1 */
};

struct psf {
    unsigned width, height;
    const uint8_t *glyphs;
    size_t glyph_bytes;
    size_t count;
    int32_t index[0x10000]; /* of each code point's glyph; -1: none */
};

static char *mkfont_output; /* removed where making it fails */

static _Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list arguments;

    fputs("mkfont: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    if (mkfont_output != NULL)
        remove(mkfont_output);
    exit(1);
}

static uint8_t *read_whole_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    size_t capacity = (size_t)1 << 16;
    uint8_t *content = NULL;

    if (file == NULL)
        fail("%s: %s", path, strerror(errno));
    *bytes = 0;
    do {
        capacity *= 2;
        content = realloc(content, capacity + 1);
        if (content == NULL)
            fail("%s: out of memory", path);
        *bytes += fread(content + *bytes, 1, capacity - *bytes, file);
    } while (*bytes == capacity);
    if (ferror(file))
        fail("%s: %s", path, strerror(errno));
    fclose(file);
    content[*bytes] = '\0';
    return content;
}

/* ---- PSF: the Linux console's font format, versions 1 and 2 (kbd, psf.h) ---- */

static void psf_add(struct psf *psf, uint32_t point, size_t glyph)
{
    if (point < 0x10000 && psf->index[point] < 0)
        psf->index[point] = (int32_t)glyph;
}

/* Version 1: for each glyph, 16-bit code points up to 0xffff; behind 0xfffe stand sequences. */
static void psf1_read_table(struct psf *psf, const uint8_t *at, const uint8_t *end)
{
    bool sequence = false;

    for (size_t glyph = 0; glyph < psf->count && end - at >= 2; at += 2) {
        uint32_t point = (uint32_t)at[0] | (uint32_t)at[1] << 8;

        if (point == 0xffff) {
            glyph++;
            sequence = false;
        } else if (point == 0xfffe) {
            sequence = true;
        } else if (!sequence) {
            psf_add(psf, point, glyph);
        }
    }
}

/* One well-formed UTF-8 character; bytes that are none are skipped as code point 0. */
static uint32_t utf8_read(const uint8_t **at, const uint8_t *end)
{
    uint32_t first = *(*at)++;
    unsigned more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0 ? 1 : 0;
    uint32_t point = more == 0 ? first : first & (0x3fu >> more);

    if (more == 0 && first >= 0x80)
        return 0;
    for (; more > 0 && *at < end && (**at & 0xc0) == 0x80; more--)
        point = point << 6 | (*(*at)++ & 0x3fu);
    return more == 0 ? point : 0;
}

/* Version 2: for each glyph, UTF-8 up to 0xff; behind 0xfe stand sequences. */
static void psf2_read_table(struct psf *psf, const uint8_t *at, const uint8_t *end)
{
    bool sequence = false;

    for (size_t glyph = 0; glyph < psf->count && at < end;) {
        if (*at == 0xff) {
            glyph++;
            at++;
            sequence = false;
        } else if (*at == 0xfe) {
            at++;
            sequence = true;
        } else {
            uint32_t point = utf8_read(&at, end);

            if (!sequence && point != 0)
                psf_add(psf, point, glyph);
        }
    }
}

static uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void psf_check(const struct psf *psf, const char *path, size_t table, size_t bytes)
{
    if (psf->width < 8 || psf->width > WIDTH_MAX / 2 || psf->height < 8 ||
        psf->height > HEIGHT_MAX || psf->height != 2 * psf->width || psf->width % 4 != 0)
        fail("%s: glyphs of %u x %u dots; twice as high as wide is wanted, up to 32 x 64", path,
             psf->width, psf->height);
    if (psf->glyph_bytes != (size_t)psf->height * ((psf->width + 7) / 8) || table > bytes)
        fail("%s: the file is damaged or cut off", path);
}

static struct psf *psf_read(const char *path)
{
    struct psf *psf = malloc(sizeof(*psf));
    size_t bytes, header;
    const uint8_t *file = read_whole_file(path, &bytes);

    if (psf == NULL)
        fail("out of memory");
    memset(psf->index, 0xff, sizeof(psf->index));
    if (bytes >= 4 && file[0] == 0x36 && file[1] == 0x04) {
        header = 4;
        psf->width = 8;
        psf->height = file[3];
        psf->glyph_bytes = file[3];
        psf->count = (file[2] & 1) != 0 ? 512 : 256;
    } else if (bytes >= 32 && read_u32(file) == 0x864ab572) {
        header = read_u32(file + 8);
        psf->count = read_u32(file + 16);
        psf->glyph_bytes = read_u32(file + 20);
        psf->height = read_u32(file + 24);
        psf->width = read_u32(file + 28);
    } else {
        fail("%s: not a PSF font", path);
    }
    psf->glyphs = file + header;
    psf_check(psf, path, header + psf->count * psf->glyph_bytes, bytes);
    if (header == 4)
        psf1_read_table(psf, psf->glyphs + psf->count * psf->glyph_bytes, file + bytes);
    else
        psf2_read_table(psf, psf->glyphs + psf->count * psf->glyph_bytes, file + bytes);
    return psf;
}

static void psf_draw(const struct psf *psf, size_t glyph, struct bitmap *out)
{
    unsigned row_bytes = (psf->width + 7) / 8;
    const uint8_t *rows = psf->glyphs + glyph * psf->glyph_bytes;

    out->width = psf->width;
    out->height = psf->height;
    for (unsigned y = 0; y < psf->height; y++) {
        for (unsigned x = 0; x < psf->width; x++)
            out->dot[y][x] = rows[y * row_bytes + x / 8] >> (7 - x % 8) & 1;
    }
}

/* ---- Unifont: lines "2728:0000040004..." of 32 or 64 digits ---- */

static unsigned hex_digit(const char *path, char digit)
{
    if (digit >= '0' && digit <= '9')
        return (unsigned)(digit - '0');
    if (digit >= 'A' && digit <= 'F')
        return (unsigned)(digit - 'A' + 10);
    fail("%s: '%c' where a digit should be", path, digit);
}

static void unifont_draw(const char *path, const char *file, uint32_t point, struct bitmap *out)
{
    char key[8];
    const char *line = file;
    size_t digits;

    snprintf(key, sizeof(key), "%04X:", point);
    while (line != NULL && strncmp(line, key, 5) != 0) {
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    if (line == NULL)
        fail("%s: no glyph for U+%04X", path, point);
    digits = strcspn(line + 5, "\r\n");
    if (digits != 32 && digits != 64)
        fail("%s: %zu digits for U+%04X, 32 or 64 are wanted", path, digits, point);
    out->height = UNIFONT_HEIGHT;
    out->width = (unsigned)digits / 4;
    for (unsigned i = 0; i < digits * 4; i++)
        out->dot[i / out->width][i % out->width] =
            hex_digit(path, line[5 + i / 4]) >> (3 - i % 4) & 1;
}

/* ---- Enlarging ---- */

static unsigned dot_at(const struct bitmap *map, int x, int y)
{
    if (x < 0 || y < 0 || x >= (int)map->width || y >= (int)map->height)
        return 0;
    return map->dot[y][x];
}

/* Each dot becomes n x n of them, n = 2 or 3. Where two sides of a dot agree against the two
 * others, the corner between them takes their colour: slanted lines stay lines and do not become
 * stairs. (The rule known as EPX or Scale2x; here the corners are rounded in the same way for n =
 * 3.) */
static void enlarge(struct bitmap *map, unsigned n)
{
    static struct bitmap from;

    from = *map;
    map->width = from.width * n;
    map->height = from.height * n;
    for (int y = 0; y < (int)map->height; y++) {
        for (int x = 0; x < (int)map->width; x++) {
            int sx = x / (int)n, sy = y / (int)n;
            int rx = x % (int)n, ry = y % (int)n;
            unsigned up = dot_at(&from, sx, sy - 1), down = dot_at(&from, sx, sy + 1);
            unsigned left = dot_at(&from, sx - 1, sy), right = dot_at(&from, sx + 1, sy);
            bool corner = (rx == 0 || rx == (int)n - 1) && (ry == 0 || ry == (int)n - 1);
            unsigned beside = rx == 0 ? left : right, across = rx == 0 ? right : left;
            unsigned above = ry == 0 ? up : down, below = ry == 0 ? down : up;

            map->dot[y][x] = corner && beside == above && beside != across && above != below
                                 ? (uint8_t)beside
                                 : from.dot[sy][sx];
        }
    }
}

/* Two by two dots become one, which is set where at least two of them were. */
static void halve(struct bitmap *map)
{
    map->width /= 2;
    map->height /= 2;
    for (unsigned y = 0; y < map->height; y++) {
        for (unsigned x = 0; x < map->width; x++)
            map->dot[y][x] = map->dot[2 * y][2 * x] + map->dot[2 * y][2 * x + 1] +
                                 map->dot[2 * y + 1][2 * x] + map->dot[2 * y + 1][2 * x + 1] >=
                             2;
    }
}

static void enlarge_to(const char *path, struct bitmap *map, unsigned height)
{
    if (height % UNIFONT_HEIGHT != 0) { /* 24: three for two */
        enlarge(map, 3);
        halve(map);
    }
    while (map->height < height)
        enlarge(map, 2);
    if (map->height != height)
        fail("%s: 16 dots cannot be enlarged to %u", path, height);
}

/* ---- Block elements: drawn, so that they meet without a seam at every size ---- */

static void fill(struct bitmap *out, unsigned x0, unsigned y0, unsigned x1, unsigned y1)
{
    for (unsigned y = y0; y < y1; y++) {
        for (unsigned x = x0; x < x1; x++)
            out->dot[y][x] = 1;
    }
}

static void block_draw_quadrants(struct bitmap *out, uint32_t point)
{
    /* U+2596 ... U+259F; 1, 2: upper left and right; 4, 8: lower left and right */
    static const uint8_t quadrants[] = { 4, 8, 1, 13, 9, 7, 11, 2, 6, 14 };
    unsigned set = quadrants[point - 0x2596];
    unsigned w = out->width, h = out->height;

    for (unsigned i = 0; i < 4; i++) {
        if ((set >> i & 1) != 0)
            fill(out, i % 2 * w / 2, i / 2 * h / 2, (i % 2 + 1) * w / 2, (i / 2 + 1) * h / 2);
    }
}

/* False for the half blocks and shades, which Spleen has. */
static bool block_draw(struct bitmap *out, uint32_t point)
{
    unsigned w = out->width, h = out->height;

    memset(out->dot, 0, sizeof(out->dot));
    if (point >= 0x2581 && point <= 0x2588)
        fill(out, 0, h - h * (point - 0x2580) / 8, w, h);
    else if (point >= 0x2589 && point <= 0x258f)
        fill(out, 0, 0, (w * (0x2590 - point) + 4) / 8, h);
    else if (point == 0x2594)
        fill(out, 0, 0, w, h / 8);
    else if (point == 0x2595)
        fill(out, w - (w + 4) / 8, 0, w, h);
    else if (point >= 0x2596 && point <= 0x259f)
        block_draw_quadrants(out, point);
    else
        return false;
    return true;
}

/* ---- Output ---- */

static size_t list_narrow(uint16_t *points)
{
    size_t count = 0;

    for (size_t i = 0; i < sizeof(mkfont_narrow) / sizeof(mkfont_narrow[0]); i++) {
        for (uint32_t point = mkfont_narrow[i].first; point <= mkfont_narrow[i].last; point++) {
            if (count == POINTS_MAX)
                fail("more than %d code points", POINTS_MAX);
            points[count++] = (uint16_t)point;
        }
    }
    return count;
}

static void write_points(FILE *out, const char *name, const uint16_t *points, size_t count)
{
    fprintf(out, "const uint16_t font_%s_points[] = {", name);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s0x%04x,", i % 12 == 0 ? "\n    " : " ", points[i]);
    fprintf(out, "\n};\nconst size_t font_%s_count = %zu;\n\n", name, count);
}

static void write_glyph(FILE *out, uint32_t point, const struct bitmap *map)
{
    fprintf(out, "    /* U+%04X */", point);
    for (unsigned y = 0; y < map->height; y++) {
        for (unsigned x = 0; x < map->width; x += 8) {
            unsigned byte = 0;

            for (unsigned i = 0; i < 8; i++)
                byte = byte << 1 | dot_at(map, (int)(x + i), (int)y);
            fprintf(out, " 0x%02x,", byte);
        }
    }
    fputc('\n', out);
}

/* Everything that goes into one font. */
struct source {
    const struct psf *psf;
    const char *unifont_path;
    const char *unifont;
};

static void draw_narrow(const struct source *source, uint32_t point, struct bitmap *map)
{
    const struct psf *psf = source->psf;

    map->width = psf->width;
    map->height = psf->height;
    if (point >= 0x2580 && point <= 0x259f && block_draw(map, point))
        return;
    if (psf->index[point] >= 0) {
        psf_draw(psf, (size_t)psf->index[point], map);
        return;
    }
    unifont_draw(source->unifont_path, source->unifont, point, map);
    enlarge_to(source->unifont_path, map, psf->height);
    if (map->width != psf->width)
        fail("%s: U+%04X is wider than one cell", source->unifont_path, point);
}

static void draw_wide(const struct source *source, uint32_t point, struct bitmap *map)
{
    unifont_draw(source->unifont_path, source->unifont, point, map);
    enlarge_to(source->unifont_path, map, source->psf->height);
    if (map->width != 2 * source->psf->width)
        fail("%s: U+%04X is not two cells wide", source->unifont_path, point);
}

static void write_font(FILE *out, const struct source *source, const uint16_t *narrow, size_t count)
{
    static struct bitmap map;
    unsigned width = source->psf->width, height = source->psf->height;

    fprintf(out, "static const uint8_t font_%ux%u_narrow[] = {\n", width, height);
    for (size_t i = 0; i < count; i++) {
        draw_narrow(source, narrow[i], &map);
        write_glyph(out, narrow[i], &map);
    }
    fprintf(out, "};\n\nstatic const uint8_t font_%ux%u_wide[] = {\n", width, height);
    for (size_t i = 0; i < WIDE_COUNT; i++) {
        draw_wide(source, mkfont_wide[i], &map);
        write_glyph(out, mkfont_wide[i], &map);
    }
    fputs("};\n\n", out);
}

static void write_list(FILE *out, struct psf *const *fonts, size_t count)
{
    fputs("const struct font font_list[] = {\n", out);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "    { %u, %u, font_%ux%u_narrow, font_%ux%u_wide },\n", fonts[i]->width,
                fonts[i]->height, fonts[i]->width, fonts[i]->height, fonts[i]->width,
                fonts[i]->height);
    fprintf(out, "};\nconst size_t font_list_count = %zu;\n", count);
}

int main(int count, char **arguments)
{
    static uint16_t narrow[POINTS_MAX];
    struct psf *fonts[FONTS_MAX];
    size_t narrow_count, font_count, bytes;
    struct source source;
    FILE *out;

    if (count < 4 || count > 3 + FONTS_MAX) {
        fputs("usage: mkfont OUTPUT.c UNIFONT.hex SPLEEN.psfu...\n", stderr);
        return 2;
    }
    font_count = (size_t)count - 3;
    narrow_count = list_narrow(narrow);
    source.unifont_path = arguments[2];
    source.unifont = (const char *)read_whole_file(arguments[2], &bytes);
    for (size_t i = 0; i < font_count; i++) {
        fonts[i] = psf_read(arguments[3 + i]);
        if (i > 0 && fonts[i]->width <= fonts[i - 1]->width)
            fail("%s: fonts come in the order of their size", arguments[3 + i]);
    }
    out = fopen(arguments[1], "w");
    if (out == NULL)
        fail("%s: %s", arguments[1], strerror(errno));
    mkfont_output = arguments[1];
    fputs(
        "/* Made by tools/mkfont.c of Spleen (BSD-2-Clause) and Unifont (OFL-1.1 or GPL-2.0+ with\n"
        " * the font exception); see THIRD_PARTY.md. */\n#include \"kernel/screen/font.h\"\n\n",
        out);
    write_points(out, "narrow", narrow, narrow_count);
    write_points(out, "wide", mkfont_wide, WIDE_COUNT);
    for (size_t i = 0; i < font_count; i++) {
        source.psf = fonts[i];
        write_font(out, &source, narrow, narrow_count);
    }
    write_list(out, fonts, font_count);
    if (ferror(out) != 0 || fclose(out) != 0)
        fail("%s: %s", arguments[1], strerror(errno));
    return 0;
}
