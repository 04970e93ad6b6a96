"""The Triton kernel of every pattern, interpreted, against the reference at odd lengths."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shapes import FOLDED, KERNELS, MANY, MORE


@pytest.mark.parametrize("name", [*KERNELS, *MORE])
def test_interpreted(name: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.codegen.interpreted", name], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == (8 if name in FOLDED else 24 if name in KERNELS[:MANY] else 12), done.stdout
    wrong = [line for line in lines if not float(line.split()[0]) <= 1]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("module", "count"), [("corners", 200), ("structures", 44)])
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
