"""Bands of a walk → scalar code: how many tiles are seen whole or in part, and which tile each step is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Lines that compute the ranges, and those at the beginning of a `step`; how many steps there are, the
    tile of a step, whether it lies on an edge.
    """

    lines: tuple[str, ...]
    inside: tuple[str, ...]
    count: str
    tile: str
    edge: str


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
    pieces = []
    for s in ranges.segments:
        lo, hi, full_lo, full_hi = map(code, s.ends)
        pieces += [Piece(lo, hi, full_lo, full_hi, s.stride is not None)] if lo != hi else []
    # ranks first, so that they stand together
    pieces.sort(key=lambda piece: not piece.ranked)
    counts, ends, tile = _steps(pieces, f"{prefix}steps", words)
    marks, edge = _edges(pieces, ends, prefix, words) if walk.whole else ([], "True")
    inside: tuple[str, ...] = ()
    stride = next((s.stride for s in ranges.segments if s.stride), None)
    if stride is not None:
        place = words.free(f"{prefix}place")
        inside = (f"{place} = {tile}",)
        tile = _by_rank(place, pieces, ends, *map(code, stride.numbers))
    return WalkRanges((*lines, *counts, *marks), inside, ends[-1] if ends else "0", tile, edge)


@dataclass(frozen=True)
class Piece:
    """The tiles from `lo` to before `hi`, or those of these ranks, by name; those between the others are seen
    whole.
    """

    lo: str
    hi: str
    full_lo: str
    full_hi: str
    ranked: bool


def _by_rank(
    rank: str, pieces: Sequence[Piece], ends: Sequence[str], turn: str, width: str, shift: str
) -> str:
    """The tile of a step whose rank is known; what is no rank is the tile itself."""
    place = f"{rank} // {width} * {turn} + {rank} % {width} - {shift}"
    ranked = sum(piece.ranked for piece in pieces)
    return f"({place})" if ranked == len(pieces) else f"tl.where(step < {ends[ranked - 1]}, {place}, {rank})"


def _edges(pieces: Sequence[Piece], ends: Sequence[str], prefix: str, words: Words) -> tuple[list[str], str]:
    """Lines that name where tiles begin and cease to be whole, and what says that a step's is not."""
    lines: list[str] = []
    edges: list[str] = []
    after = ""

    def named(name: str, before: str, span: str) -> str:
        local = words.free(f"{prefix}{name}")
        lines.append(f"{local} = {before} + {span}" if before and span else f"{local} = {before or span}")
        return local

    for n, piece in enumerate(pieces):
        if piece.full_lo == piece.full_hi:
            continue
        done, mark = ends[n - 1] if n else "", str(n) if len(pieces) > 1 else ""
        begins = "" if piece.full_lo == piece.lo else _span(piece.lo, piece.full_lo)
        if begins or done or after:
            whole = named(f"whole{mark}", done, begins) if begins else done or "0"
            edges.append(f"(step >= {after}) & (step < {whole})" if after else f"step < {whole}")
        after = named(f"edge{mark}", done, _span(piece.lo, piece.full_hi))
    edges.append(f"step >= {after}" if after else "step >= 0")
    return lines, edges[0] if len(edges) == 1 else " | ".join(f"({edge})" for edge in edges)


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


def _steps(pieces: Sequence[Piece], name: str, words: Words) -> tuple[list[str], list[str], str]:
    """Ranges of tiles joined end to end: the lines that count them, the counts, and the tile of one step."""
    lines: list[str] = []
    ends: list[str] = []
    tiles: list[str] = []
    for n, piece in enumerate(pieces):
        done = ends[-1] if ends else ""
        ends.append(words.free(f"{name}{n}" if len(pieces) > 1 else name))
        lines.append(f"{ends[-1]} = {f'{done} + ' if done else ''}{_span(piece.lo, piece.hi)}")
        tiles.append(
            f"{piece.lo} + step - {done}" if done else "step" if piece.lo == "0" else f"{piece.lo} + step"
        )
    tile = tiles[-1] if tiles else "step"
    for end, here in reversed(list(zip(ends, tiles, strict=True))[:-1]):
        tile = f"tl.where(step < {end}, {here}, {tile})"
    return lines, ends, tile
