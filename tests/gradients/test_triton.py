"""Triton kernels of gradients: interpreted, against the reference; compiled for a GPU that is not here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attncc.pipeline import generate
from attncc.schedule.spec import Specialisation
from tests.gradients.offline import compiled
from tests.gradients.trained import POWERS, TRAINED, source, trained
from tests.shapes import FOLDED, PLAIN

INTERPRETED = (
    ("causal", "sink"),
    ("alibi", "window"),
    ("document", "differential"),
    ("neighborhood2d", "clusters"),
    ("kronecker", "softcap"),
    ("s2", "qk_norm"),
)
"""Masks, a sink, a learned slope, a window, tables, a grid, lists of tiles, keys of two kinds, norms."""

HALF = (("causal", "alibi"), ("streaming", "sink"))


def check(root: Path, *words: str) -> int:
    """How many gradients were compared, all of them right."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gradients.interpreted", *words],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if not float(line.split()[0]) <= 1]
    assert not wrong, "\n".join(wrong)
    return len(lines)


def test_interpreted_by_default(root: Path) -> None:
    assert check(root, "causal") == 15


@pytest.mark.slow
@pytest.mark.parametrize("names", INTERPRETED, ids="-".join)
def test_interpreted(names: tuple[str, ...], root: Path) -> None:
    assert check(root, *names) == sum(len(trained(n).wrt) * (2 if n in FOLDED else 5) for n in names)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=POWERS)) if n == "lssar" else n
        for n in TRAINED
    ],
)
def test_all_interpreted(name: str, root: Path) -> None:
    assert check(root, name) == len(trained(name).wrt) * (2 if name in FOLDED else 5)


@pytest.mark.slow
@pytest.mark.parametrize("names", HALF, ids="-".join)
def test_interpreted_in_float16(names: tuple[str, ...], root: Path) -> None:
    assert check(root, "--half", *names) == sum(len(trained(n).wrt) * 5 for n in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "streaming"])
def test_every_tile_that_may_be_picked(name: str, root: Path) -> None:
    assert check(root, "--tiles", name) >= 9


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled here and now, not taken from a cache of the machine."""
    from triton import knobs

    before = knobs.cache.dir
    knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
    yield
    knobs.cache.dir = before


def every() -> Iterator[object]:
    for name in TRAINED:
        marks = () if name in ("causal", "alibi") else (pytest.mark.slow,)
        yield pytest.param(name, marks=marks, id=name)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", list(every()))
def test_nothing_spills_on_hopper(name: str) -> None:
    """Forward and backward kernels for 64 features in bfloat16, which use matrix units."""
    spec = Specialisation("triton", "cuda:90", ("bfloat16",), ((("d", 64), ("e", 64), ("r", 64)),))
    cascade = trained(name).cascade
    reports = compiled(generate(cascade, source(name), spec, None), cascade, torch.bfloat16)
    assert name in PLAIN or any(r.matrix for r in reports.values())
    assert not {kernel: r.spilled for kernel, r in reports.items() if r.spilled}
    assert all(r.shared <= 232_448 for r in reports.values())
    assert not [name for r in reports.values() for name in r.standing]
