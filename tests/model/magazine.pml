/* SPDX-License-Identifier: MIT */
/* A model of the magazines of mm/magazine.h and of the frame pool behind them, for Spin;
 * tests/model/run.sh checks it.
 *
 *   cpu(c)   what the code does: alloc and free of frames, fast path and cold path, the thief
 *   rest(c)  what the CPU does by itself at any moment: its store buffer drains
 *
 *   magazine of a CPU:  entry[FIRST .. LAST]      live: [top, bottom)
 *                       bottom: the owner's alone, plain stores    top, limit: the lock holder's
 *   pool, one lock:     `taken`, a bit per frame; `whole`, a bit per block: all of it is free, and
 *                       its `taken` bits mean nothing (here: they say "taken", the worst)
 *
 * The properties:
 *
 *   1 every frame has exactly one owner: no frame is handed out twice, none is in two places, none
 *     is in no place                                               the assertions 2 and 3
 *   2 out of memory is said only when none is free: no frame that was free when the call began (its
 *     free was visible in memory) and that nobody took since       the assertion 4
 *   3 a right free is never reported                               the assertion 5
 *   4 no deadlock                                                  no invalid end state
 *
 * Memory is that of x86: stores wait in a first-in first-out buffer, loads do not wait for them but
 * see those of their own CPU; locked instructions drain it (SDM vol. 3, 8.2.2). The barrier of the
 * thief, mm_port_cpu_barrier(), is over when each other CPU was seen with an empty buffer: it has
 * executed a full barrier between two of its instructions.
 *
 * What is one step here though it is many instructions in the code: everything under the lock that
 * touches the pool or the holder's own magazine. Nobody else reads those without the lock, but for
 * the free's look at its own frame's bits (property 3), which cannot change under it. Entries that
 * are nobody's any more are cleared, so that a wrong reader finds NONE.
 *
 * Where the protocol needs what, and what says so by failing without it:
 *   - The thief raises top before the barrier, not behind it (TOP_LATE), and there is one
 *     (NO_BARRIER): a pop that the barrier did not find finished sees the new top.
 *   - It reads bottom again behind the barrier (BOTTOM_ONCE): a pop was faster. Then top is lowered
 *     to it (TOP_STAYS), or the frame that the pop has given up would be nobody's.
 *   - It leaves top alone if nothing is there (UNGUARDED): a pop of an empty magazine lowers bottom
 *     below top for a moment, and a top lowered with it would show the owner an old entry.
 *   - The owner's cold path waits for the thief (NO_LOCK), and takes what is left of its own.
 *   - Other magazines are asked before memory is out (NO_STEAL).
 *   - The entry is stored before bottom (BOTTOM_FIRST).
 *   - While the switch is on, bottom is read again at each collection (SWITCH_FORGETS): a push that
 *     had looked at limit before the barrier stores behind it.
 *   - A block is wholly free when the pool has all of it, not when nobody uses it (WHOLE_EARLY);
 *     it is a bitmap again, all bits clear, before a frame of it is taken (WHOLE_STAYS, NO_FILL).
 *
 * The switch (-DSWITCH) is what logging, tracing, fault injection and the full level use: it makes
 * every magazine look empty to a pop (top = HUGE) and full to a push (limit = FIRST). */

#ifndef CPUS
#define CPUS 2
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#ifndef BLOCK_FRAMES
#define BLOCK_FRAMES 2
#endif
#ifndef ROOM
#define ROOM 2 /* entries of a magazine */
#endif
#ifndef BATCH
#define BATCH 2 /* frames of a refill */
#endif
#ifndef FLUSH
#define FLUSH 1 /* frames of a flush */
#endif
#ifndef BUFFERED
#define BUFFERED 2
#endif

#define FRAMES     (BLOCKS * BLOCK_FRAMES)
#define BIT(n)     (1 << (n))
#define ALL        (BIT(FRAMES) - 1)
#define NONE       FRAMES
#define FIRST      1 /* so that the bottom of a pop that fails, one below, is a number too */
#define LAST       (FIRST + ROOM - 1)
#define HUGE       (LAST + 2)
#define BLOCK_OF(f)   ((f) / BLOCK_FRAMES)
#define MASK_OF(b)    ((BIT(BLOCK_FRAMES) - 1) << ((b) * BLOCK_FRAMES))
#define ENTRY(c, i)   entry[(c) * (ROOM + 2) + (i)]
#define OWN(c, i)     own[(c) * (ROOM + 2) + (i)]

