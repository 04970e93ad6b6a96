"""Cascade → arrays: what a cascade *means*, in naive float64 NumPy. The judge of everything else.

* A read outside its tensor has no value, nor has what is computed from it.
* `and`, `or`, `not` know three answers: `x or nothing` is true where x is true, else it has no value;
  `x and nothing` is false where x is false.
* A predicate without a value is false, as a `where` and as the condition of a choice alike.
* A choice lacks a value only where the branch taken lacks one.
* Terms that are excluded or lack a value take no part in a reduction; only members have a `rank`.
* A recurrent group is walked position by position; what is not yet filled has no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from math import prod
from typing import TypeAlias, assert_never

import numpy as np

from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    reads,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import factors as product_of
from attncc.ir.spread import (
    Array,
    Spread,
    aligned,
    choose,
    common,
    fold,
    gather,
    logic,
    number,
    places,
    spread,
    union,
)
from attncc.ops import FUNCTIONS, REDUCTIONS, Kind

Value: TypeAlias = Array | int | float | bool

DTYPE: dict[Kind, type[np.bool_ | np.int64 | np.float64]] = {
    "bool": np.bool_,
    "int": np.int64,
    "float": np.float64,
}
ROOM = 1 << 22
"""Elements an array inside a reduction may have before the reduction is done slice by slice."""


class Results(dict[str, Array]):
    """Every equation's values by name, 0 where it has none; `extents` holds the extent of every index."""

    def __init__(self, arrays: Mapping[str, Array], extents: Mapping[Index, int]):
        super().__init__(arrays)
        self.extents = dict(extents)


@dataclass(frozen=True)
class Scope:
    """What an expression is evaluated in: extents, tensors known so far, indices at one position."""

    extents: dict[Index, int]
    known: dict[str, Spread]
    bound: dict[Index, int]

    def at(self, positions: Mapping[Index, int]) -> Scope:
        """The same, with more indices at one position."""
        return replace(self, bound={**self.bound, **positions})

    def under(self, over: tuple[Index, ...]) -> Scope:
        """The same, with some indices free to run."""
        return replace(self, bound={i: n for i, n in self.bound.items() if i not in over})

    def loose(self, e: Expr) -> tuple[Index, ...]:
        """The indices that an expression runs over, by name."""
        return tuple(sorted((i for i in free(e) if i not in self.bound), key=lambda i: i.name))

    def shape(self, indices: Sequence[Index]) -> tuple[int, ...]:
        """Extents of some indices."""
        return tuple(self.extents[i] for i in indices)


def evaluate(cascade: Cascade, values: Mapping[str, Value]) -> Results:
    """Every equation's values by name: float64, int64 or bool, indices in the equation's own order.

    `values` has an array for every input, a number for a scalar; what has a default may be left out. Raises
    ValueError for an input that is missing or unknown, or of a shape or type that does not fit.
    """
    with np.errstate(all="ignore"):
        scope = _begin(cascade, values)
        groups = {name: group for group in recurrent(cascade) for name in group}
        for equation in cascade.equations:
            name = equation.tensor.name
            if name in groups and name not in scope.known:
                _recur(tuple(cascade.equation(member) for member in groups[name]), scope)
            elif name not in scope.known:
                scope.known[name] = _settle(equation, scope)
        return Results(
            {e.tensor.name: scope.known[e.tensor.name].filled for e in cascade.equations}, scope.extents
        )


def outputs(cascade: Cascade, results: Results) -> tuple[Array, ...]:
    """The outputs, each with its declared index order, repeated along the indices its equation lacks."""
    found = []
    for wanted in cascade.outputs:
        data = aligned(results[wanted.name], cascade.equation(wanted.name).tensor.indices, wanted.indices)
        found.append(np.broadcast_to(data, [results.extents[i] for i in wanted.indices]).copy())
    return tuple(found)


