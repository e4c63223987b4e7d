/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: where things go in the kernel half. Part of the public API of mm/.
 *
 * A window is one or more root-table slots of the higher half that neither the HHDM nor the kernel
 * image touches, wherever the loader put them. Three windows exist: the heap's, the stacks' and that of
 * device registers. What is placed in them has an unmapped guard page below and above. */
#ifndef MM_KVM_H
#define MM_KVM_H

#include <mm/paging.h>

MM_BEGIN_DECLS

#define KVM_STACK_SLOT_BYTES MM_KIB(256) /* distance of two stacks: guards included */
#define KVM_STACK_MAX_BYTES  (KVM_STACK_SLOT_BYTES - 2 * PAGE_SIZE)
#define KVM_STACK_SLOTS      1024u
#define KVM_STACK_BUSY       0xffu

struct kvm_window {
    vaddr_t base;
    vaddr_t end;
};

struct kvm {
    struct mm_port_lock lock;    /* guards stack_pages and devices_next */
    struct address_space *space; /* constant */
    struct kvm_window heap;      /* constant */
    struct kvm_window stacks;    /* constant */
    struct kvm_window devices;   /* constant */
    vaddr_t devices_next;        /* where the next device goes; grows only */
    uint64_t heap_bytes;         /* mapped in the heap window, behind its guard; set once */
    /* Pages of the stack in each slot; 0: none, KVM_STACK_BUSY: being made or taken apart. */
    uint8_t stack_pages[KVM_STACK_SLOTS];
};

/* Fills the kernel's address space: the image (text executable, rodata read-only, data writable, guard
 * pages left out) and the HHDM (all RAM of the map, read and write; the framebuffer, write-combining;
 * the aliases of text and rodata read-only; nothing else). All of it global.
 *   On failure: the status of the mapping that failed; an error line says which. */
MM_MUST_USE mm_status_t kvm_map_kernel(struct address_space *space, const struct memmap *map,
                                       const struct boot_info *boot);

/* Places the windows. `taken` lists the virtual ranges that they must not meet
 * (base == end: nothing; end 0: up to 2^64).
 *   On failure: MM_OUT_OF_MEMORY if the higher half has no three free root slots. */
MM_MUST_USE mm_status_t kvm_init(struct kvm *kvm, struct address_space *space,
                                 const struct kvm_window *taken, size_t taken_count);

/* Backs `bytes` (a multiple of PAGE_SIZE) of the heap window, behind a guard page, with zeroed
 * frames: 2 MiB leaves where the memory allows it, else single frames. Read and write, global.
 *   Returns:    MM_OK and the first address in *out (2 MiB aligned).
 *   On failure: MM_OUT_OF_MEMORY, MM_INVALID_ARGUMENT, MM_ALREADY_MAPPED; nothing changed. */
MM_MUST_USE mm_status_t kvm_map_heap(struct kvm *kvm, uint64_t bytes, vaddr_t *out);

/* A kernel stack of `bytes` (rounded up to pages, at most KVM_STACK_MAX_BYTES) between two unmapped
 * pages.
 *   Returns:    MM_OK and the address just above the stack in *top, 4096-byte aligned.
 *   On failure: MM_INVALID_ARGUMENT, MM_OUT_OF_MEMORY. */
MM_MUST_USE mm_status_t kvm_alloc_stack(struct kvm *kvm, uint64_t bytes, vaddr_t *top);

/* Gives a stack back; `top` is what kvm_alloc_stack gave. Anything else is a bug of the caller. */
void kvm_free_stack(struct kvm *kvm, vaddr_t top);

/* Maps the registers of a device, [phys, phys + bytes), uncached, for good: there is no way back.
 * Neither end need be aligned; the pages around are mapped whole. The range must not be RAM, which
 * the HHDM shows cached.
 *   Returns:    MM_OK and the address of the first register in *out.
 *   On failure: MM_INVALID_ARGUMENT for 0 bytes, MM_INVALID_ADDRESS for a range that wraps or ends
 *               beyond MAXPHYADDR, MM_OUT_OF_MEMORY; nothing mapped.
 *   Context:    any CPU; not from interrupt handlers. */
MM_MUST_USE mm_status_t kvm_map_device(struct kvm *kvm, paddr_t phys, uint64_t bytes, vaddr_t *out);

enum kvm_place {
    KVM_NOWHERE,
    KVM_HEAP,
    KVM_HEAP_GUARD,
    KVM_STACK,
    KVM_STACK_GUARD,
};

/* What an address in a window is, for fault reports: takes no lock. */
enum kvm_place kvm_place_of(const struct kvm *kvm, vaddr_t address);

MM_END_DECLS
#endif
