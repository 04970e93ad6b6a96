"""States over some keys → the state over all of them, as the updaters of a cascade have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from attncc.ir.cascade import Cascade, Equation, Expr, Literal, Reduce, Tensor, reads
from attncc.ir.evaluate import evaluate
from attncc.passes.online import before, updaters
from tests.passes.meanings import Array


def states(cascade: Cascade) -> list[Equation]:
    return [e for e in cascade.equations if isinstance(e.body, Reduce)]


def told(e: Expr, over: Tensor, known: Mapping[str, Array]) -> Array:
    """The value of a formula over a tensor's indices, of tensors that are known by name."""
    if isinstance(e, Literal):
        return np.asarray(float(e.value))
    inputs = {r.tensor.name: replace(r.tensor, origin="input") for r in reads(e)}
    told = Tensor("told", over.indices, "float", "equation")
    one = Cascade("one", "", tuple(inputs.values()), (), (), (Equation(told, e),), (told,))
    return evaluate(one, {name: known[name] for name in inputs})["told"]


def merged(cascade: Cascade, parts: list[Mapping[str, Array]]) -> dict[str, Array]:
    """Every state over all keys from those over some: each corrected to what it follows, then joined."""
    whole: dict[str, Array] = {}
    found = updaters(cascade)
    for equation in states(cascade):
        assert isinstance(equation.body, Reduce)
        name, updater = equation.tensor.name, found.get(equation.tensor.name)
        joined = []
        for part in parts:
            here = part[name]
            if updater is not None:
                old = {before(t).name: part[t.name] for t in updater.follows}
                correction = told(updater.correction, equation.tensor, whole | old)
                others = [
                    part[t.name] * told(weight, equation.tensor, whole | old)
                    for t, weight in updater.companions
                ]
                shift = told(updater.shift, equation.tensor, whole | old)
                with np.errstate(invalid="ignore"):
                    moved = sum(others, here * correction) + shift
                # what follows nothing yet is nothing, and stays it
                here = moved if equation.body.op == "sum" else np.where(np.isinf(here), here, moved)
            joined.append(here)
        fold = {"sum": np.sum, "max": np.max, "min": np.min}[equation.body.op]
        whole[name] = fold(np.stack(joined), axis=0)
    return whole
