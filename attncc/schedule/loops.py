"""The loop tree of one kernel, which every backend prints: what is loaded, computed, walked, stored.

A *local* is an `ir.Tensor` over tile indices (rows, the walked index, features) that lives while a row tile
is worked on. Expressions are those of the cascade, over locals, scalars and positions; a position prints as
the vector of its tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from attncc.ir.cascade import Expr, Index, Read, Tensor
from attncc.masks.bands import Band
from attncc.masks.grid import Grid


@dataclass(frozen=True)
class Note:
    """The equation that the following statements compute."""

    text: str


@dataclass(frozen=True)
class Load:
    """A tile of an input: `target[tile indices] = read`, 0 where a position lies outside."""

    target: Tensor
    read: Read


@dataclass(frozen=True)
class Let:
    """`target = value`, element by element."""

    target: Tensor
    value: Expr


@dataclass(frozen=True)
class Dot:
    """`target[a,c] = start + sum(over) left[a,over] * right[c,over]`, a matrix product in the inputs'
    precision.
    """

    target: Tensor
    left: Expr
    right: Expr
    over: Index
    start: Expr | None


@dataclass(frozen=True)
class Fold:
    """`target = op(over) value`, inside one tile; of a value that is the same everywhere, a multiple."""

    target: Tensor
    op: str
    over: Index
    value: Expr


@dataclass(frozen=True)
class Fill:
    """A state before its loop: the identity of its reduction."""

    target: Tensor
    value: Expr


@dataclass(frozen=True)
class Edge:
    """What is done only on tiles of a walk that the predicate cuts, none of which need be seen whole."""

    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Walk:
    """A loop over the live tiles of an index, each once: first those seen whole, then those on an edge.

    `whole` says that there are tiles without a test; where it is false, the body itself tests every tile.
    Where there is a predicate `listed`, its live tiles stand in a list that is made before, and the bands
    bound them only roughly. On a `grid`, tiles are boxes, and `bands` are those of its axes.
    """

    index: Index
    bands: tuple[Band, ...]
    whole: bool
    body: tuple[Statement, ...]
    listed: Expr | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Listing:
    """The list of tiles of an index that a tile of rows sees, many looked at in every step after `body`.

    `tile` is the number of such a tile. All of a tile is seen where `must` holds, nothing where `may` fails;
    both rely on what is `positive`.
    """

    output: Tensor
    index: Index
    tile: Index
    body: tuple[Statement, ...]
    must: Expr
    may: Expr
    positive: frozenset[Expr]


@dataclass(frozen=True)
class Tally:
    """`output = how many tiles the walks visit`, in all, for this tile of rows at this place."""

    output: Tensor
    walks: tuple[Walk, ...]


@dataclass(frozen=True)
class Each:
    """What is done at positions of an index, one after the other: from `begin` to before `end`, `step` apart.
    In it, the position is the number `at`.
    """

    at: Index
    index: Index
    body: tuple[Statement, ...]
    begin: Expr
    end: Expr
    step: int = 1


@dataclass(frozen=True)
class Store:
    """A row tile of an output, in the output's own order of indices."""

    output: Tensor
    value: Expr


Statement: TypeAlias = Note | Load | Let | Dot | Fold | Fill | Edge | Walk | Listing | Tally | Each | Store


@dataclass(frozen=True)
class Program:
    """One kernel: row tiles of `rows` for every position of `batch`.

    Where the batched indices that its work follows are `ordered`, it runs most work first, by an order that
    is made before; the other places of the batch have the same work. Otherwise the last rows come first, or
    those that are `early`, where they see most.
    """

    name: str
    rows: Index
    batch: tuple[Index, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    body: tuple[Statement, ...]
    ordered: tuple[Index, ...] | None = None
    early: bool = False

    @property
    def leading(self) -> Tensor:
        """The input whose device, precision and width the kernel follows."""
        return next(t for t in self.inputs if t.kind == "float")

    @cached_property
    def grids(self) -> dict[Index, Grid]:
        """The grid of each walked index whose tiles are boxes, and of the rows, which all of them share."""
        found = {s.index: s.grid for s in statements(self.body) if isinstance(s, Walk) and s.grid is not None}
        return {self.rows: next(iter(found.values())), **found} if found else {}

    @cached_property
    def digit_of(self) -> dict[Index, Index]:
        """The rows or columns that a digit is one of."""
        return {
            digit: index
            for index, grid in self.grids.items()
            for axis in grid.axes
            for digit in [axis.rows if index == self.rows else axis.columns]
        }

    @cached_property
    def digits(self) -> tuple[Index, ...]:
        """The digits that its positions are taken apart into."""
        found = dict.fromkeys(i for g in self.grids.values() for i, _ in g.lengths)
        return tuple(found)

    @cached_property
    def each(self) -> dict[Index, Index]:
        """Positions that are numbers, and the index that each of them runs along."""
        return {s.at: s.index for s in statements(self.body) if isinstance(s, Each)}

    @cached_property
    def turned(self) -> frozenset[Index]:
        """Batched indices whose places are worked on one after the other."""
        return frozenset(i for i in self.each if i.role == "batch")

    @cached_property
    def features(self) -> tuple[Index, ...]:
        """Feature indices of tiles, by name."""
        found = {i for s in statements(self.body) for i in _indices(s) if i.role == "feature"}
        return tuple(sorted(found, key=lambda i: i.name))


def statements(body: Iterable[Statement]) -> Iterator[Statement]:
    """All statements of a loop tree, those inside loops too."""
    for s in body:
        yield s
        if isinstance(s, Walk | Edge | Listing | Each):
            yield from statements(s.body)
        elif isinstance(s, Tally):
            yield from statements(s.walks)


def around(body: Iterable[Statement]) -> Iterator[Statement]:
    """The statements around walks, and the walks, those done at every position of an index too."""
    for s in body:
        if isinstance(s, Each) and any(isinstance(x, Walk) for x in statements(s.body)):
            yield from around(s.body)
        else:
            yield s


def _indices(s: Statement) -> tuple[Index, ...]:
    match s:
        case Load(target) | Let(target) | Fill(target):
            return target.indices
        case Dot(target=target, over=over) | Fold(target=target, over=over):
            return (*target.indices, over)
        case Store(output):
            return output.indices
        case _:
            return ()


def expressions(body: Iterable[Statement]) -> Iterator[Expr]:
    """Every expression of a loop tree, the bounds of its walks included."""
    for s in statements(body):
        match s:
            case Load(_, read):
                yield read
            case Let(_, value) | Fill(_, value) | Fold(value=value) | Store(_, value):
                yield value
            case Dot(left=left, right=right, start=start):
                yield from (left, right, *([] if start is None else [start]))
            case Each(begin=begin, end=end):
                yield from (begin, end)
            case Listing(must=must, may=may):
                yield from (must, may)
            case Walk(bands=bands, grid=grid, listed=None):
                yield from () if grid is None else grid.said
                for band in bands:
                    yield from (bound.value for bound in (*band.lows, *band.highs))
                    yield from band.guards
                    yield from band.residue.parts if band.residue else ()
