"""Cascade → what the compiler sees in it: passes, state, tiles, operations, bytes, in words and as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import prod
from typing import Any

from attncc.ir.brief import briefly, one_place
from attncc.ir.cascade import Cascade, Equation, Expr, Index, Read, Reduce, Tensor, free, reads
from attncc.ir.logic import times
from attncc.ir.show import show_equation, show_expr
from attncc.masks.counts import TileCounts, count
from attncc.masks.integers import at
from attncc.passes.analyse import Passes, analyse, walked
from attncc.passes.expand import expand
from attncc.passes.online import Updater, before, passes_over
from attncc.passes.share import share
from attncc.passes.simplify import simplify
from attncc.pipeline import rewritten
from attncc.schedule.cost import tiles_for
from attncc.schedule.lower import lower
from attncc.schedule.plan import Kernel, Loop, Plan, Refused, partition
from attncc.schedule.tiles import PEAKS, Tile, candidates

FEATURES = 128
"""The extent taken for every feature index."""

TARGET = "cuda:90"
BYTES = 2


@dataclass(frozen=True)
class Rewrite:
    """A compiler pass that changed the cascade, and the passes over each index after it."""

    name: str
    passes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Explanation:
    """What a pattern costs for one head at one length; `tiles` is None where there is no kernel, or where it
    depends on what `depends` names.
    """

    cascade: Cascade
    streamed: Cascade
    length: int
    written: tuple[Passes, ...]
    derived: tuple[Passes, ...]
    updaters: dict[str, Updater]
    rewrites: tuple[Rewrite, ...]
    plan: Plan | None
    refused: str
    tile: Tile
    tiles: TileCounts | None
    depends: str
    flops: int | None
    bytes: int

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys: `passes` per index as it runs, `written` per index as it stands."""
        return {
            "pattern": self.cascade.name,
            "length": self.length,
            "features": FEATURES,
            "equations": [show_equation(e) for e in self.cascade.equations],
            "streamed": [show_equation(e) for e in self.streamed.equations],
            "passes": {p.index.name: p.count for p in self.derived},
            "written": {p.index.name: p.count for p in self.written},
            "blocking": {p.index.name: [f"{e.read} -> {e.reader}" for e in p.blocking] for p in self.derived},
            "corrections": {name: show_expr(u.correction) for name, u in self.updaters.items()},
            "rewrites": [{"name": r.name, "passes": dict(r.passes)} for r in self.rewrites],
            "state": [_named(t) for t in _states(self.plan)],
            "kernel": self.plan is not None,
            "kernels": [_outline(kernel) for kernel in self.plan.kernels] if self.plan else [],
            "refused": self.refused,
            "tiles": None
            if self.tiles is None
            else {
                "rows": self.tile.rows,
                "columns": self.tile.columns,
                "live": self.tiles.live,
                "full": self.tiles.full,
                "partial": self.tiles.partial,
                "skipped": self.tiles.skipped,
                "cells": self.tiles.cells,
            },
            "depends": self.depends,
            "flops": self.flops,
            "bytes": self.bytes,
            "floor_ms": self.floor_ms,
        }

    @property
    def floor_ms(self) -> float | None:
        """Milliseconds that one head takes at least on an H100: by its matrix units, or by its memory."""
        if self.flops is None:
            return None
        flops, bandwidth = PEAKS["H100"]
        return max(self.flops / flops, self.bytes / bandwidth) / 1e9

    def text(self) -> str:
        """The same in words."""
        lines = [f"{self.cascade.name}: {(self.cascade.doc.strip().splitlines() or [''])[0]}", ""]
        lines += [f"    {line}" for line in briefly(self.cascade)]
        lines += ["", "As it runs:", ""]
        lines += [f"    {line}" for line in briefly(self.streamed)]
        lines.append("")
        for said, runs in zip(self.written, self.derived, strict=False):
            lines.append(f"Passes over {said.index.name}: {said.count} as written, {runs.count} as it runs.")
            lines += [f"  as written, {e.reader} waits for {e.read}" for e in said.blocking]
            lines += [f"  still, {e.reader} waits for {e.read}" for e in runs.blocking]
        lines += _told(self.rewrites)
        for name, updater in self.updaters.items():
            follows = ", ".join(t.name for t in updater.follows)
            lines.append(f"{name} follows {follows} online: * {show_expr(one_place(updater.correction))}")
            for t, weight in updater.companions:
                moved = times(Read(before(t), t.indices), weight)
                lines.append(f"  + {show_expr(one_place(moved))}")
        if self.plan is None:
            return "\n".join([*lines, "", f"No kernel: {self.refused}", ""])
        if states := _states(self.plan):
            lines.append(f"State of a row: {', '.join(map(_named, states))}.")
        lines += ["", *self._tiles(), ""]
        return "\n".join(lines)

    def _tiles(self) -> list[str]:
        head = f"One head at length {self.length:,}, tiles of {self.tile.rows} x {self.tile.columns}"
        if self.tiles is None:
            return [f"{head}: the tiles visited depend on {self.depends}."]
        t = self.tiles
        every = t.live + t.skipped
        assert self.flops is not None
        return [
            f"{head}: {t.live:,} of {every:,} visited,",
            f"{t.full:,} whole and {t.partial:,} on an edge; {t.skipped:,} skipped.",
            f"{t.cells:,} cells seen; with features of {FEATURES} and {BYTES} bytes an element,",
            f"{self.flops / 1e9:,.2f} GFLOP and {self.bytes / 1e6:,.1f} MB,"
            f" {self.flops / self.bytes:,.0f} FLOP a byte;",
            f"an H100 takes {self.floor_ms or 0:,.4f} ms at least.",
        ]


