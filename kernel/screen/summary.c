/* SPDX-License-Identifier: MIT */
/* Owns the layout of the summary: from top to bottom
 *
 *   Hello from MelloOS           large, then one dim line
 *   [total] [usable] [free] [self-tests]                      four cards
 *   PHYSICAL MEMORY      the bar, addresses below it, the legend
 *   KERNEL ADDRESS SPACE the windows, one row each
 *
 * The letters are the largest of which 80 columns x 28 rows fit; all distances are multiples of
 * their cell, and what height is left over is shared out between the sections. Invariant: draws
 * only through the surface, which clips. */
#include "kernel/screen/summary.h"
#include "kernel/screen/memory_bar.h"
#include "kernel/screen/palette.h"
#include "kernel/screen/text.h"

#define SUMMARY_COLUMNS  80u
#define SUMMARY_ROWS     28u
#define SUMMARY_CARDS    4u
#define SUMMARY_SECTIONS 5u /* greeting, cards, bar, windows; and the lower end */
#define SUMMARY_GREETING "Hello from MelloOS ✨"

/* Sizes in pixels and where drawing stands. */
struct summary_page {
    const struct surface *surface;
    struct font_face face, large;
    uint32_t cell, row; /* width and height of a letter */
    uint32_t left, right, y;
    uint32_t gap;      /* between sections */
    uint32_t row_step; /* from one row of a table to the next */
};

static const uint32_t summary_type_colours[BOOT_RANGE_TYPES] = {
    [BOOT_USABLE] = PALETTE_USABLE,         [BOOT_RESERVED] = PALETTE_RESERVED,
    [BOOT_ACPI_RECLAIMABLE] = PALETTE_ACPI, [BOOT_ACPI_NVS] = PALETTE_ACPI_NVS,
    [BOOT_BAD] = PALETTE_BAD_MEMORY,        [BOOT_LOADER_RECLAIMABLE] = PALETTE_LOADER,
    [BOOT_EXECUTABLE] = PALETTE_KERNEL,     [BOOT_FRAMEBUFFER] = PALETTE_FRAMEBUFFER,
    [BOOT_METADATA] = PALETTE_METADATA,
};

/* Shorter than mm's names, in the order of the legend. */
static const struct {
    uint8_t type;
    const char *name;
} summary_legend[] = {
    { BOOT_USABLE, "usable" },
    { BOOT_EXECUTABLE, "kernel" },
    { BOOT_METADATA, "frame bitmaps" },
    { BOOT_LOADER_RECLAIMABLE, "boot loader" },
    { BOOT_ACPI_RECLAIMABLE, "ACPI tables" },
    { BOOT_ACPI_NVS, "ACPI NVS" },
    { BOOT_RESERVED, "reserved" },
    { BOOT_FRAMEBUFFER, "framebuffer" },
    { BOOT_BAD, "bad" },
};

#define SUMMARY_LEGEND_COUNT (sizeof(summary_legend) / sizeof(summary_legend[0]))

uint32_t summary_type_colour(uint64_t type)
{
    return type < BOOT_RANGE_TYPES ? summary_type_colours[type] : PALETTE_RESERVED;
}

/* `part` of 256 parts of b in a. */
static uint32_t summary_mix(uint32_t a, uint32_t b, uint32_t part)
{
    uint32_t mixed = 0;

    for (unsigned shift = 0; shift < 24; shift += 8) {
        uint32_t from = a >> shift & 0xff, to = b >> shift & 0xff;

        mixed |= (from * (256 - part) + to * part) >> 8 << shift;
    }
    return mixed;
}

static uint32_t summary_text(const struct summary_page *page, uint32_t x, uint32_t y,
                             const char *text, uint32_t rgb)
{
    return text_draw(page->surface, &page->face, x, y, page->right, text, rgb, PALETTE_GROUND);
}

/* ---- Greeting ---- */

/* A thin line of all the colours along the upper edge. */
static void summary_draw_ribbon(const struct summary_page *page)
{
    static const uint32_t stops[] = { PALETTE_USABLE, PALETTE_ACPI,        PALETTE_LOADER,
                                      PALETTE_KERNEL, PALETTE_FRAMEBUFFER, PALETTE_METADATA };
    uint32_t spans = sizeof(stops) / sizeof(stops[0]) - 1;
    uint32_t width = page->surface->width;

    for (uint32_t x = 0; x < width; x++) {
        uint32_t at = (uint32_t)((uint64_t)x * spans * 256 / width);

        surface_fill(page->surface, x, 0, 1, page->row / 4,
                     summary_mix(stops[at >> 8], stops[(at >> 8) + 1], at & 0xff));
    }
}

