/* SPDX-License-Identifier: MIT */
/* Address and frame types of mm. This header is part of the public API of mm/.
 *
 * A physical address (`paddr_t`) and a virtual address (`vaddr_t`) are plain 64-bit byte addresses;
 * a frame number (`pfn_t`) is a struct of one field, so that a number is never taken for an address.
 * No value is magic: physical address 0 is a valid frame. Ranges are half-open, [base, end).
 * Sizes in bytes end in `_bytes`, counts in `_frames` or `_pages`. */
#ifndef MM_TYPES_H
#define MM_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define MM_BEGIN_DECLS extern "C" {
#define MM_END_DECLS   }
#else
#define MM_BEGIN_DECLS
#define MM_END_DECLS
#endif

#define MM_MUST_USE            __attribute__((warn_unused_result))
#define MM_PRINTF(text, first) __attribute__((format(printf, text, first)))
#define MM_COLD                __attribute__((cold, noinline))
/* Where code and data of the image go that do not live as long as the kernel; a kernel that has no such
 * sections links them with the rest. Code that runs after boot uses nothing that is MM_INIT.
 *   MM_INIT            code for boot only: boot_info.init
 *   MM_INIT_DATA       variables for boot only: boot_info.init_data
 *   MM_RO_AFTER_INIT   variables that are never written after boot: boot_info.ro_after_init */
#define MM_INIT          __attribute__((section(".init.text"), cold))
#define MM_INIT_DATA     __attribute__((section(".init.data")))
#define MM_RO_AFTER_INIT __attribute__((section(".data.ro_after_init")))

#define MM_NORETURN __attribute__((noreturn))

typedef uint64_t paddr_t; /* physical address, bytes */
typedef uint64_t vaddr_t; /* virtual address, bytes */

typedef struct {
    uint64_t number; /* physical address / FRAME_SIZE */
} pfn_t;

/* The 4 KiB frame and page of x86-64 (Intel SDM vol. 3, 4.5; AMD APM vol. 2, 5.3). */
#define FRAME_SHIFT     12u
#define FRAME_SIZE      ((uint64_t)4096)
#define PAGE_SIZE       FRAME_SIZE
#define LARGE_PAGE_SIZE ((uint64_t)2 << 20)
#define HUGE_PAGE_SIZE  ((uint64_t)1 << 30)

#define MM_KIB(n) ((uint64_t)(n) << 10)
#define MM_MIB(n) ((uint64_t)(n) << 20)
#define MM_GIB(n) ((uint64_t)(n) << 30)

static inline pfn_t paddr_to_pfn(paddr_t address)
{
    pfn_t pfn = { address >> FRAME_SHIFT };
    return pfn;
}

static inline paddr_t pfn_to_paddr(pfn_t pfn)
{
    return pfn.number << FRAME_SHIFT;
}

/* `unit` is a power of two. Rounding up wraps past 2^64 - unit; callers bound the value first. */
static inline uint64_t mm_round_down(uint64_t value, uint64_t unit)
{
    return value & ~(unit - 1);
}

static inline uint64_t mm_round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline bool mm_is_aligned(uint64_t value, uint64_t unit)
{
    return (value & (unit - 1)) == 0;
}

static inline bool mm_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* A half-open range of physical memory, [base, end). */
struct mm_extent {
    paddr_t base;
    paddr_t end;
};

#endif
