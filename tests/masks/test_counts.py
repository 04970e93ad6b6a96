"""Tiles and cells of random masks, counted one by one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from attncc.masks.bands import bands
from attncc.masks.counts import TileCounts, count
from tests.masks.pairs import FALSE, TRUE, K, Pair, Q, aligned, cells, k, q, scalar
from tests.masks.strategies import SORTED, Case, cases
from tests.masks.tiles import tiles_of

causal = k <= aligned


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(largest=90))
def test_random_masks(case: Case) -> None:
    mask = cells(case.mask, case.env)
    rows, columns = mask.shape
    found = bands(case.mask.e, Q, K, SORTED)
    counted = count(found, case.mask.e, case.env, rows, columns, case.block_q, case.block_k)
    visited = [
        segment
        for first in range(0, rows, case.block_q)
        for segment in tiles_of(found, first, first + case.block_q - 1, case.block_k, case.env)
    ]
    live, full = sum(len(v.live) for v in visited), sum(len(v.full) for v in visited)
    tiles = -(-rows // case.block_q) * -(-columns // case.block_k)
    assert counted == TileCounts(live, full, live - full, tiles - live, int(mask.sum()))


@pytest.mark.parametrize(
    ("mask", "rows", "columns", "expected"),
    [
        (TRUE, 64, 64, TileCounts(16, 16, 0, 0, 4096)),
        (TRUE, 60, 60, TileCounts(16, 12, 4, 0, 3600)),
        (FALSE, 64, 64, TileCounts(0, 0, 0, 16, 0)),
        (causal, 64, 64, TileCounts(10, 6, 4, 6, 64 * 65 // 2)),
        (causal, 1, 64, TileCounts(4, 4, 0, 0, 64)),
        (causal, 0, 64, TileCounts(0, 0, 0, 0, 0)),
        (causal, 64, 0, TileCounts(0, 0, 0, 0, 0)),
        (causal & (k % 2).equals(0), 64, 64, TileCounts(10, 0, 10, 6, 32 * 33)),
        (causal & (q - k < scalar("w")), 64, 64, TileCounts(7, 0, 7, 9, 10 * 64 - 45)),
        (causal & ((k % 2).equals(0) | (q - k < 40)), 64, 64, TileCounts(10, 3, 7, 6, 64 * 65 // 2 - 144)),
        ((k < 4) | (k >= q) & (k <= q + 2), 64, 64, TileCounts(10, 0, 10, 6, 4 * 64 + 3 + 3 * 58 + 3)),
    ],
)
def test_small_masks(mask: Pair, rows: int, columns: int, expected: TileCounts) -> None:
    env = {"w": 10}
    assert count(bands(mask.e, Q, K), mask.e, env, rows, columns, 16, 16) == expected
    shape = {"|q|": rows, "|k|": columns}
    assert int(np.sum(cells(mask, {**env, **shape}))) == expected.cells


def test_a_million_positions() -> None:
    """A mask of 10¹² cells is never looked at cell by cell."""
    mask, length = causal & ((aligned - k < 4096) | (k < 64)), 1 << 20
    start = time.perf_counter()
    counted = count(bands(mask.e, Q, K), mask.e, {}, length, length, 128, 128)
    assert time.perf_counter() - start < 5
    window = 4096 * length - 4096 * 4095 // 2
    assert counted.cells == window + 64 * (length - 4096 - 64) + 64 * 65 // 2
