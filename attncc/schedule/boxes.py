"""Tile → box: how many values of every digit a tile of rows or columns takes.

A digit of which a row sees only its own value has boxes of one: other values would be other rows' alone. The
rest of the tile is shared by the other digits as evenly as powers of two can, the inner ones first, and the
innermost has eight at least, so that neighbours in memory are loaded together:

    64 over y, x   -->   8 x 8          128 over z, y, x   -->   4 x 4 x 8
    64 over n, i where i is its own     -->   64 x 1
"""

from __future__ import annotations

from attncc.masks.grid import Grid

NEAR = 3
"""Two to this power is the least that the innermost digit takes."""


def box(tile: int, grid: Grid) -> tuple[int, ...]:
    """The sides of a box of at most so many positions, in the order of the axes."""
    left = tile.bit_length() - 1
    several = [n for n, axis in enumerate(grid.axes) if not axis.same]
    sides = [1] * len(grid.axes)
    for place in range(len(several), 0, -1):
        share = -(-left // place)
        if place == len(several):
            share = min(left, max(share, NEAR))
        sides[several[place - 1]] = 1 << share
        left -= share
    return tuple(sides)
