"""Reductions → walks in the order they run: one for each pass over an index, and the rows computed between.

What the sums of a pass read along its index, they compute again: a pass is bought with another reading of the
inputs, in the same kernel or in the next one (`cuts`), never with a matrix that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter

from attncc.ir.cascade import Cascade, Equation, Index, Reduce, Tensor, reads
from attncc.passes.online import Updater, passes_over
from attncc.passes.operator import State


@dataclass(frozen=True)
class Stage:
    """One walk: the rows computed before it, what is computed on its tiles, and which of that is `stored`,
    the reductions it completes.
    """

    index: Index
    rows: tuple[Equation, ...]
    tiles: tuple[Equation, ...]
    stored: tuple[Tensor, ...]
    states: tuple[State, ...]


Pass = tuple[Index, int]
"""An index, and which pass over it."""


Nests = dict[Index, tuple[Index, ...]]
"""Sequence indices that are walked at every position of others, and these, outermost first."""


def nests(cascade: Cascade) -> Nests:
    """What reductions are over besides the sequence that they walk: batched indices, and another sequence.

    All that is over one of them is over all, in the same pass, or walks could not be one after the other.
    """
    found: Nests = {}
    reductions = {e.tensor.name: e.body for e in cascade.equations if isinstance(e.body, Reduce)}
    kept = {i for t in cascade.outputs for i in t.indices}
    for e in reductions.values():
        sequences = [i for i in e.over if i.role == "sequence"]
        if not 1 <= len(sequences) <= 2 or len(e.over) < 2 or any(i.role == "feature" for i in e.over):
            continue
        *outers, inner = (*(i for i in e.over if i.role == "batch"), *sequences)
        if inner in found:
            continue
        passes = [dict(passes_over(cascade, i)[0].of) for i in sequences]
        beside = {name: r for name, r in reductions.items() if set(r.over) & set(e.over)}
        together = all(len({own.get(name) for own in passes}) == 1 for name in beside)
        if together and all(set(r.over) == set(e.over) for r in beside.values()) and not kept & set(e.over):
            found[inner] = tuple(outers)
    return found


def stages(
    cascade: Cascade,
    states: dict[Tensor, Index],
    stored: dict[Tensor, Index],
    pairs: Nests,
    rows: Index,
) -> tuple[tuple[Equation, ...], tuple[Stage, ...], tuple[Equation, ...]]:
    """The rows computed before all walks, the walks, and the rows computed after them.

    What is `stored` at every row and column rides in the first walk for which all that it reads is complete.
    `pairs` are the indices walked at every position of another.
    """
    pass_of: dict[Tensor, Pass] = {}
    updaters: dict[str, Updater] = {}
    for index in dict.fromkeys((*states.values(), *stored.values())):
        passes, found = passes_over(cascade, index)
        of = dict(passes.of)
        pass_of |= {t: (index, of[t.name]) for t, i in (*states.items(), *stored.items()) if i == index}
        updaters |= found
    after = _after(cascade, pass_of)
    order = _order(pass_of, after)
    place = {walk: n for n, walk in enumerate(order)}
    ready = {t: max((place[w] + 1 for w in walks), default=0) for t, walks in after.items()}

    def is_row(e: Equation) -> bool:
        return e.tensor not in pass_of and all(i == rows for i in e.tensor.indices if i.role == "sequence")

    made = []
    wanted: set[Tensor] = set()
    for n, walk in reversed(list(enumerate(order))):
        own = _narrow_first([e for e in cascade.equations if pass_of.get(e.tensor) == walk], cascade)
        along = {walk[0], *pairs.get(walk[0], ())}
        kept = tuple(e.tensor for e in own if e.tensor in stored)
        needed = {e.tensor for e in _needed(own, cascade)} | {*kept}
        tiles = tuple(
            e
            for e in cascade.equations
            if e.tensor in needed and along & set(e.tensor.indices) and e.tensor not in states
        )
        wanted |= {e.tensor for e in _needed([*own, *tiles], cascade)}
        between = (e for e in cascade.equations if is_row(e) and ready[e.tensor] == n > 0)
        before = tuple(e for e in between if e.tensor in wanted)
        running = tuple(State(e, updaters.get(e.tensor.name)) for e in own if e.tensor in states)
        made.append(Stage(walk[0], before, tiles, kept, running))
    placed = {e.tensor for stage in made for e in stage.rows}
    first = tuple(e for e in cascade.equations if is_row(e) and ready[e.tensor] == 0)
    last = tuple(e for e in cascade.equations if is_row(e) and ready[e.tensor] and e.tensor not in placed)
    return first, tuple(reversed(made)), last


def _narrow_first(states: list[Equation], cascade: Cascade) -> list[Equation]:
    """The reductions of a walk, those without features before those with, where they do not wait for them:
    what the latter multiply is then the last use of a tile.
    """
    wide = {e.tensor for e in states if any(i.role == "feature" for i in e.tensor.indices)}
    narrow = [e for e in states if e.tensor not in wide]
    if wide & {e.tensor for e in _needed(narrow, cascade)}:
        return states
    return [*narrow, *(e for e in states if e.tensor in wide)]


def _after(cascade: Cascade, pass_of: dict[Tensor, Pass]) -> dict[Tensor, frozenset[Pass]]:
    """The walks that have to be over before a value exists."""
    found: dict[Tensor, frozenset[Pass]] = {}
    for equation in cascade.equations:
        below = (found.get(r.tensor, frozenset()) for r in reads(equation.body))
        own = {pass_of[equation.tensor]} if equation.tensor in pass_of else set()
        found[equation.tensor] = frozenset().union(*below, own)
    return found


def _order(pass_of: dict[Tensor, Pass], after: dict[Tensor, frozenset[Pass]]) -> tuple[Pass, ...]:
    """The walks, those that others wait for before them, else as they appear."""
    walks = list(dict.fromkeys(pass_of.values()))
    sorter: TopologicalSorter[Pass] = TopologicalSorter()
    for walk in walks:
        waits = {w for t, own in pass_of.items() if own == walk for w in after[t] if w != walk}
        sorter.add(walk, *sorted(waits, key=walks.index))
    return tuple(sorter.static_order())


def _needed(equations: Iterable[Equation], cascade: Cascade) -> tuple[Equation, ...]:
    """What some equations read, directly or through others, in order."""
    needed = {r.tensor for e in equations for r in reads(e.body)}
    for equation in reversed(cascade.equations):
        if equation.tensor in needed:
            needed |= {r.tensor for r in reads(equation.body)}
    return tuple(e for e in cascade.equations if e.tensor in needed)
