"""One row per GPU: tile sizes by element width and feature extent, the fastest first, four at most.

A kernel takes the first one that it fits into, by `schedule/cost.py`.
Sizes come from compile-only reports (registers, shared memory, serialised matrix products) and from timings
on one H100; see `benchmarks/`. A row tile is `rows` x feature, a walked tile `columns` x feature.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile, warps per program, stages of the load pipeline."""

    rows: int
    columns: int
    warps: int
    stages: int


Tiles = tuple[Tile, ...]
Row = tuple[tuple[int, int, Tiles, Tiles], ...]
"""(bytes of an element at most, feature extent at most, candidates, candidates for narrow walks); the first
line that fits counts. A walk is narrow when the tiles of a row do not grow with the length: smaller tiles
waste less on its edges."""

HOPPER: Row = (
    (
        2,
        64,
        (Tile(128, 64, 4, 3), Tile(64, 64, 4, 3), Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
        (Tile(64, 64, 4, 3), Tile(128, 64, 4, 3), Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
    ),
    (
        2,
        128,
        (
            Tile(128, 128, 8, 3),
            Tile(128, 64, 8, 3),
            Tile(64, 64, 4, 3),
            Tile(64, 32, 4, 2),
            Tile(64, 64, 8, 2),
        ),
        (Tile(64, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
    ),
    (
        2,
        256,
        (Tile(128, 32, 8, 2), Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
        (Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
    ),
    (4, 64, (Tile(32, 32, 8, 2),), (Tile(32, 32, 8, 2),)),
    (4, 128, (Tile(32, 32, 8, 2),), (Tile(32, 32, 8, 2),)),
    (4, 256, (Tile(32, 16, 4, 1),), (Tile(32, 16, 4, 1),)),
)
BLACKWELL: Row = (
    (
        2,
        64,
        (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(64, 32, 4, 2)),
        (Tile(64, 64, 4, 3), Tile(64, 32, 4, 2)),
    ),
    (
        2,
        128,
        (Tile(64, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 32, 8, 2), Tile(64, 32, 4, 2)),
        (Tile(64, 64, 4, 3), Tile(64, 32, 4, 2)),
    ),
    *HOPPER[2:],
)
AMPERE: Row = (
    (2, 64, (Tile(128, 64, 4, 2), Tile(64, 64, 4, 2)), (Tile(64, 64, 4, 2),)),
    (2, 128, (Tile(128, 32, 4, 2), Tile(64, 64, 4, 2)), (Tile(64, 32, 4, 2),)),
    (2, 256, (Tile(64, 32, 4, 1),), (Tile(64, 32, 4, 1),)),
    (4, 64, (Tile(64, 32, 4, 1),), (Tile(64, 32, 4, 1),)),
    (4, 128, (Tile(32, 32, 4, 1),), (Tile(32, 32, 4, 1),)),
    (4, 256, (Tile(16, 16, 4, 1),), (Tile(16, 16, 4, 1),)),
)
CDNA: Row = (
    (2, 64, (Tile(128, 64, 4, 1), Tile(64, 64, 4, 1)), (Tile(64, 64, 4, 1),)),
    (2, 128, (Tile(128, 32, 4, 1), Tile(64, 32, 4, 1)), (Tile(64, 32, 4, 1),)),
    (2, 256, (Tile(64, 16, 4, 1),), (Tile(64, 16, 4, 1),)),
    (4, 64, (Tile(64, 32, 4, 1),), (Tile(64, 32, 4, 1),)),
    (4, 128, (Tile(32, 16, 4, 1),), (Tile(32, 16, 4, 1),)),
    (4, 256, (Tile(16, 16, 4, 1),), (Tile(16, 16, 4, 1),)),
)
HOST: Row = ((8, 1 << 30, (Tile(128, 128, 1, 1),), (Tile(128, 128, 1, 1),)),)

TARGETS: dict[str, Row] = {
    "cuda:80": AMPERE,
    "cuda:86": AMPERE,
    "cuda:89": AMPERE,
    "cuda:90": HOPPER,
    "cuda:100": BLACKWELL,
    "cuda:120": AMPERE,
    "hip:gfx942": CDNA,
    "cpu": HOST,
}

WIDEST = 256
"""The largest feature extent a kernel takes."""

OLDEST = 80
"""The first CUDA generation with the matrix units and asynchronous copies that kernels are written for."""

SHARED = {
    "cuda:80": 166_912, "cuda:86": 101_376, "cuda:89": 101_376, "cuda:90": 232_448, "cuda:100": 232_448,
    "cuda:120": 101_376, "hip:gfx942": 65_536,
}  # fmt: skip
"""Bytes of shared memory that a program may have."""


PEAKS = {"A100": (312.0, 2.0), "H100": (989.0, 3.35), "H200": (989.0, 4.8)}
"""Dense bf16 and fp16 TFLOP/s, and TB/s, by what the name of a GPU contains (NVIDIA's data sheets)."""

GPUS = {"A100": "cuda:80", "H100": "cuda:90", "H200": "cuda:90"}
"""The target of each of them."""


def candidates(target: str, width: int, extent: int, narrow: bool = False) -> Tiles:
    """Tiles for elements of `width` bytes and a feature extent, the default first; none where it is wider."""
    for bytes_, reach, wide_tiles, narrow_tiles in TARGETS[target]:
        if width <= bytes_ and extent <= reach:
            return narrow_tiles if narrow else wide_tiles
    return ()


def nearest(target: str) -> str:
    """The row that stands for a GPU which has none: the newest known one that is older."""
    if target in TARGETS:
        return target
    kind, _, name = target.partition(":")
    if kind == "hip":
        return "hip:gfx942"
    older = [t for t in TARGETS if t.startswith("cuda:") and name.isdigit() and int(t[5:]) <= int(name)]
    return max(older, key=lambda t: int(t[5:]))


def padded(extent: int) -> int:
    """The tile extent of a feature: the next power of two, 16 at least."""
    return max(16, 1 << (extent - 1).bit_length())
