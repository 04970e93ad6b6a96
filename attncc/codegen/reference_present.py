"""Cascade → the same cascade in which presence is said outright: nothing has to lack a value any more.

    mean(i) K[n * B + i]                -->   mean(i where n * B + i < |k|) K[n * B + i]
    if tab[k - 1] == 0 then x else y    -->   if tab[k - 1] == 0 and 0 <= k - 1 then x else y

A read outside its tensor may then give anything finite, 0 in the generated text. Logic has three answers, as
in `ir/evaluate.py`: `a and nothing` is false where `a` is false.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import assert_never

from attncc.codegen.reference_bounds import Bounds, Facts, negated
from attncc.ir.cascade import (
    FALSE,
    TRUE,
    ZERO,
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
    children,
    free,
    kind,
    reads,
    rebuild,
    substitute,
    walk,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import conjoin, conjuncts
from attncc.ops import REDUCTIONS


def explicit(cascade: Cascade) -> tuple[Cascade, Mapping[str, Facts]]:
    """Every predicate is true only where it has a value, and every reduction asks for what its body lacks.

    Beside the cascade: what an element of each equation needs in order to have a value.
    """
    presence = Presence(Bounds(dict(cascade.lengths)), {})
    groups = {name: group for group in recurrent(cascade) for name in group}
    outputs = {t.name for t in cascade.outputs}
    written: list[Equation] = []
    for equation in cascade.equations:
        if equation.tensor.name in presence.lacking:
            continue
        names = groups.get(equation.tensor.name, (equation.tensor.name,))
        found, presence = _group(tuple(cascade.equation(name) for name in names), presence)
        written += found
    # of these every axis is there; another equation may be a single number, outside of its indices too
    whole = {t.name for t in cascade.inputs} | groups.keys()
    ends = [_end(e, presence, whole) if e.tensor.name in outputs else e for e in written]
    return replace(cascade, equations=tuple(ends)), presence.lacking


def mark_of(tensor: Tensor) -> Tensor:
    """The predicate that says which elements of a tensor have a value."""
    return Tensor(f"{tensor.name}_has", tensor.indices, "bool", "equation")


def outside(facts: Facts, over: tuple[Index, ...]) -> Facts:
    """The facts that still speak of the same positions inside a reduction."""
    return tuple(f for f in facts if not free(f) & set(over))


@dataclass(frozen=True)
class Presence:
    """What each tensor's elements need in order to have a value, in terms of the tensor's own indices."""

    bounds: Bounds
    lacking: Mapping[str, tuple[Expr, ...]]

    def total(self, e: Expr, facts: Facts) -> Expr:
        """An expression with every predicate and condition inside it true only where it has a value."""
        match e:
            case Reduce():
                around = outside(facts, e.over)
                where = self.true(self.total(e.where, around), around)
                inside = around + conjuncts(where)
                body = self.total(e.body, inside)
                asked = self.bounds.least(self.needs(body, inside), inside)
                return replace(e, where=conjoin([where, *asked]), body=body)
            case Choose():
                condition = self.true(self.total(e.condition, facts), facts)
                then = self.total(e.then, facts + conjuncts(condition))
                other = self.total(e.other, facts + conjuncts(negated(condition)))
                if condition == TRUE:
                    return then
                return other if condition == FALSE else Choose(condition, then, other)
            case Index() | Literal() | Read() | Apply():
                return rebuild(e, tuple(self.total(part, facts) for part in children(e)))
            case _:
                assert_never(e)

    def needs(self, e: Expr, facts: Facts) -> tuple[Expr, ...]:
        """What must hold, beyond the facts, for an expression to have a value."""
        match e:
            case Index() | Literal() | Apply(op="extent"):
                return ()
            case Read():
                return self._read(e, facts)
            case Apply(op="and" | "or" as op, args=(a, b)):
                return self._logic(e, op, a, b, facts)
            case Apply():
                return _each(n for a in e.args for n in self.needs(a, facts))
            case Reduce():
                if not REDUCTIONS[e.op].keeps:
                    return ()
                asked = (*conjuncts(e.where), *self.needs(e.body, facts + conjuncts(e.where)))
                return _each(n for n in asked if not self.bounds.holds(n, facts))
            case Choose():
                condition = conjuncts(e.condition)
                then = conjoin(self.needs(e.then, facts + condition))
                other = conjoin(self.needs(e.other, facts + conjuncts(negated(e.condition))))
                return conjuncts(_choice(e.condition, then, other))
            case _:
                assert_never(e)

    def true(self, e: Expr, facts: Facts) -> Expr:
        """Where a predicate has a value and is true."""
        match e:
            case Apply("and", (a, b)):
                first = self.true(a, facts)
                return conjoin([first, self.true(b, facts + conjuncts(first))])
            case Apply("or", (a, b)):
                return Apply("or", (self.true(a, facts), self.true(b, facts)))
            case Apply("not", (a,)):
                return self._false(a, facts)
            case _:
                return conjoin([*self.needs(e, facts), e])

    def _false(self, e: Expr, facts: Facts) -> Expr:
        match e:
            case Apply("and", (a, b)):
                return Apply("or", (self._false(a, facts), self._false(b, facts)))
            case Apply("or", (a, b)):
                return conjoin([self._false(a, facts), self._false(b, facts)])
            case Apply("not", (a,)):
                return self.true(a, facts)
            case _:
                return conjoin([*self.needs(e, facts), Apply("not", (e,))])

    def _logic(self, e: Expr, op: str, a: Expr, b: Expr, facts: Facts) -> tuple[Expr, ...]:
        """`a and b` has a value where both have one, or where either is false and says so."""
        settled = a if op == "and" else negated(a)
        if not self.needs(a, facts) and not self.needs(b, facts + conjuncts(settled)):
            return ()
        return (Apply("or", (self.true(e, facts), self._false(e, facts))),)

    def _read(self, e: Read, facts: Facts) -> tuple[Expr, ...]:
        own = dict(zip(e.tensor.indices, e.at, strict=True))
        asked = [n for s in e.at for n in self.needs(s, facts)]
        asked += [n for i, s in own.items() for n in self.bounds.missing(s, i, facts)]
        asked += [substitute(n, own) for n in self.lacking.get(e.tensor.name, ())]
        return _each(n for n in asked if not self.bounds.holds(n, facts))


def _each(parts: Iterable[Expr]) -> tuple[Expr, ...]:
    return tuple(dict.fromkeys(parts))


def _choice(condition: Expr, then: Expr, other: Expr) -> Expr:
    """`if condition then then else other` of predicates, without what says nothing."""
    if then == other:
        return then
    if other == TRUE:
        return Apply("or", (Apply("not", (condition,)), then))
    if then == TRUE:
        return Apply("or", (condition, other))
    return Choose(condition, then, other)


def _group(group: tuple[Equation, ...], presence: Presence) -> tuple[list[Equation], Presence]:
    """Equations that read each other. Where not all their elements have values, presence is walked along."""
    names = [e.tensor.name for e in group]
    trial = replace(presence, lacking={**presence.lacking, **dict.fromkeys(names, ())})
    whole = [replace(e, body=trial.total(e.body, ())) for e in group]
    lacks = {e.tensor.name: trial.needs(e.body, ()) for e in whole}
    alone = not any(r.tensor.name in names for e in group for r in reads(e.body))
    # a reduction cannot be put where others read the equation: its own indices might stand there
    reduced = any(isinstance(x, Reduce) for asked in lacks.values() for n in asked for x in walk(n))
    if alone and not reduced:
        return whole, replace(presence, lacking={**presence.lacking, **lacks})
    if not any(lacks.values()):
        return whole, trial
    marks = {e.tensor.name: mark_of(e.tensor) for e in group}
    said = {name: (Read(mark, mark.indices),) for name, mark in marks.items()}
    presence = replace(presence, lacking={**presence.lacking, **said})
    whole = [replace(e, body=presence.total(e.body, ())) for e in group]
    walked = [Equation(marks[e.tensor.name], conjoin(presence.needs(e.body, ()))) for e in whole]
    return walked + whole, presence


def _end(e: Equation, presence: Presence, whole: Set[str]) -> Equation:
    """An output: 0 where it has no value."""
    lacking = presence.lacking.get(e.tensor.name, ())
    if not lacking or _bare(e.body, presence, whole):
        return e
    nothing = {"bool": FALSE, "int": ZERO, "float": ZERO}[kind(e.body)]
    return replace(e, body=Choose(conjoin(lacking), e.body, nothing))


def _bare(e: Expr, presence: Presence, whole: Set[str]) -> bool:
    """Whether an expression is an element of a tensor full of values, and 0 outside of it anyway."""
    if not isinstance(e, Read) or e.tensor.name not in whole or presence.lacking.get(e.tensor.name):
        return False
    return not any(isinstance(x, Read) and x.tensor.indices for s in e.at for x in walk(s))
