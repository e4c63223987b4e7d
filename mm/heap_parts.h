/* SPDX-License-Identifier: MIT */
/* The parts of the kernel heap and how they hang together. Internal to mm.
 *
 *      struct kheap    table[2 MiB] -> heap_chunk: 512 pages: buddy system, free runs; page -> span
 *                      caches[slot] -> heap_cache: magazines, lists of own spans, remote frees
 *                      spans[class] -> spans that nobody owns and that have free blocks
 *                      state        -> memory for chunks, spans and caches, never mixed with blocks
 *
 * One lock, heap->lock, guards all of it but what kheap_fast.h does. Under it nothing is called but
 * mm_port_cpu_barrier(): memory comes and goes before or behind it (heap_memory.c), and a step that
 * lacks some returns what it needs, so that the caller releases the lock, gets it and tries again.
 *
 * Files, each using those before it: buddy.c, runs.c; heap_memory.h (heap_state.c, heap_chunk.c, heap_source.c,
 * heap_memory.c: growth, heap_large*.c, heap_create.c); heap_span.c (runs of pages cut into blocks);
 * heap_remote.c (frees by other slots) and heap_cache.c (caches, draining), which use each other; heap_empty.c
 * (before growth), heap_guard.c (the full level), heap_fault.c, heap_sites.c (call sites, leaks), heap_report.c,
 * kheap.c (the calls), heap_resize.c (krealloc), heap_control.c (calls on the whole heap). */
#ifndef MM_HEAP_PARTS_H
#define MM_HEAP_PARTS_H

#include "mm/bits.h"
#include "mm/buddy.h"
#include "mm/runs.h"

#include <mm/kheap.h>
#include <mm/log.h>

#define HEAP_CHUNK_BYTES LARGE_PAGE_SIZE
#define HEAP_PAGE_ORDER  6u /* of the buddy system: 4 KiB */
#define HEAP_SPAN_PAGES  16u
#define HEAP_SPAN_BLOCKS 256u
#define HEAP_RUN_PAGES   (MAX_BLOCK_SIZE / PAGE_SIZE) /* at most, of one chunk */
#define HEAP_REMOTE_MAX  128u                         /* of up to 8 KiB; larger ones do not wait */
#define HEAP_CLASS_RUN   KHEAP_CLASSES                /* one block of any number of pages */
#define HEAP_CLASS_STATE (KHEAP_CLASSES + 1u)         /* the heap's own */
#define HEAP_NO_OFFSET   UINT64_MAX

/* ---- lists: circular, the head is one of the links ---- */

struct heap_link {
    struct heap_link *next, *prev;
};

static inline void heap_list_init(struct heap_link *head)
{
    head->next = head->prev = head;
}

static inline bool heap_list_is_empty(const struct heap_link *head)
{
    return head->next == head;
}

static inline void heap_list_remove(struct heap_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = link->prev = link;
}

static inline void heap_list_add(struct heap_link *head, struct heap_link *link)
{
    link->next = head->next;
    link->prev = head;
    head->next->prev = link;
    head->next = link;
}

#define HEAP_OF(link, type, member) ((type *)(void *)((uint8_t *)(link)-offsetof(type, member)))

/* ---- spans ---- */

/* What is known of a block of a guarded span (heap_guard.c). */
struct heap_record {
    uint64_t asked;  /* bytes */
    uint64_t front;  /* bytes before the caller's first: red zone, for alignment too */
    uint64_t serial; /* when it was allocated, counted in allocations */
    vaddr_t alloc_site, free_site;
};

#define HEAP_FREE_WORDS (HEAP_SPAN_BLOCKS / 64)

/* What a free reads, `front` and the states of the first blocks, shares one cache line; what changes under
 * the lock stands in the lines before it, so that blocks which come and go do not take the line with the
 * front away from other CPUs. */
