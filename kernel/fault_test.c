/* SPDX-License-Identifier: MIT */
/* Owns the deliberate faults of mello.fault=<name>: one small function each, found by name.
 *
 * Each does one forbidden thing the way a broken kernel would. Invariants: addresses go through
 * fault_hide(), so that the compiler neither sees nor removes what is wrong with them; a trigger
 * that returns has not trapped. */
#include "kernel/fault_test.h"
#include "kernel/console.h"
#include "kernel/image.h"
#include "kernel/power.h"
#include <mm/mm.h>

#define FAULT_RET         0xc3u /* the instruction ret */
#define FAULT_STACK_BYTES 256

typedef void (*fault_code)(void);

static const struct boot_info *fault_boot;
static volatile uint8_t fault_data[16] = { FAULT_RET };
static volatile unsigned fault_zero;
static volatile unsigned fault_result;

/* The same address, of which the compiler knows nothing. */
static volatile uint8_t *fault_hide(vaddr_t address)
{
    __asm__("" : "+r"(address));
    return (volatile uint8_t *)address;
}

/* For memory that can be read. */
static void fault_write(vaddr_t address)
{
    volatile uint8_t *byte = fault_hide(address);

    *byte = *(const volatile uint8_t *)byte;
}

static void fault_read(vaddr_t address)
{
    fault_result = *fault_hide(address);
}

static void fault_execute(volatile uint8_t *code)
{
    fault_code call = (fault_code)(vaddr_t)fault_hide((vaddr_t)code);

    code[0] = FAULT_RET;
    call();
}

static void fault_write_text(void)
{
    fault_write((vaddr_t)__text_begin);
}

static void fault_write_text_hhdm(void)
{
    paddr_t text = fault_boot->kernel_phys + ((vaddr_t)__text_begin - fault_boot->kernel_virt);

    fault_write((vaddr_t)phys_to_virt(text));
}

static void fault_write_rodata(void)
{
    fault_write((vaddr_t)__rodata_begin);
}

static void fault_write_rodata_hhdm(void)
{
    paddr_t rodata = fault_boot->kernel_phys + ((vaddr_t)__rodata_begin - fault_boot->kernel_virt);

    fault_write((vaddr_t)phys_to_virt(rodata));
}

static void fault_execute_data(void)
{
    fault_execute(fault_data);
}

static void fault_execute_stack(void)
{
    volatile uint8_t code[16] = { 0 };

    fault_execute(code);
}

static void fault_execute_heap(void)
{
    uint8_t *code = kmalloc(64);

    if (code == NULL)
        return;
    fault_execute(code);
    kfree(code);
}

static void fault_execute_hhdm(void)
{
    paddr_t frame;

    if (pmm_alloc_frame(&mm_kernel()->pmm, &frame) != MM_OK)
        return;
    fault_execute(phys_to_virt(frame));
    pmm_free_frame(&mm_kernel()->pmm, frame);
}

static void fault_null(void)
{
    fault_read(0);
}

static void fault_null_write(void)
{
    *fault_hide(0) = 1;
}

/* Fills the frame and uses it after the call, so that neither is optimised away. */
static unsigned fault_descend(unsigned depth)
{
    volatile uint8_t frame[FAULT_STACK_BYTES];

    frame[0] = (uint8_t)depth;
    frame[FAULT_STACK_BYTES - 1] = frame[0];
    if (fault_zero != 0)
        return depth;
    return fault_descend(depth + 1) + frame[FAULT_STACK_BYTES - 1];
}

static void fault_stack_overflow(void)
{
    fault_result = fault_descend(0);
}

/* The guard page next to the heap, found from inside by what mm says about its addresses. */
static void fault_heap_guard(bool above)
{
    uint8_t *block = kmalloc(64);
    vaddr_t page = mm_round_down((vaddr_t)block, PAGE_SIZE);

    if (block == NULL)
        return;
    while (kvm_place_of(&mm_kernel()->kvm, page) == KVM_HEAP)
        page = above ? page + PAGE_SIZE : page - PAGE_SIZE;
    if (kvm_place_of(&mm_kernel()->kvm, page) == KVM_HEAP_GUARD)
        fault_read(above ? page : page + PAGE_SIZE - 1);
    kfree(block);
}

static void fault_heap_guard_below(void)
{
    fault_heap_guard(false);
}

static void fault_heap_guard_above(void)
{
    fault_heap_guard(true);
}

static void fault_double_free(void)
{
    void *block = kmalloc(64);

    kfree(block);
    kfree((void *)(vaddr_t)fault_hide((vaddr_t)block));
}

/* In assembly: in C a division by zero is undefined, and compilers may answer without dividing. */
static void fault_divide(void)
{
    unsigned low = 1, high = 0;

    __asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "r"(fault_zero) : "cc");
    fault_result = low;
}

static void fault_invalid_opcode(void)
{
    __asm__ volatile("ud2");
}

static void fault_breakpoint(void)
{
    __asm__ volatile("int3");
}

static const struct {
    const char *name;
    void (*trigger)(void);
} fault_table[] = {
    { "write-text", fault_write_text },
    { "write-text-hhdm", fault_write_text_hhdm },
    { "write-rodata", fault_write_rodata },
    { "write-rodata-hhdm", fault_write_rodata_hhdm },
    { "execute-data", fault_execute_data },
    { "execute-heap", fault_execute_heap },
    { "execute-stack", fault_execute_stack },
    { "execute-hhdm", fault_execute_hhdm },
    { "null", fault_null },
    { "null-write", fault_null_write },
    { "stack-overflow", fault_stack_overflow },
    { "heap-guard-below", fault_heap_guard_below },
    { "heap-guard-above", fault_heap_guard_above },
    { "double-free", fault_double_free },
    { "divide", fault_divide },
    { "ud", fault_invalid_opcode },
    { "breakpoint", fault_breakpoint },
};

#define FAULTS (sizeof(fault_table) / sizeof(fault_table[0]))

static _Noreturn void fault_test_reject(const struct mm_cmdline_word *word)
{
    char names[CONSOLE_LINE_MAX / 2];
    size_t used = 0;

    names[0] = '\0';
    for (size_t i = 0; i < FAULTS && used < sizeof(names); i++)
        used += mm_format(names + used, sizeof(names) - used, " %s", fault_table[i].name);
    console_print("ERROR: mello.fault=%.*s: no such fault; known:%s", (int)word->value_bytes,
                  word->value, names);
    power_end(POWER_PANIC);
}

_Noreturn void fault_test_run(const struct mm_cmdline_word *word, const struct boot_info *boot)
{
    fault_boot = boot;
    for (size_t i = 0; i < FAULTS; i++) {
        if (!mm_cmdline_value_is(word, fault_table[i].name))
            continue;
        fault_table[i].trigger();
        console_print("FAULT NOT TRAPPED: %s", fault_table[i].name);
        power_end(POWER_TEST_FAILED);
    }
    fault_test_reject(word);
}
