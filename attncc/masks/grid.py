"""Predicate → a grid: positions taken apart into digits, and one band for every one of them.

    near(k // w, q // w) and near(k % w, q % w)   -->   a band of y, a band of x,   at k = y * w + x

A tile of rows and one of columns are then boxes, and a box is dead where it is dead along any axis. What says
nothing of one axis alone stays an element test, and still bounds the outermost axis where it can:

    q - k < w * d and q % d == k % d   -->   q // d - k // d < w,   q % d == k % d
    k <= q                             -->   k // w <= q // w, and a test
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from string import ascii_lowercase

from attncc.ir.cascade import ONE, ZERO, Apply, Expr, Index, extent, free, kind, reads, substitute
from attncc.ir.logic import OPPOSITE, conjoin, conjuncts
from attncc.masks.band import Band, Bound, Plane
from attncc.masks.digits import (
    Digit,
    Pair,
    Place,
    Split,
    apart,
    bounded,
    digits,
    position,
    relabelled,
    shift_of,
    stride,
    tidy,
    wholes,
)
from attncc.masks.normal import assumed, pushed, total
from attncc.masks.solve import solved
from attncc.masks.sums import Sum, canonical, sides, spelled, summed


@dataclass(frozen=True)
class Axis:
    """One digit of rows and columns: how many values each has, the band of columns that a row sees.

    Below `full`, every column with a value exists. Rows count from `first`, where their positions begin.
    """

    rows: Index
    columns: Index
    row_size: Expr
    size: Expr
    full: Expr
    first: Expr
    band: Band

    @property
    def same(self) -> bool:
        """Whether a row sees one value, its own: then a box of rows has one value, too."""
        return self.band.lows == self.band.highs == (Bound(self.rows, "up"),)

    @property
    def lengths(self) -> tuple[tuple[Index, Expr], ...]:
        """How many values the digits have."""
        return (self.rows, self.row_size), (self.columns, self.size)


@dataclass(frozen=True)
class Grid:
    """Rows `q`, at `q + shift` among the columns, and columns `k` as digits; `axes` outermost first.

    `tested` says that the axes' bands leave an element test. `in_digits` is the predicate by digits, if every
    condition in it is about one axis.
    """

    rows: Index
    columns: Index
    shift: Expr
    place: Place
    axes: tuple[Axis, ...]
    tested: bool
    in_digits: Expr | None = None

    def bands(self, start: Callable[[Index], Expr]) -> tuple[Band, ...]:
        """The band of every axis in the box of rows that starts there: it has one value of some digits."""
        fixed = {axis.rows: start(axis.rows) for axis in self.axes if axis.same}

        def at(bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
            return tuple(replace(b, value=substitute(b.value, fixed)) for b in bounds)

        def here(axis: Axis) -> Band:
            if axis.same:
                return axis.band
            guards = tuple(substitute(g, fixed) for g in axis.band.guards)
            return replace(axis.band, lows=at(axis.band.lows), highs=at(axis.band.highs), guards=guards)

        return tuple(map(here, self.axes))

    @property
    def lengths(self) -> tuple[tuple[Index, Expr], ...]:
        """How many values every digit has."""
        return tuple(length for axis in self.axes for length in axis.lengths)

    @property
    def column(self) -> Expr:
        """A column by its digits."""
        return position(self.place, 1)

    @property
    def row(self) -> Expr:
        """A row by its digits."""
        first = self.axes[0]
        here = substitute(position(self.place, 0), {first.rows: _sum(first.rows, first.first)})
        return here if self.shift == ZERO else Apply("-", (here, self.shift))

    def inside(self, side: int) -> tuple[Expr, ...]:
        """What the digits of a box have to meet for a row (0) or a column (1) to exist, besides its end."""
        own = ((axis.rows, axis.columns)[side] for axis in self.axes)
        ends = [Apply("<", (i, extent(i))) for i in own]
        begin = [Apply(">=", (self.row, ZERO))] if side == 0 and self.shift != ZERO else []
        return (*ends, *bounded(self.place, side), *begin)

    @property
    def said(self) -> tuple[Expr, ...]:
        """All that a kernel computes of it."""
        return (self.row, self.column, *self.inside(0), *self.inside(1), *(axis.full for axis in self.axes))

    def alike(self, other: Grid) -> bool:
        """Whether both take the same rows apart in the same way."""
        return [(a.rows, a.row_size, a.first) for a in self.axes] == [
            (a.rows, a.row_size, a.first) for a in other.axes
        ] and self.row == other.row


def grid(
    predicate: Expr, rows: Index, columns: Index, sorted_tables: frozenset[str] = frozenset()
) -> Grid | None:
    """The grid of a predicate; None where its positions are not taken apart alike, or nothing follows for
    any axis but the outermost.
    """
    shift = shift_of(predicate, rows, columns)
    if shift is None:
        return None
    pair = (Index(f"{rows.name} at", "sequence", "at"), columns)
    here = canonical(Apply("-", (pair[0], shift)))
    place, e = apart(tidy(substitute(total(predicate), {rows: here})), pair)
    if not isinstance(place, Split):
        return None
    found = tuple(digits(place, extent(columns), extent(columns)))
    names = {
        i: n for d, letter in zip(found, ascii_lowercase, strict=False) for i, n in _names(d, rows, letter)
    }
    names = {i: replace(n, name=n.name.replace("?", columns.name)) for i, n in names.items()}
    e, place = substitute(e, dict(names)), relabelled(place, names)
    found = tuple(digits(place, extent(columns), extent(columns)))
    positive = assumed(predicate, rows, columns) | frozenset(_divisors(place))
    parts = _separate(e, place, [d.pair for d in found])
    planes = [Plane(*d.pair, positive, sorted_tables) for d in found]
    origin = canonical(Apply("//", (shift, stride(place))))
    end = Apply("//", (canonical(Apply("-", (Apply("+", (extent(rows), shift)), ONE))), stride(place)))
    count = canonical(Apply("+", (Apply("-", (end, origin)), ONE)))
    axes, tested = [], False
    for n, (digit, plane) in enumerate(zip(found, planes, strict=True)):
        first, size = (origin, count) if n == 0 else (ZERO, digit.size)
        row = {digit.pair[0]: _sum(digit.pair[0], first)}
        band, rest = _band((substitute(c, row) for c, axis in parts if axis == n), plane)
        tested = tested or rest
        axes.append(Axis(*digit.pair, size, digit.size, digit.full, first, band))
    tested = tested or any(axis is None for _, axis in parts)
    if not any(axis.band.lows or axis.band.highs for axis in axes[1:]):
        return None
    return Grid(rows, columns, shift, place, tuple(axes), tested, _said(parts, axes[0]))


def _said(parts: Iterable[tuple[Expr, int | None]], first: Axis) -> Expr | None:
    """Conditions about one axis each as a test of elements."""
    shifted = {first.rows: _sum(first.rows, first.first)}
    tests = [substitute(c, shifted) for c, _ in parts]
    simple = all(axis is not None for _, axis in parts) and not any(
        r.tensor.loaded for t in tests for r in reads(t)
    )
    return conjoin(tests) if simple else None


def _names(digit: Digit, rows: Index, letter: str) -> Iterator[tuple[Index, Index]]:
    for index, name in zip(digit.pair, (f"{rows.name}_{letter}", f"?_{letter}"), strict=True):
        yield index, Index(name, "sequence", f"{index.name} digit")


def _divisors(place: Place) -> Iterator[Expr]:
    if isinstance(place, Split):
        yield place.by
        yield from _divisors(place.outer)
        yield from _divisors(place.inner)


def _sum(e: Expr, more: Expr) -> Expr:
    return e if more == ZERO else Apply("+", (e, more))


# ---- conditions by axis -------------------------------------------------------------------------


def _separate(e: Expr, place: Place, pairs: list[Pair]) -> list[tuple[Expr, int | None]]:
    """The conditions of a predicate, and which axis each is about; None for several. What several say of the
    outermost alone stands beside them.
    """
    parts = [tidy(c) for c in conjuncts(pushed(e))]
    equal = {column: row for row, column in pairs if _equal(row, column) & {*parts}}
    fixed = {*equal.values()} - {pairs[0][0]}
    found: list[tuple[Expr, int | None]] = []
    for part in parts:
        part = tidy(substitute(part, dict(wholes(place))))
        if _axis(part, pairs, ()) is None:
            part = _shortened(tidy(substitute(part, dict(equal))))
        axis = _axis(part, pairs, fixed)
        found.append((part, axis))
        if axis is None and (implied := _implied(part, place)) is not None:
            found.append((implied, 0))
    return found


def _equal(row: Index, column: Index) -> set[Expr]:
    return {Apply("==", (row, column)), Apply("==", (column, row))}


def _axis(e: Expr, pairs: list[Pair], fixed: Collection[Index]) -> int | None:
    """The axis that a condition is about; the outermost if it is about none. Digits that a box of rows has
    one value of are numbers.
    """
    own = [n for n, pair in enumerate(pairs) if free(e) & {*pair}]
    loose = [n for n, pair in enumerate(pairs) if (free(e) - {*fixed}) & {*pair}]
    own = own if len(own) == 1 else loose
    return own[0] if len(own) == 1 else None if own else 0


def _shortened(e: Expr) -> Expr:
    """A comparison of integers without what both sides have."""
    match e:
        case Apply(op, (a, b)) if op in OPPOSITE and kind(a) == kind(b) == "int":
            return Apply(op, sides(summed(a) - summed(b)))
        case _:
            return e


def _implied(e: Expr, place: Place) -> Expr | None:
    """What a comparison says of the outermost digits: every other digit is where it asks least."""
    match e:
        case Apply("<" | "<=" as op, (a, b)) if kind(a) == kind(b) == "int":
            s = _least(summed(a) - summed(b), place)
            return None if s is None else _shortened(Apply(op, (spelled(s), ZERO)))
        case Apply(">" | ">=" as op, (a, b)):
            return _implied(Apply("<" if op == ">" else "<=", (b, a)), place)
        case _:
            return None


def _least(s: Sum, place: Place) -> Sum | None:
    """A sum that is never more, over the outermost digits; None where terms are no multiples of digits."""
    for digit in digits(place, ZERO, ZERO):
        if digit.leads:
            continue
        for index in digit.pair:
            for term, coefficient in s.terms:
                if index not in free(term):
                    continue
                factor = _factor(term, index, place)
                if factor is None:
                    return None
                s = s.without(term)
                if coefficient < 0:
                    most = Apply("*", (Apply("-", (digit.size, ONE)), factor))
                    s = s + summed(most).times(coefficient)
    return s


def _factor(term: Expr, index: Index, place: Place) -> Expr | None:
    """What a digit is multiplied by in a term, if only by sizes of others."""
    factors = [term]
    while any(isinstance(f, Apply) and f.op == "*" for f in factors):
        factors = [g for f in factors for g in (f.args if isinstance(f, Apply) and f.op == "*" else (f,))]
    others = list(factors)
    if index not in others:
        return None
    others.remove(index)
    if not {*others} <= {*_divisors(place)}:
        return None
    result: Expr = ONE
    for f in others:
        result = f if result == ONE else Apply("*", (result, f))
    return result


def _band(conditions: Iterable[Expr], plane: Plane) -> tuple[Band, bool]:
    """The band of some conditions, and whether they leave a test: those that are no single band, by ends that
    are monotone.
    """
    band, rest = Band(plane), False
    for condition in conditions:
        found = solved(pushed(condition), plane)
        both = tuple(band & x for x in found)
        if len(both) == 1 and both[0].exact and both[0].monotone:
            band = both[0]
        else:
            rest = True
    return band, rest
