"""Which tiles the lists of patterns hold, and which they should: `python -m tests.codegen.listings BACKEND`.

One line a case: live tiles, tiles listed, full tiles, tiles listed as whole; a list that misses a live tile,
holds one twice, or calls one whole that is not, ends the process. Run with TRITON_INTERPRET=1 for `triton`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attncc.pipeline import compile
from attncc.runtime.module import load
from attncc.schedule.spec import Specialisation
from attncc.source import Source
from tests.codegen.seen import CASES, Drawn

PATTERNS = Path(__file__).parents[2] / "patterns"
Listed = tuple[list[int], list[int]]
"""Numbers of tiles: those seen whole, and the others."""


@dataclass
class Recorder:
    """Stands in for a kernel, and keeps what it is launched with."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def __getitem__(self, grid: object) -> Recorder:
        return self

    def __call__(self, *arguments: Any, **tile: int) -> None:
        self.calls.append(arguments)


def lists(backend: str, case: Drawn) -> tuple[int, int, Iterator[tuple[torch.Tensor, Listed]]]:
    """Rows and columns of a tile, and of every tile of rows the mask and the list."""
    point = ((("d", 16), ("e", 16)),) if backend == "triton" else ()
    target = "cuda:90" if backend == "triton" else "cpu"
    spec = Specialisation(backend, target, ("float32",), point)
    module = load(compile(Source.read(PATTERNS / f"{case.name}.attn"), spec), case.name)
    if backend == "torch":
        module.BLOCK_Q = module.BLOCK_K = 32
        return 32, 32, _of_batches(module, case)
    (tile,) = module.TILES.values()
    return tile["BLOCK_Q"], tile["BLOCK_K"], _of_heads(module, case, tile["BLOCK_Q"], tile["BLOCK_K"])


def _of_batches(module: Any, case: Drawn) -> Iterator[tuple[torch.Tensor, Listed]]:
    """The whole batch walks one list."""
    found: list[Any] = []
    make = module.listed
    module.listed = lambda *given: found.append(make(*given)) or found[-1]
    getattr(module, case.name)(**case.given)
    for n, ((whole, _), (others, _)) in enumerate(found):
        yield case.mask[:, :, 32 * n : 32 * n + 32].flatten(0, 1).unsqueeze(0), (whole, others)


def _of_heads(module: Any, case: Drawn, rows: int, columns: int) -> Iterator[tuple[torch.Tensor, Listed]]:
    """Every place that the predicate follows has a list of its own; the others share it."""
    recorder = Recorder()
    setattr(module, f"{case.name}_kernel", recorder)
    getattr(module, case.name)(**case.given)
    (made,) = (
        x
        for x in recorder.calls[0]
        if torch.is_tensor(x) and x.dim() == 1 and x.numel() and x.dtype == torch.int32
    )
    batch, heads, length, keys = case.mask.shape
    tiles, width = -(-length // rows), -(-keys // columns) + 2
    table = made.reshape(-1, tiles, width)
    places = [(b, h) for b in range(batch) for h in range(heads)]
    for b, h in places:
        n = {batch * heads: b * heads + h, batch: b, heads: h}[len(table)]
        for tile in range(tiles):
            whole, count = table[n, tile, :2].tolist()
            row = table[n, tile].tolist()
            listed = row[2 : 2 + whole], [row[width - 1 - j] for j in range(count - whole)]
            yield case.mask[b : b + 1, h, tile * rows : (tile + 1) * rows], listed


def judged(mask: torch.Tensor, listed: Listed, columns: int) -> tuple[int, int, int, int]:
    """Live tiles, those listed, full tiles, those listed as whole, of one tile of rows."""
    whole, others = listed
    keys = mask.shape[-1]
    live, full = set(), set()
    for n in range(-(-keys // columns)):
        tile = mask[..., n * columns : (n + 1) * columns]
        live |= {n} if bool(tile.any()) else set()
        full |= {n} if bool(tile.all()) and (n + 1) * columns <= keys else set()
    both = [*whole, *others]
    assert len(set(both)) == len(both), f"a tile is listed twice: {both}"
    assert live <= set(both), f"{sorted(live - set(both))} are live, and not listed"
    assert set(whole) <= full, f"{sorted(set(whole) - full)} are not seen whole"
    return len(live), len(both), len(full), len(whole)


def main(backend: str) -> None:
    for case in CASES():
        _, columns, every = lists(backend, case)
        counts = [judged(mask, listed, columns) for mask, listed in every]
        print(*map(sum, zip(*counts, strict=True)), case.name, case.exact, *case.mask.shape, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
