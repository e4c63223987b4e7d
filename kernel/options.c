/* SPDX-License-Identifier: MIT */
/* Owns the meaning of the mello.* keys.
 *
 * Reads the line word by word; words of others (mm.*, or none that has a prefix) are passed over.
 * Invariant: what is not understood is said once and changes nothing. */
#include "kernel/options.h"
#include "kernel/console.h"

#define OPTIONS_PREFIX       "mello."
#define OPTIONS_PREFIX_BYTES (sizeof(OPTIONS_PREFIX) - 1)

static bool options_is_ours(const struct mm_cmdline_word *word)
{
    if (word->key_bytes < OPTIONS_PREFIX_BYTES)
        return false;
    for (size_t i = 0; i < OPTIONS_PREFIX_BYTES; i++) {
        if (word->key[i] != OPTIONS_PREFIX[i])
            return false;
    }
    return true;
}

static void options_warn_value(const struct mm_cmdline_word *word, const char *values)
{
    console_print("WARNING: command line: %.*s=%.*s is ignored; it takes %s", (int)word->key_bytes,
                  word->key, (int)word->value_bytes, word->value, values);
}

/* A place in the boot loader's list of CPUs: 0 to 999. */
static bool options_read_place(const struct mm_cmdline_word *word, uint64_t *out)
{
    uint64_t place = 0;

    if (word->value_bytes == 0 || word->value_bytes > 3)
        return false;
    for (size_t i = 0; i < word->value_bytes; i++) {
        if (word->value[i] < '0' || word->value[i] > '9')
            return false;
        place = place * 10 + (uint64_t)(word->value[i] - '0');
    }
    *out = place;
    return true;
}

static void options_apply(struct kernel_options *options, const struct mm_cmdline_word *word)
{
    if (mm_cmdline_key_is(word, "mello.exit")) {
        if (mm_cmdline_value_is(word, "qemu"))
            options->exit_qemu = true;
        else
            options_warn_value(word, "qemu");
    } else if (mm_cmdline_key_is(word, "mello.color")) {
        if (mm_cmdline_value_is(word, "0") || mm_cmdline_value_is(word, "1"))
            options->colour = mm_cmdline_value_is(word, "1");
        else
            options_warn_value(word, "0 or 1");
    } else if (mm_cmdline_key_is(word, "mello.fault")) {
        options->has_fault = true;
        options->fault = *word;
    } else if (mm_cmdline_key_is(word, "mello.test")) {
        options->has_test = true;
        options->test = *word;
    } else if (mm_cmdline_key_is(word, "mello.fill")) {
        if (mm_cmdline_value_is(word, "loader"))
            options->fill_loader = true;
        else
            options_warn_value(word, "loader");
    } else if (mm_cmdline_key_is(word, "mello.cpus")) {
        if (!options_read_place(word, &options->smp.most) || options->smp.most == 0)
            options_warn_value(word, "a number of CPUs");
    } else if (mm_cmdline_key_is(word, "mello.dump")) {
        if (mm_cmdline_value_is(word, "tables"))
            options->dump_tables = true;
        else
            options_warn_value(word, "tables");
    } else if (mm_cmdline_key_is(word, "mello.lost")) {
        if (options_read_place(word, &options->smp.lost))
            options->smp.has_lost = true;
        else
            options_warn_value(word, "the place of a CPU in the boot loader's list");
    } else {
        console_print("WARNING: command line: unknown key %.*s (known: mello.exit, mello.color, "
                      "mello.fault, mello.test, mello.cpus, mello.dump, mello.fill, "
                      "mello.lost)",
                      (int)word->key_bytes, word->key);
    }
}

struct kernel_options options_read(const char *line)
{
    struct kernel_options options = { .exit_qemu = false };
    struct mm_cmdline_word word;

    while (mm_cmdline_next(&line, &word)) {
        if (options_is_ours(&word))
            options_apply(&options, &word);
    }
    return options;
}
