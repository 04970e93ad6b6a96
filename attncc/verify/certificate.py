"""Pattern → certificate: what its operators give in parts is what they give at once, in float64.

Positions are dealt out to parts, each of which takes its own in tiles and in any order; the parts are merged
in a random tree. Every state is then compared with its reduction over all positions, and the outputs that
follow from the states with the meaning of the pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attncc.calls import Number
from attncc.ir.cascade import Cascade, Equation, Read, Tensor, reads
from attncc.ir.evaluate import evaluate, outputs
from attncc.passes.online import before
from attncc.passes.operator import Operator, first, operators, second
from attncc.pipeline import streamed
from attncc.verify.report import Wrong

Array = NDArray[Any]
States = dict[str, Array]

NEAR = 1e-12
"""How far from each other the two may be, next to the largest of the tensor."""

LONGEST = 15
"""Sequence extents are drawn up to here."""

PARTS = 4


@dataclass
class Certificate:
    """The operators of a pattern by the names of their states, how often each was tried, the worst error."""

    tried: int = 0
    worst: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """An operator on the arguments of one call; `whole` are all values of the cascade there."""

    operator: Operator
    cascade: Cascade
    values: Mapping[str, Any]
    whole: Mapping[str, Array]
    lengths: Mapping[Any, int]

    def init(self) -> States:
        """The state of no terms."""
        return {
            e.tensor.name: np.full_like(self.whole[e.tensor.name], e.body.value)  # type: ignore[union-attr]
            for e in self.operator.init
        }

    def update(self, old: States, tile: Array) -> States:
        """The state with some positions more."""
        chosen = Tensor("tile", (self.operator.index,), "bool", "table")
        equations = self.operator.update(Read(chosen, chosen.indices))
        given = {chosen: tile} | {before(s.tensor): old[s.tensor.name] for s in self.operator.states}
        return self._run(equations, given)

    def merge(self, a: States, b: States) -> States:
        """The state of two sets of positions."""
        given = {
            side(s.tensor): part[s.tensor.name]
            for side, part in ((first, a), (second, b))
            for s in self.operator.states
        }
        return self._run(self.operator.merge, given)

    def outputs(self, states: States) -> tuple[Array, ...]:
        """The epilogue: what follows from the states."""
        held = {s.tensor for s in self.operator.states}
        after = tuple(e for e in self.cascade.equations if e.tensor not in held)
        inputs = (*self.cascade.inputs, *held)
        cascade = replace(self.cascade, equations=after, inputs=inputs)
        results = evaluate(cascade, {**self.values, **states})
        results.update(states)
        return outputs(self.cascade, results)

    def _run(self, equations: Sequence[Equation], given: Mapping[Tensor, Array]) -> States:
        """The states by equations that read each other, `given` tensors, and what is complete."""
        body = {e.tensor: e for e in equations}
        wanted = self._moving(body) | body.keys()
        run = [body.get(e.tensor, e) for e in self.cascade.equations if e.tensor in wanted]
        made = {e.tensor for e in run}
        complete = {
            r.tensor: self.whole[r.tensor.name]
            for e in run
            for r in reads(e.body)
            if r.tensor.origin == "equation" and r.tensor not in made and r.tensor not in given
        }
        extra = {**given, **complete}
        cascade = replace(self.cascade, equations=tuple(run), inputs=(*self.cascade.inputs, *extra))
        results = evaluate(cascade, {**self.values, **{t.name: x for t, x in extra.items()}})
        return {t.name: results[t.name] for t in body}

    def _moving(self, states: Mapping[Tensor, Equation]) -> set[Tensor]:
        """What is computed from states, and read by them."""
        below: set[Tensor] = set()
        for e in self.cascade.equations:
            if any(r.tensor in states or r.tensor in below for r in reads(e.body)):
                below.add(e.tensor)
        above: set[Tensor] = set()
        for e in reversed(self.cascade.equations):
            if e.tensor in states or e.tensor in above:
                above |= {r.tensor for r in reads(e.body)}
        return below & above


def certify(
    cascade: Cascade,
    examples: int = 20,
    seed: int = 0,
    numbers: Mapping[str, Number] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Tries the operators of a cascade on drawn calls. Wrong, with the smallest call, if one fails."""
    import hypothesis

    from attncc.verify.drawn import Case, Space, cases

    run = streamed(cascade)
    found = operators(run)
    certificate = Certificate()
    space = Space(cascade, "cpu", {"float64": LONGEST}, numbers or {})

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases(space))
    def every(case: Case) -> None:
        given = case.arguments(cascade, "cpu")
        values = {n: x.numpy() if hasattr(x, "numpy") else x for n, x in given.items()}
        whole = evaluate(run, values)
        wanted = outputs(cascade, evaluate(cascade, values))
        random = np.random.default_rng(case.seed)
        for operator in found:
            trial = Trial(operator, run, values, whole, whole.extents)
            states = in_parts(trial, random)
            name = ", ".join(states)
            error = max(off(states[s], whole[s]) for s in states)
            error = max([error, *(off(x, y) for x, y in zip(trial.outputs(states), wanted, strict=True))])
            certificate.worst[name] = max(error, certificate.worst.get(name, 0.0))
            if not error <= NEAR:
                said = f"{name} in parts over `{operator.index.name}` is {error:.1e} off what it is at once"
                raise Wrong(case, said)
        certificate.tried += 1
        tell(f"online forms: {certificate.tried} calls tried")

    every()
    return certificate


def in_parts(trial: Trial, random: np.random.Generator) -> States:
    """The states by tiles in any order, in parts that are merged in a random tree."""
    length = trial.lengths[trial.operator.index]
    owner = random.integers(0, random.integers(1, PARTS + 1), length)
    parts = []
    for part in range(PARTS):
        order = random.permutation(np.flatnonzero(owner == part))
        state = trial.init()
        for tile in np.array_split(order, random.integers(1, 4)):
            state = trial.update(state, np.isin(np.arange(length), tile))
        parts.append(state)
    while len(parts) > 1:
        a, b = (parts.pop(random.integers(0, len(parts))) for _ in range(2))
        parts.append(trial.merge(a, b))
    return parts[0]


def off(found: Array, wanted: Array) -> float:
    """How far apart two arrays are, next to the largest of them; infinities are equal or not."""
    if found.dtype.kind != "f":
        return 0.0 if np.array_equal(found, wanted) else np.inf
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return np.inf
    size = np.max(np.abs(wanted[finite]), initial=1.0)
    return float(np.max(np.abs(found[finite] - wanted[finite]), initial=0.0) / size)
