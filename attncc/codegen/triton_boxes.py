"""Boxes of a grid → Triton as text: where they are, which of them rows see, and where their elements are.

A position of a box that is none of the grid is put at the end of its index, where every test leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.code import Code, binary
from attncc.codegen.ranges import Spell, assigned, scalar
from attncc.codegen.triton_code import Body, code_of
from attncc.ir.cascade import ZERO, Apply, Expr, Index
from attncc.masks.digits import Place, Split
from attncc.masks.grid import Axis, Grid
from attncc.masks.intervals import smallest
from attncc.masks.ranges import union
from attncc.schedule.loops import Walk


def box_counts(grid: Grid, k: Body) -> Iterator[str]:
    """How many boxes of rows there are."""
    w, counts = k.words, _counts(grid, k)
    for axis, count in zip(grid.axes, counts, strict=True):
        yield f"{count} = tl.cdiv({w.extent(axis.rows)}, {w.block(axis.rows)})"
    yield f"tiles = {' * '.join(counts)}"


def _counts(grid: Grid, k: Body) -> list[str]:
    return [k.words.free(f"{axis.rows.name}_tiles") for axis in grid.axes]


def opening(grid: Grid, k: Body) -> Iterator[str]:
    """Where this program's box of rows begins; the last ones come first."""
    w = k.words
    yield "tile = tiles - 1 - pid % tiles"
    for axis, place in zip(grid.axes, _places("tile", _counts(grid, k)), strict=True):
        yield f"{w.start(axis.rows)} = {place} * {w.block(axis.rows)}"


def _places(number: str, counts: list[str]) -> list[str]:
    """A number as one of so many along every axis, the last one fastest."""
    found = []
    for n, count in enumerate(counts):
        inner = " * ".join(counts[n + 1 :])
        whole = f"{number} // {f'({inner})' if ' ' in inner else inner}" if inner else number
        found.append(f"({whole} % {count})" if n else f"({whole})" if inner else whole)
    return found


def positions(index: Index, side: int, grid: Grid, k: Body) -> Iterator[str]:
    """The digits of every row (0) or column (1) of a box, and its position."""
    w = k.words
    own = [(axis.rows, axis.columns)[side] for axis in grid.axes]
    sizes = [w.block(i) for i in own]
    for i, place in zip(own, _places(w.inside(index), sizes), strict=True):
        yield f"{w.position(i)} = {w.start(i)} + {place}"
    here = _position(grid.place, side, grid.axes[0], k)
    if side == 0 and grid.shift != ZERO:
        here = binary("-", here, code_of(grid.shift, k), ())
    place = w.free(f"{index.name}_place")
    yield f"{place} = {here.text}"
    tests = [code_of(test, k).text for test in grid.inside(side) if test != _begins(grid)]
    if side == 0 and grid.shift != ZERO:
        tests.append(f"{place} >= 0")
    inside = " & ".join(f"({test})" for test in tests)
    yield f"{w.position(index)} = tl.where({inside}, {place}, {w.extent(index)})"


def _begins(grid: Grid) -> Expr:
    return Apply(">=", (grid.row, ZERO))


def _position(place: Place, side: int, first: Axis, k: Body) -> Code:
    """A position by its digits, in 32 bits: where they wrap around, the digits are none of a position's."""
    match place:
        case Split(outer=outer, inner=inner, by=by):
            size = code_of(by, k)
            if k.widths.wide(by):
                size = Code(f"({size.text}).to(tl.int32)")
            above = binary("*", _position(outer, side, first, k), size, ())
            return binary("+", above, _position(inner, side, first, k), ())
        case pair:
            here = code_of(pair[side], k)
            shifted = side == 0 and pair[0] == first.rows and first.first != ZERO
            return binary("+", here, code_of(first.first, k), ()) if shifted else here


def loop_lines(s: Walk, grid: Grid, k: Body, spell: Spell) -> tuple[list[str], list[str], str, str]:
    """Lines before the loop, lines that begin its body; how many steps there are, and what says that a box is
    seen whole, if any can be.
    """
    w = k.words
    before: list[str] = []
    counts, tiles, tests = [], [], []
    bands = grid.bands(lambda i: scalar(w.start(i)))
    for axis, band in zip(grid.axes, bands, strict=True):
        last = w.free(f"{axis.rows.name}_last")
        top, size = w.start(axis.rows), w.block(axis.rows)
        before.append(f"{last} = tl.minimum({top} + {size}, {w.extent(axis.rows)}) - 1")
        block = scalar(w.block(axis.columns))
        name = f"{axis.columns.name}_"
        ranges = union((band,), scalar(top), scalar(last), block, name)
        before += assigned(ranges, axis.columns, k.widths, spell)
        (found,) = ranges.segments
        count, tile = w.free(f"{name}count"), w.free(f"{name}tile")
        lo, hi = (spell(e, ranges.counted) for e in (found.lo, found.hi))
        before.append(f"{count} = {hi if lo == '0' else f'{hi} - {lo}'}")
        counts.append(count)
        tiles.append((axis, tile, lo))
        full_hi = found.full_hi
        if axis.full != axis.size:
            full_hi = smallest((full_hi, Apply("//", (axis.full, block))))
        if found.full_lo == found.full_hi or grid.tested or not s.whole:
            tests = ["False"]
        elif tests != ["False"]:
            full_lo, end = (spell(e, ranges.counted) for e in (found.full_lo, full_hi))
            tests += [f"({full_lo} <= {tile})"] if full_lo != lo else []
            tests += [f"({tile} < {end})"] if end != hi else []
    steps = w.free(f"{s.index.name}_steps")
    before.append(f"{steps} = {' * '.join(counts)}")
    body = [
        f"{tile} = {'' if lo == '0' else f'{lo} + '}{place}"
        for (_, tile, lo), place in zip(tiles, _places("step", counts), strict=True)
    ]
    body += [f"{w.start(a.columns)} = {tile} * {w.block(a.columns)}" for a, tile, _ in tiles]
    body += positions(s.index, 1, grid, k)
    whole = " & ".join(tests) or "True"
    return before, body, steps, whole
