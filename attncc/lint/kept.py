"""Masks → how many columns a cache has to keep: those up to a row that later rows still see, by their bands.

q - w < k <= q          after row t: t + 1 - w < k <= t, w - 1 columns
k < s                   after row t: k < s, s columns
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from attncc.ir.cascade import ONE, ZERO, Apply, Expr, Index, extent, reads, substitute, walk
from attncc.lint.branches import LONG
from attncc.lint.seen import Mask
from attncc.masks.band import Band, joined
from attncc.masks.bands import bands
from attncc.masks.intervals import Facts, at_most
from attncc.masks.normal import total

MOST = 4
"""So many bands are counted together."""


def kept_at_most(bound: Expr, group: tuple[Mask, ...]) -> bool:
    """Whether provably at most `bound` columns are still seen after any row, in any head."""
    if any(m.tables or not m.known for m in group):
        return False
    rows, columns = group[0].rows, group[0].columns[0]
    if at_most(Apply("+", (position(rows, columns), ONE)), bound):
        return True
    wheres = dict.fromkeys(total(m.where) for m in group)
    if any(sum(1 for _ in walk(where)) > LONG for where in wheres):
        return False
    found = [band for where in wheres for band in bands(where, rows, columns)]
    positive = frozenset[Expr]().union(*(band.plane.positive for band in found))
    together = tuple(dict.fromkeys(found))
    if len({band.plane for band in together}) == 1:
        together = joined(together)
    if len(together) > MOST:
        return False
    facts = Facts(positive, frozenset(reads(bound)))
    choices = product(*(tuple(_counts(band)) for band in together))
    return any(_sums_at_most(counts, bound, facts) for counts in choices)


def _sums_at_most(counts: tuple[Expr, ...], bound: Expr, facts: Facts) -> bool:
    """Whether counts add up to at most a bound, those below 0 taken for 0, and so the bound."""
    some = [list(c) for size in range(1, len(counts) + 1) for c in combinations(counts, size)]
    return all(at_most(_sum(each), bound, facts) for each in some)


def _sum(parts: list[Expr]) -> Expr:
    result: Expr = ZERO
    for part in parts:
        result = Apply("+", (result, part))
    return result


def position(rows: Index, columns: Index) -> Expr:
    """The last column that is not after a row: the last of both are side by side."""
    return Apply("+", (rows, Apply("-", (extent(columns), extent(rows)))))


def _counts(band: Band) -> Iterator[Expr]:
    """How many columns up to a row lie in a band of later rows, by every pair of its bounds."""
    q, k = band.rows, band.columns
    own = position(q, k)
    after: dict[Index, Expr] = {q: Apply("+", (q, ONE))}
    lows = [ZERO] + [substitute(b.value, after) for b in band.lows if b.direction in ("up", "flat")]
    highs = [own] + [substitute(b.value, after) for b in band.highs if b.direction in ("down", "flat")]
    for low, high in product(lows, highs):
        yield Apply("+", (Apply("-", (high, low)), ONE))