def extents(cascade: Cascade, values: Mapping[str, Value]) -> dict[Index, int]:
    """The extent of every index of a cascade for some inputs. Raises ValueError as `evaluate` does."""
    with np.errstate(all="ignore"):
        return _begin(cascade, values).extents


def _begin(cascade: Cascade, values: Mapping[str, Value]) -> Scope:
    """Inputs as spreads, and every extent: shown by an input, or given by a formula."""
    given = {**dict(cascade.defaults), **values}
    if unknown := sorted(given.keys() - {t.name for t in cascade.inputs}):
        raise ValueError(f"`{cascade.name}` has no input `{unknown[0]}`")
    scope = Scope({}, {}, {})
    shown: dict[Index, str] = {}
    for tensor in cascade.inputs:
        if tensor.name not in given:
            raise ValueError(f"input `{tensor.name}` is missing")
        data = _input(tensor, given[tensor.name])
        for index, n in zip(tensor.indices, data.shape, strict=True):
            _agree(scope, index, n, f"in `{tensor.name}`", shown)
        scope.known[tensor.name] = Spread(tensor.indices, data)
    for index, length in cascade.lengths:
        _agree(scope, index, max(0, int(value(length, scope).data)), "by its formula", shown)
    return scope


def _input(tensor: Tensor, given: Value) -> Array:
    data = np.asarray(given)
    if data.ndim != len(tensor.indices):
        wanted = ",".join(i.name for i in tensor.indices)
        raise ValueError(
            f"`{tensor.name}[{wanted}]` has {len(tensor.indices)} indices, its array {data.ndim}"
        )
    if not np.can_cast(data.dtype, DTYPE[tensor.kind], "same_kind"):
        raise ValueError(f"`{tensor.name}` is {tensor.kind}, its array {data.dtype}")
    return data.astype(DTYPE[tensor.kind])


def _agree(scope: Scope, index: Index, n: int, place: str, shown: dict[Index, str]) -> None:
    if scope.extents.setdefault(index, n) != n:
        raise ValueError(f"`{index.name}` is {n} {place}, but {scope.extents[index]} {shown[index]}")
    shown.setdefault(index, place)


# Expressions


def value(e: Expr, scope: Scope) -> Spread:
    """The value of an expression, over those of its free indices that do not stand at one position."""
    match e:
        case Index():
            if e in scope.bound:
                return Spread((), np.asarray(scope.bound[e]))
            return Spread((e,), np.arange(scope.extents[e]))
        case Literal():
            return Spread((), np.asarray(e.value, DTYPE[e.kind]))
        case Read():
            return _read(e, scope)
        case Apply(op="extent", args=(Index() as index,)):
            return Spread((), np.asarray(scope.extents[index]))
        case Apply():
            return _apply(e, [value(a, scope) for a in e.args])
        case Reduce():
            return _reduce(e, scope)
        case Choose():
            return choose(value(e.condition, scope), value(e.then, scope), value(e.other, scope))
        case _:
            assert_never(e)


def _read(e: Read, scope: Scope) -> Spread:
    """A tensor at its subscripts: a view if they are distinct indices and single positions, else gathered."""
    source = scope.known[e.tensor.name]
    running = [s for s in e.at if isinstance(s, Index) and s not in scope.bound]
    subscripts = [value(s, scope) for s in e.at]
    slot: list[slice | int] = []
    for s, x, n in zip(e.at, subscripts, source.data.shape, strict=True):
        if s in running and running.count(s) == 1 and scope.extents[s] == n:
            slot.append(slice(None))
        elif not x.indices and x.has is None and 0 <= int(x.data) < n:
            slot.append(int(x.data))
        else:
            return gather(source, subscripts)
    has = None if source.has is None else np.asarray(source.has[tuple(slot)])
    return Spread(tuple(running), np.asarray(source.data[tuple(slot)]), has)


