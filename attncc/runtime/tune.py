"""Tiles measured on request: candidates for a call → the fastest of them, kept for every call like it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from attncc.codegen.own_test import ALLOWED
from attncc.ir.cascade import Cascade, Tensor
from attncc.runtime.tuned import Occasion, keep, possible
from attncc.schedule.cost import lean
from attncc.schedule.spec import WIDTHS
from attncc.schedule.tiles import Tile, candidates, nearest, padded
from attncc.source import Source

ROUNDS = (3, 20)
"""Runs of every tile, at least and at most, in either direction of the list."""

SECONDS = 2.0
"""How long the runs may take, where the least number of them is not longer."""

Run = Callable[[], Any]
"""One call of a compiled pattern with the arguments that are tuned for."""


@dataclass(frozen=True)
class Report:
    """What was measured: the median milliseconds of every tile, or why it has none; the tile in use until
    now stands first.
    """

    best: Tile
    measured: tuple[tuple[Tile, float | str], ...]

    def __str__(self) -> str:
        lines = [f"{'tile':>16}  milliseconds"]
        for n, (tile, found) in enumerate(self.measured):
            marks = [word for word, here in (("default", n == 0), ("kept", tile == self.best)) if here]
            figure = found if isinstance(found, str) else f"{found:.4f}"
            lines.append(f"{_name(tile):>16}  {figure}{'  ' if marks else ''}{', '.join(marks)}")
        return "\n".join(lines)


def _name(tile: Tile) -> str:
    return f"{tile.rows}x{tile.columns} w{tile.warps} s{tile.stages}"


def tune(
    source: Source, cascade: Cascade, occasion: Occasion, make: Callable[[Tile | None], tuple[str, Run]]
) -> Report:
    """Measures the tiles that `make` compiles, text and call, and keeps the fastest of those that agree with
    the default, `make(None)`. What a tile raises is why it is not taken; what the default raises, is raised.
    """
    with torch.no_grad():
        return _tune(source, cascade, occasion, make)


def _tune(
    source: Source, cascade: Cascade, occasion: Occasion, make: Callable[[Tile | None], tuple[str, Run]]
) -> Report:
    text, run = make(None)
    made = _results(run)
    expected = [x.clone() for x in made]
    _poison(made)
    runs: dict[Tile | None, Run] = {None: run}
    default: Tile | None = None
    failed: dict[Tile, str] = {}
    for tile in tiles(occasion):
        try:
            its, call = make(tile)
            if its == text:
                default = tile
                continue
            made = _results(call)
        except Exception as error:
            failed[tile] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        if all(_agree(*pair) for pair in zip(made, expected, cascade.outputs, strict=True)):
            runs[tile] = call
        else:
            failed[tile] = "differs from the default"
        _poison(made)
    assert default is not None, f"the default of {occasion.target} is not among its candidates"
    del made
    times = {tile or default: ms for tile, ms in _milliseconds(runs, expected[0].device).items()}
    best = min(times, key=lambda tile: times[tile])
    measured: tuple[tuple[Tile, float | str], ...] = (*times.items(), *failed.items())
    keep(source, occasion, best if best != default else None, {_name(t): found for t, found in measured})
    return Report(best, measured)


def tiles(occasion: Occasion) -> tuple[Tile, ...]:
    """The candidates of the target for wide and narrow walks; on a GPU also what is one step from them."""
    if occasion.target == "cpu":
        return tuple(Tile(n, n, 1, 1) for n in (64, 128, 256))
    width = WIDTHS[occasion.dtype]
    # outputs that are asked for may leave out the widest feature
    sizes = sorted({padded(size) for _, size in occasion.extents} or {16}, reverse=True)
    widest, target = sizes[0], nearest(occasion.target)
    first = [t for size in sizes for narrow in (False, True) for t in candidates(target, width, size, narrow)]
    near = (t for tile in first for t in _neighbours(tile) if possible(t) and _fits(t, widest, width))
    return tuple(dict.fromkeys((*first, *map(lean, first), *near)))


def _neighbours(tile: Tile) -> Iterator[Tile]:
    r, c, w, s = tile.rows, tile.columns, tile.warps, tile.stages
    yield from (Tile(r // 2, c, w, s), Tile(r * 2, c, w, s), Tile(r, c // 2, w, s), Tile(r, c * 2, w, s))
    yield from (Tile(r, c, 12 - w if w in (4, 8) else w, s), Tile(r, c, w, s - 1), Tile(r, c, w, s + 1))


def _fits(tile: Tile, feature: int, width: int) -> bool:
    """16 rows a warp where matrix units take them, and an estimate of registers a thread that separated
    kernels that spill from others on Hopper: scores one and a half times, the sum once.
    """
    numbers = (1.5 * tile.rows * tile.columns + tile.rows * feature) / (32 * tile.warps)
    return (width > 2 or tile.rows >= 16 * tile.warps) and numbers * max(1, width // 2) + 40 <= 255


def _results(run: Run) -> list[torch.Tensor]:
    made = run()
    return list(made) if isinstance(made, tuple) else [made]


def _poison(made: list[torch.Tensor]) -> None:
    """So that who gets this memory next does not find right results in it."""
    for x in made:
        x.fill_(math.nan) if x.is_floating_point() else x.bitwise_not_()


def _agree(x: torch.Tensor, y: torch.Tensor, output: Tensor) -> bool:
    """Every row as close as a module asks of its rows; infinities and NaN in the same places."""
    if not x.is_floating_point():
        return torch.equal(x, y)
    if not any(i.role == "feature" for i in output.indices):
        x, y = x[..., None], y[..., None]
    same = (x == y) | (x.isnan() & y.isnan())
    if not bool((same | (x.isfinite() & y.isfinite())).all()):
        return False
    error = torch.linalg.vector_norm(torch.where(same, 0, x.double() - y.double()), dim=-1)
    size = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0).double(), dim=-1)
    return bool((error <= float(ALLOWED[str(x.dtype)[6:]]) * size.mean()).all())


def _milliseconds(runs: dict[Tile | None, Run], device: torch.device) -> dict[Tile | None, float]:
    """Medians, with the runs in turns: A, B, C, C, B, A, and so on."""
    clock = _on_gpu if device.type == "cuda" else _on_cpu
    found: dict[Tile | None, list[float]] = {tile: [] for tile in runs}
    first = sum(clock(list(runs.values()), device))
    rounds = min(max(ROUNDS[0], int(SECONDS * 1000 / max(first, 1e-3) / 2)), ROUNDS[1])
    for names in (list(runs), list(runs)[::-1]) * rounds:
        for name, ms in zip(names, clock([runs[n] for n in names], device), strict=True):
            found[name].append(ms)
    return {tile: statistics.median(times) for tile, times in found.items()}


def _on_cpu(runs: list[Run], device: torch.device) -> list[float]:
    found = []
    for run in runs:
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1000)
    return found


def _on_gpu(runs: list[Run], device: torch.device) -> list[float]:
    """Between events, behind a write of several times the L2 cache, which also hides the launch."""
    size = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(1 << 28, 4 * size), dtype=torch.uint8, device=device)
    event: Any = torch.cuda.Event
    events = []
    with torch.cuda.device(device):
        for run in runs:
            start, end = (event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            run()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in events]
