"""Floating scale: a value as `mantissa * exp(exponent)`, so that no exponential is taken of a large number.

    exp(a) / (exp(b) + c)   -->   exp(a - M) / (exp(b - M) + c * exp(-M)),   M = max(b, 0)

Common exponents cancel, a power `(x * exp(a)) ** p` is `x ** p * exp(p * a)`, logarithms give `exponent +
log(mantissa)`, and what joins a sum joins its maximum first, hence every exponent that is left standing in a
sum is <= 0: that is the certificate. The maxima carry no gradient, as the value does not depend on them
(theory §0.3).

An extreme of nothing is infinite, and stands for a sum that is 0. Where it would scale that sum up, it is
`finite` instead: the 0 stays 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, log

from attncc.ir.cascade import (
    ONE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Literal,
    Read,
    Tensor,
    children,
    kind,
    number,
    rebuild,
    substitute,
)
from attncc.ir.logic import finite, is_literal, minus, over, quotient, terms, times, total

NEVER = number(-inf)
"""The exponent of what is 0."""


@dataclass(frozen=True)
class Scaled:
    """`mantissa * exp(exponent)`; an exponent 0 says that the value is plain."""

    mantissa: Expr
    exponent: Expr = ZERO

    @property
    def plain(self) -> bool:
        return is_literal(self.exponent, 0)


@dataclass(frozen=True)
class Scales:
    """Tensors known in scaled form, over their own indices, and those that are maxima or minima.

    Where nothing is `measured`, values that join a sum are left at the scales that they have; so are those
    whose exponents are `low`, known to be at most 0.
    """

    forms: Mapping[Tensor, Scaled] = field(default_factory=dict)
    extremes: Mapping[Tensor, str] = field(default_factory=dict)
    measured: bool = True
    low: Callable[[Expr], bool] = lambda exponent: False


def scaled(e: Expr, scales: Scales) -> Scaled:
    """An expression in scaled form."""
    match e:
        case Apply("exp", (x,)):
            return _exponential(settled(x, scales))
        case Apply("**", (Literal(base), x)) if base > 0:
            return Scaled(ONE, times(settled(x, scales), number(log(base))))
        case Apply("*", (a, b)):
            left, right = scaled(a, scales), scaled(b, scales)
            return Scaled(times(left.mantissa, right.mantissa), raised(left.exponent, right.exponent))
        case Apply("/", (a, b)):
            return _divided(scaled(a, scales), scaled(b, scales), scales)
        case Apply("+" | "-" | "max" | "min" as op, (a, b)):
            mantissas, scale = _joined(scaled(a, scales), scaled(b, scales), scales)
            joined = Apply(op, mantissas)
            if not scales.measured and op in ("+", "-") and kind(e) == "float":
                return Scaled(raised(joined, ZERO), scale)
            return Scaled(joined, scale)
        case Apply("log", (a,)):
            form = scaled(a, scales)
            rest = ZERO if is_literal(form.mantissa, 1) else Apply("log", (form.mantissa,))
            return Scaled(raised(form.exponent, rest))
        case Apply("sqrt", (a,)):
            form = scaled(a, scales)
            mantissa = ONE if is_literal(form.mantissa, 1) else Apply("sqrt", (form.mantissa,))
            return Scaled(mantissa, _times(form.exponent, 0.5, scales))
        case Apply("**", (a, power)) if (p := _number(power)) is not None:
            form = scaled(a, scales)
            mantissa = ONE if is_literal(form.mantissa, 1) else Apply("**", (form.mantissa, power))
            return Scaled(mantissa, _times(form.exponent, p, scales))
        case Apply("neg" | "relu" | "abs" as op, (a,)):
            form = scaled(a, scales)
            return Scaled(Apply(op, (form.mantissa,)), form.exponent)
        case Choose(condition, then, other):
            return _chosen(settled(condition, scales), scaled(then, scales), scaled(other, scales))
        case Read(tensor, at) if tensor in scales.forms:
            form, place = scales.forms[tensor], dict(zip(tensor.indices, at, strict=True))
            return Scaled(substitute(form.mantissa, place), substitute(form.exponent, place))
        case _:
            return Scaled(rebuild(e, tuple(settled(part, scales) for part in children(e))))


def settled(e: Expr, scales: Scales) -> Expr:
    """The value itself, with no scale left outside; what is added up needs no common one."""
    match e:
        case Apply("extent"):
            return e
        case Apply("+" | "-") if not scales.measured and kind(e) == "float":
            return raised(rebuild(e, tuple(settled(part, scales) for part in children(e))), ZERO)
        case Choose() | Apply("+" | "-" | "max" | "min" | "neg" | "relu" | "abs"):
            return rebuild(e, tuple(settled(part, scales) for part in children(e)))
        case Apply("**", (base, power)) if isinstance(base, Literal) or _number(power) is None:
            return rebuild(e, tuple(settled(part, scales) for part in children(e)))
        case _:
            return value(scaled(e, scales))


def value(form: Scaled) -> Expr:
    """`mantissa * exp(exponent)` as an expression."""
    if form.plain:
        return form.mantissa
    match form.mantissa:
        case Choose(condition, then, other) if is_literal(other, 0) and _only(form.exponent, condition):
            assert isinstance(form.exponent, Choose)
            return Choose(condition, value(Scaled(then, form.exponent.then)), other)
        case Apply("/", (one, below)) if is_literal(one, 1):
            return over(Apply("exp", (form.exponent,)), below)
        case _:
            return times(form.mantissa, Apply("exp", (form.exponent,)))


def _only(exponent: Expr, condition: Expr) -> bool:
    """Whether an exponent is -inf but where a condition holds."""
    return isinstance(exponent, Choose) and exponent.condition == condition and exponent.other == NEVER


def raised(a: Expr, b: Expr) -> Expr:
    """`a + b` of exponents: what makes finite cancels what is made finite."""
    signed = terms(a) + terms(b)
    for sign, term in tuple(signed):
        match term:
            case Apply("finite", (top,)) if (-sign, top) in signed:
                signed.remove((sign, term))
                signed.remove((-sign, top))
    return total(signed)


def bounded(exponent: Expr, scales: Scales, least: bool = False) -> Expr:
    """An exponent that is not +inf (`least`: not -inf) because an extreme is one of nothing."""
    return total([(sign, _finite(sign, x, scales, least)) for sign, x in terms(exponent)])


def _finite(sign: int, x: Expr, scales: Scales, least: bool) -> Expr:
    infinite = -1 if (sign < 0) != least else 1
    match x:
        case Read(tensor) if tensor in scales.extremes:
            unsafe = scales.extremes[tensor] == ("max" if infinite < 0 else "min")
        case _:
            unsafe = risky(x, scales)
    if not unsafe:
        return x
    return finite(x, "max" if infinite < 0 else "min")


def risky(e: Expr, scales: Scales) -> bool:
    """Whether a value may be infinite because something in it is a reduction of nothing."""
    match e:
        case Literal(constant):
            return constant in (inf, -inf)
        case Read(tensor):
            form = scales.forms.get(tensor)
            inside = form is not None and (risky(form.mantissa, scales) or risky(form.exponent, scales))
            return tensor in scales.extremes or inside
        case Apply("finite" | "sigmoid" | "tanh"):
            return False
        case Apply("log" | "/" | "**"):
            return True
        case Choose(_, then, other):
            return risky(then, scales) or risky(other, scales)
        case _:
            return kind(e) != "bool" and any(risky(part, scales) for part in children(e))


def _number(e: Expr) -> float | None:
    match e:
        case Literal(value, sort) if sort != "bool":
            return float(value)
        case Apply("neg", (Literal(value, sort),)) if sort != "bool":
            return -float(value)
        case _:
            return None


def _times(exponent: Expr, power: float, scales: Scales) -> Expr:
    """The exponent of a power: its terms as often, or that part of each."""
    found: list[tuple[int, Expr]] = []
    size = abs(power)
    for (sign, x), count in Counter(terms(exponent)).items():
        often = count * size
        few = often.is_integer() and often <= 2
        parts = [x] * int(often) if few else [times(x, number(often))]
        found += [(sign if power > 0 else -sign, part) for part in parts]
    whole = total(found)
    return bounded(whole, scales) if power < 0 else whole


def _exponential(x: Expr) -> Scaled:
    """`exp(x + log(y) - log(z))` is `y / z * exp(x)`."""
    up: list[Expr] = []
    down: list[Expr] = []
    rest: list[tuple[int, Expr]] = []
    for sign, term in terms(x):
        match term:
            case Apply("log", (y,)):
                (up if sign > 0 else down).append(y)
            case _:
                rest.append((sign, term))
    return Scaled(quotient(up, down), total(rest))


def _divided(x: Scaled, y: Scaled, scales: Scales) -> Scaled:
    own = terms(x.exponent)
    signed = terms(minus(x.exponent, y.exponent))
    kept = total([pair for pair in signed if pair in own])
    taken = bounded(total([pair for pair in signed if pair not in own]), scales)
    return Scaled(over(x.mantissa, y.mantissa), raised(kept, taken))


def _chosen(condition: Expr, x: Scaled, y: Scaled) -> Scaled:
    """The scale of the branch taken; 0 is 0 at any scale, and at the smallest it disturbs no maximum."""
    mantissa = Choose(condition, x.mantissa, y.mantissa)
    if x.exponent == y.exponent:
        return Scaled(mantissa, x.exponent)
    first = NEVER if is_literal(x.mantissa, 0) else x.exponent
    second = NEVER if is_literal(y.mantissa, 0) else y.exponent
    return Scaled(mantissa, Choose(condition, first, second))


def _joined(x: Scaled, y: Scaled, scales: Scales) -> tuple[tuple[Expr, Expr], Expr]:
    """Two values over one scale, the larger of theirs, or what these share: mantissas, and the scale."""
    if minus(x.exponent, y.exponent) == ZERO or is_literal(y.mantissa, 0):
        return (x.mantissa, y.mantissa), x.exponent
    if is_literal(x.mantissa, 0):
        return (x.mantissa, y.mantissa), y.exponent
    common = total([pair for pair in terms(x.exponent) if pair in terms(y.exponent)])
    first, second = minus(x.exponent, common), minus(y.exponent, common)
    if scales.low(x.exponent) and scales.low(y.exponent):
        return (value(x), value(y)), ZERO
    if not scales.measured:
        return (value(Scaled(x.mantissa, first)), value(Scaled(y.mantissa, second))), common
    scale = Apply("finite", (Apply("max", (first, second)),))
    return (_under(x.mantissa, first, scale), _under(y.mantissa, second, scale)), raised(common, scale)


def _under(mantissa: Expr, exponent: Expr, scale: Expr) -> Expr:
    return times(mantissa, Apply("exp", (minus(exponent, scale),)))
