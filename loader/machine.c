/* SPDX-License-Identifier: MIT */
/* Questions about this machine, and the state the protocol wants its devices and CPU to be in.
 *
 * The kernel starts with interrupts off and no handler: nothing that the firmware left running may
 * be delivered once it enables them. Both PICs are masked; of the I/O APIC the entries with fixed
 * or lowest-priority delivery are; NMI, SMI and ExtINT entries stay as the firmware set them. */
#include "loader/machine.h"

#include "loader/cpu.h"
#include "loader/print.h"

#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK  0xa1

#define IOAPIC_BASE     0xfec00000ul
#define IOAPIC_VERSION  1
#define IOAPIC_ENTRIES  0x10
#define IOAPIC_DELIVERY (7u << 8) /* 0: fixed, 1: lowest priority */
#define IOAPIC_MASKED   (1u << 16)

#define MSR_PAT  0x277
#define MSR_EFER 0xc0000080
#define EFER_LME (1u << 8)
#define EFER_NXE (1u << 11)

/* Entries 0..5: write-back, write-through, UC-, UC, write-protected, write-combining; 6, 7: UC. */
#define PAT_LIMINE 0x0000010500070406ul

void machine_check(void)
{
    if (cpu_id(0x80000000, 0).eax < 0x80000001 || (cpu_id(0x80000001, 0).edx >> 20 & 1) == 0) {
        print_fail("CPU: no NX bit");
    }
    if ((cpu_id(1, 0).edx >> 16 & 1) == 0) {
        print_fail("CPU: no page attribute table (PAT)");
    }
}

bool machine_has_5_levels(void)
{
    return cpu_id(0, 0).eax >= 7 && (cpu_id(7, 0).ecx >> 16 & 1) != 0;
}

static volatile uint32_t *ioapic_select(uint32_t index)
{
    volatile uint32_t *registers = phys_pointer(IOAPIC_BASE);

    registers[0] = index;
    return &registers[4];
}

static void machine_mask_ioapic(void)
{
    uint32_t version = *ioapic_select(IOAPIC_VERSION);

    if (version == 0 || version == 0xffffffff) {
        return; /* nothing answers at the address where PCs have it */
    }
    for (uint32_t entry = 0; entry <= (version >> 16 & 0xff); entry++) {
        volatile uint32_t *low = ioapic_select(IOAPIC_ENTRIES + 2 * entry);

        if ((*low & IOAPIC_DELIVERY) <= 1u << 8) {
            *low |= IOAPIC_MASKED;
        }
    }
}

void machine_prepare(void)
{
    cpu_out8(PIC_MASTER_MASK, 0xff);
    cpu_out8(PIC_SLAVE_MASK, 0xff);
    machine_mask_ioapic();
    machine_prepare_cpu();
}

void machine_prepare_cpu(void)
{
    cpu_write_msr(MSR_PAT, PAT_LIMINE);
    cpu_write_msr(MSR_EFER, cpu_read_msr(MSR_EFER) | EFER_LME | EFER_NXE);
}
