/* SPDX-License-Identifier: MIT */
/* The CPU part of <mm/port.h> for bare metal on x86-64, ready to be linked into any kernel.
 *
 * Owns nothing but the meaning of a lock's word: a ticket lock, 16 bits each. What it asks of the
 * kernel (a word at the base of GS, a function to call while waiting) is in <mm/port_x86_64.h>; the
 * TLB shootdown is the kernel's, as it goes through its interrupts.
 *
 *   31        16 15         0
 *   | next free  | now served |     unlocked: both equal (all zeroes at first)
 *
 * Invariants: CPUs are served in the order in which they came; fewer than 65536 wait. A CPU that
 * waits has its interrupts off and still answers shootdowns, because the holder may be the one who
 * asks. Everything needs ring 0. Only registers and instructions that every x86-64 CPU has are
 * used. */
#include "cpuid.h"

#include <mm/port.h>
#include <mm/port_x86_64.h>

#define PORT_RFLAGS_IF ((uint64_t)1 << 9)
#define PORT_TICKET    ((uint32_t)1 << 16)

/* Waits until the ticket is served; kept out of line, so that the fast path stays short. */
static MM_COLD void port_lock_wait(struct mm_port_lock *lock, uint16_t ticket)
{
    while ((uint16_t)__atomic_load_n(&lock->word, __ATOMIC_ACQUIRE) != ticket) {
        mm_port_serve_shootdowns();
        __asm__ volatile("pause");
    }
}

/* Uncontended: pushfq, popq, cli, one locked xadd, compare, branch. */
uint64_t mm_port_lock(struct mm_port_lock *lock)
{
    uint64_t flags;
    uint32_t word;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    word = __atomic_fetch_add(&lock->word, PORT_TICKET, __ATOMIC_ACQUIRE);
    if (__builtin_expect((uint16_t)word != (uint16_t)(word >> 16), 0))
        port_lock_wait(lock, (uint16_t)(word >> 16));
    return flags & PORT_RFLAGS_IF;
}

/* One plain increment of the lower half, which only the holder writes, then a branch. It must not
 * carry into the upper half, hence the 16-bit instruction; stores are not reordered with older
 * loads and stores on x86 (SDM vol. 3, 8.2.2), so the increment needs no lock prefix. */
void mm_port_unlock(struct mm_port_lock *lock, uint64_t saved)
{
    __asm__ volatile("incw %0" : "+m"(lock->word) : : "memory", "cc");
    if ((saved & PORT_RFLAGS_IF) != 0)
        __asm__ volatile("sti" : : : "memory");
}

uint64_t mm_port_interrupts_off(void)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    return flags & PORT_RFLAGS_IF;
}

void mm_port_interrupts_restore(uint64_t saved)
{
    if ((saved & PORT_RFLAGS_IF) != 0)
        __asm__ volatile("sti" : : : "memory");
}

struct mm_port_cpuid mm_port_cpuid(uint32_t leaf, uint32_t subleaf)
{
    return cpuid_or_zero(leaf, subleaf);
}

uint64_t mm_port_read_msr(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

void mm_port_write_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

uint64_t mm_port_read_cr(unsigned number)
{
    uint64_t value;

    switch (number) {
    case 0:
        __asm__ volatile("movq %%cr0, %0" : "=r"(value) : : "memory");
        return value;
    case 3:
        __asm__ volatile("movq %%cr3, %0" : "=r"(value) : : "memory");
        return value;
    case 4:
        __asm__ volatile("movq %%cr4, %0" : "=r"(value) : : "memory");
        return value;
    default:
        __builtin_trap(); /* outside the contract: a visible stop, not a made-up value */
    }
}

void mm_port_write_cr(unsigned number, uint64_t value)
{
    switch (number) {
    case 0:
        __asm__ volatile("movq %0, %%cr0" : : "r"(value) : "memory");
        return;
    case 3:
        __asm__ volatile("movq %0, %%cr3" : : "r"(value) : "memory");
        return;
    case 4:
        __asm__ volatile("movq %0, %%cr4" : : "r"(value) : "memory");
        return;
    default:
        __builtin_trap();
    }
}

void mm_port_invlpg(vaddr_t address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

_Static_assert(offsetof(struct mm_port_cpu, slot) == 0, "mm_port_cpu_slot() reads GS:0");

unsigned mm_port_cpu_slot(void)
{
    uint32_t slot;

    __asm__ volatile("movl %%gs:0, %0" : "=r"(slot));
    return slot;
}
