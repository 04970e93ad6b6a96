"""What a kernel may be asked to compute: every function of numbers, positions and tiles; tables; any name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attncc

HEADER = "pattern p({params}) -> {outputs}:\n    over b, h\n    align q to k\n"
TENSORS = "Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]"
SCORE = "    S[q,k] = sum(d) Q[q,d] * K[k,d] / |d|\n"

NUMBERS = "c[h], n: int = 3, x: float = 0.75, f: bool = true"
WEIGHTS = [
    # functions of a tile of scores
    "tanh(S[q,k])", "sigmoid(S[q,k])", "softplus(S[q,k])", "silu(S[q,k])", "relu(S[q,k])", "abs(S[q,k])",
    "floor(3 * S[q,k])", "round(3 * S[q,k])", "sign(S[q,k])", "sin(S[q,k])", "cos(S[q,k])", "exp(S[q,k])",
    "log(abs(S[q,k]) + 1)", "sqrt(abs(S[q,k]))", "S[q,k] ** 3", "abs(S[q,k]) ** 0.5", "2 ** S[q,k]",
    "min(S[q,k], 0.1)", "max(S[q,k], x)", "max(S[q,k], c)", "1 / S[q,k]", "S[q,k] / n",
    "n / (1 + abs(S[q,k]))",
    # of positions
    "(q - k)", "(q - k) / n", "sqrt(q - k)", "exp(-x * (q - k))", "1 / (q - k)", "(q - k) ** 0.5",
    "k // n", "(q + 1) % n", "min(q, n)", "max(k, n)", "tanh(k)", "sin(k / 7)", "abs(k - q)",
    "relu(3 - q + k)", "sign(k - 2)", "0.5 ** (q - k)", "(k + 1) ** (-0.5)",
    "(if k % 2 == 0 then 1 else -1)", "(if k < 9 then k else S[q,k])", "(if S[q,k] > 0 then 1 else k)",
    "round(q / n)", "floor(k * 0.3)",
    # of heads
    "(h + 1)", "1 / (h + 1)", "2 ** (-1 - h)", "(1 - 2 ** (-5 - h)) ** (q - k)", "c", "exp(c)",
    "tanh(c) * S[q,k]", "max(c, x)", "(if h == 0 then 1 else S[q,k])", "(if h < n then k else 2)",
    "h % 2", "c ** 2",
    # of numbers
    "x", "n", "exp(x)", "sigmoid(x)", "softplus(x)", "silu(x)", "relu(x)", "x ** 2", "2 ** x", "1 / x",
    "n / 4", "1 / n", "sign(x)", "log(x)", "sqrt(n)", "tanh(n)", "cos(x)", "min(x, n)", "max(x, 2)",
    "min(n, 2)", "abs(-x)", "floor(x * 9)", "round(x * 9)", "floor(n / 2)", "n // 2", "n % 2",
    "(if f then 1 else 2)", "(if n > 2 then x else S[q,k])",
    "(if f and n > 2 or not f then S[q,k] else 1)", "(if x > 0.5 then 1 else 2)", "sqrt(|d|)", "1 / |k|",
    "exp(1 / |q|)",
]  # fmt: skip

TABLES = "same[b,k]: int, keep[b,k]: bool, span[h]: int, len[b]: int, hide[]: bool"
PREDICATES = [
    "true", "k == q", "k <= q + 0.5", "k < x * q", "S[q,k] > 0", "k <= q and S[q,k] > c", "q - k < n",
    "not (k < n)", "q - k < span", "same[q] == same[k]", "k <= q and keep[k]", "k < len",
    "k <= q and not hide", "(q - k) % n == 0 and k <= q", "k // n == q // n", "(k + h) % n != 0",
    "f and k <= q", "k < 0", "q < 5 or k > q", "abs(q - k) <= n", "k <= q + n - 2 * h", "f == (k <= q)",
    "k >= q - n * h", "h == 0 and k > q",
]  # fmt: skip

NAMED = """
pattern {0}(
    {1}[b,h,q,d], {2}[b,h,k,d], {3}[b,h,k,e], {4}[h], {5}: int = 7, {6}: float = 0.5
) -> {7}[b,h,q,e], {8}[b,h,q]:
    over b, h
    align q to k
    {9}[q,k] = sum(d) {1}[q,d] * {2}[k,d] / sqrt(|d|) - {4} * (q - k) * {6}
    {10}[q,k] = softmax(k where k <= q and q - k < {5}) {9}[q,k]
    {7}[q,e] = sum(k) {10}[q,k] * {3}[k,e]
    {8}[q] = logsumexp(k where k <= q and q - k < {5}) {9}[q,k]
