"""Where a cascade is cut into kernels, and that every cut keeps the meaning."""

from __future__ import annotations

import numpy as np
import pytest

from attncc.schedule.plan import Plan, partition
from tests.passes.meanings import kernel, meant, passed, results, same

TEXT = """pattern cuts(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]) -> {outputs}:
    over b, h with g = h // (|h| // |g|)
    align q to k
    {equations}
"""
SCORES = "S[q,k] = sum(d) Q[q,d] * K[k,d]"
MEAN = "mu[q] = mean(k where k <= q) S[q,k]"
ABOVE = "O[q,e] = sum(k where k <= q) relu(S[q,k] - mu[q]) * V[k,e]"
NORM = "n[k] = sqrt(sum(d) K[k,d] * K[k,d])"
SHARE = "O[q,e] = sum(k where k <= q) softplus(S[q,k] / n[k]) * V[k,e]"


def text(outputs: str, *equations: str) -> str:
    return TEXT.format(outputs=outputs, equations="\n    ".join(equations))


def plan(outputs: str, *equations: str) -> Plan:
    return partition(passed(meant(text(outputs, *equations))))


def shape(found: Plan) -> list[tuple[str, int, list[str]]]:
    """Rows, number of walks, and what is written, kernel by kernel."""
    return [(k.rows.name, len(k.loops), [t.name for t in k.writes]) for k in found.kernels]


GATHERED = (
    "align j to k",
    "X[k,j] = sum(d) K[k,d] * K[j,d]",
    "W[k,e] = sum(j) (softmax(j where j <= k) X[k,j]) * V[j,e]",
)

CASES = {
    "a softmax before another": (
        ("O[b,h,q,e]", *GATHERED, SCORES, "O[q,e] = sum(k) (softmax(k where k <= q) S[q,k]) * W[k,e]"),
        ["W_total2_row", "O"],
    ),
    "sums at other rows, read as they are and divided": (
        (
            "O[b,h,q,e]",
            "align j to k",
            "n[k] = sum(j where j <= k) softplus(sum(d) K[k,d] * K[j,d])",
            SCORES,
            "O[q,e] = sum(k where k <= q) softplus(S[q,k] + n[k]) * V[k,e] / n[k]",
        ),
        ["n", "O"],
    ),
    "three, one before the other": (
        (
            "O[b,h,q,e]",
            "align j to k",
            "align i to k",
            "W[i,e] = sum(j where j <= i) softplus(sum(d) K[i,d] * K[j,d]) * V[j,e]",
            "U[k,e] = sum(i where i <= k) softplus(sum(d) K[k,d] * K[i,d]) * W[i,e]",
            SCORES,
            "O[q,e] = sum(k where k <= q) softplus(S[q,k]) * U[k,e]",
        ),
        ["W", "U", "O"],
    ),
    "one pass": (("O[b,h,q,e]", SCORES, "O[q,e] = sum(k) (softmax(k) S[q,k]) * V[k,e]"), ["O"]),
    "two passes": (("O[b,h,q,e]", SCORES, MEAN, ABOVE), ["mu_sum_row", "O"]),
    "three passes": (
        (
            "O[b,h,q,e]",
            SCORES,
            MEAN,
            "w[q] = sum(k where k <= q) relu(S[q,k] - mu[q])",
            "O[q,e] = sum(k where k <= q) relu(S[q,k] - w[q]) * V[k,e]",
        ),
        ["mu_sum_row", "w", "O"],
    ),
    "a number of the first pass is an output": (
        (
            "O[b,h,q,e], l[b,h,q]",
            SCORES,
            "l[q] = sum(k) abs(S[q,k])",
            "O[q,e] = sum(k) relu(S[q,k] - l[q]) * V[k,e]",
        ),
        ["l", "O"],
    ),
    "norms of keys, divided by": (("O[b,h,q,e]", SCORES, NORM, SHARE), ["n_sum_inverse", "O"]),
    "norms of keys, divided by twice": (
        ("O[b,h,q,e]", SCORES, NORM, SHARE.replace("/ n[k]", "/ (n[k] * n[k])")),
        ["n_sum_inverse", "O"],
    ),
    "norms of keys, divided by and added": (
        ("O[b,h,q,e]", SCORES, NORM, SHARE.replace("softplus(", "softplus(n[k] + ")),
        ["n_sum", "n_sum_inverse", "O"],
    ),
    "rows of the first pass have features": (
        (
            "O[b,h,q,e]",
            SCORES,
            "m[q,e] = sum(k) relu(S[q,k]) * V[k,e]",
            "l[q] = sum(e) m[q,e] * m[q,e]",
            "O[q,e] = m[q,e] + sum(k) relu(S[q,k] - l[q]) * V[k,e]",
        ),
        ["O"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_between_kernels(name: str) -> None:
    said, written = CASES[name]
    found = plan(*said)
    assert [t.name for k in found.kernels for t in k.writes] == written
    assert {t.name for t in found.kept} == set(written) - {t.name for t in found.cascade.outputs}


@pytest.mark.parametrize("rows", [5, 9])
@pytest.mark.parametrize("name", CASES)
def test_kernels_give_the_meaning(name: str, rows: int) -> None:
    said, _ = CASES[name]
    rng = np.random.default_rng(rows)
    sizes = {"Q": (2, 6, rows, 4), "K": (2, 3, 9, 4), "V": (2, 3, 9, 5)}
    values = {n: rng.standard_normal(s) for n, s in sizes.items()}
    values["K"][0, 1, 3] = 0  # a key without a length
    same(kernel(text(*said), values, 2), results(meant(text(*said)), values))


def test_kernels_of_their_own() -> None:
    assert shape(plan("O[b,h,q,e]", SCORES, NORM, MEAN, ABOVE.replace("- mu", "/ n[k] - mu"))) == [
        ("k", 0, ["n_sum_inverse"]),
        ("q", 1, ["mu_sum_row"]),
        ("q", 1, ["O"]),
    ]
