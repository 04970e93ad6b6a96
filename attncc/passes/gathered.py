"""What reaches an element in several ways → one expression: parts added up, sums over the same terms as one.

(if c then a else 0) + (if c then b else 0)   -->   if c then a + b else 0
sum(k) a + sum(k) b                           -->   sum(k) (a + b)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attncc.ir.cascade import TRUE, ZERO, Apply, Choose, Expr, Index, Reduce, free, kind, number, reads, walk
from attncc.ir.logic import conjoin, conjuncts, disjoin, factors, is_literal, plus, quotient, terms
from attncc.passes.simplify import tidy


def summed(parts: list[Expr]) -> Expr:
    """Parts added up: those under one condition together, and sums over the same terms as one."""
    under: dict[Expr, list[Expr]] = {}
    for part in parts:
        match part:
            case Choose(where, value, other) if is_literal(other, 0):
                under.setdefault(where, []).append(value)
            case _:
                under.setdefault(TRUE, []).append(part)
    whole: Expr = ZERO
    for where, values in under.items():
        value = _merged(values)
        whole = plus(whole, value if where == TRUE else Choose(where, value, number(0.0)))
    if len(under) > 1 and TRUE not in under:
        return Choose(tidy(disjoin(under)), whole, number(0.0))
    return whole


def _merged(parts: list[Expr]) -> Expr:
    """`sum(k) a + sum(k) b  -->  sum(k) (a + b)`"""
    sums: dict[Reduce, Expr] = {}
    whole: Expr = ZERO
    for sign, part in (x for e in parts for x in terms(e)):
        match part:
            case Reduce("sum"):
                key = replace(part, body=ZERO)
                sums[key] = plus(sums.get(key, ZERO), part.body if sign > 0 else Apply("neg", (part.body,)))
            case _:
                whole = plus(whole, part if sign > 0 else Apply("neg", (part,)))
    for terms_of, body in sums.items():
        whole = plus(whole, replace(terms_of, body=body))
    return whole


def real(e: Expr) -> Expr:
    return e if kind(e) == "float" else Apply("*", (e, number(1.0)))


def folded(weight: Expr, where: Expr, over: tuple[Index, ...]) -> Expr:
    """`sum(over where ...) weight`: sums over features inside, as these are products; outside what is given
    and does not vary. What equations say stays in the sum over a sequence, where exponents meet.
    """
    features = tuple(i for i in over if i.role == "feature")
    around = tuple(sorted((i for i in over if i not in features), key=lambda i: i.role != "batch"))
    sign, e = unsigned(weight)
    if features:
        e, where = _layer(e, where, features, lambda f: not free(f) & set(features))
    if around:
        e, where = _layer(e, where, around, lambda f: not free(f) & set(around) and _is_given(f))
    e = e if sign > 0 else Apply("neg", (e,))
    return e if where == TRUE else Choose(where, e, number(0.0))


def _layer(
    e: Expr, where: Expr, layer: tuple[Index, ...], still: Callable[[Expr], bool]
) -> tuple[Expr, Expr]:
    """A sum over some indices, with the factors that are `still` outside; the conditions that are left."""
    up, down = factors(e)
    inner = quotient(*([f for f in side if not still(f)] for side in (up, down)))
    above, below = ([f for f in side if still(f)] for side in (up, down))
    here = [c for c in conjuncts(where) if free(c) & set(layer)]
    rest = conjoin(c for c in conjuncts(where) if c not in here)
    return quotient([*above, Reduce("sum", layer, conjoin(here), inner)], below), rest


def _is_given(e: Expr) -> bool:
    """Whether a factor is of no equation and has a value at every position, also where nothing is summed."""
    partial = any(isinstance(x, Apply) and x.op in ("log", "sqrt", "**", "/", "reciprocal") for x in walk(e))
    placed = any(i.role == "sequence" for i in free(e))
    return all(r.tensor.origin != "equation" for r in reads(e)) and not (partial and placed)


def unsigned(e: Expr) -> tuple[int, Expr]:
    """The sign of a product, and the product without it."""
    match e:
        case Apply("neg", (a,)):
            sign, rest = unsigned(a)
            return -sign, rest
        case Apply("*" | "/" as op, (a, b)):
            (first, left), (second, right) = unsigned(a), unsigned(b)
            return first * second, Apply(op, (left, right))
        case _:
            return 1, e
