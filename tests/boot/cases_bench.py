# SPDX-License-Identifier: MIT
"""The kernel's benchmark, mm.bench: what calls of the memory manager cost, in instructions.

Under --icount a boot is exact, so that a regression of a few per cent is seen on any machine. What is
expected stands in insns.txt, which insns.py writes.
"""

import json
import re

import insns
from machine import expect
from suite import add

SUITES = {"frames", "paging", "heap"}


def bench(view, suite, *options):
    boot = view.mello("run", "--headless", *options, "--timeout", str(insns.SECONDS), "--cmdline",
                      f"mm.bench={suite}", seconds=insns.SECONDS + 60)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect("Hello from MelloOS" in boot.text, "no greeting after the benchmark")
    return boot.text


def held(view):
    """All workloads are measured, within 3 % of what was written down for this build."""
    text = bench(view, "all", "--icount")
    found = insns.values_of(text)
    wanted = all_workloads(view)
    expect(set(found) == wanted, f"measured, but not in the sources, or the other way round: "
                                 f"{sorted(set(found) ^ wanted)}")
    build = insns.build_key(*view.tree.compiler())
    written = insns.read().get(build)
    if written is None:
        # All workloads are there; what they should cost nobody knows.
        print(f"bench/instructions: {' '.join(build)}: not compared, insns.txt has no such build",
              flush=True)
        return
    wrong = sorted(insns.differences(written, found))
    expect(not wrong, "\n".join(["not as written down (python3 tests/boot/insns.py --write, if that "
                                 "is meant):", *wrong]))


def exact(view):
    """Two boots count the same instructions."""
    first, second = (insns.values_of(bench(view, "frames", "--icount")) for _ in range(2))
    expect(first and first == second, f"{first} and {second}")


def ticks(view):
    """Without --icount the unit is not instructions; one suite alone runs."""
    lines = re.findall(r"^\[BENCH\] .*$", bench(view, "frames"), re.M)
    expect(lines, "no line")
    for line in lines:
        expect(re.fullmatch(r"\[BENCH\] suite=frames workload=\w+ unit=ticks value=\d+", line), line)


def little_memory(view):
    """What there is no memory for is left out by name, and the boot is a good one."""
    text = bench(view, "all", "--memory", "6M")
    lines = re.findall(r"^\[BENCH\] .*$", text, re.M)
    skipped = [line for line in lines if "skipped" in line]
    expect(skipped == [f"[BENCH] suite={work} skipped: too little memory" for work in
                       ("frames workload=pair_2m", "heap workload=realloc_2m", "heap workload=realloc_16m")],
           f"skipped: {skipped}")
    found = {(suite, work) for suite, work in re.findall(r"suite=(\w+) workload=(\w+)", text)}
    expect(len(lines) == len(found) and found == all_workloads(view), f"lines: {lines}")


def all_workloads(view):
    """Of the sources' tables."""
    found = set()
    for suite in SUITES:
        source = (view.tree.root / f"kernel/bench_{suite}.c").read_text()
        table = re.search(rf"bench_work {suite}_works\[\] = {{(.*?)^}};", source, re.S | re.M)[1]
        found |= {(suite, work) for work in re.findall(r'{ "(\w+)",', table)}
    return found


def nonsense(view):
    boot = view.mello("run", "--headless", "--cmdline", "mm.bench=nonsense")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect("mm.bench takes frames, paging, heap or all" in boot.text, "no warning")
    expect("[BENCH]" not in boot.text, "something was measured")


def program(view):
    """./mello bench: options go to the program as they are, paths are the caller's."""
    out = view.folder() / "bench.json"
    boot = view.mello("bench", "--tiny", "--workload", "pair_hot", "--json", str(out), "frames",
                      seconds=600)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    rows = json.loads(out.read_text())["rows"]
    expect(any(row["workload"] == "pair_hot" and row["subject"] == "mello" for row in rows),
           "no row of pair_hot")
    boot = view.mello("bench", "nonsense")
    expect(boot.status == 2 and "nonsense" in boot.text, f"status {boot.status} for a wrong suite")


def refused(view, *words):
    boot = view.mello("run", *words)
    expect(boot.status == 2 and "--icount" in boot.text, f"status {boot.status}: {boot.text[:200]}")


add("bench/instructions", held)
add("bench/exact", exact)
add("bench/ticks", ticks)
add("bench/little-memory", little_memory)
add("bench/nonsense", nonsense)
add("bench/program", program)
add("bench/icount-needs-headless", refused, "--icount")
add("bench/icount-needs-tcg", refused, "--headless", "--icount", "--accel", "kvm")
