"""Tables of a cascade → example tables that make sense: documents, blocks that are kept, windows by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attncc.calls import Array, bounds, subscript
from attncc.ir.cascade import Cascade, Tensor

CUTS = (0.0, 0.22, 0.5, 0.83)
"""Where the segments of a table over positions begin, of its length."""


def tables(cascade: Cascade, wanted: Sequence[Tensor], env: Mapping[str, Any]) -> dict[str, Array]:
    """An example of every wanted table, the same every time; `env` binds the extents.

    Over positions, a table is constant on a few segments and holds where each begins, which is as good a
    number for a document as for a first key; truth values alternate. Over heads alone it falls from half the
    longest sequence by halves.
    """
    return {t.name: _table(cascade, t, env) for t in wanted}


def _table(cascade: Cascade, tensor: Tensor, env: Mapping[str, Any]) -> Array:
    shape = tuple(int(env[f"|{i.name}|"]) for i in tensor.indices)
    along = [n for n, i in enumerate(tensor.indices) if i.role == "sequence"]
    made = np.zeros(shape, dtype=np.int64)
    order = np.zeros(shape, dtype=np.int64)
    for axis in along:
        positions = np.arange(shape[axis])
        starts = np.array([int(cut * shape[axis]) for cut in CUTS])
        segment = np.searchsorted(starts, positions, side="right") - 1
        wide = tuple(-1 if n == axis else 1 for n in range(len(shape)))
        made, order = made + starts[segment].reshape(wide), order + segment.reshape(wide)
    if not along:
        longest = max((int(n) for name, n in env.items() if name in _sequences(cascade)), default=1)
        order = np.arange(shape[-1]) + np.zeros(shape, dtype=np.int64)
        made = np.maximum(longest // 2 >> order, 1)
    if tensor.kind == "bool":
        return np.asarray(order % 2 == 0)
    said, axis_of = bounds(cascade, tensor.name), subscript(cascade, tensor.name)
    if said is not None:
        return np.clip(order + int(said[0]), int(said[0]), int(said[1]))
    if axis_of is not None:
        return np.minimum(made, max(int(env[f"|{axis_of.name}|"]) - 1, 0))
    return made


def _sequences(cascade: Cascade) -> set[str]:
    return {f"|{i.name}|" for t in cascade.inputs for i in t.indices if i.role == "sequence"}


def said_of(table: Array) -> str:
    """A table in a few words: its values, or the segments on which it is constant."""
    row = table.reshape(-1, table.shape[-1])[0] if table.ndim else table.reshape(1)
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) if row.size else row
    if len(starts) == row.size:
        few = ", ".join(str(x) for x in row[:8].tolist())
        return f"{few}, ..." if row.size > 8 else few
    parts = (f"{row[start]} from {start}" for start in starts[:8].tolist())
    return ", ".join(parts) + (", ..." if len(starts) > 8 else "")
