/* SPDX-License-Identifier: MIT */
/* A stack of 64-bit entries that one slot pushes and pops without a lock, without a locked instruction
 * and with interrupts on, and that any CPU can still take back. Internal to mm.
 *
 *      entries   . . . . x x x x x x . . . . .         the owner pushes and pops at `bottom`
 *                       ^floor      ^bottom  ^capacity
 *
 * Who writes what: `bottom` and the entries the owner alone (the code that runs in this slot); `top`,
 * `limit` and `floor` whoever holds the lock of the structure behind (pmm, heap). `top` is what pop looks
 * at: `floor` usually, MAGAZINE_OFF while the magazine is switched off (then `limit` is 0, too: it looks
 * empty and full at once, and every call of the owner goes the slow way).
 *
 * Taking back, under the lock: magazine_take_begin() on each magazine, one mm_port_cpu_barrier(), then
 * magazine_take_end() on each. begin raises `top` to the `bottom` that it sees. A pop stores the new
 * bottom before it loads top; so after the barrier each pop has either been seen by end, or sees the
 * raised top and goes the slow way, where it waits for the lock. Nobody waits for an owner that was
 * interrupted in the middle, and no entry is lost or given twice.
 *
 * Invariants: 0 <= floor <= bottom <= capacity, but that a pop that finds nothing makes bottom smaller by
 * one for a moment; entries below `floor` are nobody's and are not overwritten until the owner, with the
 * lock, moves its entries down (magazine_compact). */
#ifndef MM_MAGAZINE_H
#define MM_MAGAZINE_H

#include <mm/port.h>

#define MAGAZINE_OFF INT32_MAX

struct magazine {
    int32_t bottom;   /* owner */
    int32_t limit;    /* lock: capacity, or 0 while off */
    int32_t top;      /* lock: floor, or MAGAZINE_OFF */
    int32_t floor;    /* lock */
    int32_t capacity; /* constant */
};

/* What code without a slot of its own finds: empty and full for ever. Several CPUs may pop from it at
 * once; their restoring writes may leave a smaller bottom behind, so the slow path, when it has seen
 * that the slot is absent, stores 0 again (magazine_absent_reset). */
#define MAGAZINE_ABSENT                                                                            \
    {                                                                                              \
        .bottom = 0, .limit = INT32_MIN, .top = MAGAZINE_OFF, .floor = 0, .capacity = 0            \
    }

static inline void magazine_absent_reset(struct magazine *magazine)
{
    __atomic_store_n(&magazine->bottom, 0, __ATOMIC_RELAXED);
}

/* An empty magazine, switched on or off. Nobody uses it yet. */
static inline void magazine_init(struct magazine *magazine, uint32_t capacity, bool on)
{
    magazine->bottom = 0;
    magazine->floor = 0;
    magazine->capacity = (int32_t)capacity;
    magazine->limit = on ? (int32_t)capacity : 0;
    magazine->top = on ? 0 : MAGAZINE_OFF;
}

/* ---- the owner, without the lock ---- */

/* Takes the newest entry.
 *   Returns:  true and its position in *at; false if the magazine looks empty: then the slow path must
 *             decide, under the lock. The owner may still put the entry back by magazine_unpop().
 *   Cost:     3 loads, 1 store, no locked instruction. */
static inline bool magazine_pop_at(struct magazine *magazine, int32_t *at)
{
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_RELAXED) - 1;

    __atomic_store_n(&magazine->bottom, bottom, __ATOMIC_RELEASE);
    /* The compiler keeps store and load in order; the CPU need not, which is why a thief calls
     * mm_port_cpu_barrier(). */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    *at = bottom;
    if (__builtin_expect(bottom >= __atomic_load_n(&magazine->top, __ATOMIC_ACQUIRE), 1))
        return true;
    __atomic_store_n(&magazine->bottom, bottom + 1, __ATOMIC_RELEASE);
    return false;
}

/* The entry at `at`, just popped and not looked at by anybody else, is in the magazine again (a thief may
 * have it). */
static inline void magazine_unpop(struct magazine *magazine, int32_t at)
{
    __atomic_store_n(&magazine->bottom, at + 1, __ATOMIC_RELEASE);
}

/* The same with the entry itself. `entries` is the array of this magazine. */
static inline bool magazine_pop(struct magazine *magazine, const uint64_t *entries, uint64_t *out)
{
    int32_t at;

    if (__builtin_expect(!magazine_pop_at(magazine, &at), 0))
        return false;
    *out = __atomic_load_n(&entries[at], __ATOMIC_RELAXED);
    return true;
}

