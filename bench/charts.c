/* SPDX-License-Identifier: MIT */
/* The kinds of plots that suites share: lines over sizes, groups of bars, distributions of latencies.
 *
 *      | lines    o--o a     | bars  a b            | latencies
 *      |     o---o           | ab    ||   ab        |---___  b
 *      | o--o      o--o b    | ||    ||a  ||  b     |--_   ---___
 *      |    o-----o          | ||    |||  ||  |     |   --_  a   ---
 *      +-------------- x     +-one--two-three-four  +---------------- ns
 *
 * Each subject is one file of data and one part of gnuplot's plot command. Bars are laid out here, so that
 * one that was not measured leaves no gap: a group has as many bars as it has values, and lies around
 * its place. What is drawn last lies on top: lines and steps begin with the last subject, so that
 * ours is never hidden; the key is turned round again. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_GAP 1.4 /* between two groups, in bars */
#define SUBJECTS  16u

/* ---- Gnuplot's commands, as they grow ---- */

struct script {
    FILE *file;
    char *text; /* when it is finished */
    size_t bytes;
    unsigned parts; /* of the plot command */
    bool failed;    /* data could not be written; a line has said so */
};

static void begin_script(struct script *script, const char *title, const char *settings)
{
    *script = (struct script){ .parts = 0 };
    script->file = open_memstream(&script->text, &script->bytes);
    if (script->file == NULL) {
        fprintf(stderr, "bench: no memory for a plot\n");
        exit(1);
    }
    fprintf(script->file, "set title '%s'\n%s", title, settings);
}

