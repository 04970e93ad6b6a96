"""Small algebra on expressions: conjunctions, sums and products built without the parts that say nothing."""

from __future__ import annotations

from collections.abc import Iterable

from attncc.ir.cascade import FALSE, ONE, TRUE, ZERO, Apply, Expr, Literal, kind, number

OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
"""The comparison of integers that holds where another does not; of real numbers, NaN compares with none."""


def negated(c: Expr) -> Expr:
    """`not c`, said of its parts where that makes them comparisons."""
    match c:
        case Literal(value, "bool"):
            return TRUE if value is False else FALSE
        case Apply("not", (a,)):
            return a
        case Apply("or", (a, b)):
            return Apply("and", (negated(a), negated(b)))
        case Apply(op, args) if op in OPPOSITE and all(kind(a) == "int" for a in args):
            return Apply(OPPOSITE[op], args)
        case _:
            return Apply("not", (c,))


def conjuncts(e: Expr) -> tuple[Expr, ...]:
    """The parts of `a and b and c`, in order; none for `true`."""
    match e:
        case Apply("and", (a, b)):
            return conjuncts(a) + conjuncts(b)
        case Literal(value=True, kind="bool"):
            return ()
        case _:
            return (e,)


def conjoin(parts: Iterable[Expr]) -> Expr:
    """`a and b and c`, each part once, in order."""
    result: Expr = TRUE
    for part in dict.fromkeys(c for p in parts for c in conjuncts(p)):
        if part == FALSE:
            return FALSE
        result = part if result == TRUE else Apply("and", (result, part))
    return result


def disjuncts(e: Expr) -> tuple[Expr, ...]:
    """The parts of `a or b or c`, in order; none for `false`."""
    match e:
        case Apply("or", (a, b)):
            return disjuncts(a) + disjuncts(b)
        case Literal(value=False, kind="bool"):
            return ()
        case _:
            return (e,)


def disjoin(parts: Iterable[Expr]) -> Expr:
    """`a or b or c`, each part once, in order."""
    result: Expr = FALSE
    for part in dict.fromkeys(d for p in parts for d in disjuncts(p)):
        if part == TRUE:
            return TRUE
        result = part if result == FALSE else Apply("or", (result, part))
    return result


def is_literal(e: Expr, value: float) -> bool:
    """Whether an expression is one number, of whatever kind."""
    return isinstance(e, Literal) and e.kind != "bool" and e.value == value


def finite(e: Expr, op: str) -> Expr:
    """An extreme, a `max` or a `min`, where that of nothing is 0."""
    if op == "max":
        return Apply("finite", (e,))
    return Apply("neg", (Apply("finite", (Apply("neg", (e,)),)),))


def bare(e: Expr) -> Expr:
    """What is made finite; the expression itself if nothing is."""
    match e:
        case Apply("finite", (a,)) | Apply("neg", (Apply("finite", (Apply("neg", (a,)),)),)):
            return bare(a)
        case _:
            return e


def is_finite(e: Expr) -> bool:
    """Whether an expression is one made finite."""
    return bare(e) != e


def times(a: Expr, b: Expr) -> Expr:
    """`a * b`, without a factor 1."""
    if is_literal(a, 1):
        return b
    if is_literal(b, 1):
        return a
    return Apply("*", (a, b))


def over(a: Expr, b: Expr) -> Expr:
    """`a / b`, without a divisor 1."""
    return a if is_literal(b, 1) else Apply("/", (a, b))


def product(factors: Iterable[Expr]) -> Expr:
    """Factors multiplied from left to right; of none, 1."""
    result: Expr = ONE
    for factor in factors:
        result = times(result, factor)
    return result


def minus(a: Expr, b: Expr) -> Expr:
    """`a - b`, with what stands on both sides taken away."""
    return total(terms(a) + [(-sign, term) for sign, term in terms(b)])


def plus(a: Expr, b: Expr) -> Expr:
    """`a + b`, with opposite terms taken away."""
    return total(terms(a) + terms(b))


def terms(e: Expr) -> list[tuple[int, Expr]]:
    """A sum as signed terms, in order; `0` has none."""
    match e:
        case Apply("+", (a, b)):
            return terms(a) + terms(b)
        case Apply("-", (a, b)):
            return terms(a) + [(-sign, term) for sign, term in terms(b)]
        case Apply("neg", (a,)):
            return [(-sign, term) for sign, term in terms(a)]
        case _ if is_literal(e, 0):
            return []
        case _:
            return [(1, e)]


def total(signed: list[tuple[int, Expr]]) -> Expr:
    """Signed terms added up, opposite ones cancelled and integers gathered; of none, 0."""
    left: list[tuple[int, Expr]] = []
    constant = 0
    for sign, term in signed:
        if isinstance(term, Literal) and term.kind == "int":
            constant += sign * int(term.value)
        elif (-sign, term) in left:
            left.remove((-sign, term))
        else:
            left.append((sign, term))
    left.sort(key=lambda pair: -pair[0])
    result: Expr = ZERO
    for sign, term in left:
        if result == ZERO:
            result = term if sign > 0 else Apply("neg", (term,))
        else:
            result = Apply("+" if sign > 0 else "-", (result, term))
    if constant and result == ZERO:
        return number(constant)
    if constant:
        result = Apply("+" if constant > 0 else "-", (result, number(abs(constant))))
    return result


def factors(e: Expr) -> tuple[list[Expr], list[Expr]]:
    """A product as its factors and its divisors, in order."""
    match e:
        case Apply("*", (a, b)):
            (up_a, down_a), (up_b, down_b) = factors(a), factors(b)
            return up_a + up_b, down_a + down_b
        case Apply("/", (a, b)):
            up, down = factors(a)
            return up, [*down, b]
        case _:
            return ([] if is_literal(e, 1) else [e]), []


def quotient(up: Iterable[Expr], down: Iterable[Expr]) -> Expr:
    """Factors over divisors; float even where only integers are left."""
    top, bottom = product(up), product(down)
    return over(top, bottom)
