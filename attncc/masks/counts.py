"""Bands and two lengths → how many tiles are visited, skipped, full and partial; how many cells are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Expr
from attncc.masks.band import Band
from attncc.masks.integers import Env, values
from attncc.masks.normal import total
from attncc.masks.segments import intervals, segments

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
    tiles_of = segments(bands, block_k, known, first, last)
    live = sum(int((s.hi - s.lo).sum()) for s in tiles_of)
    full = sum(int((s.full_hi - s.full_lo).sum()) for s in tiles_of)
    if all(band.exact for band in bands):
        cells = sum(int((b - a).sum()) for a, b in intervals(bands, known, np.arange(rows)))
        return TileCounts(live, full, live - full, tiles - live, cells)
    element, cells = total(predicate), 0
    for n, (top, bottom) in enumerate(zip(first, last, strict=True)):
        here = {
            **known,
            q.name: np.arange(top, bottom + 1)[:, None],
            k.name: _columns([s.tiles(n).partial for s in tiles_of], block_k, columns),
        }
        cells += int(np.broadcast_to(values(element, here), (bottom + 1 - top, here[k.name].size)).sum())
        cells += sum(int((s.full_hi - s.full_lo)[n]) for s in tiles_of) * block_k * int(bottom + 1 - top)
    return TileCounts(live, full, live - full, tiles - live, cells)


def _columns(tiles: list[Array], block: int, columns: int) -> Array:
    """The columns of some tiles."""
    k = (np.concatenate(tiles)[:, None] * block + np.arange(block)).ravel()
    return np.asarray(k[k < columns])
