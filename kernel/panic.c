/* SPDX-License-Identifier: MIT */
/* Owns the count of failures, which makes sure that a failing report does not fail for ever.
 *
 *   first failure: the full report | second: one line, and what is kept | third: nothing, the end
 *
 * Invariants: from the first failure on the console takes no lock and interrupts are off; frame
 * pointers are followed only upwards and only on known stacks. */
#include "kernel/panic.h"
#include "arch/x86_64/cpu.h"
#include "kernel/console.h"
#include "kernel/place.h"
#include "kernel/power.h"
#include "kernel/screen/screen.h"
#include "kernel/smp.h"
#include "kernel/symbols.h"

#define PANIC_LINES_MAX   16
#define PANIC_CALLERS_MAX 8192 /* more than a stack can hold */

static unsigned panic_count;
static const char *panic_kept; /* see panic_keep() */

void panic_keep(const char *line)
{
    panic_kept = line;
}

void panic_begin(const char *what, vaddr_t where)
{
    smp_stop_others(); /* the first CPU that fails reports; the others stand still, in here too */

    unsigned before = __atomic_fetch_add(&panic_count, 1, __ATOMIC_RELAXED);
    struct boot_symbol symbol;
    bool named = before == 1 && symbols_find(where, &symbol);

    cpu_interrupts_off();
    console_take_over();
    screen_take_over(cpu_read_cr2());
    if (before == 0)
        return;
    if (before == 1 && panic_kept != NULL)
        console_print("PANIC: %s", panic_kept);
    if (before == 1)
        console_print("PANIC: %s at 0x%llx%s%s while another failure was being reported", what,
                      (unsigned long long)where, named ? " in " : "", named ? symbol.name : "");
    power_end(POWER_PANIC);
}

/* ---- Who called whom ---- */

/* Callers at one address, such as those of a recursion, are one line. */
struct panic_callers {
    vaddr_t address;  /* of the line that is not printed yet */
    unsigned repeats; /* of that address, the first one not counted */
    unsigned lines;   /* printed */
    unsigned left_out;
};

static void panic_print_caller(struct panic_callers *callers)
{
    char text[PLACE_TEXT_MAX], more[40] = "";

    if (callers->lines >= PANIC_LINES_MAX) {
        callers->left_out += callers->repeats + 1;
        return;
    }
    place_describe_return(callers->address, text);
    if (callers->repeats > 0)
        (void)mm_format(more, sizeof(more), ", %u times", callers->repeats + 1);
    console_print("  called from 0x%016llx: %s%s", (unsigned long long)callers->address, text,
                  more);
    callers->lines++;
}

static void panic_add_caller(struct panic_callers *callers, vaddr_t address)
{
    if (callers->address == address) {
        callers->repeats++;
        return;
    }
    if (callers->address != 0)
        panic_print_caller(callers);
    callers->address = address;
    callers->repeats = 0;
}

/* Each frame begins with the caller's frame pointer, then the address of the return. Callers lie
 * higher on the stack, so a chain that does not rise is broken; 0 is its end (entry.S). Returns the
 * frame pointer at which it ended. */
static uint64_t panic_follow_frames(uint64_t frame_pointer, struct panic_callers *callers)
{
    for (unsigned i = 0; i < PANIC_CALLERS_MAX; i++) {
        const uint64_t *link = (const uint64_t *)frame_pointer;

        if (frame_pointer % sizeof(uint64_t) != 0 ||
            !place_is_on_stack(frame_pointer, 2 * sizeof(uint64_t)) || !place_is_text(link[1]))
            break;
        panic_add_caller(callers, link[1]);
        if (link[0] <= frame_pointer)
            return link[0];
        frame_pointer = link[0];
    }
    return frame_pointer;
}

void panic_print_callers(vaddr_t return_address, uint64_t frame_pointer)
{
    struct panic_callers callers = { .address = return_address };
    uint64_t end = panic_follow_frames(frame_pointer, &callers);

    if (callers.address != 0)
        panic_print_caller(&callers);
    if (callers.left_out > 0)
        console_print("  and %u callers more", callers.left_out);
    if (end != 0)
        console_print("  callers end here: frame pointer 0x%llx leads to no caller",
                      (unsigned long long)end);
}

_Noreturn void panic(const char *format, ...)
{
    char text[CONSOLE_LINE_MAX - 16];
    va_list arguments;

    panic_begin("panic", (vaddr_t)__builtin_return_address(0));
    va_start(arguments, format);
    (void)mm_vformat(text, sizeof(text), format, arguments);
    va_end(arguments);
    console_print("PANIC: %s", text);
    panic_print_callers(0, (uint64_t)__builtin_frame_address(0));
    power_end(POWER_PANIC);
}
