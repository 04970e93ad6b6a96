"""Cascade → Cascade: how many elements of a sorted table are at most a number stands where it is read.

    own[k] = sum(s where cu[s] <= k) 1
    m[q]   = max(k where own[k] == own[q]) S[q,k]
      -->
    m[q]   = max(k where (sum(s where cu[s] <= k) 1) == sum(s where cu[s] <= q) 1) S[q,k]

Such a count is found by search, so that nothing has to walk the table before it is read: it is a function of
its limit, as `//` is one, that never falls.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    ONE,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Read,
    Reduce,
    children,
    free,
    kind,
    reads,
    rebuild,
    substitute,
)
from attncc.masks.counted import searched
from attncc.masks.normal import total
from attncc.passes.share import pruned


def counting(cascade: Cascade) -> Cascade:
    """Counts in sorted tables, put where they are read."""
    counts: dict[str, Equation] = {}
    equations = []
    for equation in cascade.equations:
        body = equation.body
        if counts and any(r.tensor.name in counts for r in reads(body)):
            body = _read(body, counts)
        count = _said(body)
        if searched(count, cascade.sorted_tables) and all(
            r.tensor.origin != "equation" for r in reads(count)
        ):
            counts[equation.tensor.name] = replace(equation, body=count)
        equations.append(replace(equation, body=body))
    return pruned(replace(cascade, equations=tuple(equations))) if counts else cascade


def _said(e: Expr) -> Expr:
    """A count with its condition as `table[s] <= limit`."""
    match e:
        case Reduce(op="sum", over=(axis,), where=Apply(op=op, args=(a, b))) if op in ("<", "<=", ">", ">="):
            row, limit = (a, b) if op in ("<", "<=") else (b, a)
            if axis in free(limit) or (op in ("<", ">") and (kind(a), kind(b)) != ("int", "int")):
                return e
            least = limit if op in ("<=", ">=") else Apply("-", (limit, ONE))
            return replace(e, where=Apply("<=", (row, least)))
        case _:
            return e


def _read(e: Expr, counts: dict[str, Equation]) -> Expr:
    """An expression with counts for reads of them. Where one has no value, what compares it fails."""
    match e:
        case Reduce():
            body = _read(e.body, counts)
            where = e.where
            if any(_moved(r, counts) for r in reads(where)):
                where = total(where)
            return replace(e, where=_put(where, counts), body=body)
        case Choose() if any(_moved(r, counts) for r in reads(e.condition)):
            parts = (total(e.condition), e.then, e.other)
            return rebuild(e, (_put(parts[0], counts), *(_read(part, counts) for part in parts[1:])))
        case Read() if e.tensor.name in counts and not _moved(e, counts):
            return _put(e, counts)
        case _:
            return rebuild(e, tuple(_read(part, counts) for part in children(e)))


def _moved(read: Read, counts: dict[str, Equation]) -> bool:
    """Whether a count is read at a position that it may not have."""
    own = zip(read.tensor.indices, read.at, strict=True)
    return read.tensor.name in counts and any(i != at and i.role != "batch" for i, at in own)


def _put(e: Expr, counts: dict[str, Equation]) -> Expr:
    """An expression with counts for all reads of them."""
    e = rebuild(e, tuple(_put(part, counts) for part in children(e)))
    match e:
        case Read(tensor, at) if tensor.name in counts:
            equation = counts[tensor.name]
            return substitute(equation.body, dict(zip(tensor.indices, at, strict=True)))
        case _:
            return e
