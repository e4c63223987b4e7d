# SPDX-License-Identifier: MIT
"""Every self-test can fail: kernels with one thing broken (make BREAK=NAME), each seen by its test.

A file broken/NAME.c says in its first lines which functions of mm it wraps ("wrap:", read by the
Makefile) and which self-test cases must see it ("seen by:", one line each, as a case is printed).
The boot must end with status 1 and with exactly these cases marked ✗. A last test proves that no
case of mm/selftest.c, and no class of mm/audit.c, is without a file that breaks it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from log import AUDIT, CASES, HELLO, TESTS_BEGIN, TESTS_PASSED, Log
from machine import expect
from suite import add

BROKEN = Path(__file__).resolve().parent / "broken"
AUDITED = [f"audit: {name}" for name in AUDIT.values()]
LEFT_BEHIND = "pmm: the tests leave no frame behind"  # printed only when it fails
SEEN_BY = re.compile(r"^ \* seen by: (.+?)(?: \*/)?$", re.M)


def seen_by(path):
    return SEEN_BY.findall(path.read_text())


def copy_objects(tree, folder):
    """The sound kernel's objects without what is for debuggers, which takes most of a link's time."""
    shutil.copytree(tree.build / "obj" / "kernel", folder / "obj" / "kernel")
    shutil.copy2(tree.build / "obj" / "kernel.stamp", folder / "obj")
    objects = [str(path) for path in sorted(folder.glob("obj/kernel/**/*.o"))]
    subprocess.run(["strip", "--strip-debug", "--preserve-dates", *objects], check=True)


def build_broken(view, name):
    """Compiles the broken file only: the objects of the sound kernel are taken over, then relinked."""
    tree, build = view.tree, view.folder() / "build"
    sound = tree.shared_folder("sound", lambda folder: copy_objects(tree, folder))
    shutil.copytree(sound, build, copy_function=os.link)
    font = tree.build / "font"
    tree.make("kernel", build=build, settings=[f"BREAK={name}", f"SCREEN_FONT_DIR={font}"])
    return build / "kernel.elf"


def is_seen(view, path):
    expected = seen_by(path)
    expect(expected, f"{path.name} has no line 'seen by:'")
    boot = view.qemu("64M", kernel=build_broken(view, path.stem))
    log = Log(boot)
    failed = [text for passed, text in log.cases() if not passed]
    failed += [f"audit: {text}" for passed, text in log.audit() if not passed]
    expect(boot.status == 1, f"exit status {boot.status}, not 1; failed cases: {failed}")
    expect(TESTS_BEGIN in log.lines, "the tests did not begin")
    for case in expected:
        expect(any(text.startswith(case + ": ") for text in failed),
               f"'{case}' does not see it; failed cases: {failed}")
    for text in failed:
        expect(any(text.startswith(case + ": ") for case in expected), f"'{text}' fails too")
    only_audit = all(case in AUDITED for case in expected)
    expect((TESTS_PASSED in log.lines) == only_audit, "the self-tests judge otherwise")
    expect(HELLO not in log.lines, "it says that all is well")
    if only_audit:
        verdict = log.verdict()
        expect(verdict["ok"] == 0, f"{verdict}")
        for key, name in AUDIT.items():
            expect((verdict[key] > 0) == (f"audit: {name}" in expected), f"{key}: {verdict}")
    expect(not any(line.startswith("[MM] READY") for line in log.lines), "it says READY")


def every_case_can_fail(_view):
    broken = {case for path in BROKEN.glob("*.c") for case in seen_by(path)}
    for case in [*CASES, *AUDITED]:
        expect(case in broken, f"no file in broken/ makes this case fail: {case}")
    known = {*CASES, *AUDITED, LEFT_BEHIND}
    expect(broken <= known, f"no such case: {broken - known}")


for _path in sorted(BROKEN.glob("*.c")):
    add(f"broken/{_path.stem}", is_seen, _path)
add("broken/every-case-can-fail", every_case_can_fail)
