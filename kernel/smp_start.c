/* SPDX-License-Identifier: MIT */
/* Owns the start of the CPUs: a seat for each one that the loader lists, and what each must be.
 *
 *   seat.state  RELEASED --the CPU: all is well--> PRESENT --we: number, stacks--> ADMITTED
 *                                                          --we: no memory--> REFUSED    parks
 *                        --the CPU: it lacks something--> LACKING                        parks
 *                        --we: time is over--> LOST                parks too, if it comes at all
 *   ADMITTED --the CPU: member for TLB shootdowns, our page tables and stack--> percpu.online
 *
 * All come at the same time, since each that waits in a loop slows down the others where CPUs are
 * virtual; numbers are given in the order of the loader's list to those that have come, so they
 * have no gaps. RELEASED is left by compare-and-exchange, so a CPU that comes late finds its seat
 * LOST. Those that do not run are sent to kernel/smp_park.c, also those that nobody wanted (no seat,
 * an id out of reach), so that in the end no CPU uses memory of the loader; smp_loader_users() says
 * how many still may.
 *
 * Invariants: a CPU runs on the loader's stack and page tables until it is a member for TLB
 * shootdowns (kernel/shootdown.c, JOIN), then never again; its CR0, CR4, EFER and PAT are those of
 * the boot CPU, read back, before it uses our page tables, for these rely on them. */
#include "arch/x86_64/ap.h"
#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/patience.h"
#include "arch/x86_64/pic.h"
#include "kernel/boot.h"
#include "kernel/console.h"
#include "kernel/panic.h"
#include "kernel/shootdown.h"
#include "kernel/smp_park.h"
#include "kernel/smp_parts.h"
#include <mm/mm.h>

#define SMP_STACK_BYTES      MM_KIB(32)
#define SMP_TRAP_STACK_BYTES MM_KIB(16)
#define SMP_ARRIVE_MS        5000u
#define SMP_ENTER_MS         10000u
#define MSR_EFER             0xc0000080u
#define MSR_PAT              0x277u

enum smp_state {
    SMP_SEAT_EMPTY, /* no such CPU, or not released: the boot CPU, an id out of reach */
    SMP_SEAT_RELEASED,
    SMP_SEAT_PRESENT,
    SMP_SEAT_ADMITTED,
    SMP_SEAT_REFUSED,
    SMP_SEAT_LACKING,
    SMP_SEAT_LOST,
};

struct smp_seat {
    uint32_t state;     /* enum smp_state; atomic */
    struct percpu *cpu; /* written before the state becomes ADMITTED */
    const char *lacks;  /* written before the state becomes LACKING */
};

/* What the boot CPU runs with, and every other must. */
struct smp_controls {
    uint64_t cr0, cr4, efer, pat;
};

static struct smp_seat smp_seats[MM_PORT_MAX_CPUS];
static struct smp_controls smp_controls;
static uint64_t smp_loader_cpus; /* that the loader has let wait, and that do not run */
static bool smp_loader_list_is_whole;
static uint32_t smp_timer_ticks; /* of the divided clock, per interrupt; 0: no timer */

/* ---- On the CPU that comes, still in the loader's memory ---- */

static struct smp_controls smp_read_controls(bool pat)
{
    struct smp_controls controls = {
        .cr0 = mm_port_read_cr(0),
        .cr4 = mm_port_read_cr(4),
        .efer = mm_port_read_msr(MSR_EFER),
        .pat = pat ? mm_port_read_msr(MSR_PAT) : 0,
    };

    return controls;
}

/* The name of the first thing that this CPU lacks and the first one has; NULL if there is none. */
static const char *smp_find_missing(const struct mm_cpu_features *first)
{
    struct mm_cpu_features own = mm_cpu_features();
    const struct {
        const char *name;
        bool missing;
    } checks[] = {
        { "NX", first->nx && !own.nx },
        { "PAT", first->pat && !own.pat },
        { "PGE", first->pge && !own.pge },
        { "SMEP", first->smep && !own.smep },
        { "SMAP", first->smap && !own.smap },
        { "UMIP", first->umip && !own.umip },
        { "1 GB pages", first->huge_pages && !own.huge_pages },
        { "the page table levels", first->levels != own.levels },
        { "the physical address bits", first->physical_bits > own.physical_bits },
        { "the local APIC mode", apic_mode_of_cpu() != apic_mode() },
    };

    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (checks[i].missing)
            return checks[i].name;
    }
    return NULL;
}

/* Page tables are the loader's still, which use none of what is set here; the TLB is emptied when
 * ours are loaded, as a new PAT asks (SDM vol. 3, 11.12.4). */
