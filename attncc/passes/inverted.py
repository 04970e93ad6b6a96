"""A read at subscripts → the positions that read an element: subscripts solved for the indices in them.

K[h // n, k, d]    -->   read at h = g * n + r, for every r < n
V[(d + n) % |d|]   -->   read at d = (i - n) % |d|
E[k - q + c, d]    -->   read at k = r + q - c, where that is a position
T[f(k)]            -->   read at every k where f(k) == t
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import ZERO, Apply, Expr, Index, Read, children, extent, free, rebuild, substitute
from attncc.ir.linear import added, linear, written
from attncc.passes.share import fresh


@dataclass
class Names:
    """Names that are taken, and the indices added, with their extents."""

    taken: set[str]
    lengths: list[tuple[Index, Expr]] = field(default_factory=list)
    parts: dict[tuple[Index, Index, Expr], Index] = field(default_factory=dict)

    def part(self, index: Index, axis: Index, size: Expr) -> Index:
        """The index of the members of `index` that belong to one of `axis`."""
        key = index, axis, size
        if key not in self.parts:
            self.parts[key] = self.index(f"{index.name}_of_{axis.name}", index, size)
        return self.parts[key]

    def index(self, name: str, like: Index, length: Expr) -> Index:
        """An index of its own, of the role of another."""
        name = fresh(name, self.taken)
        self.taken.add(name)
        made = Index(name, like.role, name)
        self.lengths.append((made, length))
        return made


@dataclass(frozen=True)
class Readers:
    """Where an element of a tensor is read: indices as formulas over the tensor's own, and over `others`, at
    all of which it is read, where conditions hold.
    """

    values: dict[Index, Expr]
    others: tuple[Index, ...]
    where: tuple[Expr, ...]
    known: tuple[tuple[Expr, Index], ...] = ()

    def said(self, e: Expr) -> Expr:
        """An expression at such a position; what is `known` of it is the place itself."""
        for subscript, axis in self.known:
            e = _put(e, subscript, Index(f"{axis.name}'", axis.role, axis.space))
        back: dict[Index, Expr] = {Index(f"{a.name}'", a.role, a.space): a for _, a in self.known}
        return substitute(substitute(e, self.values), back)


def _put(e: Expr, old: Expr, new: Expr) -> Expr:
    return new if e == old else rebuild(e, tuple(_put(part, old, new) for part in children(e)))


def readers(read: Read, over: tuple[Index, ...], names: Names) -> Readers:
    """The positions of `over` at which a read is of the element at the tensor's own indices."""
    own = read.tensor.indices
    # until all is solved, the element's place has other names than the positions it is read at
    place: dict[Index, Index] = {axis: replace(axis, name=f"{axis.name}'") for axis in own}
    values: dict[Index, Expr] = {}
    added: list[Index] = []
    where: list[Expr] = []
    late: list[tuple[Index, Expr]] = []
    for axis, s in zip(own, read.at, strict=True):
        if isinstance(s, Index) and s in over and s not in values:
            values[s] = place[axis]
        else:
            late.append((axis, s))
    for axis, raw in late:
        s = substitute(raw, values)
        unknown = [i for i in over if i in free(s)]
        found = _solved(axis, place[axis], s, unknown, names)
        if found is None:
            where.append(Apply("==", (s, place[axis])))
            continue
        index, value, more, inside = found
        values = {i: substitute(v, {index: value}) for i, v in values.items()} | {index: value}
        where = [*(substitute(c, {index: value}) for c in where), *inside]
        added += more
    again = {i: names.index(f"{i.name}_too", i, extent(i)) for i in over if i not in values and i in own}
    others = [*added, *(again.get(i, i) for i in over if i not in values)]
    back: dict[Index, Expr] = {**again, **{p: axis for axis, p in place.items()}}
    values = {i: substitute(v, back) for i, v in values.items()} | {**again}
    known = tuple((s, axis) for axis, s in late if isinstance(s, Apply) and s.op == "//")
    return Readers(values, tuple(others), tuple(substitute(c, back) for c in where), known)


def whole(e: Expr, lengths: Mapping[Index, Expr]) -> Expr:
    """An expression without the group of a member of it: `(g * n + r) // n` is `g` where r < n."""
    e = rebuild(e, tuple(whole(part, lengths) for part in children(e)))
    match e:
        case Apply("//", (Apply("+", (Apply("*", (g, n)), Index() as r)), by)) if by == n == lengths.get(r):
            return g
        case _:
            return e


def _solved(
    axis: Index, place: Index, s: Expr, unknown: list[Index], names: Names
) -> tuple[Index, Expr, tuple[Index, ...], tuple[Expr, ...]] | None:
    """The index of a subscript that equals a place, as a formula, with indices it takes and conditions."""
    match s:
        case Apply("//", (Index(role="batch") as h, size)) if [h] == unknown and not free(size):
            each = names.part(h, axis, size)
            return h, Apply("+", (Apply("*", (place, size)), each)), (each,), ()
        case Apply("%", (inner, size)) if len(unknown) == 1 and size == extent(unknown[0]) == extent(axis):
            shift = _shift(inner, unknown[0])
            if shift is not None:
                return unknown[0], Apply("%", (Apply("-", (place, shift)), size)), (), ()
    for index in reversed(unknown):
        shift, back = _shift(s, index), _turned(s, index)
        sides = (place, shift) if shift is not None else (back, place) if back is not None else None
        if sides is not None:
            value = Apply("-", sides)
            return index, value, (), (Apply(">=", (value, ZERO)), Apply("<", (value, extent(index))))
    return None


def _shift(s: Expr, index: Index) -> Expr | None:
    """`c` where a subscript is `index + c`."""
    return _rest(s, index, 1)


def _turned(s: Expr, index: Index) -> Expr | None:
    """`c` where a subscript is `c - index`."""
    return _rest(s, index, -1)


def _rest(s: Expr, index: Index, times: int) -> Expr | None:
    """`c` where a subscript is `times * index + c`."""
    whole = linear(s)
    if whole[0].get(index) != times or any(index in free(t) for t in whole[0] if t != index):
        return None
    return written(added(whole, linear(index), -times))
