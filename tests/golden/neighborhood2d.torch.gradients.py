"""Neighborhood attention on a grid: a query sees the `window` by `window` keys around it (arXiv 2204.07143).

NATTEN's rule at the borders: the window moves inward, so that every query sees equally many keys. The grid is
in row-major order, `width` keys to the row; `window` is at most either side. An even window reaches one
further up and left. Dilation and stride are 1.

(1) near[q,y,x] = around(y, q // width, window, |y|) and around(x, q % width, window, |x|)
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) P[q,y,x] = softmax(y, x where near[q,y,x]) S[q,y,x]
(4) O[q,e] = sum(y, x) P[q,y,x] * V[y,x,e]

As it runs:

    seen: max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) <= k // width and k //
        width < max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) + window and
        max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) <= k % width and k %
        width < max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) + window
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    S_max[q] = max(k where seen) S[q,k]
    P_total_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
    P_log[q] = S_max[q] + log(P_total_total[q])
    O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O[q,e] = O_total_total[q,e] * exp(S_max[q] - finite(S_max[q] + log(P_total_total[q])))

One pass over k for every tile of rows q,
over the boxes of k_a, k_b that are live along each; tiles of rows are boxes too.
State of a row: S_max[q], P_total_total[q], O_total_total[q,e].

Its gradients:

    seen: max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) <= k // width and k //
        width < max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) + window and
        max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) <= k % width and k %
        width < max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) + window
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dQ_sum[q,d] = sum(k where seen) (dS_total[q,k] + dP_log[q]) * K[k,d] * exp(S[q,k] -
        finite(P_log[q]))
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dK_sum[k,d] = sum(h_of_g, q where seen) (dS_total[q,k] + dP_log[q]) * Q[q,d] * exp(S[q,k] -
        finite(P_log[q]))
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(P_log[q]))

Kernel neighborhood2d_backward_dQ writes dQ[b,h,q,d], dP_log[b,h,q].
One pass over k for every tile of rows q,
over the boxes of k_a, k_b that are live along each; tiles of rows are boxes too.
State of a row: dQ_sum[q,d].
Kernel neighborhood2d_backward_dK writes dK[b,g,k,d], dV[b,g,k,e].
One pass over q at every h_of_g for every tile of rows k,
over 2 ranges of tiles that its predicate leaves live.
State of a row: dK_sum[k,d], dV[k,e].

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


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def least(a, b):
    """The smaller of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.minimum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, max=b) if torch.is_tensor(a) else torch.clamp(b, max=a)
    return min(a, b)


