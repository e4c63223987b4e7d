/* SPDX-License-Identifier: MIT */
/* The higher-half direct map: one offset, read by every CPU.
 *
 * The offset is stored with release order after the end, so that a CPU that sees the offset sees the
 * bound that belongs to it. Reading it is one plain load on x86-64. */
#include <mm/hhdm.h>
#include <mm/log.h>

static MM_RO_AFTER_INIT uint64_t offset_value;
static MM_RO_AFTER_INIT paddr_t end_value;

MM_INIT void init_hhdm(uint64_t offset, paddr_t end)
{
    __atomic_store_n(&end_value, end, __ATOMIC_RELAXED);
    __atomic_store_n(&offset_value, offset, __ATOMIC_RELEASE);
}

uint64_t hhdm_offset(void)
{
    return __atomic_load_n(&offset_value, __ATOMIC_ACQUIRE);
}

paddr_t hhdm_end(void)
{
    return __atomic_load_n(&end_value, __ATOMIC_RELAXED);
}

void *phys_to_virt(paddr_t address)
{
    MM_ASSERT(address < hhdm_end());
    return (void *)(uintptr_t)(hhdm_offset() + address);
}

paddr_t virt_to_phys(const void *address)
{
    paddr_t physical = (uintptr_t)address - hhdm_offset();

    MM_ASSERT(physical < hhdm_end());
    return physical;
}
