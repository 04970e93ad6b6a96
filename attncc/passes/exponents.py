"""Cascade → its exponentials, each with whether its exponent is proved to be at most 0 (theory §0.3).

An exponent is the terms of a sum. It is at most 0 if one that is subtracted is at least all the others: a
maximum over the same terms, the present value of a maximum whose earlier one is read, one side of a `max`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    children,
    substitute,
)
from attncc.ir.logic import conjoin, conjuncts, minus, terms, total
from attncc.passes.inverted import whole
from attncc.passes.online import before, updaters


@dataclass(frozen=True)
class Exponent:
    """What is raised to, in which equation, and whether it is at most 0."""

    equation: str
    value: Expr
    bounded: bool


def exponents(cascade: Cascade) -> tuple[Exponent, ...]:
    """Those of all equations, and of what corrects running sums."""
    maxima = {
        e.tensor: e.body for e in cascade.equations if isinstance(e.body, Reduce) and e.body.op == "max"
    }
    found: dict[Exponent, None] = {}
    for equation in cascade.equations:
        for x, where in _raised(equation.body, TRUE):
            found[Exponent(equation.tensor.name, x, at_most_zero(x, where, maxima))] = None
    for name, updater in updaters(cascade).items():
        for weight in (updater.correction, updater.shift, *(w for _, w in updater.companions)):
            for x, where in _raised(weight, TRUE):
                found[Exponent(name, x, at_most_zero(x, where, maxima))] = None
    return tuple(found)


def at_most_zero(
    x: Expr,
    where: Expr,
    maxima: Mapping[Tensor, Reduce],
    lengths: Mapping[Index, Expr] = MappingProxyType({}),
) -> bool:
    """Whether an exponent is at most 0 where a predicate holds; `lengths` are those of groups' members."""
    if isinstance(x, Choose):
        inside = conjoin((where, x.condition))
        then, other = ((x.then, inside), (x.other, where))
        return all(at_most_zero(part, here, maxima, lengths) for part, here in (then, other))
    if isinstance(x, Literal):
        return x.value <= 0
    signed = terms(x)
    for n, (sign, top) in enumerate(signed):
        rest = total([*signed[:n], *signed[n + 1 :]])
        bare = top.args[0] if isinstance(top, Apply) and top.op == "finite" else top
        if sign < 0 and _at_most(rest, bare, where, maxima, lengths):
            return True
        if sign < 0 and _at_most(total(terms(rest) * 2), _doubled(top), where, maxima, lengths):
            return True
    return False


def _doubled(e: Expr) -> Expr:
    """What half of a value is half of; the value itself if it is no half."""
    match e:
        case Apply("*", (Apply("finite", (a,)), Literal(0.5))):
            return a
        case _:
            return e


def _at_most(
    x: Expr, top: Expr, where: Expr, maxima: Mapping[Tensor, Reduce], lengths: Mapping[Index, Expr]
) -> bool:
    if minus(x, top) == total([]) or (isinstance(x, Literal) and x.value == float("-inf")):
        return True
    match top:
        case Apply("max", (a, b)):
            return any(_at_most(x, side, where, maxima, lengths) for side in (a, b))
        case Read(tensor) if tensor in maxima:
            if x == Read(before(tensor), top.at):
                return True
            place = dict(zip(tensor.indices, top.at, strict=True))
            e = maxima[tensor]
            below, seen = (whole(substitute(part, place), lengths) for part in (e.body, e.where))
            return set(conjuncts(seen)) <= {*conjuncts(where), TRUE} and minus(x, below) == total([])
    return False


def _raised(e: Expr, where: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Exponents, and where they are computed."""
    match e:
        case Apply("exp", (x,)):
            yield x, where
        case Reduce():
            where = e.where
    for part in children(e):
        yield from _raised(part, where)
