/* SPDX-License-Identifier: MIT */
/* The bar of physical memory, the summary, and the screen as a whole. Maps are drawn in the tests;
 * the recorded ones of tests/host/memmaps are run through the bar too. */
#include "picture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernel/screen/memory_bar.h"
#include "kernel/screen/palette.h"
#include "kernel/screen/screen.h"
#include "kernel/screen/summary.h"
#include "kernel/screen/terminal.h"

#define SEGMENTS_MAX 4096
#define RANGE(base_value, end_value, type_value)                                                   \
    {                                                                                              \
        (base_value), (end_value), (type_value)                                                    \
    }

/* ---- The bar ---- */

static struct memory_segment segments[SEGMENTS_MAX];

/* Plans the bar and checks what always holds.
 *   Returns:  the count of segments[]. */
static size_t plan(const struct mm_range *ranges, size_t count, uint32_t pixels, uint32_t least)
{
    struct memory_bar bar = { .ranges = ranges,
                              .count = count,
                              .pixels = pixels,
                              .break_pixels = 24,
                              .least_pixels = least };
    struct memory_bar_walk walk = { .index = 0 };
    size_t found = 0;
    uint32_t x = 0;
    paddr_t at = 0;

    memory_bar_init(&bar);
    while (memory_bar_next(&bar, &walk, &segments[found])) {
        struct memory_segment *segment = &segments[found++];

        assert_true(found < SEGMENTS_MAX);
        assert_int_equal(segment->x, x);
        assert_int_equal(segment->base, at);
        assert_true(segment->end > segment->base);
        x += segment->width;
        at = segment->end;
    }
    if (found > 0)
        assert_int_equal(x, pixels);
    return found;
}

#define PLAN(ranges, pixels, least) plan((ranges), COUNT_OF(ranges), (pixels), (least))

static void bar_is_in_proportion(void **state)
{
    static const struct mm_range ranges[] = {
        RANGE(0, MM_GIB(1), BOOT_USABLE),
        RANGE(MM_GIB(1), MM_GIB(4), BOOT_LOADER_RECLAIMABLE),
    };

    (void)state;
    assert_int_equal(PLAN(ranges, 1000, 2), 2);
    assert_int_equal(segments[0].width, 250);
    assert_int_equal(segments[1].width, 750);
}

static void bar_shows_small_ranges(void **state)
{
    static const struct mm_range ranges[] = {
        RANGE(0, MM_GIB(64), BOOT_USABLE),
        RANGE(MM_GIB(64), MM_GIB(64) + MM_KIB(400), BOOT_EXECUTABLE),
        RANGE(MM_GIB(64) + MM_KIB(400), MM_GIB(128), BOOT_USABLE),
    };

    (void)state;
    assert_int_equal(PLAN(ranges, 1000, 3), 3);
    assert_int_equal(segments[1].width, 3);
    assert_in_range(segments[0].width, 498, 499);
}

static void bar_leaves_out_what_lies_above_memory(void **state)
{
    static const struct mm_range ranges[] = {
        RANGE(0, MM_MIB(512), BOOT_USABLE),
        RANGE(0xfffc0000, 0x100000000, BOOT_RESERVED),
        RANGE(0xfd00000000, 0x10000000000, BOOT_RESERVED),
    };

    (void)state;
    assert_int_equal(PLAN(ranges, 600, 2), 1);
    assert_int_equal(segments[0].width, 600);
}

static void bar_long_holes_are_breaks(void **state)
{
    static const struct mm_range ranges[] = {
        RANGE(0, MM_GIB(3), BOOT_USABLE),
        RANGE(0xfd000000, 0xfd300000, BOOT_FRAMEBUFFER),
        RANGE(0x10000000000, 0x10000000000 + MM_GIB(1), BOOT_USABLE),
    };

    (void)state;
    /* usable, ~hole~, framebuffer, ~hole~, usable */
    assert_int_equal(PLAN(ranges, 1050, 2), 5);
    assert_true(segments[1].is_break && segments[1].type == MEMORY_BAR_HOLE);
    assert_int_equal(segments[1].width, 24);
    assert_int_equal(segments[2].type, BOOT_FRAMEBUFFER);
    assert_int_equal(segments[2].width, 2);
    assert_true(segments[3].is_break);
    assert_int_equal(segments[0].width, 750);
    assert_int_equal(segments[4].width, 250);
}

