# SPDX-License-Identifier: MIT
"""Nothing that runs after the boot leads into what the end of the boot gives back (.init, .init.data).

Read from the object files, before the linker has made addresses of names: every relocation in a section
that stays is followed to its symbol's section. Allowed are the few functions that run at boot and are
not marked themselves. A second test makes sure that the search finds something: the marked sections
are there, and kmain() refers to them.
"""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from machine import expect
from suite import add

# Sections that may refer to .init: kmain() and its callees that run before boot_end(); what names the
# self-tests without running them (mello.fault=execute-init); start-up code of other CPUs.
ALLOWED = {".text.kmain", ".text.init_memory", ".text.mm_init", ".text.smp_start",
           ".text.fault_execute_init"}
INIT = re.compile(r"\.init\.(text|data)(\..*)?")
KEPT = re.compile(r"\.(text|rodata|data)(\..*)?")


def whole_files(root, paths):
    """{pattern of kernel.ld: names of the object files that it puts into .init as a whole}."""
    text = (root / "kernel/kernel.ld").read_text()
    patterns = re.findall(r"^ +(\*[\w*]+\.c\.o)\(\.text", text, re.M)
    return {pattern: {path.name for path in paths if fnmatch(path.name, pattern)}
            for pattern in patterns}


def objects(build):
    return [path for part in ("mm", "kernel", "arch") for path in
            sorted((build / "obj/kernel" / part).rglob("*.o")) if "broken" not in path.parts]


def sections_of(path):
    """{symbol: section} of an object file, and its global names."""
    text = subprocess.run(["objdump", "-tw", str(path)], check=True, capture_output=True, text=True)
    own, public = {}, {}
    for line in text.stdout.splitlines():
        match = re.fullmatch(r"[0-9a-f]{16} (.)(.{6}) (\S+)\t[0-9a-f]{16} +(?:\.hidden )?(\S+)", line)
        if match and match[3] not in ("*UND*", "*ABS*", "*COM*"):
            own[match[4]] = match[3]
            if match[1] in "gu!" or match[2][0] == "w":
                public[match[4]] = match[3]
    return own, public


def relocations(path):
    """[(section, symbol)] of an object file."""
    text = subprocess.run(["objdump", "-rw", str(path)], check=True, capture_output=True, text=True)
    section, found = None, []
    for line in text.stdout.splitlines():
        if match := re.fullmatch(r"RELOCATION RECORDS FOR \[(.+)\]:", line):
            section = match[1]
        elif match := re.fullmatch(r"[0-9a-f]{16} R_X86_64_\w+ +(\S+?)([-+]0x[0-9a-f]+)?", line):
            found.append((section, match[1]))
    return found


def references(view):
    """[(file, section that stays, symbol of .init)], whole_files(), and how many marked symbols there
    are."""
    root, build = view.tree.root, view.tree.build
    tables = {path: sections_of(path) for path in objects(build)}
    patterns = whole_files(root, tables)
    whole = set().union(*patterns.values())
    marked = {}
    for path, (_, public) in tables.items():
        for name, section in public.items():
            marked[name] = path.name in whole or bool(INIT.fullmatch(section))
    found = []
    for path, (own, _) in tables.items():
        if path.name in whole:
            continue
        for section, name in relocations(path):
            if not KEPT.fullmatch(section):
                continue
            target = own.get(name, name if name.startswith(".") else None)
            if INIT.fullmatch(target) if target else marked.get(name, False):
                found.append((path.name, section, name))
    return found, patterns, sum(marked.values())


def nothing_leads_back(view):
    found, _, _ = references(view)
    wrong = [f"{file}: {section} uses {name}" for file, section, name in found
             if section.replace(".text.unlikely.", ".text.") not in ALLOWED]
    expect(not wrong, f"{len(wrong)} uses of .init that stay: " + "; ".join(sorted(set(wrong))[:8]))


def search_finds(view):
    found, patterns, count = references(view)
    expect(count > 20, f"{count} marked functions only")
    expect(len(patterns) >= 2 and all(patterns.values()), f"whole files: {patterns}")
    used = {name for _, section, name in found if section == ".text.kmain"}
    expect(used, "kmain() uses nothing of .init")


add("init/nothing-leads-back", nothing_leads_back)
add("init/search-finds", search_finds)
