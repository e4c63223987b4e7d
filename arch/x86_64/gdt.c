/* SPDX-License-Identifier: MIT */
/* Owns the content of each CPU's descriptor table and task state segment (struct gdt).
 *
 *   0x00 null
 *   0x08 kernel code, 64-bit        access 0x9a: present, ring 0, execute and read; flag L
 *   0x10 kernel data                access 0x92: present, ring 0, read and write
 *   0x18 TSS, 16 bytes              access 0x89: present, available 64-bit TSS
 *
 * Invariants: the TSS has no I/O bitmap (its offset lies behind the limit); each used entry of the
 * interrupt stack table points above a stack of its own; GS is loaded last, because a null selector
 * in GS clears its base on some CPUs. Source: SDM vol. 3, 3.4.4, 3.4.5, 8.2.3, 8.7. */
#include "arch/x86_64/gdt.h"
#include "arch/x86_64/percpu.h"

struct gdt_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

#define GDT_CODE64 0x00209a0000000000ull /* flag L, access 0x9a */
#define GDT_DATA   0x0000920000000000ull /* access 0x92 */

static void gdt_fill(struct gdt *gdt, const uint64_t stack_tops[GDT_IST_COUNT])
{
    uint64_t base = (uint64_t)&gdt->tss;
    uint64_t limit = sizeof(gdt->tss) - 1;

    for (unsigned i = 1; i < GDT_IST_COUNT; i++)
        gdt->tss.ist[i - 1] = stack_tops[i];
    gdt->tss.io_map_offset = sizeof(gdt->tss);
    gdt->table[0] = 0;
    gdt->table[GDT_KERNEL_CODE / 8] = GDT_CODE64;
    gdt->table[GDT_KERNEL_DATA / 8] = GDT_DATA;
    gdt->table[GDT_TSS / 8] =
        (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt->table[GDT_TSS / 8 + 1] = base >> 32;
}

static void gdt_load(const struct gdt *gdt)
{
    struct gdt_pointer pointer = { sizeof(gdt->table) - 1, (uint64_t)gdt->table };

    /* CS changes by a far return only; FS is not used and holds the null selector. */
    __asm__ volatile("lgdt %0\n\t"
                     "pushq %1\n\t"
                     "leaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "lretq\n"
                     "1:\tmovl %2, %%eax\n\t"
                     "movl %%eax, %%ds\n\t"
                     "movl %%eax, %%es\n\t"
                     "movl %%eax, %%ss\n\t"
                     "xorl %%eax, %%eax\n\t"
                     "movl %%eax, %%fs\n\t"
                     "movl %%eax, %%gs\n\t"
                     "movl %3, %%eax\n\t"
                     "ltr %%ax"
                     :
                     : "m"(pointer), "i"(GDT_KERNEL_CODE), "i"(GDT_KERNEL_DATA), "i"(GDT_TSS)
                     : "rax", "memory");
}

void gdt_init_cpu(struct percpu *cpu, const uint64_t stack_tops[GDT_IST_COUNT])
{
    gdt_fill(&cpu->gdt, stack_tops);
    gdt_load(&cpu->gdt);
    percpu_load(cpu);
}

void gdt_init(const uint64_t stack_tops[GDT_IST_COUNT])
{
    gdt_init_cpu(&percpu_table[0], stack_tops);
}
