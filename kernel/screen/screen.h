/* SPDX-License-Identifier: MIT */
/* The kernel's screen: the log as it comes, and at the end the summary. Without a screen every call
 * does nothing. */
#ifndef KERNEL_SCREEN_SCREEN_H
#define KERNEL_SCREEN_SCREEN_H

#include "kernel/screen/framebuffer.h"
#include <mm/mm.h>

/* Takes the framebuffer and clears it. Needs no memory.
 *   Returns:    NULL: the screen is up, or there is none (base is NULL).
 *   On failure: why it cannot be used, in words ("its depth is ..."); there is no screen then. */
const char *screen_init(const struct boot_framebuffer *framebuffer);

/* Output of the console: lines in UTF-8. Text that comes after the summary brings the log back.
 *   Context:  any, under the console's lock. Called by a handler that interrupted a call of itself,
 *             it does nothing, unless screen_take_over() came before. */
void screen_write(const char *bytes, size_t count);

/* At the beginning of a failure report: drawing that the failure may have interrupted is over.
 *   Units:    `address`: what the failed code could not reach (CR2 of a page fault), else 0. If it
 *             lies on the screen, the screen is given up. */
void screen_take_over(vaddr_t address);

/* Shows the summary instead of the log, where the screen is large enough.
 *   Context:  as pmm_stats(); nobody may be writing to the console. */
void screen_show_summary(struct mm *mm, struct mm_test_result tests, unsigned cpus);

#endif
