#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many instructions calls of the memory manager take, and what they took when it was written down.

insns.txt holds one line for each workload of the kernel's benchmark (mm.bench), for each build that it
was written for:

    gcc-12 debug frames pair_hot 80

    BUILD=build CC=gcc python3 tests/boot/insns.py           shows old and new values
    BUILD=build CC=gcc python3 tests/boot/insns.py --write   boots and replaces the lines of this build,
                                                             and the table in docs/performance.md

Under QEMU's -icount shift=0 a boot is the same each time, so the values are exact; a change of the
compiler's version is another build.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("insns.txt")
DOCS = ROOT / "docs" / "performance.md"
MARKS = re.compile(r"(<!-- insns -->\n).*?(<!-- insns end -->\n)", re.S)
LINE = re.compile(r"^\[BENCH\] suite=(\w+) workload=(\w+) unit=(\w+) value=(\d+)$", re.M)
HEADER = """# SPDX-License-Identifier: MIT
# Instructions for one operation: build, MM_DEBUG, suite, workload, value. Written by
# `python3 tests/boot/insns.py --write`; docs/performance.md says when to.
"""
WITHIN = 0.03
SECONDS = 300


def compiler_key(compiler):
    """'gcc' -> 'gcc-12'; instructions depend on it."""
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True)
    name = "clang" if "clang" in Path(compiler).name else "gcc"
    return f"{name}-{version.stdout.split('.')[0].strip()}"


def build_key(compiler, debug):
    return compiler_key(compiler), "debug" if debug == "1" else "release"


def values_of(text):
    """{(suite, workload): value} of a boot's output; a unit other than insn raises ValueError."""
    values = {}
    for suite, workload, unit, value in LINE.findall(text.replace("\r", "")):
        if unit != "insn":
            raise ValueError(f"{suite} {workload} was measured in {unit}")
        values[suite, workload] = int(value)
    return values


def read():
    """{(compiler, debug): {(suite, workload): value}}"""
    builds = {}
    for line in FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            compiler, debug, suite, workload, value = line.split()
            builds.setdefault((compiler, debug), {})[suite, workload] = int(value)
    return builds


def write(builds):
    lines = [f"{' '.join(build)} {' '.join(key)} {value}\n"
             for build, values in sorted(builds.items()) for key, value in values.items()]
    FILE.write_text(HEADER + "".join(lines))


def differences(written, found):
    """What is not as it was written down, as lines of text."""
    for key in written.keys() | found.keys():
        name, old, new = " ".join(key), written.get(key), found.get(key)
        if new is None or old is None:
            yield f"{name}: {'not measured' if new is None else 'not in insns.txt'}"
        elif abs(new - old) > WITHIN * old:
            yield f"{name}: {new} instructions, {old} in insns.txt"


def boot():
    command = [str(ROOT / "mello"), "run", "--headless", "--icount", "--timeout", str(SECONDS),
               "--cmdline", "mm.bench=all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"insns.py: the boot failed ({done.returncode})\n{done.stdout[-2000:]}")
    return values_of(done.stdout)


def write_docs(build, values):
    """The table of one build, a line for each suite."""
    lines = [f"Built with {build[0]}, MM_DEBUG={1 if build[1] == 'debug' else 0}:\n"]
    for suite in dict.fromkeys(suite for suite, _ in values):
        items = [f"{work} {value}" for (of, work), value in values.items() if of == suite]
        lines.append(f"- {suite}: {', '.join(items)}")
    text = MARKS.sub(lambda marks: f"{marks[1]}\n" + "\n".join(lines) + f"\n\n{marks[2]}",
                     DOCS.read_text())
    DOCS.write_text(text)


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    build = build_key(os.environ.get("CC", "gcc"), os.environ.get("DEBUG", "1"))
    builds = read() if FILE.exists() else {}
    old, new = builds.get(build, {}), boot()
    for key, value in new.items():
        print(f"{' '.join(build)} {' '.join(key)}: {old.get(key, '-')} -> {value}")
    if sys.argv[1:]:
        builds[build] = new
        write(builds)
        write_docs(build, new)


if __name__ == "__main__":
    main()
