/* SPDX-License-Identifier: MIT */
/* What the heap says about itself: reports of wrong calls, looking an address up, counters, the full
 * check.
 *
 *      address -> chunk -> span -> block: state, neighbours, at the full level who asked for it
 *
 * Reports are written without the lock, when the call has changed nothing, from what was read of the block
 * at once under it: what they say may be a moment old, but is of one block. kheap_peek() takes no
 * lock: of a span that ends meanwhile it may say anything, and follows nothing that is not there. */
#include "mm/heap_parts.h"

#include "mm/bits.h"

/* ---- looking up ---- */

#define NO_NEIGHBOUR UINT8_MAX

/* What is known of a block at one moment. */
struct finding {
    bool found; /* false: no block of the heap; the rest is 0 */
    uint8_t state;
    uint8_t below, above; /* states of the neighbours in the span, or NO_NEIGHBOUR */
    vaddr_t start;        /* the caller's first byte, where that is known */
    uint64_t bytes;
    uint64_t room;
    vaddr_t alloc_site, free_site; /* where they are recorded; else 0 */
};

static uint8_t state_at(const struct heap_span *span, unsigned index, bool exists)
{
    return exists ? __atomic_load_n(&span->states[index], __ATOMIC_RELAXED) : NO_NEIGHBOUR;
}

/* The records of the span as they are now, if they have one for the block. Without the lock it may end or
 * become another meanwhile: what is the same before and behind the look at its blocks belongs
 * together. */
static const struct heap_record *record_at(const struct heap_span *span, unsigned index)
{
    const struct heap_record *records = __atomic_load_n(&span->records, __ATOMIC_ACQUIRE);
    uint16_t blocks = __atomic_load_n(&span->front.blocks, __ATOMIC_ACQUIRE);

    return records != NULL && index < blocks &&
                   __atomic_load_n(&span->records, __ATOMIC_ACQUIRE) == records
               ? &records[index]
               : NULL;
}

static struct finding finding_of(const struct heap_span *span, unsigned index)
{
    uint16_t blocks = __atomic_load_n(&span->front.blocks, __ATOMIC_RELAXED);
    const struct heap_record *record = record_at(span, index);
    struct finding found = {
        .found = true,
        .state = state_at(span, index, true),
        .below = state_at(span, index - 1, index > 0),
        .above = state_at(span, index + 1, index + 1u < blocks),
        .start = heap_block_address(span, index),
        .room = heap_span_room(span),
    };

    found.bytes = found.room;
    if (record == NULL)
        return found;
    uint64_t asked = __atomic_load_n(&record->asked, __ATOMIC_RELAXED);
    found.start += __atomic_load_n(&record->front, __ATOMIC_RELAXED);
    found.bytes = asked != 0 ? asked : found.bytes;
    found.alloc_site = __atomic_load_n(&record->alloc_site, __ATOMIC_RELAXED);
    found.free_site = __atomic_load_n(&record->free_site, __ATOMIC_RELAXED);
    return found;
}

static struct finding find(const struct kheap *heap, vaddr_t address)
{
    const struct heap_span *span = heap_span_at(heap, address);
    unsigned index;
    bool first;

    if (span == NULL || !heap_block_index(span, address, &index, &first))
        return (struct finding){ .found = false };
    return finding_of(span, index);
}

static const char *state_name(uint8_t state)
{
    switch (state) {
    case KHEAP_BYTE_FREE:
        return "free";
    case KHEAP_BYTE_REMOTE:
        return "free (by another CPU)";
    case KHEAP_BYTE_QUARANTINE:
        return "free (in quarantine)";
    default:
        return "allocated";
    }
}

