"""Predicate and a tile of rows and columns → what must and what may hold on it, as expressions.

The rules are those of `intervals`, with an expression for every end. A part that reads tables along the rows
or along the columns alone is between its least and its greatest value on the tile, which a kernel finds once
for a tile of rows and once for a tile of columns:

    doc[k] == doc[q] may hold where doc_k_least <= doc_q_greatest and doc_q_least <= doc_k_greatest

A table read at rows and columns at once, `layout[q // B, k // B]`, is looked at where its subscripts begin
and end, which is all there is of it where each of them takes two values at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from typing import TypeAlias

from attncc.ir.cascade import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import negated
from attncc.masks.intervals import NOTHING, Facts, within
from attncc.masks.normal import both, either, pushed, total
from attncc.masks.sums import Sum, canonical, sides, spelled, summed

Truth: TypeAlias = tuple[Expr, Expr]
"""(must, may): holds on the whole tile, holds somewhere on it."""

UNKNOWN: Truth = (FALSE, TRUE)

WIDEST = 3
"""A table is looked at where so many subscripts begin and end; of more, anything is possible."""


@dataclass(frozen=True)
class End:
    """What a value, which follows `index` alone, comes to on a tile; a truth value counts as 0 or 1."""

    value: Expr
    index: Index
    least: Tensor
    greatest: Tensor

    @property
    def number(self) -> Expr:
        """The value as an integer."""
        return Choose(self.value, ONE, ZERO) if kind(self.value) == "bool" else self.value


@dataclass(frozen=True)
class Summary:
    """A tile's cells all hold where `must` does, and none of them where `may` does not; both read `ends`."""

    must: Expr
    may: Expr
    ends: tuple[End, ...]

    def along(self, index: Index) -> tuple[End, ...]:
        """The ends on a tile of one index."""
        return tuple(end for end in self.ends if end.index == index)


def summary(
    predicate: Expr,
    box: Mapping[Index, tuple[Expr, Expr]],
    facts: Facts = NOTHING,
    name: Callable[[str], str] = str,
) -> Summary:
    """What is known of a predicate on a box, the first and the last position along its two indices.

    Positions of the box are inside their index, and `facts` hold of it and of the predicate's numbers. `name`
    gives what is found once a name of its own.
    """
    tile = _Tile(box, facts, name)
    must, may = tile.truth(pushed(total(predicate)))
    return Summary(must, may, tuple(tile.ends.values()))


def deciding(predicate: Expr, columns: Index) -> tuple[Tensor, ...]:
    """The tables read along the columns that decide, in no order, what a predicate sees."""
    found = (r.tensor for r in reads(predicate) if _table(r) and columns in free(r))
    return tuple(dict.fromkeys(found))


def _table(e: Expr) -> bool:
    return isinstance(e, Read) and e.tensor.loaded and e.tensor.kind != "float"


@dataclass(frozen=True)
class _Bounds:
    """Where an integer lies, if `sure` holds."""

    low: Expr
    high: Expr
    sure: Expr = TRUE