struct heap_span {
    struct heap_link link; /* in a list of its owner or of the heap; alone: the heap's full spans */
    struct heap_link pending; /* in its owner's list while remote[] is not all zero */
    uint64_t bytes;           /* of the run */
    uint64_t align;           /* HEAP_CLASS_RUN: as it was asked for */
    uint64_t room;            /* HEAP_CLASS_RUN: from front.base to the end of the run */
    uint64_t run;             /* offset of the run; front.base lies behind it if it was aligned */
    uint16_t free_count;
    uint16_t fresh_from;         /* blocks from here on were never handed out */
    bool fresh;                  /* and hold zeroes */
    bool big;                    /* kind of its memory: has room for HEAP_SPAN_BLOCKS states */
    bool own_chunks;             /* the run is not of a buddy system: it was committed for itself */
    bool pinned;                 /* it has ended, and a slot may still look at it */
    uint8_t guards;              /* HEAP_GUARD_*: its blocks have records */
    struct heap_record *records; /* of a guarded span, one for each block */
    struct heap_record record;   /* HEAP_CLASS_RUN: that of its block */
    uint64_t free[HEAP_FREE_WORDS];   /* bit: the block is in the span */
    uint64_t remote[HEAP_FREE_WORDS]; /* bit: another slot has freed it; for the owner to check */
    struct kheap_span front;
    uint8_t states[]; /* KHEAP_BYTE_*, atomic: kheap_states() */
};

_Static_assert(offsetof(struct heap_span, front) % 64 == 0, "the front begins a cache line");
_Static_assert(offsetof(struct heap_span, states) ==
                   offsetof(struct heap_span, front) + sizeof(struct kheap_span),
               "the states stand behind the front");

#define HEAP_SMALL_STATES 32u /* the rest of the line */

static inline struct heap_span *heap_span_of(struct kheap_span *front)
{
    return front != NULL ? HEAP_OF(front, struct heap_span, front) : NULL;
}

/* ---- chunks ---- */

struct heap_chunk {
    struct kheap_chunk front;
    struct buddy buddy;
    struct runs runs;          /* the same pages as the buddy system's */
    struct heap_link link;     /* heap->chunks[largest free order] */
    struct heap_link run_link; /* heap->runs[run_list], by the longest run */
    unsigned run_list;
    uint64_t offset;      /* from the heap's base */
    uint64_t dirty_end;   /* pages from here on (bytes in the chunk) still hold zeroes */
    bool pooled;          /* has memory in the buddy system; else only pages of large blocks */
    bool kept;            /* of the first memory: never given back */
    bool growing;         /* somebody is committing its next piece: others leave it alone */
    uint32_t large_pages; /* pages of large blocks */
    uint64_t buddy_state[];
};

#define HEAP_CHUNK_LISTS 17u /* by order of the largest free block; 15: wholly free; 16: nothing */
#define HEAP_RUN_LISTS                                                                             \
    (HEAP_RUN_PAGES + 2) /* by pages of the longest run: 0 ... most; wholly free */

/* ---- caches ---- */

struct heap_cache {
    struct kheap_cache front;
    struct heap_link partial[KHEAP_CLASSES]; /* own spans with free blocks in them */
    struct heap_link full[KHEAP_CLASSES];    /* own spans with none */
    uint64_t taken_seen; /* heap->taken_bytes when the heap was last to grow for this slot */
    struct heap_link pending;
    struct heap_span *pin;        /* atomic; the owner's: the span that its free looks at */
    struct kheap_magazine remote; /* blocks of other slots' spans that this slot has freed */
    struct kheap_entry remote_entries[HEAP_REMOTE_MAX];
};

/* ---- the heap ---- */

/* Where memory comes from. All run without the heap's lock. */
struct heap_source {
    struct pmm *pmm;                  /* NULL: there is none; the heap has what it was given */
    struct kvm *kvm;                  /* NULL: the frames of the pmm at their HHDM address */
    const struct boot_lender *lender; /* without kvm; NULL: nobody wants to know */
};

