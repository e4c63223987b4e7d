/* SPDX-License-Identifier: MIT */
/* Draws the kernel's screen into a picture, so that one can look at it without a machine:
 *
 *   render_screen WIDTH HEIGHT OUT.ppm summary MEMMAP.txt [FAILED]
 *   render_screen WIDTH HEIGHT OUT.ppm log <LOG.txt
 *
 * MEMMAP.txt has lines "base length type" with E820 types, or with Limine's where its name begins
 * with limine-. Owns nothing; the pixels are 32 bits deep. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/screen/palette.h"
#include "kernel/screen/summary.h"
#include "kernel/screen/terminal.h"

#define RANGES_MAX 128

static _Noreturn void fail(const char *what, const char *which)
{
    fprintf(stderr, "render_screen: %s%s\n", what, which);
    exit(1);
}

static struct surface make_surface(uint32_t width, uint32_t height)
{
    struct surface surface = {
        .width = width,
        .height = height,
        .pitch = (uint64_t)width * 4,
        .red = { 8, 16 },
        .green = { 8, 8 },
        .blue = { 8, 0 },
    };

    surface.base = calloc(height, surface.pitch);
    if (surface.base == NULL || surface_check(&surface, 32) != NULL)
        fail("no memory for this size", "");
    return surface;
}

static void write_ppm(const struct surface *surface, const char *path)
{
    FILE *file = fopen(path, "wb");

    if (file == NULL)
        fail("cannot write ", path);
    fprintf(file, "P6\n%u %u\n255\n", surface->width, surface->height);
    for (uint64_t i = 0; i < (uint64_t)surface->width * surface->height; i++) {
        fputc(surface->base[4 * i + 2], file);
        fputc(surface->base[4 * i + 1], file);
        fputc(surface->base[4 * i], file);
    }
    if (fclose(file) != 0)
        fail("cannot write ", path);
}

static uint64_t type_of_e820(uint64_t type)
{
    static const uint8_t types[] = { BOOT_RESERVED,         BOOT_USABLE,   BOOT_RESERVED,
                                     BOOT_ACPI_RECLAIMABLE, BOOT_ACPI_NVS, BOOT_BAD };

    return type < sizeof(types) ? types[type] : BOOT_RESERVED;
}

/* Cuts the kernel and mm's bookkeeping out of the first usable range that holds them, as the memory
 * manager does. */
static size_t add_range(struct mm_range *ranges, size_t count, struct mm_range range, bool *cut)
{
    paddr_t kernel = MM_MIB(2), end = kernel + MM_KIB(640);

    if (!*cut && range.type == BOOT_USABLE && range.base <= kernel && range.end > end + MM_MIB(1)) {
        struct mm_range parts[] = { { range.base, kernel, BOOT_USABLE },
                                    { kernel, end, BOOT_EXECUTABLE },
                                    { end, end + MM_KIB(64), BOOT_METADATA },
                                    { end + MM_KIB(64), range.end, BOOT_USABLE } };

        *cut = true;
        memcpy(&ranges[count], parts, sizeof(parts));
        return count + 4;
    }
    ranges[count] = range;
    return count + 1;
}

static size_t read_map(const char *path, struct mm_range *ranges)
{
    FILE *file = fopen(path, "r");
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    bool e820 = strncmp(name, "limine-", 7) != 0, cut = false;
    unsigned long long base, length, type;
    size_t count = 0;

    if (file == NULL)
        fail("cannot read ", path);
    while (count + 4 < RANGES_MAX && fscanf(file, "%llx %llx %llx", &base, &length, &type) == 3) {
        struct mm_range range = { mm_round_up(base, FRAME_SIZE),
                                  mm_round_down(base + length, FRAME_SIZE),
                                  e820 ? type_of_e820(type) : type };

        if (range.base < range.end)
            count = add_range(ranges, count, range, &cut);
    }
    fclose(file);
    return count;
}

