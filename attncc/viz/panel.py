"""One head's mask over one walk, as pixels: the class of every tile, and what part of every pixel is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncc.masks.seen import FULL, PARTIAL, SKIPPED

KINDS = {"full": FULL, "partial": PARTIAL, "skipped": SKIPPED}

WHOLE = 255
"""The shade of a pixel all of whose cells are seen; 0 where none is."""


@dataclass(frozen=True)
class Panel:
    """A mask of `size` rows and columns, `shades` a byte for every pixel, `tiles` one for every tile, or for
    every pixel where that holds several: partial, unless all of them are of one class. Of `tile`, the side of
    a tile, and `step`, that of a pixel, one divides the other. `counts` are the tiles of every class; `exact`
    is false where shades are an estimate even for the rows that are looked at.
    """

    title: str
    rows: str
    columns: str
    size: tuple[int, int]
    tile: int
    step: int
    exact: bool
    counts: tuple[int, ...]
    tiles: tuple[bytes, ...]
    shades: tuple[bytes, ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        high, wide = self.size
        return -(-high // self.step), -(-wide // self.step)

    @property
    def same(self) -> tuple[Any, ...]:
        """What two panels that look alike have in common: all but the title."""
        return self.rows, self.columns, self.counts, self.tiles, self.shades

    def kinds(self) -> Iterator[bytes]:
        """The class of the tile of every pixel, row by row of pixels."""
        per, (high, wide) = max(self.tile // self.step, 1), self.pixels
        for row in range(high):
            yield bytes(np.repeat(np.frombuffer(self.tiles[row // per], np.uint8), per)[:wide])

    def data(self) -> dict[str, Any]:
        """Plain data: how many tiles there are of each class."""
        found = {kind: self.counts[n] for kind, n in KINDS.items()}
        return {"title": self.title, "rows": self.rows, "columns": self.columns, "tiles": found}
