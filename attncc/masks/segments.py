"""Bands and many rows, in numbers → the tiles that tiles of rows visit, the intervals that rows see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Expr, Read, Tensor, number
from attncc.masks.band import Band
from attncc.masks.integers import Env, at, values
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


def ends(band: Band, env: Env, rows: Array) -> tuple[Array, Array]:
    """Where the interval of each row in a band begins, and where it has ended; no test is asked."""
    here, columns = {**env, band.rows.name: rows}, int(env[f"|{band.columns.name}|"])
    some = all(at(guard, here) for guard in band.guards)
    start, stop = np.zeros(len(rows), int), np.full(len(rows), columns if some else 0)
    for low in band.lows:
        start = np.maximum(start, values(low.value, here))
    for high in band.highs:
        stop = np.minimum(stop, values(high.value, here) + 1)
    start = np.minimum(start, columns)
    return start, np.maximum(stop, start)


def intervals(bands: Sequence[Band], env: Env, rows: Array) -> list[tuple[Array, Array]]:
    """Disjoint intervals that together are those of the bands, for each row; no test is asked."""
    if not bands:
        return []
    sides = zip(*(ends(band, env, rows) for band in bands), strict=True)
    starts, stops = (np.array(side) for side in sides)
    order = np.argsort(starts, axis=0)
    starts, stops = np.take_along_axis(starts, order, 0), np.take_along_axis(stops, order, 0)
    found: list[tuple[Array, Array]] = []
    reached: Array = np.zeros(len(rows), int)
    for start, stop in zip(starts, stops, strict=True):
        low = np.maximum(start, reached)
        reached = np.maximum(stop, low)
        found.append((low, reached))
    return found
