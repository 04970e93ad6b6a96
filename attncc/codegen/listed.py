"""Walk whose live tiles tables decide → the programs that list them: first the ends of tiles, then the lists.

    doc_k_least[b,n], doc_k_greatest[b,n]     of the columns in every tile n
    doc_q_least, doc_q_greatest               of the rows of this tile
    k_list[b, tile of rows] = [n where all cells hold..., n where some may hold...]

A list stands at every tile of rows and every place of those batched indices that the predicate follows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from attncc.codegen.ranges import scalar
from attncc.codegen.words import Words
from attncc.ir.cascade import ONE, Apply, Expr, Index, Read, Tensor, extent, free, number, substitute
from attncc.ir.logic import conjoin
from attncc.masks.intervals import Facts
from attncc.masks.summary import End, summary
from attncc.schedule.block import Block, let, value_of
from attncc.schedule.loops import Fold, Listing, Load, Program, Statement, Store, Walk, statements


@dataclass(frozen=True)
class Lists:
    """One list: `program` writes it, from what `ends`, if tables are read along the columns alone, has found
    of their tiles.
    """

    walk: Walk
    ends: Program | None
    program: Program

    @property
    def listing(self) -> Listing:
        """What the program ends with."""
        last = self.program.body[-1]
        assert isinstance(last, Listing)
        return last


def lists(program: Program, words: Words, inline: bool = False) -> tuple[Lists, ...]:
    """The lists that a kernel reads, each once.

    `inline`: they are made in the function that reads them, which has slices of tensors instead of tiles.
    """
    walks = (s for s in statements(program.body) if isinstance(s, Walk) and s.listed is not None)
    named = {list_of(walk, program, words): walk for walk in walks}
    return tuple(_lists(walk, output, program, words, inline) for output, walk in named.items())


def list_of(walk: Walk, program: Program, words: Words) -> Tensor:
    """The list of a walk."""
    assert walk.listed is not None
    meaning = ("list", program.rows, walk.index, walk.whole, walk.listed)
    return Tensor(words.free(f"{walk.index.name}_list", meaning), (), "int", "table")


def places(walk: Walk, program: Program) -> tuple[Index, ...]:
    """The batched indices that a list is over."""
    assert walk.listed is not None
    return tuple(i for i in program.batch if i in free(walk.listed))


def tile_of(index: Index, words: Words) -> Index:
    """The number of a tile of an index, as an index of its own."""
    name = f"{index.name}_tile"
    while any(i.name == name for i in words.indices):
        name += "_"
    return Index(name, "sequence", "position")


def _lists(walk: Walk, output: Tensor, program: Program, words: Words, inline: bool) -> Lists:
    rows, columns, tile = program.rows, walk.index, tile_of(walk.index, words)
    assert walk.listed is not None
    first, size = Apply("*", (tile, scalar(words.block(columns)))), scalar(words.block(columns))
    box = {
        rows: _box(scalar(words.start(rows)), scalar(words.block(rows)), rows),
        columns: _box(first, size, columns),
    }
    sizes = frozenset((scalar(words.block(rows)), scalar(words.block(columns))))
    positive = sizes | {e for band in walk.bands for e in band.plane.positive if _checked(e)}
    facts = Facts(positive, frozenset((scalar(words.start(rows)),)))
    known = summary(walk.listed, box, facts, lambda name: words.free(name, (name, ())))
    batch, own = places(walk, program), known.along(columns)
    used = _names(program) if inline else ()
    block = _block((rows, columns, tile), used)
    for end in known.along(rows):
        _fold(end, block, inline)
    block.held.update({t: Read(t, ()) for end in known.along(rows) for t in (end.least, end.greatest)})
    many = Block(block.axes, block)
    for tensor in (t for end in own for t in (end.least, end.greatest)):
        whole = _table(tensor, batch, tile)
        local = replace(tensor, indices=(tile,))
        many.held[tensor] = Read(local, (tile,)) if inline else value_of(Read(whole, whole.indices), many)
    exists = Apply("<=", (Apply("+", (first, size)), extent(columns)))
    must = value_of(conjoin((exists, known.must)), many) if walk.whole else number(False)
    may = value_of(conjoin((Apply("<", (tile, extent(tile))), known.may)), many)
    listing = Listing(output, columns, tile, tuple(many.statements), must, may, positive)
    made = tuple(_table(t, batch, tile) for end in own for t in (end.least, end.greatest))
    body = (*block.statements, listing)
    tables = _tables(body, program)
    return Lists(
        walk,
        _ends(own, columns, batch, tile, program, used, inline) if own else None,
        Program(f"{program.name}_{output.name}", rows, batch, (*tables, *made), (output,), body),
    )


def _ends(
    ends: tuple[End, ...],
    columns: Index,
    batch: tuple[Index, ...],
    tile: Index,
    program: Program,
    used: Collection[str],
    inline: bool,
) -> Program:
    """What writes the least and the greatest of every tile of columns."""
    block = _block((columns,), used)
    outputs = []
    for end in ends:
        _fold(end, block, inline)
        for tensor in (end.least, end.greatest):
            outputs.append(_table(tensor, batch, tile))
            block.statements.append(Store(outputs[-1], Read(tensor, ())))
    body = tuple(block.statements)
    name = f"{program.name}_{columns.name}_ends"
    return Program(name, columns, batch, _tables(body, program), tuple(outputs), body)


def _checked(e: Expr) -> bool:
    """Whether the host function sees to it that a divisor is positive."""
    return isinstance(e, Read) and e.tensor.origin in ("scalar", "static")


def _box(first: Expr, size: Expr, index: Index) -> tuple[Expr, Expr]:
    """The first and the last position of a tile; what there is of it."""
    return first, Apply("-", (Apply("min", (Apply("+", (first, size)), extent(index))), ONE))


def _block(axes: tuple[Index, ...], used: Collection[str]) -> Block:
    return Block(axes, names=dict.fromkeys(used, 1))


def _names(program: Program) -> frozenset[str]:
    """The locals of a kernel."""
    targets = (getattr(s, "target", None) for s in statements(program.body))
    return frozenset(t.name for t in targets if t is not None)


def _table(end: Tensor, batch: tuple[Index, ...], tile: Index) -> Tensor:
    """What is found of every tile, at every place."""
    return Tensor(f"{end.name}_each", (*batch, tile), "int", "table")


def _tables(body: tuple[Statement, ...], program: Program) -> tuple[Tensor, ...]:
    """The tables that some statements read."""
    read = {s.read.tensor for s in statements(body) if isinstance(s, Load)}
    return tuple(t for t in program.inputs if t in read)


def _fold(end: End, block: Block, inline: bool) -> None:
    """The least and the greatest of a value on a tile; positions past the last one stand for it."""
    last = Apply("min", (end.index, Apply("-", (extent(end.index), ONE))))
    value = value_of(end.number if inline else substitute(end.number, {end.index: last}), block)
    if not isinstance(value, Read):
        value = let(value, value, block)
    block.statements.append(Fold(end.least, "min", end.index, value))
    block.statements.append(Fold(end.greatest, "max", end.index, value))
