/* SPDX-License-Identifier: MIT */
/* A heap whose window is ordinary memory of the process, page by page accessible when it is committed:
 *
 *   | first MiB of the heap | ... | 2 MiB reserved | block ........ | guard | ... |   PROT_NONE
 *
 * The link of the programs that use it (host.mk) puts __wrap_kvm_heap_commit() and the like in front of the
 * functions; they keep which 64 KiB are committed, and take frames of the pmm for them. */
#ifndef TESTS_HOST_WINDOW_FIXTURE_H
#define TESTS_HOST_WINDOW_FIXTURE_H

#include "heap_fixture.h"

#define WINDOW_BYTES MM_MIB(64)
#define WINDOW_RAM   MM_MIB(24)
#define STEP         KVM_HEAP_STEP_BYTES
#define STEPS        (WINDOW_BYTES / STEP)

extern unsigned window_commits_to_fail; /* the how manieth fails, once; 0: none */
extern unsigned window_moves_to_fail;
extern unsigned window_moves; /* that were made */
/* Called on another CPU before and behind each; NULL: nobody comes in between. */
extern void *(*window_beside_move)(void *argument);
extern unsigned char *window_moving_from, *window_moving_to;

void window_set_up(void);

size_t window_step_of(const void *address);
bool window_is_committed(size_t step);
size_t window_committed_bytes(void);
/* 2 MiB of addresses each that are not free. */
size_t window_taken_addresses(void);
/* The frame behind an address that is committed. */
paddr_t window_frame_at(const void *address);

/* Content by which each page is known. */
void window_fill(unsigned char *block, size_t from, size_t to);
void window_expect_filled(const unsigned char *block, size_t bytes);

/* What the counters say is what is there; behind the last step of the only block nothing is. */
void window_expect_block(const unsigned char *block, size_t bytes);

/* Takes all memory that there is, in blocks of at most 256 KiB, and gives it back. */
void **window_take_all(void);
void window_free_all(void **all);

#endif
