"""Cascade → cascade: predicates of reductions that say the same in other words get the same words."""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import Cascade, Expr, Index, Reduce
from attncc.ir.logic import conjuncts
from attncc.masks.normal import parts


def alike(cascade: Cascade) -> Cascade:
    """Predicates that say the same in other words, in the words of the one that says most.

    max(k where T[q]) ..., sum(k where 0 <= q and q < |i| and T[q]) ...   -->   the latter's in both
    """
    longest: dict[tuple[tuple[Index, ...], frozenset[Expr]], Expr] = {}
    found = [(e, (e.body.over, parts(e.body.where))) for e in cascade.equations if isinstance(e.body, Reduce)]
    for equation, key in found:
        assert isinstance(equation.body, Reduce)
        where = equation.body.where
        if key not in longest or len(conjuncts(where)) > len(conjuncts(longest[key])):
            longest[key] = where
    said = {
        e.tensor: replace(e, body=replace(e.body, where=longest[key]))
        for e, key in found
        if isinstance(e.body, Reduce)
    }
    return replace(cascade, equations=tuple(said.get(e.tensor, e) for e in cascade.equations))
