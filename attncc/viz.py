"""Cascade → a picture of its mask: who sees whom, and which tiles a kernel visits.

Every row is evaluated by itself, and drawn as runs of cells, so that no length needs memory for all cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from attncc.calls import BadNumber, Number, indices, numbered, sized
from attncc.example import said_of, tables
from attncc.explain.costs import environment
from attncc.ir.cascade import Cascade, Index, Read, Tensor, free, number, reads
from attncc.masks.integers import values
from attncc.masks.normal import total
from attncc.masks.ranges import PRIVATE, union, visit
from attncc.pipeline import streamed
from attncc.schedule.plan import Kernel, Loop, Plan, partition
from attncc.svg import CELLS, TILES, Panel, Run, svg

HEADS = 4
"""Heads that are drawn where the mask differs between them and no extent is given."""

MOST = 64
"""Heads that are drawn at all."""


class Unseen(ValueError):
    """A mask that cannot be drawn, and why."""


@dataclass(frozen=True)
class Drawn:
    """A picture, what it shows, and its caption line by line."""

    svg: str
    pattern: str
    length: int
    tile: int
    panels: tuple[Panel, ...]
    caption: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "pattern": self.pattern,
            "length": self.length,
            "tile": self.tile,
            "panels": [panel.data() for panel in self.panels],
            "caption": list(self.caption),
        }


def picture(
    cascade: Cascade, length: int = 96, tile: int | None = None, numbers: Mapping[str, Number] | None = None
) -> str:
    """The mask as SVG, as `draw`. Refused where there is no kernel."""
    return draw(cascade, partition(streamed(cascade)), length, tile, numbers or {}).svg


def draw(
    cascade: Cascade,
    plan: Plan,
    length: int,
    tile: int | None = None,
    numbers: Mapping[str, Number] | None = None,
    head: int | None = None,
    extents: Mapping[str, int] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Drawn:
    """`length` positions in tiles of `tile` cells a side; one panel for every loop and head, or for one head.

    Tables that the mask reads are examples. Unseen where the mask depends on real numbers, and for a head or
    a tile that cannot be drawn; BadNumber for a number without a value and an extent that is none to choose.
    """
    _chosen(cascade, extents or {})
    tile = tile or fitting(length)
    if -(-length // tile) > TILES[1]:
        raise Unseen(
            f"{-(-length // tile):,} tiles a side are too many to see: draw --tile {fitting(length)}"
        )
    loops = [(kernel, loop) for kernel in plan.kernels for loop in kernel.loops]
    if head is not None and not any(_heads(kernel, loop) for kernel, loop in loops):
        raise Unseen(f"the mask of {cascade.name} is the same for every head: leave out `--head`")
    masks = {read.tensor for _, loop in loops for read in reads(loop.reach)}
    if real := sorted(t.name for t in masks if t.kind == "float" and t.indices):
        raise Unseen(f"the mask depends on the values of {', '.join(f'`{name}`' for name in real)}")
    shown = set(cascade.inputs) & masks
    batch = {i.name: HEADS for kernel in plan.kernels for i in kernel.batch}
    groups = {i.name: HEADS for t in cascade.inputs for i in t.indices if i.role == "batch"}
    known = {**(numbers or {}), **_known(cascade, numbers or {}, shown)}
    env = environment(cascade, length, known, {**groups, **batch, **(extents or {})})
    example = tables(cascade, [t for t in cascade.inputs if t in shown and t.indices], env)
    env |= example
    panels = []
    for kernel, loop in loops:
        for n, place in _places(kernel, loop, env, head):
            tell(f"drawing head {n}" if place else "drawing")
            panels.append(_panel(kernel, loop, {**env, **place}, place, length, tile))
    if len(panels) > 1 and all(p.tiles == panels[0].tiles and p.cells == panels[0].cells for p in panels):
        panels = panels[:1] if len(loops) == 1 else panels
    caption = _caption(cascade, env, length, tile, example)
    return Drawn(svg(panels, length, tile, caption), cascade.name, length, tile, tuple(panels), caption)


def fitting(length: int) -> int:
    """The side of a tile that can be seen: 16, or the power of two that makes 32 to 64 of them a side."""
    tile = 16
    while -(-length // tile) > 64:
        tile *= 2
    return tile


def _known(cascade: Cascade, given: Mapping[str, Number], shown: set[Tensor]) -> dict[str, Number]:
    """The numbers that the mask or a derived extent reads; only those need a value."""
    wanted = {t.name for t in shown if t.origin in ("scalar", "static")}
    wanted |= {read.tensor.name for _, size in cascade.lengths for read in reads(size)}
    defaults = dict(cascade.defaults)
    rest = {t.name: 0 for t in cascade.inputs if t.name not in wanted and t.name not in defaults}
    return {name: x for name, x in numbered(cascade, {**rest, **given}).items() if name in wanted}


def _chosen(cascade: Cascade, extents: Mapping[str, int]) -> None:
    """BadNumber where an extent is given for no index, or for a sequence: the length is that of them all."""
    sized(cascade, extents)
    for index in indices(cascade):
        if index.role == "sequence" and index.name in extents:
            raise BadNumber(f"`{index.name}` is a sequence: `--length` is that of every sequence")


def _heads(kernel: Kernel, loop: Loop) -> Index | None:
    """The heads between which the mask differs, if it does."""
    return next((i for i in kernel.batch[-1:] if i in free(loop.reach)), None)


def _places(
    kernel: Kernel, loop: Loop, env: Mapping[str, Any], head: int | None
) -> Iterator[tuple[int, dict[str, int]]]:
    """The heads to draw, by number and by index: one where the mask is the same for all."""
    heads = _heads(kernel, loop)
    if heads is None:
        yield 0, {}
        return
    count = env[f"|{heads.name}|"]
    if head is None and count > MOST:
        raise Unseen(f"{count:,} heads are too many to see: choose one with `--head`")
    if head is not None and head >= count:
        raise Unseen(f"there is no head {head} of {count}: say `--extent {heads.name}=...`")
    for n in range(count) if head is None else (head,):
        yield n, {heads.name: n}


def _panel(
    kernel: Kernel, loop: Loop, env: dict[str, Any], place: dict[str, int], length: int, tile: int
) -> Panel:
    title = ", ".join(f"{name} = {n}" for name, n in place.items())
    tiles = tuple(_tiles(loop, env, length, tile))
    cells = tuple(_cells(loop, env, kernel.rows.name, length))
    return Panel(title, kernel.rows.name, loop.index.name, tiles, cells)


def _tiles(
    loop: Loop, env: dict[str, Any], length: int, tile: int
) -> Iterator[tuple[tuple[int, int, str], ...]]:
    """The runs of tiles of one kind, for every row of tiles."""
    top, bottom = (Tensor(PRIVATE + name, (), "int", "scalar") for name in ("top", "bottom"))
    ends = Read(top, ()), Read(bottom, ())
    ranges = union(loop.bands, *ends, number(tile), prefix=PRIVATE) if loop.bands else None
    count = -(-length // tile)
    for first in range(0, length, tile):
        kinds = ["skipped"] * count
        here = {**env, top.name: first, bottom.name: min(first + tile, length) - 1}
        for seen in visit(ranges, here) if ranges else ():
            for n in seen.live:
                kinds[n] = "partial"
            for n in seen.full if loop.uniform else ():
                kinds[n] = "full"
        edges = [0, *(n for n in range(1, count) if kinds[n] != kinds[n - 1]), count]
        yield tuple((a, b, kinds[a]) for a, b in pairwise(edges))


def _cells(loop: Loop, env: dict[str, Any], rows: str, length: int) -> Iterator[tuple[int, tuple[Run, ...]]]:
    """The runs of cells that a row sees, for as many rows as are drawn; gaps too narrow to see are closed."""
    where = total(loop.reach)
    every = np.arange(length)
    step = -(-length // CELLS)
    for row in range(0, length, step):
        seen = np.broadcast_to(values(where, {**env, rows: row, loop.index.name: every}), (length,))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]]))).reshape(-1, 2)
        runs: list[Run] = []
        for start, stop in edges.tolist():
            if runs and step > 1 and start - runs[-1][1] < step:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((start, stop))
        yield row, tuple(runs)


def _caption(
    cascade: Cascade, env: Mapping[str, Any], length: int, tile: int, example: Mapping[str, Any]
) -> tuple[str, ...]:
    numbers = [f"{t.name} = {env[t.name]}" for t in cascade.inputs if not t.indices and t.name in env]
    lines = [", ".join([f"{cascade.name}: {length:,} positions, tiles of {tile} by {tile}", *numbers])]
    lines += [f"an example of {name}: {said_of(table)}" for name, table in example.items()]
    step = -(-length // CELLS)
    if step > 1:
        lines.append(f"one row of {step} is drawn; gaps of fewer than {step} cells are closed")
    return tuple(lines)
