/* SPDX-License-Identifier: MIT */
/* Memory to measure on, and the kernel's own memory functions in place of libc's.
 *
 * The program is linked with --wrap=memset and so on: what any of its objects calls by that name is
 * __wrap_memset, which is kernel/string.c under another name. libc's uses vector registers, which a
 * kernel does not have; and stand-ins and mm are to clear by the same means. */
#define _GNU_SOURCE 1
#include "bench/bench.h"

#include <stdlib.h>
#include <sys/mman.h>

void *bench_reserve(size_t bytes, bool huge)
{
    const size_t unit = (size_t)2 << 20;
    char *mapping = mmap(NULL, bytes + unit, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t before;

    if (mapping == MAP_FAILED) {
        fprintf(stderr, "bench: no address space for %zu bytes\n", bytes);
        exit(1);
    }
    before = -(uintptr_t)mapping & (unit - 1);
    if (before > 0)
        munmap(mapping, before);
    if (unit - before > 0)
        munmap(mapping + before + ((bytes + 4095) & ~(size_t)4095), unit - before);
    madvise(mapping + before, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return mapping + before;
}

void *bench_memory(size_t bytes)
{
    volatile char *memory = bench_reserve(bytes, true);

    for (size_t i = 0; i < bytes; i += 4096)
        memory[i] = 0;
    return (void *)memory;
}

void bench_release(void *memory, size_t bytes)
{
    munmap(memory, (bytes + 4095) & ~(size_t)4095);
}
