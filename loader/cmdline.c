/* SPDX-License-Identifier: MIT */
/* The loader's own keys on the command line, and the line that is left for the kernel.
 *
 *   in:      mm.log=debug loader.slide=0x2000000 mello.exit=qemu
 *   kernel:  mm.log=debug mello.exit=qemu
 *   loader:  loader.slide\0 0x2000000\0
 *
 * Words are separated by spaces. A word that begins with "loader." is ours and vanishes together
 * with the spaces behind it; all other characters reach the kernel as they were. An unknown key
 * stops the boot: these keys choose what a test tests, and a test of the wrong thing passes. */
#include "loader/cmdline.h"

#include "loader/print.h"
#include "loader/request.h"
#include "loader/text.h"

static void cmdline_take_baserev(struct loader_options *options, const char *value)
{
    if (!text_parse_whole_number(value, &options->base_revision) || options->base_revision < 2 ||
        options->base_revision > 3) {
        print_fail("command line: loader.baserev=%s: must be 2 or 3", value);
    }
}

static void cmdline_take_hhdm(struct loader_options *options, const char *value)
{
    if (!text_parse_whole_number(value, &options->hhdm)) {
        print_fail("command line: loader.hhdm=%s: not an address", value);
    }
    if (options->hhdm % PAGE_BYTES != 0) {
        print_fail("command line: loader.hhdm=%s: not 4 KiB aligned", value);
    }
    options->hhdm_given = true;
}

static void cmdline_take_slide(struct loader_options *options, const char *value)
{
    if (!text_parse_whole_number(value, &options->slide)) {
        print_fail("command line: loader.slide=%s: not an address", value);
    }
    if (options->slide % PAGE_BYTES != 0) {
        print_fail("command line: loader.slide=%s: not 4 KiB aligned", value);
    }
    options->slide_given = true;
}

static void cmdline_take_la57(struct loader_options *options, const char *value)
{
    uint64_t number;

    if (!text_parse_whole_number(value, &number) || number > 1) {
        print_fail("command line: loader.la57=%s: must be 0 or 1", value);
    }
    options->la57 = number == 1;
}

static void cmdline_take_lost_cpu(struct loader_options *options, const char *value)
{
    if (!text_parse_whole_number(value, &options->lost_cpu)) {
        print_fail("command line: loader.lostcpu=%s: not a local APIC id", value);
    }
    options->lost_cpu_given = true;
}

/* The registers of the display are 16 bits wide. */
static bool cmdline_take_size(const char **at, uint32_t *out)
{
    uint64_t number;

    if (!text_parse_number(at, &number) || number == 0 || number > UINT16_MAX) {
        return false;
    }
    *out = (uint32_t)number;
    return true;
}

static void cmdline_take_mode(struct loader_options *options, const char *value)
{
    struct display_mode mode = { .text = value };
    const char *at = value;

    if (!cmdline_take_size(&at, &mode.width) || *at++ != 'x' ||
        !cmdline_take_size(&at, &mode.height) || *at++ != 'x' ||
        !cmdline_take_size(&at, &mode.bits) || *at != '\0') {
        print_fail("command line: loader.mode=%s: not a mode such as 1024x768x32", value);
    }
    if (mode.bits != 15 && mode.bits != 16 && mode.bits != 24 && mode.bits != 32) {
        print_fail("command line: loader.mode=%s: a pixel has 15, 16, 24 or 32 bits", value);
    }
    if (mode.width % 8 != 0) {
        print_fail("command line: loader.mode=%s: the display takes widths that are multiples of 8",
                   value);
    }
    options->mode = mode;
}

/* Builds "a b c" out of the names that loader.omit knows. */
static const char *cmdline_list_requests(void)
{
    static char list[512];
    size_t at = 0;

    for (unsigned kind = 0; kind < REQUEST_KINDS; kind++) {
        const char *name = request_name((enum request_kind)kind);
        size_t length = text_length(name);

        if (at + length + 2 > sizeof list) {
            break;
        }
        list[at++] = ' ';
        memcpy(&list[at], name, length + 1);
        at += length;
    }
    return list;
}

