/* SPDX-License-Identifier: MIT */
/* Rows that loader.map adds to the map the kernel gets: lies on purpose, to test the kernel.
 *
 *   loader.map=+0x100000:0x1000:1     one row: base, length, type; hexadecimal or decimal
 *   loader.map=odd.map                a module of that name, with rows of text:
 *                                     0x0000000000100000 0x0000000000001000 0x1
 *
 * Types are the protocol's numbers. Nothing is corrected: rows may overlap, be unaligned, wrap. The
 * loader itself never reads them; it allocates by the true map. One walk over all values serves
 * twice, first to check and count, then to copy, so that no buffer limits how many there are. */
#include "loader/maprows.h"

#include "loader/print.h"
#include "loader/text.h"

/* Reads "base:length:type" with any one separator character; false when it is something else. */
static bool maprows_parse(const char **cursor, char separator, struct limine_memmap_entry *out)
{
    uint64_t *fields[] = { &out->base, &out->length, &out->type };

    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        if (i > 0 && *(*cursor)++ != separator) {
            return false;
        }
        while (separator == ' ' && **cursor == ' ') {
            (*cursor)++;
        }
        if (!text_parse_number(cursor, fields[i])) {
            return false;
        }
    }
    return true;
}

static size_t maprows_walk_inline(const char *value, struct limine_memmap_entry *out)
{
    struct limine_memmap_entry row;
    const char *cursor = value + 1;

    if (!maprows_parse(&cursor, ':', &row) || *cursor != '\0') {
        print_fail("command line: loader.map=%s: must be +base:length:type", value);
    }
    if (out != NULL) {
        *out = row;
    }
    return 1;
}

/* Copies the next line of the file into `line`; false at the end of the file. */
static bool maprows_next_line(const struct source_file *file, uint64_t *offset, char *line,
                              size_t line_bytes)
{
    const char *text = phys_pointer(file->base);
    size_t length = 0;

    if (*offset >= file->bytes) {
        return false;
    }
    while (*offset < file->bytes && text[*offset] != '\n') {
        if (length + 1 == line_bytes) {
            print_fail("%s: a line is longer than %lu characters", file->path, line_bytes - 1);
        }
        line[length++] = text[(*offset)++];
    }
    ++*offset;
    line[length] = '\0';
    return true;
}

static size_t maprows_walk_file(const struct source_file *file, struct limine_memmap_entry *out)
{
    char line[96];
    uint64_t offset = 0;
    size_t rows = 0;

    for (unsigned number = 1; maprows_next_line(file, &offset, line, sizeof line); number++) {
        struct limine_memmap_entry row;
        const char *cursor = line;

        if (*cursor == '\0' || *cursor == '#') {
            continue;
        }
        if (!maprows_parse(&cursor, ' ', &row) || *cursor != '\0') {
            print_fail("%s: line %u is not \"0xbase 0xlength 0xtype\"", file->path, number);
        }
        if (out != NULL) {
            out[rows] = row;
        }
        rows++;
    }
    return rows;
}

static size_t maprows_walk(const struct loader_options *options, const struct boot_source *source,
                           struct limine_memmap_entry *out)
{
    size_t rows = 0;

    for (size_t i = 0; i < options->map_count; i++) {
        struct limine_memmap_entry *next = out != NULL ? out + rows : NULL;
        const char *value = options->maps[i];

        if (*value == '+') {
            rows += maprows_walk_inline(value, next);
            continue;
        }
        const struct source_file *file = source_find_module(source, value);
        if (file == NULL) {
            print_fail("command line: loader.map=%s: no module of that name was given", value);
        }
        rows += maprows_walk_file(file, next);
    }
    return rows;
}

size_t maprows_count(const struct loader_options *options, const struct boot_source *source)
{
    return maprows_walk(options, source, NULL);
}

void maprows_copy(const struct loader_options *options, const struct boot_source *source,
                  struct limine_memmap_entry *out)
{
    maprows_walk(options, source, out);
}