/* Little memory below a hole that is a million times as long. */
static void bar_long_holes_do_not_make_memory_small(void **state)
{
    static const struct mm_range ranges[] = {
        RANGE(0, MM_MIB(3), BOOT_USABLE),
        RANGE(MM_GIB(4096), MM_GIB(4096) + MM_MIB(1), BOOT_LOADER_RECLAIMABLE),
    };

    (void)state;
    assert_int_equal(PLAN(ranges, 424, 4), 3);
    assert_int_equal(segments[0].width, 300);
    assert_int_equal(segments[2].width, 100);
}

static void bar_of_many_ranges_is_still_filled(void **state)
{
    static struct mm_range ranges[3000];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ranges); i++) {
        ranges[i].base = i * MM_GIB(1);
        ranges[i].end = ranges[i].base + MM_MIB(1);
        ranges[i].type = i % 2 == 0 ? BOOT_USABLE : BOOT_ACPI_NVS;
    }
    assert_true(plan(ranges, 2000, 600, 2) > 2000);
    ranges[0].end = MM_GIB(1);
    assert_true(plan(ranges, 300, 600, 2) > 300);
    assert_int_equal(plan(ranges, 0, 600, 2), 0);
}

static void bar_random_maps_keep_its_rules(void **state)
{
    static struct mm_range ranges[200];

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        size_t count = 1 + picture_random(COUNT_OF(ranges));
        paddr_t at = 0;
        size_t found;

        for (size_t i = 0; i < count; i++) {
            at += picture_random(2) == 0 ? 0 : FRAME_SIZE << picture_random(28);
            ranges[i].base = at;
            at += (uint64_t)(1 + picture_random(100)) * (FRAME_SIZE << picture_random(24));
            ranges[i].end = at;
            ranges[i].type = picture_random(BOOT_RANGE_TYPES);
        }
        found = plan(ranges, count, 100 + picture_random(4000), picture_random(5));
        /* Twice the memory is never fewer pixels. */
        for (size_t i = 1; i < found; i++) {
            uint64_t before = segments[i - 1].end - segments[i - 1].base;
            uint64_t now = segments[i].end - segments[i].base;

            if (!segments[i].is_break && !segments[i - 1].is_break && now >= 2 * before)
                assert_true(segments[i].width + 1 >= segments[i - 1].width);
        }
    }
}

static void bar_takes_recorded_maps(void **state)
{
    static const char *const names[] = {
        "pvh-32M",           "pvh-5G",       "pvh-1T",
        "pvh-16T",           "grub-ovmf-5G", "limine-uefi-q35-1T-amd",
        "limine-bios-q35-2M"
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        static struct mm_range ranges[256];
        unsigned long long base, length, type;
        bool e820 = strncmp(names[i], "limine", 6) != 0;
        char path[256];
        size_t count = 0, usable = 0, found;
        FILE *file;

        snprintf(path, sizeof(path), "tests/host/memmaps/%s.txt", names[i]);
        file = fopen(path, "r");
        if (file == NULL)
            fail_msg("cannot read %s", path);
        while (fscanf(file, "%llx %llx %llx", &base, &length, &type) == 3) {
            ranges[count].base = mm_round_up(base, FRAME_SIZE);
            ranges[count].end = mm_round_down(base + length, FRAME_SIZE);
            ranges[count].type = type;
            if (e820)
                ranges[count].type = type == 1 ? BOOT_USABLE : BOOT_RESERVED;
            usable += ranges[count].type == BOOT_USABLE;
            count += ranges[count].base < ranges[count].end;
        }
        fclose(file);
        found = plan(ranges, count, 600, 2);
        for (size_t j = 0; j < found; j++) {
            if (segments[j].type == BOOT_USABLE) {
                assert_true(segments[j].width >= 2);
                usable--;
            }
        }
        assert_true(usable <= 1); /* all of them, but a piece smaller than a frame */
    }
}

/* ---- Sizes in words ---- */

