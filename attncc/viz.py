"""Cascade → a picture of its mask: who sees whom, and which tiles a kernel visits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attncc.explain import environment
from attncc.ir.cascade import Cascade
from attncc.masks.integers import values
from attncc.masks.normal import total
from attncc.masks.ranges import segments
from attncc.pipeline import streamed
from attncc.schedule.plan import Loop, partition

SIDE = 6
"""Pixels of a cell."""

SHADES = {"full": "#cfe3f7", "partial": "#f9e3c0", "skipped": "#ffffff"}
CELL = "#274c77"


def picture(
    cascade: Cascade, length: int = 96, tile: int = 16, numbers: dict[str, int | float | bool] | None = None
) -> str:
    """The first loop's mask for the first head as SVG: `length` positions, tiles of `tile` cells a side.

    `numbers` stand for the pattern's numbers where the defaults do not. KeyError where the mask depends on
    data; Refused where there is no kernel.
    """
    (kernel,) = partition(streamed(cascade)).kernels
    loop = kernel.loops[0]
    env = environment(cascade, length, numbers)
    body = [*_tiles(loop, env, length, tile), *_cells(loop, env, kernel.rows.name, length)]
    size, margin = length * SIDE, 24
    words = ", ".join(f"{name} = {env[name]}" for name, _ in cascade.defaults)
    caption = f"{cascade.name}: {length} positions, tiles of {tile} by {tile}" + (
        f", {words}" if words else ""
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size + 2 * margin}" '
        f'height="{size + 3 * margin}" font-family="sans-serif" font-size="13">'
    )
    lines = [
        head,
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{margin}" y="{margin - 7}">{loop.index.name} →</text>',
        f'<text x="5" y="{margin + 14}">{kernel.rows.name}</text>',
        f'<g transform="translate({margin},{margin})">',
        *body,
        f'<rect width="{size}" height="{size}" fill="none" stroke="#555555"/>',
        "</g>",
        f'<text x="{margin}" y="{size + margin + 20}">{caption}</text>',
        *_legend(margin, size + margin + 32),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _tiles(loop: Loop, env: dict[str, Any], length: int, tile: int) -> Iterator[str]:
    """One square a tile, shaded by how it is visited."""
    count = -(-length // tile)
    for row in range(count):
        kinds = ["skipped"] * count
        if loop.bands:
            first = row * tile
            for lo, hi, full_lo, full_hi in segments(loop.bands, first, first + tile - 1, tile, env):
                kinds[lo:hi] = ["partial"] * (hi - lo)
                kinds[full_lo:full_hi] = ["full"] * (full_hi - full_lo)
        for column, kind in enumerate(kinds):
            width, height = (min(tile, length - n * tile) * SIDE for n in (column, row))
            x, y = column * tile * SIDE, row * tile * SIDE
            yield (
                f'<rect x="{x}" y="{y}" width="{width}" height="{height}" '
                f'fill="{SHADES[kind]}" stroke="#dddddd"/>'
            )


def _cells(loop: Loop, env: dict[str, Any], rows: str, length: int) -> Iterator[str]:
    """One bar for every run of cells that a row sees."""
    where = total(loop.reach)
    every = np.arange(length)
    for row in range(length):
        seen = np.broadcast_to(values(where, {**env, rows: row, loop.index.name: every}), (length,))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
        for start, stop in edges.reshape(-1, 2):
            yield (
                f'<rect x="{start * SIDE + 1}" y="{row * SIDE + 1}" width="{(stop - start) * SIDE - 2}" '
                f'height="{SIDE - 2}" fill="{CELL}" fill-opacity="0.75"/>'
            )


def _legend(x: int, y: int) -> Iterator[str]:
    words = {"full": "seen whole", "partial": "on an edge", "skipped": "skipped"}
    for n, (kind, word) in enumerate(words.items()):
        left = x + n * 120
        yield f'<rect x="{left}" y="{y}" width="12" height="12" fill="{SHADES[kind]}" stroke="#999999"/>'
        yield f'<text x="{left + 18}" y="{y + 11}">{word}</text>'
