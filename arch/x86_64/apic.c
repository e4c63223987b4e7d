/* SPDX-License-Identifier: MIT */
/* Owns the way to the local APIC's registers: one page, at the same address on every CPU, or MSRs.
 *
 *   register r (offset in the page)   xAPIC: *(registers + r)   x2APIC: MSR 0x800 + r / 16
 *   interrupt command                 0x300, 0x310 for the id   MSR 0x830, id in bits 63..32
 *
 * Invariants: after apic_init() the mode never changes; the two writes of an xAPIC command are
 * made with interrupts off, so that no handler's command comes between them. Source: SDM vol. 3,
 * chapter 10 (registers: table 10-1; x2APIC: 10.12). */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/tsc.h"
#include <mm/port.h>

#define APIC_ID              0x020u
#define APIC_VERSION         0x030u
#define APIC_TASK_PRIORITY   0x080u
#define APIC_EOI             0x0b0u
#define APIC_SPURIOUS        0x0f0u
#define APIC_IN_SERVICE      0x100u /* 8 registers, 16 bytes apart */
#define APIC_ERRORS          0x280u
#define APIC_LVT_CMCI        0x2f0u
#define APIC_COMMAND         0x300u
#define APIC_COMMAND_ID      0x310u
#define APIC_LVT_TIMER       0x320u
#define APIC_LVT_THERMAL     0x330u
#define APIC_LVT_PERFORMANCE 0x340u
#define APIC_LVT_LINT0       0x350u
#define APIC_LVT_LINT1       0x360u
#define APIC_LVT_ERROR       0x370u
#define APIC_TIMER_FIRST     0x380u
#define APIC_TIMER_NOW       0x390u
#define APIC_TIMER_DIVIDE    0x3e0u
#define APIC_X2_BASE         0x800u
#define APIC_ENABLED         (1u << 8)
#define APIC_MASKED          (1u << 16)
#define APIC_PERIODIC        (1u << 17)
#define APIC_NMI             (4u << 8)
#define APIC_ASSERT          (1u << 14)
#define APIC_PENDING         (1u << 12)
#define APIC_DIVIDE_BY_16    0x3u
#define APIC_PATIENCE        1000000u

#define MSR_APIC_BASE     0x1bu
#define APIC_BASE_ENABLED ((uint64_t)1 << 11)
#define APIC_BASE_X2      ((uint64_t)1 << 10)
#define APIC_BASE_ADDRESS 0x000ffffffffff000ull
#define CPUID_APIC        (1u << 9)  /* leaf 1, EDX */
#define CPUID_X2APIC      (1u << 21) /* leaf 1, ECX */

#define APIC_MEASURES     5u
#define APIC_MEASURE_PART 500u /* of a second: 2 ms */

static MM_RO_AFTER_INIT enum apic_mode apic_way;
static MM_RO_AFTER_INIT volatile uint8_t *apic_registers;

/* ---- Registers ---- */

static uint32_t apic_read(uint32_t index)
{
    if (apic_way == APIC_X2)
        return (uint32_t)mm_port_read_msr(APIC_X2_BASE + index / 16);
    return *(volatile uint32_t *)(apic_registers + index);
}

static void apic_write(uint32_t index, uint32_t value)
{
    if (apic_way == APIC_X2)
        mm_port_write_msr(APIC_X2_BASE + index / 16, value);
    else
        *(volatile uint32_t *)(apic_registers + index) = value;
}

/* ---- Which one ---- */

enum apic_mode apic_mode_of_cpu(void)
{
    struct mm_port_cpuid basic = mm_port_cpuid(1, 0);

    if ((basic.edx & CPUID_APIC) == 0)
        return APIC_NONE;
    if ((basic.ecx & CPUID_X2APIC) != 0 &&
        (mm_port_read_msr(MSR_APIC_BASE) & (APIC_BASE_X2 | APIC_BASE_ENABLED)) ==
            (APIC_BASE_X2 | APIC_BASE_ENABLED))
        return APIC_X2;
    return APIC_X;
}

paddr_t apic_physical_base(void)
{
    return mm_port_read_msr(MSR_APIC_BASE) & APIC_BASE_ADDRESS;
}

MM_INIT void apic_init(enum apic_mode mode, vaddr_t registers)
{
    apic_way = mode;
    apic_registers = (volatile uint8_t *)registers;
}

enum apic_mode apic_mode(void)
{
    return apic_way;
}

/* 255 is everybody in xAPIC mode; 2^32 - 1 is in x2APIC mode. */
uint32_t apic_highest_id(void)
{
    return apic_way == APIC_X2 ? UINT32_MAX - 1 : 254;
}

uint32_t apic_id(void)
{
    uint32_t id = apic_read(APIC_ID);

    return apic_way == APIC_X2 ? id : id >> 24;
}

/* ---- Switching on ---- */

