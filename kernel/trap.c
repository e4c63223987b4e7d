/* SPDX-License-Identifier: MIT */
/* Owns the report of an exception: what, where, whose page, which rights; then the end.
 *
 *   PANIC: write to 0x18: null + 0x18
 *     #PF page fault (vector 14), error code 0x2: write to a non-present page
 *     rip 0x...: text of function fault_write + 0x12
 *     rsp 0x...: the boot stack, 312 bytes below its top
 *     on CPU 2 of 4 (where there are several)
 *     registers, then the callers along the frame pointers, by name
 *     page tables of 0x...: one entry per level
 *     the window, the frame with its owner, the blocks around, where mm knows them
 *
 * and of the answer to a page fault in a window that is filled on demand (paging_watch()).
 *
 * Invariants: CR2 is read first, because a failure inside the report would change it; page tables,
 * which are the likeliest to be broken, are printed last (and read before where SMEP or SMAP may be the
 * reason); nothing is read through a pointer of the
 * failed code but frame pointers and a return address, on a known stack; a failure inside the
 * report ends in panic_begin(). Sources: SDM vol. 3, 4.7, 6.13, 6.15, table 6-1; AMD APM vol. 2,
 * table 8-1. */
#include "kernel/trap.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/gdt.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/interrupt.h"
#include "kernel/console.h"
#include "kernel/image.h"
#include "kernel/panic.h"
#include "kernel/place.h"
#include "kernel/power.h"
#include "kernel/smp.h"
#include "kernel/symbols.h"
#include "kernel/walk.h"
#include <mm/explain.h>
#include <mm/paging.h>

#define TRAP_TEXT_MAX  160
#define TRAP_LINE_MAX  (TRAP_TEXT_MAX + 80)
#define TRAP_RFLAGS_IF ((uint64_t)1 << 9)
#define TRAP_RFLAGS_AC ((uint64_t)1 << 18)
#define TRAP_CR4_SMEP  ((uint64_t)1 << 20)
#define TRAP_CR4_SMAP  ((uint64_t)1 << 21)

/* One failure: the state that the CPU left, and the address that CR2 held then. */
struct trap_report {
    const struct trap_frame *frame;
    vaddr_t cr2;
};

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

static void trap_on_page_fault(const struct trap_frame *frame);

