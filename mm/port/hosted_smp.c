/* SPDX-License-Identifier: MIT */
/* The fake CPUs of the hosted port together: their numbers, the TLB shootdown, and interrupts.
 *
 *   cpus[number] -> the CPU of a thread          slot = number * MM_PORT_LEVELS + level
 *   pending, in_service: one bit for each line   a line interrupts the lower ones only
 *
 * One mutex guards the registry and the TLBs of all CPUs. Who holds it has its interrupts off, calls
 * no hook and waits for nobody, so a handler never meets it and no two CPUs wait for each other.
 *
 * Interrupts are off while `interrupts` is clear: a signal that comes then only leaves its bit in
 * `pending`, and the one who switches interrupts on runs the handler. That costs the locks of mm a
 * load instead of two system calls, and unlike a signal mask it also holds under ThreadSanitizer,
 * which delivers signals late.
 *
 * Invariants: a number belongs to one living thread; a handler begins with interrupts on and no lock
 * held, and ends so; the level is the number of handlers that run on this CPU. */
#include "hosted_parts.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct hosted_cpu *cpus[MM_PORT_MAX_CPUS];
static unsigned cpus_end; /* no CPU has this number or a higher one */

/* ---- The registry ---- */

bool hosted_smp_lock(struct hosted_cpu *self)
{
    bool saved = hosted_interrupts_off(self);

    pthread_mutex_lock(&mutex);
    return saved;
}

void hosted_smp_unlock(struct hosted_cpu *self, bool saved)
{
    pthread_mutex_unlock(&mutex);
    hosted_interrupts_restore(self, saved);
}

void hosted_smp_add(struct hosted_cpu *self)
{
    bool saved = hosted_smp_lock(self);
    unsigned number = 0;

    while (number < MM_PORT_MAX_CPUS && cpus[number] != NULL)
        number++;
    if (number < MM_PORT_MAX_CPUS) {
        cpus[number] = self;
        cpus_end = number < cpus_end ? cpus_end : number + 1;
        self->number = number;
    }
    hosted_smp_unlock(self, saved);
    if (number == MM_PORT_MAX_CPUS) {
        fprintf(stderr, "hosted port: more than %u threads use mm at once\n", MM_PORT_MAX_CPUS);
        abort();
    }
}

void hosted_smp_remove(struct hosted_cpu *self)
{
    bool saved = hosted_smp_lock(self);

    hosted_tlb_drop_all_locked(self);
    cpus[self->number] = NULL;
    while (cpus_end > 0 && cpus[cpus_end - 1] == NULL)
        cpus_end--;
    hosted_smp_unlock(self, saved);
}

unsigned hosted_cpu_count(void)
{
    struct hosted_cpu *self = hosted_cpu();
    bool saved = hosted_smp_lock(self);
    unsigned count = 0;

    for (unsigned i = 0; i < cpus_end; i++)
        count += cpus[i] != NULL;
    hosted_smp_unlock(self, saved);
    return count;
}

unsigned mm_port_cpu_slot(void)
{
    const struct hosted_cpu *cpu = hosted_cpu();

    if (cpu->nmi_depth != 0)
        return MM_PORT_NO_SLOT;
    return cpu->number * MM_PORT_LEVELS + cpu->level;
}

/* A barrier on every thread of the process that runs; one that does not has passed one. */
void mm_port_cpu_barrier(void)
{
    static int registered; /* 0: not tried yet */

    if (__atomic_load_n(&registered, __ATOMIC_ACQUIRE) == 0) {
        if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0) {
            perror("hosted port: membarrier");
            abort();
        }
        __atomic_store_n(&registered, 1, __ATOMIC_RELEASE);
    }
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0)
        abort();
}

/* ---- Changes under way ---- */

void hosted_smp_note_changes_locked(const struct hosted_cpu *self, struct hosted_changes *changes)
{
    changes->end = 0;
    for (unsigned i = 0; i < cpus_end; i++) {
        uint64_t section = 0;

        if (cpus[i] != NULL && cpus[i] != self)
            section = __atomic_load_n(&cpus[i]->lock_section, __ATOMIC_ACQUIRE);
        changes->section[i] = section;
        if (section % 2 != 0)
            changes->end = i + 1;
    }
}

