"""Cascade → Cascade: what a reduction leaves unsaid is said.

    sum(i) K[n * B + i]   -->   sum(i where n * B + i < |k|) K[n * B + i]
    mean(i where c) x     -->   sum(i where c) x / sum(i where c) 1

A term that reads outside its tensor has no value and is absent from its reduction. After this pass no term of
a reduction is without a value, so that later passes may move and merge terms freely. Elements of a recurrent
group are taken to have one: `check` has shown that they read each other at earlier positions only.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    children,
    extent,
    rebuild,
    substitute,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import conjoin


def expand(cascade: Cascade) -> Cascade:
    """Absent terms excluded by predicates; means written as sums over counts."""
    groups = {name for group in recurrent(cascade) for name in group}
    bodies: dict[str, Expr] = {}
    equations = []
    for equation in cascade.equations:
        body = _said(equation.body, cascade, bodies)
        if equation.tensor.name not in groups:
            bodies[equation.tensor.name] = body
        equations.append(replace(equation, body=body))
    return replace(cascade, equations=tuple(equations))


def _said(e: Expr, cascade: Cascade, bodies: dict[str, Expr]) -> Expr:
    match e:
        case Reduce(op, over, where, body, span):
            where, body = _said(where, cascade, bodies), _said(body, cascade, bodies)
            where = conjoin((defined(where, cascade, bodies), where, defined(body, cascade, bodies)))
            if op == "mean":
                total = Reduce("sum", over, where, body, span)
                return Apply("/", (total, Reduce("sum", over, where, ONE, span)))
            return Reduce(op, over, where, body, span)
        case _:
            return rebuild(e, tuple(_said(part, cascade, bodies) for part in children(e)))


def defined(e: Expr, cascade: Cascade, bodies: dict[str, Expr]) -> Expr:
    """The condition under which an expression has a value; `bodies` are the equations already expanded."""
    match e:
        case Read(tensor, at):
            inside = [_inside(s, axis, cascade) for s, axis in zip(at, tensor.indices, strict=True)]
            own = bodies.get(tensor.name)
            if own is not None:
                condition = defined(own, cascade, bodies)
                inside.append(substitute(condition, dict(zip(tensor.indices, at, strict=True))))
            return conjoin([*(defined(s, cascade, bodies) for s in at), *inside])
        case Choose(condition, then, other):
            if_then, if_other = defined(then, cascade, bodies), defined(other, cascade, bodies)
            both = TRUE if if_then == if_other == TRUE else Choose(condition, if_then, if_other)
            return conjoin((defined(condition, cascade, bodies), both))
        case Reduce() | Apply("extent"):
            return TRUE
        case _:
            return conjoin(defined(part, cascade, bodies) for part in children(e))


def _inside(subscript: Expr, axis: Index, cascade: Cascade) -> Expr:
    """`0 <= subscript < |axis|`, as far as it is not known already."""
    if _shares_heads(subscript, axis):
        return TRUE
    if isinstance(subscript, Index) and _same_extent(subscript, axis, cascade):
        return TRUE
    low = TRUE if _at_least_zero(subscript) else Apply(">=", (subscript, ZERO))
    high = TRUE if _ends_with(subscript, axis) else Apply("<", (subscript, extent(axis)))
    return conjoin((low, high))


def _shares_heads(subscript: Expr, axis: Index) -> bool:
    """`h // (|h| // |g|)` on axis `g`: in range, as every call checks that |g| divides |h|."""
    match subscript:
        case Apply("//", (Index() as h, Apply("//", (Apply("extent", (many,)), Apply("extent", (few,)))))):
            return h == many and few == axis
        case _:
            return False


def _same_extent(index: Index, axis: Index, cascade: Cascade) -> bool:
    lengths = dict(cascade.lengths)
    return lengths.get(index, extent(index)) == lengths.get(axis, extent(axis))


def _at_least_zero(e: Expr) -> bool:
    match e:
        case Index() | Apply("extent"):
            return True
        case Literal(value):
            return value >= 0
        case Read(tensor):
            return tensor.origin == "static"
        case Apply("+" | "*" | "//" | "%" | "min", (a, b)):
            return _at_least_zero(a) and _at_least_zero(b)
        case Apply("max", (a, b)):
            return _at_least_zero(a) or _at_least_zero(b)
        case _:
            return False


def _ends_with(e: Expr, axis: Index) -> bool:
    """`q + (|k| - |q|)` never passes the end of `k`."""
    match e:
        case Apply("+", (Index() as q, Apply("-", (Apply("extent", (end,)), Apply("extent", (start,)))))):
            return start == q and end == axis
        case _:
            return False
