"""Columns of one residue class: which they are, and how tiles that hold some of them are counted and found.

    (k + c) // B % s == r   -->   every s-th run of B columns, the first from a0 = (r * B - c) mod (B * s)

A tile of N columns meets the class or not in a pattern that repeats every `p = B * s / N` tiles, if N divides
that: in `w` tiles after one another, the first of them number `a`. Live tiles, counted, have ranks:

    rank(n) = (n + p - a) // p * w + min((n + p - a) % p, w)   live tiles before tile n, but for a constant
    tile(j) = j // w * p + j % w - (p - a)                     the tile of rank j
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.cascade import ONE, ZERO, Apply, Expr, free
from attncc.masks.sums import Sum, canonical, product, spelled, summed


@dataclass(frozen=True)
class Residue:
    """The columns with `(k + shift) // unit % modulus == at % modulus`; `test` says so of an element."""

    unit: Expr
    modulus: Expr
    shift: Expr
    at: Expr
    test: Expr

    @property
    def parts(self) -> tuple[Expr, Expr, Expr, Expr]:
        """The numbers it is made of."""
        return self.unit, self.modulus, self.shift, self.at

    @property
    def period(self) -> Expr:
        """After so many columns the class repeats; fewer than 2**29, which the host checks."""
        return spelled(product(summed(self.unit), summed(self.modulus)))

    @property
    def ahead(self) -> Expr:
        """Where a run begins; the rest of it by the period is the first run's first column."""
        return spelled(product(summed(self.at), summed(self.unit)) - summed(self.shift))


@dataclass(frozen=True)
class Stride:
    """Live tiles by rank: `width` of every `period` tiles; `shift` is `period - a`, at least 1."""

    period: Expr
    width: Expr
    shift: Expr

    @property
    def numbers(self) -> tuple[Expr, Expr, Expr]:
        """Period, width and shift."""
        return self.period, self.width, self.shift

    def rank(self, tile: Expr) -> Expr:
        """How many live tiles are before a tile, counted from the same place for all tiles."""
        ahead = canonical(Apply("+", (tile, self.shift)))
        return Apply("live_before", (ahead, self.period, self.width))

    def tile(self, rank: Expr) -> Expr:
        """The live tile of a rank."""
        turn = Apply("*", (Apply("//", (rank, self.width)), self.period))
        return Apply("-", (Apply("+", (turn, Apply("%", (rank, self.width)))), self.shift))


def residue_of(
    difference: Sum, test: Expr, rows: Expr, columns: Expr
) -> tuple[Residue, tuple[Expr, ...]] | None:
    """`difference == 0`, which `test` says too, read as a class of columns, and what else has to hold.

    None where it is none. Divisors are taken for positive, as by `normal.assumed`.
    """
    plane = {rows, columns}
    found = [(t, c) for t, c in difference.terms if columns in free(t)]
    match found:
        case [(Apply(op="%", args=(x, modulus)) as remainder, (1 | -1) as sign)]:
            other = spelled(difference.without(remainder).times(-sign))
        case _:
            return None
    if free(other) & plane or free(modulus) & plane or rows in free(x):
        return None
    place = _alone(summed(x), columns)
    if place is None:
        return None
    term, rest = place
    unit: Expr = ONE
    shift = Sum()
    if isinstance(term, Apply) and term.op == "//":
        inside = _alone(summed(term.args[0]), columns)
        if inside is None or inside[0] != columns or free(term.args[1]) & plane:
            return None
        unit, shift = term.args[1], inside[1]
    elif term != columns:
        return None
    at = spelled(summed(other) - rest)
    range_ = () if other == ZERO else (Apply("<=", (ZERO, other)), Apply("<", (other, modulus)))
    return Residue(canonical(unit), canonical(modulus), spelled(shift), at, test), range_


def _alone(s: Sum, columns: Expr) -> tuple[Expr, Sum] | None:
    """The only term of a sum that has the column, once, and the rest of the sum."""
    found = [(t, c) for t, c in s.terms if columns in free(t)]
    if len(found) != 1 or found[0][1] != 1:
        return None
    return found[0][0], s.without(found[0][0])
