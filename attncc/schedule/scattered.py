"""Sums of the terms at each place of a feature → folds over a tile of columns, one place after the other.

    x[q,r] = sum(k where c and p[q,k] == r) w[q,k]   -->   at each r:  x[q] = x[q] + sum(k) (if p[q,k] == r then w[q,k] else 0)

No two programs add to one number, and none is added in an order that a run decides.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    ZERO,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    extent,
    free,
    number,
)
from attncc.ir.logic import conjoin, conjuncts, is_literal
from attncc.schedule.block import Block, value_of
from attncc.schedule.loops import Each, Fold, Let, Statement


def by_features(cascade: Cascade) -> Cascade:
    """What predicates of sums over a sequence say of a feature, said of their terms: which columns rows see is
    then the same for all features.
    """
    return replace(cascade, equations=tuple(replace(e, body=_of_terms(e)) for e in cascade.equations))


def _of_terms(equation: Equation) -> Expr:
    e = equation.body
    if not isinstance(e, Reduce) or e.op != "sum" or not any(i.role == "sequence" for i in e.over):
        return e
    said = [c for c in conjuncts(e.where) if _features(c)]
    if not said:
        return e
    rest = conjoin(c for c in conjuncts(e.where) if c not in said)
    return replace(e, where=rest, body=Choose(conjoin(said), e.body, number(0.0)))


def place_in(e: Expr) -> tuple[Expr, Index, Expr] | None:
    """A place, the feature whose place it is, and the term that is counted there."""
    match e:
        case Choose(Apply("==", (place, Index(role="feature") as at)), term, other) if is_literal(other, 0):
            return None if _features(place) or _features(term) else (place, at, term)
        case _:
            return None


def scattered(target: Tensor, start: Expr, place: Expr, term: Expr, along: Index, block: Block) -> None:
    """The state after a tile of columns, given its value before."""
    (feature,) = (i for i in target.indices if i.role == "feature")
    at = replace(feature, name=f"{feature.name}_at")
    spot = block.local(f"{target.name}_at", place)
    block.statements.append(Let(spot, value_of(place, block)))
    here = Apply("==", (Read(spot, spot.indices), at))
    part = block.local(f"{target.name}_part", term, tuple(i for i in target.indices if i != feature))
    part = replace(part, kind="float")
    if start != Read(target, target.indices):
        block.statements.append(Let(target, start))
    held = Read(target, target.indices)
    more = Apply("+", (held, Read(part, part.indices)))
    body: tuple[Statement, ...] = (
        Fold(part, "sum", along, Choose(here, term, number(0.0))),
        Let(target, Choose(Apply("==", (feature, at)), more, held)),
    )
    block.statements.append(Each(at, feature, body, ZERO, extent(feature)))


def _features(e: Expr) -> set[Index]:
    return {i for i in free(e) if i.role == "feature"}
