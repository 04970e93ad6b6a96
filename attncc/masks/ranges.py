"""Bands and a tile of rows → the tiles of columns to visit, each once, and which of them need no test.

    begin <= k < end              columns that any row sees     lo, hi             tiles that touch them
    inner_begin <= k < inner_end  columns that all rows see     full_lo, full_hi   tiles inside them

As the ends of a band are monotone, their extremes over a tile of rows are at its first or its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Apply,
    Choose,
    Equation,
    Expr,
    Read,
    Tensor,
    children,
    extent,
    kind,
    substitute,
)
from attncc.masks.band import Band, Bound, before
from attncc.masks.folded import folded
from attncc.masks.integers import Env, at
from attncc.masks.intervals import Facts, at_most, largest, nonnegative, smallest
from attncc.masks.normal import both
from attncc.masks.residues import Residue, Stride
from attncc.masks.sums import canonical

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileRange:
    """Tiles `lo <= n < hi` of columns, of which `full_lo <= n < full_hi` hold only cells of the mask.

    `lo <= full_lo <= full_hi <= hi`: the loop is three loops, the middle one without a test. All columns of
    a full tile exist. With a `stride` they are the tiles of these ranks.
    """

    lo: Expr
    hi: Expr
    full_lo: Expr
    full_hi: Expr
    stride: Stride | None = None

    @property
    def ends(self) -> tuple[Expr, Expr, Expr, Expr]:
        """`lo`, `hi`, `full_lo` and `full_hi`."""
        return self.lo, self.hi, self.full_lo, self.full_hi


@dataclass(frozen=True)
class Ranges:
    """What is computed once for a tile of rows: `steps`, scalars in order, and `segments`, which read them.

    The segments are disjoint; any of them may be empty.
    """

    steps: tuple[Equation, ...]
    segments: tuple[TileRange, ...]

    @property
    def counted(self) -> frozenset[Expr]:
        """The numbers among the steps, none of which is ever negative."""
        return frozenset(Read(s.tensor, ()) for s in self.steps if s.tensor.kind == "int")


def ordered(bands: Sequence[Band]) -> tuple[Band, ...] | None:
    """Bands so that each provably starts no later than the next, on any tile; None if there is no proof."""
    left, chain = list(bands), []
    while left:
        first = next((a for a in left if all(before(a, b) for b in left)), None)
        if first is None:
            return None
        left.remove(first)
        chain.append(first)
    return tuple(chain)


def union(bands: Sequence[Band], first: Expr, last: Expr, block: Expr, prefix: str = "") -> Ranges:
    """The tiles of several bands in the rows `first <= q <= last`, each tile once, as scalar code.

    `0 <= first <= last <= |q| - 1`. Live tiles of one band are exact if no row is empty and each row begins
    no later than just after the one before it ends, otherwise a superset; its full ones are exact. A band
    with an element test has no full tiles.

    Bands are put in order by their starts: when the pattern is compiled if the order is provable, otherwise
    by comparing and exchanging. Each starts where the one before stopped, and that stops early where the
    next can take over tiles that are not full in it. One band with a residue strides through what is left
    between them. `prefix` begins the name of every step.
    """
    steps = _Steps(prefix, block)
    striding = next((b for b in bands if b.residue is not None), None)
    others = [b.untested() for b in bands if b is not striding]
    segments = _chained(others, first, last, steps, striding is not None)
    if striding is not None:
        behind = not any(set(b.highs) == set(striding.highs) and not b.guards for b in others)
        between = _between(striding, segments, behind, first, last, steps)
        if not between:
            return union(others, first, last, block, prefix)
        segments += between
    return Ranges(steps.equations, tuple(segments))


def _chained(bands: Sequence[Band], first: Expr, last: Expr, steps: _Steps, closed: bool) -> list[TileRange]:
    """The tiles of bands without a residue, in rising order."""
    chain = ordered(bands)
    names = [""] if len(bands) == 1 else map(str, range(len(bands)))
    found = [
        _range(b, first, last, steps, name, closed) for b, name in zip(chain or bands, names, strict=True)
    ]
    if len(bands) == 1:
        return found
    if chain is None:
        found = _sorted(found, steps)
    segments: list[TileRange] = []
    stop: Expr = ZERO
    for n, this in enumerate(found):
        start = steps.let(f"start{n}", largest((this.lo, stop), steps.facts))
        end = this.hi
        if n + 1 < len(found):
            after = found[n + 1]
            early = smallest((this.hi, largest((after.lo, this.full_hi), steps.facts)), steps.facts)
            end = Choose(Apply("<=", (this.hi, after.hi)), early, this.hi)
        stop = steps.let(f"stop{n}", largest((end, start), steps.facts))
        if this.full_lo == this.full_hi:
            segments.append(TileRange(start, stop, start, start))
            continue
        full_lo = steps.let(f"full_start{n}", steps.clip(this.full_lo, start, stop))
        full_hi = steps.let(f"full_stop{n}", steps.clip(this.full_hi, full_lo, stop))
        segments.append(TileRange(start, stop, full_lo, full_hi))
    return segments


def _between(
    band: Band, taken: Sequence[TileRange], behind: bool, first: Expr, last: Expr, steps: _Steps
) -> list[TileRange]:
    """The tiles of a band with a residue that are before, between and after those `taken`, by their ranks.

    Nothing is after them where one of them is not `behind` the band at its end; none where that leaves none.
    """
    assert band.residue is not None
    this = _range(replace(band, residue=None), first, last, steps, "_class")
    stride, pure = _stride(band.residue, steps)
    gaps = [
        (taken[n - 1].hi if n else None, taken[n].lo if n < len(taken) else None)
        for n in range(len(taken) + behind)
    ]
    found = []
    for n, (left, right) in enumerate(gaps):
        name = str(n) if len(gaps) > 1 else ""
        lo = this.lo if left is None else largest((this.lo, left), steps.facts)
        lo = steps.let(f"from{name}", lo)
        hi = this.hi if right is None else smallest((this.hi, right), steps.facts)
        hi = steps.let(f"upto{name}", largest((lo, hi), steps.facts))
        if lo == hi:
            continue
        rank, end = steps.let(f"rank{name}", stride.rank(lo)), steps.let(f"rank_end{name}", stride.rank(hi))
        full, full_end = rank, rank
        if this.full_lo != this.full_hi:
            full_lo = steps.let(f"pure_from{name}", steps.clip(this.full_lo, lo, hi))
            full_hi = steps.let(f"pure_upto{name}", steps.clip(this.full_hi, full_lo, hi))
            full = rank if full_lo == lo else steps.let(f"pure_rank{name}", stride.rank(full_lo))
            full_end = steps.let(f"pure_rank_end{name}", Choose(pure, stride.rank(full_hi), full))
        found.append(TileRange(rank, end, full, full_end, stride))
    return found


def _stride(residue: Residue, steps: _Steps) -> tuple[Stride, Expr]:
    """The live tiles of a class, and whether each of them is in it as a whole.

    Where the class does not repeat after a number of tiles, every one is live.
    """
    block = steps.block

    def whole(e: Expr) -> Expr:
        return Apply("==", (Apply("%", (e, block)), ZERO))

    period = steps.let("period", residue.period)
    start = steps.let("start", canonical(Apply("%", (residue.ahead, period))))
    follows = steps.let("follows", whole(period))
    pure = steps.let("pure", both(follows, both(whole(start), whole(residue.run))))
    first = Apply("//", (start, block))
    tiles = Apply("//", (period, block))
    width = canonical(Apply("-", (_tiles(Apply("+", (start, residue.run)), block), first)))
    turn = steps.let("turn", Choose(follows, tiles, ONE))
    return Stride(
        turn,
        steps.let("width", Choose(follows, smallest((width, turn)), ONE)),
        steps.let("shift", Choose(follows, Apply("-", (turn, first)), ONE)),
    ), pure


@dataclass(frozen=True)
class Visited:
    """One segment in numbers; tiles of ranks `lo` to `hi` where `stride` is no (1, 1, 0)."""

    lo: int
    hi: int
    full_lo: int
    full_hi: int
    stride: tuple[int, int, int] = (1, 1, 0)

    @property
    def live(self) -> Array:
        """The numbers of the tiles to visit, rising."""
        return self._tiles(self.lo, self.hi)

    @property
    def full(self) -> Array:
        """The numbers of those that hold only cells of the mask."""
        return self._tiles(self.full_lo, self.full_hi)

    @property
    def partial(self) -> Array:
        """The numbers of the others."""
        return np.concatenate([self._tiles(self.lo, self.full_lo), self._tiles(self.full_hi, self.hi)])

    def _tiles(self, lo: int, hi: int) -> Array:
        period, width, shift = self.stride
        rank = np.arange(lo, hi)
        return np.asarray(rank // width * period + rank % width - shift)


def visit(ranges: Ranges, env: Env) -> list[Visited]:
    """The segments that are not empty, in numbers. Errors as `integers.at`."""
    known = dict(env)
    for step in ranges.steps:
        known[step.tensor.name] = at(step.body, known)
    found = []
    for segment in ranges.segments:
        lo, hi, full_lo, full_hi = (int(at(e, known)) for e in segment.ends)
        stride = _numbers(segment.stride, known) if segment.stride else (1, 1, 0)
        found.append(Visited(lo, hi, full_lo, full_hi, stride))
    return [v for v in found if v.lo < v.hi]


def _numbers(stride: Stride, env: Env) -> tuple[int, int, int]:
    return int(at(stride.period, env)), int(at(stride.width, env)), int(at(stride.shift, env))


PRIVATE = "step "
"""Begins names that no pattern can hold."""

OWN = "'"
"""Ends names that are not the pattern's, and is not written."""


