"""Masks of two and three axes: their digits say what they say, and boxes are visited once, none missed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

from attncc.masks.bands import bands
from attncc.masks.boxes import Sides, count_boxes, ends, sizes
from attncc.masks.counts import TileCounts
from attncc.masks.digits import tidy
from attncc.masks.grid import Grid, grid
from attncc.masks.integers import values
from tests.masks.pairs import K, Pair, Q, aligned, cells, choose, const, k, least, length, most, q, scalar

Env = dict[str, Any]
Part = tuple[Pair, Pair]
"""The same part of a row's position and of a column's."""


def around(of: Part, window: Pair, extent: Pair) -> Pair:
    """NATTEN's window."""
    row, column = of
    start = most(const(0), least(row - window // 2, extent - window))
    return (start <= column) & (column < start + window)


def strided(of: Part, window: Pair, stride: Pair, causal: bool, extent: Pair) -> Pair:
    row, column = of
    lead = least(row // stride * stride + (stride - 1 if causal else stride // 2), extent - 1)
    if causal:
        return (most(const(0), lead - window + 1) <= column) & (column <= row)
    start = most(const(0), least(lead - window // 2, extent - window))
    return (start <= column) & (column < start + window)


class Drawn:
    """A random mask over a grid of two or three axes, and the values of its names."""

    def __init__(self, seed: int):
        self.random = Random(seed)
        pick = self.random.randint
        self.env: Env = {}
        lengths = [pick(1, 9) for _ in range(pick(1, 2))]
        full = pick(1, 7)
        self.shift = aligned if self.random.random() < 0.7 else q
        for extent in lengths:
            full *= extent
        self.env["|k|"] = max(0, full - self.random.choice((0, 0, 1, 3)))
        self.env["|q|"] = self.random.choice((self.env["|k|"], pick(0, full), full + pick(0, 9)))
        row, column, size = self.shift, k, length(K)
        self.mask = const(True)
        for extent in lengths:
            by = self.number("width", extent)
            self.axis((row % by, column % by), by)
            row, column, size = row // by, column // by, size // by
        self.axis((row, column), size)
        if self.random.random() < 0.3:
            self.mask = self.mask & (k <= self.shift)

    def number(self, name: str, value: int) -> Pair:
        self.env[name := f"{name}{len(self.env)}"] = value
        return scalar(name)

    def axis(self, of: Part, extent: Pair) -> None:
        """A condition along one axis."""
        row, column = of
        window = self.number("window", self.random.randint(1, 6))
        match self.random.randrange(7):
            case 0:
                pass
            case 1:
                self.mask = self.mask & (column <= row) & (row - column < window)
            case 2:
                self.mask = self.mask & row.equals(column)
            case 3 | 4:
                by = self.number("dilation", self.random.randint(1, 4))
                rest = (extent - row % by + by - 1) // by
                self.mask = self.mask & (row % by).equals(column % by)
                self.mask = self.mask & around((row // by, column // by), window, rest)
            case 5:
                stride = self.number("stride", self.random.randint(1, 4))
                self.mask = self.mask & strided(of, window, stride, self.random.random() < 0.5, extent)
            case _:
                self.mask = self.mask & around(of, window, extent)


def flat(found: Grid, side: int, box: Sequence[range], env: Env) -> np.ndarray[Any, Any]:
    """The positions in a box of digits."""
    own = [(axis.rows, axis.columns)[side] for axis in found.axes]
    ranges = [np.arange(r.start, r.stop) for r in box]
    points = np.meshgrid(*ranges, indexing="ij")
    known = {**sizes(found, env), **{i.name: p.ravel() for i, p in zip(own, points, strict=True)}}
    inside = np.ones(points[0].size, bool)
    for test in found.inside(side):
        inside &= np.broadcast_to(values(test, known), inside.shape)
    at = np.broadcast_to(values((found.row, found.column)[side], known), inside.shape)[inside]
    return at[at < env[("|q|", "|k|")[side]]]


def visits(found: Grid, sides: Sides, env: Env) -> Any:
    """(rows, columns, seen whole) of every box that is visited, positions of a box of columns in full."""
    known = sizes(found, env)
    for fixed, spans in ends(found, sides, env):
        starts = [
            [fixed[axis.rows]] if axis.same else range(0, known[f"|{axis.rows.name}|"], side)
            for axis, side in zip(found.axes, sides.rows, strict=True)
        ]
        for place in product(*(range(len(own)) for own in starts)):
            top = [
                range(own[n], min(own[n] + side, known[f"|{axis.rows.name}|"]))
                for own, n, side, axis in zip(starts, place, sides.rows, found.axes, strict=True)
            ]
            rows = flat(found, 0, top, env)
            here = [span[:, n] for span, n in zip(spans, place, strict=True)]
            for tile in product(*(range(lo, hi) for lo, hi, _, _ in here)):
                whole = all(lo <= n < hi for n, (_, _, lo, hi) in zip(tile, here, strict=True))
                left = [range(n * side, (n + 1) * side) for n, side in zip(tile, sides.columns, strict=True)]
                yield rows, flat(found, 1, left, env), whole


def drawn_sides(found: Grid, random: Random) -> Sides:
    def own() -> list[int]:
        return [1 if axis.same else random.choice((1, 2, 4)) for axis in found.axes]

    return Sides(own(), own())


def check(drawn: Drawn, found: Grid) -> tuple[int, int]:
    """Boxes visited, and those of them in which a row sees nothing."""
    env, mask = drawn.env, cells(drawn.mask, drawn.env)
    sides = drawn_sides(found, drawn.random)
    count = np.zeros(mask.shape, int)
    boxes = wasted = full = 0
    for rows, columns, whole in visits(found, sides, env):
        here = np.ix_(rows, columns)
        count[here] += 1
        boxes += 1
        wasted += len(rows) > 0 and not mask[here].any()
        full += whole
        if whole:
            assert len(columns) == np.prod(sides.columns) and mask[here].all(), (drawn.mask.e, env, sides)
    assert (count <= 1).all() and (count[mask] == 1).all(), (drawn.mask.e, env, sides)
    counted = count_boxes(found, sides, int(mask.sum()), env)
    assert (counted.live, counted.full, counted.cells) == (boxes, full, int(mask.sum()))
    return boxes, wasted


def test_random_grids() -> None:
    """Random masks: every live box once, full ones full, few visited in vain."""
    grids = boxes = wasted = 0
    for seed in range(100):
        drawn = Drawn(seed)
        found = grid(drawn.mask.e, Q, K)
        if found is None:
            continue
        grids += 1
        made, vain = check(drawn, found)
        boxes, wasted = boxes + made, wasted + vain
    assert grids > 80 and boxes > 5_000
    assert wasted <= 0.05 * boxes


@pytest.mark.parametrize("rows", [117, 30, 150])
def test_digits_say_the_predicate(rows: int) -> None:
    """Every axis' band on the digits of a row and a column, together: the mask, cell by cell."""
    w, width = scalar("w"), scalar("width")
    mask = around((aligned // width, k // width), w, length(K) // width)
    mask = mask & around((aligned % width, k % width), w, width)
    found = grid(mask.e, Q, K)
    assert found is not None and not found.tested
    env: Env = {"w": 3, "width": 9, "|q|": rows, "|k|": 117}
    at = np.arange(rows)[:, None] + 117 - rows
    near = np.ones((rows, 117), bool)
    for axis, row, column in zip(
        found.axes, (at // 9, at % 9), (np.arange(117) // 9, np.arange(117) % 9), strict=True
    ):
        first = int(values(axis.first, env))
        known = {**sizes(found, env), axis.rows.name: row - first}
        for low in axis.band.lows:
            near &= values(low.value, known) <= column[None, :]
        for high in axis.band.highs:
            near &= column[None, :] <= values(high.value, known)
    assert (near == cells(mask, env)).all()


def test_what_is_taken_apart() -> None:
    """Dilations are digits that a row shares with what it sees; factors of divisors nest."""
    d, w = scalar("d"), scalar("w")
    dilated = grid(((aligned - k) % d).equals(0).e, Q, K)
    assert dilated is not None and [axis.same for axis in dilated.axes] == [False, True]
    windowed = (k <= aligned) & (aligned - k < w * d) & ((aligned - k) % d).equals(0)
    found = grid(windowed.e, Q, K)
    assert found is not None and not found.tested and found.axes[0].band.lows and found.axes[0].band.highs
    nested = (aligned // (w * d)).equals(k // (w * d)) & (aligned % d).equals(k % d)
    found = grid(nested.e, Q, K)
    assert found is not None and [axis.same for axis in found.axes[1:]] == [False, True]


def test_what_is_not_taken_apart() -> None:
    w, v = scalar("w"), scalar("v")
    assert grid((k <= aligned).e, Q, K) is None
    assert grid((k % w).equals(0).e, Q, K) is None
    assert grid((aligned // w).equals(k // w).e, Q, K) is None  # a band in a line
    assert grid(((aligned // w).equals(k // w) & (aligned % v).equals(k % v)).e, Q, K) is None
    assert grid(((aligned // w).equals(k // w) & (q % w).equals(k % w)).e, Q, K) is None  # two origins


def test_a_causal_grid_bounds_its_rows() -> None:
    """A test of flat positions still bounds the outermost axis, and no box goes untested."""
    w = scalar("w")
    mask = (k <= aligned) & ((aligned % w - k % w) < 2) & ((k % w - aligned % w) < 2)
    found = grid(mask.e, Q, K)
    assert found is not None and found.tested
    env: Env = {"w": 8, "|q|": 64, "|k|": 64}
    counted = count_boxes(found, Sides((1, 8), (1, 8)), 0, env)
    assert counted == TileCounts(36, 0, 36, 28, 0)


def test_a_large_grid() -> None:
    """A window of 13 by 13 in a million positions, in boxes of 8 by 8: no cell is enumerated."""
    w, width = scalar("w"), scalar("width")
    mask = around((aligned // width, k // width), w, length(K) // width)
    mask = mask & around((aligned % width, k % width), w, width)
    found = grid(mask.e, Q, K)
    assert found is not None
    env: Env = {"w": 13, "width": 1024, "|q|": 1 << 20, "|k|": 1 << 20}
    counted = count_boxes(found, Sides((8, 8), (8, 8)), 0, env)
    per_row = counted.live / (1 << 14)
    assert 6 <= per_row <= 9 and counted.live + counted.skipped == 1 << 28
    line = bands(tidy(mask.e), Q, K)
    assert any(band.rest for band in line)


def test_choices_of_a_flag() -> None:
    """A flag that is known at run time chooses between two ends of one band."""
    flag, w = scalar("flag"), scalar("w")
    row, column = aligned % w, k % w
    high = choose(flag.equals(1), row, row + 2)
    mask = (row - 2 <= column) & (column <= high) & (aligned // w - k // w < 2) & (k // w <= aligned // w)
    found = grid(mask.e, Q, K)
    assert found is not None and not found.tested
    for on, size in product((0, 1), (40, 33)):
        drawn = Drawn(on)
        drawn.mask, drawn.env = mask, {"flag": on, "w": 7, "|q|": size, "|k|": 40}
        check(drawn, found)
