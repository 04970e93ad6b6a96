"""Cascade → Cascade: what lacks a value is said, and is nowhere read.

    sum(i) K[n * B + i]                     -->   sum(i where n * B + i < |k|) K[n * B + i]
    mean(i where c) x                       -->   sum(i where c) x / sum(i where c) 1
    sum(k where x[k - 1] < 1 or k == 0) 1   -->   sum(k where k - 1 >= 0 and x[k - 1] < 1 or k == 0) 1

A read outside its tensor has no value, nor has what is computed from it, and a term without a value is absent
from its reduction. After this pass predicates and conditions are true only where they have a value, and every
reduction, and every output, excludes what has none: whatever a read gives there, nothing depends on it. So
later passes may move and merge terms freely. Where presence cannot be said by a formula it is an equation,
`U_has`, of a recurrent group that the group is walked together with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from attncc.ir.cascade import (
    FALSE,
    ONE,
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
    rebuild,
    substitute,
    walk,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import conjoin, conjuncts, disjoin, negated
from attncc.ops import REDUCTIONS
from attncc.passes.inside import Inside

Facts = tuple[Expr, ...]
"""Predicates that hold where an expression stands."""


def expand(cascade: Cascade) -> Cascade:
    """Absent terms excluded by predicates; means written as sums over counts."""
    presence = Presence(Inside(dict(cascade.lengths)), {})
    groups = {name: group for group in recurrent(cascade) for name in group}
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    outputs = {t.name for t in cascade.outputs}
    said: list[Equation] = []
    for equation in cascade.equations:
        name = equation.tensor.name
        if name in presence.lacking:
            continue
        group = tuple(cascade.equation(member) for member in groups.get(name, (name,)))
        whole, presence = _walked(group, presence, taken)
        said += [_ended(e, presence) if e.tensor.name in outputs else e for e in whole]
    return replace(cascade, equations=tuple(said))


@dataclass(frozen=True)
class Presence:
    """What an element of each tensor needs in order to have a value, in the tensor's own indices."""

    inside: Inside
    lacking: Mapping[str, tuple[Expr, ...]]

    def said(self, e: Expr, facts: Facts = ()) -> Expr:
        """An expression whose predicates and reductions exclude what has no value."""
        match e:
            case Reduce():
                around = tuple(f for f in facts if not free(f) & set(e.over))
                where = self.true(self.said(e.where, around), around)
                within = around + conjuncts(where)
                body = self.said(e.body, within)
                return _counted(replace(e, where=conjoin((where, *self.needs(body, within))), body=body))
            case Choose():
                condition = self.true(self.said(e.condition, facts), facts)
                then = self.said(e.then, facts + conjuncts(condition))
                return Choose(condition, then, self.said(e.other, facts + conjuncts(negated(condition))))
            case Index() | Literal() | Read() | Apply():
                return rebuild(e, tuple(self.said(part, facts) for part in children(e)))
            case _:
                assert_never(e)

    def needs(self, e: Expr, facts: Facts = ()) -> tuple[Expr, ...]:
        """What must hold besides the facts for an expression, already said, to have a value."""
        match e:
            case Index() | Literal() | Apply(op="extent"):
                return ()
            case Read():
                return self._read(e, facts)
            case Apply(op="and" | "or"):
                if self._sure(e, facts):
                    return ()
                return (disjoin((self.true(e, facts), self.false(e, facts))),)
            case Apply():
                return _each(part for a in e.args for part in self.needs(a, facts))
            case Reduce():
                # members only have a place
                keeps = conjuncts(e.where) if REDUCTIONS[e.op].keeps else ()
                return tuple(part for part in keeps if not self.inside.holds(part, facts))
            case Choose():
                then = conjoin(self.needs(e.then, facts + conjuncts(e.condition)))
                other = conjoin(self.needs(e.other, facts + conjuncts(negated(e.condition))))
                return conjuncts(then if then == other else Choose(e.condition, then, other))
            case _:
                assert_never(e)

    def _read(self, e: Read, facts: Facts) -> tuple[Expr, ...]:
        own = dict(zip(e.tensor.indices, e.at, strict=True))
        asked = [part for s in e.at for part in self.needs(s, facts)]
        asked += [part for axis, s in own.items() for part in self.inside.asked(s, axis, facts)]
        asked += [substitute(part, own) for part in self.lacking.get(e.tensor.name, ())]
        return _each(part for part in asked if not self.inside.holds(part, facts))

    def true(self, e: Expr, facts: Facts = ()) -> Expr:
        """Where a predicate, already said, has a value and holds."""
        match e:
            case Apply("and", (a, b)):
                first = self.true(a, facts)
                return conjoin((first, self.true(b, facts + conjuncts(first))))
            case Apply("or", (a, b)):
                return disjoin((self.true(a, facts), self.true(b, facts)))
            case Apply("not", (a,)):
                return self.false(a, facts)
            case _:
                return conjoin((*self.needs(e, facts), e))

    def false(self, e: Expr, facts: Facts = ()) -> Expr:
        """Where a predicate, already said, has a value and does not hold."""
        match e:
            case _ if self._sure(e, facts):
                return Apply("not", (e,))
            case Apply("and", (a, b)):
                return disjoin((self.false(a, facts), self.false(b, facts)))
            case Apply("or", (a, b)):
                return conjoin((self.false(a, facts), self.false(b, facts)))
            case Apply("not", (a,)):
                return self.true(a, facts)
            case _:
                return conjoin((*self.needs(e, facts), Apply("not", (e,))))

    def _sure(self, e: Expr, facts: Facts) -> bool:
        """Whether every part of a predicate has a value, so that it needs no third answer."""
        match e:
            case Apply("and" | "or" as op, (a, b)):
                # the second part matters only where the first leaves the answer open
                first = conjuncts(a if op == "and" else negated(a))
                return self._sure(a, facts) and self._sure(b, facts + first)
            case Apply("not", (a,)):
                return self._sure(a, facts)
            case _:
                return not self.needs(e, facts)


