/* SPDX-License-Identifier: MIT */
/* A model of who may work in an address space, mm/paging_owner.h, for Spin; tests/model/run.sh checks it.
 *
 *   cpu(c)   single pages of one space: as its owner, else under the lock, which sends an owner away
 *   rest(c)  what the CPU does by itself at any moment: its store buffer drains
 *
 * The properties:
 *
 *   1 nobody works in the space while somebody else does           the assertion 6
 *   2 no deadlock, though who works may ask for a shootdown, which every other CPU has to answer, and who
 *     waits for the owner holds the lock                           no invalid end state
 *
 * Memory is that of x86, as in magazine.pml: stores wait in a first-in first-out buffer, loads do not wait
 * for them but see those of their own CPU; locked instructions drain it (SDM vol. 3, 8.2.2).
 *
 * mm_port_cpu_barrier() is over when each other CPU was seen with an empty buffer; with -DKERNEL, when each
 * has answered, as a shootdown is: then the CPU is at a point at which it answers. The first says less, as a
 * thread that was preempted anywhere counts; the second waits for more, which may stick. A CPU answers
 * between two calls, while it waits for the lock, and while it waits for answers itself.
 *
 * Where the protocol needs what, and what says so by failing without it:
 *   - The owner stores where it is before it looks whether it is the owner (LOOK_FIRST).
 *   - Who sends it away has a barrier between its store and its look at the place (NO_BARRIER,
 *     BARRIER_FIRST), and waits until the place is empty (NO_WAIT).
 *   - Each CPU has a place of its own (ONE_PLACE): a CPU that was owner long ago and was stopped before its
 *     store would wipe out that of the owner of today.
 *   - The owner says that it has left when it has (LEAVE_EARLY).
 *   - It takes the lock only when it is out (LOCK_INSIDE).
 *   - Who waits for the place to become empty answers (NO_SERVE). */

#ifndef CPUS
#define CPUS 2
#endif
#ifndef BUFFERED
#define BUFFERED 2
#endif

#define BIT(n) (1 << (n))
#define NOBODY CPUS
#define OTHERS ((BIT(CPUS) - 1) & ~BIT(me))
#ifdef ONE_PLACE
#define PLACE(c) 0
#else
#define PLACE(c) (c)
#endif

mtype = { SET_PLACE, SET_OWNER, LEAVE_LOCK };

/* Memory. */
byte lock; /* the holder + 1 */
byte owner = NOBODY;
bool inside[CPUS];

chan buffer[CPUS] = [BUFFERED] of { mtype, byte };
byte own_owner[CPUS] = NOBODY; /* the last store that is still in the buffer */
byte owner_waits[CPUS];        /* how many are */
byte asked[CPUS];              /* bit i: CPU i waits for an answer of this one */
byte busy;                     /* how many work in the space */

#define drained   empty(buffer[me])
#define can_store nfull(buffer[me])

#if CPUS == 2
#define ask_each asked[1 - me] = asked[1 - me] | BIT(me)
#define all_answered ((asked[1 - me] & BIT(me)) == 0)
#define all_drained  (empty(buffer[1 - me]))
#else
#define ask_each                                                                                   \
    asked[(me + 1) % 3] = asked[(me + 1) % 3] | BIT(me);                                           \
    asked[(me + 2) % 3] = asked[(me + 2) % 3] | BIT(me)
#define all_answered ((asked[(me + 1) % 3] & BIT(me)) == 0 && (asked[(me + 2) % 3] & BIT(me)) == 0)
#define all_drained  (empty(buffer[(me + 1) % 3]) && empty(buffer[(me + 2) % 3]))
#endif

#define check_alone(ok) assert((ok) || 6 == 0)

inline set_owner(value)
{
    own_owner[me] = value;
    owner_waits[me]++;
    buffer[me]!SET_OWNER(value)
}

inline serve()
{
    asked[me] = 0
}

/* Asks every other CPU and waits; answers meanwhile. */
inline ask_all()
{
    d_step {
        drained;
        ask_each
    };
    do
    :: atomic { asked[me] != 0 -> serve() }
    :: all_answered -> break
    od;
    skip
}

inline barrier()
{
#ifdef KERNEL
    ask_all();
#else
    drained;
    if /* each other CPU is seen with an empty buffer, one after the other */
    :: CPUS == 2 -> all_drained
    :: CPUS == 3 ->
        empty(buffer[(me + 1) % 3]);
        empty(buffer[(me + 2) % 3])
    fi
#endif
}

inline work()
{
    d_step { busy++; check_alone(busy == 1) };
    if
    :: ask_all()
    :: skip
    fi;
    d_step { busy-- }
}

inline take_lock()
{
    do
    :: d_step { lock == 0 && drained -> lock = me + 1 }; break
    :: atomic { asked[me] != 0 -> serve() }
    od
}

/* The barriers that follow the first one only serve others: here it is the serving alone. */
inline send_owner_away()
{
#ifdef BARRIER_FIRST
    barrier();
#endif
    d_step { can_store -> set_owner(NOBODY) };
#ifndef BARRIER_FIRST
#ifndef NO_BARRIER
    barrier();
#endif
#endif
#ifndef NO_WAIT
    do
    :: !inside[PLACE(old)] -> break
#ifndef NO_SERVE
    :: atomic { asked[me] != 0 -> serve() }
#endif
    od;
#endif
    skip
}

inline work_with_lock()
{
    take_lock();
    old = owner; /* the lock has drained the buffer */
    if
    :: old != NOBODY && old != me -> send_owner_away()
    :: else
    fi;
    old = 0;
    work();
    if
    :: d_step { can_store -> set_owner(me) }
    :: skip
    fi;
    d_step { can_store -> buffer[me]!LEAVE_LOCK(0) }
}

#define look (owner_waits[me] != 0 -> own_owner[me] : owner)

active [CPUS] proctype cpu()
{
    byte old;
    bool mine;
    byte me = _pid;

end:
    do
    :: atomic { asked[me] != 0 -> serve() }
    :: skip ->
#ifdef LOOK_FIRST
        d_step { mine = (look == me) };
        d_step { can_store -> buffer[me]!SET_PLACE(1) };
#else
        d_step { can_store -> buffer[me]!SET_PLACE(1) };
        d_step { mine = (look == me) };
#endif
        if
        :: mine ->
#ifdef LEAVE_EARLY
            d_step { can_store -> buffer[me]!SET_PLACE(0) };
            work()
#else
#ifdef LOCK_INSIDE
            if
            :: work()
            :: skip -> work_with_lock()
            fi;
#else
            work();
#endif
            d_step { can_store -> buffer[me]!SET_PLACE(0) }
#endif
        :: !mine ->
            d_step { can_store -> buffer[me]!SET_PLACE(0) };
            work_with_lock()
        fi;
        mine = false
    od
}

active [CPUS] proctype rest()
{
    byte me = _pid - CPUS, value;

end:
    do
    :: d_step { buffer[me]?SET_PLACE(value) -> inside[PLACE(me)] = value; value = 0 }
    :: d_step { buffer[me]?SET_OWNER(value) -> owner = value; owner_waits[me]--; value = 0 }
    :: d_step { buffer[me]?LEAVE_LOCK(value) -> lock = 0; value = 0 }
    od
}
