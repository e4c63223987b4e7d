/* SPDX-License-Identifier: MIT */
/* The parts of struct boot_source that every boot path fills in the same way. Nothing is cut off
 * silently: a line that is too long or a file too many is named and stops the boot. */
#include "loader/source.h"

#include "loader/cmdline.h"
#include "loader/print.h"
#include "loader/text.h"

void source_set_command_line(struct boot_source *source, const char *text)
{
    size_t length = 0;

    if (cmdline_has_word(text, "mello.exit=qemu")) {
        print_fail_exits_qemu();
    }
    while (length < SOURCE_TEXT_BYTES && text[length] != '\0') {
        length++;
    }
    if (length == SOURCE_TEXT_BYTES) {
        print_fail("command line: longer than %u characters", SOURCE_TEXT_BYTES - 1);
    }
    memcpy(source->command_line, text, length + 1);
}

void source_add_file(struct boot_source *source, uint64_t base, uint64_t bytes, const char *path)
{
    if (source->file_count == SOURCE_FILES_MAX) {
        print_fail("%s: more than %u files", source->name, SOURCE_FILES_MAX);
    }
    struct source_file *file = &source->files[source->file_count++];
    size_t length = text_length(path);

    if (length >= sizeof file->path) {
        print_fail("%s: file name longer than %lu characters: %s", source->name,
                   sizeof file->path - 1, path);
    }
    file->base = base;
    file->bytes = bytes;
    memcpy(file->path, path, length + 1);
}

const struct source_file *source_find_module(const struct boot_source *source, const char *path)
{
    for (size_t i = 1; i < source->file_count; i++) {
        if (text_equals(source->files[i].path, path)) {
            return &source->files[i];
        }
    }
    return NULL;
}
