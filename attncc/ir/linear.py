"""Integer expressions ↔ sums: which whole multiples of which terms, and what constant."""

from __future__ import annotations

from typing import TypeAlias

from attncc.ir.cascade import Apply, Expr, Literal, number

Sum: TypeAlias = tuple[dict[Expr, int], int]
"""`2 * n + q - 1` as ({n: 2, q: 1}, -1); no term has the factor 0."""


def linear(e: Expr) -> Sum:
    """An expression as a sum; what is no sum, difference or literal multiple is a term of its own."""
    match e:
        case Literal(value=int(value), kind="int"):
            return {}, value
        case Apply("+", (a, b)):
            return added(linear(a), linear(b))
        case Apply("-", (a, b)):
            return added(linear(a), linear(b), -1)
        case Apply("neg", (a,)):
            return added(({}, 0), linear(a), -1)
        case Apply("*", (Literal(value=int(value), kind="int"), a)):
            return added(({}, 0), linear(a), value)
        case Apply("*", (a, Literal(value=int(value), kind="int"))):
            return added(({}, 0), linear(a), value)
        case _:
            return {e: 1}, 0


def added(a: Sum, b: Sum, factor: int = 1) -> Sum:
    """`a + factor * b`"""
    terms = dict(a[0])
    for term, count in b[0].items():
        terms[term] = terms.get(term, 0) + factor * count
    return {t: n for t, n in terms.items() if n}, a[1] + factor * b[1]


def written(sum: Sum) -> Expr:
    """A sum as an expression, what is added before what is taken away."""
    terms, constant = sum
    e: Expr | None = None
    for term, count in sorted(terms.items(), key=lambda item: item[1] < 0):
        size = term if abs(count) == 1 else Apply("*", (number(abs(count)), term))
        if e is None:
            e = size if count > 0 else Apply("neg", (size,))
        else:
            e = Apply("+" if count > 0 else "-", (e, size))
    if e is None or constant:
        literal = number(abs(constant))
        if e is None:
            return number(constant)
        return Apply("+" if constant > 0 else "-", (e, literal))
    return e


def plus(e: Expr, origin: Expr | None) -> Expr:
    """`e + origin`"""
    return e if origin is None else Apply("+", (e, origin))


def minus(e: Expr, origin: Expr | None) -> Expr:
    """`e - origin`, taken away inside `e` where a part of it stands there."""
    if origin is None:
        return e
    own, taken = linear(e), linear(origin)
    cancels = any(own[0].get(term, 0) * count > 0 for term, count in taken[0].items())
    return written(added(own, taken, -1)) if cancels else Apply("-", (e, origin))
