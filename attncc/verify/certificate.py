"""Pattern → certificates: what its operators give in parts is what they give at once, in float64.

Positions are dealt out to parts, each of which takes its own tile by tile; the parts are merged in a random
tree. Every state is then compared with its reduction over all positions, and the outputs that follow from the
states with the dense meaning of the pattern, wherever that is a number. Some calls have scores of hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

from attncc.calls import Number
from attncc.ir.cascade import Cascade
from attncc.ir.evaluate import Results, evaluate, outputs
from attncc.passes.operator import operators
from attncc.pipeline import streamed
from attncc.verify.drawn import Case, Space, cases, tries
from attncc.verify.parts import Array, Operated, Split, splits
from attncc.verify.report import Certificate, Wrong
from attncc.verify.sizes import off, sizes, steep, trusted

NEAR = 1e-12
"""How far a value may be off, next to the magnitudes of the terms that it is made of."""

LENGTHS = (1, 0, *range(2, 25))

VALUES = ("normal", "large")

NEARBY = 8
"""How many calls that differ in the last digits say how much an output follows those."""

EPSILON = 2.0**-52
DIGITS = 4


class Meaningless(ValueError):
    """A call that float64 has no numbers for."""


@dataclass(frozen=True)
class Call:
    """A drawn call: its arguments, all values of the streamed cascade, and the outputs that are wanted; what
    the outputs mean is said by `judge`.
    """

    case: Case
    values: Mapping[str, Any]
    whole: Results
    wanted: tuple[Array, ...]
    judge: Cascade

    @cached_property
    def known(self) -> dict[str, Any]:
        """What is complete, by name."""
        return {**self.values, **self.whole}


class Certifier:
    """A pattern's operators, and the certificates that calls are entered in until one is wrong."""

    def __init__(self, cascade: Cascade):
        self.cascade, self.run = cascade, streamed(cascade)
        self.steep = steep(cascade)
        self.operators = [Operated(o, self.run) for o in operators(self.run)]
        self.certificates = [
            Certificate(o.operator.index.name, tuple(t.name for t in o.held)) for o in self.operators
        ]
        self.wrong = False

    def call(self, case: Case) -> Call:
        """A case and what it means; where its exponentials are no numbers, what follows from all positions at
        once. Meaningless if that is no number either.
        """
        given = case.arguments(self.cascade, "cpu")
        values = {n: x.numpy() if hasattr(x, "numpy") else x for n, x in given.items()}
        whole = evaluate(self.run, values)
        streamed, dense = outputs(self.run, whole), outputs(self.cascade, evaluate(self.cascade, values))
        sums = (s.tensor.name for o in self.operators for s in o.operator.states if s.reduce.op == "sum")
        if not (_finite(whole[name] for name in sums) or _finite(dense)):
            raise Meaningless
        if not trusted(self.steep, values):
            return Call(case, values, whole, streamed, self.run)
        wanted = tuple(np.where(np.isfinite(x), x, y) for x, y in zip(dense, streamed, strict=True))
        return Call(case, values, whole, wanted, self.cascade)

    def __call__(self, call: Call, split: Callable[[int], Split]) -> None:
        """Enters one call, or Wrong: the first operator that is, of it the first state or output."""
        found: list[dict[str, float]] = []
        for operated in self.operators:
            index = operated.operator.index
            parts = split(call.whole.extents[index])
            found.append({})
            for name, error in self._errors(operated, parts, call):
                if not error <= NEAR:
                    self.wrong = True
                    given = f"{name} of the parts {parts} of {index.name}"
                    raise Wrong(call.case, f"{given} is {error:.1e} off what all gives at once")
                found[-1][name] = max(error, found[-1].get(name, 0.0))
        if not self.wrong:
            for certificate, errors in zip(self.certificates, found, strict=True):
                certificate.enter(errors)

    def _errors(self, operated: Operated, split: Split, call: Call) -> Iterator[tuple[str, float]]:
        """How far off every state of parts is, and every output."""
        ends = [self.run.equation(t.name).tensor for t in self.run.outputs]
        size = sizes(self.run, [*operated.held, *ends], call.known)
        states = operated.in_parts(split, call.known)
        for t in operated.held:
            yield t.name, off(states[t.name], call.whole[t.name], size[t.name])
        made = operated.outputs(states, call.values)
        for n, (t, x, wanted) in enumerate(zip(ends, made, call.wanted, strict=True)):
            largest = np.full_like(wanted, np.max(size[t.name], initial=0, where=np.isfinite(size[t.name])))
            error = off(x, wanted, largest)
            sensitive = NEAR < error < np.inf and error <= _moved(call, n, largest)
            yield t.name, 0.0 if sensitive else error


def _finite(arrays: Iterable[Array]) -> bool:
    return all(np.isfinite(x).all() for x in arrays)


def _moved(call: Call, n: int, size: Array) -> float:
    """How far an output moves with the last digits of the arguments."""
    wanted = outputs(call.judge, evaluate(call.judge, call.values))[n]
    moved = 0.0
    for seed in range(NEARBY):
        random = np.random.default_rng(seed)
        near = {name: _nearby(x, random) for name, x in call.values.items()}
        found = outputs(call.judge, evaluate(call.judge, near))[n]
        both = np.isfinite(found) & np.isfinite(wanted)
        moved = max(moved, off(found[both], wanted[both], size[both]))
    return DIGITS * moved


def _nearby(x: Any, random: np.random.Generator) -> Any:
    """Real arguments that differ in the last digits."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    return x * (1 + DIGITS * EPSILON * random.uniform(-1, 1, x.shape))


def certify(
    cascade: Cascade,
    examples: int = 20,
    seed: int = 0,
    numbers: Mapping[str, Number] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Certificate, ...]:
    """Tries the operators of a cascade on drawn calls. Wrong, with the smallest call, if one fails."""
    certifier = Certifier(cascade)
    space = Space(cascade, "cpu", {"float64": max(LENGTHS)}, numbers or {}, LENGTHS, VALUES, ("contiguous",))
    if not certifier.operators:
        return ()

    @hypothesis.seed(seed)
    @tries(examples)
    @hypothesis.given(cases(space), st.data())
    def every(case: Case, data: st.DataObject) -> None:
        try:
            call = certifier.call(case)
        except (ValueError, ZeroDivisionError):  # no array fits, or it is Meaningless
            hypothesis.reject()
        certifier(call, lambda length: data.draw(splits(length)))
        tell(f"parts of an index: {certifier.certificates[0].tried} calls tried")

    with suppress(hypothesis.errors.Unsatisfiable):  # no call has a meaning: none is tried
        every()
    return tuple(certifier.certificates)
