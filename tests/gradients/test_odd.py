"""Gradients of small odd patterns: zeros, rows that see nothing, what depends on little."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import attncc
from attncc.diagnostics import PatternError
from attncc.verify.gradients import called, gradients, weights

TEXTS = {
    "a sum that is divided by a power of another": """pattern p(V[k], S[q,k]) -> O[q]:
    along q, k
    P[q,k] = softmax(k) S[q,k]
    O[q] = (sum(k) P[q,k] ** 2 * V[k]) / sum(k) P[q,k] ** 2
""",
    "keys above their mean": """pattern p(Q[b,h,q,d], K[b,g,k,d]) -> S[b,h,q,k]:
    over b, h with g = h // (|h| // |g|)
    along q, k
    m[k] = mean(d) K[k,d]
    S[q,k] = sum(d) Q[q,d] * (K[k,d] - m[k])
""",
    "two logarithms merged": """pattern p(S[q,k]) -> w[q]:
    align q to k
    A[q] = logsumexp(k where k <= q) S[q,k]
    B[q] = logsumexp(k where k < q) S[q,k]
    w[q] = if q >= 0 then sigmoid(A[q] - B[q]) else 0
""",
    "functions of a logarithm of nothing": """pattern p(x[q], S[q,k]) -> a[q], c[q], d[q], e[q], f[q], g[q]:
    align q to k
    B[q] = logsumexp(k where k < q) S[q,k]
    a[q] = sigmoid(x[q] - B[q])
    c[q] = softplus(B[q] + x[q])
    d[q] = max(B[q], x[q])
    e[q] = if B[q] > x[q] then B[q] else x[q]
    f[q] = clamp(B[q], -5, 5) * x[q]
    g[q] = tanh(B[q] + x[q]) + relu(B[q] + x[q])
""",
    "a threshold, whose gradient is 0": """pattern p(x[q], t[]) -> y[q]:
    along q
    y[q] = if x[q] > t then x[q] else 0
""",
    "the same gradient in a whole row": """pattern p(x[q,k]) -> y[q]:
    along q, k
    y[q] = sum(k) x[q,k]
""",
    "one number of a row in every column": """pattern p(S[q,k], t[q]) -> y[q], z[q,k]:
    along q, k
    l[q] = logsumexp(k) S[q,k]
    y[q] = l[q] * mean(k) S[q,k]
    z[q,k] = l[q] * t[q]
""",
}

EXTENTS = ({"q": 9, "k": 5}, {"q": 5, "k": 9}, {"q": 1, "k": 4}, {"q": 7, "k": 1})


@pytest.mark.parametrize("zero", [False, True], ids=["", "zeros first"])
@pytest.mark.parametrize("name", TEXTS)
def test_as_the_reference(name: str, zero: bool) -> None:
    attend = attncc.compile(TEXTS[name])
    dense = attncc.compile(TEXTS[name], backend="reference")
    for n, extents in enumerate(EXTENTS):
        sizes = {"b": 1, "h": 4, "g": 2, "d": 3, **extents}
        torch.manual_seed(n)
        places = {t.name: [sizes[i.name] for i in t.indices] for t in attend.cascade.inputs}
        given = {name: torch.randn(place, dtype=torch.float64) for name, place in places.items()}
        if zero:
            next(iter(given.values())).zero_()
        plain, kernels = (partial(called, f, attend.cascade) for f in (dense, attend))
        reach = weights(plain(given), torch.float64, n)
        found, meant = (gradients(f, given, tuple(given), reach) for f in (kernels, plain))
        for x, y in zip(found, meant, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_without_a_sequence() -> None:
    with pytest.raises(PatternError, match="nothing is over a sequence"):
        attncc.compile("pattern p(A[b]) -> s[b]:\n    over b\n    s[] = A * A\n")(torch.ones(3))


def test_a_value_at_rows_columns_and_features() -> None:
    text = "pattern p(x[k,d]) -> O[q,d]:\n    align q to k\n    O[q,d] = logsumexp(k where k <= q) x[k,d]\n"
    with pytest.raises(PatternError, match="`q`, `k`, `d` at once: a tile has two axes"):
        attncc.compile(text)(torch.ones(3, 2))
