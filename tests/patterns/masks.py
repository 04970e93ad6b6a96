"""Published masks in plain PyTorch, from their papers' formulas, one cell at a time.

What `definitions.py` says of functions and tensors holds too. `j` is a key head, `qb` and `kb` are blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.patterns.parts import Results, attended, dots, per_head, places

Rule = Callable[[int, int, int], object]
"""Whether head `h` sees, from position `q`, key `k`."""


def seen(Q: Tensor, K: Tensor, rule: Rule) -> Tensor:
    """`[h, NQ, NK]`: a rule at every cell."""
    shift = K.shape[-2] - Q.shape[-2]
    rows, columns = range(shift, shift + Q.shape[-2]), range(K.shape[-2])
    cells = [[[bool(rule(h, q, k)) for k in columns] for q in rows] for h in range(Q.shape[1])]
    return torch.tensor(cells, dtype=torch.bool, device=Q.device).reshape(-1, Q.shape[-2], K.shape[-2])


def masked(Q: Tensor, K: Tensor, V: Tensor, rule: Rule) -> Results:
    return {"O": attended(dots(Q, K), seen(Q, K, rule), V)["O"]}


def shared(Q: Tensor, K: Tensor) -> Callable[[int], int]:
    """The key head of a head."""
    return lambda h: h // (Q.shape[1] // K.shape[1])


def s2_relative(
    Q: Tensor, K: Tensor, V: Tensor, block: int = 64, left: int = 16, right: int = 16, stride: int = 8
) -> Results:
    """dkernel's bidirectional default (2407.17678)."""

    def rule(h: int, q: int, k: int) -> bool:
        qb, kb = q // block, k // block
        return (max(qb - kb - left + 1, 0) + max(kb - qb - right + 1, 0)) % stride == 0

    return masked(Q, K, V, rule)


def longgen(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    layer: int,
    layers: int = 32,
    window: int = 2048,
    sinks: int = 4,
) -> Results:
    """LongGen (2410.01485): first and last thirds of the layers sparse."""
    third = layers // 3
    sparse = layer in (*range(third), *range(layers - third, layers))
    return masked(Q, K, V, lambda h, q, k: k <= q and (not sparse or k in range(sinks) or q < k + window))


