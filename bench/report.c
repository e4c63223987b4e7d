/* SPDX-License-Identifier: MIT */
/* What was measured, in three forms: tables for a terminal, JSON, and tables in Markdown.
 *
 *   workload  unit | subject, subject, ... | median of ours | ours / best peer
 *   goal | ratio | goal | met
 *
 * Markdown goes between two lines of an existing file, <!-- bench:SUITE --> and
 * <!-- bench:SUITE end -->; what stood there is replaced, everything else stays. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS 16u

/* ---- Columns and lines of a suite's table ---- */

struct table {
    char names[COLUMNS][32];
    unsigned count;
};

static void add_column(struct table *table, const char *name)
{
    for (unsigned i = 0; i < table->count; i++)
        if (strcmp(table->names[i], name) == 0)
            return;
    if (table->count < COLUMNS)
        snprintf(table->names[table->count++], sizeof table->names[0], "%s", name);
}

static bool is_of(const struct bench_row *row, const struct bench_suite *suite)
{
    return strcmp(row->suite, suite->name) == 0;
}

static bool has_subject(const struct bench *bench, const struct bench_suite *suite,
                        const char *name)
{
    for (unsigned i = 0; i < bench->row_count; i++)
        if (is_of(bench->rows[i], suite) && strcmp(bench->rows[i]->subject, name) == 0)
            return true;
    return false;
}

static void find_columns(const struct bench *bench, const struct bench_suite *suite,
                         struct table *table)
{
    const char *list = suite->subjects;
    char name[32];

    table->count = 0;
    while (bench_next_name(&list, name, sizeof name))
        if (has_subject(bench, suite, name))
            add_column(table, name);
    for (unsigned i = 0; i < bench->row_count; i++)
        if (is_of(bench->rows[i], suite))
            add_column(table, bench->rows[i]->subject);
}

/* True for the first row of its workload and number of threads: it stands for the line. */
static bool begins_line(const struct bench *bench, unsigned index)
{
    const struct bench_row *row = bench->rows[index];

    for (unsigned i = 0; i < index; i++)
        if (strcmp(bench->rows[i]->suite, row->suite) == 0 &&
            strcmp(bench->rows[i]->workload, row->workload) == 0)
            return false;
    return true;
}

void bench_number_text(char *text, size_t bytes, double value)
{
    if (!isfinite(value))
        snprintf(text, bytes, "-");
    else if (fabs(value) >= 100)
        snprintf(text, bytes, "%.0f", value);
    else if (fabs(value) >= 10)
        snprintf(text, bytes, "%.1f", value);
    else
        snprintf(text, bytes, fabs(value) < 0.1 && value != 0 ? "%.4f" : "%.2f", value);
}

/* Prints one cell, as a terminal or Markdown wants it. */
struct style {
    FILE *file;
    bool markdown;
};

static void cell(const struct style *style, const char *text, int width)
{
    if (style->markdown)
        fprintf(style->file, " %s |", text);
    else
        fprintf(style->file, width < 0 ? "%-*s" : " %*s", abs(width), text);
}

static void number_cell(const struct style *style, double value)
{
    char text[32];

    bench_number_text(text, sizeof text, value);
    cell(style, text, 10);
}

static void end_line(const struct style *style)
{
    fprintf(style->file, "\n");
    if (style->markdown)
        fflush(style->file);
}

static void begin_line(const struct style *style)
{
    if (style->markdown)
        fprintf(style->file, "|");
}

static void rule(const struct style *style, unsigned columns)
{
    if (!style->markdown)
        return;
    fprintf(style->file, "|");
    for (unsigned i = 0; i < columns; i++)
        fprintf(style->file, i < 2 ? "---|" : "--:|");
    end_line(style);
}

static void print_line(const struct bench *bench, const struct bench_suite *suite,
                       const struct table *table, const struct bench_row *line,
                       const struct style *style)
{
    const char *own = table->names[0];
    double mine = bench_value(bench, line->workload, own, NULL);

    begin_line(style);
    cell(style, line->workload, -20);
    cell(style, line->unit, -8);
    for (unsigned i = 0; i < table->count; i++)
        number_cell(style, bench_value(bench, line->workload, table->names[i], NULL));
    number_cell(style, bench_value(bench, line->workload, own, "median"));
    number_cell(style, mine / bench_best(bench, line->workload, suite->peers));
    end_line(style);
}

