/* SPDX-License-Identifier: MIT */
/* What the kernel asks for against what loader and machine can give.
 *
 *   base tag asks    loader knows 3 (default)         loader.baserev=2
 *   none, 0          refused                          refused: no identity map here
 *   1, 2             refused                          given, word 2 = 0
 *   3                given, word 2 = 0, word 1 = 3    2 is given, words untouched
 *   4 and above      3 is given, word 1 = 3           2 is given, words untouched
 *
 * An untouched tag is how loaders before revision 3 tell that they give less than was asked. */
#include "loader/negotiate.h"

#include "loader/machine.h"
#include "loader/print.h"

#define STACK_BYTES_LEAST 65536

void negotiate_base_revision(const struct loader_options *options, struct requests *requests)
{
    struct limine_base_tag *tag = requests->base_tag;
    uint64_t asked = tag != NULL ? tag->asked : 0, known = options->base_revision;

    if (known >= 3 && asked < 3) {
        print_fail("kernel: asks for base revision %lu%s; this loader gives 3, or 2 with "
                   "loader.baserev=2",
                   asked, tag != NULL ? "" : " (it has no base revision tag)");
    }
    if (asked == 0) {
        print_fail("kernel: asks for base revision 0%s; this loader gives 3, or 2 and 1 with "
                   "loader.baserev=2",
                   tag != NULL ? "" : " (it has no base revision tag)");
    }
    if (known >= 3) {
        tag->tag1_or_used = known;
    }
    if (asked <= known) {
        tag->asked = 0;
    }
}

unsigned negotiate_levels(const struct loader_options *options, const struct requests *requests)
{
    const struct limine_request *request = requests->of[REQUEST_PAGING_MODE];
    uint64_t most = LIMINE_PAGING_4_LEVEL, least = LIMINE_PAGING_4_LEVEL;

    if (request != NULL) {
        most = request->revision >= 1 ? request->extra[1] : request->extra[0];
        least = request->revision >= 1 ? request->extra[2] : LIMINE_PAGING_4_LEVEL;
    }
    if (least > LIMINE_PAGING_5_LEVEL || least > most) {
        print_fail("kernel: no paging mode lies between its least (%lu) and its most (%lu)", least,
                   most);
    }
    if (options->la57 && !machine_has_5_levels()) {
        print_fail("loader.la57=1: this CPU has no 5-level paging");
    }
    if (least == LIMINE_PAGING_5_LEVEL && !machine_has_5_levels()) {
        print_fail("kernel: needs 5-level paging, which this CPU has not");
    }
    if (options->la57 && most < LIMINE_PAGING_5_LEVEL) {
        print_line("loader.la57=1 has no effect: the kernel does not ask for 5-level paging");
    }
    bool five = least == LIMINE_PAGING_5_LEVEL || (options->la57 && most >= LIMINE_PAGING_5_LEVEL);

    return five ? 5 : 4;
}

uint64_t negotiate_stack_bytes(const struct requests *requests)
{
    const struct limine_request *request = requests->of[REQUEST_STACK_SIZE];

    if (request == NULL || request->extra[0] < STACK_BYTES_LEAST) {
        return STACK_BYTES_LEAST;
    }
    return request->extra[0];
}

uint64_t negotiate_entry(const struct kernel_image *image, const struct requests *requests)
{
    const struct limine_request *request = requests->of[REQUEST_ENTRY_POINT];
    uint64_t entry = request != NULL ? request->extra[0] : image->entry;

    if (!elf_is_code(image, entry)) {
        print_fail("kernel: entry point %#lx lies in no executable segment", entry);
    }
    return entry;
}