@dataclass
class _Tile:
    """One walk over the syntax of a predicate; `ends` are the values it came to need."""

    box: Mapping[Index, tuple[Expr, Expr]]
    facts: Facts
    name: Callable[[str], str]
    ends: dict[Expr, End] = field(default_factory=dict)

    def truth(self, e: Expr) -> Truth:
        """Kleene's logic: what must hold, and what may."""
        over = free(e) & self.box.keys()
        match e:
            case Literal():
                return e, e
            case _ if not over:
                return (e, e) if _plain(e) else UNKNOWN
            case _ if len(over) == 1 and _plain(e) and any(map(_table, reads(e))):
                end = self._end(e, *over)
                return Apply(">=", (Read(end.least, ()), ONE)), Apply(">=", (Read(end.greatest, ()), ONE))
            case Apply(op="not", args=(a,)):
                must, may = self.truth(a)
                return negated(may), negated(must)
            case Apply(op="and" | "or", args=(a, b)):
                (x, y), (v, w) = self.truth(a), self.truth(b)
                join = both if e.op == "and" else either
                return join(x, v), join(y, w)
            case Choose(condition=c, then=a, other=b):
                must, may = self.truth(c)
                (x, y), (v, w) = self.truth(a), self.truth(b)
                taken = either(both(must, x), both(negated(may), v))
                return either(taken, both(x, v)), either(both(may, y), both(negated(must), w))
            case Apply(op="<" | "<=" | ">" | ">=" | "==" | "!=", args=(a, b)):
                return self._compared(e.op, a, b)
            case Read() if kind(e) == "bool" and (found := self._corners(e)):
                corners, sure = found
                return both(sure, reduce(both, corners)), either(negated(sure), reduce(either, corners))
            case _:
                return UNKNOWN

    def _compared(self, op: str, a: Expr, b: Expr) -> Truth:
        if op in (">", ">="):
            return self._compared(op.replace(">", "<"), b, a)
        if op == "!=":
            must, may = self._compared("==", a, b)
            return negated(may), negated(must)
        if kind(a) == kind(b) == "bool":
            (x, y), (v, w) = self.truth(a), self.truth(b)
            must = either(both(x, v), both(negated(y), negated(w)))
            return must, both(negated(both(x, negated(w))), negated(both(v, negated(y))))
        found = self._within(summed(a) - summed(b)) if kind(a) == kind(b) == "int" else None
        if found is None:
            return UNKNOWN
        more = 1 if op == "<" else 0
        low, high = summed(found.low) + more, summed(found.high) + more
        must, may = self._at_most(high), self._at_most(low)
        if op == "==":
            must, may = both(must, self._at_most(-low)), both(may, self._at_most(-high))
        return both(found.sure, must), either(negated(found.sure), may)

    def _bounds(self, e: Expr) -> _Bounds | None:
        """Where an integer lies; None where nothing is known."""
        return self._within(summed(e)) if kind(e) == "int" else None

    def _within(self, s: Sum) -> _Bounds | None:
        low, high = Sum(constant=s.constant), Sum(constant=s.constant)
        sure: Expr = TRUE
        for term, c in s.terms:
            found = self._part(term)
            if found is None:
                return None
            ends = summed(found.low).times(c), summed(found.high).times(c)
            low, high = low + ends[c < 0], high + ends[c > 0]
            sure = both(sure, found.sure)
        return _Bounds(spelled(low), spelled(high), sure)

    def _part(self, e: Expr) -> _Bounds | None:
        """The bounds of what is no sum."""
        over = free(e) & self.box.keys()
        match e:
            case _ if not over:
                return _Bounds(e, e) if _plain(e) and kind(e) == "int" else None
            case Index():
                return _Bounds(*self.box[e])
            case _ if len(over) == 1 and _plain(e) and kind(e) == "int" and any(map(_table, reads(e))):
                end = self._end(e, *over)
                return _Bounds(Read(end.least, ()), Read(end.greatest, ()))
            case Choose(condition=c, then=a, other=b):
                return self._choice(c, self._bounds(a), self._bounds(b))
            case Apply(op="abs", args=(a,)):
                within = self._bounds(a)
                if within is None:
                    return None
                least = _extreme("max", (ZERO, within.low, Apply("neg", (within.high,))))
                return _Bounds(
                    least, _extreme("max", (within.high, Apply("neg", (within.low,)))), within.sure
                )
            case Apply(op="*" | "//" | "%" | "min" | "max", args=(a, b)):
                x, y = self._bounds(a), self._bounds(b)
                return None if x is None or y is None else self._pair(e.op, x, y)
            case Read() if kind(e) == "int" and (found := self._corners(e)):
                corners, sure = found
                return _Bounds(_extreme("min", corners), _extreme("max", corners), sure)
            case _:
                return None

    def _choice(self, c: Expr, a: _Bounds | None, b: _Bounds | None) -> _Bounds | None:
        must, may = self.truth(c)
        if a is None or b is None:
            return None

        def end(op: str, x: Expr, y: Expr) -> Expr:
            if x == y:
                return x
            if must == may:
                return Choose(must, x, y)
            return Choose(must, x, Choose(may, Apply(op, (x, y)), y))

        return _Bounds(end("min", a.low, b.low), end("max", a.high, b.high), both(a.sure, b.sure))

    def _corners(self, e: Read) -> tuple[tuple[Expr, ...], Expr] | None:
        """A table where its subscripts begin and end, and where that is all of it that is read."""
        found = [self._bounds(at) for at in e.at]
        known = [x for x in found if x is not None]
        loose = [x for x in known if x.low != x.high]
        if not _table(e) or len(known) < len(found) or len(loose) > WIDEST:
            return None
        sure: Expr = TRUE
        for x in known:
            sure = both(sure, x.sure)
        for x in loose:
            sure = both(sure, self._at_most(summed(x.high) - summed(x.low) - 1))
        ends = product(*(dict.fromkeys((x.low, x.high)) for x in known))
        return tuple(rebuild(e, at) for at in ends), sure

    def _end(self, value: Expr, index: Index) -> End:
        if value not in self.ends:
            tensor = next(r for r in reads(value) if _table(r)).tensor.name
            begin = f"{tensor}_{index.name}"
            count = sum(end.least.name.startswith(begin) for end in self.ends.values())
            begin += str(count + 1) if count else ""
            least, greatest = (
                Tensor(self.name(f"{begin}_{which}"), (), "int", "equation")
                for which in ("least", "greatest")
            )
            self.ends[value] = End(value, index, least, greatest)
        return self.ends[value]

    def _pair(self, op: str, a: _Bounds, b: _Bounds) -> _Bounds | None:
        """An operation of two integers between their bounds."""
        sure = both(a.sure, b.sure)
        match op:
            case "min" | "max":
                return _Bounds(Apply(op, (a.low, b.low)), Apply(op, (a.high, b.high)), sure)
            case "*":
                corners = tuple(
                    canonical(Apply("*", (x, y)))
                    for x, y in product(dict.fromkeys((a.low, a.high)), dict.fromkeys((b.low, b.high)))
                )
                return _Bounds(_extreme("min", corners), _extreme("max", corners), sure)
            case _ if b.low != b.high:
                return None
        divisor = b.low
        sure = both(sure, self._at_most(-summed(divisor) + 1))
        first, last = (Apply("//", (x, divisor)) for x in (a.low, a.high))
        if op == "//":
            return _Bounds(canonical(first), canonical(last), sure)
        same = Apply("==", (canonical(first), canonical(last)))
        rest = canonical(Apply("-", (divisor, ONE)))
        low, high = (Apply("%", (x, divisor)) for x in (a.low, a.high))
        return _Bounds(Choose(same, low, ZERO), Choose(same, high, rest), sure)

    def _at_most(self, s: Sum) -> Expr:
        """`s <= 0`, with what is subtracted on the right; as it is known where it is."""
        low, high = within(s, self.facts)
        if high <= 0 or low > 0:
            return TRUE if high <= 0 else FALSE
        return Apply("<=", sides(s))


def _plain(e: Expr) -> bool:
    """Whether a value is made of positions, numbers and tables, and no float that may be NaN is its own."""
    if isinstance(e, Reduce):
        return False
    made = any(isinstance(x, Reduce) or (isinstance(x, Read) and _derived(x)) for x in walk(e))
    return not made and kind(e) != "float"


def _derived(read: Read) -> bool:
    return not read.tensor.loaded and read.tensor.origin not in ("scalar", "static")


def _extreme(op: str, values: tuple[Expr, ...]) -> Expr:
    result, *others = dict.fromkeys(values)
    for value in others:
        result = Apply(op, (result, value))
    return result
