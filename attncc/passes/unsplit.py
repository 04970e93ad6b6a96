"""Cascade → Cascade: a reduction over both parts of a split is one over the index that was split.

    sum(y, x where c and y * w + x < |k|) f   -->   sum(k where c) f,   at y = k // w, x = k % w

The two parts say every position of `k` once, as `|x| = w` and `|y| = (|k| + w - 1) // w`, and the predicate
leaves out what lies past its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attncc.ir.cascade import (
    ONE,
    Apply,
    Cascade,
    Expr,
    Index,
    Reduce,
    children,
    extent,
    free,
    rebuild,
    substitute,
)
from attncc.ir.logic import conjoin, conjuncts
from attncc.masks.sums import canonical


def unsplit(cascade: Cascade) -> Cascade:
    """Every equation with reductions over whole indices, where it had them over both parts of a split."""
    lengths = dict(cascade.lengths)
    equations = tuple(replace(e, body=_whole(e.body, lengths)) for e in cascade.equations)
    return replace(cascade, equations=equations)


def _whole(e: Expr, lengths: Mapping[Index, Expr]) -> Expr:
    e = rebuild(e, tuple(_whole(part, lengths) for part in children(e)))
    if not isinstance(e, Reduce):
        return e
    for end in conjuncts(e.where):
        match end:
            case Apply(
                "<",
                (
                    Apply("+", (Apply("*", (Index() as y, by)), Index() as x)) as place,
                    Apply("extent", (Index() as whole,)),
                ),
            ) if {y, x} <= set(e.over) and _are_parts(y, x, by, whole, lengths):
                return e if whole in free(e) | set(e.over) else _joined(e, end, place, (y, x, by), whole)
            case _:
                pass
    return e


def _are_parts(y: Index, x: Index, by: Expr, whole: Index, lengths: Mapping[Index, Expr]) -> bool:
    """Whether `y` and `x` are the parts of an index, `by` positions to a part."""
    if y not in lengths or x not in lengths:
        return False
    parts = canonical(Apply("//", (Apply("-", (Apply("+", (extent(whole), by)), ONE)), by)))
    return canonical(lengths[x]) == canonical(by) and canonical(lengths[y]) == parts


def _joined(e: Reduce, end: Expr, place: Expr, split: tuple[Index, Index, Expr], whole: Index) -> Reduce:
    y, x, by = split

    def at(part: Expr) -> Expr:
        """A part of the reduction, its positions told by the whole index."""
        if part == place:
            return whole
        return rebuild(part, tuple(map(at, children(part))))

    values: dict[Index, Expr] = {y: Apply("//", (whole, by)), x: Apply("%", (whole, by))}
    over = tuple(whole if i == y else i for i in e.over if i != x)
    where = conjoin(part for part in conjuncts(e.where) if part != end)
    return replace(e, over=over, where=substitute(at(where), values), body=substitute(at(e.body), values))