struct heap_faults {
    bool on;
    struct kheap_faults conditions;
    uint64_t counted, injected, random;
};

#define HEAP_QUARANTINE_MAX 256u

/* Blocks that were freed at the full level, oldest first: a ring. */
struct heap_quarantine {
    unsigned first, count;
    uint64_t bytes;
    struct {
        struct heap_span *span;
        unsigned index;
    } blocks[HEAP_QUARANTINE_MAX];
};

struct kheap {
    struct kheap_front front;
    struct mm_port_lock lock;
    struct address_space *space; /* constant; NULL: the heap lies in the HHDM */
    struct heap_source source;   /* constant */
    bool (*find_symbol)(vaddr_t address, struct boot_symbol *out); /* constant; NULL: no names */
    bool small;           /* constant: little memory, small caches and small steps */
    bool off;             /* the caches are switched off: every call goes the slow way */
    uint8_t guards;       /* HEAP_GUARD_* of new blocks */
    vaddr_t first;        /* the first memory, beginning with this struct */
    uint64_t state_bytes; /* in region_bytes: the heap's own, and what is kept for that */
    uint64_t region_bytes;
    uint64_t frames;
    uint64_t failed;
    uint64_t out[KHEAP_CLASSES]; /* blocks that are not in a span: used or cached */
    uint64_t run_blocks, run_bytes;
    uint64_t search_from; /* where the window is searched for free addresses: chunk number */
    uint64_t taken_bytes; /* of all runs of chunks that were ever taken */
    unsigned spare_chunks;
    bool
        shrink_due; /* atomic: an interrupt handler was to give all of them back, or blocks of `late` */
    struct heap_link
        late;        /* spans of large blocks that handlers have freed: their memory is to go */
    unsigned moving; /* atomic: how many move memory between the pmm and the heap just now */
    uint64_t moves;  /* atomic: how often memory arrived */
    struct heap_link chunks[HEAP_CHUNK_LISTS];
    struct heap_link runs[HEAP_RUN_LISTS];
    uint64_t runs_filled[HEAP_RUN_LISTS / BITS_PER_WORD + 1]; /* bit: that list is not empty */
    struct heap_link spans[KHEAP_CLASSES];                    /* of nobody, with free blocks */
    struct heap_link guarded[KHEAP_CLASSES];                  /* guarded ones, with free blocks */
    /* memory for state; a region that does not grow keeps [bump, bump_end) for it */
    uint8_t *bump, *bump_end;
    uint8_t *page[2], *page_end[2];  /* being cut, by kind of span */
    struct heap_link free_spans[2];  /* by kind */
    struct heap_link ended_spans[2]; /* free when no slot has them pinned */
    unsigned ended_count[2];
    struct heap_link free_chunks;
    struct heap_span *state_span;   /* stands for all state in the region */
    struct heap_chunk *state_chunk; /* which has state between its blocks, or is kept anyway */
    /* full level, recording, faults */
    struct heap_faults faults;
    uint64_t serial;
    uint64_t random;
    struct heap_quarantine quarantine;
    struct heap_record *free_records[KHEAP_CLASSES]; /* linked by their first words */
};

static inline struct heap_cache *heap_cache_at(const struct kheap *heap, unsigned slot)
{
    struct kheap_cache *cache = __atomic_load_n(&heap->front.caches[slot], __ATOMIC_ACQUIRE);

    return cache->slot == KHEAP_NOBODY ? NULL : (struct heap_cache *)(void *)cache;
}

extern struct kheap_cache heap_absent_cache;

/* What a step under the lock lacks. */
enum heap_need { HEAP_HAS_ALL, HEAP_NEEDS_PAGES, HEAP_NEEDS_SMALL_STATE, HEAP_NEEDS_BIG_STATE };

/* Interrupt handlers neither wait for memory nor give it back. The slot that threads beyond all slots share
 * is no handler's: ports with interrupts have slots enough. */
