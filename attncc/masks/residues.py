"""Columns of one residue class: which they are, and how tiles that hold some of them are counted and found.

    (k + c) // B % s == r   -->   of every B * s columns B, from (r * B - c) mod (B * s) on
    k % s >= r              -->   of every s columns s - r, from r on

A tile of N columns meets the class or not in a pattern that repeats every `p = period / N` tiles, if N
divides the period: in `w` tiles after one another, the first of them number `a`. Live tiles have ranks:

    rank(n) = (n + p - a) // p * w + min((n + p - a) % p, w)   live tiles before tile n, but for a constant
    tile(j) = j // w * p + j % w - (p - a)                     the tile of rank j
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.cascade import ONE, ZERO, Apply, Expr, free
from attncc.masks.sums import Sum, canonical, product, spelled, summed


@dataclass(frozen=True)
class Residue:
    """The columns that are, modulo a `period`, among the `run` ones from `ahead` on; `test` says so of an
    element. `1 <= run <= period`, and the host checks that the period is less than 2**29.
    """

    run: Expr
    period: Expr
    ahead: Expr
    test: Expr

    @property
    def parts(self) -> tuple[Expr, Expr, Expr]:
        """The numbers it is made of."""
        return self.run, self.period, self.ahead


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
    op: str, difference: Sum, test: Expr, rows: Expr, columns: Expr
) -> tuple[Residue, tuple[Expr, ...]] | None:
    """A sum that is 0, at most 0 or not 0, which `test` says too, read as a class of columns, and what else
    has to hold.

    None where it is none. Divisors are taken for positive, as by `normal.assumed`.
    """
    plane = {rows, columns}
    match [(t, c) for t, c in difference.terms if columns in free(t)]:
        case [(Apply(op="%", args=(x, modulus)) as remainder, (1 | -1) as sign)]:
            limit = difference.without(remainder).times(-sign)
        case _:
            return None
    if free(spelled(limit)) & plane or free(modulus) & plane or rows in free(x):
        return None
    if op == "!=" and limit != Sum():
        return None
    place = _unit(x, columns)
    if place is None:
        return None
    unit, shift = place
    first, count, conditions = _among(op, sign, limit, modulus)
    ahead = product(first, summed(unit)) - shift
    period = product(summed(unit), summed(modulus))
    run = product(count, summed(unit))
    return Residue(spelled(run), spelled(period), spelled(ahead), test), conditions


def _among(op: str, sign: int, limit: Sum, modulus: Expr) -> tuple[Sum, Sum, tuple[Expr, ...]]:
    """The remainders that a comparison with a limit leaves: the first, how many, and when there are any."""
    bound = spelled(limit)
    some = (Apply("<=", (ZERO, bound)),)
    if op == "!=":
        return Sum(constant=1), summed(modulus) - 1, (Apply("<", (ONE, modulus)),)
    if op == "==":
        return limit, Sum(constant=1), () if bound == ZERO else (*some, Apply("<", (bound, modulus)))
    if sign > 0:
        return Sum(), summed(Apply("min", (canonical(Apply("+", (bound, ONE))), modulus))), some
    first = summed(Apply("max", (bound, ZERO)))
    return first, summed(modulus) - first, (Apply("<", (bound, modulus)),)


def _unit(x: Expr, columns: Expr) -> tuple[Expr, Sum] | None:
    """`B` and `c` of `(k + c) // B`, plus a multiple of B outside."""
    place = _alone(summed(x), columns)
    if place is None:
        return None
    term, rest = place
    if term == columns:
        return ONE, rest
    match term:
        case Apply(op="//", args=(inner, unit)) if columns not in free(unit):
            inside = _alone(summed(inner), columns)
            if inside is None or inside[0] != columns:
                return None
            return canonical(unit), inside[1] + product(rest, summed(unit))
        case _:
            return None


def _alone(s: Sum, columns: Expr) -> tuple[Expr, Sum] | None:
    """The only term of a sum that has the column, once, and the rest of the sum."""
    found = [(t, c) for t, c in s.terms if columns in free(t)]
    if len(found) != 1 or found[0][1] != 1:
        return None
    return found[0][0], s.without(found[0][0])
