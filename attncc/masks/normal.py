"""Predicate → predicate in negation normal form that always has a value.

    k < end[k + 1]          -->  k + 1 <= |i| - 1 and k < end[min(k + 1, |i| - 1)]
    not (a and k <= q)      -->  not a or k > q
    if c then a else b      -->  c and a or not c and b

The first is `total`, the others are `pushed`.
"""

from __future__ import annotations

from functools import reduce
from typing import assert_never

from attncc.ir.cascade import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    children,
    extent,
    free,
    kind,
    rebuild,
)
from attncc.ir.logic import OPPOSITE, conjuncts
from attncc.masks.intervals import at_most, nonnegative
from attncc.masks.sums import canonical, spelled, summed


def both(a: Expr, b: Expr) -> Expr:
    """`a and b`"""
    if FALSE in (a, b):
        return FALSE
    return b if a == TRUE else a if b in (TRUE, a) else Apply("and", (a, b))


def either(a: Expr, b: Expr) -> Expr:
    """`a or b`"""
    if TRUE in (a, b):
        return TRUE
    return b if a == FALSE else a if b in (FALSE, a) else Apply("or", (a, b))


def pushed(e: Expr, holds: bool = True) -> Expr:
    """A predicate, or its negation, with every `not` at an atom and no `if` between truth values."""
    match e:
        case Literal():
            return TRUE if bool(e.value) == holds else FALSE
        case Apply(op="not", args=(a,)):
            return pushed(a, not holds)
        case Apply(op="and" | "or", args=(a, b)):
            join = both if (e.op == "and") == holds else either
            return join(pushed(a, holds), pushed(b, holds))
        case Choose(condition=c, then=a, other=b):
            return either(both(pushed(c), pushed(a, holds)), both(pushed(c, False), pushed(b, holds)))
        case Apply() if e.op in OPPOSITE and all(kind(a) != "float" for a in e.args):
            return e if holds else Apply(OPPOSITE[e.op], e.args)
        case _:
            return e if holds else Apply("not", (e,))


def total(e: Expr) -> Expr:
    """A predicate that says itself where it has no value, and reads nothing out of range.

    A comparison without a value fails, and so does its negation; what an `or` beside it says still holds. The
    condition of a choice fails where it has no value.
    Subscripts made of batched indices alone are in range by construction. A reduction answers for its own
    body.
    """
    return _guarded(e, True)


def parts(e: Expr) -> frozenset[Expr]:
    """The conjuncts of a predicate, each comparison of integers in one spelling: equal for what says the same
    in other words, as that a read beside it has a value.

        k // B < |x| and layout[k // B]   -->  {k // B - |x| + 1 <= 0, -(k // B) <= 0, layout[...]}
    """
    return frozenset(one for c in conjuncts(pushed(total(e))) for one in _ordered(c))


def _ordered(c: Expr) -> tuple[Expr, ...]:
    match c:
        case Apply(op="<" | "<=" | ">" | ">=" | "==", args=(a, b)) if kind(a) == kind(b) == "int":
            up, down = summed(a) - summed(b), summed(b) - summed(a)
            sums = {"<": (up + 1,), "<=": (up,), ">": (down + 1,), ">=": (down,), "==": (up, down)}[c.op]
            return tuple(Apply("<=", (spelled(s), ZERO)) for s in sums)
        case _:
            return (c,)


def _guarded(e: Expr, holds: bool) -> Expr:
    """A predicate, or its negation, each comparison asked only where it has a value."""
    if _sure(e):
        return e if holds else pushed(e, False)
    match e:
        case Apply(op="not", args=(a,)):
            return _guarded(a, not holds)
        case Apply(op="and" | "or", args=(a, b)):
            join = both if (e.op == "and") == holds else either
            return join(_guarded(a, holds), _guarded(b, holds))
        case Choose(condition=c, then=a, other=b):
            taken = _guarded(c, True)
            then, other = both(taken, _guarded(a, holds)), both(pushed(taken, False), _guarded(b, holds))
            return either(then, other)
        case _:
            value, present = _clamped(e)
            return both(present, pushed(value, holds))


def _sure(e: Expr) -> bool:
    """Whether an expression has a value wherever it stands."""
    match e:
        case Reduce():
            return True
        case Read():
            own = zip(e.tensor.indices, e.at, strict=True)
            return all(_sure(at) and _inside(at, axis)[1] == TRUE for axis, at in own)
        case _:
            return all(map(_sure, children(e)))


def _clamped(e: Expr) -> tuple[Expr, Expr]:
    """An expression with its subscripts held inside their tensors, and where it has a value."""
    if _sure(e):
        return e, TRUE
    match e:
        case Index() | Literal() | Reduce() | Apply(op="extent"):
            return e, TRUE
        case Apply(op="and" | "or"):
            holds = _guarded(e, True)
            return holds, either(holds, _guarded(e, False))
        case Read():
            present: Expr = TRUE
            at = []
            for axis, subscript in zip(e.tensor.indices, e.at, strict=True):
                inner, there = _clamped(subscript)
                inner, inside = _inside(inner, axis)
                at.append(inner)
                present = both(present, both(there, inside))
            return rebuild(e, tuple(at)), present
        case Choose():
            c = _guarded(e.condition, True)
            (a, left), (b, right) = _clamped(e.then), _clamped(e.other)
            return Choose(c, a, b), left if left == right else pushed(Choose(c, left, right))
        case Apply():
            parts = [_clamped(part) for part in e.args]
            return rebuild(e, tuple(value for value, _ in parts)), reduce(both, (there for _, there in parts))
        case _:
            assert_never(e)


def _inside(at: Expr, axis: Index) -> tuple[Expr, Expr]:
    """A subscript held inside an axis, and where it is by itself."""
    if at == axis or (free(at) and all(i.role == "batch" for i in free(at))):
        return at, TRUE
    last = Apply("-", (extent(axis), ONE))
    low, high = nonnegative(at), at_most(at, last)
    clamped = at if high else Apply("min", (at, last))
    present = both(TRUE if high else Apply("<=", (at, last)), TRUE if low else Apply(">=", (at, ZERO)))
    return clamped if low else Apply("max", (clamped, ZERO)), present


def assumed(e: Expr, rows: Index, columns: Index) -> frozenset[Expr]:
    """What a predicate takes for positive: divisors of positions that are numbers of the call, and factors
    of them that are compiled in.
    """
    plane = {rows, columns}
    found: set[Expr] = set()
    match e:
        case Apply(op="//" | "%", args=(a, b)) if free(a) & plane and _of_the_call(b):
            found = set() if isinstance(b, Literal) else {canonical(b)}
        case Apply(op="*", args=(a, b)):
            found = {x for x, y in ((a, b), (b, a)) if _static(x) and free(y) & plane}
        case _:
            pass
    return frozenset(found).union(*(assumed(part, rows, columns) for part in children(e)))


def _of_the_call(e: Expr) -> bool:
    """Whether the host can compute a number: of numbers and lengths, without a choice."""
    match e:
        case Literal() | Apply(op="extent"):
            return True
        case Read():
            return not e.at
        case Apply():
            return all(map(_of_the_call, e.args))
        case _:
            return False


def _static(e: Expr) -> bool:
    return isinstance(e, Read) and e.tensor.origin == "static" and kind(e) == "int"
