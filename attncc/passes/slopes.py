"""Expression → what it passes on to each read in it, for a weight that reaches it: one step of reverse mode.

    w reaches a * b      -->   w * b reaches a,  w * a reaches b
    w reaches x / b      -->   -w * (x / b) / b reaches b
    w reaches x * exp(u) -->   w * (x * exp(u)) reaches u
    w reaches T = log(x) -->   w * exp(-T) reaches x

In the last three the value itself stands again, where a plain derivative would take it apart: it is known, as
an output is, and sums over it are found that would otherwise be another pass (theory §A.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from attncc.ir.cascade import (
    Apply,
    Choose,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    children,
    free,
    kind,
    number,
    reads,
    rebuild,
)
from attncc.ir.logic import conjoin, factors, is_literal, negated, quotient, times
from attncc.ir.sign import Bodies, positive
from attncc.ops import SLOPES

NEAR = 1e-5
"""How far from the largest a term may be, as a part of it, or of 1, to count as equal to it."""


@dataclass(frozen=True)
class Part:
    """`weight` reaches `read`, at every position of `over` where `where` holds; `over` are the equation's own
    indices and those of the reductions around the read.
    """

    read: Read
    weight: Expr
    where: Expr
    over: tuple[Index, ...]


@dataclass(frozen=True)
class Slopes:
    """What is differentiated: the reads that pass a gradient on, and what is known of the others."""

    active: Callable[[Read], bool]
    bodies: Bodies

    def parts(self, equation: Equation, weight: Expr) -> Iterator[Part]:
        """What reaches the reads of an equation, of a weight that reaches its tensor."""
        own = equation.tensor
        here = Part(Read(own, own.indices), weight, conjoin(()), own.indices)
        yield from self._through(equation.body, here, here.read)

    def _through(self, e: Expr, at: Part, known: Expr) -> Iterator[Part]:
        """The parts of an expression; `known` is how its value is written."""
        if not any(map(self.active, reads(e))) or kind(e) != "float":
            return
        match e:
            case Read():
                yield replace(at, read=e)
            case Reduce("sum"):
                inside = replace(at, where=conjoin((at.where, e.where)), over=(*at.over, *e.over))
                yield from self._through(e.body, inside, e.body)
            case Reduce("max" | "min"):
                # equal ones share it; what is computed again is equal up to rounding
                best = Apply("finite", (known,)) if isinstance(known, Read) else known
                below = (best, e.body) if e.op == "max" else (e.body, best)
                near = Apply("*", (number(NEAR), Apply("+", (number(1.0), Apply("abs", (best,))))))
                among = Apply("<=", (Apply("-", below), near))
                ties = replace(e, op="sum", where=conjoin((e.where, among)), body=number(1.0))
                inside = replace(at, where=conjoin((at.where, e.where, among)), over=(*at.over, *e.over))
                inside = replace(inside, weight=Apply("/", (at.weight, ties)))
                yield from self._through(e.body, inside, e.body)
            case Choose(Apply("==", (x, zero)) as none, zero_too, other) if (
                is_literal(zero, 0) and is_literal(zero_too, 0) and x in factors(other)[0] and _steady(other)
            ):
                there = replace(at, where=conjoin((at.where, negated(none))))
                yield from self._of_nothing(x, other, at, there)
            case Choose(condition, then, other):
                first = replace(at, where=conjoin((at.where, condition)))
                yield from self._through(then, first, then)
                second = replace(at, where=conjoin((at.where, negated(condition))))
                yield from self._through(other, second, other)
            case Apply("*" | "/"):
                yield from self._product(e, at, known)
            case Apply("exp", (x,)):
                yield from self._through(x, replace(at, weight=times(at.weight, known)), x)
            case Apply("log", (x,)) if isinstance(known, Read):
                slope = Apply("exp", (Apply("neg", (Apply("finite", (known,)),)),))
                yield from self._through(x, replace(at, weight=times(at.weight, slope)), x)
            case Apply("max" | "min" as op, (a, b)) if _is_number(a) or _is_number(b):
                # clamped at a number: what is equal to it still moves
                x, limit = (b, a) if _is_number(a) else (a, b)
                passes = Apply(">=" if op == "max" else "<=", (x, limit))
                weight = times(at.weight, Choose(passes, number(1.0), number(0.0)))
                yield from self._through(x, replace(at, weight=weight), x)
            case Apply(op, args) if op in SLOPES:
                for slope, x in zip(SLOPES[op](_apply, *args), args, strict=True):
                    step = _expression(slope)
                    if not is_literal(step, 0):
                        yield from self._through(x, replace(at, weight=_weighed(at.weight, step)), x)
            case _:
                return

    def _of_nothing(self, x: Expr, e: Expr, at: Part, there: Part) -> Iterator[Part]:
        """The parts of a product that is 0 where its factor `x` is, whatever the others are: what reaches `x`
        is all the others, where they are numbers; these are reached `there`, where it is not 0.
        """
        up, down = factors(e)
        up.remove(x)
        weight = self._over(times(at.weight, self._tame(quotient(up, []))), down)
        yield from self._through(x, replace(at, weight=weight), x)
        rest = quotient(up, down)
        yield from self._through(rest, replace(there, weight=times(there.weight, x)), rest)

    def _tame(self, e: Expr) -> Expr:
        """A value whose divisions are 0 where a divisor is."""
        e = rebuild(e, tuple(map(self._tame, children(e))))
        return self._over(e.args[0], [e.args[1]]) if isinstance(e, Apply) and e.op == "/" else e

    def _product(self, e: Expr, at: Part, known: Expr) -> Iterator[Part]:
        up, down = factors(e)
        for n, x in enumerate(up):
            match x:
                case Apply("exp", (u,)):
                    yield from self._through(u, replace(at, weight=times(at.weight, known)), u)
                case _:
                    rest = quotient(up[:n] + up[n + 1 :], [])
                    weight = self._over(times(at.weight, rest), down)
                    yield from self._through(x, replace(at, weight=weight), x)
        for x in down:
            weight = self._over(Apply("neg", (times(at.weight, known),)), [x])
            yield from self._through(x, replace(at, weight=weight), x)

    def _over(self, weight: Expr, divisors: list[Expr]) -> Expr:
        """A weight divided; nothing passes where a divisor is 0."""
        sure = [x for x in divisors if positive(x, self.bodies) and not _sums(x, self.bodies)]
        for x in divisors:
            if x not in sure:
                weight = times(weight, Apply("reciprocal", (x,)))
        return quotient([weight], sure)


STEADY = ("+", "-", "*", "/", "neg", "exp", "finite", "abs", "sigmoid", "tanh", "reciprocal", "extent")
"""Functions that have a value wherever their arguments have."""


def _steady(e: Expr) -> bool:
    """Whether an expression has a value everywhere, but for divisions by 0."""
    match e:
        case Apply("**", (a, Literal(n, "int"))) if n > 0:
            return _steady(a)
        case Apply(op) if op not in STEADY:
            return False
        case Reduce() | Choose():
            return False
        case Read():
            return True
        case _:
            return all(map(_steady, children(e)))


def _sums(e: Expr, bodies: Bodies) -> bool:
    """Whether a value may be a sum of nothing."""
    inside = [bodies[r.tensor] for r in reads(e) if r.tensor in bodies]
    return any(isinstance(x, Reduce) for x in inside) or any(_sums(x, bodies) for x in inside)


def _is_number(e: Expr) -> bool:
    """Whether a value is one number for all, known at the call."""
    return not free(e) and all(r.tensor.origin in ("scalar", "static") for r in reads(e))


def _weighed(weight: Expr, slope: Expr) -> Expr:
    if is_literal(slope, -1):
        return Apply("neg", (weight,))
    return times(weight, slope)


def _expression(e: Any) -> Expr:
    return number(e) if isinstance(e, int | float) else e


def _apply(op: str, *args: Any) -> Expr:
    """An operation as the table of slopes writes it, numbers among its arguments."""
    said = tuple(map(_expression, args))
    match op, said:
        case "==", (Literal(a), Literal(b)):
            return Literal(a == b, "bool")
        case "if", (Literal(True, "bool"), then, _):
            return then
        case "if", (Literal(False, "bool"), _, other):
            return other
        case "if", (condition, then, other):
            return Choose(condition, then, other)
        case "-", (Literal(a, "int"), Literal(b, "int")):
            return number(a - b)
        case "**", (a, b) if is_literal(b, 1):
            return a
        case _:
            return Apply(op, said)
