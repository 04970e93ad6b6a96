"""Bands and rows → the class of every tile of a row of tiles, and how many cells each row sees in stretches.

Nothing here has the size of rows by columns. Cells are counted from the ends of bands; an element test is
asked of every column once where it reads no row, and of drawn cells where it does and they are too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import Expr, free
from attncc.masks.band import Band
from attncc.masks.integers import Env, values
from attncc.masks.normal import both, total
from attncc.masks.segments import ends, intervals, segments

Array: TypeAlias = np.ndarray[Any, Any]

SKIPPED, PARTIAL, FULL = range(3)
"""What becomes of a tile: not visited, visited and tested, visited without a test."""

CHUNK = 1 << 16
"""Cells or rows that are looked at together."""


def classes(
    bands: Sequence[Band], env: Env, rows: int, columns: int, block_q: int, block_k: int
) -> Iterator[Array]:
    """For every tile of `block_q` rows, the class of each of its tiles of `block_k` columns.

    `env` binds scalars, tables and every index but the two of the plane.
    """
    count = -(-columns // block_k)
    first = np.arange(0, rows, block_q)
    visited = segments(bands, block_k, env, first, np.minimum(first + block_q, rows) - 1)
    for n in range(len(first)):
        kinds = np.zeros(count, np.uint8)
        for segment in visited:
            tiles = segment.tiles(n)
            kinds[tiles.live] = PARTIAL
            kinds[tiles.full] = FULL
        yield kinds


@dataclass(frozen=True)
class Stretches:
    """Counts for rows of a mask: `of` tells how many cells each sees between every two `edges`; `exact` is
    whether all cells are counted, and not some that are drawn from each stretch.
    """

    bands: tuple[Band, ...]
    predicate: Expr
    env: Env
    edges: Array
    drawn: int
    test: Array | None

    @property
    def exact(self) -> bool:
        """Whether no cell is left out."""
        return self.counted or int(np.diff(self.edges).max(initial=0)) <= self.drawn

    @property
    def counted(self) -> bool:
        """Whether cells are counted from the ends of bands, none of them looked at row by row."""
        return self.test is not None or not any(band.rest for band in self.bands)

    def of(self, rows: Array) -> Array:
        """An array (rows, stretches)."""
        if not self.bands:
            return np.zeros((len(rows), len(self.edges) - 1))
        return self._count(rows) if self.counted else self._draw(rows)

    def _count(self, rows: Array) -> Array:
        """|A or B and test| = |A| + |B and test| - |A and B and test|, A and B unions of intervals."""
        plain = intervals([b for b in self.bands if not b.rest], self.env, rows)
        tested = intervals([b for b in self.bands if b.rest], self.env, rows)
        found: Array = np.zeros((len(rows), len(self.edges) - 1))
        for start, stop in plain:
            found += self._within(start, stop, None)
        for start, stop in tested:
            found += self._within(start, stop, self.test)
            for begin, end in plain:
                low = np.maximum(start, begin)
                found -= self._within(low, np.maximum(np.minimum(stop, end), low), self.test)
        return found

    def _within(self, start: Array, stop: Array, below: Array | None) -> Array:
        """The columns of one interval a row in every stretch; `below` counts those that pass before each."""
        ends = np.clip(self.edges, start[:, None], stop[:, None])
        return np.diff(ends if below is None else below[ends], axis=1)

    def _draw(self, rows: Array) -> Array:
        """Every cell where that is few for a stretch, else as many as may be drawn, spread over it."""
        where = total(self.predicate)
        q, k = self.bands[0].rows.name, self.bands[0].columns.name
        width = np.diff(self.edges)
        each = min(int(width.max(initial=1)), self.drawn)
        found: Array = np.zeros((len(rows), len(width)))
        chance = np.random.default_rng(0)
        for n, stretch in self._live(rows, max(CHUNK // each, 1)):
            wide = width[stretch, None]
            places: Array = np.arange(each)[None, :]
            if each < width.max():
                places = ((places + chance.random((len(stretch), each))) * wide / each).astype(int)
            inside = places < wide
            columns = self.edges[stretch, None] + np.where(inside, places, 0)
            seen = values(where, {**self.env, q: rows[n, None], k: columns}) & inside
            found[n, stretch] = seen.sum(1) * (wide[:, 0] / np.minimum(wide[:, 0], each))
        return found

    def _live(self, rows: Array, together: int) -> Iterator[tuple[Array, Array]]:
        """The stretches that a band reaches, of every row, as places of both in parts of that many."""
        found = [ends(band, self.env, rows) for band in self.bands]
        low, high = np.min([a for a, _ in found], 0), np.max([b for _, b in found], 0)
        n, stretch = np.nonzero((self.edges[1:] > low[:, None]) & (self.edges[:-1] < high[:, None]))
        for start in range(0, len(n), together):
            yield n[start : start + together], stretch[start : start + together]


def stretches(
    bands: Sequence[Band], predicate: Expr, env: Env, edges: Array, drawn: int = CHUNK
) -> Stretches:
    """How many cells rows see in the columns between every two `edges`, which begin at 0 and rise.

    `bands` are those of `predicate`; at most `drawn` cells are looked at in one stretch of a row, where the
    bands have element tests that read the row, or several of them.
    """
    bands = [band.untested() for band in bands]
    tests = {reduce(both, band.rest) for band in bands if band.rest}
    below = None
    if len(tests) == 1 and not any(bands[0].rows in free(test) for test in tests):
        (test,) = tests
        whole, columns = total(test), int(edges[-1])
        below = np.zeros(columns + 1, np.int64)
        for start in range(0, columns, CHUNK):
            k = np.arange(start, min(start + CHUNK, columns))
            below[k + 1] = values(whole, {**env, bands[0].columns.name: k})
        np.cumsum(below, out=below)
    return Stretches(tuple(bands), predicate, env, edges, drawn, below)
