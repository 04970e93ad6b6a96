"""Expression → what is known of its value, always soundly: an interval, or (must, may) for a truth value.

Who asks says what is known of the leaves: the rows and columns of a tile, or only that positions are not
negative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TypeAlias

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, extent, kind
from attncc.masks.counted import count_of
from attncc.masks.folded import folded_of
from attncc.masks.sums import Sum, spelled, summed
from attncc.ops import LARGEST

Interval: TypeAlias = tuple[float, float]
"""Least and greatest value, both included."""

Truth: TypeAlias = tuple[bool, bool]
"""(must, may): true everywhere, true somewhere."""

Leaf: TypeAlias = Callable[[Expr], Interval | None]
"""What is known of a part beforehand; None where it follows from its own parts."""

WHOLE: Interval = (-inf, inf)

POSITION: Interval = (0, LARGEST - 1)
"""Any position, and any extent."""


def interval(e: Expr, leaf: Leaf) -> Interval:
    """Where a number lies.

    Integer sums are taken as a whole, so that `q - k` is exact on a box; floats step by step, as they are
    computed.
    """
    match e:
        case Apply(op="+" | "-" | "*" | "//" | "neg") if kind(e) != "float":
            return leaf(e) or within(summed(e), leaf)
        case _:
            return _part(e, leaf)


def within(s: Sum, leaf: Leaf) -> Interval:
    """Where a sum lies."""
    return least(s, leaf), -least(-s, leaf)


def least(s: Sum, leaf: Leaf) -> float:
    """A lower bound of a sum; `|i| - i` is at least 1, and `|i|` at least as many as are counted along it."""
    if not any(c < 0 and isinstance(term, Index | Reduce) for term, c in s.terms):
        return s.constant + _least_of(s.terms, leaf)
    found, constant = dict(s.terms), s.constant
    for term, coefficient in s.terms:
        if coefficient < 0 and (count := count_of(term)):
            paired = min(-coefficient, max(found.get(extent(count.along), 0), 0))
            found[term] += paired
            found[extent(count.along)] = found.get(extent(count.along), 0) - paired
        if isinstance(term, Index) and coefficient < 0 and leaf(term) in (None, (0, inf), POSITION):
            paired = min(-coefficient, max(found.get(extent(term), 0), 0))
            found[term] += paired
            found[extent(term)] = found.get(extent(term), 0) - paired
            constant += paired
    return constant + _least_of(found.items(), leaf)


def _least_of(terms: Iterable[tuple[Expr, int]], leaf: Leaf) -> float:
    """A lower bound of terms, each by itself."""
    ends = ((c, _part(t, leaf)) for t, c in terms if c)
    return sum(c * (low if c > 0 else high) for c, (low, high) in ends)


def _part(e: Expr, leaf: Leaf) -> Interval:
    """The interval of something that is not an integer sum, from the intervals of its parts."""
    known = leaf(e)
    if known is not None:
        return known
    match e:
        case Literal():
            return float(e.value), float(e.value)
        case Choose():
            must, may = truth(e.condition, leaf)
            taken = ([e.then] if may else []) + ([] if must else [e.other])
            ends = [interval(x, leaf) for x in taken]
            return min(low for low, _ in ends), max(high for _, high in ends)
        case Apply(op="neg" | "abs", args=(a,)):
            low, high = interval(a, leaf)
            if e.op == "neg" or high <= 0:
                return -high, -low
            return max(low, 0.0), max(-low, high)
        case Apply(op="*", args=(Apply(op="//", args=(x, d)), f)) if d == f and interval(d, leaf)[0] > 0:
            low, high = interval(x, leaf)
            return low - interval(d, leaf)[1] + 1, high
        case Reduce() if fold := folded_of(e):
            return interval(fold.value, leaf)
        case Apply(op="+" | "-" | "*" | "//" | "%" | "min" | "max", args=(a, b)):
            return _pair(e.op, interval(a, leaf), interval(b, leaf))
        case _:
            return (0, 1) if kind(e) == "bool" else WHOLE


def _pair(op: str, a: Interval, b: Interval) -> Interval:
    """An interval operation of two arguments."""
    match op:
        case "+":
            return a[0] + b[0], a[1] + b[1]
        case "-":
            return a[0] - b[1], a[1] - b[0]
        case "min":
            return min(a[0], b[0]), min(a[1], b[1])
        case "max":
            return max(a[0], b[0]), max(a[1], b[1])
        case "*":
            corners = [x * y if x and y else 0.0 for x in a for y in b]
            return min(corners), max(corners)
        case "//" if b[0] > 0:
            corners = [_floor(x, y) for x in a for y in b]
            return min(corners), max(corners)
        case "%" if b[0] > 0:
            if b[0] == b[1] and -inf < a[0] and a[1] < inf and a[0] // b[0] == a[1] // b[0]:
                return a[0] % b[0], a[1] % b[0]
            return 0, min(b[1] - 1, a[1]) if a[0] >= 0 else b[1] - 1
        case _:
            # a divisor of 0 has no meaning; one that is not negative is then at least 1
            return _pair(op, a, (1, b[1])) if op in ("//", "%") and b[0] == 0 and b[1] >= 1 else WHOLE


def _floor(x: float, y: float) -> float:
    if abs(x) == inf:
        return x
    return x // y if y < inf else (0 if x >= 0 else -1)


def truth(e: Expr, leaf: Leaf) -> Truth:
    """Kleene's logic: what must hold, and what may."""
    match e:
        case Literal():
            return bool(e.value), bool(e.value)
        case Apply(op="not", args=(a,)):
            must, may = truth(a, leaf)
            return not may, not must
        case Apply(op="and", args=(a, b)):
            (x, y), (v, w) = truth(a, leaf), truth(b, leaf)
            return x and v, y and w
        case Apply(op="or", args=(a, b)):
            (x, y), (v, w) = truth(a, leaf), truth(b, leaf)
            return x or v, y or w
        case Choose():
            must, may = truth(e.condition, leaf)
            ends = [truth(x, leaf) for x in ([e.then] if may else []) + ([] if must else [e.other])]
            return all(m for m, _ in ends), any(m for _, m in ends)
        case Apply(op="<" | "<=" | ">" | ">=" | "==" | "!=", args=(a, b)):
            return _compared(e.op, a, b, leaf)
        case _:
            low, high = _part(e, leaf)
            return low >= 1, high >= 1


