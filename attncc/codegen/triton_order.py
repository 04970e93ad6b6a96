"""Uneven work as Triton: how a kernel counts its own, and how another runs most of it first.

order:  the programs of one place of those batched indices that the work does not follow, most work first
beside: so many such places run side by side, that their tiles share the cache and none is left for last

    place 0: 3 1 2      place 1: 3 1 2      -->     3 3 1 1 2 2      with two of them beside one another
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attncc.codegen.lines import needed
from attncc.codegen.ranges import Spell, walk_ranges
from attncc.codegen.triton_boxes import loop_lines
from attncc.codegen.triton_code import Body
from attncc.codegen.triton_listed import listed_ranges
from attncc.ir.cascade import Index
from attncc.schedule.loops import Tally, Walk


def places(batch: tuple[Index, ...], number: str, k: Body) -> Iterator[str]:
    """Batched indices by the number of their place, the last one fastest."""
    w = k.words
    for index in reversed(batch[1:]):
        yield f"{w.position(index)} = ({number}) % {w.extent(index)}"
        number = f"{number} // {w.extent(index)}"
    if batch:
        yield f"{w.position(batch[0])} = {number}"


def ordered_lines(k: Body) -> Iterator[str]:
    """Which place of the other batched indices this program works on, and its number among those of a place;
    past its end, an order is the numbers themselves.
    """
    w, ordered = k.words, k.program.ordered
    assert ordered is not None
    others = tuple(i for i in k.program.batch if i not in ordered)
    order, length = w.free("order"), w.free("ordered")
    if others:
        beside, programs, first, here = map(w.free, ("beside", "programs", "first", "here"))
        many, place = w.free("many"), w.free("place")
        yield f"{programs} = {' * '.join(['tiles', *map(w.extent, ordered)])}"
        yield f"{first} = pid // ({programs} * {beside}) * {beside}"
        yield f"{many} = tl.minimum({beside}, {' * '.join(map(w.extent, others))} - {first})"
        yield f"{here} = pid - {first} * {programs}"
        yield f"{place} = {first} + {here} % {many}"
        yield from places(others, place, k)
        yield f"pid = {here} // {many}"
    yield f"pid = tl.load({order} + pid, mask=pid < {length}, other=pid).to(tl.int32)"


def tally_lines(s: Tally, k: Body, spell: Spell) -> Iterator[str]:
    """What counts the tiles of some walks, and stores how many they are."""
    w = k.words
    visited = w.free("visited")
    for n, walk in enumerate(s.walks):
        k.elements.clear()
        lines, count = _counted(walk, k, spell)
        last = f"{visited} {'+=' if n else '='} {count}"
        elements = [f"{name} = {text}" for text, name in k.elements.items()]
        yield from (*needed([*_last(k), *elements, *lines], [last]), last)
    yield f"tl.store({w.tensor(s.output.name)} + pid, {visited})"


def _counted(s: Walk, k: Body, spell: Spell) -> tuple[Iterable[str], str]:
    """The lines that count the tiles of a walk, and their number."""
    w = k.words
    if s.listed is not None:
        ranges = listed_ranges(s, k)
    elif s.grid is not None:
        before, _, steps, _ = loop_lines(s, s.grid, k, spell)
        return before, steps
    else:
        ranges = walk_ranges(s, w.start(k.program.rows), w.free("last"), w, k.widths, spell)
    return ranges.lines, ranges.count


def _last(k: Body) -> list[str]:
    """The last row of this tile."""
    w, rows = k.words, k.program.rows
    return [f"{w.free('last')} = tl.minimum({w.start(rows)} + {w.block(rows)}, {w.extent(rows)}) - 1"]
