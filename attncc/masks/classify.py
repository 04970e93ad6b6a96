"""Predicate on a box of cells → empty, full or partial, by Kleene's logic over intervals: sound for any."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as boxes
from math import ceil, floor, inf
from typing import Literal as OneOf
from typing import TypeAlias

import numpy as np

from attncc.ir.cascade import Apply, Expr, Index, Read
from attncc.masks.integers import Env, values
from attncc.masks.intervals import Interval, interval, truth
from attncc.masks.normal import total

Verdict: TypeAlias = OneOf["empty", "full", "partial"]
"""No cell of a box holds, every cell holds, or it is not known."""

WIDEST = 1 << 16
"""So many elements of a table are looked at; of more, anything is possible."""


def classify(predicate: Expr, box: Mapping[Index, tuple[int, int]], env: Env) -> Verdict:
    """What is known of a predicate on a box of positions, ends included.

    Exact for one comparison of sums of positions; "partial" also where parts that depend on each other are
    joined. `env` binds scalars, tables, extents and the indices that are not in the box. KeyError if a name
    is missing.
    """

    def leaf(e: Expr) -> Interval | None:
        match e:
            case Index() if e in box:
                return box[e]
            case Index() | Apply(op="extent"):
                return _point(values(e, env))
            case Read(at=()):
                return _point(values(e, env))
            case Read():
                return _table(e, [interval(subscript, leaf) for subscript in e.at], env)
            case _:
                return None

    must, may = truth(total(predicate), leaf)
    return "full" if must else "partial" if may else "empty"


def _point(value: float) -> Interval:
    return value, value


def _table(e: Read, at: list[Interval], env: Env) -> Interval:
    """Least and greatest element of the part of a table that is read."""
    table = env[e.tensor.name]
    unknown: Interval = (0, 1) if e.tensor.kind == "bool" else (-inf, inf)
    if callable(table):
        if any(high == inf or low == -inf for low, high in at) or _size(at) > WIDEST:
            return unknown
        found = [table(*point) for point in boxes(*(range(floor(low), ceil(high) + 1) for low, high in at))]
    else:
        table = np.asarray(table)
        ends = [(max(low, 0), min(high, size - 1)) for (low, high), size in zip(at, table.shape, strict=True)]
        if any(low > high for low, high in ends) or _size(ends) > WIDEST:
            return unknown
        found = table[tuple(slice(int(low), int(high) + 1) for low, high in ends)].ravel().tolist()
    return (min(found), max(found)) if found else unknown


def _size(box: list[Interval]) -> float:
    size = 1.0
    for low, high in box:
        size *= high - low + 1
    return size
