/* SPDX-License-Identifier: MIT */
/* The kernel heap. This header is part of the public API of mm/.
 *
 * Blocks of 16 bytes to all of memory, zeroed. In front stand size classes, about eight for each
 * doubling, with a cache for each CPU and interrupt level; behind them a buddy system that makes and
 * joins runs of pages; blocks above 1 MiB are runs of their own, between guard pages where the heap has a
 * window of its own. All state lies outside the blocks: a stray write cannot mislead the heap, and
 * kfree() needs no size. A wrong free is reported by mm_bug() and changes nothing.
 *
 * Alignment: a block whose size is a power of two up to 4 KiB is aligned to its size, one above 64 KiB to
 * 4 KiB, every other one to 16 bytes at least. More is kmalloc_aligned()'s.
 *
 * Context, where nothing else is said: any CPU, also interrupt handlers; from an NMI or machine check
 * handler it is a bug of the caller. In a heap with a window some blocks have pages that are mapped
 * for them alone: above 1 MiB, and at the full level what a thread takes of more than 60 KiB or
 * aligned to more than a page. Handlers take no block above 1 MiB. What they give back of these blocks is
 * free at once, but its memory goes to the pmm only with the next call of a thread of control that a
 * cache does not serve, or with kheap_drain().
 *
 * Locking, where nothing else is said: the lock of the heap; the pmm is called, and memory mapped
 * and unmapped, without it. In a thread of control any call that takes or gives back a block may
 * give memory to the pmm, and then waits for the other CPUs: as pmm_set_low_water() says, the
 * caller holds no lock for which another CPU may spin with interrupts off without answering. */
#ifndef MM_KHEAP_H
#define MM_KHEAP_H

#include <mm/kheap_fast.h>
#include <mm/kvm.h>

MM_BEGIN_DECLS

/* The buddy system's blocks. */
#define MIN_BLOCK_SIZE ((size_t)64)
#define MAX_BLOCK_SIZE ((size_t)1 << 20)
#define NUM_ORDERS     15 /* 64 B << 0 ... 64 B << 14 */

#define KHEAP_ALIGN_MAX MM_GIB(1) /* of kmalloc_aligned */

struct kheap; /* one heap */
struct boot_symbol;

struct kheap_stats {
    uint64_t region_bytes;       /* memory that the heap holds for blocks, its own state in it */
    uint64_t free_bytes;         /* of it in no block; what caches hold is free */
    uint64_t used_bytes;         /* in blocks: sizes rounded up to what kheap_size says */
    uint64_t used_blocks;        /* exact while nobody is in a call of the heap */
    uint64_t failed_allocations; /* calls that gave NULL for lack of memory, or by injection */
    uint64_t largest_free_block; /* up to MAX_BLOCK_SIZE, without growing */
    uint64_t frames;             /* taken from the pmm and not given back: blocks, state, caches */
};

/* Makes a heap of the region [base, base + bytes): mapped, writable, zeroes not required. The heap's
 * own state is taken from the region's beginning, of which a sixteenth is kept for it until nothing
 * else is free; the region never grows.
 *   Units:      base: a multiple of MAX_BLOCK_SIZE; bytes: a multiple too, at least one.
 *   Returns:    MM_OK and the heap in *out.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ARGUMENT.
 *   `space`:    used by kheap_to_phys; NULL if the region lies in the HHDM. */
MM_MUST_USE mm_status_t kheap_init(void *base, size_t bytes, struct address_space *space,
                                   struct kheap **out);

/* A heap that grows and shrinks. */
struct kheap_config {
    /* Its first memory, page-aligned, mapped. It keeps that for good, with its own state at the
     * beginning. */
    void *first;
    uint64_t first_bytes; /* a multiple of PAGE_SIZE */
    bool first_is_zero;
    /* All memory that it will ever have, the first included, lies in [base, base + bytes): the
     * heap's window, or, without kvm, the HHDM of all RAM. `base` is page-aligned; without kvm it
     * is where physical address 0 shows. */
    vaddr_t base;
    uint64_t bytes;
    struct address_space *space; /* for kheap_to_phys; NULL: the HHDM */
    struct pmm *pmm;             /* where frames come from */
    struct kvm *kvm;             /* the heap's window is its; NULL: frames are used in the HHDM */
    const struct boot_lender *lender; /* without kvm: is told of what comes and goes; or NULL */
    /* Names the call sites in reports, as that of struct boot_info; NULL: no names. */
    bool (*find_symbol)(vaddr_t address, struct boot_symbol *out);
};

