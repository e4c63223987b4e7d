/* SPDX-License-Identifier: MIT */
/* A frame allocator as Linux has it: a struct page of 64 bytes for each frame, a buddy system of 11
 * orders under the zone's lock, and in front of it a list of free pages for each CPU, from and to which
 * 63 pages move at a time.
 *
 *   get:  CPU's list  --empty: 63 pages-->  buddy (split)
 *   put:  CPU's list  --378 reached: 63 oldest-->  buddy (merge)
 *
 * The CPU's list has a lock of its own, which is tried for (Linux 6.2); it is never held by
 * others here. Left out, in its favour: watermarks, migrate types, accounting, preemption. Blocks
 * of 2 MiB go to the buddy system directly, as before Linux 5.13, which got a CPU's list for
 * them, too. Written for this benchmark after the published description; no line of it is
 * Linux's. */
#include "bench/frames.h"

#include <string.h>

#define ORDERS      11u
#define LARGE_ORDER 9u
#define BATCH       63u
#define HIGH        (6u * BATCH)
#define CPUS        4u

struct page {
    struct page *next, *previous;
    uint32_t order; /* of the free block that begins here */
    uint32_t is_free_block;
    uint64_t rest[5];
};

_Static_assert(sizeof(struct page) == 64, "struct page has 64 bytes in Linux");

struct page_list {
    struct page head; /* next: first, previous: last */
    uint64_t count;
    uint32_t lock; /* of a CPU's list */
};

struct zone {
    struct frames_lock lock;
    uint64_t page_count;
    struct page *pages;
    struct page_list free[ORDERS];
    struct page_list cpu[CPUS] __attribute__((aligned(64)));
};

/* A number for each thread, in place of the CPU's: one load, as in the kernel. */
static __thread unsigned cpu_number = CPUS;

static __attribute__((noinline)) unsigned number_cpu(void)
{
    static unsigned next;

    cpu_number = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % CPUS;
    return cpu_number;
}

static inline struct page_list *cpu_list(struct zone *zone)
{
    unsigned cpu = cpu_number;

    if (__builtin_expect(cpu == CPUS, 0))
        cpu = number_cpu();
    return &zone->cpu[cpu];
}

/* ---- Lists ---- */

static inline bool list_try_lock(struct page_list *list)
{
    uint32_t free = 0;

    return __builtin_expect(__atomic_compare_exchange_n(&list->lock, &free, 1, false,
                                                        __ATOMIC_ACQUIRE, __ATOMIC_RELAXED),
                            1);
}

static inline void list_unlock(struct page_list *list)
{
    __atomic_store_n(&list->lock, 0, __ATOMIC_RELEASE);
}

static void list_clear(struct page_list *list)
{
    list->head.next = list->head.previous = &list->head;
    list->count = 0;
}

static inline void list_add(struct page_list *list, struct page *page)
{
    struct page *first = list->head.next;

    page->next = first;
    page->previous = &list->head;
    first->previous = page;
    list->head.next = page;
    list->count++;
}

static inline void list_delete(struct page_list *list, struct page *page)
{
    page->next->previous = page->previous;
    page->previous->next = page->next;
    list->count--;
}

/* ---- Buddy system, with the zone's lock ---- */

static void put_block_locked(struct zone *zone, struct page *page, unsigned order)
{
    uint64_t number = (uint64_t)(page - zone->pages);

    while (order + 1 < ORDERS) {
        uint64_t buddy_number = number ^ ((uint64_t)1 << order);
        struct page *buddy = &zone->pages[buddy_number];

        if (buddy_number >= zone->page_count || buddy->is_free_block == 0 || buddy->order != order)
            break;
        list_delete(&zone->free[order], buddy);
        buddy->is_free_block = 0;
        number &= buddy_number;
        order++;
    }
    page = &zone->pages[number];
    page->order = order;
    page->is_free_block = 1;
    list_add(&zone->free[order], page);
}

static struct page *get_block_locked(struct zone *zone, unsigned order)
{
    unsigned from = order;

    while (from < ORDERS && zone->free[from].count == 0)
        from++;
    if (from == ORDERS)
        return NULL;
    struct page *page = zone->free[from].head.next;
    list_delete(&zone->free[from], page);
    page->is_free_block = 0;
    while (from > order) {
        from--;
        struct page *half = page + ((uint64_t)1 << from);
        half->order = from;
        half->is_free_block = 1;
        list_add(&zone->free[from], half);
    }
    return page;
}

