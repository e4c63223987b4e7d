/* SPDX-License-Identifier: MIT */
/* Owns the deliberate faults of mello.fault=<name>: one small function each, found by name.
 *
 * Each does one forbidden thing the way a broken kernel would. Invariants: addresses go through
 * fault_hide(), so that the compiler neither sees nor removes what is wrong with them; a trigger
 * that returns has not trapped. */
#include "kernel/fault_test.h"
#include "arch/x86_64/apic.h"
#include "arch/x86_64/interrupt.h"
#include "arch/x86_64/patience.h"
#include "kernel/console.h"
#include "kernel/image.h"
#include "kernel/panic.h"
#include "kernel/power.h"
#include "kernel/smp.h"
#include "kernel/walk.h"
#include <mm/mm.h>

#define FAULT_RET         0xc3u /* the instruction ret */
#define FAULT_STACK_BYTES 256
#define FAULT_PAGE        MM_MIB(4)           /* in the lower half, which is empty */
#define FAULT_STRANGE     0x0123456789abcdefu /* no address */
#define FAULT_WAIT_MS     1000u
#define FAULT_BUSY_LINES  10u
#define FAULT_VALUE_MAX   64                  /* characters of an unknown name that are shown */
#define FAULT_NAMES_MAX   1536                /* a line with all names */
#define FAULT_RESERVED    ((uint64_t)1 << 51) /* beyond MAXPHYADDR, where that is below 52 */

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

static void fault_call(vaddr_t address)
{
    fault_code call = (fault_code)(vaddr_t)fault_hide(address);

    call();
}

static void fault_execute(volatile uint8_t *code)
{
    code[0] = FAULT_RET;
    fault_call((vaddr_t)code);
}

static paddr_t fault_phys(const char *image)
{
    return fault_boot->kernel_phys + ((vaddr_t)image - fault_boot->kernel_virt);
}

static void fault_write_text(void)
{
    fault_write((vaddr_t)__text_begin);
}

static void fault_write_text_hhdm(void)
{
    fault_write((vaddr_t)phys_to_virt(fault_phys(__text_begin)));
}

static void fault_write_rodata(void)
{
    fault_write((vaddr_t)__rodata_begin);
}

static void fault_write_rodata_hhdm(void)
{
    fault_write((vaddr_t)phys_to_virt(fault_phys(__rodata_begin)));
}

/* ---- What has changed after the boot ---- */

static void fault_write_ro_after_init(void)
{
    fault_write((vaddr_t)__ro_after_init_begin);
}

static void fault_write_ro_after_init_hhdm(void)
{
    fault_write((vaddr_t)phys_to_virt(fault_phys(__ro_after_init_begin)));
}

/* Self-tests run at boot only. */
static void fault_execute_init(void)
{
    fault_call((vaddr_t)run_memory_tests);
}

static void fault_read_init_data(void)
{
    fault_read((vaddr_t)__init_data_begin);
}

/* The frames of .init are ordinary memory now: written by whoever gets them, executed by nobody. */
static void fault_execute_init_hhdm(void)
{
    fault_call((vaddr_t)phys_to_virt(fault_phys(__init_begin)));
}

/* ---- Data that is not code ---- */

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

static void fault_execute_free_block(void)
{
    void *code = kmalloc(64);

    kfree(code);
    fault_call((vaddr_t)code + 12);
}

