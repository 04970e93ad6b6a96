"""Run the Triton kernels of patterns' gradients through the interpreter: `python -m
tests.gradients.interpreted NAME...`, one line a gradient of a case; `--tiles NAME`, one line a tile.

In a process of its own, because the interpreter has to be chosen before Triton is imported, and because a
pointer that leaves its tensor ends the process.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from attncc.runtime.tune import tiles
from attncc.runtime.tuned import Occasion
from attncc.schedule.tiles import Tile
from attncc.verify.compared import doubled
from attncc.verify.gradients import Trained, slopes
from attncc.verify.trial import poisoned
from tests.gradients.trained import dense, drawn, source
from tests.shapes import FOLDED, Shape

SHAPES = (
    Shape(1, 2, 2, 15, 15, 16, 16),
    Shape(2, 3, 1, 33, 90, 32, 16),
    Shape(1, 3, 1, 70, 31, 16, 24),
    Shape(1, 2, 1, 0, 40, 16, 16),
    Shape(1, 2, 1, 40, 0, 16, 16),
)
"""Groups of 3, D unlike E, more keys than queries, empty rows, no rows and no keys."""

SMALL = (Shape(1, 2, 2, 15, 15, 5, 4), Shape(1, 3, 1, 33, 40, 4, 5))
"""For patterns that fold features one after the other: the interpreter takes its time for each."""

TINY = Shape(1, 3, 1, 33, 40, 16, 16)


def main(name: str, dtype: torch.dtype) -> None:
    run = Trained(source(name), backend="triton")
    for shape in SMALL if name in FOLDED else SHAPES:
        told(name, run, shape, dtype)


def told(name: str, run: Trained, shape: Shape, dtype: torch.dtype, tile: Tile | None = None) -> None:
    """A line for every gradient of a call."""
    given = drawn(name, shape, dtype)
    reference = dense(name)
    compared = slopes(run, reference, given, dtype, 1, reference(doubled(given)))
    with poisoned():
        found = compared.verdict(given)
    assert not found.unknown and not found.strange, found.strange
    for tensor, worst in zip(compared.tensors, found.worst, strict=True):
        print(f"{worst:.3f} {tensor.name} {name} {dtype} {shape} {tile or ''}", flush=True)


def every_tile(name: str) -> None:
    """Every tile that a tuner may pick on one GPU, as far as tiles of 16-bit elements are concerned."""
    sizes = (("d", TINY.d), ("e", TINY.e))
    occasion = Occasion((), "triton", "cuda:90", "", "float16", sizes, (("k", 6), ("q", 6)))
    small = {
        (t.rows, t.columns): t for t in tiles(occasion)
    }  # warps and stages are nothing to the interpreter
    for tile in small.values():
        told(name, Trained(source(name), backend="triton", tile=tile), TINY, torch.float16, tile)


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = sys.argv[1:]
    for pattern in [w for w in words if not w.startswith("-")]:
        if "--tiles" in words:
            every_tile(pattern)
        else:
            main(pattern, torch.float16 if "--half" in words else torch.float32)
