/* SPDX-License-Identifier: MIT */
/* fork() while other threads are at work in the heap.
 *
 *      parent: prepare (take every lock of mm) -> fork -> release
 *      child:                                             release -> slots of missing threads drained
 *
 * With the locks held, nobody is in the middle of a change of what is shared. The caches of the slots
 * have no lock: a thread that is missing in the child may have been interrupted anywhere in its fast
 * path, and the protocol of mm/magazine.h lets another one empty its cache all the same. What it was just
 * taking stays allocated: a block, or memory on its way between the pmm and the heap (2 MiB, or a large
 * block), which counts as moving no more.
 *
 * Invariant: the handlers are registered at the first malloc, before any other library has had the
 * chance: glibc runs prepare handlers last-registered first, so those of others may still allocate. */
#include "malloc/parts.h"

#include <mm/linux.h>

#include <pthread.h>

static uint64_t heap_saved, pmm_saved; /* what the locks gave; held, so nobody else writes them */

static void prepare(void)
{
    struct mm *mm = mm_kernel();
    uint64_t saved = kheap_lock_all(mm->heap);

    heap_saved = saved;
    malloc_memory_lock();
    pmm_saved = mm_port_lock(&mm->pmm.lock);
}

static void release(void)
{
    struct mm *mm = mm_kernel();

    mm_port_unlock(&mm->pmm.lock, pmm_saved);
    malloc_memory_unlock();
    kheap_unlock_all(mm->heap, heap_saved);
}

static void release_in_child(void)
{
    kheap_forked(mm_kernel()->heap);
    release();
    mm_linux_after_fork();
}

bool malloc_fork_init(void)
{
    return pthread_atfork(prepare, release, release_in_child) == 0;
}
