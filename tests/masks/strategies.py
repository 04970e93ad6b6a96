"""Random masks as trees: what published patterns are made of, joined by `and`, `or`, `not` and `if`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st

from tests.masks.pairs import (
    FALSE,
    TRUE,
    H,
    K,
    Pair,
    Q,
    aligned,
    choose,
    const,
    h,
    k,
    least,
    length,
    most,
    q,
    scalar,
    size,
    table,
)

T = TypeVar("T")

SORTED = frozenset({"start", "limit", "doc"})
"""Tables that never fall."""


@dataclass(frozen=True)
class Case:
    """A mask, the values of its names, and a size of tile."""

    mask: Pair
    env: dict[str, Any]
    block_q: int
    block_k: int


class Pick(Protocol):
    """Where a random mask's numbers come from: Hypothesis, which shrinks, or a seed, which repeats."""

    def integer(self, low: int, high: int) -> int: ...

    def one(self, of: Sequence[T]) -> T: ...


@dataclass(frozen=True)
class Drawn:
    """From Hypothesis, whose draws depend on the modules a process has loaded: no sample for a statistic."""

    draw: st.DrawFn

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one(self, of: Sequence[T]) -> T:
        return self.draw(st.sampled_from(of))


@dataclass(frozen=True)
class Seeded:
    """From a seed."""

    random: Random

    def integer(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def one(self, of: Sequence[T]) -> T:
        return self.random.choice(of)


@st.composite
def cases(draw: st.DrawFn, tests: bool = True, largest: int = 200) -> Case:
    """A random mask of random size; without element tests if not `tests`."""
    return case(Drawn(draw), tests, largest)


def case(pick: Pick, tests: bool = True, largest: int = 200) -> Case:
    """The same, from any source of numbers."""
    columns = pick.integer(1, largest)
    rows = columns if pick.one((True, False)) else pick.integer(1, largest)
    env: dict[str, Any] = {"|q|": rows, "|k|": columns, "|h|": 4, "h": pick.integer(0, 3)}
    random = np.random.default_rng(pick.integer(0, 2**32))
    env["start"] = np.sort(random.integers(0, columns + 1, rows))
    env["limit"] = np.sort(random.integers(-5, columns + 9, columns))
    env["span"] = random.integers(0, 60, 4)
    env["doc"] = np.sort(random.integers(0, 5, columns))
    env["reach"] = random.integers(0, 50, rows)
    env["picked"] = random.integers(0, 2, rows)
    env["keep"] = random.integers(0, 2, columns)
    mask = _predicate(pick, env, tests, pick.one((1, 0, 0, 1, 2, 2, 3)))
    tile = pick.one((8, 16, 32, 0, 0))
    return Case(mask, env, pick.integer(5, 40), tile or pick.integer(5, 40))


def _predicate(pick: Pick, env: dict[str, Any], tests: bool, depth: int) -> Pair:
    if depth == 0:
        return _atom(pick, env, tests)

    def part() -> Pair:
        return _predicate(pick, env, tests, depth - 1)

    match pick.one(("and", "and", "or", "or", "not", "if head", "if")):
        case "and":
            return part() & part()
        case "or":
            return part() | part()
        case "not":
            return ~part()
        case "if head":
            return choose(h < pick.integer(0, 4), part(), part())
        case _:
            return choose(part(), part(), part())


def _number(pick: Pick, env: dict[str, Any], low: int, high: int) -> Pair:
    """A number in the text, or one known at run time, or when the kernel is compiled."""
    value, form = pick.integer(low, high), pick.one(("literal", "scalar", "static"))
    if form == "literal":
        return const(value)
    name = f"n{len(env)}"
    env[name] = value
    return scalar(name, static=form == "static" and value > 0)


def env_block(pick: Pick, env: dict[str, Any]) -> Pair:
    """Blocks as large as tiles can be, or of which some make a tile."""
    return _number(pick, env, *pick.one(((8, 8), (16, 16), (16, 16), (32, 32), (4, 4))))


def _atom(pick: Pick, env: dict[str, Any], tests: bool) -> Pair:
    def n(low: int, high: int) -> Pair:
        return _number(pick, env, low, high)

    row = pick.one((aligned, aligned, q))
    kinds = BOUNDS + TESTS if tests else BOUNDS
    match pick.one(kinds):
        case "causal":
            return k <= row + n(-30, 30)
        case "strict":
            return row > k
        case "window":
            return row - k < n(-3, 80)
        case "both sides":
            return size(row - k) <= n(-2, 40)
        case "sinks":
            return k < n(-1, 30)
        case "prefix":
            return least(k, n(0, 60)) <= row - n(0, 20)
        case "chunk":
            block = n(1, 50)
            return (k // block).equals(row // block)
        case "chunks":
            block, offset = n(1, 40), n(-20, 20)
            return (row + offset) // block - (k + offset) // block < n(-1, 3)
        case "past chunk":
            block = n(1, 40)
            return k // block < row // block
        case "strided":
            return k * n(1, 5) + n(-3, 9) <= row
        case "slanted":
            return k <= row // n(1, 4) * pick.integer(0, 3) + n(-9, 9)
        case "falling":
            return k + row < n(0, 250)
        case "rows":
            return row < n(-5, 100)
        case "late rows":
            return row // n(1, 20) >= n(0, 9)
        case "one row":
            return row.equals(n(0, 100))
        case "diagonal":
            return k.differs(row)
        case "neighbourhood":
            window = n(1, 40)
            first = most(least(row - window // 2, length(K) - window), const(0))
            return (k >= first) & (k < first + window)
        case "extremes":
            return most(k - n(0, 30), n(-5, 50)) < most(row, n(0, 90))
        case "distance":
            return k >= size(row - n(0, 100))
        case "document":
            return k >= table("start", Q, q)
        case "limit":
            return k < table("limit", K, row + pick.integer(-2, 2))
        case "head":
            return h >= n(0, 4)
        case "head window":
            return row - k < table("span", H, h)
        case "head choice":
            return row - k < choose(h < n(0, 4), n(0, 60), n(0, 30))
        case "always":
            return TRUE
        case "never":
            return FALSE
        case "dilation":
            return ((row - k) % n(1, 6)).equals(0)
        case "residue":
            return ((k // n(1, 12) + h * n(0, 3)) % n(1, 5)).equals(n(0, 3))
        case "shards":
            return ((k // env_block(pick, env) + h * n(0, 3)) % n(2, 9)).equals(0)
        case "summaries":
            return (k + n(-9, 9)) % env_block(pick, env) >= n(-1, 9)
        case "gaps":
            return (k // env_block(pick, env) % n(2, 5)).differs(0)
        case "shifted shards":
            return (((k + n(-30, 30)) // env_block(pick, env)) % n(2, 9)).equals(n(0, 3))
        case "reach":
            return row - k < table("reach", Q, q)
        case "picked rows":
            return table("picked", Q, q) > 0
        case "kept columns":
            return table("keep", K, k) > 0
        case "slope":
            return k <= row * n(-2, 3) + n(-9, 60)
        case "even rows":
            return (row % n(1, 4)).equals(0)
        case "same document":
            return table("doc", K, k).equals(table("doc", K, aligned))
        case "choice":
            return k <= choose((row % 3).equals(1), row, row - 9)
        case _:
            return k % n(2, 9) <= row % n(2, 9)


BOUNDS = (
    *(
        "causal",
        "strict",
        "window",
        "both sides",
        "sinks",
        "prefix",
        "chunk",
        "chunks",
        "past chunk",
        "strided",
    ),
    *(
        "slanted",
        "falling",
        "rows",
        "late rows",
        "one row",
        "diagonal",
        "neighbourhood",
        "extremes",
        "distance",
    ),
    *("document", "limit", "head", "head window", "head choice", "always", "never"),
)
TESTS = (
    "summaries",
    "gaps",
    "shards",
    "shards",
    "shifted shards",
    "reach",
    "picked rows",
    "kept columns",
    "slope",
    "dilation",
    "residue",
    "even rows",
    "same document",
    "choice",
    "residues",
)