"""
USUAL = ("p", "Q", "K", "V", "slope", "window", "scale", "O", "lse", "S", "P")
NAMES = [
    "n", "tile", "grid", "device", "kind", "tiles", "whole", "walk", "last", "extents", "sizes",
    "check_kinds", "check_number", "accumulator", "divide", "finite", "pid", "step", "torch", "math",
    "KINDS", "BLOCK_Q", "NQ", "NB", "D", "lambda", "is", "None", "len", "range", "max", "min", "float",
    "int", "reference", "q0", "k0", "q1", "K_kd", "Q_qd", "tl", "triton", "self", "backend", "name",
    "seen", "k_lo0", "end0", "alpha", "alpha_q", "bool", "type", "str", "h_", "S_qk", "O_qe", "exp_S",
    "q_in", "made", "given", "x", "y",
]  # fmt: skip


def drawn(dtype: torch.dtype) -> dict[str, Any]:
    made = torch.Generator().manual_seed(0)
    sizes = {"Q": (2, 3, 37, 8), "K": (2, 3, 150, 8), "V": (2, 3, 150, 5), "c": (3,)}
    given: dict[str, Any] = {
        name: torch.randn(size, generator=made, dtype=torch.float64).to(dtype) for name, size in sizes.items()
    }
    given["same"] = torch.arange(150).expand(2, 150) // 40 % 3
    given["keep"] = torch.rand(2, 150, generator=made) < 0.5
    given["span"] = torch.tensor([1, 40, 500], dtype=torch.int32)
    given["len"] = torch.tensor([0, 130])
    given["hide"] = torch.tensor(False)
    return given


def compared(text: str) -> None:
    """A kernel and the reference, in float64."""
    kernel, plain = attncc.compile(text, backend="torch"), attncc.compile(text, backend="reference")
    every = drawn(torch.float64)
    given = {t.name: every[t.name] for t in kernel.cascade.inputs if t.name in every}
    made, meant = kernel(**given), plain(**given)
    for x, y in zip(made, meant, strict=True) if isinstance(made, tuple) else [(made, meant)]:
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11 * float(y.abs().mean()))


@pytest.mark.parametrize("weights", [WEIGHTS[n::20] for n in range(20)], ids=", ".join)
def test_weights(weights: list[str]) -> None:
    """Each weight in an output of its own, all in one kernel."""
    outputs = ", ".join(f"O{n}[b,h,q,e]" for n in range(len(weights)))
    sums = [f"    O{n}[q,e] = sum(k where k <= q) {w} * V[k,e]\n" for n, w in enumerate(weights)]
    compared(HEADER.format(params=f"{TENSORS}, {NUMBERS}", outputs=outputs) + SCORE + "".join(sums))


@pytest.mark.parametrize("predicate", PREDICATES)
def test_predicates(predicate: str) -> None:
    attend = f"    P[q,k] = softmax(k where {predicate}) S[q,k]\n    O[q,e] = sum(k) P[q,k] * V[k,e]\n"
    params = f"{TENSORS}, {TABLES}, {NUMBERS}"
    compared(HEADER.format(params=params, outputs="O[b,h,q,e]") + SCORE + attend)


@pytest.mark.parametrize("turn", range(0, len(NAMES), 4))
def test_names(turn: int) -> None:
    """A pattern may call its tensors, its numbers and itself whatever it likes."""
    names = [NAMES[(turn + 7 * n) % len(NAMES)] for n in range(len(USUAL))]
    given = drawn(torch.float64)
    tensors = [given[name] for name in "QKVc"]
    usual, other = (attncc.compile(NAMED.format(*n), backend="torch")(*tensors) for n in (USUAL, names))
    assert torch.equal(usual[0], other[0]) and torch.equal(usual[1], other[1])


LAYOUTS = {
    "rows before heads": ("b q h d", "b k h d", "k b e h", "b q h e", "q h b"),
    "features first": ("d q h", "h d k", "e h k", "e q h", "h q"),
    "no batch": ("q d", "d k", "k e", "q e", "q"),
    "batch in the middle": ("b q h t d", "t k b h d", "b h k e", "t b q h e", "b q h t"),
    "long names": (
        "batch row head d",
        "head key batch d",
        "e key batch head",
        "row e batch head",
        "head batch row",
    ),
}
"""The indices of Q, K, V, O and lse, in order."""
SIZES = {
    "b": 2,
    "h": 3,
    "t": 2,
    "q": 150,
    "k": 150,
    "d": 4,
    "e": 5,
    "batch": 2,
    "head": 3,
    "row": 150,
    "key": 150,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: tuple[str, ...]) -> None:
    """Tensors in any order of their indices, with any batch or none."""
    q, k = ("row", "key") if "row" in layout[0] else ("q", "k")
    every = [indices.split() for indices in layout]
    batch = sorted({i for indices in every for i in indices} - {q, k, "d", "e"})
    names = ("Q", "K", "V", "O", "lse")
    tensors = [f"{name}[{','.join(i)}]" for name, i in zip(names, every, strict=True)]
    reads = [
        f"{name}[{','.join(j for j in i if j not in batch)}]" for name, i in zip(names, every, strict=True)
    ]
    text = f"""
pattern p({", ".join(tensors[:3])}) -> {", ".join(tensors[3:])}:
    {"over " + ", ".join(batch) if batch else ""}
    align {q} to {k}
    S[{q},{k}] = sum(d) {reads[0]} * {reads[1]}
    P[{q},{k}] = softmax({k} where {k} <= {q}) S[{q},{k}]
    O[{q},e] = sum({k}) P[{q},{k}] * {reads[2]}
    lse[{q}] = logsumexp({k} where {k} <= {q}) S[{q},{k}]
"""
    made = torch.Generator().manual_seed(0)
    given = [
        torch.randn([SIZES[i] for i in indices.split()], generator=made, dtype=torch.float64)
        for indices in layout[:3]
    ]
    kernel, plain = attncc.compile(text, backend="torch"), attncc.compile(text, backend="reference")
    for x, y in zip(kernel(*given), plain(*given), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11)
