"""Expression → its value at given integers: the same scalar code a kernel runs, run by Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, assert_never

import numpy as np

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce
from attncc.masks.counted import count_of
from attncc.masks.folded import Folded, folded_of
from attncc.ops import FUNCTIONS

Env: TypeAlias = Mapping[str, Any]
"""What names stand for: `q` a position or an array of them, `|q|` an extent, a scalar its value, a table an
array or a function of its subscripts."""


def at(e: Expr, env: Env) -> int | bool | float:
    """An expression at one point; divisions round down.

    KeyError if a name is missing, IndexError if a table is read out of range (predicates of `normal.total`
    never do that), ValueError at a reduction.
    """
    found: int | bool | float = np.asarray(values(e, env)).item()
    return found


def values(e: Expr, env: Env) -> Any:
    """An expression at all points at once: an array of the shape to which positions broadcast.

    Errors as `at`; of an `if` over arrays both branches are evaluated.
    """
    match e:
        case Index():
            return env[e.name]
        case Literal():
            return e.value
        case Apply(op="extent", args=(Index(name=name),)):
            return env[f"|{name}|"]
        case Apply():
            return FUNCTIONS[e.op].numeric(np, *(values(part, env) for part in e.args))
        case Read():
            return _read(env[e.tensor.name], tuple(values(part, env) for part in e.at), e.tensor.name)
        case Choose():
            condition = values(e.condition, env)
            if np.ndim(condition) == 0:
                return values(e.then if condition else e.other, env)
            return np.where(condition, values(e.then, env), values(e.other, env))
        case Reduce() if count := count_of(e):
            row = values(count.row, {**env, count.axis.name: np.arange(env[f"|{count.along.name}|"])})
            return np.searchsorted(row, values(count.limit, env), side="right")
        case Reduce() if fold := folded_of(e):
            return _folded(fold, env)
        case Reduce():
            raise ValueError(f"`{e.op}` depends on data: it has no value at a point")
        case _:
            assert_never(e)


def _folded(fold: Folded, env: Env) -> Any:
    """The extreme over the rows of each tile."""
    count = env[f"|{fold.row.name}|"]
    every = np.broadcast_to(values(fold.value, {**env, fold.row.name: np.arange(count)}), (count,))
    first, last = np.broadcast_arrays(values(fold.first, env), values(fold.last, env))
    extreme = np.min if fold.op == "min" else np.max
    tiles = zip(first.ravel(), last.ravel(), strict=True)
    return np.array([extreme(every[top : bottom + 1]) for top, bottom in tiles]).reshape(first.shape)


def _read(table: Any, subscripts: tuple[Any, ...], name: str) -> Any:
    if not subscripts:
        return table
    if callable(table):
        return table(*subscripts)
    table = np.asarray(table)
    if table.size == 0:
        # what is read here is never used: a predicate says by itself where its reads are in range
        return np.zeros(np.broadcast_shapes(*map(np.shape, subscripts)), table.dtype)
    for subscript, size in zip(subscripts, table.shape, strict=True):
        if np.size(subscript) and (np.min(subscript) < 0 or np.max(subscript) >= size):
            raise IndexError(f"`{name}` has {size} elements and is read at {subscript}")
    return table[subscripts]
