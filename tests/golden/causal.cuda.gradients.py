"""Causal attention: a query sees the keys up to its own position (arXiv 1706.03762, 3.2.3), heads in groups.

The last query stands at the last key: prefill, chunked prefill and decode are the same text.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) P[q,k] = softmax(k where k <= q) S[q,k]
(3) O[q,e] = sum(k) P[q,k] * V[k,e]
(4) lse[q] = logsumexp(k where k <= q) S[q,k]

As it runs:

    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    S_max[q] = max(k where k <= q + (|k| - |q|)) S[q,k]
    P_total_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S[q,k] - finite(S_max[q]))
    P_log[q] = S_max[q] + log(P_total_total[q])
    O_total_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O[q,e] = O_total_total[q,e] * exp(S_max[q] - finite(S_max[q] + log(P_total_total[q])))

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: S_max[q], P_total_total[q], O_total_total[q,e].

Its gradients:

    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dQ_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (dS_total[q,k] + dP_log[q]) * K[k,d] *
        exp(S[q,k] - finite(P_log[q]))
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dK_sum[k,d] = sum(h_of_g, q where k <= q + (|k| - |q|)) (dS_total[q,k] + dP_log[q]) * Q[q,d] *
        exp(S[q,k] - finite(P_log[q]))
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) dO[q,e] * exp(S[q,k] - finite(P_log[q]))

Kernel causal_backward_dQ writes dQ[b,h,q,d], dP_log[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ_sum[q,d].
Kernel causal_backward_dK writes dK[b,g,k,d], dV[b,g,k,e].
One pass over q at every h_of_g for every tile of rows k,
over one range of tiles that its predicate leaves live.
State of a row: dK_sum[k,d], dV[k,e].

Edit the pattern, not this file.
"""

import contextlib
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


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


KINDS = (torch.float16, torch.bfloat16, torch.float32)

