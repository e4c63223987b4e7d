/* SPDX-License-Identifier: MIT */
/* The loader's voice: lines that begin with "[loader] " on COM1, and the one way to stop. The line
 * that says why it stops is shown on the screen too.
 *
 * The 16550 is polled; every wait is bounded, so that a machine without the port boots in silence
 * instead of hanging. isa-debug-exit belongs to QEMU's test set-up: its port is touched only when
 * the kernel's command line asks for it, because on other machines 0xf4 may be anything. */
#include "loader/print.h"

#include <stdarg.h>

#include "loader/cpu.h"
#include "loader/screen.h"

#define COM1              0x3f8
#define UART_DATA         (COM1 + 0)
#define UART_INTERRUPTS   (COM1 + 1)
#define UART_FIFO         (COM1 + 2)
#define UART_LINE         (COM1 + 3)
#define UART_MODEM        (COM1 + 4)
#define UART_STATUS       (COM1 + 5)
#define UART_STATUS_EMPTY 0x20
#define UART_WAIT_READS   100000

#define DEBUG_EXIT_PORT   0xf4
#define DEBUG_EXIT_HALTED 0x12

static bool fail_exits_qemu;
static bool failing; /* from here on the screen shows what is printed */

void print_init(void)
{
    cpu_out8(UART_INTERRUPTS, 0);
    cpu_out8(UART_LINE, 0x80); /* divisor latch: 115200 / 1 */
    cpu_out8(UART_DATA, 1);
    cpu_out8(UART_INTERRUPTS, 0);
    cpu_out8(UART_LINE, 0x03); /* 8 bits, no parity, one stop bit */
    cpu_out8(UART_FIFO, 0x01); /* on; what the firmware left in it may still drain */
    cpu_out8(UART_MODEM, 0x03);
}

void print_fail_exits_qemu(void)
{
    fail_exits_qemu = true;
}

static void print_char(char c)
{
    for (unsigned i = 0; i < UART_WAIT_READS; i++) {
        if ((cpu_in8(UART_STATUS) & UART_STATUS_EMPTY) != 0) {
            break;
        }
    }
    cpu_out8(UART_DATA, (uint8_t)c);
    if (failing) {
        screen_char(c);
    }
}

static void print_text(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n') {
            print_char('\r');
        }
        print_char(*text);
    }
}

static void print_number(uint64_t value, unsigned radix)
{
    char digits[21];
    size_t at = sizeof digits;

    digits[--at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[value % radix];
        value /= radix;
    } while (value != 0);
    print_text(&digits[at]);
}

/* One conversion; `format` points behind the '%'. Returns its last character. */
static const char *print_conversion(const char *format, va_list *args)
{
    bool prefix = false, is_long = false;

    for (;; format++) {
        if (*format == '#') {
            prefix = true;
        } else if (*format == 'l') {
            is_long = true;
        } else {
            break;
        }
    }
    if (*format == 's') {
        print_text(va_arg(*args, const char *));
    } else if (*format == 'c') {
        print_char((char)va_arg(*args, int));
    } else if (*format == 'u' || *format == 'x') {
        print_text(prefix ? "0x" : "");
        print_number(is_long ? va_arg(*args, unsigned long) : va_arg(*args, unsigned),
                     *format == 'x' ? 16 : 10);
    } else {
        print_char(*format);
    }
    return format;
}

static void print_formatted(const char *format, va_list *args)
{
    for (; *format != '\0'; format++) {
        if (*format == '%') {
            format = print_conversion(format + 1, args);
        } else {
            print_char(*format);
        }
    }
    print_text("\n");
}

void print_line(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print_text("[loader] ");
    print_formatted(format, &args);
    va_end(args);
}

_Noreturn void print_fail(const char *format, ...)
{
    va_list args;

    failing = true;
    va_start(args, format);
    print_text("[loader] ERROR: ");
    print_formatted(format, &args);
    va_end(args);
    if (fail_exits_qemu) {
        cpu_out8(DEBUG_EXIT_PORT, DEBUG_EXIT_HALTED);
    }
    cpu_halt();
}