/* Makes a heap as the config says; the config is copied.
 *   Returns:    MM_OK and the heap in *out, which lies at config->first and must not be moved.
 *   On failure: MM_INVALID_ARGUMENT (the first memory is too small for the heap's own state),
 *               MM_OUT_OF_MEMORY (no frames for its table); *out is as before, the first memory
 *               holds anything.
 *   Context:    thread of control; nobody else knows this heap yet. */
MM_MUST_USE mm_status_t kheap_create(const struct kheap_config *config, struct kheap **out);

/* ---- Allocating and freeing; the calls on the default heap stand at the end ---- */

/* Takes a block of at least `bytes`.
 *   Returns:    the block; NULL for 0 bytes, and (with one error line) when there is no memory: at one
 *               moment during the call, with all caches emptied, there was neither a free block of its
 *               size class nor a free run of pages for one (above 64 KiB: for the block) and its
 *               state, and the pmm had none. Up to 1 MiB nobody can come in between: what the caches
 *               held is used before another CPU can take it. Memory on its way between heap and pmm
 *               is waited for by threads of control, for a bounded time; interrupt handlers do not
 *               wait. Above 1 MiB the caches are emptied and the pmm asked again up to eight times as
 *               long as memory came meanwhile (another CPU may be faster to take it), and as long as
 *               some is on its way, for a bounded time; at the full level the quarantine, too.
 *   Content:    zeroes, up to kheap_size() of it. */
void *kheap_alloc(struct kheap *heap, size_t bytes);

/* The same, but the content is whatever the memory held. */
void *kheap_alloc_nozero(struct kheap *heap, size_t bytes);

/* A zeroed block aligned to `align_bytes`, a power of two up to KHEAP_ALIGN_MAX.
 *   Returns:    as kheap_alloc; NULL without a line for any other alignment.
 *   Cost:       memory of `bytes`. Only in a heap in the HHDM whose offset is less aligned than that
 *               (a process that gave mm any pages): up to `align_bytes` more, all of it cleared. */
void *kheap_alloc_aligned(struct kheap *heap, size_t bytes, size_t align_bytes);

/* Makes a block larger or smaller, in place where possible; it may move, and then it has its content up to
 * the smaller of the two sizes and the alignment that kheap_alloc_aligned() gave it. A block that stays
 * above 1 MiB gives back in place what it no longer needs, if no 2 MiB leaf is cut, and in a heap with
 * a window it grows in place if the addresses behind it are free, else its pages move to other addresses
 * without a copy, by a seventh of its instructions at 2 MiB, a thirtieth at 16 MiB (docs/performance.md);
 * neither in interrupt handlers, at the full level, nor while faults are injected or calls logged.
 *   Content:    behind the old content zeroes, up to kheap_size(); if the block was not zeroed when it
 *               was made, anything up to its old kheap_size(). A block that gets smaller stays where
 *               it is if there is no memory to move it.
 *   Returns:    the block. NULL block: as kheap_alloc. 0 bytes: frees the block, NULL.
 *   On failure: NULL, and the old block is as before; NULL too, with a report, if it is no block. */
void *kheap_realloc(struct kheap *heap, void *block, size_t bytes);

/* Gives a block back; NULL is fine. Anything that is not an allocated block's first byte is a bug of
 * the caller: reported at once, or, if another CPU was freeing the same block at that moment, when the
 * list of blocks that others have freed reaches the heap. */
void kheap_free(struct kheap *heap, void *block);

/* Bytes that the block can hold; 0 and a report if it is not an allocated block. */
size_t kheap_size(struct kheap *heap, const void *block);

/* The physical address of `bytes` at `address` inside an allocated block, for a device.
 *   On failure: MM_INVALID_ADDRESS (not inside one block), MM_INVALID_ARGUMENT (0 bytes),
 *               MM_NOT_CONTIGUOUS (the frames are not neighbours).
 *   Context:    not from interrupt handlers. */
MM_MUST_USE mm_status_t kheap_to_phys(struct kheap *heap, const void *address, size_t bytes,
                                      paddr_t *out);

