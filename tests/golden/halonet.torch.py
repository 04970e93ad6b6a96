"""HaloNet: blocks of a grid, each with a halo, and learned vectors for distances (arXiv 2103.12731).

The grid is in row-major order, `width` to the row. A table has `2 * (block + 2 * halo) - 1` rows, of which
row `|r| // 2 + halo` stands for distance 0, as in timm. Keys beyond the grid are absent; in `halonet_padded`,
as in timm, they take part with zeros.

(1) zero = |r| // 2 + around
(2) near[q,k] = halo(k // width, q // width, block, around) and halo(k % width, q % width, block,
    around)
(3) down[q,k] = sum(d) Q[q,d] * rows[k // width - q // width + zero, d]
(4) right[q,k] = sum(d) Q[q,d] * columns[k % width - q % width + zero, d]
(5) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|) + down[q,k] + right[q,k]
(6) P[q,k] = softmax(k where near[q,k]) S[q,k]
(7) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen1: k // width - (q + (|k| - |q|)) // width + (|r| // 2 + around) >= 0 and k // width - (q +
        (|k| - |q|)) // width + (|r| // 2 + around) < |r|
    seen2: k % width - (q + (|k| - |q|)) % width + (|r| // 2 + around) >= 0 and k % width - (q +
        (|k| - |q|)) % width + (|r| // 2 + around) < |r|
    seen3: (q + (|k| - |q|)) // width // block * block - around <= k // width and k // width < (q +
        (|k| - |q|)) // width // block * block + block + around and (q + (|k| - |q|)) % width //
        block * block - around <= k % width and k % width < (q + (|k| - |q|)) % width // block *
        block + block + around
    down[q,k] = sum(d where seen1) Q[q,d] * rows[k // width - (q + (|k| - |q|)) // width + (|r| // 2
        + around), d]
    right[q,k] = sum(d where seen2) Q[q,d] * columns[k % width - (q + (|k| - |q|)) % width + (|r| //
        2 + around), d]
    S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen3) (S_sum[q,k] + down[q,k] + right[q,k])
    P_total[q] = sum(k where seen3) exp(S_sum[q,k] + down[q,k] + right[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen3) V[k,e] * exp(S_sum[q,k] + down[q,k] + right[q,k] -
        finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over the boxes of k_a, k_b that are live along each; tiles of rows are boxes too.
State of a row: P_max[q], P_total[q], O_total[q,e].

Edit the pattern, not this file.
"""

import math

import torch


def extents(*tensors):
    """Extents by index; each tensor is (name, its indices, itself). What does not fit is an error."""
    found = {}
    first = tensors[0][2]
    for name, indices, tensor in tensors:
        names = indices.split()
        if not torch.is_tensor(tensor):
            raise TypeError(f"`{name}` is a tensor over ({indices}), not {type(tensor).__name__}")
        shape = tensor.shape
        if len(shape) != len(names):
            raise ValueError(f"`{name}` is over ({indices}), but has {len(shape)} axes: {tuple(shape)}")
        if tensor.device != first.device:
            raise ValueError(f"`{name}` is on {tensor.device}, `{tensors[0][0]}` on {first.device}")
        for index, size in zip(names, shape):
            known = found.setdefault(index, size)
            if known != size:
                other = next(n for n, those, _ in tensors if index in those.split())
                raise ValueError(f"`{name}` has {size} along `{index}`, but `{other}` has {known}")
    return found


def check_kinds(floats, integers, booleans, allowed):
    """Element types: all float tensors share one of `allowed`. What this launches has no gradients."""
    for name, tensor in floats:
        if tensor.dtype not in allowed:
            names = ", ".join(str(kind)[6:] for kind in allowed)
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}; this kernel takes {names}")
        if tensor.dtype != floats[0][1].dtype:
            first, other = floats[0][0], str(floats[0][1].dtype)[6:]
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}, but `{first}` is {other}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"`{name}` requires grad, and this function has no backward pass: call it under "
                "torch.no_grad(), or as the dense `reference`, which is differentiable"
            )
    for name, tensor in integers:
        if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
            raise TypeError(f"`{name}` is a table of integers, not {str(tensor.dtype)[6:]}")
    for name, tensor in booleans:
        if tensor.dtype != torch.bool:
            raise TypeError(f"`{name}` is a table of truth values, not {str(tensor.dtype)[6:]}")


