"""Lists of tiles as Triton: how a kernel writes one, and how another walks it.

k_list at a tile of rows and a place:   how many tiles are seen whole, how many at all,
                                        the first of these rising, ... and the others falling from the end
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attncc.codegen.listed import list_of, places
from attncc.codegen.ranges import WalkRanges
from attncc.codegen.triton_code import Body, along, code_of
from attncc.ir.cascade import FALSE, Index
from attncc.schedule.loops import Listing, Statement, Walk

INDENT = "    "

LANES = 128
"""So many tiles are looked at in every step."""

Lines = Callable[[Iterable[Statement], Body], Iterator[str]]


def listing_lines(s: Listing, k: Body, lines: Lines) -> Iterator[str]:
    """What writes a list: one pass over all tiles of the index."""
    w = k.words
    name, tile, count = w.tensor(s.output.name), w.position(s.tile), w.extent(s.tile)
    here = w.free(f"{s.output.name}_here", ("list_here", s.output))
    others, live, full, place, rest = map(w.free, ("others", "live", "full", "place", "rest"))
    yield f"{here} = {name} + {_row(k.program.batch, s.index, k, count)}"
    yield "whole = tl.full([], 0, tl.int32)"
    yield f"{others} = tl.full([], 0, tl.int32)"
    yield f"for {w.start(s.tile)} in tl.range(0, {count}, {w.block(s.tile)}):"
    yield f"{INDENT}{w.start(s.tile)} = tl.cast({w.start(s.tile)}, tl.int32)"
    yield f"{INDENT}{tile} = {w.start(s.tile)} + {w.inside(s.tile)}"
    yield from (f"{INDENT}{line}" for line in lines(s.body, k))
    yield f"{INDENT}{live} = {along(code_of(s.may, k), (s.tile,), k).text}"
    if s.must == FALSE:
        yield f"{INDENT}{rest} = {live}"
    else:
        yield f"{INDENT}{full} = {along(code_of(s.must, k), (s.tile,), k).text}"
        yield f"{INDENT}{place} = whole + tl.cumsum({full}.to(tl.int32), 0)"
        yield f"{INDENT}tl.store({here} + 1 + {place}, {tile}, mask={full})"
        yield f"{INDENT}whole += tl.sum({full}.to(tl.int32), 0)"
        yield f"{INDENT}{rest} = {live} & ~{full}"
    yield f"{INDENT}{place} = {others} + tl.cumsum({rest}.to(tl.int32), 0)"
    yield f"{INDENT}tl.store({here} + {count} + 2 - {place}, {tile}, mask={rest})"
    yield f"{INDENT}{others} += tl.sum({rest}.to(tl.int32), 0)"
    yield f"tl.store({here}, whole)"
    yield f"tl.store({here} + 1, whole + {others})"


def listed_ranges(s: Walk, k: Body) -> WalkRanges:
    """The steps of a walk over the tiles of a list."""
    w = k.words
    output = list_of(s, k.program, w)
    here, whole, steps, end, count = (
        w.free(f"{s.index.name}_{name}", (name, output))
        for name in ("list_here", "whole", "steps", "end", "tiles")
    )
    lines = (
        f"{count} = tl.cdiv({w.extent(s.index)}, {w.block(s.index)})",
        f"{here} = {w.tensor(output.name)} + {_row(places(s, k.program), s.index, k, count)}",
        f"{whole} = tl.load({here})",
        f"{steps} = tl.load({here} + 1)",
        f"{end} = {count} + 1 + {whole}",
    )
    tile = f"tl.load({here} + tl.where(step < {whole}, step + 2, {end} - step))"
    return WalkRanges(lines, (), steps, tile, f"step >= {whole}")


def _row(batch: tuple[Index, ...], columns: Index, k: Body, count: str) -> str:
    """Where the list of this tile of rows begins."""
    w, rows = k.words, k.program.rows
    place = ""
    for index in batch:
        place = f"({place}) * {w.extent(index)} + " if place else ""
        place += w.position(index)
    tile = f"{w.start(rows)} // {w.block(rows)}"
    number = f"({place}) * tiles + {tile}" if place else tile
    return f"({number}).to(tl.int64) * ({count} + 2)"