def most(a, b):
    """The larger of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.maximum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, min=b) if torch.is_tensor(a) else torch.clamp(b, min=a)
    return max(a, b)


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def neighborhood2d_forward(Q, K, V, width, window=7):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], P_log[b,h,q], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    check_number("width", width, int)
    check_number("window", window, int)
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NY = (((NK + width) - 1) // width)
    NX = width
    NQ_A = ((((NK - 1) // width) - ((NK - NQ) // width)) + 1)
    NK_A = (((NK + width) - 1) // width)
    NQ_B = width
    NK_B = width
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    O = Q.new_empty((NB, NH, NQ, E))
    P_log = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
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
            # state of S_max[q] = max(k where seen) S[q,k]
            S_max_q = torch.full([NB, NH, len(q)], -math.inf, device=device, dtype=kind)
            # state of P_total_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
            P_total_total_q = torch.full([NB, NH, len(q)], 0.0, device=device, dtype=kind)
            # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] -
            #     finite(S_max[q]))
            O_total_total_qe = torch.full([NB, NH, len(q), E], 0.0, device=device, dtype=kind)
            Q_qd = Q[:, :, q].to(kind)
            # boxes that are live along every axis, and whether these rows see them whole
            q_a_last = min(q_a0 + BLOCK_Q_A, NQ_A) - 1
            k_a_begin = max(0, min((NK - NQ) // width + q_a0 - window // 2, NY - window))
            k_a_end = max(
                0,
                min(
                    NK_A,
                    max(0, min((NK - NQ) // width + q_a_last - window // 2, NY - window)) + window,
                ),
            )
            k_a_lo = k_a_begin // BLOCK_K_A
            k_a_hi = (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A if k_a_begin < k_a_end else k_a_lo
            k_a_inner_begin = max(0, min((NK - NQ) // width + q_a_last - window // 2, NY - window))
            k_a_inner_end = max(
                0,
                min(
                    NK_A, max(0, min((NK - NQ) // width + q_a0 - window // 2, NY - window)) + window
                ),
            )
            k_a_full_lo = min((BLOCK_K_A + k_a_inner_begin - 1) // BLOCK_K_A, k_a_hi)
            k_a_full_hi = max(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
            q_b_last = min(q_b0 + BLOCK_Q_B, NQ_B) - 1
            k_b_begin = max(0, min(q_b0 - window // 2, NX - window))
            k_b_end = max(0, min(NK_B, max(0, min(q_b_last - window // 2, NX - window)) + window))
            k_b_lo = k_b_begin // BLOCK_K_B
            k_b_hi = (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B if k_b_begin < k_b_end else k_b_lo
            k_b_inner_begin = max(0, min(q_b_last - window // 2, NX - window))
            k_b_inner_end = max(0, min(NK_B, max(0, min(q_b0 - window // 2, NX - window)) + window))
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
                # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                K_kd = K[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                S_qk = Q_qd @ K_kd.mT
                # S_max[q] = max(k where seen) S[q,k]
                S_seen_qk = S_qk
                if not whole:
                    # seen: k < |k| and max(0, min((q + (|k| - |q|)) // width - window // 2, |y| -
                    #     window)) <= k // width and k // width < max(0, min((q + (|k| - |q|)) //
                    #     width - window // 2, |y| - window)) + window and max(0, min((q + (|k| -
                    #     |q|)) % width - window // 2, |x| - window)) <= k % width and k % width <
                    #     max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) +
                    #     window
                    seen_qk = (
                        (
                            (
                                (
                                    (
                                        most(
                                            0,
                                            least(
                                                q_a + (NK - NQ) // width - window // 2, NY - window
                                            ),
                                        )[:, None]
                                        <= k_a[None, :]
                                    )
                                    & (
                                        k_a[None, :]
                                        < (
                                            most(
                                                0,
                                                least(
                                                    q_a + (NK - NQ) // width - window // 2,
                                                    NY - window,
                                                ),
                                            )
                                            + window
                                        )[:, None]
                                    )
                                )
                                & (
                                    most(0, least(q_b - window // 2, NX - window))[:, None]
                                    <= k_b[None, :]
                                )
                            )
                            & (
                                k_b[None, :]
                                < (most(0, least(q_b - window // 2, NX - window)) + window)[:, None]
                            )
                        )
                        & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                    )
                    S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
                S_max_tile_q = S_seen_qk.amax(-1)
                S_max_old_q = S_max_q
                S_max_q = torch.maximum(S_max_old_q, S_max_tile_q * (1 / math.sqrt(D)))
                # P_total_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
                alpha_q = torch.exp2(
                    S_max_old_q * 1.4426950408889634 - finite(S_max_q) * 1.4426950408889634
                )
                exp_S_seen_qk = torch.exp2(
                    S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                    - (finite(S_max_q) * 1.4426950408889634)[..., :, None]
                )
                P_total_total_tile_q = exp_S_seen_qk.sum(-1)
                P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
                # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
                V_ke = V[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                O_total_total_qe = O_total_total_qe * alpha_q[..., :, None] + exp_S_seen_qk @ V_ke
            # P_log[q] = S_max[q] + log(P_total_total[q])
            P_log_q = S_max_q + torch.log(P_total_total_q)
            # O[q,e] = O_total_total[q,e] * exp(S_max[q] - finite(S_max[q] + log(P_total_total[q])))
            O_qe = (
                O_total_total_qe
                * torch.exp2(
                    S_max_q * 1.4426950408889634
                    - finite(S_max_q + torch.log(P_total_total_q)) * 1.4426950408889634
                )[..., :, None]
            )
            O[..., q, :] = O_qe.to(O.dtype)
            P_log[..., q] = P_log_q.to(P_log.dtype)
    return O, P_log


def neighborhood2d_backward(Q, K, V, width, window, P_log, O, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], P_log[b,h,q], O[b,h,q,e], dO[b,h,q,e] -> dQ[b,h,q,d],
        dK[b,g,k,d], dV[b,g,k,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("P_log", "b h q", P_log),
        ("O", "b h q e", O),
        ("dO", "b h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("dO", dO)], [], [], KINDS)
    check_number("width", width, int)
    check_number("window", window, int)
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NY = (((NK + width) - 1) // width)
    NX = width
    NH_OF_G = (NH // NG)
    NQ_A = ((((NK - 1) // width) - ((NK - NQ) // width)) + 1)
    NK_A = (((NK + width) - 1) // width)
    NQ_B = width
    NK_B = width
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if NG <= 0:
        raise ValueError(f"`|g|` divides positions and must be positive, not {NG}")
    dQ = Q.new_empty((NB, NH, NQ, D))
    dP_log = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E))
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
            # dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
            dO_qe = dO[:, :, q].to(kind)
            O_qe = O[:, :, q].to(kind)
            dP_log_q = (-(dO_qe * O_qe)).sum(-1)
            dP_log[..., q] = dP_log_q.to(dP_log.dtype)
            # state of dQ_sum[q,d] = sum(k where seen) (dS_total[q,k] + dP_log[q]) * K[k,d] *
            #     exp(S[q,k] - finite(P_log[q]))
            dQ_sum_qd = torch.full([NB, NH, len(q), D], 0.0, device=device, dtype=kind)
            Q_qd = Q[:, :, q].to(kind)
            P_log_q = P_log[:, :, q].to(kind)
            # boxes that are live along every axis, and whether these rows see them whole
            q_a_last = min(q_a0 + BLOCK_Q_A, NQ_A) - 1
            k_a_begin = max(0, min((NK - NQ) // width + q_a0 - window // 2, NY - window))
            k_a_end = max(
                0,
                min(
                    NK_A,
                    max(0, min((NK - NQ) // width + q_a_last - window // 2, NY - window)) + window,
                ),
            )
            k_a_lo = k_a_begin // BLOCK_K_A
            k_a_hi = (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A if k_a_begin < k_a_end else k_a_lo
            k_a_inner_begin = max(0, min((NK - NQ) // width + q_a_last - window // 2, NY - window))
            k_a_inner_end = max(
                0,
                min(
                    NK_A, max(0, min((NK - NQ) // width + q_a0 - window // 2, NY - window)) + window
                ),
            )
            k_a_full_lo = min((BLOCK_K_A + k_a_inner_begin - 1) // BLOCK_K_A, k_a_hi)
            k_a_full_hi = max(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
            q_b_last = min(q_b0 + BLOCK_Q_B, NQ_B) - 1
            k_b_begin = max(0, min(q_b0 - window // 2, NX - window))
            k_b_end = max(0, min(NK_B, max(0, min(q_b_last - window // 2, NX - window)) + window))
            k_b_lo = k_b_begin // BLOCK_K_B
            k_b_hi = (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B if k_b_begin < k_b_end else k_b_lo
            k_b_inner_begin = max(0, min(q_b_last - window // 2, NX - window))
            k_b_inner_end = max(0, min(NK_B, max(0, min(q_b0 - window // 2, NX - window)) + window))
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
                # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                K_kd = K[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                S_qk = Q_qd @ K_kd.mT
                S_seen_qk = S_qk
                if not whole:
                    # seen: k < |k| and max(0, min((q + (|k| - |q|)) // width - window // 2, |y| -
                    #     window)) <= k // width and k // width < max(0, min((q + (|k| - |q|)) //
                    #     width - window // 2, |y| - window)) + window and max(0, min((q + (|k| -
                    #     |q|)) % width - window // 2, |x| - window)) <= k % width and k % width <
                    #     max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) +
                    #     window
                    seen_qk = (
                        (
                            (
                                (
                                    (
                                        most(
                                            0,
                                            least(
                                                q_a + (NK - NQ) // width - window // 2, NY - window
                                            ),
                                        )[:, None]
                                        <= k_a[None, :]
                                    )
                                    & (
                                        k_a[None, :]
                                        < (
                                            most(
                                                0,
                                                least(
                                                    q_a + (NK - NQ) // width - window // 2,
                                                    NY - window,
                                                ),
                                            )
                                            + window
                                        )[:, None]
                                    )
                                )
                                & (
                                    most(0, least(q_b - window // 2, NX - window))[:, None]
                                    <= k_b[None, :]
                                )
                            )
                            & (
                                k_b[None, :]
                                < (most(0, least(q_b - window // 2, NX - window)) + window)[:, None]
                            )
                        )
                        & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                    )
                    S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
                # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
                V_ke = V[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                dS_total_qk = dO_qe @ V_ke.mT
                # dQ_sum[q,d] = sum(k where seen) (dS_total[q,k] + dP_log[q]) * K[k,d] * exp(S[q,k]
                #     - finite(P_log[q]))
                exp_S_seen_qk = torch.exp2(
                    S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                    - (finite(P_log_q) * 1.4426950408889634)[..., :, None]
                )
                dQ_sum_qd = (
                    dQ_sum_qd + ((dS_total_qk + dP_log_q[..., :, None]) * exp_S_seen_qk) @ K_kd
                )
            # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
            dQ_qd = dQ_sum_qd / math.sqrt(D)
            dQ[..., q, :] = dQ_qd.to(dQ.dtype)
    g = torch.arange(NG, device=device)[None, :]
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        k = torch.arange(k0, k1, device=device)
        # state of dK_sum[k,d] = sum(h_of_g, q where seen) (dS_total[q,k] + dP_log[q]) * Q[q,d] *
        #     exp(S[q,k] - finite(P_log[q]))
        dK_sum_kd = torch.full([NB, NG, k1 - k0, D], 0.0, device=device, dtype=kind)
        # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(P_log[q]))
        dV_ke = torch.full([NB, NG, k1 - k0, E], 0.0, device=device, dtype=kind)
        K_kd = K[:, :, k0:k1].to(kind)
        V_ke = V[:, :, k0:k1].to(kind)
        for h_of_g in range(0, NH_OF_G):
            # tiles of q that these rows see, and which of them whole
            last = k1 - 1
            end0 = min(
                min(
                    NQ,
                    max(
                        last // width * width + window // 2 * width + NQ + width - NK,
                        NQ if NY <= last // width + window else 0,
                    ),
                ),
                NQ if k0 // width + 1 <= window else 0,
            )
            hi0 = (BLOCK_Q + end0 - 1) // BLOCK_Q
            begin1 = max(
                0, k0 // width * width + window // 2 * width + NQ + width - width * window - NK
            )
            end1 = min(
                min(
                    NQ,
                    max(
                        last // width * width + window // 2 * width + NQ + width - NK,
                        NQ if NY <= last // width + window else 0,
                    ),
                ),
                NQ if k0 // width + 1 <= NY else 0,
            )
            lo1 = begin1 // BLOCK_Q
            hi1 = (BLOCK_Q + end1 - 1) // BLOCK_Q if begin1 < end1 else lo1
            stop0 = min(hi0, lo1) if hi0 <= hi1 else hi0
            start1 = max(lo1, stop0)
            stop1 = max(hi1, start1)
            tiles = (
                (range(0, stop0), False),
                (range(start1, stop1), False),
            )
            for q0, q1, whole in walk(tiles, BLOCK_Q, NQ):
                q = torch.arange(q0, q1, device=device)
                # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                Q_qd = Q[:, :, q0:q1].index_select(1, (g * (NH // NG) + h_of_g).flatten()).to(kind)
                S_kq = K_kd @ Q_qd.mT
                S_seen_kq = S_kq
                if not whole:
                    # seen: q < |q| and max(0, min((q + (|k| - |q|)) // width - window // 2, |y| -
                    #     window)) <= k // width and k // width < max(0, min((q + (|k| - |q|)) //
                    #     width - window // 2, |y| - window)) + window and max(0, min((q + (|k| -
                    #     |q|)) % width - window // 2, |x| - window)) <= k % width and k % width <
                    #     max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) +
                    #     window
                    seen_kq = (
                        (
                            (
                                (
                                    q[None, :]
                                    <= torch.maximum(
                                        k // width * width
                                        + window // 2 * width
                                        + NQ
                                        + width
                                        - NK
                                        - 1,
                                        torch.where(NY <= k // width + window, NQ - 1, -1),
                                    )[:, None]
                                )
                                & (
                                    (k // width)[:, None]
                                    < (
                                        most(
                                            0,
                                            least(
                                                (q + (NK - NQ)) // width - window // 2, NY - window
                                            ),
                                        )
                                        + window
                                    )[None, :]
                                )
                            )
                            & (
                                most(
                                    0, least((q + (NK - NQ)) % width - window // 2, NX - window)
                                )[None, :]
                                <= (k % width)[:, None]
                            )
                        )
                        & (
                            (k % width)[:, None]
                            < (
                                most(0, least((q + (NK - NQ)) % width - window // 2, NX - window))
                                + window
                            )[None, :]
                        )
                    )
                    S_seen_kq = torch.where(seen_kq, S_seen_kq, -math.inf)
                # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
                dO_qe = dO[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                dS_total_kq = V_ke @ dO_qe.mT
                # dK_sum[k,d] = sum(h_of_g, q where seen) (dS_total[q,k] + dP_log[q]) * Q[q,d] *
                #     exp(S[q,k] - finite(P_log[q]))
                dP_log_q = dP_log[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                P_log_q = P_log[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                exp_S_seen_kq = torch.exp2(
                    S_seen_kq * (1.4426950408889634 / math.sqrt(D))
                    - (finite(P_log_q) * 1.4426950408889634)[..., None, :]
                )
                dK_sum_kd = (
                    dK_sum_kd + ((dS_total_kq + dP_log_q[..., None, :]) * exp_S_seen_kq) @ Q_qd
                )
                # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(P_log[q]))
                dV_ke = dV_ke + exp_S_seen_kq @ dO_qe
        # dK[k,d] = dK_sum[k,d] / sqrt(|d|)
        dK_kd = dK_sum_kd / math.sqrt(D)
        dK[..., k0:k1, :] = dK_kd
        dV[..., k0:k1, :] = dV_ke
    return dQ, dK, dV


class _neighborhood2d_gradients(torch.autograd.Function):
    """`neighborhood2d` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V, width, window):
        O, P_log = neighborhood2d_forward(Q, K, V, width, window)
        ctx.save_for_backward(Q, K, V, P_log, O)
        ctx.numbers = (width, window,)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`neighborhood2d` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, P_log, O = ctx.saved_tensors
        (width, window,) = ctx.numbers
        dQ, dK, dV = neighborhood2d_backward(Q, K, V, width, window, P_log, O, dO)
        return dQ, dK, dV, None, None