def sinklora(Q: Tensor, K: Tensor, V: Tensor, group: int = 2048, sinks: int = 4) -> Results:
    """S2-Attn's masks with rows and columns of sinks, all causal (2406.05678)."""

    def rule(h: int, q: int, k: int) -> bool:
        by = 0 if h < Q.shape[1] // 2 else group // 2
        return k <= q and ((q + by) // group == (k + by) // group or k < sinks or q < sinks)

    return masked(Q, K, V, rule)


def duo(Q: Tensor, K: Tensor, V: Tensor, full: Tensor, window: int = 256, sinks: int = 128) -> Results:
    """DuoAttention's inference (2410.10819): each key head by one of two masks."""
    j = shared(Q, K)
    return masked(Q, K, V, lambda h, q, k: q - k >= 0 and (full[j(h)] or k < sinks or k > q - window))


def duo_train(Q: Tensor, K: Tensor, V: Tensor, alpha: Tensor, window: int = 256, sinks: int = 128) -> Results:
    """DuoAttention's gate (2410.10819): two attentions, mixed after."""
    everything = masked(Q, K, V, lambda h, q, k: k <= q)["O"]
    stream = masked(Q, K, V, lambda h, q, k: k <= q and (k < sinks or q - k < window))["O"]
    share = alpha.repeat_interleave(Q.shape[1] // K.shape[1])[:, None, None]
    return {"O": share * everything + (1 - share) * stream}


def razor(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    retrieval: Tensor,
    sinks: int = 4,
    recent: int = 4000,
    part: int = 5,
) -> Results:
    """RazorAttention (2407.15891): one more key, the mean of those dropped, its logit biased by log count."""
    K, V = per_head(K, Q.shape[1]), per_head(V, Q.shape[1])
    last = max(recent, K.shape[-2] // part)
    rows = [torch.zeros_like(V[..., 0, :])] * max(0, Q.shape[-2] - K.shape[-2])
    for row, place in places(Q, K):
        heads = []
        for h in range(Q.shape[1]):
            near = {*range(sinks), *range(place - last + 1, place + 1)}
            kept = [k for k in range(place + 1) if retrieval[h] or k in near]
            dropped = [k for k in range(place + 1) if k not in kept]
            keys, values = K[:, h, kept], V[:, h, kept]
            bias = torch.zeros(len(kept), dtype=Q.dtype)
            if dropped:
                keys = torch.cat([keys, K[:, h, dropped].mean(1, keepdim=True)], 1)
                values = torch.cat([values, V[:, h, dropped].mean(1, keepdim=True)], 1)
                bias = torch.cat([bias, torch.tensor([float(len(dropped))], dtype=Q.dtype).log()])
            logits = torch.einsum("bd,bkd->bk", Q[:, h, row], keys) * Q.shape[-1] ** -0.5 + bias
            heads.append(torch.einsum("bk,bke->be", torch.softmax(logits, -1), values))
        rows.append(torch.stack(heads, 1))
    return {"O": torch.stack(rows, -2)}


def moa(Q: Tensor, K: Tensor, V: Tensor, spans: Tensor, block: int = 64, sinks: int = 1) -> Results:
    """MoA's prefill (2406.14909), in blocks."""

    def rule(h: int, q: int, k: int) -> bool:
        qb, kb = q // block, k // block
        return k <= q and (kb < sinks or kb > qb - int(spans[h]))

    return masked(Q, K, V, rule)


def masformer(Q: Tensor, K: Tensor, V: Tensor, full: bool = False, block: int = 1024) -> Results:
    """MASFormer (2310.12442): causal, or the own block and the one before."""
    return masked(Q, K, V, lambda h, q, k: k <= q and (full or k // block in (q // block, q // block - 1)))


def lserve(
    Q: Tensor, K: Tensor, V: Tensor, streaming: Tensor, block: int = 128, sinks: int = 1, local: int = 64
) -> Results:
    """LServe (2502.14866): blocks from the start, and back from the query's."""
    j = shared(Q, K)

    def rule(h: int, q: int, k: int) -> object:
        blocks = {*range(sinks), *range(q // block - local + 1, q // block + 1)}
        return k <= q and (k // block in blocks or not streaming[j(h)])

    return masked(Q, K, V, rule)


def a_shape(Q: Tensor, K: Tensor, V: Tensor, shaped: Tensor, first: int = 1024, local: int = 4096) -> Results:
    """MInference's A-shape (2407.02490)."""
    return masked(
        Q,
        K,
        V,
        lambda h, q, k: k <= q and (k in range(first) or k in range(q - local + 1, q + 1) or not shaped[h]),
    )


def uni_encoder(Q: Tensor, K: Tensor, V: Tensor, segment: Tensor) -> Results:
    """Uni-Encoder's arrow attention (2106.01263): one row of segments a sequence."""
    both = []
    for row in segment.tolist():
        rule = lambda h, q, k, row=row: q >= 0 and (0 in (row[q], row[k]) or row[q] == row[k])  # noqa: E731
        both.append(seen(Q, K, rule))
    return {"O": attended(dots(Q, K), torch.stack(both), V)["O"]}


def yopo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    keep: Tensor,
    first: int,
    height: int = 24,
    width: int = 24,
    window: int = 7,
) -> Results:
    """Visual tokens (2410.06169): neighbours in the image, else causal; columns and rows of it weighed."""
    at = {first + y * width + x: (y, x) for y in range(height) for x in range(width)}

    def rule(h: int, q: int, k: int) -> bool:
        if q in at and k in at:
            return all(abs(i - j) <= (window - 1) // 2 for i, j in zip(at[q], at[k], strict=True))
        return k <= q

    shift = K.shape[-2] - Q.shape[-2]
    column = torch.tensor([k in at for k in range(K.shape[-2])], dtype=torch.bool)[:, None]
    row = torch.tensor([q + shift in at for q in range(Q.shape[-2])], dtype=torch.bool)[:, None]
    per = keep[:, None, None]
    made = masked(Q, K, torch.where(column, per, 1.0) * per_head(V, Q.shape[1]), rule)["O"]
    return {"O": torch.where(row, per, 1.0) * made}


def natten1d(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    window: int = 7,
    dilation: int = 1,
    stride: int = 1,
    causal: bool = False,
) -> Results:
    """NATTEN's rule for one axis (2504.16922)."""
    left, right, n = window // 2, window // 2 + window % 2 - 1, K.shape[-2]

    def rule(h: int, q: int, k: int) -> bool:
        g, p = q % dilation, q // dilation
        length = -((g - n) // dilation)
        if causal:
            lead = min(p // stride * stride + stride - 1, length - 1)
            start, end = max(lead - left - right, 0), min(p + 1, length)
        else:
            lead = min(p // stride * stride + stride // 2, length - 1)
            start = max(lead - left, 0)
            start += (lead + right >= length) * (length - right - lead - 1)
            end = start + window
        return k % dilation == g and start <= k // dilation < end

    return masked(Q, K, V, rule)


def bigbird(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    random: Tensor,
    block: int = 64,
    window: int = 3,
    globals: int = 1,
) -> Results:
    """BigBird (2007.14062): a layout of blocks for each head."""
    layout = random.clone()
    layout[:, :globals] = True
    layout[:, :, :globals] = True
    for n in range(layout.shape[1]):
        layout[:, n, max(0, n - window // 2) : n + window // 2 + 1] = True
    return masked(Q, K, V, lambda h, q, k: q >= 0 and layout[h, q // block, k // block])


def longformer(Q: Tensor, K: Tensor, V: Tensor, marked: Tensor, window: int = 512) -> Results:
    """Longformer (2004.05150): a band, and whole rows and columns."""
    both = []
    for row in marked.tolist():
        rule = lambda h, q, k, row=row: q >= 0 and (abs(q - k) <= window // 2 or row[q] or row[k])  # noqa: E731
        both.append(seen(Q, K, rule))
    return {"O": attended(dots(Q, K), torch.stack(both), V)["O"]}


def block_causal(Q: Tensor, K: Tensor, V: Tensor, block: int = 32) -> Results:
    """A block diffusion model's cache (2503.09573): up to the end of the query's block."""
    rule = seen(Q, K, lambda h, q, k: k < (q // block + 1) * block)
    return attended(dots(Q, K), rule, V)


def block_diffusion(Q: Tensor, K: Tensor, V: Tensor, block: int = 32) -> Results:
    """Block diffusion's training (2503.09573): block diagonal, offset block-causal and block-causal."""
    n = K.shape[-2] // 2

    def rule(h: int, q: int, k: int) -> bool:
        qb, kb = (q - n if q >= n else q) // block, (k - n if k >= n else k) // block
        diagonal = qb == kb and (q >= n) == (k >= n)
        offset = qb > kb and k >= n and q < n
        return diagonal or offset or (qb >= kb and k >= n and q >= n)

    return masked(Q, K, V, rule)


def sparse_strided(Q: Tensor, K: Tensor, V: Tensor, stride: int = 128) -> Results:
    """Sparse Transformer (1904.10509): the union of the strided pattern's two sets."""
    return masked(
        Q, K, V, lambda h, q, k: k in range(max(0, q - stride + 1), q + 1) or k in range(q, -1, -stride)
    )


def sparse_fixed(Q: Tensor, K: Tensor, V: Tensor, block: int = 128, summary: int = 8) -> Results:
    """Sparse Transformer (1904.10509): the union of the fixed pattern's two sets."""
    last = range(max(0, block - summary), block)
    return masked(Q, K, V, lambda h, q, k: k <= q and (q // block == k // block or k % block in last))


def window_cells(at: int, block: int, around: int) -> range:
    """HaloNet's window on an axis: the block of a position, and the halo."""
    start = at - at % block
    return range(start - around, start + block + around)


def _halo(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    rows: Tensor,
    columns: Tensor,
    width: int,
    block: int,
    around: int,
    padded: bool,
) -> Results:
    """One query at a time: cells of its window, keys and values of zeros where the grid has none."""
    K, V = per_head(K, Q.shape[1]), per_head(V, Q.shape[1])
    K, V = (torch.cat([x, torch.zeros_like(x[..., :1, :])], -2) for x in (K, V))
    height, reach = (K.shape[-2] - 1) // width, block + 2 * around
    made = []
    for row, place in places(Q, K[..., :-1, :]):
        y, x = divmod(place, width)
        ys, xs = window_cells(y, block, around), window_cells(x, block, around)
        cells = [(i, j, v, w) for i, v in enumerate(ys) for j, w in enumerate(xs)]
        inside = [v in range(height) and w in range(width) for *_, v, w in cells]
        cells = [c for c, within in zip(cells, inside, strict=True) if within or padded]
        keys = [
            v * width + w if v in range(height) and w in range(width) else height * width
            for *_, v, w in cells
        ]
        down = [i - y % block + reach - 1 for i, *_ in cells]
        right = [j - x % block + reach - 1 for _, j, *_ in cells]
        q = Q[:, :, row]
        logits = torch.einsum("bhd,bhkd->bhk", q, K[:, :, keys]) * q.shape[-1] ** -0.5
        logits = logits + torch.einsum("bhd,hkd->bhk", q, rows[:, down] + columns[:, right])
        made.append(torch.einsum("bhk,bhke->bhe", torch.softmax(logits, -1), V[:, :, keys]))
    return {"O": torch.stack(made, -2)}


def halonet(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    rows: Tensor,
    columns: Tensor,
    width: int,
    block: int = 8,
    around: int = 3,
) -> Results:
    """HaloNet (2103.12731), the border masked."""
    return _halo(Q, K, V, rows, columns, width, block, around, padded=False)


def halonet_padded(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    rows: Tensor,
    columns: Tensor,
    width: int,
    block: int = 8,
    around: int = 3,
) -> Results:
    """HaloNet (2103.12731), the border zeros, as timm has it."""
    return _halo(Q, K, V, rows, columns, width, block, around, padded=True)


def hilo(
    Q: Tensor, K: Tensor, V: Tensor, X: Tensor, Y: Tensor, Z: Tensor, width: int, window: int = 2
) -> Results:
    """HiLo (2205.13213): attention inside windows, and over what `avg_pool2d` leaves."""
    height = K.shape[-2] // width

    def windows(x: Tensor) -> Tensor:
        """`[b, h, windows, cells, d]`."""
        grid = x.unflatten(2, (height // window, window, width // window, window))
        return grid.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def pooled(x: Tensor) -> Tensor:
        image = x.flatten(0, 1).mT.unflatten(2, (height, width))
        small = torch.nn.functional.avg_pool2d(image, window)
        return small.flatten(2).mT.unflatten(0, x.shape[:2])

    attend = torch.nn.functional.scaled_dot_product_attention
    high = attend(windows(Q), windows(K), windows(V))
    high = high.unflatten(3, (window, window)).unflatten(2, (height // window, width // window))
    return {"O": high.transpose(3, 4).flatten(2, 5), "U": attend(X, pooled(Y), pooled(Z))}


def agent(Q: Tensor, A: Tensor, K: Tensor, V: Tensor, B: Tensor, C: Tensor) -> Results:
    """Agent attention (2312.08874): aggregation, then broadcast."""
    gathered = torch.softmax(A @ K.mT / A.shape[-1] ** 0.5 + B, -1) @ V
    return {"O": torch.softmax(Q @ A.mT / Q.shape[-1] ** 0.5 + C, -1) @ gathered}
