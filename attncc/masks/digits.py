"""Positions taken apart: `k = y * w + x`, whose parts may be taken apart again, down to digits.

k // (w * v)       -->   y // v,            at y = k // w
k % (w * v)        -->   y % v * w + x,     at x = k % w
(q - k) % w == 0   -->   q % w == k % w
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from attncc.ir.cascade import ONE, Apply, Expr, Index, Literal, Read, children, free, kind, rebuild, walk
from attncc.masks.sums import Sum, canonical, quotient, spelled, summed

Pair: TypeAlias = tuple[Index, Index]
"""The same part of a row's position and of a column's."""


@dataclass(frozen=True)
class Split:
    """The positions `whole` as `outer * by + inner`, with `0 <= inner < by`."""

    whole: Pair
    outer: Place
    inner: Place
    by: Expr


Place: TypeAlias = "Pair | Split"
"""A position: a digit, or made of two."""


@dataclass(frozen=True)
class Digit:
    """A digit of rows and columns: how many values it has, and below which every position with it exists.

    Only the digit that `leads` grows with the positions; all others have fixed sizes.
    """

    pair: Pair
    size: Expr
    full: Expr
    leads: bool


def digits(place: Place, size: Expr, full: Expr, leads: bool = True) -> Iterator[Digit]:
    """The digits of a position below `size`, outermost first."""
    match place:
        case Split(outer=outer, inner=inner, by=by):
            parts = Apply("//", (Apply("-", (Apply("+", (size, by)), ONE)), by))
            yield from digits(outer, canonical(parts), canonical(Apply("//", (full, by))), leads)
            yield from digits(inner, by, by, False)
        case pair:
            yield Digit(pair, size, full, leads)


def position(place: Place, side: int) -> Expr:
    """A row's position (0) or a column's (1) by its digits."""
    match place:
        case Split(outer=outer, inner=inner, by=by):
            return Apply("+", (Apply("*", (position(outer, side), by)), position(inner, side)))
        case pair:
            return pair[side]


def bounded(place: Place, side: int) -> Iterator[Expr]:
    """What digits have to meet besides their sizes: a rest that is taken apart is less than its `by`."""
    if isinstance(place, Split):
        yield from bounded(place.outer, side)
        yield from bounded(place.inner, side)
        if isinstance(place.inner, Split):
            yield Apply("<", (position(place.inner, side), place.by))


def stride(place: Place) -> Expr:
    """How many positions the outermost digit spans."""
    return canonical(Apply("*", (stride(place.outer), place.by))) if isinstance(place, Split) else ONE


def relabelled(place: Place, names: Mapping[Index, Index]) -> Place:
    """A position whose digits have other names."""
    match place:
        case Split(whole, outer, inner, by):
            return Split(whole, relabelled(outer, names), relabelled(inner, names), by)
        case (row, column):
            return names[row], names[column]


def wholes(place: Place) -> Iterator[tuple[Index, Expr]]:
    """Positions that are taken apart, by their digits."""
    if isinstance(place, Split):
        for side in (0, 1):
            yield place.whole[side], position(place, side)
        yield from wholes(place.outer)
        yield from wholes(place.inner)


# ---- finding them -------------------------------------------------------------------------------


def shift_of(e: Expr, rows: Index, columns: Index) -> Expr | None:
    """What is added to a row's index wherever its position is divided; None if that differs, or none is."""
    found: set[Expr] = set()
    for a, _ in _divided(e):
        s = summed(a)
        terms = dict(s.terms)
        sign = terms.get(rows, 0)
        if abs(sign) == 1 and terms.get(columns, 0) in (0, -sign):
            rest = Sum(tuple((t, c) for t, c in s.terms if t not in (rows, columns)), s.constant)
            found.add(spelled(rest.times(sign)))
    shift = found.pop() if len(found) == 1 else None
    return shift if shift is not None and _fixed(shift) else None


