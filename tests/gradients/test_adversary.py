"""Patterns written to break gradients, next to those of the reference in float64: rows that see nothing,
powers of 0, ties, what is read backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from attncc.diagnostics import PatternError
from attncc.pipeline import differentiated, generate, meaning
from attncc.runtime.module import load
from attncc.schedule.spec import Specialisation
from attncc.source import Source

Tensors = dict[str, torch.Tensor]

EXTENTS = {"b": 2, "h": 4, "d": 6, "e": 5}
LENGTHS = ((37, 53), (53, 37), (1, 20), (130, 70))
SCORES = "S[q,k] = sum(d) Q[q,d] * K[k,d]"
WEIGHTS = "P[q,k] = softmax(k where k <= q) S[q,k]"
VALUES = "O[q,e] = sum(k) P[q,k] * V[k,e]"


@dataclass(frozen=True)
class Broken:
    """One pattern, but for its name: its equations, what it is given besides, and what is put in place."""

    equations: tuple[str, ...]
    more: str = ""
    outputs: str = "O[b,h,q,e]"
    numbers: dict[str, int] = field(default_factory=dict)
    put: Callable[[Tensors], object] = lambda given: None

    @property
    def source(self) -> Source:
        inputs = ", ".join(p for p in ("Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]", self.more) if p)
        lines = ("over b, h", "align q to k", *self.equations)
        said = "".join(f"    {line}\n" for line in lines)
        return Source("broken.attn", f"pattern broken({inputs}) -> {self.outputs}:\n{said}")


BROKEN = {
    # rows that see nothing: the logarithm of what they see is -inf
    "entropy": Broken(
        (SCORES, WEIGHTS, VALUES, "H[q] = -sum(k where k <= q) P[q,k] * log(P[q,k])"),
        outputs="O[b,h,q,e], H[b,h,q]",
    ),
    "logarithm of one": Broken(
        (SCORES, WEIGHTS, "O[q,e] = sum(k where k <= q) P[q,k] * log(P[q,k]) * V[k,e]"),
    ),
    "squared": Broken(
        (SCORES, WEIGHTS, "H[q] = sum(k where k <= q) P[q,k] * log(P[q,k]) ** 2"), outputs="H[b,h,q]"
    ),
    "beside another term": Broken(
        (
            SCORES,
            WEIGHTS,
            "H[q] = sum(k where k <= q) P[q,k] * (S[q,k] - (logsumexp(k where k <= q) S[q,k]) - 1)",
        ),
        outputs="H[b,h,q]",
    ),
    # what is no number outside the set, in an exponent, beside an exponential
    "distance in an exponent": Broken((f"{SCORES} - t * log(1 + q - k)", WEIGHTS, VALUES), "t[h]"),
    "root of a distance": Broken((f"{SCORES} - t * sqrt(q - k)", WEIGHTS, VALUES), "t[h]"),
    "divided by a distance": Broken((f"{SCORES} + t / (1 + q - k)", WEIGHTS, VALUES), "t[h]"),
    "distance beside weights": Broken(
        (SCORES, WEIGHTS, "O[q,e] = sum(k where k <= q) P[q,k] * log(1 + t * (q - k)) * V[k,e]"),
        "t[h]",
        put=lambda given: given["t"].abs_(),
    ),
    # powers of 0
    "power 0": Broken(
        ("S[q,k] = (sum(d) Q[q,d] * K[k,d]) ** n", WEIGHTS, VALUES),
        "n: int",
        numbers={"n": 0},
        put=lambda given: [given[n].round_() for n in "QK"],
    ),
    "decay of 0": Broken(
        (SCORES, "O[q,e] = sum(k where k <= q) S[q,k] * decay ** (q - k) * V[k,e]"),
        "decay[h]",
        put=lambda given: given["decay"].zero_(),
    ),
    # ties: with a number, with one of many
    "clamped": Broken(
        ("S[q,k] = min(max(sum(d) Q[q,d] * K[k,d], -n), n)", WEIGHTS, VALUES),
        "n: int",
        numbers={"n": 2},
        put=lambda given: [given[n].round_() for n in "QK"],
    ),
    "limits": Broken(
        ("S[q,k] = min(max(sum(d) Q[q,d] * K[k,d], -c), c)", WEIGHTS, VALUES),
        "c[h]",
        put=lambda given: [given[n].round_() for n in "QKc"],
    ),
    # a sum over columns of what depends on row, column and feature at once
    "distances": Broken(("S[q,k] = -(sum(d) abs(Q[q,d] - K[k,d]))", WEIGHTS, VALUES)),
    # what is read backward
    "features": Broken(("S[q,k] = sum(d) Q[q,d] * K[k, |d| - 1 - d]", WEIGHTS, VALUES)),
    # means of two, each counted at its own rows
    "two norms": Broken(
        (
            "A[q,d] = layernorm(d, eps = 1e-6) Q[q,d]",
            "B[k,d] = layernorm(d, eps = 1e-6) K[k,d]",
            "S[q,k] = sum(d) A[q,d] * B[k,d]",
            WEIGHTS,
            VALUES,
        ),
        put=lambda given: given["Q"][:, :, :1].zero_(),
    ),
}

REFUSED = {
    "sums over sums": (
        Broken(
            ("align j to k", "c[k] = sum(j where j <= k) g[j]", f"{SCORES} + c[k]", WEIGHTS, VALUES),
            "g[b,h,k]",
        ),
        "plan-position",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_a_gradient(name: str) -> None:
    broken, code = REFUSED[name]
    spec = Specialisation("torch", "cpu", ("float64",), ((),))
    with pytest.raises(PatternError) as refused:
        generate(meaning(broken.source), broken.source, spec, None)
    (found,) = refused.value.diagnostics
    assert found.code == code and found.message.endswith("(a gradient)")


@pytest.mark.parametrize("name", BROKEN)
def test_exact(name: str) -> None:
    broken = BROKEN[name]
    cascade = meaning(broken.source)
    spec = Specialisation("torch", "cpu", ("float64",), ((),))
    made = load(generate(cascade, broken.source, spec, None), f"broken_{name.replace(' ', '_')}")
    for queries, keys in LENGTHS:
        generator = torch.Generator().manual_seed(0)
        extents = {**EXTENTS, "q": queries, "k": keys}
        given = {
            t.name: torch.randn(
                [extents[i.name] for i in t.indices], generator=generator, dtype=torch.float64
            )
            for t in cascade.inputs
            if t.loaded
        }
        broken.put(given)
        wanted = slopes(made.reference, given, broken.numbers)
        for of, x, y in zip(given, slopes(made.broken, given, broken.numbers), wanted, strict=True):
            exactly = torch.zeros_like(x) if y is None else y
            off = float((x - exactly).abs().max() / exactly.abs().max().clamp(min=1e-3))
            assert off <= 1e-9, (of, queries, keys, off)


def slopes(
    function: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]], given: Tensors, numbers: dict[str, int]
) -> tuple[torch.Tensor, ...]:
    """The gradients of all outputs, where they are numbers, in all tensors; the same numbers reach them."""
    leaves = {n: x.clone().requires_grad_() for n, x in given.items()}
    made = function(**leaves, **numbers)
    outputs = made if isinstance(made, tuple) else (made,)
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in outputs]
    reach = [torch.where(x.isfinite(), w, 0) for x, w in zip(outputs, drawn, strict=True)]
    return torch.autograd.grad(outputs, list(leaves.values()), reach, allow_unused=True)


@pytest.mark.parametrize(("name", "code"), [("gla", "plan-recurrence"), ("moba", "plan-selection")])
def test_no_kernels_at_all(name: str, code: str, root: Path) -> None:
    source = Source.read(root / "patterns" / f"{name}.attn")
    with pytest.raises(PatternError) as refused:
        differentiated(meaning(source), source, ("Q",))
    assert [d.code for d in refused.value.diagnostics] == [code]