MM_INIT void trap_init(void)
{
    const uint64_t stack_tops[GDT_IST_COUNT] = {
        [GDT_IST_DOUBLE_FAULT] = (uint64_t)__double_fault_stack_end,
        [GDT_IST_NMI] = (uint64_t)__nmi_stack_end,
        [GDT_IST_MACHINE_CHECK] = (uint64_t)__machine_check_stack_end,
    };

    gdt_init(stack_tops);
    idt_init();
    interrupt_set_handler(TRAP_PAGE_FAULT, trap_on_page_fault);
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

static bool trap_has_error_code(const struct trap_frame *frame)
{
    return frame->vector < TRAP_EXCEPTIONS && (TRAP_ERROR_CODES >> frame->vector & 1) != 0;
}

static bool trap_is_stack_overflow(const struct trap_report *report)
{
    return trap_has_address(report->frame) &&
           (place_is_stack_overflow(report->cr2) || place_is_stack_overflow(report->frame->rsp));
}

/* ---- Error codes in words ---- */

/* "SMAP" or "SMEP" if that is why the CPU refused a page of user code to the kernel (SDM vol. 3,
 * 4.6.1); else NULL. The error code does not tell, so the page tables are asked. */
static const char *trap_find_user_guard(const struct trap_report *report)
{
    uint64_t error = report->frame->error;
    bool is_fetch = (error & TRAP_PF_FETCH) != 0;
    bool is_let_in = !is_fetch && (report->frame->rflags & TRAP_RFLAGS_AC) != 0;

    if ((error & (TRAP_PF_PRESENT | TRAP_PF_RESERVED | TRAP_PF_USER)) != TRAP_PF_PRESENT ||
        is_let_in || (mm_port_read_cr(4) & (is_fetch ? TRAP_CR4_SMEP : TRAP_CR4_SMAP)) == 0 ||
        !walk_is_user_page(report->cr2))
        return NULL;
    return is_fetch ? "SMEP" : "SMAP";
}

static void trap_describe_page_fault(const struct trap_report *report, const char *guard,
                                     char *text)
{
    uint64_t error = report->frame->error;
    const char *what = mm_explain_access(error);
    const char *state = (error & TRAP_PF_RESERVED) != 0  ? "page with a reserved bit set"
                        : (error & TRAP_PF_PRESENT) != 0 ? "present page"
                                                         : "non-present page";
    bool forbidden = (error & (TRAP_PF_PRESENT | TRAP_PF_RESERVED)) == TRAP_PF_PRESENT;

    if (guard != NULL)
        (void)mm_format(text, TRAP_TEXT_MAX, "%s a user page in kernel mode (%s)", what, guard);
    else
        (void)mm_format(text, TRAP_TEXT_MAX, "%s a %s%s%s", what, state,
                        forbidden ? " (protection violation)" : "",
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

static void trap_describe_error(const struct trap_report *report, const char *guard, char *text)
{
    uint64_t vector = report->frame->vector;

    text[0] = '\0';
    if (vector == TRAP_PAGE_FAULT)
        trap_describe_page_fault(report, guard, text);
    else if (vector >= TRAP_INVALID_TSS && vector <= TRAP_GENERAL_PROTECTION)
        trap_describe_selector(report->frame->error, text);
    else if (vector == TRAP_DOUBLE_FAULT && trap_is_stack_overflow(report))
        (void)mm_format(text, TRAP_TEXT_MAX, "stack overflow");
}

/* "#PF page fault (vector 14), error code 0x2: write to a non-present page" */
static void trap_describe_exception(const struct trap_report *report, const char *guard,
                                    char line[TRAP_LINE_MAX])
{
    const struct trap_frame *frame = report->frame;
    char text[TRAP_TEXT_MAX], error[40] = "no error code";

    trap_describe_error(report, guard, text);
    if (trap_has_error_code(frame))
        (void)mm_format(error, sizeof(error), "error code 0x%llx",
                        (unsigned long long)frame->error);
    (void)mm_format(line, TRAP_LINE_MAX, "%s (vector %llu), %s%s%s", trap_name(frame->vector),
                    (unsigned long long)frame->vector, error, text[0] != '\0' ? ": " : "", text);
}

/* ---- The report ---- */

/* True if it is known which access failed: CR2 is that of a page fault, or of the one that found no
 * stack to be delivered on. */
static bool trap_is_access(const struct trap_report *report)
{
    return report->frame->vector == TRAP_PAGE_FAULT ||
           (report->frame->vector == TRAP_DOUBLE_FAULT && place_is_stack_overflow(report->cr2));
}

static void trap_describe_access(const struct trap_report *report, char text[PLACE_FAULT_MAX])
{
    char place[PLACE_TEXT_MAX];

    if (report->frame->vector == TRAP_PAGE_FAULT) {
        place_describe_fault(report->cr2, report->frame->error, text);
        return;
    }
    place_describe(report->cr2, place);
    (void)mm_format(text, PLACE_FAULT_MAX, "access to 0x%llx: %s", (unsigned long long)report->cr2,
                    place);
}

/* What failed, in one sentence, then what the CPU says. The sentence takes a look at mm's structures, which
 * may fail in turn: then what the CPU says is not lost. */
static void trap_print_head(const struct trap_report *report)
{
    char line[TRAP_LINE_MAX], access[PLACE_FAULT_MAX];

    trap_describe_exception(report, NULL, line);
    panic_keep(line);
    if (trap_is_access(report)) {
        trap_describe_access(report, access);
        console_print("PANIC: %s", access);
        trap_describe_exception(report, trap_find_user_guard(report), line);
        console_print("  %s", line);
    } else {
        console_print("PANIC: %s", line);
    }
    panic_keep(NULL);
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

static void trap_print_registers(const struct trap_report *report)
{
    const struct trap_frame *frame = report->frame;

    trap_print_three("rax", frame->rax, "rbx", frame->rbx, "rcx", frame->rcx);
    trap_print_three("rdx", frame->rdx, "rsi", frame->rsi, "rdi", frame->rdi);
    trap_print_three("rbp", frame->rbp, "r8 ", frame->r8, "r9 ", frame->r9);
    trap_print_three("r10", frame->r10, "r11", frame->r11, "r12", frame->r12);
    trap_print_three("r13", frame->r13, "r14", frame->r14, "r15", frame->r15);
    console_print("  cs 0x%llx  ss 0x%llx  rflags 0x%llx", (unsigned long long)frame->cs,
                  (unsigned long long)frame->ss, (unsigned long long)frame->rflags);
    trap_print_three("cr0", mm_port_read_cr(0), "cr2", report->cr2, "cr3", mm_port_read_cr(3));
    console_print("  cr4 0x%016llx", (unsigned long long)mm_port_read_cr(4));
}

/* An access through an address that is not canonical is #GP, through RSP or RBP #SS, and neither says
 * which address it was (SDM vol. 3, 6.15): so the registers that hold such a value are named. */
static void trap_print_suspects(const struct trap_frame *frame)
{
    const struct {
        const char *name;
        uint64_t value;
    } registers[] = {
        { "rax", frame->rax }, { "rbx", frame->rbx }, { "rcx", frame->rcx }, { "rdx", frame->rdx },
        { "rsi", frame->rsi }, { "rdi", frame->rdi }, { "rbp", frame->rbp }, { "rsp", frame->rsp },
        { "r8", frame->r8 },   { "r9", frame->r9 },   { "r10", frame->r10 }, { "r11", frame->r11 },
        { "r12", frame->r12 }, { "r13", frame->r13 }, { "r14", frame->r14 }, { "r15", frame->r15 },
    };
    unsigned levels = mm_cpu_features().levels;

    if ((frame->vector != TRAP_GENERAL_PROTECTION && frame->vector != TRAP_STACK_SEGMENT) ||
        frame->error != 0)
        return;
    for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
        if (!paging_is_canonical(registers[i].value, levels))
            console_print("  suspect: %s 0x%016llx is not canonical", registers[i].name,
                          (unsigned long long)registers[i].value);
    }
}

/* ---- The caller of a function without a frame ---- */

/* True if the instruction before the address is a call: E8 with 4 bytes of distance, or FF /2 in one
 * of its lengths (SDM vol. 2, CALL). */
static bool trap_is_after_call(vaddr_t address)
{
    static const int lengths[] = { 2, 3, 4, 6, 7 };
    const uint8_t *after = (const uint8_t *)address;

    if (!place_is_text(address) || !place_is_text(address - 7))
        return false;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        if (after[-lengths[i]] == 0xff && (after[1 - lengths[i]] & 0x38) == 0x10)
            return true;
    }
    return after[-5] == 0xe8;
}

/* Functions that call nobody may keep no frame; others begin with PUSH RBP (0x55). */
static bool trap_has_frame(vaddr_t rip)
{
    struct boot_symbol function;

    return place_is_text(rip) && symbols_find(rip, &function) && rip > function.begin &&
           *(const uint8_t *)function.begin == 0x55;
}

/* The return address where there is no frame: in a function that keeps none or has not made it yet,
 * and after a jump to where no code is, it lies on top of the stack. 0 if there is none. */
static vaddr_t trap_bare_return_address(const struct trap_frame *frame)
{
    vaddr_t top = frame->rsp;

    if (trap_has_frame(frame->rip) || top % sizeof(uint64_t) != 0 ||
        !place_is_on_stack(top, sizeof(uint64_t)) || !trap_is_after_call(*(const vaddr_t *)top))
        return 0;
    return *(const vaddr_t *)top;
}

/* What mm knows besides; the tables were printed already, as the CPU walks them. */
static void trap_print_known(void *unused, const char *line)
{
    static const char tables[] = "page tables:";

    (void)unused;
    if (memcmp(line, tables, sizeof(tables) - 1) != 0)
        console_print("  %s", line);
}

static _Noreturn void trap_end(const struct trap_frame *frame, vaddr_t cr2)
{
    struct trap_report report = { frame, cr2 };

    panic_begin(trap_name(frame->vector), frame->rip);
    trap_print_head(&report);
    if (trap_has_address(frame) && !trap_is_access(&report))
        trap_print_address("address", report.cr2);
    trap_print_address("rip", frame->rip);
    trap_print_address("rsp", frame->rsp);
    trap_print_own_stack(frame);
    if (smp_cpu_count() > 1)
        console_print("  on CPU %u of %u", smp_cpu_number(), smp_cpu_count());
    trap_print_suspects(frame);
    trap_print_registers(&report);
    panic_print_callers(trap_bare_return_address(frame), frame->rbp);
    if (trap_has_address(frame)) {
        walk_print(report.cr2);
        mm_explain_more(mm_kernel(), report.cr2, trap_print_known, NULL);
    }
    power_end(POWER_PANIC);
}

_Noreturn void trap_handle(const struct trap_frame *frame)
{
    trap_end(frame, cpu_read_cr2());
}

/* ---- Faults that are answered ---- */

/* Code that had interrupts off may hold a lock of mm, and in an NMI handler mm must not be called: their
 * faults are failures. Interrupts stay off here. */
static void trap_on_page_fault(const struct trap_frame *frame)
{
    vaddr_t cr2 = cpu_read_cr2();

    if ((frame->rflags & TRAP_RFLAGS_IF) == 0 || mm_port_cpu_slot() == MM_PORT_NO_SLOT ||
        !paging_fault(&mm_kernel()->kernel_space, cr2, frame->error))
        trap_end(frame, cr2);
}
