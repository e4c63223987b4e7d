/* SPDX-License-Identifier: MIT */
/* A model of the TLB shootdown of kernel/shootdown.c, for Spin; tests/model/run.sh checks it.
 *
 *   cpu(c)   what the code does: thread, lock (mm/port/x86_64.c), INITIATOR, MEMBER, JOIN; the
 *            numbers of steps are those of kernel/shootdown.c
 *   rest(c)  what the CPU does by itself at any moment: its page walker fills the TLB, its store
 *            buffer drains, running code uses a translation
 *
 * There is one page per address space, mapped by one entry. Who holds the space's lock clears the
 * entry, shoots, and is then free to use the frame for something else: when the call returns the
 * page is `gone`, until a new frame is mapped there. The properties:
 *
 *   1 nobody uses a translation of a page that is gone      the assertion in rest()
 *   2 no deadlock                                           no invalid end state
 *   3 a CPU that asks for a lock in order to shoot gets
 *     it, and its shootdown ends (weak fairness)            ltl ends
 *
 * Memory is that of x86: stores wait in a first-in first-out buffer, loads do not wait for them;
 * locked instructions, fences, INVLPG and CR writes drain it (SDM vol. 3, 8.2.2, 8.2.5, 8.3). Where
 * the protocol needs which order, and what says so by failing without it:
 *   - A cleared entry may still be in the buffer when a later load is done. So the fence at 1: else
 *     the initiator could miss a CPU that joins and walks the old entry (NO_FENCE).
 *   - `batch` and `remaining` are plain stores before the locked `or` at 4, which drains them: the
 *     exchange that finds the bit finds them too (BATCH_LATE, REMAINING_LATE).
 *   - The interrupt at 5 starts when 4 is visible: a locked instruction before an uncached store,
 *     MFENCE and LFENCE before WRMSR, in arch/x86_64/apic.c (IPI_FIRST).
 *   - The APIC id of a CPU that joins stands before JOIN 1. Stored later, it could still be in the
 *     buffer when that CPU finds its inbox empty, while the initiator fills the inbox and finds no
 *     id: both miss the other (ID_LATE). The APIC itself is on before JOIN 4 looks, as its
 *     registers are read in between, uncached and in order.
 *   - Taking the inbox and answering are locked instructions, as others write the same words
 *     (TAKE_SPLIT, ANSWER_SPLIT).
 *   - A target's stores through the old translation are older than its answer, and x86 makes stores
 *     visible in order; so they have landed when the call returns. They need no step here.
 *   - The unlocking store may stay in the buffer while the CPU goes on, interrupts on again.
 *   - The walker reads memory, not the buffer of its CPU: so it sees an old entry longest.
 * Taken from the manual: a walk and the entry that it makes are one step, into which INVLPG does
 * not fall (4.10.4.1); what is not present is not cached (4.10.2.3).
 *
 * Not in here: panics and giving up after a time; the tickets of a lock (who waits stands in a
 * line, which is what tickets say). An interrupt sent to an APIC that is off is lost. */

#ifndef CPUS
#define CPUS 3
#endif
#ifndef SPACES
#define SPACES 1
#endif
#ifndef SHOOTERS
#define SHOOTERS CPUS /* the first so many CPUs shoot, the others use translations and answer */
#endif
#ifndef JOINERS
#define JOINERS 0 /* the last so many CPUs are no members at first */
#endif

#define BIT(n)   (1 << (n))
#define MEMBERS  (CPUS - JOINERS)
#define BUFFERED 3 /* stores; the code has a barrier before there are more */

mtype = { CLEAR_ENTRY, SET_ENTRY, SET_BATCH, SET_REMAINING, SET_ID, LEAVE_LOCK };

/* Memory. Sets of CPUs and of pages are bits. */
byte members = BIT(MEMBERS) - 1;
byte inbox[CPUS], batch[CPUS], remaining[CPUS];
byte known = BIT(MEMBERS) - 1;          /* CPUs whose APIC id can be looked up */
byte entries = BIT(SPACES) - 1;         /* pages whose entry is present */
chan line[SPACES] = [CPUS] of { byte }; /* a space's lock: its holder, then those who wait */

/* The CPUs' own. */
chan buffer[CPUS] = [BUFFERED] of { mtype, byte };
byte tlb[CPUS];
byte on_tables = BIT(MEMBERS) - 1;      /* CPUs whose CR3 is ours */
byte apic_on = BIT(MEMBERS) - 1;
byte pending;                           /* CPUs with an interrupt sent and not taken */

