"""Panels → a picture of them as PNG: a square for every pixel of a panel, nothing written on it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain
from math import ceil

import numpy as np

from attncc.viz.colours import palette
from attncc.viz.panel import Panel

MARGIN = 12
PAPER = (255, 255, 255)
FRAME = (90, 96, 105)
LINE = 128

LINED = 16
"""From this side in pixels on, lines are drawn between tiles."""


def png(panels: Sequence[Panel], caption: Sequence[str], side: int = 640, across: int = 4) -> bytes:
    """Panels side by side, `across` in a line; `side` is about that of all panels of a line together, and
    none has less than a pixel for each of its own. The caption is the description inside the file.
    """
    across = min(across, len(panels))
    wanted = side if across == 1 else max(2 * side // max(across, 3), 1)
    most = max(chain.from_iterable(panel.pixels for panel in panels))
    drawn = [_drawn(panel, max(min(wanted // most, 8), 1)) for panel in panels]
    high, wide = (max(d.shape[axis] for d in drawn) + MARGIN for axis in (0, 1))
    down = ceil(len(panels) / across)
    whole = np.empty((down * high + MARGIN, across * wide + MARGIN, 3), np.uint8)
    whole[:] = PAPER
    for n, one in enumerate(drawn):
        top, left = MARGIN + n // across * high, MARGIN + n % across * wide
        whole[top : top + one.shape[0], left : left + one.shape[1]] = one
    return written(whole, "\n".join(caption))


def _drawn(panel: Panel, scale: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A panel's pixels in colour, each `scale` wide, in a thin frame."""
    colours = np.array([row for _, row in sorted(palette().items())], np.uint8)
    kinds, shades = (
        np.frombuffer(b"".join(rows), np.uint8).reshape(panel.pixels)
        for rows in (panel.kinds(), panel.shades)
    )
    inside = colours[kinds, shades].repeat(scale, 0).repeat(scale, 1)
    tile = scale * panel.tile // panel.step
    if tile >= LINED:
        for lines in (inside[tile::tile], inside[:, tile::tile]):
            lines[:] = (3 * lines.astype(int) + LINE) // 4
    framed = np.empty((inside.shape[0] + 2, inside.shape[1] + 2, 3), np.uint8)
    framed[:] = FRAME
    framed[1:-1, 1:-1] = inside
    return framed


def written(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], description: str) -> bytes:
    """An array (rows, columns, 3) as a PNG file of 8 bits a colour."""
    high, wide, _ = pixels.shape
    header = wide.to_bytes(4) + high.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    rows = np.zeros((high, 1 + 3 * wide), np.uint8)  # each row begins with its filter, here none
    rows[:, 1:] = pixels.reshape(high, -1)
    text = b"Description\0\0\0\0\0" + description.encode()
    parts = (
        (b"IHDR", header),
        (b"iTXt", text),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, body) for name, body in parts)


def _part(name: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)
