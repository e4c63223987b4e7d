/* SPDX-License-Identifier: MIT */
/* The programs suite: real programs by LD_PRELOAD under each malloc.
 *
 *      python3   tests/programs/objects.py, every object from malloc (PYTHONMALLOC=malloc)
 *      cc1       gcc's compiler on a file of tests/programs/generate.py
 *      sqlite3   tests/programs/tables.sql, several times over
 *
 * Each run is a process of its own; its CPU seconds (user and system) and its peak of resident memory
 * come from wait4(2). Subjects take turns, so that the machine's other work meets all of them. That the
 * output is right is what tests/programs/run.py sees to; here a run counts if its exit status is 0. */
#define _GNU_SOURCE 1
#include "bench/heap_subjects.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEERS    "glibc,jemalloc,mimalloc,tcmalloc"
#define NAMES    "mello,mello_full," PEERS
#define SUBJECTS 6u
#define PROGRAMS 3u
#define WORDS    8u

struct allocator {
    const char *name;
    const char *library; /* for dlopen; NULL: none, or ours */
    const char *options; /* MELLO_MALLOC */
    char preload[PATH_MAX];
};

struct program {
    const char *name, *peak_name;
    char words[WORDS][PATH_MAX];
    char *arguments[WORDS + 1];
    char input[PATH_MAX];
};

static struct allocator allocators[SUBJECTS];
static unsigned allocator_count;
static struct program programs[PROGRAMS];
static unsigned program_count;
static const char *folder; /* what they read and write */

/* ---- who is there ---- */

/* libmello-malloc.so lies beside this program. */
static bool find_own_library(char *path, size_t path_bytes)
{
    ssize_t length = readlink("/proc/self/exe", path, path_bytes - 1);
    char *slash;

    if (length < 0)
        return false;
    path[length] = '\0';
    slash = strrchr(path, '/');
    snprintf(slash, path_bytes - (size_t)(slash - path), "/libmello-malloc.so");
    return access(path, R_OK) == 0;
}

/* Where the dynamic linker has found a peer: what LD_PRELOAD is given. */
static enum heap_peer find_peer(struct allocator *allocator, char *why, size_t why_bytes)
{
    struct link_map *map;
    void *handle;
    enum heap_peer found = heap_peer_load(allocator->library, &handle, why, why_bytes);

    if (found != HEAP_PEER_FOUND)
        return found;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0)
        return HEAP_PEER_BROKEN;
    snprintf(allocator->preload, sizeof allocator->preload, "%s", map->l_name);
    return HEAP_PEER_FOUND;
}

static bool find_allocators(struct bench *bench)
{
    static const struct allocator all[SUBJECTS] = {
        { .name = "mello", .options = "" },
        { .name = "mello_full", .options = "harden=full" },
        { .name = "glibc" },
        { .name = "jemalloc", .library = "libjemalloc.so.2" },
        { .name = "mimalloc", .library = "libmimalloc.so.2" },
        { .name = "tcmalloc", .library = "libtcmalloc_minimal.so.4" },
    };
    char why[256] = "";

    allocator_count = 0;
    for (unsigned i = 0; i < SUBJECTS; i++) {
        struct allocator *allocator = &allocators[allocator_count];
        enum heap_peer found = HEAP_PEER_FOUND;

        if (!bench_wants_subject(bench, all[i].name))
            continue;
        *allocator = all[i];
        if (all[i].options != NULL &&
            !find_own_library(allocator->preload, sizeof allocator->preload)) {
            bench_note(bench, "programs: %s is not built", allocator->preload);
            return false;
        }
        if (all[i].library != NULL)
            found = find_peer(allocator, why, sizeof why);
        if (found == HEAP_PEER_BROKEN) {
            bench_note(bench, "programs: %s does not load: %s", all[i].name, why);
            return false;
        }
        if (found == HEAP_PEER_ABSENT)
            bench_note(bench, "programs: %s is not installed: left out", all[i].name);
        else
            allocator_count++;
    }
    return true;
}

/* ---- what they run ---- */

