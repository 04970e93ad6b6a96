"""Random patterns mean the same after every pass, and as a kernel of many small tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given, settings

from attncc.diagnostics import PatternError
from attncc.ir.verify import verified
from attncc.passes import PASSES
from attncc.pipeline import planned
from attncc.source import Source
from attncc.syntax.parser import parse
from attncc.syntax.printer import show
from tests.passes.meanings import kernel, meant, results, same
from tests.strategies import Drawn, patterns

TILE = 2
"""Rows and columns of a tile, so that few positions make many tiles, and ragged ones."""


def passes_keep_the_meaning(drawn: Drawn) -> None:
    cascade = meant(drawn.text)
    wanted = results(cascade, drawn.values)
    for place, rewrite in enumerate(PASSES):
        cascade = verified(rewrite(cascade))
        try:
            same(results(cascade, drawn.values), wanted)
        except AssertionError as wrong:
            raise AssertionError(f"after {rewrite.__name__}, pass {place}: {wrong}") from None


def kernel_gives(drawn: Drawn) -> None:
    cascade = meant(drawn.text)
    try:
        found = kernel(drawn.text, drawn.values, TILE)
    except PatternError as refused:
        event(f"refused: {refused.diagnostics[0].code}")
        return
    event("planned")
    same(found, results(cascade, drawn.values))


@given(patterns())
@settings(max_examples=200)
def test_passes_keep_the_meaning(drawn: Drawn) -> None:
    passes_keep_the_meaning(drawn)


@given(patterns(plain=True))
@settings(max_examples=80)
def test_a_kernel_gives_the_meaning(drawn: Drawn) -> None:
    kernel_gives(drawn)


CONSTANTS = """pattern constants(Q[q,d], K[k,d]) -> D[q]:
    along q, k
    s[q,k] = sum(d) Q[q,d] * K[k,d]
    D[q] = max(k) (if s[q,k] > 0 then 0.3 else 1.1)
