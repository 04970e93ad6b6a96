"""A call → the gradients of its real inputs, by a pattern's kernels as by its dense reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade
from attncc.ir.evaluate import evaluate, outputs
from attncc.passes.adjoint import differentiable
from attncc.pipeline import generate, meaning, streamed, trained
from attncc.runtime.module import load
from attncc.runtime.target import target_of
from attncc.schedule.spec import KINDS, Specialisation
from attncc.schedule.tiles import Tile
from attncc.schedule.training import Training
from attncc.source import Source
from attncc.verify.compared import Compared, Function, Given, doubled
from attncc.verify.sizes import terms


class Trained:
    """A pattern as a function that torch differentiates: from its arguments by name to all of its outputs.

    A module is generated for every backend, target, element type and set of feature extents that calls have;
    `modules` holds them by that. PatternError where a pattern has no kernels of its gradients.
    """

    def __init__(
        self,
        source: Source,
        asked: tuple[str, ...] = (),
        backend: str | None = None,
        tile: Tile | None = None,
    ):
        self.source, self.backend, self.tile = source, backend, tile
        self.cascade = meaning(source, asked)
        self.wrt = differentiable(self.cascade)
        self.modules: dict[Specialisation, Any] = {}

    def __call__(self, given: Given) -> tuple[Tensor, ...]:
        module = self.module(given)
        function = getattr(module, Words(frozenset()).function(self.cascade.name))
        return called(function, self.cascade, given)

    @cached_property
    def training(self) -> Training:
        """Its forward and backward pass. Refused where there is none."""
        return trained(self.cascade)

    def module(self, given: Given) -> Any:
        """The module that a call runs."""
        spec = self._specialisation(given)
        if spec not in self.modules:
            text = generate(self.cascade, self.source, spec, None)
            self.modules[spec] = load(text, self.cascade.name)
        return self.modules[spec]

    def _specialisation(self, given: Given) -> Specialisation:
        backend, target = target_of(self.backend, [given.get(t.name) for t in self.cascade.inputs])
        if backend == "torch":
            return Specialisation(backend, target, KINDS[backend], ((),), self.tile)
        sizes: dict[str, int] = {}
        for t in self.cascade.inputs:
            for i, size in zip(t.indices, getattr(given.get(t.name), "shape", ()), strict=False):
                if i.role == "feature":
                    sizes[i.name] = int(size)
        kind = str(given[self.wrt[0]].dtype)[6:]
        return Specialisation(backend, target, (kind,), (tuple(sorted(sizes.items())),), self.tile)


def called(function: Callable[..., Any], cascade: Cascade, given: Given) -> tuple[Tensor, ...]:
    """The outputs of a generated function, whose parameters are the inputs of a pattern in order."""
    parameters = zip(inspect.signature(function).parameters, cascade.inputs, strict=True)
    out = function(**{p: given[t.name] for p, t in parameters if t.name in given})
    return out if isinstance(out, tuple) else (out,)


def weights(exact: Sequence[Tensor], kind: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """What reaches every real output: standard normal numbers of an element type, 0 where the exact output
    is not finite.
    """
    made = []
    for n, x in enumerate(exact):
        source = torch.Generator().manual_seed(seed * 100 + n)
        drawn = torch.randn(x.shape, generator=source, dtype=torch.float64).to(kind).to(x.device)
        if x.is_floating_point():
            made.append(torch.where(x.isfinite(), drawn, 0))
    return tuple(made)


def gradients(
    function: Function, given: Given, wrt: Sequence[str], reach: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients of the inputs `wrt`, where `reach` is what reaches every real output; of an input that
    no output depends on, 0.
    """
    leaves = {n: x.detach().requires_grad_() if n in wrt else x for n, x in given.items()}
    with torch.enable_grad():
        real = [x for x in function(leaves) if x.is_floating_point()]
    pairs = [(x, w.to(x.dtype)) for x, w in zip(real, reach, strict=True) if x.requires_grad]
    inputs = [leaves[n] for n in wrt]
    if not pairs:
        return tuple(map(torch.zeros_like, inputs))
    found = torch.autograd.grad([x for x, _ in pairs], inputs, [w for _, w in pairs], allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))


def magnitudes(training: Training, given: Given, reach: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """For every gradient the sizes of the terms that it sums, in float64; 0 where there is no number."""
    inputs = {n: x.detach().cpu().numpy() if isinstance(x, Tensor) else x for n, x in given.items()}
    forward = training.forward
    made = outputs(forward, evaluate(forward, inputs))
    results = {t.name: x for t, x in zip(forward.outputs, made, strict=True)}
    saved = {t.name: results[t.name] for t in training.saved}
    reached = {t.name: w.double().cpu().numpy() for t, w in zip(training.given, reach, strict=True)}
    wanted = {t.name for t in training.backward.inputs}
    values = {n: x for n, x in {**inputs, **saved, **reached}.items() if n in wanted}
    sizes = (np.where(np.isfinite(x), x, 0.0) for x in terms(streamed(training.backward), values))
    return tuple(torch.from_numpy(x).to(reach[0].device) for x in sizes)


def slopes(
    trained: Trained, reference: Function, given: Given, kind: torch.dtype, seed: int, exact: Sequence[Tensor]
) -> Compared:
    """The gradients of a call by both, where random numbers reach the outputs, whose `exact` values say which
    of their elements are finite.
    """
    reach = weights(exact, kind, seed)
    inputs = {t.name: t for t in trained.cascade.inputs}
    defaults = dict(trained.cascade.defaults)
    return Compared(
        tuple(replace(inputs[n], name=f"d{n}") for n in trained.wrt),
        lambda given: gradients(trained, given, trained.wrt, reach),
        lambda given: gradients(reference, given, trained.wrt, reach),
        kind,
        lambda: magnitudes(trained.training, {**defaults, **doubled(given)}, reach),
    )
