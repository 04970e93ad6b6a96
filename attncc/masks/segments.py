"""Bands and many tiles of rows → the tiles of columns that each of them visits, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Expr, Read, Tensor, number
from attncc.masks.band import Band
from attncc.masks.integers import Env, values
from attncc.masks.ranges import PRIVATE, Visited, union
from attncc.masks.residues import Stride

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Segment:
    """One segment for every tile of rows: its ends, of tiles or of their ranks, and its stride."""

    lo: Array
    hi: Array
    full_lo: Array
    full_hi: Array
    stride: tuple[Array, Array, Array]

    def tiles(self, n: int) -> Visited:
        """Those of one tile of rows."""
        period, width, shift = (int(x[n]) for x in self.stride)
        lo, hi, full_lo, full_hi = (int(x[n]) for x in (self.lo, self.hi, self.full_lo, self.full_hi))
        return Visited(lo, hi, full_lo, full_hi, (period, width, shift))


def segments(bands: Sequence[Band], block: int, env: Env, first: Array, last: Array) -> list[Segment]:
    """The segments of bands for tiles of rows, `first` to `last` each; `env` as in `counts.count`."""
    if not bands:
        return []
    top, bottom = (Read(Tensor(PRIVATE + name, (), "int", "scalar"), ()) for name in ("top", "bottom"))
    ranges = union(bands, top, bottom, number(block), prefix=PRIVATE)
    known = {**env, top.tensor.name: first, bottom.tensor.name: last}
    for step in ranges.steps:
        known[step.tensor.name] = values(step.body, known)

    def every(e: Expr) -> Array:
        return np.broadcast_to(values(e, known), first.shape)

    found = []
    for segment in ranges.segments:
        lo, hi, full_lo, full_hi = map(every, segment.ends)
        stride = segment.stride or Stride(number(1), number(1), number(0))
        period, width, shift = map(every, stride.numbers)
        found.append(Segment(lo, hi, full_lo, full_hi, (period, width, shift)))
    return found
