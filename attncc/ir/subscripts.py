"""A read and the axes of its tensor → what stands at each axis: a subscript, a pair of them, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from attncc.ir.said import Mistakes, listed, names
from attncc.ir.scope import Scope
from attncc.syntax import ast


@dataclass(frozen=True)
class Implied:
    """A batched axis that the read leaves out."""

    axis: str


@dataclass(frozen=True)
class At:
    """An axis with the subscript written for it."""

    axis: str
    subscript: ast.Expr


@dataclass(frozen=True)
class Pair:
    """An axis read at the two parts of a split of it: `p[n, i]` for `p[n * block + i]`."""

    split: ast.Split
    outer: Place
    inner: Place


Place: TypeAlias = Implied | At | Pair


def places(
    read: ast.Subscript, axes: tuple[str, ...], scope: Scope, mistakes: Mistakes
) -> tuple[Place, ...] | None:
    """What stands at every axis of a tensor; None, and a mistake, where the subscripts do not fit.

    Batched axes may be left out, and one that is not is known by a batched index in its subscript. Of several
    readings that with the fewest indices on axes that are not theirs is meant, then that with the fewest
    splits.
    """
    fits = (*_fits(axes, read.at, False, scope), *_fits(axes, read.at, True, scope))
    best = min(fits, key=lambda fit: _cost(fit, scope), default=None)
    if best is None:
        _wrong_rank(read, axes, scope, mistakes)
        return None
    faults = [fault for place in best for fault in _faults(place, scope)]
    if faults:
        _mismatch(read, axes, faults, scope, mistakes)
        return None
    return best


def _fits(
    axes: tuple[str, ...], at: tuple[ast.Expr, ...], partly: bool, scope: Scope
) -> Iterator[tuple[Place, ...]]:
    """Every way to give the subscripts to all axes or, `partly`, to those known by what they are given."""
    if not axes:
        if not at:
            yield ()
        return
    implied = partly and scope.indices[axes[0]].role == "batch"
    if implied:
        for rest in _fits(axes[1:], at, partly, scope):
            yield (Implied(axes[0]), *rest)
    for count, place in _taken(axes[0], at, scope):
        if not implied or _named(place, scope):
            for rest in _fits(axes[1:], at[count:], partly, scope):
                yield (place, *rest)


def _taken(axis: str, at: tuple[ast.Expr, ...], scope: Scope) -> Iterator[tuple[int, Place]]:
    """What an axis can take of the subscripts that follow, and how many that are."""
    if not at:
        return
    yield 1, At(axis, at[0])
    for split in scope.indices[axis].splits:
        for first, outer in _taken(split.outer.name, at, scope):
            for second, inner in _taken(split.inner.name, at[first:], scope):
                yield first + second, Pair(split, outer, inner)


def _cost(fit: tuple[Place, ...], scope: Scope) -> tuple[int, int, int]:
    untold = sum(isinstance(place, Pair) and not _told(place, scope) for place in fit)
    faults = sum(len(_faults(place, scope)) for place in fit)
    return untold + faults, sum(map(_pairs, fit)), sum(not isinstance(place, Implied) for place in fit)


def _pairs(place: Place) -> int:
    return 1 + _pairs(place.outer) + _pairs(place.inner) if isinstance(place, Pair) else 0


def _faults(place: Place, scope: Scope) -> tuple[At, ...]:
    """Bare indices on axes of another kind."""
    match place:
        case Implied():
            return ()
        case At(subscript=ast.Name(name=name)) if name in scope.indices:
            return () if suits(place.axis, name, scope) else (place,)
        case At():
            return ()
        case Pair():
            return _faults(place.outer, scope) + _faults(place.inner, scope)
        case _:
            assert_never(place)


def suits(axis: str, name: str, scope: Scope) -> bool:
    """Whether an index may stand alone at an axis: it counts the same positions, or is declared."""
    if axis == name or axis in scope.lone:
        return True
    a, b = scope.indices[axis], scope.indices[name]
    if a.unknown or b.unknown or a.declare is not None or b.declare is not None:
        return True
    return a.role != "batch" and a.space == b.space


def _named(place: Place, scope: Scope) -> bool:
    """Whether a batched axis can be known by a batched index in what stands at it."""
    match place:
        case Implied():
            return True
        case At():
            roots = _roots(place.axis, scope)
            said = [n for n, _ in names(place.subscript) if n in scope.indices]
            return any(scope.indices[n].role == "batch" and _roots(n, scope) & roots for n in said)
        case Pair():
            return _told(place, scope)
        case _:
            assert_never(place)


def _told(place: Pair, scope: Scope) -> bool:
    """Whether what stands at the parts of a split speaks of one of them."""
    outer = any(_of(n, place.split.outer.name, scope) for n in _said(place.outer))
    return outer or any(_of(n, place.split.inner.name, scope) for n in _said(place.inner))


def _said(place: Place) -> set[str]:
    match place:
        case Implied():
            return set()
        case At():
            return {n for n, _ in names(place.subscript)}
        case Pair():
            return _said(place.outer) | _said(place.inner)
        case _:
            assert_never(place)


def _of(name: str, whole: str, scope: Scope) -> bool:
    """Whether a name is an index that counts the positions of another, or a part of one."""
    known = scope.indices.get(name)
    if known is None:
        return False
    if known.space == scope.indices[whole].space or known.unknown:
        return True
    return known.parent is not None and _of(known.parent.index.name, whole, scope)


def _roots(name: str, scope: Scope) -> frozenset[str]:
    """The batched indices that one follows from."""
    value = scope.indices[name].value
    if value is None:
        return frozenset((name,))
    bases = {n for n, _ in names(value) if n in scope.indices}
    return frozenset().union(*(_roots(n, scope) for n in bases))


def _wrong_rank(read: ast.Subscript, axes: tuple[str, ...], scope: Scope, mistakes: Mistakes) -> None:
    own = [a for a in axes if scope.indices[a].role != "batch"]
    count = f"{len(read.at)} subscripts" if len(read.at) != 1 else "1 subscript"
    message = (
        f"`{read.tensor}` is declared over `{','.join(axes)}` but read at {count}"
        if axes
        else (f"`{read.tensor}` has no indices but is read at {count}")
    )
    if not own:
        help = f"read it as `{read.tensor}`"
    elif own == list(axes):
        help = f"read it at `{','.join(own)}`"
    else:
        help = f"read it at `{','.join(own)}`, or at all of `{','.join(axes)}`"
    mistakes.add("wrong-rank", message, read.span, "read here", help)


def _mismatch(
    read: ast.Subscript, axes: tuple[str, ...], faults: list[At], scope: Scope, mistakes: Mistakes
) -> None:
    declared = axes if len(read.at) == len(axes) else [a for a in axes if scope.indices[a].role != "batch"]
    said = ",".join(mistakes.written(s) for s in read.at)
    message = f"`{read.tensor}` is declared over `{','.join(declared)}` but read at `{said}`"
    advice = []
    for fault in faults:
        name = fault.subscript.name if isinstance(fault.subscript, ast.Name) else ""
        holders = [
            p.name
            for p in scope.params.values()
            if isinstance(p, ast.TensorParam) and name in [i.name for i in p.indices]
        ]
        advice.append(
            f"`{name}` is an index of {listed(holders)}" if holders else f"`{name}` is another index"
        )
    help = f"read it at `{','.join(declared)}`; {', '.join(dict.fromkeys(advice))}"
    mistakes.add("index-mismatch", message, read.span, "read here", help)
