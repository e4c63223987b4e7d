/* SPDX-License-Identifier: MIT */
/* The slot of the running code, and how to keep it, in the fewest instructions. This header is part of the public API of
 * mm/; fast paths of mm, also those inlined into its callers, ask here.
 *
 * A build that knows its port says so: MM_PORT_INLINE_X86_64 (mm/port/x86_64.c) or MM_PORT_INLINE_TLS
 * (mm/port/linux.c). Any other build calls mm_port_cpu_slot(). All files of a program must agree. */
#ifndef MM_PORT_SLOT_H
#define MM_PORT_SLOT_H

#include <mm/port.h>

MM_BEGIN_DECLS

#if defined(MM_PORT_INLINE_TLS)
/* MM_PORT_UNKNOWN_SLOT until the thread has called mm_port_cpu_slot(). */
extern __thread unsigned mm_port_tls_slot __attribute__((tls_model("initial-exec")));
#endif

/* The slot of the running code, or MM_PORT_UNKNOWN_SLOT, below MM_PORT_SLOT_TABLE always.
 *   Context:  any.
 *   Cost:     one load; without an inline port, one call. */
static inline unsigned mm_port_slot(void)
{
#if defined(MM_PORT_INLINE_X86_64)
    uint32_t slot;

    /* volatile: an interrupt handler that comes in between has another slot, the code behind it
     * this one again; the compiler must still not move the load over a switch of threads. */
    __asm__ volatile("movl %%gs:0, %0" : "=r"(slot));
    return slot;
#elif defined(MM_PORT_INLINE_TLS)
    return mm_port_tls_slot;
#else
    return mm_port_cpu_slot();
#endif
}

/* mm_port_interrupts_off() and mm_port_interrupts_restore(). A Linux process has no interrupts.
 *   Cost:     three instructions to begin, a branch and one to end; without an inline port, two calls. */
static inline uint64_t mm_port_pin(void)
{
#if defined(MM_PORT_INLINE_X86_64)
    uint64_t flags;

    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    return flags;
#elif defined(MM_PORT_INLINE_TLS)
    return 0;
#else
    return mm_port_interrupts_off();
#endif
}

static inline void mm_port_unpin(uint64_t saved)
{
#if defined(MM_PORT_INLINE_X86_64)
    if ((saved & (uint64_t)1 << 9) != 0) /* RFLAGS.IF */
        __asm__ volatile("sti" : : : "memory");
#elif defined(MM_PORT_INLINE_TLS)
    (void)saved;
#else
    mm_port_interrupts_restore(saved);
#endif
}

MM_END_DECLS
#endif
