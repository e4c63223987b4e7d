/* SPDX-License-Identifier: MIT */
/* What the kernel learns from its boot loader, in plain C: no boot protocol in it.
 *
 * kernel/limine.c supplies the functions. All that they return lies in the kernel's own memory,
 * but for the memory map's rows, which stay where the loader put them (boot_info.keep says so) until
 * limine_forget(); mm does not read them any more once it is up. */
#ifndef KERNEL_BOOT_H
#define KERNEL_BOOT_H

#include "kernel/screen/framebuffer.h"
#include <mm/bootinfo.h>

/* What is only told to the user or kept for later. Strings are the kernel's own copies. */
struct boot_loader {
    char name[64];
    char version[64];
    const char *firmware; /* "BIOS", "UEFI (64-bit)", ...; never NULL */
    char revision[32];    /* of the protocol, in words */
    bool has_rsdp;
    paddr_t rsdp; /* ACPI root pointer, physical */
};

/* The kernel's command line; never NULL. Needs nothing but the first console. One warning line if
 * it had to be cut. */
const char *limine_command_line(void);

/* Says who loaded the kernel. */
const struct boot_loader *limine_loader(void);

/* The screen that the loader set up: the first one that can be true; base is NULL if there is none.
 * Its memory is mapped already, and stays so at the same address. */
struct boot_framebuffer limine_framebuffer(void);

/* Everything that mm needs. `loader_stack` is the stack pointer that entry.S was entered with.
 *   On failure: one `[MM] ERROR:` line that names what the loader did not give, then the end. */
const struct boot_info *limine_boot_info(vaddr_t loader_stack);

/* ---- CPUs: after the loader's answers can be read, and while its memory is kept ---- */

/* How many CPUs the loader lists, this one included; 0 if it does not say. The others wait. */
uint64_t limine_cpu_count(void);

/* True if the list names every CPU that waits: no row is missing. */
bool limine_cpu_list_is_whole(void);

/* True if the CPU at place `index` is the one that the loader has started the kernel on. */
bool limine_cpu_is_boot(uint64_t index);

/* The APIC id of the CPU at place `index` of the list. */
uint32_t limine_cpu_lapic_id(uint64_t index);

/* Sends a waiting CPU to enter(argument): on a stack of the loader, its page tables and descriptor
 * tables, interrupts off. All CPUs are sent to the same function, which does not return. */
void limine_release_cpu(uint64_t index, void (*enter)(void *argument), void *argument);

/* ---- The end ---- */

/* Forgets every answer: from here on no pointer leads into the loader's memory. */
void limine_forget(void);

#endif
