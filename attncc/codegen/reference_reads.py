"""Reads of tensors → PyTorch subscripts: whole axes, single positions, gathered and out-of-range ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attncc.codegen.code import ATOM
from attncc.codegen.reference_scope import Scope, Walked
from attncc.codegen.reference_values import Axes, Value, placed, union
from attncc.ir.cascade import Expr, Index, free

Spell = Callable[[Expr, Scope], Value]


def picked(base: Value, own: Mapping[Index, Expr], scope: Scope, spell: Spell) -> Value:
    """A tensor, given by its axes, at one subscript for each of its indices.

    Bare indices keep their axis; all others become positions along theirs. What surely lies inside is a plain
    subscript, `K[:, h // 4]`, what may lie outside goes through `_take(K, {1: k - 1})`.
    """
    if not base.axes:
        return base
    at: list[Expr] = [own[i] for i in base.axes]
    picks = {n: spell(s, scope) for n, s in enumerate(at) if not _whole(n, at, base, scope)}
    # an axis that is still to be picked from stands for its own number, one that is done for its index
    axes: list[int | Index] = list(range(len(at)))
    text, binds = base.text, base.binds
    for group in _groups(picks):
        spread = union([picks[n] for n in group], scope.axes)
        spots = {axes.index(n): placed(picks[n], spread).text for n in group}
        before = Value(text, binds=binds)
        if any(scope.frame.bounds.missing(at[n], base.axes[n], scope.lazy) for n in group):
            text = f"_take({text}, {{{', '.join(f'{n}: {t}' for n, t in sorted(spots.items()))}}})"
        else:
            marks = [spots.get(n, ":") for n in range(max(spots) + 1)]
            text = f"{before.within(ATOM)}[{', '.join(marks)}]"
        binds = ATOM
        axes = _moved(
            axes, [n for n in group if picks[n].axes], [n for n in group if not picks[n].axes], spread
        )
    left = [at[a] if isinstance(a, int) else a for a in axes]
    return Value(text, tuple(i for i in left if isinstance(i, Index)), base.kind, binds)


def _whole(n: int, at: list[Expr], base: Value, scope: Scope) -> bool:
    """Whether a subscript is an index that runs along its axis, and along no other."""
    s = at[n]
    if not isinstance(s, Index) or s in scope.bound or not scope.frame.bounds.same(s, base.axes[n]):
        return False
    return not any(s in free(other) for m, other in enumerate(at) if m != n)


def _groups(picks: Mapping[int, Value]) -> list[list[int]]:
    """Axes that are picked from at once: single positions, and then those whose positions share an index."""
    groups = [[n for n, v in picks.items() if not v.axes]]
    for n, v in picks.items():
        if not v.axes:
            continue
        joined = [g for g in groups[1:] if any(set(picks[m].axes) & set(v.axes) for m in g)]
        groups = [g for g in groups if g not in joined] + [sorted([n, *(m for g in joined for m in g)])]
    return [g for g in groups if g]


def _moved(
    axes: list[int | Index], gathered: list[int], single: list[int], spread: Axes
) -> list[int | Index]:
    """Axes after a subscript: single positions are gone, gathered ones lie where the first was.

    Where others lay between them, torch puts them in front.
    """
    rest = [a for a in axes if a not in single]
    spots = [rest.index(n) for n in gathered]
    if not spots:
        return rest
    together = spots[-1] - spots[0] == len(spots) - 1
    first = spots[0] if together else 0
    kept = [a for a in rest if a not in gathered]
    return [*kept[:first], *spread, *kept[first:]]


def slices(walk: Walked, own: Mapping[Index, Expr], scope: Scope, spell: Spell) -> Value:
    """What a recurrent group reads of itself: the slice at one position, or all so far as one tensor."""
    positions = [spell(own[i], scope) for i in walk.walked]
    outside = any(scope.frame.bounds.missing(own[i], i, scope.lazy) for i in walk.walked)
    if all(p.host for p in positions) and not outside:
        return Value(f"{walk.slices}[{', '.join(p.text for p in positions)}]", walk.axes, walk.kind)
    return Value(walk.late, (*walk.walked, *walk.axes), walk.kind)
