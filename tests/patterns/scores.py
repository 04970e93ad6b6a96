"""Published attentions that differ in scores, in normalisers or in what comes out, in plain PyTorch.

Written from their papers' formulas and not from the pattern texts, as those in `definitions`, whose rules
hold here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.patterns.parts import Results, attended, dots, everything, grid, per_head, weights


def cosines(Q: Tensor, K: Tensor) -> Tensor:
    """`[b, h, NQ, NK]`: scalar products of vectors of length 1."""
    Q, K = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (Q, K))
    return Q @ per_head(K, Q.shape[1]).transpose(-1, -2)


def by_rows(scores: Tensor, V: Tensor, row_weights: Callable[[Tensor], Tensor]) -> Results:
    """Values under the weights that `row_weights` makes of the scores that a row sees, row after row."""
    V = per_head(V, scores.shape[1])
    shift = V.shape[-2] - scores.shape[-2]
    rows = [torch.zeros_like(V[..., 0, :]) for _ in range(scores.shape[-2])]
    for row in range(max(0, -shift), scores.shape[-2]):
        seen = row + shift + 1
        P = row_weights(scores[..., row, :seen])
        rows[row] = torch.einsum("bhk,bhke->bhe", P, V[..., :seen, :])
    return {"O": torch.stack(rows, -2)}


def softplus_shares(products: Tensor, d: int) -> Tensor:
    """A row's softplus of `log d * log n` times its `n` cosines, divided by its sum."""
    scaled = math.log(d) * math.log(products.shape[-1]) * products
    A = torch.logaddexp(scaled, torch.zeros_like(scaled))
    return A / A.sum(-1, keepdim=True)


