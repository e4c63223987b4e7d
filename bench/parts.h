/* SPDX-License-Identifier: MIT */
/* What the files of the benchmark program share and suites do not see. */
#ifndef BENCH_PARTS_H
#define BENCH_PARTS_H

#include "bench/bench.h"

#define BENCH_ROWS    1024u
#define BENCH_NOTES   64u
#define BENCH_FIELDS  12u
#define BENCH_SAMPLES (BENCH_MOST_ROUNDS * BENCH_SAMPLES_A_ROUND)

struct bench_row {
    const char *suite, *workload, *subject, *unit;
    unsigned threads;
    unsigned sample_count;
    double samples[BENCH_SAMPLES];
    unsigned field_count;
    struct {
        const char *name;
        double value;
    } fields[BENCH_FIELDS];
};

struct bench {
    enum bench_size size;
    unsigned rounds;                 /* 0: by size */
    const char *workload, *subject;  /* NULL: all */
    const struct bench_suite *suite; /* the one that runs or is judged */
    struct bench_row *rows[BENCH_ROWS];
    unsigned row_count;
    char *notes[BENCH_NOTES];
    unsigned note_count;
};

/* The suites, in order of their places. */
struct bench_suite *bench_suites(void);

/* Ratio and verdict of a goal. Returns false if it was not measured. */
bool bench_judge(const struct bench *bench, const struct bench_goal *goal, double *ratio,
                 bool *met);

double bench_row_min(const struct bench_row *row);
double bench_row_median(const struct bench_row *row);
bool bench_row_more_is_better(const struct bench_row *row);
/* The value that tables and goals look at. */
double bench_row_value(const struct bench_row *row);

void bench_clock_init(void);

/* A plot, or the data for one, could not be written; a line on standard error has said so. */
bool bench_plots_failed(void);

/* Runs gnuplot on a script in printf style and writes what it draws to `folder`/`name`.svg; what it needs
 * beside (output, size, colours) is set.
 *   On failure: a line on standard error says why, bench_plots_failed() is true from now on, and the file
 *               is as it was. */
void bench_plot(const char *folder, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A scratch file for a plot's data: written, closed, then named in the script.
 *   On failure: NULL; as above. */
FILE *bench_plot_data(const char *name, char *path, size_t path_bytes);

/* Says that there is no such plot, since nothing of it was measured. */
void bench_plot_nothing(const char *name);

/* "a,b,c": the next name of the list, false at its end. */
bool bench_next_name(const char **list, char *name, size_t name_bytes);

/* A number as tables and plots show it: three digits, or what stands before the point. */
void bench_number_text(char *text, size_t bytes, double value);

/* The tables of one suite for a reader of the terminal; all as JSON; those of one suite between
 * the marks of a Markdown file. */
void bench_print_suite(const struct bench *bench, const struct bench_suite *suite, FILE *file);
bool bench_write_json(const struct bench *bench, const char *path);
bool bench_write_docs(struct bench *bench, const char *path);

#endif