static const char *smp_apply_controls(const struct smp_controls *wanted, bool pat)
{
    struct smp_controls got;

    mm_port_write_msr(MSR_EFER, wanted->efer);
    mm_port_write_cr(0, wanted->cr0);
    mm_port_write_cr(4, wanted->cr4);
    if (pat)
        mm_port_write_msr(MSR_PAT, wanted->pat);
    got = smp_read_controls(pat);
    return got.efer != wanted->efer ? "EFER as it was set"
           : got.cr0 != wanted->cr0 ? "CR0 as it was set"
           : got.cr4 != wanted->cr4 ? "CR4 as it was set"
           : got.pat != wanted->pat ? "the PAT as it was set"
                                    : NULL;
}

static enum smp_state smp_state_of(const struct smp_seat *seat)
{
    return (enum smp_state)__atomic_load_n(&seat->state, __ATOMIC_ACQUIRE);
}

static void smp_set_state(struct smp_seat *seat, enum smp_state state)
{
    __atomic_store_n(&seat->state, (uint32_t)state, __ATOMIC_RELEASE);
}

/* From RELEASED only; false if somebody else was first. */
static bool smp_leave_released(struct smp_seat *seat, enum smp_state to)
{
    uint32_t from = SMP_SEAT_RELEASED;

    return __atomic_compare_exchange_n(&seat->state, &from, (uint32_t)to, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static _Noreturn void smp_enter(void *argument);

/* Where the loader sends a CPU that was released; without a seat it is not wanted. */
static void smp_arrive(void *argument)
{
    struct smp_seat *seat = argument;
    const struct mm *mm = mm_kernel();
    const char *lacks;

    if (seat == NULL)
        smp_park();
    lacks = smp_find_missing(&mm->cpu);

    if (lacks == NULL)
        lacks = smp_apply_controls(&smp_controls, mm->cpu.pat);
    seat->lacks = lacks;
    if (!smp_leave_released(seat, lacks == NULL ? SMP_SEAT_PRESENT : SMP_SEAT_LACKING))
        smp_park();
    while (smp_state_of(seat) == SMP_SEAT_PRESENT)
        __builtin_ia32_pause();
    if (smp_state_of(seat) != SMP_SEAT_ADMITTED)
        smp_park();
    shootdown_join(seat->cpu->number);
    ap_switch(mm->kernel_space.root, smp_controls.cr4, seat->cpu->stack_top, smp_enter, seat->cpu);
}

/* ---- On the CPU that comes, in our memory ---- */

static _Noreturn void smp_enter(void *argument)
{
    struct percpu *cpu = argument;

    gdt_init_cpu(cpu, cpu->trap_stack_tops);
    idt_load();
    if (!apic_enable())
        panic("CPU %u: its local APIC has left the mode of the others", cpu->number);
    mm_port_serve_shootdowns(); /* those whose interrupt came before the APIC was on */
    __atomic_store_n(&cpu->online, 1, __ATOMIC_RELEASE);
    smp_wait_for_work();
}

/* ---- On the boot CPU ---- */

static bool smp_alloc_stacks(struct percpu *cpu)
{
    struct kvm *kvm = &mm_kernel()->kvm;

    if (cpu->stack_top == 0 && kvm_alloc_stack(kvm, SMP_STACK_BYTES, &cpu->stack_top) != MM_OK)
        return false;
    for (unsigned i = 1; i < GDT_IST_COUNT; i++) {
        if (cpu->trap_stack_tops[i] == 0 &&
            kvm_alloc_stack(kvm, SMP_TRAP_STACK_BYTES, &cpu->trap_stack_tops[i]) != MM_OK)
            return false;
    }
    return true;
}

/* Those of the first number that nobody got: some may have been made before the memory ended. */
static void smp_free_stacks(struct percpu *cpu)
{
    struct kvm *kvm = &mm_kernel()->kvm;

    if (cpu->stack_top != 0)
        kvm_free_stack(kvm, cpu->stack_top);
    cpu->stack_top = 0;
    for (unsigned i = 1; i < GDT_IST_COUNT; i++) {
        if (cpu->trap_stack_tops[i] != 0)
            kvm_free_stack(kvm, cpu->trap_stack_tops[i]);
        cpu->trap_stack_tops[i] = 0;
    }
}

static void smp_report(uint32_t lapic_id, const char *what, const char *detail)
{
    console_print("WARNING: the CPU with APIC id %u %s%s; the others go on without it", lapic_id,
                  what, detail);
}

/* Lets all go that can be reached; returns how many seats there are. */
static uint64_t smp_release_all(uint64_t listed, struct smp_options options)
{
    uint64_t seats = listed < MM_PORT_MAX_CPUS ? listed : MM_PORT_MAX_CPUS;

    if (options.most != 0 && options.most < seats)
        seats = options.most;
    else if (seats < listed)
        console_print("WARNING: only %u CPUs are used of %llu", MM_PORT_MAX_CPUS,
                      (unsigned long long)listed);
    for (uint64_t index = 0; index < seats; index++) {
        uint32_t lapic_id = limine_cpu_lapic_id(index);

        if (lapic_id == percpu_table[0].lapic_id)
            continue;
        if (lapic_id > apic_highest_id()) {
            smp_report(lapic_id, "cannot be reached without x2APIC", "");
            continue;
        }
        smp_set_state(&smp_seats[index], SMP_SEAT_RELEASED);
        if (!options.has_lost || options.lost != index)
            limine_release_cpu(index, smp_arrive, &smp_seats[index]);
    }
    return seats;
}

static unsigned smp_count_missing(uint64_t seats)
{
    unsigned count = 0;

    for (uint64_t index = 0; index < seats; index++)
        count += smp_state_of(&smp_seats[index]) == SMP_SEAT_RELEASED;
    return count;
}

/* As long as CPUs keep coming it waits for the rest: how long the last one takes grows with their
 * number where CPUs are virtual. */
static void smp_wait_for_arrivals(uint64_t seats)
{
    struct patience patience = patience_of_ms(SMP_ARRIVE_MS);
    unsigned missing = smp_count_missing(seats), now;

    while ((now = smp_count_missing(seats)) > 0) {
        if (now < missing)
            patience = patience_of_ms(SMP_ARRIVE_MS);
        missing = now;
        if (!patience_lasts(&patience))
            break;
    }
    for (uint64_t index = 0; index < seats; index++)
        (void)smp_leave_released(&smp_seats[index], SMP_SEAT_LOST);
}

/* Gives a CPU that has come its number, its area and its stacks. */
static bool smp_admit(struct smp_seat *seat, unsigned number, uint32_t lapic_id)
{
    struct percpu *cpu = &percpu_table[number];

    if (number >= MM_PORT_MAX_CPUS || !smp_alloc_stacks(cpu)) {
        smp_set_state(seat, SMP_SEAT_REFUSED);
        return false;
    }
    percpu_init(number);
    cpu->lapic_id = lapic_id; /* where shootdowns find it, from the moment it joins */
    seat->cpu = cpu;
    smp_set_state(seat, SMP_SEAT_ADMITTED);
    return true;
}

/* What becomes of the CPU at this place: true if it gets the number. */
static bool smp_settle(uint64_t index, unsigned number, struct smp_options options)
{
    struct smp_seat *seat = &smp_seats[index];
    uint32_t lapic_id = limine_cpu_lapic_id(index);

    switch (smp_state_of(seat)) {
    case SMP_SEAT_PRESENT:
        if (smp_admit(seat, number, lapic_id))
            return true;
        smp_report(lapic_id, "stays parked; there is no memory for its stacks", "");
        return false;
    case SMP_SEAT_LACKING:
        smp_report(lapic_id, "stays parked; it lacks ", seat->lacks);
        return false;
    case SMP_SEAT_LOST:
        smp_report(lapic_id, "was released and never came", "");
        if (options.has_lost && options.lost == index) /* now it comes, and must do no harm */
            limine_release_cpu(index, smp_arrive, seat);
        return false;
    default:
        return false;
    }
}

/* From its admission on a CPU runs our code only, and is a member for shootdowns: there is no way
 * back. */
static void smp_wait_until_online(const struct percpu *cpu)
{
    struct patience patience = patience_of_ms(SMP_ENTER_MS);

    while (!smp_is_online(cpu)) {
        mm_port_serve_shootdowns();
        if (!patience_lasts(&patience))
            panic("CPU %u came and then stopped", cpu->number);
    }
}

/* All that the loader lists but this one. */
static void smp_start_others(uint64_t listed, struct smp_options options)
{
    uint64_t seats;
    unsigned number = 1;

    smp_controls = smp_read_controls(mm_kernel()->cpu.pat);
    seats = smp_release_all(listed, options);
    smp_wait_for_arrivals(seats);
    for (uint64_t index = 0; index < seats; index++)
        number += smp_settle(index, number, options);
    for (unsigned i = 1; i < number; i++)
        smp_wait_until_online(&percpu_table[i]);
    if (number < MM_PORT_MAX_CPUS)
        smp_free_stacks(&percpu_table[number]);
    smp_facts.running = number;
}

/* ---- Those that do not run ---- */

static bool smp_is_boot(uint64_t index)
{
    if (smp_facts.has_apic)
        return limine_cpu_lapic_id(index) == percpu_table[0].lapic_id;
    return limine_cpu_is_boot(index);
}

/* Parks those that nobody has released, and waits until all stand: as long as they keep coming. */
static void smp_park_rest(uint64_t listed)
{
    struct patience patience = patience_of_ms(SMP_ARRIVE_MS);
    uint32_t parked = 0, now;

    smp_loader_list_is_whole = limine_cpu_list_is_whole();
    smp_loader_cpus = 0;
    for (uint64_t index = 0; index < listed; index++) {
        if (smp_is_boot(index))
            continue;
        smp_loader_cpus++;
        if (index >= MM_PORT_MAX_CPUS || smp_state_of(&smp_seats[index]) == SMP_SEAT_EMPTY)
            limine_release_cpu(index, smp_arrive, NULL);
    }
    smp_loader_cpus -= smp_facts.running - 1;
    while ((now = smp_parked_count()) < smp_loader_cpus && patience_lasts(&patience)) {
        if (now > parked)
            patience = patience_of_ms(SMP_ARRIVE_MS);
        parked = now;
    }
}

uint64_t smp_loader_users(void)
{
    return smp_loader_cpus - smp_parked_count() + !smp_loader_list_is_whole;
}

/* ---- The boot CPU's own ---- */

/* Returns false where there is no local APIC, or no way to it. */
static bool smp_start_apic(void)
{
    enum apic_mode mode = apic_mode_of_cpu();
    vaddr_t registers = 0;
    mm_status_t status;

    if (mode == APIC_NONE)
        return false;
    if (mode == APIC_X) {
        status = kvm_map_device(&mm_kernel()->kvm, apic_physical_base(), APIC_REGISTER_BYTES,
                                PAGING_UNCACHED, &registers);
        if (status != MM_OK) {
            console_print("WARNING: the local APIC cannot be mapped: %s", mm_status_name(status));
            return false;
        }
    }
    apic_init(mode, registers);
    if (!apic_enable())
        return false;
    percpu_table[0].lapic_id = apic_id();
    __atomic_store_n(&percpu_table[0].online, 1, __ATOMIC_RELEASE);
    smp_facts.x2apic = mode == APIC_X2;
    return true;
}

static void smp_start_own_timer(void *unused)
{
    (void)unused;
    apic_start_timer(smp_timer_ticks);
}

/* All timers have one clock (SDM vol. 3, 10.5.4: the bus clock or the core crystal clock). */
static void smp_start_timers(uint64_t timer_clock_hz)
{
    uint64_t ticks = (timer_clock_hz + SMP_TIMER_HZ / 2) / SMP_TIMER_HZ;

    if (ticks == 0 || ticks > UINT32_MAX)
        return;
    smp_timer_ticks = (uint32_t)ticks;
    smp_facts.timer_hz = (uint32_t)((timer_clock_hz + ticks / 2) / ticks);
    smp_interrupt_others(smp_start_own_timer, NULL);
    smp_start_own_timer(NULL);
}

/* ---- What came of it ---- */

/* Ids in the order of CPU numbers, runs joined: "0-3, 6". */
static void smp_describe_ids(char *text, size_t capacity)
{
    size_t used = 0;

    for (unsigned first = 0, next; first < smp_facts.running && used < capacity; first = next) {
        uint32_t id = percpu_table[first].lapic_id;

        next = first + 1;
        while (next < smp_facts.running && percpu_table[next].lapic_id == id + (next - first))
            next++;
        used += mm_format(text + used, capacity - used, "%s%u", used == 0 ? "" : ", ", id);
        if (next - first > 1 && used < capacity)
            used += mm_format(text + used, capacity - used, "-%u", id + (next - first) - 1);
    }
}

static void smp_print_summary(void)
{
    char apic[96], timer[32];

    if (smp_facts.has_apic)
        (void)mm_format(apic, sizeof(apic), "%s id%s %s", smp_facts.x2apic ? "x2APIC" : "xAPIC",
                        smp_facts.running > 1 ? "s" : "", smp_facts.ids);
    else
        (void)mm_format(apic, sizeof(apic), "no local APIC");
    if (smp_facts.timer_hz != 0)
        (void)mm_format(timer, sizeof(timer), "timer %u Hz", smp_facts.timer_hz);
    else
        (void)mm_format(timer, sizeof(timer), "no timer");
    console_print("CPUs: %u of %u started (%s), %s", smp_facts.running, smp_facts.listed, apic,
                  timer);
}

void smp_start(struct smp_options options)
{
    uint64_t listed = limine_cpu_count();
    uint64_t timer_clock_hz;

    smp_park_init(mm_kernel()->boot.kernel_phys);
    smp_init_handlers();
    shootdown_init();
    pic_disable();
    smp_facts.has_apic = smp_start_apic();
    if (smp_facts.has_apic) {
        timer_clock_hz = apic_measure_timer();
        smp_facts.listed = listed > 0 ? (unsigned)listed : 1;
        smp_start_others(listed, options);
        smp_describe_ids(smp_facts.ids, sizeof(smp_facts.ids));
        smp_start_timers(timer_clock_hz);
    }
    smp_park_rest(listed);
    smp_print_summary();
    cpu_interrupts_on();
}