/* Gives back what the caches of all slots hold, or of one that is over (its thread has ended) or the
 * caller's own, whose memory then belongs to nobody; wholly free memory goes back to where it came from.
 *   Context:    thread of control, no lock held. In an interrupt handler (the low-water callback of
 *               mm_init() comes there, too) caches and quarantine are emptied, but wholly free
 *               chunks stay with the heap until a thread of control makes the next call of the heap
 *               that a cache does not serve; so do blocks with pages of their own that leave the quarantine.
 *   Cost:       a barrier on every CPU; for memory that goes back, a shootdown each time. */
#define KHEAP_ALL_SLOTS UINT32_MAX
void kheap_drain(struct kheap *heap, unsigned slot);

/* ---- Hardening ---- */

enum kheap_level {
    KHEAP_DEFAULT, /* every wrong free is reported */
    KHEAP_FULL,    /* and red zones, quarantine, random placement, call sites */
};

/* The switches below (level, sites, injection, log level) turn the caches off and on.
 *   Context:    thread of control. Several callers at once: each change is made, one after the other.
 *               Other CPUs may be in calls of the heap, and go on by what they have read until they
 *               call again.
 *   Locking:    the lock of the heap.
 *   Cost:       a barrier on every CPU where caches are turned off. */

/* Switches the level at run time; blocks that are alive keep the guards that they were given. Back
 * at the default level the quarantine is emptied. */
void kheap_set_level(struct kheap *heap, enum kheap_level level);
/* Context: any. */
enum kheap_level kheap_level(const struct kheap *heap);

/* Records the call site of every allocation from now on, also at the default level; blocks that are
 * alive keep what they have. */
void kheap_record_sites(struct kheap *heap, bool on);

/* Takes over a changed mm_log_level: at MM_LOG_DEBUG each call is one line. */
void kheap_log_level_changed(struct kheap *heap);

/* ---- Fault injection ---- */

/* Which allocations fail, as if there were no memory. All conditions that are not 0 must hold; `nth`,
 * `every` and `chance` count only calls of that size and site. */
struct kheap_faults {
    uint64_t nth;         /* this one, counted from 1, and no other */
    uint64_t every;       /* every so manieth */
    uint32_t chance;      /* so many of 1000, at random */
    uint64_t seed;        /* of the random source; 0: a fixed one */
    size_t least, most;   /* sizes asked for; most 0: no limit */
    vaddr_t site, behind; /* call sites in [site, behind); site 0: all; behind 0: this site only */
};

/* Injects failures from now on; NULL: none. Counting begins anew. The conditions are copied.
 *   Context, Locking: as kheap_set_level. */
void kheap_inject(struct kheap *heap, const struct kheap_faults *faults);

/* Failures injected since kheap_inject(). Context: any; no lock. */
uint64_t kheap_injected(const struct kheap *heap);

/* Reads the value of mm.fail=: conditions joined by commas, nth:5 every:100 chance:3 size:64-128
 * size:64 site:0xffffffff80001000 seed:7.
 *   Returns:    true and the conditions in *out; false if the text is none. */
MM_MUST_USE bool kheap_faults_read(const char *text, size_t bytes, struct kheap_faults *out);

/* ---- Leaks ---- */

/* A moment: what is allocated after it can be listed. Moments pass only while sites are recorded.
 *   Context:    any CPU, also interrupt handlers. */
uint64_t kheap_mark(struct kheap *heap);

/* Logs what was allocated since the mark and is still alive, one line for each call site, the most bytes
 * first: "leak: 3 blocks, 300 bytes allocated by 0x... (name + 0x42)", the name where the heap has names.
 * Needs recorded sites (KHEAP_FULL, or kheap_record_sites); else one line says so.
 *   Returns:    the number of such blocks.
 *   Context:    thread of control. Blocks that others take or give back meanwhile may be counted or
 *               not.
 *   Locking:    the lock of the heap while it counts, none while it logs.
 *   Cost:       a look at each page of the heap and each block with a record, with the lock. */
uint64_t kheap_report_since(struct kheap *heap, uint64_t mark);

/* ---- Asking ---- */