/* tests/programs, seen from the current folder or from this program's. */
static bool find_source(char *path, size_t path_bytes)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    snprintf(path, path_bytes, "tests/programs");
    if (access("tests/programs/objects.py", R_OK) == 0)
        return true;
    if (length < 0)
        return false;
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    int needed = snprintf(path, path_bytes, "%s/../tests/programs", self);
    return needed > 0 && (size_t)needed < path_bytes && access(path, R_OK) == 0;
}

/* What a shell command prints, its first line; false if it fails. */
static bool shell(char *line, size_t line_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool shell(char *line, size_t line_bytes, const char *format, ...)
{
    char command[3 * PATH_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    FILE *output = popen(command, "r");
    line[0] = '\0';
    if (output == NULL)
        return false;
    if (fgets(line, (int)line_bytes, output) != NULL)
        line[strcspn(line, "\n")] = '\0';
    return pclose(output) == 0;
}

static void add_word(struct program *program, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_word(struct program *program, const char *format, ...)
{
    unsigned count = 0;
    va_list arguments;

    while (program->arguments[count] != NULL)
        count++;
    va_start(arguments, format);
    vsnprintf(program->words[count], sizeof program->words[count], format, arguments);
    va_end(arguments);
    program->arguments[count] = program->words[count];
}

/* The next program, if it is installed. */
static struct program *new_program(struct bench *bench, const char *name, const char *peak_name,
                                   const char *find)
{
    struct program *program = &programs[program_count];
    char path[PATH_MAX];

    memset(program, 0, sizeof *program);
    if (!shell(path, sizeof path, "%s", find) || access(path, X_OK) != 0) {
        bench_note(bench, "programs: %s is not installed: left out", name);
        return NULL;
    }
    program->name = name;
    program->peak_name = peak_name;
    add_word(program, "%s", path);
    snprintf(program->input, sizeof program->input, "/dev/null");
    program_count++;
    return program;
}

static bool make_programs(struct bench *bench, const char *source)
{
    char line[PATH_MAX];
    uint64_t functions = bench_pick(bench, 2, 10, 60), times = bench_pick(bench, 1, 2, 4);
    double scale = bench_size(bench) == BENCH_TINY    ? 0.02
                   : bench_size(bench) == BENCH_QUICK ? 0.7
                                                      : 3;
    struct program *program;

    program_count = 0;
    program =
        new_program(bench, "python3", "python3_peak",
                    "test -x /usr/bin/python3 && echo /usr/bin/python3 || command -v python3");
    if (program != NULL) {
        add_word(program, "%s/objects.py", source);
        add_word(program, "%.2f", scale);
    }
    program = new_program(bench, "cc1", "cc1_peak", "gcc -print-prog-name=cc1");
    if (program != NULL) {
        if (!shell(line, sizeof line, "python3 '%s/generate.py' %u >'%s/made.c'", source,
                   (unsigned)functions, folder))
            return false;
        add_word(program, "-O2");
        add_word(program, "-quiet");
        add_word(program, "%s/made.c", folder);
        add_word(program, "-o");
        add_word(program, "%s/made.s", folder);
    }
    program = new_program(bench, "sqlite3", "sqlite3_peak", "command -v sqlite3");
    if (program != NULL) {
        if (!shell(line, sizeof line,
                   "for i in $(seq %u); do cat '%s/tables.sql'; echo 'DROP TABLE item; DROP TABLE "
                   "sale;'; done >'%s/tables.sql'",
                   (unsigned)times, source, folder))
            return false;
        add_word(program, ":memory:");
        snprintf(program->input, sizeof program->input, "%s/tables.sql", folder);
    }
    return true;
}

/* ---- one run ---- */

static void become(const struct program *program, const struct allocator *allocator)
{
    int input = open(program->input, O_RDONLY), output = open("/dev/null", O_WRONLY);

    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    setenv("PYTHONHASHSEED", "0", 1);
    setenv("PYTHONMALLOC", "malloc", 1);
    setenv("LC_ALL", "C", 1);
    unsetenv("GLIBC_TUNABLES");
    if (allocator->preload[0] != '\0')
        setenv("LD_PRELOAD", allocator->preload, 1);
    if (allocator->options != NULL)
        setenv("MELLO_MALLOC", allocator->options, 1);
    execv(program->arguments[0], program->arguments);
    _exit(127);
}

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static bool run_once(struct bench *bench, const struct program *program,
                     const struct allocator *allocator)
{
    struct rusage usage;
    int status;

    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        become(program, allocator);
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid || status != 0) {
        bench_note(bench, "programs: %s under %s failed (status 0x%x)", program->name,
                   allocator->name, pid < 0 ? 0 : (unsigned)status);
        return false;
    }
    struct bench_row *row = bench_row(bench, program->name, allocator->name, 1, "s");
    bench_sample(row, seconds(usage.ru_utime) + seconds(usage.ru_stime));
    bench_field(row, "user_s", seconds(usage.ru_utime));
    bench_field(row, "system_s", seconds(usage.ru_stime));
    bench_sample(bench_row(bench, program->peak_name, allocator->name, 1, "MiB"),
                 (double)usage.ru_maxrss / 1024);
    return true;
}

static bool run_programs(struct bench *bench)
{
    unsigned rounds = bench_rounds_of(bench, 1, 5, 10);

    for (unsigned p = 0; p < program_count; p++) {
        /* one run gives both */
        bool wanted = bench_wants(bench, programs[p].name);

        if (!bench_wants(bench, programs[p].peak_name) && !wanted)
            continue;
        for (unsigned round = 0; round < rounds; round++)
            for (unsigned a = 0; a < allocator_count; a++)
                if (!run_once(bench, &programs[p], &allocators[a]))
                    return false;
    }
    return true;
}

static bool run_suite(struct bench *bench)
{
    char source[PATH_MAX];

    if (!find_allocators(bench))
        return false;
    if (!find_source(source, sizeof source)) {
        bench_note(bench, "programs: tests/programs is not there; start this in the source folder");
        return false;
    }
    folder = bench_scratch();
    if (folder == NULL)
        return false;
    if (!make_programs(bench, source)) {
        bench_note(bench, "programs: what they read could not be made");
        return false;
    }
    return run_programs(bench);
}

/* ---- goals ---- */

#define GOAL(program)                                                                              \
    {                                                                                              \
        .name = program, .workload = program, .subject = "mello", .peers = PEERS, .goal = 1.05     \
    }

static const struct bench_goal goals[] = { GOAL("python3"), GOAL("cc1"), GOAL("sqlite3") };

/* ---- plots ---- */

/* CPU seconds against the best of all, ours among them. */
static double over_best(const struct bench *bench, const char *workload, const char *subject)
{
    return bench_value(bench, workload, subject, NULL) / bench_best(bench, workload, NAMES);
}

static void programs_plots(struct bench *bench, const char *to)
{
    static const struct bench_place seconds_of[PROGRAMS] = { { "python3", NULL, 0 },
                                                             { "cc1", NULL, 0 },
                                                             { "sqlite3", NULL, 0 } };
    static const struct bench_place peaks_of[PROGRAMS] = { { "python3_peak", "python3", 0 },
                                                           { "cc1_peak", "cc1", 0 },
                                                           { "sqlite3_peak", "sqlite3", 0 } };
    static const struct bench_chart charts[] = {
        { .name = "programs-cpu",
          .title = "Real programs under each malloc: CPU seconds against the best",
          .settings = "set ylabel 'CPU time / least CPU time'\nset yrange [0:]\n",
          .places = seconds_of,
          .place_count = PROGRAMS,
          .value = over_best,
          .headroom = 1.12 },
        { .name = "programs-peak",
          .title = "Real programs under each malloc: resident memory at its highest",
          .settings = "set ylabel 'MiB'\nset yrange [0:]\n",
          .places = peaks_of,
          .place_count = PROGRAMS,
          .headroom = 1.12 },
    };

    for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++)
        bench_plot_bars(bench, to, &charts[i]);
}

BENCH_SUITE(.name = "programs", .title = "Real programs",
            .place =
                0, /* first: a child's peak memory counts what this process had when it began it */
            .subjects = NAMES, .peers = PEERS, .run = run_suite, .plots = programs_plots)