static inline bool heap_slot_is_thread(unsigned slot)
{
    return slot < MM_PORT_SLOTS ? slot % MM_PORT_LEVELS == 0 : slot == MM_PORT_SHARED_SLOT;
}

/* ---- heap_create.c ---- */

struct heap_memory_config {
    void *first;          /* first memory, mapped; state is taken from its beginning */
    uint64_t first_bytes; /* multiple of PAGE_SIZE */
    bool first_is_zero;
    vaddr_t base; /* of all addresses that the heap may ever have */
    uint64_t bytes;
    struct address_space *space;
    struct heap_source source;
    bool (*find_symbol)(vaddr_t address, struct boot_symbol *out);
};

MM_MUST_USE mm_status_t heap_memory_create(const struct heap_memory_config *config,
                                           struct kheap **out);

/* ---- heap_chunk.c ---- */

/* How hard to look for memory. HEAP_SCARCE comes when nothing else is left: what is kept for state is
 * used, state is taken from between the blocks, spans are made as small as their blocks allow. */
enum heap_effort { HEAP_USUAL, HEAP_SCARCE };

/* A run of `bytes` (pages, at most MAX_BLOCK_SIZE) of the chunk that it fits best; its offset is a
 * multiple of align_bytes (PAGE_SIZE ... MAX_BLOCK_SIZE).
 *   Returns:  its offset from the base and whether it holds zeroes; HEAP_NO_OFFSET.
 *   Cost:     one chunk's map of 512 bits is looked through, however many there are. */
uint64_t heap_run_take_locked(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                              enum heap_effort effort, bool *zeroed);
void heap_run_give_locked(struct kheap *heap, uint64_t offset, uint64_t bytes);

/* True if each chunk is in the lists that its largest free block and its longest run name. */
bool heap_chunks_are_filed(const struct kheap *heap);

/* Says which span the pages of a run belong to; NULL: none. */
void heap_pages_set_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                           struct heap_span *span);

/* The span at an address, NULL if there is none. Without the lock: a guess for reports. */
struct heap_span *heap_span_at(const struct kheap *heap, vaddr_t address);
struct heap_chunk *heap_chunk_at(const struct kheap *heap, uint64_t offset);

/* ---- heap_state.c ---- */

/* Bytes that a region which does not grow has kept for state, whole pages: free memory. */
uint64_t heap_state_kept_locked(const struct kheap *heap);

/* Memory for a span with `blocks` states, zeroed; NULL: heap_supply() first. */
struct heap_span *heap_span_memory_take_locked(struct kheap *heap, unsigned blocks,
                                               enum heap_effort effort);
/* That of a span which nobody has seen serves again at once. */
void heap_span_memory_give_locked(struct kheap *heap, struct heap_span *span);
/* That of a span which has ended: when no slot has it pinned (heap_pin). */
void heap_span_memory_retire_locked(struct kheap *heap, struct heap_span *span);
/* Behind a mm_port_cpu_barrier(): what had ended before it, and is not pinned, serves again. */
void heap_span_memory_reuse_locked(struct kheap *heap);

/* Memory for state, zeroed, never given back; NULL if there is none. Without the lock. */
void *heap_state_alloc(struct kheap *heap, uint64_t bytes);
/* The same under the lock, from what the heap has itself. */
void *heap_state_alloc_locked(struct kheap *heap, uint64_t bytes, enum heap_effort effort);

/* ---- heap_memory.c ---- */

/* Without the lock: gets what is needed from the pmm, a page for spans or memory for runs of `bytes`.
 *   Returns:  false if there is none. */
MM_MUST_USE bool heap_supply(struct kheap *heap, enum heap_need need, uint64_t bytes);

/* Memory that is on its way between the pmm and the heap is in neither. A search that failed reads
 * heap->moves before and asks afterwards.
 *   Returns:  true if it may find something now: memory has moved since, or (for a thread of control,
 *             which may wait for another CPU) is moving. `tries`: how often the caller has asked; never
 *             true for ever. */