bool kheap_peek(const struct kheap *heap, vaddr_t address, struct kheap_peek *out)
{
    uint64_t offset = address - heap->front.base;
    const struct heap_chunk *chunk =
        offset < heap->front.bytes ? heap_chunk_at(heap, offset) : NULL;
    const struct heap_span *span = heap_span_at(heap, address);

    if (chunk == NULL)
        return false;
    *out = (struct kheap_peek){ .what = KHEAP_STATE, .start = heap->first };
    if (span != NULL && span->front.size_class == HEAP_CLASS_STATE)
        return true;
    struct finding found = find(heap, address);
    if (found.found) {
        bool inside = address >= found.start && address - found.start < found.bytes;
        out->what = !heap_state_is_used(found.state) ? KHEAP_FREE
                    : inside                         ? KHEAP_USED
                                                     : KHEAP_GUARD;
        out->start = found.start;
        out->bytes = found.room;
        out->asked = found.bytes;
        out->alloc_site = found.alloc_site;
        out->free_site = found.free_site;
        return true;
    }
    out->what = KHEAP_FREE;
    out->start = mm_round_down(address - heap->front.base, PAGE_SIZE) + heap->front.base;
    out->bytes = out->asked = PAGE_SIZE;
    if (span != NULL) { /* the rest behind a span's last block */
        out->start = heap_block_address(span, span->front.blocks);
        out->bytes = out->asked = span->front.base + span->bytes - out->start;
        return true;
    }
    return chunk->pooled &&
           !buddy_is_absent(&chunk->buddy, out->start - heap->front.base - chunk->offset,
                            out->start - heap->front.base - chunk->offset + PAGE_SIZE);
}

/* ---- reports ---- */

#define TEXT_BYTES 256

static size_t add_text(char *text, size_t at, const char *format, ...) MM_PRINTF(3, 4);
static size_t add_text(char *text, size_t at, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    size_t bytes = at < TEXT_BYTES ? mm_vformat(text + at, TEXT_BYTES - at, format, arguments) : 0;
    va_end(arguments);
    return at + bytes;
}

static const char *neighbour(uint8_t state)
{
    if (state == NO_NEIGHBOUR)
        return "none";
    return heap_state_is_used(state) ? "used" : "free";
}

static size_t add_site(const struct kheap *heap, char *text, size_t at, const char *what,
                       vaddr_t site)
{
    if (site == 0)
        return at;
    at = add_text(text, at, "%s", what);
    return at < TEXT_BYTES ? at + heap_site_format(heap, site, text + at, TEXT_BYTES - at) : at;
}

/* "; neighbours: used, free; allocated by 0x..., freed by 0x...", the sites with their names. */
static void describe(const struct kheap *heap, const struct finding *found, char *text)
{
    size_t at =
        add_text(text, 0, "; neighbours: %s, %s", neighbour(found->below), neighbour(found->above));

    at = add_site(heap, text, at, "; allocated by ", found->alloc_site);
    (void)add_site(heap, text, at, ", freed by ", found->free_site);
}

/* *is_free: no block holds it, but it is memory of the heap. */
static struct finding find_with_lock(struct kheap *heap, vaddr_t address, bool *is_free)
{
    struct kheap_peek peek;
    uint64_t saved = mm_port_lock(&heap->lock);
    struct finding found = find(heap, address);

    *is_free = !found.found && kheap_peek(heap, address, &peek) && peek.what == KHEAP_FREE;
    mm_port_unlock(&heap->lock, saved);
    return found;
}

void heap_report_wrong(struct kheap *heap, const char *what, const void *address)
{
    vaddr_t at = (uintptr_t)address;
    bool is_free;
    struct finding found = find_with_lock(heap, at, &is_free);
    char text[TEXT_BYTES] = "";

    if (!found.found) {
        if (is_free)
            mm_bug("%s of 0x%lx, which is free (in no block): double free?", what, at);
        else
            mm_bug("%s of 0x%lx, which is outside the heap's blocks", what, at);
        return;
    }
    describe(heap, &found, text);
    if (!heap_state_is_used(found.state))
        mm_bug("%s of 0x%lx, which is %s (a block of %lu bytes at 0x%lx): double free?%s", what, at,
               state_name(found.state), found.bytes, found.start, text);
    else if (at >= found.start)
        mm_bug("%s of 0x%lx, which is %lu bytes inside the allocated block of %lu bytes at 0x%lx%s",
               what, at, at - found.start, found.bytes, found.start, text);
    else
        mm_bug("%s of 0x%lx, which is in the red zone inside the allocated block of %lu bytes at "
               "0x%lx%s",
               what, at, found.bytes, found.start, text);
}

