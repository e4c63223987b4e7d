/* SPDX-License-Identifier: MIT */
/* wrap: stress_run kmalloc kfree_sized */
/* Now and then a block is half as large as was asked for: its end is the next owner's. Its size is told
 * to nobody when it is freed, so that nothing but the owners can see it.
 *
 * seen as: block at 0x[0-9a-f]+ .*(two owners|lost its stamp|has lost byte|is overwritten|is not zero).* */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(void *, kmalloc, size_t bytes);

void *__wrap_kmalloc(size_t bytes)
{
    return __real_kmalloc(broken_now && bytes > 256 && bytes % 2 == 0 ? bytes / 2 : bytes);
}

BROKEN_WRAPS(void, kfree_sized, void *block, size_t bytes);

void __wrap_kfree_sized(void *block, size_t bytes)
{
    (void)bytes;
    kfree(block);
}
