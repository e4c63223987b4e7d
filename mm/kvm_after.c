/* SPDX-License-Identifier: MIT */
/* What changes in the kernel's own mappings after boot (kvm_kernel.c draws the table).
 *
 *      .init            unmapped from the image -> its alias becomes writable -> frames to the pmm
 *      .init data       unmapped from the image -> frames to the pmm
 *      ro_after_init    its alias becomes read-only -> so does the image
 *
 * Invariants: a frame of .init becomes writable only after its executable mapping is gone from every CPU;
 * it is freed only after both. Sealed memory stays sealed. */
#include "mm/kvm_parts.h"

#include <mm/hhdm.h>
#include <mm/log.h>

static bool is_part(struct boot_section part)
{
    return part.begin != part.end;
}

static mm_status_t protect_alias(struct kvm *kvm, const struct boot_info *boot,
                                 struct boot_section part, paging_rights_t rights)
{
    struct mm_extent frames = kvm_section_frames(boot, part);

    return paging_protect_range(kvm->space, hhdm_offset() + frames.base, frames.end - frames.base,
                                rights | PAGING_GLOBAL);
}

static bool is_reserved(struct pmm *pmm, struct mm_extent frames)
{
    for (paddr_t frame = frames.base; frame < frames.end; frame += FRAME_SIZE)
        if (pmm_frame_state(pmm, frame) != PMM_FRAME_RESERVED)
            return false;
    return true;
}

/* Makes the part ordinary memory and frees its frames. The part has leaves of its own in the image, and
 * in the HHDM where its alias is read-only, so no leaf is split and no memory is taken. */
static mm_status_t release_part(struct kvm *kvm, const struct boot_info *boot,
                                struct boot_section part, bool alias_is_constant, uint64_t *bytes)
{
    struct mm_extent frames = kvm_section_frames(boot, part);

    if (!is_part(part))
        return MM_OK;
    mm_status_t status = paging_unmap_range(kvm->space, part.begin, part.end - part.begin);
    if (status == MM_OK && alias_is_constant)
        status = protect_alias(kvm, boot, part, PAGING_WRITE);
    if (status == MM_OK)
        status = pmm_release_range(kvm->space->pmm, frames.base, frames.end);
    if (status == MM_OK)
        *bytes += frames.end - frames.base;
    return status;
}

static mm_status_t check_release(struct kvm *kvm, const struct boot_info *boot)
{
    struct pmm *pmm = kvm->space->pmm;

    if (!mm_is_aligned(boot->init.begin | boot->init.end | boot->init_data.begin |
                           boot->init_data.end,
                       PAGE_SIZE))
        return MM_NOT_ALIGNED;
    if (!is_reserved(pmm, kvm_section_frames(boot, boot->init)) ||
        !is_reserved(pmm, kvm_section_frames(boot, boot->init_data)))
        return MM_INVALID_ADDRESS;
    return MM_OK;
}

mm_status_t kvm_release_init(struct kvm *kvm, const struct boot_info *boot, uint64_t *bytes)
{
    uint64_t released = 0;

    if (!kvm->init_released) {
        mm_status_t status = check_release(kvm, boot);
        if (status != MM_OK)
            return status;
        kvm->init_released = true;
        status = release_part(kvm, boot, boot->init, true, &released);
        mm_status_t second = release_part(kvm, boot, boot->init_data, false, &released);
        if (status != MM_OK || second != MM_OK) {
            *bytes = released;
            return status != MM_OK ? status : second;
        }
    }
    *bytes = released;
    return MM_OK;
}

/* The alias first: it may be a part of a large leaf, and splitting that may fail. */
mm_status_t kvm_seal(struct kvm *kvm, const struct boot_info *boot)
{
    struct boot_section part = boot->ro_after_init;

    if (!mm_is_aligned(part.begin | part.end, PAGE_SIZE))
        return MM_NOT_ALIGNED;
    if (is_part(part) && !kvm->constants_sealed) {
        mm_status_t status = protect_alias(kvm, boot, part, PAGING_READ);
        if (status != MM_OK)
            return status;
        status = paging_protect_range(kvm->space, part.begin, part.end - part.begin,
                                      PAGING_READ | PAGING_GLOBAL);
        if (status != MM_OK)
            return status;
    }
    kvm->constants_sealed = true;
    return MM_OK;
}
