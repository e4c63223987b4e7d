/* SPDX-License-Identifier: MIT */
/* Owns the list of outputs and the lock that keeps lines whole.
 *
 *   console_print, console_log -> console_write_line -> every sink of console_sinks
 *
 * A further output is one more row of console_sinks. Invariants: a line goes out in one
 * piece, with its newline; colour sequences enclose the text and never the newline, so that a line
 * reads the same with them taken out. */
#include "kernel/console.h"
#include "arch/x86_64/serial.h"
#include "kernel/screen/screen.h"

struct console_sink {
    bool (*init)(void); /* NULL: comes up later, on its own (main.c) */
    void (*write)(const char *bytes, size_t count);
};

static const struct console_sink console_sinks[] = {
    { serial_init, serial_write },
    { NULL, screen_write },
};

#define CONSOLE_SINKS (sizeof(console_sinks) / sizeof(console_sinks[0]))

static const char *const console_colours[] = {
    [MM_LOG_ERROR] = "\033[31m", /* red */
    [MM_LOG_INFO] = "\033[32m",  /* green */
    [MM_LOG_DEBUG] = "\033[90m", /* grey */
};

static struct mm_port_lock console_lock;
static bool console_lock_off;
static bool console_in_line; /* a line was begun; atomic: a failure looks at it from outside */
static bool console_colour;

void console_init(void)
{
    for (size_t i = 0; i < CONSOLE_SINKS; i++) {
        if (console_sinks[i].init != NULL)
            (void)console_sinks[i].init(); /* a sink that is not there ignores what is written */
    }
}

void console_set_colour(bool on)
{
    console_colour = on;
}

static void console_write(const char *text)
{
    size_t count = 0;

    while (text[count] != '\0')
        count++;
    for (size_t i = 0; i < CONSOLE_SINKS; i++)
        console_sinks[i].write(text, count);
}

static void console_write_line(const char *before, const char *line, const char *after)
{
    bool locked = !console_lock_off;
    uint64_t saved = locked ? mm_port_lock(&console_lock) : 0;

    __atomic_store_n(&console_in_line, true, __ATOMIC_RELAXED);
    console_write(before);
    console_write(line);
    console_write(after);
    console_write("\n");
    __atomic_store_n(&console_in_line, false, __ATOMIC_RELAXED);
    if (locked)
        mm_port_unlock(&console_lock, saved);
}

void console_take_over(void)
{
    console_lock_off = true;
    if (__atomic_exchange_n(&console_in_line, false, __ATOMIC_RELAXED))
        console_write("\n"); /* the report begins on a line of its own */
}

void console_print_text(const char *line)
{
    console_write_line("", line, "");
}

void console_print(const char *format, ...)
{
    char line[CONSOLE_LINE_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)mm_vformat(line, sizeof(line), format, arguments);
    va_end(arguments);
    console_print_text(line);
}

void console_log(enum mm_log_level level, const char *line)
{
    if (console_colour && (unsigned)level < sizeof(console_colours) / sizeof(console_colours[0]))
        console_write_line(console_colours[level], line, "\033[0m");
    else
        console_print_text(line);
}
