"""Bands of a walk → scalar code: how many tiles are seen whole or in part, and which tile each step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from attncc.codegen.width import Widths
from attncc.codegen.words import Words
from attncc.ir.cascade import ZERO, Expr, Index, Read, Tensor, extent
from attncc.masks.intervals import interval, largest, smallest
from attncc.masks.ranges import Ranges, union
from attncc.schedule.loops import Walk

Spell: TypeAlias = Callable[[Expr, frozenset[Expr]], str]
"""Writes a number, given those that are never negative."""


@dataclass(frozen=True)
class WalkRanges:
    """Lines that compute the ranges; how many steps are whole, how many there are, the tile of a `step`."""

    lines: tuple[str, ...]
    whole: str
    count: str
    tile: str


def walk_ranges(
    walk: Walk,
    first: str,
    last: str,
    words: Words,
    widths: Widths,
    spell: Spell,
) -> WalkRanges:
    """The ranges of a walk; `first` and `last` name the rows of the tile.

    Numbers that may be 64 bits wide are the ends of ranges; clipped to the columns they are 32.
    """
    prefix = f"{walk.index.name}_"
    ranges = union(walk.bands, scalar(first), scalar(last), scalar(words.block(walk.index)), prefix)

    def code(e: Expr) -> str:
        return spell(e, ranges.counted)

    lines = assigned(ranges, walk.index, widths, spell)
    whole, edges = [], []
    for s in ranges.segments:
        lo, full_lo, full_hi, hi = (code(e) for e in (s.lo, s.full_lo, s.full_hi, s.hi))
        whole += [(full_lo, full_hi)] if walk.whole else []
        edges += [(lo, full_lo), (full_hi, hi)] if walk.whole else [(lo, hi)]
    whole, edges = ([(lo, hi) for lo, hi in pieces if lo != hi] for pieces in (whole, edges))
    edges.sort(
        key=lambda piece: not whole or piece[0] != whole[-1][1]
    )  # so that a range goes on where it can
    count = words.free(f"{prefix}whole")
    total = " + ".join(_span(*piece) for piece in whole) or "0"
    tile_lines, steps, tile = _steps(_joined([*whole, *edges]), f"{prefix}steps", words)
    return WalkRanges((*lines, f"{count} = {total}", *tile_lines), count, steps, tile)


def assigned(ranges: Ranges, columns: Index, widths: Widths, spell: Spell) -> list[str]:
    """Lines that compute the steps of some ranges."""
    lines = []
    for step in ranges.steps:
        value, name = step.body, step.tensor.name
        if wide := widths.wide(value, tables=True):
            value = smallest((largest((value, ZERO)), extent(columns)))
        low, high = interval(value, widths)
        widths.known[name] = (max(low, 0), high), False
        text = spell(value, ranges.counted)
        here = f"({text}).to(tl.int32)" if wide else text
        lines.append(f"{spell(Read(step.tensor, ()), ranges.counted)} = {here}")
    return lines


def scalar(name: str) -> Read:
    """A number by its name in the text."""
    return Read(Tensor(name, (), "int", "scalar"), ())


def _span(lo: str, hi: str) -> str:
    return hi if lo == "0" else f"{hi} - {lo}"


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Ranges of which one begins where the one before ends are one range."""
    result: list[tuple[str, str]] = []
    for lo, hi in pieces:
        if result and result[-1][1] == lo:
            result[-1] = (result[-1][0], hi)
        else:
            result.append((lo, hi))
    return result


def _steps(pieces: list[tuple[str, str]], name: str, words: Words) -> tuple[list[str], str, str]:
    """Ranges of tiles joined end to end: the lines that count them, the count, and the tile of one step."""
    lines: list[str] = []
    done, tiles = "", []
    for n, (lo, hi) in enumerate(pieces):
        end = words.free(f"{name}{n}" if len(pieces) > 1 else name)
        lines.append(f"{end} = {f'{done} + ' if done else ''}{_span(lo, hi)}")
        behind = f"{lo} + step - {done}" if done else f"{lo} + step"
        tiles.append((end, "step" if lo == "0" and not done else behind))
        done = end
    tile = tiles[-1][1] if tiles else "step"
    for end, here in reversed(tiles[:-1]):
        tile = f"tl.where(step < {end}, {here}, {tile})"
    return lines, done or "0", tile
