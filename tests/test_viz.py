"""The picture of a mask: its cells and its tiles are those of the predicate."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attncc.ir.check import check
from attncc.schedule.plan import Refused
from attncc.source import Source
from attncc.syntax.parser import parse
from attncc.viz import CELL, SHADES, SIDE, picture


def cascade(root: Path, name: str):  # type: ignore[no-untyped-def]
    source = Source.read(root / "patterns" / f"{name}.attn")
    return check(parse(source), source)


def test_cells_and_tiles(root: Path) -> None:
    """50 positions, a window of 20 and 3 sinks: bars and tiles against the predicate, cell by cell."""
    length, tile, window, sinks = 50, 8, 20, 3
    svg = picture(cascade(root, "streaming"), length, tile, {"window": window, "sinks": sinks})
    ElementTree.fromstring(svg)
    seen = [[k <= q and (q - k < window or k < sinks) for k in range(length)] for q in range(length)]
    drawn = [[False] * length for _ in range(length)]
    for bar in re.findall(rf'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="\d+" fill="{CELL}"', svg):
        x, y, width = map(int, bar)
        for k in range(x // SIDE, (x + width) // SIDE + 1):
            drawn[y // SIDE][k] = True
    assert drawn == seen
    kinds = {shade: kind for kind, shade in SHADES.items()}
    tiles = re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" fill="(#\w+)" stroke="#ddd', svg
    )
    assert len(tiles) == 7 * 7
    for x, y, width, height, shade in tiles:
        rows = range(int(y) // SIDE, (int(y) + int(height)) // SIDE)
        columns = range(int(x) // SIDE, (int(x) + int(width)) // SIDE)
        cells = [seen[q][k] for q in rows for k in columns]
        ragged = int(x) // SIDE + tile > length
        expected = "skipped" if not any(cells) else "full" if all(cells) and not ragged else "partial"
        assert kinds[shade] == expected, (x, y)


def test_no_kernel_no_picture(root: Path) -> None:
    with pytest.raises(Refused):
        picture(cascade(root, "moba"))
