"""Bands and two lengths → how many tiles are visited, skipped, full and partial; how many cells are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Expr, Read, Tensor, number
from attncc.masks.band import Band
from attncc.masks.integers import Env, at, values
from attncc.masks.normal import total
from attncc.masks.ranges import PRIVATE, union

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileCounts:
    """Tiles of one mask: `live = full + partial` are visited, `skipped` are not; `cells` is its size."""

    live: int
    full: int
    partial: int
    skipped: int
    cells: int


def count(
    bands: Sequence[Band], predicate: Expr, env: Env, rows: int, columns: int, block_q: int, block_k: int
) -> TileCounts:
    """Tiles and cells of a mask of `rows` by `columns`, in tiles of `block_q` by `block_k`.

    `bands` are those of `predicate`; `env` binds its scalars, tables and other indices. Tiles take time in
    the number of tiles of rows; cells in the number of rows or, under element tests, of cells in partial
    tiles.
    """
    tiles = -(-rows // block_q) * -(-columns // block_k)
    if not bands or not tiles:
        return TileCounts(0, 0, 0, tiles, 0)
    q, k = bands[0].rows, bands[0].columns
    known = {**env, f"|{q.name}|": rows, f"|{k.name}|": columns}
    first = np.arange(0, rows, block_q)
    last = np.minimum(first + block_q, rows) - 1
    found = visited(bands, block_k, known, first, last)
    lo, hi, full_lo, full_hi = found
    live, full = int((hi - lo).sum()), int((full_hi - full_lo).sum())
    if any(band.rest for band in bands):
        element = total(predicate)
        cells = 0
        for n, (top, bottom) in enumerate(zip(first, last, strict=True)):
            here = {
                **known,
                q.name: np.arange(top, bottom + 1)[:, None],
                k.name: _partial(found[:, :, n], block_k, columns),
            }
            cells += int(np.broadcast_to(values(element, here), (bottom + 1 - top, here[k.name].size)).sum())
            cells += int((full_hi - full_lo)[:, n].sum()) * block_k * int(bottom + 1 - top)
    else:
        cells = _seen(bands, {**known, q.name: np.arange(rows)}, rows, columns)
    return TileCounts(live, full, live - full, tiles - live, cells)


def visited(bands: Sequence[Band], block: int, env: Env, first: Array, last: Array) -> Array:
    """The four ends of every segment for every tile of rows, as an array (ends, segments, tiles of rows)."""
    top, bottom = (Read(Tensor(PRIVATE + name, (), "int", "scalar"), ()) for name in ("top", "bottom"))
    ranges = union(bands, top, bottom, number(block), prefix=PRIVATE)
    known = {**env, top.tensor.name: first, bottom.tensor.name: last}
    for step in ranges.steps:
        known[step.tensor.name] = values(step.body, known)
    ends = [[getattr(s, end) for s in ranges.segments] for end in ("lo", "hi", "full_lo", "full_hi")]
    return np.array([[np.broadcast_to(values(e, known), first.shape) for e in row] for row in ends])


def _partial(ends: Array, block: int, columns: int) -> Array:
    """The columns of all tiles of one tile of rows that are visited and not full."""
    tiles = [np.r_[lo:full_lo, full_hi:hi] for lo, hi, full_lo, full_hi in ends.T]
    k = (np.concatenate(tiles)[:, None] * block + np.arange(block)).ravel()
    return np.asarray(k[k < columns])


def _seen(bands: Sequence[Band], env: Env, rows: int, columns: int) -> int:
    """The columns that any band shows to a row, summed over the rows."""
    ends = []
    for band in bands:
        low = [values(b.value, env) for b in band.lows]
        high = [values(b.value, env) for b in band.highs]
        some = all(at(guard, env) for guard in band.guards)
        start, last = np.zeros(rows, int), np.full(rows, columns - 1 if some else -1)
        for value in low:
            start = np.maximum(start, value)
        for value in high:
            last = np.minimum(last, value)
        ends.append((start, np.maximum(last + 1, start)))
    starts, stops = (np.array(side) for side in zip(*ends, strict=True))
    order = np.argsort(starts, axis=0)
    starts, stops = np.take_along_axis(starts, order, 0), np.take_along_axis(stops, order, 0)
    reached, cells = np.zeros(rows, int), 0
    for start, stop in zip(starts, stops, strict=True):
        cells += int(np.maximum(stop - np.maximum(start, reached), 0).sum())
        reached = np.maximum(reached, stop)
    return cells