static void print_rows(const struct bench *bench, const struct bench_suite *suite,
                       const struct style *style)
{
    struct table table;

    find_columns(bench, suite, &table);
    if (table.count == 0)
        return;
    begin_line(style);
    cell(style, "workload", -20);
    cell(style, "unit", -8);
    for (unsigned i = 0; i < table.count; i++)
        cell(style, table.names[i], 10);
    cell(style, "median", 10);
    cell(style, "x best", 10);
    end_line(style);
    rule(style, table.count + 4);
    for (unsigned i = 0; i < bench->row_count; i++)
        if (is_of(bench->rows[i], suite) && begins_line(bench, i))
            print_line(bench, suite, &table, bench->rows[i], style);
}

/* ---- Fields: latencies and whatever else rows say ---- */

static void print_fields(const struct bench *bench, const struct bench_suite *suite,
                         const struct style *style)
{
    bool first = true;

    for (unsigned i = 0; i < bench->row_count; i++) {
        const struct bench_row *row = bench->rows[i];

        if (!is_of(row, suite) || row->field_count == 0)
            continue;
        if (first)
            fprintf(style->file, "\n");
        first = false;
        fprintf(style->file, style->markdown ? "- `%s`, %s:" : "%-20s %-8s", row->workload,
                row->subject);
        for (unsigned j = 0; j < row->field_count; j++) {
            char text[32];

            bench_number_text(text, sizeof text, row->fields[j].value);
            fprintf(style->file, "%s %s %s", j > 0 ? "," : "", row->fields[j].name, text);
        }
        end_line(style);
    }
}

/* ---- Goals ---- */

static const char *peers_of(const struct bench_goal *goal)
{
    return goal->peers != NULL ? goal->peers : "-";
}

/* A goal missed by less than the table's digits shows enough of them not to look met. */
static void ratio_cell(const struct style *style, double ratio, bool met, const char *wanted)
{
    char text[32];

    bench_number_text(text, sizeof text, ratio);
    if (!met && strcmp(text, wanted) == 0)
        snprintf(text, sizeof text, "%.6g", ratio);
    cell(style, text, 10);
}

static void print_goals(struct bench *bench, const struct bench_suite *suite,
                        const struct style *style)
{
    bool first = true;

    bench->suite = suite;
    for (unsigned i = 0; i < suite->goal_count; i++) {
        const struct bench_goal *goal = &suite->goals[i];
        char wanted[48], text[32];
        double ratio;
        bool met;

        if (!bench_judge(bench, goal, &ratio, &met))
            continue;
        if (first) {
            fprintf(style->file, "\n");
            begin_line(style);
            cell(style, "goal", -28);
            cell(style, "compared with", -40);
            cell(style, "measured", 10);
            cell(style, "goal", 10);
            cell(style, "met", 5);
            end_line(style);
            rule(style, 5);
        }
        first = false;
        begin_line(style);
        cell(style, goal->name, -28);
        cell(style, peers_of(goal), -40);
        bench_number_text(text, sizeof text, goal->goal);
        ratio_cell(style, ratio, met, text);
        snprintf(wanted, sizeof wanted, "%s %s", goal->at_least ? ">=" : "<=", text);
        cell(style, wanted, 10);
        cell(style, met ? "yes" : "NO", 5);
        end_line(style);
    }
}

void bench_print_suite(const struct bench *bench, const struct bench_suite *suite, FILE *file)
{
    struct style style = { file, false };
    struct bench view = *bench;

    view.suite = suite;
    fprintf(file, "%s: minima (of two threads and of percentages: medians)%s\n", suite->title,
            bench->size == BENCH_TINY ? " (a tiny run: the numbers mean nothing)" : "");
    print_rows(&view, suite, &style);
    print_fields(&view, suite, &style);
    print_goals(&view, suite, &style);
    fprintf(file, "\n");
}

/* ---- JSON (RFC 8259) ---- */

static void json_string(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\')
            fprintf(file, "\\%c", c);
        else if (c < 0x20)
            fprintf(file, "\\u%04x", c);
        else
            fputc(c, file);
    }
    fputc('"', file);
}

static void json_member(FILE *file, const char *name, double value)
{
    fprintf(file, ", ");
    json_string(file, name);
    if (isnan(value) || isinf(value))
        fprintf(file, ": null");
    else
        fprintf(file, ": %.9g", value);
}

static void json_name(FILE *file, const char *before, const char *name, const char *text)
{
    fprintf(file, "%s\"%s\": ", before, name);
    json_string(file, text);
}

