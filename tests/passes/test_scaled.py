"""Scores of ten thousand, rows that see nothing, sinks that outweigh all: what a sum of exponentials is worth
where the exponentials themselves are no numbers.

The references are the formulas as they stand, in numbers of fifty digits and any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest

from tests.passes.meanings import Array, kernel, meant, passed, results, same

mp = mpmath.MPContext()
mp.dps = 50

ROWS, KEYS = 4, 5
HUGE = 1e4

Row = Callable[[int, list[int], Mapping[str, Any]], Mapping[str, Any]]
"""The outputs of one row: its number, the keys that it sees, and the inputs."""


def inputs(size: float, seed: int = 0, keys: int = KEYS) -> dict[str, Any]:
    """Scores up to `size` on either side, and in every row a second one within reach of the greatest."""
    rng = np.random.default_rng(seed)
    s = rng.uniform(-size, size, (ROWS, keys))
    s[:, 0] = s.max(axis=1) - rng.uniform(0, 2, ROWS)
    return {"s": s, "v": rng.uniform(-1, 1, keys)}


def wanted(row: Row, values: Mapping[str, Any], seen: Callable[[int, int], bool]) -> dict[str, Array]:
    keys = values["s"].shape[1]
    rows = [row(q, [k for k in range(keys) if seen(q, k)], values) for q in range(ROWS)]
    return {name: np.array([float(r[name]) for r in rows]) for name in rows[0]}


def causal(q: int, k: int) -> bool:
    """The last row sees the last key; with more rows than keys, the first ones see nothing."""
    return k <= q + KEYS - ROWS


def every(q: int, k: int) -> bool:
    return True


def check(text: str, values: Mapping[str, Any], expected: Mapping[str, Array], near: float = 1e-9) -> None:
    """The streamed cascade gives what is expected, and so does a kernel of it."""
    cascade = meant(text)
    same(results(passed(cascade), values), expected, near)
    same(kernel(text, values, tile=2), expected, near)


def naive_overflows(text: str, values: Mapping[str, Any]) -> bool:
    return any(not np.isfinite(x).all() for x in results(meant(text), values).values())


HEADER = "pattern p(s[q,k], v[k]) -> {}:\n    align q to k\n"


def mean(weights: list[Any], values: list[float]) -> Any:
    total = mp.fsum(weights)
    return mp.fsum(w * x for w, x in zip(weights, values, strict=True)) / total if total else mp.mpf(0)


def log(x: Any) -> Any:
    return mp.log(x) if x else -mp.inf


def softmax_row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = [mp.exp(values["s"][q, k]) for k in seen]
    return {"O": mean(weights, [values["v"][k] for k in seen]), "lse": log(mp.fsum(weights))}


SOFTMAX = {
    "with its maximum": "    w[q,k] = exp(s[q,k] - max(k where k <= q) s[q,k])\n"
    "    O[q] = sum(k where k <= q) w[q,k] * v[k] / sum(k where k <= q) w[q,k]\n"
    "    lse[q] = max(k where k <= q) s[q,k] + log(sum(k where k <= q) w[q,k])\n",
    "plain": "    O[q] = (sum(k where k <= q) exp(s[q,k]) * v[k]) / sum(k where k <= q) exp(s[q,k])\n"
    "    lse[q] = log(sum(k where k <= q) exp(s[q,k]))\n",
    "from its logarithm": "    lse[q] = logsumexp(k where k <= q) s[q,k]\n"
    "    P[q,k] = if k <= q then exp(s[q,k] - lse[q]) else 0\n"
    "    O[q] = sum(k) P[q,k] * v[k]\n",
    "as defined": "    P[q,k] = softmax(k where k <= q) s[q,k]\n"
    "    O[q] = sum(k) P[q,k] * v[k]\n"
    "    lse[q] = logsumexp(k where k <= q) s[q,k]\n",
    "of twice the half": "    w[q,k] = exp(2 * (s[q,k] / 2 - max(k where k <= q) s[q,k] / 2))\n"
    "    O[q] = (sum(k where k <= q) w[q,k] * v[k]) / sum(k where k <= q) w[q,k]\n"
    "    lse[q] = log(sum(k where k <= q) exp(s[q,k]))\n",
    "in two ways": "    m[q] = max(k where k >= 0 and k <= q) s[q,k]\n"
    "    above[q] = sum(k where k <= q and k >= 0) exp(s[q,k] - m[q]) * v[k]\n"
    "    below[q] = sum(k where k <= q) exp(s[q,k] - m[q])\n"
    "    O[q] = above[q] / below[q]\n"
    "    lse[q] = log(sum(k where k >= 0 and k <= q) exp(s[q,k]))\n",
}
"""One meaning, in the words of different authors."""


@pytest.mark.parametrize("said", SOFTMAX)
@pytest.mark.parametrize("keys", [KEYS, 2])
def test_scores_of_any_size(said: str, keys: int) -> None:
    """With two keys for four rows, two rows see nothing: 0, and a logarithm of -inf."""
    text = HEADER.format("O[q], lse[q]") + SOFTMAX[said]
    for size in (1, HUGE):
        values = inputs(size, keys=keys)
        check(text, values, wanted(softmax_row, values, lambda q, k: k <= q + keys - ROWS))
    assert (said == "plain") <= naive_overflows(text, inputs(HUGE))


@pytest.mark.parametrize("said", SOFTMAX)
def test_rows_without_a_finite_score(said: str) -> None:
    """What is masked by -inf, not by a predicate, weighs nothing either."""
    values = inputs(3)
    values["s"][1] = -np.inf
    values["s"][2, 1:3] = -np.inf
    text = HEADER.format("O[q], lse[q]") + SOFTMAX[said]
    check(text, values, wanted(softmax_row, values, causal))


@pytest.mark.parametrize("sink", [-HUGE, -3.0, 0.0, HUGE])
@pytest.mark.parametrize("size", [2, HUGE])
def test_a_sink(sink: float, size: float) -> None:
    text = (
        "pattern p(s[q,k], v[k], a[]) -> O[q], lse[q]:\n    align q to k\n"
        "    O[q] = (sum(k where k <= q) exp(s[q,k]) * v[k]) / (exp(a) + sum(k where k <= q) exp(s[q,k]))\n"
        "    lse[q] = log(exp(a) + sum(k where k <= q) exp(s[q,k]))\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        weights = [mp.exp(sink), *(mp.exp(values["s"][q, k]) for k in seen)]
        return {"O": mean(weights, [0, *(values["v"][k] for k in seen)]), "lse": log(mp.fsum(weights))}

    for keys in (KEYS, 2):
        values = {**inputs(size, keys=keys), "a": np.array(sink)}
        check(text, values, wanted(row, values, lambda q, k, keys=keys: k <= q + keys - ROWS))


WEIGHTS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda s: mp.exp(s) + mp.exp(-s), "exp(s[q,k]) + exp(-s[q,k])"),
    (lambda s: 2**s, "2 ** s[q,k]"),
    (
        lambda s: mp.exp(s) if s > 0 else 1 + s * s,
        "if s[q,k] > 0 then exp(s[q,k]) else 1 + s[q,k] * s[q,k]",
    ),
    (lambda s: mp.exp(s) + s * s, "exp(s[q,k]) + s[q,k] * s[q,k]"),
    (lambda s: mp.exp(s) if s < 0 else mp.mpf(0), "max(if s[q,k] < 0 then exp(s[q,k]) else 0, 0)"),
    (lambda s: max(mp.exp(s), mp.exp(-2 * s)), "max(exp(s[q,k]), exp(-2 * s[q,k]))"),
    (lambda s: mp.exp(s) / (1 + mp.exp(s / 2)), "exp(s[q,k]) / (1 + exp(s[q,k] / 2))"),
    (lambda s: mp.exp(mp.log(1 + mp.exp(s))), "exp(log(1 + exp(s[q,k])))"),
    (lambda s: abs(mp.exp(s) - mp.exp(-s)), "abs(exp(s[q,k]) - exp(-s[q,k]))"),
]


@pytest.mark.parametrize(("weight", "said"), WEIGHTS, ids=[said for _, said in WEIGHTS])
def test_weights(weight: Callable[[Any], Any], said: str) -> None:
    """Weights that grow like an exponential, over their own sum."""
    text = HEADER.format("O[q], total[q]") + (
        f"    w[q,k] = {said}\n    O[q] = (sum(k where k <= q) w[q,k] * v[k]) / sum(k where k <= q) w[q,k]\n"
        "    total[q] = log(sum(k where k <= q) w[q,k])\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        weights = [weight(mp.mpf(float(values["s"][q, k]))) for k in seen]
        return {"O": mean(weights, [values["v"][k] for k in seen]), "total": log(mp.fsum(weights))}

    for size in (2, HUGE):
        values = inputs(size)
        check(text, values, wanted(row, values, causal))
    assert naive_overflows(text, inputs(HUGE)), "these inputs are no harder than others"


@pytest.mark.parametrize("size", [2, HUGE])
def test_an_exponential_and_a_polynomial_share_a_normaliser(size: float) -> None:
    near, far = "k <= q and q - k < 2", "q - k >= 2"
    text = HEADER.format("O[q]") + (
        "    A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2\n"
        f"    above[q] = (sum(k where {far}) A[q,k] * v[k]) + sum(k where {near}) exp(s[q,k]) * v[k]\n"
        f"    O[q] = above[q] / ((sum(k where {far}) A[q,k]) + sum(k where {near}) exp(s[q,k]))\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        s = [mp.mpf(float(values["s"][q, k])) for k in seen]
        at = q + KEYS - ROWS
        weights = [1 + x + x * x / 2 if at - k >= 2 else mp.exp(x) for x, k in zip(s, seen, strict=True)]
        return {"O": mean(weights, [values["v"][k] for k in seen])}

    values = inputs(size)
    check(text, values, wanted(row, values, causal))


def test_formulas_over_sums() -> None:
    """Shares of two sums, logarithms of sums of sums, a geometric mean: nothing in them overflows."""
    text = HEADER.format("share[q], both[q], middle[q], most[q]") + (
        "    a[q] = logsumexp(k where k % 2 == 0) s[q,k]\n"
        "    b[q] = logsumexp(k where k % 2 == 1) s[q,k]\n"
        "    share[q] = exp(a[q]) / (exp(a[q]) + exp(b[q]))\n"
        "    both[q] = log(exp(a[q]) + exp(b[q]))\n"
        "    middle[q] = log((sum(k) exp(s[q,k])) * (sum(k) exp(-s[q,k]))) / 2\n"
        "    most[q] = log(max(exp(a[q]), exp(b[q])))\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        s = [mp.mpf(float(values["s"][q, k])) for k in seen]
        a, b = (mp.fsum(map(mp.exp, s[start::2])) for start in (0, 1))
        opposite = mp.fsum(mp.exp(-x) for x in s)
        return {
            "share": a / (a + b),
            "both": mp.log(a + b),
            "middle": mp.log((a + b) * opposite) / 2,
            "most": mp.log(max(a, b)),
        }

    for size in (2, HUGE):
        values = inputs(size)
        check(text, values, wanted(row, values, every))
    assert naive_overflows(text, inputs(HUGE))


def test_what_leaves_a_sum_of_nothing_leaves_it_zero() -> None:
    """Factors that are infinite for a row that sees nothing: its maximum, its logarithm, a quotient."""
    c = "k <= q"
    text = HEADER.format("A[q], B[q], C[q], D[q]") + (
        f"    m[q] = max(k where {c}) s[q,k]\n"
        f"    lse[q] = logsumexp(k where {c}) s[q,k]\n"
        f"    A[q] = sum(k where {c}) v[k] * m[q]\n"
        f"    B[q] = sum(k where {c}) exp(s[q,k] - lse[q]) * lse[q]\n"
        f"    C[q] = sum(k where {c}) v[k] * (1 + 1 / exp(lse[q]))\n"
        f"    D[q] = sum(k where {c}) v[k] * exp(-m[q])\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        if not seen:
            return dict.fromkeys("ABCD", 0)
        s, v = [float(values["s"][q, k]) for k in seen], mp.fsum(values["v"][k] for k in seen)
        total = mp.fsum(map(mp.exp, s))
        return {"A": v * max(s), "B": mp.log(total), "C": v * (1 + 1 / total), "D": v * mp.exp(-max(s))}

    values = inputs(2, keys=2)
    check(text, values, wanted(row, values, lambda q, k: k <= q + 2 - ROWS))


def test_excluded_scores_disturb_nothing() -> None:
    """A weight that is itself an output is 0 where it is excluded, however great the score there."""
    text = HEADER.format("P[q,k], O[q]") + (
        "    P[q,k] = softmax(k where k % 2 == 0) s[q,k]\n    O[q] = sum(k) P[q,k] * v[k]\n"
    )
    values = inputs(2)
    values["s"][:, 1::2] = 1e30
    found = results(passed(meant(text)), values)
    kept = np.exp(values["s"][:, ::2])
    share = np.zeros((ROWS, KEYS))
    share[:, ::2] = kept / kept.sum(axis=1, keepdims=True)
    same(found, {"P": share, "O": share @ values["v"]})


LENGTHS = {
    "a power in a root": "sqrt(sum(k where k <= q) exp(s[q,k]) ** 2)",
    "a product in a power": "(sum(k where k <= q) exp(s[q,k]) * exp(s[q,k])) ** 0.5",
    "powers of powers": "((sum(k where k <= q) (exp(s[q,k]) ** 0.5) ** 4) ** (-0.5)) ** (-1)",
    "a root in a power": "sqrt(sum(k where k <= q) sqrt(exp(s[q,k])) ** 4)",
    "of what is divided": "sqrt(sum(k where k <= q) (exp(s[q,k]) / 3) ** 2) * 3",
}


@pytest.mark.parametrize("size", [1.0, HUGE])
@pytest.mark.parametrize("below", LENGTHS)
def test_over_a_length(below: str, size: float) -> None:
    """Weights over the root of the sum of their squares."""
    text = (
        HEADER.format("O[q]") + f"    O[q] = (sum(k where k <= q) exp(s[q,k]) * v[k]) / ({LENGTHS[below]})\n"
    )

    def row(q: int, seen: list[int], values: Mapping[str, Any]) -> Mapping[str, Any]:
        weights = [mp.exp(values["s"][q, k]) for k in seen]
        length = mp.sqrt(mp.fsum(w * w for w in weights))
        return {"O": mp.fsum(w * values["v"][k] for w, k in zip(weights, seen, strict=True)) / length}

    values = inputs(size)
    assert size == 1.0 or naive_overflows(text, values)
    check(text, values, wanted(row, values, causal))
