"""Patterns that torch's compilers are tried on, and calls of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import attncc
from tests.shapes import Shape, arguments

PATTERNS = Path(__file__).parents[2] / "patterns"

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

DOCUMENTS = """
pattern documents(
    Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], doc[b,k]: int, keep[k]: bool,
    near: int, cap: float = 5, strict: bool = true
) -> O[b,h,q,e], lse[b,h,q]:
    over b, h
    align q to k
    S[q,k] = cap * tanh(sum(d) Q[q,d] * K[k,d] / cap)
    P[q,k] = softmax(k where k <= q and keep[k] and (doc[k] == doc[q] or q - k < near or not strict)) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    lse[q] = logsumexp(k where k <= q and keep[k] and (doc[k] == doc[q] or q - k < near or not strict)) S[q,k]
"""

NUMBERS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": 9},
    "streaming": {"window": 9, "sinks": 2},
    "alibi": {},
    "sigmoid": {"bias": -3.0},
    "documents": {"near": 4, "cap": 3.5, "strict": True},
}
"""A mask, integers, a table of real numbers, a number without a default; in the last, every kind at once."""


def pattern(name: str, backend: str | None = None) -> attncc.Attention:
    """One of `NUMBERS`, made anew."""
    if name == "documents":
        return attncc.compile(DOCUMENTS, backend)
    return attncc.load(PATTERNS / f"{name}.attn", backend)


@functools.cache
def shared(name: str, backend: str | None = None) -> attncc.Attention:
    """The same, with what other tests had it generate."""
    return pattern(name, backend)


def given(
    attend: attncc.Attention,
    length: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    turned: bool = False,
    features: int = 0,
) -> dict[str, Any]:
    """Arguments of a call with `length` rows and three columns more; `turned` ones are not contiguous."""
    d, e = (features, features) if features else (16, 24)
    shape = Shape(2, 4, 2, length, length + 3, d, e, NUMBERS.get(attend.__name__, {}))
    made = arguments(attend.cascade, shape, dtype, device)
    if "doc" in made:
        made["doc"] = torch.arange(length + 3, device=device).expand(2, -1) // 7
        made["keep"] = torch.arange(length + 3, device=device) % 5 != 1
    if turned:
        for name, x in made.items():
            if torch.is_tensor(x) and x.dim() == 4:
                made[name] = x.transpose(1, 2).contiguous().transpose(1, 2)
    return made


def tracked(
    attend: attncc.Attention,
    length: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    features: int = 0,
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Arguments of which all real ones require grad, and these."""
    torch.manual_seed(length)
    call = given(attend, length, device, dtype, features=features)
    floats = [x.requires_grad_() for x in call.values() if torch.is_tensor(x) and x.is_floating_point()]
    return call, floats


class Counter:
    """A compiler that counts what it is given, and then lets AOTAutograd trace it."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        self.graphs.append(graph)
        return aot_eager(graph, examples)

    def calls(self, op: Any) -> int:
        """How often an operator stands in the graphs."""
        return sum(node.target is op for graph in self.graphs for node in graph.graph.nodes)