def _told(rewrites: tuple[Rewrite, ...]) -> Iterator[str]:
    """Which pass of the compiler saved a walk."""
    for earlier, after in pairwise(rewrites):
        for (index, many), (_, few) in zip(earlier.passes, after.passes, strict=True):
            if few < many:
                yield f"  `{after.name}` makes {few} of {many} passes over {index}"


def explain(
    cascade: Cascade, length: int, numbers: Mapping[str, int | float | bool] | None = None
) -> Explanation:
    """What a cascade costs when every sequence has a length; a number that is neither given nor has a
    default makes the tiles unknown.
    """
    steps = list(rewritten(cascade))
    run = steps[-1][1]
    indices = walked(cascade)
    apart = share(simplify(expand(cascade)))
    written = tuple(analyse(apart, i) for i in indices)
    rewrites = tuple(_rewrites(cascade, steps, indices))
    online = [passes_over(run, i) for i in indices]
    derived = tuple(passes for passes, _ in online)
    found = {name: updater for _, own in online for name, updater in own.items()}
    plan, refused = None, ""
    tile = candidates(TARGET, BYTES, FEATURES)[0]
    try:
        planned = partition(run)
        plan, tile = planned, _tile(planned)
    except Refused as reason:
        refused = reason.diagnostic.message
    tiles, depends, flops = None, "", None
    if plan is not None:
        known = dict(cascade.defaults) | dict(numbers or {})
        read = [*(loop.reach for loop in _loops(plan)), *(size for _, size in cascade.lengths)]
        turning = {f"`{loop.outer.name}`" for loop in _loops(plan) if loop.outer in free(loop.reach)}
        depends = ", ".join([*unknown(read, known), *sorted(turning)])
        if not depends:
            tiles, flops = work(plan, environment(cascade, length, known), tile)
    sizes = {i.name: {"sequence": length, "feature": FEATURES, "batch": 1}[i.role] for i in _indices(cascade)}
    return Explanation(
        cascade,
        run,
        length,
        written,
        derived,
        found,
        rewrites,
        plan,
        refused,
        tile,
        tiles,
        depends,
        flops,
        traffic(cascade, sizes, BYTES),
    )


def _rewrites(
    cascade: Cascade, steps: Iterable[tuple[str, Cascade]], indices: tuple[Index, ...]
) -> Iterator[Rewrite]:
    """The passes that change a cascade, in order; what each of them leaves to be walked."""
    for name, after in steps:
        if after != cascade:
            yield Rewrite(name, tuple((i.name, passes_over(after, i)[0].count) for i in indices))
        cascade = after


def _outline(kernel: Kernel) -> dict[str, Any]:
    """What a kernel reads and writes, and its walks."""
    walks = [
        {
            "index": loop.index.name,
            "state": [_named(s.equation.tensor) for s in loop.states],
            "stored": [t.name for t in loop.stored],
        }
        for loop in kernel.loops
    ]
    used = (r.tensor for e in _equations(kernel) for r in reads(e.body))
    read = dict.fromkeys(t.name for t in used if t.origin in ("input", "table"))
    writes = [t.name for t in kernel.writes]
    return {"rows": kernel.rows.name, "walks": walks, "reads": list(read), "writes": writes}


def _equations(kernel: Kernel) -> Iterator[Equation]:
    yield from kernel.prologue
    for loop in kernel.loops:
        yield from (*loop.rows, *loop.tiles, *(s.equation for s in loop.states))
    yield from kernel.epilogue


