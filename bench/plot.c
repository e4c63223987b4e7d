/* SPDX-License-Identifier: MIT */
/* SVG plots by gnuplot: a script on its standard input, data in scratch files (bench/charts.c writes both).
 *
 * One look for all: white ground, thin grid, the same colour for the same place in the list. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <limits.h>
#include <signal.h>
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
    "set linetype 7 lc rgb '#8d6e63' lw 2\n"
    "set linetype 8 lc rgb '#26a69a' lw 2\n"
    "set linetype 9 lc rgb '#90caf9' lw 2\n"
    "set linetype 10 lc rgb '#aaaaaa' lw 1\n";

static bool failed;

bool bench_plots_failed(void)
{
    return failed;
}

static FILE *scratch_file(const char *name, char *path, size_t path_bytes)
{
    const char *folder = bench_scratch();
    int length = folder != NULL ? snprintf(path, path_bytes, "%s/%s", folder, name) : -1;

    return length >= 0 && (size_t)length < path_bytes ? fopen(path, "w") : NULL;
}

FILE *bench_plot_data(const char *name, char *path, size_t path_bytes)
{
    FILE *file = scratch_file(name, path, path_bytes);

    if (file == NULL) {
        fprintf(stderr, "bench: cannot write a plot's data\n");
        failed = true;
    }
    return file;
}

void bench_plot_nothing(const char *name)
{
    fprintf(stderr, "bench: no plot %s.svg: nothing of it was measured\n", name);
}

/* The picture as it was drawn, with the licence in its second line. False if there is none. */
static bool copy_picture(const char *from_path, const char *to_path)
{
    FILE *from = fopen(from_path, "r"), *to = from != NULL ? fopen(to_path, "w") : NULL;
    char *line = NULL;
    size_t capacity = 0, lines = 0;

    while (to != NULL && getline(&line, &capacity, from) > 0) {
        fputs(line, to);
        if (lines++ == 0)
            fputs("<!-- SPDX-License-Identifier: MIT -->\n", to);
    }
    free(line);
    bool good = to != NULL && lines > 0 && ferror(to) == 0;
    if (to != NULL && fclose(to) != 0)
        good = false;
    if (from != NULL)
        fclose(from);
    return good;
}

/* Feeds gnuplot the script. False if it failed or is not there. */
static bool draw(const char *output, const char *format, va_list arguments)
{
    void (*old)(int) = signal(SIGPIPE, SIG_IGN); /* a gnuplot that is not there reads nothing */
    FILE *gnuplot = popen("gnuplot 2>&1", "w");

    if (gnuplot == NULL)
        return false;
    fputs(plot_look, gnuplot);
    fprintf(gnuplot, "set output '%s'\n", output);
    vfprintf(gnuplot, format, arguments);
    fputs("\n", gnuplot);
    bool good = pclose(gnuplot) == 0;
    signal(SIGPIPE, old);
    return good;
}

/* A picture is there as a whole or not at all: it gets its name when it is complete. */
static bool put_picture(const char *drawn, const char *folder, const char *file_name)
{
    char path[PATH_MAX], partial[PATH_MAX];
    int length = snprintf(partial, sizeof partial, "%s/%s.new", folder, file_name);

    if (length < 0 || (size_t)length >= sizeof partial)
        return false;
    snprintf(path, sizeof path, "%s/%s", folder, file_name);
    if (copy_picture(drawn, partial) && rename(partial, path) == 0)
        return true;
    unlink(partial);
    return false;
}

void bench_plot(const char *folder, const char *name, const char *format, ...)
{
    char file_name[64], drawn[PATH_MAX];
    va_list arguments;

    snprintf(file_name, sizeof file_name, "%s.svg", name);
    FILE *place = scratch_file(file_name, drawn, sizeof drawn);
    if (place != NULL)
        fclose(place);
    va_start(arguments, format);
    bool good = place != NULL && draw(drawn, format, arguments);
    va_end(arguments);
    if (!good)
        fprintf(stderr, "bench: no plot %s: gnuplot failed or is not installed\n", file_name);
    if (good && !put_picture(drawn, folder, file_name)) {
        fprintf(stderr, "bench: cannot write the plot %s/%s\n", folder, file_name);
        good = false;
    }
    failed |= !good;
}
