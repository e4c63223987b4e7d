/* SPDX-License-Identifier: MIT */
/* Memory type range registers: every processor must have the boot processor's. */
#ifndef LOADER_MTRR_H
#define LOADER_MTRR_H

/* Remembers those of the processor that calls: the boot processor. */
void mtrr_save(void);

/* Gives them to the processor that calls; nothing is written where they are the same. */
void mtrr_apply(void);

#endif