static void summary_sizes_are_short(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0 KB" },
        { MM_KIB(4), "4 KB" },
        { MM_KIB(640), "640 KB" },
        { MM_MIB(1), "1 MB" },
        { MM_MIB(511), "511 MB" },
        { MM_MIB(5119) + 1, "5119 MB" },
        { MM_MIB(64) - MM_KIB(4), "63.9 MB" },
        { MM_GIB(64) - MM_MIB(1), "63.9 GB" },
        { MM_GIB(1024), "1 TB" },
        { MM_GIB(1023) + MM_MIB(3), "1023 GB" },
        { MM_GIB(1024) * 9999 + 1, "9999 TB" },
    };
    char text[SUMMARY_SIZE_MAX];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        summary_format_size(text, cases[i].bytes);
        assert_string_equal(text, cases[i].text);
    }
    for (unsigned i = 0; i < 10000; i++) {
        summary_format_size(text, (uint64_t)picture_random(0x7fffffff) << picture_random(22));
        assert_true(strlen(text) <= 7);
    }
}

/* ---- The summary ---- */

static const struct mm_range machine[] = {
    RANGE(0, MM_GIB(1), BOOT_USABLE),
    RANGE(MM_GIB(1), MM_GIB(1) + MM_KIB(400), BOOT_EXECUTABLE),
    RANGE(MM_GIB(1) + MM_KIB(400), MM_GIB(3), BOOT_LOADER_RECLAIMABLE),
    RANGE(MM_GIB(4), MM_GIB(5), BOOT_USABLE),
};

static struct summary make_summary(unsigned failed)
{
    struct summary summary = {
        .total_bytes = MM_GIB(4),
        .usable_bytes = MM_GIB(2),
        .free_bytes = MM_GIB(1),
        .free_frames = MM_GIB(1) / FRAME_SIZE,
        .range_count = 2,
        .ranges = machine,
        .ranges_count = COUNT_OF(machine),
        .tests = { 40 - failed, failed },
        .windows = { { "HHDM", "RW-", "all memory", 0xffff800000000000u, 0xffff800140000000u,
                       PALETTE_USABLE },
                     { "heap", "RW-", "16 MB mapped", 0xffffff0000000000u, 0xffffff7fffffffffu,
                       PALETTE_HEAP } },
        .window_count = 2,
        .facts = { "MelloOS", "up in 1 ms", "4-level paging", "NX WP" },
    };

    return summary;
}

/* True if the text stands somewhere on the picture in this colour, its cells in a row. */
static bool picture_has_text(const struct picture *picture, const struct font_face *face,
                             const char *text, uint32_t rgb, uint32_t ground)
{
    uint32_t width = (uint32_t)strlen(text) * face->width;

    for (uint32_t y = 0; y + face->height <= picture->surface.height; y++) {
        for (uint32_t x = 0; x + width <= picture->surface.width; x++) {
            size_t i = 0;

            while (text[i] != '\0' &&
                   picture_has_glyph(picture, face, x + (uint32_t)i * face->width, y,
                                     (uint8_t)text[i], rgb, ground))
                i++;
            if (text[i] == '\0')
                return true;
        }
    }
    return false;
}

/* The line on which the most pixels show a colour. */
static uint32_t line_of_most(const struct picture *picture, uint32_t rgb)
{
    uint32_t best = 0, most = 0;

    for (uint32_t y = 0; y < picture->surface.height; y++) {
        uint32_t count = picture_count(picture, y, rgb);

        if (count > most) {
            most = count;
            best = y;
        }
    }
    return best;
}

static void summary_bar_is_in_proportion_on_every_surface(void **state)
{
    static const struct {
        uint32_t width, height;
    } sizes[] = { { 640, 480 },   { 800, 600 },   { 1024, 768 }, { 1280, 720 },
                  { 1920, 1080 }, { 2560, 1440 }, { 3840, 2160 } };
    struct summary summary = make_summary(0);

    (void)state;
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        for (size_t i = 0; i < layout_count; i++) {
            struct picture picture = picture_create(&layouts[i], sizes[s].width, sizes[s].height);
            uint32_t usable, loader, kernel, y;

            assert_true(summary_draw(&summary, &picture.surface));
            y = line_of_most(&picture, PALETTE_USABLE);
            usable = picture_count(&picture, y, PALETTE_USABLE);
            loader = picture_count(&picture, y, PALETTE_LOADER);
            kernel = picture_count(&picture, y, PALETTE_KERNEL);
            /* 1 GB + 1 GB usable, 2 GB of the loader, 400 KB of the kernel */
            assert_in_range(usable, loader - 2, loader + 2);
            assert_in_range(kernel, 1, sizes[s].width / 100);
            assert_true(usable + loader > sizes[s].width * 4 / 5);
            picture_destroy(&picture);
        }
    }
}