/* As many facts as fit whole. */
static void summary_draw_facts(const struct summary_page *page, const struct summary *summary)
{
    uint32_t x = page->left;

    for (unsigned i = 0; i < SUMMARY_FACTS; i++) {
        uint32_t cells = text_cells(summary->facts[i]) + (i == 0 ? 0 : 3);

        if (summary->facts[i][0] == '\0')
            continue;
        if (x + cells * page->cell > page->right)
            return;
        if (i > 0)
            x = summary_text(page, x, page->y, " · ", PALETTE_FAINT);
        x = summary_text(page, x, page->y, summary->facts[i], PALETTE_DIM);
    }
}

static void summary_draw_greeting(struct summary_page *page, const struct summary *summary)
{
    (void)text_draw(page->surface, &page->large, page->left, page->y, page->right, SUMMARY_GREETING,
                    PALETTE_TEXT, PALETTE_GROUND);
    page->y += page->large.height + page->row / 4;
    summary_draw_facts(page, summary);
    page->y += page->row;
}

/* ---- Cards ---- */

struct summary_card {
    const char *label;
    const char *value;
    const char *detail;
    uint32_t rgb;
    uint32_t detail_rgb;
};

static uint32_t summary_card_height(const struct summary_page *page)
{
    return 3 * page->row + page->large.height;
}

static void summary_draw_card(const struct summary_page *page, uint32_t x, uint32_t width,
                              const struct summary_card *card)
{
    uint32_t text_x = x + page->cell + page->cell / 2;
    uint32_t limit = x + width;
    uint32_t y = page->y + page->row / 2;

    surface_fill(page->surface, x, page->y, width, summary_card_height(page), PALETTE_PANEL);
    surface_fill(page->surface, x, page->y, page->cell / 2, summary_card_height(page), card->rgb);
    (void)text_draw(page->surface, &page->face, text_x, y, limit, card->label, PALETTE_DIM,
                    PALETTE_PANEL);
    y += page->row;
    (void)text_draw(page->surface, &page->large, text_x, y, limit, card->value, PALETTE_TEXT,
                    PALETTE_PANEL);
    y += page->large.height;
    (void)text_draw(page->surface, &page->face, text_x, y, limit, card->detail, card->detail_rgb,
                    PALETTE_PANEL);
}

/* A part of a whole, as "99.8 % of all". */
static void summary_format_part(char *text, size_t bytes, uint64_t part, uint64_t whole)
{
    uint64_t tenths = whole >= 1000 ? part / (whole / 1000) : 0;

    if (tenths > 1000)
        tenths = 1000;
    (void)mm_format(text, bytes, "%llu.%llu %% of all", (unsigned long long)(tenths / 10),
                    (unsigned long long)(tenths % 10));
}

static void summary_draw_cards(struct summary_page *page, const struct summary *summary)
{
    char total[SUMMARY_SIZE_MAX], usable[SUMMARY_SIZE_MAX], free[SUMMARY_SIZE_MAX];
    char total_detail[32], usable_detail[32], free_detail[32], tests[32], tests_detail[32];
    bool passed = summary->tests.failed == 0;
    uint32_t rgb = passed ? PALETTE_GOOD : PALETTE_BAD;
    const struct summary_card cards[SUMMARY_CARDS] = {
        { "Total memory", total, total_detail, PALETTE_LOADER, PALETTE_DIM },
        { "Usable", usable, usable_detail, PALETTE_USABLE, PALETTE_DIM },
        { "Free", free, free_detail, PALETTE_METADATA, PALETTE_DIM },
        { "Self-tests", tests, tests_detail, rgb, rgb },
    };
    uint32_t between = page->cell * 2;
    uint32_t width = (page->right - page->left - (SUMMARY_CARDS - 1) * between) / SUMMARY_CARDS;

    summary_format_size(total, summary->total_bytes);
    summary_format_size(usable, summary->usable_bytes);
    summary_format_size(free, summary->free_bytes);
    (void)mm_format(total_detail, sizeof(total_detail), "in %llu range%s",
                    (unsigned long long)summary->range_count, summary->range_count == 1 ? "" : "s");
    summary_format_part(usable_detail, sizeof(usable_detail), summary->usable_bytes,
                        summary->total_bytes);
    summary_format_part(free_detail, sizeof(free_detail), summary->free_bytes,
                        summary->total_bytes);
    (void)mm_format(tests, sizeof(tests), "%u/%u", summary->tests.passed,
                    summary->tests.passed + summary->tests.failed);
    (void)mm_format(tests_detail, sizeof(tests_detail), passed ? "✓ all passed" : "✗ %u failed",
                    summary->tests.failed);
    for (uint32_t i = 0; i < SUMMARY_CARDS; i++)
        summary_draw_card(page, page->left + i * (width + between), width, &cards[i]);
    page->y += summary_card_height(page);
}

