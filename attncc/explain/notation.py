"""Loops → the operator of every walk in mathematical notation: its states at first, with a tile, and merged.

    m = -inf    m = max(m_old, max(k in tile) S[q,k])    m = max(m_a, m_b)
    z = 0       z = z_old * exp(m_old - m) + ...         z = z_a * exp(m_a - m) + z_b * exp(m_b - m)

Two parts a and b of a walk have states of their own. A state that follows others goes from `m_a`, what they
are in its part, to `m`, what they are in both, just as it goes from `m_old` to `m` with a tile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attncc.ir.brief import brief
from attncc.ir.cascade import Apply, Equation, Expr, Read, Tensor, number
from attncc.ir.logic import plus, times
from attncc.ops import REDUCTIONS
from attncc.passes.online import before
from attncc.passes.share import replace_reads
from attncc.schedule.plan import Loop
from attncc.schedule.stages import State

VERSIONS = OLD, A, B = "_old", "_a", "_b"
"""What is put behind a state's name: before the present tile, and in each of two parts."""


@dataclass(frozen=True)
class Rule:
    """One state: what it is before the walk, what a tile makes of it, and two parts of the walk together."""

    state: str
    init: str
    update: str
    merge: str


@dataclass(frozen=True)
class Operator:
    """One walk: the rules of its states, in the order in which they are computed; `unordered` says that its
    parts can be merged in any order.
    """

    index: str
    unordered: bool
    rules: tuple[Rule, ...]

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        states = [
            {"state": r.state, "init": r.init, "update": r.update, "merge": r.merge} for r in self.rules
        ]
        return {"index": self.index, "unordered": self.unordered, "states": states}


def operators(loops: Iterable[Loop], names: Mapping[Expr, str]) -> tuple[Operator, ...]:
    """The operator of every loop, for one row; `names` are those of predicates. All are unordered
    (`schedule.plan.Loop`).
    """
    loops = tuple(loops)
    carried = {s.equation.tensor for loop in loops for s in loop.states}
    return tuple(
        Operator(loop.index.name, True, tuple(_rule(s, carried, names) for s in loop.states))
        for loop in loops
    )


def _rule(state: State, carried: Collection[Tensor], names: Mapping[Expr, str]) -> Rule:
    e = state.reduce
    of_row = {_called(t, version) for t in carried for version in ("", *VERSIONS)}
    tile = replace(e, over=tuple(replace(i, name=f"{i.name} in tile") for i in e.over))

    def line(body: Expr) -> str:
        short = replace_reads(body, lambda r: _at_row(r) if r.tensor in of_row else None)
        return brief(Equation(_at_row(_read(state)).tensor, short), dict(names))

    return Rule(
        state.equation.tensor.name,
        line(number(REDUCTIONS[e.op].identity)),
        line(_joined(e.op, _followed(state, OLD), tile)),
        line(_joined(e.op, _followed(state, A), _followed(state, B))),
    )


def _joined(op: str, a: Expr, b: Expr) -> Expr:
    return plus(a, b) if op == "sum" else Apply(REDUCTIONS[op].combine, (a, b))


def _followed(state: State, version: str) -> Expr:
    """A version of a state, after what it follows has gone from that version to its present value."""
    own, updater = _read(state, version), state.updater
    if updater is None:
        return own
    old = {before(t): _called(t, version) for t in updater.follows}

    def moved(e: Expr) -> Expr:
        return replace_reads(e, lambda r: Read(old[r.tensor], r.at) if r.tensor in old else None)

    if state.reduce.op != "sum":
        return plus(own, moved(updater.correction))
    result = times(own, moved(updater.correction))
    for companion, weight in updater.companions:
        beside = Read(_called(companion, version), companion.indices)
        result = Apply("+", (result, times(beside, moved(weight))))
    return result


def _read(state: State, version: str = "") -> Read:
    tensor = state.equation.tensor
    return Read(_called(tensor, version), tensor.indices)


def _called(tensor: Tensor, version: str) -> Tensor:
    return replace(tensor, name=f"{tensor.name}{version}")


def _at_row(read: Read) -> Read:
    """A state without the subscript of its row."""
    kept = [n for n, i in enumerate(read.tensor.indices) if i.role != "sequence"]
    indices = tuple(read.tensor.indices[n] for n in kept)
    return Read(replace(read.tensor, indices=indices), tuple(read.at[n] for n in kept))