def lssa(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """LSSA (2501.13428), its first stage alone."""
    return by_rows(cosines(Q, K), V, lambda row: softplus_shares(row, Q.shape[-1]))


def lssar(Q: Tensor, K: Tensor, V: Tensor, p: int = 15, eps: float = 1e-8) -> Results:
    """LSSAR (2501.13428): both stages; the offset is 0 for the first three rows and 1 for all others."""

    def sharpened(row: Tensor) -> Tensor:
        seen = row.shape[-1]
        offset = 0 if seen <= 3 else 1
        R = torch.relu(softplus_shares(row, Q.shape[-1]) * seen - offset).pow(p)
        return R / (R.sum(-1, keepdim=True) + eps)

    return by_rows(cosines(Q, K), V, sharpened)


def selective_self(Q: Tensor, K: Tensor, V: Tensor, Tq: Tensor, Tv: Tensor, alpha: Tensor) -> Results:
    """Selective self-attention (2411.12892): temperatures folded into queries and values."""
    q, k = grid(Q, K)
    length = (q[:, 0] + 1).clamp_min(1).to(Q.dtype)
    temperature = Tq + 1 + torch.sigmoid(alpha)[:, None] * length.log()
    return {"O": attended(dots(Q * temperature[..., None], K), k <= q, V * Tv[..., None])["O"]}


def cosine(Q: Tensor, K: Tensor, V: Tensor, scale: Tensor) -> Results:
    """Query-key normalisation (2010.04245)."""
    q, k = grid(Q, K)
    return {"O": attended(scale * cosines(Q, K), k <= q, V)["O"]}


def softmax1(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Softmax over the keys and a score of 0, whose value is 0."""
    q, k = grid(Q, K)
    scores = dots(Q, K).masked_fill(k > q, -math.inf)
    P = torch.softmax(torch.nn.functional.pad(scores, (1, 0)), -1)[..., 1:]
    return {"O": P @ per_head(V, Q.shape[1])}


def l2_softmax(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Exponentials over the root of the sum of their squares, by its logarithm."""
    q, k = grid(Q, K)
    length = attended(2 * dots(Q, K), k <= q, V)["lse"] / 2
    blind = length == -math.inf
    P = torch.exp(dots(Q, K).masked_fill(k > q, -math.inf) - length.masked_fill(blind, 0.0)[..., None])
    return {"O": P @ per_head(V, Q.shape[1])}


def entropy(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Causal attention and its rows' entropy (2303.06296)."""
    q, k = grid(Q, K)
    P = weights(dots(Q, K), k <= q)
    bits = P * P.clamp_min(torch.finfo(P.dtype).tiny).log()
    return {"O": P @ per_head(V, Q.shape[1]), "entropy": -bits.sum(-1)}


def z_loss(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Causal attention and the squares of its normalisers' logarithms (2204.02311)."""
    q, k = grid(Q, K)
    results = attended(dots(Q, K), k <= q, V)
    return {"O": results["O"], "z": results["lse"].square()}


def max_logit(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Causal attention, its rows' log-sum-exp and their greatest logits (2507.20534)."""
    q, k = grid(Q, K)
    scores = dots(Q, K)
    return {**attended(scores, k <= q, V), "top": scores.masked_fill(k > q, -math.inf).amax(-1)}


def nap(Q: Tensor, K: Tensor, V: Tensor, gain: Tensor, shift: Tensor, eps: float = 1e-8) -> Results:
    """Normalized attention pooling (2005.09561), causal."""

    def standard(row: Tensor) -> Tensor:
        centred = row - row.mean(-1, keepdim=True)
        return (
            gain[:, None] * centred * torch.rsqrt(row.var(-1, correction=0, keepdim=True) + eps)
            + shift[:, None]
        )

    return by_rows(Q @ per_head(K, Q.shape[1]).transpose(-1, -2), V, standard)


def palm(Q: Tensor, K: Tensor, V: Tensor, source: Tensor) -> Results:
    """PALM's partial attention (2304.04052): keys beyond each sequence's source left out."""
    seen = torch.stack([everything(Q, K) for _ in source])[:, None]
    for b, length in enumerate(source):
        seen[b, ..., int(length) :] = False
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def positional(X: Tensor, Y: Tensor, V: Tensor) -> Results:
    """Positional attention (2410.01686): one map of weights a head, for all sequences of the batch."""
    return {"O": torch.softmax(X @ Y.transpose(-1, -2) / math.sqrt(X.shape[-1]), -1) @ V}


def pointer(X: Tensor, Y: Tensor, v: Tensor) -> Results:
    """Pointer networks (1506.03134): `softmax(v . tanh(W1 e + W2 d))`, one decoder step after the other."""
    steps = [torch.tanh(Y + X[:, i : i + 1, :]) @ v for i in range(X.shape[1])]
    return {"P": torch.softmax(torch.stack(steps, 1), -1)}


def evoformer(Q: Tensor, K: Tensor, V: Tensor, pair: Tensor, G: Tensor) -> Results:
    """Row-wise gated self-attention with pair bias (AlphaFold 2, algorithm 7), sequence after sequence."""
    rows = []
    for s in range(Q.shape[1]):
        P = torch.softmax(dots(Q[:, s], K[:, s]) + pair, -1)
        rows.append(torch.sigmoid(G[:, s]) * (P @ V[:, s]))
    return {"O": torch.stack(rows, 1)}


def music(Q: Tensor, K: Tensor, V: Tensor, E: Tensor) -> Results:
    """Music Transformer (1809.04281): every query times the table, then picked by distance."""
    q, k = grid(Q, K)
    last = E.shape[-2] - 1
    picked = (last - (q - k)).clamp(0, last)
    relative = (Q @ E.transpose(-1, -2)).gather(-1, picked.expand(*Q.shape[:2], -1, -1))
    return {"O": attended(dots(Q, K) + relative / math.sqrt(Q.shape[-1]), k <= q, V)["O"]}


def kronecker(Q: Tensor, K1: Tensor, K2: Tensor, V1: Tensor, V2: Tensor) -> Results:
    """Third-order attention (2310.04064): plain attention over all pairs of keys."""
    K, V = ((x[..., :, None, :] * y[..., None, :, :]).flatten(-3, -2) for x, y in ((K1, K2), (V1, V2)))
    return {"O": torch.softmax(Q @ K.transpose(-1, -2) / Q.shape[-1], -1) @ V}
