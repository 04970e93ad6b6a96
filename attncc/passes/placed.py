"""Cascade → Cascade: a sum of what tables hold at places of rows and columns is a sum over the places.

    sum(k where c) w[q,k] * E[p[q,k],d]   -->   sum(r) x[q,r] * E[r,d],
                                                x[q,r] = sum(k where c and p[q,k] == r) w[q,k]

A factor over row, column and feature at once is in no matrix product; what is added up at each place is. So
is what is left of a sum without a factor of rows and features, which is the same for all its terms:

    sum(k) w[q,k] * V[k,e] * G[q,e]   -->   G[q,e] * sum(k) w[q,k] * V[k,e]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Expr,
    Index,
    Read,
    Reduce,
    children,
    free,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import conjoin, conjuncts, factors, product, quotient, terms, times, total


@dataclass(frozen=True)
class Place:
    """A read of a table at subscripts that depend on two sequences: `read` is of all of these axes."""

    read: Read
    subscripts: tuple[tuple[Index, Expr], ...]

    @property
    def axes(self) -> tuple[Index, ...]:
        return tuple(axis for axis, _ in self.subscripts)

    @property
    def here(self) -> Expr:
        """That a row and a column are read at a place."""
        return conjoin(Apply("==", (subscript, axis)) for axis, subscript in self.subscripts)


def place_of(read: Read) -> Place | None:
    """Where a table is read, if a subscript depends on a row and a column."""
    tensor = read.tensor
    if not tensor.loaded or any(i.role == "sequence" for i in tensor.indices):
        return None
    pairs = tuple(zip(tensor.indices, read.at, strict=True))
    found = tuple((i, s) for i, s in pairs if _sequences(s))
    if len({x for _, s in found for x in _sequences(s)}) < 2 or any(i in free(read) for i, _ in found):
        return None
    return Place(Read(tensor, tuple(i if _sequences(s) else s for i, s in pairs)), found)


def placed(cascade: Cascade) -> Cascade:
    """Sums at places."""
    return replace(cascade, equations=tuple(replace(e, body=_placed(e.body)) for e in cascade.equations))


def _placed(e: Expr) -> Expr:
    e = rebuild(e, tuple(_placed(part) for part in children(e)))
    if not isinstance(e, Reduce) or e.op != "sum" or not any(i.role == "sequence" for i in e.over):
        return e
    said = sorted(conjuncts(e.where), key=lambda c: bool(_features(c)))
    e = replace(e, where=conjoin(said))
    up, down = factors(e.body)
    batch = tuple(i for i in e.over if i.role == "batch")
    fixed = [f for f in up if _fixed(f, set(e.over) - set(batch))]
    if fixed:
        turned = tuple(i for i in batch if any(i in free(f) for f in fixed))
        over = tuple(i for i in e.over if i not in turned)
        inner = replace(e, over=over, body=quotient([f for f in up if f not in fixed], down))
        whole = product([*fixed, _placed(inner)])
        return Reduce("sum", turned, TRUE, whole, e.span) if turned else whole
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
        return Reduce("sum", place.axes, TRUE, times(inside, place.read), e.span)
    return e


def _fixed(f: Expr, over: set[Index]) -> bool:
    """Whether a factor has a row and a feature, is the same for all terms, and has a value without any."""
    loaded = all(r.tensor.loaded for r in reads(f))
    plain = all(isinstance(s, Index) or not _sequences(s) for r in reads(f) for s in r.at)
    return loaded and plain and bool(_features(f)) and bool(_sequences(f)) and not free(f) & over


def _wide(f: Expr, e: Reduce) -> Place | None:
    """A factor that depends on row, column and feature at once: a table at a place."""
    place = place_of(f) if isinstance(f, Read) else None
    bound = {i for x in walk(e) if isinstance(x, Reduce) for i in x.over}
    if place is None or set(place.axes) & (bound | free(e)):
        return None
    apart = not free(place.read) & set(e.over)
    return place if apart and _features(place.read) - set(place.axes) else None


def _features(e: Expr) -> set[Index]:
    return {i for i in free(e) if i.role == "feature"}


def _sequences(e: Expr) -> set[Index]:
    return {i for i in free(e) if i.role == "sequence"}
