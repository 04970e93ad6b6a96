"""Operator → states over all positions of an index, from parts of it that take their own tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from attncc.ir.cascade import Cascade, Equation, Read, Tensor, reads
from attncc.ir.evaluate import Results, evaluate, outputs
from attncc.passes.online import before
from attncc.passes.operator import Operator, first, second

Array = NDArray[Any]
States = dict[str, Array]

PARTS, TILES = 4, 2

TILE = "in tile"
"""Which positions are in a tile; no name in a pattern has a space in it."""


@dataclass(frozen=True)
class Split:
    """For every part the positions of each of its tiles, some of them none, and which two parts of those that
    are left are merged next.
    """

    parts: tuple[tuple[tuple[int, ...], ...], ...]
    merges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        tiles = (" | ".join(" ".join(map(str, tile)) for tile in part if tile) for part in self.parts)
        return ", ".join(f"({part})" for part in tiles)


@st.composite
def splits(draw: Any, length: int) -> Split:
    """Positions dealt out to tiles of parts; merged in any tree."""
    tiles = draw(st.lists(st.integers(0, PARTS * TILES - 1), min_size=length, max_size=length))
    count = draw(st.integers(max(tiles, default=0) // TILES + 1, PARTS))
    merges = [(draw(st.integers(0, n - 1)), draw(st.integers(0, n - 2))) for n in range(count, 1, -1)]
    parts = tuple(
        tuple(
            tuple(at for at, tile in enumerate(tiles) if tile == part * TILES + n)
            for n in range(TILES)
            if n == 0 or part * TILES + n in tiles
        )
        for part in range(count)
    )
    return Split(parts, tuple(merges))


@dataclass(frozen=True)
class Operated:
    """An operator of a cascade, as cascades that can be evaluated. `known` are the arguments of a call and
    all values of the cascade there: what is not of this pass is complete.
    """

    operator: Operator
    cascade: Cascade

    @property
    def held(self) -> tuple[Tensor, ...]:
        """What the states are called."""
        return tuple(s.tensor for s in self.operator.states)

    def in_parts(self, split: Split, known: Mapping[str, Any]) -> States:
        """The states of all parts together."""
        length = sum(len(tile) for part in split.parts for tile in part)
        states = []
        for part in split.parts:
            state = self.init(known)
            for tile in part:
                state = self.update(state, np.isin(np.arange(length), tile), known)
            states.append(state)
        for a, b in split.merges:
            one = states.pop(a)
            states.append(self.merge(one, states.pop(b), known))
        return states[0]

    def init(self, known: Mapping[str, Any]) -> States:
        """The state of no terms."""
        return self._states(self._init, known)

    def update(self, old: States, tile: Array, known: Mapping[str, Any]) -> States:
        """The state with some positions more."""
        given = {before(t).name: old[t.name] for t in self.held}
        return self._states(self._update, {**known, **given, TILE: tile})

    def merge(self, a: States, b: States, known: Mapping[str, Any]) -> States:
        """The state of two sets of positions."""
        sides = ((first, a), (second, b))
        given = {side(t).name: part[t.name] for side, part in sides for t in self.held}
        return self._states(self._merge, {**known, **given})

    def outputs(self, states: States, known: Mapping[str, Any]) -> tuple[Array, ...]:
        """The epilogue: what follows from the states."""
        results = valued(self._epilogue, {**known, **states})
        results.update(states)
        return outputs(self.cascade, results)

    def _states(self, cascade: Cascade, known: Mapping[str, Any]) -> States:
        results = valued(cascade, known)
        return {t.name: results[t.name] for t in self.held}

    @cached_property
    def _init(self) -> Cascade:
        return reading(self.cascade, self.operator.init)

    @cached_property
    def _update(self) -> Cascade:
        tile = Tensor(TILE, (self.operator.index,), "bool", "table")
        return self._of(self.operator.update(Read(tile, tile.indices)))

    @cached_property
    def _merge(self) -> Cascade:
        return self._of(self.operator.merge)

    @cached_property
    def _epilogue(self) -> Cascade:
        equations = tuple(e for e in self.cascade.equations if e.tensor not in self.held)
        return reading(self.cascade, equations)

    def _of(self, states: Iterable[Equation]) -> Cascade:
        """New equations for the states, and those between them that read states and are read by them."""
        body = {e.tensor: e for e in states}
        below: set[Tensor] = set()
        for e in self.cascade.equations:
            if any(r.tensor in body or r.tensor in below for r in reads(e.body)):
                below.add(e.tensor)
        above: set[Tensor] = set()
        for e in reversed(self.cascade.equations):
            if e.tensor in body or e.tensor in above:
                above |= {r.tensor for r in reads(e.body)}
        wanted = (below & above) | body.keys()
        run = tuple(body.get(e.tensor, e) for e in self.cascade.equations if e.tensor in wanted)
        return reading(self.cascade, run)


def reading(cascade: Cascade, equations: tuple[Equation, ...]) -> Cascade:
    """Equations over the extents of a cascade; what they read and do not make is an input."""
    made = {e.tensor for e in equations}
    others = dict.fromkeys(r.tensor for e in equations for r in reads(e.body) if r.tensor not in made)
    inputs = (*cascade.inputs, *(t for t in others if t not in cascade.inputs))
    return replace(cascade, equations=equations, inputs=inputs)


def valued(cascade: Cascade, known: Mapping[str, Any]) -> Results:
    """Every equation's values; what is `known` besides its inputs is left alone."""
    return evaluate(cascade, {t.name: known[t.name] for t in cascade.inputs if t.name in known})
