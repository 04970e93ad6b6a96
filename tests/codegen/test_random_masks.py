"""Random predicates in whole patterns, on both backends, against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen.random_masks import FOUND


def ratios(backend: str, first: int, count: int, root: Path) -> None:
    """Patterns of some seeds, each in two calls."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.codegen.random_masks", backend, str(first), str(count)],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1", "ATTNCC_CACHE_DIR": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * count, done.stdout
    wrong = [line for line in lines if not float(line.split()[0]) <= 1e-4]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_predicates_that_went_wrong(backend: str, root: Path) -> None:
    ratios(backend, -len(FOUND), len(FOUND), root)


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, 1000, 100))
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_random_predicates(backend: str, first: int, root: Path) -> None:
    ratios(backend, first, 100, root)
