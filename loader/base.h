/* SPDX-License-Identifier: MIT */
/* What every file of the loader uses: page size, alignment, and addresses as pointers.
 *
 * The loader runs identity mapped: physical and virtual addresses are the same number, so one
 * integer type serves both; names say which is meant. Ranges are half-open, [base, end). */
#ifndef LOADER_BASE_H
#define LOADER_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096ul
#define FOUR_GIB   (4ul << 30)

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* align: a power of two. */
static inline uint64_t align_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

/* Wraps to a small number above 2^64 - align; callers bound their input first. */
static inline uint64_t align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* Physical memory that the loader's identity map reaches. */
static inline void *phys_pointer(uint64_t phys)
{
    return (void *)(uintptr_t)phys;
}

static inline uint64_t pointer_phys(const volatile void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

#endif
