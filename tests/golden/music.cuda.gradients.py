"""Music Transformer: the query meets keys, and a learned vector for every distance (arXiv 1809.04281).

The last row of the table stands for distance 0, its first for `|r| - 1` and all beyond.

(1) S[q,k] = sum(d) Q[q,d] * (K[k,d] + E[clamp(k - q, 1 - |r|, 0) + |r| - 1, d]) / sqrt(|d|)
(2) P[q,k] = softmax(k where k <= q) S[q,k]
(3) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|, min(k - (q +
        (|k| - |q|)), 0)) + |r| - 1 < |r|
    S_sum[q,k] = sum(d where seen) K[k,d] * Q[q,d] / sqrt(|d|)
    S_sum2[q,k] = sum(d where seen) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1, d] *
        Q[q,d] / sqrt(|d|)
    P_total_max[q] = max(k where k <= q + (|k| - |q|)) (S_sum[q,k] + S_sum2[q,k])
    P_total_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S_sum[q,k] + S_sum2[q,k] -
        finite(P_total_max[q]))
    P_log[q] = P_total_max[q] + log(P_total_total[q])
    O_total_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S_sum[q,k] + S_sum2[q,k] -
        finite(P_total_max[q]))
    O[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
        log(P_total_total[q])))

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_total_max[q], P_total_total[q], O_total_total[q,e].

Its gradients:

    seen1: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|, min(k - (q +
        (|k| - |q|)), 0)) + |r| - 1 < |r|
    seen2: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|, min(k - (q +
        (|k| - |q|)), 0)) + |r| - 1 < |r| and k <= q + (|k| - |q|)
    S_sum[q,k] = sum(d where seen1) K[k,d] * Q[q,d] / sqrt(|d|)
    S_sum2[q,k] = sum(d where seen1) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1, d] *
        Q[q,d] / sqrt(|d|)
    dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dS_sum2_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dQ_sum_sum[q,r] = sum(k where seen2) (if max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1
        == r then (dS_sum2_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + S_sum2[q,k] -
        finite(P_log[q])) else 0.0)
    dQ_sum[q,d] = sum(r) dQ_sum_sum[q,r] * E[r,d]
    dQ_sum2[q,d] = sum(k where seen2) (dS_sum2_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] +
        S_sum2[q,k] - finite(P_log[q]))
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|) + dQ_sum2[q,d] / sqrt(|d|)
    S_sum[q,k] = sum(d where seen1) K[k,d] * Q[q,d] / sqrt(|d|)
    S_sum2[q,k] = sum(d where seen1) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1, d] *
        Q[q,d] / sqrt(|d|)
    dS_sum2_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dK_sum[k,d] = sum(h_of_g, q where seen2) (dS_sum2_total[q,k] + dP_log[q]) * Q[q,d] *
        exp(S_sum[q,k] + S_sum2[q,k] - finite(P_log[q]))
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) dO[q,e] * exp(S_sum[q,k] + S_sum2[q,k] -
        finite(P_log[q]))
    dE[r,d] = sum(b, q) Q[q,d] * dQ_sum_sum[q,r] / sqrt(|d|)

Kernel music_backward_dQ writes dQ[b,h,q,d], dQ_sum_sum[b,h,q,r], dP_log[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ_sum_sum[q,r], dQ_sum2[q,d].
Kernel music_backward_dK writes dK[b,g,k,d], dV[b,g,k,e].
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
    (64, 64, 64, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_music_backward_dQ = {
    (64, 64, 64, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64, "BLOCK_R": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64, "BLOCK_R": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 128, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128, "BLOCK_R": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128, "BLOCK_R": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_music_backward_dK = {
    (64, 64, 64, 2): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 64, 4): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 128, 2): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 128, 4): {
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
def music_kernel(
    K, V, Q, E, O, P_log,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sE_h, sE_r, sE_d,
    sO_b, sO_h, sO_q, sO_e,
    sP_log_b, sP_log_h, sP_log_q,
    NQ, NK, NB, NH, NG,
    D: tl.constexpr, E_: tl.constexpr, R: tl.constexpr,
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
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    Q_here = Q + b.to(tl.int64) * sQ_b + h.to(tl.int64) * sQ_h
    E_here = E + h.to(tl.int64) * sE_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    P_log_here = P_log + b.to(tl.int64) * sP_log_b + h.to(tl.int64) * sP_log_h
    # state of P_total_max[q] = max(k where seen) (S_sum[q,k] + S_sum2[q,k])
    P_total_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total_total[q] = sum(k where seen) exp(S_sum[q,k] + S_sum2[q,k] -
    #     finite(P_total_max[q]))
    P_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S_sum[q,k] + S_sum2[q,k] -
    #     finite(P_total_max[q]))
    O_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = tl.load(
        Q_here + q0.to(tl.int64) * sQ_q + q_in[:, None] * sQ_q + d[None, :] * sQ_d,
        mask=(q[:, None] < NQ),
        other=0,
    )
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
        # S_sum[q,k] = sum(d where present) K[k,d] * Q[q,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # present: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|, min(k
        #     - (q + (|k| - |q|)), 0)) + |r| - 1 < |r|
        present_qk = (
            (tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1 >= 0)
            & (tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1 < R)
        )
        S_sum_seen_qk = tl.where(present_qk, S_sum_qk * (1 / D ** 0.5), 0.0)
        E_r_qk = tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1
        # S_sum2[q,k] = sum(d where present) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| -
        #     1, d] * Q[q,d] / sqrt(|d|)
        S_sum2_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
        for d_run in tl.range(0, D, 8):
            S_sum2_part_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
            for d_at in tl.range(d_run, tl.minimum(d_run + 8, D)):
                E_qk = tl.load(
                    E_here + d_at * sE_d + (E_r_qk).to(tl.int64) * sE_r,
                    mask=(E_r_qk >= 0) & (E_r_qk < R),
                    other=0,
                ).to(tl.float32)
                Q2_q = tl.load(
                    Q_here + q0.to(tl.int64) * sQ_q + d_at * sQ_d + q_in * sQ_q,
                    mask=(q < NQ),
                    other=0,
                ).to(tl.float32)
                S_sum2_part_qk = S_sum2_part_qk + E_qk * Q2_q[:, None]
            S_sum2_qk = S_sum2_qk + S_sum2_part_qk
        S_sum2_seen_qk = tl.where(present_qk, S_sum2_qk * (1 / D ** 0.5), 0.0)
        # P_total_max[q] = max(k where seen) (S_sum[q,k] + S_sum2[q,k])
        exponent_qk = S_sum_seen_qk + S_sum2_seen_qk
        exponent_seen_qk = exponent_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            exponent_seen_qk = tl.where(seen_qk, exponent_seen_qk, float("-inf"))
        P_total_max_tile_q = tl.max(exponent_seen_qk, 1)
        P_total_max_old_q = P_total_max_q
        P_total_max_q = tl.maximum(P_total_max_old_q, P_total_max_tile_q)
        # P_total_total[q] = sum(k where seen) exp(S_sum[q,k] + S_sum2[q,k] -
        #     finite(P_total_max[q]))
        alpha_q = tl.exp2(
            P_total_max_old_q * 1.4426950408889634 - finite(P_total_max_q) * 1.4426950408889634
        )
        exp_exponent_seen_qk = tl.exp2(
            exponent_seen_qk * 1.4426950408889634
            - (finite(P_total_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_total_tile_q = tl.sum(exp_exponent_seen_qk, 1)
        P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
        # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S_sum[q,k] + S_sum2[q,k] -
        #     finite(P_total_max[q]))
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_total_qe = tl.dot(
            exp_exponent_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # P_log[q] = P_total_max[q] + log(P_total_total[q])
    P_log_q = P_total_max_q + tl.log(P_total_total_q)
    # O[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
    #     log(P_total_total[q])))
    O_qe = (
        O_total_total_qe
        * tl.exp2(
            P_total_max_q * 1.4426950408889634
            - finite(P_total_max_q + tl.log(P_total_total_q)) * 1.4426950408889634
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
def music_backward_dQ_kernel(
    K, V, O, dO, Q, E, P_log, dQ, dQ_sum_sum, dP_log,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sE_h, sE_r, sE_d,
    sP_log_b, sP_log_h, sP_log_q,
    sdQ_b, sdQ_h, sdQ_q, sdQ_d,
    sdQ_sum_sum_b, sdQ_sum_sum_h, sdQ_sum_sum_q, sdQ_sum_sum_r,
    sdP_log_b, sdP_log_h, sdP_log_q,
    NQ, NK, NB, NH, NG,
    D: tl.constexpr, E_: tl.constexpr, R: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_R: tl.constexpr,
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
    r = tl.arange(0, BLOCK_R)
    k_in = tl.arange(0, BLOCK_K)
    dP_log_here = dP_log + b.to(tl.int64) * sdP_log_b + h.to(tl.int64) * sdP_log_h
    Q_here = Q + b.to(tl.int64) * sQ_b + h.to(tl.int64) * sQ_h
    P_log_here = P_log + b.to(tl.int64) * sP_log_b + h.to(tl.int64) * sP_log_h
    E_here = E + h.to(tl.int64) * sE_h
    dQ_here = dQ + b.to(tl.int64) * sdQ_b + h.to(tl.int64) * sdQ_h
    dQ_sum_sum_here = dQ_sum_sum + b.to(tl.int64) * sdQ_sum_sum_b + h.to(tl.int64) * sdQ_sum_sum_h
    # dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dO_qe = dO.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
    O_qe = O.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP_log_q = tl.sum(-(dO_qe.to(tl.float32) * O_qe), 1)
    tl.store(
        dP_log_here + q0.to(tl.int64) * sdP_log_q + q_in * sdP_log_q,
        dP_log_q.to(dP_log.dtype.element_ty),
        mask=(q < NQ),
    )
    # state of dQ_sum_sum[q,r] = sum(k where seen) (if max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) +
    #     |r| - 1 == r then (dS_sum2_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + S_sum2[q,k] -
    #     finite(P_log[q])) else 0.0)
    dQ_sum_sum_qr = tl.full([BLOCK_Q, BLOCK_R], 0.0, tl.float32)
    # state of dQ_sum2[q,d] = sum(k where seen) (dS_sum2_total[q,k] + dP_log[q]) * K[k,d] *
    #     exp(S_sum[q,k] + S_sum2[q,k] - finite(P_log[q]))
    dQ_sum2_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    Q_qd = tl.load(
        Q_here + q0.to(tl.int64) * sQ_q + q_in[:, None] * sQ_q + d[None, :] * sQ_d,
        mask=(q[:, None] < NQ),
        other=0,
    )
    P_log_q = tl.load(
        P_log_here + q0.to(tl.int64) * sP_log_q + q_in * sP_log_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end = tl.maximum(0, NK + last - NQ + 1)
    k_hi = tl.where(1 <= R, (BLOCK_K + k_end - 1) // BLOCK_K, 0)
    k_inner_end = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi = tl.minimum(k_inner_end // BLOCK_K, k_hi)
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S_sum[q,k] = sum(d where present) K[k,d] * Q[q,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # present: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|, min(k
        #     - (q + (|k| - |q|)), 0)) + |r| - 1 < |r|
        present_qk = (
            (tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1 >= 0)
            & (tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1 < R)
        )
        S_sum_seen_qk = tl.where(present_qk, S_sum_qk * (1 / D ** 0.5), 0.0)
        S_sum_seen_seen_qk = S_sum_seen_qk
        if step >= k_edge:
            # seen: k < |k| and max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1
            #     - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 < |r| and k <= q + (|k| - |q|)
            seen_qk = ((k < NK)[None, :] & present_qk) & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_sum_seen_seen_qk = tl.where(seen_qk, S_sum_seen_seen_qk, float("-inf"))
        E_r_qk = tl.maximum(1 - R, tl.minimum(k[None, :] - (q + (NK - NQ))[:, None], 0)) + R - 1
        # S_sum2[q,k] = sum(d where present) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| -
        #     1, d] * Q[q,d] / sqrt(|d|)
        S_sum2_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
        for d_run in tl.range(0, D, 8):
            S_sum2_part_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
            for d_at in tl.range(d_run, tl.minimum(d_run + 8, D)):
                E_qk = tl.load(
                    E_here + d_at * sE_d + (E_r_qk).to(tl.int64) * sE_r,
                    mask=(E_r_qk >= 0) & (E_r_qk < R),
                    other=0,
                )
                Q2_q = tl.load(
                    Q_here + q0.to(tl.int64) * sQ_q + d_at * sQ_d + q_in * sQ_q,
                    mask=(q < NQ),
                    other=0,
                ).to(tl.float32)
                S_sum2_part_qk = S_sum2_part_qk + E_qk.to(tl.float32) * Q2_q[:, None]
            S_sum2_qk = S_sum2_qk + S_sum2_part_qk
        S_sum2_seen_qk = tl.where(present_qk, S_sum2_qk * (1 / D ** 0.5), 0.0)
        S_sum2_seen_seen_qk = S_sum2_seen_qk
        if step >= k_edge:
            # seen: k < |k| and max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1
            #     - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 < |r| and k <= q + (|k| - |q|)
            seen_qk = ((k < NK)[None, :] & present_qk) & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_sum2_seen_seen_qk = tl.where(seen_qk, S_sum2_seen_seen_qk, float("-inf"))
        # dS_sum2_total[q,k] = sum(e) dO[q,e] * V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        dS_sum2_total_qk = tl.dot(dO_qe, tl.trans(V_ke), input_precision="ieee")
        # dQ_sum_sum[q,r] = sum(k where seen) (if max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r|
        #     - 1 == r then (dS_sum2_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + S_sum2[q,k] -
        #     finite(P_log[q])) else 0.0)
        exp_S_sum_seen_seen_qk = tl.exp2(
            S_sum_seen_seen_qk * 1.4426950408889634
            + S_sum2_seen_qk * 1.4426950408889634
            - (finite(P_log_q) * 1.4426950408889634)[:, None]
        )
        dQ_sum_sum_r_qk = E_r_qk
        for r_at in tl.range(0, R):
            r_at = tl.cast(r_at, tl.int32)
            dQ_sum_sum_part_q = tl.sum(
                tl.where(
                    dQ_sum_sum_r_qk == r_at,
                    (dS_sum2_total_qk + dP_log_q[:, None]) * exp_S_sum_seen_seen_qk,
                    0.0,
                ),
                1,
            )
            dQ_sum_sum_qr = tl.where(
                (r == r_at)[None, :], dQ_sum_sum_qr + dQ_sum_sum_part_q[:, None], dQ_sum_sum_qr
            )
        # dQ_sum2[q,d] = sum(k where seen) (dS_sum2_total[q,k] + dP_log[q]) * K[k,d] *
        #     exp(S_sum[q,k] + S_sum2[q,k] - finite(P_log[q]))
        dQ_sum2_qd = tl.dot(
            ((dS_sum2_total_qk + dP_log_q[:, None]) * exp_S_sum_seen_seen_qk).to(K_kd.dtype),
            K_kd,
            dQ_sum2_qd,
            input_precision="ieee",
        )
    # dQ_sum[q,d] = sum(r) dQ_sum_sum[q,r] * E[r,d]
    E_dr = tl.load(E_here + r[None, :] * sE_r + d[:, None] * sE_d)
    dQ_sum_qd = tl.dot(dQ_sum_sum_qr.to(E_dr.dtype), tl.trans(E_dr), input_precision="ieee")
    # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|) + dQ_sum2[q,d] / sqrt(|d|)
    dQ_qd = dQ_sum_qd / D ** 0.5 + dQ_sum2_qd / D ** 0.5
    tl.store(
        dQ_here + q0.to(tl.int64) * sdQ_q + q_in[:, None] * sdQ_q + d[None, :] * sdQ_d,
        dQ_qd.to(dQ.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        dQ_sum_sum_here
        + q0.to(tl.int64) * sdQ_sum_sum_q
        + q_in[:, None] * sdQ_sum_sum_q
        + r[None, :] * sdQ_sum_sum_r,
        dQ_sum_sum_qr.to(dQ_sum_sum.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


@triton.jit(do_not_specialize=["NK", "NQ", "NB", "NG", "NH_OF_G", "NH"])
def music_backward_dK_kernel(
    K, V, P_log, dO, dP_log, Q, E, dK, dV,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sE_h, sE_r, sE_d,
    sdK_b, sdK_g, sdK_k, sdK_d,
    sdV_b, sdV_g, sdV_k, sdV_e,
    NK, NQ, NB, NG, NH_OF_G, NH,
    D: tl.constexpr, E_: tl.constexpr, R: tl.constexpr,
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
    Q_here = Q + b.to(tl.int64) * sQ_b
    dK_here = dK + b.to(tl.int64) * sdK_b + g.to(tl.int64) * sdK_g
    dV_here = dV + b.to(tl.int64) * sdV_b + g.to(tl.int64) * sdV_g
    # state of dK_sum[k,d] = sum(h_of_g, q where seen) (dS_sum2_total[q,k] + dP_log[q]) * Q[q,d] *
    #     exp(S_sum[q,k] + S_sum2[q,k] - finite(P_log[q]))
    dK_sum_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S_sum[q,k] + S_sum2[q,k] -
    #     finite(P_log[q]))
    dV_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    V_ke = V.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_E])
    for h_of_g in tl.range(0, NH_OF_G):
        h_of_g = tl.cast(h_of_g, tl.int32)
        q_begin = tl.maximum(0, NQ + k0 - NK)
        q_end = NQ
        q_lo = q_begin // BLOCK_Q
        q_hi = tl.where(q_begin < q_end, (BLOCK_Q + q_end - 1) // BLOCK_Q, q_lo)
        q_steps = q_hi - q_lo
        # live tiles; all are tested
        for step in tl.range(0, q_steps):
            q0 = (q_lo + step) * BLOCK_Q
            q = q0 + q_in
            # S_sum[q,k] = sum(d where present) K[k,d] * Q[q,d] / sqrt(|d|)
            Q_qd = tl.load(
                Q_here
                + (g * (NH // NG) + h_of_g).to(tl.int64) * sQ_h
                + q0.to(tl.int64) * sQ_q
                + q_in[:, None] * sQ_q
                + d[None, :] * sQ_d,
                mask=(q[:, None] < NQ),
                other=0,
            )
            S_sum_kq = tl.dot(K_kd, tl.trans(Q_qd), input_precision="ieee")
            # present: max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1 - |r|,
            #     min(k - (q + (|k| - |q|)), 0)) + |r| - 1 < |r|
            present_kq = (
                (
                    tl.maximum(1 - R, tl.minimum(k[:, None] - (q + (NK - NQ))[None, :], 0)) + R - 1
                    >= 0
                )
                & (
                    tl.maximum(1 - R, tl.minimum(k[:, None] - (q + (NK - NQ))[None, :], 0)) + R - 1
                    < R
                )
            )
            S_sum_seen_kq = tl.where(present_kq, S_sum_kq * (1 / D ** 0.5), 0.0)
            E_r_kq = tl.maximum(1 - R, tl.minimum(k[:, None] - (q + (NK - NQ))[None, :], 0)) + R - 1
            # S_sum2[q,k] = sum(d where present) E[max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r|
            #     - 1, d] * Q[q,d] / sqrt(|d|)
            S_sum2_kq = tl.full([BLOCK_K, BLOCK_Q], 0.0, tl.float32)
            for d_run in tl.range(0, D, 8):
                S_sum2_part_kq = tl.full([BLOCK_K, BLOCK_Q], 0.0, tl.float32)
                for d_at in tl.range(d_run, tl.minimum(d_run + 8, D)):
                    E_kq = tl.load(
                        E
                        + (g * (NH // NG) + h_of_g).to(tl.int64) * sE_h
                        + d_at * sE_d
                        + (E_r_kq).to(tl.int64) * sE_r,
                        mask=(E_r_kq >= 0) & (E_r_kq < R),
                        other=0,
                    ).to(tl.float32)
                    Q2_q = tl.load(
                        Q_here
                        + (g * (NH // NG) + h_of_g).to(tl.int64) * sQ_h
                        + q0.to(tl.int64) * sQ_q
                        + d_at * sQ_d
                        + q_in * sQ_q,
                        mask=(q < NQ),
                        other=0,
                    ).to(tl.float32)
                    S_sum2_part_kq = S_sum2_part_kq + E_kq * Q2_q[None, :]
                S_sum2_kq = S_sum2_kq + S_sum2_part_kq
            S_sum2_seen_kq = tl.where(present_kq, S_sum2_kq * (1 / D ** 0.5), 0.0)
            # dS_sum2_total[q,k] = sum(e) dO[q,e] * V[k,e]
            dO_qe = dO.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
            dS_sum2_total_kq = tl.dot(V_ke, tl.trans(dO_qe), input_precision="ieee")
            # dK_sum[k,d] = sum(h_of_g, q where seen) (dS_sum2_total[q,k] + dP_log[q]) * Q[q,d] *
            #     exp(S_sum[q,k] + S_sum2[q,k] - finite(P_log[q]))
            dP_log_q = dP_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            P_log_q = P_log.load([b, g * (NH // NG) + h_of_g, q0]).reshape([BLOCK_Q]).to(tl.float32)
            exp_S_sum_seen_kq = tl.exp2(
                S_sum_seen_kq * 1.4426950408889634
                + S_sum2_seen_kq * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[None, :]
            )
            # seen: q < |q| and max(1 - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 >= 0 and max(1
            #     - |r|, min(k - (q + (|k| - |q|)), 0)) + |r| - 1 < |r| and k <= q + (|k| - |q|)
            seen_kq = ((q < NQ)[None, :] & present_kq) & (k[:, None] <= (q + (NK - NQ))[None, :])
            dS_sum2_total_seen_kq = tl.where(
                seen_kq, (dS_sum2_total_kq + dP_log_q[None, :]) * exp_S_sum_seen_kq, 0.0
            )
            dK_sum_kd = tl.dot(
                dS_sum2_total_seen_kq.to(Q_qd.dtype), Q_qd, dK_sum_kd, input_precision="ieee"
            )
            # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S_sum[q,k] + S_sum2[q,k] -
            #     finite(P_log[q]))
            # seen: q < |q| and k <= q + (|k| - |q|)
            seen2_kq = (q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :])
            exp_S_sum_seen_seen_kq = tl.where(seen2_kq, exp_S_sum_seen_kq, 0.0)
            dV_ke = tl.dot(
                exp_S_sum_seen_seen_kq.to(dO_qe.dtype), dO_qe, dV_ke, input_precision="ieee"
            )
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


def music_forward(Q, K, V, E):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], E[h,r,d] -> O[b,h,q,e], P_log[b,h,q], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("E", "h r d", E),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("E", E)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E_, R = (
        sizes["b"],
        sizes["h"],
        sizes["q"],
        sizes["d"],
        sizes["g"],
        sizes["k"],
        sizes["e"],
        sizes["r"],
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES.get((D, E_, R, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E_}, r={R} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(Q.stride(2), Q.stride(3), E.stride(1), E.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E_))
    P_log = Q.new_empty((NB, NH, NQ), dtype=torch.float32)
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            music_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                Q, E, O, P_log,
                *Q.stride(), *E.stride(), *O.stride(), *P_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E_, R,
                **tile,
            )
    return O, P_log


def _music_backward_totals(Q, dQ_sum_sum):
    """Sums over rows, one after the other."""
    D = Q.shape[3]
    # dE[h,r,d] = sum(b, q) Q[b,h,q,d] * dQ_sum_sum[b,h,q,r] / sqrt(|d|)
    dE = _einsum("bhqd,bhqr->hrd", Q, dQ_sum_sum) / math.sqrt(D)
    return dE



def music_backward(Q, K, V, E, P_log, O, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], E[h,r,d], P_log[b,h,q], O[b,h,q,e], dO[b,h,q,e] ->
        dQ[b,h,q,d], dK[b,g,k,d], dV[b,g,k,e], dE[h,r,d], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("E", "h r d", E),
        ("P_log", "b h q", P_log),
        ("O", "b h q e", O),
        ("dO", "b h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("E", E), ("dO", dO)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E_, R = (
        sizes["b"],
        sizes["h"],
        sizes["q"],
        sizes["d"],
        sizes["g"],
        sizes["k"],
        sizes["e"],
        sizes["r"],
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
    tile = TILES_music_backward_dQ.get((D, E_, R, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E_}, r={R} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(Q.stride(2), Q.stride(3), E.stride(1), E.stride(2), P_log.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dQ = Q.new_empty((NB, NH, NQ, D))
    dQ_sum_sum = Q.new_empty((NB, NH, NQ, -(-R // 4) * 4))[..., :R]
    dP_log = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            music_backward_dQ_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(O, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                Q, E, P_log, dQ, dQ_sum_sum, dP_log,
                *Q.stride(),
                *E.stride(),
                *P_log.stride(),
                *dQ.stride(),
                *dQ_sum_sum.stride(),
                *dP_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E_, R,
                **tile,
            )
    tile = TILES_music_backward_dK.get((D, E_, R, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E_}, r={R} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(Q.stride(2), Q.stride(3), E.stride(1), E.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E_))
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            music_backward_dK_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(P_log, [1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dP_log, [1, 1, tile["BLOCK_Q"]]),
                Q, E, dK, dV,
                *Q.stride(), *E.stride(), *dK.stride(), *dV.stride(),
                NK, NQ, NB, NG, NH_OF_G, NH,
                D, E_, R,
                **tile,
            )
    dE = _music_backward_totals(Q=Q, dQ_sum_sum=dQ_sum_sum)
    return dQ, dK, dV, dE.to(E.dtype)


class _music_gradients(torch.autograd.Function):
    """`music` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V, E):
        O, P_log = music_forward(Q, K, V, E)
        ctx.save_for_backward(Q, K, V, E, P_log, O)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`music` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, E, P_log, O = ctx.saved_tensors
        dQ, dK, dV, dE = music_backward(Q, K, V, E, P_log, O, dO)
        return dQ, dK, dV, dE


def music(Q, K, V, E):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], E[h,r,d] -> O[b,h,q,e], differentiable."""
    return _music_gradients.apply(Q, K, V, E)


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


def reference(Q, K, V, E):
    """`music`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    R = E.shape[1]
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * (K[b, h // (|h| // |g|), k, d] + E[h, max(1 - |r|, min(k - (q
    #     + (|k| - |q|)), 0)) + |r| - 1, d]) / sqrt(|d|)
    at_qk = (k - (q + (NK - NQ))[:, None]).clamp(max=0).clamp(min=1 - R)
    at_S_qk = at_qk + R - 1
    plus_S_qkd = K[:, h // (NH // NG)][:, :, None] + _take(E, {1: at_S_qk})
    plus_S_qkd_2 = torch.where(((at_S_qk >= 0) & (at_S_qk < R))[..., None], plus_S_qkd, 0)
    S = _einsum("bhqd,bhqkd->bhqk", Q, plus_S_qkd_2) / math.sqrt(D)
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
        "E": torch.randn(4, 64, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = music(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V", "E"]
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
