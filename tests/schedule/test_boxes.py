"""The sides of boxes, and which patterns have them."""

from __future__ import annotations

from math import prod

import pytest

from attncc.masks.grid import Grid
from attncc.schedule.boxes import box
from attncc.schedule.plan import Kernel, partition
from tests.passes.meanings import meant, passed

TEXT = """pattern boxes(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], width: int, height: int, step: int, w: int) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where {where}) S[q,k]) * V[k,e]
"""
ROW = "q // width == k // width"
NEAR = "q % width - k % width <= w and k % width - q % width <= w"
ROWS = "q // width - k // width <= w and k // width - q // width <= w"
VOLUME = (
    "q // width // height - k // width // height <= w"
    " and q // width % height - k // width % height <= w and q % width - k % width <= w"
)
DILATED = "k <= q and q - k < w * step and (q - k) % step == 0"


def kernel(where: str) -> Kernel:
    (found,) = partition(passed(meant(TEXT.format(where=where)))).kernels
    return found


def planned(where: str) -> Grid | None:
    return kernel(where).grid


@pytest.mark.parametrize(
    ("where", "tile", "sides"),
    [
        (f"{ROWS} and {NEAR}", 64, (8, 8)),
        (f"{ROWS} and {NEAR}", 128, (8, 16)),
        (f"{ROWS} and {NEAR}", 32, (4, 8)),
        (f"{ROWS} and {NEAR}", 4, (1, 4)),
        (VOLUME, 64, (2, 4, 8)),
        (VOLUME, 128, (4, 4, 8)),
        (DILATED, 64, (64, 1)),
        (f"{ROW} and {NEAR} and k <= q and k % 2 == q % 2", 64, None),
    ],
)
def test_sides(where: str, tile: int, sides: tuple[int, ...] | None) -> None:
    found = planned(where)
    assert (found is None) == (sides is None)
    if found is not None:
        assert box(tile, found) == sides and prod(box(tile, found)) == tile


@pytest.mark.parametrize(
    "where", ["k <= q", ROW, f"{ROW} and k <= q", "k < w or q % width == k % width", "(k - 1) % width == 0"]
)
def test_positions_in_a_line(where: str) -> None:
    assert planned(where) is None


def test_two_ways_to_take_rows_apart() -> None:
    """Walks of one kernel share its rows: both are in a line."""
    near = f"{ROWS} and {NEAR}"
    text = TEXT.format(where=near)
    text += f"""    O2[q,e] = sum(k where {DILATED}) (S[q,k] - max(k where {near}) S[q,k]) * V[k,e]
"""
    text = text.replace("-> O[b,h,q,e]", "-> O2[b,h,q,e]")
    for found in partition(passed(meant(text))).kernels:
        grids = [loop.grid for loop in found.loops]
        assert all(g is None for g in grids) or all(
            g is not None and g.alike(grids[0]) for g in grids if grids[0]
        )


def test_parts_of_a_split_are_the_whole() -> None:
    """Said by the parts of a split or by divisions, a neighbourhood has the same boxes."""
    split = """pattern boxes(Q[q,d], K[k,d], V[k,e], width: int, w: int) -> O[q,e]:
    align q to k
    split k into y, x by width
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    near[q,y,x] = abs(q // width - y) <= w and abs(q % width - x) <= w
    O[q,e] = sum(y, x) (softmax(y, x where near[q,y,x]) S[q,y,x]) * V[y,x,e]
"""
    (found,) = partition(passed(meant(split))).kernels
    assert found.grid is not None and [axis.columns.name for axis in found.grid.axes] == ["k_a", "k_b"]
    assert not found.grid.tested and all(axis.band.lows and axis.band.highs for axis in found.grid.axes)
