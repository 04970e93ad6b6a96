"""Arrays over named indices with a mask of the elements that have a value: what `evaluate` computes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attncc.ir.cascade import Index

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """An array with a name for every axis, and which of its elements have a value (None: all)."""

    indices: tuple[Index, ...]
    data: Array
    has: Array | None = None

    @property
    def present(self) -> Array:
        """Which elements have a value."""
        return np.ones(self.data.shape, np.bool_) if self.has is None else self.has

    @property
    def filled(self) -> Array:
        """The data, 0 where there is no value."""
        return self.data if self.has is None else np.where(self.has, self.data, np.zeros((), self.data.dtype))

    @property
    def holds(self) -> Array:
        """Of a predicate, where it is true; without a value it is not."""
        return self.data if self.has is None else self.data & self.has

    def along(self, order: Sequence[Index]) -> Array:
        """The data with its axes in another order, and an axis of one element for every index it lacks."""
        return aligned(self.data, self.indices, order)


def aligned(data: Array, indices: tuple[Index, ...], order: Sequence[Index]) -> Array:
    """An array's axes in another order, with an axis of one element for every index it lacks."""
    turned = data.transpose([indices.index(i) for i in order if i in indices])
    return turned[tuple(slice(None) if i in indices else None for i in order)]


def union(*spreads: Spread) -> tuple[Index, ...]:
    """Every index of some spreads, each once."""
    return tuple(dict.fromkeys(i for s in spreads for i in s.indices))


def spread(indices: tuple[Index, ...], data: Array, has: Array | None) -> Spread:
    """A spread whose mask is kept only if it says something; the mask is broadcast to the data."""
    if has is None or np.all(has):
        return Spread(indices, data)
    return Spread(indices, data, np.broadcast_to(has, data.shape))


def number(data: Array) -> Array:
    """Truth values as 0 and 1."""
    return data.astype(np.int64) if data.dtype == np.bool_ else data


def common(spreads: Sequence[Spread], order: Sequence[Index]) -> Array | None:
    """Where all of some spreads have a value (None: everywhere)."""
    masks = [aligned(s.has, s.indices, order) for s in spreads if s.has is not None]
    return reduce(np.logical_and, masks) if masks else None


def gather(source: Spread, subscripts: Sequence[Spread]) -> Spread:
    """A tensor at integer subscripts; without a value where one is out of range or has none itself."""
    order = union(*subscripts)
    where = [s.along(order) for s in subscripts]
    has = common(subscripts, order)
    inside = [(w >= 0) & (w < n) for w, n in zip(where, source.data.shape, strict=True)]
    present = reduce(np.logical_and, inside, np.asarray(True) if has is None else has)
    if 0 in source.data.shape:
        return Spread(order, np.zeros(present.shape, source.data.dtype), np.zeros(present.shape, np.bool_))
    slots = tuple(np.clip(w, 0, n - 1) for w, n in zip(where, source.data.shape, strict=True))
    if source.has is not None:
        present = present & source.has[slots]
    return spread(order, np.asarray(source.data[slots]), present)


def logic(op: str, args: Sequence[Spread]) -> Spread:
    """`and`, `or`, `not` in three answers: what surely holds, what surely does not, and no value."""
    order = union(*args)
    holds = [aligned(a.holds, a.indices, order) for a in args]
    fails = [aligned(a.present & ~a.data, a.indices, order) for a in args]
    match op:
        case "not":
            true, false = fails[0], holds[0]
        case "and":
            true, false = reduce(np.logical_and, holds), reduce(np.logical_or, fails)
        case _:
            true, false = reduce(np.logical_or, holds), reduce(np.logical_and, fails)
    return spread(order, true, true | false)


def choose(condition: Spread, then: Spread, other: Spread) -> Spread:
    """The branch taken, element by element."""
    order = union(condition, then, other)
    taken = aligned(condition.holds, condition.indices, order)
    data = np.where(taken, then.along(order), other.along(order))
    if then.has is None and other.has is None:
        return Spread(order, data)
    a, b = (aligned(x.present, x.indices, order) for x in (then, other))
    return spread(order, data, np.where(taken, a, b))


def fold(op: str, terms: Array, members: Array, axes: tuple[int, ...]) -> Array:
    """One value from the members along some axes; terms that are no members may be anything, NaN included."""
    match op:
        case "sum":
            return np.asarray(np.sum(terms, axes, where=members))
        case "prod":
            return np.asarray(np.prod(terms, axes, where=members))
        case "max" | "min":
            return np.asarray(_extreme(op, terms, members, axes))
        case "any":
            return np.asarray(np.any(terms & members, axes))
        case "all":
            return np.asarray(np.all(terms | ~members, axes))
        case "mean":
            total = np.sum(terms, axes, where=members, dtype=np.float64)
            return np.asarray(total / np.maximum(np.sum(members, axes), 1))
        case "argmax" | "argmin":
            first = members & (terms == _extreme(op[3:], terms, members, axes, keepdims=True))
            (axis,) = axes
            nothing = np.zeros([n for a, n in enumerate(terms.shape) if a != axis], np.int64)
            return np.asarray(np.argmax(first, axis)) if terms.shape[axis] else nothing
        case _:
            raise AssertionError(f"no such reduction: {op}")


def _extreme(op: str, terms: Array, members: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Largest or smallest member; of nothing, an infinity, or the last of the integers, which know none."""
    nothing: float = -np.inf if op == "max" else np.inf
    if np.issubdtype(terms.dtype, np.integer):
        nothing = int(np.iinfo(np.int64).min if op == "max" else np.iinfo(np.int64).max)
    take = np.max if op == "max" else np.min
    return np.asarray(take(terms, axes, initial=nothing, where=members, keepdims=keepdims))


def places(op: str, terms: Array, members: Array) -> Array:
    """Along the last axis, members in falling order, equal ones by rising index.

    How many stand before each (`rank`), or what those sum to (`ahead`).
    """
    falling = np.lexsort((-terms, ~members), axis=-1)
    if op == "rank":
        before = np.broadcast_to(np.arange(terms.shape[-1]), terms.shape)
    else:
        ordered = np.take_along_axis(np.where(members, terms, 0).astype(np.float64), falling, -1)
        before = np.zeros(terms.shape)
        before[..., 1:] = np.cumsum(ordered, -1)[..., :-1]
    found = np.empty_like(before)
    np.put_along_axis(found, falling, before, -1)
    return found
