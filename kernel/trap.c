/* SPDX-License-Identifier: MIT */
/* Owns the report of an exception: what, where, whose page, which rights; then the end.
 *
 *   PANIC: #PF page fault (vector 14), error code 0x2: write to a non-present page
 *     address 0x...: kernel text
 *     rip 0x...: kernel text
 *     rsp 0x...: the boot stack
 *     registers, then the callers along the frame pointers
 *
 * Invariants: nothing is read through a pointer of the failed code but frame pointers that lie on
 * a known stack; a failure inside the report ends in panic_begin(). Sources: SDM vol. 3, 4.7,
 * 6.13, 6.15, table 6-1; AMD APM vol. 2, table 8-1. */
#include "kernel/trap.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/gdt.h"
#include "arch/x86_64/idt.h"
#include "kernel/console.h"
#include "kernel/image.h"
#include "kernel/panic.h"
#include "kernel/place.h"
#include "kernel/power.h"

#define TRAP_TEXT_MAX 160

static const char *const trap_names[TRAP_EXCEPTIONS] = {
    [0] = "#DE divide error",
    [1] = "#DB debug exception",
    [2] = "NMI non-maskable interrupt",
    [3] = "#BP breakpoint",
    [4] = "#OF overflow",
    [5] = "#BR bound range exceeded",
    [6] = "#UD invalid opcode",
    [7] = "#NM device not available",
    [8] = "#DF double fault",
    [10] = "#TS invalid task state segment",
    [11] = "#NP segment not present",
    [12] = "#SS stack segment fault",
    [13] = "#GP general protection fault",
    [14] = "#PF page fault",
    [16] = "#MF x87 floating-point error",
    [17] = "#AC alignment check",
    [18] = "#MC machine check",
    [19] = "#XM SIMD floating-point exception",
    [20] = "#VE virtualization exception",
    [21] = "#CP control protection exception",
    [28] = "#HV hypervisor injection exception",
    [29] = "#VC VMM communication exception",
    [30] = "#SX security exception",
};

void trap_init(void)
{
    const uint64_t stack_tops[GDT_IST_COUNT] = {
        [GDT_IST_DOUBLE_FAULT] = (uint64_t)__double_fault_stack_end,
        [GDT_IST_NMI] = (uint64_t)__nmi_stack_end,
        [GDT_IST_MACHINE_CHECK] = (uint64_t)__machine_check_stack_end,
    };

    gdt_init(stack_tops);
    idt_init();
}

static const char *trap_name(uint64_t vector)
{
    if (vector >= TRAP_EXCEPTIONS)
        return "unexpected interrupt";
    return trap_names[vector] != NULL ? trap_names[vector] : "reserved exception";
}

/* Only a page fault says where: CR2. On a double fault CR2 still holds the address of the page
 * fault that could not be delivered. */
static bool trap_has_address(const struct trap_frame *frame)
{
    return frame->vector == TRAP_PAGE_FAULT || frame->vector == TRAP_DOUBLE_FAULT;
}

static bool trap_is_stack_overflow(const struct trap_frame *frame)
{
    return trap_has_address(frame) &&
           (place_is_stack_overflow(cpu_read_cr2()) || place_is_stack_overflow(frame->rsp));
}

/* ---- Error codes in words ---- */

static void trap_describe_page_fault(uint64_t error, char *text)
{
    const char *what = (error & TRAP_PF_FETCH) != 0   ? "instruction fetch from"
                       : (error & TRAP_PF_WRITE) != 0 ? "write to"
                                                      : "read of";
    bool present = (error & TRAP_PF_PRESENT) != 0;
    const char *why = (error & TRAP_PF_RESERVED) != 0 ? " (reserved bit set in a page table entry)"
                      : present                       ? " (protection violation)"
                                                      : "";

    (void)mm_format(text, TRAP_TEXT_MAX, "%s a %s page%s%s", what,
                    present ? "present" : "non-present", why,
                    (error & TRAP_PF_USER) != 0 ? ", in user mode" : "");
}