def check_number(name, value, kind):
    """A number of the pattern; an integer fits 29 bits, so that positions can be added to it."""
    if kind is bool and not isinstance(value, bool):
        raise TypeError(f"`{name}` is True or False, not {value!r}")
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"`{name}` is an integer, not {value!r}")
    if kind is int and not -(1 << 29) < value < 1 << 29:
        raise ValueError(f"`{name}` is {value}: integers of a pattern stay between -2**29 and 2**29")
    if kind is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"`{name}` is a number, not {value!r}")


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_Q = 128
BLOCK_K = 128
BLOCK_Q_A = 8
BLOCK_Q_B = 16
BLOCK_K_A = 8
BLOCK_K_B = 16


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def boxes(axes, sides):
    """(where it begins, seen whole) of every box: an axis is (lo, hi, full_lo, full_hi), in tiles."""
    starts = [()]
    for lo, hi, full_lo, full_hi in axes:
        starts = [
            (*before, (n, full_lo <= n < full_hi)) for before in starts for n in range(lo, hi)
        ]
    for start in starts:
        yield [n * side for (n, _), side in zip(start, sides)], all(whole for _, whole in start)


def digits(*axes, device):
    """Every digit of the positions of a box: an axis is (where it begins, its side, how many there are)."""
    own = [torch.arange(start, min(start + side, end), device=device) for start, side, end in axes]
    return [x.flatten() for x in torch.meshgrid(*own, indexing="ij")]


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def gather(tensor, *at):
    """`tensor[at]`, positions broadcast together; 0 where one lies outside."""
    at = [torch.as_tensor(place, device=tensor.device) for place in at]
    inside = torch.ones((), dtype=torch.bool, device=tensor.device)
    for place, size in zip(at, tensor.shape):
        inside = inside & (place >= 0) & (place < size)
    if tensor.numel() == 0:
        return torch.zeros(inside.shape, dtype=tensor.dtype, device=tensor.device)
    near = tuple(place.clamp(0, size - 1) for place, size in zip(at, tensor.shape))
    return torch.where(
        inside, tensor[near], torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    )