static void summary_says_what_it_should(void **state)
{
    struct picture picture = picture_create(&layouts[1], 1024, 768);
    struct font_face face = font_face_of_height(24), large = font_face_of_height(48);
    struct summary summary = make_summary(0);

    (void)state;
    assert_true(summary_draw(&summary, &picture.surface));
    assert_true(
        picture_has_text(&picture, &large, "Hello from MelloOS", PALETTE_TEXT, PALETTE_GROUND));
    assert_true(picture_has_text(&picture, &large, "4 GB", PALETTE_TEXT, PALETTE_PANEL));
    assert_true(picture_has_text(&picture, &large, "2 GB", PALETTE_TEXT, PALETTE_PANEL));
    assert_true(picture_has_text(&picture, &large, "1 GB", PALETTE_TEXT, PALETTE_PANEL));
    assert_true(picture_has_text(&picture, &large, "40/40", PALETTE_TEXT, PALETTE_PANEL));
    assert_true(picture_has_text(&picture, &face, "all passed", PALETTE_GOOD, PALETTE_PANEL));
    assert_true(
        picture_has_text(&picture, &face, "0xffff800000000000", PALETTE_TEXT, PALETTE_GROUND));
    assert_true(
        picture_has_text(&picture, &face, "0xffff80013fffffff", PALETTE_DIM, PALETTE_GROUND));
    assert_true(picture_has_text(&picture, &face, "boot loader", PALETTE_TEXT, PALETTE_GROUND));
    assert_false(picture_has_text(&picture, &face, "ACPI", PALETTE_TEXT, PALETTE_GROUND));
    summary = make_summary(3);
    assert_true(summary_draw(&summary, &picture.surface));
    assert_true(picture_has_text(&picture, &large, "37/40", PALETTE_TEXT, PALETTE_PANEL));
    assert_true(picture_has_text(&picture, &face, "3 failed", PALETTE_BAD, PALETTE_PANEL));
    assert_false(picture_has_text(&picture, &face, "all passed", PALETTE_GOOD, PALETTE_PANEL));
    picture_destroy(&picture);
}

static void summary_without_room_draws_nothing(void **state)
{
    static const struct {
        uint32_t width, height;
    } sizes[] = { { 320, 200 }, { 639, 480 }, { 640, 300 }, { 1, 1 } };
    struct summary summary = make_summary(0);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct picture picture = picture_create(&layouts[0], sizes[i].width, sizes[i].height);

        assert_false(summary_draw(&summary, &picture.surface));
        for (size_t at = 0; at < picture.bytes; at++)
            assert_int_equal(picture.memory[at], 0xa5);
        picture_destroy(&picture);
    }
}

/* A struct mm as init_memory() leaves it, as far as the summary looks. */
static void fill_mm(struct mm *mm)
{
    memset(mm, 0, sizeof(*mm));
    mm->map.ranges = (struct mm_range *)machine;
    mm->map.count = COUNT_OF(machine);
    mm->map.total_bytes = MM_GIB(4);
    mm->map.usable_bytes = MM_GIB(2);
    mm->map.ram_end = MM_GIB(5);
    mm->pmm.stats.free_frames = 12345;
    mm->pmm.stats.range_count = 2;
    mm->boot.hhdm_offset = 0xffff900000000000u;
    mm->boot.text = (struct boot_section){ 0xffffffff80000000u, 0xffffffff80010000u };
    mm->boot.rodata = (struct boot_section){ 0xffffffff80010000u, 0xffffffff80020000u };
    mm->boot.data = (struct boot_section){ 0xffffffff80020000u, 0xffffffff80040000u };
    mm->kvm.heap = (struct kvm_window){ 0xffff880000000000u, 0xffff888000000000u };
    mm->kvm.stacks = (struct kvm_window){ 0xffffff0000000000u, 0xffffff8000000000u };
    mm->kvm.heap_bytes = MM_MIB(16);
    mm->cpu.levels = 4;
    mm->cpu.smep = true;
    mm->total_ns = 4250000;
}

