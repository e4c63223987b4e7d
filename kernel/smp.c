/* SPDX-License-Identifier: MIT */
/* Owns the work of all CPUs: one call for their threads, one for their interrupt handlers, the
 * timer's function; and their common end.
 *
 *   smp_job { function, argument, number, running }
 *     caller: fill in, running := CPUs, number += 1, interrupt to all  ... until running = 0
 *     CPU:    number differs from what it did last: run, note the number, running -= 1
 *
 * Invariants: a job is filled in before its number changes (release/acquire) and not touched before
 * `running` is 0; jobs for handlers have a lock, so that there is one at a time, those for threads
 * have one caller, the boot CPU. A CPU looks for work with interrupts off and halts with the
 * instruction that switches them on (sti; hlt), so no interrupt falls between. */
#include "kernel/smp.h"
#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/interrupt.h"
#include "arch/x86_64/patience.h"
#include "kernel/console.h"
#include "kernel/panic.h"
#include "kernel/smp_parts.h"

#define SMP_NOBODY  UINT32_MAX
#define SMP_STOP_MS 500u

struct smp_job {
    void (*function)(void *argument);
    void *argument;
    uint32_t number; /* 0: there was none yet */
    uint32_t running;
};

struct smp_info smp_facts = { .listed = 1, .running = 1, .ids = "0" };

static struct smp_job smp_thread_job, smp_handler_job;
static uint32_t smp_handler_job_taken; /* 1: somebody is calling smp_interrupt_others() */
static void (*smp_timer_function)(void);
static smp_idle_function smp_idle;
static uint32_t smp_idle_taken;                    /* a CPU does idle work */
static uint32_t smp_stopper = SMP_NOBODY;          /* the CPU that has stopped the others */
static uint32_t smp_stopped;                       /* CPUs that stand still for it */
static uint8_t smp_stands_still[MM_PORT_MAX_CPUS]; /* 1: counted in smp_stopped */

const struct smp_info *smp_info(void)
{
    return &smp_facts;
}

unsigned smp_cpu_count(void)
{
    return smp_facts.running;
}

unsigned smp_cpu_number(void)
{
    return percpu_this()->number;
}

struct smp_cpu_stats smp_cpu_stats(unsigned number)
{
    const struct percpu *cpu = &percpu_table[number];
    struct smp_cpu_stats stats = {
        .lapic_id = cpu->lapic_id,
        .interrupts = __atomic_load_n(&cpu->interrupts, __ATOMIC_RELAXED),
        .ticks = __atomic_load_n(&cpu->ticks, __ATOMIC_RELAXED),
    };

    return stats;
}

/* ---- Jobs ---- */

static void smp_job_publish(struct smp_job *job, void (*function)(void *), void *argument,
                            unsigned cpus)
{
    job->function = function;
    job->argument = argument;
    __atomic_store_n(&job->running, cpus, __ATOMIC_RELAXED);
    __atomic_store_n(&job->number, job->number + 1, __ATOMIC_RELEASE);
}

static bool smp_job_is_new(const struct smp_job *job, uint32_t done)
{
    return __atomic_load_n(&job->number, __ATOMIC_ACQUIRE) != done;
}

/* `done` is the CPU's own note of what it did last. */
static void smp_job_run(struct smp_job *job, uint32_t *done)
{
    job->function(job->argument);
    *done = job->number;
    __atomic_fetch_sub(&job->running, 1, __ATOMIC_RELEASE);
}

/* Where the caller's interrupts are off, nobody else answers the shootdowns of the others. */
static void smp_serve_and_pause(void)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    mm_port_serve_shootdowns();
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(flags) : "memory", "cc");
    __builtin_ia32_pause();
}

static void smp_job_wait(const struct smp_job *job)
{
    while (__atomic_load_n(&job->running, __ATOMIC_ACQUIRE) != 0)
        smp_serve_and_pause();
}

/* ---- Threads ---- */

static void smp_check_caller(const struct percpu *cpu)
{
    if (cpu->number != 0 || cpu->port.slot != 0)
        panic("smp_call_all() on CPU %u in slot %u: it belongs to the boot CPU's thread",
              cpu->number, cpu->port.slot);
    if (cpu->in_call != 0)
        panic("smp_call_all() from inside a function that it runs");
}

