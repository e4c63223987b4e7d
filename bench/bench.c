/* SPDX-License-Identifier: MIT */
/* The benchmark program: what the user asked for, the suites in turn, what comes out.
 *
 * Progress goes to standard error, one line that is written over; tables go to standard output. The
 * exit status says whether everything ran, not how fast it was: 0, 1 something could not be
 * measured, 2 wrong usage. */
#include "bench/parts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct options {
    const char *names[32]; /* of suites; none: all */
    unsigned name_count;
    const char *json, *plots, *docs;
};

static void usage(FILE *file)
{
    fprintf(
        file,
        "Usage: bench [OPTION...] [SUITE...]\n"
        "\n"
        "  --quick            under 40 s for each suite\n"
        "  --tiny             only to see that it runs; the numbers mean nothing\n"
        "  --rounds N         N rounds of each workload (default 21, quick 5; fewer of what takes\n"
        "                     long)\n"
        "  --suite NAME       the same as NAME alone; may be repeated\n"
        "  --workload TEXT    only workloads with TEXT in their name\n"
        "  --subject NAME     only this subject, for a profiler\n"
        "  --json FILE        write rows and goals there\n"
        "  --plots FOLDER     write SVG plots there (needs gnuplot)\n"
        "  --docs FILE        put the tables between the marks of that Markdown file\n"
        "  --list             name the suites\n"
        "  --help             this text\n"
        "\n"
        "Suites:");
    for (const struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next)
        fprintf(file, " %s", suite->name);
    fprintf(file, " (default: all)\n");
}

static void wrong_usage(const char *what, const char *word)
{
    fprintf(stderr, "bench: %s '%s'\n", what, word);
    usage(stderr);
    exit(2);
}

static bool is_suite(const char *name)
{
    for (const struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next)
        if (strcmp(suite->name, name) == 0)
            return true;
    return false;
}

static void add_suite(struct options *options, const char *name)
{
    if (!is_suite(name))
        wrong_usage("there is no suite", name);
    if (options->name_count < sizeof options->names / sizeof options->names[0])
        options->names[options->name_count++] = name;
}

static unsigned read_rounds(const char *text)
{
    char *end;
    unsigned long rounds = strtoul(text, &end, 10);

    if (*end != '\0' || rounds == 0 || rounds > BENCH_MOST_ROUNDS)
        wrong_usage("--rounds takes a number from 1 to 512, not", text);
    return (unsigned)rounds;
}

/* "--json FILE" and "--json=FILE": the value, or NULL if this is another option. */
static const char *option_value(const char *name, char **arguments, int *index)
{
    size_t length = strlen(name);
    const char *word = arguments[*index];

    if (strncmp(word, name, length) != 0 || (word[length] != '=' && word[length] != '\0'))
        return NULL;
    if (word[length] == '=')
        return word + length + 1;
    if (arguments[*index + 1] == NULL)
        wrong_usage("the value is missing of", word);
    return arguments[++*index];
}

static bool read_flag(struct bench *bench, const char *word)
{
    if (strcmp(word, "--quick") == 0) {
        bench->size = BENCH_QUICK;
    } else if (strcmp(word, "--tiny") == 0) {
        bench->size = BENCH_TINY;
    } else if (strcmp(word, "--list") == 0) {
        for (const struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next)
            printf("%s\n", suite->name);
        exit(0);
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        usage(stdout);
        exit(0);
    } else {
        return false;
    }
    return true;
}

static void read_options(struct bench *bench, struct options *options, char **arguments)
{
    for (int i = 1; arguments[i] != NULL; i++) {
        const char *word = arguments[i], *value;

        if (word[0] != '-')
            add_suite(options, word);
        else if (read_flag(bench, word))
            continue;
        else if ((value = option_value("--rounds", arguments, &i)) != NULL)
            bench->rounds = read_rounds(value);
        else if ((value = option_value("--suite", arguments, &i)) != NULL)
            add_suite(options, value);
        else if ((value = option_value("--workload", arguments, &i)) != NULL)
            bench->workload = value;
        else if ((value = option_value("--subject", arguments, &i)) != NULL)
            bench->subject = value;
        else if ((value = option_value("--json", arguments, &i)) != NULL)
            options->json = value;
        else if ((value = option_value("--plots", arguments, &i)) != NULL)
            options->plots = value;
        else if ((value = option_value("--docs", arguments, &i)) != NULL)
            options->docs = value;
        else
            wrong_usage("unknown option", word);
    }
}

/* Before hours are spent on what could then not be written. */
static bool can_write(const struct options *options)
{
    struct stat status;
    FILE *json = options->json != NULL ? fopen(options->json, "a") : NULL;
    bool no_json = options->json != NULL && json == NULL;
    bool no_docs = options->docs != NULL && access(options->docs, R_OK | W_OK) != 0;
    bool no_plots =
        options->plots != NULL && (stat(options->plots, &status) != 0 || !S_ISDIR(status.st_mode) ||
                                   access(options->plots, W_OK | X_OK) != 0);

    if (json != NULL)
        fclose(json);
    if (no_json)
        fprintf(stderr, "bench: cannot write %s\n", options->json);
    if (no_docs)
        fprintf(stderr, "bench: cannot rewrite %s\n", options->docs);
    if (no_plots)
        fprintf(stderr, "bench: cannot write plots into %s\n", options->plots);
    return !no_json && !no_docs && !no_plots;
}

static bool is_wanted(const struct options *options, const struct bench_suite *suite)
{
    for (unsigned i = 0; i < options->name_count; i++)
        if (strcmp(options->names[i], suite->name) == 0)
            return true;
    return options->name_count == 0;
}

static bool run_suite(struct bench *bench, const struct options *options,
                      const struct bench_suite *suite)
{
    struct timespec start, end;
    bool ran;

    bench->suite = suite;
    clock_gettime(CLOCK_MONOTONIC, &start);
    ran = suite->run(bench);
    clock_gettime(CLOCK_MONOTONIC, &end);
    fprintf(stderr, "%s%s: %s, %ld s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", suite->name,
            ran ? "done" : "NOT measured", (long)(end.tv_sec - start.tv_sec));
    if (ran && options->plots != NULL && suite->plots != NULL)
        suite->plots(bench, options->plots);
    bench_print_suite(bench, suite, stdout);
    fflush(stdout);
    return ran;
}

int main(int argument_count, char **arguments)
{
    static struct bench bench = { .size = BENCH_FULL };
    struct options options = { .name_count = 0 };
    bool ran = true;

    (void)argument_count;
    read_options(&bench, &options, arguments);
    if (!can_write(&options))
        return 1;
    bench_clock_init();
    for (struct bench_suite *suite = bench_suites(); suite != NULL; suite = suite->next)
        if (is_wanted(&options, suite))
            ran &= run_suite(&bench, &options, suite);
    if (ran && bench.row_count == 0 && bench.subject != NULL)
        wrong_usage("nothing is measured of the subject", bench.subject);
    if (ran && bench.row_count == 0 && bench.workload != NULL)
        wrong_usage("no workload has this in its name", bench.workload);
    for (unsigned i = 0; i < bench.note_count; i++)
        printf("note: %s\n", bench.notes[i]);
    if (options.json != NULL)
        ran &= bench_write_json(&bench, options.json);
    if (options.docs != NULL)
        ran &= bench_write_docs(&bench, options.docs);
    return ran && !bench_plots_failed() ? 0 : 1;
}
