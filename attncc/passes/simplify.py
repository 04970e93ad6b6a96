"""Cascade → Cascade: the same value in fewer words.

sum(k) (if c then f else 0) * v   -->   sum(k where c) f * v
sum(k where c) (if c then f else g)   -->   sum(k where c) f
sum(k where c and (not c or a)) f   -->   sum(k where c and a) f
sum(k where a and c) f + sum(k where c and a) g   -->   sum(k where a and c) f + sum(k where a and c) g
sum(k) 1   -->   |k|
if true then f else g   -->   f
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    FALSE,
    ONE,
    TRUE,
    Apply,
    Cascade,
    Choose,
    Expr,
    Index,
    Literal,
    Reduce,
    children,
    extent,
    free,
    join,
    kind,
    number,
    rebuild,
)
from attncc.ir.logic import conjoin, conjuncts, disjoin, disjuncts, is_literal, negated, product
from attncc.ops import REDUCTIONS

Known = frozenset[Expr]
"""Conditions that hold where an expression stands."""


def simplify(cascade: Cascade) -> Cascade:
    """Every equation said more shortly, and the same predicates in the same order."""
    said: dict[frozenset[Expr], Expr] = {}
    equations = tuple(replace(e, body=_alike(tidy(e.body), said)) for e in cascade.equations)
    return replace(cascade, equations=equations)


def _alike(e: Expr, said: dict[frozenset[Expr], Expr]) -> Expr:
    """Reductions over the same terms, all with the predicate of the first of them."""
    e = rebuild(e, tuple(_alike(part, said) for part in children(e)))
    if not isinstance(e, Reduce):
        return e
    return replace(e, where=said.setdefault(frozenset(conjuncts(e.where)), e.where))


def tidy(e: Expr, known: Known = frozenset()) -> Expr:
    """An expression with the same value wherever `known` holds."""
    match e:
        case Choose():
            result = _choose(tidy(e.condition, known), e.then, e.other, known)
        case Reduce():
            return _reduce(e, known)
        case Apply("and"):
            result = conjoin(_each(conjuncts(conjoin((e,))), known, negate=False))
        case Apply("or"):
            result = _least(_each(disjuncts(disjoin((e,))), known, negate=True))
        case Apply(op, args) if op != "extent":
            result = _apply(op, tuple(tidy(a, known) for a in args))
        case _:
            result = rebuild(e, tuple(tidy(part, known) for part in children(e)))
    if result in known:
        return TRUE
    return FALSE if known and kind(result) == "bool" and negated(result) in known else result


# Predicates


def _each(parts: tuple[Expr, ...], known: Known, negate: bool) -> list[Expr]:
    """Parts of `a and b`, each said where the others hold; of `a or b`, where they do not."""
    kept = list(parts)
    for place, part in enumerate(kept):
        others = kept[:place] + kept[place + 1 :]
        around = [c for o in others for c in conjuncts(negated(o) if negate else o)]
        kept[place] = tidy(part, known | frozenset(around))
    return kept


def _least(parts: list[Expr]) -> Expr:
    """`a or b`, without what is part of another: `a or a and b` is `a`."""
    sets = [(frozenset(conjuncts(part)), part) for part in dict.fromkeys(parts)]
    return disjoin(part for own, part in sets if not any(other < own for other, _ in sets))


def _choose(condition: Expr, then: Expr, other: Expr, known: Known) -> Expr:
    if condition in (TRUE, FALSE):
        return tidy(then if condition == TRUE else other, known)
    then = tidy(then, known | frozenset(conjuncts(condition)))
    other = tidy(other, known | frozenset(conjuncts(negated(condition))))
    if then == other:
        return then
    match then, other:
        case (_, Literal(value=False, kind="bool")):
            return conjoin((condition, then))
        case (_, Literal(value=True, kind="bool")):
            return disjoin((negated(condition), then))
        case (Literal(value=True, kind="bool"), _):
            return disjoin((condition, other))
        case (Literal(value=False, kind="bool"), _):
            return conjoin((negated(condition), other))
        case _:
            return Choose(condition, then, other)


# Reductions


def _reduce(e: Reduce, known: Known) -> Expr:
    outside = frozenset(c for c in known if not free(c) & set(e.over))
    where = tidy(e.where, outside)
    body = tidy(e.body, outside | set(conjuncts(where)))
    row = REDUCTIONS[e.op]
    if not row.keeps and not row.combine.startswith("arg"):
        match body:
            case Choose(condition, then, other) if _is_identity(other, row.identity):
                return _reduce(replace(e, where=conjoin((where, condition)), body=then), known)
            case Choose(condition, then, other) if _is_identity(then, row.identity):
                return _reduce(replace(e, where=conjoin((where, negated(condition))), body=other), known)
    if e.op == "sum" and where == TRUE and body == ONE:
        return product(map(extent, e.over))
    nothing = number(row.identity)
    if where == FALSE and not row.keeps and join(nothing.kind, kind(e)) == kind(e):
        return nothing
    return replace(e, where=where, body=body)


def _is_identity(e: Expr, identity: float) -> bool:
    match e:
        case Literal(value, sort):
            return value == identity and (sort == "bool") == isinstance(identity, bool)
        case Apply("neg", (Literal(value),)):
            return -value == identity
        case _:
            return False


# Arithmetic


def _apply(op: str, args: tuple[Expr, ...]) -> Expr:
    match op, args:
        case "not", (a,):
            return negated(a)
        case (("*" | "/"), (Choose(c, then, other), b)) if is_literal(other, 0):
            return Choose(c, _apply(op, (then, b)), other)
        case "*", (a, Choose(c, then, other)) if is_literal(other, 0):
            return Choose(c, _apply("*", (a, then)), other)
        case "<", (Index() as i, Apply("extent", (axis,))) if i == axis:
            return TRUE
        case "+", (Apply("*", (Apply("//", (a, size)), by)), Apply("%", (b, whole))) if (a, size) == (
            b,
            whole,
        ):
            # a block and the place in it are the position
            return a if by == size else Apply(op, args)
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
            return Apply(op, args)


def _keeps_kind(kept: Expr, dropped: Expr) -> bool:
    return join(kind(kept), kind(dropped)) == kind(kept)


def _is_float(e: Expr) -> bool:
    return kind(e) == "float"
