/* SPDX-License-Identifier: MIT */
/* The kernel's own keys on the command line; mm.* keys belong to mm. */
#ifndef KERNEL_OPTIONS_H
#define KERNEL_OPTIONS_H

#include "kernel/smp.h"
#include <mm/cmdline.h>

struct kernel_options {
    bool exit_qemu;               /* mello.exit=qemu: end through isa-debug-exit */
    bool colour;                  /* mello.color=0|1: colours on the serial line */
    bool has_fault;               /* mello.fault=<name>: a deliberate machine fault at the end */
    struct mm_cmdline_word fault; /* its word; the value points into the line */
    bool has_test;                /* mello.test=<name>: a test of several CPUs */
    struct mm_cmdline_word test;  /* its word, likewise */
    bool dump_tables;             /* mello.dump=tables: every mapping, before the greeting */
    bool fill_loader;             /* mello.fill=loader: overwrite what the loader gives back */
    struct smp_options
        smp; /* mello.cpus=N: no more; mello.lost=N: the CPU at that place comes too late */
};

/* Reads the mello.* keys. A key that is not known, or a value that the key does not take, is one
 * warning line and otherwise ignored. Of a key that stands twice, the last counts. */
struct kernel_options options_read(const char *line);

#endif
