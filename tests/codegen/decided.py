"""Predicates that tables decide, on a backend against the reference: this module with BACKEND.

One line a predicate: how far the worst row is off, and whether its tiles are listed.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

import attncc
from attncc.pipeline import meaning, planned
from attncc.source import Source

TEXT = """pattern decided(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], doc[b,k]: int, keep[b,k]: bool, kind[h,k]: int,
    group[g,k]: int, layout[h,y,x]: bool, level[y]: int) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    along y, x
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where {}) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""

PREDICATES = (
    "keep[k]",
    "k <= q and keep[k]",
    "not keep[k] and doc[k] != doc[q]",
    "keep[q] and doc[k] == doc[q] or k == q",
    "doc[k] == doc[q] and kind[k] <= kind[q] and group[k] != 2",
    "doc[k + 3] < doc[q] or k < 5",
    "doc[k // 2] * 2 > doc[q // 2] + kind[k]",
    "if keep[k] then k <= q else kind[k] == kind[q]",
    "layout[kind[q], kind[k]]",
    "layout[level[kind[q]], q // 16] == keep[k]",
    "layout[q // 16, k // 16] or abs(doc[k] - doc[q]) > 2 and k <= q",
    "min(doc[k], kind[q]) % 3 == max(kind[k], 0) // 2",
    "q - k < 20 + 10 * doc[k] and k <= q",
    "k <= q and (k % 3 == doc[k] or h == kind[k])",
)


def arguments(rows: int, keys: int) -> dict[str, Any]:
    """Tables with runs in them, so that some tiles are seen whole and some not at all."""
    source = torch.Generator().manual_seed(rows)

    def table(low: int, high: int, *shape: int) -> torch.Tensor:
        few = torch.randint(low, high, (*shape[:-1], -(-shape[-1] // 16)), generator=source)
        return few.repeat_interleave(16, -1)[..., : shape[-1]].int()

    def real(heads: int, length: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 16, generator=source)

    return {
        "Q": real(4, rows),
        "K": real(2, keys),
        "V": real(2, keys),
        "doc": table(-2, 4, 2, keys),
        "keep": table(0, 2, 2, keys) == 1,
        "kind": table(0, 5, 4, keys),
        "group": table(0, 4, 2, keys),
        "layout": torch.rand((4, 6, 7), generator=source) < 0.5,
        "level": torch.randint(-1, 7, (6,), generator=source).int(),
    }


def main(backend: str) -> None:
    for predicate in PREDICATES:
        source = Source("decided.attn", TEXT.format(predicate))
        (loop,) = planned(meaning(source), source).kernels[-1].loops
        made, plain = (attncc.compile(source.text, backend=b) for b in (backend, "reference"))
        for rows, keys in ((100, 100), (40, 130), (70, 33)):
            given = arguments(rows, keys)
            exact = {n: x.double() if x.is_floating_point() else x for n, x in given.items()}
            error = (made(**given) - plain(**exact)).abs().max()
            print(f"{float(error):.2e} {bool(loop.listed)} {rows} {keys} {predicate}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
