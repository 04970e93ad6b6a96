"""Masks that tables decide, in plain PyTorch, written from what their papers say, not from the patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.patterns.parts import Results, attended, dots, grid, per_head, places


def clusters(Q: Tensor, K: Tensor, V: Tensor, cluster: Tensor) -> Results:
    """Routing by content (2003.05997): earlier keys of the query's own cluster, and those of none."""
    seen = torch.zeros(*Q.shape[:2], Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    own = per_head(cluster[..., None], Q.shape[1])[..., 0]
    for row, place in places(Q, K):
        before = own[..., : place + 1]
        seen[:, :, row, : place + 1] = (before == own[..., place, None]) | (before < 0)
    return attended(dots(Q, K), seen, V)


def block_layout(Q: Tensor, K: Tensor, V: Tensor, layout: Tensor, block: int = 64) -> Results:
    """Block-sparse causal attention (2205.14135): the layout's blocks drawn out, cut below the diagonal."""
    drawn = layout.repeat_interleave(block, 1).repeat_interleave(block, 2)
    seen = torch.zeros(layout.shape[0], Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    for row, place in places(Q, K):
        if place < drawn.shape[1]:
            width = min(place + 1, drawn.shape[2])
            seen[:, row, :width] = drawn[:, place, :width]
    return attended(dots(Q, K), seen, V)


def tree(Q: Tensor, K: Tensor, V: Tensor, above: Tensor) -> Results:
    """Medusa's tree attention (2401.10774): the mask of the last keys replaced by that of the tree."""
    nodes, columns = above.shape[-1], K.shape[-2]
    prompt = columns - nodes
    seen = torch.zeros(Q.shape[0], 1, Q.shape[-2], columns, dtype=torch.bool, device=Q.device)
    for row, place in places(Q, K):
        seen[:, 0, row, : max(0, min(place + 1, prompt))] = True
        for node in range(max(0, -prompt), nodes):
            if prompt + node <= place and 0 <= place - prompt < above.shape[1]:
                seen[:, 0, row, prompt + node] = above[:, place - prompt, node]
    return attended(dots(Q, K), seen, V)


def transfusion(Q: Tensor, K: Tensor, V: Tensor, image: Tensor) -> Results:
    """Transfusion (2408.11039): a causal mask, opened inside of every image."""
    q, k = grid(Q, K)
    seen = (k <= q).expand(Q.shape[0], 1, -1, -1).clone()
    for b in range(Q.shape[0]):
        for number in image[b].unique().tolist():
            inside = (image[b] == number).nonzero()[:, 0] if number >= 0 else image.new_empty(0)
            for row, place in places(Q, K):
                if place in inside.tolist():
                    seen[b, 0, row, inside] = True
    return attended(dots(Q, K), seen, V)