bool hosted_smp_are_over_locked(const struct hosted_changes *changes)
{
    unsigned end = changes->end < cpus_end ? changes->end : cpus_end;

    for (unsigned i = 0; i < end; i++)
        if (changes->section[i] % 2 != 0 && cpus[i] != NULL &&
            __atomic_load_n(&cpus[i]->lock_section, __ATOMIC_ACQUIRE) == changes->section[i])
            return false;
    return true;
}

/* ---- The shootdown ---- */

/* As a kernel does it: INVLPG for each page; for everything a change of CR4.PGE, or a load of CR3
 * where there are no global translations (SDM vol. 3, 4.10.4.1). */
static void flush_own(const struct mm_tlb_batch *batch)
{
    uint64_t cr4 = mm_port_read_cr(4);

    if (!batch->everything) {
        for (unsigned i = 0; i < batch->count; i++)
            mm_port_invlpg(batch->pages[i]);
    } else if ((cr4 & CR4_PGE) != 0) {
        mm_port_write_cr(4, cr4 & ~CR4_PGE);
        mm_port_write_cr(4, cr4);
    } else {
        mm_port_write_cr(3, mm_port_read_cr(3));
    }
}

static void drop_batch(struct hosted_cpu *cpu, const struct mm_tlb_batch *batch)
{
    cpu->shootdowns_served++;
    if (batch->everything) {
        hosted_tlb_drop_all_locked(cpu);
        return;
    }
    for (unsigned i = 0; i < batch->count; i++)
        hosted_tlb_drop_page_locked(cpu, batch->pages[i]);
}

/* The others need no interrupt: whoever holds the mutex may drop what they have cached. */
void mm_port_tlb_shootdown(const struct mm_tlb_batch *batch)
{
    struct hosted_cpu *self = hosted_cpu();
    bool saved;

    if (self->interrupts)
        hosted_violation("mm_port_tlb_shootdown is called with interrupts on");
    if (!batch->everything && batch->count > MM_TLB_BATCH_MAX) {
        hosted_violation("mm_port_tlb_shootdown: a batch of %u pages", batch->count);
        return;
    }
    self->shootdown_count++;
    flush_own(batch);
    saved = hosted_smp_lock(self);
    for (unsigned i = 0; i < cpus_end; i++)
        if (cpus[i] != NULL && cpus[i] != self && !cpus[i]->ignore_shootdown)
            drop_batch(cpus[i], batch);
    hosted_smp_unlock(self, saved);
}

/* ---- Interrupts and NMIs ---- */

static void (*line_handlers[HOSTED_LINES])(void);
static int line_signals[HOSTED_LINES]; /* 0: no signal */
static struct sigaction old_actions[HOSTED_LINES];

bool hosted_interrupts_off(struct hosted_cpu *self)
{
    bool saved = self->interrupts;

    self->interrupts = false;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return saved;
}

void hosted_interrupts_restore(struct hosted_cpu *self, bool saved)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    self->interrupts = saved;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (saved && __atomic_load_n(&self->pending, __ATOMIC_RELAXED) != 0)
        hosted_interrupts_deliver(self);
}

bool hosted_interrupt_enter(void)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (!cpu->interrupts || cpu->nmi_depth != 0) {
        hosted_violation("an interrupt comes in while interrupts are off");
        return false;
    }
    if (cpu->level == MM_PORT_LEVELS - 1) {
        hosted_violation("more than %u interrupt handlers are nested", MM_PORT_LEVELS - 1);
        return false;
    }
    cpu->level++;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return true;
}

void hosted_interrupt_leave(void)
{
    struct hosted_cpu *cpu = hosted_cpu();

    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (cpu->level == 0) {
        hosted_violation("an interrupt handler ends that did not begin");
        return;
    }
    if (!cpu->interrupts || cpu->locks_held != 0)
        hosted_violation("an interrupt handler ends with interrupts %s and %u locks held",
                         cpu->interrupts ? "on" : "off", cpu->locks_held);
    cpu->level--;
}

