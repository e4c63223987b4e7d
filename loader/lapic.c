/* SPDX-License-Identifier: MIT */
/* The local APIC of the processor that calls: its id, and messages to the others.
 *
 *             registers                      id               command (ICR)
 *   xAPIC     memory at IA32_APIC_BASE       020h, bits 31-24 310h (to) then 300h (sends)
 *   x2APIC    MSRs 800h + offset / 16        802h             830h, to in the upper half
 *
 * Which of the two it is stands in IA32_APIC_BASE and is asked anew for each access, so the same
 * code serves the boot processor and the others. SDM vol. 3A, 10.4, 10.6 and 10.12. */
#include "loader/lapic.h"

#include "loader/cpu.h"
#include "loader/pagetables.h"

#define MSR_APIC_BASE     0x1b
#define APIC_BASE_X2APIC  (1ul << 10)
#define APIC_BASE_ENABLED (1ul << 11)
#define APIC_BASE_ADDRESS 0x000ffffffffff000ul

#define LAPIC_ID        0x020
#define LAPIC_ICR_LOW   0x300
#define LAPIC_ICR_HIGH  0x310
#define LAPIC_MSR_FIRST 0x800

#define ICR_INIT         0x4500u /* INIT, edge, assert */
#define ICR_START        0x4600u /* start-up, edge, assert; the page's number in bits 7-0 */
#define ICR_SEND_PENDING (1u << 12)

/* A message is on its way in microseconds; a bus that never takes it must not stop the boot. */
#define ICR_WAIT_READS 1000000

static volatile uint32_t *lapic_register(uint32_t offset)
{
    return phys_pointer((cpu_read_msr(MSR_APIC_BASE) & APIC_BASE_ADDRESS) + offset);
}

bool lapic_is_usable(void)
{
    if ((cpu_id(1, 0).edx >> 9 & 1) == 0 ||
        (cpu_read_msr(MSR_APIC_BASE) & APIC_BASE_ENABLED) == 0) {
        return false;
    }
    uint64_t base = cpu_read_msr(MSR_APIC_BASE) & APIC_BASE_ADDRESS;

    pagetables_reach(base, base + PAGE_BYTES);
    return true;
}

bool lapic_has_x2apic(void)
{
    return (cpu_id(1, 0).ecx >> 21 & 1) != 0;
}

bool lapic_is_x2apic(void)
{
    return (cpu_read_msr(MSR_APIC_BASE) & APIC_BASE_X2APIC) != 0;
}

void lapic_enable_x2apic(void)
{
    cpu_write_msr(MSR_APIC_BASE,
                  cpu_read_msr(MSR_APIC_BASE) | APIC_BASE_ENABLED | APIC_BASE_X2APIC);
}

uint32_t lapic_id(void)
{
    if (lapic_is_x2apic()) {
        return (uint32_t)cpu_read_msr(LAPIC_MSR_FIRST + LAPIC_ID / 16);
    }
    return *lapic_register(LAPIC_ID) >> 24;
}

static void lapic_send(uint32_t id, uint32_t command)
{
    if (lapic_is_x2apic()) {
        /* This WRMSR does not wait for earlier stores by itself (SDM vol. 3A, 10.12.3). */
        __asm__ volatile("mfence; lfence" : : : "memory");
        cpu_write_msr(LAPIC_MSR_FIRST + LAPIC_ICR_LOW / 16, (uint64_t)id << 32 | command);
        return;
    }
    *lapic_register(LAPIC_ICR_HIGH) = id << 24;
    *lapic_register(LAPIC_ICR_LOW) = command;
    for (unsigned i = 0; i < ICR_WAIT_READS; i++) {
        if ((*lapic_register(LAPIC_ICR_LOW) & ICR_SEND_PENDING) == 0) {
            return;
        }
        cpu_pause();
    }
}

void lapic_send_init(uint32_t id)
{
    lapic_send(id, ICR_INIT);
}

void lapic_send_start(uint32_t id, uint64_t page)
{
    lapic_send(id, ICR_START | (uint32_t)(page / PAGE_BYTES));
}
