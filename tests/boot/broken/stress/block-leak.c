/* SPDX-License-Identifier: MIT */
/* wrap: stress_run kfree */
/* Now and then a freed block does not come back.
 *
 * seen as: [0-9]+ heap blocks are taken, not [0-9]+ */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(void, kfree, void *block);

void __wrap_kfree(void *block)
{
    if (!broken_this_time())
        __real_kfree(block);
}
