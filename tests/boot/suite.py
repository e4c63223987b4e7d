# SPDX-License-Identifier: MIT
"""The list of tests: every cases_*.py file beside this one adds to it when it is imported.

A Case has a name ("direct/8M-qemu64"; --filter searches in it), a function that takes a View of the
source tree (machine.py) and raises Failure, and says whether it runs with --all only, and whether it
spends seconds waiting for a time-out: such cases run beside the others and take no core from them.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Callable

_cases = []


@dataclasses.dataclass
class Case:
    name: str
    function: Callable
    arguments: tuple
    slow: bool
    waits: bool

    def run(self, view):
        self.function(view, *self.arguments)


def add(name, function, *arguments, slow=False, waits=False):
    if any(case.name == name for case in _cases):
        raise ValueError(f"two tests are called {name}")
    _cases.append(Case(name, function, arguments, slow, waits))


def all_cases():
    for path in sorted(Path(__file__).resolve().parent.glob("cases_*.py")):
        importlib.import_module(path.stem)
    return list(_cases)
