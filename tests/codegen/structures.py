"""Patterns of other shapes than the catalogue's, on both backends: `python -m tests.codegen.structures`.

Folds at every cell, outputs over rows and columns, reductions over two indices; one line a case. Without a
GPU, `TRITON_INTERPRET=1` has Triton interpret its kernels; it is read when Triton is imported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import attncc

STRUCTURES = {
    "a distance": """(X[b,h,q,d], Y[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    along q, k
    S[q,k] = 0 - sum(d) abs(X[q,d] - Y[k,d])
    O[q,e] = sum(k) (softmax(k) S[q,k]) * V[k,e]""",
    "the largest difference, in a window, by groups": """
    (X[b,h,q,d], Y[b,g,k,d], V[b,g,k,e], n: int = 9) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = exp(0 - max(d) abs(X[q,d] - Y[k,d]))
    O[q,e] = sum(k where k <= q and q - k < n) S[q,k] * V[k,e]""",
    "features by halves, and by a table": """
    (X[b,h,q,d], Y[b,h,k,d], V[b,h,k,e], T[r,d]) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d where d * 2 < |d| or d == k % 3) (X[q,d] + T[q - k,d]) * Y[k,d]
    O[q,e] = sum(k) (softmax(k where k <= q) S[q,k]) * V[k,e]""",
    "a norm over pairs of features": """(X[b,h,q,d], Y[b,h,k,e], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    along q, k
    S[q,k] = max(d, e) abs(X[q,d] - Y[k,e])
    O[q,e] = sum(k) exp(0 - S[q,k]) * V[k,e]""",
    "weights beside what they weigh": """
    (Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]) -> O[b,h,q,e], P[b,h,q,k], lse[b,h,q]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q) S[q,k]
    lse[q] = logsumexp(k where k <= q) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]""",
    "scores, some of them": """(Q[b,h,q,d], K[b,h,k,d]) -> S[b,h,k,q]:
    over b, h
    align q to k
    S[k,q] = if k <= q and q - k < 20 then (sum(d) Q[q,d] * K[k,d]) else 0 - 1""",
    "scores and their sums": """(Q[b,h,q,d], K[b,h,k,d]) -> S[b,h,q,k], total[b,h,q]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    total[q] = sum(k where k <= q) S[q,k]""",
    "the next head": """(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[b,h + 1,q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where k <= q) S[q,k]) * V[k,e]""",
    "pairs in order": """(X[b,h,q,d], Y[b,h,j,d], Z[b,h,k,d], V[b,h,k,e], W[b,h,j,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    align j to k
    S[q,j,k] = sum(d) X[q,d] * Y[j,d] * Z[k,d]
    O[q,e] = sum(j, k where k <= q and j <= k) S[q,j,k] * V[k,e] * W[j,e]""",
    "pairs by a softmax in order": """(X[b,h,q,d], Y[b,h,j,d], Z[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    align j to k
    n[j] = sum(d) Y[j,d] * Y[j,d]
    S[q,j,k] = (sum(d) X[q,d] * Y[j,d] * Z[k,d]) * n[j] / 9
    P[q,j,k] = softmax(j, k where k <= q and k - j < 7 and j <= k) S[q,j,k]
    O[q,e] = sum(j, k) P[q,j,k] * V[k,e]""",
    "a number of the first pass, turned": """(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[e,q,b,h], l[h,q,b]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    l[q] = sum(k where k <= q) abs(S[q,k])
    O[q,e] = sum(k where k <= q) relu(S[q,k] - l[q] / 9) * V[k,e]""",
    "between the least and the largest": """(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    m[q] = max(k where k <= q) S[q,k]
    n[q] = min(k where k <= q) S[q,k]
    O[q,e] = sum(k where k <= q) (S[q,k] - n[q]) / (m[q] - n[q]) * V[k,e]""",
    "squares of logarithms": """(Q[b,h,q,d], K[b,h,k,d]) -> O[b,h,q]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    lse[q] = logsumexp(k where k <= q) S[q,k]
    O[q] = sum(k where k <= q) exp(S[q,k] - lse[q]) * (S[q,k] - lse[q]) ** 2""",
    "means of all there is": """(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e], mu[b,h,q]:
    over b, h
    along q, k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    mu[q] = mean(k) S[q,k]
    O[q,e] = mean(k) S[q,k] * V[k,e]""",
    "squares of what a sum divides": """(Q[b,h,q,d], K[b,h,k,d]) -> O[b,h,q]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    l[q] = sum(k where k <= q) abs(S[q,k])
    O[q] = sum(k where k <= q) (S[q,k] + 1 / l[q]) ** 2""",
    "whole powers of what is negative": """(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], p: int = 2) -> O[b,h,q,e]:
    over b, h
    along q, k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / |d|
    W[q,k] = S[q,k] ** (p + 1) + S[q,k] ** 5.0 + (1 + abs(S[q,k])) ** (0 - p) + S[q,k] ** (p - 2)
    O[q,e] = sum(k) W[q,k] * V[k,e]""",
    "triangles": """(X[b,h,q,d], Y[b,h,j,d], Z[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    along q, j, k
    S[q,j,k] = sum(d) abs(X[q,d] + Y[j,d] - Z[k,d])
    O[q,e] = sum(j, k) exp(0 - S[q,j,k]) * V[k,e]""",
}
"""The rest of a pattern by what it shows."""


SIZES = {"b": 1, "h": 2, "g": 1, "d": 5, "e": 7, "r": 90}


def cases() -> Iterator[tuple[str, float]]:
    """A name, and how far a backend is from the reference in float64, beside the largest number there."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in STRUCTURES.items():
            path = Path(folder) / "structure.attn"
            path.write_text(f"pattern structure{text.lstrip()}\n")
            reference = attncc.load(path, backend="reference")
            for rows, columns in ((37, 40), (5, 0)):
                sizes = {
                    "b": 1,
                    "h": 2,
                    "g": 1,
                    "q": rows,
                    "k": columns,
                    "j": columns,
                    "d": 5,
                    "e": 7,
                    "r": 90,
                }
                tensors = [t for t in reference.cascade.inputs if t.indices]
                given = [torch.randn([sizes[i.name] for i in t.indices]) for t in tensors]
                exact = reference(*(x.double() for x in given))
                for backend in ("triton", "torch"):
                    made = attncc.load(path, backend=backend)(*given)
                    pairs = zip(made, exact, strict=True) if isinstance(made, tuple) else [(made, exact)]
                    yield f"{backend}, {rows} x {columns}, {name}", max(_error(x, y) for x, y in pairs)


def _error(x: torch.Tensor, exact: torch.Tensor) -> float:
    if not exact.numel():
        return 0.0
    wrong = torch.where(x == exact, 0.0, x - exact).abs().max().item()
    return wrong / max(1.0, exact[exact.isfinite()].abs().max().item() if exact.isfinite().any() else 1.0)


if __name__ == "__main__":
    for case, error in cases():
        print(f"{error:.2e} {case}", flush=True)
