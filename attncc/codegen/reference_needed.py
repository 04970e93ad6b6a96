"""Cascade → per equation, what is true of every element that anybody reads.

    A[q,k] = exp(c[q] - c[k])
    O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]     -->   A: k <= q

Outside of it an element may be anything finite; an exponential need not overflow there.
"""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.reference_bounds import Facts, negated
from attncc.codegen.reference_present import outside
from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Expr,
    Index,
    Read,
    Reduce,
    children,
    free,
    reads,
    substitute,
    walk,
)
from attncc.ir.graph import order, recurrent
from attncc.ir.logic import conjuncts


def needed(cascade: Cascade) -> dict[str, Facts]:
    """What all reads of each equation have in common, in terms of its own indices; nothing of an output."""
    whole = {t.name for t in cascade.outputs} | {name for group in recurrent(cascade) for name in group}
    found: dict[str, Facts] = {name: () for name in whole}
    place = {name: n for n, name in enumerate(order(cascade))}
    # a reader stands behind what it reads, so that its own facts are known by then
    for equation in reversed(cascade.equations):
        known = found.setdefault(equation.tensor.name, ())
        for read, facts in reads_where(equation.body, known):
            name = read.tensor.name
            if name not in whole:
                own = [
                    f
                    for f in _own(read, facts)
                    if all(place.get(r.tensor.name, -1) < place.get(name, 0) for r in reads(f))
                ]
                found[name] = tuple(f for f in found.get(name, own) if f in own)
    return found


def reads_where(e: Expr, facts: Facts) -> Iterator[tuple[Read, Facts]]:
    """Every read inside an expression with what holds where its value is used."""
    match e:
        case Read():
            yield e, facts
        case Reduce():
            around = outside(facts, e.over)
            yield from reads_where(e.where, around)
            yield from reads_where(e.body, around + conjuncts(e.where))
            return
        case Choose():
            yield from reads_where(e.condition, facts)
            yield from reads_where(e.then, facts + conjuncts(e.condition))
            yield from reads_where(e.other, facts + conjuncts(negated(e.condition)))
            return
        case _:
            pass
    for part in children(e):
        if not (isinstance(e, Apply) and e.op == "extent"):
            yield from reads_where(part, facts)


def _own(read: Read, facts: Facts) -> Facts:
    """The facts that speak of nothing but the positions read, said of the tensor's own indices."""
    bare = [s for s in read.at if isinstance(s, Index)]
    own: dict[Index, Expr] = {
        s: i
        for s, i in zip(read.at, read.tensor.indices, strict=True)
        if isinstance(s, Index) and bare.count(s) == 1
    }
    moved = {s: i for s, i in own.items() if s != i}
    kept = [f for f in facts if free(f) and free(f) <= own.keys()]
    # a reduction inside a fact might bind the very index that would be put in
    plain = [f for f in kept if not moved or not any(isinstance(x, Reduce) for x in walk(f))]
    return tuple(dict.fromkeys(substitute(f, moved) for f in plain))
