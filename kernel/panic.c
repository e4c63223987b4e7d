/* SPDX-License-Identifier: MIT */
/* Owns the count of failures, which makes sure that a failing report does not fail for ever.
 *
 *   first failure: the full report | second: one line | third: nothing, the end
 *
 * Invariant: from the first failure on the console takes no lock and interrupts are off. */
#include "kernel/panic.h"
#include "arch/x86_64/cpu.h"
#include "kernel/console.h"
#include "kernel/place.h"
#include "kernel/power.h"

#define PANIC_CALLERS_MAX 16

static unsigned panic_count;

void panic_begin(const char *what, vaddr_t where)
{
    unsigned before = __atomic_fetch_add(&panic_count, 1, __ATOMIC_RELAXED);

    cpu_interrupts_off();
    console_take_over();
    if (before == 0)
        return;
    if (before == 1)
        console_print("PANIC: %s at 0x%llx while another failure was being reported", what,
                      (unsigned long long)where);
    power_end(POWER_PANIC);
}

/* Each frame begins with the caller's frame pointer, then the address of the return. Callers lie
 * higher on the stack, so a chain that does not rise is broken. */
void panic_print_callers(uint64_t frame_pointer)
{
    for (unsigned i = 0; i < PANIC_CALLERS_MAX; i++) {
        const uint64_t *link = (const uint64_t *)frame_pointer;

        if (frame_pointer % sizeof(uint64_t) != 0 ||
            !place_is_on_stack(frame_pointer, 2 * sizeof(uint64_t)) || !place_is_text(link[1]))
            return;
        console_print("  called from 0x%016llx", (unsigned long long)link[1]);
        if (link[0] <= frame_pointer)
            return;
        frame_pointer = link[0];
    }
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
    panic_print_callers((uint64_t)__builtin_frame_address(0));
    power_end(POWER_PANIC);
}
