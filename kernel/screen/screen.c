/* SPDX-License-Identifier: MIT */
/* Owns the one screen of the kernel and what it shows at the moment: the log, or the summary.
 *
 *   console -> screen_write -> terminal --+--> surface
 *   main -> screen_show_summary ----------+
 *
 * No lock and no memory but its own, so that a failure report from any handler can be drawn.
 * Invariants: while `busy`, somebody is drawing, and who comes in between does not; the log's cells
 * are kept while the summary is shown. */
#include "kernel/screen/screen.h"
#include "kernel/screen/summary.h"
#include "kernel/screen/terminal.h"

#define SCREEN_SIDE_MAX 32768u /* pixels; more is no screen but a mistake */

static struct {
    bool up;
    bool busy;
    bool shows_summary;
    struct terminal terminal;
} screen;

static const char *screen_read_surface(struct surface *surface,
                                       const struct boot_framebuffer *framebuffer)
{
    if (!framebuffer->is_rgb)
        return "its pixels are not red, green and blue";
    if (framebuffer->width > SCREEN_SIDE_MAX || framebuffer->height > SCREEN_SIDE_MAX ||
        framebuffer->pitch > SCREEN_SIDE_MAX * 16)
        return "its size cannot be true";
    surface->base = framebuffer->base;
    surface->width = (uint32_t)framebuffer->width;
    surface->height = (uint32_t)framebuffer->height;
    surface->pitch = framebuffer->pitch;
    surface->red = (struct surface_channel){ framebuffer->red_bits, framebuffer->red_shift };
    surface->green = (struct surface_channel){ framebuffer->green_bits, framebuffer->green_shift };
    surface->blue = (struct surface_channel){ framebuffer->blue_bits, framebuffer->blue_shift };
    return surface_check(surface, framebuffer->bits_per_pixel);
}

const char *screen_init(const struct boot_framebuffer *framebuffer)
{
    struct surface surface;
    const char *problem;

    screen.up = false;
    screen.shows_summary = false;
    if (framebuffer->base == NULL)
        return NULL;
    problem = screen_read_surface(&surface, framebuffer);
    if (problem != NULL)
        return problem;
    if (!terminal_init(&screen.terminal, &surface))
        return "it is too small";
    screen.up = true;
    return NULL;
}

static bool screen_enter(void)
{
    return screen.up && !__atomic_exchange_n(&screen.busy, true, __ATOMIC_ACQUIRE);
}

static void screen_leave(void)
{
    __atomic_store_n(&screen.busy, false, __ATOMIC_RELEASE);
}

void screen_write(const char *bytes, size_t count)
{
    if (count == 0 || !screen_enter())
        return;
    if (screen.shows_summary) {
        screen.shows_summary = false;
        terminal_redraw(&screen.terminal);
    }
    terminal_write(&screen.terminal, bytes, count);
    screen_leave();
}

static bool screen_holds(vaddr_t address)
{
    const struct surface *surface = &screen.terminal.surface;
    vaddr_t base = (vaddr_t)surface->base;

    return address >= base && address - base < surface->pitch * surface->height;
}

void screen_take_over(vaddr_t address)
{
    if (!screen.up)
        return;
    if (screen_holds(address)) {
        screen.up = false;
        return;
    }
    terminal_drop_line(&screen.terminal);
    screen_leave();
}

void screen_show_summary(struct mm *mm, struct mm_test_result tests, unsigned cpus)
{
    struct summary summary;

    if (!screen_enter())
        return;
    summary_collect(&summary, mm, tests, cpus);
    if (summary_draw(&summary, &screen.terminal.surface))
        screen.shows_summary = true;
    screen_leave();
}