enum kheap_place {
    KHEAP_STATE, /* the heap's own bookkeeping */
    KHEAP_FREE,
    KHEAP_USED,
    KHEAP_DAMAGED, /* no block holds the address: the bookkeeping is wrong, or was changing */
    KHEAP_GUARD,   /* red zone or guard page of the block at `start` */
};

/* What an address of the heap's memory is. */
struct kheap_peek {
    enum kheap_place what;
    vaddr_t start;  /* of the block; KHEAP_STATE and KHEAP_DAMAGED: of the region */
    uint64_t bytes; /* that the block can hold; likewise 0 */
    uint64_t asked; /* that were asked for, where they are recorded; else as `bytes` */
    vaddr_t alloc_site, free_site; /* call sites where they are recorded; else 0 */
};

/* Looks an address up without a lock, for fault reports: while another CPU allocates or frees there,
 * any answer may come, KHEAP_DAMAGED included.
 *   Returns:    true and the answer in *out; false if the heap has nothing there.
 *   Context:    any. */
MM_MUST_USE bool kheap_peek(const struct kheap *heap, vaddr_t address, struct kheap_peek *out);

/* The counters: consistent with each other while nobody is in a call of the heap, else each true at
 * some moment of the call.
 *   Context:    any CPU, also interrupt handlers; not an NMI or machine check handler.
 *   Cost:       a lock; looks at every cache of every slot, and at the quarantine. */
struct kheap_stats kheap_stats(struct kheap *heap);

/* Full consistency check: every block in one place, no two free buddies side by side, the counters;
 * at the full level also red zones of living and zeroes of free blocks.
 *   Returns:    true; else false and one error line for the first difference.
 *   Context:    nobody else is in a call of the heap. */
bool kheap_verify(struct kheap *heap);

/* Takes the heap's lock over a fork() of a process, and releases it on both sides. */
uint64_t kheap_lock_all(struct kheap *heap);
void kheap_unlock_all(struct kheap *heap, uint64_t saved);
/* In the child, with that lock held: threads that are not there move no memory and look at no block, and
 * nobody waits for them. */
void kheap_forked(struct kheap *heap);

/* ---- The default heap ---- */

/* What the calls below use. NULL (at first): kmalloc returns NULL. */
void kheap_set_default(struct kheap *heap);
struct kheap *kheap_default(void);

void *kmalloc(size_t bytes);
void *kmalloc_nozero(size_t bytes);
void *kmalloc_aligned(size_t bytes, size_t align_bytes);
void *krealloc(void *block, size_t bytes);
void kfree(void *block);
size_t ksize(const void *block);

/* Like kfree(block) for a block that was asked for, or last resized, with `bytes`. A size of another class
 * (of kmalloc_aligned: one that does not fit), 0 of a block, and at the full level any other size, is a bug
 * of the caller. */
void kfree_sized(void *block, size_t bytes);

static inline void *kzalloc(size_t bytes)
{
    return kmalloc(bytes);
}

/* NULL, without a line, if the product is more than SIZE_MAX. */
static inline void *kcalloc(size_t count, size_t bytes)
{
    size_t all;

    return __builtin_mul_overflow(count, bytes, &all) ? NULL : kmalloc(all);
}

/* Sizes that are constants are resolved when they are compiled. (With memory hooks they are called, too,
 * so that a sanitizer sees mm's own accesses in mm's own code.) */
#define KHEAP_CONSTANT_MOST 1024u

static inline __attribute__((always_inline)) void *kheap_kmalloc(size_t bytes)
{
    if (__builtin_constant_p(bytes) && bytes - 1 < KHEAP_CONSTANT_MOST && !MM_MEMORY_HOOKS)
        return kheap_alloc_constant(bytes);
    return kmalloc(bytes);
}

static inline __attribute__((always_inline)) void kheap_kfree_sized(void *block, size_t bytes)
{
    if (__builtin_constant_p(bytes) && bytes - 1 < KHEAP_CONSTANT_MOST && !MM_MEMORY_HOOKS)
        kheap_free_constant(block, bytes);
    else
        kfree_sized(block, bytes);
}

#define kmalloc(bytes)            kheap_kmalloc(bytes)
#define kzalloc(bytes)            kheap_kmalloc(bytes)
#define kfree_sized(block, bytes) kheap_kfree_sized(block, bytes)

MM_END_DECLS
#endif
