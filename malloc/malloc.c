/* SPDX-License-Identifier: MIT */
/* The C library's malloc interface on the kernel's heap: what libmello-malloc.so exports.
 *
 *      program --malloc()--> malloc.c --kmalloc_nozero()--> mm/kheap*.c --frames--> mm/pmm*.c
 *                               |  NULL: the rare cases                               |
 *                               +--> start.c: the first call brings mm up on a region of 4x RAM
 *
 * This file owns the rules of C17 7.22.3 and POSIX: sizes and alignments that are refused, errno,
 * and size 0 (a block of its own). Its only state is who knows that mm has started. The fast
 * path tests nothing about the start: before it, kmalloc_nozero() gives NULL, and NULL goes to the cold
 * half.
 *
 * A wrong free is reported by mm in one line on stderr and ends the program by abort(), as in glibc. */
#include "malloc/parts.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/single_threaded.h>
#include <unistd.h>

#define EXPORT            __attribute__((visibility("default")))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)

/* Sizes that go to the heap without a second look; 0 and anything larger are thought about first. */
#define PLAIN_BYTES_MAX ((size_t)1 << 30)

/* ---- the cold half ---- */

/* This thread has seen mm started: NULL from the heap was its answer. */
static __thread bool seen_started __attribute__((tls_model("initial-exec")));

/* Every thread has: mm had started when the process still had one thread only. Atomic. */
static bool started_alone;

static bool may_have_been_early(void)
{
    return !seen_started && !__atomic_load_n(&started_alone, __ATOMIC_RELAXED);
}

/* A size that can be asked for at all, after the start; 0 becomes the smallest block. errno is set
 * if it is refused. */
MM_COLD static bool may_allocate(size_t *bytes)
{
    if (*bytes == 0)
        *bytes = 1;
    if (*bytes > (size_t)PTRDIFF_MAX || !malloc_start() || *bytes > malloc_region_bytes()) {
        errno = ENOMEM;
        return false;
    }
    seen_started = true;
    if (__libc_single_threaded)
        __atomic_store_n(&started_alone, true, __ATOMIC_RELAXED);
    return true;
}

static void *or_enomem(void *block)
{
    if (block == NULL)
        errno = ENOMEM;
    return block;
}

MM_COLD static void *malloc_slowly(size_t bytes)
{
    return may_allocate(&bytes) ? or_enomem(kmalloc_nozero(bytes)) : NULL;
}

MM_COLD static void *calloc_slowly(size_t bytes)
{
    return may_allocate(&bytes) ? or_enomem(kmalloc(bytes)) : NULL;
}

/* The heap gave NULL. It is asked again only by a thread that may have been too early for it: a second
 * search would be a second error line, and count twice where failures are injected. */
MM_COLD static void *malloc_again(size_t bytes)
{
    return may_have_been_early() ? malloc_slowly(bytes) : or_enomem(NULL);
}

MM_COLD static void *calloc_again(size_t bytes)
{
    return may_have_been_early() ? calloc_slowly(bytes) : or_enomem(NULL);
}

/* ---- C17 ---- */

EXPORT void *malloc(size_t bytes)
{
    if (LIKELY(bytes - 1 < PLAIN_BYTES_MAX)) {
        void *block = kmalloc_nozero(bytes);

        return LIKELY(block != NULL) ? block : malloc_again(bytes);
    }
    return malloc_slowly(bytes);
}

EXPORT void *calloc(size_t count, size_t bytes)
{
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    if (LIKELY(total - 1 < PLAIN_BYTES_MAX)) {
        void *block = kmalloc(total);

        return LIKELY(block != NULL) ? block : calloc_again(total);
    }
    return calloc_slowly(total);
}

EXPORT void free(void *block)
{
    kfree(block);
}

/* Size 0 frees the block and gives NULL, as glibc does: programs written for it rely on that. */
EXPORT void *realloc(void *block, size_t bytes)
{
    if (block == NULL)
        return malloc(bytes);
    if (bytes == 0) {
        kfree(block);
        return NULL;
    }
    return may_allocate(&bytes) ? or_enomem(krealloc(block, bytes)) : NULL;
}

EXPORT void *reallocarray(void *block, size_t count, size_t bytes)
{
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, total);
}

/* ---- alignment ---- */

/* Every block is aligned to 16 bytes (alignof(max_align_t)) as it is. */
static void *alloc_aligned(size_t alignment, size_t bytes)
{
    if (alignment <= MALLOC_ALIGNMENT)
        return malloc(bytes);
    if (!may_allocate(&bytes))
        return NULL;
    return or_enomem(kmalloc_aligned(bytes, alignment));
}

/* C17 as amended by DR 460: any size, but only alignments that exist. */
EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (!mm_is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return alloc_aligned(alignment, bytes);
}

/* glibc's: an alignment that is no power of two is rounded up to one. */
EXPORT void *memalign(size_t alignment, size_t bytes)
{
    if (alignment > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    if (alignment > 1 && !mm_is_power_of_two(alignment))
        alignment = (size_t)1 << (64 - __builtin_clzl(alignment));
    return alloc_aligned(alignment, bytes);
}

/* POSIX: the error is the result; errno and *out are left alone. */
EXPORT int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    int saved = errno;

    if (!mm_is_power_of_two(alignment) || alignment % sizeof(void *) != 0)
        return EINVAL;
    void *block = alloc_aligned(alignment, bytes);
    errno = saved;
    if (block == NULL)
        return ENOMEM;
    *out = block;
    return 0;
}

EXPORT void *valloc(size_t bytes)
{
    return alloc_aligned(PAGE_SIZE, bytes);
}

/* Whole pages, at least one. */
EXPORT void *pvalloc(size_t bytes)
{
    if (bytes > (size_t)PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    return alloc_aligned(PAGE_SIZE, bytes == 0 ? PAGE_SIZE : mm_round_up(bytes, PAGE_SIZE));
}

/* ---- asking ---- */

EXPORT size_t malloc_usable_size(void *block)
{
    return block == NULL ? 0 : ksize(block);
}
