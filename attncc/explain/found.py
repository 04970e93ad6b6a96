"""Cascade → what the compiler sees in it: passes and what saves one, state, kernels, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attncc.explain import words
from attncc.explain.costs import FEATURES, GPU, Costs, costs
from attncc.explain.notation import Notation, operators
from attncc.ir.brief import predicates
from attncc.ir.cascade import Cascade, Equation, Index, Tensor, reads
from attncc.ir.show import show_equation, show_expr
from attncc.passes.analyse import Passes, analyse, walked
from attncc.passes.expand import expand
from attncc.passes.exponents import Exponent, exponents
from attncc.passes.online import Updater, passes_over
from attncc.passes.share import share
from attncc.passes.simplify import simplify
from attncc.pipeline import rewritten
from attncc.schedule.plan import Kernel, Loop, Plan, partition
from attncc.schedule.refused import Refused

Counts = tuple[tuple[str, int], ...]
"""Indices, and the passes over each."""


@dataclass(frozen=True)
class Rewrite:
    """What changed the cascade, and the passes over each index before and after it. The first of all,
    `online`, changes nothing but how it is read: reductions follow others that still run.
    """

    name: str
    before: Counts
    passes: Counts


@dataclass(frozen=True)
class Walked:
    """A walk: over which index, at every position of which other, what it carries, what its tiles store, and
    the tables that its tiles are listed from.
    """

    index: str
    outers: tuple[str, ...]
    state: tuple[Tensor, ...]
    stored: tuple[Tensor, ...]
    listed: tuple[Tensor, ...] = ()

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        state = [words.named(t) for t in self.state]
        return {
            "index": self.index,
            "outers": list(self.outers),
            "state": state,
            "stored": [t.name for t in self.stored],
            "listed": [t.name for t in self.listed],
        }


@dataclass(frozen=True)
class Outline:
    """A kernel: what its row tiles are of, its walks and what they carry, what it reads and writes; whether
    its row tiles are uneven work, of which most comes first.
    """

    name: str
    rows: str
    walks: tuple[Walked, ...]
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    uneven: bool = False

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "name": self.name,
            "rows": self.rows,
            "walks": [walk.data() for walk in self.walks],
            "reads": [t.name for t in self.reads],
            "writes": [t.name for t in self.writes],
            "uneven": self.uneven,
        }


@dataclass(frozen=True)
class Explanation:
    """What a pattern is made into, and what that costs for one head at one length; `plan` is None where there
    is no kernel, and `refused` says why.
    """

    cascade: Cascade
    streamed: Cascade
    length: int
    numbers: Mapping[str, int | float | bool]
    written: tuple[Passes, ...]
    derived: tuple[Passes, ...]
    updaters: dict[str, Updater]
    exponents: tuple[Exponent, ...]
    rewrites: tuple[Rewrite, ...]
    plan: Plan | None
    refused: str
    operators: tuple[Notation, ...]
    kernels: tuple[Outline, ...]
    costs: Costs

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What is carried for a row, by all kernels."""
        return tuple(t for kernel in self.kernels for walk in kernel.walks for t in walk.state)

    def text(self) -> str:
        """In words."""
        return words.text(self)

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys: `passes` per index as it runs, `written` per index as it stands."""
        costs = self.costs
        return {
            "pattern": self.cascade.name,
            "length": self.length,
            "features": FEATURES,
            "equations": [show_equation(e) for e in self.cascade.equations],
            "streamed": [show_equation(e) for e in self.streamed.equations],
            "passes": {p.index.name: p.count for p in self.derived},
            "written": {p.index.name: p.count for p in self.written},
            "blocking": _blocking(self.derived),
            "blocking_written": _blocking(self.written),
            "corrections": {name: show_expr(u.correction) for name, u in self.updaters.items()},
            "exponents": [
                {"equation": x.equation, "value": show_expr(x.value), "bounded": x.bounded}
                for x in self.exponents
            ],
            "rewrites": [
                {"name": r.name, "before": dict(r.before), "passes": dict(r.passes)} for r in self.rewrites
            ],
            "operators": [operator.data() for operator in self.operators],
            "state": [words.named(t) for t in self.state],
            "kernel": self.plan is not None,
            "kernels": [kernel.data() for kernel in self.kernels],
            "refused": self.refused,
            "tiles": _tiles(costs),
            "depends": costs.depends,
            "gpu": costs.gpu,
            "flops": costs.flops,
            "bytes": costs.bytes,
            "intensity": costs.intensity,
            "floor_ms": costs.floor_ms,
        }


def _blocking(found: Iterable[Passes]) -> dict[str, list[str]]:
    return {p.index.name: [f"{e.read} -> {e.reader}" for e in p.blocking] for p in found}


def _tiles(costs: Costs) -> dict[str, int] | None:
    if costs.tiles is None or costs.tile is None:
        return None
    t = costs.tiles
    return {
        "rows": costs.tile.rows,
        "columns": costs.tile.columns,
        "live": t.live,
        "full": t.full,
        "partial": t.partial,
        "skipped": t.skipped,
        "cells": t.cells,
    }


def explain(
    cascade: Cascade,
    length: int,
    numbers: Mapping[str, int | float | bool] | None = None,
    gpu: str = GPU,
) -> Explanation:
    """What a cascade becomes, and costs on a GPU when every sequence has a length; a number that is neither
    given nor has a default makes the tiles unknown.
    """
    steps = list(rewritten(cascade))
    run = steps[-1][1]
    indices = walked(cascade)
    apart = share(simplify(expand(cascade)))
    written = tuple(analyse(apart, i) for i in indices)
    online = [passes_over(run, i) for i in indices]
    numbers = numbers or {}
    plan, refused = None, ""
    try:
        planned = partition(run)
        cost = costs(cascade, planned, length, numbers, gpu)
        plan = planned
    except Refused as reason:
        refused = reason.diagnostic.message
        cost = costs(cascade, None, length, numbers, gpu)
    loops = [loop for kernel in plan.kernels for loop in kernel.loops] if plan else []
    return Explanation(
        cascade,
        run,
        length,
        numbers,
        written,
        tuple(passes for passes, _ in online),
        {name: updater for _, own in online for name, updater in own.items()},
        exponents(run),
        tuple(_rewrites(cascade, steps, written, indices)),
        plan,
        refused,
        operators(loops, predicates(run)),
        tuple(_outline(kernel) for kernel in plan.kernels) if plan else (),
        cost,
    )


def _rewrites(
    cascade: Cascade,
    steps: Iterable[tuple[str, Cascade]],
    written: Iterable[Passes],
    indices: tuple[Index, ...],
) -> Iterator[Rewrite]:
    """Following online, and the passes of the compiler that change a cascade, in order; what each of them
    leaves to be walked when every reduction has an equation of its own.
    """
    counts: Counts = tuple((p.index.name, p.count) for p in written)
    last = None
    for name, after in (("online", cascade), *steps):
        if after != last:
            apart = share(after)
            left = tuple((i.name, passes_over(apart, i)[0].count) for i in indices)
            yield Rewrite(name, counts, left)
            counts, last = left, after


def _outline(kernel: Kernel) -> Outline:
    walks = tuple(map(_walked, kernel.loops))
    used = (r.tensor for e in _equations(kernel) for r in reads(e.body))
    read = tuple(dict.fromkeys(t for t in used if t.loaded))
    return Outline(kernel.name, kernel.rows.name, walks, read, kernel.writes, kernel.uneven)


def _walked(loop: Loop) -> Walked:
    outers = tuple(i.name for i in loop.outers)
    return Walked(loop.index.name, outers, tuple(s.tensor for s in loop.states), loop.stored, loop.listed)


def _equations(kernel: Kernel) -> Iterator[Equation]:
    yield from kernel.prologue
    for loop in kernel.loops:
        yield from (*loop.rows, *loop.tiles, *(s.equation for s in loop.states))
    yield from kernel.epilogue
