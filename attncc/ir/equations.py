"""Scope → equations: each lowered after those it reads, over the batched indices it is found to depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attncc.diagnostics import Label
from attncc.ir.cascade import Equation, Expr, Read, Reduce, Tensor, free, walk
from attncc.ir.kinds import Kinds
from attncc.ir.lower import lower
from attncc.ir.positions import Here, Seen, follows
from attncc.ir.recurrence import cycle, groups, unproved
from attncc.ir.said import Mistakes, listed, names
from attncc.ir.scope import Scope
from attncc.source import Span
from attncc.syntax import ast


@dataclass(frozen=True)
class Equations:
    """Equations in order, every tensor, and the tensors whose indices a mistake keeps from being known."""

    scope: Scope
    kinds: Kinds
    equations: dict[str, Equation]
    tensors: dict[str, Tensor]
    doubtful: set[str]

    def here(self, name: str, over: frozenset[str], seen: Seen) -> Here:
        """The right side of an equation."""
        left = frozenset(i.name for i in self.scope.equations[name].indices)
        return Here(self.scope, self.tensors, left, over, seen, frozenset(self.doubtful))

    def tensor(self, name: str, over: frozenset[str]) -> Tensor:
        """What an equation defines, were it to depend on the batched indices `over`."""
        left = [i.name for i in self.scope.equations[name].indices]
        indices = [n for n in self.scope.batch if n in over] + left
        known = tuple(self.scope.indices[n].index for n in indices)
        return Tensor(name, known, self.kinds[name] or "float", "equation")


def equations(scope: Scope, kinds: Kinds, inputs: Mapping[str, Tensor], mistakes: Mistakes) -> Equations:
    """Every equation of a pattern that has no mistake in it."""
    found = Equations(scope, kinds, {}, dict(inputs), set())
    reads = {
        name: tuple(
            dict.fromkeys(n for n, _ in names(q.body) if n in scope.equations and n not in scope.indices)
        )
        for name, q in scope.equations.items()
    }
    for group in groups(reads):
        seen = _lower(group, found, mistakes)
        if any(name not in found.equations or found.doubtful & set(reads[name]) for name in group):
            found.doubtful.update(group)
        elif len(group) > 1 or group[0] in reads[group[0]]:
            _check_causal([found.equations[n] for n in group], reads, seen, mistakes)
    return found


def _lower(group: tuple[str, ...], found: Equations, mistakes: Mistakes) -> dict[Read, Span]:
    """Adds equations that read each other, or one that does not; the places of their reads."""
    over: dict[str, frozenset[str]] = {name: frozenset() for name in group}
    # what a member depends on grows with what the others do, and cannot grow beyond all there is
    for _ in range(2 + len(group) * len(found.scope.batch)):
        found.tensors.update({name: found.tensor(name, over[name]) for name in group})
        before, over = over, {name: _depends(name, over[name], found, mistakes) for name in group}
        if over == before:
            break
    places: dict[Read, Span] = {}
    for name in group:
        said, seen = found.scope.equations[name], Seen(mistakes)
        body = lower(said.body, found.here(name, over[name], seen))
        places |= seen.reads
        if body is not None:
            found.equations[name] = Equation(found.tensors[name], body, said.span)
            _check_left(said, body, found.scope, mistakes)
    return places


def _check_left(said: ast.Equate, body: Expr, scope: Scope, mistakes: Mistakes) -> None:
    """Reports an index of the left side that is only reduced over on the right."""
    reduced = {i for e in walk(body) if isinstance(e, Reduce) for i in e.over} - free(body)
    for index in said.indices:
        if scope.indices[index.name].index in reduced:
            message = f"`{index.name}` is on the left side, and all of it is reduced on the right"
            help = f"take it off the left side, or reduce over an index of its own: `align j to {index.name}`"
            mistakes.add("reduced-left", message, index.span, "", help)


def _depends(name: str, over: frozenset[str], found: Equations, mistakes: Mistakes) -> frozenset[str]:
    """The batched indices of a right side, less those on the left and those that follow from others."""
    seen = Seen(Mistakes(mistakes.source))
    here = found.here(name, over, seen)
    lower(found.scope.equations[name].body, here)
    given = here.named | seen.batched
    return frozenset(n for n in seen.batched if not follows(n, given - {n}, found.scope)) - here.named


def _check_causal(
    group: Sequence[Equation],
    reads: Mapping[str, Sequence[str]],
    places: Mapping[Read, Span],
    mistakes: Mistakes,
) -> None:
    late = unproved(group)
    if not late:
        return
    tensors = listed(e.tensor.name for e in group)
    reader, first = late[0]
    path = ", which reads ".join(f"`{n}`" for n in cycle(reader.tensor.name, first.tensor.name, reads)[1:])
    message = f"{tensors} reads itself, and not at earlier positions only"
    help = "read at `t - 1`, or at `j` under `where j < t`, with `t` one sequence index of every left side"
    if len(group) > 1:
        message = f"{tensors} read each other, and not at earlier positions only"
        message += f": `{reader.tensor.name}` reads {path}"
    more = [Label(places[read], "and here") for _, read in late[1:3] if places[read] != places[first]]
    mistakes.add("cyclic-recurrence", message, places[first], "not provably earlier", help, *more)