void hosted_nmi_enter(void)
{
    hosted_cpu()->nmi_depth++;
}

void hosted_nmi_leave(void)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (cpu->nmi_depth == 0) {
        hosted_violation("an NMI handler ends that did not begin");
        return;
    }
    cpu->nmi_depth--;
    hosted_interrupts_restore(cpu, cpu->interrupts);
}

/* The line to be served now: the highest pending one above all that are in service; or none. */
static bool next_line(const struct hosted_cpu *cpu, unsigned *out)
{
    uint32_t pending = __atomic_load_n(&cpu->pending, __ATOMIC_RELAXED);
    uint32_t in_service = __atomic_load_n(&cpu->in_service, __ATOMIC_RELAXED);

    if (!cpu->interrupts || cpu->nmi_depth != 0 || pending <= in_service)
        return false;
    *out = 31 - (unsigned)__builtin_clz(pending);
    return in_service >> *out == 0;
}

/* A signal may come between any two steps and does all of this in between. Whoever clears the bit in
 * `pending` owns the run. */
void hosted_interrupts_deliver(struct hosted_cpu *self)
{
    unsigned line;

    while (next_line(self, &line)) {
        uint32_t bit = (uint32_t)1 << line;
        void (*handler)(void) = __atomic_load_n(&line_handlers[line], __ATOMIC_ACQUIRE);

        if ((__atomic_fetch_and(&self->pending, ~bit, __ATOMIC_RELAXED) & bit) == 0)
            continue;
        __atomic_fetch_or(&self->in_service, bit, __ATOMIC_RELAXED);
        if (handler != NULL && hosted_interrupt_enter()) {
            __atomic_fetch_add(&self->interrupts_served, 1, __ATOMIC_RELAXED);
            handler();
            hosted_interrupt_leave();
        }
        __atomic_fetch_and(&self->in_service, ~bit, __ATOMIC_RELAXED);
    }
}

void hosted_interrupt_raise(unsigned line)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (line >= HOSTED_LINES) {
        hosted_violation("there is no interrupt line %u", line);
        return;
    }
    __atomic_fetch_or(&cpu->pending, (uint32_t)1 << line, __ATOMIC_RELAXED);
    hosted_interrupts_deliver(cpu);
}

static void on_signal(int signal)
{
    struct hosted_cpu *cpu = hosted_cpu_if_any();
    int saved_errno = errno;

    for (unsigned line = 0; line < HOSTED_LINES; line++)
        if (cpu != NULL && __atomic_load_n(&line_signals[line], __ATOMIC_RELAXED) == signal)
            __atomic_fetch_or(&cpu->pending, (uint32_t)1 << line, __ATOMIC_RELAXED);
    if (cpu != NULL)
        hosted_interrupts_deliver(cpu);
    errno = saved_errno;
}

bool hosted_interrupt_attach(unsigned line, int signal, void (*handler)(void))
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

    if (line >= HOSTED_LINES || handler == NULL || line_handlers[line] != NULL)
        return false;
    sigemptyset(&action.sa_mask);
    __atomic_store_n(&line_signals[line], signal, __ATOMIC_RELAXED);
    __atomic_store_n(&line_handlers[line], handler, __ATOMIC_RELEASE);
    if (signal == 0 || sigaction(signal, &action, &old_actions[line]) == 0)
        return true;
    __atomic_store_n(&line_handlers[line], NULL, __ATOMIC_RELEASE);
    __atomic_store_n(&line_signals[line], 0, __ATOMIC_RELAXED);
    return false;
}

/* A signal that is still on its way is ignored, not left to its old action, which may be to end the
 * process. */
void hosted_interrupt_detach(unsigned line)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN };

    if (line >= HOSTED_LINES || line_handlers[line] == NULL)
        return;
    if (line_signals[line] != 0) {
        sigaction(line_signals[line], &ignore, NULL);
        sigaction(line_signals[line], &old_actions[line], NULL);
    }
    __atomic_store_n(&line_signals[line], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&line_handlers[line], NULL, __ATOMIC_RELEASE);
}
