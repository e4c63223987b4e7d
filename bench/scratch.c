/* SPDX-License-Identifier: MIT */
/* One folder for what a run needs for a while: a plot's data, the input of a program that is measured.
 *
 * It lies in TMPDIR, else in /tmp, is made when first asked for, and goes when the program ends with
 * everything that lies in it; what a crash leaves there, a few KB, goes with all else that is temporary.
 *
 * Invariant: its name can stand between the single quotes of a shell and of gnuplot. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[PATH_MAX];

/* Nobody makes folders in it. */
static void remove_folder(void)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;

    while (entries != NULL && (entry = readdir(entries)) != NULL)
        unlinkat(dirfd(entries), entry->d_name, 0);
    if (entries != NULL)
        closedir(entries);
    rmdir(folder);
}

static bool make_folder(const char *where)
{
    int length = snprintf(folder, sizeof folder, "%s/mello-bench-XXXXXX", where);

    if (length < 0 || (size_t)length >= sizeof folder || strchr(folder, '\'') != NULL ||
        mkdtemp(folder) == NULL) {
        fprintf(stderr, "bench: cannot make a folder in %s\n", where);
        folder[0] = '\0';
        return false;
    }
    atexit(remove_folder);
    return true;
}

const char *bench_scratch(void)
{
    const char *where = getenv("TMPDIR");

    if (where == NULL || where[0] == '\0')
        where = "/tmp";
    return folder[0] != '\0' || make_folder(where) ? folder : NULL;
}