mtype = { SET_BOTTOM, SET_ENTRY, SET_TOP, SET_LIMIT, LEAVE_LOCK };

/* Memory. */
byte lock;                               /* the holder + 1 */
byte taken = ALL;
byte whole = BIT(BLOCKS) - 1;
byte top[CPUS] = FIRST;
byte bottom[CPUS] = FIRST;
byte limit[CPUS] = LAST + 1;
byte entry[CPUS * (ROOM + 2)] = NONE;
byte real_top[CPUS];                     /* with the switch on: where the live entries begin */
bool switched;

/* The CPUs' own: what they see of the words that only they write, and what waits in the buffer. */
chan buffer[CPUS] = [BUFFERED] of { mtype, byte, byte };
byte own_bottom[CPUS] = FIRST;
byte own[CPUS * (ROOM + 2)] = NONE;

/* What the properties speak of; no step depends on it. */
byte held[CPUS];                         /* frames in the hands of the CPU's program */
byte steady[CPUS];                       /* free all the time since the CPU's alloc began */
byte resting;

#define drained empty(buffer[me])
#define can_store nfull(buffer[me]) /* first in each step that stores: a step is not cut in two */

#define check_handed_out_once(ok)  assert((ok) || 2 == 0)
#define check_is_somewhere(ok)     assert((ok) || 3 == 0)
#define check_none_was_free(ok)    assert((ok) || 4 == 0)
#define check_free_is_right(ok)    assert((ok) || 5 == 0)

/* ---- Bookkeeping of the properties: parts of an atomic step ---- */

inline set_bottom(value)
{
    own_bottom[me] = value;
    buffer[me]!SET_BOTTOM(own_bottom[me], 0)
}

/* Somebody has a right to frame `f`: it is not free for others any more. */
inline speak_for(f)
{
    i = 0;
    do
    :: i < CPUS ->
        if
        :: i != me && f != NONE -> steady[i] = steady[i] & ~BIT(f)
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od
}

inline hand_out(f)
{
    check_handed_out_once(f != NONE);
    i = 0;
    do
    :: i < CPUS -> check_handed_out_once((held[i] & BIT(f)) == 0); i++
    :: else -> i = 0; break
    od;
    held[me] = held[me] | BIT(f);
    speak_for(f)
}

/* What a call that begins now may count on: the pool, the own magazine, and of others every entry
 * that its owner is not about to take, if all that the owner has stored can be seen. */