@dataclass
class _Steps:
    """Scalars named while they are written down; no number among them is negative."""

    prefix: str
    block: Expr
    written: dict[Expr, Read] = field(default_factory=dict)

    @property
    def equations(self) -> tuple[Equation, ...]:
        """What is written so far."""
        return tuple(Equation(read.tensor, value) for value, read in self.written.items())

    @property
    def facts(self) -> Facts:
        """What is known of the names so far."""
        return Facts(frozenset((self.block,)), frozenset(self.written.values()))

    def let(self, name: str, value: Expr) -> Expr:
        """A name for a value, unless it has one or is as short as one."""
        value = canonical(value)
        if not children(value):
            return value
        scalar = Tensor(f"{self.prefix}{name}{OWN}", (), kind(value), "equation")
        return self.written.setdefault(value, Read(scalar, ()))

    def clip(self, e: Expr, low: Expr, high: Expr) -> Expr:
        """`e`, or the nearest number that is not below `low` nor above `high`."""
        return smallest((largest((e, low), self.facts), high), self.facts)


def _range(band: Band, first: Expr, last: Expr, steps: _Steps, name: str, closed: bool = False) -> TileRange:
    """One band's tiles, its scalars named with `name` at their end.

    A `closed` one that sees nothing still reaches up to where it ends.
    """
    facts, block = band.plane.facts, steps.block

    def corner(bounds: tuple[Bound, ...], op: str, row: Expr, other: Expr) -> list[Expr]:
        """Bounds at `row`, or at `other` where they fall, or their extreme where they do as they like."""
        return [
            folded(op, b.value, band.rows, first, last)
            if b.direction == "free"
            else substitute(b.value, {band.rows: other if b.direction == "down" else row})
            for b in bounds
        ]

    # the range of the columns is left out where the bounds say more on every row
    above = any(nonnegative(b.value, facts.positive) for b in band.lows)
    below = any(at_most(b.value, band.end, facts) for b in band.highs)
    some = all(nonnegative(_next(b.value), facts.positive) for b in band.highs)

    def begins(op: str, row: Expr, other: Expr) -> Expr:
        return largest((*([] if above else [ZERO]), *corner(band.lows, op, row, other)), facts)

    def ends(op: str, row: Expr, other: Expr) -> Expr:
        highs = map(_next, corner(band.highs, op, row, other))
        least = smallest((*([] if below else [extent(band.columns)]), *highs), facts)
        return least if some else largest((ZERO, least), facts)

    begin, end = (
        steps.let(f"begin{name}", begins("min", first, last)),
        steps.let(f"end{name}", ends("max", last, first)),
    )
    lo = steps.let(f"lo{name}", Apply("//", (begin, block)))
    hi = _tiles(end, block)
    if closed:
        hi = largest((lo, hi), steps.facts)
    alive: Expr = TRUE if closed or begin == ZERO else Apply("<", (begin, end))
    for guard in band.guards:
        alive = both(guard, alive)
    hi = steps.let(f"hi{name}", hi if alive == TRUE else Choose(alive, hi, lo))
    if band.rest:
        return TileRange(lo, hi, lo, lo)
    inner_begin = steps.let(f"inner_begin{name}", begins("max", last, first))
    inner_end = steps.let(f"inner_end{name}", ends("min", first, last))
    full_lo = steps.let(f"full_lo{name}", smallest((_tiles(inner_begin, block), hi), steps.facts))
    inside: Expr = Apply("//", (inner_end, block))
    if band.guards:
        inside = smallest((inside, hi), steps.facts)
    return TileRange(lo, hi, full_lo, steps.let(f"full_hi{name}", largest((full_lo, inside), steps.facts)))


