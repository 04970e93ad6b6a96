"""AlphaFold 2's Evoformer: rows of an alignment, with a bias of pairs and a gate (Nature 596, 583, alg. 7).

`m` counts the sequences of the alignment; `pair` is the same for all of them. `G` comes before its sigmoid.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|) + pair[q,k]
(2) P[q,k] = softmax(k) S[q,k]
(3) O[q,e] = sigmoid(G[q,e]) * sum(k) P[q,k] * V[k,e]

As it runs:

    S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_total_max[q] = max(k) (S_sum[q,k] + pair[q,k])
    P_total_total[q] = sum(k) exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
    P_log[q] = P_total_max[q] + log(P_total_total[q])
    O_total_total[q,e] = sum(k) V[k,e] * exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
    O_part[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        log(P_total_total[q])))
    O[q,e] = sigmoid(G[q,e]) * O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        log(P_total_total[q])))

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_total_max[q], P_total_total[q], O_total_total[q,e].

Its gradients:

    S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dP_log[q] = sum(e) (-dO[q,e] * sigmoid(G[q,e]) * O_part[q,e])
    dS_sum_total[q,k] = sum(e) dO[q,e] * sigmoid(G[q,e]) * V[k,e]
    dQ_sum[q,d] = sum(k) (dS_sum_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] + pair[q,k] -
        finite(P_log[q]))
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    dG[q,e] = dO[q,e] * O_part[q,e] * (sigmoid(G[q,e]) * sigmoid(-G[q,e]))
    dpair[q,k] = sum(m) (dS_sum_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + pair[q,k] -
        finite(P_log[q]))
    dK_sum[k,d] = sum(q) (dS_sum_total[q,k] + dP_log[q]) * Q[q,d] * exp(S_sum[q,k] + pair[q,k] -
        finite(P_log[q]))
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(q) dO[q,e] * sigmoid(G[q,e]) * exp(S_sum[q,k] + pair[q,k] - finite(P_log[q]))

Kernel evoformer_backward_dQ writes dQ[b,m,h,q,d], dG[b,m,h,q,e], dP_log[b,m,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ_sum[q,d].
Kernel evoformer_backward_dpair writes dpair[b,h,q,k].
One pass over k for every tile of rows q,
over all tiles, of which it stores dpair.
Kernel evoformer_backward_dK writes dK[b,m,h,k,d], dV[b,m,h,k,e].
One pass over q for every tile of rows k,
over one range of tiles that its predicate leaves live.
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


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_Q = 128
BLOCK_K = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def evoformer_forward(Q, K, V, pair, G):
    """Q[b,m,h,q,d], K[b,m,h,k,d], V[b,m,h,k,e], pair[b,h,q,k], G[b,m,h,q,e] -> O[b,m,h,q,e],
        P_log[b,m,h,q], O_part[b,m,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b m h q d", Q),
        ("K", "b m h k d", K),
        ("V", "b m h k e", V),
        ("pair", "b h q k", pair),
        ("G", "b m h q e", G),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("pair", pair), ("G", G)], [], [], KINDS)
    NB, NM, NH, NQ, D, NK, E = (
        sizes["b"], sizes["m"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
    )
    O = Q.new_empty((NB, NM, NH, NQ, E))
    P_log = Q.new_empty((NB, NM, NH, NQ), dtype=accumulator(Q))
    O_part = Q.new_empty((NB, NM, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        # state of P_total_max[q] = max(k) (S_sum[q,k] + pair[q,k])
        P_total_max_q = torch.full([NB, NM, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P_total_total[q] = sum(k) exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
        P_total_total_q = torch.full([NB, NM, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total_total[q,e] = sum(k) V[k,e] * exp(S_sum[q,k] + pair[q,k] -
        #     finite(P_total_max[q]))
        O_total_total_qe = torch.full([NB, NM, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, :, q0:q1].to(kind)
        # tiles of k that these rows see, and which of them whole
        end = NK
        hi = (BLOCK_K + end - 1) // BLOCK_K
        full_hi = end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, :, k0:k1].to(kind)
            S_sum_qk = Q_qd @ K_kd.mT
            # P_total_max[q] = max(k) (S_sum[q,k] + pair[q,k])
            pair_qk = pair[:, :, q0:q1, k0:k1][:, None, :, ...].to(kind)
            exponent_qk = S_sum_qk * (1 / math.sqrt(D)) + pair_qk
            exponent_seen_qk = exponent_qk
            if not whole:
                # seen: k < |k|
                seen_k = k < NK
                exponent_seen_qk = torch.where(seen_k[..., None, :], exponent_seen_qk, -math.inf)
            P_total_max_tile_q = exponent_seen_qk.amax(-1)
            P_total_max_old_q = P_total_max_q
            P_total_max_q = torch.maximum(P_total_max_old_q, P_total_max_tile_q)
            # P_total_total[q] = sum(k) exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
            alpha_q = torch.exp2(
                P_total_max_old_q * 1.4426950408889634 - finite(P_total_max_q) * 1.4426950408889634
            )
            exp_exponent_seen_qk = torch.exp2(
                exponent_seen_qk * 1.4426950408889634
                - (finite(P_total_max_q) * 1.4426950408889634)[..., :, None]
            )
            P_total_total_tile_q = exp_exponent_seen_qk.sum(-1)
            P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
            # O_total_total[q,e] = sum(k) V[k,e] * exp(S_sum[q,k] + pair[q,k] -
            #     finite(P_total_max[q]))
            V_ke = V[:, :, :, k0:k1].to(kind)
            O_total_total_qe = (
                O_total_total_qe * alpha_q[..., :, None] + exp_exponent_seen_qk @ V_ke
            )
        # P_log[q] = P_total_max[q] + log(P_total_total[q])
        P_log_q = P_total_max_q + torch.log(P_total_total_q)
        # O_part[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        #     log(P_total_total[q])))
        O_part_qe = (
            O_total_total_qe
            * torch.exp2(
                P_total_max_q * 1.4426950408889634
                - finite(P_total_max_q + torch.log(P_total_total_q)) * 1.4426950408889634
            )[..., :, None]
        )
        # O[q,e] = sigmoid(G[q,e]) * O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q]
        #     + log(P_total_total[q])))
        G_qe = G[:, :, :, q0:q1].to(kind)
        sigmoid_G_qe = torch.sigmoid(G_qe)
        O_qe = (
            sigmoid_G_qe
            * O_total_total_qe
            * torch.exp2(
                P_total_max_q * 1.4426950408889634
                - finite(P_total_max_q + torch.log(P_total_total_q)) * 1.4426950408889634
            )[..., :, None]
        )
        O[..., q0:q1, :] = O_qe
        P_log[..., q0:q1] = P_log_q
        O_part[..., q0:q1, :] = O_part_qe
    return O, P_log, O_part


def evoformer_backward(Q, K, V, pair, G, P_log, O_part, dO):
    """Q[b,m,h,q,d], K[b,m,h,k,d], V[b,m,h,k,e], pair[b,h,q,k], G[b,m,h,q,e], P_log[b,m,h,q],
        O_part[b,m,h,q,e], dO[b,m,h,q,e] -> dQ[b,m,h,q,d], dK[b,m,h,k,d], dV[b,m,h,k,e], dpair[b,h,q,k],
        dG[b,m,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b m h q d", Q),
        ("K", "b m h k d", K),
        ("V", "b m h k e", V),
        ("pair", "b h q k", pair),
        ("G", "b m h q e", G),
        ("P_log", "b m h q", P_log),
        ("O_part", "b m h q e", O_part),
        ("dO", "b m h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("pair", pair), ("G", G), ("dO", dO)], [], [], KINDS)
    NB, NM, NH, NQ, D, NK, E = (
        sizes["b"], sizes["m"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
    )
    dQ = Q.new_empty((NB, NM, NH, NQ, D))
    dG = Q.new_empty((NB, NM, NH, NQ, E))
    dP_log = Q.new_empty((NB, NM, NH, NQ), dtype=accumulator(Q))
    dpair = Q.new_empty((NB, NH, NQ, NK))
    dK = Q.new_empty((NB, NM, NH, NK, D))
    dV = Q.new_empty((NB, NM, NH, NK, E))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        # dP_log[q] = sum(e) (-dO[q,e] * sigmoid(G[q,e]) * O_part[q,e])
        dO_qe = dO[:, :, :, q0:q1].to(kind)
        G_qe = G[:, :, :, q0:q1].to(kind)
        sigmoid_G_qe = torch.sigmoid(G_qe)
        O_part_qe = O_part[:, :, :, q0:q1].to(kind)
        dP_log_q = (-(dO_qe * sigmoid_G_qe * O_part_qe)).sum(-1)
        # dG[q,e] = dO[q,e] * O_part[q,e] * (sigmoid(G[q,e]) * sigmoid(-G[q,e]))
        sigmoid_G2_qe = torch.sigmoid(-G_qe)
        dG_qe = dO_qe * O_part_qe * (sigmoid_G_qe * sigmoid_G2_qe)
        dG[..., q0:q1, :] = dG_qe
        dP_log[..., q0:q1] = dP_log_q
        # state of dQ_sum[q,d] = sum(k) (dS_sum_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] +
        #     pair[q,k] - finite(P_log[q]))
        dQ_sum_qd = torch.full([NB, NM, NH, q1 - q0, D], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, :, q0:q1].to(kind)
        P_log_q = P_log[:, :, :, q0:q1].to(kind)
        # dS_sum_total_row[q,e] = dO[q,e] * sigmoid(G[q,e])
        dS_sum_total_row_qe = dO_qe * sigmoid_G_qe
        # tiles of k that these rows see, and which of them whole
        end = NK
        hi = (BLOCK_K + end - 1) // BLOCK_K
        full_hi = end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, :, k0:k1].to(kind)
            S_sum_qk = Q_qd @ K_kd.mT
            S_sum_seen_qk = S_sum_qk
            if not whole:
                # seen: k < |k|
                seen_k = k < NK
                S_sum_seen_qk = torch.where(seen_k[..., None, :], S_sum_seen_qk, -math.inf)
            # dS_sum_total[q,k] = sum(e) dS_sum_total_row[q,e] * V[k,e]
            V_ke = V[:, :, :, k0:k1].to(kind)
            dS_sum_total_qk = dS_sum_total_row_qe @ V_ke.mT
            # dQ_sum[q,d] = sum(k) (dS_sum_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] +
            #     pair[q,k] - finite(P_log[q]))
            pair_qk = pair[:, :, q0:q1, k0:k1][:, None, :, ...].to(kind)
            exp_S_sum_seen_qk = torch.exp2(
                S_sum_seen_qk * (1.4426950408889634 / math.sqrt(D))
                + pair_qk * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[..., :, None]
            )
            dQ_sum_qd = (
                dQ_sum_qd + ((dS_sum_total_qk + dP_log_q[..., :, None]) * exp_S_sum_seen_qk) @ K_kd
            )
        # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
        dQ_qd = dQ_sum_qd / math.sqrt(D)
        dQ[..., q0:q1, :] = dQ_qd
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        # tiles of k that these rows see, and which of them whole
        end = NK
        hi = (BLOCK_K + end - 1) // BLOCK_K
        full_hi = end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            dpair_qk = torch.full([NB, NH, q1 - q0, k1 - k0], 0.0, device=device, dtype=kind)
            for m in range(0, NM):
                # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                Q_qd = Q[:, m][:, :, q0:q1].to(kind)
                K_kd = K[:, m][:, :, k0:k1].to(kind)
                S_sum_qk = Q_qd @ K_kd.mT
                # dS_sum_total_row[q,e] = dO[q,e] * sigmoid(G[q,e])
                dO_qe = dO[:, m][:, :, q0:q1].to(kind)
                G_qe = G[:, m][:, :, q0:q1].to(kind)
                sigmoid_G_qe = torch.sigmoid(G_qe)
                dS_sum_total_row_qe = dO_qe * sigmoid_G_qe
                # dS_sum_total[q,k] = sum(e) dS_sum_total_row[q,e] * V[k,e]
                V_ke = V[:, m][:, :, k0:k1].to(kind)
                dS_sum_total_qk = dS_sum_total_row_qe @ V_ke.mT
                # dpair[q,k] = sum(m) (dS_sum_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + pair[q,k] -
                #     finite(P_log[q]))
                dP_log_q = dP_log[:, m][:, :, q0:q1].to(kind)
                pair_qk = pair[:, :, q0:q1, k0:k1].to(kind)
                P_log_q = P_log[:, m][:, :, q0:q1].to(kind)
                exp_S_sum_qk = torch.exp2(
                    S_sum_qk * (1.4426950408889634 / math.sqrt(D))
                    + pair_qk * 1.4426950408889634
                    - (finite(P_log_q) * 1.4426950408889634)[..., :, None]
                )
                dpair_qk = dpair_qk + (dS_sum_total_qk + dP_log_q[..., :, None]) * exp_S_sum_qk
            dpair[..., q0:q1, k0:k1] = dpair_qk
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        # state of dK_sum[k,d] = sum(q) (dS_sum_total[q,k] + dP_log[q]) * Q[q,d] * exp(S_sum[q,k] +
        #     pair[q,k] - finite(P_log[q]))
        dK_sum_kd = torch.full([NB, NM, NH, k1 - k0, D], 0.0, device=device, dtype=kind)
        # state of dV[k,e] = sum(q) dO[q,e] * sigmoid(G[q,e]) * exp(S_sum[q,k] + pair[q,k] -
        #     finite(P_log[q]))
        dV_ke = torch.full([NB, NM, NH, k1 - k0, E], 0.0, device=device, dtype=kind)
        K_kd = K[:, :, :, k0:k1].to(kind)
        V_ke = V[:, :, :, k0:k1].to(kind)
        # tiles of q that these rows see, and which of them whole
        end = NQ
        hi = (BLOCK_Q + end - 1) // BLOCK_Q
        full_hi = end // BLOCK_Q
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for q0, q1, whole in walk(tiles, BLOCK_Q, NQ):
            q = torch.arange(q0, q1, device=device)
            # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            Q_qd = Q[:, :, :, q0:q1].to(kind)
            S_sum_kq = K_kd @ Q_qd.mT
            S_sum_seen_kq = S_sum_kq
            if not whole:
                # seen: q < |q|
                seen_q = q < NQ
                S_sum_seen_kq = torch.where(seen_q[..., None, :], S_sum_seen_kq, -math.inf)
            # dS_sum_total_column[q,e] = dO[q,e] * sigmoid(G[q,e])
            dO_qe = dO[:, :, :, q0:q1].to(kind)
            G_qe = G[:, :, :, q0:q1].to(kind)
            sigmoid_G_qe = torch.sigmoid(G_qe)
            dS_sum_total_column_qe = dO_qe * sigmoid_G_qe
            # dS_sum_total[q,k] = sum(e) V[k,e] * dS_sum_total_column[q,e]
            dS_sum_total_kq = V_ke @ dS_sum_total_column_qe.mT
            # dK_sum[k,d] = sum(q) (dS_sum_total[q,k] + dP_log[q]) * Q[q,d] * exp(S_sum[q,k] +
            #     pair[q,k] - finite(P_log[q]))
            dP_log_q = dP_log[:, :, :, q0:q1].to(kind)
            pair_kq = pair[:, :, q0:q1, k0:k1].permute(0, 1, 3, 2)[:, None, :, ...].to(kind)
            P_log_q = P_log[:, :, :, q0:q1].to(kind)
            exp_S_sum_seen_kq = torch.exp2(
                S_sum_seen_kq * (1.4426950408889634 / math.sqrt(D))
                + pair_kq * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[..., None, :]
            )
            dK_sum_kd = (
                dK_sum_kd + ((dS_sum_total_kq + dP_log_q[..., None, :]) * exp_S_sum_seen_kq) @ Q_qd
            )
            # dV[k,e] = sum(q) dO[q,e] * sigmoid(G[q,e]) * exp(S_sum[q,k] + pair[q,k] -
            #     finite(P_log[q]))
            dV_ke = dV_ke + exp_S_sum_seen_kq @ dS_sum_total_column_qe
        # dK[k,d] = dK_sum[k,d] / sqrt(|d|)
        dK_kd = dK_sum_kd / math.sqrt(D)
        dK[..., k0:k1, :] = dK_kd
        dV[..., k0:k1, :] = dV_ke
    return dQ, dK, dV, dpair.to(pair.dtype), dG


class _evoformer_gradients(torch.autograd.Function):
    """`evoformer` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V, pair, G):
        O, P_log, O_part = evoformer_forward(Q, K, V, pair, G)
        ctx.save_for_backward(Q, K, V, pair, G, P_log, O_part)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`evoformer` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, pair, G, P_log, O_part = ctx.saved_tensors
        dQ, dK, dV, dpair, dG = evoformer_backward(Q, K, V, pair, G, P_log, O_part, dO)
        return dQ, dK, dV, dpair, dG


def evoformer(Q, K, V, pair, G):
    """Q[b,m,h,q,d], K[b,m,h,k,d], V[b,m,h,k,e], pair[b,h,q,k], G[b,m,h,q,e] -> O[b,m,h,q,e],
        differentiable."""
    return _evoformer_gradients.apply(Q, K, V, pair, G)


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


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q, K, V, pair, G):
    """`evoformer`: dense, differentiable, any device and dtype."""
    D = Q.shape[4]
    # S[b,m,h,q,k] = sum(d) Q[b,m,h,q,d] * K[b,m,h,k,d] / sqrt(|d|) + pair[b,h,q,k]
    S = _einsum("bmhqd,bmhkd->bmhqk", Q, K) / math.sqrt(D) + pair[:, None]
    # P[b,m,h,q,k] = if true then exp(S[b,m,h,q,k] - max(k) S[b,m,h,q,k]) / sum(k) exp(S[b,m,h,q,k]
    #     - max(k) S[b,m,h,q,k]) else 0
    max_P_q = _amax(S, 4, -math.inf)
    exp_P_qk = torch.exp(S - max_P_q[..., None])
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # O[b,m,h,q,e] = sigmoid(G[b,m,h,q,e]) * sum(k) P[b,m,h,q,k] * V[b,m,h,k,e]
    O = torch.sigmoid(G) * _einsum("bmhqk,bmhke->bmhqe", P, V)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 2, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 2, 203, 64, device=device, dtype=torch.float32),
        "pair": torch.rand(2, 2, 150, 203, device=device, dtype=torch.float32) / 8,
        "G": torch.randn(2, 4, 2, 150, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = evoformer(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V", "pair", "G"]
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
