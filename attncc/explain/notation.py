"""Loops → the operator of every walk in mathematical notation: its states at first, with a tile, and merged.

    m = -inf    m = max(m_old, max(k in tile) S[q,k])    m = max(m_a, m_b)
    z = 0       z = z_old * exp(m_old - m) + ...         z = z_a * exp(m_a - m) + z_b * exp(m_b - m)

Two parts a and b of a walk have states of their own. A state that follows others goes from `m_a`, what they
are in its part, to `m`, what they are in both, just as it goes from `m_old` to `m` with a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attncc.ir.brief import brief
from attncc.ir.cascade import Equation, Expr, Read
from attncc.passes.online import before
from attncc.passes.operator import Operator, State, first, second
from attncc.passes.share import replace_reads
from attncc.schedule.plan import Loop


@dataclass(frozen=True)
class Rule:
    """One state: what it is before the walk, what a tile makes of it, and two parts of the walk together."""

    state: str
    init: str
    update: str
    merge: str


@dataclass(frozen=True)
class Notation:
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


def operators(loops: Iterable[Loop], names: Mapping[Expr, str]) -> tuple[Notation, ...]:
    """The operator of every loop, for one row; `names` are those of predicates."""
    return tuple(_notation(loop.operator, names) for loop in loops if loop.states)


def _notation(operator: Operator, names: Mapping[Expr, str]) -> Notation:
    def line(equation: Equation) -> str:
        body = replace_reads(equation.body, lambda r: _at_row(r) if r.tensor.name in of_row else None)
        tensor = equation.tensor
        return brief(Equation(_at_row(Read(tensor, tensor.indices)).tensor, body), dict(names))

    of_row = {of(s.tensor).name for s in operator.states for of in (lambda t: t, before, first, second)}
    lines = zip(operator.states, operator.init, operator.merge, strict=True)
    rules = (Rule(s.tensor.name, line(init), line(_with_tile(s)), line(merge)) for s, init, merge in lines)
    return Notation(operator.index.name, True, tuple(rules))


def _with_tile(state: State) -> Equation:
    e = state.reduce
    tile = replace(e, over=tuple(replace(i, name=f"{i.name} in tile") for i in e.over))
    return replace(state.equation, body=state.joined(state.carried, tile))


def _at_row(read: Read) -> Read:
    """A state without the subscript of its row."""
    kept = [n for n, i in enumerate(read.tensor.indices) if i.role != "sequence"]
    indices = tuple(read.tensor.indices[n] for n in kept)
    return Read(replace(read.tensor, indices=indices), tuple(read.at[n] for n in kept))