#define HEAP_TRIES_MAX   256u
#define HEAP_TRIES_LARGE 8u /* of which each one takes back everything */
MM_MUST_USE bool heap_may_find_more(struct kheap *heap, uint64_t moves, unsigned tries);

/* Without the lock: gives wholly free chunks back, all but `keep`. In an interrupt handler nothing goes
 * back, but heap->shrink_due says so, and kheap.c calls again where the caches do not do. */
void heap_shrink(struct kheap *heap, unsigned keep);

/* ---- heap_large.c ---- */

/* Large blocks: pages of their own. Without the lock. */
/* *moves: heap->moves as the caller has read it; a failure that counted as a move is added. */
MM_MUST_USE bool heap_large_take(struct kheap *heap, uint64_t bytes, uint64_t align_bytes,
                                 uint64_t *offset, bool *zeroed, uint64_t *moves);
void heap_large_give(struct kheap *heap, uint64_t offset, uint64_t bytes);
/* The block of the span, of such pages, was freed in an interrupt handler, which cannot give them back: the
 * next heap_shrink() that may does. */
void heap_large_put_off_locked(struct kheap *heap, struct heap_span *span);
/* Gives back what was put off; in a thread of control. */
void heap_large_give_late(struct kheap *heap);

/* ---- heap_large_resize.c ---- */

/* Makes the large block at `base` one of `bytes`, more than MAX_BLOCK_SIZE: its tail goes to the pmm, as far as
 * no 2 MiB leaf is cut, or it gets the addresses behind it, or moves to other ones with its frames. What is
 * new holds zeroes. Without the lock, in a thread of control; the block is the caller's. The span may
 * have ended afterwards.
 *   Returns:  where the block is; 0 if that is impossible: nothing has changed. */
MM_MUST_USE vaddr_t heap_large_resize(struct kheap *heap, struct heap_span *span, vaddr_t base,
                                      size_t bytes);

/* ---- heap_span.c ---- */

unsigned heap_span_bytes_of(unsigned size_class); /* of a new span */
struct heap_span *heap_span_new_locked(struct kheap *heap, unsigned size_class,
                                       enum heap_effort effort, enum heap_need *need);
void heap_span_end_locked(struct kheap *heap, struct heap_span *span);
/* Takes up to `wanted` blocks out of the span, the lowest first.
 *   Returns:  how many it had. */
unsigned heap_span_take_locked(struct kheap *heap, struct heap_span *span,
                               struct kheap_entry *entries, unsigned wanted);
/* Puts a block, KHEAP_BYTE_FREE, back into its span. */
void heap_span_put_locked(struct kheap *heap, struct heap_span *span, unsigned index);
/* The same for all blocks whose bits are set in `blocks`; if it had none, the span is the last one of its owner
 * to be taken from. */
void heap_span_put_words_locked(struct kheap *heap, struct heap_span *span, const uint64_t *blocks);
/* The same in two steps, for some in a row: each is marked, then all are counted, and the span is filed (as
 * the last, or the next to be taken from) or ends. */
static inline void heap_span_mark_free_locked(struct heap_span *span, unsigned index)
{
    MM_ASSERT(!bits_test(span->free, index) &&
              __atomic_load_n(&span->states[index], __ATOMIC_RELAXED) == KHEAP_BYTE_FREE);
    bits_set(span->free, index);
}
void heap_span_count_free_locked(struct kheap *heap, struct heap_span *span, unsigned count,
                                 bool last);
/* Ends a span that has all of its blocks, unless its owner wants it, or a second free of one of them is
 * still to be reported. */
