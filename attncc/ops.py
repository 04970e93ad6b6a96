"""THE TABLE: every scalar function and every reduction of the language, one row each.

`symbolic` is the meaning as a sympy expression, from which derivatives and separations follow; `numeric` is
the meaning on float64 NumPy arrays. Both take the library as first argument: neither is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bool", "int", "float"]
"""What a value is: a predicate, an integer, or a real number."""


BITS = 29
LARGEST = 1 << BITS
"""Extents and the integers of a pattern stay below it, so that positions can be added to them in 32 bits."""


@dataclass(frozen=True)
class Function:
    """One scalar function: how many arguments, what comes out, and what it means.

    `result` is a kind, or "join" for the widest kind among the arguments. `takes` names what every argument
    must be: "bool", "number", "int" or "any".
    """

    arity: int
    takes: Literal["bool", "number", "int", "any"]
    result: Literal["bool", "int", "float", "join"]
    symbolic: Callable[..., Any]
    numeric: Callable[..., Any]


@dataclass(frozen=True)
class Reduction:
    """One reduction: a commutative monoid, or what `expand` makes of it.

    `keeps` says that the reduced index stays free in the result: a place among the members, one value per
    member. `result` is a kind, or "body" for the kind of the body.
    """

    takes: Literal["bool", "number", "any"]
    result: Literal["bool", "int", "float", "body"]
    identity: float | int | bool
    combine: str
    keeps: bool = False


def _divide(np: Any, a: Any, b: Any) -> Any:
    """Division in which 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return np.where(nothing, 0.0, a / np.where(nothing, 1.0, b))


def _inverse(np: Any, x: Any) -> Any:
    """1 / x, and of 0 the largest number, so that 0 times it is 0."""
    largest = np.finfo(np.float64).max
    small = np.abs(x) * largest < 1
    return np.where(small, largest, 1 / np.where(small, 1.0, x))


