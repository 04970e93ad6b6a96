"""Loop tree and tile → registers and shared memory, as fitted to compile-only reports; the tiles that fit.

A thread of an NVIDIA GPU holds its share of every state, of operands that are computed, and of the score
tiles that are alive at once:

    registers = 30 + (1.05 * rows * states + (3 * alive - 4) * rows * columns + 0.6 * operands) / threads
        + 0.4 * (tests - 2) * columns

The last is what the test of a cell asks of its column beyond two numbers, of which in the layout of matrix
products a thread holds one for every fourth column; beyond three in a kernel of gradients.
A kernel that only adds up, as those of gradients do, corrects no state, and computes in place what it needs
no more. Of two tiles alive, where one that is read for the last time makes room, its factor of rows * columns
is 2.3, and operands weigh twice as much; fitted on thirty kernels of gradients, up to 240 registers.
Fitted on six 16-bit kernels for sm_90 that load by descriptors (Triton 3.6, 8 tiles, 3 feature extents): what
is let through spilled 16 bytes at most; a few tiles are turned down though they were clean. The estimate of
shared memory is up to 8 KB low. Exact float32 products and other vendors keep to their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from attncc.ir.cascade import Expr, Index, Read, Tensor, children, free, walk
from attncc.schedule.loops import (
    Dot,
    Each,
    Edge,
    Fill,
    Fold,
    Let,
    Load,
    Program,
    Statement,
    Walk,
    around,
    statements,
)
from attncc.schedule.tiles import SHARED, Tile, Tiles, candidates, nearest, padded

EXACT = 4
"""Bytes of an element whose products are exact."""

REGISTERS = 250
"""Registers of a thread that an estimate may come to, of 255."""

ADDING = 240
"""The same in a kernel that only adds up."""


TURNED = 8192
"""Bytes of shared memory through which a tile of a table passes from one layout to another, at most."""


@dataclass(frozen=True)
class Footprint:
    """What a kernel holds: extents of the features of its states, of the tiles loaded once and in every step,
    and of the operands computed once and in every step; score tiles alive at once, and
    tables of which the test of a tile looks at every cell. `adds` says that it multiplies at least three
    times and follows no maximum; `wide` counts the states with features, `tests` what the test of a cell asks
    of its column.
    """

    states: int
    rows: int
    columns: int
    alive: int
    row_operands: int = 0
    column_operands: int = 0
    tables: int = 0
    adds: bool = False
    wide: int = 0
    tests: int = 0


def footprint(program: Program, extents: Mapping[str, int]) -> Footprint:
    """What a kernel holds at some feature extents."""

    def width(tensor: Tensor) -> int:
        features = [padded(extents[i.name]) for i in tensor.indices if i.role == "feature"]
        return features[0] if features else 0

    states = {s.target.name for s in program.body if isinstance(s, Fill)}

    def loaded(body: tuple[Statement, ...]) -> int:
        return sum(width(s.target) for s in body if isinstance(s, Load))

    def computed(body: tuple[Statement, ...]) -> int:
        return sum(width(s.target) for s in body if isinstance(s, Let) and s.target.name not in states)

    whole = tuple(around(program.body))
    walks = [s for s in whole if isinstance(s, Walk)]
    before = whole[: whole.index(walks[0])] if walks else whole
    fills = [s.target for s in program.body if isinstance(s, Fill)]
    dots = sum(isinstance(s, Dot) for s in statements(program.body))
    adds = dots >= 3 and not any(_follows(s, {t.name for t in fills}) for s in statements(program.body))
    return Footprint(
        adds=adds,
        wide=sum(width(t) > 0 for t in fills),
        states=sum(width(s.target) for s in program.body if isinstance(s, Fill)),
        rows=loaded(before),
        columns=max((loaded(loop.body) for loop in walks), default=0),
        # digits, tables of cells and where cells read tables are held beside the scores
        alive=max((_alive(loop, program.rows, adds) for loop in walks), default=0)
        + (adds and (bool(program.grids) or any(_at_cells(loop, program.rows) for loop in walks))),
        row_operands=computed(before),
        column_operands=max((computed(loop.body) for loop in walks), default=0),
        tables=max((_tables(loop, program.rows) for loop in walks), default=0),
        tests=max((_tests(loop, program.rows) for loop in walks), default=0),
    )


def registers(held: Footprint, tile: Tile) -> float:
    """Registers of a thread."""
    threads = 32 * tile.warps
    each = 2.3 if held.adds and held.alive == 2 else max(3 * held.alive - 4, 1)
    scores = each * tile.rows * tile.columns
    operands = tile.rows * held.row_operands + tile.columns * held.column_operands
    weight = 1.2 if held.adds else 0.6
    shared = 30 + (1.05 * tile.rows * held.states + scores + weight * operands) / threads
    return shared + 0.4 * max(held.tests - (3 if held.adds else 2), 0) * tile.columns


def shared_memory(held: Footprint, tile: Tile, width: int) -> int:
    """Bytes of a program, for elements of `width` bytes."""
    operands = (tile.rows * held.rows + tile.stages * tile.columns * held.columns) * width
    return operands + 1024 + TURNED * held.tables


def tiles_for(program: Program, target: str, width: int, extents: Mapping[str, int], narrow: bool) -> Tiles:
    """The tiles of a target that a kernel fits into, the fastest first; none where a feature is too wide.

    A kernel of several walks takes its smallest tile of scores: more programs share a multiprocessor, and one
    adds up while another multiplies (weights above a mean on an H100: 2.38 ms with 64 x 32, 3.06 with 128 x
    128). One without matrix products is bound by arithmetic, as exact products are, and has their tiles. One
    whose states are numbers loads keys alone: with two stages two programs share a multiprocessor (a first
    pass and a second on an H100: 2.80 ms, 3.09 with three stages in the first). So they do in one that adds
    up, with small tiles: it has them also where it has several states with features (gradients of keys and
    values, causal, on an H100: 1.87 ms with 64 x 64, 2.15 with 128 x 64).
    """
    held = footprint(program, extents)
    widest = max((padded(extents[i.name]) for i in program.features), default=16)
    multiplies = any(isinstance(s, Dot) for s in statements(program.body))
    small = held.adds and held.wide > 1
    found = candidates(nearest(target), width if multiplies else EXACT, widest, narrow or small)
    if sum(isinstance(s, Walk) for s in around(program.body)) > 1 and width == 2 and multiplies:
        found = tuple(sorted(found, key=lambda tile: tile.rows * tile.columns))
        found = tuple(tile for tile in found if tile.rows >= 64) or found
    if multiplies and (not held.states or (held.adds and width == 2 and (narrow or small))):
        found = tuple(map(lean, found))
    return _fitting(found, held, nearest(target), width) if found else ()


def lean(tile: Tile) -> Tile:
    """A tile with two stages at most."""
    return replace(tile, stages=min(tile.stages, 2))


def _fitting(tiles: Tiles, held: Footprint, target: str, width: int) -> Tiles:
    """The tiles whose registers and shared memory suffice, in their order; the nearest to it if none does."""
    most = ADDING if held.adds else REGISTERS
    fit = tuple(
        tile
        for tile in tiles
        if shared_memory(held, tile, width) <= SHARED[target]
        and (width > 2 or not target.startswith("cuda") or registers(held, tile) <= most)
    )
    return fit or tuple(sorted(tiles, key=lambda tile: registers(held, tile)))[:1]


def _follows(s: Statement, states: set[str]) -> bool:
    """Whether a statement is part of following a maximum or a mean: a fold to one, a state kept as it was."""
    match s:
        case Fold(op=op):
            return op != "sum"
        case Let(value=Read(tensor)):
            return tensor.name in states
        case _:
            return False


def _alive(loop: Walk, rows: Index, in_place: bool) -> int:
    """The most score tiles, rows by columns, that are held between two statements of a loop, or in one."""
    steps = list(_steps(loop.body))
    most, needed = 0, frozenset[str]()
    for target, read in reversed(steps):
        tiles = {t.name for t in read if {rows, loop.index} <= set(t.indices) and t.kind == "float"}
        made = {target.name} if target is not None and {rows, loop.index} <= set(target.indices) else set()
        held = (needed | made, (needed - made) | tiles) if in_place else (needed | made | tiles,)
        most = max(most, *map(len, held))
        needed = (needed - made) | tiles
    return most


def _tables(loop: Walk, rows: Index) -> int:
    """Tables that are read cell by cell: what is loaded in one layout is wanted in another."""
    loads = (s.target for s in statements(loop.body) if isinstance(s, Load))
    return sum(t.kind != "float" and {rows, loop.index} <= set(t.indices) for t in loads)


def _at_cells(loop: Walk, rows: Index) -> bool:
    """Whether tables are read cell by cell, whole or one feature after the other."""
    turns = (s for s in statements(loop.body) if isinstance(s, Each))
    loads = (s.target for turn in turns for s in turn.body if isinstance(s, Load))
    return bool(_tables(loop, rows)) or any({rows, loop.index} <= set(t.indices) for t in loads)


def _tests(loop: Walk, rows: Index) -> int:
    """What the test of a cell asks of its column alone: its place in a grid, whether it is in a region."""
    found: set[Expr] = set()

    def look(e: Expr) -> None:
        along = free(e) & {rows, loop.index}
        if along == {loop.index} and not isinstance(e, Index):
            found.add(e)
        elif along:
            for part in children(e):
                look(part)

    for edge in (s for s in statements(loop.body) if isinstance(s, Edge)):
        for s in edge.body:
            if isinstance(s, Let) and s.target.kind == "bool":
                look(s.value)
    return len(found)


def _steps(body: tuple[Statement, ...]) -> Iterator[tuple[Tensor | None, tuple[Tensor, ...]]]:
    """What every statement defines, and what it reads."""
    for s in body:
        match s:
            case Let(target, value) | Fold(target, _, _, value):
                yield target, _read(value)
            case Dot(target, left, right, _, start):
                yield target, (*_read(left), *_read(right), *(_read(start) if start is not None else ()))
            case Edge(inner):
                yield from _steps(inner)
            case Fill(target):
                yield target, ()
            case Each(body=inner):
                yield from ((s.target, ()) for s in inner if isinstance(s, Load))
                yield from _steps(inner)
            case _:
                pass


def _read(e: Expr) -> tuple[Tensor, ...]:
    return tuple(x.tensor for x in walk(e) if isinstance(x, Read))
