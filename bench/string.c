/* SPDX-License-Identifier: MIT */
/* The kernel's memory functions under the names that the linker's --wrap looks for. Nothing is
 * written here: what is measured has to be what the kernel runs. */
#include <stddef.h>

void *__wrap_memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *__wrap_memmove(void *to, const void *from, size_t bytes);
void *__wrap_memset(void *to, int value, size_t bytes);
int __wrap_memcmp(const void *a, const void *b, size_t bytes);

#define memcpy  __wrap_memcpy
#define memmove __wrap_memmove
#define memset  __wrap_memset
#define memcmp  __wrap_memcmp
#include "kernel/string.c"