void heap_report_twice(struct kheap *heap, vaddr_t block)
{
    bool is_free;
    struct finding found = find_with_lock(heap, block, &is_free);
    char text[TEXT_BYTES] = "";

    if (found.found)
        describe(heap, &found, text);
    mm_bug("kfree of 0x%lx, which is free: double free by two CPUs (a block of %lu bytes)%s", block,
           found.bytes, text);
}

void heap_report_write(struct kheap *heap, const char *what, const struct heap_span *span,
                       unsigned index, vaddr_t at)
{
    struct finding found = finding_of(span, index);
    char text[TEXT_BYTES] = "";

    describe(heap, &found, text);
    mm_bug("%s the block of %lu bytes at 0x%lx: byte %ld of it, 0x%lx, is 0x%x%s", what,
           found.bytes, found.start, (int64_t)(at - found.start), at, *(const uint8_t *)at, text);
}

/* ---- counters ---- */

static void count_quarantine_locked(const struct kheap *heap, uint64_t *blocks, uint64_t *bytes)
{
    *blocks += heap->quarantine.count;
    *bytes += heap->quarantine.bytes;
}

static uint64_t largest_free_locked(const struct kheap *heap)
{
    unsigned list = HEAP_RUN_LISTS - 1;

    while (list > 0 && heap_list_is_empty(&heap->runs[list]))
        list--;
    return list < HEAP_RUN_PAGES ? list * PAGE_SIZE : MAX_BLOCK_SIZE;
}

struct kheap_stats kheap_stats(struct kheap *heap)
{
    uint64_t cached_blocks, cached_bytes;
    uint64_t saved = mm_port_lock(&heap->lock);
    struct kheap_stats stats = {
        .region_bytes = heap->region_bytes,
        .used_bytes = heap->run_bytes,
        .used_blocks = heap->run_blocks,
        .failed_allocations = heap->failed,
        .largest_free_block = largest_free_locked(heap),
        .frames = heap->frames,
    };

    for (unsigned i = 0; i < KHEAP_CLASSES; i++) {
        stats.used_blocks += heap->out[i];
        stats.used_bytes += heap->out[i] * kheap_class_bytes(i);
    }
    heap_cached_locked(heap, &cached_blocks, &cached_bytes);
    count_quarantine_locked(heap, &cached_blocks, &cached_bytes);
    stats.used_blocks -= cached_blocks;
    stats.used_bytes -= cached_bytes;
    stats.free_bytes =
        heap->region_bytes - heap->state_bytes - stats.used_bytes + heap_state_kept_locked(heap);
    mm_port_unlock(&heap->lock, saved);
    return stats;
}

/* ---- the full check ---- */

/* What is wrong, and where. */
struct fault {
    const char *what;
    vaddr_t at;
};

struct tally {
    uint64_t out[KHEAP_CLASSES];
    uint64_t runs;
};

static bool fail(struct fault *fault, const char *what, vaddr_t at)
{
    fault->what = what;
    fault->at = at;
    return false;
}

static bool check_block(const struct heap_span *span, unsigned index, struct fault *fault)
{
    uint8_t state = __atomic_load_n(&span->states[index], __ATOMIC_RELAXED);
    vaddr_t at = heap_block_address(span, index);

    if (state > KHEAP_BYTE_QUARANTINE)
        return fail(fault, "a block's state is none", at);
    if (span->front.size_class < KHEAP_CLASSES && bits_test(span->free, index) &&
        state != KHEAP_BYTE_FREE)
        return fail(fault, "a block lies in its span and is not free", at);
    if (bits_test(span->remote, index) && state != KHEAP_BYTE_REMOTE)
        return fail(fault, "a block on its way home was not freed", at);
    const char *wrong = heap_guard_check(span, index, &at);
    return wrong == NULL || fail(fault, wrong, at);
}

static bool check_span(const struct kheap *heap, const struct heap_span *span, struct tally *tally,
                       struct fault *fault)
{
    unsigned free = 0;
    vaddr_t base = span->front.base;

