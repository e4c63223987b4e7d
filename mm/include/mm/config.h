/* SPDX-License-Identifier: MIT */
/* Version and build options of mm. This header is part of the public API of mm/.
 *
 * Options are set on the compiler's command line; each has a default here. Semantic versioning:
 * a change of a public header that breaks a caller raises the major number. */
#ifndef MM_CONFIG_H
#define MM_CONFIG_H

#define MM_VERSION_MAJOR 0
#define MM_VERSION_MINOR 1
#define MM_VERSION_PATCH 0
#define MM_VERSION       "0.1.0"

/* 1: check the invariants of mm itself (MM_ASSERT) and the bounds of phys_to_virt. */
#ifndef MM_DEBUG
#define MM_DEBUG 1
#endif

/* 1: tell the port which bytes are free and which are handed out (mm_port_memory_*), so that a
 * sanitizer traps stray accesses. */
#ifndef MM_MEMORY_HOOKS
#define MM_MEMORY_HOOKS 0
#endif

/* 1: a mapping may be writable and executable at once, for kernels that compile code in place. Then
 * paging_audit() counts such pages, but its verdict does not depend on them. */
#ifndef MM_ALLOW_WRITE_EXECUTE
#define MM_ALLOW_WRITE_EXECUTE 0
#endif

#endif
