"""Subscript → the comparisons that keep it inside its axis, where nothing says that it is."""

from __future__ import annotations

from attncc.ir.cascade import Expr, Index, reads
from attncc.passes.inside import Inside


def unproved(at: Expr, axis: Index) -> tuple[Expr, ...]:
    """What `0 <= at < |axis|` still asks for; a table's elements are taken as they are."""
    return () if reads(at) else Inside({}).asked(at, axis, ())