"""


def test_constants_are_exact() -> None:
    values = {"Q": np.ones((3, 2)), "K": np.ones((4, 2))}
    same(kernel(CONSTANTS, values, TILE), results(meant(CONSTANTS), values))


MOMENTS = {
    "entropy": "P[q,k] = softmax(k where k <= q) s[q,k]\n"
    "    D[q] = -sum(k where k <= q) P[q,k] * log(P[q,k])",
    "variance": "m[q] = mean(k where k <= q) s[q,k]\n"
    "    D[q] = mean(k where k <= q) (s[q,k] - m[q]) * (s[q,k] - m[q])",
    "skewness": "m[q] = mean(k) s[q,k]\n"
    "    u[q] = mean(k) (s[q,k] - m[q]) * (s[q,k] - m[q])\n"
    "    D[q] = (mean(k) (s[q,k] - m[q]) * (s[q,k] - m[q]) * (s[q,k] - m[q])) / (u[q] * sqrt(u[q]) + 0.001)",
    "cosine": "m[q] = mean(k where k <= q) s[q,k]\n"
    "    D[q] = sum(k where k <= q) (s[q,k] - m[q]) * cos(s[q,k] - m[q])",
    "hyperbolic cosine": "m[q] = mean(k where k <= q) s[q,k]\n"
    "    D[q] = sum(k where k <= q) (exp(s[q,k] - m[q]) + exp(m[q] - s[q,k])) / 2",
    "weighted moment": "m[q] = max(k where q - k < 3) s[q,k]\n"
    "    D[q] = sum(k where q - k < 3) exp(s[q,k] - m[q]) * (s[q,k] - m[q]) * (s[q,k] - m[q])",
}


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_in_one_pass(name: str, offset: float) -> None:
    """Sums that move with companions, also far from 0: in float64 to 1e-12 of the terms they are made of."""
    text = (
        "pattern moments(Q[q,d], K[k,d]) -> D[q]:\n    align q to k\n"
        f"    s[q,k] = sum(d) Q[q,d] * K[k,d]\n    {MOMENTS[name]}\n"
    )
    random = np.random.default_rng(0)
    values = {"Q": random.normal(size=(9, 2)), "K": random.normal(size=(13, 2))}
    values["Q"][:, 0], values["K"][:, 0] = offset, 1.0
    (found,) = kernel(text, values, TILE).values()
    (wanted,) = results(meant(text), values).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * max(1.0, offset))


EXTREMES = {
    "the greatest weight": "D[q] = max(k where k <= q) softmax(k where k <= q) s[q,k]",
    "the least weight": "D[q] = min(k where k <= q) softmax(k where k <= q) s[q,k]",
    "the greatest part": "P[q,k] = softmax(k where k <= q) s[q,k]\n"
    "    D[q] = max(k where k <= q) P[q,k] * K[k,0]",
    "over a length": "r[q] = sqrt(sum(k where k <= q) s[q,k] * s[q,k])\n"
    "    D[q] = max(k where k <= q) s[q,k] / r[q]",
    "over a sum that may be 0": "r[q] = sum(k where k <= q) relu(s[q,k])\n    D[q] = max(k) s[q,k] / r[q]",
}
"""Extremes of terms with a factor that is still changing."""


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("keys", [13, 5])
def test_extremes_in_one_pass(name: str, size: float, keys: int) -> None:
    """Also where rows see nothing, and where scores are large."""
    text = (
        "pattern extremes(Q[q,d], K[k,d]) -> D[q]:\n    align q to k\n"
        f"    s[q,k] = sum(d) Q[q,d] * K[k,d]\n    {EXTREMES[name]}\n"
    )
    random = np.random.default_rng(0)
    values = {"Q": size * random.normal(size=(9, 2)), "K": random.normal(size=(keys, 2))}
    (plan,) = planned(meant(text), Source("", text)).kernels
    assert len(plan.loops) == 1
    same(kernel(text, values, TILE), results(meant(text), values))


SEVERAL = {
    "above the mean": "m[q] = mean(k where k <= q) s[q,k]\n"
    "    D[q] = sum(k where k <= q) relu(s[q,k] - m[q]) * K[k,0]",
    "a softmax of a softmax": "P[q,k] = softmax(k where k <= q) s[q,k]\n"
    "    D[q] = sum(k) (softmax(k where k <= q and q - k < 4) (3 * P[q,k])) * K[k,0]",
    "near the maximum": "m[q] = max(k) s[q,k]\n"
    "    D[q] = sum(k) (softmax(k where s[q,k] > m[q] - 1) s[q,k]) * K[k,0]",
    "the spread above the mean": "m[q] = mean(k) s[q,k]\n"
    "    D[q] = sum(k where s[q,k] >= m[q]) (s[q,k] - m[q]) * (s[q,k] - m[q])",
    "by what is seen": "n[q] = log(sum(k where k <= q) 1)\n"
    "    D[q] = sum(k where k <= q) sigmoid(s[q,k] - n[q]) * K[k,0]",
    "three times": "m[q] = mean(k) s[q,k]\n"
    "    u[q] = sum(k) relu(s[q,k] - m[q])\n"
    "    D[q] = sum(k) relu(s[q,k] - u[q] / 8) * K[k,0]",
    "a row between": "m[q] = sum(k where k <= q) relu(s[q,k])\n"
    "    t[q] = m[q] / (1 + m[q])\n"
    "    D[q] = sum(k where q - k < 3) (softmax(k where q - k < 3) (s[q,k] * t[q])) * K[k,0] + t[q]",
    "what rides with a sum over features": "m[q] = mean(k) s[q,k]\n"
    "    z[q,k] = sum(d) relu(Q[q,d] * K[k,d] - m[q])\n"
    "    D[q] = sum(k) z[q,k] * exp(s[q,k] - max(k) s[q,k])",
}
"""What cannot be followed while it changes, and takes another pass."""


@pytest.mark.parametrize("name", SEVERAL)
def test_several_passes(name: str) -> None:
    text = (
        "pattern several(Q[q,d], K[k,d]) -> D[q]:\n    align q to k\n"
        f"    s[q,k] = sum(d) Q[q,d] * K[k,d]\n    {SEVERAL[name]}\n"
    )
    random = np.random.default_rng(0)
    values = {"Q": random.normal(size=(9, 2)), "K": random.normal(size=(13, 2))}
    kernels = planned(meant(text), Source("", text)).kernels
    walks = [loop.index.name for found in kernels for loop in found.loops]
    assert walks == ["k"] * (3 if name == "three times" else 2)
    same(kernel(text, values, TILE), results(meant(text), values))


def test_locals_of_like_names() -> None:
    """A second `exp_a_seen` and the first exponential of a second `a_seen` are two tiles."""
    text = (
        "pattern like(Q[q,d], K[k,d], V[k,e]) -> F[q,e], G[q,e]:\n    along q, k\n"
        "    s[q,k] = 2 * tanh(sum(d) Q[q,d] * K[k,d])\n"
        "    P[q,k] = softmax(k where Q[q,0] > 0) s[q,k]\n"
        "    F[q,e] = sum(k where q < 9) P[q,k] * V[k,e]\n"
        "    G[q,e] = (sum(k where q % 2 == 0) 0.5 ** s[q,k] * V[k,e]) "
        "/ sum(k where q % 2 == 0) 0.5 ** s[q,k]\n"
    )
    random = np.random.default_rng(0)
    shapes = {"Q": (3, 2), "K": (5, 2), "V": (5, 2)}
    values = {name: random.normal(size=shape) for name, shape in shapes.items()}
    same(kernel(text, values, TILE), results(meant(text), values))


@given(patterns())
@settings(max_examples=100)
def test_what_is_drawn_is_read_back(drawn: Drawn) -> None:
    file = parse(Source("test.attn", drawn.text))
    assert file == drawn.file
    assert show(file) == drawn.text


@pytest.mark.nightly
@given(patterns())
@settings(max_examples=2000, derandomize=False)
def test_passes_keep_the_meaning_of_many(drawn: Drawn) -> None:
    passes_keep_the_meaning(drawn)


@pytest.mark.nightly
@given(patterns(plain=True))
@settings(max_examples=2000, derandomize=False)
def test_kernels_give_the_meaning_of_many(drawn: Drawn) -> None:
    kernel_gives(drawn)
