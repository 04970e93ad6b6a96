"""Predicate → the bands of columns that rows see, or of rows that columns see, without evaluating it."""

from __future__ import annotations

from attncc.ir.cascade import Apply, Expr, Index
from attncc.masks.band import Band, Bound, Direction, Plane, joined
from attncc.masks.normal import assumed, pushed, total
from attncc.masks.solve import solved

__all__ = ["Band", "Bound", "Direction", "Plane", "bands", "transpose"]


def bands(
    predicate: Expr, rows: Index, columns: Index, sorted_tables: frozenset[str] = frozenset()
) -> tuple[Band, ...]:
    """The cells where a predicate holds, as a union of at most eight bands; none where it never holds.

    Both indices are storage positions; whatever else the predicate reads is held fixed. Where a read is out
    of range the predicate does not hold. Divisors are taken for positive: `band.plane.positive` lists what
    has to be. A table moves with the row only if `sorted_tables` names it.
    """
    whole = total(predicate)
    plane = Plane(rows, columns, assumed(whole, rows, columns), sorted_tables)
    return solved(pushed(whole), plane)


def transpose(band: Band) -> Band | None:
    """The same cells seen from the columns: for every k its rows q.

    None where that is no single band in closed form, as for bounds read from tables.

        q - w + 1 <= k <= q   -->   k <= q <= k + w - 1
    """
    k = band.columns
    plane = Plane(k, band.rows, band.plane.positive, band.plane.sorted_tables)
    found: tuple[Band, ...] = (Band(plane, guards=band.guards, rest=band.rest),)
    for low in band.lows:
        found = joined(tuple(x & y for x in found for y in solved(Apply("<=", (low.value, k)), plane)))
    for high in band.highs:
        found = joined(tuple(x & y for x in found for y in solved(Apply(">=", (high.value, k)), plane)))
    return found[0] if len(found) == 1 and found[0].rest == band.rest else None
