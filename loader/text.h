/* SPDX-License-Identifier: MIT */
/* Strings and numbers out of text, and the four memory functions the compiler calls by itself. */
#ifndef LOADER_TEXT_H
#define LOADER_TEXT_H

#include "loader/base.h"

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *left, const void *right, size_t bytes);

size_t text_length(const char *text);
bool text_equals(const char *left, const char *right);

/* Is [word, word + length) exactly `name`? */
bool text_span_equals(const char *word, size_t length, const char *name);

/* Reads an unsigned number, 0x... or decimal, at *cursor and moves *cursor behind it.
 *   Returns: false, and *cursor as it was, when there is no digit or the value exceeds 64 bits. */
bool text_parse_number(const char **cursor, uint64_t *out);

/* As text_parse_number, and the number must be all of the text. */
bool text_parse_whole_number(const char *text, uint64_t *out);

#endif