def _apply(e: Apply, args: list[Spread]) -> Spread:
    if e.op in ("and", "or", "not"):
        return logic(e.op, args)
    row = FUNCTIONS[e.op]
    order = union(*args)
    data = [number(a.along(order)) if row.takes in ("number", "int") else a.along(order) for a in args]
    out = np.asarray(row.numeric(np, *data))
    out = np.broadcast_to(out, np.broadcast_shapes(*(d.shape for d in data)))
    return spread(order, out if row.result == "join" else out.astype(DTYPE[kind(e)]), common(args, order))


# Reductions


def _reduce(e: Reduce, scope: Scope) -> Spread:
    inner = scope.under(e.over)
    found = _contract(e, inner) if e.op == "sum" else None
    if found is None:
        found = _fold(e, inner)
    # an index that stays free and stands at one position: its place among all of them, read there
    slot = tuple(scope.bound.get(i, slice(None)) for i in found.indices)
    has = None if found.has is None else np.asarray(found.has[slot])
    return Spread(tuple(i for i in found.indices if i not in scope.bound), np.asarray(found.data[slot]), has)


def _sliced(e: Reduce, scope: Scope, indices: Sequence[Index]) -> Spread | None:
    """A reduction, position by position along a free index, if an array over `indices` is too large."""
    kept = [i for i in indices if i not in e.over]
    if prod(scope.shape(indices)) <= ROOM or not kept:
        return None
    index = max(kept, key=scope.extents.__getitem__)
    parts = [_reduce(e, scope.at({index: n})) for n in range(scope.extents[index])]
    data, has = np.stack([p.data for p in parts]), np.stack([p.present for p in parts])
    return spread((index, *parts[0].indices), data, has)


def _fold(e: Reduce, scope: Scope) -> Spread:
    """Every term of a reduction side by side, then the operation over the members."""
    kept = tuple(i for i in dict.fromkeys(scope.loose(e.where) + scope.loose(e.body)) if i not in e.over)
    order = kept + e.over
    if (found := _sliced(e, scope, order)) is not None:
        return found
    where, body = value(e.where, scope), value(e.body, scope)
    full = scope.shape(order)
    members = np.broadcast_to(aligned(where.holds, where.indices, order), full)
    if body.has is not None:
        members = members & aligned(body.has, body.indices, order)
    terms = np.broadcast_to(body.along(order), full)
    row = REDUCTIONS[e.op]
    terms = number(terms) if row.takes == "number" else terms
    if row.keeps:
        return spread(order, places(e.op, terms, members), members)
    return Spread(kept, fold(e.op, terms, members, tuple(range(len(kept), len(order)))))


def _contract(e: Reduce, scope: Scope) -> Spread | None:
    """A sum of products in one `einsum`; None where that could differ from the sum of its members.

    A term that is excluded or absent is zeroed in one of its factors. Were another factor infinite there, did
    the product overflow or a divisor vanish, the result would not be finite: a finite one is the right one.
    """
    above, below = product_of(e.body)
    runs = [scope.loose(part) for part in (*above, *below, e.where)]
    if (found := _sliced(e, scope, max(runs, key=lambda run: prod(scope.shape(run))))) is not None:
        return found
    factors = [_zeroed(value(f, scope)) for f in above]
    for divisor in (value(f, scope) for f in below):
        factors.append(_zeroed(replace(divisor, data=1.0 / divisor.data)))
    if e.where != TRUE:
        where = value(e.where, scope)
        _exclude(factors, Spread(where.indices, where.holds))
    named = union(*factors)
    factors += [Spread((i,), np.ones(scope.extents[i], np.int64)) for i in e.over if i not in named]
    kept = tuple(i for i in named if i not in e.over)
    letter = {i: chr(ord("a") + n) for n, i in enumerate(union(*factors))}
    spelled = ",".join("".join(letter[i] for i in f.indices) for f in factors)
    operands = [f.data for f in factors]
    data = np.asarray(
        np.einsum(f"{spelled}->{''.join(letter[i] for i in kept)}", *operands, optimize="greedy")
    )
    return Spread(kept, data) if np.all(np.isfinite(data)) else None


