"""What definitions of attentions are made of: scores, positions, masks, softmax over what is seen.

Tensors have four axes, batch, head, position and feature; key heads are shared by groups of consecutive query
heads. Query row `i` stands at position `i + NK - NQ`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Results = dict[str, Tensor]


def per_head(x: Tensor, heads: int) -> Tensor:
    """`[b, g, n, d]` as `[b, h, n, d]`: each key head repeated over its group."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def dots(Q: Tensor, K: Tensor) -> Tensor:
    """`[b, h, NQ, NK]`: scalar products over the square root of the head size."""
    return Q @ per_head(K, Q.shape[1]).transpose(-1, -2) / math.sqrt(Q.shape[-1])


def grid(Q: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the queries as a column and of the keys as a row, the last of either at the same place."""
    rows, columns = Q.shape[-2], K.shape[-2]
    q = torch.arange(columns - rows, columns, device=Q.device)[:, None]
    k = torch.arange(columns, device=Q.device)[None, :]
    return q, k


def places(Q: Tensor, K: Tensor) -> list[tuple[int, int]]:
    """Row and position of every query that does not stand before the first key."""
    shift = K.shape[-2] - Q.shape[-2]
    return [(i, i + shift) for i in range(Q.shape[-2]) if i + shift >= 0]


def weights(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the last axis among what is seen; all zeros where nothing is."""
    hidden = scores.masked_fill(~seen, -math.inf)
    peak = hidden.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    mass = torch.exp(hidden - peak)
    return mass / or_one(mass.sum(-1, keepdim=True))


def or_one(total: Tensor) -> Tensor:
    """A divisor: what it divides is 0 wherever it is."""
    return torch.where(total == 0, torch.ones_like(total), total)


def attended(scores: Tensor, seen: Tensor, V: Tensor) -> Results:
    """Output and log-sum-exp of softmax attention over `[b, h, NQ, NK]` scores."""
    seen = seen.expand_as(scores)
    blind = ~seen.any(-1)
    open_scores = scores.masked_fill(~seen & ~blind[..., None], -math.inf)
    lse = torch.logsumexp(open_scores, -1).masked_fill(blind, -math.inf)
    return {"O": weights(scores, seen) @ per_head(V, scores.shape[1]), "lse": lse}


def everything(Q: Tensor, K: Tensor) -> Tensor:
    return torch.ones(Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)


def band(Q: Tensor, K: Tensor, window: int) -> Tensor:
    """The band of the lower triangle `window` wide."""
    diagonal = K.shape[-2] - Q.shape[-2]
    return everything(Q, K).tril(diagonal).triu(diagonal - window + 1)


def first(scores: Tensor, count: int) -> Tensor:
    """Which of the last axis are its `count` greatest, the earlier ones of equals: a mask."""
    order = torch.sort(scores.detach(), dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


def block_means(X: Tensor, block: int) -> Tensor:
    """`[b, h, blocks, d]`: the mean of every block of positions, the last of which may be short."""
    return torch.stack([part.mean(-2) for part in torch.split(X, block, dim=-2)], dim=-2)
