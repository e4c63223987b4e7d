/* SPDX-License-Identifier: MIT */
/* wrap: stress_run mm_port_tlb_shootdown */
/* A TLB shootdown flushes the CPU that asks for it and no other; in mello.test=shootdown too.
 *
 * seen as: .*: a stale translation */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(void, mm_port_tlb_shootdown, const struct mm_tlb_batch *batch);

void __wrap_mm_port_tlb_shootdown(const struct mm_tlb_batch *batch)
{
    shootdown_flush(batch);
}