def apart(e: Expr, pair: Pair) -> tuple[Place, Expr]:
    """A predicate over a row's position and a column's, both taken apart as it takes them apart."""
    return _apart(tidy(_same_rests(e, pair)), pair)


def _apart(e: Expr, pair: Pair) -> tuple[Place, Expr]:
    divisors = [{b for a, b in _divided(e) if a == part and _fixed(b)} for part in pair]
    every = set[Expr]().union(*divisors)
    least = [b for b in every if all(divisors) and all(_times(c, b) is not None for c in every)]
    if not least:
        return pair, e
    by = least[0]
    outer, inner = (tuple(_named(i, part) for i in pair) for part in ("over", "rest"))
    for whole, above, below in zip(pair, outer, inner, strict=True):
        e = _divide(e, whole, above, below, by)
    first, e = _apart(tidy(e), (outer[0], outer[1]))
    last, e = _apart(e, (inner[0], inner[1]))
    return Split(pair, first, last, by), e


def _divided(e: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Integers that are divided, and by what."""
    for x in walk(e):
        match x:
            case Apply("//" | "%", (a, b)) if kind(x) == "int":
                yield a, b


def _fixed(e: Expr) -> bool:
    """Whether a number is made of extents and numbers of the pattern alone."""
    leaves = (x for x in walk(e) if isinstance(x, Read))
    return not free(e) and all(x.tensor.origin in ("scalar", "static") for x in leaves)


def _times(whole: Expr, by: Expr) -> Expr | None:
    """`whole // by`, where that leaves no rest whatever the numbers are."""
    match whole, by:
        case Literal(value=v), Literal(value=w):
            return Literal(int(v) // int(w), "int") if w > 0 and v > 0 and v % w == 0 else None
        case _, Literal() | Apply("+" | "-" | "neg"):
            return ONE if whole == by and not isinstance(by, Literal) else None
        case _:
            found = quotient(summed(whole), summed(by))
            back = canonical(Apply("*", (spelled(found), by)))
            return spelled(found) if back == canonical(whole) and not any(_divided(spelled(found))) else None


def _named(index: Index, part: str) -> Index:
    name = f"{index.name} {part}"
    return Index(name, "sequence", name)


def _divide(e: Expr, whole: Index, outer: Index, inner: Index, by: Expr) -> Expr:
    """An expression with the parts of a position where it is divided; elsewhere it stays as it is."""
    match e:
        case Apply("//" | "%" as op, (a, b)) if a == whole and _fixed(b):
            times = _times(b, by)
            assert times is not None, "every divisor is a multiple of the least"
            if op == "//":
                return outer if times == ONE else Apply("//", (outer, times))
            rest = Apply("*", (Apply("%", (outer, times)), by))
            return inner if times == ONE else Apply("+", (rest, inner))
        case Apply("extent"):
            return e
        case _:
            return rebuild(e, tuple(_divide(part, whole, outer, inner, by) for part in children(e)))


def _same_rests(e: Expr, pair: Pair) -> Expr:
    """Differences of positions that leave no rest: both leave the same."""
    match e:
        case Apply("==", (Apply("%", (a, b)), Literal(value=0))) if _is_difference(a, pair) and _fixed(b):
            return Apply("==", (Apply("%", (pair[0], b)), Apply("%", (pair[1], b))))
        case Apply("extent"):
            return e
        case _:
            return rebuild(e, tuple(_same_rests(part, pair) for part in children(e)))


def _is_difference(e: Expr, pair: Pair) -> bool:
    s = summed(e)
    return not s.constant and {t for t, _ in s.terms} == {*pair} and {c for _, c in s.terms} == {1, -1}


def tidy(e: Expr) -> Expr:
    """An expression with its integers in their one spelling."""
    if kind(e) == "int":
        return canonical(e)
    return e if isinstance(e, Apply) and e.op == "extent" else rebuild(e, tuple(map(tidy, children(e))))
