"""The sides of boxes, and which patterns have them."""

from __future__ import annotations

from math import prod

import pytest

from attncc.masks.grid import Grid
from attncc.schedule.boxes import box
from attncc.schedule.plan import Kernel, partition
from tests.passes.meanings import meant, passed

TEXT = """pattern boxes(
    Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], width: int, height: int, step: int, w: int
) -> O[b,h,q,e]:
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


def test_rows_are_taken_apart_in_one_way() -> None:
    """A walk in a line beside one on a grid: both are in a line, as they share their rows."""
    text = """pattern boxes(Q[q,d], K[k,d], V[k,e], M[j,d], W[j,e], width: int, w: int) -> O[q,e]:
    along j
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    R[q,j] = sum(d) Q[q,d] * M[j,d]
    O[q,e] = (sum(k where WHERE) S[q,k] * V[k,e]) + (sum(j) R[q,j] * W[j,e])
"""
    (found,) = partition(passed(meant(text.replace("WHERE", f"{ROWS} and {NEAR}")))).kernels
    assert [loop.index.name for loop in found.loops] == ["k", "j"]
    assert [loop.grid for loop in found.loops] == [None, None] and found.grid is None


def test_several_masks_of_one_walk() -> None:
    """What either of two predicates lets pass is no product of bands."""
    text = TEXT.format(where=f"{ROWS} and {NEAR}").replace("-> O[b,h,q,e]", "-> O[b,h,q,e], P[b,h,q,e]")
    text += f"    P[q,e] = sum(k) (softmax(k where {DILATED}) S[q,k]) * V[k,e]\n"
    (found,) = partition(passed(meant(text))).kernels
    assert found.grid is None


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
