/* SPDX-License-Identifier: MIT */
/* Owns the global descriptor table and the task state segment of the boot CPU.
 *
 *   0x00 null
 *   0x08 kernel code, 64-bit        access 0x9a: present, ring 0, execute and read; flag L
 *   0x10 kernel data                access 0x92: present, ring 0, read and write
 *   0x18 TSS, 16 bytes              access 0x89: present, available 64-bit TSS
 *
 * Invariants: the TSS has no I/O bitmap (its offset lies behind the limit); each used entry of the
 * interrupt stack table points above a stack of its own. Source: SDM vol. 3, 3.4.5, 8.2.3, 8.7. */
#include "arch/x86_64/gdt.h"

struct gdt_tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7]; /* ist[0] is entry 1 */
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct gdt_tss) == 104, "SDM vol. 3, figure 8-11");

struct gdt_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

#define GDT_CODE64 0x00209a0000000000ull /* flag L, access 0x9a */
#define GDT_DATA   0x0000920000000000ull /* access 0x92 */

static struct gdt_tss gdt_tss;
static uint64_t gdt_table[5] = { 0, GDT_CODE64, GDT_DATA, 0, 0 };

static void gdt_set_tss(void)
{
    uint64_t base = (uint64_t)&gdt_tss;
    uint64_t limit = sizeof(gdt_tss) - 1;

    gdt_table[3] =
        (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt_table[4] = base >> 32;
}

static void gdt_load(void)
{
    struct gdt_pointer pointer = { sizeof(gdt_table) - 1, (uint64_t)gdt_table };

    /* CS changes by a far return only; FS and GS are not used and hold the null selector. */
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

void gdt_init(const uint64_t stack_tops[GDT_IST_COUNT])
{
    for (unsigned i = 1; i < GDT_IST_COUNT; i++)
        gdt_tss.ist[i - 1] = stack_tops[i];
    gdt_tss.io_map_offset = sizeof(gdt_tss);
    gdt_set_tss();
    gdt_load();
}
