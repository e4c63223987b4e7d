/* SPDX-License-Identifier: MIT */
/* The story of a boot, in order; what each step does is told where it is done.
 *
 *   console -> descriptor tables -> command line -> boot loader's facts -> clock -> memory
 *   -> the other CPUs, timers, interrupts -> the loader's memory back -> hello
 *
 * Owns nothing. Invariant: runs once, on the boot CPU, on the boot stack; interrupts are off until
 * smp_start() has switched them on. */
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/tsc.h"
#include "kernel/bench.h"
#include "kernel/boot.h"
#include "kernel/boot_end.h"
#include "kernel/console.h"
#include "kernel/cpu_test.h"
#include "kernel/fault_test.h"
#include "kernel/screen/screen.h"
#include "kernel/options.h"
#include "kernel/place.h"
#include "kernel/power.h"
#include "kernel/smp.h"
#include "kernel/stress.h"
#include "kernel/trap.h"
#include <mm/mm.h>

#define MAIN_TEXT(x)          #x
#define MAIN_NUMBER(x)        MAIN_TEXT(x)
#define MAIN_VERSION(a, b, c) MAIN_NUMBER(a) "." MAIN_NUMBER(b) "." MAIN_NUMBER(c)
#ifdef __clang__
#define MAIN_COMPILER "clang " MAIN_VERSION(__clang_major__, __clang_minor__, __clang_patchlevel__)
#else
#define MAIN_COMPILER "gcc " MAIN_VERSION(__GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__)
#endif

_Noreturn void kmain(vaddr_t loader_stack);

/* Frames are cleared while nobody needs them. */
static bool main_idle(void)
{
    return pmm_idle_work(&mm_kernel()->pmm);
}

/* A machine without a screen is none the worse. */
static MM_INIT void main_start_screen(void)
{
    struct boot_framebuffer framebuffer = limine_framebuffer();
    const char *problem = screen_init(&framebuffer);

    if (problem != NULL)
        console_print("WARNING: the screen stays dark: %s (%llu x %llu, %u bits)", problem,
                      (unsigned long long)framebuffer.width, (unsigned long long)framebuffer.height,
                      framebuffer.bits_per_pixel);
}

static MM_INIT struct kernel_options main_read_options(void)
{
    struct kernel_options options = options_read(limine_command_line());

    power_set_qemu_exit(options.exit_qemu);
    console_set_colour(options.colour);
    return options;
}

static MM_INIT void main_greet(const struct boot_loader *loader)
{
    console_print("Boot loader: %s%s%s, base revision %s",
                  loader->name[0] != '\0' ? loader->name : "unknown",
                  loader->version[0] != '\0' ? " " : "", loader->version, loader->revision);
    if (loader->has_rsdp)
        console_print("Firmware: %s, ACPI root pointer at 0x%llx", loader->firmware,
                      (unsigned long long)loader->rsdp);
    else
        console_print("Firmware: %s", loader->firmware);
}

_Noreturn void kmain(vaddr_t loader_stack)
{
    struct kernel_options options;
    const struct boot_info *boot;

    percpu_load(&percpu_table[0]); /* GS, on which locks, reports and mm rely */
    console_init();                /* what goes wrong from here on is seen */
    main_start_screen();
    trap_init(); /* and exceptions are reported */
    console_print("MelloOS " MM_VERSION " (" MAIN_COMPILER ")");
    options = main_read_options();
    main_greet(limine_loader());
    boot = limine_boot_info(loader_stack);
    place_set_image(boot->kernel_phys);
    tsc_init();
    if (!init_memory(boot)) /* frames, page tables, heap, self-tests */
        power_end(POWER_TEST_FAILED);
    smp_start(options.smp);
    boot_end(options.fill_loader); /* what only the boot needed comes back */
    (void)smp_set_idle_function(main_idle);
    if (options.has_test && !cpu_test_run(&options.test))
        power_end(POWER_TEST_FAILED);
    if (!stress_run(mm_kernel()->options.stress_seconds))
        power_end(POWER_TEST_FAILED);
    if (!bench_run(mm_kernel()->options.bench))
        power_end(POWER_TEST_FAILED);
    if (options.dump_tables)
        paging_dump(&mm_kernel()->kernel_space);
    console_print("Hello from MelloOS ✨");
    screen_show_summary(mm_kernel(), mm_kernel()->tests, smp_cpu_count());
    if (options.has_fault)
        fault_test_run(&options.fault, boot);
    power_end(POWER_SUCCESS);
}
