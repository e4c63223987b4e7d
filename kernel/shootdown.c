/* SPDX-License-Identifier: MIT */
/* Owns the protocol by which a translation leaves the TLB of every CPU.
 *
 * Each CPU c has a mailbox, box[c]:
 *
 *   inbox      a bit for each CPU that wants something of c; set by that CPU, cleared by c
 *   batch      what c wants of the others; read by those in whose inbox c's bit was
 *   remaining  how many of them have not answered yet
 *
 * and there is one set `members`: CPUs that can hold translations of the kernel's tables.
 *
 * INITIATOR i, interrupts off                     MEMBER t, interrupts off: `serve`
 *   0 the page table entry is cleared (caller)      1 bits := exchange(inbox[t], 0)    full barrier
 *   1 full barrier                                  2 for each i in bits:
 *   2 targets := members - {i}; none: flush, end        flush batch[i] from t's own TLB
 *   3 batch[i] := b; remaining[i] := |targets|          remaining[i] -= 1              release
 *   4 for each t in targets:
 *       inbox[t] |= bit i          full barrier     t serves when TRAP_SHOOTDOWN arrives, each time
 *   5   and an interrupt to t                       around while it waits for a lock
 *   6 flush b from i's own TLB                      (mm_port_lock), and at INITIATOR 7.
 *   7 while remaining[i] != 0 (acquire): serve      A TRAP_SHOOTDOWN that finds an empty inbox
 *   8 end                                           does nothing.
 *
 * A CPU n JOINS while its interrupts are off and it still uses the loader's tables; its APIC id stands
 * in its per-CPU area before:
 *   1 members |= bit n, full barrier   2 load CR3, which drops everything   3 switch its APIC on
 *   4 serve (requests whose interrupt came before 3 are in the inbox)   5 interrupts on
 * No CPU leaves. One that panics or is stopped for a panic runs no code of mm any more.
 *
 * Why it is safe. An initiator that does not see bit n at 2 cleared its entry before n's walks
 * began (barriers at INITIATOR 1 and JOIN 1). An initiator that sees it waits for n's answer, which
 * comes after n's flush. After 8 no CPU has the translation, and none can get it again: the entry
 * was cleared before every flush.
 *
 * Why it ends. i has one request at a time, as 0..8 run with interrupts off and `serve` starts
 * none; so batch[i] and remaining[i] are not reused before all have answered. A member either has
 * its interrupts on or comes to have them on, or waits: for a lock (serves), or at 7 (serves). So
 * two CPUs that shoot at each other answer each other, and the holder of a lock that shoots is
 * answered by those who wait for that lock. Interrupts of `serve` nest in nothing: it runs with
 * interrupts off, and a second run finds the bits taken. A member that does not answer within
 * SHOOTDOWN_MS is a panic that names it.
 *
 * mm_port_cpu_barrier() is the same with an empty batch, under the lock of the frames, of a heap or
 * of a space. MEMBER 1 comes after INITIATOR 4 made the bit visible, so each member has executed a full
 * barrier since the call began; a CPU that was no member at 2 had used no cache and no space of mm
 * before its JOIN 1, which is one as well. For the protocol it is a shootdown under one more lock:
 * the runs with several locks of the model in tests/model are these. */
#include "kernel/shootdown.h"
#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/interrupt.h"
#include "arch/x86_64/patience.h"
#include "arch/x86_64/percpu.h"
#include "kernel/panic.h"

#define SHOOTDOWN_MS   10000u
#define SHOOTDOWN_BITS 64u
#define SHOOTDOWN_SET  (MM_PORT_MAX_CPUS / SHOOTDOWN_BITS)
#define SHOOTDOWN_LINE 64
#define CR4_PGE        ((uint64_t)1 << 7)

struct shootdown_box {
    uint64_t inbox[SHOOTDOWN_SET] __attribute__((aligned(SHOOTDOWN_LINE)));
    /* Written by others seldom (answers), by the owner when it begins: a line of its own. */
    const struct mm_tlb_batch *batch __attribute__((aligned(SHOOTDOWN_LINE)));
    uint32_t remaining;
    uint64_t sent, served;
};

static struct shootdown_box shootdown_boxes[MM_PORT_MAX_CPUS];
static uint64_t shootdown_members[SHOOTDOWN_SET] = { 1 }; /* the boot CPU */

static uint64_t shootdown_bit(unsigned number)
{
    return (uint64_t)1 << number % SHOOTDOWN_BITS;
}

/* ---- The local flush ---- */

/* Toggling CR4.PGE drops everything, global translations too; without global pages a CR3 load does
 * (SDM vol. 3, 4.10.4.1). */
static void shootdown_flush_everything(void)
{
    uint64_t cr4 = mm_port_read_cr(4);

    if ((cr4 & CR4_PGE) != 0) {
        mm_port_write_cr(4, cr4 & ~CR4_PGE);
        mm_port_write_cr(4, cr4);
    } else {
        mm_port_write_cr(3, mm_port_read_cr(3));
    }
}

void shootdown_flush(const struct mm_tlb_batch *batch)
{
    if (batch->everything) {
        shootdown_flush_everything();
        return;
    }
    for (unsigned i = 0; i < batch->count; i++)
        mm_port_invlpg(batch->pages[i]);
}

/* ---- Serving ---- */

static void shootdown_answer(unsigned initiator)
{
    struct shootdown_box *box = &shootdown_boxes[initiator];

    shootdown_flush(box->batch);
    /* The last access to the box: the initiator goes on when it sees this. */
    __atomic_fetch_sub(&box->remaining, 1, __ATOMIC_RELEASE);
}

