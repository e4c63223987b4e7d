# SPDX-License-Identifier: MIT
"""The rules for memory maps once more, short and slow: what the kernel's normal form must be.

Rows are (base, length, type) with the numbers of the Limine protocol. The address space is cut at
every border; each piece gets the strictest type that covers it. Nothing here is shared with
mm/memmap.c: the tests compare the two.
"""

# From the least to the most restrictive (mm/include/mm/memmap.h); numbers from 8 on are reserved.
NAMES = ["usable", "loader reclaimable", "ACPI reclaimable", "executable", "framebuffer",
         "ACPI NVS", "reserved", "bad"]
TYPE_NAMES = ["usable", "reserved", "ACPI reclaimable", "ACPI NVS", "bad", "loader reclaimable",
              "executable", "framebuffer"]
FRAME = 4096


def name_of_type(number):
    return TYPE_NAMES[number] if number < len(TYPE_NAMES) else "reserved"


def clean(row, limit):
    """(base, end, name) clipped and rounded, or None where the rules drop the row."""
    base, length, number = row
    name, end = name_of_type(number), base + length
    if length == 0 or base >= limit or (name == "usable" and end > 1 << 64):
        return None
    end = min(end, limit)
    if name == "usable":
        base, end = -(-base // FRAME) * FRAME, end // FRAME * FRAME
    else:
        base, end = base // FRAME * FRAME, -(-end // FRAME) * FRAME
    return (base, end, name) if base < end else None


def normal_form(ranges, rows, limit):
    """What `ranges`, a normal form of (base, end, name), becomes with the rows added.

    The metadata in it is usable memory that mm has taken; with the rows it may take another."""
    parts = [(base, end, "usable" if name == "metadata" else name) for base, end, name in ranges]
    parts += [part for row in rows if (part := clean(row, limit))]
    borders = sorted({border for base, end, _ in parts for border in (base, end)})
    result = []
    for base, end in zip(borders, borders[1:]):
        names = [name for low, high, name in parts if low <= base and end <= high]
        if not names:
            continue
        name = max(names, key=NAMES.index)
        if result and result[-1][1] == base and result[-1][2] == name:
            result[-1] = (result[-1][0], end, name)
        else:
            result.append((base, end, name))
    return result


def without_owner(ranges):
    """The ranges with usable memory, its metadata and the loader's memory as one type, merged.

    How much the loader takes depends on how much it has to say; it takes from usable memory."""
    owners = {"usable": "memory", "metadata": "memory", "loader reclaimable": "memory"}
    result = []
    for base, end, name in ranges:
        name = owners.get(name, name)
        if result and result[-1][1] == base and result[-1][2] == name:
            result[-1] = (result[-1][0], end, name)
        else:
            result.append((base, end, name))
    return result
