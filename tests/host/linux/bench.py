#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The benchmark program runs, and its JSON, plots and tables are what it promises. Of a number only
this is looked at: it was measured, so it is positive.

    python3 tests/host/linux/bench.py build/bench
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

FRAMES = ("pair_hot pair_hot_zeroed pair_known_zero batch512 fill_get fill_free random_free refill "
          "full90 last_free pair_2m found_2m_50 found_2m_90 fail_request fail_request_2m "
          "fail_request_run meta_kib_per_gib init_1g init_16g").split()
FRAMES_2 = "mt2_hot mt2_batch mt2_cross".split()
PAGING = ("map_4k protect_4k unmap_4k translate_random map_range_4k unmap_range_4k map_range_2m "
          "split_2m").split()
HEAP = ("calloc_free_16 calloc_free_1m malloc_free_64 const_64 const_256 realloc_grow realloc_1m_large "
        "live10k larson1 larson2 cross_free worst_op peak_over_live").split()
TEXTS = "refill split_2m map_range const_".split()
SUBJECTS = "mello naive stack stack_irq list linux".split()
SIZES = "16 64 256 1k 4k 64k 1m".split()

# Each plot and the workloads that it shows.
PLOTS = {
    "frames-latency": "full90 timer_floor".split(),
    "frames-init": "init_1g init_16g init_1t init_64t".split(),
    "paging-calls": "map_4k protect_4k unmap_4k translate_random split_2m".split(),
    "paging-ranges": "map_range_4k unmap_range_4k map_range_2m audit_per_gib".split(),
    "heap-calloc": ["calloc_free_" + size for size in SIZES],
    "heap-malloc": ["malloc_free_" + size for size in SIZES],
    "heap-latency": ["worst_op"],
    "heap-peak": ["peak_over_live"],
    "programs-cpu": "python3 cc1 sqlite3".split(),
    "programs-peak": "python3_peak cc1_peak sqlite3_peak".split(),
}


def run(program, *arguments, **environment):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=250,
                          env={**os.environ, **environment})


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
            can = subject != "seed" or not workload.startswith("realloc")
            check(((workload, subject) in rows) == can, f"rows of {subject} for {workload}")
    check("p9999" in rows["worst_op", "mello"], "no latencies of the heap")
    check(any(goal["suite"] == "heap" for goal in document["goals"]), "no goals of the heap")


def check_programs(document):
    rows = {(row["workload"], row["subject"]) for row in document["rows"]}
    for subject in ("mello", "mello_full", "glibc"):
        for workload in ("python3", "python3_peak"):
            check((workload, subject) in rows, f"no row of {subject} for {workload}")


# ---- Plots ----

def texts_of(picture):
    """What is written in an SVG file, which is one as a whole and names its licence."""
    text = picture.read_text("utf-8")
    check("SPDX-License-Identifier: MIT" in text.splitlines()[1], f"{picture.name}: no licence")
    tree = xml.etree.ElementTree.fromstring(text)
    check(tree.tag == "{http://www.w3.org/2000/svg}svg", f"{picture.name} is no SVG: {tree.tag}")
    return {"".join(node.itertext()).strip() for node in tree.iter(tree.tag[:-3] + "text")}


def check_plots(document, suites, folder, stderr):
    """A plot of what was measured names its subjects and no others; one of nothing is not there, and that is
    said."""
    everybody = {row["subject"] for row in document["rows"]}
    for name, workloads in PLOTS.items():
        picture = Path(folder, name + ".svg")
        said = f"no plot {name}.svg: nothing of it was measured" in stderr
        subjects = {row["subject"] for row in document["rows"]
                    if row["suite"] == name.split("-")[0] and row["workload"] in workloads}
        if not subjects:
            check(not picture.exists(), f"{name} shows nothing")
            check(said == (name.split("-")[0] in suites), f"{name}: not measured: {stderr}")
            continue
        check(picture.exists() and not said, f"{name} is not drawn: {stderr}")
        texts = texts_of(picture)
        check(texts & everybody == subjects, f"{name} names {texts}, measured: {subjects}")
    strangers = {path.name for path in Path(folder).iterdir()} - {name + ".svg" for name in PLOTS}
    check(not strangers, f"beside the plots: {strangers}")