/* What the properties speak of; no step depends on it. */
byte gone, busy;

/* Two readings of the same code. For the first two properties a loop that polls is a wait, so that
 * a deadlock shows as a state without a next step, and an interrupt comes as late as it likes. For
 * the third a loop polls, as it does in the code, one condition before the other, and an interrupt
 * comes as soon as interrupts are on: late for ever would be unfair. */
#ifdef PROGRESS
#define otherwise_asked else
#define may_go_on       ((pending & BIT(me)) == 0)
#else
#define otherwise_asked inbox[me] != 0
#define may_go_on       true
#endif

/* ---- Parts of a step of the CPU `me`, to be used inside atomic ---- */

#define drained empty(buffer[me])

inline store(kind, value)
{
    assert(nfull(buffer[me]));
    buffer[me]!kind(value)
}

inline flush(pages)
{
    drained;
    tlb[me] = tlb[me] & ~(pages)
}

/* `set` is not empty. */
inline find_lowest(set, n)
{
    n = 0;
    do
    :: (set & BIT(n)) == 0 -> n++
    :: else -> break
    od
}

inline take_lowest(set, n)
{
    find_lowest(set, n);
    set = set & ~BIT(n)
}

/* ---- MEMBER ---- */

inline take_inbox()
{
#ifdef TAKE_SPLIT
    bits = inbox[me];
    inbox[me] = 0
#else
    atomic {
        drained;
        bits = inbox[me];
        inbox[me] = 0
    }
#endif
}

inline answer()
{
#ifdef ANSWER_SPLIT
    left = remaining[from];
    atomic {
        remaining[from] = left - 1;
        left = 0
    }
#else
    atomic {
        drained;
        assert(remaining[from] > 0);
        remaining[from]--
    }
#endif
}

inline serve()
{
    take_inbox();
    do
#ifdef ACK_BEFORE_FLUSH
    :: atomic { bits != 0 -> take_lowest(bits, from); pages = batch[from] };
        answer();
        atomic { flush(pages); pages = 0; from = 0 }
#else
    :: atomic { bits != 0 -> take_lowest(bits, from); flush(batch[from]) };
        answer();
        from = 0
#endif
    :: bits == 0 -> break
    od
}

inline serve_if_asked()
{
    if
    :: inbox[me] != 0 -> serve()
    :: inbox[me] == 0
    fi
}

/* ---- INITIATOR ---- */

/* Steps 1 and 2. */
inline find_targets()
{
#ifndef NO_FENCE
    drained;
#endif
    targets = members & ~BIT(me);
    bits = targets;
    do
    :: bits != 0 -> count++; bits = bits & (bits - 1)
    :: else -> break
    od
}

/* A part of step 4, to be used inside atomic. */
inline ask()
{
    drained;
    inbox[to] = inbox[to] | BIT(me)
}

/* Step 5. A CPU whose APIC id is not known yet has the one of the boot CPU in its place, 0. */
inline interrupt()
{
    drained;
#ifndef NO_IPI
    if
    :: (known & BIT(to)) != 0 -> pending = pending | (apic_on & BIT(to))
    :: else -> pending = pending | BIT(0)
    fi
#endif
}

inline post()
{
    do
#ifdef IPI_FIRST
    :: atomic { targets != 0 -> take_lowest(targets, to); interrupt() };
        atomic { ask(); to = 0 }
#else
    :: atomic { targets != 0 -> take_lowest(targets, to); ask() };
        atomic { interrupt(); to = 0 }
#endif
    :: targets == 0 -> break
    od
}

inline end_call()
{
    gone = gone | BIT(space);
    busy = busy & ~BIT(me)
}

/* Step 7. */
inline wait_for_answers()
{
    do
#ifdef NO_WAIT
    :: atomic { end_call() } -> break
#else
    :: atomic { remaining[me] == 0 -> end_call() } -> break
#ifndef NO_SERVE_WAIT
    :: otherwise_asked -> serve_if_asked()
#endif
#endif
    od
}

inline shoot()
{
    atomic {
        find_targets();
#ifndef BATCH_LATE
        if
        :: count != 0 -> store(SET_BATCH, BIT(space))
        :: else
        fi;
#endif
#ifndef REMAINING_LATE
        if
        :: count != 0 -> store(SET_REMAINING, count)
        :: else
        fi
#endif
    };
    if
    :: atomic { count == 0 -> flush(BIT(space)); end_call() }
    :: count != 0 ->
        post();
#ifdef BATCH_LATE
        atomic { store(SET_BATCH, BIT(space)) };
#endif
#ifdef REMAINING_LATE
        atomic { store(SET_REMAINING, count) };
#endif
        atomic {
#ifndef NO_OWN_FLUSH
            flush(BIT(space));
#endif
            count = 0
        };
        wait_for_answers()
    fi
}

