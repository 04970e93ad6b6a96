"""Runs of tiles and cells → a picture of them as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

SIDE = 6
"""Pixels of a cell, where all of them are drawn."""

CELLS = 160
"""Up to this length every cell is drawn; beyond it as many rows, each a few pixels high."""

TILES = (32, 256)
"""Tiles a side that are drawn one by one, and that are drawn at all."""

MARGIN = 26
SHADES = {"full": "#cfe3f7", "partial": "#f9e3c0", "skipped": "#ffffff"}
WORDS = {"full": "seen whole", "partial": "on an edge", "skipped": "skipped"}
CELL = "#274c77"

Run = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """One head's mask over one loop: runs of tiles by kind for every row of tiles, runs of cells by row."""

    title: str
    rows: str
    columns: str
    tiles: tuple[tuple[tuple[int, int, str], ...], ...]
    cells: tuple[tuple[int, tuple[Run, ...]], ...]

    def data(self) -> dict[str, Any]:
        """Plain data: how many tiles there are of each kind."""
        found = {kind: sum(b - a for row in self.tiles for a, b, k in row if k == kind) for kind in SHADES}
        return {"title": self.title, "rows": self.rows, "columns": self.columns, "tiles": found}


def svg(panels: list[Panel], length: int, tile: int, caption: tuple[str, ...]) -> str:
    """Panels side by side, the caption and a legend under them."""
    side = SIDE if length <= CELLS else CELLS * SIDE / length
    size = length * side
    width = max(len(panels) * (size + MARGIN) + MARGIN, 8 * max(map(len, caption)) + 2 * MARGIN, 400)
    height = size + 2 * MARGIN + 18 * len(caption) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_px(width)}" height="{_px(height)}" '
        f'viewBox="0 0 {_px(width)} {_px(height)}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for n, panel in enumerate(panels):
        left = MARGIN + n * (size + MARGIN)
        title = f"{panel.title}, " if panel.title else ""
        lines += [
            f'<text x="{_px(left)}" y="{MARGIN - 7}">{escape(title)}{escape(panel.columns)} →</text>',
            f'<text x="{_px(left - 18)}" y="{MARGIN + 14}">{escape(panel.rows)}</text>',
            f'<g transform="translate({_px(left)},{MARGIN})">',
            *_squares(panel, length, tile, side),
            *_bars(panel, length, side),
            f'<rect width="{_px(size)}" height="{_px(size)}" fill="none" stroke="#555555"/>',
            "</g>",
        ]
    foot = size + MARGIN + 20
    for n, line in enumerate(caption):
        lines.append(f'<text x="{MARGIN}" y="{_px(foot + 18 * n)}">{escape(line)}</text>')
    return "\n".join([*lines, *_legend(MARGIN, foot + 18 * len(caption) - 8), "</svg>"]) + "\n"


def _px(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")


def _squares(panel: Panel, length: int, tile: int, side: float) -> Iterator[str]:
    """Tiles shaded by how they are visited, one by one while they can be told apart."""
    single = -(-length // tile) <= TILES[0]
    for row, runs in enumerate(panel.tiles):
        for start, stop, kind in runs:
            for a, b in ((n, n + 1) for n in range(start, stop)) if single else ((start, stop),):
                width, height = min(b * tile, length) - a * tile, min((row + 1) * tile, length) - row * tile
                stroke = ' stroke="#dddddd"' if single else ""
                yield (
                    f'<rect x="{_px(a * tile * side)}" y="{_px(row * tile * side)}" '
                    f'width="{_px(width * side)}" height="{_px(height * side)}" '
                    f'fill="{SHADES[kind]}"{stroke}/>'
                )


def _bars(panel: Panel, length: int, side: float) -> Iterator[str]:
    """One bar for every run of cells that a row sees."""
    step = -(-length // CELLS)
    gap = 1 if step == 1 else 0
    for row, runs in panel.cells:
        height = min(step, length - row) * side - 2 * gap
        for start, stop in runs:
            yield (
                f'<rect x="{_px(start * side + gap)}" y="{_px(row * side + gap)}" '
                f'width="{_px((stop - start) * side - 2 * gap)}" height="{_px(height)}" '
                f'fill="{CELL}" fill-opacity="{0.75 if gap else 0.5}"/>'
            )


def _legend(x: int, y: float) -> Iterator[str]:
    for n, (kind, word) in enumerate(WORDS.items()):
        left = x + n * 120
        yield f'<rect x="{left}" y="{_px(y)}" width="12" height="12" fill="{SHADES[kind]}" stroke="#999999"/>'
        yield f'<text x="{left + 18}" y="{_px(y + 11)}">{word}</text>'
