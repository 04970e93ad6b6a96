"""gpt-oss: a learned logit per head takes its share of every softmax and gives nothing (arXiv 2508.10925).

The dense layers; the others differ by `q - k < 128`.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) O[q,e] = (sum(k where k <= q) exp(S[q,k]) * V[k,e]) / (exp(sink) + sum(k where k <= q)
    exp(S[q,k]))
(3) lse[q] = log(exp(sink) + sum(k where k <= q) exp(S[q,k]))

As it runs:

    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    S_max[q] = max(k where k <= q + (|k| - |q|)) S[q,k]
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O_sum2_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S[q,k] - finite(S_max[q]))
    O_sum2_log[q] = finite(max(sink, S_max[q])) + log(exp(sink - finite(max(sink, S_max[q]))) +
        O_sum2_total[q] * exp(S_max[q] - finite(max(sink, S_max[q]))))
    O[q,e] = O_total[q,e] * exp(S_max[q] - finite(finite(max(sink, S_max[q])) + log(exp(sink -
        finite(max(sink, S_max[q]))) + O_sum2_total[q] * exp(S_max[q] - finite(max(sink,
        S_max[q]))))))

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: S_max[q], O_sum2_total[q], O_total[q,e].

Its gradients:

    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dO_sum2_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dQ_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (dO_sum2_log[q] + dS_total[q,k]) * K[k,d] *
        exp(S[q,k] - finite(O_sum2_log[q]))
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    dO_sum2_log_rows[q] = dO_sum2_log[q] * exp(sink - finite(O_sum2_log[q]))
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dK_sum[k,d] = sum(h_of_g, q where k <= q + (|k| - |q|)) (dO_sum2_log[q] + dS_total[q,k]) *
        Q[q,d] * exp(S[q,k] - finite(O_sum2_log[q]))
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) dO[q,e] * exp(S[q,k] -
        finite(O_sum2_log[q]))
    dsink = sum(b, q) dO_sum2_log_rows[q]

Kernel sink_backward_dQ writes dQ[b,h,q,d], dO_sum2_log_rows[h,b,q], dO_sum2_log[h,b,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ_sum[q,d].
Kernel sink_backward_dK writes dK[b,g,k,d], dV[b,g,k,e].
One pass over q at every h_of_g for every tile of rows k,
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


def sink_forward(Q, K, V, sink):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], sink[h] -> O[b,h,q,e], O_sum2_log[h,b,q], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("sink", "h", sink),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("sink", sink)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    O = Q.new_empty((NB, NH, NQ, E))
    O_sum2_log = Q.new_empty((NH, NB, NQ), dtype=accumulator(Q))
    device, kind = Q.device, accumulator(Q)
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of S_max[q] = max(k where seen) S[q,k]
        S_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
        O_sum2_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
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
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_qk = Q_qd @ K_kd.mT
            # S_max[q] = max(k where seen) S[q,k]
            S_seen_qk = S_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
            S_max_tile_q = S_seen_qk.amax(-1)
            S_max_old_q = S_max_q
            S_max_q = torch.maximum(S_max_old_q, S_max_tile_q * (1 / math.sqrt(D)))
            # O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
            alpha_q = torch.exp2(
                S_max_old_q * 1.4426950408889634 - finite(S_max_q) * 1.4426950408889634
            )
            exp_S_seen_qk = torch.exp2(
                S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(S_max_q) * 1.4426950408889634)[..., :, None]
            )
            O_sum2_total_tile_q = exp_S_seen_qk.sum(-1)
            O_sum2_total_q = O_sum2_total_q * alpha_q + O_sum2_total_tile_q
            # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_S_seen_qk @ V_ke
        # O_sum2_log[q] = finite(max(sink, S_max[q])) + log(exp(sink - finite(max(sink, S_max[q])))
        #     + O_sum2_total[q] * exp(S_max[q] - finite(max(sink, S_max[q]))))
        sink_ = sink[None, :, ...].to(kind)
        O_sum2_log_q = (
            finite(torch.maximum(sink_[..., None], S_max_q))
            + torch.log(
                torch.exp2(
                    (1.4426950408889634 * sink_)[..., None]
                    - finite(torch.maximum(sink_[..., None], S_max_q)) * 1.4426950408889634
                )
                + O_sum2_total_q
                * torch.exp2(
                    S_max_q * 1.4426950408889634
                    - finite(torch.maximum(sink_[..., None], S_max_q)) * 1.4426950408889634
                )
            )
        )
        # O[q,e] = O_total[q,e] * exp(S_max[q] - finite(finite(max(sink, S_max[q])) + log(exp(sink -
        #     finite(max(sink, S_max[q]))) + O_sum2_total[q] * exp(S_max[q] - finite(max(sink,
        #     S_max[q]))))))
        O_qe = (
            O_total_qe
            * torch.exp2(
                S_max_q * 1.4426950408889634
                - finite(
                    finite(torch.maximum(sink_[..., None], S_max_q))
                    + torch.log(
                        torch.exp2(
                            (1.4426950408889634 * sink_)[..., None]
                            - finite(torch.maximum(sink_[..., None], S_max_q)) * 1.4426950408889634
                        )
                        + O_sum2_total_q
                        * torch.exp2(
                            S_max_q * 1.4426950408889634
                            - finite(torch.maximum(sink_[..., None], S_max_q)) * 1.4426950408889634
                        )
                    )
                )
                * 1.4426950408889634
            )[..., :, None]
        )
        O[..., q0:q1, :] = O_qe
        O_sum2_log.permute(1, 0, 2)[..., q0:q1] = O_sum2_log_q
    return O, O_sum2_log


def _sink_backward_totals(dO_sum2_log_rows):
    """Sums over rows, one after the other."""
    # dsink[h] = sum(b, q) dO_sum2_log_rows[h,b,q]
    dsink = dO_sum2_log_rows.sum((1, 2))
    return dsink



def sink_backward(Q, K, V, sink, O, O_sum2_log, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], sink[h], O[b,h,q,e], O_sum2_log[h,b,q], dO[b,h,q,e] ->
        dQ[b,h,q,d], dK[b,g,k,d], dV[b,g,k,e], dsink[h], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("sink", "h", sink),
        ("O", "b h q e", O),
        ("O_sum2_log", "h b q", O_sum2_log),
        ("dO", "b h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("sink", sink), ("dO", dO)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NH_OF_G = (NH // NG)
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if NG <= 0:
        raise ValueError(f"`|g|` divides positions and must be positive, not {NG}")
    dQ = Q.new_empty((NB, NH, NQ, D))
    dO_sum2_log_rows = Q.new_empty((NH, NB, NQ), dtype=accumulator(Q))
    dO_sum2_log = Q.new_empty((NH, NB, NQ), dtype=accumulator(Q))
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E))
    device, kind = Q.device, accumulator(Q)
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # dO_sum2_log[q] = sum(e) (-dO[q,e] * O[q,e])
        dO_qe = dO[:, :, q0:q1].to(kind)
        O_qe = O[:, :, q0:q1].to(kind)
        dO_sum2_log_q = (-(dO_qe * O_qe)).sum(-1)
        # dO_sum2_log_rows[q] = dO_sum2_log[q] * exp(sink - finite(O_sum2_log[q]))
        sink_ = sink[None, :, ...].to(kind)
        O_sum2_log_q = O_sum2_log[:, :, q0:q1].permute(1, 0, 2).to(kind)
        dO_sum2_log_rows_q = (
            dO_sum2_log_q
            * torch.exp2(
                (1.4426950408889634 * sink_)[..., None] - finite(O_sum2_log_q) * 1.4426950408889634
            )
        )
        dO_sum2_log_rows.permute(1, 0, 2)[..., q0:q1] = dO_sum2_log_rows_q
        dO_sum2_log.permute(1, 0, 2)[..., q0:q1] = dO_sum2_log_q
        # state of dQ_sum[q,d] = sum(k where seen) (dO_sum2_log[q] + dS_total[q,k]) * K[k,d] *
        #     exp(S[q,k] - finite(O_sum2_log[q]))
        dQ_sum_qd = torch.full([NB, NH, q1 - q0, D], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
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
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_qk = Q_qd @ K_kd.mT
            S_seen_qk = S_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
            # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            dS_total_qk = dO_qe @ V_ke.mT
            # dQ_sum[q,d] = sum(k where seen) (dO_sum2_log[q] + dS_total[q,k]) * K[k,d] * exp(S[q,k]
            #     - finite(O_sum2_log[q]))
            exp_S_seen_qk = torch.exp2(
                S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(O_sum2_log_q) * 1.4426950408889634)[..., :, None]
            )
            dQ_sum_qd = (
                dQ_sum_qd + ((dO_sum2_log_q[..., :, None] + dS_total_qk) * exp_S_seen_qk) @ K_kd
            )
        # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
        dQ_qd = dQ_sum_qd / math.sqrt(D)
        dQ[..., q0:q1, :] = dQ_qd
    g = torch.arange(NG, device=device)[None, :]
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        k = torch.arange(k0, k1, device=device)
        # state of dK_sum[k,d] = sum(h_of_g, q where seen) (dO_sum2_log[q] + dS_total[q,k]) * Q[q,d]
        #     * exp(S[q,k] - finite(O_sum2_log[q]))
        dK_sum_kd = torch.full([NB, NG, k1 - k0, D], 0.0, device=device, dtype=kind)
        # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(O_sum2_log[q]))
        dV_ke = torch.full([NB, NG, k1 - k0, E], 0.0, device=device, dtype=kind)
        K_kd = K[:, :, k0:k1].to(kind)
        V_ke = V[:, :, k0:k1].to(kind)
        for h_of_g in range(0, NH_OF_G):
            # tiles of q that these rows see, and which of them whole
            last = k1 - 1
            begin = max(0, NQ + k0 - NK)
            end = NQ
            lo = begin // BLOCK_Q
            hi = (BLOCK_Q + end - 1) // BLOCK_Q if begin < end else lo
            inner_begin = max(0, NQ + last - NK)
            full_lo = min((BLOCK_Q + inner_begin - 1) // BLOCK_Q, hi)
            full_hi = max(full_lo, end // BLOCK_Q)
            tiles = (
                (range(lo, full_lo), False),
                (range(full_lo, full_hi), True),
                (range(full_hi, hi), False),
            )
            for q0, q1, whole in walk(tiles, BLOCK_Q, NQ):
                q = torch.arange(q0, q1, device=device)
                # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                Q_qd = Q[:, :, q0:q1].index_select(1, (g * (NH // NG) + h_of_g).flatten()).to(kind)
                S_kq = K_kd @ Q_qd.mT
                S_seen_kq = S_kq
                if not whole:
                    # seen: q < |q| and k <= q + (|k| - |q|)
                    seen_kq = k[:, None] <= (q + (NK - NQ))[None, :]
                    S_seen_kq = torch.where(seen_kq, S_seen_kq, -math.inf)
                # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
                dO_qe = dO[:, :, q0:q1].index_select(
                    1, (g * (NH // NG) + h_of_g).flatten()
                ).to(kind)
                dS_total_kq = V_ke @ dO_qe.mT
                # dK_sum[k,d] = sum(h_of_g, q where seen) (dO_sum2_log[q] + dS_total[q,k]) * Q[q,d]
                #     * exp(S[q,k] - finite(O_sum2_log[q]))
                dO_sum2_log_q = dO_sum2_log[:, :, q0:q1].index_select(
                    0, (g * (NH // NG) + h_of_g).flatten()
                ).permute(1, 0, 2).to(kind)
                O_sum2_log_q = O_sum2_log[:, :, q0:q1].index_select(
                    0, (g * (NH // NG) + h_of_g).flatten()
                ).permute(1, 0, 2).to(kind)
                exp_S_seen_kq = torch.exp2(
                    S_seen_kq * (1.4426950408889634 / math.sqrt(D))
                    - (finite(O_sum2_log_q) * 1.4426950408889634)[..., None, :]
                )
                dK_sum_kd = (
                    dK_sum_kd + ((dO_sum2_log_q[..., None, :] + dS_total_kq) * exp_S_seen_kq) @ Q_qd
                )
                # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(O_sum2_log[q]))
                dV_ke = dV_ke + exp_S_seen_kq @ dO_qe
        # dK[k,d] = dK_sum[k,d] / sqrt(|d|)
        dK_kd = dK_sum_kd / math.sqrt(D)
        dK[..., k0:k1, :] = dK_kd
        dV[..., k0:k1, :] = dV_ke
    dsink = _sink_backward_totals(dO_sum2_log_rows=dO_sum2_log_rows)
    return dQ, dK, dV, dsink.to(sink.dtype)


class _sink_gradients(torch.autograd.Function):
    """`sink` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V, sink):
        O, O_sum2_log = sink_forward(Q, K, V, sink)
        ctx.save_for_backward(Q, K, V, sink, O, O_sum2_log)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`sink` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, sink, O, O_sum2_log = ctx.saved_tensors
        dQ, dK, dV, dsink = sink_backward(Q, K, V, sink, O, O_sum2_log, dO)
        return dQ, dK, dV, dsink


def sink(Q, K, V, sink):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], sink[h] -> O[b,h,q,e], differentiable."""
    return _sink_gradients.apply(Q, K, V, sink)


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


def reference(Q, K, V, sink):
    """`sink`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # O[b,h,q,e] = (sum(k where k <= q + (|k| - |q|)) exp(S[b,h,q,k]) * V[b, h // (|h| // |g|), k,
    #     e]) / (exp(sink[h]) + sum(k where k <= q + (|k| - |q|)) exp(S[b,h,q,k]))
    exp_O_qk = torch.exp(torch.where(k <= (q + (NK - NQ))[:, None], S, -math.inf))
    sum_O_qe = _einsum("bhqk,bhke->bhqe", exp_O_qk, V[:, h // (NH // NG)])
    O = _divide(sum_O_qe, (torch.exp(sink)[:, None] + exp_O_qk.sum(-1))[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "sink": torch.rand(4, device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = sink(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V", "sink"]
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
