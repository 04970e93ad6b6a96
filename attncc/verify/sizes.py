"""Values → how far apart they are next to what they are made of, and where a dense meaning is to be trusted.

A sum of large terms that cancel is as good as its largest term is: its size is the sum of the magnitudes of
its terms, and that of `a - b` is `|a| + |b|`, down to the tensors that it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    number,
    reads,
)
from attncc.ir.evaluate import evaluate, outputs
from attncc.passes.expand import expand
from attncc.passes.exponents import exponents
from attncc.passes.share import share
from attncc.passes.simplify import simplify
from attncc.verify.parts import reading, valued

Array = NDArray[Any]

STEEPEST = 300.0
"""exp of up to this, and its square, are numbers in float64, as is what divides by them."""


def off(found: Array, wanted: Array, size: Array) -> float:
    """How far apart two arrays are, next to a size; what is not finite is equal or not."""
    finite = np.isfinite(wanted)
    if found.dtype.kind != "f" or not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return 0.0 if np.array_equal(found, wanted, equal_nan=True) else np.inf
    with np.errstate(all="ignore"):
        error = np.abs(found - wanted)[finite]
        error = np.where(error == 0, 0, error / size[finite])
    return float(np.max(np.nan_to_num(error, nan=np.inf, posinf=np.inf), initial=0.0))


def sizes(cascade: Cascade, tensors: Iterable[Tensor], known: Mapping[str, Any]) -> dict[str, Array]:
    """The size of every element of some tensors, whose values are `known`."""
    made = {t.name: np.abs(known[t.name]) for t in tensors}
    real = [cascade.equation(name) for name in made if cascade.equation(name).tensor.kind == "float"]
    of = tuple(Equation(replace(e.tensor, name=f"{e.tensor.name} in size"), magnitude(e.body)) for e in real)
    found = valued(reading(cascade, of), known)
    for e in real:
        x, size = made[e.tensor.name], found[f"{e.tensor.name} in size"]
        made[e.tensor.name] = np.where(np.isfinite(size), np.maximum(x, size), x)
    return made


def terms(cascade: Cascade, values: Mapping[str, Any]) -> tuple[Array, ...]:
    """The size of every element of the outputs of a cascade of sums, down to its inputs."""
    real = {e.tensor: replace(e.tensor, name=f"{e.tensor.name} in size") for e in cascade.equations}
    real = {t: size for t, size in real.items() if t.kind == "float"}
    made = (Equation(real[e.tensor], magnitude(e.body, real)) for e in cascade.equations if e.tensor in real)
    named = {t.name: size for t, size in real.items()}
    gives = tuple(replace(t, name=named[t.name].name) for t in cascade.outputs)
    sized = replace(cascade, equations=(*cascade.equations, *made), outputs=gives)
    return outputs(sized, evaluate(sized, values))


def magnitude(e: Expr, known: Mapping[Tensor, Tensor] | None = None) -> Expr:
    """The magnitudes of what an expression adds up; where those of tensors are `known`, as other tensors,
    also how far an exponential moves by what it is taken of.
    """
    of = partial(magnitude, known=known)
    match e:
        case Apply("+" | "-", (a, b)):
            return Apply("+", (of(a), of(b)))
        case Apply("*" | "/" as op, (a, b)):
            return Apply(op, (of(a), of(b) if op == "*" else Apply("abs", (b,))))
        case Apply("neg", (a,)):
            return of(a)
        case Apply("log", (a,)):  # it moves by what its argument does, next to that
            return Apply("+", (Apply("abs", (e,)), Apply("/", (of(a), Apply("abs", (a,))))))
        case Choose(condition, then, other):
            return Choose(condition, of(then), of(other))
        case Reduce("sum"):
            return replace(e, body=of(e.body))
        case Reduce("max" | "min") if kind(e) == "float":
            return replace(e, op="max", body=of(e.body))
        case Read(tensor, at) if known is not None and tensor in known:
            return Read(known[tensor], at)
        case Apply("exp", (a,)) if known is not None:
            return Apply("*", (e, Apply("+", (number(1.0), of(a)))))
        case _:
            return Apply("abs", (e,))


def steep(cascade: Cascade) -> Cascade:
    """The exponents of a dense meaning that are not known to be at most 0, as equations."""
    apart = share(simplify(expand(cascade)))
    there = {t.name for t in apart.inputs} | {e.tensor.name for e in apart.equations}
    raised = [x.value for x in exponents(apart) if not x.bounded]
    known = [x for x in dict.fromkeys(raised) if all(r.tensor.name in there for r in reads(x))]
    made = tuple(
        Equation(Tensor(f"exponent {n}", tuple(sorted(free(x), key=str)), "float", "equation"), x)
        for n, x in enumerate(known)
    )
    return replace(apart, equations=(*apart.equations, *made))


def trusted(steep: Cascade, values: Mapping[str, Any]) -> bool:
    """Whether the dense meaning of a call is a matter of numbers that float64 has."""
    found = valued(steep, values)
    tops = (found[e.tensor.name] for e in steep.equations if e.tensor.name.startswith("exponent "))
    return all(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)) <= STEEPEST for x in tops)
