"""Random masks: the bands hold exactly the cells of the mask, and the tiles of the bands miss none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

from attncc.ir.cascade import number
from attncc.masks.band import MOST
from attncc.masks.bands import Band, bands, transpose
from attncc.masks.integers import values
from attncc.masks.ranges import ordered, union, visit
from tests.masks.pairs import Array, K, Q, cells, k, q, scalar
from tests.masks.strategies import SORTED, Case, cases


def held(band: Band, env: Mapping[str, Any]) -> Array:
    """The cells of one band, rows of `q` by columns of `k`, whichever way it is laid out."""
    shape = env["|q|"], env["|k|"]
    known = {**env, "q": np.arange(shape[0])[:, None], "k": np.arange(shape[1])[None, :]}
    result = np.ones(shape, bool)
    for low in band.lows:
        result &= values(low.value, known) <= known[band.columns.name]
    for high in band.highs:
        result &= values(high.value, known) >= known[band.columns.name]
    for e in (*band.guards, *band.rest):
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
    ranges = union(found, scalar("first").e, scalar("last").e, number(size_k), prefix="k_")
    tiles = live = visits = whole = recognised = 0
    for first in range(0, rows, size_q):
        strip = mask[first : first + size_q]
        visited: set[int] = set()
        full: set[int] = set()
        before = 0
        for lo, hi, full_lo, full_hi in visit(
            ranges, {**env, "first": first, "last": first + len(strip) - 1}
        ):
            assert before <= lo <= full_lo <= full_hi <= hi <= -(-columns // size_k)
            before = hi
            visited |= set(range(lo, hi))
            full |= set(range(full_lo, full_hi))
        for n in range(-(-columns // size_k)):
            tile = strip[:, n * size_k : (n + 1) * size_k]
            all_seen = tile.shape[1] == size_k and bool(tile.all())
            assert n in visited or not tile.any(), "a live tile is missed"
            assert n not in full or all_seen, "a full tile is not full"
            tiles, live, whole = tiles + 1, live + bool(tile.any()), whole + all_seen
        visits, recognised = visits + len(visited), recognised + len(full)
    return Tally(tiles, live, visits, whole, recognised)


def connected(band: Band, mask: Array) -> bool:
    """Whether both ends of a band are monotone, no row is empty, and each row touches the one before it."""
    moves = ({b.direction for b in bounds} - {"flat"} for bounds in (band.lows, band.highs))
    if band.rest or any(len(found) > 1 for found in moves) or not mask.any(1).all():
        return False
    first, end = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    return bool((first[1:] <= end[:-1]).all() and (first[:-1] <= end[1:]).all())


def test_random_masks() -> None:
    """At least 20,000 tiles, in both loop directions."""
    bounded, tested, exact, turned = Tally(), Tally(), Tally(), 0

    @settings(max_examples=160, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        nonlocal bounded, tested, exact, turned
        mask = cells(case.mask, case.env)
        found = bands(case.mask.e, Q, K, SORTED)
        assert len(found) <= MOST
        together = np.zeros(mask.shape, bool)
        for band in found:
            together |= held(band, case.env)
        assert (together == mask).all()
        flipped = [transpose(band) for band in found]
        for band, other in zip(found, flipped, strict=True):
            assert other is None or (held(other, case.env) == held(band, case.env)).all()
        result = tally(found, mask, case.env, case.block_q, case.block_k)
        if len(found) == 1 and not found[0].rest:
            assert result.found_full == result.full, "full tiles of one band are exact"
        if len(found) == 1 and connected(found[0], mask):
            assert result.visited == result.live, "a connected band is exact"
            exact += result
        if all(flipped):
            turned += 1
            across = tuple(band for band in flipped if band)
            result += tally(across, mask.T, case.env, case.block_k, case.block_q)
        if any(band.rest for band in found):
            tested += result
        else:
            bounded += result

    check()
    print(
        f"\nbounds: {bounded}\nwith element tests: {tested}\nconnected: {exact}\ntransposed: {turned} masks"
    )
    assert bounded.tiles + tested.tiles >= 20_000
    assert bounded.visited - bounded.live <= 0.02 * bounded.tiles
    assert bounded.found_full >= 0.98 * bounded.full
    assert exact.tiles >= 2_000 and turned >= 50, "too few of the masks say anything"


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