def _compared(op: str, a: Expr, b: Expr, leaf: Leaf) -> Truth:
    if op in (">", ">="):
        return _compared(op.replace(">", "<"), b, a, leaf)
    if op == "!=":
        must, may = _compared("==", a, b, leaf)
        return not may, not must
    if kind(a) == kind(b) == "bool":
        (x, y), (v, w) = truth(a, leaf), truth(b, leaf)
        return (x and v) or not (y or w), not (x and not w) and not (v and not y)
    if "float" in (kind(a), kind(b)):
        # no subtraction: it would round
        (low, high), (least, most) = interval(a, leaf), interval(b, leaf)
        if op == "==":
            return low == high == least == most, low <= most and least <= high
        return (high < least, low < most) if op == "<" else (high <= least, low <= most)
    low, high = within(summed(a) - summed(b), leaf)
    if op == "==":
        return low == high == 0, low <= 0 <= high
    return (high < 0, low < 0) if op == "<" else (high <= 0, low <= 0)


@dataclass(frozen=True)
class Facts:
    """What holds anywhere: indices, extents and `counted` expressions are at least 0, `positive` ones 1."""

    positive: frozenset[Expr] = frozenset()
    counted: frozenset[Expr] = frozenset()

    def __call__(self, e: Expr) -> Interval | None:
        match e:
            case _ if e in self.positive:
                return 1, inf
            case Index() | Apply(op="extent"):
                return 0, inf
            case Reduce() if count_of(e):
                return 0, inf
            case Read():
                return (0, 1) if e.tensor.kind == "bool" else (0, inf) if e in self.counted else WHOLE
            case _:
                return None


NOTHING = Facts()


