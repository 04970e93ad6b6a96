"""Patterns in which tensors are shared: by batched indices, rows, columns, places of both. Each has a
name, inputs of its own, and its own way to write a score, weights or an output.

`python -m tests.gradients.shared NAME...` runs Triton kernels through the interpreter, one line a pattern.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

PLAIN = "sum(d) Q[q,d] * K[k,d] / sqrt(|d|)"
CLAMPED = "clamp(k - q, 1 - |r|, 0) + |r| - 1"
HEADS = "over b, h"
GROUPS = "over b, h with g = h // (|h| // |g|)"
ALONE = "Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]"
GROUPED = "Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]"


@dataclass(frozen=True)
class Shared:
    """One pattern, but for its name."""

    more: str = ""
    score: str = PLAIN
    weights: str = "softmax(k) S[q,k]"
    output: str = "sum(k) P[q,k] * V[k,e]"
    given: str = ALONE
    over: str = HEADS
    outputs: str = "O[b,h,q,e]"

    @property
    def text(self) -> str:
        inputs = ", ".join(part for part in (self.given, self.more) if part)
        return (
            f"pattern shared({inputs}) -> {self.outputs}:\n    {self.over}\n    align q to k\n"
            f"    S[q,k] = {self.score}\n    P[q,k] = {self.weights}\n    O[q,e] = {self.output}\n"
        )


CAUSAL = "softmax(k where k <= q) S[q,k]"

SHARED = {
    # by the batch, at every row and column
    "bias_hqk": Shared("bias[h,q,k]", f"{PLAIN} + bias[h,q,k]"),
    "bias_qk": Shared("bias[q,k]", f"{PLAIN} + bias[q,k]", CAUSAL),
    "bias_bqk": Shared("bias[b,q,k]", f"{PLAIN} * bias[b,q,k]"),
    "bias_of_groups": Shared("bias[b,g,q,k]", f"{PLAIN} + bias[g,q,k]", given=GROUPED, over=GROUPS),
    # by the batch, at every row or every column
    "queries": Shared("", f"{PLAIN}", given="Q[h,q,d], K[b,h,k,d], V[b,h,k,e]"),
    "keys": Shared("", f"{PLAIN}", CAUSAL, given="Q[b,h,q,d], K[h,k,d], V[b,h,k,e]"),
    "values": Shared("", f"{PLAIN}", given="Q[b,h,q,d], K[b,h,k,d], V[k,e]"),
    "positions": Shared("", f"{PLAIN}", CAUSAL, given="Q[h,q,d], K[h,k,d], V[b,h,k,e]"),
    "column": Shared("pos[k]", f"{PLAIN} + pos[k]"),
    "row": Shared("pos[q]", f"{PLAIN} * pos[q]"),
    "row_of_head": Shared("pos[h,q]", f"{PLAIN} * pos[h,q]", CAUSAL),
    "gate": Shared("gate[b,k]", f"{PLAIN} * gate[b,k]"),
    "gate_of_groups": Shared("gate[b,g,q]", f"{PLAIN} * gate[g,q]", given=GROUPED, over=GROUPS),
    "added": Shared("A[q,d]", "sum(d) (Q[q,d] + A[q,d]) * K[k,d] / sqrt(|d|)"),
    "two_scales": Shared("A[q,d], B[b,q,d]", "sum(d) Q[q,d] * A[q,d] * B[b,q,d] * K[k,d] / sqrt(|d|)"),
    "two_rows": Shared("A[h,q], B[b,q]", "sum(d) Q[q,d] * tanh(A[h,q] * B[b,q]) * K[k,d] / sqrt(|d|)"),
    "gated_output": Shared("G[q,e], H[q]", output="G[q,e] * sigmoid(H[q]) * (sum(k) P[q,k] * V[k,e])"),
    # without a position
    "temperature": Shared("T[]", f"{PLAIN} * T"),
    "temperature_of_head": Shared("T[h]", f"{PLAIN} / T[h]"),
    "feature": Shared("w[d]", "sum(d) Q[q,d] * w[d] * K[k,d] / sqrt(|d|)"),
    "feature_of_head": Shared("w[h,d]", "sum(d) (Q[q,d] + w[h,d]) * K[k,d] / sqrt(|d|)"),
    "feature_of_values": Shared("w[e]", output="sum(k) P[q,k] * (V[k,e] * w[e])"),
    "one_place": Shared("c[h,r]", f"{PLAIN} + c[h, 2] * k"),
    "unused": Shared("c[h,r]"),
    "nothing": Shared("c[h]", f"{PLAIN} + 0.0 * c[h]"),
    # at a place of the row or the column
    "of_column": Shared("rel[h,r], seg[b,k]: int", f"{PLAIN} + rel[h, seg[b,k]]"),
    "of_row": Shared("rel[h,r], seg[b,q]: int", f"{PLAIN} * rel[h, seg[b,q]]"),
    # at a place of the row and the column
    "distance": Shared("rel[h,r]", f"{PLAIN} + rel[h, k - q + |r| // 2]"),
    "clamped": Shared("rel[h,r]", f"{PLAIN} + rel[h, {CLAMPED}]", CAUSAL),
    "of_all_heads": Shared("rel[r]", f"{PLAIN} + rel[clamp(k - q, -3, 3) + 3]"),
    "of_groups": Shared("rel[g,r]", f"{PLAIN} + rel[g, {CLAMPED}]", given=GROUPED, over=GROUPS),
    "divided": Shared("rel[h,r]", f"{PLAIN} + rel[h, min((q - k) // 3, |r| - 1)]", CAUSAL),
    "bucket": Shared("rel[h,r], bucket[q,k]: int", f"{PLAIN} + rel[h, bucket[q,k]]"),
    "bucket_of_batch": Shared("rel[h,r], bucket[b,q,k]: int", f"{PLAIN} + rel[h, bucket[b,q,k]]"),
    "plane": Shared("rel[h,r,s]", f"{PLAIN} + rel[h, k // 4 - q // 4 + |r| // 2, k % 4 - q % 4 + |s| // 2]"),
    "vectors": Shared("E[h,r,d]", f"sum(d) Q[q,d] * (K[k,d] + E[h, {CLAMPED}, d]) / sqrt(|d|)", CAUSAL),
    "vectors_of_keys": Shared(
        "E[r,d], F[r,d]", f"sum(d) Q[q,d] * (K[k,d] + E[{CLAMPED}, d]) + sum(d) K[k,d] * F[{CLAMPED}, d]"
    ),
    "vectors_of_values": Shared(
        "E[r,e]", weights=CAUSAL, output=f"sum(k) P[q,k] * (V[k,e] + E[{CLAMPED}, e])"
    ),
    "sigmoids": Shared("rel[h,r]", f"{PLAIN} + rel[h, {CLAMPED}]", "sigmoid(S[q,k]) / |k|"),
}

EXTENTS = {"b": 2, "h": 4, "g": 2, "d": 8, "e": 16, "r": 9, "s": 7}
LENGTHS = ((37, 150), (130, 130))
SHORT = ((21, 35),)


def arguments(name: str, lengths: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Tensors for a pattern, real ones in float64."""
    from attncc.pipeline import meaning

    extents = {**EXTENTS, "q": lengths[0], "k": lengths[1]}
    cascade = meaning(source(name))
    generator = torch.Generator().manual_seed(0)
    found = {}
    for tensor in cascade.inputs:
        shape = [extents[i.name] for i in tensor.indices]
        if tensor.kind == "int":
            found[tensor.name] = torch.randint(0, extents["r"], shape, generator=generator)
        else:
            found[tensor.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found


def source(name: str) -> Any:
    from attncc.source import Source

    return Source(f"{name}.attn", SHARED[name].text)


def module(name: str, backend: str, target: str, kind: str) -> Any:
    """The generated module, with gradients."""
    from attncc.pipeline import generate, meaning
    from attncc.runtime.module import load
    from attncc.schedule.spec import Specialisation

    cascade = meaning(source(name))
    features = {i.name for t in cascade.inputs for i in t.indices if i.role == "feature"}
    extents = (tuple((f, EXTENTS[f]) for f in sorted(features)),) if backend == "triton" else ((),)
    text = generate(cascade, source(name), Specialisation(backend, target, (kind,), extents), None)
    assert "atomic" not in text
    return load(text, f"{name}_{backend}")


def errors(made: Any, given: dict[str, torch.Tensor], dtype: torch.dtype) -> Iterator[tuple[str, float]]:
    """How far gradients are off those of the reference in float64, by the largest element of each tensor."""
    real = [name for name, x in given.items() if x.is_floating_point()]
    exact = {n: x.clone().requires_grad_() if n in real else x for n, x in given.items()}
    meant = made.reference(**exact)
    reaching = torch.randn(meant.shape, generator=torch.Generator().manual_seed(1), dtype=meant.dtype)
    wanted = torch.autograd.grad(meant, [exact[n] for n in real], reaching, allow_unused=True)
    own = {n: x.to(dtype).requires_grad_() if n in real else x for n, x in given.items()}
    found = torch.autograd.grad(made.shared(**own), [own[n] for n in real], reaching.to(dtype))
    for name, x, y in zip(real, found, wanted, strict=True):
        exactly = torch.zeros_like(given[name]) if y is None else y
        assert x.shape == exactly.shape and x.dtype == dtype, name
        yield name, float((x.double() - exactly).abs().max() / exactly.abs().max().clamp(min=1e-3))


def poisoned(*given: Any, **options: Any) -> torch.Tensor:
    """What is left unwritten is NaN."""
    made: torch.Tensor = MAKE(*given, **options)
    return made.fill_(torch.nan) if made.is_floating_point() else made


MAKE = torch.Tensor.new_empty


def main(names: list[str]) -> None:
    torch.Tensor.new_empty = poisoned  # type: ignore[method-assign]
    for name in names:
        made = module(name, "triton", "cuda:90", "float32")
        for lengths in SHORT:
            for tensor, error in errors(made, arguments(name, lengths), torch.float32):
                print(f"{error:.2e} {name} {tensor}", flush=True)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    main(sys.argv[1:])
