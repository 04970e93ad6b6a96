"""An index's name, where it stands → the storage position that is meant, and what that is counted from.

An index used as a number is its position: its storage position plus its *origin*, which is `|k| - |q|` for
`align q to k`, `start[b]` for `align q to k at start[b]`, and 0 for all others. A batched index that is named
neither on the left nor by a reduction follows from those that are, or the whole equation is over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from attncc.ir.cascade import Apply, Expr, Index, Read, Tensor, extent
from attncc.ir.linear import added, linear, written
from attncc.ir.said import Mistakes, names
from attncc.ir.scope import Scope
from attncc.source import Span
from attncc.syntax import ast


@dataclass
class Seen:
    """What is noticed on the way through an equation: batched indices it depends on, free ones, its reads."""

    mistakes: Mistakes
    batched: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    reads: dict[Read, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class Here:
    """Where an expression stands.

    `named` are the indices named on the left side or by a reduction around it, `over` the batched ones that
    the equation has besides. `doubtful` are tensors whose batched indices are not all known, for a mistake
    elsewhere.
    """

    scope: Scope
    tensors: Mapping[str, Tensor]
    named: frozenset[str]
    over: frozenset[str]
    seen: Seen
    doubtful: frozenset[str] = frozenset()

    @property
    def mistakes(self) -> Mistakes:
        return self.seen.mistakes


Origin: TypeAlias = tuple[Expr | None, ast.Expr | None]
"""Two parts whose sum is an origin, None for 0: what follows from extents, and a start as it was written."""


def origin(name: str, scope: Scope) -> Origin:
    """The position that storage position 0 of an index has."""
    known = scope.indices[name]
    if known.align is None or known.role == "batch":
        return None, None
    if known.align.start is not None:
        return None, known.align.start
    base, start = origin(known.align.to.name, scope)
    if not (known.shown or known.declare is not None):
        return base, start
    # the last of both is at one position
    distance = Apply("-", (extent(scope.indices[known.align.to.name].index), extent(known.index)))
    return distance if base is None else written(added(linear(distance), linear(base))), start


def storage(name: str, span: Span, here: Here) -> Index | ast.Expr | None:
    """The storage position of an index where it stands: itself, or a value; None if it has none."""
    known = here.scope.indices[name]
    if name in here.named:
        return known.index
    if known.role == "batch":
        return _batched(name, here)
    if not known.unknown and name not in here.seen.free:
        here.seen.free.add(name)
        message = f"`{name}` is free: it is neither on the left side nor reduced over"
        help = f"put `{name}` on the left side, or reduce over it: `sum({name}) …`"
        here.mistakes.add("free-index", message, span, "", help)
    return None


def _batched(name: str, here: Here) -> Index | ast.Expr:
    """A batched index that is not named: by its parts, by what it follows from, or else itself."""
    known = here.scope.indices[name]
    for split in known.splits:
        if {split.outer.name, split.inner.name} <= here.named:
            outer = ast.Binary("*", ast.Name(split.outer.name), split.by, split.span)
            return ast.Binary("+", outer, ast.Name(split.inner.name), split.span)
    if known.value is not None and (not known.sized or follows(name, here.named, here.scope)):
        return known.value
    here.seen.batched.add(name)
    if known.value is not None and follows(name, here.named | here.over, here.scope):
        return known.value
    return known.index


def follows(name: str, given: frozenset[str], scope: Scope) -> bool:
    """Whether a batched index follows from given ones, of which it is none."""
    value = scope.indices[name].value
    if value is None:
        return False
    bases = _bases(value, scope)
    return bool(bases) and all(b in given or follows(b, given, scope) for b in bases)


def _bases(value: ast.Expr, scope: Scope) -> frozenset[str]:
    """The indices that a batched index's value depends on."""
    found: set[str] = set()
    for name, _ in names(value):
        param = scope.params.get(name)
        if name in scope.indices:
            found.add(name)
        elif isinstance(param, ast.TensorParam):
            found |= {i.name for i in param.indices}
    return frozenset(found)