/* ---- The bar of physical memory ---- */

static void summary_draw_title(struct summary_page *page, const char *title)
{
    uint32_t x = summary_text(page, page->left, page->y, title, PALETTE_ACCENT) + page->cell;
    uint32_t thick = page->row / 16;

    if (x < page->right)
        surface_fill(page->surface, x, page->y + page->row / 2, page->right - x, thick,
                     PALETTE_EDGE);
    page->y += page->row + page->row / 2;
}

/* Slanted strokes: here addresses are left out. */
static void summary_draw_break(const struct summary_page *page, uint32_t x, uint32_t width,
                               uint32_t height, uint32_t rgb)
{
    uint32_t period = page->row / 2, stroke = page->row / 8;

    for (uint32_t line = 0; line < height; line++) {
        for (uint32_t i = 0; i < width; i++) {
            bool on = (x + i + line) % period < stroke;

            surface_fill(page->surface, x + i, page->y + line, 1, 1, on ? rgb : PALETTE_GROUND);
        }
    }
}

/* Lighter above and darker below, so that it looks like a body. */
static void summary_draw_block(const struct summary_page *page, uint32_t x, uint32_t width,
                               uint32_t height, uint32_t rgb)
{
    uint32_t edge = height / 8;

    surface_fill(page->surface, x, page->y, width, edge, summary_mix(rgb, 0xffffff, 56));
    surface_fill(page->surface, x, page->y + edge, width, height - 2 * edge, rgb);
    surface_fill(page->surface, x, page->y + height - edge, width, edge,
                 summary_mix(rgb, 0x000000, 56));
}

static struct memory_bar summary_bar(const struct summary_page *page, const struct summary *summary)
{
    struct memory_bar bar = {
        .ranges = summary->ranges,
        .count = summary->ranges_count,
        .pixels = page->right - page->left,
        .break_pixels = 3 * page->cell,
        .least_pixels = page->row / 8,
    };

    memory_bar_init(&bar);
    return bar;
}

static uint32_t summary_bar_height(const struct summary_page *page)
{
    return 2 * page->row;
}

static void summary_draw_bar(struct summary_page *page, const struct memory_bar *bar)
{
    struct memory_bar_walk walk = { .index = 0 };
    struct memory_segment segment;
    uint32_t height = summary_bar_height(page);

    while (memory_bar_next(bar, &walk, &segment)) {
        uint32_t x = page->left + segment.x;
        bool hole = segment.type == MEMORY_BAR_HOLE;
        uint32_t rgb = hole ? PALETTE_EDGE : summary_type_colour(segment.type);

        if (segment.is_break)
            summary_draw_break(page, x, segment.width, height, rgb);
        else
            summary_draw_block(page, x, segment.width, height, hole ? PALETTE_PANEL : rgb);
    }
    page->y += height + page->row / 4;
}

/* An address, rounded to a tenth of its unit: these are marks on a scale, not values. */
static void summary_format_mark(char *text, paddr_t address)
{
    unsigned shift = address >= MM_GIB(1024) ? 40 : address >= MM_GIB(1) ? 30 : 20;
    uint64_t tenths = (address + (((uint64_t)1 << shift) / 20)) / 2 * 10 >> (shift - 1);
    const char *unit = shift == 40 ? "TB" : shift == 30 ? "GB" : "MB";

    if (address == 0)
        (void)mm_format(text, SUMMARY_SIZE_MAX, "0");
    else if (tenths % 10 == 0)
        (void)mm_format(text, SUMMARY_SIZE_MAX, "%llu %s", (unsigned long long)(tenths / 10), unit);
    else
        (void)mm_format(text, SUMMARY_SIZE_MAX, "%llu.%llu %s", (unsigned long long)(tenths / 10),
                        (unsigned long long)(tenths % 10), unit);
}

/* Writes the address of the bar's pixel x under it, ending there or beginning there, where no other
 * mark stands (`*used`: x up to which they do) and none is to stand (`limit`). */
