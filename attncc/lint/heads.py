"""Predicate over heads → one without them that holds only where it holds in some head.

(x + h) % s == 0, |h| >= s      -->  true: the heads take every residue in turn
if h < n then a else b          -->  what it is in the first head, or what it is in the last one
if c then a else b              -->  a, where `c` is given; b, where `not c` is
"""

from __future__ import annotations

from collections.abc import Iterator

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Index,
    children,
    extent,
    free,
    rebuild,
    substitute,
)
from attncc.ir.logic import conjoin, disjoin
from attncc.masks.normal import pushed
from attncc.masks.relations import never
from attncc.masks.sums import summed


def together(e: Expr, heads: tuple[Index, ...], given: Expr) -> Expr:
    """A predicate that implies, where `given` holds, that `e` does in some head; there is at least one."""
    e = _settled(e, given)
    for head in heads:
        pulled = _turned(pushed(e), head, given)
        last = Apply("-", (extent(head), ONE))
        ends = (ZERO, last) if head in free(pulled) else ()
        e = disjoin(substitute(pulled, {head: end}) for end in ends) if ends else pulled
    return e


def _settled(e: Expr, given: Expr) -> Expr:
    """An expression without the choices that what is given settles."""
    match e:
        case Choose(condition, then, other) if _implied(given, condition):
            return _settled(then, given)
        case Choose(condition, then, other) if _implied(given, Apply("not", (condition,))):
            return _settled(other, given)
        case _:
            return rebuild(e, tuple(_settled(part, given) for part in children(e)))


def _turned(e: Expr, head: Index, given: Expr) -> Expr:
    """A predicate without the one comparison that depends on the head, where some head meets that."""
    asked = set(_comparisons(e, head))
    if len(asked) != 1 or not _every(asked.pop(), head, given):
        return e
    return _dropped(e, head)


def _comparisons(e: Expr, head: Index) -> Iterator[Expr]:
    """The parts of a predicate in negation normal form that depend on the head."""
    match e:
        case Apply(op="and" | "or", args=args):
            for part in args:
                yield from _comparisons(part, head)
        case _ if head in free(e):
            yield e
        case _:
            pass


def _dropped(e: Expr, head: Index) -> Expr:
    match e:
        case Apply(op="and", args=(a, b)):
            return conjoin((_dropped(a, head), _dropped(b, head)))
        case Apply(op="or", args=(a, b)):
            return disjoin((_dropped(a, head), _dropped(b, head)))
        case _:
            return TRUE if head in free(e) else e


def _every(e: Expr, head: Index, given: Expr) -> bool:
    """Whether `(x ± h) % s == 0` holds in some head wherever it is asked: heads step by one and suffice."""
    match e:
        case Apply(op="==", args=(Apply(op="%", args=(x, s)), zero)) if zero == ZERO and head not in free(s):
            pass
        case _:
            return False
    turning = [(t, c) for t, c in summed(x).terms if head in free(t)]
    if len(turning) != 1 or abs(turning[0][1]) != 1:
        return False
    term = turning[0][0]
    for place, count in _places(head, term):
        step = _step(term, place)
        if (
            step is not None
            and head not in free(step)
            and _one(step, given)
            and _implied(given, Apply(">=", (count, s)))
        ):
            return True
    return False


def _places(head: Index, e: Expr) -> Iterator[tuple[Expr, Expr]]:
    """What in an expression takes the values 0, 1, ... as heads go on, and how many of them."""
    yield head, extent(head)
    match e:
        case Apply(op="//", args=(h, Apply(op="//", args=(many, few)))) if h == head and many == extent(head):
            yield e, few  # a group of heads: |h| is a multiple of |g|
        case _:
            for part in children(e):
                yield from _places(head, part)


def _step(term: Expr, place: Expr) -> Expr | None:
    """The factor of a place in a term."""
    match term:
        case _ if term == place:
            return ONE
        case Apply(op="*", args=(a, b)) if place in (a, b):
            return b if a == place else a
        case _:
            return None


def _one(e: Expr, given: Expr) -> bool:
    """Whether a number is 1: a quotient `a // b` is at most 1 where a <= b."""
    match e:
        case Apply(op="max", args=(a, b)):
            return any(x == ONE and _at_most_one(y, given) for x, y in ((a, b), (b, a)))
        case _:
            return e == ONE


def _at_most_one(e: Expr, given: Expr) -> bool:
    match e:
        case Apply(op="//", args=(a, b)):
            return _implied(given, Apply("<=", (a, b)))
        case _:
            return _implied(given, Apply("<=", (e, ONE)))


def _implied(given: Expr, e: Expr) -> bool:
    """Whether a comparison of numbers follows from what is given."""
    nowhere = Index("", "sequence", "")
    return never(conjoin((given, pushed(e, False))), nowhere, nowhere)
