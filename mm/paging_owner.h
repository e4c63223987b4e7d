/* SPDX-License-Identifier: MIT */
/* Who may work in an address space: the holder of its lock, or its owner. Internal to mm.
 *
 *      space_places[]   [slot 0: inside = space A] [slot 1: -] [slot 2: -] ...     16 bytes each
 *                                 ^
 *      space A: owner ------------'         written under the lock of the space; NULL: nobody
 *
 * A slot that takes the lock for single pages again and again, with no other slot between, comes to own
 * the space. From then on it needs no locked instruction for them: with interrupts off it writes into its
 * own place where it is, looks if it still is the owner, works, and writes that it is nowhere.
 *
 *      owner                        who takes the lock (space_lock)
 *      place.inside = space         owner = NULL
 *      owner == place ?             mm_port_cpu_barrier()
 *        no: inside = NULL, lock    place.inside == space ?  wait: barrier again, which serves it
 *      ... works ...                ... works ...
 *      inside = NULL (release)
 *
 * The CPU may load `owner` before its store is seen by others (SDM vol. 3, 8.2.3.4); the barrier is there
 * so that it needs no fence: behind it either the store is seen, or the load is yet to come and sees NULL.
 * The compiler keeps the two in order. Nobody but a slot writes into its place, so that one that was
 * stopped between the two steps for however long disturbs no later owner.
 *
 * An owner inside takes no lock and is waited for with one held; it may ask for a shootdown, and who waits
 * serves it (mm_port_cpu_barrier() does). Interrupts are off, so no handler of its own CPU waits for it.
 * tests/model/owner.pml is this protocol.
 *
 * Cost: two stores and a compare, 0.4 ns; the lock is 2.3 ns in a process on a Zen 4 (and more where an
 * instruction behind it has to wait for it), and a locked instruction of 20 cycles in a kernel. Sending an
 * owner away costs an interrupt to each CPU: so each time twice as many single pages in a row are needed
 * for the next one, from 16 up to a million.
 *
 * Invariant: an owner is a slot's own place, not one of those that stand for many (MM_PORT_SLOTS and up). */
#ifndef MM_PAGING_OWNER_H
#define MM_PAGING_OWNER_H

#include <mm/paging.h>
#include <mm/port_slot.h>

/* Where the code of one slot is. The four slots of a CPU share a cache line. */
struct space_place {
    const struct address_space *inside;
    uint64_t unused;
};

extern struct space_place space_places[MM_PORT_SLOT_TABLE];

/* Parts of what follows (paging_owner.c). */
void space_send_owner_away(struct address_space *space, const struct space_place *owner);
void space_note_visitor(struct address_space *space, unsigned slot);

/* Takes the lock, and sends away an owner that is not the caller's slot.
 *   Returns:  for space_unlock(). */
static inline uint64_t space_lock(struct address_space *space)
{
    uint64_t saved = mm_port_lock(&space->lock);
    const struct space_place *owner = __atomic_load_n(&space->owner, __ATOMIC_RELAXED);

    if (__builtin_expect(owner != NULL, 0) && owner != &space_places[mm_port_slot()])
        space_send_owner_away(space, owner);
    return saved;
}

static inline void space_unlock(struct address_space *space, uint64_t saved)
{
    mm_port_unlock(&space->lock, saved);
}

/* space_lock() for a single page that found the caller not to be the owner; it may be the next time. */
static inline uint64_t space_lock_for_page(struct address_space *space)
{
    uint64_t saved = space_lock(space);
    unsigned slot = mm_port_slot();

    if (__builtin_expect(space->visitor != slot || --space->visits == 0, 0))
        space_note_visitor(space, slot);
    return saved;
}

struct space_turn {
    struct space_place *place;
    uint64_t saved;
};

/* Begins the owner's work in its space; false if the caller is not the owner.
 *   Context:  any, also handlers: they have slots, and so places, of their own. */
static inline bool space_enter(const struct address_space *space, struct space_turn *turn)
{
    if (__builtin_expect(__atomic_load_n(&space->owner, __ATOMIC_RELAXED) == NULL, 0))
        return false;
    turn->saved = mm_port_pin();
    turn->place = &space_places[mm_port_slot()];
    __atomic_store_n(&turn->place->inside, space, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(__atomic_load_n(&space->owner, __ATOMIC_ACQUIRE) == turn->place, 1))
        return true;
    __atomic_store_n(&turn->place->inside, NULL, __ATOMIC_RELEASE);
    mm_port_unpin(turn->saved);
    return false;
}

static inline void space_leave(const struct space_turn *turn)
{
    __atomic_store_n(&turn->place->inside, NULL, __ATOMIC_RELEASE);
    mm_port_unpin(turn->saved);
}

#endif