def neighborhood2d(Q, K, V, width, window=7):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], differentiable."""
    return _neighborhood2d_gradients.apply(Q, K, V, width, window)


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


def reference(Q, K, V, width, window=7):
    """`neighborhood2d`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    NY = (NK + width - 1) // width
    NX = width
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    y = torch.arange(NY, device=Q.device)
    x = torch.arange(NX, device=Q.device)
    # near[q,y,x] = max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) <= y and y <
    #     max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) + window and (max(0,
    #     min((q + (|k| - |q|)) % width - window // 2, |x| - window)) <= x and x < max(0, min((q +
    #     (|k| - |q|)) % width - window // 2, |x| - window)) + window)
    at_q = q + (NK - NQ)
    at_near_q = (at_q // width - window // 2).clamp(max=NY - window).clamp(min=0)
    at_near_q_2 = (at_q % width - window // 2).clamp(max=NX - window).clamp(min=0)
    near = (
        ((at_near_q[:, None] <= y) & (y < (at_near_q + window)[:, None]))[..., None]
        & (at_near_q_2[:, None] <= x)[:, None]
        & (x < (at_near_q_2 + window)[:, None])[:, None]
    )
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,y,x] = if near[q,y,x] then exp(S[b, h, q, y * width + x] - max(y, x where near[q,y,x])
    #     S[b, h, q, y * width + x]) / sum(y, x where near[q,y,x]) exp(S[b, h, q, y * width + x] -
    #     max(y, x where near[q,y,x]) S[b, h, q, y * width + x]) else 0
    at_yx = (y * width)[:, None] + x
    where_qyx = near & (at_yx < NK)
    part_P_qyx = torch.where(where_qyx, _take(S, {3: at_yx}), -math.inf)
    max_P_q = _amax(_amax(part_P_qyx, 4, -math.inf), 3, -math.inf)
    exp_P_qyx = torch.exp(torch.where(where_qyx, _take(S, {3: at_yx}) - max_P_q[..., None, None], -math.inf))
    P = _divide(exp_P_qyx, exp_P_qyx.sum((3, 4))[..., None, None])
    # O[b,h,q,e] = sum(y, x) P[b,h,q,y,x] * V[b, h // (|h| // |g|), y * width + x, e]
    O = _einsum("bhqyx,bhyxe->bhqe", torch.where(at_yx < NK, P, 0), _take(V[:, h // (NH // NG)], {2: at_yx}))
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "width": 16,
        "window": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = neighborhood2d(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V"]
    pairs = [(made, meant)]
    weights = [torch.where(x.isfinite(), torch.randn_like(x), 0) for x, _ in pairs]
    found = torch.autograd.grad([x for x, _ in pairs], [given[n] for n in names], weights)
    weights = [w.double() for w in weights]
    wanted = torch.autograd.grad([y for _, y in pairs], [floats[n] for n in names], weights)
    gradients = [
        (n, torch.atleast_2d(x), torch.atleast_2d(y)) for n, x, y in zip(names, found, wanted)
    ]
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
        *((f"d{n}", x, y, 5e-5) for n, x, y in gradients),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
