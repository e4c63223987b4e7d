/* SPDX-License-Identifier: MIT */
/* SVG plots by gnuplot: a script on its standard input, data in scratch files.
 *
 * One look for all: white ground, thin grid, the same colour for the same place in the list. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char plot_look[] =
    "set terminal svg size 760,440 dynamic background rgb 'white' font 'sans-serif,13' noenhanced\n"
    "set grid lc rgb '#dddddd' lw 1\n"
    "set border 3 lc rgb '#444444'\n"
    "set tics nomirror\n"
    "set key outside right top Left reverse samplen 1.5\n"
    "set linetype 1 lc rgb '#d81b60' lw 3\n"
    "set linetype 2 lc rgb '#1e88e5' lw 2\n"
    "set linetype 3 lc rgb '#004d40' lw 2\n"
    "set linetype 4 lc rgb '#f2a900' lw 2\n"
    "set linetype 5 lc rgb '#6a3d9a' lw 2\n"
    "set linetype 6 lc rgb '#777777' lw 2\n"
    "set linetype 7 lc rgb '#aaaaaa' lw 1\n";

/* One folder for the run's scratch files; it is left to the system to clear /tmp of a few KB that a
 * crash leaves, and the files of a good run are removed here. */
static char scratch[64];
static char scratch_files[64][128];
static unsigned scratch_count;

static void remove_scratch(void)
{
    for (unsigned i = 0; i < scratch_count; i++)
        unlink(scratch_files[i]);
    rmdir(scratch);
}

FILE *bench_plot_data(const char *name, char *path, size_t path_bytes)
{
    FILE *file;

    if (scratch[0] == '\0') {
        snprintf(scratch, sizeof scratch, "/tmp/mello-bench-XXXXXX");
        if (mkdtemp(scratch) == NULL) {
            scratch[0] = '\0';
            return NULL;
        }
        atexit(remove_scratch);
    }
    snprintf(path, path_bytes, "%s/%s", scratch, name);
    file = fopen(path, "w");
    if (file != NULL && scratch_count < sizeof scratch_files / sizeof scratch_files[0])
        snprintf(scratch_files[scratch_count++], sizeof scratch_files[0], "%s", path);
    return file;
}

bool bench_plot(struct bench *bench, const char *folder, const char *name, const char *format, ...)
{
    va_list arguments;
    FILE *gnuplot = popen("gnuplot 2>&1", "w");
    int status;

    if (gnuplot == NULL)
        return false;
    fputs(plot_look, gnuplot);
    fprintf(gnuplot, "set output \"| sed '1a <!-- %s -->' >'%s/%s.svg'\"\n",
            "SPDX-License-Identifier: MIT", folder, name);
    va_start(arguments, format);
    vfprintf(gnuplot, format, arguments);
    va_end(arguments);
    fputs("\n", gnuplot);
    status = pclose(gnuplot);
    if (status != 0)
        bench_note(bench, "no plot %s.svg: gnuplot failed or is not installed", name);
    return status == 0;
}
