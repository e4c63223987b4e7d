/* SPDX-License-Identifier: MIT */
/* Owns the place where CPUs stand for good, so that the loader's memory can be given back: page tables
 * that hold two pages, a descriptor table, an interrupt table, a stack.
 *
 *   PML5 -> PML4 -> PDPT -> PD -> PT -> the code of ap_park(), read and execute
 *                              -> PT -> struct smp_park_page, read and write
 *
 * The tables are these CPUs' alone and never change, so such a CPU has no part in TLB shootdowns; they
 * begin at the root that its CR4.LA57 asks for, and use nothing that a CPU may lack but NX. Everything
 * lies in the kernel image, at its own address, so that the step into it needs no copy.
 *
 * Invariants: all descriptors are accessed already, so that loading them writes nothing; an exception or
 * NMI comes back to the halt and stays there, on the stack that all share, for nothing on it is ever
 * read; a CPU counts itself only after its last use of any other memory. Source: SDM vol. 3, 4.5,
 * 6.14. */
#include "kernel/smp_park.h"
#include "arch/x86_64/ap.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/gdt.h"
#include "arch/x86_64/idt.h"
#include "kernel/image.h"
#include <mm/cpu.h>
#include <mm/port.h>

#define PARK_PRESENT      ((uint64_t)1 << 0)
#define PARK_WRITE        ((uint64_t)1 << 1)
#define PARK_NO_EXECUTE   ((uint64_t)1 << 63)
#define PARK_CODE64       0x00209b0000000000ull /* as GDT_CODE64, accessed */
#define PARK_DATA         0x0000930000000000ull
#define PARK_GATE         0x8eull /* present, ring 0, interrupt gate */
#define PARK_ENTRIES      512u
#define PARK_SHIFT(level) (FRAME_SHIFT + 9 * ((level)-1))
#define PARK_CR4_PGE      ((uint64_t)1 << 7)
#define PARK_CR4_LA57     ((uint64_t)1 << 12)

struct park_gate {
    uint64_t low, high;
};

struct smp_park_page {
    uint64_t gdt[3];
    struct park_gate idt[TRAP_EXCEPTIONS];
    struct ap_table gdt_pointer, idt_pointer;
    uint32_t count; /* of CPUs that stand here; atomic */
    uint8_t stack[2048] __attribute__((aligned(16)));
} __attribute__((aligned(PAGE_SIZE)));
_Static_assert(sizeof(struct smp_park_page) == PAGE_SIZE, "one page, nothing else in it");

typedef uint64_t park_table[PARK_ENTRIES] __attribute__((aligned(PAGE_SIZE)));

static struct smp_park_page park_page;
static park_table park_pml5, park_pml4, park_pdpt, park_pd, park_pt[2];
static paddr_t park_image; /* of __kernel_begin */

static paddr_t park_phys(const void *address)
{
    return park_image + ((vaddr_t)address - (vaddr_t)__kernel_begin);
}

static unsigned park_index(vaddr_t address, unsigned level)
{
    return (unsigned)(address >> PARK_SHIFT(level)) & (PARK_ENTRIES - 1);
}

/* The image lies in the top 2 GiB, its pages in one GiB of it: the tables above PD are common. */
static void park_map(const void *at, uint64_t rights, park_table *table)
{
    vaddr_t address = (vaddr_t)at;

    park_pml5[park_index(address, 5)] = park_phys(park_pml4) | PARK_PRESENT | PARK_WRITE;
    park_pml4[park_index(address, 4)] = park_phys(park_pdpt) | PARK_PRESENT | PARK_WRITE;
    park_pdpt[park_index(address, 3)] = park_phys(park_pd) | PARK_PRESENT | PARK_WRITE;
    if (park_pd[park_index(address, 2)] == 0)
        park_pd[park_index(address, 2)] = park_phys(table) | PARK_PRESENT | PARK_WRITE;
    else
        table = &park_pt[0]; /* the same 2 MiB as the page before */
    (*table)[park_index(address, 1)] =
        mm_round_down(park_phys(at), FRAME_SIZE) | PARK_PRESENT | rights;
}

static struct park_gate park_gate_to(vaddr_t code)
{
    struct park_gate gate = {
        .low = (code & 0xffff) | (uint64_t)GDT_KERNEL_CODE << 16 | PARK_GATE << 40 |
               (code >> 16 & 0xffff) << 48,
        .high = code >> 32,
    };

    return gate;
}

void smp_park_init(paddr_t image)
{
    park_image = image;
    park_map(ap_park, 0, &park_pt[0]);
    park_map(&park_page, PARK_WRITE | PARK_NO_EXECUTE, &park_pt[1]);
    park_page.gdt[GDT_KERNEL_CODE / 8] = PARK_CODE64;
    park_page.gdt[GDT_KERNEL_DATA / 8] = PARK_DATA;
    for (unsigned vector = 0; vector < TRAP_EXCEPTIONS; vector++)
        park_page.idt[vector] = park_gate_to((vaddr_t)ap_park_halt);
    park_page.gdt_pointer = (struct ap_table){ sizeof(park_page.gdt) - 1, (vaddr_t)park_page.gdt };
    park_page.idt_pointer = (struct ap_table){ sizeof(park_page.idt) - 1, (vaddr_t)park_page.idt };
}

_Noreturn void smp_park(void)
{
    uint64_t cr4 = mm_port_read_cr(4);
    const struct ap_park_place place = {
        .cr3 = park_phys((cr4 & PARK_CR4_LA57) != 0 ? park_pml5 : park_pml4),
        .cr4 = cr4 & ~PARK_CR4_PGE,
        .stack_top = (vaddr_t)park_page.stack + sizeof(park_page.stack),
        .gdt = &park_page.gdt_pointer,
        .idt = &park_page.idt_pointer,
        .count = &park_page.count,
    };

    cpu_interrupts_off();
    if (enable_nx_bit() != MM_OK)
        cpu_halt_forever();
    ap_park(&place);
}

uint32_t smp_parked_count(void)
{
    return __atomic_load_n(&park_page.count, __ATOMIC_ACQUIRE);
}
