"""Cascade → operators: how partial results over an index begin, take in more, and join (theory §A.3).

    S_max = -inf,  P_total = 0                                                        init
    S_max = max(S_max_old, max(k) S[k])                                               update
    P_total = exp(S_max_old - S_max) * P_total_old + sum(k) exp(S[k] - S_max)
    S_max = max(S_max_a, S_max_b)                                                     merge
    P_total = exp(S_max_a - S_max) * P_total_a + exp(S_max_b - S_max) * P_total_b

There is one for every pass over an index. The loops of a kernel are its update; partial results of parts of
an index are joined by its merge, in any order and in any tree; what reads finished states is the epilogue. A
term that belongs to no position stands there: in `init` it would be counted once for every part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    kind,
    number,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import conjoin, plus, times
from attncc.ops import REDUCTIONS
from attncc.passes.analyse import walked
from attncc.passes.online import Updater, before, passes_over
from attncc.passes.share import replace_reads

FARTHEST = 2.0**63
"""Where integers of 64 bits end."""


@dataclass(frozen=True)
class State:
    """A running reduction: the equation, whose body is the reduction, and how it follows others."""

    equation: Equation
    updater: Updater | None = None

    @property
    def tensor(self) -> Tensor:
        return self.equation.tensor

    @property
    def reduce(self) -> Reduce:
        assert isinstance(self.equation.body, Reduce)
        return self.equation.body

    @property
    def identity(self) -> Literal:
        """The state of no terms; of integers, which have no infinity, the last that there is."""
        identity = REDUCTIONS[self.reduce.op].identity
        if kind(self.reduce) == "int" and isinstance(identity, float):
            return number(FARTHEST if identity > 0 else -FARTHEST)
        return number(identity)

    @property
    def carried(self) -> Expr:
        """The state before, as it would be had it been made with the present values of what it follows."""
        old = _held(before(self.tensor))
        if self.updater is None:
            return old
        moved = plus(times(old, self.updater.correction), self.updater.shift)
        for companion, weight in self.updater.companions:
            moved = plus(moved, times(_held(before(companion)), weight))
        if self.reduce.op == "sum":
            return moved
        return Choose(Apply("==", (old, self.identity)), self.identity, moved)  # of nothing it stays infinite

    def joined(self, a: Expr, b: Expr) -> Expr:
        """Two results over different terms as one."""
        return plus(a, b) if self.reduce.op == "sum" else Apply(self.reduce.op, (a, b))


@dataclass(frozen=True)
class Operator:
    """The states of one pass over an index, in the order in which they are computed. The merge is associative
    and commutative: every state is a sum or an extremum that follows what it reads.
    """

    index: Index
    states: tuple[State, ...]

    @property
    def init(self) -> tuple[Equation, ...]:
        """The state of no terms."""
        return tuple(replace(s.equation, body=s.identity) for s in self.states)

    def update(self, tile: Expr) -> tuple[Equation, ...]:
        """The state with the terms of a tile, of those where a predicate holds; `y_old` is the one before."""
        terms = (replace(s.reduce, where=conjoin((tile, s.reduce.where))) for s in self.states)
        return tuple(
            replace(s.equation, body=s.joined(s.carried, more))
            for s, more in zip(self.states, terms, strict=True)
        )

    @property
    def merge(self) -> tuple[Equation, ...]:
        """The state of two sets of terms; `y_a` is that of one, `y_b` that of the other."""
        olds = {before(s.tensor): s.tensor for s in self.states}

        def of(side: Callable[[Tensor], Tensor], e: Expr) -> Expr:
            return replace_reads(e, lambda r: Read(side(olds[r.tensor]), r.at) if r.tensor in olds else None)

        return tuple(
            replace(s.equation, body=s.joined(of(first, s.carried), of(second, s.carried)))
            for s in self.states
        )


def first(tensor: Tensor) -> Tensor:
    """A state of one of two sets of terms."""
    return replace(tensor, name=f"{tensor.name}_a")


def second(tensor: Tensor) -> Tensor:
    """A state of the other."""
    return replace(tensor, name=f"{tensor.name}_b")


def operators(cascade: Cascade) -> tuple[Operator, ...]:
    """One operator for every pass over an index that holds running states."""
    recurrences = {name for group in recurrent(cascade) for name in group}
    found = []
    for index in walked(cascade):
        passes, updaters = passes_over(cascade, index)
        of = dict(passes.of)
        for pass_ in range(1, passes.count + 1):
            states = tuple(
                State(e, updaters.get(e.tensor.name))
                for e in cascade.equations
                if of.get(e.tensor.name) == pass_ and _folds(e, index) and e.tensor.name not in recurrences
            )
            if states:
                found.append(Operator(index, states))
    return tuple(found)


def _folds(equation: Equation, index: Index) -> bool:
    """Whether an equation is a reduction over an index, of sums and extremes."""
    e = equation.body
    return isinstance(e, Reduce) and index in e.over and e.op in ("sum", "max", "min")


def _held(tensor: Tensor) -> Read:
    return Read(tensor, tensor.indices)
