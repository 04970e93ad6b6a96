"""Predicate → the bands of columns that rows see, or of rows that columns see, without evaluating it."""

from __future__ import annotations

from attncc.ir.cascade import Expr, Index
from attncc.masks.band import Band, Bound, Direction, Plane
from attncc.masks.normal import assumed, pushed, total
from attncc.masks.solve import solved

__all__ = ["Band", "Bound", "Direction", "Plane", "bands"]


def bands(
    predicate: Expr, rows: Index, columns: Index, sorted_tables: frozenset[str] = frozenset()
) -> tuple[Band, ...]:
    """The cells where a predicate holds, as a union of at most eight bands; none where it never holds.

    Either index can be the rows: a loop over keys for a tile of queries, or over queries for a tile of keys.
    Both indices are storage positions; whatever else the predicate reads is held fixed. Where a read is out
    of range the predicate does not hold. Divisors are taken for positive: `band.plane.positive` lists what
    has to be. A table moves with the row only if `sorted_tables` names it.
    """
    whole = total(predicate)
    plane = Plane(rows, columns, assumed(whole, rows, columns), sorted_tables)
    return solved(pushed(whole), plane)