inline note_what_is_free()
{
    d_step {
        steady[me] = 0;
        i = 0;
        do
        :: i < FRAMES ->
            if
            :: (whole & BIT(BLOCK_OF(i))) != 0 || (taken & BIT(i)) == 0 ->
                steady[me] = steady[me] | BIT(i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < CPUS ->
            n = FIRST;
            do
            :: n <= LAST ->
                if
                :: (i == me || len(buffer[i]) == 0) && n < own_bottom[i] && OWN(i, n) != NONE ->
                    steady[me] = steady[me] | BIT(OWN(i, n))
                :: else
                fi;
                n++
            :: else -> break
            od;
            i++
        :: else -> break
        od;
        i = 0;
        n = 0
    }
}

/* ---- The pool: parts of an atomic step, under the lock ---- */

inline pool_give(f)
{
    check_is_somewhere(f != NONE);
    check_is_somewhere((whole & BIT(BLOCK_OF(f))) == 0 && (taken & BIT(f)) != 0);
    taken = taken & ~BIT(f);
#ifdef WHOLE_EARLY
    if /* counts what lies in magazines as free */
    :: true -> whole = whole | BIT(BLOCK_OF(f)); taken = taken | MASK_OF(BLOCK_OF(f))
    fi
#else
    if
    :: (taken & MASK_OF(BLOCK_OF(f))) == 0 ->
        whole = whole | BIT(BLOCK_OF(f));
        taken = taken | MASK_OF(BLOCK_OF(f))
    :: else
    fi
#endif
}

/* A frame of a block that is partly used, else of one that is wholly free; else NONE. */
inline pool_take(f)
{
    f = 0;
    do
    :: f < FRAMES && ((taken & BIT(f)) != 0 || (whole & BIT(BLOCK_OF(f))) != 0) -> f++
    :: else -> break
    od;
    if
    :: f == FRAMES && whole != 0 ->
        f = 0;
        do
        :: (whole & BIT(BLOCK_OF(f))) == 0 -> f++
        :: else -> break
        od;
#ifndef WHOLE_STAYS
        whole = whole & ~BIT(BLOCK_OF(f));
#endif
#ifndef NO_FILL
        taken = taken & ~MASK_OF(BLOCK_OF(f))
#endif
    :: else
    fi;
    if
    :: f < FRAMES -> taken = taken | BIT(f)
    :: else
    fi
}

/* ---- The lock ---- */

inline take_lock()
{
    d_step { lock == 0 && drained -> lock = me + 1 }
}

/* A part of an atomic step. */
inline leave_lock()
{
    buffer[me]!LEAVE_LOCK(0, 0)
}

/* ---- The thief: under the lock, takes back what CPU `c` has ---- */

inline barrier_of(c)
{
#ifdef NO_BARRIER
    skip
#else
    drained;
    empty(buffer[c])
#endif
}

inline take_entries(c, from, to)
{
    n = from;
    do
    :: n < to ->
        pool_give(ENTRY(c, n));
        ENTRY(c, n) = NONE;
        OWN(c, n) = NONE;
        n++
    :: else -> n = 0; break
    od
}

inline steal_from(c)
{
    if
    :: switched ->
#ifndef SWITCH_FORGETS
        barrier_of(c);
        d_step {
            b1 = bottom[c];
            if
            :: b1 > real_top[c] -> take_entries(c, real_top[c], b1); real_top[c] = b1
            :: else
            fi;
            b1 = 0
        }
#else
        skip
#endif
    :: !switched ->
        d_step { t = top[c]; b0 = bottom[c] };
        if
#ifdef UNGUARDED
        :: true ->
#else
        :: b0 > t ->
#endif
#ifdef TOP_LATE
            barrier_of(c);
            d_step { buffer[me]!SET_TOP(c, b0) };
            d_step { drained };
#else
            d_step { buffer[me]!SET_TOP(c, b0) };
            barrier_of(c);
#endif
#ifdef BOTTOM_ONCE
            b1 = b0;
#else
            b1 = bottom[c];
#endif
            if
            :: d_step { b1 < b0 ->
                if
                :: b1 < t -> b1 = t
                :: else
                fi
#ifndef TOP_STAYS
                ;
                buffer[me]!SET_TOP(c, b1)
#endif
                }
            :: b1 >= b0
            fi;
            d_step {
                if
                :: b1 < b0 -> b0 = b1
                :: else
                fi;
                take_entries(c, t, b0);
                t = 0; b0 = 0; b1 = 0
            }
#ifndef UNGUARDED
        :: b0 <= t -> d_step { t = 0; b0 = 0 }
#endif
        fi
    fi
}

inline steal_from_all()
{
#ifndef NO_STEAL
    do
    :: d_step { other < CPUS && other == me -> other++ }
    :: other < CPUS && other != me ->
        steal_from(other);
        other++
    :: other == CPUS -> break
    od
#else
    skip
#endif
}

/* ---- alloc ---- */

/* Under the lock: the own magazine is emptied into the pool if the switch is on; else its entries, if
 * a thief has left some or the pop came too early, serve this call. Then it begins at FIRST. */
inline look_at_own()
{
    got = NONE;
    if
    :: switched ->
        take_entries(me, real_top[me], own_bottom[me]);
        real_top[me] = FIRST
    :: !switched && own_bottom[me] > top[me] ->
        own_bottom[me]--;
        got = OWN(me, own_bottom[me]);
        OWN(me, own_bottom[me]) = NONE;
        ENTRY(me, own_bottom[me]) = NONE
    :: else -> top[me] = FIRST
    fi;
    if
    :: got == NONE -> own_bottom[me] = FIRST
    :: else
    fi;
    bottom[me] = own_bottom[me]
}

inline refill()
{
    if
    :: got == NONE ->
        pool_take(got);
        n = 1;
        do
        :: n < BATCH && !switched && got != NONE ->
            pool_take(other);
            if
            :: other != NONE ->
                OWN(me, own_bottom[me]) = other;
                ENTRY(me, own_bottom[me]) = other;
                own_bottom[me]++
            :: else
            fi;
            n++
        :: else -> n = 0; other = 0; break
        od;
        bottom[me] = own_bottom[me]
    :: else
    fi
}

inline alloc_cold()
{
    d_step { can_store -> set_bottom(own_bottom[me] + 1) };
#ifndef NO_LOCK
    take_lock();
#endif
    d_step { look_at_own(); refill() };
    if
    :: got == NONE ->
        steal_from_all();
        other = 0;
        d_step { refill() }
    :: got != NONE
    fi;
    d_step {
        can_store;
        if
        :: got == NONE -> check_none_was_free(steady[me] == 0)
        :: else -> hand_out(got)
        fi;
        got = 0;
        steady[me] = 0;
#ifndef NO_LOCK
        leave_lock()
#endif
    }
}

inline alloc()
{
    d_step {
        can_store;
        note_what_is_free();
        set_bottom(own_bottom[me] - 1);
        speak_for(OWN(me, own_bottom[me]))
    };
    if
    :: d_step { own_bottom[me] >= top[me] ->
            hand_out(OWN(me, own_bottom[me]));
            OWN(me, own_bottom[me]) = NONE;
            ENTRY(me, own_bottom[me]) = NONE;
            steady[me] = 0
        }
    :: own_bottom[me] < top[me] -> alloc_cold()
    fi
}

/* ---- free ---- */

inline push()
{
#ifdef BOTTOM_FIRST
    d_step { can_store -> set_bottom(own_bottom[me] + 1) };
    d_step {
        can_store;
        OWN(me, own_bottom[me] - 1) = got;
        buffer[me]!SET_ENTRY(own_bottom[me] - 1, got);
        held[me] = held[me] & ~BIT(got);
        got = 0
    }
#else
    d_step {
        can_store;
        OWN(me, own_bottom[me]) = got;
        buffer[me]!SET_ENTRY(own_bottom[me], got);
        held[me] = held[me] & ~BIT(got);
        got = 0
    };
    d_step { can_store -> set_bottom(own_bottom[me] + 1) }
#endif
}

/* Under the lock: the oldest entries go back, the others move to the beginning. */
inline flush()
{
    n = 0;
    do
    :: n < FLUSH && top[me] + n < own_bottom[me] ->
        pool_give(OWN(me, top[me] + n));
        n++
    :: else -> break
    od;
    i = FIRST;
    do
    :: top[me] + n < own_bottom[me] ->
        OWN(me, i) = OWN(me, top[me] + n);
        i++;
        n++
    :: else -> break
    od;
    own_bottom[me] = i;
    top[me] = FIRST;
    do
    :: i <= LAST -> OWN(me, i) = NONE; i++
    :: else -> break
    od;
    i = FIRST;
    do
    :: i <= LAST -> ENTRY(me, i) = OWN(me, i); i++
    :: else -> i = 0; n = 0; break
    od;
    bottom[me] = own_bottom[me]
}

inline free_cold()
{
#ifndef NO_LOCK
    take_lock();
#endif
    if
    :: d_step { switched ->
            take_entries(me, real_top[me], own_bottom[me]);
            real_top[me] = FIRST;
            own_bottom[me] = FIRST;
            bottom[me] = FIRST;
            pool_give(got);
            held[me] = held[me] & ~BIT(got)
        }
    :: d_step { !switched ->
            flush();
            OWN(me, own_bottom[me]) = got;
            ENTRY(me, own_bottom[me]) = got;
            own_bottom[me]++;
            bottom[me] = own_bottom[me];
            held[me] = held[me] & ~BIT(got)
        }
    fi;
    d_step {
        can_store;
        got = 0;
#ifndef NO_LOCK
        leave_lock()
#endif
    }
}

inline free()
{
    d_step {
        got = 0;
        do
        :: (held[me] & BIT(got)) == 0 -> got++
        :: else -> break
        od;
        check_free_is_right((whole & BIT(BLOCK_OF(got))) == 0 && (taken & BIT(got)) != 0)
    };
    if
    :: own_bottom[me] < limit[me] ->
        push()
    :: own_bottom[me] >= limit[me] -> free_cold()
    fi
}

/* ---- The switch: under the lock ---- */

inline switch_on()
{
    take_lock();
    if
    :: switched
    :: !switched ->
        do
        :: other < CPUS ->
            real_top[other] = top[other];
            buffer[me]!SET_TOP(other, HUGE);
            buffer[me]!SET_LIMIT(other, FIRST);
            if
            :: other != me -> barrier_of(other)
            :: other == me -> d_step { drained }
            fi;
            other++
        :: other == CPUS -> break
        od;
        other = 0;
        switched = true
    fi;
    atomic { leave_lock() }
}

inline switch_off()
{
    take_lock();
    if
    :: !switched
    :: switched ->
        do
        :: other < CPUS ->
            buffer[me]!SET_TOP(other, real_top[other]);
            real_top[other] = 0;
            buffer[me]!SET_LIMIT(other, LAST + 1);
            other++
        :: other == CPUS -> break
        od;
        other = 0;
        d_step { drained -> switched = false }
    fi;
    atomic { leave_lock() }
}

/* ---- The CPUs ---- */

proctype cpu(byte me)
{
    byte i, n, t, b0, b1, other, got;

end_thread:
    do
    :: alloc()
    :: held[me] != 0 -> free()
    :: d_step { held[me] != 0 && drained -> /* the frame goes to another CPU's program */
            got = 0;
            do
            :: (held[me] & BIT(got)) == 0 -> got++
            :: else -> break
            od;
            held[me] = held[me] & ~BIT(got);
            held[(me + 1) % CPUS] = held[(me + 1) % CPUS] | BIT(got);
            got = 0
        }
#ifdef SWITCH
    :: me == 0 -> switch_on()
    :: me == 0 -> switch_off()
#endif
    :: resting++; break
    od
}

proctype rest(byte c)
{
    byte a, v;

end_rest:
    do
    :: d_step { buffer[c]?SET_BOTTOM(a, v) -> bottom[c] = a; a = 0; v = 0 }
    :: d_step { buffer[c]?SET_ENTRY(a, v) -> ENTRY(c, a) = v; a = 0; v = 0 }
    :: d_step { buffer[c]?SET_TOP(a, v) -> top[a] = v; a = 0; v = 0 }
    :: d_step { buffer[c]?SET_LIMIT(a, v) -> limit[a] = v; a = 0; v = 0 }
    :: d_step { buffer[c]?LEAVE_LOCK(a, v) -> lock = 0; a = 0; v = 0 }
    od
}

/* When all CPUs have come to rest: each frame is in one place. */
proctype judge()
{
    byte f, c, n, places;

end_judge:
    d_step { resting == CPUS };
    c = 0;
    do
    :: c < CPUS -> d_step { empty(buffer[c]) -> c++ }
    :: c == CPUS -> break
    od;
    c = 0;
    d_step {
        f = 0;
        do
        :: f < FRAMES ->
            places = ((whole & BIT(BLOCK_OF(f))) != 0 || (taken & BIT(f)) == 0 -> 1 : 0);
            c = 0;
            do
            :: c < CPUS ->
                places = places + ((held[c] & BIT(f)) != 0 -> 1 : 0);
                n = (switched -> real_top[c] : top[c]);
                do
                :: n < bottom[c] ->
                    places = places + (ENTRY(c, n) == f -> 1 : 0);
                    n++
                :: else -> break
                od;
                c++
            :: else -> break
            od;
            check_is_somewhere(places == 1);
            f++
        :: else -> break
        od
    }
}

init
{
    byte c;

    atomic {
        do
        :: c < CPUS -> run cpu(c); run rest(c); c++
        :: else -> break
        od;
        run judge();
        c = 0
    }
}
