"""A subscript and an axis → what is left to ask for the subscript to lie inside it.

    K[k - 1]  where not k == 0    -->   nothing
    K[n * B + i]                  -->   n * B + i < |k|
    M[k // B]  over |n| blocks    -->   nothing

Subscripts are linear sums, and comparisons that hold around them are sums that are not negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from attncc.ir.cascade import ZERO, Apply, Expr, Index, Literal, Read, extent, kind
from attncc.ir.linear import Sum, added, linear
from attncc.ir.logic import OPPOSITE, negated

STEPS = 2
"""How many facts may prove a comparison together."""


@dataclass(frozen=True)
class Inside:
    """What the lengths of a cascade say about positions."""

    lengths: Mapping[Index, Expr]

    def asked(self, e: Expr, axis: Index, facts: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The comparisons that must hold for `0 <= e < |axis|`, less those that do."""
        if _divides(e, axis):
            return ()
        ends = Apply(">=", (e, ZERO)), Apply("<", (e, extent(axis)))
        return tuple(end for end in ends if not self.holds(end, facts))

    def holds(self, c: Expr, facts: tuple[Expr, ...]) -> bool:
        """Whether a predicate follows from facts and lengths."""
        if c in facts:
            return True
        known = [form for fact in facts for form in _sums(fact)]
        claimed = [*_sums(c)]
        return bool(claimed) and all(self._natural(form, known, STEPS) for form in claimed)

    def _natural(self, form: Sum, known: list[Sum], steps: int) -> bool:
        """Whether a sum is never negative, by itself or by what remains without something that is not."""
        terms, constant = self._least(form)
        # a block has one position at least
        least = constant + sum(max(0, count) for term, count in terms.items() if term in self._blocks)
        if least >= 0 and all(count > 0 and self._counts(term) for term, count in terms.items()):
            return True
        return steps > 0 and any(self._natural(added(form, one, -1), known, steps - 1) for one in known)

    @cached_property
    def _blocks(self) -> frozenset[Expr]:
        return frozenset(x.args[1] for x in self.lengths.values() if isinstance(x, Apply) and x.op == "//")

    def _least(self, form: Sum) -> Sum:
        """A sum in extents that inputs show, with what is taken away at its largest."""
        found: Sum = ({}, form[1])
        for term, count in form[0].items():
            most = self._most(term) if count < 0 else None
            found = added(found, ({term: 1}, 0) if most is None else most, count)
        return self._shown(found)

    def _most(self, e: Expr) -> Sum | None:
        """The largest value that a term can have."""
        match e:
            case Index():
                return added(linear(extent(e)), ({}, -1))
            case Apply("%", (_, size)):
                return added(linear(size), ({}, -1))
            case Apply("//", (a, size)):
                return next((added(linear(extent(n)), ({}, -1)) for n in self._blocked(a, size)), None)
            case _:
                return None

    def _blocked(self, e: Expr, size: Expr) -> Iterator[Index]:
        """Indices of blocks of that size, of which `e // size` is one."""
        for index, length in self.lengths.items():
            match length:
                case Apply("//", (top, by)) if by == size:
                    room = added(added(linear(top), linear(by), -1), linear(e), -1)
                    if self._natural(room, [], 0):
                        yield index

    def _shown(self, form: Sum) -> Sum:
        """A sum with derived extents written out."""
        found: Sum = ({}, form[1])
        for term, count in form[0].items():
            match term:
                case Apply("extent", (Index() as index,)) if index in self.lengths:
                    found = added(found, self._shown(linear(self.lengths[index])), count)
                case _:
                    found = added(found, ({term: 1}, 0), count)
        return found

    def _counts(self, e: Expr) -> bool:
        """Whether a term is never negative."""
        match e:
            case Index() | Apply("extent" | "abs" | "relu"):
                return True
            case Literal(value):
                return value >= 0
            case Read(tensor):
                # what shapes a split, an index or a count is a size
                return tensor.origin == "static"
            case Apply("*" | "//" | "min", (a, b)):
                return all(self._natural(linear(part), [], 0) for part in (a, b))
            case Apply("max", (a, b)):
                return any(self._natural(linear(part), [], 0) for part in (a, b))
            case Apply("%", (_, b)):
                return self._counts(b)
            case _:
                return False


def _divides(e: Expr, axis: Index) -> bool:
    """`h // (|h| // |g|)` on axis `g`, `g * (|h| // |g|) + r` on axis `h`: every call checks that |g| divides
    |h|.
    """
    match e:
        case Apply("//", (Index(role="batch") as h, Apply("//", (many, few)))):
            return many == extent(h) and few == extent(axis)
        case Apply("+", (Apply("*", (Index(role="batch") as g, Apply("//", (many, few)))), Index())):
            return many == extent(axis) and few == extent(g)
        case _:
            return False


def _sums(c: Expr) -> Iterator[Sum]:
    """The sums that are not negative where a predicate holds."""
    match c:
        case Apply("not", (Apply() as a,)) if negated(a) != c:
            yield from _sums(negated(a))
        case Apply(op, (a, b)) if op in OPPOSITE and kind(a) == kind(b) == "int":
            up, down = added(linear(b), linear(a), -1), added(linear(a), linear(b), -1)
            match op:
                case "<=":
                    yield up
                case "<":
                    yield added(up, ({}, -1))
                case ">=":
                    yield down
                case ">":
                    yield added(down, ({}, -1))
                case "==":
                    yield from (up, down)
                case _ if isinstance(a, Index) and b == ZERO:
                    yield added(down, ({}, -1))
        case _:
            return
