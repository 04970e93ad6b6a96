"""Query-key normalisation: the softmax of cosines, scaled by one learned number (arXiv 2010.04245).

(1) X[q,d] = unit(d) Q[q,d]
(2) Y[k,d] = unit(d) K[k,d]
(3) S[q,k] = scale * sum(d) X[q,d] * Y[k,d]
(4) P[q,k] = softmax(k where k <= q) S[q,k]
(5) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    Y_sum[k] = sum(d) K[k,d] * K[k,d]
    Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    S_total[q,k] = sum(d) Q[q,d] * K[k,d]
    P_total_max[q] = max(k where k <= q + (|k| - |q|)) scale * S_total[q,k] * Y_sum_inverse[k] /
        sqrt(X_sum[q])
    P_total_total[q] = sum(k where k <= q + (|k| - |q|)) exp(scale * S_total[q,k] * Y_sum_inverse[k]
        / sqrt(X_sum[q]) - finite(P_total_max[q]))
    P_log[q] = P_total_max[q] + log(P_total_total[q])
    O_total_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(scale * S_total[q,k] *
        Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_total_max[q]))
    O[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        log(P_total_total[q])))

Kernel cosine_Y_sum_inverse writes Y_sum_inverse[b,g,k].
Kernel cosine writes O[b,h,q,e], P_log[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_total_max[q], P_total_total[q], O_total_total[q,e].

Its gradients:

    seen: k <= q + (|k| - |q|) and (g * (|h| // |g|) + h_of_g) // (|h| // |g|) < |g|
    Y_sum[k] = sum(d) K[k,d] * K[k,d]
    Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    X_sum_inverse[q] = inverse(sqrt(X_sum[q]))
    S_total[q,k] = sum(d) Q[q,d] * K[k,d]
    dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dX_sum_sum[q] = sum(k where k <= q + (|k| - |q|)) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) * dS_total_total[q,k] *
        Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        sqrt(X_sum[q]) - finite(P_log[q]))
    dX_sum_sum2[q] = sum(k where k <= q + (|k| - |q|)) dP_log[q] * S_total[q,k] *
        reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) *
        Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        sqrt(X_sum[q]) - finite(P_log[q]))
    dQ_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (scale * reciprocal(sqrt(X_sum[q]) *
        sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) *
        sqrt(Y_sum[k]))) * K[k,d] * exp(scale * S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) -
        finite(P_log[q]))
    dQ[q,d] = (-scale * 0.5 * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + (-scale * 0.5
        * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + dQ_sum[q,d]
    dscale_rows[q] = sum(k where k <= q + (|k| - |q|)) (S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * S_total[q,k] * reciprocal(sqrt(X_sum[q])
        * sqrt(Y_sum[k]))) * exp(scale * S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) -
        finite(P_log[q]))
    S_total[q,k] = sum(d) Q[q,d] * K[k,d]
    dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dY_sum_total[k,q] = sum(e) dO[q,e] * V[k,e]
    dY_sum_sum2[k] = sum(h_of_g, q where k <= q + (|k| - |q|)) S_total[q,k] *
        reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) * reciprocal(sqrt(Y_sum[k])) *
        dY_sum_total[k,q] * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale * S_total[q,k] *
        X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
    dY_sum_sum3[k] = sum(h_of_g, q where k <= q + (|k| - |q|)) dP_log[q] * S_total[q,k] *
        reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) * reciprocal(sqrt(Y_sum[k])) *
        X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale * S_total[q,k] * X_sum_inverse[q] /
        sqrt(Y_sum[k]) - finite(P_log[q]))
    dK_sum_max[k] = max(h_of_g, q where seen) (scale * S_total[q,k] * X_sum_inverse[q] /
        sqrt(Y_sum[k]) - finite(P_log[q]))
    dK_total[k,d] = sum(h_of_g, q where seen) (scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) *
        dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) *
        Q[q,d] * exp(scale * S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]) -
        finite(dK_sum_max[k]))
    dK[k,d] = (-scale * 0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] + (-scale *
        0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] + dK_total[k,d] *
        exp(dK_sum_max[k])
    dV[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) dO[q,e] * exp(scale * S_total[q,k] *
        X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
    dscale = sum(b, h, q) dscale_rows[q]

Kernel cosine_backward_Y_sum writes Y_sum[b,g,k], Y_sum_inverse[b,g,k].
Kernel cosine_backward_dQ writes dQ[b,h,q,d], dscale_rows[b,h,q], X_sum[b,h,q], dP_log[b,h,q],
    X_sum_inverse[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dX_sum_sum[q], dX_sum_sum2[q], dscale_rows[q], dQ_sum[q,d].
Kernel cosine_backward_dK writes dK[b,g,k,d], dV[b,g,k,e].
One pass over q at every h_of_g for every tile of rows k,
over one range of tiles that its predicate leaves live.
State of a row: dY_sum_sum2[k], dY_sum_sum3[k], dK_sum_max[k], dK_total[k,d], dV[k,e].

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


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_K = 128
BLOCK_Q = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


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


def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    largest = torch.finfo(x.dtype).max
    return torch.where(torch.abs(x) * largest < 1, largest, 1 / x)


def reciprocal(x):
    """1 / x, and of 0 nothing: no gradient passes a division by 0."""
    if not torch.is_tensor(x):
        return 1 / x if x else 0.0
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def cosine_forward(Q, K, V, scale):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], scale[] -> O[b,h,q,e], P_log[b,h,q], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("scale", "", scale),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("scale", scale)], [], [], KINDS)
    NB, NH, NQ, NG, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["g"], sizes["k"], sizes["e"]
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    Y_sum_inverse = Q.new_empty((NB, NG, NK), dtype=accumulator(Q))
    O = Q.new_empty((NB, NH, NQ, E))
    P_log = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    device, kind = Q.device, accumulator(Q)
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        # Y_sum[k] = sum(d) K[k,d] * K[k,d]
        K_kd = K[:, :, k0:k1].to(kind)
        Y_sum_k = (K_kd * K_kd).sum(-1)
        # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
        Y_sum_inverse_k = inverse(torch.sqrt(Y_sum_k))
        Y_sum_inverse[..., k0:k1] = Y_sum_inverse_k
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
        Q_qd = Q[:, :, q0:q1].to(kind)
        X_sum_q = (Q_qd * Q_qd).sum(-1)
        # state of P_total_max[q] = max(k where seen) scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q])
        P_total_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P_total_total[q] = sum(k where seen) exp(scale * S_total[q,k] * Y_sum_inverse[k]
        #     / sqrt(X_sum[q]) - finite(P_total_max[q]))
        P_total_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(scale * S_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_total_max[q]))
        O_total_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        scale_ = scale[None, None, ...].to(kind)
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        end = max(0, NK + last - NQ + 1)
        hi = (BLOCK_K + end - 1) // BLOCK_K
        inner_end = max(0, NK + q0 - NQ + 1)
        full_hi = inner_end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_total_qk = Q_qd @ K_kd.mT
            # P_total_max[q] = max(k where seen) scale * S_total[q,k] * Y_sum_inverse[k] /
            #     sqrt(X_sum[q])
            Y_sum_inverse_k = Y_sum_inverse[:, :, k0:k1].index_select(
                1, (h // (NH // NG)).flatten()
            ).to(kind)
            ratio_S_total_qk = divide(
                scale_[..., None, None] * S_total_qk * Y_sum_inverse_k[..., None, :],
                torch.sqrt(X_sum_q)[..., :, None],
            )
            ratio_S_total_seen_qk = ratio_S_total_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                ratio_S_total_seen_qk = torch.where(seen_qk, ratio_S_total_seen_qk, -math.inf)
            P_total_max_tile_q = ratio_S_total_seen_qk.amax(-1)
            P_total_max_old_q = P_total_max_q
            P_total_max_q = torch.maximum(P_total_max_old_q, P_total_max_tile_q)
            # P_total_total[q] = sum(k where seen) exp(scale * S_total[q,k] * Y_sum_inverse[k] /
            #     sqrt(X_sum[q]) - finite(P_total_max[q]))
            alpha_q = torch.exp2(
                P_total_max_old_q * 1.4426950408889634 - finite(P_total_max_q) * 1.4426950408889634
            )
            exp_ratio_S_total_seen_qk = torch.exp2(
                ratio_S_total_seen_qk * 1.4426950408889634
                - (finite(P_total_max_q) * 1.4426950408889634)[..., :, None]
            )
            P_total_total_tile_q = exp_ratio_S_total_seen_qk.sum(-1)
            P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
            # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(scale * S_total[q,k] *
            #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_total_max[q]))
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            O_total_total_qe = (
                O_total_total_qe * alpha_q[..., :, None] + exp_ratio_S_total_seen_qk @ V_ke
            )
        # P_log[q] = P_total_max[q] + log(P_total_total[q])
        P_log_q = P_total_max_q + torch.log(P_total_total_q)
        # O[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        #     log(P_total_total[q])))
        O_qe = (
            O_total_total_qe
            * torch.exp2(
                P_total_max_q * 1.4426950408889634
                - finite(P_total_max_q + torch.log(P_total_total_q)) * 1.4426950408889634
            )[..., :, None]
        )
        O[..., q0:q1, :] = O_qe
        P_log[..., q0:q1] = P_log_q
    return O, P_log


def _cosine_backward_totals(dscale_rows):
    """Sums over rows, one after the other."""
    # dscale = sum(b, h, q) dscale_rows[b,h,q]
    dscale = dscale_rows.sum((0, 1, 2))
    return dscale



def cosine_backward(Q, K, V, scale, P_log, O, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], scale[], P_log[b,h,q], O[b,h,q,e], dO[b,h,q,e] ->
        dQ[b,h,q,d], dK[b,g,k,d], dV[b,g,k,e], dscale[], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("scale", "", scale),
        ("P_log", "b h q", P_log),
        ("O", "b h q e", O),
        ("dO", "b h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("scale", scale), ("dO", dO)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NH_OF_G = (NH // NG)
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if NG <= 0:
        raise ValueError(f"`|g|` divides positions and must be positive, not {NG}")
    Y_sum = Q.new_empty((NB, NG, NK), dtype=accumulator(Q))
    Y_sum_inverse = Q.new_empty((NB, NG, NK), dtype=accumulator(Q))
    dQ = Q.new_empty((NB, NH, NQ, D))
    dscale_rows = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    X_sum = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    dP_log = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    X_sum_inverse = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E))
    device, kind = Q.device, accumulator(Q)
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        # Y_sum[k] = sum(d) K[k,d] * K[k,d]
        K_kd = K[:, :, k0:k1].to(kind)
        Y_sum_k = (K_kd * K_kd).sum(-1)
        # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
        Y_sum_inverse_k = inverse(torch.sqrt(Y_sum_k))
        Y_sum[..., k0:k1] = Y_sum_k
        Y_sum_inverse[..., k0:k1] = Y_sum_inverse_k
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
        Q_qd = Q[:, :, q0:q1].to(kind)
        X_sum_q = (Q_qd * Q_qd).sum(-1)
        # X_sum_inverse[q] = inverse(sqrt(X_sum[q]))
        X_sum_inverse_q = inverse(torch.sqrt(X_sum_q))
        # dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
        dO_qe = dO[:, :, q0:q1].to(kind)
        O_qe = O[:, :, q0:q1].to(kind)
        dP_log_q = (-(dO_qe * O_qe)).sum(-1)
        X_sum[..., q0:q1] = X_sum_q
        dP_log[..., q0:q1] = dP_log_q
        X_sum_inverse[..., q0:q1] = X_sum_inverse_q
        # state of dX_sum_sum[q] = sum(k where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) * dS_total_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q]) - finite(P_log[q]))
        dX_sum_sum_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of dX_sum_sum2[q] = sum(k where seen) dP_log[q] * S_total[q,k] *
        #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(Y_sum[k]) *
        #     reciprocal(sqrt(X_sum[q])) * Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale *
        #     S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
        dX_sum_sum2_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of dscale_rows[q] = sum(k where seen) (S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * S_total[q,k] *
        #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * exp(scale * S_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
        dscale_rows_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of dQ_sum[q,d] = sum(k where seen) (scale * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q])
        #     * sqrt(Y_sum[k]))) * K[k,d] * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q]) - finite(P_log[q]))
        dQ_sum_qd = torch.full([NB, NH, q1 - q0, D], 0.0, device=device, dtype=kind)
        scale_ = scale[None, None, ...].to(kind)
        P_log_q = P_log[:, :, q0:q1].to(kind)
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        end = max(0, NK + last - NQ + 1)
        hi = (BLOCK_K + end - 1) // BLOCK_K
        inner_end = max(0, NK + q0 - NQ + 1)
        full_hi = inner_end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_total_qk = Q_qd @ K_kd.mT
            # dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            dS_total_total_qk = dO_qe @ V_ke.mT
            # dX_sum_sum[q] = sum(k where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
            #     sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) *
            #     dS_total_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k]
            #     * Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
            Y_sum_k = Y_sum[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            Y_sum_inverse_k = Y_sum_inverse[:, :, k0:k1].index_select(
                1, (h // (NH // NG)).flatten()
            ).to(kind)
            ratio_S_total_qk = divide(
                S_total_qk
                * reciprocal(torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :])
                * torch.sqrt(Y_sum_k)[..., None, :]
                * reciprocal(torch.sqrt(X_sum_q))[..., :, None]
                * dS_total_total_qk
                * Y_sum_inverse_k[..., None, :],
                torch.sqrt(X_sum_q)[..., :, None],
            )
            ratio_S_total2_qk = divide(
                scale_[..., None, None] * S_total_qk * Y_sum_inverse_k[..., None, :],
                torch.sqrt(X_sum_q)[..., :, None],
            )
            ratio_S_total2_seen_qk = (
                ratio_S_total2_qk * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[..., :, None]
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                ratio_S_total2_seen_qk = torch.where(seen_qk, ratio_S_total2_seen_qk, -math.inf)
            exp_ratio_S_total2_seen_qk = torch.exp2(ratio_S_total2_seen_qk)
            ratio_S_total_seen_qk = ratio_S_total_qk * exp_ratio_S_total2_seen_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                ratio_S_total_seen_qk = torch.where(seen_qk, ratio_S_total_seen_qk, 0.0)
            dX_sum_sum_tile_q = ratio_S_total_seen_qk.sum(-1)
            dX_sum_sum_q = dX_sum_sum_q + dX_sum_sum_tile_q
            # dX_sum_sum2[q] = sum(k where seen) dP_log[q] * S_total[q,k] *
            #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(Y_sum[k]) *
            #     reciprocal(sqrt(X_sum[q])) * Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale *
            #     S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
            ratio_S_total3_qk = divide(
                dP_log_q[..., :, None]
                * S_total_qk
                * reciprocal(torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :])
                * torch.sqrt(Y_sum_k)[..., None, :]
                * reciprocal(torch.sqrt(X_sum_q))[..., :, None]
                * Y_sum_inverse_k[..., None, :],
                torch.sqrt(X_sum_q)[..., :, None],
            )
            ratio_S_total3_seen_qk = ratio_S_total3_qk * exp_ratio_S_total2_seen_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                ratio_S_total3_seen_qk = torch.where(seen_qk, ratio_S_total3_seen_qk, 0.0)
            dX_sum_sum2_tile_q = ratio_S_total3_seen_qk.sum(-1)
            dX_sum_sum2_q = dX_sum_sum2_q + dX_sum_sum2_tile_q
            # dscale_rows[q] = sum(k where seen) (S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
            #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * S_total[q,k] *
            #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * exp(scale * S_total[q,k] *
            #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
            S_total_seen_qk = (
                (
                    S_total_qk
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :]
                    )
                    * dS_total_total_qk
                    + dP_log_q[..., :, None]
                    * S_total_qk
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :]
                    )
                )
                * exp_ratio_S_total2_seen_qk
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                S_total_seen_qk = torch.where(seen_qk, S_total_seen_qk, 0.0)
            dscale_rows_tile_q = S_total_seen_qk.sum(-1)
            dscale_rows_q = dscale_rows_q + dscale_rows_tile_q
            # dQ_sum[q,d] = sum(k where seen) (scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) *
            #     dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) *
            #     sqrt(Y_sum[k]))) * K[k,d] * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
            #     sqrt(X_sum[q]) - finite(P_log[q]))
            dS_total_total_seen_qk = (
                (
                    scale_[..., None, None]
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :]
                    )
                    * dS_total_total_qk
                    + (dP_log_q * scale_[..., None])[..., :, None]
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., :, None] * torch.sqrt(Y_sum_k)[..., None, :]
                    )
                )
                * exp_ratio_S_total2_seen_qk
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                dS_total_total_seen_qk = torch.where(seen_qk, dS_total_total_seen_qk, 0.0)
            dQ_sum_qd = dQ_sum_qd + dS_total_total_seen_qk @ K_kd
        # dQ[q,d] = (-scale * 0.5 * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + (-scale
        #     * 0.5 * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + dQ_sum[q,d]
        dQ_qd = (
            (
                -((scale_ * 0.5)[..., None] * dX_sum_sum_q)
                - (scale_ * 0.5)[..., None] * dX_sum_sum2_q
            )[..., :, None]
            * Q_qd
            + (
                -((scale_ * 0.5)[..., None] * dX_sum_sum_q)
                - (scale_ * 0.5)[..., None] * dX_sum_sum2_q
            )[..., :, None]
            * Q_qd
            + dQ_sum_qd
        )
        dQ[..., q0:q1, :] = dQ_qd
        dscale_rows[..., q0:q1] = dscale_rows_q
    b = torch.arange(NB, device=device)[:, None]
    g = torch.arange(NG, device=device)[None, :]
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        k = torch.arange(k0, k1, device=device)
        # state of dY_sum_sum2[k] = sum(h_of_g, q where seen) S_total[q,k] *
        #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) *
        #     reciprocal(sqrt(Y_sum[k])) * dY_sum_total[k,q] * X_sum_inverse[q] / sqrt(Y_sum[k]) *
        #     exp(scale * S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
        dY_sum_sum2_k = torch.full([NB, NG, k1 - k0], 0.0, device=device, dtype=kind)
        # state of dY_sum_sum3[k] = sum(h_of_g, q where seen) dP_log[q] * S_total[q,k] *
        #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) *
        #     reciprocal(sqrt(Y_sum[k])) * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale *
        #     S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
        dY_sum_sum3_k = torch.full([NB, NG, k1 - k0], 0.0, device=device, dtype=kind)
        # state of dK_sum_max[k] = max(h_of_g, q where seen) (scale * S_total[q,k] *
        #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
        dK_sum_max_k = torch.full([NB, NG, k1 - k0], -math.inf, device=device, dtype=kind)
        # state of dK_total[k,d] = sum(h_of_g, q where seen) (scale * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q])
        #     * sqrt(Y_sum[k]))) * Q[q,d] * exp(scale * S_total[q,k] * X_sum_inverse[q] /
        #     sqrt(Y_sum[k]) - finite(P_log[q]) - finite(dK_sum_max[k]))
        dK_total_kd = torch.full([NB, NG, k1 - k0, D], 0.0, device=device, dtype=kind)
        # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(scale * S_total[q,k] *
        #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
        dV_ke = torch.full([NB, NG, k1 - k0, E], 0.0, device=device, dtype=kind)
        K_kd = K[:, :, k0:k1].to(kind)
        V_ke = V[:, :, k0:k1].to(kind)
        Y_sum_k = Y_sum[:, :, k0:k1].to(kind)
        scale_ = scale[None, None, ...].to(kind)
        for h_of_g in range(0, NH_OF_G):
            Y_sum2_k = gather(
                Y_sum, b[..., None], ((g * (NH // NG) + h_of_g) // (NH // NG))[..., None], k
            ).to(kind)
            # tiles of q that these rows see, and which of them whole
            begin = max(0, NQ + k0 - NK)
            end = NQ
            lo = begin // BLOCK_Q
            hi = (BLOCK_Q + end - 1) // BLOCK_Q if begin < end else lo
            tiles = (
                (range(lo, hi), False),
            )
            for q0, q1, whole in walk(tiles, BLOCK_Q, NQ):
                q = torch.arange(q0, q1, device=device)
                # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
                Q_qd = Q[:, :, q0:q1].index_select(1, (g * (NH // NG) + h_of_g).flatten()).to(kind)
                S_total_kq = K_kd @ Q_qd.mT
                # dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
                dO_qe = dO[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                dS_total_total_kq = V_ke @ dO_qe.mT
                # dY_sum_total[k,q] = sum(e) dO[q,e] * V[k,e]
                dY_sum_total_kq = V_ke @ dO_qe.mT
                # dY_sum_sum2[k] = sum(h_of_g, q where seen) S_total[q,k] *
                #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) *
                #     reciprocal(sqrt(Y_sum[k])) * dY_sum_total[k,q] * X_sum_inverse[q] /
                #     sqrt(Y_sum[k]) * exp(scale * S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k])
                #     - finite(P_log[q]))
                X_sum_q = X_sum[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                X_sum_inverse_q = X_sum_inverse[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                ratio_S_total_kq = divide(
                    S_total_kq
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., None, :] * torch.sqrt(Y_sum_k)[..., :, None]
                    )
                    * torch.sqrt(X_sum_q)[..., None, :]
                    * reciprocal(torch.sqrt(Y_sum_k))[..., :, None]
                    * dY_sum_total_kq
                    * X_sum_inverse_q[..., None, :],
                    torch.sqrt(Y_sum_k)[..., :, None],
                )
                ratio_S_total2_kq = divide(
                    scale_[..., None, None] * S_total_kq * X_sum_inverse_q[..., None, :],
                    torch.sqrt(Y_sum_k)[..., :, None],
                )
                P_log_q = P_log[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                exp_ratio_S_total2_kq = torch.exp2(
                    ratio_S_total2_kq * 1.4426950408889634
                    - (finite(P_log_q) * 1.4426950408889634)[..., None, :]
                )
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = k[:, None] <= (q + (NK - NQ))[None, :]
                ratio_S_total_seen_kq = torch.where(
                    seen_kq, ratio_S_total_kq * exp_ratio_S_total2_kq, 0.0
                )
                dY_sum_sum2_tile_k = ratio_S_total_seen_kq.sum(-1)
                dY_sum_sum2_k = dY_sum_sum2_k + dY_sum_sum2_tile_k
                # dY_sum_sum3[k] = sum(h_of_g, q where seen) dP_log[q] * S_total[q,k] *
                #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) *
                #     reciprocal(sqrt(Y_sum[k])) * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale *
                #     S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
                dP_log_q = dP_log[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                ratio_S_total3_kq = divide(
                    dP_log_q[..., None, :]
                    * S_total_kq
                    * reciprocal(
                        torch.sqrt(X_sum_q)[..., None, :] * torch.sqrt(Y_sum_k)[..., :, None]
                    )
                    * torch.sqrt(X_sum_q)[..., None, :]
                    * reciprocal(torch.sqrt(Y_sum_k))[..., :, None]
                    * X_sum_inverse_q[..., None, :],
                    torch.sqrt(Y_sum_k)[..., :, None],
                )
                ratio_S_total3_seen_kq = torch.where(
                    seen_kq, ratio_S_total3_kq * exp_ratio_S_total2_kq, 0.0
                )
                dY_sum_sum3_tile_k = ratio_S_total3_seen_kq.sum(-1)
                dY_sum_sum3_k = dY_sum_sum3_k + dY_sum_sum3_tile_k
                # dK_sum_max[k] = max(h_of_g, q where seen) (scale * S_total[q,k] * X_sum_inverse[q]
                #     / sqrt(Y_sum[k]) - finite(P_log[q]))
                ratio_S_total4_kq = divide(
                    scale_[..., None, None] * S_total_kq * X_sum_inverse_q[..., None, :],
                    torch.sqrt(Y_sum2_k)[..., :, None],
                )
                exponent_kq = ratio_S_total4_kq - finite(P_log_q)[..., None, :]
                # seen: q < |q| and k <= q + (|k| - |q|) and (g * (|h| // |g|) + h_of_g) // (|h| //
                #     |g|) < |g|
                seen2_kq = (
                    (k[:, None] <= (q + (NK - NQ))[None, :])
                    & ((g * (NH // NG) + h_of_g) // (NH // NG) < NG)[..., None, None]
                )
                exponent_seen_kq = torch.where(seen2_kq, exponent_kq, -math.inf)
                dK_sum_max_tile_k = exponent_seen_kq.amax(-1)
                dK_sum_max_old_k = dK_sum_max_k
                dK_sum_max_k = torch.maximum(dK_sum_max_old_k, dK_sum_max_tile_k)
                # dK_total[k,d] = sum(h_of_g, q where seen) (scale * reciprocal(sqrt(X_sum[q]) *
                #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale *
                #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * Q[q,d] * exp(scale *
                #     S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]) -
                #     finite(dK_sum_max[k]))
                alpha_k = torch.exp2(
                    dK_sum_max_old_k * 1.4426950408889634
                    - finite(dK_sum_max_k) * 1.4426950408889634
                )
                exp_exponent_seen_kq = torch.exp2(
                    exponent_seen_kq * 1.4426950408889634
                    - (finite(dK_sum_max_k) * 1.4426950408889634)[..., :, None]
                )
                dS_total_total_seen_kq = torch.where(
                    seen2_kq,
                    (
                        scale_[..., None, None]
                        * reciprocal(
                            torch.sqrt(X_sum_q)[..., None, :] * torch.sqrt(Y_sum2_k)[..., :, None]
                        )
                        * dS_total_total_kq
                        + (dP_log_q * scale_[..., None])[..., None, :]
                        * reciprocal(
                            torch.sqrt(X_sum_q)[..., None, :] * torch.sqrt(Y_sum2_k)[..., :, None]
                        )
                    )
                    * exp_exponent_seen_kq,
                    0.0,
                )
                dK_total_kd = dK_total_kd * alpha_k[..., :, None] + dS_total_total_seen_kq @ Q_qd
                # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(scale * S_total[q,k] *
                #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
                exp_ratio_S_total2_seen_kq = torch.where(seen_kq, exp_ratio_S_total2_kq, 0.0)
                dV_ke = dV_ke + exp_ratio_S_total2_seen_kq @ dO_qe
        # dK[k,d] = (-scale * 0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] +
        #     (-scale * 0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] +
        #     dK_total[k,d] * exp(dK_sum_max[k])
        dK_kd = (
            (
                -((scale_ * 0.5)[..., None] * dY_sum_sum2_k)
                - (scale_ * 0.5)[..., None] * dY_sum_sum3_k
            )[..., :, None]
            * K_kd
            + (
                -((scale_ * 0.5)[..., None] * dY_sum_sum2_k)
                - (scale_ * 0.5)[..., None] * dY_sum_sum3_k
            )[..., :, None]
            * K_kd
            + dK_total_kd * torch.exp2(dK_sum_max_k * 1.4426950408889634)[..., :, None]
        )
        dK[..., k0:k1, :] = dK_kd
        dV[..., k0:k1, :] = dV_ke
    dscale = _cosine_backward_totals(dscale_rows=dscale_rows)
    return dQ, dK, dV, dscale.to(scale.dtype)


class _cosine_gradients(torch.autograd.Function):
    """`cosine` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V, scale):
        O, P_log = cosine_forward(Q, K, V, scale)
        ctx.save_for_backward(Q, K, V, scale, P_log, O)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`cosine` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, scale, P_log, O = ctx.saved_tensors
        dQ, dK, dV, dscale = cosine_backward(Q, K, V, scale, P_log, O, dO)
        return dQ, dK, dV, dscale


