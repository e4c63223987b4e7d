#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The benchmark program runs, and its JSON, plots and tables are what it promises. Of a number only
this is looked at: it was measured, so it is positive.

    python3 tests/host/linux/bench.py build/bench
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = ("pair_hot pair_hot_zeroed pair_known_zero batch512 fill_get fill_free random_free refill "
          "full90 last_free pair_2m found_2m_50 found_2m_90 fail_request fail_request_2m "
          "meta_kib_per_gib init_1g init_16g").split()
FRAMES_2 = "mt2_hot mt2_batch mt2_cross".split()
PAGING = ("map_4k protect_4k unmap_4k translate_random map_range_4k unmap_range_4k map_range_2m "
          "split_2m").split()
HEAP = ("calloc_free_16 calloc_free_1m malloc_free_64 const_64 const_256 live10k larson2 cross_free "
        "worst_op peak_over_live").split()
TEXTS = "refill split_2m const_".split()
SUBJECTS = "mello naive stack stack_irq list linux".split()


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
        may_be_none = row["unit"] == "percent" or row["workload"].startswith("meta_")
        check(row["min"] > 0 or may_be_none and row["min"] == 0, f"not measured: {row}")
    for goal in document["goals"]:
        ratio, limit = goal["ratio"], goal["goal"]
        met = ratio >= limit if goal["at_least"] else ratio <= limit
        check(goal["name"] and goal["peer"] and goal["met"] == met, f"goal: {goal}")


def check_frames(document):
    rows = {(row["workload"], row["subject"]): row for row in document["rows"]
            if row["suite"] == "frames"}
    two = FRAMES_2 if len(os.sched_getaffinity(0)) > 1 else []
    for workload in FRAMES + two:
        check((workload, "mello") in rows, f"no row of mello for {workload}")
    for workload in two:
        check(rows[workload, "mello"]["threads"] == 2, f"{workload}: not of two threads")
    for subject in SUBJECTS:
        check(("pair_hot", subject) in rows, f"no row of {subject} for pair_hot")
        check("p9999" in rows["full90", subject], f"{subject}: no latencies at 90 %")
    check(any(goal["suite"] == "frames" for goal in document["goals"]), "no goals of frames")


def check_paging(document):
    rows = {(row["workload"], row["subject"]) for row in document["rows"]
            if row["suite"] == "paging"}
    for subject in ("mello", "walk", "walk_lock"):
        for workload in PAGING:
            check((workload, subject) in rows, f"no row of {subject} for {workload}")
    check(("audit_per_gib", "mello") in rows, "no row of the audit")
    check(any(goal["suite"] == "paging" for goal in document["goals"]), "no goals of paging")


def check_heap(document):
    rows = {(row["workload"], row["subject"]): row for row in document["rows"]
            if row["suite"] == "heap"}
    for subject in ("mello", "mello_full", "glibc", "seed"):
        for workload in HEAP:
            check((workload, subject) in rows, f"no row of {subject} for {workload}")
    check("p9999" in rows["worst_op", "mello"], "no latencies of the heap")
    check(any(goal["suite"] == "heap" for goal in document["goals"]), "no goals of the heap")


def check_choices(program, folder):
    """What was asked for is measured, and nothing else."""
    out = Path(folder, "chosen.json")
    for words in (["--workload", "refill", "frames"], ["--workload=split_2m", "--suite=paging"],
                  ["--subject", "mello", "--workload", "const_", "heap"]):
        result = run(program, "--tiny", "--json", str(out), *words)
        check(result.returncode == 0, f"{words}: status {result.returncode}\n{result.stderr}")
        rows = json.loads(out.read_text())["rows"]
        check(rows and {row["suite"] for row in rows} <= set(words[-1].split("=")),
              f"{words}: {rows}")
        wanted = [word.split("=")[-1] for word in words if word in TEXTS or word[11:] in TEXTS]
        check(len(wanted) == 1 and all(wanted[0] in row["workload"] for row in rows),
              f"{words}: {rows}")
        if "--subject" in words:
            check({row["subject"] for row in rows} == {"mello"}, f"{words}: {rows}")
            check({row["workload"] for row in rows} == {"const_64", "const_256"}, f"{words}: {rows}")


def check_files(program, folder):
    """Tables go between the marks of their suite, plots into the folder; what cannot be written is said
    before anything is measured."""
    page = Path(folder, "page.md")
    page.write_text("before\n<!-- bench:paging -->\nold\n<!-- bench:paging end -->\n"
                    "<!-- bench:heap -->\nkept\n<!-- bench:heap end -->\nafter\n")
    result = run(program, "--tiny", "--docs", str(page), "paging")
    text = page.read_text()
    check(result.returncode == 0 and "| map_4k" in text and "old" not in text and "kept" in text
          and text.startswith("before\n") and text.endswith("after\n"), f"--docs wrote:\n{text}")
    for words in (["--plots", "/dev/null"], ["--plots", folder + "/none"],
                  ["--json", folder + "/none/x"], ["--docs", folder + "/none.md"]):
        result = run(program, "--tiny", *words, "paging")
        check(result.returncode == 1 and "bench: cannot " in result.stderr
              and words[1] in result.stderr and result.stdout == "",
              f"{words}: status {result.returncode}\n{result.stdout}{result.stderr}")
    plots = Path(folder, "plots")
    plots.mkdir()
    result = run(program, "--tiny", "--workload", "full90", "--plots", str(plots), "frames")
    picture = Path(plots, "frames-latency.svg")
    if shutil.which("gnuplot"):
        check(result.returncode == 0 and "<svg" in picture.read_text()
              and "SPDX-License-Identifier" in picture.read_text(), f"--plots: {result.stderr}")
    else:
        check(result.returncode == 1 and "no plot frames-latency.svg" in result.stderr
              and not picture.exists(), f"--plots without gnuplot: {result.stderr}")


def main():
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        result = run(program, "--tiny", "--rounds", "2", "--json", str(out),
                     "frames", "paging", "heap")
        check(result.returncode == 0, f"status {result.returncode}\n{result.stdout}{result.stderr}")
        document = json.loads(out.read_text())
        check_choices(program, folder)
        check_files(program, folder)
    check_numbers(document)
    check_frames(document)
    check_paging(document)
    check_heap(document)
    check("pair_hot" in result.stdout and "frame pair, hot" in result.stdout, "no tables")
    check(run(program, "--help").returncode == 0, "--help")
    for wrong in (["--rounds", "0"], ["--rounds", "513"], ["nonsense"], ["--nonsense"], ["--json"],
                  ["--tiny", "--workload", "nonsense", "paging"],
                  ["--tiny", "--subject", "nobody", "paging"]):
        check(run(program, *wrong).returncode == 2, f"{wrong} is not refused")


main()