static void summary_draw_mark(const struct summary_page *page, uint32_t x, bool ends,
                              paddr_t address, uint32_t *used, uint32_t limit)
{
    char text[SUMMARY_SIZE_MAX];
    uint32_t width, begin;

    summary_format_mark(text, address);
    width = text_cells(text) * page->cell;
    if (ends && x < width + page->left)
        return;
    begin = ends ? x - width : x;
    if (begin < *used || begin + width > limit)
        return;
    (void)summary_text(page, begin, page->y, text, PALETTE_FAINT);
    *used = begin + width + page->cell;
}

/* The ends of the bar first, since they matter most, then those of each break. */
static void summary_draw_marks(struct summary_page *page, const struct memory_bar *bar)
{
    struct memory_bar_walk walk = { .index = 0 };
    struct memory_segment segment;
    char last[SUMMARY_SIZE_MAX];
    uint32_t used = page->left, limit, none = 0;

    summary_format_mark(last, bar->end);
    limit = page->right - (text_cells(last) + 1) * page->cell;
    summary_draw_mark(page, page->left, false, 0, &used, limit);
    while (memory_bar_next(bar, &walk, &segment)) {
        if (!segment.is_break)
            continue;
        summary_draw_mark(page, page->left + segment.x, true, segment.base, &used, limit);
        summary_draw_mark(page, page->left + segment.x + segment.width, false, segment.end, &used,
                          limit);
    }
    summary_draw_mark(page, page->right, true, bar->end, &none, page->right);
    page->y += page->row + page->row / 2;
}

/* ---- The legend ---- */

/* Bytes of each type on the bar. */
static void summary_count_types(const struct memory_bar *bar, uint64_t bytes[BOOT_RANGE_TYPES])
{
    struct memory_bar_walk walk = { .index = 0 };
    struct memory_segment segment;

    for (unsigned i = 0; i < BOOT_RANGE_TYPES; i++)
        bytes[i] = 0;
    while (memory_bar_next(bar, &walk, &segment)) {
        if (segment.type < BOOT_RANGE_TYPES)
            bytes[segment.type] += segment.end - segment.base;
    }
}

#define SUMMARY_LEGEND_CELLS 23u /* swatch, name, size */

static uint32_t summary_legend_columns(const struct summary_page *page)
{
    return (page->right - page->left + 2 * page->cell) / (SUMMARY_LEGEND_CELLS + 2) / page->cell;
}

static uint32_t summary_legend_rows(const struct summary_page *page, const struct memory_bar *bar)
{
    uint64_t bytes[BOOT_RANGE_TYPES];
    uint32_t columns = summary_legend_columns(page), shown = 0;

    summary_count_types(bar, bytes);
    for (unsigned i = 0; i < BOOT_RANGE_TYPES; i++)
        shown += bytes[i] != 0 ? 1 : 0;
    return (shown + columns - 1) / columns;
}

static void summary_draw_swatch(const struct summary_page *page, uint32_t x, uint32_t y,
                                uint32_t rgb)
{
    uint32_t side = page->row / 2;

    surface_fill(page->surface, x, y + (page->row - side) / 2, side, side, rgb);
}

static void summary_draw_legend(struct summary_page *page, const struct memory_bar *bar)
{
    uint64_t bytes[BOOT_RANGE_TYPES];
    uint32_t columns = summary_legend_columns(page), shown = 0;
    uint32_t step = (page->right - page->left + 2 * page->cell) / columns;

    summary_count_types(bar, bytes);
    for (size_t i = 0; i < SUMMARY_LEGEND_COUNT; i++) {
        uint8_t type = summary_legend[i].type;
        uint32_t x = page->left + shown % columns * step;
        uint32_t y = page->y + shown / columns * page->row_step;
        char size[SUMMARY_SIZE_MAX];

        if (bytes[type] == 0)
            continue;
        shown++;
        summary_format_size(size, bytes[type]);
        summary_draw_swatch(page, x, y, summary_type_colour(type));
        x += 2 * page->cell;
        x = summary_text(page, x, y, summary_legend[i].name, PALETTE_TEXT) + page->cell;
        (void)summary_text(page, x, y, size, PALETTE_DIM);
    }
    page->y += (shown + columns - 1) / columns * page->row_step;
}

/* ---- Windows of the address space ---- */

/* Columns of the table, in cells from the left edge. */
#define SUMMARY_AT_NAME   2u
#define SUMMARY_AT_RANGE  17u
#define SUMMARY_SIZE_END  65u
#define SUMMARY_AT_RIGHTS 67u
#define SUMMARY_AT_NOTE   75u

