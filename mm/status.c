/* SPDX-License-Identifier: MIT */
/* Names of the statuses, for log lines. */
#include <mm/status.h>

static const char *const status_names[MM_STATUS_COUNT] = {
    [MM_OK] = "ok",
    [MM_OUT_OF_MEMORY] = "out of memory",
    [MM_INVALID_ADDRESS] = "invalid address",
    [MM_INVALID_ARGUMENT] = "invalid argument",
    [MM_NOT_ALIGNED] = "not aligned",
    [MM_ALREADY_MAPPED] = "already mapped",
    [MM_NOT_MAPPED] = "not mapped",
    [MM_LARGE_PAGE] = "part of a large page",
    [MM_NOT_FREE] = "not free",
    [MM_NOT_CONTIGUOUS] = "not contiguous",
    [MM_UNSUPPORTED] = "not supported by the CPU",
    [MM_NO_USABLE_MEMORY] = "no usable memory",
};

const char *mm_status_name(mm_status_t status)
{
    return (unsigned)status < MM_STATUS_COUNT ? status_names[status] : "unknown status";
}
