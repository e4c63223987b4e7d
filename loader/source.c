/* SPDX-License-Identifier: MIT */
/* The parts of struct boot_source that every boot path fills in the same way. Nothing is cut off
 * silently: a line that is too long or a file too many is named and stops the boot. */
#include "loader/source.h"

#include "loader/cmdline.h"
#include "loader/print.h"
#include "loader/text.h"

/* Fails by name when the text is too long; returns its length. */
static size_t source_check_line(const char *text)
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
    return length;
}

void source_set_command_line(struct boot_source *source, const char *text)
{
    memcpy(source->command_line, text, source_check_line(text) + 1);
}

void source_set_kernel_line(struct boot_source *source, const char *text)
{
    source_check_line(text);
    source->kernel_line = text;
}

void source_start_screen(const struct boot_source *source)
{
    const struct framebuffer *framebuffer = &source->framebuffer;
    const struct text_screen *text = &source->text_screen;

    if (framebuffer->bytes != 0 && framebuffer->base + framebuffer->bytes <= FOUR_GIB) {
        screen_use_pixels(framebuffer);
    } else if (text->columns != 0 && text->base < FOUR_GIB) {
        screen_use_text(text);
    }
}

static void source_append_file(struct boot_source *source, uint64_t base, uint64_t bytes,
                               const char *path, size_t length)
{
    if (source->file_count == SOURCE_FILES_MAX) {
        print_fail("%s: more than %u files", source->name, SOURCE_FILES_MAX);
    }
    struct source_file *file = &source->files[source->file_count++];

    if (length >= sizeof file->path) {
        print_fail("%s: file name longer than %lu characters: %s", source->name,
                   sizeof file->path - 1, path);
    }
    file->base = base;
    file->bytes = bytes;
    file->string = "";
    memcpy(file->path, path, length);
    file->path[length] = '\0';
}

void source_add_file(struct boot_source *source, uint64_t base, uint64_t bytes, const char *path)
{
    source_append_file(source, base, bytes, path, text_length(path));
}

void source_add_named_file(struct boot_source *source, uint64_t base, uint64_t bytes,
                           const char *line)
{
    size_t length = 0;

    while (line[length] != '\0' && line[length] != ' ') {
        length++;
    }
    source_append_file(source, base, bytes, line, length);
    line += length;
    while (*line == ' ') {
        line++;
    }
    source->files[source->file_count - 1].string = line;
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
