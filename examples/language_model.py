"""A small language model whose layers name patterns: `streaming(window=64, sinks=4), alibi`."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

import attncc

PATTERNS = Path(__file__).parents[1] / "patterns"


class Layer(NamedTuple):
    """A pattern by its name in `patterns/` or by the path of its file, and the numbers it is called with."""

    name: str
    numbers: dict[str, Any]

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self.numbers.items())
        return f"{self.name}({numbers})" if numbers else self.name


def layers(text: str) -> list[Layer]:
    """`streaming(window=64, sinks=4), alibi` -> the layers; numbers left out are the pattern's defaults."""
    calls = re.findall(r"([\w./-]+)(?:\((.*?)\))?", text)
    number = r"(\w+) *= *([^,\s]+)"
    return [
        Layer(name, {key: ast.literal_eval(value) for key, value in re.findall(number, numbers)})
        for name, numbers in calls
    ]


class Attention(nn.Module):
    """Projections around a pattern, which is given what its signature asks for: `doc`, `slope`, numbers."""

    def __init__(self, layer: Layer, width: int, heads: int, groups: int, backend: str | None):
        super().__init__()
        name, self.numbers = layer
        self.attend = attncc.load(name if name.endswith(".attn") else PATTERNS / f"{name}.attn", backend)
        shapes = {t.name: [index.name for index in t.indices] for t in self.attend.cascade.inputs}
        if strange := [x for x in shapes if x not in ("Q", "K", "V", "doc", "slope") and shapes[x]]:
            raise SystemExit(f"{name} takes {', '.join(strange)}, which this model does not have")
        self.packed = "doc" in shapes
        # fewer heads of keys and values where the pattern tells them from those of queries
        groups = heads if "h" in shapes["K"] else groups
        self.size, self.heads = width // heads, (heads, groups, groups)
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads) if "slope" in shapes else None
        self.register_buffer("slopes", slopes)
        # half of what a position offers is of the token before it: no other positions are encoded
        self.before = nn.Parameter(torch.full((width,), 0.5))
        self.project = nn.Linear(width, sum(self.heads) * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, doc: Tensor) -> Tensor:
        """(batch, length, width), (batch, length) -> (batch, length, width)"""
        x = torch.lerp(x, pad(x[:, :-1], (0, 0, 1, 0)), self.before)
        q, k, v = self.project(x).unflatten(-1, (-1, self.size)).transpose(1, 2).split(self.heads, dim=1)
        more = dict(self.numbers)
        if self.packed:
            more["doc"] = doc
        if self.slopes is not None:
            more["slope"] = self.slopes
        return self.out(self.attend(q, k, v, **more).transpose(1, 2).flatten(-2))


class LanguageModel(nn.Module):
    """Embedding; by layer, `x + attention(norm(x))` and `x + mlp(norm(x))`; and the embedding again."""

    def __init__(
        self,
        patterns: Sequence[Layer],
        words: int,
        width: int,
        heads: int,
        groups: int,
        backend: str | None = None,
    ):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.attentions = nn.ModuleList(Attention(p, width, heads, groups, backend) for p in patterns)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in patterns
        )
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * len(patterns) + 1))

    def forward(self, tokens: Tensor, doc: Tensor) -> Tensor:
        """(batch, length), (batch, length) -> (batch, length, words), the logits of the token that follows"""
        x = self.embedding(tokens)
        *norms, last = self.norms
        for n, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(norms[2 * n](x), doc)
            x = x + mlp(norms[2 * n + 1](x))
        return linear(last(x), self.embedding.weight)
