"""Cascade → Cascade: a sum of what tables hold at places of rows and columns is a sum over the places.

    sum(k where c) w[q,k] * E[p[q,k],d]   -->   sum(r) x[q,r] * E[r,d],
                                                x[q,r] = sum(k where c and p[q,k] == r) w[q,k]

A factor over row, column and feature at once is in no matrix product; what is added up at each place is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attncc.ir.cascade import TRUE, Apply, Cascade, Expr, Index, Read, Reduce, children, free, rebuild, walk
from attncc.ir.logic import conjoin, factors, quotient, terms, times, total


@dataclass(frozen=True)
class Place:
    """A read of a table at a subscript that depends on two sequences: `read` is of all of the axis."""

    read: Read
    axis: Index
    subscript: Expr

    @property
    def here(self) -> Expr:
        """That a row and a column are read at a place."""
        return Apply("==", (self.subscript, self.axis))


def place_of(read: Read) -> Place | None:
    """Where a table is read, if a subscript depends on a row and a column."""
    tensor = read.tensor
    if not tensor.loaded or any(i.role == "sequence" for i in tensor.indices):
        return None
    pairs = zip(tensor.indices, read.at, strict=True)
    found = [(i, s) for i, s in pairs if sum(x.role == "sequence" for x in free(s)) > 1]
    if len(found) != 1 or found[0][0] in free(read):
        return None
    ((axis, subscript),) = found
    return Place(Read(tensor, tuple(axis if s == subscript else s for s in read.at)), axis, subscript)


def placed(cascade: Cascade) -> Cascade:
    """Sums at places."""
    return replace(cascade, equations=tuple(replace(e, body=_placed(e.body)) for e in cascade.equations))


def _placed(e: Expr) -> Expr:
    e = rebuild(e, tuple(_placed(part) for part in children(e)))
    if not isinstance(e, Reduce) or e.op != "sum" or not any(i.role == "sequence" for i in e.over):
        return e
    up, down = factors(e.body)
    for n, f in enumerate(up):
        rest = up[:n] + up[n + 1 :]
        signed = terms(f)
        if not any(_wide(x, e) for _, t in signed for x in factors(t)[0]):
            continue
        if len(signed) > 1 or signed[0][0] < 0:
            parts = [(sign, replace(e, body=quotient([x, *rest], down))) for sign, x in signed]
            return total([(sign, _placed(part)) for sign, part in parts])
        place = _wide(f, e)
        if place is None or any(_features(x) & _features(place.read) for x in (*rest, *down)):
            continue
        inside = replace(e, where=conjoin((e.where, place.here)), body=quotient(rest, down))
        return Reduce("sum", (place.axis,), TRUE, times(inside, place.read), e.span)
    return e


def _wide(f: Expr, e: Reduce) -> Place | None:
    """A factor of a sum over columns that depends on row, column and feature at once, as a table at a place."""
    place = place_of(f) if isinstance(f, Read) else None
    bound = {i for x in walk(e) if isinstance(x, Reduce) for i in x.over}
    if place is None or place.axis in bound | free(e):
        return None
    apart = not free(place.read) & set(e.over)
    return place if apart and _features(place.read) - {place.axis} else None


def _features(e: Expr) -> set[Index]:
    return {i for i in free(e) if i.role == "feature"}
