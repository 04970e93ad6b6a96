"""Tile sizes against each other on one GPU: `python benchmarks/tiles.py [rowsxcolumns:warps:stages ...]`.

Every tile computes the same output, or it is left out; medians through a cold L2 cache, forwards and
backwards through the list. What wins is written into `attncc/schedule/tiles.py` by hand.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from forward import CASES, PATTERNS, Case, milliseconds

import attncc
from attncc.schedule.tiles import Tile

TILES = [
    Tile(128, 64, 8, 3),
    Tile(128, 64, 4, 3),
    Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 3),
    Tile(128, 128, 8, 2),
    Tile(128, 32, 4, 3),
    Tile(64, 32, 4, 3),
    Tile(64, 128, 4, 2),
]


def measure(case: Case, tiles: list[Tile]) -> dict[str, float]:
    """Milliseconds of every tile that computes what the first one does."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(case.shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    kernel = attncc.load(PATTERNS / f"{case.pattern}.attn")
    given = {name: x.cuda() if torch.is_tensor(x) else x for name, x in case.given.items()}
    expected = kernel(q, k, v, **given).float()
    text = next(iter(kernel.modules.values()))
    module = next(m for m in list(sys.modules.values()) if getattr(m, "__attncc_text__", None) == text)
    key = next(key for key in module.TILES if key[-1] == 2)
    first = module.TILES[key]

    def run(tile: Tile) -> torch.Tensor:
        sizes = {"BLOCK_Q": tile.rows, "BLOCK_K": tile.columns}
        module.TILES[key] = first | sizes | {"num_warps": tile.warps, "num_stages": tile.stages}
        return kernel(q, k, v, **given)  # type: ignore[no-any-return]

    runs: dict[str, Any] = {}
    for tile in tiles:
        name = f"{tile.rows}x{tile.columns}w{tile.warps}s{tile.stages}"
        try:
            error = (run(tile).float() - expected).norm(dim=-1).max() / expected.norm(dim=-1).mean()
        except Exception as reason:
            print(f"  {name}: {type(reason).__name__} {str(reason)[:100]}")
            continue
        if error < 0.06:
            runs[name] = functools.partial(run, tile)
        else:
            print(f"  {name}: differs by {error:.3f} of a mean row")
    return milliseconds(runs)


def main(tiles: list[Tile]) -> None:
    for case in CASES:
        found = sorted(measure(case, tiles).items(), key=lambda pair: pair[1])
        line = "  ".join(f"{name} {ms:.3f}" for name, ms in found)
        print(f"{case.pattern} {case.shape}: {line}", flush=True)


def parse(text: str) -> Tile:
    sizes, warps, stages = text.split(":")
    high, wide = sizes.split("x")
    return Tile(int(high), int(wide), int(warps), int(stages))


if __name__ == "__main__":
    main([parse(a) for a in sys.argv[1:]] or TILES)