def _counted(e: Reduce) -> Expr:
    if e.op != "mean":
        return e
    return Apply("/", (replace(e, op="sum"), replace(e, op="sum", body=ONE)))


def _walked(
    group: tuple[Equation, ...], presence: Presence, taken: set[str]
) -> tuple[list[Equation], Presence]:
    """Equations that read each other, or a single one: what is said of them, and what they need."""
    names = [e.tensor.name for e in group]
    # if with all their elements there none is found to be lacking, all are there
    trial = replace(presence, lacking={**presence.lacking, **dict.fromkeys(names, ())})
    whole = [replace(e, body=trial.said(e.body)) for e in group]
    needs = {e.tensor.name: trial.needs(e.body) for e in whole}
    if not any(needs.values()):
        return whole, trial
    inside = [x for e in group for x in walk(e.body) if isinstance(x, Read) and x.tensor.name in names]
    # a reduction cannot be put where another reads the equation: its own indices might stand there
    reduced = any(isinstance(x, Reduce) for parts in needs.values() for part in parts for x in walk(part))
    if not inside and not reduced:
        return whole, replace(presence, lacking={**presence.lacking, **needs})
    marks = {e.tensor.name: _mark(e.tensor, taken) for e in group}
    lacking = {name: (Read(mark, mark.indices),) for name, mark in marks.items()}
    presence = replace(presence, lacking={**presence.lacking, **lacking})
    whole = [replace(e, body=presence.said(e.body)) for e in group]
    said = [Equation(marks[e.tensor.name], conjoin(presence.needs(e.body)), e.span) for e in whole]
    return said + whole, presence


def _mark(tensor: Tensor, taken: set[str]) -> Tensor:
    names = (f"{tensor.name}_has{n or ''}" for n in range(len(taken) + 1))
    name = next(n for n in names if n not in taken)
    taken.add(name)
    return Tensor(name, tensor.indices, "bool", "equation")


def _ended(e: Equation, presence: Presence) -> Equation:
    """An output: 0 where it has no value."""
    lacking = presence.lacking.get(e.tensor.name, ())
    if not lacking:
        return e
    nothing = FALSE if kind(e.body) == "bool" else ZERO
    return replace(e, body=Choose(conjoin(lacking), e.body, nothing))


def _each(parts: Iterable[Expr]) -> tuple[Expr, ...]:
    return tuple(dict.fromkeys(parts))
