"""Floating scale: a value as `mantissa * exp(exponent)`, so that no exponential is taken of a large number.

    exp(a) / (exp(b) + c)   -->   exp(a - M) / (exp(b - M) + c * exp(-M)),   M = max(b, 0)

Common exponents cancel, logarithms give `exponent + log(mantissa)`, and what joins a sum joins its maximum
first, hence every exponent that is left standing in a sum is <= 0: that is the certificate. The maxima carry
no gradient, as the value does not depend on them. (theory §0.3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

from attncc.ir.cascade import ONE, ZERO, Apply, Choose, Expr, Literal, Read, Tensor, children, number, rebuild
from attncc.ir.logic import is_literal, minus, over, plus, times


@dataclass(frozen=True)
class Scaled:
    """`mantissa * exp(exponent)`; an exponent 0 says that the value is plain."""

    mantissa: Expr
    exponent: Expr = ZERO

    @property
    def plain(self) -> bool:
        return is_literal(self.exponent, 0)


Scales = Mapping[Tensor, Scaled]
"""Tensors known in scaled form; the indices of the form are the tensor's own."""


def scaled(e: Expr, scales: Scales) -> Scaled:
    """An expression in scaled form."""
    match e:
        case Apply("exp", (x,)):
            return Scaled(ONE, settled(x, scales))
        case Apply("**", (Literal(base), x)) if base > 0:
            return Scaled(ONE, times(settled(x, scales), number(log(base))))
        case Apply("*" | "/" as op, (a, b)):
            return _multiplied(op, scaled(a, scales), scaled(b, scales))
        case Apply("+" | "-" | "max" | "min" as op, (a, b)):
            left, right, scale = _joined(scaled(a, scales), scaled(b, scales))
            return Scaled(Apply(op, (left, right)), scale)
        case Apply("log", (a,)):
            form = scaled(a, scales)
            return Scaled(plus(form.exponent, Apply("log", (form.mantissa,))))
        case Apply("neg" | "relu" | "abs" as op, (a,)):
            form = scaled(a, scales)
            return Scaled(Apply(op, (form.mantissa,)), form.exponent)
        case Choose(condition, then, other):
            left, right, scale = _joined(scaled(then, scales), scaled(other, scales))
            return Scaled(Choose(settled(condition, scales), left, right), scale)
        case Read(tensor, at) if tensor in scales and at == tensor.indices:
            return scales[tensor]
        case _:
            return Scaled(rebuild(e, tuple(settled(part, scales) for part in children(e))))


def _multiplied(op: str, x: Scaled, y: Scaled) -> Scaled:
    if op == "*":
        return Scaled(times(x.mantissa, y.mantissa), plus(x.exponent, y.exponent))
    exponent = minus(x.exponent, y.exponent)
    if is_literal(x.mantissa, 1) and is_literal(y.mantissa, 1):
        return Scaled(ONE, exponent)
    return Scaled(over(x.mantissa, y.mantissa), exponent)


def settled(e: Expr, scales: Scales) -> Expr:
    """The value itself, with no scale left outside."""
    match e:
        case Apply("extent"):
            return e
        case _:
            form = scaled(e, scales)
            return form.mantissa if form.plain else times(form.mantissa, Apply("exp", (form.exponent,)))


def _joined(x: Scaled, y: Scaled) -> tuple[Expr, Expr, Expr]:
    """Two values over one scale, the larger of theirs: both mantissas, and the scale."""
    if x.exponent == y.exponent or is_literal(y.mantissa, 0):
        return x.mantissa, y.mantissa, x.exponent
    if is_literal(x.mantissa, 0):
        return x.mantissa, y.mantissa, y.exponent
    scale = Apply("finite", (Apply("max", (x.exponent, y.exponent)),))
    return _under(x, scale), _under(y, scale), scale


def _under(x: Scaled, scale: Expr) -> Expr:
    return times(x.mantissa, Apply("exp", (Apply("-", (x.exponent, scale)),)))
