"""Lists of tiles: every live tile once, full ones as whole, none besides where tables change with tiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen.decided import PREDICATES


def lines(module: str, backend: str, root: Path) -> list[list[str]]:
    """What a module of the tests prints in a process of its own, word by word."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.codegen.{module}", backend],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_lists(backend: str, root: Path) -> None:
    found = lines("listings", backend, root)
    assert len(found) == 20
    for live, listed, full, whole, name, exact, *shape in found:
        if exact == "True":
            assert (live, full) == (listed, whole), (name, shape)
        # near the tables' edges a tile of rows holds more than one run
        assert int(listed) <= 1.25 * int(live) + 2, (name, shape)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_predicates(backend: str, root: Path) -> None:
    found = lines("decided", backend, root)
    assert len(found) == 3 * len(PREDICATES)
    wrong = [line for line in found if not float(line[0]) <= 1e-5 or line[1] != "True"]
    assert not wrong, "\n".join(map(str, wrong))