static void cmdline_take_omit(struct loader_options *options, const char *value)
{
    for (const char *name = value;; name++) {
        size_t length = 0;
        unsigned kind = 0;

        while (name[length] != '\0' && name[length] != ',') {
            length++;
        }
        while (kind < REQUEST_KINDS &&
               !text_span_equals(name, length, request_name((enum request_kind)kind))) {
            kind++;
        }
        if (kind == REQUEST_KINDS) {
            print_fail("command line: loader.omit=%s: no such request; known are%s", value,
                       cmdline_list_requests());
        }
        options->omit |= 1u << kind;
        name += length;
        if (*name == '\0') {
            return;
        }
    }
}

static void cmdline_take_map(struct loader_options *options, const char *value)
{
    if (options->map_count == CMDLINE_MAPS_MAX) {
        print_fail("command line: more than %u loader.map keys", CMDLINE_MAPS_MAX);
    }
    options->maps[options->map_count++] = value;
}

static void cmdline_take_key(struct loader_options *options, const char *name, const char *value)
{
    static const struct {
        const char *name;
        void (*take)(struct loader_options *options, const char *value);
    } keys[] = {
        { "loader.baserev", cmdline_take_baserev },  { "loader.hhdm", cmdline_take_hhdm },
        { "loader.slide", cmdline_take_slide },      { "loader.omit", cmdline_take_omit },
        { "loader.la57", cmdline_take_la57 },        { "loader.map", cmdline_take_map },
        { "loader.lostcpu", cmdline_take_lost_cpu }, { "loader.mode", cmdline_take_mode },
    };

    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (text_equals(name, keys[i].name)) {
            if (value == NULL || *value == '\0') {
                print_fail("command line: %s needs a value", name);
            }
            keys[i].take(options, value);
            return;
        }
    }
    print_fail("command line: unknown key %s; known are loader.baserev loader.hhdm loader.slide "
               "loader.omit loader.la57 loader.map loader.lostcpu loader.mode",
               name);
}

/* Cuts "name=value" in two and hands it on; `word` is the loader's own copy. */
static void cmdline_take_word(struct loader_options *options, char *word)
{
    char *value = word;

    while (*value != '\0' && *value != '=') {
        value++;
    }
    if (*value == '=') {
        *value++ = '\0';
    } else {
        value = NULL;
    }
    cmdline_take_key(options, word, value);
}

static size_t cmdline_word_length(const char *at)
{
    size_t length = 0;

    while (at[length] != '\0' && at[length] != ' ') {
        length++;
    }
    return length;
}

static bool cmdline_is_ours(const char *word, size_t length)
{
    static const char prefix[] = "loader.";

    return length >= sizeof prefix - 1 && memcmp(word, prefix, sizeof prefix - 1) == 0;
}

void cmdline_take(const char *line, struct loader_options *out)
{
    size_t kept = 0, taken = 0;
    bool removed = false;

    out->base_revision = 3;
    out->mode = (struct display_mode){ .width = 1024, .height = 768, .bits = 32 };
    while (*line != '\0') {
        size_t length = cmdline_word_length(line);

        if (cmdline_is_ours(line, length)) {
            char *word = &out->loader_words[taken];

            memcpy(word, line, length);
            word[length] = '\0';
            taken += length + 1;
            cmdline_take_word(out, word);
            line += length;
            while (*line == ' ') {
                line++;
            }
            removed = true;
        } else {
            length += line[length] == ' ';
            memcpy(&out->kernel_line[kept], line, length);
            kept += length;
            line += length;
        }
    }
    while (removed && kept > 0 && out->kernel_line[kept - 1] == ' ') {
        kept--;
    }
    out->kernel_line[kept] = '\0';
}

bool cmdline_has_word(const char *line, const char *word)
{
    while (*line != '\0') {
        size_t length = cmdline_word_length(line);

        if (text_span_equals(line, length, word)) {
            return true;
        }
        line += length + (line[length] == ' ');
    }
    return false;
}