# tiles, warps and pipeline stages by the extents of features and the bytes of an element
TILES = {
    (64, 64, 2): {
        "BLOCK_Q": 128, "BLOCK_K": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 128, "BLOCK_K": 128, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_causal_backward_dQ = {
    (64, 64, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 128, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_causal_backward_dK = {
    (64, 64, 2): {
        "BLOCK_K": 64, "BLOCK_Q": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_K": 64, "BLOCK_Q": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}


def describe(tensor, block):
    """A tensor for the copy engine, which loads blocks of it. Its rows have to be contiguous and to begin at
    multiples of 16 bytes; a tensor of another layout is copied."""
    unit = 16 // tensor.element_size()
    shape, strides = tensor.shape, tensor.stride()
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0 and 0 not in shape
    if near and all(step and not step % unit for step in strides[:-1]):
        return TensorDescriptor(tensor, shape, strides, block)
    if 0 in shape:
        tensor = tensor.new_zeros([16] * tensor.dim())
    strides = [step if n > 1 else unit for n, step in zip(tensor.shape, tensor.stride())]
    strides[-1] = tensor.stride(-1) if tensor.shape[-1] > 1 else 1
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0
    if not near or any(step == 0 or step % unit for step in strides[:-1]):
        wide = -(-tensor.shape[-1] // unit) * unit
        tensor = tensor.new_empty((*tensor.shape[:-1], wide))[..., : tensor.shape[-1]].copy_(tensor)
        strides = [*tensor.stride()[:-1], 1]
    return TensorDescriptor(tensor, list(tensor.shape), strides, block)


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["sP_log_b", "sP_log_h", "sP_log_q", "NQ", "NK", "NB", "NH", "NG"])
def causal_kernel(
    Q, K, V, O, P_log,
    sO_b, sO_h, sO_q, sO_e,
    sP_log_b, sP_log_h, sP_log_q,
    NQ, NK, NB, NH, NG,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    P_log_here = P_log + b.to(tl.int64) * sP_log_b + h.to(tl.int64) * sP_log_h
    # state of S_max[q] = max(k where seen) S[q,k]
    S_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
    P_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end = tl.maximum(0, NK + last - NQ + 1)
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_inner_end = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi = k_inner_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # S_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_seen_qk = tl.where(seen_qk, S_seen_qk, float("-inf"))
        S_max_tile_q = tl.max(S_seen_qk, 1)
        S_max_old_q = S_max_q
        S_max_q = tl.maximum(S_max_old_q, S_max_tile_q * (1 / D ** 0.5))
        # P_total_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
        alpha_q = tl.exp2(S_max_old_q * 1.4426950408889634 - finite(S_max_q) * 1.4426950408889634)
        exp_S_seen_qk = tl.exp2(
            S_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(S_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_total_tile_q = tl.sum(exp_S_seen_qk, 1)
        P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
        # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_total_qe = tl.dot(
            exp_S_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # P_log[q] = S_max[q] + log(P_total_total[q])
    P_log_q = S_max_q + tl.log(P_total_total_q)
    # O[q,e] = O_total_total[q,e] * exp(S_max[q] - finite(S_max[q] + log(P_total_total[q])))
    O_qe = (
        O_total_total_qe
        * tl.exp2(
            S_max_q * 1.4426950408889634
            - finite(S_max_q + tl.log(P_total_total_q)) * 1.4426950408889634
        )[:, None]
    )
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        P_log_here + q0.to(tl.int64) * sP_log_q + q_in * sP_log_q,
        P_log_q.to(P_log.dtype.element_ty),
        mask=(q < NQ),
    )


@triton.jit(
    do_not_specialize=[
        "sP_log_b",
        "sP_log_h",
        "sP_log_q",
        "sdP_log_b",
        "sdP_log_h",
        "sdP_log_q",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NG",
    ]
)
def causal_backward_dQ_kernel(
    Q, K, V, O, dO, P_log, dQ, dP_log,
    sP_log_b, sP_log_h, sP_log_q,
    sdQ_b, sdQ_h, sdQ_q, sdQ_d,
    sdP_log_b, sdP_log_h, sdP_log_q,
    NQ, NK, NB, NH, NG,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    d = tl.arange(0, BLOCK_D)
    k_in = tl.arange(0, BLOCK_K)
    dP_log_here = dP_log + b.to(tl.int64) * sdP_log_b + h.to(tl.int64) * sdP_log_h
    P_log_here = P_log + b.to(tl.int64) * sP_log_b + h.to(tl.int64) * sP_log_h
    dQ_here = dQ + b.to(tl.int64) * sdQ_b + h.to(tl.int64) * sdQ_h
    # dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dO_qe = dO.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
    O_qe = O.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP_log_q = tl.sum(-(dO_qe.to(tl.float32) * O_qe), 1)
    tl.store(
        dP_log_here + q0.to(tl.int64) * sdP_log_q + q_in * sdP_log_q,
        dP_log_q.to(dP_log.dtype.element_ty),
        mask=(q < NQ),
    )
    # state of dQ_sum[q,d] = sum(k where seen) (dS_total[q,k] + dP_log[q]) * K[k,d] * exp(S[q,k] -
    #     finite(P_log[q]))
    dQ_sum_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    P_log_q = tl.load(
        P_log_here + q0.to(tl.int64) * sP_log_q + q_in * sP_log_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end = tl.maximum(0, NK + last - NQ + 1)
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_inner_end = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi = k_inner_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        S_seen_qk = S_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_seen_qk = tl.where(seen_qk, S_seen_qk, float("-inf"))
        # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        dS_total_qk = tl.dot(dO_qe, tl.trans(V_ke), input_precision="ieee")
        # dQ_sum[q,d] = sum(k where seen) (dS_total[q,k] + dP_log[q]) * K[k,d] * exp(S[q,k] -
        #     finite(P_log[q]))
        exp_S_seen_qk = tl.exp2(
            S_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P_log_q) * 1.4426950408889634)[:, None]
        )
        dQ_sum_qd = tl.dot(
            ((dS_total_qk + dP_log_q[:, None]) * exp_S_seen_qk).to(K_kd.dtype),
            K_kd,
            dQ_sum_qd,
            input_precision="ieee",
        )
    # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    dQ_qd = dQ_sum_qd / D ** 0.5
    tl.store(
        dQ_here + q0.to(tl.int64) * sdQ_q + q_in[:, None] * sdQ_q + d[None, :] * sdQ_d,
        dQ_qd.to(dQ.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


@triton.jit(do_not_specialize=["NK", "NQ", "NB", "NG", "NH_OF_G", "NH"])
def causal_backward_dK_kernel(
    Q, K, V, P_log, dO, dP_log, dK, dV,
    sdK_b, sdK_g, sdK_k, sdK_d,
    sdV_b, sdV_g, sdV_k, sdV_e,
    NK, NQ, NB, NG, NH_OF_G, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; early rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (pid % tiles) * BLOCK_K
    g = (pid // tiles) % NG
    b = pid // tiles // NG
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    q_in = tl.arange(0, BLOCK_Q)
    dK_here = dK + b.to(tl.int64) * sdK_b + g.to(tl.int64) * sdK_g
    dV_here = dV + b.to(tl.int64) * sdV_b + g.to(tl.int64) * sdV_g
    # state of dK_sum[k,d] = sum(h_of_g, q where seen) (dS_total[q,k] + dP_log[q]) * Q[q,d] *
    #     exp(S[q,k] - finite(P_log[q]))
    dK_sum_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(P_log[q]))
    dV_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    V_ke = V.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_E])
    for h_of_g in tl.range(0, NH_OF_G):
        h_of_g = tl.cast(h_of_g, tl.int32)
        last = tl.minimum(k0 + BLOCK_K, NK) - 1
        q_begin = tl.maximum(0, NQ + k0 - NK)
        q_end = NQ
        q_lo = q_begin // BLOCK_Q
        q_hi = tl.where(q_begin < q_end, (BLOCK_Q + q_end - 1) // BLOCK_Q, q_lo)
        q_inner_begin = tl.maximum(0, NQ + last - NK)
        q_full_lo = tl.minimum((BLOCK_Q + q_inner_begin - 1) // BLOCK_Q, q_hi)
        q_full_hi = tl.maximum(q_full_lo, q_end // BLOCK_Q)
        q_steps = q_hi - q_lo
        q_whole = q_full_lo - q_lo
        q_edge = q_full_hi - q_lo
        # live tiles; those on an edge are tested
        for step in tl.range(0, q_steps):
            q0 = (q_lo + step) * BLOCK_Q
            q = q0 + q_in
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            Q_qd = Q.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
            S_kq = tl.dot(K_kd, tl.trans(Q_qd), input_precision="ieee")
            S_seen_kq = S_kq
            if (step < q_whole) | (step >= q_edge):
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = (q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :])
                S_seen_kq = tl.where(seen_kq, S_seen_kq, float("-inf"))
            # dS_total[q,k] = sum(e) dO[q,e] * V[k,e]
            dO_qe = dO.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
            dS_total_kq = tl.dot(V_ke, tl.trans(dO_qe), input_precision="ieee")
            # dK_sum[k,d] = sum(h_of_g, q where seen) (dS_total[q,k] + dP_log[q]) * Q[q,d] *
            #     exp(S[q,k] - finite(P_log[q]))
            dP_log_q = dP_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            P_log_q = P_log.load([b, g * (NH // NG) + h_of_g, q0]).reshape([BLOCK_Q]).to(tl.float32)
            exp_S_seen_kq = tl.exp2(
                S_seen_kq * (1.4426950408889634 / D ** 0.5)
                - (finite(P_log_q) * 1.4426950408889634)[None, :]
            )
            dK_sum_kd = tl.dot(
                ((dS_total_kq + dP_log_q[None, :]) * exp_S_seen_kq).to(Q_qd.dtype),
                Q_qd,
                dK_sum_kd,
                input_precision="ieee",
            )
            # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S[q,k] - finite(P_log[q]))
            dV_ke = tl.dot(exp_S_seen_kq.to(dO_qe.dtype), dO_qe, dV_ke, input_precision="ieee")
    # dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dK_kd = dK_sum_kd / D ** 0.5
    tl.store(
        dK_here + k0.to(tl.int64) * sdK_k + k_in[:, None] * sdK_k + d[None, :] * sdK_d,
        dK_kd.to(dK.dtype.element_ty),
        mask=(k[:, None] < NK),
    )
    tl.store(
        dV_here + k0.to(tl.int64) * sdV_k + k_in[:, None] * sdV_k + e[None, :] * sdV_e,
        dV_ke.to(dV.dtype.element_ty),
        mask=(k[:, None] < NK),
    )


def causal_forward(Q, K, V):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], P_log[b,h,q], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    P_log = Q.new_empty((NB, NH, NQ), dtype=torch.float32)
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            causal_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                O, P_log,
                *O.stride(), *P_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    return O, P_log


def causal_backward(Q, K, V, P_log, O, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], P_log[b,h,q], O[b,h,q,e], dO[b,h,q,e] -> dQ[b,h,q,d],
        dK[b,g,k,d], dV[b,g,k,e], on cuda:90.

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
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NH_OF_G = (NH // NG)
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if NG <= 0:
        raise ValueError(f"`|g|` divides positions and must be positive, not {NG}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_causal_backward_dQ.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(P_log.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dQ = Q.new_empty((NB, NH, NQ, D))
    dP_log = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            causal_backward_dQ_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(O, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                P_log, dQ, dP_log,
                *P_log.stride(), *dQ.stride(), *dP_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    tile = TILES_causal_backward_dK.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E))
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            causal_backward_dK_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(P_log, [1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dP_log, [1, 1, tile["BLOCK_Q"]]),
                dK, dV,
                *dK.stride(), *dV.stride(),
                NK, NQ, NB, NG, NH_OF_G, NH,
                D, E,
                **tile,
            )
    return dQ, dK, dV


class _causal_gradients(torch.autograd.Function):
    """`causal` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V):
        O, P_log = causal_forward(Q, K, V)
        ctx.save_for_backward(Q, K, V, P_log, O)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`causal` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, P_log, O = ctx.saved_tensors
        dQ, dK, dV = causal_backward(Q, K, V, P_log, O, dO)
        return dQ, dK, dV


def causal(Q, K, V):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], differentiable."""
    return _causal_gradients.apply(Q, K, V)


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


def reference(Q, K, V):
    """`causal`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = causal(**given)
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