static void add_window(struct summary *summary, const char *name, const char *rights,
                       const char *note, uint32_t rgb, vaddr_t base, uint64_t bytes)
{
    struct summary_window *window = &summary->windows[summary->window_count++];

    *window = (struct summary_window){
        .name = name, .rights = rights, .base = base, .end = base + bytes, .rgb = rgb
    };
    snprintf(window->note, sizeof(window->note), "%s", note);
}

static void fill_summary(struct summary *summary, const struct mm_range *ranges, size_t count,
                         unsigned failed)
{
    paddr_t end = 0;

    memset(summary, 0, sizeof(*summary));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = ranges[i].end - ranges[i].base;

        if (ranges[i].type == BOOT_USABLE)
            summary->usable_bytes += bytes;
        if (memmap_type_is_ram(ranges[i].type)) {
            summary->total_bytes += bytes;
            summary->range_count++;
            end = ranges[i].end;
        }
    }
    summary->free_bytes = summary->usable_bytes - MM_MIB(18);
    summary->free_frames = summary->free_bytes / FRAME_SIZE;
    summary->ranges = ranges;
    summary->ranges_count = count;
    summary->tests = (struct mm_test_result){ 42 - failed, failed };
    strcpy(summary->facts[0], "MelloOS " MM_VERSION);
    strcpy(summary->facts[1], "up in 4.2 ms");
    strcpy(summary->facts[2], "4-level paging");
    strcpy(summary->facts[3], "NX WP PGE SMEP SMAP UMIP");
    add_window(summary, "HHDM", "RW-", "all memory", PALETTE_USABLE, 0xffff800000000000u, end);
    add_window(summary, "framebuffer", "RW- WC", "in the HHDM", PALETTE_FRAMEBUFFER,
               0xffff8000fd000000u, 0x300000);
    add_window(summary, "heap", "RW-", "16 MB mapped", PALETTE_HEAP, 0xffffff0000000000u,
               MM_GIB(512));
    add_window(summary, "stacks", "RW-", "on demand", PALETTE_STACKS, 0xffffff8000000000u,
               MM_MIB(256));
    add_window(summary, "kernel .text", "R-X", "code", PALETTE_KERNEL, 0xffffffff80000000u,
               MM_KIB(64));
    add_window(summary, "kernel .rodata", "R--", "constants", PALETTE_KERNEL, 0xffffffff80010000u,
               MM_KIB(172));
    add_window(summary, "kernel .data", "RW-", "data, boot stacks", PALETTE_KERNEL,
               0xffffffff8003b000u, MM_KIB(244));
}

static void draw_summary(const struct surface *surface, const char *map, unsigned failed)
{
    static struct mm_range ranges[RANGES_MAX];
    struct summary summary;
    size_t count = read_map(map, ranges);

    fill_summary(&summary, ranges, count, failed);
    if (!summary_draw(&summary, surface))
        fail("the surface is too small", "");
}

static void draw_log(const struct surface *surface)
{
    static struct terminal terminal;
    char buffer[4096];
    size_t bytes;

    if (!terminal_init(&terminal, surface))
        fail("the surface is too small", "");
    while ((bytes = fread(buffer, 1, sizeof(buffer), stdin)) > 0)
        terminal_write(&terminal, buffer, bytes);
}

int main(int count, char **arguments)
{
    struct surface surface;

    if (count < 5) {
        fputs("usage: render_screen WIDTH HEIGHT OUT.ppm summary MEMMAP.txt [FAILED]\n"
              "       render_screen WIDTH HEIGHT OUT.ppm log <LOG.txt\n",
              stderr);
        return 2;
    }
    surface = make_surface((uint32_t)atoi(arguments[1]), (uint32_t)atoi(arguments[2]));
    if (strcmp(arguments[4], "log") == 0)
        draw_log(&surface);
    else if (count > 5)
        draw_summary(&surface, arguments[5], count > 6 ? (unsigned)atoi(arguments[6]) : 0);
    else
        fail("which memory map?", "");
    write_ppm(&surface, arguments[3]);
    free((void *)surface.base);
    return 0;
}
