"""A band, the columns `L(q) <= k <= U(q)` of every row q with monotone ends → what bands are together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal as OneOf
from typing import TypeAlias, TypeVar

from attncc.ir.cascade import ONE, ZERO, Apply, Choose, Expr, Index, Literal, Read, Reduce, extent, free
from attncc.masks.counted import count_of
from attncc.masks.intervals import Facts, at_most, interval, largest, smallest
from attncc.masks.residues import Residue
from attncc.masks.sums import canonical

Direction: TypeAlias = OneOf["up", "down", "flat", "free"]
"""How a value moves as the row grows: never falls, never rises, does not depend on it, as it likes."""

MOST = 8
"""A predicate that needs more bands than this keeps the rest of itself as an element test."""

REVERSE: dict[Direction, Direction] = {"up": "down", "down": "up", "flat": "flat", "free": "free"}


@dataclass(frozen=True)
class Plane:
    """Where a predicate lives: over storage positions `rows` and `columns`, everything else held fixed.

    `positive` is what the bands take for positive, which whoever binds those numbers has to check;
    `sorted_tables` names tables that never fall along their sequence axis.
    """

    rows: Index
    columns: Index
    positive: frozenset[Expr] = frozenset()
    sorted_tables: frozenset[str] = frozenset()

    @property
    def facts(self) -> Facts:
        """What is known of any position."""
        return Facts(self.positive)


@dataclass(frozen=True)
class Bound:
    """One end: an integer expression over the row, and how it moves."""

    value: Expr
    direction: Direction


@dataclass(frozen=True)
class Band:
    """The cells with `low <= k <= high` for all `lows` and `highs`, where all `guards` and `rest` hold.

    `0 <= k < |k|` always holds too, and k is of the `residue`, if there is one. `guards` depend on neither
    row nor column and are asked once for a tile of rows; `rest` is asked of every element.
    """

    plane: Plane
    lows: tuple[Bound, ...] = ()
    highs: tuple[Bound, ...] = ()
    guards: tuple[Expr, ...] = ()
    rest: tuple[Expr, ...] = ()
    residue: Residue | None = None

    @property
    def rows(self) -> Index:
        """The index of the rows."""
        return self.plane.rows

    @property
    def columns(self) -> Index:
        """The index of the columns."""
        return self.plane.columns

    @property
    def end(self) -> Expr:
        """`|k| - 1`, the last column there is."""
        return canonical(Apply("-", (extent(self.columns), ONE)))

    @property
    def exact(self) -> bool:
        """Whether the ends say everything."""
        return not self.rest and self.residue is None

    @property
    def monotone(self) -> bool:
        """Whether no end does as it likes."""
        return all(bound.direction != "free" for bound in (*self.lows, *self.highs))

    def __and__(self, other: Band) -> Band:
        """The cells in both; of two residues one is asked of every element."""
        assert self.plane == other.plane
        residue = self.residue or other.residue
        rest = _union(self.rest, other.rest)
        if other.residue not in (None, residue):
            rest = _union(rest, (other.residue.test,))
        return slim(
            Band(
                self.plane,
                _union(self.lows, other.lows),
                _union(self.highs, other.highs),
                _union(self.guards, other.guards),
                rest,
                residue,
            )
        )

    def between(self, lows: tuple[Bound, ...], highs: tuple[Bound, ...]) -> Band:
        """The same conditions between other ends."""
        return replace(self, lows=lows, highs=highs)

    def untested(self) -> Band:
        """The same cells without a residue: it is asked of every element."""
        if self.residue is None:
            return self
        return replace(self, rest=_union(self.rest, (self.residue.test,)), residue=None)


def slim(band: Band) -> Band:
    """The same cells by fewer bounds: none that another bound, or the range of the columns, implies."""
    facts = band.plane.facts
    lows: tuple[Bound, ...] = ()
    for new in band.lows:
        if not at_most(new.value, ZERO, facts) and not any(_le(new, old, facts) for old in lows):
            lows = (*(old for old in lows if not _le(old, new, facts)), new)
    highs: tuple[Bound, ...] = ()
    for new in band.highs:
        if not at_most(band.end, new.value, facts) and not any(_le(old, new, facts) for old in highs):
            highs = (*(old for old in highs if not _le(new, old, facts)), new)
    return band.between(lows, highs)


def void(band: Band) -> bool:
    """Whether a band provably holds no cell."""
    lows, highs = [b.value for b in band.lows] or [ZERO], [b.value for b in band.highs] or [band.end]
    pairs = ((low, high) for low in (*lows, ZERO) for high in (*highs, band.end))
    return any(at_most(Apply("+", (high, ONE)), low, band.plane.facts) for low, high in pairs)


def inside(a: Band, b: Band) -> bool:
    """Whether every cell of `a` is provably one of `b`."""
    facts = a.plane.facts
    return (
        set(b.guards) <= set(a.guards)
        and set(b.rest) <= set(a.rest)
        and b.residue in (None, a.residue)
        and all(any(_le(low, other, facts) for other in a.lows) for low in b.lows)
        and all(any(_le(other, high, facts) for other in a.highs) for high in b.highs)
    )


def before(a: Band, b: Band) -> bool:
    """Whether `a` provably starts no later than `b` on any tile of rows.

    Bound by bound, so that it also holds of the least values over a tile.
    """
    facts = a.plane.facts
    return all(
        at_most(low.value, ZERO, facts) or any(_le(low, other, facts) for other in b.lows) for low in a.lows
    )


def joined(bands: tuple[Band, ...]) -> tuple[Band, ...]:
    """The same cells by fewer bands: none void, none inside another, none that continues another.

    lo <= k <= a  or  lo <= k <= b      -->  lo <= k <= max(a, b)
    lo <= k <= a  or  a + 1 <= k <= b   -->  lo <= k <= b
    """
    kept: list[Band] = []
    for n, new in enumerate(bands):
        if void(new) or any(inside(new, old) for old in kept):
            continue
        kept = [old for old in kept if not inside(old, new)]
        for old in kept:
            one = _one(old, new) or _one(new, old)
            if one is not None:
                return joined((*(b for b in kept if b is not old), one, *bands[n + 1 :]))
        kept.append(new)
    return tuple(kept)


def _one(a: Band, b: Band) -> Band | None:
    """The union of two bands where it is provably one band."""
    if set(a.guards) != set(b.guards) or set(a.rest) != set(b.rest) or a.residue != b.residue:
        return None
    facts = a.plane.facts
    if set(a.lows) == set(b.lows) and (bound := _wider("max", a.highs, b.highs, a.plane)):
        return slim(a.between(a.lows, (*(x for x in a.highs if x in b.highs), bound)))
    if set(a.highs) == set(b.highs) and (bound := _wider("min", a.lows, b.lows, a.plane)):
        return slim(a.between((*(x for x in a.lows if x in b.lows), bound), a.highs))
    low, highs = _passing(a)
    if low and set(a.lows) <= set(b.lows) and set(highs) == set(b.highs):
        bound = _wider("min", (*a.lows, low), b.lows, a.plane)
        return slim(a.between((*a.lows, bound), b.highs)) if bound else None
    if (
        all(any(_le(low, other, facts) for other in b.lows) for low in a.lows)
        and all(any(_le(other, high, facts) for other in a.highs) for high in b.highs)
        and all(at_most(y.value, Apply("+", (x.value, ONE)), facts) for x in a.highs for y in b.lows)
    ):
        return a.between(a.lows, b.highs)
    return None


def _passing(a: Band) -> tuple[Bound | None, tuple[Bound, ...]]:
    """An upper bound that lets a row pass or not, said as a lower one, and the other upper bounds."""
    for high in a.highs:
        match high.value:
            case Choose(condition=c, then=end, other=Literal(value=-1)) if end == a.end:
                low = Bound(Choose(c, ZERO, extent(a.columns)), REVERSE[high.direction])
                return low, tuple(x for x in a.highs if x is not high)
            case _:
                pass
    return None, a.highs


def _wider(op: str, a: tuple[Bound, ...], b: tuple[Bound, ...], plane: Plane) -> Bound | None:
    """`max` or `min` of the only two bounds in which two lists differ, if it moves one way."""
    ours, theirs = [x for x in a if x not in b], [x for x in b if x not in a]
    if len(ours) != 1 or len(theirs) != 1:
        return None
    (x,), (y,) = ours, theirs
    moves = together(x.direction, y.direction)
    wider = (largest if op == "max" else smallest)((x.value, y.value), plane.facts)
    return moves and Bound(wider, moves)


def together(*moves: Direction | None) -> Direction | None:
    """How a sum, minimum or maximum of parts moves; None if they may work against each other."""
    if None in moves:
        return None
    found = set(moves) - {"flat"}
    if "free" in found:
        return "free"
    return "flat" if not found else found.pop() if len(found) == 1 else None


def direction(e: Expr, plane: Plane) -> Direction | None:
    """How a value moves as the row grows, by induction over its syntax; None if that does not tell."""
    if plane.rows not in free(e):
        return "flat"
    match e:
        case Index():
            return "up"
        case Apply(op="neg", args=(a,)):
            return _reversed(direction(a, plane))
        case Apply(op="+" | "min" | "max", args=(a, b)):
            return together(direction(a, plane), direction(b, plane))
        case Apply(op="-", args=(a, b)):
            return together(direction(a, plane), _reversed(direction(b, plane)))
        case Apply(op="*", args=(a, b)):
            factor, other = (a, b) if plane.rows not in free(a) else (b, a)
            low, high = interval(factor, plane.facts)
            if plane.rows in free(factor) or (low < 0 < high):
                return None
            return direction(other, plane) if low >= 0 else _reversed(direction(other, plane))
        case Apply(op="//", args=(a, b)) if plane.rows not in free(b):
            return direction(a, plane) if interval(b, plane.facts)[0] > 0 else None
        case Choose(condition=c, then=a, other=b) if plane.rows not in free(c):
            return together(direction(a, plane), direction(b, plane))
        case Read() if e.tensor.name in plane.sorted_tables:
            moving = [(i, at) for i, at in zip(e.tensor.indices, e.at, strict=True) if plane.rows in free(at)]
            (axis, at), *others = moving
            return None if others or axis.role != "sequence" else direction(at, plane)
        case Reduce() if count := count_of(e):
            return direction(count.limit, plane) if plane.rows not in free(count.row) else None
        case _:
            return None


def _reversed(moves: Direction | None) -> Direction | None:
    return None if moves is None else REVERSE[moves]


def _le(a: Bound, b: Bound, facts: Facts) -> bool:
    return at_most(a.value, b.value, facts)


T = TypeVar("T")


def _union(a: tuple[T, ...], b: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*a, *b)))