def check_page():
    """The page shows every plot with a text for who does not see it, and each of them is there."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    shown = dict((path, text) for text, path in
                 re.findall(r"!\[(.*?)\]\((plots/.*?)\)", (docs / "performance.md").read_text("utf-8")))
    check(set(shown) == {f"plots/{name}.svg" for name in PLOTS}, f"the page shows {set(shown)}")
    for path, text in shown.items():
        check(len(text) > 20 and "mello" in texts_of(docs / path), f"{path}: '{text}'")


def new_folder(folder, name):
    path = Path(folder, name)
    path.mkdir()
    return path


def check_plot_failures(program, folder, drawn):
    """Without gnuplot, or if it fails in the middle, or without room for its data or for the picture: it is
    said, the status is 1, and the file stays what it was."""
    plots, bin_folder = new_folder(folder, "failing"), new_folder(folder, "bin")
    kept = Path(plots, "paging-calls.svg")
    kept.write_text("kept")
    broken = Path(bin_folder, "gnuplot")
    words = ["--tiny", "--workload", "split_2m", "--plots", str(plots), "paging"]
    for script, environment, why in (
            (None, {"PATH": str(bin_folder)}, "gnuplot failed or is not installed"),
            ("#!/bin/sh\nwhile read -r word && [ \"$word\" != plot ]; do :; done; exit 1\n",
             {"PATH": f"{bin_folder}:/usr/bin:/bin"}, "gnuplot failed or is not installed"),
            (None, {"TMPDIR": folder + "/none"}, "cannot make a folder in " + folder + "/none")):
        broken.unlink(missing_ok=True)
        if script:
            broken.write_text(script)
            broken.chmod(0o755)
        result = run(program, *words, **environment)
        check(result.returncode == 1 and why in result.stderr and "split_2m" in result.stdout,
              f"{environment}: status {result.returncode}\n{result.stderr}")
        check([path.name for path in plots.iterdir()] == [kept.name]
              and kept.read_text() == "kept", f"{environment}: {list(plots.iterdir())}")
    if drawn:
        broken.unlink(missing_ok=True)
        new_folder(plots, kept.name + ".new")
        result = run(program, *words)
        check(result.returncode == 1 and f"cannot write the plot {kept}" in result.stderr
              and kept.read_text() == "kept", f"no place: {result.returncode}\n{result.stderr}")


# ---- What is asked for ----

def check_choices(program, folder, drawn):
    """What was asked for is measured and drawn, and nothing else."""
    out = Path(folder, "chosen.json")
    for i, words in enumerate((["--workload", "refill", "frames"],
                               ["--workload=split_2m", "--suite=paging"],
                               ["--subject", "walk", "--workload", "map_range", "paging"],
                               ["--subject", "mello", "--workload", "const_", "heap"])):
        plots = new_folder(folder, f"chosen-{i}")
        result = run(program, "--tiny", "--json", str(out),
                     *(["--plots", str(plots)] if drawn else []), *words)
        check(result.returncode == 0, f"{words}: status {result.returncode}\n{result.stderr}")
        document = json.loads(out.read_text())
        rows = document["rows"]
        check(rows and {row["suite"] for row in rows} <= set(words[-1].split("=")),
              f"{words}: {rows}")
        wanted = [word.split("=")[-1] for word in words if word in TEXTS or word[11:] in TEXTS]
        check(len(wanted) == 1 and all(wanted[0] in row["workload"] for row in rows),
              f"{words}: {rows}")
        if "--subject" in words:
            check({row["subject"] for row in rows} == {words[1]}, f"{words}: {rows}")
        if "const_" in words:
            check({row["workload"] for row in rows} == {"const_64", "const_256"}, f"{words}: {rows}")
        if drawn:
            check_plots(document, words[-1], plots, result.stderr)


def check_files(program, folder):
    """Tables go between the marks of their suite; what cannot be written is said before anything is
    measured."""
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


def measure_all(program, folder, drawn):
    """All suites; of the programs one. Nothing stays behind in TMPDIR, whose name is an odd one."""
    out, plots = Path(folder, "bench.json"), new_folder(folder, "plots")
    scratch = new_folder(folder, "a scratch folder")
    documents = []
    for words in (["--rounds", "2", "frames", "paging", "heap"],
                  ["--workload", "python3", "programs"]):
        result = run(program, "--tiny", "--json", str(out),
                     *(["--plots", str(plots)] if drawn else []), *words, TMPDIR=str(scratch))
        check(result.returncode == 0, f"status {result.returncode}\n{result.stdout}{result.stderr}")
        check(not list(scratch.iterdir()), f"left behind: {list(scratch.iterdir())}")
        document = json.loads(out.read_text())
        check_numbers(document)
        if drawn:
            check_plots(document, words, plots, result.stderr)
            for picture in plots.iterdir():
                picture.unlink()
        documents.append((document, result.stdout))
    return documents


def main():
    program = str(Path(sys.argv[1]).resolve())
    drawn = shutil.which("gnuplot") is not None
    with tempfile.TemporaryDirectory() as folder:
        (document, tables), (programs, _) = measure_all(program, folder, drawn)
        check_choices(program, folder, drawn)
        check_files(program, folder)
        check_plot_failures(program, folder, drawn)
    check_page()
    check_frames(document)
    check_paging(document)
    check_heap(document)
    check_programs(programs)
    check("pair_hot" in tables and "frame pair, hot" in tables, "no tables")
    check(run(program, "--help").returncode == 0, "--help")
    for wrong in (["--rounds", "0"], ["--rounds", "513"], ["nonsense"], ["--nonsense"], ["--json"],
                  ["--tiny", "--workload", "nonsense", "paging"],
                  ["--tiny", "--subject", "nobody", "paging"]):
        check(run(program, *wrong).returncode == 2, f"{wrong} is not refused")


main()