/* ---- One frame ---- */

static __attribute__((noinline)) bool refill(struct zone *zone, struct page_list *list)
{
    frames_lock(&zone->lock);
    for (unsigned i = 0; i < BATCH; i++) {
        struct page *page = get_block_locked(zone, 0);

        if (page == NULL)
            break;
        /* behind what is there already, so that frames come in the order of their addresses */
        page->next = &list->head;
        page->previous = list->head.previous;
        list->head.previous->next = page;
        list->head.previous = page;
        list->count++;
    }
    frames_unlock(&zone->lock);
    return list->count > 0;
}

static __attribute__((noinline)) void flush(struct zone *zone, struct page_list *list,
                                            uint64_t count)
{
    frames_lock(&zone->lock);
    for (uint64_t i = 0; i < count && list->count > 0; i++) {
        struct page *page = list->head.previous;

        list_delete(list, page);
        put_block_locked(zone, page, 0);
    }
    frames_unlock(&zone->lock);
}

static int linux_get(void *self, unsigned flags, uint64_t *out)
{
    struct zone *zone = self;
    struct page_list *list = cpu_list(zone);

    if (!list_try_lock(list))
        return 1;
    if (__builtin_expect(list->count == 0, 0) && !refill(zone, list)) {
        list_unlock(list);
        return 1;
    }
    struct page *page = list->head.next;
    list_delete(list, page);
    list_unlock(list);
    *out = (uint64_t)(page - zone->pages) * 4096;
    if ((flags & FRAMES_NOZERO) == 0)
        frames_clear(*out);
    return 0;
}

static void linux_put(void *self, uint64_t frame)
{
    struct zone *zone = self;
    struct page_list *list = cpu_list(zone);

    if (!list_try_lock(list))
        return;
    list_add(list, &zone->pages[frame / 4096]);
    if (__builtin_expect(list->count >= HIGH, 0))
        flush(zone, list, BATCH);
    list_unlock(list);
}

/* ---- 2 MiB blocks, start, drain ---- */

static int linux_get_large(void *self, unsigned flags, uint64_t *out)
{
    struct zone *zone = self;
    struct page *page;

    frames_lock(&zone->lock);
    page = get_block_locked(zone, LARGE_ORDER);
    frames_unlock(&zone->lock);
    if (page == NULL)
        return 1;
    *out = (uint64_t)(page - zone->pages) * 4096;
    if ((flags & FRAMES_NOZERO) == 0)
        memset(frames_ram + *out, 0, 2 << 20);
    return 0;
}

static void linux_put_large(void *self, uint64_t block)
{
    struct zone *zone = self;

    frames_lock(&zone->lock);
    put_block_locked(zone, &zone->pages[block / 4096], LARGE_ORDER);
    frames_unlock(&zone->lock);
}

static void linux_drain(void *self)
{
    struct zone *zone = self;

    for (unsigned i = 0; i < CPUS; i++)
        flush(zone, &zone->cpu[i], UINT64_MAX);
}

static uint64_t linux_bytes(uint64_t bytes)
{
    return sizeof(struct zone) + bytes / 4096 * sizeof(struct page);
}

/* The highest block goes in first, so that the lowest memory is handed out first. */
static void *linux_create(void *metadata, uint64_t bytes)
{
    struct zone *zone = metadata;
    const uint64_t most = (uint64_t)1 << (ORDERS - 1);

    memset(zone, 0, sizeof *zone);
    zone->page_count = bytes / 4096;
    zone->pages = (struct page *)(void *)(zone + 1);
    for (unsigned i = 0; i < ORDERS; i++)
        list_clear(&zone->free[i]);
    for (unsigned i = 0; i < CPUS; i++)
        list_clear(&zone->cpu[i]);
    memset(zone->pages, 0, zone->page_count * sizeof(struct page));
    for (uint64_t number = zone->page_count; number >= most; number -= most)
        put_block_locked(zone, &zone->pages[number - most], ORDERS - 1);
    return zone;
}

FRAMES_SUBJECT(linux, .get_large = linux_get_large, .put_large = linux_put_large,
               .drain = linux_drain, .most_bytes = MM_GIB(16));
