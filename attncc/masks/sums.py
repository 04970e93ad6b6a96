"""Integer expression ↔ sum: `q + (|k| - |q|) - w + 1` as terms and coefficients, and back in one spelling."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, free, kind, number, rebuild

WIDEST = 6
"""A product of sums is multiplied out up to so many products of terms."""


@dataclass(frozen=True)
class Sum:
    """`constant + Σ coefficient · term`: terms are no sums or literals, and differ; no coefficient is 0."""

    terms: tuple[tuple[Expr, int], ...] = ()
    constant: int = 0

    def __add__(self, other: Sum | int) -> Sum:
        if isinstance(other, int):
            return Sum(self.terms, self.constant + other)
        if not self.terms or not other.terms:
            return Sum(self.terms or other.terms, self.constant + other.constant)
        return collect((*self.terms, *other.terms), self.constant + other.constant)

    def __neg__(self) -> Sum:
        return self.times(-1)

    def __sub__(self, other: Sum | int) -> Sum:
        return self + (-other)

    def times(self, factor: int) -> Sum:
        """The sum multiplied by an integer."""
        terms = tuple((t, c * factor) for t, c in self.terms) if factor else ()
        return Sum(terms, self.constant * factor)

    def without(self, term: Expr) -> Sum:
        """The sum less one of its terms."""
        return Sum(tuple((t, c) for t, c in self.terms if t != term), self.constant)


def collect(terms: Iterable[tuple[Expr, int]], constant: int) -> Sum:
    """Equal terms become one, and those that cancel none."""
    found: dict[Expr, int] = {}
    for term, coefficient in terms:
        found[term] = found.get(term, 0) + coefficient
    return Sum(tuple((t, c) for t, c in found.items() if c), constant)


@lru_cache(1 << 14)
def summed(e: Expr) -> Sum:
    """An expression as a sum; what is no sum is one term, with its parts in canonical spelling."""
    match e:
        case Literal():
            return Sum(((e, 1),)) if e.kind == "float" else Sum(constant=int(e.value))
        case Index() | Reduce() | Apply(op="extent"):
            return Sum(((e, 1),))
        case Apply(op="+", args=(a, b)):
            return summed(a) + summed(b)
        case Apply(op="-", args=(a, b)):
            return summed(a) - summed(b)
        case Apply(op="neg", args=(a,)):
            return -summed(a)
        case Apply(op="*", args=(a, b)):
            return product(summed(a), summed(b))
        case Apply(op="//", args=(a, b)):
            return quotient(summed(a), summed(b))
        case Apply(op=("%" | "min" | "max" | "abs"), args=args) if kind(e) == "int":
            return _folded(e.op, tuple(map(canonical, args)))
        case Choose(condition=c, then=a, other=b) if kind(e) == "int":
            a, b = canonical(a), canonical(b)
            return summed(a) if a == b else Sum(((Choose(c, a, b), 1),))
        case Read():
            return Sum(((rebuild(e, tuple(map(canonical, e.at))), 1),))
        case Apply() | Choose():
            return Sum(((e, 1),))
        case _:
            assert_never(e)


def canonical(e: Expr) -> Expr:
    """An integer expression in the one spelling of its sum; any other expression as it is."""
    return spelled(summed(e)) if kind(e) == "int" else e


def spelled(s: Sum) -> Expr:
    """A sum as an expression: what is added, what is subtracted, the constant.

    Terms that depend on an index come first, then all stand in alphabetical order.
    """
    result: Expr | None = None
    for term, coefficient in sorted(s.terms, key=lambda pair: (pair[1] < 0, _place(pair[0]))):
        scaled = term if abs(coefficient) == 1 else Apply("*", (term, number(abs(coefficient))))
        if result is None and coefficient < 0:
            result = Apply("-", (number(s.constant), scaled)) if s.constant > 0 else Apply("neg", (scaled,))
            s = Sum(s.terms, min(s.constant, 0))
        else:
            result = scaled if result is None else Apply("+" if coefficient > 0 else "-", (result, scaled))
    if result is None:
        return number(s.constant)
    if s.constant:
        return Apply("+" if s.constant > 0 else "-", (result, number(abs(s.constant))))
    return result


def sides(s: Sum) -> tuple[Expr, Expr]:
    """Two expressions whose difference is a sum: what is added, and what is subtracted from it."""
    left = Sum(tuple((t, c) for t, c in s.terms if c > 0), max(s.constant, 0))
    return spelled(left), spelled(left - s)


def product(a: Sum, b: Sum) -> Sum:
    """`a * b`, multiplied out where that stays short."""
    if not a.terms or not b.terms:
        return b.times(a.constant) if not a.terms else a.times(b.constant)
    if len(a.terms) * len(b.terms) > WIDEST:
        return Sum(((_product(spelled(a), spelled(b)), 1),))
    crossed = collect(
        ((_product(x, y), c * d) for x, c in a.terms for y, d in b.terms), a.constant * b.constant
    )
    return crossed + Sum(a.terms).times(b.constant) + Sum(b.terms).times(a.constant)


def quotient(a: Sum, b: Sum) -> Sum:
    """`a // b`, what is a multiple of `b` taken out: `(n*B + i) // B` is `n + i // B`, for any `B` but 0."""
    if not b.terms and b.constant > 0:
        whole = collect(
            ((t, c // b.constant) for t, c in a.terms if c % b.constant == 0), a.constant // b.constant
        )
        part = Sum(tuple((t, c) for t, c in a.terms if c % b.constant), a.constant % b.constant)
        return whole + _floored(part, number(b.constant)) if part.terms else whole
    divisor = spelled(b)
    whole, part = Sum(), Sum(constant=a.constant)
    for term, coefficient in a.terms:
        factor = _divided(term, divisor)
        if factor == Sum(constant=1) and coefficient > 0 > a.constant:
            # `(x + B - 1) // B` stays, or else its dividend could be negative
            part, coefficient = part + summed(term), coefficient - 1
        if factor is None:
            part += collect(((term, coefficient),), 0)
        else:
            whole += factor.times(coefficient)
    return whole + _floored(part, divisor) if part != Sum() else whole


def _floored(a: Sum, divisor: Expr) -> Sum:
    return Sum(((Apply("//", (spelled(a), divisor)), 1),))


def _divided(term: Expr, divisor: Expr) -> Sum | None:
    """`term // divisor` where the divisor is a factor of the term."""
    match term:
        case Apply(op="*", args=(a, b)) if divisor in (a, b):
            return summed(a if b == divisor else b)
        case _:
            return Sum(constant=1) if term == divisor else None


def _product(a: Expr, b: Expr) -> Expr:
    return Apply("*", tuple(sorted((a, b), key=_place)))


def _folded(op: str, args: tuple[Expr, ...]) -> Sum:
    """`min`, `max`, `abs` and `%`, evaluated where all arguments are literals; equal arguments are one."""
    match op, args:
        case "abs", (Literal(value=v),):
            return Sum(constant=abs(int(v)))
        case (("min" | "max"), (a, b)) if a == b:
            return summed(a)
        case (("min" | "max"), (Literal(value=v), Literal(value=w))):
            return Sum(constant=int(min(v, w) if op == "min" else max(v, w)))
        case "%", (Literal(value=v), Literal(value=w)) if w:
            return Sum(constant=int(v) % int(w))
        case _:
            return Sum(((Apply(op, args), 1),))


def _place(term: Expr) -> tuple[bool, str]:
    """Where a term stands among others."""
    return not free(term), text(term)


def text(e: Expr) -> str:
    """An expression as one word that no other expression has: a key to sort by, not to be read."""
    match e:
        case Index():
            return e.name
        case Literal():
            return repr(e.value)
        case Read():
            return f"{e.tensor.name}[{','.join(map(text, e.at))}]"
        case Apply():
            return f"{e.op}({','.join(map(text, e.args))})"
        case Choose():
            return f"if({text(e.condition)},{text(e.then)},{text(e.other)})"
        case Reduce():
            return f"{e.op}({','.join(i.name for i in e.over)};{text(e.where)};{text(e.body)})"
        case _:
            assert_never(e)
