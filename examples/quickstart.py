"""A pattern from a file: call it, ask for its log-sum-exp, check it, see what it costs."""

from __future__ import annotations

from pathlib import Path

import torch

import attncc
from attncc.explain import explain

PATTERNS = Path(__file__).parents[1] / "patterns"


def main() -> None:
    """Print the outputs' shapes, the distance from the dense reference, and the cost at 100,000 tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attend = attncc.load(PATTERNS / "window.attn")
    q = torch.randn(2, 8, 300, 64, device=device)
    k, v = torch.randn(2, 2, 2, 300, 64, device=device)  # two heads of keys for eight of queries

    out, lse = attend(q, k, v, window=100, outputs=("O", "lse"))
    print(f"O {tuple(out.shape)}, lse {tuple(lse.shape)}, from {attend!r}")

    dense = attncc.load(PATTERNS / "window.attn", backend="reference")
    exact = dense(*(x.double() for x in (q, k, v)), window=100)
    error = (out - exact).abs().max().item()
    print(f"largest difference from the dense definition in float64: {error:.1e}")
    assert error < 1e-4

    one = attend(q[:, :, -1:], k, v, window=100)  # a decoding step: the last query alone, the same mask
    assert torch.allclose(one, out[:, :, -1:], atol=1e-5)

    print(explain(attend.cascade, 100_000).text())


if __name__ == "__main__":
    main()
