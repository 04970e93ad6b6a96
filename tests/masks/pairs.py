"""Expressions that carry their own meaning: each is built together with the NumPy code that it stands for.

The tests compare what the compiler concludes from the expression with what that code computes; the two share
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncc.ir.cascade import Apply, Choose, Expr, Index, Read, Tensor, extent, number

Q = Index("q", "sequence", "position")
K = Index("k", "sequence", "position")
H = Index("h", "batch", "head")

Array = np.ndarray[Any, Any]
Meaning = Callable[[Mapping[str, Any]], tuple[Any, Any]]
"""Values of the names to (value, where there is one)."""


@dataclass(frozen=True)
class Pair:
    """An expression and its meaning."""

    e: Expr
    meaning: Meaning

    def __add__(self, other: Pair | int) -> Pair:
        return pair("+", lambda a, b: a + b, self, other)

    def __sub__(self, other: Pair | int) -> Pair:
        return pair("-", lambda a, b: a - b, self, other)

    def __mul__(self, other: Pair | int) -> Pair:
        return pair("*", lambda a, b: a * b, self, other)

    def __floordiv__(self, other: Pair | int) -> Pair:
        return pair("//", lambda a, b: a // b, self, other)

    def __mod__(self, other: Pair | int) -> Pair:
        return pair("%", lambda a, b: a % b, self, other)

    def __lt__(self, other: Pair | int) -> Pair:
        return pair("<", lambda a, b: a < b, self, other)

    def __le__(self, other: Pair | int) -> Pair:
        return pair("<=", lambda a, b: a <= b, self, other)

    def __gt__(self, other: Pair | int) -> Pair:
        return pair(">", lambda a, b: a > b, self, other)

    def __ge__(self, other: Pair | int) -> Pair:
        return pair(">=", lambda a, b: a >= b, self, other)

    def equals(self, other: Pair | int) -> Pair:
        return pair("==", lambda a, b: a == b, self, other)

    def differs(self, other: Pair | int) -> Pair:
        return pair("!=", lambda a, b: a != b, self, other)

    def __and__(self, other: Pair) -> Pair:
        return joined("and", self, other)

    def __or__(self, other: Pair) -> Pair:
        return joined("or", self, other)

    def __invert__(self) -> Pair:
        return pair("not", np.logical_not, self)


def pair(op: str, meaning: Callable[..., Any], *args: Pair | int) -> Pair:
    """A function of other pairs; it has a value where all of them have one."""
    parts = [a if isinstance(a, Pair) else const(a) for a in args]

    def both(env: Mapping[str, Any]) -> tuple[Any, Any]:
        found = [p.meaning(env) for p in parts]
        present: Any = True
        for _, there in found:
            present = np.logical_and(present, there)
        return meaning(*(value for value, _ in found)), present

    return Pair(Apply(op, tuple(p.e for p in parts)), both)


def joined(op: str, a: Pair, b: Pair) -> Pair:
    """`and` or `or` of three-valued logic: one side without a value leaves what the other settles."""

    def meaning(env: Mapping[str, Any]) -> tuple[Any, Any]:
        (a_, left), (b_, right) = a.meaning(env), b.meaning(env)
        settles = op == "or"
        settled = np.logical_or(
            np.logical_and(left, np.equal(a_, settles)), np.logical_and(right, np.equal(b_, settles))
        )
        return np.where(settled, settles, not settles), np.logical_or(settled, np.logical_and(left, right))

    return Pair(Apply(op, (a.e, b.e)), meaning)


def const(value: int | bool) -> Pair:
    """A literal."""
    return Pair(number(value), lambda env: (value, True))


def least(a: Pair, b: Pair | int) -> Pair:
    return pair("min", np.minimum, a, b)


def most(a: Pair, b: Pair | int) -> Pair:
    return pair("max", np.maximum, a, b)


def size(a: Pair) -> Pair:
    return pair("abs", np.abs, a)


def choose(c: Pair, a: Pair, b: Pair) -> Pair:
    """`if c then a else b`: only the branch taken has to have a value, the second where `c` has none."""

    def meaning(env: Mapping[str, Any]) -> tuple[Any, Any]:
        (c_, there), (a_, left), (b_, right) = (p.meaning(env) for p in (c, a, b))
        taken = np.logical_and(c_, there)
        return np.where(taken, a_, b_), np.where(taken, left, right)

    return Pair(Choose(c.e, a.e, b.e), meaning)


def scalar(name: str, static: bool = False) -> Pair:
    """An integer known at run time, or when a kernel is compiled."""
    tensor = Tensor(name, (), "int", "static" if static else "scalar")
    return Pair(Read(tensor, ()), lambda env: (env[name], True))


def table(name: str, axis: Index, at: Pair) -> Pair:
    """An element of a table over one index."""

    def meaning(env: Mapping[str, Any]) -> tuple[Any, Any]:
        where, present = at.meaning(env)
        elements = np.asarray(env[name])
        inside = np.logical_and(where >= 0, where < len(elements))
        safe = np.clip(where, 0, max(len(elements) - 1, 0))
        return (elements[safe] if len(elements) else safe * 0), np.logical_and(present, inside)

    return Pair(Read(Tensor(name, (axis,), "int", "table"), (at.e,)), meaning)


def length(index: Index) -> Pair:
    return Pair(extent(index), lambda env: (env[f"|{index.name}|"], True))


def position(index: Index) -> Pair:
    return Pair(index, lambda env: (env[index.name], True))


q, k, h = position(Q), position(K), position(H)
aligned = q + (length(K) - length(Q))
TRUE, FALSE = const(True), const(False)


def cells(p: Pair, env: Mapping[str, Any]) -> Array:
    """Where a predicate holds, rows by columns, by brute force."""
    rows, columns = env["|q|"], env["|k|"]
    value, present = p.meaning({**env, "q": np.arange(rows)[:, None], "k": np.arange(columns)[None, :]})
    return np.broadcast_to(np.logical_and(value, present), (rows, columns))
