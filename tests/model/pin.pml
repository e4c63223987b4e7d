/* SPDX-License-Identifier: MIT */
/* A model of how a free pins the span that it looks at, mm/heap_remote.c (heap_pin) and mm/heap_state.c
 * (heap_span_memory_retire_locked, heap_span_memory_reuse_locked), for Spin; tests/model/run.sh checks it.
 *
 *   cpu(c)   frees what is at an address, rightly or wrongly, at any time; takes a span for an address that
 *            has none; ends one whose block has come home
 *   rest(c)  what the CPU does by itself at any moment: its store buffer drains
 *
 *   page[address] -> memory of a span -> state of its block, one for each span here
 *
 * The properties:
 *
 *   1 a free changes the state of a block at its own address, and of no other: the memory of the span that
 *     it found there serves no other address when the locked instruction comes     the assertion 7
 *   2 nobody waits for one who has a span pinned                                   no invalid end state
 *
 * Memory is that of x86, as in owner.pml: stores wait in a first-in first-out buffer, loads do not wait for
 * them; locked instructions drain it. An operation begins when the buffer is empty: what a CPU has stored
 * before is seen by itself in any case. The lock is one step and drains; its release is a store.
 * mm_port_cpu_barrier() is over when each other CPU was seen with an empty buffer.
 *
 * Where the protocol needs what, and what says so by failing without it:
 *   - Who frees stores the pin before it looks whether the span is still there (LOOK_FIRST), and looks
 *     again (LOOK_ONCE).
 *   - The pin stays until the locked instruction is done (UNPIN_EARLY).
 *   - Who takes the memory of an ended span looks at the pins (NO_LOOK), of each CPU, behind a barrier
 *     (NO_BARRIER, PINS_FIRST).
 *   - A span that ends leaves the page before that barrier (END_LATE), and one that ended behind the
 *     barrier waits for the next (REUSE_ALL). */

#ifndef CPUS
#define CPUS 2
#endif
#ifndef SPANS
#define SPANS 2
#endif
#ifndef BUFFERED
#define BUFFERED 2
#endif

#define ADDRESSES 2
#define NONE      SPANS

#define FREE      0
#define ALLOCATED 1
#define REMOTE    2

mtype = { SET_PIN, SET_PAGE, SET_STATE, LEAVE_LOCK };

/* Memory. */
byte lock; /* the holder + 1 */
byte page[ADDRESSES] = NONE;
byte state[SPANS];
byte pin[CPUS] = NONE;

/* Lists, under the lock: memory that is neither in use nor ended is free. */
bool used[SPANS], ended[SPANS];
#ifdef REUSE_ALL
bool had_barrier;
#endif

byte serves[SPANS]; /* the address; for the assertion */

chan buffer[CPUS] = [BUFFERED] of { mtype, byte, byte };

#define drained   empty(buffer[me])
#define can_store nfull(buffer[me])

#define check_address(ok) assert((ok) || 7 == 0)

#if CPUS == 2
#define is_pinned(s) (pin[0] == (s) || pin[1] == (s))
#else
#define is_pinned(s) (pin[0] == (s) || pin[1] == (s) || pin[2] == (s))
#endif

inline store(what, first, second)
{
    d_step { can_store -> buffer[me]!what(first, second) }
}

inline barrier()
{
    if /* each other CPU is seen with an empty buffer, one after the other */
    :: CPUS == 2 -> empty(buffer[(me + 1) % CPUS])
    :: CPUS == 3 ->
        empty(buffer[(me + 1) % CPUS]);
        empty(buffer[(me + 2) % CPUS])
    fi
}

inline choose_address()
{
    if
    :: at = 0
    :: at = 1
    fi
}

inline take_lock()
{
    d_step { lock == 0 && drained -> lock = me + 1 }
}

/* ---- a free ---- */

inline pin_span()
{
    found = page[at];
#ifndef LOOK_FIRST
    do
    :: store(SET_PIN, found, 0);
#ifdef LOOK_ONCE
       break
#else
       if
       :: d_step { page[at] == found -> skip }; break
       :: d_step { page[at] != found -> found = page[at] }
       fi
#endif
    od
#else
    found = page[at];
    store(SET_PIN, found, 0)
#endif
}

inline free_block()
{
    d_step { drained -> found = NONE };
    choose_address();
    pin_span();
#ifdef UNPIN_EARLY
    store(SET_PIN, NONE, 0);
#endif
    if
    :: found == NONE
    :: found != NONE ->
        d_step {
            drained;
            if
            :: state[found] == ALLOCATED ->
                check_address(serves[found] == at);
                state[found] = REMOTE
            :: else
            fi
        }
    fi;
#ifndef UNPIN_EARLY
    store(SET_PIN, NONE, 0);
#endif
    d_step { at = 0; found = 0 }
}

/* ---- with the lock ---- */

/* What had ended before the barrier and is not pinned is free again. */
inline look_at_pins()
{
    d_step {
        other = 0;
        do
        :: other < SPANS ->
#ifdef NO_LOOK
            ended[other] = false;
#else
            ended[other] = ended[other] && is_pinned(other);
#endif
            other++
        :: else -> break
        od;
        other = 0
    }
}

inline reuse()
{
#ifdef REUSE_ALL
    if
    :: had_barrier
    :: else -> barrier(); had_barrier = true
    fi;
    look_at_pins()
#else
#ifdef PINS_FIRST
    look_at_pins();
    barrier()
#else
#ifndef NO_BARRIER
    barrier();
#endif
    look_at_pins()
#endif
#endif
}

inline take_span()
{
    if
    :: page[at] == NONE ->
        reuse();
        d_step {
            span = 0;
            do
            :: span < SPANS && (used[span] || ended[span]) -> span++
            :: else -> break
            od;
            if
            :: span < SPANS -> used[span] = true; serves[span] = at
            :: else
            fi
        };
        if
        :: span < SPANS ->
            store(SET_STATE, span, ALLOCATED);
            store(SET_PAGE, at, span)
        :: else
        fi
    :: else
    fi
}

/* A block that another slot has freed comes home, and the span ends with it. */
inline end_span()
{
    span = page[at];
    if
    :: span != NONE && state[span] == REMOTE ->
#ifdef END_LATE
        d_step { used[span] = false; ended[span] = true };
        reuse();
        store(SET_STATE, span, FREE);
        store(SET_PAGE, at, NONE)
#else
        store(SET_STATE, span, FREE);
        store(SET_PAGE, at, NONE);
        d_step { used[span] = false; ended[span] = true }
#endif
    :: else
    fi
}

active [CPUS] proctype cpu()
{
    byte at, found, span, other;
    byte me = _pid;

end:
    do
    :: free_block()
    :: take_lock();
       choose_address();
       if
       :: take_span()
       :: end_span()
       fi;
       d_step { at = 0; span = 0 };
       store(LEAVE_LOCK, 0, 0)
    od
}

active [CPUS] proctype rest()
{
    byte me = _pid - CPUS, first, second;

end:
    do
    :: d_step {
           buffer[me]?SET_PIN(first, second) -> pin[me] = first; first = 0; second = 0
       }
    :: d_step {
           buffer[me]?SET_PAGE(first, second) -> page[first] = second; first = 0; second = 0
       }
    :: d_step {
           buffer[me]?SET_STATE(first, second) -> state[first] = second; first = 0; second = 0
       }
    :: d_step {
           buffer[me]?LEAVE_LOCK(first, second) -> lock = 0; first = 0; second = 0
       }
    od
}