def _softplus(np: Any, x: Any) -> Any:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(np: Any, x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _sigmoid_s(sp: Any, x: Any) -> Any:
    return 1 / (1 + sp.exp(-x))


FUNCTIONS: dict[str, Function] = {
    # arithmetic
    "+": Function(2, "number", "join", lambda sp, a, b: a + b, lambda np, a, b: a + b),
    "-": Function(2, "number", "join", lambda sp, a, b: a - b, lambda np, a, b: a - b),
    "*": Function(2, "number", "join", lambda sp, a, b: a * b, lambda np, a, b: a * b),
    "/": Function(2, "number", "float", lambda sp, a, b: a / b, _divide),
    "//": Function(2, "int", "int", lambda sp, a, b: sp.floor(a / b), lambda np, a, b: np.floor_divide(a, b)),
    "%": Function(2, "int", "int", lambda sp, a, b: sp.Mod(a, b), lambda np, a, b: np.mod(a, b)),
    "**": Function(2, "number", "float", lambda sp, a, b: a**b, lambda np, a, b: np.power(a * 1.0, b)),
    "neg": Function(1, "number", "join", lambda sp, x: -x, lambda np, x: -x),
    # comparison and logic
    "<": Function(2, "number", "bool", lambda sp, a, b: sp.Lt(a, b), lambda np, a, b: a < b),
    "<=": Function(2, "number", "bool", lambda sp, a, b: sp.Le(a, b), lambda np, a, b: a <= b),
    ">": Function(2, "number", "bool", lambda sp, a, b: sp.Gt(a, b), lambda np, a, b: a > b),
    ">=": Function(2, "number", "bool", lambda sp, a, b: sp.Ge(a, b), lambda np, a, b: a >= b),
    "==": Function(2, "any", "bool", lambda sp, a, b: sp.Eq(a, b), lambda np, a, b: a == b),
    "!=": Function(2, "any", "bool", lambda sp, a, b: sp.Ne(a, b), lambda np, a, b: a != b),
    "and": Function(2, "bool", "bool", lambda sp, a, b: sp.And(a, b), lambda np, a, b: a & b),
    "or": Function(2, "bool", "bool", lambda sp, a, b: sp.Or(a, b), lambda np, a, b: a | b),
    "not": Function(1, "bool", "bool", lambda sp, x: sp.Not(x), lambda np, x: np.logical_not(x)),
    # functions by name
    "min": Function(2, "number", "join", lambda sp, a, b: sp.Min(a, b), lambda np, a, b: np.minimum(a, b)),
    "max": Function(2, "number", "join", lambda sp, a, b: sp.Max(a, b), lambda np, a, b: np.maximum(a, b)),
    "exp": Function(1, "number", "float", lambda sp, x: sp.exp(x), lambda np, x: np.exp(x)),
    "log": Function(1, "number", "float", lambda sp, x: sp.log(x), lambda np, x: np.log(x)),
    "sqrt": Function(1, "number", "float", lambda sp, x: sp.sqrt(x), lambda np, x: np.sqrt(x)),
    "tanh": Function(1, "number", "float", lambda sp, x: sp.tanh(x), lambda np, x: np.tanh(x)),
    "sigmoid": Function(1, "number", "float", _sigmoid_s, _sigmoid),
    "softplus": Function(1, "number", "float", lambda sp, x: sp.log(1 + sp.exp(x)), _softplus),
    "silu": Function(
        1, "number", "float", lambda sp, x: x * _sigmoid_s(sp, x), lambda np, x: x * _sigmoid(np, x)
    ),
    "relu": Function(1, "number", "join", lambda sp, x: sp.Max(x, 0), lambda np, x: np.maximum(x, 0)),
    "abs": Function(1, "number", "join", lambda sp, x: sp.Abs(x), lambda np, x: np.abs(x)),
    "floor": Function(1, "number", "int", lambda sp, x: sp.floor(x), lambda np, x: np.floor(x)),
    "round": Function(
        1, "number", "int", lambda sp, x: sp.floor(x + sp.Rational(1, 2)), lambda np, x: np.round(x)
    ),
    "sign": Function(1, "number", "join", lambda sp, x: sp.sign(x), lambda np, x: np.sign(x)),
    "sin": Function(1, "number", "float", lambda sp, x: sp.sin(x), lambda np, x: np.sin(x)),
    "cos": Function(1, "number", "float", lambda sp, x: sp.cos(x), lambda np, x: np.cos(x)),
    # `through(C, R)` is C, and the gradient that reaches it goes to R
    "through": Function(2, "any", "float", lambda sp, c, r: c, lambda np, c, r: c * 1.0),
    # what kernels compute exponentials by
    "exp2": Function(1, "number", "float", lambda sp, x: 2**x, lambda np, x: np.exp2(x)),
    # a maximum as a scale: that of nothing, -inf, scales by 0
    "finite": Function(1, "number", "float", lambda sp, x: x, lambda np, x: np.where(x == -np.inf, 0.0, x)),
    # a factor in place of a divisor: 0 times that of 0 is 0
    "inverse": Function(1, "number", "float", lambda sp, x: 1 / x, _inverse),
    # what a slope is divided by: nothing passes where that is 0
    "reciprocal": Function(
        1,
        "number",
        "float",
        lambda sp, x: 1 / x,
        lambda np, x: np.where(x == 0, 0.0, 1 / np.where(x == 0, 1.0, x)),
    ),
    # a maximum that is not a number where its first argument is none
    "not_below": Function(
        2, "number", "float", lambda sp, a, b: sp.Max(a, b), lambda np, a, b: np.maximum(a, b)
    ),
    # of every `turn` tiles the first `width` are live: how many of the first n are
    "live_before": Function(
        3,
        "int",
        "int",
        lambda sp, n, turn, width: sp.floor(n / turn) * width + sp.Min(sp.Mod(n, turn), width),
        lambda np, n, turn, width: n // turn * width + np.minimum(n % turn, width),
    ),
    # `|i|`: its argument is an index
    "extent": Function(1, "any", "int", lambda sp, n: n, lambda np, n: n),
}

NAMED = frozenset(n for n in FUNCTIONS if n.isalpha()) - {
    "and",
    "or",
    "not",
    "neg",
    "extent",
    "exp2",
    "finite",
    "inverse",
    "reciprocal",
    "not_below",
}
"""Functions a pattern calls by name: `exp(x)`."""

SLOPES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "+": lambda o, a, b: (1, 1),
    "-": lambda o, a, b: (1, -1),
    "*": lambda o, a, b: (b, a),
    "/": lambda o, a, b: (o("reciprocal", b), o("neg", o("*", o("/", a, b), o("reciprocal", b)))),
    "**": lambda o, a, b: (
        # a power of 0 is 1 whatever its base
        o("if", o("==", b, 0), 0, o("*", b, o("**", a, o("-", b, 1)))),
        o("if", o("==", a, 0), 0, o("*", o("**", a, b), o("log", a))),
    ),
    "neg": lambda o, x: (-1,),
    # equal ones have half each
    "min": lambda o, a, b: (
        o("if", o("<", a, b), 1, o("if", o("==", a, b), 0.5, 0)),
        o("if", o("<", b, a), 1, o("if", o("==", a, b), 0.5, 0)),
    ),
    "max": lambda o, a, b: (
        o("if", o(">", a, b), 1, o("if", o("==", a, b), 0.5, 0)),
        o("if", o(">", b, a), 1, o("if", o("==", a, b), 0.5, 0)),
    ),
    "exp": lambda o, x: (o("exp", x),),
    "log": lambda o, x: (o("reciprocal", x),),
    "sqrt": lambda o, x: (o("*", 0.5, o("reciprocal", o("sqrt", x))),),
    "tanh": lambda o, x: (o("-", 1, o("*", o("tanh", x), o("tanh", x))),),
    "sigmoid": lambda o, x: (o("*", o("sigmoid", x), o("sigmoid", o("neg", x))),),
    "softplus": lambda o, x: (o("sigmoid", x),),
    "silu": lambda o, x: (o("*", o("sigmoid", x), o("+", 1, o("*", x, o("sigmoid", o("neg", x))))),),
    "relu": lambda o, x: (o("if", o(">", x, 0), 1, 0),),
    "abs": lambda o, x: (o("sign", x),),
    "sin": lambda o, x: (o("cos", x),),
    "cos": lambda o, x: (o("neg", o("sin", x)),),
    # the gradient of a choice goes to what it was made by
    "through": lambda o, c, r: (0, 1),
    "finite": lambda o, x: (1,),
}
"""The derivative of a function in each argument, written with `o`: `o("*", a, b)`, `o("if", c, a, b)`.
Functions without a row are steps, or none of real numbers.
"""

INF = float("inf")

REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction("number", "body", 0, "+"),
    "prod": Reduction("number", "body", 1, "*"),
    "max": Reduction("number", "body", -INF, "max"),
    "min": Reduction("number", "body", INF, "min"),
    "any": Reduction("bool", "bool", False, "or"),
    "all": Reduction("bool", "bool", True, "and"),
    # lowest index among equals; of nothing, 0
    "argmax": Reduction("number", "int", 0, "argmax"),
    "argmin": Reduction("number", "int", 0, "argmin"),
    # `expand` writes it as a sum over a count; of nothing, 0
    "mean": Reduction("number", "float", 0, "mean"),
    # members in falling order of the body, equal ones by rising index: how many stand before, and their sum
    "rank": Reduction("number", "int", 0, "rank", keeps=True),
    "ahead": Reduction("number", "float", 0, "ahead", keeps=True),
}
