/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: where things go in the kernel half. Part of the public API of mm/.
 *
 * A window is one or more root-table slots of the higher half that neither the HHDM nor the kernel
 * image touches, wherever the loader put them. Four windows exist:
 *
 *      heap      what the heap commits and decommits, in steps
 *      stacks    kernel stacks, each in a slot of its own
 *      devices   registers of devices: kvm_map_device
 *      blocks    memory of any size from scattered frames: kvm_alloc
 *
 * What is placed in them has an unmapped guard page below and above, and is never executable.
 *
 * Context of all calls here: any CPU, thread of control; kvm_heap_commit and the calls that say so may
 * also be made by interrupt handlers. What unmaps waits for the other CPUs: never in a handler. What
 * maps may have to (mm_port_cpu_barrier(), where another CPU owns the space). So no call is made while a
 * lock is held for which another CPU may spin with interrupts off, nor in a handler that interrupted its
 * holder. A call from an NMI or machine check handler is a bug of the caller: reported, MM_UNSUPPORTED,
 * nothing changes. */
#ifndef MM_KVM_H
#define MM_KVM_H

#include <mm/paging.h>

MM_BEGIN_DECLS

#define KVM_STACK_SLOT_BYTES MM_KIB(256) /* distance of two stacks: guards included */
#define KVM_STACK_MAX_BYTES  (KVM_STACK_SLOT_BYTES - 2 * PAGE_SIZE)
#define KVM_STACK_SLOTS      8192u
#define KVM_STACK_BUSY       0xffu

#define KVM_HEAP_STEP_BYTES MM_KIB(64) /* what kvm_heap_commit takes: multiples of it */
#define KVM_MAX_ALIGN       MM_GIB(1)

/* Flags of kvm_alloc. */
#define KVM_NO_ZERO   ((uint32_t)1 << 0) /* content does not matter */
#define KVM_FLAGS_ALL KVM_NO_ZERO

struct kvm_window {
    vaddr_t base;
    vaddr_t end;
};

struct vrange_node; /* internal: mm/vrange.h */
struct vrange_page;

/* Addresses of one window, handed out in ranges. */
struct vrange {
    vaddr_t base;
    vaddr_t end;
    struct vrange_node *root;
    struct vrange_page *pages; /* frames of nodes that have a free one */
    uint64_t count;            /* ranges handed out */
    uint64_t frames;           /* that hold nodes */
};

struct kvm_stats {
    uint64_t heap_bytes; /* committed */
    uint64_t blocks;     /* of kvm_alloc, and their bytes without guards */
    uint64_t block_bytes;
    uint64_t devices;
    uint64_t stacks;
    uint64_t stack_bytes;
    uint64_t node_frames; /* frames in use for bookkeeping */
};

struct kvm {
    struct mm_port_lock lock;    /* guards block_ranges, device_ranges, stack_*, stats */
    struct address_space *space; /* constant */
    struct kvm_window heap;      /* constant, as the three below */
    struct kvm_window stacks;
    struct kvm_window devices;
    struct kvm_window blocks;
    struct vrange block_ranges;
    struct vrange device_ranges;
    struct kvm_stats stats;
    uint64_t heap_bytes;   /* of kvm_map_heap: mapped at the window's beginning, behind its guard */
    uint32_t stack_next;   /* no slot below it is free */
    bool init_released;    /* kvm_release_init() was done */
    bool constants_sealed; /* kvm_seal() was done */
    /* Pages of the stack in each slot; 0: none, KVM_STACK_BUSY: being made or taken apart. */
    uint8_t stack_pages[KVM_STACK_SLOTS];
};

/* ---- the kernel's own mappings ---- */

/* Fills the kernel's address space: the image (text and .init executable, rodata read-only, data
 * writable, guard pages left out) and the HHDM (all RAM of the map, read and write, in the largest
 * leaves; the framebuffer, write-combining; the aliases of text, .init and rodata read-only; nothing
 * else). All of it global.
 *   On failure: the status of the mapping that failed; an error line says which. What was mapped before
 *               stays: paging_destroy() gives all of it back. */
MM_MUST_USE mm_status_t kvm_map_kernel(struct address_space *space, const struct memmap *map,
                                       const struct boot_info *boot);

/* Places the windows. `taken` lists the virtual ranges that they must not meet
 * (base == end: nothing; end 0: up to 2^64). The windows of heap and blocks hold all of RAM each, if the
 * half has room for that; else as many root slots as it has.
 *   On failure: MM_OUT_OF_MEMORY if the higher half has no four free root slots; *kvm as before. */