def halonet(Q, K, V, rows, columns, width, block=8, around=3):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], rows[h,r,d], columns[h,r,d] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("rows", "h r d", rows),
        ("columns", "h r d", columns),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("rows", rows), ("columns", columns)], [], [], KINDS)
    check_number("width", width, int)
    check_number("block", block, int)
    check_number("around", around, int)
    if block <= 0:
        raise ValueError(f"`block` divides positions and must be positive, not {block}")
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
    NB, NH, NQ, D, NG, NK, E, R = (
        sizes["b"],
        sizes["h"],
        sizes["q"],
        sizes["d"],
        sizes["g"],
        sizes["k"],
        sizes["e"],
        sizes["r"],
    )
    NQ_A = ((((NK - 1) // width) - ((NK - NQ) // width)) + 1)
    NK_A = (((NK + width) - 1) // width)
    NQ_B = width
    NK_B = width
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    h = torch.arange(NH, device=device)[None, :]
    for q_a0 in range(0, NQ_A, BLOCK_Q_A):
        for q_b0 in range(0, NQ_B, BLOCK_Q_B):
            q_a, q_b = digits((q_a0, BLOCK_Q_A, NQ_A), (q_b0, BLOCK_Q_B, NQ_B), device=device)
            q = (q_a + (NK - NQ) // width) * width + q_b - (NK - NQ)
            inside = (q < NQ) & (q >= 0)
            q_a, q_b, q = (x[inside] for x in (q_a, q_b, q))
            if not len(q):
                continue
            # state of P_max[q] = max(k where seen) (S_sum[q,k] + down[q,k] + right[q,k])
            P_max_q = torch.full([NB, NH, len(q)], -math.inf, device=device, dtype=kind)
            # state of P_total[q] = sum(k where seen) exp(S_sum[q,k] + down[q,k] + right[q,k] -
            #     finite(P_max[q]))
            P_total_q = torch.full([NB, NH, len(q)], 0.0, device=device, dtype=kind)
            # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S_sum[q,k] + down[q,k] +
            #     right[q,k] - finite(P_max[q]))
            O_total_qe = torch.full([NB, NH, len(q), E], 0.0, device=device, dtype=kind)
            Q_qd = Q[:, :, q].to(kind)
            # boxes that are live along every axis, and whether these rows see them whole
            q_a_last = min(q_a0 + BLOCK_Q_A, NQ_A) - 1
            k_a_begin = max(0, ((NK - NQ) // width + q_a0) // block * block - around)
            k_a_end = max(
                0, min(NK_A, ((NK - NQ) // width + q_a_last) // block * block + around + block)
            )
            k_a_lo = k_a_begin // BLOCK_K_A
            k_a_hi = (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A if k_a_begin < k_a_end else k_a_lo
            k_a_inner_begin = max(0, ((NK - NQ) // width + q_a_last) // block * block - around)
            k_a_inner_end = max(
                0, min(NK_A, ((NK - NQ) // width + q_a0) // block * block + around + block)
            )
            k_a_full_lo = min((BLOCK_K_A + k_a_inner_begin - 1) // BLOCK_K_A, k_a_hi)
            k_a_full_hi = max(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
            q_b_last = min(q_b0 + BLOCK_Q_B, NQ_B) - 1
            k_b_begin = max(0, q_b0 // block * block - around)
            k_b_end = max(0, min(NK_B, q_b_last // block * block + around + block))
            k_b_lo = k_b_begin // BLOCK_K_B
            k_b_hi = (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B if k_b_begin < k_b_end else k_b_lo
            k_b_inner_begin = max(0, q_b_last // block * block - around)
            k_b_inner_end = max(0, min(NK_B, q_b0 // block * block + around + block))
            k_b_full_lo = min((BLOCK_K_B + k_b_inner_begin - 1) // BLOCK_K_B, k_b_hi)
            k_b_full_hi = max(k_b_full_lo, k_b_inner_end // BLOCK_K_B)
            tiles = (
                (k_a_lo, k_a_hi, k_a_full_lo, min(k_a_full_hi, NK // width // BLOCK_K_A)),
                (k_b_lo, k_b_hi, k_b_full_lo, k_b_full_hi),
            )
            for (k_a0, k_b0), whole in boxes(tiles, (BLOCK_K_A, BLOCK_K_B)):
                k_a, k_b = digits((k_a0, BLOCK_K_A, NK_A), (k_b0, BLOCK_K_B, NK_B), device=device)
                k = k_a * width + k_b
                inside = (k < NK)
                k_a, k_b, k = (x[inside] for x in (k_a, k_b, k))
                if not len(k):
                    continue
                rows_r_qk = (
                    (k // width)[None, :] - ((q + (NK - NQ)) // width)[:, None] + (R // 2 + around)
                )
                # down[q,k] = sum(d where present) Q[q,d] * rows[k // width - (q + (|k| - |q|)) //
                #     width + (|r| // 2 + around), d]
                down_qk = torch.full([NB, NH, len(q), len(k)], 0.0, device=device, dtype=kind)
                for d_run in range(0, D, 8):
                    down_part_qk = torch.full(
                        [NB, NH, len(q), len(k)], 0.0, device=device, dtype=kind
                    )
                    for d_at in range(d_run, min(d_run + 8, D)):
                        Q2_q = Q[:, :, :, d_at][:, :, q].to(kind)
                        rows_qk = gather(rows[:, :, d_at], h[..., None, None], rows_r_qk).to(kind)
                        down_part_qk = down_part_qk + Q2_q[..., :, None] * rows_qk
                    down_qk = down_qk + down_part_qk
                # present: k // width - (q + (|k| - |q|)) // width + (|r| // 2 + around) >= 0 and k
                #     // width - (q + (|k| - |q|)) // width + (|r| // 2 + around) < |r|
                present_qk = (
                    ((rows_r_qk >= 0) & (rows_r_qk < R))
                    & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                )
                down_seen_qk = torch.where(present_qk, down_qk, 0.0)
                columns_r_qk = (
                    (k % width)[None, :] - ((q + (NK - NQ)) % width)[:, None] + (R // 2 + around)
                )
                # right[q,k] = sum(d where present) Q[q,d] * columns[k % width - (q + (|k| - |q|)) %
                #     width + (|r| // 2 + around), d]
                right_qk = torch.full([NB, NH, len(q), len(k)], 0.0, device=device, dtype=kind)
                for d_run in range(0, D, 8):
                    right_part_qk = torch.full(
                        [NB, NH, len(q), len(k)], 0.0, device=device, dtype=kind
                    )
                    for d_at in range(d_run, min(d_run + 8, D)):
                        Q2_q = Q[:, :, :, d_at][:, :, q].to(kind)
                        columns_qk = gather(
                            columns[:, :, d_at], h[..., None, None], columns_r_qk
                        ).to(kind)
                        right_part_qk = right_part_qk + Q2_q[..., :, None] * columns_qk
                    right_qk = right_qk + right_part_qk
                # present: k % width - (q + (|k| - |q|)) % width + (|r| // 2 + around) >= 0 and k %
                #     width - (q + (|k| - |q|)) % width + (|r| // 2 + around) < |r|
                present2_qk = (
                    ((columns_r_qk >= 0) & (columns_r_qk < R))
                    & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                )
                right_seen_qk = torch.where(present2_qk, right_qk, 0.0)
                # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                K_kd = K[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                S_sum_qk = Q_qd @ K_kd.mT
                # P_max[q] = max(k where seen) (S_sum[q,k] + down[q,k] + right[q,k])
                exponent_qk = S_sum_qk * (1 / math.sqrt(D)) + down_seen_qk + right_seen_qk
                exponent_seen_qk = exponent_qk
                if not whole:
                    # seen: k < |k| and (q + (|k| - |q|)) // width // block * block - around <= k //
                    #     width and k // width < (q + (|k| - |q|)) // width // block * block + block
                    #     + around and (q + (|k| - |q|)) % width // block * block - around <= k %
                    #     width and k % width < (q + (|k| - |q|)) % width // block * block + block +
                    #     around
                    seen_qk = (
                        (
                            (
                                (
                                    (
                                        (
                                            (q_a + (NK - NQ) // width) // block * block - around
                                        )[:, None]
                                        <= k_a[None, :]
                                    )
                                    & (
                                        k_a[None, :]
                                        < (
                                            (q_a + (NK - NQ) // width) // block * block
                                            + around
                                            + block
                                        )[:, None]
                                    )
                                )
                                & ((q_b // block * block - around)[:, None] <= k_b[None, :])
                            )
                            & (k_b[None, :] < (q_b // block * block + around + block)[:, None])
                        )
                        & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                    )
                    exponent_seen_qk = torch.where(seen_qk, exponent_seen_qk, -math.inf)
                P_max_tile_q = exponent_seen_qk.amax(-1)
                P_max_old_q = P_max_q
                P_max_q = torch.maximum(P_max_old_q, P_max_tile_q)
                # P_total[q] = sum(k where seen) exp(S_sum[q,k] + down[q,k] + right[q,k] -
                #     finite(P_max[q]))
                alpha_q = torch.exp2(
                    P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
                )
                exp_exponent_seen_qk = torch.exp2(
                    exponent_seen_qk * 1.4426950408889634
                    - (finite(P_max_q) * 1.4426950408889634)[..., :, None]
                )
                P_total_tile_q = exp_exponent_seen_qk.sum(-1)
                P_total_q = P_total_q * alpha_q + P_total_tile_q
                # O_total[q,e] = sum(k where seen) V[k,e] * exp(S_sum[q,k] + down[q,k] + right[q,k]
                #     - finite(P_max[q]))
                V_ke = V[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_exponent_seen_qk @ V_ke
            # O[q,e] = O_total[q,e] / P_total[q]
            O_qe = divide(O_total_qe, P_total_q[..., :, None])
            O[..., q, :] = O_qe.to(O.dtype)
    return O


def _divide(a, b):
    """a / b; 0 / 0 is 0, and no gradient passes where the divisor is 0."""
    none = b == 0
    at_none = torch.where(a == 0, 0, a / b).detach()
    return torch.where(none, at_none, a / torch.where(none, 1, b))


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def _take(x, at):
    """x at positions along some of its axes, `at` = {axis: positions}; 0 where one of them lies outside."""
    where = [slice(None)] * x.ndim
    for axis, i in at.items():
        size = x.shape[axis]
        inside = (i >= 0) & (i < size)
        where[axis] = torch.where(inside, i, size) if torch.is_tensor(i) else i if inside else size
        x = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, 1])
    return x[tuple(where)]


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q, K, V, rows, columns, width, block=8, around=3):
    """`halonet`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    R = rows.shape[1]
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # zero = |r| // 2 + around
    zero = Q.new_full((), R // 2 + around, dtype=torch.int64)
    # near[q,k] = (q + (|k| - |q|)) // width // block * block - around <= k // width and k // width
    #     < (q + (|k| - |q|)) // width // block * block + block + around and ((q + (|k| - |q|)) %
    #     width // block * block - around <= k % width and k % width < (q + (|k| - |q|)) % width //
    #     block * block + block + around)
    at_q = q + (NK - NQ)
    at_near_q = at_q // width // block * block
    where_qk = (at_near_q - around)[:, None] <= k // width
    where_near_qk = k // width < (at_near_q + block + around)[:, None]
    at_near_q_2 = at_q % width // block * block
    where_near_qk_2 = (at_near_q_2 - around)[:, None] <= k % width
    where_near_qk_3 = k % width < (at_near_q_2 + block + around)[:, None]
    near = where_qk & where_near_qk & where_near_qk_2 & where_near_qk_3
    # down[b,h,q,k] = sum(d) Q[b,h,q,d] * rows[h, k // width - (q + (|k| - |q|)) // width + zero, d]
    at_qk = k // width - (at_q // width)[:, None] + zero
    part_down_qkd = torch.where(((at_qk >= 0) & (at_qk < R))[..., None], _take(rows, {1: at_qk}), 0)
    down = _einsum("bhqd,hqkd->bhqk", Q, part_down_qkd)
    # right[b,h,q,k] = sum(d) Q[b,h,q,d] * columns[h, k % width - (q + (|k| - |q|)) % width + zero,
    #     d]
    at_right_qk = k % width - (at_q % width)[:, None]
    at_right_qk_2 = at_right_qk + zero
    where_right_qk = (at_right_qk_2 >= 0) & (at_right_qk_2 < R)
    part_right_qkd = torch.where(where_right_qk[..., None], _take(columns, {1: at_right_qk_2}), 0)
    right = _einsum("bhqd,hqkd->bhqk", Q, part_right_qkd)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|) + down[b,h,q,k] +
    #     right[b,h,q,k]
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D) + down + right
    # P[b,h,q,k] = if near[q,k] then exp(S[b,h,q,k] - max(k where near[q,k]) S[b,h,q,k]) / sum(k
    #     where near[q,k]) exp(S[b,h,q,k] - max(k where near[q,k]) S[b,h,q,k]) else 0
    max_P_q = _amax(torch.where(near, S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(near, S - max_P_q[..., None], -math.inf))
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) P[b,h,q,k] * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P, V[:, h // (NH // NG)])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "rows": torch.randn(4, 64, 64, device=device, dtype=torch.float32),
        "columns": torch.randn(4, 64, 64, device=device, dtype=torch.float32),
        "width": 16,
        "block": 3,
        "around": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = halonet(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
