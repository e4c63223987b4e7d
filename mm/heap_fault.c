/* SPDX-License-Identifier: MIT */
/* Injected failures: allocations that fail as if there were no memory, so that what comes then can be
 * tested.
 *
 *      call -> size and site match? -> counted -> nth? every? chance? -> fails
 *
 * While any condition stands, the caches are switched off and every allocation asks here. */
#include "mm/heap_parts.h"

#define FIXED_SEED 0x4d656c6c6fu

/* A step of xorshift64*: 64 bits that pass for random, of any state but 0. */
uint64_t heap_random(uint64_t *state)
{
    uint64_t value = *state;

    value ^= value >> 12;
    value ^= value << 25;
    value ^= value >> 27;
    *state = value;
    return value * 0x2545f4914f6cdd1du;
}

static bool is_meant(const struct kheap_faults *conditions, size_t bytes, vaddr_t site)
{
    vaddr_t behind = conditions->behind != 0 ? conditions->behind : conditions->site + 1;

    if (bytes < conditions->least || (conditions->most != 0 && bytes > conditions->most))
        return false;
    return conditions->site == 0 || (site >= conditions->site && site < behind);
}

static bool is_due_locked(struct heap_faults *faults)
{
    const struct kheap_faults *conditions = &faults->conditions;
    uint64_t number = ++faults->counted;

    if (conditions->nth != 0 && number != conditions->nth)
        return false;
    if (conditions->every != 0 && number % conditions->every != 0)
        return false;
    return conditions->chance == 0 || heap_random(&faults->random) % 1000 < conditions->chance;
}

bool heap_fault_is_due(struct kheap *heap, size_t bytes, vaddr_t site)
{
    if (!__atomic_load_n(&heap->faults.on, __ATOMIC_RELAXED))
        return false;
    uint64_t saved = mm_port_lock(&heap->lock);
    bool due = heap->faults.on && is_meant(&heap->faults.conditions, bytes, site) &&
               is_due_locked(&heap->faults);
    __atomic_store_n(&heap->faults.injected, heap->faults.injected + due, __ATOMIC_RELAXED);
    mm_port_unlock(&heap->lock, saved);
    return due;
}

void heap_faults_set_locked(struct kheap *heap, const struct kheap_faults *faults)
{
    heap->faults.conditions = faults != NULL ? *faults : (struct kheap_faults){ 0 };
    heap->faults.counted = 0;
    __atomic_store_n(&heap->faults.injected, 0, __ATOMIC_RELAXED);
    heap->faults.random = faults != NULL && faults->seed != 0 ? faults->seed : FIXED_SEED;
    __atomic_store_n(&heap->faults.on, faults != NULL, __ATOMIC_RELAXED);
}

uint64_t kheap_injected(const struct kheap *heap)
{
    return __atomic_load_n(&heap->faults.injected, __ATOMIC_RELAXED);
}

/* ---- mm.fail= ---- */

static bool read_number(const char **at, const char *end, uint64_t *out)
{
    uint64_t value = 0;
    unsigned base = 10, digit;
    const char *from = *at;

    if (end - from > 2 && from[0] == '0' && from[1] == 'x') {
        base = 16;
        from += 2;
    }
    const char *first = from;
    for (; from < end; from++) {
        char c = *from;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (base == 16 && c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else
            break;
        if (__builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *at = from;
    *out = value;
    return from > first;
}

static bool read_word(const char **at, const char *end, const char *word)
{
    const char *from = *at;

    for (; *word != '\0'; word++, from++)
        if (from == end || *from != *word)
            return false;
    *at = from;
    return true;
}

/* FIRST or FIRST-LAST. */
static bool read_range(const char **at, const char *end, uint64_t *first, uint64_t *last)
{
    if (!read_number(at, end, first))
        return false;
    *last = *first;
    return !read_word(at, end, "-") || read_number(at, end, last);
}

static bool read_condition(const char **at, const char *end, struct kheap_faults *out)
{
    uint64_t first = 0, last = 0;

    if (read_word(at, end, "nth:"))
        return read_number(at, end, &out->nth) && out->nth != 0;
    if (read_word(at, end, "every:"))
        return read_number(at, end, &out->every) && out->every != 0;
    if (read_word(at, end, "seed:"))
        return read_number(at, end, &out->seed) && out->seed != 0;
    if (read_word(at, end, "chance:")) {
        if (!read_number(at, end, &first) || first == 0 || first > 1000)
            return false;
        out->chance = (uint32_t)first;
        return true;
    }
    if (read_word(at, end, "size:")) {
        if (!read_range(at, end, &out->least, &out->most))
            return false;
        return out->most != 0 && out->least <= out->most;
    }
    if (!read_word(at, end, "site:") || !read_range(at, end, &first, &last) || first == 0 ||
        last < first)
        return false;
    out->site = first;
    out->behind = last > first ? last : 0;
    return true;
}

bool kheap_faults_read(const char *text, size_t bytes, struct kheap_faults *out)
{
    const char *end = text + bytes;
    struct kheap_faults faults = { 0 };

    do {
        if (!read_condition(&text, end, &faults))
            return false;
    } while (read_word(&text, end, ","));
    if (text != end)
        return false;
    *out = faults;
    return true;
}