MM_MUST_USE mm_status_t kvm_init(struct kvm *kvm, struct address_space *space,
                                 const struct kvm_window *taken, size_t taken_count);

/* Gives the parts of the image that only boot needs (boot->init, boot->init_data) to the pmm: unmaps
 * them from the image, makes their HHDM aliases ordinary memory, then frees the frames. No frame is
 * writable and executable on the way. Their content is cleared when they are handed out.
 *   Returns:    MM_OK and the bytes in *bytes; 0 bytes if there are none, or the second time.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ADDRESS (the frames are not reserved ones of the pmm);
 *               nothing changed. MM_NOT_MAPPED (the image is not mapped as kvm_map_kernel() does it):
 *               what is not in *bytes stays reserved for good. It takes no memory.
 *   Context:    thread of control; nobody runs code or holds pointers in there any more. */
MM_MUST_USE mm_status_t kvm_release_init(struct kvm *kvm, const struct boot_info *boot,
                                         uint64_t *bytes);

/* Makes boot->ro_after_init read-only, in the image and in the HHDM, on every CPU.
 *   On failure: MM_NOT_ALIGNED, MM_OUT_OF_MEMORY (a leaf had to be split); nothing changed.
 *   Context:    thread of control. */
MM_MUST_USE mm_status_t kvm_seal(struct kvm *kvm, const struct boot_info *boot);

/* ---- the heap's window ---- */

/* The addresses that may be committed: 2 MiB aligned at both ends, guards excluded. Constant. */
struct kvm_window kvm_heap_window(const struct kvm *kvm);

/* Backs [base, base + bytes) of the heap window with zeroed frames: one 2 MiB frame where 2 MiB are
 * asked for at a multiple of 2 MiB and memory has one, else scattered frames. Read and write, global.
 *   Units:      base, bytes: multiples of KVM_HEAP_STEP_BYTES.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ARGUMENT (0 bytes), MM_INVALID_ADDRESS (not in the window),
 *               MM_ALREADY_MAPPED, MM_OUT_OF_MEMORY; nothing changed.
 *   Locking:    the locks of space and pmm, one after the other. Not under a lock of the heap.
 *   Context:    any CPU; in an interrupt handler only if the range crosses no multiple of 2 MiB, because
 *               only a longer one may have to be rolled back.
 *   Cost:       one 2 MiB leaf: clearing 2 MiB and some 50 ns. */
MM_MUST_USE mm_status_t kvm_heap_commit(struct kvm *kvm, vaddr_t base, uint64_t bytes);

/* Unmaps [base, base + bytes), all of which is committed, and frees its frames.
 *   On failure: as kvm_heap_commit, MM_NOT_MAPPED, MM_LARGE_PAGE (an end cuts a 2 MiB leaf); nothing
 *               changed. It takes no memory and does not fail otherwise.
 *   Context:    any CPU, thread of control, no lock held.
 *   Cost:       one shootdown for up to 512 leaves. */
MM_MUST_USE mm_status_t kvm_heap_decommit(struct kvm *kvm, vaddr_t base, uint64_t bytes);

/* Moves what is committed at [from, from + bytes) to [to, to + bytes), where nothing is: page tables
 * change, frames and their content stay. Meanwhile the pages can be used at both addresses.
 *   Units:      from, to, bytes: multiples of KVM_HEAP_STEP_BYTES; from - to: a multiple of 2 MiB.
 *   Returns:    MM_OK: no CPU has a translation of the old addresses any more.
 *   On failure: as kvm_heap_decommit; MM_ALREADY_MAPPED (something is committed at `to`, or the two
 *               overlap), MM_OUT_OF_MEMORY (tables); nothing changed.
 *   Context:    any CPU, thread of control, no lock held.
 *   Cost:       0.1 us for each 2 MiB leaf, 6 ns for each page of smaller ones, and one shootdown (a Zen; a
 *               copy into fresh frames takes 34 us and more for each 2 MiB). */
MM_MUST_USE mm_status_t kvm_heap_move(struct kvm *kvm, vaddr_t from, vaddr_t to, uint64_t bytes);

/* Backs `bytes` (a multiple of PAGE_SIZE) at the beginning of the heap window, once.
 *   Returns:    MM_OK and the first address in *out (2 MiB aligned).
 *   On failure: MM_OUT_OF_MEMORY, MM_INVALID_ARGUMENT, MM_ALREADY_MAPPED; nothing changed. */
MM_MUST_USE mm_status_t kvm_map_heap(struct kvm *kvm, uint64_t bytes, vaddr_t *out);

/* ---- blocks ---- */