static void trap_describe_selector(uint64_t error, char *text)
{
    const char *table = (error & 2) != 0 ? "IDT" : (error & 4) != 0 ? "LDT" : "GDT";

    if (error == 0)
        (void)mm_format(text, TRAP_TEXT_MAX, "no segment involved");
    else
        (void)mm_format(text, TRAP_TEXT_MAX, "entry %llu of the %s%s",
                        (unsigned long long)(error >> 3 & 0x1fff), table,
                        (error & 1) != 0 ? ", external event" : "");
}

static void trap_describe_error(const struct trap_frame *frame, char *text)
{
    text[0] = '\0';
    if (frame->vector == TRAP_PAGE_FAULT)
        trap_describe_page_fault(frame->error, text);
    else if (frame->vector >= 10 && frame->vector <= TRAP_GENERAL_PROTECTION)
        trap_describe_selector(frame->error, text);
    else if (frame->vector == TRAP_DOUBLE_FAULT && trap_is_stack_overflow(frame))
        (void)mm_format(text, TRAP_TEXT_MAX, "stack overflow");
}

/* ---- The report ---- */

static void trap_print_head(const struct trap_frame *frame)
{
    char text[TRAP_TEXT_MAX];

    trap_describe_error(frame, text);
    console_print("PANIC: %s (vector %llu), error code 0x%llx%s%s", trap_name(frame->vector),
                  (unsigned long long)frame->vector, (unsigned long long)frame->error,
                  text[0] != '\0' ? ": " : "", text);
}

static void trap_print_address(const char *name, vaddr_t address)
{
    char text[PLACE_TEXT_MAX];

    place_describe(address, text);
    console_print("  %s 0x%016llx: %s", name, (unsigned long long)address, text);
}

/* The frame lies on the stack that the report runs on; the double fault, NMI and machine check
 * have stacks of their own. */
static void trap_print_own_stack(const struct trap_frame *frame)
{
    char text[PLACE_TEXT_MAX];

    if (frame->vector != TRAP_DOUBLE_FAULT && frame->vector != TRAP_NMI &&
        frame->vector != TRAP_MACHINE_CHECK)
        return;
    place_describe((vaddr_t)frame, text);
    console_print("  reported from %s", text);
}

static void trap_print_three(const char *a, uint64_t a_value, const char *b, uint64_t b_value,
                             const char *c, uint64_t c_value)
{
    console_print("  %s 0x%016llx  %s 0x%016llx  %s 0x%016llx", a, (unsigned long long)a_value, b,
                  (unsigned long long)b_value, c, (unsigned long long)c_value);
}

static void trap_print_registers(const struct trap_frame *frame)
{
    trap_print_three("rax", frame->rax, "rbx", frame->rbx, "rcx", frame->rcx);
    trap_print_three("rdx", frame->rdx, "rsi", frame->rsi, "rdi", frame->rdi);
    trap_print_three("rbp", frame->rbp, "r8 ", frame->r8, "r9 ", frame->r9);
    trap_print_three("r10", frame->r10, "r11", frame->r11, "r12", frame->r12);
    trap_print_three("r13", frame->r13, "r14", frame->r14, "r15", frame->r15);
    console_print("  cs 0x%llx  ss 0x%llx  rflags 0x%llx", (unsigned long long)frame->cs,
                  (unsigned long long)frame->ss, (unsigned long long)frame->rflags);
    trap_print_three("cr0", mm_port_read_cr(0), "cr2", cpu_read_cr2(), "cr3", mm_port_read_cr(3));
    console_print("  cr4 0x%016llx", (unsigned long long)mm_port_read_cr(4));
}

_Noreturn void trap_handle(const struct trap_frame *frame)
{
    panic_begin(trap_name(frame->vector), frame->rip);
    trap_print_head(frame);
    if (trap_has_address(frame))
        trap_print_address("address", cpu_read_cr2());
    trap_print_address("rip", frame->rip);
    trap_print_address("rsp", frame->rsp);
    trap_print_own_stack(frame);
    trap_print_registers(frame);
    panic_print_callers(frame->rbp);
    power_end(POWER_PANIC);
}
