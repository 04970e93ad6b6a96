"""Cascade → a picture of its mask: who sees whom, and which tiles a kernel visits, at any length.

Rows of pixels are counted from the ends of the mask's bands, so that no length needs memory for all cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from attncc.calls import BadNumber, Number, indices, numbered, scalars, sized
from attncc.example import said_of, tables
from attncc.explain.costs import environment
from attncc.ir.cascade import Cascade, Index, Read, Tensor, free, reads
from attncc.masks.seen import FULL, PARTIAL, Stretches, classes, stretches
from attncc.pipeline import streamed
from attncc.schedule.plan import Kernel, Loop, Plan, partition
from attncc.viz.panel import WHOLE, Panel
from attncc.viz.png import png
from attncc.viz.svg import svg

HEADS = 4
"""Heads that are drawn where the mask differs between them and no extent is given."""

WIDEST = 128
"""The side of a kernel's tile."""

MOST = 64
"""Heads that are drawn at all."""

PIXELS = 256
"""Pixels a side that are drawn at most; up to this length a pixel is a cell."""

TILES = 1 << 13
"""Tiles a side that are classified at most."""

ROWS = 4
"""Rows that are looked at for a row of pixels that stands for more of them."""

TOGETHER = 64
"""Rows of pixels that are counted together."""

CELLS = 1 << 24
"""Cells of a picture that are looked at, where they cannot be counted by the ends of bands."""


class Unseen(ValueError):
    """A mask that cannot be drawn, and why."""


