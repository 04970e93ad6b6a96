"""Cascade → Cascade: the same value in fewer words.

sum(k) (if c then f else 0) * v   -->   sum(k where c) f * v
sum(k where c) (if c then f else g)   -->   sum(k where c) f
if true then f else g   -->   f
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    FALSE,
    TRUE,
    Apply,
    Cascade,
    Choose,
    Expr,
    Literal,
    Reduce,
    children,
    free,
    join,
    kind,
    number,
    rebuild,
)
from attncc.ir.logic import conjoin, conjuncts, is_literal
from attncc.ops import REDUCTIONS

Known = frozenset[Expr]
"""Conditions that hold where an expression stands."""


def simplify(cascade: Cascade) -> Cascade:
    """Every equation said more shortly."""
    return replace(cascade, equations=tuple(replace(e, body=tidy(e.body)) for e in cascade.equations))


def tidy(e: Expr, known: Known = frozenset()) -> Expr:
    """An expression with the same value wherever `known` holds."""
    match e:
        case Choose(condition, then, other):
            return _choose(tidy(condition, known), then, other, known)
        case Reduce():
            return _reduce(e, known)
        case Apply(op, args) if op != "extent":
            return _apply(op, tuple(tidy(a, known) for a in args), known)
        case _:
            return rebuild(e, tuple(tidy(part, known) for part in children(e)))


def _choose(condition: Expr, then: Expr, other: Expr, known: Known) -> Expr:
    parts = conjuncts(condition)
    if all(part in known for part in parts):
        return tidy(then, known)
    if condition == FALSE:
        return tidy(other, known)
    then, other = tidy(then, known | set(parts)), tidy(other, known)
    return then if then == other else Choose(condition, then, other)


def _reduce(e: Reduce, known: Known) -> Expr:
    outside = frozenset(c for c in known if not free(c) & set(e.over))
    where = tidy(e.where, outside)
    body = tidy(e.body, outside | set(conjuncts(where)))
    row = REDUCTIONS[e.op]
    monoid = not row.keeps and not row.combine.startswith("arg")
    match body:
        case Choose(condition, then, other) if monoid and _is_identity(other, row.identity):
            where = conjoin((where, condition))
            body = tidy(then, outside | set(conjuncts(where)))
    if where == FALSE and not row.keeps:
        return number(row.identity)
    return replace(e, where=where, body=body)


def _is_identity(e: Expr, identity: float) -> bool:
    match e:
        case Literal(value, sort):
            return value == identity and (sort == "bool") == isinstance(identity, bool)
        case Apply("neg", (Literal(value),)):
            return -value == identity
        case _:
            return False


def _apply(op: str, args: tuple[Expr, ...], known: Known) -> Expr:
    whole = Apply(op, args)
    if whole in known:
        return TRUE
    match op, args:
        case "and", (a, b):
            return conjoin((a, b))
        case "or", (a, b):
            return _or(a, b)
        case "not", (Apply("not", (a,)),):
            return a
        case "not", (Literal(value),):
            return number(not value)
        case (("*" | "/"), (Choose(c, then, other), b)) if is_literal(other, 0):
            return tidy(Choose(c, Apply(op, (then, b)), other), known)
        case "*", (a, Choose(c, then, other)) if is_literal(other, 0):
            return tidy(Choose(c, Apply("*", (a, then)), other), known)
        case (("+" | "-" | "*"), (Literal(x, "int"), Literal(y, "int"))):
            return number({"+": x + y, "-": x - y, "*": x * y}[op])
        case (("+" | "-"), (a, b)) if is_literal(b, 0) and _keeps_kind(a, b):
            return a
        case "+", (a, b) if is_literal(a, 0) and _keeps_kind(b, a):
            return b
        case (("*" | "/"), (a, b)) if is_literal(b, 1) and (op == "*" or _is_float(a)) and _keeps_kind(a, b):
            return a
        case "*", (a, b) if is_literal(a, 1) and _keeps_kind(b, a):
            return b
        case _:
            return whole


def _or(a: Expr, b: Expr) -> Expr:
    if TRUE in (a, b):
        return TRUE
    if a in (FALSE, b):
        return b
    return a if b == FALSE else Apply("or", (a, b))


def _keeps_kind(kept: Expr, dropped: Expr) -> bool:
    return join(kind(kept), kind(dropped)) == kind(kept)


def _is_float(e: Expr) -> bool:
    return kind(e) == "float"