static void summary_draw_window(const struct summary_page *page,
                                const struct summary_window *window, bool with_note)
{
    char text[48];
    uint32_t x = page->left, y = page->y;

    summary_draw_swatch(page, x, y, window->rgb);
    (void)summary_text(page, x + SUMMARY_AT_NAME * page->cell, y, window->name, PALETTE_TEXT);
    (void)mm_format(text, sizeof(text), "0x%016llx", (unsigned long long)window->base);
    x = summary_text(page, x + SUMMARY_AT_RANGE * page->cell, y, text, PALETTE_TEXT);
    (void)mm_format(text, sizeof(text), " – 0x%016llx", (unsigned long long)(window->end - 1));
    (void)summary_text(page, x, y, text, PALETTE_DIM);
    summary_format_size(text, window->end - window->base);
    x = page->left + (SUMMARY_SIZE_END - text_cells(text)) * page->cell;
    (void)summary_text(page, x, y, text, PALETTE_TEXT);
    x = page->left + SUMMARY_AT_RIGHTS * page->cell;
    (void)summary_text(page, x, y, window->rights, PALETTE_DIM);
    x = page->left + SUMMARY_AT_NOTE * page->cell;
    if (with_note)
        (void)summary_text(page, x, y, window->note, PALETTE_FAINT);
}

static bool summary_notes_fit(const struct summary_page *page, const struct summary *summary)
{
    uint32_t longest = 0;

    for (size_t i = 0; i < summary->window_count; i++) {
        uint32_t cells = text_cells(summary->windows[i].note);

        longest = cells > longest ? cells : longest;
    }
    return page->left + (SUMMARY_AT_NOTE + longest) * page->cell <= page->right;
}

static void summary_draw_windows(struct summary_page *page, const struct summary *summary)
{
    bool with_notes = summary_notes_fit(page, summary);

    for (size_t i = 0; i < summary->window_count; i++) {
        summary_draw_window(page, &summary->windows[i], with_notes);
        page->y += page->row_step;
    }
}

/* ---- The page ---- */

/* The height of everything, with rows that stand close and without gaps. */
static uint32_t summary_content_height(const struct summary_page *page, uint32_t rows)
{
    return page->large.height + page->row / 4 + page->row + summary_card_height(page) +
           2 * (page->row + page->row / 2) + summary_bar_height(page) + page->row / 4 + page->row +
           page->row / 2 + rows * page->row;
}

/* Half of the height that is left over goes between the rows, up to half a row each; the rest goes
 * between the sections, above and below. */
static bool summary_lay_out(struct summary_page *page, const struct summary *summary)
{
    struct memory_bar bar = summary_bar(page, summary);
    uint32_t rows = summary_legend_rows(page, &bar) + (uint32_t)summary->window_count;
    uint32_t height = summary_content_height(page, rows);
    uint32_t spare, between;

    if (page->surface->height < height + 2 * page->row)
        return false;
    spare = page->surface->height - height;
    between = rows == 0 ? 0 : spare / 3 / rows;
    if (between > page->row / 2)
        between = page->row / 2;
    spare -= rows * between;
    page->row_step = page->row + between;
    page->gap = spare / SUMMARY_SECTIONS;
    if (page->gap > 2 * page->row)
        page->gap = 2 * page->row;
    page->y = (spare - (SUMMARY_SECTIONS - 2) * page->gap) / 2;
    return true;
}

bool summary_draw(const struct summary *summary, const struct surface *surface)
{
    struct summary_page page = { .surface = surface };
    struct memory_bar bar;

    page.face = font_face_for(surface->width, surface->height, SUMMARY_COLUMNS, SUMMARY_ROWS);
    page.large = font_face_of_height(2 * page.face.height);
    page.cell = page.face.width;
    page.row = page.face.height;
    if (surface->width < SUMMARY_COLUMNS * page.cell || summary->ranges_count == 0)
        return false;
    page.left = surface->width / 32;
    page.right = surface->width - page.left;
    if (!summary_lay_out(&page, summary))
        return false;
    bar = summary_bar(&page, summary);
    surface_fill(surface, 0, 0, surface->width, surface->height, PALETTE_GROUND);
    summary_draw_ribbon(&page);
    summary_draw_greeting(&page, summary);
    page.y += page.gap;
    summary_draw_cards(&page, summary);
    page.y += page.gap;
    summary_draw_title(&page, "PHYSICAL MEMORY");
    summary_draw_bar(&page, &bar);
    summary_draw_marks(&page, &bar);
    summary_draw_legend(&page, &bar);
    page.y += page.gap;
    summary_draw_title(&page, "KERNEL ADDRESS SPACE");
    summary_draw_windows(&page, summary);
    return true;
}