/* Memory of `bytes`, rounded up to pages, from scattered frames (2 MiB leaves where frames allow it),
 * between two unmapped pages.
 *   Units:      align: a power of two up to KVM_MAX_ALIGN; 1 or PAGE_SIZE: pages. From 2 MiB on, a block
 *               is aligned to 2 MiB whatever was asked for.
 *   Returns:    MM_OK and the first address in *out. Read and write, never executable.
 *   Content:    zeroes; anything with KVM_NO_ZERO.
 *   On failure: MM_INVALID_ARGUMENT (0 bytes, a bad alignment, unknown flags), MM_OUT_OF_MEMORY (frames,
 *               tables or addresses); nothing changed.
 *   Cost:       O(log n) for the place among n blocks, then frames and entries. */
MM_MUST_USE mm_status_t kvm_alloc_aligned(struct kvm *kvm, uint64_t bytes, uint64_t align,
                                          uint32_t flags, vaddr_t *out);
MM_MUST_USE mm_status_t kvm_alloc(struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out);

/* Gives a block back; 0 is fine. Anything else that kvm_alloc did not return, a block freed twice, and a
 * guard page that somebody has mapped are bugs of the caller: reported, and nothing changes. */
void kvm_free(struct kvm *kvm, vaddr_t address);

/* ---- stacks ---- */

/* A kernel stack of `bytes` (rounded up to pages, at most KVM_STACK_MAX_BYTES) between two unmapped
 * pages.
 *   Returns:    MM_OK and the address just above the stack in *top, 4096-byte aligned.
 *   On failure: MM_INVALID_ARGUMENT, MM_OUT_OF_MEMORY. */
MM_MUST_USE mm_status_t kvm_alloc_stack(struct kvm *kvm, uint64_t bytes, vaddr_t *top);

/* Gives a stack back; `top` is what kvm_alloc_stack gave. Anything else, and a guard page that somebody has
 * mapped, is a bug of the caller: reported, and nothing changes. */
void kvm_free_stack(struct kvm *kvm, vaddr_t top);

/* ---- devices ---- */

/* Maps the registers or the memory of a device, [phys, phys + bytes), read and write. Neither end need be
 * aligned; the pages around are mapped whole. The range must not be RAM of the pmm, which the HHDM shows
 * cached.
 *   Units:      type: PAGING_UNCACHED, PAGING_WRITE_COMBINING or 0 (write-back).
 *   Returns:    MM_OK and the address of the first byte in *out.
 *   On failure: MM_INVALID_ARGUMENT for 0 bytes or another type, MM_INVALID_ADDRESS for a range that
 *               wraps, ends beyond MAXPHYADDR or holds RAM, MM_OUT_OF_MEMORY; nothing changed. */
MM_MUST_USE mm_status_t kvm_map_device(struct kvm *kvm, paddr_t phys, uint64_t bytes,
                                       paging_rights_t type, vaddr_t *out);

/* Unmaps what kvm_map_device() gave at `address`. Anything else is a bug of the caller. */
void kvm_unmap_device(struct kvm *kvm, vaddr_t address);

/* ---- what an address is ---- */

enum kvm_place {
    KVM_NOWHERE, /* in no window */
    KVM_HEAP,
    KVM_HEAP_GUARD, /* not committed */
    KVM_STACK,
    KVM_STACK_GUARD, /* or a slot without a stack */
    KVM_BLOCK,
    KVM_BLOCK_GUARD,
    KVM_DEVICE,
    KVM_DEVICE_GUARD,
    KVM_UNUSED, /* in the window of blocks or devices, but in nothing that stands there */
};

struct kvm_peek {
    enum kvm_place place;
    vaddr_t base; /* the block, device or stack without its guards; both 0 where there is none */
    vaddr_t end;
};

/* What an address is, for fault reports: takes no lock and touches nothing at the address. While another
 * CPU changes the place, the answer may be that of a moment ago, or KVM_UNUSED.
 *   Context:    any. */
struct kvm_peek kvm_peek(const struct kvm *kvm, vaddr_t address);
enum kvm_place kvm_place_of(const struct kvm *kvm, vaddr_t address);

/* Calls visit(context, base, bytes) for each run of addresses of the windows that must be unmapped: both
 * ends of the heap's window; in the others all that lies between the stacks, blocks and devices, their
 * guard pages included. What is just being made or taken apart is left out.
 *   Locking:    none is held while visit() runs.
 *   Cost:       for each run one search, O(log n). */
void kvm_for_each_guard(struct kvm *kvm, void (*visit)(void *context, vaddr_t base, uint64_t bytes),
                        void *context);

/* A consistent copy of the counters. */
struct kvm_stats kvm_stats(struct kvm *kvm);

MM_END_DECLS
#endif
