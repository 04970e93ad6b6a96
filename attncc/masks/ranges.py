"""Bands and a tile of rows → the tiles of columns to visit, each once, and which of them need no test.

    begin <= k < end              columns that any row sees     lo, hi             tiles that touch them
    inner_begin <= k < inner_end  columns that all rows see     full_lo, full_hi   tiles inside them

As the ends of a band are monotone, their extremes over a tile of rows are at its first or its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attncc.ir.cascade import (
    ONE,
    ZERO,
    Apply,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Tensor,
    children,
    extent,
    kind,
    number,
    rebuild,
    substitute,
)
from attncc.masks.band import Band, Bound, before
from attncc.masks.integers import Env, at
from attncc.masks.intervals import Facts, at_most, largest, nonnegative, smallest
from attncc.masks.normal import both
from attncc.masks.sums import canonical


@dataclass(frozen=True)
class TileRange:
    """Tiles `lo <= n < hi` of columns, of which `full_lo <= n < full_hi` hold only cells of the mask.

    `lo <= full_lo <= full_hi <= hi`: the loop is three loops, the middle one without a test. All columns of
    a full tile exist.
    """

    lo: Expr
    hi: Expr
    full_lo: Expr
    full_hi: Expr

    @property
    def ends(self) -> tuple[Expr, Expr, Expr, Expr]:
        """`lo`, `hi`, `full_lo` and `full_hi`."""
        return self.lo, self.hi, self.full_lo, self.full_hi


@dataclass(frozen=True)
class Ranges:
    """What is computed once for a tile of rows: `steps`, scalars in order, and `segments`, which read them.

    The segments are disjoint and in increasing order; any of them may be empty.
    """

    steps: tuple[Equation, ...]
    segments: tuple[TileRange, ...]

    @property
    def counted(self) -> frozenset[Expr]:
        """The numbers among the steps, none of which is ever negative."""
        return frozenset(Read(s.tensor, ()) for s in self.steps if s.tensor.kind == "int")


def rows_of(tile: Expr, size: Expr, rows: Index) -> tuple[Expr, Expr]:
    """First and last row of a tile of `size` rows; the last one is clipped to the last row there is."""
    first = Apply("*", (tile, size))
    return first, Apply("-", (Apply("min", (Apply("+", (first, size)), extent(rows))), ONE))


def tile_range(band: Band, first: Expr, last: Expr, block: Expr) -> TileRange:
    """The tiles, `block` columns each, that a band has in the rows `first <= q <= last`.

    `0 <= first <= last <= |q| - 1`. Live tiles are exact if no row is empty and each row begins no later
    than just after the one before it ends, otherwise a superset. A band with an element test has no full
    tiles; without one they are exact.
    """
    ranges = union((band,), first, last, block)
    written: dict[Expr, Expr] = {}

    def inline(e: Expr) -> Expr:
        if e in written or (isinstance(e, Apply) and e.op == "extent"):
            return written.get(e, e)
        return rebuild(e, tuple(map(inline, children(e))))

    for step in ranges.steps:
        written[Read(step.tensor, ())] = inline(step.body)
    return TileRange(*map(inline, ranges.segments[0].ends))


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

    Bands are put in order by their starts: when the pattern is compiled if the order is provable, otherwise
    by comparing and exchanging. Each starts where the one before stopped, and that stops early where the
    next can take over tiles that are not full in it. `prefix` begins the name of every step; `first`, `last`
    as in `tile_range`.
    """
    chain = ordered(bands)
    steps = _Steps(prefix, block)
    one = len(bands) == 1
    names = [""] if one else map(str, range(len(bands)))
    found = [
        _range(b, first, last, block, steps, name) for b, name in zip(chain or bands, names, strict=True)
    ]
    if one:
        return Ranges(steps.equations, tuple(found))
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
    return Ranges(steps.equations, tuple(segments))


def visit(ranges: Ranges, env: Env) -> list[tuple[int, int, int, int]]:
    """The segments that are not empty, as integers (lo, hi, full_lo, full_hi). Errors as `integers.at`."""
    known = dict(env)
    for step in ranges.steps:
        known[step.tensor.name] = at(step.body, known)
    found = [[int(at(e, known)) for e in segment.ends] for segment in ranges.segments]
    return [(lo, hi, full_lo, full_hi) for lo, hi, full_lo, full_hi in found if lo < hi]


def segments(
    bands: Sequence[Band], q0: int, q1: int, block: int, env: Env
) -> list[tuple[int, int, int, int]]:
    """Tiles to visit in the rows `q0 <= q <= q1`: (lo, hi, full_lo, full_hi), disjoint, rising, none empty.

    `env` binds scalars, tables and the extents `|q|` and `|k|`; the last row is clipped to `|q| - 1`. For
    many tiles of rows, make their `union` once and `visit` it.
    """
    last = min(q1, env[f"|{bands[0].rows.name}|"] - 1) if bands else -1
    if last < q0:
        return []
    return visit(union(bands, number(q0), number(last), number(block), prefix=PRIVATE), env)


PRIVATE = "step "
"""Begins names that no pattern can hold."""


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
        scalar = Tensor(self.prefix + name, (), kind(value), "equation")
        return self.written.setdefault(value, Read(scalar, ()))

    def clip(self, e: Expr, low: Expr, high: Expr) -> Expr:
        """`e`, or the nearest number that is not below `low` nor above `high`."""
        return smallest((largest((e, low), self.facts), high), self.facts)


def _range(band: Band, first: Expr, last: Expr, block: Expr, steps: _Steps, name: str) -> TileRange:
    """One band's tiles, its scalars named with `name` at their end."""
    facts = band.plane.facts

    def corner(bounds: tuple[Bound, ...], row: Expr, other: Expr) -> list[Expr]:
        """Bounds at `row`, those that fall with it at `other`."""
        rows = [other if b.direction == "down" else row for b in bounds]
        return [substitute(b.value, {band.rows: r}) for b, r in zip(bounds, rows, strict=True)]

    # the range of the columns is left out where the bounds say more on every row
    above = any(nonnegative(b.value, facts.positive) for b in band.lows)
    below = any(at_most(b.value, band.end, facts) for b in band.highs)
    some = all(nonnegative(_next(b.value), facts.positive) for b in band.highs)

    def begins(row: Expr, other: Expr) -> Expr:
        return largest((*([] if above else [ZERO]), *corner(band.lows, row, other)), facts)

    def ends(row: Expr, other: Expr) -> Expr:
        highs = map(_next, corner(band.highs, row, other))
        least = smallest((*([] if below else [extent(band.columns)]), *highs), facts)
        return least if some else largest((ZERO, least), facts)

    begin, end = steps.let(f"begin{name}", begins(first, last)), steps.let(f"end{name}", ends(last, first))
    lo = steps.let(f"lo{name}", Apply("//", (begin, block)))
    alive: Expr = Apply("<", (begin, end))
    for guard in band.guards:
        alive = both(guard, alive)
    hi = _tiles(end, block)
    if begin != ZERO or band.guards:
        hi = Choose(alive, hi, lo)
    hi = steps.let(f"hi{name}", hi)
    if band.rest:
        return TileRange(lo, hi, lo, lo)
    inner_begin = steps.let(f"inner_begin{name}", begins(last, first))
    inner_end = steps.let(f"inner_end{name}", ends(first, last))
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