def _tile(plan: Plan) -> Tile:
    """The tile that the first kernel gets."""
    kernel = plan.kernels[0]
    program = lower(kernel, plan.cascade)
    extents = {i.name: FEATURES for i in program.features}
    return tiles_for(program, TARGET, BYTES, extents, kernel.narrow)[0]


def _named(tensor: Tensor) -> str:
    return f"{tensor.name}[{','.join(i.name for i in tensor.indices if i.role != 'batch')}]"


def _states(plan: Plan | None) -> list[Tensor]:
    return [s.equation.tensor for loop in _loops(plan) for s in loop.states] if plan else []


def _loops(plan: Plan) -> list[Loop]:
    return [loop for kernel in plan.kernels for loop in kernel.loops]


def _indices(cascade: Cascade) -> set[Index]:
    return {i for t in (*cascade.inputs, *cascade.outputs) for i in t.indices}


def work(plan: Plan, env: Mapping[str, Any], tile: Tile) -> tuple[TileCounts, int]:
    """The tiles of all loops at every place of the batch, and the operations of their matrix products: two
    for every multiply-add, over the cells that are seen.

    `env` binds what the predicates read, every extent among it; places that no predicate asks for are not
    counted apart.
    """
    total, flops = TileCounts(0, 0, 0, 0, 0), 0
    for kernel in plan.kernels:
        for loop in kernel.loops:
            places = (*kernel.batch, *([] if loop.outer is None else [loop.outer]))
            apart = [i for i in places if i in free(loop.reach)]
            alike = prod(env[f"|{i.name}|"] for i in places if i not in apart)
            for place in product(*(range(env[f"|{i.name}|"]) for i in apart)):
                here = {**env, **{i.name: n for i, n in zip(apart, place, strict=True)}}
                here |= {kernel.rows.name: 0, loop.index.name: 0}
                rows, columns = env[f"|{kernel.rows.name}|"], env[f"|{loop.index.name}|"]
                one = count(loop.bands, loop.reach, here, rows, columns, tile.rows, tile.columns)
                if not loop.uniform:  # no tile goes untested
                    one = replace(one, full=0, partial=one.live)
                total = TileCounts(*(getattr(total, f) + alike * getattr(one, f) for f in COUNTS))
                flops += alike * one.cells * _products(loop, env)
    return total, flops


COUNTS = ("live", "full", "partial", "skipped", "cells")


def _products(loop: Loop, env: Mapping[str, Any]) -> int:
    """Operations of the matrix products at one cell of a loop."""

    def features(indices: tuple[Index, ...]) -> int:
        return prod(env[f"|{i.name}|"] for i in indices if i.role == "feature")

    found = sum(
        features(e.tensor.indices) * features(e.body.over)
        for e in loop.tiles
        if isinstance(e.body, Reduce) and sum(i.role == "sequence" for i in e.tensor.indices) > 1
    )
    states = (s.equation.tensor.indices for s in loop.states)
    return 2 * (found + sum(features(own) for own in states if any(i.role == "feature" for i in own)))


def environment(
    cascade: Cascade,
    length: int,
    numbers: Mapping[str, int | float | bool] | None = None,
    extents: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What the names of a predicate stand for in the first head, every sequence having one length; `numbers`
    stand for the pattern's, and `extents` for those of single indices, where the defaults do not.
    """
    env: dict[str, Any] = dict(cascade.defaults) | dict(numbers or {})
    for index in _indices(cascade):
        size = {"sequence": length, "feature": FEATURES, "batch": 1}[index.role]
        env[f"|{index.name}|"] = (extents or {}).get(index.name, size)
        if index.role == "batch":
            env[index.name] = 0
    for index, formula in cascade.lengths:
        env[f"|{index.name}|"] = at(formula, env)
    return env


def unknown(read: Iterable[Expr], known: Mapping[str, Any]) -> list[str]:
    """What some expressions read and is not known."""
    return sorted({f"`{r.tensor.name}`" for e in read for r in reads(e) if r.tensor.name not in known})


def traffic(cascade: Cascade, sizes: Mapping[str, int], width: int) -> int:
    """Bytes, if every input is read once and every output written once; `width` of a real number."""
    tensors = [t for t in (*cascade.inputs, *cascade.outputs) if t.origin not in ("scalar", "static")]
    bytes = {"float": width, "int": 4, "bool": 4}
    return sum(bytes[t.kind] * prod(sizes[i.name] for i in t.indices) for t in tensors)
