# SPDX-License-Identifier: MIT
"""Slow campaigns (--all): many sizes, random lies, random places. Every seed is in the test's name,
so that --filter NAME repeats exactly that boot.
"""

import random

from cases_boot import boot_direct
from cases_file import too_small
from cases_map import RAM_END, boot_lie
from cases_request import HHDM_END, HIGHER_HALF, boot_with
from machine import GIB, MIB, bytes_of, expect
from suite import add

RANDOM_MAPS = 100
RANDOM_PLACES = 40
SIZES = ["9M", "64M", "513M", "3G", "3584M", "5G", "20G", "64G"]

# Where lies may fall: above mm's own metadata (taken at 16 MiB) and below the loader's memory (at
# the top); a lie about memory that holds the kernel is a different test.
LIE_BASE, LIE_END = 0x300_0000, RAM_END - 0x400_0000


def random_row(dice):
    """One row of any kind that can be told about free memory or about none."""
    kind = dice.choice([0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 9, 16, 20, 2954887168])
    shape = dice.random()
    if shape < 0.1:
        base, length = dice.randrange(1 << 64), dice.randrange(1 << 64)
        return (base | 1 << 40, length, kind)  # beyond the CPU, often wrapping
    if shape < 0.15:
        return (dice.randrange(LIE_BASE, LIE_END), 0, kind)
    base = dice.randrange(LIE_BASE, LIE_END)
    length = dice.choice([1, 0x800, 0x1000, 0x1001, 0x10_0000, dice.randrange(1, 0x80_0000)])
    if dice.random() < 0.5:
        base, length = base & ~0xFFF, (length + 0xFFF) & ~0xFFF
    return (base, min(length, LIE_END - base), kind)


def boot_random_map(view, seed):
    dice = random.Random(f"map {seed}")
    boot_lie(view, [random_row(dice) for _ in range(dice.randrange(1, 60))])


def boot_random_place(view, seed):
    """A random direct map and a random place for the kernel together."""
    dice = random.Random(f"place {seed}")
    memory = dice.choice(["64M", "512M", "5G"])
    cpu = dice.choice(["qemu64", "max"])
    alignment = dice.choice([4096, 2 * MIB, GIB])
    room = HHDM_END - HIGHER_HALF - bytes_of(memory) - 8 * GIB
    offset = HIGHER_HALF + dice.randrange(room // alignment) * alignment
    low = (0x200_0000, bytes_of(min(memory, "512M", key=bytes_of)) - 0x100_0000)
    place = dice.choice([low, (0x1_0000_0000, 0x1_3F00_0000)] if memory == "5G" else [low])
    slide = dice.randrange(*place) & ~0xFFF
    keys = [f"loader.hhdm={offset:#x}", f"loader.slide={slide:#x}"]
    base_revision = dice.choice([2, 3, 3])
    keys.append(f"loader.baserev={base_revision}")
    log = boot_with(view, memory, " ".join(keys), cpu, base_revision)
    places = [base for base, end, kind in log.ranges() if kind == "executable"]
    expect(slide in places, f"no executable range at {slide:#x}")


add("campaign/direct-2T-max", boot_direct, "2T", "max", slow=True)
# Below, QEMU lays the kernel file over the loader; ./mello refuses such a size.
for _size in range(4, 17):
    add(f"campaign/memory-{_size}M", too_small, f"{_size}M", slow=True)
for _size in range(3648, 4608, 16):
    add(f"campaign/memory-{_size}K", too_small, f"{_size}K", slow=True)
for _size in SIZES:
    for _cpu in ("qemu64", "max"):
        for _machine in ("pc", "q35"):
            add(f"campaign/direct-{_size}-{_cpu}-{_machine}", boot_direct, _size, _cpu, _machine,
                slow=True)
for _seed in range(RANDOM_MAPS):
    add(f"campaign/map-{_seed}", boot_random_map, _seed, slow=True)
for _seed in range(RANDOM_PLACES):
    add(f"campaign/place-{_seed}", boot_random_place, _seed, slow=True)