void heap_span_end_if_whole_locked(struct kheap *heap, struct heap_span *span);
/* Puts the span where spans of its owner and fill belong. */
void heap_span_file_locked(struct kheap *heap, struct heap_span *span);
vaddr_t heap_block_address(const struct heap_span *span, unsigned index);
/* The number of the block that holds the address, and whether it is its first byte. */
bool heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index, bool *first);
/* Makes a span of one block over a run. */
struct heap_span *heap_run_span_locked(struct kheap *heap, uint64_t offset, uint64_t bytes,
                                       uint64_t base, enum heap_effort effort,
                                       enum heap_need *need);

/* ---- heap_remote.c ---- */

/* Blocks that two CPUs have freed, found under the lock; reported when it is released. */
#define HEAP_DOUBLES_NAMED 32u /* at once; the others are counted */
struct heap_doubles {
    unsigned count;
    vaddr_t blocks[HEAP_DOUBLES_NAMED];
};
void heap_doubles_report(struct kheap *heap, const struct heap_doubles *doubles);

/* The span at the address, which stays that span's memory, ended or not, until heap_unpin() of what stands
 * in *before: what is read of it, and a locked instruction on a state of its blocks, hits no other
 * span. Without a cache it is a guess, as heap_span_at(). Without the lock. */
struct heap_span *heap_pin(const struct kheap *heap, struct heap_cache *cache, vaddr_t address,
                           struct heap_span **before);
void heap_unpin(struct heap_cache *cache, struct heap_span *before);
/* After a fork: nobody is left who has a span pinned. */
void heap_caches_forked_locked(struct kheap *heap);
/* Frees a block of a size class without records, of any slot's span; `span` is pinned. Without the lock.
 *   Returns:  false if it is not allocated. */
bool heap_class_free(struct kheap *heap, unsigned slot, struct heap_cache *cache,
                     struct heap_span *span, vaddr_t block);
/* heap_slow_free() for what comes most there: an allocated block of another slot's span. No lock, one
 * locked instruction.
 *   known_class: KHEAP_CLASSES, or the class that the block must have.
 *   Returns:     false: the slow path must decide, nothing has changed. */
bool heap_free_elsewhere(struct kheap *heap, struct kheap_cache *front, void *block,
                         unsigned known_class);
/* ALLOCATED or ALIGNED becomes `to` in one locked step; false if it was neither. */
bool heap_claim_state(uint8_t *state, uint8_t to);
/* What others have delivered to this slot comes home: `most` spans, the ones that have waited longest. The
 * owner, or a drain.
 *   Returns:  true if others are left. */
bool heap_remote_settle_locked(struct kheap *heap, struct heap_cache *cache, unsigned most,
                               struct heap_doubles *doubles);
/* `count` blocks of the cache's list of others' blocks, from `from` on, reach their spans. */
void heap_remote_deliver_locked(struct kheap *heap, struct heap_cache *cache, int32_t from,
                                uint32_t count, struct heap_doubles *doubles);
/* Adds those in the cache's list, and those that wait for it in its spans. */
void heap_remote_count_locked(const struct kheap *heap, const struct heap_cache *cache,
                              uint64_t *blocks, uint64_t *bytes);

/* ---- heap_cache.c ---- */

/* The cache of the slot, made if there is none yet; NULL if there is no memory for it, or the slot has
 * none. Without the lock. */
struct heap_cache *heap_cache_here(struct kheap *heap, unsigned slot);
/* A block of the class, KHEAP_BYTE_ALLOCATED, out of the cache (which is refilled), the slot's spans, new
 * memory, or, when there is none, out of other slots' caches and spans. Without the lock.
 *   On failure: false: at one moment there was none of these. */
bool heap_class_alloc(struct kheap *heap, unsigned slot, unsigned size_class,
                      struct kheap_entry *out);
/* The block, whose state the caller has made KHEAP_BYTE_FREE, goes to the magazine or its span. */
void heap_keep_locked(struct kheap *heap, struct heap_cache *cache, struct heap_span *span,
                      unsigned index);