def _zeroed(x: Spread) -> Spread:
    return Spread(x.indices, number(x.filled))


def _exclude(factors: list[Spread], members: Spread) -> None:
    """Zeroes what is no member in a factor that has all its indices, or adds a factor of zeros and ones."""
    for n, f in enumerate(factors):
        if set(members.indices) <= set(f.indices):
            factors[n] = Spread(f.indices, np.where(members.along(f.indices), f.data, 0))
            return
    factors.append(Spread(members.indices, number(members.data)))


# Equations


def _settle(equation: Equation, scope: Scope) -> Spread:
    """An equation's values over those of its indices that do not stand at one position."""
    found = value(equation.body, scope)
    indices = tuple(i for i in equation.tensor.indices if i not in scope.bound)
    data = np.broadcast_to(found.along(indices), scope.shape(indices)).astype(DTYPE[equation.tensor.kind])
    return spread(indices, data, common([found], indices))


def _recur(group: tuple[Equation, ...], scope: Scope) -> None:
    """Walks a recurrent group, forward or, if its equations do not hold then, backward.

    Equations that read strictly earlier positions only, or strictly later ones only, have one solution:
    values under which every equation of the group holds are its meaning.
    """
    walked, steps = _walk(group)
    positions = list(np.ndindex(scope.shape(walked)))
    for path in (positions, positions[::-1]):
        for e in group:
            full = scope.shape(e.tensor.indices)
            empty = np.zeros(full, DTYPE[e.tensor.kind])
            scope.known[e.tensor.name] = Spread(e.tensor.indices, empty, np.zeros(full, np.bool_))
        for position in path:
            at = scope.at(dict(zip(walked, position, strict=True)))
            for e in steps:
                _put(scope.known[e.tensor.name], _settle(e, at), at)
        if all(_same(scope.known[e.tensor.name], _settle(e, scope)) for e in group):
            return
    names = ", ".join(f"`{e.tensor.name}`" for e in group)
    raise AssertionError(f"{names}: neither earlier positions only are read, nor later ones only")


def _put(whole: Spread, part: Spread, at: Scope) -> None:
    slot = tuple(at.bound.get(i, slice(None)) for i in whole.indices)
    whole.data[slot] = part.data
    whole.present[slot] = part.present


def _walk(group: tuple[Equation, ...]) -> tuple[tuple[Index, ...], tuple[Equation, ...]]:
    """The indices a group is walked along, outermost first, and the order of its equations at one position.

    They are the sequence indices on every left side that some read inside the group does not merely repeat.
    """
    members = {e.tensor.name: e for e in group}
    inside = [(e, r) for e in group for r in reads(e.body) if r.tensor.name in members]
    shared = [i for i in group[0].tensor.indices if all(i in e.tensor.indices for e in group)]
    walked = tuple(i for i in shared if i.role == "sequence" and any(_at(r, i) != i for _, r in inside))
    assert walked, f"{', '.join(members)}: read at their own positions"
    here: dict[str, list[str]] = {name: [] for name in members}
    for e, r in inside:
        if all(_at(r, i) == i for i in walked):
            here[e.tensor.name].append(r.tensor.name)
    return walked, tuple(members[name] for name in TopologicalSorter(here).static_order())


def _at(read: Read, index: Index) -> Expr:
    return read.at[read.tensor.indices.index(index)]


def _same(a: Spread, b: Spread) -> bool:
    """Equal, up to the rounding of sums done in another order."""
    x, y = number(a.filled), number(b.filled)
    scale = np.max(np.abs(x), initial=0, where=np.isfinite(x))
    close = np.allclose(x, y, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)
    return bool(close and np.array_equal(a.present, b.present))
