"""Grid, lengths and sides of boxes → which boxes of columns every box of rows visits, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Index, Read, Tensor
from attncc.masks.counts import TileCounts
from attncc.masks.grid import Grid
from attncc.masks.integers import Env, at
from attncc.masks.ranges import PRIVATE
from attncc.masks.segments import segments

Ends: TypeAlias = np.ndarray[Any, Any]
"""(lo, hi, full_lo, full_hi), in boxes, for every box of rows along one axis."""


@dataclass(frozen=True)
class Sides:
    """How many values of every digit a box of rows has, and one of columns."""

    rows: Sequence[int]
    columns: Sequence[int]


def sizes(grid: Grid, env: Env) -> dict[str, Any]:
    """What `env` binds, and how many values every digit has."""
    return {**env, **{f"|{i.name}|": at(length, env) for i, length in grid.lengths}}


def ends(grid: Grid, sides: Sides, env: Env) -> Iterator[tuple[Mapping[Index, int], tuple[Ends, ...]]]:
    """For every choice of the digits of which boxes have one value: what each axis visits."""
    known = sizes(grid, env)
    same = [axis.rows for axis in grid.axes if axis.same]
    starts = {i: Read(Tensor(PRIVATE + i.name, (), "int", "scalar"), ()) for i in same}
    every = list(product(*(range(known[f"|{i.name}|"]) for i in same)))
    choices = np.array(every, int).reshape(len(every), len(same))
    for i, values in zip(same, choices.T, strict=True):
        known[starts[i].tensor.name] = values[:, None]
    found = []
    bands = grid.bands(starts.__getitem__)
    for axis, band, top, side in zip(grid.axes, bands, sides.rows, sides.columns, strict=True):
        size = known[f"|{axis.rows.name}|"]
        own = known[starts[axis.rows].tensor.name] if axis.same else np.arange(0, size, top)[None, :]
        first = np.broadcast_to(own, (len(choices), own.shape[1]))
        (tiles,) = segments((band,), side, known, first, np.minimum(first + top, size) - 1)
        lo, hi, full_lo, full_hi = tiles.lo, tiles.hi, tiles.full_lo, tiles.full_hi
        full_hi = np.minimum(full_hi, at(axis.full, env) // side)
        full_lo = full_hi if grid.tested else full_lo
        found.append(np.stack([lo, hi, full_lo, np.maximum(full_lo, full_hi)]))
    for n, choice in enumerate(choices.tolist()):
        yield dict(zip(same, choice, strict=True)), tuple(e[:, n] for e in found)


def count_boxes(grid: Grid, sides: Sides, cells: int, env: Env) -> TileCounts:
    """Boxes of one mask that holds so many `cells`."""
    known = sizes(grid, env)
    rows, columns = (
        prod(-(-known[f"|{i.name}|"] // side) for i, side in zip(own, given, strict=True))
        for own, given in (
            ([axis.rows for axis in grid.axes], sides.rows),
            ([axis.columns for axis in grid.axes], sides.columns),
        )
    )
    live = full = 0
    for _, found in ends(grid, sides, env):
        live += prod(int((hi - lo).sum()) for lo, hi, _, _ in found)
        full += prod(int((full_hi - full_lo).sum()) for _, _, full_lo, full_hi in found)
    return TileCounts(live, full, live - full, rows * columns - live, cells)
