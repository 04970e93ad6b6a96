"""Random masks: the bands hold exactly the cells of the mask, and the tiles of the bands miss none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

from attncc.ir.cascade import number
from attncc.masks.band import MOST
from attncc.masks.bands import Band, bands
from attncc.masks.integers import values
from attncc.masks.ranges import ordered, union, visit
from attncc.masks.segments import Segment, segments
from tests.masks.pairs import Array, K, Q, cells, k, q, scalar
from tests.masks.strategies import SORTED, Case, Seeded, cases
from tests.masks.strategies import case as random_case


def held(band: Band, env: Mapping[str, Any]) -> Array:
    """The cells of one band, rows of `q` by columns of `k`, whichever way it is laid out."""
    shape = env["|q|"], env["|k|"]
    known = {**env, "q": np.arange(shape[0])[:, None], "k": np.arange(shape[1])[None, :]}
    result = np.ones(shape, bool)
    for low in band.lows:
        result &= values(low.value, known) <= known[band.columns.name]
    for high in band.highs:
        result &= values(high.value, known) >= known[band.columns.name]
    tests = (band.residue.test,) if band.residue else ()
    for e in (*band.guards, *band.rest, *tests):
        result &= values(e, known)
    return result


@dataclass(frozen=True)
class Tally:
    """How many tiles there are, hold a cell, are visited, hold only cells, are recognised as such."""

    tiles: int = 0
    live: int = 0
    visited: int = 0
    full: int = 0
    found_full: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        excess = (self.visited - self.live) / max(self.tiles, 1)
        return (
            f"{self.tiles} tiles, {self.live} live, {excess:.2%} visited in vain,"
            f" {self.full} full, {self.found_full} of them recognised"
        )


def tally(found: tuple[Band, ...], mask: Array, env: Mapping[str, Any], size_q: int, size_k: int) -> Tally:
    """Visits all tiles: no live one is missed, none is visited twice, a full one is full."""
    rows, columns = mask.shape
    first, starts = np.arange(0, rows, size_q), np.arange(0, columns, size_k)
    visits = np.zeros((len(first), len(starts)), int)
    recognised = np.zeros_like(visits)
    for segment in segments(found, size_k, env, first, np.minimum(first + size_q, rows) - 1):
        some = segment.lo < segment.hi
        visits += counted(segment, segment.lo, segment.hi, some, len(starts))
        recognised += counted(segment, segment.full_lo, segment.full_hi, some, len(starts))
    assert visits.max(initial=0) <= 1, "a tile is visited twice"
    assert (recognised <= visits).all()
    seen = np.add.reduceat(np.add.reduceat(mask, first, axis=0, dtype=int), starts, axis=1)
    live, whole = seen > 0, seen == np.minimum(size_q, rows - first)[:, None] * size_k
    assert not (live & (visits == 0)).any(), "a live tile is missed"
    assert not ((recognised > 0) & ~whole).any(), "a full tile is not full"
    return Tally(visits.size, *(int(x.sum()) for x in (live, visits, whole, recognised)))


def counted(segment: Segment, lo: Array, hi: Array, some: Array, tiles: int) -> Array:
    """How often a segment has every tile, of which it has those of some ranks, where it has any."""
    sizes = np.where(some, np.maximum(hi - lo, 0), 0)
    row = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(row)) - (np.cumsum(sizes) - sizes - lo)[row]
    period, width, shift = (x[row] for x in segment.stride)
    tile = rank // width * period + rank % width - shift
    assert not len(tile) or 0 <= tile.min() <= tile.max() < tiles
    return np.bincount(row * tiles + tile, minlength=len(sizes) * tiles).reshape(-1, tiles)


def one_by_one(
    found: tuple[Band, ...], mask: Array, env: Mapping[str, Any], size_q: int, size_k: int
) -> None:
    """Every tile of rows has by itself the segments that it has among all."""
    ranges = union(found, scalar("first").e, scalar("last").e, number(size_k), prefix="k_")
    first = np.arange(0, len(mask), size_q)
    last = np.minimum(first + size_q, len(mask)) - 1
    together = segments(found, size_k, env, first, last)
    for n in range(len(first)):
        alone = visit(ranges, {**env, "first": int(first[n]), "last": int(last[n])})
        every = [segment.tiles(n) for segment in together]
        assert alone == [v for v in every if v.lo < v.hi]


def connected(band: Band, mask: Array) -> bool:
    """Whether both ends of a band are monotone, no row is empty, and each row touches the one before it."""
    moves = [{b.direction for b in bounds} - {"flat"} for bounds in (band.lows, band.highs)]
    if "free" in set().union(*moves):
        return False
    if not band.exact or any(len(found) > 1 for found in moves) or not mask.any(1).all():
        return False
    first, end = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    return bool((first[1:] <= end[:-1]).all() and (first[:-1] <= end[1:]).all())


def follows(band: Band, env: Mapping[str, Any], block: int) -> bool:
    """Whether tiles of so many columns repeat with the residue of a band, if it has one."""
    return band.residue is None or int(values(band.residue.period, env)) % block == 0


def sort_of(found: tuple[Band, ...], env: Mapping[str, Any], block: int) -> str:
    """What the tiles of some bands can be held to."""
    classes = [band for band in found if band.residue]
    if any(band.rest for band in found) or len(classes) > 1:
        return "tested"
    if not all(follows(band, env, block) for band in classes):
        return "tested"
    if classes:
        return "in a class"
    free = any(bound.direction == "free" for band in found for bound in (*band.lows, *band.highs))
    return "free" if free else "monotone"


def test_random_masks() -> None:
    """100,000 tiles and more, in both loop directions."""
    sorts = {name: Tally() for name in ("monotone", "free", "in a class", "tested")}
    exact, seed = Tally(), 0
    while sum(sort.tiles for sort in sorts.values()) < 100_000:
        case = random_case(Seeded(Random(seed := seed + 1)))
        mask = cells(case.mask, case.env)
        for rows, columns, here, size_q, size_k in (
            (Q, K, mask, case.block_q, case.block_k),
            (K, Q, mask.T, case.block_k, case.block_q),
        ):
            found = bands(case.mask.e, rows, columns, SORTED)
            assert len(found) <= MOST
            together = np.zeros(mask.shape, bool)
            for band in found:
                together |= held(band, case.env)
            assert (together == mask).all(), seed
            result = tally(found, here, case.env, size_q, size_k)
            if len(found) == 1 and found[0].exact:
                assert result.found_full == result.full, f"full tiles of one band are exact: {seed}"
            if len(found) == 1 and connected(found[0], here):
                assert result.visited == result.live, f"a connected band is exact: {seed}"
                exact += result
            sorts[sort_of(found, case.env, size_k)] += result
    print(f"\n{seed} masks", *(f"{name}: {sort}" for name, sort in sorts.items()), sep="\n")
    print(f"connected: {exact}")
    for name in ("monotone", "free", "in a class"):
        assert sorts[name].visited - sorts[name].live <= 0.01 * sorts[name].tiles, name
    assert sorts["monotone"].found_full >= 0.98 * sorts["monotone"].full
    assert exact.tiles >= 10_000 and sorts["in a class"].tiles >= 1_500, "too few of the masks say anything"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_drawn_masks(case: Case) -> None:
    """Others every time, and the smallest that fails."""
    mask = cells(case.mask, case.env)
    for rows, columns, here, size_q, size_k in (
        (Q, K, mask, case.block_q, case.block_k),
        (K, Q, mask.T, case.block_k, case.block_q),
    ):
        found = bands(case.mask.e, rows, columns, SORTED)
        together = np.zeros(mask.shape, bool)
        for band in found:
            together |= held(band, case.env)
        assert (together == mask).all()
        tally(found, here, case.env, size_q, size_k)
        one_by_one(found, here, case.env, size_q, size_k)


def test_unions_ordered_at_run_time() -> None:
    """Four stripes whose order nobody knows before, some empty, nested, touching or equal."""
    stripes = [(scalar(f"from{n}"), scalar(f"upto{n}")) for n in range(4)]
    parts = [(k >= low + q // 4) & (k < high + q // 2) for low, high in stripes]
    mask = parts[0] | parts[1] | parts[2] | parts[3]
    found = bands(mask.e, Q, K)
    assert len(found) == 4 and ordered(found) is None
    random, total = np.random.default_rng(0), Tally()
    for _ in range(60):
        ends = {f"{name}{n}": int(random.integers(-10, 60)) for n in range(4) for name in ("from", "upto")}
        env = {"|q|": 40, "|k|": 50, **ends}
        total += tally(found, cells(mask, env), env, 10, int(random.integers(1, 9)))
    print(f"\nfour stripes: {total}")
    assert total.found_full > 0.8 * total.full
