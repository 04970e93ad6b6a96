"""Published attentions in plain PyTorch, written from their papers' formulas and not from the pattern texts.

One function per pattern, with the pattern's parameters in its order and its defaults. Tensors have four axes,
batch, head, position and feature, and any float dtype; key heads are shared by groups of consecutive query
heads. Each returns what the pattern computes by name, its outputs first. Query row `i` stands at position
`i + NK - NQ`; a row that sees nothing is 0, its lse `-inf`. All are differentiable, and no gradient is NaN.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from tests.patterns.parts import (
    Results,
    attended,
    band,
    block_means,
    dots,
    everything,
    first,
    grid,
    or_one,
    per_head,
    places,
    weights,
)


def dense(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Softmax attention without a mask (1706.03762)."""
    return attended(dots(Q, K), everything(Q, K), V)


def cross(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Encoder-decoder attention (1706.03762)."""
    return attended(dots(Q, K), everything(Q, K), V)


def causal(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Causal attention (1706.03762)."""
    return attended(dots(Q, K), everything(Q, K).tril(K.shape[-2] - Q.shape[-2]), V)


def window(Q: Tensor, K: Tensor, V: Tensor, window: int = 4096) -> Results:
    """Sliding-window attention (2310.06825)."""
    return attended(dots(Q, K), band(Q, K, window), V)


def streaming(Q: Tensor, K: Tensor, V: Tensor, window: int = 1024, sinks: int = 4) -> Results:
    """StreamingLLM (2309.17453): what stays of a cache that keeps its first and its latest keys."""
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        seen[row, : min(sinks, place + 1)] = True
        seen[row, max(0, place - window + 1) : place + 1] = True
    return attended(dots(Q, K), seen, V)


def alibi(Q: Tensor, K: Tensor, V: Tensor, slope: Tensor) -> Results:
    """ALiBi (2108.12409)."""
    q, k = grid(Q, K)
    return attended(dots(Q, K) + slope[:, None, None] * (k - q), k <= q, V)


def softcap(Q: Tensor, K: Tensor, V: Tensor, cap: float = 50.0) -> Results:
    """Gemma 2's soft cap (2408.00118)."""
    q, k = grid(Q, K)
    return attended(torch.tanh(dots(Q, K) / cap) * cap, k <= q, V)


def sigmoid(Q: Tensor, K: Tensor, V: Tensor, bias: float) -> Results:
    """Sigmoid attention (2409.04431)."""
    return {"O": 1 / (1 + torch.exp(-dots(Q, K) - bias)) @ per_head(V, Q.shape[1])}


def sink(Q: Tensor, K: Tensor, V: Tensor, sink: Tensor) -> Results:
    """gpt-oss (2508.10925): one more column of scores, whose probability is dropped."""
    q, k = grid(Q, K)
    scores = dots(Q, K).masked_fill(k > q, -math.inf)
    column = sink[None, :, None, None].expand(*scores.shape[:-1], 1)
    scores = torch.cat([scores, column], -1)
    P = torch.softmax(scores, -1)[..., :-1]
    return {"O": P @ per_head(V, Q.shape[1]), "lse": torch.logsumexp(scores, -1)}


def s2(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    block: int = 64,
    local: int = 16,
    stride: int = 8,
    offset: int = 0,
    alike: bool = False,
) -> Results:
    """S2-Attention (2407.17678), dkernel's causal rule: one layout of blocks a key head, or one for all."""
    groups, count = K.shape[1], -(-K.shape[-2] // block)
    step = max(1, stride // (1 if alike else groups))
    layout = torch.zeros(groups, count, count, dtype=torch.bool, device=Q.device)
    for j in range(groups):
        for qb in range(count):
            for kb in range(qb + 1):
                layout[j, qb, kb] = (
                    qb - kb < local or (kb + (0 if alike else j) * step + offset) % stride == 0
                )
    q, k = grid(Q, K)
    seen = layout[:, (q // block).clamp_min(0), k // block] & (k <= q)
    return {"O": attended(dots(Q, K), per_head(seen[None], Q.shape[1]), V)["O"]}


def reach(at: int, window: int, size: int) -> range:
    """NATTEN's window around a position of an axis."""
    left, right = window // 2, window // 2 + window % 2 - 1
    low = max(at - left, 0)
    if at + right >= size:
        low += size - right - at - 1
    return range(low, low + window)


def neighborhood2d(Q: Tensor, K: Tensor, V: Tensor, width: int, window: int = 7) -> Results:
    """Neighborhood attention (2204.07143), NATTEN's windows along each axis, one query at a time."""

    height = K.shape[-2] // width
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        for y in reach(place // width, window, height):
            for x in reach(place % width, window, width):
                seen[row, y * width + x] = True
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def h2o(Q: Tensor, K: Tensor, V: Tensor, heavy: int = 64, recent: int = 64) -> Results:
    """H2O (2306.14048): scores of keys added up query by query, and what the cache keeps of them."""
    q, k = grid(Q, K)
    P = weights(dots(Q, K), k <= q)
    mass = torch.zeros_like(P[..., 0, :])
    for row in range(Q.shape[-2]):
        mass = mass + P[..., row, :]
    old = max(0, K.shape[-2] - recent)
    keep = torch.ones_like(mass, dtype=torch.bool)
    keep[..., :old] = first(mass[..., :old], heavy)
    return {"O": P @ per_head(V, Q.shape[1]), "mass": mass, "keep": keep}


def landmark(Q: Tensor, K: Tensor, V: Tensor, block: int = 64) -> Results:
    """Landmark attention (2305.16300): a softmax over own keys and landmarks, and one per block."""
    K, V = per_head(K, Q.shape[1]), per_head(V, Q.shape[1])
    S = dots(Q, K)
    shift = K.shape[-2] - Q.shape[-2]
    parts = [torch.zeros_like(V[..., :1, :]).expand(*V.shape[:2], max(0, -shift), -1)]
    for base in range(max(0, shift) // block * block, K.shape[-2], block):
        place = torch.arange(max(base, shift), min(base + block, K.shape[-2]), device=Q.device)
        rows = S[..., place[0] - shift : place[-1] - shift + 1, :]
        before, regular = (
            base // block,
            torch.arange(base, min(base + block - 1, K.shape[-2]), device=Q.device),
        )
        marks = torch.arange(before, device=Q.device) * block + block - 1
        outer = weights(
            rows[..., torch.cat([marks, regular])], torch.cat([marks, regular])[None, :] <= place[:, None]
        )
        inner = torch.softmax(torch.unflatten(rows[..., :base], -1, (before, block))[..., :-1], -1)
        values = torch.unflatten(V[..., :base, :], -2, (before, block))[..., :-1, :]
        far = torch.einsum("bhqn,bhqni,bhnie->bhqe", outer[..., :before], inner, values)
        parts.append(outer[..., before:] @ V[..., regular, :] + far)
    return {"O": torch.cat(parts, -2)}


def moba(Q: Tensor, K: Tensor, V: Tensor, block: int = 512, picks: int = 3) -> Results:
    """MoBA (2502.13189): `picks` blocks a query and head, its own, which comes first, among them."""
    affinity = Q @ per_head(block_means(K, block), Q.shape[1]).transpose(-1, -2)
    q, k = grid(Q, K)
    seen = torch.zeros(*Q.shape[:2], Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    for row, place in places(Q, K):
        own = place // block
        ranking = affinity[..., row, :].detach().clone()
        ranking[..., own] = math.inf
        ranking[..., own + 1 :] = -math.inf
        chosen = first(ranking, picks)
        seen[..., row, :] = chosen.repeat_interleave(block, dim=-1)[..., : K.shape[-2]]
    return {"O": attended(dots(Q, K), seen & (k <= q), V)["O"]}


def nsa(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    Gcmp: Tensor,
    Gslc: Tensor,
    Gwin: Tensor,
    block: int = 64,
    picks: int = 16,
    window: int = 512,
) -> Results:
    """Native sparse attention (2502.11089), the rules of flash-linear-attention's naive form."""
    heads, groups = Q.shape[1], K.shape[1]
    q, k = grid(Q, K)
    Kc, Vc = block_means(K, block), block_means(V, block)
    blocks = torch.arange(Kc.shape[-2], device=Q.device)

    complete = (blocks + 1) * block <= q + 1
    P = weights(dots(Q, Kc), complete)
    compressed = P @ per_head(Vc, heads)

    importance = torch.unflatten(P.detach(), 1, (groups, heads // groups)).mean(2)
    seen = torch.zeros(Q.shape[0], groups, Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    for row, place in places(Q, K):
        own = place // block
        ranking = importance[..., row, :].clone()
        for forced in {0, max(own - 1, 0), own}:
            ranking[..., forced] = 2.0
        ranking[..., own + 1 :] = -1.0
        chosen = first(ranking, picks) & (blocks <= own)
        seen[..., row, :] = chosen.repeat_interleave(block, dim=-1)[..., : K.shape[-2]]
    selected = attended(dots(Q, K), per_head(seen, heads) & (k <= q), V)["O"]

    near = attended(dots(Q, K), (k <= q) & (k > q - window), V)["O"]
    branches = ((Gcmp, compressed), (Gslc, selected), (Gwin, near))
    return {"O": sum((gate[..., None] * branch for gate, branch in branches), torch.zeros_like(near))}


def decayed(Q: Tensor, K: Tensor, V: Tensor, keep: Tensor) -> Tensor:
    """Linear attention step by step: the state times `keep[h]`, plus the outer product of key and value."""
    S = torch.zeros(*K.shape[:2], K.shape[-1], V.shape[-1], dtype=Q.dtype, device=Q.device)
    rows = [torch.zeros_like(S[..., 0, :]) for _ in range(Q.shape[-2])]
    shift = K.shape[-2] - Q.shape[-2]
    for t in range(K.shape[-2]):
        S = keep[:, None, None] * S + K[..., t, :, None] * V[..., t, None, :]
        if t >= shift:
            rows[t - shift] = torch.einsum("bhd,bhde->bhe", Q[..., t - shift, :], S)
    return torch.stack(rows, -2)


def lightning(Q: Tensor, K: Tensor, V: Tensor, slope: Tensor) -> Results:
    """Lightning attention (2401.04658), its recurrence."""
    return {"O": decayed(Q, K, V, torch.exp(-slope))}


def retnet(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Retention (2307.08621), its recurrence."""
    gamma = [1 - 2.0 ** (-5 - h) for h in range(Q.shape[1])]
    return {
        "O": decayed(Q / math.sqrt(Q.shape[-1]), K, V, torch.tensor(gamma, dtype=Q.dtype, device=Q.device))
    }


def gla(Q: Tensor, K: Tensor, V: Tensor, g: Tensor) -> Results:
    """Gated linear attention (2312.06635), its parallel form: decay inside the contraction over channels."""
    q, k = grid(Q, K)
    G = g.cumsum(-2)
    at = G[..., q[:, 0].clamp_min(0), :]
    gap = (at[..., :, None, :] - G[..., None, :, :]).masked_fill((k > q)[..., None], -math.inf)
    A = torch.einsum("bhqd,bhkd,bhqkd->bhqk", Q / math.sqrt(Q.shape[-1]), K, torch.exp(gap))
    return {"O": A @ V}


def taylor(x: Tensor) -> Tensor:
    """BASED's feature map: `phi(q) . phi(k) == 1 + s + s * s / 2` with s the scaled scalar product."""
    d = x.shape[-1]
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) / (math.sqrt(2) * math.sqrt(d))
    return torch.cat([torch.ones_like(x[..., :1]), x / d**0.25, squares], -1)


def normalised(A: Tensor, V: Tensor) -> Tensor:
    """Values under weights divided by their sum, which is 0 only where all weights are."""
    return A @ V / or_one(A.sum(-1, keepdim=True))


def based(Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """BASED (2402.18668), through its feature map."""
    q, k = grid(Q, K)
    A = (taylor(Q) @ taylor(K).transpose(-1, -2)).masked_fill(k > q, 0.0)
    return {"O": normalised(A, V)}


def based_window(Q: Tensor, K: Tensor, V: Tensor, window: int = 64) -> Results:
    """BASED's two weights (2402.18668) under one normaliser, exp where `q - k < window`."""
    q, k = grid(Q, K)
    far = (taylor(Q) @ taylor(K).transpose(-1, -2)).masked_fill(q - k < window, 0.0)
    near = torch.exp(dots(Q, K).masked_fill((k > q) | (q - k >= window), -math.inf))
    return {"O": normalised(far + near, V)}


def gated_delta(Q: Tensor, K: Tensor, V: Tensor, g: Tensor, beta: Tensor) -> Results:
    """Gated DeltaNet (2412.06464): decay the state, read what it says of the key, write the difference."""
    S = torch.zeros(*K.shape[:2], K.shape[-1], V.shape[-1], dtype=Q.dtype, device=Q.device)
    rows = [torch.zeros_like(S[..., 0, :]) for _ in range(Q.shape[-2])]
    shift = K.shape[-2] - Q.shape[-2]
    for t in range(K.shape[-2]):
        S = torch.exp(g[..., t])[..., None, None] * S
        said = torch.einsum("bhd,bhde->bhe", K[..., t, :], S)
        new = beta[..., t, None] * (V[..., t, :] - said)
        S = S + K[..., t, :, None] * new[..., None, :]
        if t >= shift:
            rows[t - shift] = torch.einsum("bhd,bhde->bhe", Q[..., t - shift, :], S) / math.sqrt(Q.shape[-1])
    return {"O": torch.stack(rows, -2)}


def prefix_lm(Q: Tensor, K: Tensor, V: Tensor, prefix: int) -> Results:
    """Prefix LM (1910.10683): a lower triangle, its first columns filled up."""
    seen = everything(Q, K).tril(K.shape[-2] - Q.shape[-2])
    seen[:, : max(0, prefix)] = True
    return attended(dots(Q, K), seen, V)


def document(Q: Tensor, K: Tensor, V: Tensor, doc: Tensor) -> Results:
    """Intra-document causal masking (2402.13991): each document of each sequence attended by itself."""
    seen = torch.zeros(Q.shape[0], 1, Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    for b in range(Q.shape[0]):
        _, counts = torch.unique_consecutive(doc[b], return_counts=True)
        starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        for row, place in places(Q, K):
            seen[b, 0, row, int(starts[place]) : place + 1] = True
    return attended(dots(Q, K), seen, V)


def packed(Q: Tensor, K: Tensor, V: Tensor, cu: Tensor) -> Results:
    """FlashAttention's packed layout (2307.08691), heads behind positions: causal attention, once for every
    sequence.
    """
    Q, K, V = (x.transpose(0, 1)[None] for x in (Q, K, V))
    size, seen = K.shape[-2], ~everything(Q, K)
    for start, end in pairwise([0, *cu.clamp(max=size).tolist(), size]):
        for row, place in places(Q, K):
            if start <= place < end:
                seen[row, start : place + 1] = True
    made = attended(dots(Q, K), seen, V)
    return {name: x[0] for name, x in made.items()}


def padded(Q: Tensor, K: Tensor, V: Tensor, length: Tensor) -> Results:
    """Each sequence cut to its length, attended causally, and filled up with zeros."""
    seen = everything(Q, K).tril(K.shape[-2] - Q.shape[-2]).repeat(Q.shape[0], 1, 1, 1)
    for b, size in enumerate(length.tolist()):
        seen[b, ..., size:] = False
        seen[b, 0, [row for row, place in places(Q, K) if place >= size]] = False
    return attended(dots(Q, K), seen, V)


def left_padded(Q: Tensor, K: Tensor, V: Tensor, pad: Tensor) -> Results:
    """Causal, without the first keys of each sequence."""
    seen = everything(Q, K).tril(K.shape[-2] - Q.shape[-2]).repeat(Q.shape[0], 1, 1, 1)
    for b, count in enumerate(pad.tolist()):
        seen[b, ..., :count] = False
    return attended(dots(Q, K), seen, V)


def ragged(Q: Tensor, K: Tensor, V: Tensor, start: Tensor) -> Results:
    """Row `i` of a sequence sees the keys up to `start + i`."""
    seen = torch.stack([everything(Q, K).tril(int(first))[None] for first in start])
    return attended(dots(Q, K), seen, V)


def shared_prefix(Q: Tensor, K: Tensor, V: Tensor, doc: Tensor, prefix: int) -> Results:
    """Hydragen (2402.05099): each document attends to a common prefix and to itself, causally."""
    return _documents_and(doc, torch.arange(K.shape[-2]) < prefix, Q, K, V)


def anchor(Q: Tensor, K: Tensor, V: Tensor, doc: Tensor) -> Results:
    """AnchorAttention (2411.13476): causal, in the own document and in document 0."""
    return _documents_and(doc, doc == 0, Q, K, V)


def _documents_and(doc: Tensor, more: Tensor, Q: Tensor, K: Tensor, V: Tensor) -> Results:
    """Causal attention in documents, and to some more keys."""
    shift = K.shape[-2] - Q.shape[-2]
    own = torch.full((Q.shape[0], Q.shape[-2]), -(10**6))
    own[:, max(0, -shift) :] = doc[:, max(0, shift) :]
    seen = (own[..., None] == doc[:, None]) | more.expand_as(doc)[:, None]
    return attended(dots(Q, K), (seen & everything(Q, K).tril(shift))[:, None], V)


def chunked(Q: Tensor, K: Tensor, V: Tensor, chunk: int = 8192) -> Results:
    """Llama 4's chunked attention: from the start of the query's chunk to the query."""
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        seen[row, place - place % chunk : place + 1] = True
    return attended(dots(Q, K), seen, V)


def gemma2(
    Q: Tensor, K: Tensor, V: Tensor, window: int = 4096, cap: float = 50.0, scalar: float = 256.0
) -> Results:
    """Gemma 2's local layers (2408.00118): scale the queries, cap the scores, then mask."""
    scores = (Q * scalar**-0.5) @ per_head(K, Q.shape[1]).transpose(-1, -2)
    return attended(torch.tanh(scores / cap) * cap, band(Q, K, window), V)


def qk_norm(Q: Tensor, K: Tensor, V: Tensor, Wq: Tensor, Wk: Tensor, eps: float = 1e-6) -> Results:
    """Qwen3's normalised queries and keys (2505.09388)."""
    X, Y = (torch.nn.functional.rms_norm(x, x.shape[-1:], w, eps) for x, w in ((Q, Wq), (K, Wk)))
    q, k = grid(Q, K)
    return attended(dots(X, Y), k <= q, V)


def longlora(Q: Tensor, K: Tensor, V: Tensor, group: int = 2048) -> Results:
    """LongLoRA (2309.12307), its FlashAttention path: cuts every `group` keys, or half of that earlier."""
    seen = torch.zeros(Q.shape[1], Q.shape[-2], K.shape[-2], dtype=torch.bool, device=Q.device)
    for h in range(Q.shape[1]):
        first_cut = group if h < Q.shape[1] // 2 else group - group // 2
        cuts = [0, *range(first_cut, K.shape[-2], group)]
        for row, place in places(Q, K):
            seen[h, row, max(c for c in cuts if c <= place) : place + 1] = True
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def neighborhood3d(Q: Tensor, K: Tensor, V: Tensor, height: int, width: int, window: int = 7) -> Results:
    """Neighborhood attention in a volume (2204.07143), NATTEN's windows along each axis."""
    depth = K.shape[-2] // (height * width)
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        z, y, x = place // (height * width), place // width % height, place % width
        for i in reach(z, window, depth):
            for j in reach(y, window, height):
                for n in reach(x, window, width):
                    seen[row, (i * height + j) * width + n] = True
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def dilated(Q: Tensor, K: Tensor, V: Tensor, dilation: int = 4, window: int = 256) -> Results:
    """Longformer's dilated window (2004.05150), looking back: `window` keys, `dilation` apart."""
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        seen[row, [k for n in range(window) if (k := place - n * dilation) >= 0]] = True
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def natten(length: int, window: int, dilation: int, stride: int, causal: bool) -> Tensor:
    """What positions of an axis see, as NATTEN's reference kernel has it (2504.16922)."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    left, right = window // 2, window // 2 + window % 2 - 1
    for i in range(length):
        rest, p = i % dilation, i // dilation
        size = -(-(length - rest) // dilation)
        if causal:
            leader = min(p // stride * stride + stride - 1, size - 1)
            low, high = max(leader - left - right, 0), min(p + 1, size)
        else:
            leader = min(p // stride * stride + stride // 2, size - 1)
            low = max(leader - left, 0)
            low += size - right - leader - 1 if leader + right >= size else 0
            high = low + window
        seen[i, [rest + n * dilation for n in range(low, high)]] = True
    return seen


def natten2d(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    width: int,
    window_y: int = 7,
    window_x: int = 7,
    dilation_y: int = 1,
    dilation_x: int = 1,
    stride_y: int = 1,
    stride_x: int = 1,
    causal_y: bool = False,
    causal_x: bool = False,
) -> Results:
    """NATTEN's whole rule on a grid: each axis by itself."""
    rows = natten(K.shape[-2] // width, window_y, dilation_y, stride_y, causal_y)
    columns = natten(width, window_x, dilation_x, stride_x, causal_x)
    both = torch.kron(rows.to(torch.int8), columns.to(torch.int8)).bool()
    seen = both[[place for _, place in places(Q, K)]].to(Q.device)
    return {"O": attended(dots(Q, K), seen, V)["O"]}


def neighborhood1d(Q: Tensor, K: Tensor, V: Tensor, window: int = 7) -> Results:
    """Neighborhood attention (2204.07143) along one axis, NATTEN's window of every query."""
    seen = ~everything(Q, K)
    for row, place in places(Q, K):
        seen[row, list(reach(place, window, K.shape[-2]))] = True
    return attended(dots(Q, K), seen, V)


def rotated(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Features as complex numbers, the second half imaginary, turned by their positions."""
    pairs = x.shape[-1] // 2
    speed = base ** (-torch.arange(pairs, dtype=x.dtype, device=x.device) / pairs)
    angle = positions.to(x.dtype)[:, None] * speed
    turned = torch.complex(x[..., :pairs], x[..., pairs:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def rope(Q: Tensor, K: Tensor, V: Tensor, base: float = 10000.0) -> Results:
    """Rotary embedding (2104.09864), causal."""
    q, k = grid(Q, K)
    scores = dots(rotated(Q, q[:, 0], base), rotated(K, k[0], base))
    return {"O": attended(scores, k <= q, V)["O"]}


def differential(Q1: Tensor, K1: Tensor, Q2: Tensor, K2: Tensor, V: Tensor, lam: Tensor) -> Results:
    """Differential attention (2410.05258): each softmax applied, then subtracted."""
    q, k = grid(Q1, K1)
    first_map, second_map = (attended(dots(Q, K), k <= q, V)["O"] for Q, K in ((Q1, K1), (Q2, K2)))
    return {"O": first_map - lam * second_map}


def per_head_window(Q: Tensor, K: Tensor, V: Tensor, span: Tensor) -> Results:
    """A window for each head (1905.07799)."""
    return attended(dots(Q, K), torch.stack([band(Q, K, int(w)) for w in span]), V)
