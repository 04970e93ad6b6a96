"""Bands of a walk → scalar code: how many tiles are seen whole or in part, and which tile each step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from attncc.codegen.width import LONGEST, Widths
from attncc.codegen.words import Words
from attncc.ir.cascade import ZERO, Expr, Index, Read, Tensor, extent
from attncc.masks.intervals import interval, largest, smallest
from attncc.masks.ranges import Ranges, union
from attncc.schedule.loops import Walk

Spell: TypeAlias = Callable[[Expr, frozenset[Expr]], str]
"""Writes a number, given those that are never negative."""


@dataclass(frozen=True)
class WalkRanges:
    """Lines that compute the ranges, and those at the beginning of a `step`; how many steps are whole, how
    many there are, the tile of a step.
    """

    lines: tuple[str, ...]
    inside: tuple[str, ...]
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
    whole: list[Piece] = []
    edges: list[Piece] = []
    for s in ranges.segments:
        lo, full_lo, full_hi, hi = (code(e) for e in (s.lo, s.full_lo, s.full_hi, s.hi))
        ranked = s.stride is not None
        whole += [(full_lo, full_hi, ranked)] if walk.whole else []
        edges += [(lo, full_lo, ranked), (full_hi, hi, ranked)] if walk.whole else [(lo, hi, ranked)]
    whole, edges = ([p for p in pieces if p[0] != p[1]] for pieces in (whole, edges))
    whole.sort(key=lambda piece: piece[2])
    # so that a range goes on where it can, and ranks stand together
    edges.sort(key=lambda piece: (not piece[2], not whole or piece[0] != whole[-1][1]))
    count = words.free(f"{prefix}whole")
    total = " + ".join(_span(lo, hi) for lo, hi, _ in whole) or "0"
    pieces = _joined([*whole, *edges])
    tile_lines, ends, tile = _steps(pieces, f"{prefix}steps", words)
    inside: tuple[str, ...] = ()
    stride = next((s.stride for s in ranges.segments if s.stride), None)
    if stride is not None:
        place = words.free(f"{prefix}place")
        inside = (f"{place} = {tile}",)
        tile = _by_rank(place, pieces, ends, *map(code, stride.numbers))
    return WalkRanges(
        (*lines, f"{count} = {total}", *tile_lines), inside, count, ends[-1] if ends else "0", tile
    )


Piece: TypeAlias = tuple[str, str, bool]
"""The tiles from one to before another; or those of these ranks."""


def _by_rank(rank: str, pieces: list[Piece], ends: list[str], turn: str, width: str, shift: str) -> str:
    """The tile of a step whose rank is known; what is no rank is the tile itself."""
    place = f"{rank} // {width} * {turn} + {rank} % {width} - {shift}"
    ranked = [n for n, piece in enumerate(pieces) if piece[2]]
    tests = [f"(step >= {ends[ranked[0] - 1]})"] if ranked[0] else []
    tests += [f"(step < {ends[ranked[-1]]})"] if ranked[-1] < len(pieces) - 1 else []
    return f"tl.where({' & '.join(tests)}, {place}, {rank})" if tests else f"({place})"


def assigned(ranges: Ranges, columns: Index, widths: Widths, spell: Spell) -> list[str]:
    """Lines that compute the steps of some ranges."""
    lines = []
    for step in ranges.steps:
        value, name = step.body, step.tensor.name
        wide = widths.wide(value, tables=True)
        low, high = interval(value, widths)
        if wide and not -LONGEST <= low <= high < LONGEST:
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


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Ranges of which one begins where the one before ends are one range."""
    result: list[Piece] = []
    for lo, hi, ranked in pieces:
        if result and result[-1][1:] == (lo, ranked):
            result[-1] = (result[-1][0], hi, ranked)
        else:
            result.append((lo, hi, ranked))
    return result


def _steps(pieces: list[Piece], name: str, words: Words) -> tuple[list[str], list[str], str]:
    """Ranges of tiles joined end to end: the lines that count them, the counts, and the tile of one step."""
    lines: list[str] = []
    ends: list[str] = []
    tiles: list[str] = []
    for n, (lo, hi, _) in enumerate(pieces):
        done = ends[-1] if ends else ""
        ends.append(words.free(f"{name}{n}" if len(pieces) > 1 else name))
        lines.append(f"{ends[-1]} = {f'{done} + ' if done else ''}{_span(lo, hi)}")
        tiles.append(f"{lo} + step - {done}" if done else "step" if lo == "0" else f"{lo} + step")
    tile = tiles[-1] if tiles else "step"
    for end, here in reversed(list(zip(ends, tiles, strict=True))[:-1]):
        tile = f"tl.where(step < {end}, {here}, {tile})"
    return lines, ends, tile