def nonnegative(e: Expr, positive: Collection[Expr] = (), counted: Collection[Expr] = ()) -> bool:
    """Whether a number is provably never negative, so that a division that truncates is one that rounds down.

    Indices are storage positions; `positive` expressions are at least 1, `counted` ones at least 0.
    """
    return interval(e, Facts(frozenset(positive), frozenset(counted)))[0] >= 0


@lru_cache(1 << 14)
def at_most(a: Expr, b: Expr, facts: Facts = NOTHING) -> bool:
    """Whether `a <= b` is provable at every position: by extremes, signs and `0 <= x - x // B * B < B`."""
    match a, b:
        case Apply(op="max", args=parts), _:
            return all(at_most(x, b, facts) for x in parts)
        case _, Apply(op="min", args=parts):
            return all(at_most(a, x, facts) for x in parts)
        case Apply(op="min", args=parts), _ if any(at_most(x, b, facts) for x in parts):
            return True
        case _, Apply(op="max", args=parts) if any(at_most(a, x, facts) for x in parts):
            return True
    if a == b:
        return True
    difference = summed(b) - summed(a)
    if not difference.terms:
        return difference.constant >= 0
    if least(difference, facts) >= 0 or _among(a, b, facts):
        return True
    unfloored = _unfloored(difference, facts)
    return unfloored != difference and least(unfloored, facts) >= 0


def _among(a: Expr, b: Expr, facts: Facts) -> bool:
    """Whether `b` counts elements up to one that is not before `a`: `x + 1 <= count(table <= table[x])`."""
    s = summed(b)
    for term, coefficient in s.terms:
        count = count_of(term)
        if count is None or coefficient != 1 or not isinstance(count.limit, Read):
            continue
        own = zip(count.row.tensor.indices, count.row.at, count.limit.at, strict=False)
        others = [(x, y) for i, x, y in own if i != count.along]
        if count.limit.tensor == count.row.tensor and all(x == y for x, y in others):
            place = count.limit.at[count.row.tensor.indices.index(count.along)]
            return at_most(spelled(summed(a) - s.without(term) - 1), place, facts)
    return False


def _unfloored(s: Sum, facts: Facts) -> Sum:
    """A sum at most as large, without the multiples `x // B * B` of a positive `B`."""
    result = s
    for term, coefficient in s.terms:
        match term:
            case Apply(op="//", args=(x, Literal(value=v))) if v > 0 and coefficient % int(v) == 0:
                inside, divisor, times = summed(x), Sum(constant=int(v)), coefficient // int(v)
            case Apply(op="*", args=(Apply(op="//", args=(x, d)), f)) if (
                d == f and least(summed(d), facts) > 0
            ):
                inside, divisor, times = summed(x), summed(d), coefficient
            case _:
                continue
        result += (inside if times < 0 else inside - divisor + 1).times(times) - Sum(((term, coefficient),))
    return result


def smallest(values: tuple[Expr, ...], facts: Facts = NOTHING) -> Expr:
    """`min` of some numbers, without those that are provably not the least."""
    return _extreme("min", values, facts)


def largest(values: tuple[Expr, ...], facts: Facts = NOTHING) -> Expr:
    """`max` of some numbers, without those that are provably not the greatest."""
    return _extreme("max", values, facts)


def _extreme(op: str, values: tuple[Expr, ...], facts: Facts) -> Expr:
    kept: list[Expr] = []
    for value in (part for v in values for part in _flat(op, spelled(summed(v)))):
        if any(_beats(op, other, value, facts) for other in kept):
            continue
        kept = [other for other in kept if not _beats(op, value, other, facts)] + [value]
    result, *others = kept
    for value in others:
        result = Apply(op, (result, value))
    return result


def _flat(op: str, e: Expr) -> Iterator[Expr]:
    """The arguments of nested extremes."""
    if isinstance(e, Apply) and e.op == op:
        for part in e.args:
            yield from _flat(op, part)
    else:
        yield e


def _beats(op: str, a: Expr, b: Expr, facts: Facts) -> bool:
    return at_most(a, b, facts) if op == "min" else at_most(b, a, facts)