static void json_row(FILE *file, const struct bench_row *row)
{
    json_name(file, "    {", "suite", row->suite);
    json_name(file, ", ", "workload", row->workload);
    json_name(file, ", ", "subject", row->subject);
    fprintf(file, ", \"threads\": %u", row->threads);
    json_name(file, ", ", "unit", row->unit);
    json_member(file, "median", bench_row_median(row));
    json_member(file, "min", bench_row_min(row));
    json_member(file, "rounds", row->sample_count);
    for (unsigned i = 0; i < row->field_count; i++)
        json_member(file, row->fields[i].name, row->fields[i].value);
    fprintf(file, "}");
}

static void json_goals(FILE *file, struct bench *bench)
{
    const char *separator = "";

    for (const struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next) {
        bench->suite = suite;
        for (unsigned i = 0; i < suite->goal_count; i++) {
            const struct bench_goal *goal = &suite->goals[i];
            double ratio;
            bool met;

            if (!bench_judge(bench, goal, &ratio, &met))
                continue;
            fprintf(file, "%s\n", separator);
            json_name(file, "    {", "name", goal->name);
            json_name(file, ", ", "suite", suite->name);
            json_name(file, ", ", "peer", peers_of(goal));
            json_member(file, "ratio", ratio);
            json_member(file, "goal", goal->goal);
            fprintf(file, ", \"at_least\": %s, \"met\": %s}", goal->at_least ? "true" : "false",
                    met ? "true" : "false");
            separator = ",";
        }
    }
}

bool bench_write_json(const struct bench *bench, const char *path)
{
    static const char *const sizes[] = { "tiny", "quick", "full" };
    struct bench view = *bench;
    FILE *file = fopen(path, "w");

    if (file == NULL) {
        fprintf(stderr, "bench: cannot write %s\n", path);
        return false;
    }
    fprintf(file, "{\n  \"size\": \"%s\",\n  \"rows\": [", sizes[bench->size]);
    for (unsigned i = 0; i < bench->row_count; i++) {
        fprintf(file, i > 0 ? ",\n" : "\n");
        json_row(file, bench->rows[i]);
    }
    fprintf(file, "\n  ],\n  \"goals\": [");
    json_goals(file, &view);
    fprintf(file, "\n  ],\n  \"notes\": [");
    for (unsigned i = 0; i < bench->note_count; i++) {
        fprintf(file, i > 0 ? ",\n    " : "\n    ");
        json_string(file, bench->notes[i]);
    }
    fprintf(file, "\n  ]\n}\n");
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed) {
        fprintf(stderr, "bench: cannot write %s\n", path);
        return false;
    }
    return true;
}

/* ---- Markdown ---- */

static bool has_rows(const struct bench *bench, const struct bench_suite *suite)
{
    for (unsigned i = 0; i < bench->row_count; i++)
        if (is_of(bench->rows[i], suite))
            return true;
    return false;
}

static void write_section(struct bench *bench, const struct bench_suite *suite, FILE *file)
{
    struct style style = { file, true };

    bench->suite = suite;
    fprintf(file, "\n");
    print_rows(bench, suite, &style);
    print_fields(bench, suite, &style);
    print_goals(bench, suite, &style);
    fprintf(file, "\n");
}

/* The suite whose section begins (or ends) with this line; NULL if none, or it was not measured. */
static const struct bench_suite *marked(const struct bench *bench, const char *line,
                                        const char *end)
{
    for (const struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next) {
        char mark[80];

        snprintf(mark, sizeof mark, "<!-- bench:%s%s -->\n", suite->name, end);
        if (has_rows(bench, suite) && strcmp(line, mark) == 0)
            return suite;
    }
    return NULL;
}

static void copy_with_sections(struct bench *bench, FILE *from, FILE *to)
{
    const struct bench_suite *inside = NULL;
    char *line = NULL;
    size_t capacity = 0;

    while (getline(&line, &capacity, from) > 0) {
        if (inside != NULL && marked(bench, line, " end") == inside)
            inside = NULL;
        if (inside == NULL)
            fputs(line, to);
        if (inside == NULL && (inside = marked(bench, line, "")) != NULL)
            write_section(bench, inside, to);
    }
    free(line);
}

bool bench_write_docs(struct bench *bench, const char *path)
{
    char partial[512];
    FILE *from = fopen(path, "r"), *to;
    bool written;

    snprintf(partial, sizeof partial, "%s.new", path);
    to = fopen(partial, "w");
    if (from == NULL || to == NULL) {
        fprintf(stderr, "bench: cannot rewrite %s\n", path);
        return false;
    }
    copy_with_sections(bench, from, to);
    fclose(from);
    written = ferror(to) == 0;
    written = fclose(to) == 0 && written && rename(partial, path) == 0;
    if (!written)
        fprintf(stderr, "bench: cannot rewrite %s\n", path);
    return written;
}
