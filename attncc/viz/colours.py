"""Class of a tile and shade of a pixel → its colour, told apart by people who see no red, green or blue.

The hue says how a tile is visited, the depth how much of a pixel is seen: blue without a test, orange with
one, pale where nothing is seen, and paper where the tile is skipped.
"""

from __future__ import annotations

from typing import TypeAlias

from attncc.viz.panel import KINDS, WHOLE

Colour: TypeAlias = tuple[int, int, int]

PALE = {"full": "#cfe3f3", "partial": "#fdeccb", "skipped": "#f6f7f9"}
DEEP = {"full": "#0b63a8", "partial": "#e08e00", "skipped": "#000000"}
"""Nothing deep is ever drawn in a skipped tile; it would be seen."""

DARK_PALE = {"full": "#1b3a55", "partial": "#4a3716", "skipped": "#1d2228"}
DARK_DEEP = {"full": "#56b0ee", "partial": "#f3a83b", "skipped": "#ffffff"}

WORDS = {"full": "visited, seen whole", "partial": "visited, tested", "skipped": "skipped"}

LEGEND = "blue: tiles seen whole; orange: tiles on an edge, tested; pale: not seen; grey: skipped"

FAINTEST = 0.3
"""The depth of a pixel in which a single cell is seen."""


def depth(shade: int) -> float:
    """How deep a pixel is, from 0 to 1: rising with its shade, and never too faint to see."""
    return FAINTEST + (1 - FAINTEST) * shade / WHOLE if shade else 0.0


def palette() -> dict[int, list[Colour]]:
    """For every class the colours of all shades."""
    return {
        n: [mixed(PALE[kind], DEEP[kind], depth(shade)) for shade in range(WHOLE + 1)]
        for kind, n in KINDS.items()
    }


def mixed(pale: str, deep: str, share: float) -> Colour:
    """A colour between two, the second by its share."""
    a, b = (bytes.fromhex(colour[1:]) for colour in (pale, deep))
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue
