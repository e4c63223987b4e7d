/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory on a small machine, for test_kvm*.c. Nothing here touches a kernel address: the
 * hosted MMU tells what the CPU would see there, and the fake RAM what stands in the frames. */
#ifndef TESTS_HOST_KVM_FIXTURE_H
#define TESTS_HOST_KVM_FIXTURE_H

#include "space.h"

extern struct kvm kvm;

#define KERNEL_VIRT ((vaddr_t)0xffffffff80000000)
#define HHDM_4      ((vaddr_t)0xffff800000000000)
#define HHDM_5      ((vaddr_t)0xff00000000000000)

/* `machine` and `space` alone, for a CPU of so many levels. */
void kvm_space_set_up(unsigned levels, uint64_t ram_bytes);

/* The same with `kvm`, beside an HHDM and a kernel; the page tables are those of the CPU. */
void kvm_set_up(unsigned levels, uint64_t ram_bytes);

/* No 2 MiB in one piece anywhere: every second frame is out of service. */
void kvm_fragment(uint64_t ram_bytes);

/* Writable, global, never executable, never the user's; and the frame, which is returned, is used. */
void *assert_memory(vaddr_t page);

/* The same, and it holds zeroes. */
void assert_backed(vaddr_t page);

void assert_guard(vaddr_t page);

#endif