void mm_port_serve_shootdowns(void)
{
    struct shootdown_box *own = &shootdown_boxes[percpu_this()->number];

    for (unsigned word = 0; word < SHOOTDOWN_SET; word++) {
        uint64_t bits;

        if (__atomic_load_n(&own->inbox[word], __ATOMIC_RELAXED) == 0)
            continue;
        bits = __atomic_exchange_n(&own->inbox[word], 0, __ATOMIC_SEQ_CST);
        for (; bits != 0; bits &= bits - 1) {
            shootdown_answer(word * SHOOTDOWN_BITS + (unsigned)__builtin_ctzll(bits));
            own->served++;
        }
    }
}

static void shootdown_on_interrupt(const struct trap_frame *frame)
{
    (void)frame;
    mm_port_serve_shootdowns();
    apic_end_interrupt();
}

/* ---- Shooting ---- */

/* Who still has our bit in its inbox; MM_PORT_MAX_CPUS if all have taken it and one does not
 * finish. */
static unsigned shootdown_silent_cpu(unsigned me)
{
    for (unsigned number = 0; number < MM_PORT_MAX_CPUS; number++) {
        uint64_t inbox =
            __atomic_load_n(&shootdown_boxes[number].inbox[me / SHOOTDOWN_BITS], __ATOMIC_RELAXED);
        if ((inbox & shootdown_bit(me)) != 0)
            return number;
    }
    return MM_PORT_MAX_CPUS;
}

static MM_COLD void shootdown_give_up(unsigned me)
{
    unsigned silent = shootdown_silent_cpu(me);

    if (silent < MM_PORT_MAX_CPUS)
        panic("CPU %u did not answer a TLB shootdown of CPU %u within %u seconds", silent, me,
              SHOOTDOWN_MS / 1000);
    panic("a TLB shootdown of CPU %u is not finished after %u seconds", me, SHOOTDOWN_MS / 1000);
}

static void shootdown_wait(unsigned me)
{
    struct shootdown_box *own = &shootdown_boxes[me];
    struct patience patience = patience_of_ms(SHOOTDOWN_MS);

    while (__atomic_load_n(&own->remaining, __ATOMIC_ACQUIRE) != 0) {
        mm_port_serve_shootdowns();
        if (!patience_lasts(&patience))
            shootdown_give_up(me);
    }
}

/* Fills `targets` with the members but `me`; returns how many they are. */
static unsigned shootdown_find_targets(unsigned me, uint64_t targets[SHOOTDOWN_SET])
{
    unsigned count = 0;

    for (unsigned word = 0; word < SHOOTDOWN_SET; word++) {
        targets[word] = __atomic_load_n(&shootdown_members[word], __ATOMIC_RELAXED);
        if (word == me / SHOOTDOWN_BITS)
            targets[word] &= ~shootdown_bit(me);
        for (uint64_t bits = targets[word]; bits != 0; bits &= bits - 1)
            count++;
    }
    return count;
}

static void shootdown_post(unsigned me, const uint64_t targets[SHOOTDOWN_SET])
{
    for (unsigned word = 0; word < SHOOTDOWN_SET; word++) {
        for (uint64_t bits = targets[word]; bits != 0; bits &= bits - 1) {
            unsigned target = word * SHOOTDOWN_BITS + (unsigned)__builtin_ctzll(bits);
            __atomic_fetch_or(&shootdown_boxes[target].inbox[me / SHOOTDOWN_BITS],
                              shootdown_bit(me), __ATOMIC_SEQ_CST);
            apic_send(percpu_table[target].lapic_id, TRAP_SHOOTDOWN);
        }
    }
}

static void shootdown_run(const struct mm_tlb_batch *batch)
{
    unsigned me = percpu_this()->number;
    struct shootdown_box *own = &shootdown_boxes[me];
    uint64_t targets[SHOOTDOWN_SET];
    unsigned count;

    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the caller's cleared entry before who is a member */
    count = shootdown_find_targets(me, targets);
    if (count == 0) {
        shootdown_flush(batch);
        return;
    }
    own->batch = batch;
    own->sent++;
    __atomic_store_n(&own->remaining, count, __ATOMIC_RELEASE);
    shootdown_post(me, targets);
    shootdown_flush(batch);
    shootdown_wait(me);
}

void mm_port_tlb_shootdown(const struct mm_tlb_batch *batch)
{
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    shootdown_run(batch);
    __asm__ volatile("pushq %0\n\tpopfq" : : "r"(flags) : "memory", "cc");
}

/* The first fence is INITIATOR 1, the second keeps the caller's loads behind the last answer also where
 * there is nobody to answer. */
void mm_port_cpu_barrier(void)
{
    static const struct mm_tlb_batch nothing = { .count = 0 };

    mm_port_tlb_shootdown(&nothing);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- Members ---- */

void shootdown_init(void)
{
    interrupt_set_handler(TRAP_SHOOTDOWN, shootdown_on_interrupt);
}

void shootdown_join(unsigned number)
{
    __atomic_fetch_or(&shootdown_members[number / SHOOTDOWN_BITS], shootdown_bit(number),
                      __ATOMIC_SEQ_CST);
}

struct shootdown_stats shootdown_stats(void)
{
    struct shootdown_stats sum = { 0, 0 };

    for (unsigned number = 0; number < MM_PORT_MAX_CPUS; number++) {
        sum.sent += __atomic_load_n(&shootdown_boxes[number].sent, __ATOMIC_RELAXED);
        sum.served += __atomic_load_n(&shootdown_boxes[number].served, __ATOMIC_RELAXED);
    }
    return sum;
}