/* The span ends or gets another owner: its owner's magazine does not name its blocks any more, which are all
 * in the span or with their callers. */
void heap_cache_forget_locked(struct kheap *heap, struct heap_span *span);
/* Takes back what all caches hold, or one; a slot's own call also gives up its spans. Who needs what comes
 * back takes it before releasing the lock. */
void heap_caches_drain_locked(struct kheap *heap, unsigned slot, unsigned own_slot,
                              struct heap_doubles *doubles);
/* The same, and wholly free memory goes back to where it came from. */
void heap_caches_drain(struct kheap *heap, unsigned slot, unsigned own_slot);
/* The owner: the blocks in its magazine of the class go to their spans, and those that are whole end. */
void heap_cache_empty_class_locked(struct kheap *heap, struct heap_cache *cache,
                                   unsigned size_class);
/* Switches all caches off or on. */
void heap_caches_switch_locked(struct kheap *heap, bool off, struct heap_doubles *doubles);
/* Blocks that lie in magazines or wait in lists of remote frees, and their bytes. */
void heap_cached_locked(const struct kheap *heap, uint64_t *blocks, uint64_t *bytes);

/* The owner: leaves out the `drop` oldest entries of the magazine and moves the others down. */
void heap_entries_compact_locked(struct kheap_magazine *magazine, uint32_t drop);

static inline struct kheap_entry heap_entry_at(const struct kheap_magazine *magazine, int32_t at)
{
    return (struct kheap_entry){
        __atomic_load_n(&magazine->entries[at].block, __ATOMIC_RELAXED),
        __atomic_load_n(&magazine->entries[at].state, __ATOMIC_RELAXED),
    };
}

/* The owner, where there is room. */
static inline void heap_entry_add(struct kheap_magazine *magazine, struct kheap_entry entry)
{
    int32_t at = __atomic_load_n(&magazine->magazine.bottom, __ATOMIC_RELAXED);

    __atomic_store_n(&magazine->entries[at].block, entry.block, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->entries[at].state, entry.state, __ATOMIC_RELAXED);
    __atomic_store_n(&magazine->magazine.bottom, at + 1, __ATOMIC_RELEASE);
}

static inline uint64_t heap_span_room(const struct heap_span *span)
{
    return span->front.size_class == HEAP_CLASS_RUN ? span->room : span->front.block_bytes;
}

/* An allocated block, as it was when it was looked up. */
struct heap_found {
    struct heap_span *span;
    unsigned index;
    uint64_t room;            /* bytes that are its caller's */
    uint64_t front;           /* red zone before them, or 0 */
    struct heap_cache *cache; /* that has the span pinned */
    struct heap_span *before;
};

/* ---- heap_empty.c ---- */

/* The heap is about to grow for this slot: if much was taken and freed since it did last, the slot's cache is
 * emptied. Without the lock.
 *   Returns:  true if there was something; then the search is worth another try. */
MM_MUST_USE bool heap_empty_before_growth(struct kheap *heap);

/* ---- heap_guard.c ---- */

#define HEAP_GUARD_SITES 1u /* records of who allocated what */
#define HEAP_GUARD_FULL  2u /* and red zones, quarantine, random placement */

void *heap_guard_alloc(struct kheap *heap, size_t bytes, size_t align_bytes, bool clear,
                       vaddr_t site);
void heap_guard_free(struct kheap *heap, struct heap_span *span, void *address, bool sized,
                     size_t bytes, vaddr_t site);
/* The caller's block becomes shorter where it stands. */
void heap_guard_shrink(struct kheap *heap, const struct heap_found *block, size_t bytes);
/* heap_find_block() for a span that was guarded when it was looked at, and is pinned. */
bool heap_guard_find(struct kheap *heap, vaddr_t address, struct heap_found *out);
/* Empties the quarantine. */
void heap_guard_flush(struct kheap *heap);
/* True if large blocks are to stand between pages that are not mapped. */
bool heap_guard_wants_pages(const struct kheap *heap);
/* What is wrong with the zones or the zeroes of a block, or NULL; *at: the first wrong byte. */
const char *heap_guard_check(const struct heap_span *span, unsigned index, vaddr_t *at);

