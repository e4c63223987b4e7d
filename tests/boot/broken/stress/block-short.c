/* SPDX-License-Identifier: MIT */
/* wrap: stress_run kmalloc */
/* Now and then a block is half as large as was asked for: its end is the next owner's.
 *
 * seen as: block at 0x[0-9a-f]+ .*(two owners|lost its stamp|is overwritten|is not zero).* */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(void *, kmalloc, size_t bytes);

void *__wrap_kmalloc(size_t bytes)
{
    return __real_kmalloc(broken_now && bytes > 256 && bytes % 2 == 0 ? bytes / 2 : bytes);
}