static void summary_collects_what_mm_knows(void **state)
{
    static struct mm mm;
    static const char *const names[] = { "heap",         "HHDM",           "stacks",
                                         "kernel .text", "kernel .rodata", "kernel .data" };
    struct mm_test_result tests = { 7, 1 };
    struct summary summary;

    (void)state;
    fill_mm(&mm);
    summary_collect(&summary, &mm, tests, 1);
    assert_int_equal(summary.total_bytes, MM_GIB(4));
    assert_int_equal(summary.usable_bytes, MM_GIB(2));
    assert_int_equal(summary.free_bytes, 12345 * FRAME_SIZE);
    assert_int_equal(summary.tests.failed, 1);
    assert_int_equal(summary.window_count, COUNT_OF(names)); /* no framebuffer here */
    for (size_t i = 0; i < COUNT_OF(names); i++)
        assert_string_equal(summary.windows[i].name, names[i]);
    assert_string_equal(summary.windows[0].note, "16 MB mapped");
    assert_int_equal(summary.windows[1].end, 0xffff900000000000u + MM_GIB(5));
    assert_string_equal(summary.facts[1], "up in 4.2 ms");
    assert_string_equal(summary.facts[2], "1 CPU, 4-level paging");
    assert_string_equal(summary.facts[3], "NX WP SMEP");
    assert_string_equal(summary.facts[4], "");
    mm.loader_bytes = MM_KIB(1476);
    summary_collect(&summary, &mm, tests, 1);
    assert_string_equal(summary.facts[4], "1476 KB back from the loader");
    mm.boot.framebuffer_base = 0xfd000000;
    mm.boot.framebuffer_bytes = MM_MIB(3);
    summary_collect(&summary, &mm, tests, 1);
    assert_int_equal(summary.window_count, COUNT_OF(names) + 1);
    assert_string_equal(summary.windows[2].name, "framebuffer");
    assert_int_equal(summary.windows[2].base, 0xffff9000fd000000u);
}

/* ---- The screen ---- */

static struct boot_framebuffer framebuffer_of(void *base)
{
    struct boot_framebuffer framebuffer = {
        .base = base,
        .width = 640,
        .height = 480,
        .pitch = 640 * 4,
        .bits_per_pixel = 32,
        .is_rgb = true,
        .red_bits = 8,
        .red_shift = 16,
        .green_bits = 8,
        .green_shift = 8,
        .blue_bits = 8,
        .blue_shift = 0,
    };

    return framebuffer;
}

static void write_line(const char *line)
{
    screen_write(line, strlen(line));
}

static void screen_text_after_the_summary_brings_the_log_back(void **state)
{
    static struct mm mm;
    struct picture one = picture_create(&layouts[0], 640, 480);
    struct picture two = picture_create(&layouts[0], 640, 480);
    struct boot_framebuffer framebuffer = framebuffer_of(one.memory);

    (void)state;
    fill_mm(&mm);
    assert_null(screen_init(&framebuffer));
    write_line("first\n");
    screen_show_summary(&mm, (struct mm_test_result){ 1, 0 }, 1);
    assert_true(picture_count(&one, line_of_most(&one, PALETTE_USABLE), PALETTE_USABLE) > 100);
    screen_write("", 0);
    assert_true(picture_count(&one, line_of_most(&one, PALETTE_USABLE), PALETTE_USABLE) > 100);
    write_line("PANIC: second\n");
    framebuffer = framebuffer_of(two.memory);
    assert_null(screen_init(&framebuffer));
    write_line("first\nPANIC: second\n");
    picture_expect_equal(&one, &two);
    picture_destroy(&one);
    picture_destroy(&two);
}

