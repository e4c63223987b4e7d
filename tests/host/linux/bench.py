#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The benchmark program runs, and its JSON is what it promises. No number is looked at.

    python3 tests/host/linux/bench.py build/bench
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = ("pair_hot pair_hot_zeroed pair_known_zero batch512 fill_get fill_free random_free refill "
          "full90 last_free pair_2m found_2m_50 found_2m_90 fail_request meta_kib_per_gib init_1g "
          "init_16g").split()
HEAP = ("calloc_free_16 calloc_free_1m malloc_free_64 const_64 const_256 live10k larson2 cross_free "
        "worst_op peak_over_live").split()
SUBJECTS = "mello naive stack list linux".split()


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=250)


def check(condition, why):
    if not condition:
        sys.exit(f"bench.py: {why}")


def check_numbers(document):
    for row in document["rows"]:
        for key in ("suite", "workload", "subject", "unit"):
            check(isinstance(row[key], str) and row[key], f"row without {key}: {row}")
        check(row["threads"] in (1, 2), f"threads: {row}")
        for key in ("median", "min"):
            check(isinstance(row[key], (int, float)) and math.isfinite(row[key]), f"{key}: {row}")
        check(row["min"] <= row["median"], f"the minimum lies above the median: {row}")
    for goal in document["goals"]:
        ratio, limit = goal["ratio"], goal["goal"]
        met = ratio >= limit if goal["at_least"] else ratio <= limit
        check(goal["name"] and goal["peer"] and goal["met"] == met, f"goal: {goal}")


def check_frames(document):
    rows = {(row["workload"], row["subject"]): row for row in document["rows"]
            if row["suite"] == "frames"}
    for workload in FRAMES:
        check((workload, "mello") in rows, f"no row of mello for {workload}")
    for subject in SUBJECTS:
        check(("pair_hot", subject) in rows, f"no row of {subject} for pair_hot")
        check("p9999" in rows["full90", subject], f"{subject}: no latencies at 90 %")
    check(any(goal["suite"] == "frames" for goal in document["goals"]), "no goals of frames")


def check_heap(document):
    rows = {(row["workload"], row["subject"]): row for row in document["rows"]
            if row["suite"] == "heap"}
    for subject in ("mello", "mello_full", "glibc", "seed"):
        for workload in HEAP:
            check((workload, subject) in rows, f"no row of {subject} for {workload}")
    check("p9999" in rows["worst_op", "mello"], "no latencies of the heap")
    check(any(goal["suite"] == "heap" for goal in document["goals"]), "no goals of the heap")


def main():
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        result = run(program, "--tiny", "--rounds", "1", "--json", str(out), "frames", "heap")
        check(result.returncode == 0, f"status {result.returncode}\n{result.stdout}{result.stderr}")
        document = json.loads(out.read_text())
    check_numbers(document)
    check_frames(document)
    check_heap(document)
    check("pair_hot" in result.stdout and "frame pair, hot" in result.stdout, "no tables")
    check(run(program, "--help").returncode == 0, "--help")
    for wrong in (["--rounds", "0"], ["nonsense"], ["--nonsense"], ["--json"]):
        check(run(program, *wrong).returncode == 2, f"{wrong} is not refused")


main()
