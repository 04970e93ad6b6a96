"""Comparisons of a row and a column → whether any cell meets all of them: bounds of q, k, q - k and q + k.

    q = k + d = (s + d) / 2      k = q - d = (s - d) / 2      d = 2q - s = s - 2k      s = 2q - d = 2k + d

Four intervals, each tightened by the others until none moves, decide a box of cells and comparisons whose
coefficients are 1 or -1 (theory B.1, layer B). Whatever else is asked is left out, or judged by intervals
alone: what is said to be empty is, and what is not may still be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor, inf

from attncc.ir.cascade import Apply, Expr, Index, Literal, kind
from attncc.masks.intervals import Interval, truth
from attncc.masks.normal import pushed
from attncc.masks.sums import Sum, summed

MOST = 64
"""A predicate of more conjunctions than this is not looked at one by one."""

ROUNDS = 32
"""So often intervals are tightened; where they still move, they are left as they are."""

ANYWHERE: Interval = (-inf, inf)

FROM_ZERO: Interval = (0, inf)


@dataclass(frozen=True)
class Cells:
    """Cells of a plane: where q, k, `d = q - k` and `s = q + k` lie, ends included."""

    q: Interval = ANYWHERE
    k: Interval = ANYWHERE
    d: Interval = ANYWHERE
    s: Interval = ANYWHERE

    @property
    def empty(self) -> bool:
        """Whether there is no cell."""
        return any(low > high for low, high in (self.q, self.k, self.d, self.s))

    def tightened(self) -> Cells:
        """The same cells in intervals that say no more than they have to."""
        found = self
        for _ in range(ROUNDS):
            q, k, d, s = found.q, found.k, found.d, found.s
            q = _meet(q, _plus(k, d), _half(_plus(s, d)))
            k = _meet(k, _minus(q, d), _half(_minus(s, d)))
            d = _meet(d, _minus(q, k), _minus(_plus(q, q), s), _minus(s, _plus(k, k)))
            s = _meet(s, _plus(q, k), _minus(_plus(q, q), d), _plus(_plus(k, k), d))
            closer = Cells(q, k, d, s)
            if closer == found or closer.empty:
                return closer
            found = closer
        return found


def _meet(*parts: Interval) -> Interval:
    return max(low for low, _ in parts), min(high for _, high in parts)


def _plus(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def _half(a: Interval) -> Interval:
    low, high = a[0] / 2, a[1] / 2
    return (low if low == -inf else ceil(low)), (high if high == inf else floor(high))


def never(
    predicate: Expr, rows: Index, columns: Index, q: Interval = FROM_ZERO, k: Interval = FROM_ZERO
) -> bool:
    """Whether a predicate provably holds in no cell of a box, whatever else it reads may be."""
    found = _conjunctions(pushed(predicate))
    return found is not None and all(_empty(parts, rows, columns, q, k) for parts in found)


def _conjunctions(e: Expr) -> list[tuple[Expr, ...]] | None:
    """A predicate in negation normal form as an `or` of conjunctions; None if they are too many."""
    match e:
        case Literal():
            return [()] if e.value else []
        case Apply(op="or", args=(a, b)):
            left, right = _conjunctions(a), _conjunctions(b)
            found = None if left is None or right is None else left + right
        case Apply(op="and", args=(a, b)):
            left, right = _conjunctions(a), _conjunctions(b)
            if left is None or right is None or len(left) * len(right) > MOST:
                return None
            found = [x + y for x, y in product(left, right)]
        case Apply(op="==", args=(a, b)) if kind(a) == kind(b) == "int":
            found = [(Apply("<=", (a, b)), Apply(">=", (a, b)))]
        case Apply(op="!=", args=(a, b)) if kind(a) == kind(b) == "int":
            found = [(Apply("<", (a, b)),), (Apply(">", (a, b)),)]
        case _:
            found = [(e,)]
    return None if found is None or len(found) > MOST else found


def _empty(parts: tuple[Expr, ...], rows: Index, columns: Index, q: Interval, k: Interval) -> bool:
    """Whether no cell of a box meets every comparison, or one of them contradicts another by itself."""
    cells = Cells(q, k)
    for part in parts:
        cells = _asked(cells, part, rows, columns)
    cells = cells.tightened()
    if cells.empty:
        return True

    def leaf(e: Expr) -> Interval | None:
        if e in (rows, columns):
            return cells.q if e == rows else cells.k
        return FROM_ZERO if isinstance(e, Index) or (isinstance(e, Apply) and e.op == "extent") else None

    return any(not truth(part, leaf)[1] for part in parts) or _opposed(parts)


def _opposed(parts: tuple[Expr, ...]) -> bool:
    """Whether two parts cannot both hold: `x <= y` and `y < x`, of any integers, or `c` and `not c`."""
    if any(Apply("not", (part,)) in parts for part in parts):
        return True
    sums = [s for part in parts if (s := _below(part)) is not None]
    return any(not (both := a + b).terms and both.constant > 0 for a in sums for b in sums)


def _below(e: Expr) -> Sum | None:
    """A sum that a comparison says is at most 0."""
    match e:
        case Apply(op="<" | "<=" | ">" | ">=", args=(a, b)) if kind(a) != "float" != kind(b):
            over = summed(a) - summed(b) if e.op in ("<", "<=") else summed(b) - summed(a)
            return over + 1 if e.op in ("<", ">") else over
        case _:
            return None


def _asked(cells: Cells, e: Expr, rows: Index, columns: Index) -> Cells:
    """The cells that meet a comparison of positions with coefficients 1 and -1; all for any other."""
    below = _below(e)
    if below is None:
        return cells
    terms = dict(below.terms)
    q, k = terms.pop(rows, 0), terms.pop(columns, 0)
    if terms or not {q, k} <= {-1, 0, 1}:
        return cells
    end = -below.constant
    match q, k:
        case (0, 0):
            return cells if end >= 0 else replace(cells, q=(1, 0))
        case (_, 0):
            return replace(cells, q=_meet(cells.q, _side(q, end)))
        case (0, _):
            return replace(cells, k=_meet(cells.k, _side(k, end)))
        case _ if q == k:
            return replace(cells, s=_meet(cells.s, _side(q, end)))
        case _:
            return replace(cells, d=_meet(cells.d, _side(q, end)))


def _side(sign: int, end: int) -> Interval:
    """Where x lies if `sign * x <= end`."""
    return (-inf, end) if sign > 0 else (-end, inf)