@dataclass(frozen=True)
class Drawn:
    """A picture, what it shows, and its caption line by line. A notebook shows it."""

    pattern: str
    length: int
    tile: int
    panels: tuple[Panel, ...]
    caption: tuple[str, ...]

    @cached_property
    def svg(self) -> str:
        """The picture as SVG, in light and dark."""
        return svg(self.panels, self.caption)

    @cached_property
    def png(self) -> bytes:
        """The picture as PNG: the panels alone, the caption as the description in the file."""
        return png(self.panels, self.caption)

    def save(self, path: str | Path) -> None:
        """Writes the picture, as PNG where the name ends in `.png`, otherwise as SVG."""
        if str(path).lower().endswith(".png"):
            Path(path).write_bytes(self.png)
        else:
            Path(path).write_text(self.svg, "utf-8")

    def _repr_html_(self) -> str:
        return self.svg

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
    """`length` positions in tiles of `tile` cells a side; one panel for every walk and head, or for one head;
    one for several heads whose masks are the same.

    Tables that the mask reads are examples. Unseen where the mask depends on real numbers, and for a head or
    a tile that cannot be drawn; BadNumber for a number without a value and an extent that is none to choose.
    """
    if length < 1 or (tile is not None and tile < 1):
        raise Unseen("a sequence and a tile hold at least one position")
    tile = tile or fitting(length)
    if -(-length // tile) > TILES:
        raise Unseen(
            f"{-(-length // tile):,} tiles a side are too many to classify: draw --tile {-(-length // TILES)}"
        )
    walks = walked(cascade, plan)
    if head is not None and not any(heads_of(*walk) for walk in walks):
        raise Unseen(f"the mask of {cascade.name} is the same for every head: leave out `--head`")
    env, example = known(cascade, plan, length, numbers or {}, extents or {})
    panels = []
    share = sum(1 for walk in walks for _ in places(*walk, env, head))
    for kernel, loop in walks:
        found = []
        for n, place in places(kernel, loop, env, head):
            tell(f"drawing head {n}" if place else "drawing")
            found.append((n, _panel(kernel, loop, {**env, **place}, tile, CELLS // share)))
        heads = heads_of(kernel, loop)
        panels += alike(found, heads.name) if heads else [panel for _, panel in found]
    if len(walks) > 1:
        numbered_walks = (f"walk {n}" for n in range(1, len(panels) + 1))
        panels = [replace(p, title=p.title or walk) for p, walk in zip(panels, numbered_walks, strict=True)]
    *lines, last = _caption(cascade, env, length, panels, example)
    caption = (*lines, *_otherwise(walks), last)
    return Drawn(cascade.name, length, tile, tuple(panels), caption)


def walked(cascade: Cascade, plan: Plan) -> list[tuple[Kernel, Loop]]:
    """Every walk of a plan, with its kernel. Unseen where a mask is no mask of rows and columns alone."""
    walks = [(kernel, loop) for kernel in plan.kernels for loop in kernel.loops]
    if not walks:
        raise Unseen(f"nothing in {cascade.name} is walked over, tile by tile")
    masks = {read.tensor for _, loop in walks for read in reads(loop.reach)}
    if real := sorted(t.name for t in masks if t.kind == "float" and t.indices):
        raise Unseen(f"the mask depends on the values of {', '.join(f'`{name}`' for name in real)}")
    if outer := sorted({i.name for _, l in walks for i in l.outers if i in free(l.reach)}):
        raise Unseen(f"the mask is another one at every position of {', '.join(f'`{n}`' for n in outer)}")
    return walks


def known(
    cascade: Cascade, plan: Plan, length: int, numbers: Mapping[str, Number], extents: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the masks of a plan read, at a length, and the example tables among it. BadNumber as `draw`."""
    _chosen(cascade, numbers, extents)
    loops = [loop for kernel in plan.kernels for loop in kernel.loops]
    shown = set(cascade.inputs) & {read.tensor for loop in loops for read in reads(loop.reach)}
    batch = {i.name: HEADS for kernel in plan.kernels for i in kernel.batch}
    groups = {i.name: HEADS for t in cascade.inputs for i in t.indices if i.role == "batch"}
    values = {**numbers, **_known(cascade, numbers, shown)}
    env = environment(cascade, length, values, {**groups, **batch, **extents})
    # a table of positions is as long as they are: no more of it than is drawn
    heads = {heads_of(kernel, loop) for kernel in plan.kernels for loop in kernel.loops}
    apart = {i for loop in loops for read in reads(loop.reach) for i in _by(read, heads)}
    alone = {f"|{i.name}|": 1 for i in indices(cascade) if i.role == "batch" and i not in apart}
    example: dict[str, Any] = {}
    for t in cascade.inputs:
        if t in shown and t.indices:
            long = any(i.role == "sequence" for i in t.indices)
            example |= tables(cascade, [t], {**env, **(alone if long else {})})
    return env | example, example


def _by(read: Read, heads: set[Index | None]) -> Iterator[Index]:
    """The indices of a tensor at which heads read it, or groups of them."""
    return (i for i, at in zip(read.tensor.indices, read.at, strict=True) if free(at) & heads)


def fitting(length: int) -> int:
    """The side of a tile: 16, or the power of two that makes 32 to 64 of them a side, where that is no more
    than a kernel's.
    """
    tile = 16
    while (-(-length // tile) > 64 and tile < WIDEST) or -(-length // tile) > TILES:
        tile *= 2
    return tile


def pixel(length: int, tile: int) -> int:
    """The side of a pixel: a cell where all can be drawn, what divides a tile, or several tiles."""
    enough = -(-length // PIXELS)
    if enough > tile:
        return -(-enough // tile) * tile
    return next(n for n in range(enough, tile + 1) if tile % n == 0)


def _known(cascade: Cascade, given: Mapping[str, Number], shown: set[Tensor]) -> dict[str, Number]:
    """The numbers that the mask or a derived extent reads; only those need a value."""
    wanted = {t.name for t in shown if t.origin in ("scalar", "static")}
    wanted |= {read.tensor.name for _, size in cascade.lengths for read in reads(size)}
    defaults = dict(cascade.defaults)
    rest = {t.name: 0 for t in cascade.inputs if t.name not in wanted and t.name not in defaults}
    return {name: x for name, x in numbered(cascade, {**rest, **given}).items() if name in wanted}


def _chosen(cascade: Cascade, numbers: Mapping[str, Number], extents: Mapping[str, int]) -> None:
    """BadNumber where a number or an extent is given for nothing, is none, or is that of a sequence: the
    length is that of them all.
    """
    names = [t.name for t in scalars(cascade)]
    for name, value in numbers.items():
        if name not in names:
            raise BadNumber(
                f"{cascade.name} has no number `{name}`; its numbers: {', '.join(names) or 'none'}"
            )
        if not isinstance(value, int | float):
            raise BadNumber(f"`{name}` is a number, not {value!r}")
    sized(cascade, extents)
    for index in indices(cascade):
        if index.role == "sequence" and index.name in extents:
            raise BadNumber(f"`{index.name}` is a sequence: `--length` is that of every sequence")


def heads_of(kernel: Kernel, loop: Loop) -> Index | None:
    """The heads between which the mask differs, if it does."""
    return next((i for i in kernel.batch[-1:] if i in free(loop.reach)), None)


def places(
    kernel: Kernel, loop: Loop, env: Mapping[str, Any], head: int | None
) -> Iterator[tuple[int, dict[str, int]]]:
    """The heads to draw, by number and by index: one where the mask is the same for all."""
    heads = heads_of(kernel, loop)
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


def alike(found: Sequence[tuple[int, Panel]], name: str) -> list[Panel]:
    """One panel for all heads that look alike, which its title names."""
    groups: dict[tuple[Any, ...], list[tuple[int, Panel]]] = {}
    for n, panel in found:
        groups.setdefault(panel.same, []).append((n, panel))
    return [
        replace(panel, title=f"{name} = {listed(heads)}{' (identical)' * (len(heads) > 1)}")
        for heads, panel in (([n for n, _ in group], group[0][1]) for group in groups.values())
    ]


def listed(numbers: Sequence[int]) -> str:
    """`0 to 3, 7`"""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def _panel(kernel: Kernel, loop: Loop, env: dict[str, Any], tile: int, most: int) -> Panel:
    rows, columns = (int(env[f"|{i.name}|"]) for i in (kernel.rows, loop.index))
    step = pixel(max(rows, columns, 1), tile)
    here = {**env, kernel.rows.name: 0, loop.index.name: 0}
    edges = np.minimum(np.arange(0, columns + step, step), columns)
    each = max(most // max(-(-rows // step) * min(ROWS, step) * (len(edges) - 1), 1), 1)
    counted = stretches(loop.bands, loop.reach, here, edges, each)
    kinds = tiles_of(loop, here, rows, columns, tile, tile)
    counts, tiles = _classes(kinds, -(-columns // tile), max(step // tile, 1))
    shades = tuple(_shades(counted, rows, step))
    size, names = (rows, columns), (kernel.rows.name, loop.index.name)
    return Panel("", *names, size, tile, step, counted.exact, counts, tiles, shades)


def tiles_of(
    loop: Loop, env: Mapping[str, Any], rows: int, columns: int, block_q: int, block_k: int
) -> Iterator[np.ndarray[Any, Any]]:
    """The classes of the tiles of a walk, row by row; none is seen whole where sums differ in their terms."""
    for row in classes(loop.bands, env, rows, columns, block_q, block_k):
        yield row if loop.uniform else np.minimum(row, 1)


def _classes(
    rows: Iterator[np.ndarray[Any, Any]], columns: int, per: int
) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    """How many tiles there are of every class, and the class of all `per` by `per` that make one pixel."""
    live = full = every = 0
    found = []
    starts = np.arange(0, columns, per)
    while together := list(islice(rows, per)):
        whole = np.stack(together)
        every += whole.size
        live += int(np.count_nonzero(whole))
        full += int(np.count_nonzero(whole == FULL))
        least, most = (f.reduceat(f.reduce(whole, 0), starts) for f in (np.minimum, np.maximum))
        found.append(np.where(least == most, least, PARTIAL).astype(np.uint8).tobytes())
    return (every - live, live - full, full), tuple(found)


def _shades(counted: Stretches, rows: int, step: int) -> Iterator[bytes]:
    """Every row of pixels, from some of its rows."""
    wide = np.diff(counted.edges)
    every = np.arange(0, rows, step)
    for first in np.split(every, range(TOGETHER, len(every), TOGETHER)):
        high = np.minimum(step, rows - first)
        some = np.minimum(high, ROWS)
        begin = np.cumsum(some) - some
        nth = np.arange(some.sum()) - np.repeat(begin, some)
        # where rows are left out, each part of a pixel has one at some place in it
        part = np.where(some == high, 0, np.random.default_rng(int(first[0])).random(len(first)))
        own = (nth + np.repeat(part, some)) * np.repeat(high / some, some)
        seen = counted.of(np.repeat(first, some) + own.astype(int))
        share = np.add.reduceat(seen, begin, axis=0) / (some[:, None] * wide)
        # neither a pixel with a hole nor one with a single cell looks like its neighbours
        inner = np.clip(np.rint(share * WHOLE), 1, WHOLE - 1)
        shades = np.where(share <= 0, 0, np.where(share >= 1, WHOLE, inner)).astype(np.uint8)
        yield from (row.tobytes() for row in shades)


def _caption(
    cascade: Cascade, env: Mapping[str, Any], length: int, panels: Sequence[Panel], example: Mapping[str, Any]
) -> Iterator[str]:
    numbers = [f"{t.name} = {env[t.name]}" for t in cascade.inputs if not t.indices and t.name in env]
    tile, step = panels[0].tile, max(panel.step for panel in panels)
    yield ", ".join([f"{cascade.name}: {length:,} positions, tiles of {tile:,} by {tile:,}", *numbers])
    yield from (f"an example of {name}: {said_of(table)}" for name, table in example.items())
    if not any(panel.title for panel in panels) and any(i.role == "batch" for i in indices(cascade)):
        yield "every head has the same mask"
    if step > tile:
        per = step // tile
        yield f"a point holds {per:,} by {per:,} tiles: grey if all are skipped, blue if all are seen whole"
    if step == 1:
        yield "a point is a cell"
    else:
        rows = f"{ROWS} of its rows" if step > ROWS else "its rows"
        rows += "" if all(panel.exact for panel in panels) else " and some cells of each"
        yield f"a point is {step:,} by {step:,} cells, the deeper the more of them are seen, by {rows}"


def _otherwise(loops: Iterable[tuple[Kernel, Loop]]) -> Iterator[str]:
    """How a kernel goes about a mask where not by the tiles that are drawn."""
    axes = [tuple(axis.columns.name for axis in loop.grid.axes) for _, loop in loops if loop.grid is not None]
    if axes:
        yield f"the kernel's tiles are boxes along {len(axes[0])} axes, and skip more than is drawn here"
    if any(loop.listed for _, loop in loops):
        yield "the kernel lists its tiles by the tables, and skips more of them than drawn"