    if (span->front.size_class > HEAP_CLASS_RUN || span->front.blocks == 0 ||
        span->front.blocks > HEAP_SPAN_BLOCKS)
        return fail(fault, "a span's class is none", base);
    if (span->front.size_class < KHEAP_CLASSES &&
        (span->front.block_bytes != kheap_class_bytes(span->front.size_class) ||
         base != heap->front.base + span->run ||
         (uint64_t)span->front.blocks * span->front.block_bytes > span->bytes))
        return fail(fault, "a span's blocks do not fit it", base);
    for (unsigned i = 0; i < span->front.blocks; i++) {
        if (!check_block(span, i, fault))
            return false;
        free += bits_test(span->free, i);
    }
    if (span->front.size_class == HEAP_CLASS_RUN) {
        tally->runs++;
        return true;
    }
    if (free != span->free_count)
        return fail(fault, "a span's count of free blocks differs", base);
    tally->out[span->front.size_class] += span->front.blocks - free;
    return true;
}

/* The buddy system and the map of free pages, which say the same. */
static bool check_runs(const struct kheap *heap, const struct heap_chunk *chunk,
                       struct fault *fault)
{
    vaddr_t base = heap->front.base + chunk->offset;
    uint64_t offset;
    const char *wrong = buddy_check(&chunk->buddy, &offset);

    if (wrong != NULL)
        return fail(fault, wrong, base + offset);
    for (unsigned page = 0; page < KHEAP_CHUNK_PAGES; page++)
        if (bits_test(chunk->runs.free, page) !=
            buddy_is_free(&chunk->buddy, (uint64_t)page * PAGE_SIZE))
            return fail(fault, "the free pages and the free blocks differ",
                        base + (uint64_t)page * PAGE_SIZE);
    return runs_is_consistent(&chunk->runs) ||
           fail(fault, "the length of the longest free run differs", base);
}

/* Each page of the chunk: absent, free, or of one span that begins where it says. */
static bool check_chunk(const struct kheap *heap, const struct heap_chunk *chunk,
                        struct tally *tally, struct fault *fault)
{
    if (!check_runs(heap, chunk, fault))
        return false;
    for (unsigned page = 0; page < KHEAP_CHUNK_PAGES; page++) {
        const struct heap_span *span = heap_span_of(chunk->front.pages[page]);
        uint64_t at = chunk->offset + page * PAGE_SIZE;
        if (span == NULL || span == heap->state_span)
            continue;
        if (at - span->run >= span->bytes)
            return fail(fault, "a page belongs to a span elsewhere", heap->front.base + at);
        if (at == span->run && !check_span(heap, span, tally, fault))
            return false;
    }
    return true;
}

static bool check_all_locked(const struct kheap *heap, struct fault *fault)
{
    struct tally tally = { .runs = 0 };

    for (unsigned list = 0; list < HEAP_CHUNK_LISTS; list++) {
        const struct heap_link *head = &heap->chunks[list];
        for (const struct heap_link *link = head->next; link != head; link = link->next)
            if (!check_chunk(heap, HEAP_OF(link, struct heap_chunk, link), &tally, fault))
                return false;
    }
    if (!heap_chunks_are_filed(heap))
        return fail(fault, "a chunk is in a wrong list", heap->first);
    for (unsigned i = 0; i < KHEAP_CLASSES; i++)
        if (tally.out[i] != heap->out[i])
            return fail(fault, "the count of a class's blocks differs", heap->first);
    for (const struct heap_link *link = heap->late.next; link != &heap->late; link = link->next)
        tally.runs--; /* free, but for its pages */
    if (tally.runs != heap->run_blocks)
        return fail(fault, "the count of large blocks differs", heap->first);
    return true;
}

bool kheap_verify(struct kheap *heap)
{
    struct fault fault = { NULL, 0 };
    uint64_t saved = mm_port_lock(&heap->lock);
    bool right = check_all_locked(heap, &fault);

    mm_port_unlock(&heap->lock, saved);
    if (!right)
        mm_error("heap: %s (at 0x%lx)", fault.what, fault.at);
    return right;
}