static void smp_run_thread_job(struct percpu *cpu)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tsti" : "=r"(flags) : : "memory");
    cpu->in_call = 1;
    smp_job_run(&smp_thread_job, &cpu->call_done);
    cpu->in_call = 0;
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(flags) : "memory", "cc");
}

/* One by one: "all but this one" would also reach a processor that nobody started, and wake it where
 * firmware left it. */
static void smp_send_others(uint32_t me, unsigned vector)
{
    for (unsigned number = 0; number < MM_PORT_MAX_CPUS; number++)
        if (number != me && smp_is_online(&percpu_table[number]))
            apic_send(percpu_table[number].lapic_id, vector);
}

void smp_call_all(void (*function)(void *argument), void *argument)
{
    struct percpu *cpu = percpu_this();

    smp_check_caller(cpu);
    smp_job_publish(&smp_thread_job, function, argument, smp_facts.running);
    if (smp_facts.running > 1)
        smp_send_others(cpu->number, TRAP_CALL);
    smp_run_thread_job(cpu);
    smp_job_wait(&smp_thread_job);
}

/* ---- Without work ---- */

/* One CPU at a time: 254 others that wait for the same lock would keep the one that has it from its work.
 * in_idle is raised, as with the timer's function, before the function is read. A job that comes waits for
 * one bit of work at most. */
static void smp_work_idly(struct percpu *cpu)
{
    if (__atomic_load_n(&smp_idle_taken, __ATOMIC_RELAXED) != 0 ||
        __atomic_exchange_n(&smp_idle_taken, 1, __ATOMIC_ACQUIRE) != 0)
        return;
    __atomic_store_n(&cpu->in_idle, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < SMP_IDLE_UNITS; i++) {
        smp_idle_function function = __atomic_load_n(&smp_idle, __ATOMIC_SEQ_CST);

        if (function == NULL || smp_job_is_new(&smp_thread_job, cpu->call_done) || !function())
            break;
    }
    __atomic_store_n(&cpu->in_idle, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&smp_idle_taken, 0, __ATOMIC_RELEASE);
}

smp_idle_function smp_set_idle_function(smp_idle_function function)
{
    smp_idle_function before = __atomic_exchange_n(&smp_idle, function, __ATOMIC_SEQ_CST);

    for (unsigned number = 0; number < smp_facts.running; number++) {
        while (__atomic_load_n(&percpu_table[number].in_idle, __ATOMIC_SEQ_CST) != 0)
            smp_serve_and_pause();
    }
    return before;
}

_Noreturn void smp_wait_for_work(void)
{
    struct percpu *cpu = percpu_this();

    for (;;) {
        cpu_interrupts_on();
        smp_work_idly(cpu);
        cpu_interrupts_off();
        if (smp_job_is_new(&smp_thread_job, cpu->call_done))
            smp_run_thread_job(cpu);
        else
            __asm__ volatile("sti\n\thlt" : : : "memory");
    }
}

/* ---- Handlers ---- */

static void smp_on_call(const struct trap_frame *frame)
{
    struct percpu *cpu = percpu_this();

    (void)frame;
    if (smp_job_is_new(&smp_handler_job, cpu->signal_done))
        smp_job_run(&smp_handler_job, &cpu->signal_done);
    cpu_interrupts_off();
    apic_end_interrupt();
}

/* With interrupts off: a TRAP_CALL between the two, sent for something else, would run the job here. */
static void smp_publish_for_others(struct percpu *cpu, void (*function)(void *argument),
                                   void *argument)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    smp_job_publish(&smp_handler_job, function, argument, smp_facts.running - 1);
    cpu->signal_done = smp_handler_job.number;
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(flags) : "memory", "cc");
}

void smp_interrupt_others(void (*function)(void *argument), void *argument)
{
    struct percpu *cpu = percpu_this();

    if (smp_facts.running == 1)
        return;
    while (__atomic_exchange_n(&smp_handler_job_taken, 1, __ATOMIC_ACQUIRE) != 0)
        smp_serve_and_pause();
    smp_publish_for_others(cpu, function, argument);
    smp_send_others(cpu->number, TRAP_CALL);
    smp_job_wait(&smp_handler_job);
    __atomic_store_n(&smp_handler_job_taken, 0, __ATOMIC_RELEASE);
}

/* ---- Timer ---- */

/* A function that takes longer than a tick (it waits for a lock whose holder's CPU does not run, as
 * happens to virtual ones) would be called again at once, and its thread would never go on. */
