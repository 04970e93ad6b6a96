"""Tiles of some rows in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from attncc.ir.cascade import number
from attncc.masks.band import Band
from attncc.masks.integers import Env
from attncc.masks.ranges import PRIVATE, Visited, union, visit


def tiles_of(bands: Sequence[Band], q0: int, q1: int, block: int, env: Env) -> list[Visited]:
    """The segments in the rows `q0 <= q <= q1`, of which those past the last are left out."""
    last = min(q1, env[f"|{bands[0].rows.name}|"] - 1) if bands else -1
    if last < q0:
        return []
    return visit(union(bands, number(q0), number(last), number(block), prefix=PRIVATE), env)
