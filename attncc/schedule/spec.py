"""What a kernel is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.schedule.tiles import Tile

WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}

KINDS = {
    "torch": ("float16", "bfloat16", "float32", "float64"),
    "triton": ("float16", "bfloat16", "float32"),
}
"""Element types that a backend's kernels take."""

Points = tuple[tuple[tuple[str, int], ...], ...]
"""Extents of feature indices by name; each point of them gets tiles."""


@dataclass(frozen=True)
class Specialisation:
    """Backend, target (`cuda:90`, `hip:gfx942`, `cpu`), element types, and points of feature extents; a tile
    if it is not the target's own.
    """

    backend: str
    target: str
    dtypes: tuple[str, ...]
    extents: Points
    tile: Tile | None = None