def _tiles(columns: Expr, block: Expr) -> Expr:
    """How many tiles hold the first so many columns."""
    return ZERO if columns == ZERO else Apply("//", (Apply("+", (columns, Apply("-", (block, ONE)))), block))


def _next(e: Expr) -> Expr:
    """`e + 1`, added inside extremes and choices."""
    match e:
        case Apply(op="min" | "max", args=(a, b)):
            return Apply(e.op, (_next(a), _next(b)))
        case Choose(condition=c, then=a, other=b):
            return Choose(c, _next(a), _next(b))
        case _:
            return canonical(Apply("+", (e, ONE)))


def _sorted(found: list[TileRange], steps: _Steps) -> list[TileRange]:
    """Ranges in the order of their starts, by a fixed network of exchanges between neighbours."""
    places = list(found)
    for last in range(len(places) - 1, 0, -1):
        for n in range(last):
            a, b, name = places[n], places[n + 1], f"{len(places) - 1 - last}{n}"
            swap = steps.let(f"swap{name}", Apply("<", (b.lo, a.lo)))

            def one(field: str, x: Expr, y: Expr, swap: Expr = swap, name: str = name) -> Expr:
                return steps.let(f"{field}{name}", Choose(swap, y, x))

            places[n], places[n + 1] = (
                TileRange(
                    one(f"{end}_lo", x.lo, y.lo),
                    one(f"{end}_hi", x.hi, y.hi),
                    one(f"{end}_full_lo", x.full_lo, y.full_lo),
                    one(f"{end}_full_hi", x.full_hi, y.full_hi),
                )
                for end, x, y in (("left", a, b), ("right", b, a))
            )
    return places
