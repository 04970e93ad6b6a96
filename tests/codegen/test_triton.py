"""The Triton kernel of every pattern, interpreted, against the reference at odd lengths."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from tests.shapes import FOLDED, KERNELS, MANY, MASKS, MORE

PATTERNS = (*KERNELS, *MORE)
TOGETHER = 5
"""Patterns that share a process, as one takes seconds to begin."""


@pytest.mark.parametrize(
    "names", [PATTERNS[n : n + TOGETHER] for n in range(0, len(PATTERNS), TOGETHER)], ids="-".join
)
def test_interpreted(names: tuple[str, ...], root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.codegen.interpreted", *names], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [(name, len(list(own))) for name, own in groupby(name for _, name, _ in lines)] == [
        (name, 8 if name in FOLDED else 6 if name in MASKS else 24 if name in KERNELS[:MANY] else 12)
        for name in names
    ]
    wrong = [line for line in lines if not float(line[0]) <= 1]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(("module", "count"), [("corners", 208), ("structures", 68)])
def test_predicates_and_structures(module: str, count: int, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.codegen.{module}"],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == count, done.stdout
    wrong = [line for line in lines if not float(line.split()[0]) <= 1e-5]
    assert not wrong, "\n".join(wrong)