static bool smp_tick_is_due(const struct percpu *cpu)
{
    return cpu_read_tsc() - cpu->tick_end >= tsc_hz() / SMP_TIMER_HZ / 2;
}

/* The end of the interrupt is told last: until then the APIC holds the next tick back, whatever the
 * function does with the interrupt flag. */
static void smp_on_timer(const struct trap_frame *frame)
{
    struct percpu *cpu = percpu_this();
    void (*function)(void);

    (void)frame;
    __atomic_store_n(&cpu->ticks, cpu->ticks + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&cpu->in_tick, 1, __ATOMIC_SEQ_CST);
    function = __atomic_load_n(&smp_timer_function, __ATOMIC_SEQ_CST);
    if (function != NULL && smp_tick_is_due(cpu)) {
        function();
        cpu_interrupts_off();
        cpu->tick_end = cpu_read_tsc();
    }
    __atomic_store_n(&cpu->in_tick, 0, __ATOMIC_RELEASE);
    apic_end_interrupt();
}

/* A CPU raises in_tick before it reads the function, and we change the function before we read
 * in_tick, all in one order: who is not seen inside has seen the new function. */
void smp_set_timer_function(void (*function)(void))
{
    __atomic_store_n(&smp_timer_function, function, __ATOMIC_SEQ_CST);
    for (unsigned number = 0; number < smp_facts.running; number++) {
        while (__atomic_load_n(&percpu_table[number].in_tick, __ATOMIC_SEQ_CST) != 0)
            smp_serve_and_pause();
    }
}

/* ---- The end ---- */

/* Counts once: a CPU that lost the race to stop the others stands still already when its NMI comes. */
static _Noreturn void smp_stand_still(uint32_t me)
{
    if (__atomic_exchange_n(&smp_stands_still[me], 1, __ATOMIC_ACQ_REL) == 0)
        __atomic_fetch_add(&smp_stopped, 1, __ATOMIC_RELEASE);
    cpu_halt_forever();
}

static void smp_on_nmi(const struct trap_frame *frame)
{
    uint32_t stopper = __atomic_load_n(&smp_stopper, __ATOMIC_ACQUIRE);

    if (stopper == SMP_NOBODY || stopper == percpu_this()->number)
        trap_handle(frame);
    smp_stand_still(percpu_this()->number);
}

/* One by one: an NMI to all would also wake CPUs that stand in the loader's or the firmware's code,
 * without a handler. */
static unsigned smp_send_stops(uint32_t me)
{
    unsigned sent = 0;

    for (unsigned number = 0; number < MM_PORT_MAX_CPUS; number++) {
        if (number == me || !smp_is_online(&percpu_table[number]))
            continue;
        apic_send_nmi(percpu_table[number].lapic_id);
        sent++;
    }
    return sent;
}

void smp_stop_others(void)
{
    struct patience patience = patience_of_ms(SMP_STOP_MS);
    uint32_t me = percpu_this()->number;
    uint32_t before = SMP_NOBODY;
    unsigned sent;

    cpu_interrupts_off();
    if (!__atomic_compare_exchange_n(&smp_stopper, &before, me, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        if (before == me)
            return;
        smp_stand_still(me);
    }
    sent = smp_facts.has_apic ? smp_send_stops(me) : 0;
    while (__atomic_load_n(&smp_stopped, __ATOMIC_ACQUIRE) < sent && patience_lasts(&patience)) {
    }
}

/* ---- Handlers of the APIC's own vectors ---- */

static void smp_on_apic_error(const struct trap_frame *frame)
{
    (void)frame;
    console_print("WARNING: CPU %u: local APIC errors 0x%x", smp_cpu_number(), apic_take_errors());
    apic_end_interrupt();
}

/* Nothing is in service then, so there is no end to tell (SDM vol. 3, 10.9). */
static void smp_on_spurious(const struct trap_frame *frame)
{
    (void)frame;
}

void smp_init_handlers(void)
{
    interrupt_set_handler(TRAP_NMI, smp_on_nmi);
    interrupt_set_handler(TRAP_TIMER, smp_on_timer);
    interrupt_set_handler(TRAP_CALL, smp_on_call);
    interrupt_set_handler(TRAP_APIC_ERROR, smp_on_apic_error);
    interrupt_set_handler(TRAP_SPURIOUS, smp_on_spurious);
}
