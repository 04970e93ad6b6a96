"""Masks → what rows see at lengths, heads and numbers that are tried: what is found is there to be believed.

A `Trial` is one call: every sequence has one length, every number its default, or a small one where it has
none. Short lengths are looked at whole, a long one at places where something may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias
from typing import Literal as OneOf

import numpy as np

from attncc.calls import divisors, extents
from attncc.ir.cascade import Cascade, Index, reads
from attncc.lint.seen import Mask
from attncc.masks.integers import at, values
from attncc.masks.normal import total

Array: TypeAlias = np.ndarray[Any, Any]

Errors: TypeAlias = OneOf["ignore", "raise"]
"""What becomes of a division by 0, and the like."""

SHORT = (1, 2, 3, 5, 8, 16, 33, 64)
"""Lengths that are looked at whole."""

LONG = 4096
"""The least long length."""

LONGEST = 1 << 20
"""The greatest; where numbers are larger, less is found."""

PLACES = 240
"""So many places of a long sequence are looked at."""

HEADS = 8
"""Heads where the mask differs between them."""

MANY = 64
"""Heads where it takes many to tell."""

FEATURES = 16
"""The extent of every feature index."""

UNSAID = (3, 16)
"""What a number without a default is taken to be, in turn."""


MEANINGLESS = (KeyError, ValueError, ZeroDivisionError, IndexError, ArithmeticError, TypeError)
"""What numbers raise that make no sense together."""


@dataclass(frozen=True)
class Trial:
    """One call: what names stand for, and the places of a sequence of `length` that are looked at."""

    length: int
    places: Array
    env: Mapping[str, Any]
    numbers: tuple[tuple[str, int], ...]

    @property
    def whole(self) -> bool:
        """Whether every place is looked at."""
        return self.places.size == self.length

    def said(self, mask: Mask, head: Mapping[str, int]) -> str:
        """`with 64 positions, window = 16, head h = 2 of 8`"""
        wanted = {r.tensor.name for r in reads(mask.where)}
        parts = [f"{self.length:,} positions" if self.length > 1 else "1 position"]
        parts += [f"{name} = {value}" for name, value in self.numbers if name in wanted]
        parts += [f"{name} = {n} of {self.env[f'|{name}|']}" for name, n in head.items()]
        return ", ".join(parts)


def trials(cascade: Cascade, count: int = HEADS) -> tuple[Trial, ...]:
    """The calls with `count` heads that are tried, short ones first; none where an extent has no meaning."""
    defaults = {n: v for n, v in cascade.defaults if isinstance(v, int) and not isinstance(v, bool)}
    unsaid = [t.name for t in cascade.inputs if not t.indices and t.kind == "int" and t.name not in defaults]
    truths = {n: v for n, v in cascade.defaults if isinstance(v, bool)}
    truths |= {t.name: True for t in cascade.inputs if not t.indices and t.kind == "bool"} | truths
    found = []
    for value in UNSAID if unsaid else UNSAID[:1]:
        numbers = {**defaults, **dict.fromkeys(unsaid, value)}
        if any(numbers.get(name, 1) < 1 for name in divisors(cascade)):
            continue
        long = _long(tuple(numbers.values()))
        for length in (*SHORT, long):
            try:
                env = _environment(cascade, length, count, {**numbers, **truths})
            except MEANINGLESS:
                continue
            places = np.arange(length) if length < long else _places(length, tuple(numbers.values()))
            found.append(Trial(length, places, env, tuple(numbers.items())))
    return tuple(found)


def _long(numbers: tuple[int, ...]) -> int:
    """A length that is longer than what any number, or two of them as blocks of blocks, is about."""
    most = sorted((abs(n) for n in numbers), reverse=True)[:2]
    return max(LONG, min(LONGEST, 4 * max(most, default=1) + 3), min(LONGEST, 2 * prod(most)))


def _places(length: int, numbers: tuple[int, ...]) -> Array:
    """The ends of a long sequence, and the multiples of every number with their neighbours."""
    found = [np.arange(12), np.arange(length - 12, length)]
    steps = sorted({m for n in numbers for m in (n, n // 2) if 1 < m < length})
    for step in steps:
        multiples = np.arange(0, length, step)
        few = max(1, multiples.size * 3 * len(steps) // PLACES)
        near = np.r_[multiples[:8], multiples[:: few | 1], multiples[-4:]]
        found += [near - 1, near, near + 1]
    found.append(np.linspace(0, length - 1, PLACES // 4).astype(np.int64))
    places = np.unique(np.concatenate(found))
    return places[(places >= 0) & (places < length)]


def _environment(cascade: Cascade, length: int, heads: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What the names of a predicate stand for, but for its positions."""

    def size(index: Index) -> int:
        return {"sequence": length, "feature": FEATURES, "batch": heads}[index.role]

    env: dict[str, Any] = dict(numbers)
    env |= {f"|{name}|": n for name, n in extents(cascade, size, lambda _: 1).items()}
    for index, formula in cascade.lengths:
        env[f"|{index.name}|"] = at(formula, env)
    return env


def cells(
    mask: Mask, trial: Trial, rows: Array, columns: Array | None = None, errors: Errors = "ignore"
) -> Array:
    """Which columns some rows see, as an array (heads, rows, columns); all columns where none are given.

    The heads are all places of `mask.heads`, in the order of `place`.
    """
    shape = tuple(trial.env[f"|{i.name}|"] for i in mask.heads)
    counts = tuple(trial.env[f"|{i.name}|"] for i in mask.columns)
    places = np.unravel_index(np.arange(prod(counts)) if columns is None else columns, counts)
    env = {**trial.env, mask.rows.name: rows[:, None]}
    env |= {i.name: at[None, :] for i, at in zip(mask.columns, places, strict=True)}
    ways = np.unravel_index(np.arange(prod(shape)), shape) if shape else ()
    env |= {i.name: at[:, None, None] for i, at in zip(mask.heads, ways, strict=True)}
    with np.errstate(all=errors):
        seen = np.asarray(values(total(mask.where), env), dtype=bool)
    return np.broadcast_to(seen, (prod(shape), rows.size, places[0].size))


def tried(group: tuple[Mask, ...], some: tuple[Trial, ...]) -> tuple[Trial, ...]:
    """The calls in which some masks have a meaning, and no more heads than can be looked at."""
    return tuple(t for t in some if all(_fits(mask, t) for mask in group))


def _fits(mask: Mask, trial: Trial) -> bool:
    if prod(trial.env[f"|{i.name}|"] for i in mask.heads) > MANY:
        return False
    if prod(trial.env[f"|{i.name}|"] for i in mask.columns) < 1:
        return False
    try:
        few = trial.places[:: 1 if len(mask.columns) == 1 else trial.length]
        cells(mask, trial, trial.places, few, errors="raise")
    except MEANINGLESS:
        return False
    return True


def place(mask: Mask, trial: Trial, head: int) -> dict[str, int]:
    """The indices of a head by its number in `cells`."""
    shape = tuple(trial.env[f"|{i.name}|"] for i in mask.heads)
    at = np.unravel_index(head, shape) if shape else ()
    return {i.name: int(n) for i, n in zip(mask.heads, at, strict=True)}
