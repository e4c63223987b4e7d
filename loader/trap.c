/* SPDX-License-Identifier: MIT */
/* Exceptions while the loader runs: reported, never survived. Without this an information block
 * that points nowhere, or a defect of the loader, would be a reset without a word.
 *
 *   gate   | offset 31..16, P DPL type | selector, offset 15..0 | 0 | offset 63..32 |
 *
 * SDM vol. 3A, 6.14.1 (64-bit gates). The loader's code selector is 08h (entry.S). */
#include "loader/trap.h"

#include "loader/print.h"

#define TRAP_COUNT     32
#define TRAP_SELECTOR  0x08ul
#define TRAP_INTERRUPT 0x8eul /* present, ring 0, interrupt gate */

struct trap_gate {
    uint64_t low;
    uint64_t high;
};

struct trap_table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

extern const uint64_t trap_stubs[TRAP_COUNT]; /* traps.S */

static struct trap_gate gates[TRAP_COUNT];

void trap_load(void)
{
    const struct trap_table_pointer pointer = { sizeof gates - 1, pointer_phys(gates) };

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

void trap_init(void)
{
    for (size_t i = 0; i < TRAP_COUNT; i++) {
        uint64_t stub = trap_stubs[i];

        gates[i].low = (stub & 0xffff) | TRAP_SELECTOR << 16 | TRAP_INTERRUPT << 40 |
                       (stub & 0xffff0000) << 32;
        gates[i].high = stub >> 32;
    }
    trap_load();
}

_Noreturn void trap_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address)
{
    print_fail("exception %lu in the loader (error %#lx, RIP %#lx, CR2 %#lx)", vector, error, rip,
               address);
}
