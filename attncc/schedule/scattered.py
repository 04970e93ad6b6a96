"""Sums of the terms at each place of a feature → folds over a tile of columns, one place after the other.

    x[q,r] = sum(k where c and p[q,k] == r) w[q,k]   -->   at each r:  x[q] + sum(k) (w[q,k] if p[q,k] == r)

No two programs add to one number, and none is added in an order that a run decides.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    TRUE,
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
    """What predicates of sums over a sequence say of a feature, said of their terms: which columns rows see
    is then the same for all features.
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


def places_in(e: Expr) -> tuple[dict[Index, Expr], Expr] | None:
    """The features that a row and a column have a place of, each with it, and the term added there."""
    match e:
        case Choose(test, term, other) if is_literal(other, 0):
            found: dict[Index, Expr] = {}
            for c in conjuncts(test):
                match c:
                    case Apply("==", (place, Index(role="feature") as at)) if not _features(place):
                        found[at] = place
            told = len(found) == len(conjuncts(test)) and not _features(term)
            return (found, term) if told else None
        case _:
            return None


def scattered(
    target: Tensor, start: Expr, places: dict[Index, Expr], term: Expr, along: Index, block: Block
) -> None:
    """The state after a tile of columns, given its value before."""
    held = Read(target, target.indices)
    if start != held:
        block.statements.append(Let(target, start))
    here: Expr = TRUE
    own: Expr = TRUE
    at = {feature: replace(feature, name=f"{feature.name}_at") for feature in places}
    for feature, place in places.items():
        spot = block.local(f"{target.name}_{feature.name}", place)
        block.statements.append(Let(spot, value_of(place, block)))
        here = conjoin((here, Apply("==", (Read(spot, spot.indices), at[feature]))))
        own = conjoin((own, Apply("==", (feature, at[feature]))))
    row = tuple(i for i in target.indices if i not in places)
    part = replace(block.local(f"{target.name}_part", term, row), kind="float")
    more = Apply("+", (held, Read(part, part.indices)))
    body: tuple[Statement, ...] = (
        Fold(part, "sum", along, Choose(here, term, number(0.0))),
        Let(target, Choose(own, more, held)),
    )
    for feature in reversed(places):
        body = (Each(at[feature], feature, body, ZERO, extent(feature)),)
    block.statements += body


def _features(e: Expr) -> set[Index]:
    return {i for i in free(e) if i.role == "feature"}
