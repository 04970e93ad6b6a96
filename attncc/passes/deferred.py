"""A term of a reduction → what leaves it, because it waits for a reduction and does not vary; and what stays.

    sum(k) x[k] * d / l         -->   x[k],  with d / l outside
    sum(k) exp((x[k] - m) * s)  -->   x[k] * s,  with -m * s outside, in the exponent

What is no factor as it stands may become one: `ir.algebra.separate` (theory §A.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from attncc.ir.algebra import separate
from attncc.ir.cascade import ONE, Apply, Choose, Expr, Index, Reduce, Tensor, free, reads
from attncc.ir.logic import is_literal, over, terms, times, total
from attncc.passes.scaled import NEVER

Signed: TypeAlias = list[tuple[int, Expr]]
"""The terms of a sum."""


@dataclass(frozen=True)
class Waiting:
    """One reduction, and over which indices each tensor waits for some reduction."""

    reduce: Reduce
    waits: Mapping[Tensor, frozenset[Index]]

    def blocks(self, e: Expr) -> bool:
        """Whether an expression waits for a reduction over the same index."""
        over = set(self.reduce.over)
        return any(self.waits.get(r.tensor, frozenset()) & over for r in reads(e))

    def leaves(self, e: Expr) -> bool:
        """Whether it also does not vary along that index."""
        return self.blocks(e) and not free(e) & set(self.reduce.over)


@dataclass(frozen=True)
class Apart:
    """`up / down * kept`: the factors and divisors that leave, and what stays."""

    kept: Expr
    up: tuple[Expr, ...] = ()
    down: tuple[Expr, ...] = ()

    @property
    def loose(self) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        return self.up, self.down


def deferred_factors(mantissa: Expr, waiting: Waiting) -> Apart:
    """The factors that leave a sum."""
    found = apart(mantissa, waiting)
    if not waiting.blocks(found.kept):
        return found
    waits = frozenset(r for r in reads(found.kept) if waiting.leaves(r))
    split = separate(found.kept, frozenset(waiting.reduce.over), waits)
    return found if split is None else replace(found, kept=split[0], up=(*found.up, split[1]))


def apart(x: Expr, waiting: Waiting) -> Apart:
    """The factors that leave: of a product, and of a sum or a choice what both sides have."""
    if not waiting.blocks(x):
        return Apart(x)
    match x:
        case Apply("*", (a, b)):
            first, second = apart(a, waiting), apart(b, waiting)
            return Apart(times(first.kept, second.kept), first.up + second.up, first.down + second.down)
        case Apply("/", (a, b)):
            first, second = apart(a, waiting), apart(b, waiting)
            return Apart(over(first.kept, second.kept), first.up + second.down, first.down + second.up)
        case _ if waiting.leaves(x):
            return Apart(ONE, (x,))
        case Apply("neg", (a,)):
            first = apart(a, waiting)
            return replace(first, kept=Apply("neg", (first.kept,)))
        case Apply("+" | "-" as op, (a, b)):
            first, second = apart(a, waiting), apart(b, waiting)
            if first.loose == second.loose:
                return replace(first, kept=Apply(op, (first.kept, second.kept)))
        case Choose(condition, a, b):
            first, second = apart(a, waiting), apart(b, waiting)
            if first.loose == second.loose or is_literal(b, 0):
                return replace(first, kept=Choose(condition, first.kept, second.kept))
    return Apart(x)


def deferred_terms(exponent: Expr, waiting: Waiting) -> tuple[Signed, Signed]:
    """The terms that leave an exponent, or an extreme, and those that stay."""
    loose: Signed = []
    kept: Signed = []
    for sign, x in terms(exponent):
        if waiting.leaves(x):
            loose.append((sign, x))
        elif waiting.blocks(x):
            for more, part in zip((loose, kept), _opened(x, waiting), strict=True):
                more += [(sign * s, t) for s, t in part]
        else:
            kept.append((sign, x))
    return loose, kept


def _opened(x: Expr, waiting: Waiting) -> tuple[Signed, Signed]:
    """The terms inside a term: `(a - b) * c` is `a * c - b * c`, and what both branches of a choice have is
    outside of it.
    """
    match x:
        case Apply("*" | "/" as op, (a, b)) if len(inside := terms(a)) > 1:
            return deferred_terms(total([(sign, Apply(op, (t, b))) for sign, t in inside]), waiting)
        case Apply("*", (a, b)) if len(inside := terms(b)) > 1:
            return deferred_terms(total([(sign, Apply("*", (a, t))) for sign, t in inside]), waiting)
        case Choose(condition, then, other):
            (first, left), (second, right) = (deferred_terms(y, waiting) for y in (then, other))
            if first and (first == second or (other == NEVER and not second)):
                return first, [(1, Choose(condition, total(left), total(right)))]
    return [], [(1, x)]
