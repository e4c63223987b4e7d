/* SPDX-License-Identifier: MIT */
/* MELLO_MALLOC in the environment, turned into the command line that mm understands.
 *
 *      MELLO_MALLOC=harden=full,log=info   ->   mm.harden=full mm.log=info
 *
 * The first malloc may come before the C library has set up `environ`: then the environment is read
 * from /proc/self/environ, by bare system calls. A program with more rights than its caller
 * (AT_SECURE) ignores the variable. */
#include "malloc/parts.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define NAME       "MELLO_MALLOC="
#define NAME_BYTES (sizeof(NAME) - 1)

extern char **environ;

/* The bytes of /proc/self/environ, one at a time. */
struct reader {
    int fd;
    size_t at, end;
    char buffer[1024];
};

/* The next byte; -1 at the end. */
static int next_byte(struct reader *reader)
{
    if (reader->at == reader->end) {
        ssize_t got = read(reader->fd, reader->buffer, sizeof(reader->buffer));

        if (got <= 0)
            return -1;
        reader->at = 0;
        reader->end = (size_t)got;
    }
    return (unsigned char)reader->buffer[reader->at++];
}

/* Reads one variable: its value into value[capacity] if the name is ours. */
static bool read_variable(struct reader *reader, char *value, size_t capacity, bool *more)
{
    size_t matched = 0, length = 0;
    int byte;

    while ((byte = next_byte(reader)) > 0) {
        if (matched == NAME_BYTES) {
            if (length + 1 < capacity)
                value[length++] = (char)byte;
        } else if (matched < NAME_BYTES) {
            matched = byte == NAME[matched] ? matched + 1 : NAME_BYTES + 1;
        }
    }
    *more = byte == 0;
    value[length] = '\0';
    return matched == NAME_BYTES;
}

static void read_proc(char *value, size_t capacity)
{
    struct reader reader = { .fd = open("/proc/self/environ", O_RDONLY | O_CLOEXEC) };
    bool more = reader.fd >= 0;
    bool found = false;

    while (more && !found)
        found = read_variable(&reader, value, capacity, &more);
    if (!found)
        value[0] = '\0';
    if (reader.fd >= 0)
        close(reader.fd);
}

static void copy_text(char *to, size_t capacity, const char *from)
{
    size_t length = 0;

    while (length + 1 < capacity && from[length] != '\0') {
        to[length] = from[length];
        length++;
    }
    to[length] = '\0';
}

static void read_environ(char *value, size_t capacity)
{
    value[0] = '\0';
    for (char **at = environ; *at != NULL; at++) {
        if (strncmp(*at, NAME, NAME_BYTES) == 0) {
            copy_text(value, capacity, *at + NAME_BYTES);
            return;
        }
    }
}

static bool is_allowed(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '=' ||
           c == '.' || c == ':' || c == '_' || c == '-' || c == '+' || c == '/';
}

/* One word "key=value" behind what the line holds. */
static void append_word(char *line, size_t capacity, const char *word, size_t bytes)
{
    size_t length = strlen(line);

    if (bytes == 0 || length + bytes + sizeof(" mm.") > capacity)
        return;
    for (size_t i = 0; i < bytes; i++)
        if (!is_allowed(word[i]))
            return;
    memcpy(line + length, " mm.", 4);
    memcpy(line + length + 4, word, bytes);
    line[length + 4 + bytes] = '\0';
}

void malloc_options_read(char *line, size_t capacity)
{
    char value[256] = "";

    line[0] = '\0';
    if (getauxval(AT_SECURE) != 0)
        return;
    if (environ != NULL)
        read_environ(value, sizeof(value));
    else
        read_proc(value, sizeof(value));
    for (const char *at = value; *at != '\0';) {
        size_t bytes = strcspn(at, ",");

        append_word(line, capacity, at, bytes);
        at += bytes + (at[bytes] == ',');
    }
}
