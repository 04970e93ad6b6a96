"""Bands of a walk → scalar code: how many tiles are seen whole or in part, and which tile each step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attncc.ir.cascade import Expr, Read, Tensor
from attncc.masks.ranges import union
from attncc.schedule.loops import Walk


@dataclass(frozen=True)
class WalkRanges:
    """Lines that compute the ranges; then the count of steps and the tile of a `step`, seen whole and in
    part.
    """

    lines: tuple[str, ...]
    whole: str
    whole_tile: str
    partial: str
    partial_tile: str


def walk_ranges(
    walk: Walk, first: str, last: str, block: str, spell: Callable[[Expr, frozenset[Expr]], str]
) -> WalkRanges:
    """The ranges of a walk; `first` and `last` name the rows of the tile, `block` the width of a column tile.

    `spell` writes a number, given those that are never negative.
    """
    prefix = f"{walk.index.name}_"
    ranges = union(walk.bands, scalar(first), scalar(last), scalar(block), prefix)

    def code(e: Expr) -> str:
        return spell(e, ranges.counted)

    lines = [f"{code(Read(step.tensor, ()))} = {code(step.body)}" for step in ranges.steps]
    parts = [p for s in ranges.segments for p in ((s.lo, s.full_lo), (s.full_hi, s.hi))]
    if not walk.whole:
        parts = [(s.lo, s.hi) for s in ranges.segments]
    whole = [
        (code(s.full_lo), code(s.full_hi)) for s in ranges.segments if walk.whole and s.full_lo != s.full_hi
    ]
    edges = [(code(lo), code(hi)) for lo, hi in parts if lo != hi]
    whole_lines, whole_count, whole_tile = _steps(whole, f"{prefix}whole")
    edge_lines, edge_count, edge_tile = _steps(edges, f"{prefix}edge")
    return WalkRanges((*lines, *whole_lines, *edge_lines), whole_count, whole_tile, edge_count, edge_tile)


def scalar(name: str) -> Read:
    """A number by its name in the text."""
    return Read(Tensor(name, (), "int", "scalar"), ())


def _steps(pieces: list[tuple[str, str]], name: str) -> tuple[list[str], str, str]:
    """Ranges of tiles joined end to end: the lines that count them, the count, and the tile of one step."""
    if not pieces:
        return [], "0", "step"
    if len(pieces) == 1:
        lo, hi = pieces[0]
        return [], hi if lo == "0" else f"{hi} - {lo}", "step" if lo == "0" else f"{lo} + step"
    lines, done = [], ""
    tile = ""
    ends = []
    for n, (lo, hi) in enumerate(pieces):
        end = f"{name}{n}"
        span = hi if lo == "0" else f"{hi} - {lo}"
        lines.append(f"{end} = {done + ' + ' if done else ''}{span}")
        ends.append((end, lo, done))
        done = end
    for end, lo, before in reversed(ends):
        here = f"{lo} + step - {before}" if before else ("step" if lo == "0" else f"{lo} + step")
        tile = f"tl.where(step < {end}, {here}, {tile})" if tile else here
    return lines, done, tile
