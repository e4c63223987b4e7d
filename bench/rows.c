/* SPDX-License-Identifier: MIT */
/* Rows of results, and goals that are judged by them.
 *
 * A row is found by suite, workload, subject and threads. Invariant: a row without a sample has no
 * value (NAN), and a goal that needs it is not judged. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bench_suite *suites;

void bench_register(struct bench_suite *suite)
{
    struct bench_suite **place = &suites;

    while (*place != NULL && (*place)->place <= suite->place)
        place = &(*place)->next;
    suite->next = *place;
    *place = suite;
}

struct bench_suite *bench_suites(void)
{
    return suites;
}

enum bench_size bench_size(const struct bench *bench)
{
    return bench->size;
}

unsigned bench_rounds(const struct bench *bench)
{
    return bench_rounds_of(bench, 1, 5, 21);
}

unsigned bench_rounds_of(const struct bench *bench, unsigned tiny, unsigned quick, unsigned full)
{
    return bench->rounds != 0 ? bench->rounds : (unsigned)bench_pick(bench, tiny, quick, full);
}

bool bench_is_wanted(const struct bench *bench, const char *workload)
{
    return bench->workload == NULL || strstr(workload, bench->workload) != NULL;
}

bool bench_wants(struct bench *bench, const char *workload)
{
    if (!bench_is_wanted(bench, workload))
        return false;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%s: %s", bench->suite->name, workload);
    return true;
}

bool bench_wants_subject(const struct bench *bench, const char *subject)
{
    return bench->subject == NULL || strcmp(subject, bench->subject) == 0;
}

/* ---- Rows ---- */

static struct bench_row *find_row(const struct bench *bench, const char *workload,
                                  const char *subject, unsigned threads)
{
    for (unsigned i = 0; i < bench->row_count; i++) {
        struct bench_row *row = bench->rows[i];

        if (strcmp(row->suite, bench->suite->name) == 0 && strcmp(row->workload, workload) == 0 &&
            strcmp(row->subject, subject) == 0 && (threads == 0 || row->threads == threads))
            return row;
    }
    return NULL;
}

struct bench_row *bench_row(struct bench *bench, const char *workload, const char *subject,
                            unsigned threads, const char *unit)
{
    struct bench_row *row = find_row(bench, workload, subject, threads);

    if (row != NULL)
        return row;
    row = calloc(1, sizeof *row);
    if (row == NULL || bench->row_count == BENCH_ROWS) {
        fprintf(stderr, "bench: no room for another row\n");
        exit(1);
    }
    row->suite = bench->suite->name;
    row->workload = workload;
    row->subject = subject;
    row->threads = threads;
    row->unit = unit;
    bench->rows[bench->row_count++] = row;
    return row;
}

void bench_sample(struct bench_row *row, double value)
{
    if (row->sample_count == BENCH_SAMPLES) {
        fprintf(stderr, "bench: %s of %s: no room for another sample\n", row->workload,
                row->subject);
        exit(1);
    }
    row->samples[row->sample_count++] = value;
}

void bench_field(struct bench_row *row, const char *name, double value)
{
    unsigned i = 0;

    while (i < row->field_count && strcmp(row->fields[i].name, name) != 0)
        i++;
    if (i == BENCH_FIELDS)
        return;
    row->fields[i].name = name;
    row->fields[i].value = value;
    if (i == row->field_count)
        row->field_count++;
}

void bench_note(struct bench *bench, const char *format, ...)
{
    va_list arguments;

    if (bench->note_count == BENCH_NOTES)
        return;
    va_start(arguments, format);
    if (vasprintf(&bench->notes[bench->note_count], format, arguments) >= 0)
        bench->note_count++;
    va_end(arguments);
}

/* ---- Values ---- */

double bench_row_min(const struct bench_row *row)
{
    double min = NAN;

    for (unsigned i = 0; i < row->sample_count; i++)
        if (isnan(min) || row->samples[i] < min)
            min = row->samples[i];
    return min;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_row_median(const struct bench_row *row)
{
    double sorted[BENCH_SAMPLES];
    unsigned count = row->sample_count;

    if (count == 0)
        return NAN;
    memcpy(sorted, row->samples, count * sizeof sorted[0]);
    qsort(sorted, count, sizeof sorted[0], compare_doubles);
    return count % 2 != 0 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

bool bench_row_more_is_better(const struct bench_row *row)
{
    return strcmp(row->unit, "percent") == 0;
}

/* The least of two threads is a round in which they did not meet, because one was not running. */
double bench_row_value(const struct bench_row *row)
{
    if (bench_row_more_is_better(row) || row->threads > 1)
        return bench_row_median(row);
    return bench_row_min(row);
}

double bench_value(const struct bench *bench, const char *workload, const char *subject,
                   const char *field)
{
    const struct bench_row *row = find_row(bench, workload, subject, 0);

    if (row == NULL)
        return NAN;
    if (field == NULL)
        return bench_row_value(row);
    if (strcmp(field, "median") == 0)
        return bench_row_median(row);
    for (unsigned i = 0; i < row->field_count; i++)
        if (strcmp(row->fields[i].name, field) == 0)
            return row->fields[i].value;
    return NAN;
}

bool bench_next_name(const char **list, char *name, size_t name_bytes)
{
    size_t length = strcspn(*list, ",");

    if (length == 0 || length >= name_bytes)
        return false;
    memcpy(name, *list, length);
    name[length] = '\0';
    *list += length;
    if (**list == ',')
        (*list)++;
    return true;
}

double bench_best(const struct bench *bench, const char *workload, const char *subjects)
{
    char name[64];
    double best = NAN;

    while (bench_next_name(&subjects, name, sizeof name)) {
        const struct bench_row *row = find_row(bench, workload, name, 0);
        double value = row != NULL ? bench_row_value(row) : NAN;

        if (isnan(value))
            continue;
        if (isnan(best) || (bench_row_more_is_better(row) ? value > best : value < best))
            best = value;
    }
    return best;
}

/* ---- Goals ---- */

/* What is judged is what is written: a ratio a rounding error above its goal, as 3.0 ns / 2.0 ns may be,
 * would otherwise be printed as 1.5 of 1.5 and "NO". */
static double as_written(double ratio)
{
    char text[32];

    snprintf(text, sizeof text, "%.6g", ratio);
    return strtod(text, NULL);
}

bool bench_judge(const struct bench *bench, const struct bench_goal *goal, double *ratio, bool *met)
{
    if (goal->ratio != NULL)
        *ratio = goal->ratio(bench);
    else if (goal->peers == NULL)
        *ratio = bench_value(bench, goal->workload, goal->subject, NULL);
    else
        *ratio = bench_value(bench, goal->workload, goal->subject, NULL) /
                 bench_best(bench, goal->workload, goal->peers);
    *ratio = as_written(*ratio);
    *met = goal->at_least ? *ratio >= goal->goal : *ratio <= goal->goal;
    return isfinite(*ratio);
}
