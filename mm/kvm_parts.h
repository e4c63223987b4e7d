/* SPDX-License-Identifier: MIT */
/* What the files of kvm share. Internal to mm.
 *
 *      kvm_kernel.c   image and HHDM           kvm_block.c    blocks of any size, devices
 *      kvm.c          windows, heap, places    kvm_stack.c    stacks
 *      kvm_after.c    what changes after boot
 *      kvm_back.c     frames behind addresses */
#ifndef MM_KVM_PARTS_H
#define MM_KVM_PARTS_H

#include <mm/kvm.h>

#define KVM_HEAP_GUARD_BYTES LARGE_PAGE_SIZE /* keeps the heap aligned to its leaves */
#define KVM_DATA_RIGHTS      (PAGING_WRITE | PAGING_GLOBAL)

/* Maps fresh frames at [base, base + bytes), page-aligned: 2 MiB leaves where alignment and memory
 * allow it, else single frames. `flags` as kvm_alloc.
 *   On failure: MM_OUT_OF_MEMORY, MM_ALREADY_MAPPED; nothing changed. Nothing is ever unmapped for
 *               that if the range lies within one multiple of 2 MiB and nothing was mapped there. */
MM_MUST_USE mm_status_t kvm_back(struct address_space *space, vaddr_t base, uint64_t bytes,
                                 uint32_t flags);

/* Unmaps [base, base + bytes), whatever leaves it consists of, and frees the frames. All of it is
 * mapped, and no leaf crosses an end. */
void kvm_unback(struct address_space *space, vaddr_t base, uint64_t bytes);

/* Leads [to, to + bytes), where nothing is mapped, to the frames of [from, from + bytes) and unmaps these.
 * The two are equally far from a multiple of 2 MiB, and of 1 GiB if there are such leaves.
 *   On failure: MM_NOT_MAPPED, MM_LARGE_PAGE (an end cuts a large leaf), MM_OUT_OF_MEMORY,
 *               MM_ALREADY_MAPPED; nothing changed. */
MM_MUST_USE mm_status_t kvm_move(struct address_space *space, vaddr_t from, vaddr_t to,
                                 uint64_t bytes);

/* True if the pages below and above [base, end) are not mapped; else false and a report: `what` is being
 * freed although somebody has mapped its guard. */
bool kvm_guards_are_unmapped(struct address_space *space, const char *what, vaddr_t base,
                             vaddr_t end);

static inline bool kvm_window_has(struct kvm_window window, vaddr_t address)
{
    return address >= window.base && address < window.end;
}

/* The frames of a part of the image. */
static inline struct mm_extent kvm_section_frames(const struct boot_info *boot,
                                                  struct boot_section section)
{
    paddr_t base = boot->kernel_phys + (section.begin - boot->kernel_virt);

    return (struct mm_extent){ base, base + (section.end - section.begin) };
}

/* What lies before the next stack, block or device from `*at` on: a run that must be unmapped, of any
 * length, also 0. *at becomes the first address behind that thing; at the window's end, what it was.
 *   Returns:   false if the run reaches to the window's end. */
typedef bool (*kvm_next_run_fn)(struct kvm *kvm, vaddr_t *at, struct kvm_window *run);
bool kvm_next_stack_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run);
bool kvm_next_block_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run);
bool kvm_next_device_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run);

/* The halves of kvm_peek() for two kinds of windows. */
struct kvm_peek kvm_peek_stack(const struct kvm *kvm, vaddr_t address);
struct kvm_peek kvm_peek_range(const struct kvm *kvm, vaddr_t address);

/* Makes the empty ranges of blocks and devices, once their windows stand. */
void kvm_ranges_init(struct kvm *kvm);

#endif
