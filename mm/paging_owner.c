/* SPDX-License-Identifier: MIT */
/* Who may work in an address space, the part with the lock; paging_owner.h tells the protocol. */
#include "mm/paging_owner.h"

#define FIRST_VISITS  16u /* for the first owner; doubled for each that was sent away */
#define REVOKED_LIMIT 16u

struct space_place space_places[MM_PORT_SLOT_TABLE] __attribute__((aligned(64)));

/* The owner may be inside, even in a shootdown that this CPU has to answer: the barrier does. */
MM_COLD void space_send_owner_away(struct address_space *space, const struct space_place *owner)
{
    __atomic_store_n(&space->owner, NULL, __ATOMIC_RELAXED);
    do
        mm_port_cpu_barrier();
    while (__atomic_load_n(&owner->inside, __ATOMIC_ACQUIRE) == space);
    if (space->revoked < REVOKED_LIMIT)
        space->revoked++;
    space->visits = FIRST_VISITS << space->revoked;
}

/* Another slot than the last time begins to count; one that has come often enough becomes the owner. A slot
 * that is no place of its own counts for nothing. */
MM_COLD void space_note_visitor(struct address_space *space, unsigned slot)
{
    bool is_same = space->visitor == slot && slot < MM_PORT_SLOTS && space->visits == 0;

    if (is_same)
        __atomic_store_n(&space->owner, &space_places[slot], __ATOMIC_RELAXED);
    space->visitor = slot;
    space->visits = (FIRST_VISITS << space->revoked) - (is_same ? 0 : 1);
}
