/* SPDX-License-Identifier: MIT */
/* Call sites: who has asked for the blocks that are alive since a mark, and the names of sites.
 *
 *      span -> records[i]: serial, bytes, call site     serial > mark: summed up by call site
 *      0xffffffff80012345 -> find_symbol -> "0xffffffff80012345 (stress_items + 0x42)"
 *
 * Records exist where the heap records sites (heap_guard.c). What is alive is collected under the lock,
 * on the stack, and logged without it, the most bytes first.
 *
 * Invariants: a site is where its call returns to, which may be the first byte of the next function:
 * the name is that of the byte before. */
#include "mm/heap_parts.h"

#include <mm/bootinfo.h>

size_t heap_site_format(const struct kheap *heap, vaddr_t site, char *text, size_t bytes)
{
    struct boot_symbol symbol;

    if (heap->find_symbol == NULL || !heap->find_symbol(site - 1, &symbol))
        return mm_format(text, bytes, "0x%lx", site);
    return mm_format(text, bytes, "0x%lx (%s + 0x%lx)", site, symbol.name, site - symbol.begin);
}

/* ---- what is alive since a mark ---- */

#define SITES_MAX  64u
#define SITE_BYTES 96

struct sites {
    unsigned count;
    uint64_t blocks, other_blocks, other_bytes;
    struct {
        vaddr_t site;
        uint64_t blocks, bytes;
    } of[SITES_MAX];
};

uint64_t kheap_mark(struct kheap *heap)
{
    uint64_t saved = mm_port_lock(&heap->lock);
    uint64_t mark = heap->serial;

    mm_port_unlock(&heap->lock, saved);
    return mark;
}

static void add_site(struct sites *sites, const struct heap_record *record)
{
    unsigned i = 0;

    sites->blocks++;
    while (i < sites->count && sites->of[i].site != record->alloc_site)
        i++;
    if (i == SITES_MAX) {
        sites->other_blocks++;
        sites->other_bytes += record->asked;
        return;
    }
    if (i == sites->count) {
        sites->of[i].site = record->alloc_site;
        sites->of[i].blocks = sites->of[i].bytes = 0;
        sites->count++;
    }
    sites->of[i].blocks++;
    sites->of[i].bytes += record->asked;
}

static void add_span(struct sites *sites, const struct heap_span *span, uint64_t mark)
{
    for (unsigned i = 0; i < span->front.blocks; i++)
        if (heap_state_is_used(span->states[i]) && span->records[i].serial > mark)
            add_site(sites, &span->records[i]);
}

static void add_chunk(const struct kheap *heap, struct sites *sites, const struct heap_chunk *chunk,
                      uint64_t mark)
{
    for (unsigned page = 0; page < KHEAP_CHUNK_PAGES; page++) {
        const struct heap_span *span = heap_span_of(chunk->front.pages[page]);
        if (span != NULL && span != heap->state_span && span->guards != 0 &&
            chunk->offset + page * PAGE_SIZE == span->run)
            add_span(sites, span, mark);
    }
}

static void collect(struct kheap *heap, struct sites *sites, uint64_t mark)
{
    uint64_t saved = mm_port_lock(&heap->lock);

    for (unsigned list = 0; list < HEAP_CHUNK_LISTS; list++) {
        const struct heap_link *head = &heap->chunks[list];
        for (const struct heap_link *link = head->next; link != head; link = link->next)
            add_chunk(heap, sites, HEAP_OF(link, struct heap_chunk, link), mark);
    }
    mm_port_unlock(&heap->lock, saved);
}

/* The site with the most bytes is logged and taken out. */
static void log_largest(const struct kheap *heap, struct sites *sites)
{
    unsigned largest = 0;
    char site[SITE_BYTES];

    for (unsigned i = 1; i < sites->count; i++)
        if (sites->of[i].bytes > sites->of[largest].bytes)
            largest = i;
    heap_site_format(heap, sites->of[largest].site, site, sizeof(site));
    mm_info("leak: %lu blocks, %lu bytes allocated by %s", sites->of[largest].blocks,
            sites->of[largest].bytes, site);
    sites->of[largest] = sites->of[--sites->count];
}

uint64_t kheap_report_since(struct kheap *heap, uint64_t mark)
{
    struct sites sites = { .count = 0 };

    if (__atomic_load_n(&heap->guards, __ATOMIC_RELAXED) == 0)
        mm_info("leaks: call sites are not recorded (mm.harden=full or mm.leaks=on)");
    collect(heap, &sites, mark);
    while (sites.count > 0)
        log_largest(heap, &sites);
    if (sites.other_blocks > 0)
        mm_info("leak: %lu blocks, %lu bytes allocated elsewhere", sites.other_blocks,
                sites.other_bytes);
    return sites.blocks;
}