static void add_part(struct script *script, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_part(struct script *script, const char *format, ...)
{
    va_list arguments;

    fputs(script->parts++ == 0 ? "plot " : ", ", script->file);
    va_start(arguments, format);
    vfprintf(script->file, format, arguments);
    va_end(arguments);
}

/* Draws what was added, or says that nothing was. */
static void end_script(struct script *script, const char *folder, const char *name)
{
    fclose(script->file);
    if (script->parts == 0 && !script->failed)
        bench_plot_nothing(name);
    else if (!script->failed)
        bench_plot(folder, name, "%s", script->text);
    free(script->text);
}

/* A file for the data of one subject; NULL if there is none, and the script then fails. */
static FILE *data_file(struct script *script, const char *chart, const char *subject, char *path)
{
    char name[96];

    snprintf(name, sizeof name, "%s-%s", chart, subject);
    FILE *file = bench_plot_data(name, path, PATH_MAX);
    script->failed |= file == NULL;
    return file;
}

/* ---- What was measured ---- */

static double value_of(const struct bench *bench, const struct bench_chart *chart,
                       const struct bench_place *place, const char *subject)
{
    double value = chart->value != NULL ? chart->value(bench, place->workload, subject)
                                        : bench_value(bench, place->workload, subject, NULL);

    return isfinite(value) ? value : NAN;
}

/* Subjects and places of which something was measured, and the values. */
struct table {
    char subjects[SUBJECTS][32];
    unsigned colours[SUBJECTS], subject_count;
    const struct bench_place *places[32];
    unsigned place_count;
};

static bool has_subject(const struct bench *bench, const struct bench_chart *chart,
                        const char *subject)
{
    for (unsigned i = 0; i < chart->place_count; i++)
        if (!isnan(value_of(bench, chart, &chart->places[i], subject)))
            return true;
    return false;
}

/* How many subjects have a value there. */
static unsigned count_values(const struct bench *bench, const struct bench_chart *chart,
                             const struct table *table, const struct bench_place *place)
{
    unsigned count = 0;

    for (unsigned i = 0; i < table->subject_count; i++)
        count += isnan(value_of(bench, chart, place, table->subjects[i])) ? 0 : 1;
    return count;
}

static void find_table(const struct bench *bench, const struct bench_chart *chart,
                       struct table *table)
{
    const char *list = bench->suite->subjects;
    char name[32];

    table->subject_count = table->place_count = 0;
    for (unsigned colour = 1; bench_next_name(&list, name, sizeof name); colour++) {
        if (table->subject_count == SUBJECTS || !has_subject(bench, chart, name))
            continue;
        memcpy(table->subjects[table->subject_count], name, sizeof name);
        table->colours[table->subject_count++] = colour;
    }
    for (unsigned i = 0; i < chart->place_count; i++)
        if (table->place_count < sizeof table->places / sizeof table->places[0] &&
            count_values(bench, chart, table, &chart->places[i]) > 0)
            table->places[table->place_count++] = &chart->places[i];
}

/* ---- Lines ---- */

static void add_line(const struct bench *bench, const struct bench_chart *chart,
                     const struct table *table, unsigned subject, struct script *script)
{
    char path[PATH_MAX];
    const char *name = table->subjects[subject];
    FILE *file = data_file(script, chart->name, name, path);

    if (file == NULL)
        return;
    for (unsigned i = 0; i < table->place_count; i++) {
        double value = value_of(bench, chart, table->places[i], name);

        if (!isnan(value))
            fprintf(file, "%.9g %.9g\n", table->places[i]->x, value);
    }
    fclose(file);
    add_part(script, "'%s' using 1:2 with linespoints lt %u pt 7 ps 0.7 title '%s'", path,
             table->colours[subject], name);
}

void bench_plot_lines(const struct bench *bench, const char *folder,
                      const struct bench_chart *chart)
{
    struct table table;
    struct script script;

    find_table(bench, chart, &table);
    begin_script(&script, chart->title, chart->settings);
    fputs("set key invert\n", script.file);
    for (unsigned i = table.subject_count; i-- > 0;)
        add_line(bench, chart, &table, i, &script);
    end_script(&script, folder, chart->name);
}

/* ---- Bars ---- */

/* Places are 1 apart; the widest group and its gap fill one. */
static double bar_width(const struct bench *bench, const struct bench_chart *chart,
                        const struct table *table)
{
    unsigned most = 1;

    for (unsigned i = 0; i < table->place_count; i++) {
        unsigned count = count_values(bench, chart, table, table->places[i]);

        most = count > most ? count : most;
    }
    return 1 / (most + GROUP_GAP);
}

static double highest_value(const struct bench *bench, const struct bench_chart *chart,
                            const struct table *table)
{
    double highest = NAN;

    for (unsigned i = 0; i < table->place_count; i++)
        for (unsigned j = 0; j < table->subject_count; j++)
            highest = fmax(highest, value_of(bench, chart, table->places[i], table->subjects[j]));
    return highest;
}

static void set_groups(const struct table *table, struct script *script)
{
    fputs("set grid noxtics\nset style fill solid 1 noborder\nset xtics (", script->file);
    for (unsigned i = 0; i < table->place_count; i++)
        fprintf(script->file, "%s\"%s\" %u", i > 0 ? ", " : "",
                table->places[i]->label != NULL ? table->places[i]->label
                                                : table->places[i]->workload,
                i);
    fprintf(script->file, ") scale 0\nset xrange [-0.6:%u.6]\n", table->place_count - 1);
}

/* Where the middle of a subject's bar lies in the group around `place`. */
static double bar_middle(const struct bench *bench, const struct bench_chart *chart,
                         const struct table *table, unsigned place, unsigned subject, double width)
{
    unsigned count = count_values(bench, chart, table, table->places[place]), before = 0;

    for (unsigned i = 0; i < subject; i++)
        before += isnan(value_of(bench, chart, table->places[place], table->subjects[i])) ? 0 : 1;
    return place + (before + 0.5 - count / 2.0) * width;
}

static void add_bars(const struct bench *bench, const struct bench_chart *chart,
                     const struct table *table, unsigned subject, struct script *script)
{
    double width = bar_width(bench, chart, table);
    char path[PATH_MAX];
    const char *name = table->subjects[subject];
    FILE *file = data_file(script, chart->name, name, path);

    if (file == NULL)
        return;
    for (unsigned i = 0; i < table->place_count; i++) {
        double value = value_of(bench, chart, table->places[i], name);
        char text[32];

        if (isnan(value))
            continue;
        bench_number_text(text, sizeof text, value);
        fprintf(file, "%.6f %.9g %s\n", bar_middle(bench, chart, table, i, subject, width), value,
                text);
    }
    fclose(file);
    add_part(script, "'%s' using 1:2:(%.6f) with boxes lt %u lw 0 title '%s'", path, width * 0.94,
             table->colours[subject], name);
    add_part(script,
             "'%s' using 1:2:3 with labels rotate by 90 left offset 0,0.4 font ',10' notitle",
             path);
}

void bench_plot_bars(const struct bench *bench, const char *folder, const struct bench_chart *chart)
{
    struct table table;
    struct script script;

    find_table(bench, chart, &table);
    begin_script(&script, chart->title, chart->settings);
    if (table.place_count > 0) {
        set_groups(&table, &script);
        fprintf(script.file, "set yrange [:%.9g]\n",
                highest_value(bench, chart, &table) * chart->headroom);
    }
    for (unsigned i = 0; i < table.subject_count; i++)
        add_bars(bench, chart, &table, i, &script);
    end_script(&script, folder, chart->name);
}

/* ---- Latencies ---- */

static unsigned colour_of(const struct bench *bench, const char *subject)
{
    const char *list = bench->suite->subjects;
    char name[32];
    unsigned colour = 1;

    while (bench_next_name(&list, name, sizeof name) && strcmp(name, subject) != 0)
        colour++;
    return colour;
}

void bench_plot_latencies(const struct bench *bench, const char *folder, const char *name,
                          const char *title, const struct bench_series *series, unsigned count)
{
    struct script script;

    begin_script(
        &script, title,
        "set key invert\nset logscale xy\nset xlabel 'ns'\nset ylabel 'part of all calls'\n"
        "set xrange [10:1000000]\nset yrange [1e-6:1]\nset format y '%g'\n");
    for (unsigned i = count; i-- > 0;) {
        char path[PATH_MAX];

        if (series[i].histogram->total == 0)
            continue;
        FILE *file = data_file(&script, name, series[i].name, path);
        if (file == NULL)
            continue;
        bench_histogram_print(series[i].histogram, file);
        fclose(file);
        add_part(&script, "'%s' using 1:2 with steps lt %u title '%s'", path,
                 colour_of(bench, series[i].name), series[i].name);
    }
    end_script(&script, folder, name);
}
