"""Boxes of a grid → plain PyTorch as text: loops over them, and the positions that are in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attncc.codegen.lines import needed
from attncc.codegen.ranges import scalar
from attncc.codegen.torch_code import Body, code_of
from attncc.ir.cascade import ZERO, Apply, Index
from attncc.masks.bands import Band
from attncc.masks.grid import Grid
from attncc.masks.intervals import smallest
from attncc.masks.ranges import union
from attncc.schedule.loops import Walk

INDENT = "    "


def positions(index: Index, side: int, grid: Grid, k: Body) -> Iterator[str]:
    """The positions of the rows (0) or columns (1) of a box, as many as there are."""
    w = k.words
    own = [(axis.rows, axis.columns)[side] for axis in grid.axes]
    corners = ", ".join(f"({w.start(i)}, {w.block(i)}, {w.extent(i)})" for i in own)
    k.helpers["digits"] = None
    yield f"{', '.join(w.position(i) for i in own)} = digits({corners}, device=device)"
    place = w.position(index)
    yield f"{place} = {code_of((grid.row, grid.column)[side], k).text}"
    sizes = {Apply("<", (i, Apply("extent", (i,)))) for i in own}
    tests = [
        f"({place} < {w.extent(index)})",
        *([f"({place} >= 0)"] if grid.shift != ZERO and not side else []),
    ]
    tests += [
        f"({code_of(test, k).text})"
        for test in grid.inside(side)
        if test not in sizes and test != Apply(">=", (grid.row, ZERO))
    ]
    names = ", ".join([*(w.position(i) for i in own), place])
    yield f"inside = {' & '.join(tests)}"
    yield f"{names} = (x[inside] for x in ({names}))"
    yield f"if not len({place}):"
    yield f"{INDENT}continue"


def rows_of_boxes(grid: Grid, inner: Sequence[str], k: Body) -> Iterator[str]:
    """One loop for every axis, around what is done with a box of rows."""
    w, pad = k.words, ""
    for axis in grid.axes:
        i = axis.rows
        yield f"{pad}for {w.start(i)} in range(0, {w.extent(i)}, {w.block(i)}):"
        pad += INDENT
    yield from (f"{pad}{line}" for line in positions(k.program.rows, 0, grid, k))
    yield from (f"{pad}{line}" for line in inner)


def walk_of_boxes(
    s: Walk, grid: Grid, together: Callable[[Band], Band], body: Sequence[str], k: Body
) -> Iterator[str]:
    """The boxes that are live along every axis, each once; `together` is a band as all heads see it."""
    w = k.words
    starts = {axis.rows: scalar(w.start(axis.rows)) for axis in grid.axes}
    k.steps |= {start.tensor for start in starts.values()}
    bands = map(together, grid.bands(starts.__getitem__))
    before: list[str] = []
    tiles = []
    for axis, band in zip(grid.axes, bands, strict=True):
        last = w.free(f"{axis.rows.name}_last")
        top, block = w.start(axis.rows), scalar(w.block(axis.columns))
        before.append(f"{last} = min({top} + {w.block(axis.rows)}, {w.extent(axis.rows)}) - 1")
        ranges = union((band,), scalar(top), scalar(last), block, f"{axis.columns.name}_")
        k.steps |= {step.tensor for step in ranges.steps}
        before += [f"{w.value(step.tensor)} = {code_of(step.body, k).text}" for step in ranges.steps]
        (r,) = ranges.segments
        full_hi = r.full_hi
        if axis.full != axis.size:
            full_hi = smallest((full_hi, Apply("//", (axis.full, block))))
        full_lo, full_hi = (r.lo, r.lo) if grid.tested or not s.whole else (r.full_lo, full_hi)
        tiles.append(", ".join(code_of(e, k).text for e in (r.lo, r.hi, full_lo, full_hi)))
    columns = [axis.columns for axis in grid.axes]
    sides = ", ".join(w.block(i) for i in columns)
    loop = ["tiles = (", *(f"{INDENT}({ends})," for ends in tiles), ")"]
    places = ", ".join(w.start(i) for i in columns)
    loop.append(f"for ({places}), whole in boxes(tiles, ({sides})):")
    k.helpers["boxes"] = None
    opened = positions(s.index, 1, grid, k)
    yield "# boxes that are live along every axis, and whether these rows see them whole"
    yield from needed(before, loop)
    yield from loop
    yield from (f"{INDENT}{line}" for line in (*opened, *body))