def cosine(Q, K, V, scale):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], scale[] -> O[b,h,q,e], differentiable."""
    return _cosine_gradients.apply(Q, K, V, scale)


def _divide(a, b):
    """a / b; 0 / 0 is 0, and no gradient passes where the divisor is 0."""
    none = b == 0
    at_none = torch.where(a == 0, 0, a / b).detach()
    return torch.where(none, at_none, a / torch.where(none, 1, b))


def _sqrt(x):
    """The square root; of 0 it is 0 with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, 0, torch.sqrt(torch.where(none, 1, x)))


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q, K, V, scale):
    """`cosine`: dense, differentiable, any device and dtype."""
    _, NH, NQ, _ = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # X[b,h,q,d] = Q[b,h,q,d] / sqrt(sum(d) Q[b,h,q,d] * Q[b,h,q,d])
    X = _divide(Q, _sqrt(_einsum("bhqd,bhqd->bhq", Q, Q))[..., None])
    # Y[b,g,k,d] = K[b,g,k,d] / sqrt(sum(d) K[b,g,k,d] * K[b,g,k,d])
    Y = _divide(K, _sqrt(_einsum("bgkd,bgkd->bgk", K, K))[..., None])
    # S[b,h,q,k] = scale * sum(d) X[b,h,q,d] * Y[b, h // (|h| // |g|), k, d]
    S = scale * _einsum("bhqd,bhkd->bhqk", X, Y[:, h // (NH // NG)])
    # P[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S[b,h,q,k] - max(k where k <= q + (|k|
    #     - |q|)) S[b,h,q,k]) else 0
    where_qk = k <= (q + (NK - NQ))[:, None]
    max_P_q = _amax(torch.where(where_qk, S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_qk, S - max_P_q[..., None], -math.inf))
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
        "scale": torch.rand((), device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = cosine(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V", "scale"]
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
