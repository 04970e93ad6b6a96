"""A term → how many products `g(x) * h(d)` it is at least a sum of, by samples (theory §A.5, step 5).

With F(x, d) at n random x and n random d, the rank of the matrix of values is a lower bound. Where it still
grows with n no state of constant size follows F as d changes. Of so many samples nothing is proved: they word
a refusal. A rank on a few that is far above rounding tells what need not be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, assert_never

import numpy as np

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, children, free, kind, reads
from attncc.ir.logic import bare
from attncc.ops import FUNCTIONS

SAMPLES = (12, 24)
DIGITS = 60
NOTHING = 40
"""Digits after which what is left of a matrix is rounding."""

CLEAR = 1e-9
"""What is no rounding of double precision, next to the largest singular value."""

RANGES = ((-3.0, 3.0), (0.2, 1.8))
"""Where numbers are drawn: of either sign, or where roots and logarithms have values."""


@dataclass(frozen=True)
class Rank:
    """The least rank that the first samples allow, and all of them."""

    few: int
    many: int

    @property
    def grows(self) -> bool:
        return self.many > self.few


class _Undefined(Exception):
    """The term has no real value at a sample, or none that can be told."""


Values = dict[Expr, Any]


@lru_cache(maxsize=256)
def separation_rank(term: Expr, along: frozenset[Index], moving: tuple[Expr, ...]) -> Rank | None:
    """The rank of a term that varies along some indices, apart from `moving`, the parts that change with what
    it waits for; None where it has no value to sample.
    """
    import mpmath

    mp = mpmath.MPContext()
    mp.dps = DIGITS
    for low, high in RANGES:
        try:
            matrix = _sampled(term, along, moving, _Numbers(mp, low, high))
        except _Undefined:
            continue
        few, many = (_rank([row[:n] for row in matrix[:n]], mp) for n in SAMPLES)
        return Rank(few, many)
    return None


def outranks(term: Expr, along: frozenset[Index], moving: tuple[Expr, ...], most: int) -> bool:
    """Whether a term is surely no sum of `most` products of what varies along some indices and what moves."""
    moving = moving_reads(moving)
    return any(_outranks(term, along, moving, most, low, high) for low, high in RANGES)


def _outranks(
    term: Expr, along: frozenset[Index], moving: tuple[Expr, ...], most: int, low: float, high: float
) -> bool:
    random = Random(0)
    size = most + 4

    def drawn(e: Expr) -> Any:
        rows, columns = (1, size) if e in moving else (size, 1) if free(e) & along else (1, 1)
        ends = (1, 9) if kind(e) == "int" else (low, high)
        found = np.array([random.uniform(*ends) for _ in range(rows * columns)]).reshape(rows, columns)
        return found > (low + high) / 2 if kind(e) == "bool" else found

    try:
        with np.errstate(all="ignore"):
            values = _grid(term, {e: drawn(e) for e in _leaves(term, moving)})
    except _Undefined:
        return False
    values = np.broadcast_to(values, (size, size))
    if not np.isfinite(values).all():
        return False
    singular = np.linalg.svd(values, compute_uv=False)
    return bool(singular[most] > CLEAR * singular[0])


def _grid(e: Expr, values: Mapping[Expr, Any]) -> Any:
    if e in values:
        return values[e]
    match e:
        case Literal(value):
            return value
        case Choose(condition, then, other):
            return np.where(*(_grid(x, values) for x in (condition, then, other)))
        case Apply(op, args) if op != "extent":
            return FUNCTIONS[op].numeric(np, *(_grid(a, values) for a in args))
        case _:
            raise _Undefined


def _sampled(
    term: Expr, along: frozenset[Index], moving: tuple[Expr, ...], numbers: _Numbers
) -> list[list[Any]]:
    """The values at all samples; `_Undefined` where one has none."""
    random = Random(0)
    leaves = _leaves(term, moving)
    fixed = {e: _drawn(e, random, numbers) for e in leaves if not free(e) & along and e not in moving}
    varying = [e for e in leaves if e not in fixed and e not in moving]
    size = SAMPLES[-1]
    rows = [{e: _drawn(e, random, numbers) for e in varying} for _ in range(size)]
    columns = [{e: _drawn(e, random, numbers) for e in moving} for _ in range(size)]
    # what does not change along a row or a column is computed once for it
    rows = [_known(term, fixed | row, numbers) for row in rows]
    columns = [_known(term, fixed | column, numbers) for column in columns]
    return [[_value(term, row | column, numbers) for column in columns] for row in rows]


def _leaves(e: Expr, moving: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """What a value is drawn for, in order."""
    if e in moving or isinstance(e, Read | Index) or (isinstance(e, Apply) and e.op == "extent"):
        return (e,)
    return tuple(dict.fromkeys(x for part in children(e) for x in _leaves(part, moving)))


def _drawn(e: Expr, random: Random, numbers: _Numbers) -> Any:
    match kind(e):
        case "bool":
            return random.random() < 0.5
        case "int":
            return numbers.mp.mpf(random.randint(1, 100))
        case "float":
            return numbers.mp.mpf(random.uniform(numbers.low, numbers.high))
        case other:
            assert_never(other)


def _known(e: Expr, values: Values, numbers: _Numbers) -> Values:
    """The values of the widest parts that some values tell, and those values."""
    if all(x in values for x in _leaves(e, tuple(values))):
        return values | {e: _value(e, values, numbers)}
    parts = (_known(part, values, numbers) for part in children(e))
    return values | {x: v for known in parts for x, v in known.items()}


def _value(e: Expr, values: Mapping[Expr, Any], numbers: _Numbers) -> Any:
    if e in values:
        return values[e]
    match e:
        case Literal(value):
            return value if e.kind == "bool" else numbers.mp.mpf(value)
        case Choose(condition, then, other):
            return _value(then if _value(condition, values, numbers) else other, values, numbers)
        case Apply(op, args) if op != "extent":
            try:
                found = FUNCTIONS[op].numeric(numbers, *(_value(a, values, numbers) for a in args))
            except (ArithmeticError, ValueError):
                raise _Undefined from None
            if isinstance(found, numbers.mp.mpc) or (isinstance(found, numbers.mp.mpf) and found != found):
                raise _Undefined
            return found
        case _:
            raise _Undefined


class _Numbers:
    """What the table asks of NumPy, for single numbers of many digits, and from where they are drawn."""

    def __init__(self, mp: Any, low: float, high: float):
        self.mp, self.low, self.high = mp, low, high
        self.inf = mp.inf
        self.exp, self.log, self.sqrt, self.tanh = mp.exp, mp.log, mp.sqrt, mp.tanh
        self.log1p, self.sin, self.cos, self.sign = mp.log1p, mp.sin, mp.cos, mp.sign
        self.floor, self.round, self.power = mp.floor, mp.nint, mp.power
        self.abs: Callable[[Any], Any] = abs
        self.maximum, self.minimum = max, min

    def where(self, condition: Any, then: Any, other: Any) -> Any:
        return then if condition else other

    def floor_divide(self, a: Any, b: Any) -> Any:
        return self.mp.floor(a / b)

    def mod(self, a: Any, b: Any) -> Any:
        return a - b * self.mp.floor(a / b)

    def exp2(self, x: Any) -> Any:
        return self.mp.power(2, x)

    def logical_not(self, x: Any) -> bool:
        return not x


def _rank(matrix: list[list[Any]], mp: Any) -> int:
    """By elimination around the greatest element that is left."""
    rest = [list(row) for row in matrix]
    greatest = max(abs(x) for row in rest for x in row)
    for found in range(len(matrix)):
        size, r, c = max((abs(x), r, c) for r, row in enumerate(rest) for c, x in enumerate(row))
        if size <= greatest * mp.mpf(10) ** -NOTHING:
            return found
        pivot = rest.pop(r)
        rest = [
            [x - row[c] / pivot[c] * y for n, (x, y) in enumerate(zip(row, pivot, strict=True)) if n != c]
            for row in rest
        ]
        if not rest:
            return found + 1
    return len(matrix)


def moving_reads(moving: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """`moving`, or the reads in them where two share one: what is drawn on its own changes on its own."""
    parts = tuple(dict.fromkeys(map(bare, moving)))
    inside = [r for e in parts for r in reads(e)]
    return parts if len(inside) == len(set(inside)) else tuple(dict.fromkeys(inside))
