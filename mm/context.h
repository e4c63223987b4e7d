/* SPDX-License-Identifier: MIT */
/* Where mm may be called from. Internal to mm.
 *
 * An NMI or machine check can come while this CPU holds a lock of mm, so their handlers must not call
 * it; every other handler may. Such a call is a bug of the caller: reported, and nothing changes. */
#ifndef MM_CONTEXT_H
#define MM_CONTEXT_H

#include <mm/log.h>

/* Cost: one call of the port, one compare. */
static inline bool context_is_forbidden(const char *call)
{
    if (__builtin_expect(mm_port_cpu_slot() != MM_PORT_NO_SLOT, 1))
        return false;
    mm_bug("%s called from an NMI or machine check handler", call);
    return true;
}

#endif
