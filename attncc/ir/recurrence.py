"""Which equations read each other, and whether they do so at strictly earlier positions.

A group of equations that read each other has one meaning if there is a sequence index `t` on every left side
such that each read inside the group is provably at an earlier position of it: at `t - 1`, at an index `j` of
a reduction whose predicate says `j < t`, or in a branch whose condition does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attncc.ir.cascade import Apply, Choose, Equation, Expr, Index, Read, Reduce, children, free, kind
from attncc.ir.linear import Sum, added, linear

STEPS = 3
"""How many comparisons may prove a position earlier together: `i <= j` and `j < t` are two."""


def groups(reads: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Names so ordered that each reads only earlier ones; those that read each other stand together.

    Tarjan's algorithm (SIAM J. Comput. 1, 1972), without recursion: a pattern may be a long chain.
    """
    found: list[tuple[str, ...]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: list[str] = []
    place = {name: n for n, name in enumerate(reads)}
    for root in reads:
        if root in number:
            continue
        path: list[tuple[str, Iterator[str]]] = [(root, iter(reads[root]))]
        number[root] = low[root] = len(number)
        open_.append(root)
        while path:
            name, rest = path[-1]
            for read in rest:
                if read not in number:
                    number[read] = low[read] = len(number)
                    open_.append(read)
                    path.append((read, iter(reads[read])))
                    break
                if read in open_:
                    low[name] = min(low[name], number[read])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == number[name]:
                    start = open_.index(name)
                    found.append(tuple(sorted(open_[start:], key=place.__getitem__)))
                    del open_[start:]
    return found


def cycle(reader: str, read: str, reads: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A shortest way from a tensor to one that it reads and on, back to itself."""
    ways: list[tuple[str, ...]] = [(reader, read)]
    seen = {read}
    for way in ways:
        if way[-1] == reader:
            return way
        for name in reads[way[-1]]:
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    raise AssertionError(f"{read} does not read {reader}")


def unproved(group: Sequence[Equation]) -> tuple[tuple[Equation, Read], ...]:
    """The reads inside a group that are not provably earlier, along the index for which these are fewest."""
    names = {e.tensor.name for e in group}
    inside = [(e, made) for e in group for made in _reads(e.body, _Made()) if made[0].tensor.name in names]
    common = set(group[0].tensor.indices).intersection(*(e.tensor.indices for e in group))
    along = [i for i in group[0].tensor.indices if i.role == "sequence" and i in common]
    tried = [tuple((e, read) for e, (read, made) in inside if not made.earlier(read, t)) for t in along]
    return min(tried, key=len, default=tuple((e, read) for e, (read, _) in inside))


@dataclass(frozen=True)
class _Made:
    """What holds where a read is made: sums that are at most 0; and the indices of reductions around it."""

    facts: tuple[Sum, ...] = ()
    bound: frozenset[Expr] = frozenset()

    def within(self, over: tuple[Index, ...]) -> _Made:
        # outside, these indices stood for something else
        return _Made(
            tuple(f for f in self.facts if not any(free(term) & set(over) for term in f[0])),
            self.bound | set(over),
        )

    def given(self, facts: tuple[Sum, ...]) -> _Made:
        return _Made(self.facts + facts, self.bound)

    def earlier(self, read: Read, t: Index) -> bool:
        """Whether a read is at a lesser `t` than that of the equation it stands in."""
        if t in self.bound:
            return False
        distance = added(linear(read.at[read.tensor.indices.index(t)]), linear(t), -1)
        return _negative(distance, self.facts, STEPS)


def _negative(sum: Sum, facts: tuple[Sum, ...], steps: int) -> bool:
    """Whether a sum is less than 0, by itself or by what remains after facts are taken away."""
    terms, constant = sum
    if not terms:
        return constant < 0
    near = [f for f in facts if any(f[0].get(term, 0) * count > 0 for term, count in terms.items())]
    return steps > 0 and any(_negative(added(sum, f, -1), facts, steps - 1) for f in near)


def _reads(e: Expr, made: _Made) -> Iterator[tuple[Read, _Made]]:
    """Every read, and what holds where it is made."""
    match e:
        case Read():
            yield e, made
            for part in e.at:
                yield from _reads(part, made)
        case Reduce():
            inner = made.within(e.over)
            yield from _reads(e.where, inner)
            yield from _reads(e.body, inner.given(_holds(e.where)))
        case Choose():
            yield from _reads(e.condition, made)
            yield from _reads(e.then, made.given(_holds(e.condition)))
            yield from _reads(e.other, made.given(_fails(e.condition)))
        case _:
            for part in children(e):
                yield from _reads(part, made)


def _holds(c: Expr) -> tuple[Sum, ...]:
    """Sums that are at most 0 where a predicate holds."""
    match c:
        case Apply("and", (a, b)):
            return _holds(a) + _holds(b)
        case Apply("not", (a,)):
            return _fails(a)
        case Apply(op, (a, b)) if op in _AT_MOST and kind(a) == kind(b) == "int":
            difference = added(linear(a), linear(b), -1)
            negated = added(({}, 0), difference, -1)
            return tuple(
                added(difference if sign > 0 else negated, ({}, less)) for sign, less in _AT_MOST[op]
            )
        case _:
            return ()


def _fails(c: Expr) -> tuple[Sum, ...]:
    """Sums that are at most 0 where a predicate does not hold."""
    match c:
        case Apply("or", (a, b)):
            return _fails(a) + _fails(b)
        case Apply("not", (a,)):
            return _holds(a)
        case Apply(op, args) if op in _CONTRARY:
            return _holds(Apply(_CONTRARY[op], args))
        case _:
            return ()


_AT_MOST = {"<": ((1, 1),), "<=": ((1, 0),), ">": ((-1, 1),), ">=": ((-1, 0),), "==": ((1, 0), (-1, 0))}
"""`a < b` among integers: the sum `1 * (a - b) + 1` is at most 0."""

_CONTRARY = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "!=": "=="}
