/* SPDX-License-Identifier: MIT */
/* The start: how long until the first frame can be had, and what the metadata take.
 *
 * What a GiB takes is the difference between 16 GiB and 32 GiB; what stays then is fixed, whatever
 * the size (fixed_kib). The metadata's memory is there and touched before, so that what is measured is
 * the allocator and not the page faults of this process. The memory itself is never touched, and need
 * not exist. */
#include "bench/frames.h"

#include <stdlib.h>
#include <unistd.h>

static const struct {
    const char *workload;
    uint64_t bytes;
} sizes[] = {
    { "init_1g", MM_GIB(1) },
    { "init_16g", MM_GIB(16) },
    { "init_1t", MM_GIB(1024) },
    { "init_64t", MM_GIB(65536) },
};

#define MOST_MS 500.0 /* no new round after so much, unless the user asked for rounds */

/* Half of what this machine has free now may be taken. */
static bool there_is_room(uint64_t bytes)
{
    return bytes < (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
}

static void measure_size(struct bench *bench, const struct frames_subject *subject,
                         const char *workload, uint64_t bytes)
{
    uint64_t metadata_bytes = subject->metadata_bytes(bytes);
    unsigned rounds = bench_rounds(bench), asked = bench_rounds_of(bench, 1, 1, 1);
    double spent = 0;
    void *metadata;

    if (!there_is_room(metadata_bytes)) {
        bench_note(bench, "frames: %s of %s: its %lu MiB of metadata do not fit now", workload,
                   subject->name, (unsigned long)(metadata_bytes >> 20));
        return;
    }
    metadata = bench_memory(metadata_bytes);
    for (unsigned round = 0; round < rounds && (round < asked || spent < MOST_MS); round++) {
        uint64_t start = bench_ticks(), frame;
        double ms;

        if (subject->get(subject->create(metadata, bytes), FRAMES_NOZERO, &frame) != 0)
            exit(1);
        ms = bench_ns(bench_ticks() - start) / 1e6;
        bench_sample(bench_row(bench, workload, subject->name, 1, "ms"), ms);
        spent += ms;
    }
    bench_release(metadata, metadata_bytes);
}

static void metadata_rows(struct bench *bench)
{
    const char *workload = "meta_kib_per_gib";

    if (!bench_wants(bench, workload))
        return;
    for (unsigned i = 0; i < frames_count; i++) {
        const struct frames_subject *subject = frames_subjects[i];
        struct bench_row *row = bench_row(bench, workload, subject->name, 1, "KiB");
        double small = (double)subject->metadata_bytes(MM_GIB(16)) / 1024;
        double large = (double)subject->metadata_bytes(MM_GIB(32)) / 1024;

        bench_sample(row, (large - small) / 16);
        bench_field(row, "fixed_kib", small - (large - small));
    }
}

void frames_measure_init(struct bench *bench)
{
    metadata_rows(bench);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (!bench_wants(bench, sizes[i].workload) ||
            (bench_size(bench) == BENCH_TINY && sizes[i].bytes > MM_GIB(16)))
            continue;
        for (unsigned j = 0; j < frames_count; j++)
            if (sizes[i].bytes <= frames_subjects[j]->most_bytes &&
                !frames_subjects[j]->touches_memory)
                measure_size(bench, frames_subjects[j], sizes[i].workload, sizes[i].bytes);
    }
}