/* ---- The caller: mm unmaps a page and gives its place to another frame ---- */

inline replace_frame()
{
    atomic {
        drained;
        line[space]!me;
        busy = busy | BIT(me)
    };
    do
#ifdef SERVE_FIRST
    :: inbox[me] != 0 -> serve()
    :: atomic {
            inbox[me] == 0 && line[space]?[eval(me)] -> store(CLEAR_ENTRY, space)
        } -> break
#else
    :: atomic { line[space]?[eval(me)] -> store(CLEAR_ENTRY, space) } -> break
#endif
#if !defined(NO_SERVE_LOCK) && !defined(SERVE_FIRST)
    :: otherwise_asked -> serve_if_asked()
#endif
    od;
    shoot();
    atomic {
        gone = gone & ~BIT(space);
        store(SET_ENTRY, space);
        store(LEAVE_LOCK, space);
        space = 0
    }
}

/* ---- JOIN ---- */

inline become_member()
{
    atomic {
        drained;
        members = members | BIT(me)
    }
}

inline load_tables()
{
    atomic {
        drained;
        tlb[me] = 0;
        on_tables = on_tables | BIT(me)
    }
}

inline join()
{
#ifndef ID_LATE
    atomic { store(SET_ID, me) };
#endif
#ifdef JOIN_LATE
    load_tables();
    become_member();
#else
    become_member();
    load_tables();
#endif
#ifdef JOIN_SERVE_EARLY
    serve_if_asked();
    apic_on = apic_on | BIT(me);
#else
    apic_on = apic_on | BIT(me);
#ifdef ID_LATE
    atomic { store(SET_ID, me) };
#endif
#ifndef JOIN_NO_SERVE
    serve_if_asked()
#endif
#endif
}

/* ---- The CPUs ---- */

#ifdef APART
#define choose_space() space = me % SPACES
#else
#define choose_space() select(space : 0 .. SPACES - 1)
#endif

/* At `end_thread` interrupts are on; all other places have them off: a handler, or the part of a
 * thread that shoots. A CPU may rest from some moment on: then it only takes interrupts. */
proctype cpu(byte me)
{
    byte bits, from, targets, to, count, space;
    bool resting = me >= SHOOTERS;
#ifdef ANSWER_SPLIT
    byte left;
#endif
#ifdef ACK_BEFORE_FLUSH
    byte pages;
#endif

    if
    :: me >= MEMBERS -> join()
    :: else
    fi;
end_thread:
    do
    :: atomic { (pending & BIT(me)) != 0 -> pending = pending & ~BIT(me) };
        serve_if_asked()
    :: atomic { may_go_on && !resting -> choose_space() };
        replace_frame()
    :: atomic { may_go_on && !resting -> resting = true }
    od
}

#define can_walk(page) ((on_tables & BIT(c)) != 0 && (entries & ~tlb[c] & BIT(page)) != 0)

/* A use of a translation that is still right changes nothing, so only others are a step: each is an
 * error. */
proctype rest(byte c)
{
    byte value;

end_rest:
    do
    :: atomic { buffer[c]?CLEAR_ENTRY(value) -> entries = entries & ~BIT(value); value = 0 }
    :: atomic { buffer[c]?SET_ENTRY(value) -> entries = entries | BIT(value); value = 0 }
    :: atomic { buffer[c]?SET_BATCH(value) -> batch[c] = value; value = 0 }
    :: atomic { buffer[c]?SET_REMAINING(value) -> remaining[c] = value; value = 0 }
    :: atomic { buffer[c]?SET_ID(value) -> known = known | BIT(value); value = 0 }
    :: atomic { buffer[c]?LEAVE_LOCK(value) -> line[value]?_; value = 0 }
    :: atomic { can_walk(0) -> tlb[c] = tlb[c] | BIT(0) }
    :: atomic { can_walk(1) -> tlb[c] = tlb[c] | BIT(1) }
    :: (tlb[c] & gone) != 0 -> assert((tlb[c] & gone) == 0)
    od
}

init
{
    byte c;

    atomic {
        do
        :: c < CPUS -> run cpu(c); run rest(c); c++
        :: else -> c = 0; break
        od
    }
}

ltl ends { [] ((busy & BIT(0)) != 0 -> <> ((busy & BIT(0)) == 0)) }
