"""Cascade → what the compiler sees in it: passes, state, tiles, operations, bytes, in words and as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attncc.ir.brief import briefly, one_place
from attncc.ir.cascade import Cascade, Reduce, Tensor, reads
from attncc.ir.show import show_equation, show_expr
from attncc.masks.counts import TileCounts, count
from attncc.masks.integers import at
from attncc.passes.analyse import Passes, analyse, walked
from attncc.passes.expand import expand
from attncc.passes.online import Updater, corrected, updaters
from attncc.passes.share import share
from attncc.passes.simplify import simplify
from attncc.pipeline import streamed
from attncc.schedule.plan import Loop, Plan, Refused, partition
from attncc.schedule.tiles import Tile, candidates

FEATURES = 128
"""The extent taken for every feature index."""

TARGET = "cuda:90"
BYTES = 2


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
            "state": [_named(t) for t in _states(self.plan)],
            "kernel": self.plan is not None,
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
        }

    def text(self) -> str:
        """The same in words."""
        lines = [f"{self.cascade.name}: {(self.cascade.doc.strip().splitlines() or [''])[0]}", ""]
        lines += [f"    {line}" for line in briefly(self.cascade)]
        lines += ["", "As it runs:", ""]
        lines += [f"    {line}" for line in briefly(self.streamed)]
        lines.append("")
        for before, after in zip(self.written, self.derived, strict=False):
            lines.append(
                f"Passes over {before.index.name}: {before.count} as written, {after.count} as it runs."
            )
            lines += [f"  as written, {e.reader} waits for {e.read}" for e in before.blocking]
            lines += [f"  still, {e.reader} waits for {e.read}" for e in after.blocking]
        for name, updater in self.updaters.items():
            follows = ", ".join(t.name for t in updater.follows)
            lines.append(f"{name} follows {follows} online: * {show_expr(one_place(updater.correction))}")
        if self.plan is None:
            return "\n".join([*lines, "", f"No kernel: {self.refused}", ""])
        lines.append(f"State of a row: {', '.join(_named(t) for t in _states(self.plan))}.")
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
            f" {self.flops / self.bytes:,.0f} FLOP a byte.",
        ]


def explain(cascade: Cascade, length: int) -> Explanation:
    """What a cascade costs when every sequence has a length; numbers without a default make the tiles
    unknown.
    """
    run = streamed(cascade)
    found = updaters(run)
    indices = walked(cascade)
    apart = share(simplify(expand(cascade)))
    written = tuple(analyse(apart, i) for i in indices)
    derived = tuple(analyse(run, i, lambda e, r: corrected(found, e, r)) for i in indices)
    plan, refused = None, ""
    try:
        plan = partition(run)
    except Refused as reason:
        refused = reason.diagnostic.message
    narrow = plan is not None and plan.kernels[0].narrow
    tile = candidates(TARGET, BYTES, FEATURES, narrow)[0]
    tiles, depends = _counted(cascade, plan, length, tile) if plan else (None, "")
    flops = None if tiles is None or plan is None else _flops(plan, tiles)
    return Explanation(
        cascade,
        run,
        length,
        written,
        derived,
        found,
        plan,
        refused,
        tile,
        tiles,
        depends,
        flops,
        _bytes(cascade, length),
    )


def _named(tensor: Tensor) -> str:
    return f"{tensor.name}[{','.join(i.name for i in tensor.indices if i.role != 'batch')}]"


def _states(plan: Plan | None) -> list[Tensor]:
    loops = [loop for kernel in plan.kernels for loop in kernel.loops] if plan else []
    return [s.equation.tensor for loop in loops for s in loop.states]


def _counted(cascade: Cascade, plan: Plan, length: int, tile: Tile) -> tuple[TileCounts | None, str]:
    """The tiles of all loops together, for the first head of the first batch."""
    defaults = dict(cascade.defaults)
    total = TileCounts(0, 0, 0, 0, 0)
    for kernel in plan.kernels:
        for loop in kernel.loops:
            predicate = loop.reach
            unknown = _unknown(loop, defaults)
            if unknown:
                return None, ", ".join(unknown)
            env = environment(cascade, length)
            env |= {kernel.rows.name: 0, loop.index.name: 0}
            one = count(loop.bands, predicate, env, length, length, tile.rows, tile.columns)
            if not loop.uniform:  # no tile goes untested
                one = replace(one, full=0, partial=one.live)
            total = TileCounts(
                *(
                    getattr(total, f) + getattr(one, f)
                    for f in ("live", "full", "partial", "skipped", "cells")
                )
            )
    return total, ""


def environment(
    cascade: Cascade, length: int, numbers: Mapping[str, int | float | bool] | None = None
) -> dict[str, Any]:
    """What the names of a predicate stand for in the first head, every sequence having one length; `numbers`
    stand for the pattern's where the defaults do not.
    """
    env: dict[str, Any] = dict(cascade.defaults) | dict(numbers or {})
    for index in {i for t in (*cascade.inputs, *cascade.outputs) for i in t.indices}:
        env[f"|{index.name}|"] = {"sequence": length, "feature": FEATURES, "batch": 1}[index.role]
        if index.role == "batch":
            env[index.name] = 0
    for index, formula in cascade.lengths:
        env[f"|{index.name}|"] = at(formula, env)
    return env


def _unknown(loop: Loop, defaults: dict[str, int | float | bool]) -> list[str]:
    """What the loop's predicate reads that no default gives."""
    found = [r.tensor for r in reads(loop.reach)]
    return sorted({f"`{t.name}`" for t in found if t.name not in defaults})


def _flops(plan: Plan, tiles: TileCounts) -> int:
    """Two operations for every multiply-add of the matrix products, over the cells that are seen."""
    products = 0
    for kernel in plan.kernels:
        for loop in kernel.loops:
            products += sum(isinstance(e.body, Reduce) for e in loop.tiles)
            products += sum(any(i.role == "feature" for i in s.equation.tensor.indices) for s in loop.states)
    return 2 * products * FEATURES * tiles.cells


def _bytes(cascade: Cascade, length: int) -> int:
    """Every input read once, every output written once, for one head."""
    sizes = {"sequence": length, "feature": FEATURES, "batch": 1}
    total = 0
    for tensor in (*cascade.inputs, *cascade.outputs):
        if tensor.origin in ("scalar", "static"):
            continue
        elements = BYTES if tensor.kind == "float" else 4
        for index in tensor.indices:
            elements *= sizes[index.role]
        total += elements
    return total
