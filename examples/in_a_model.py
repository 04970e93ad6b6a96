"""Attention written in model code: `@attncc.jit` on a function, inside a module, under `torch.compile`."""

from __future__ import annotations

import torch
from torch import nn

import attncc


@attncc.jit
def attend(Q, K, V, doc, window: int = 64, cap: float = 30.0):  # type: ignore[no-untyped-def]
    """Gemma 2's capped scores in a sliding window, within documents packed into one sequence.

    (Q[b,q,h,d], K[b,k,g,d], V[b,k,g,e], doc[b,k]: int) -> O[b,q,h,e]
    over b, h with g = h // (|h| // |g|)
    align q to k
    assume sorted doc
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q and q - k < window and doc[k] == doc[q]) softcap(S[q,k], cap)
    O[q,e] = sum(k) P[q,k] * V[k,e]
    """


class Block(nn.Module):
    """Projections around the pattern; x is (batch, length, width)."""

    def __init__(self, width: int, heads: int, groups: int):
        super().__init__()
        size = width // heads
        self.heads, self.groups, self.size = heads, groups, size
        self.project = nn.Linear(width, (heads + 2 * groups) * size)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, doc: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) -> the same"""
        parts = self.project(x).unflatten(-1, (-1, self.size))
        q, k, v = parts.split((self.heads, self.groups, self.groups), dim=-2)
        return self.out(attend(q, k, v, doc, window=32).flatten(-2))


def main() -> None:
    """Run the module as it is and compiled, at three lengths, without gradients."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    block = Block(256, heads=8, groups=2).to(device)
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for length in (40, 100, 333):
            x = torch.randn(2, length, 256, device=device)
            doc = (torch.arange(length, device=device) // 25).expand(2, length).int()
            plain, fused = block(x, doc), compiled(x, doc)
            assert torch.allclose(plain, fused, atol=1e-5)
            print(f"length {length}: {tuple(plain.shape)}, {attend.compilations} compilation")
            # a document does not see the one before it
            moved = x.clone()
            moved[:, :25] += 1.0
            assert torch.allclose(block(moved, doc)[:, 25:], plain[:, 25:], atol=1e-5)


if __name__ == "__main__":
    main()