/* ---- heap_fault.c ---- */

MM_MUST_USE bool heap_fault_is_due(struct kheap *heap, size_t bytes, vaddr_t site);
void heap_faults_set_locked(struct kheap *heap, const struct kheap_faults *faults);
uint64_t heap_random(uint64_t *state);

/* ---- kheap.c, for heap_guard.c and heap_resize.c ---- */

/* In a public call: where it was called. */
#define HEAP_CALL_SITE ((vaddr_t)(uintptr_t)__builtin_return_address(0))

#define HEAP_SPARE_CHUNKS 2u /* wholly free ones that are kept */

/* A span of one block over new pages; its state byte is set last. */
struct heap_span *heap_run_alloc(struct kheap *heap, size_t bytes, size_t align_bytes,
                                 uint8_t state, bool *zeroed);
/* The span of a run that is there; its memory may be brought first, in any way there is. NULL: there is
 * none. Without the lock. */
struct heap_span *heap_run_span(struct kheap *heap, uint64_t offset, uint64_t bytes, uint64_t base);
/* What the caches and the spare chunks hold goes to the pmm, where another CPU may be faster. Without the
 * lock; `moves` and `tries` (0 at first) as of heap_may_find_more().
 *   Returns:  true if a search for pages of their own that failed is to be made again: something came, or is
 *             on its way; never true for ever. */
MM_MUST_USE bool heap_gather_pages(struct kheap *heap, uint64_t moves, unsigned *tries);
/* Ends the run whose block begins at `base`. `claimed`: the block, of a guarded span, is the caller's alone
 * already; else it must be allocated.
 *   Returns:  false: there is no such block any more, and nothing has changed. */
bool heap_run_free(struct kheap *heap, struct heap_span *span, vaddr_t base, bool claimed);

/* kheap_alloc() or kheap_alloc_nozero(), and kheap_free(), for a caller at `site`. */
void *heap_alloc(struct kheap *heap, size_t bytes, bool clear, vaddr_t site);
void heap_free(struct kheap *heap, void *block, vaddr_t site);
/* Everything that the fast paths leave over; heap: NULL: there is none yet. `sized`: the caller says that it
 * asked for `bytes`. */
void *heap_slow_alloc(struct kheap *heap, size_t bytes, size_t align_bytes, bool clear,
                      vaddr_t site);
void heap_slow_free(struct kheap *heap, void *address, bool sized, size_t bytes, vaddr_t site);

/* Finds the allocated block that begins at the address; false if there is none. Until heap_let_go() its
 * span stays that span's memory (heap_pin), also if another CPU frees the block meanwhile, which it must not. */
bool heap_find_block(struct kheap *heap, const void *address, struct heap_found *out);
void heap_let_go(const struct heap_found *block);

/* ---- heap_report.c ---- */

static inline bool heap_state_is_used(uint8_t state)
{
    return state == KHEAP_BYTE_ALLOCATED || state == KHEAP_BYTE_ALIGNED;
}

/* Reports a call of `what` with an address that is no allocated block's first byte. */
void heap_report_wrong(struct kheap *heap, const char *what, const void *address);
/* Reports that a block was freed by two CPUs. */
void heap_report_twice(struct kheap *heap, vaddr_t block);
/* Reports a write that a guard has found. */
void heap_report_write(struct kheap *heap, const char *what, const struct heap_span *span,
                       unsigned index, vaddr_t at);

/* ---- heap_sites.c ---- */

/* "0x... (name + 0x42)", without the name where the heap has none.
 *   Returns:  as mm_format(). */
size_t heap_site_format(const struct kheap *heap, vaddr_t site, char *text, size_t bytes);

#endif