/* Adds an entry; false if the magazine looks full: then the slow path must decide, under the lock.
 *   Cost:     2 loads, 2 stores. */
static inline bool magazine_push(struct magazine *magazine, uint64_t *entries, uint64_t entry)
{
    int32_t at = __atomic_load_n(&magazine->bottom, __ATOMIC_RELAXED);

    if (__builtin_expect(at >= __atomic_load_n(&magazine->limit, __ATOMIC_RELAXED), 0))
        return false;
    __atomic_store_n(&entries[at], entry, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->bottom, at + 1, __ATOMIC_RELEASE);
    return true;
}

/* True if a pop would surely find nothing (another CPU may be taking): saves the two stores of a pop in
 * vain. Owner. */
static inline bool magazine_looks_empty(const struct magazine *magazine)
{
    return __atomic_load_n(&magazine->bottom, __ATOMIC_RELAXED) <=
           __atomic_load_n(&magazine->top, __ATOMIC_RELAXED);
}

/* ---- with the lock ---- */

/* How many entries it holds. Exact for the owner and while the owner is not at work. */
static inline uint32_t magazine_count_locked(const struct magazine *magazine)
{
    int32_t count = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE) -
                    __atomic_load_n(&magazine->floor, __ATOMIC_RELAXED);

    return count > 0 ? (uint32_t)count : 0;
}

static inline bool magazine_is_on_locked(const struct magazine *magazine)
{
    return __atomic_load_n(&magazine->top, __ATOMIC_RELAXED) != MAGAZINE_OFF;
}

/* Sets the floor, and top with it unless the magazine is off. */
static inline void magazine_set_floor_locked(struct magazine *magazine, int32_t floor)
{
    __atomic_store_n(&magazine->floor, floor, __ATOMIC_RELAXED);
    if (magazine_is_on_locked(magazine))
        __atomic_store_n(&magazine->top, floor, __ATOMIC_RELEASE);
}

/* The owner, with the lock: moves the entries down to position 0, leaving out the `drop` oldest.
 *   Returns:  how many are left. */
static inline uint32_t magazine_compact_locked(struct magazine *magazine, uint64_t *entries,
                                               uint32_t drop)
{
    int32_t from = magazine->floor + (int32_t)drop;
    int32_t count = __atomic_load_n(&magazine->bottom, __ATOMIC_RELAXED) - from;

    for (int32_t i = 0; from > 0 && i < count; i++)
        __atomic_store_n(&entries[i], entries[from + i], __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->bottom, count, __ATOMIC_RELEASE);
    magazine_set_floor_locked(magazine, 0);
    return (uint32_t)count;
}

/* Switches it on or off. After switching off: mm_port_cpu_barrier(), then magazine_take_end(). An owner
 * that was interrupted in the middle of a push may still add one entry; it is found by the next
 * taking back, or by the owner's next slow path. */
static inline void magazine_switch_locked(struct magazine *magazine, bool on)
{
    __atomic_store_n(&magazine->limit, on ? magazine->capacity : 0, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->top, on ? magazine->floor : MAGAZINE_OFF, __ATOMIC_RELEASE);
}

/* The first half of taking back: from the next mm_port_cpu_barrier() on the owner pops nothing that is
 * in the magazine now. */
static inline void magazine_take_begin_locked(struct magazine *magazine)
{
    if (magazine_is_on_locked(magazine)) {
        int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);
        __atomic_store_n(&magazine->top, bottom > magazine->floor ? bottom : magazine->floor,
                         __ATOMIC_RELEASE);
    }
}

/* The second half, behind the barrier: the entries [*from, *from + count) are the caller's.
 *   Returns:  count. They keep their place until the lock is released. */
static inline uint32_t magazine_take_end_locked(struct magazine *magazine, int32_t *from)
{
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);
    int32_t top = __atomic_load_n(&magazine->top, __ATOMIC_RELAXED);
    int32_t end = bottom < top ? bottom : top; /* top is what begin saw, or MAGAZINE_OFF */

    *from = magazine->floor;
    if (end <= *from) {
        magazine_set_floor_locked(magazine, *from);
        return 0;
    }
    magazine_set_floor_locked(magazine, end);
    return (uint32_t)(end - *from);
}

#endif