static void screen_that_is_none_or_unknown_does_nothing(void **state)
{
    static struct mm mm;
    struct picture picture = picture_create(&layouts[0], 640, 480);
    struct boot_framebuffer framebuffer = framebuffer_of(NULL);

    (void)state;
    assert_null(screen_init(&framebuffer));
    write_line("nothing\n");
    screen_show_summary(&mm, (struct mm_test_result){ 1, 0 }, 1);
    framebuffer = framebuffer_of(picture.memory);
    framebuffer.bits_per_pixel = 8;
    assert_non_null(strstr(screen_init(&framebuffer), "depth"));
    framebuffer = framebuffer_of(picture.memory);
    framebuffer.is_rgb = false;
    assert_non_null(strstr(screen_init(&framebuffer), "red, green and blue"));
    framebuffer = framebuffer_of(picture.memory);
    framebuffer.width = (uint64_t)1 << 32;
    assert_non_null(strstr(screen_init(&framebuffer), "size"));
    framebuffer = framebuffer_of(picture.memory);
    framebuffer.height = 20;
    assert_non_null(strstr(screen_init(&framebuffer), "small"));
    write_line("nothing\n");
    for (size_t at = 0; at < picture.bytes; at++)
        assert_int_equal(picture.memory[at], 0xa5);
    picture_destroy(&picture);
}

/* A fault in the middle of drawing: the handler runs on top of the interrupted call. */
static uint8_t *fault_pixels;
static size_t fault_bytes;
static unsigned fault_count;
static bool fault_takes_over;
static sigjmp_buf fault_escape;

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    if (fault_count++ > 0)
        siglongjmp(fault_escape, 2); /* the report itself failed */
    if (fault_takes_over)
        screen_take_over((vaddr_t)(uintptr_t)info->si_addr);
    write_line("PANIC: nested\n");
    siglongjmp(fault_escape, 1);
}

static void fault_while_drawing(bool take_over)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    struct sigaction before;
    struct boot_framebuffer framebuffer;

    fault_bytes = 640 * 480 * 4;
    fault_pixels =
        mmap(NULL, fault_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(fault_pixels, MAP_FAILED);
    framebuffer = framebuffer_of(fault_pixels);
    assert_null(screen_init(&framebuffer));
    fault_count = 0;
    fault_takes_over = take_over;
    assert_int_equal(mprotect(fault_pixels, fault_bytes, PROT_READ), 0);
    assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
    if (sigsetjmp(fault_escape, 1) == 0)
        write_line("this line cannot be drawn\n");
    assert_int_equal(sigaction(SIGSEGV, &before, NULL), 0);
    assert_int_equal(mprotect(fault_pixels, fault_bytes, PROT_READ | PROT_WRITE), 0);
}

static bool is_blank(void)
{
    for (size_t i = 0; i < fault_bytes; i += 4) {
        if (fault_pixels[i] != (PALETTE_GROUND & 0xff))
            return false;
    }
    return true;
}

static void screen_fault_while_drawing_is_not_drawn(void **state)
{
    (void)state;
    for (int take_over = 0; take_over < 2; take_over++) {
        fault_while_drawing(take_over != 0);
        assert_int_equal(fault_count, 1); /* the handler's own line was no second fault */
        write_line("later\n");
        assert_true(is_blank());
        /* Taken over for a fault elsewhere, a screen that is up draws again. */
        screen_take_over(0);
        write_line("later\n");
        assert_int_equal(is_blank(), take_over != 0);
        munmap(fault_pixels, fault_bytes);
    }
    (void)screen_init(&(struct boot_framebuffer){ .base = NULL });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bar_is_in_proportion),
        cmocka_unit_test(bar_shows_small_ranges),
        cmocka_unit_test(bar_leaves_out_what_lies_above_memory),
        cmocka_unit_test(bar_long_holes_are_breaks),
        cmocka_unit_test(bar_long_holes_do_not_make_memory_small),
        cmocka_unit_test(bar_of_many_ranges_is_still_filled),
        cmocka_unit_test(bar_random_maps_keep_its_rules),
        cmocka_unit_test(bar_takes_recorded_maps),
        cmocka_unit_test(summary_sizes_are_short),
        cmocka_unit_test(summary_bar_is_in_proportion_on_every_surface),
        cmocka_unit_test(summary_says_what_it_should),
        cmocka_unit_test(summary_without_room_draws_nothing),
        cmocka_unit_test(summary_collects_what_mm_knows),
        cmocka_unit_test(screen_text_after_the_summary_brings_the_log_back),
        cmocka_unit_test(screen_that_is_none_or_unknown_does_nothing),
        cmocka_unit_test(screen_fault_while_drawing_is_not_drawn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
