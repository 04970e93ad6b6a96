"""Expression → whether it is known to be positive, or not negative, by its form and by what it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from attncc.ir.cascade import Apply, Choose, Expr, Literal, Read, Reduce, Tensor
from attncc.ir.logic import factors

Bodies = Mapping[Tensor, Expr]
"""What the equations say that are known."""


def positive(e: Expr, bodies: Bodies) -> bool:
    """Whether a value is > 0; that of a sum where it has terms, an extent where it is not 0."""
    match e:
        case Literal(value, sort):
            return sort != "bool" and value > 0
        case Apply("exp" | "exp2" | "extent" | "sigmoid" | "softplus"):
            return True
        case Apply("sqrt", (a,)):
            return positive(a, bodies)
        case Apply("*" | "/" | "min", (a, b)):
            return positive(a, bodies) and positive(b, bodies)
        case Apply("max", (a, b)):
            return positive(a, bodies) or positive(b, bodies)
        case Apply("+", (a, b)):
            one, other = positive(a, bodies), positive(b, bodies)
            return (one and nonnegative(b, bodies)) or (other and nonnegative(a, bodies))
        case Apply("**", (base, _)):
            return positive(base, bodies)
        case Choose(_, then, other):
            return positive(then, bodies) and positive(other, bodies)
        case Reduce("sum", body=body):
            return positive(body, bodies)
        case Read(tensor) if tensor in bodies:
            return positive(bodies[tensor], bodies)
        case _:
            return False


def nonnegative(e: Expr, bodies: Bodies) -> bool:
    """Whether a value is >= 0, a sum of nothing among them."""
    if positive(e, bodies):
        return True
    match e:
        case Literal(value, sort):
            return sort != "bool" and value >= 0
        case Apply("abs" | "relu" | "sqrt"):
            return True
        case Apply("**", (base, Literal(power))):
            return power % 2 == 0 or nonnegative(base, bodies)
        case Apply("**", (base, _)):
            return nonnegative(base, bodies)
        case Apply("*" | "/"):
            # a factor that stands there twice is a square
            up, down = factors(e)
            odd = [x for x, n in Counter(up + down).items() if n % 2]
            return all(nonnegative(x, bodies) for x in odd)
        case Apply("+" | "min", (a, b)):
            return nonnegative(a, bodies) and nonnegative(b, bodies)
        case Apply("max", (a, b)):
            return nonnegative(a, bodies) or nonnegative(b, bodies)
        case Choose(_, then, other):
            return nonnegative(then, bodies) and nonnegative(other, bodies)
        case Reduce("sum", body=body):
            return nonnegative(body, bodies)
        case Read(tensor) if tensor in bodies:
            return nonnegative(bodies[tensor], bodies)
        case _:
            return False