/* The registers' address is a register too: each CPU's must be where the mapping leads. */
static bool apic_join_mode(void)
{
    static paddr_t base_of_all; /* set by the boot CPU, which comes first */
    enum apic_mode mode = apic_mode_of_cpu();
    uint64_t value;

    if (mode != apic_way)
        return false;
    if (mode == APIC_X2)
        return true;
    if (base_of_all == 0)
        base_of_all = apic_physical_base();
    value = mm_port_read_msr(MSR_APIC_BASE) & ~APIC_BASE_ADDRESS;
    mm_port_write_msr(MSR_APIC_BASE, value | base_of_all | APIC_BASE_ENABLED);
    return true;
}

static void apic_mask_sources(void)
{
    uint32_t highest = apic_read(APIC_VERSION) >> 16 & 0xff; /* index of the last LVT entry */

    apic_write(APIC_LVT_TIMER, APIC_MASKED | TRAP_TIMER);
    apic_write(APIC_LVT_LINT0, APIC_MASKED);
    if (highest >= 4)
        apic_write(APIC_LVT_PERFORMANCE, APIC_MASKED);
    if (highest >= 5)
        apic_write(APIC_LVT_THERMAL, APIC_MASKED);
    if (highest >= 6)
        apic_write(APIC_LVT_CMCI, APIC_MASKED);
    apic_write(APIC_LVT_LINT1, APIC_NMI);
    apic_write(APIC_LVT_ERROR, TRAP_APIC_ERROR);
}

/* What firmware left in service would hold back everything of its class and below. */
static void apic_end_all(void)
{
    for (unsigned i = 0; i < 256; i++) {
        bool any = false;

        for (uint32_t word = 0; word < 8; word++)
            any |= apic_read(APIC_IN_SERVICE + word * 16) != 0;
        if (!any)
            return;
        apic_end_interrupt();
    }
}

bool apic_enable(void)
{
    if (!apic_join_mode())
        return false;
    apic_write(APIC_SPURIOUS, APIC_ENABLED | TRAP_SPURIOUS);
    apic_mask_sources();
    apic_write(APIC_TASK_PRIORITY, 0);
    apic_end_all();
    (void)apic_take_errors();
    return true;
}

/* A write makes the register show what has gathered since the last one (SDM vol. 3, 10.5.3). */
uint32_t apic_take_errors(void)
{
    apic_write(APIC_ERRORS, 0);
    return apic_read(APIC_ERRORS);
}

void apic_end_interrupt(void)
{
    apic_write(APIC_EOI, 0);
}

/* ---- Commands ---- */

/* The xAPIC takes one command at a time; it is ready again within microseconds. */
static void apic_command_x(uint32_t id, uint32_t command)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    for (unsigned polls = 0; polls < APIC_PATIENCE; polls++) {
        if ((apic_read(APIC_COMMAND) & APIC_PENDING) == 0)
            break;
        __builtin_ia32_pause();
    }
    apic_write(APIC_COMMAND_ID, id << 24);
    apic_write(APIC_COMMAND, command);
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(flags) : "memory", "cc");
}

/* Uncached stores stay behind older stores; writes to x2APIC registers do not, hence the fences
 * (SDM vol. 3, 10.12.3). */
static void apic_command(uint32_t id, uint32_t command)
{
    if (apic_way == APIC_X2) {
        __asm__ volatile("mfence\n\tlfence" : : : "memory");
        mm_port_write_msr(APIC_X2_BASE + APIC_COMMAND / 16, (uint64_t)id << 32 | command);
    } else {
        apic_command_x(id, command);
    }
}

void apic_send(uint32_t id, unsigned vector)
{
    apic_command(id, APIC_ASSERT | vector);
}

void apic_send_nmi(uint32_t id)
{
    apic_command(id, APIC_ASSERT | APIC_NMI);
}

/* ---- Timer ---- */

/* Counts both clocks from one pair of readings to another, at least a part of a second apart. */
static MM_INIT uint64_t apic_measure_once(void)
{
    uint64_t begin = cpu_read_tsc(), now = begin;
    uint32_t from = apic_read(APIC_TIMER_NOW), to = from;

    while (now - begin < tsc_hz() / APIC_MEASURE_PART) {
        now = cpu_read_tsc();
        to = apic_read(APIC_TIMER_NOW);
        if (to == 0)
            return 0;
    }
    return (uint64_t)(from - to) * tsc_hz() / (now - begin);
}

/* What stops this CPU between the two readings of a pair makes one measurement wrong; the middle
 * one of several is right. */
MM_INIT uint64_t apic_measure_timer(void)
{
    uint64_t sorted[APIC_MEASURES];

    if (tsc_hz() == 0)
        return 0;
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_16);
    apic_write(APIC_LVT_TIMER, APIC_MASKED | TRAP_TIMER);
    apic_write(APIC_TIMER_FIRST, UINT32_MAX);
    for (unsigned i = 0; i < APIC_MEASURES; i++) {
        uint64_t value = apic_measure_once();
        unsigned place = i;

        for (; place > 0 && sorted[place - 1] > value; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = value;
    }
    apic_write(APIC_TIMER_FIRST, 0);
    return sorted[APIC_MEASURES / 2];
}

void apic_start_timer(uint32_t ticks)
{
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_16);
    apic_write(APIC_LVT_TIMER, APIC_PERIODIC | TRAP_TIMER);
    apic_write(APIC_TIMER_FIRST, ticks);
}
