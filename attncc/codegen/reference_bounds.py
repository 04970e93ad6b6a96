"""Integer expressions and what is known of them → whether they lie inside an axis, decided by linear sums.

    0 <= k - 1   holds where   k != 0;       k // B < |n|   holds where   |n| = (|k| + B - 1) // B

What cannot be decided here is only asked again at run time, by a comparison in the generated text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from attncc.ir.cascade import ZERO, Apply, Expr, Index, Literal, Read, extent, kind
from attncc.ir.linear import Sum, added, linear
from attncc.ir.logic import conjuncts

NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}

Facts = tuple[Expr, ...]
"""Predicates that hold wherever a value matters."""


def negated(e: Expr) -> Expr:
    """`not e`, as the opposite comparison where there is one: `a >= b` for `not a < b`."""
    match e:
        case Apply("not", (a,)):
            return a
        case Apply("or", (a, b)):
            return Apply("and", (negated(a), negated(b)))
        case Apply(op, args) if op in NEGATED and all(kind(a) == "int" for a in args):
            return Apply(NEGATED[op], args)
        case _:
            return Apply("not", (e,))


def _of_none(s: Sum) -> Sum:
    """A sum where every sequence in it that adds to it is empty."""

    def empty(e: Expr) -> bool:
        match e:
            case Apply("extent", (Index(role="sequence"),)):
                return True
            case _:
                return False

    return {t: n for t, n in s[0].items() if n < 0 or not empty(t)}, s[1]


@dataclass(frozen=True)
class Bounds:
    """What the lengths of a cascade say about its integers."""

    lengths: Mapping[Index, Expr]

    def extent(self, index: Index) -> Expr:
        """`|i|`, or the formula it is given by."""
        return self.lengths.get(index, extent(index))

    def same(self, a: Index, b: Index) -> bool:
        """Whether two indices have one extent."""
        return a == b or self.sum(extent(a)) == self.sum(extent(b))

    def missing(self, e: Expr, axis: Index, facts: Facts) -> tuple[Expr, ...]:
        """What remains to be asked for `0 <= e < |axis|`."""
        if isinstance(e, Index) and self.same(e, axis):
            return ()
        if self._even(e, axis):
            return ()
        asked = []
        if not self.at_least(linear(e), facts):
            asked.append(Apply(">=", (e, ZERO)))
        if not self._below(e, axis, facts):
            asked.append(Apply("<", (e, extent(axis))))
        return tuple(asked)

    def holds(self, e: Expr, facts: Facts) -> bool:
        """Whether a predicate follows from facts."""
        if e in facts:
            return True
        match e:
            case Apply("or", (a, b)):
                return self.holds(a, facts) or self.holds(b, facts)
            case Apply("and", (a, b)):
                return self.holds(a, facts) and self.holds(b, facts)
            case _:
                pass
        claims = tuple(_claims(e))
        return bool(claims) and all(self.at_least(claim, facts) for claim in claims)

    def least(self, parts: Iterable[Expr], facts: Facts) -> tuple[Expr, ...]:
        """Predicates without those that follow from facts and from the others."""
        kept = list(dict.fromkeys(parts))
        for part in tuple(kept):
            place = kept.index(part)
            others = facts + tuple(kept[:place] + kept[place + 1 :])
            kept[place : place + 1] = [] if self.holds(part, others) else [self._resolved(part, others)]
        return tuple(dict.fromkeys(kept))

    def _resolved(self, e: Expr, facts: Facts) -> Expr:
        """`b` for `not a or b` where `a` holds."""
        match e:
            case Apply("or", (a, b)) if self.holds(negated(a), facts):
                return self._resolved(b, facts)
            case Apply("or", (a, b)) if self.holds(negated(b), facts):
                return self._resolved(a, facts)
            case _:
                return e

    def positive(self, index: Index) -> bool:
        """Whether an index surely has a position, as features that inputs show have; a sequence may be
        empty.
        """
        match self.lengths.get(index):
            case None if index.role == "sequence":
                return False
            case None | Apply("extent") | Read():
                return True
            case Apply("//", (a, b)):
                return self.at_least(added(_of_none(linear(a)), linear(b), -1), (), least=1)
            case formula:
                return self.at_least(added(_of_none(linear(formula)), ({}, 1), -1), (), least=1)

    def _even(self, e: Expr, axis: Index) -> bool:
        """Whether batched indices are grouped, or put together again: extents divide, as the host function
        checks.
        """
        match e:
            case Apply("//", (Index(role="batch") as whole, Apply("//", (a, b)))):
                return (a, b) == (extent(whole), extent(axis))
            case Apply("+", (Apply("*", (Index(role="batch") as outer, size)), Index() as inner)):
                shared = Apply("//", (extent(axis), extent(outer)))
                return size == shared and self.sum(extent(inner)) == self.sum(size)
            case _:
                return False

    def _below(self, e: Expr, axis: Index, facts: Facts) -> bool:
        last = added(linear(self.extent(axis)), ({}, 1), -1)
        if self.at_least(added(last, linear(e), -1), facts):
            return True
        match e, self.extent(axis):
            case Apply("//", (y, b)), Apply("//", (a, c)) if b == c:
                return self.at_least(added(added(linear(a), linear(b), -1), linear(y), -1), facts)
            case Apply("%", (_, b)), whole:
                return self.sum(b) == self.sum(whole)
            case _:
                return False

    def sum(self, e: Expr) -> Sum:
        """An integer as a sum in which extents are written as the formulas that give them."""
        return self._written(linear(e))

    def _written(self, form: Sum) -> Sum:
        found: Sum = ({}, form[1])
        for term, count in form[0].items():
            match term:
                case Apply("extent", (Index() as index,)) if index in self.lengths:
                    found = added(found, self.sum(self.lengths[index]), count)
                case _:
                    found = added(found, ({term: 1}, 0), count)
        return found

    def at_least(self, form: Sum, facts: Facts, least: int = 0) -> bool:
        """Whether a sum is never negative under some facts, extents being at least `least`."""
        known = [claim for fact in facts for part in conjuncts(fact) for claim in _claims(part)]
        for count in range(3):
            for some in combinations(known, count):
                rest = form
                for claim in some:
                    rest = added(rest, claim, -1)
                if self._plain(rest, facts if count == 0 else (), least):
                    return True
        return False

    def _plain(self, form: Sum, facts: Facts, least: int) -> bool:
        """Whether every term is on the safe side, each index taken at the end that is worst for the sum."""
        worst = self._written(form)
        for term, count in list(worst[0].items()):
            if isinstance(term, Index) and count < 0:
                last = added(self.sum(extent(term)), ({term: 1}, 1), -1)
                worst = added(worst, last, count)
        slack = worst[1]
        for term, count in worst[0].items():
            if count < 0 or not self._natural(term, facts):
                return False
            if least and isinstance(term, Apply) and term.op == "extent":
                slack += count * least
        return slack >= 0

    def _natural(self, e: Expr, facts: Facts) -> bool:
        """Whether a term of a sum is never negative."""
        match e:
            case Index() | Apply("extent"):
                return True
            case Literal(value=value):
                return value >= 0
            case Read(tensor=tensor):
                # what shapes a split, an index or a count is a size
                return tensor.origin == "static"
            case Apply("*" | "min", (a, b)):
                return self._natural(a, facts) and self._natural(b, facts)
            case Apply("max", (a, b)):
                return self._natural(a, facts) or self._natural(b, facts)
            case Apply("//", (a, b)):
                # a divisor is at least 1
                rest = added(added(linear(a), linear(b), -1), ({}, 1))
                return self._natural(b, facts) and any(self.at_least(f, facts) for f in (linear(a), rest))
            case Apply("%", (_, b)):
                return self._natural(b, facts)
            case _:
                return False


def _claims(e: Expr) -> Iterator[Sum]:
    """The sums of which a comparison of integers says that they are not negative."""
    match e:
        case Apply(op, (a, b)) if op in NEGATED and kind(a) == kind(b) == "int":
            up, down = added(linear(b), linear(a), -1), added(linear(a), linear(b), -1)
            match op:
                case "<=":
                    yield up
                case "<":
                    yield added(up, ({}, 1), -1)
                case ">=":
                    yield down
                case ">":
                    yield added(down, ({}, 1), -1)
                case "==":
                    yield from (up, down)
                case _:
                    # a position that is not 0 is at least 1
                    if b == ZERO and isinstance(a, Index):
                        yield added(down, ({}, 1), -1)
        case _:
            return