static void fault_execute_table(void)
{
    fault_call((vaddr_t)phys_to_virt(mm_kernel()->kernel_space.root));
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

static void fault_null_field(void)
{
    fault_read(0x18);
}

static void fault_null_call(void)
{
    fault_call(0);
}

static void fault_not_canonical(void)
{
    fault_read(FAULT_STRANGE);
}

/* Memory that the map knows and the HHDM leaves out: the first range that is not RAM. */
static void fault_hhdm_hole(void)
{
    const struct memmap *map = &mm_kernel()->map;
    size_t i = 0;

    while (i < map->count && memmap_type_is_ram(map->ranges[i].type))
        i++;
    if (i < map->count)
        fault_read(hhdm_offset() + map->ranges[i].base);
}

/* A page whose entry has a bit set that must be 0. */
static void fault_reserved_bit(void)
{
    struct mm *mm = mm_kernel();
    struct walk walk;
    paddr_t frame;

    if (pmm_alloc_frame(&mm->pmm, &frame) != MM_OK ||
        paging_map_page(&mm->kernel_space, FAULT_PAGE, frame, PAGING_READ) != MM_OK)
        return;
    walk_tables(FAULT_PAGE, &walk);
    if (walk.end != WALK_LEAF)
        return;
    *(volatile uint64_t *)phys_to_virt(walk.entry[walk.count - 1].at) |= FAULT_RESERVED;
    mm_port_invlpg(FAULT_PAGE);
    fault_read(FAULT_PAGE);
}

/* ---- User pages ---- */

/* A page that user code may use, with the instruction ret at its beginning. */
static bool fault_map_user(paging_rights_t rights)
{
    struct mm *mm = mm_kernel();
    paddr_t frame;

    if (pmm_alloc_frame(&mm->pmm, &frame) != MM_OK)
        return false;
    *(volatile uint8_t *)phys_to_virt(frame) = FAULT_RET;
    return paging_map_page(&mm->kernel_space, FAULT_PAGE, frame, PAGING_USER | rights) == MM_OK;
}

static void fault_read_user(void)
{
    if (fault_map_user(PAGING_READ))
        fault_read(FAULT_PAGE);
}

static void fault_write_user(void)
{
    if (fault_map_user(PAGING_WRITE))
        *fault_hide(FAULT_PAGE) = FAULT_RET;
}

static void fault_execute_user(void)
{
    if (fault_map_user(PAGING_EXECUTE))
        fault_call(FAULT_PAGE);
}

/* The other CPUs protect themselves as the first one does: the last one tries. */
static void fault_on_last_cpu(void *code)
{
    if (smp_cpu_number() == smp_cpu_count() - 1)
        ((fault_code)code)();
}

static void fault_read_user_last_cpu(void)
{
    smp_call_all(fault_on_last_cpu, (void *)fault_read_user);
}

static void fault_execute_user_last_cpu(void)
{
    smp_call_all(fault_on_last_cpu, (void *)fault_execute_user);
}

/* ---- Stacks ---- */

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

/* Runs `code` on a stack of mm, of one page. */
static void fault_on_new_stack(fault_code code)
{
    vaddr_t top;

    if (kvm_alloc_stack(&mm_kernel()->kvm, PAGE_SIZE, &top) != MM_OK)
        return;
    __asm__ volatile("movq %%rsp, %%rbx\n\t"
                     "movq %0, %%rsp\n\t"
                     "call *%1\n\t"
                     "movq %%rbx, %%rsp"
                     :
                     : "r"(top), "r"(code)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory",
                       "cc");
}

static void fault_kernel_stack_overflow(void)
{
    fault_on_new_stack(fault_stack_overflow);
}

static void fault_kernel_stack_execute(void)
{
    fault_on_new_stack(fault_execute_stack);
}

static void fault_kernel_stack_above(void)
{
    vaddr_t top;

    if (kvm_alloc_stack(&mm_kernel()->kvm, PAGE_SIZE, &top) == MM_OK)
        fault_read(top);
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

/* The pages around a block of kvm_alloc(). */
static void fault_kvm_guard(bool above)
{
    vaddr_t block;

    if (kvm_alloc(&mm_kernel()->kvm, 3 * PAGE_SIZE, 0, &block) != MM_OK)
        return;
    fault_write(block);
    fault_write(block + 3 * PAGE_SIZE - 1);
    fault_read(above ? block + 3 * PAGE_SIZE : block - 1);
}

static void fault_kvm_guard_below(void)
{
    fault_kvm_guard(false);
}

static void fault_kvm_guard_above(void)
{
    fault_kvm_guard(true);
}

static void fault_kvm_use_after_free(void)
{
    vaddr_t block;

    if (kvm_alloc(&mm_kernel()->kvm, 3 * PAGE_SIZE, 0, &block) != MM_OK)
        return;
    fault_write(block);
    kvm_free(&mm_kernel()->kvm, block);
    fault_read(block);
}

static void fault_execute_kvm(void)
{
    vaddr_t block;

    if (kvm_alloc(&mm_kernel()->kvm, PAGE_SIZE, 0, &block) == MM_OK)
        fault_execute((volatile uint8_t *)block);
}

/* A block above MAX_BLOCK_SIZE has pages of its own between some that are not mapped; at the full level
 * the first of these above may lie behind a red zone. Returns its address, or 0. */
static vaddr_t fault_make_large_block(vaddr_t *guard)
{
    uint64_t bytes = 3 * MAX_BLOCK_SIZE;
    vaddr_t block = (vaddr_t)kmalloc(bytes);

    if (block == 0)
        return 0;
    fault_write(block);
    fault_write(block + bytes - 1);
    *guard = block + bytes;
    while (kvm_place_of(&mm_kernel()->kvm, *guard) == KVM_HEAP)
        *guard = mm_round_down(*guard, PAGE_SIZE) + PAGE_SIZE;
    return block;
}

static void fault_large_block_below(void)
{
    vaddr_t guard, block = fault_make_large_block(&guard);

    while (block != 0 && kvm_place_of(&mm_kernel()->kvm, block) == KVM_HEAP)
        block = mm_round_down(block, PAGE_SIZE) - 1;
    if (block != 0)
        fault_read(block);
}

static void fault_large_block_above(void)
{
    vaddr_t guard;

    if (fault_make_large_block(&guard) != 0)
        fault_read(guard);
}

static void fault_large_block_past_end(void)
{
    vaddr_t guard;

    if (fault_make_large_block(&guard) != 0)
        *fault_hide(guard + 17) = 1;
}

static void fault_large_block_freed(void)
{
    vaddr_t guard, block = fault_make_large_block(&guard);

    kfree((void *)block);
    kheap_drain(mm_kernel()->heap, KHEAP_ALL_SLOTS);
    if (block != 0)
        fault_read(block + 100);
}

static void fault_double_free(void)
{
    void *block = kmalloc(64);

    kfree(block);
    kfree((void *)(vaddr_t)fault_hide((vaddr_t)block));
    __asm__ volatile(""); /* no tail call: the report names this function */
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

/* INT goes through the same gates, and so onto the same stacks, as what it stands in for. */
static void fault_nmi(void)
{
    __asm__ volatile("int $2");
}

static void fault_machine_check(void)
{
    __asm__ volatile("int $18");
}

static void fault_unexpected(void)
{
    __asm__ volatile("int $100");
}

/* RBP as a broken kernel may leave it: aligned, canonical, and on no stack. */
static void fault_frame_pointer(void)
{
    __asm__ volatile("movq %0, %%rbp\n\tud2" : : "r"(hhdm_offset() + MM_MIB(1)) : "memory");
}

/* The report looks into the memory map: with a map that leads nowhere it fails itself. */
static void fault_in_report(void)
{
    mm_kernel()->map.ranges = (struct mm_range *)(vaddr_t)fault_hide(FAULT_PAGE);
    fault_read(hhdm_offset() + mm_kernel()->map.end);
}

static void fault_panic(void)
{
    panic("mello.fault=panic was asked for");
}

/* ---- In NMI handlers ---- */

static void *fault_block;

/* The NMI that stops the others for the report comes to the same handler. */
static void fault_stop_if_other(void)
{
    if (smp_cpu_number() != 0)
        smp_stop_others(); /* the boot CPU has called it: this stops here */
}

static void fault_on_nmi_alloc(const struct trap_frame *frame)
{
    paddr_t taken;

    (void)frame;
    fault_stop_if_other();
    if (pmm_alloc_frame(&mm_kernel()->pmm, &taken) == MM_OK)
        pmm_free_frame(&mm_kernel()->pmm, taken);
}

static void fault_on_nmi_kmalloc(const struct trap_frame *frame)
{
    (void)frame;
    fault_stop_if_other();
    fault_block = kmalloc(64);
}

static void fault_on_nmi_kfree(const struct trap_frame *frame)
{
    (void)frame;
    fault_stop_if_other();
    kfree(fault_block);
}

static void fault_nmi_alloc(void)
{
    interrupt_set_handler(TRAP_NMI, fault_on_nmi_alloc);
    fault_nmi();
}

/* By an NMI of the local APIC, which comes a little later than it was asked for. */
static void fault_nmi_kmalloc(void)
{
    struct patience patience = patience_of_ms(FAULT_WAIT_MS);

    interrupt_set_handler(TRAP_NMI, fault_on_nmi_kmalloc);
    if (!smp_info()->has_apic)
        return;
    apic_send_nmi(apic_id());
    while (patience_lasts(&patience)) {
    }
}

static void fault_nmi_kfree(void)
{
    fault_block = kmalloc(64);
    interrupt_set_handler(TRAP_NMI, fault_on_nmi_kfree);
    fault_nmi();
}

/* ---- While other CPUs run ---- */

static uint32_t fault_lines; /* of all CPUs; atomic */

/* The last CPU fails in the midst of what the others print. */
static void fault_on_busy_cpu(void *unused)
{
    unsigned number = smp_cpu_number();

    (void)unused;
    while (number < smp_cpu_count() - 1) {
        console_print("CPU %u is at work", number);
        __atomic_fetch_add(&fault_lines, 1, __ATOMIC_RELAXED);
    }
    while (smp_cpu_count() > 1 &&
           __atomic_load_n(&fault_lines, __ATOMIC_RELAXED) < FAULT_BUSY_LINES)
        __builtin_ia32_pause();
    fault_null();
}

static void fault_busy(void)
{
    smp_call_all(fault_on_busy_cpu, NULL);
}

static void fault_on_every_cpu(void *unused)
{
    (void)unused;
    panic("mello.fault=everywhere was asked for, on CPU %u", smp_cpu_number());
}

static void fault_everywhere(void)
{
    smp_call_all(fault_on_every_cpu, NULL);
}

static const struct {
    const char *name;
    void (*trigger)(void);
} fault_table[] = {
    { "write-text", fault_write_text },
    { "write-text-hhdm", fault_write_text_hhdm },
    { "write-rodata", fault_write_rodata },
    { "write-rodata-hhdm", fault_write_rodata_hhdm },
    { "write-ro-after-init", fault_write_ro_after_init },
    { "write-ro-after-init-hhdm", fault_write_ro_after_init_hhdm },
    { "execute-init", fault_execute_init },
    { "execute-init-hhdm", fault_execute_init_hhdm },
    { "read-init-data", fault_read_init_data },
    { "execute-data", fault_execute_data },
    { "execute-heap", fault_execute_heap },
    { "execute-stack", fault_execute_stack },
    { "execute-free-block", fault_execute_free_block },
    { "execute-hhdm", fault_execute_hhdm },
    { "execute-table", fault_execute_table },
    { "null", fault_null },
    { "null-write", fault_null_write },
    { "null-field", fault_null_field },
    { "null-call", fault_null_call },
    { "not-canonical", fault_not_canonical },
    { "hhdm-hole", fault_hhdm_hole },
    { "reserved-bit", fault_reserved_bit },
    { "read-user", fault_read_user },
    { "write-user", fault_write_user },
    { "execute-user", fault_execute_user },
    { "read-user-last-cpu", fault_read_user_last_cpu },
    { "execute-user-last-cpu", fault_execute_user_last_cpu },
    { "stack-overflow", fault_stack_overflow },
    { "kernel-stack-overflow", fault_kernel_stack_overflow },
    { "kernel-stack-execute", fault_kernel_stack_execute },
    { "kernel-stack-above", fault_kernel_stack_above },
    { "heap-guard-below", fault_heap_guard_below },
    { "heap-guard-above", fault_heap_guard_above },
    { "kvm-guard-below", fault_kvm_guard_below },
    { "kvm-guard-above", fault_kvm_guard_above },
    { "kvm-use-after-free", fault_kvm_use_after_free },
    { "execute-kvm", fault_execute_kvm },
    { "large-block-below", fault_large_block_below },
    { "large-block-above", fault_large_block_above },
    { "large-block-past-end", fault_large_block_past_end },
    { "large-block-freed", fault_large_block_freed },
    { "double-free", fault_double_free },
    { "divide", fault_divide },
    { "ud", fault_invalid_opcode },
    { "breakpoint", fault_breakpoint },
    { "nmi", fault_nmi },
    { "machine-check", fault_machine_check },
    { "unexpected", fault_unexpected },
    { "frame-pointer", fault_frame_pointer },
    { "in-report", fault_in_report },
    { "panic", fault_panic },
    { "nmi-alloc", fault_nmi_alloc },
    { "nmi-kmalloc", fault_nmi_kmalloc },
    { "nmi-kfree", fault_nmi_kfree },
    { "busy", fault_busy },
    { "everywhere", fault_everywhere },
};

#define FAULTS (sizeof(fault_table) / sizeof(fault_table[0]))

static _Noreturn void fault_test_reject(const struct mm_cmdline_word *word)
{
    char line[FAULT_NAMES_MAX];
    size_t used =
        mm_format(line, sizeof(line), "ERROR: mello.fault=%.*s: no such fault; known:",
                  word->value_bytes < FAULT_VALUE_MAX ? (int)word->value_bytes : FAULT_VALUE_MAX,
                  word->value);

    for (size_t i = 0; i < FAULTS && used < sizeof(line); i++)
        used += mm_format(line + used, sizeof(line) - used, " %s", fault_table[i].name);
    console_print_text(line);
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
