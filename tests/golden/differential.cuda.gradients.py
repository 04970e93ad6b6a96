"""Differential attention: the difference of two softmaxes over the same keys and values (arXiv 2410.05258).

The paper's `lam` is `exp(lq1 . lk1) - exp(lq2 . lk2) + start`, of four learned vectors and a number of the
layer's own, `0.8 - 0.6 * exp(-0.3 * layer)`. The norm of each head and the factor `1 - start` stay outside.

(1) S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
(2) S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
(3) P1[q,k] = softmax(k where k <= q) S1[q,k]
(4) P2[q,k] = softmax(k where k <= q) S2[q,k]
(5) O[q,e] = sum(k) (P1[q,k] - lam * P2[q,k]) * V[k,e]

As it runs:

    S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
    S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
    S1_max[q] = max(k where k <= q + (|k| - |q|)) S1[q,k]
    P1_total_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S1[q,k] - finite(S1_max[q]))
    P1_log[q] = S1_max[q] + log(P1_total_total[q])
    S2_max[q] = max(k where k <= q + (|k| - |q|)) S2[q,k]
    P2_total_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S2[q,k] - finite(S2_max[q]))
    P2_log[q] = S2_max[q] + log(P2_total_total[q])
    O_total_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S1[q,k] - finite(S1_max[q]))
    O_sum2_total_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S2[q,k] -
        finite(S2_max[q]))
    O_part[q,e] = O_total_total[q,e] * exp(S1_max[q] - finite(S1_max[q] + log(P1_total_total[q])))
    O_part2[q,e] = O_sum2_total_total[q,e] * exp(S2_max[q] - finite(S2_max[q] +
        log(P2_total_total[q])))
    O[q,e] = O_total_total[q,e] * exp(S1_max[q] - finite(S1_max[q] + log(P1_total_total[q]))) - lam
        * O_sum2_total_total[q,e] * exp(S2_max[q] - finite(S2_max[q] + log(P2_total_total[q])))

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: S1_max[q], P1_total_total[q], S2_max[q], P2_total_total[q], O_total_total[q,e],
    O_sum2_total_total[q,e].

Its gradients:

    S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
    S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
    dP2_log[q] = sum(e) (-(-dO[q,e] * lam) * O_part2[q,e])
    dP1_log[q] = sum(e) (-dO[q,e] * O_part[q,e])
    dS2_total[q,k] = sum(e) (-dO[q,e] * lam) * V[k,e]
    dS1_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dQ1_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (dS1_total[q,k] + dP1_log[q]) * K1[k,d] *
        exp(S1[q,k] - finite(P1_log[q]))
    dQ1[q,d] = dQ1_sum[q,d] / sqrt(|d|)
    dQ2_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (dS2_total[q,k] + dP2_log[q]) * K2[k,d] *
        exp(S2[q,k] - finite(P2_log[q]))
    dQ2[q,d] = dQ2_sum[q,d] / sqrt(|d|)
    dlam_rows[q] = sum(e) (-dO[q,e] * O_part2[q,e])
    S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
    S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
    dS2_total[q,k] = sum(e) (-dO[q,e] * lam) * V[k,e]
    dS1_total[q,k] = sum(e) dO[q,e] * V[k,e]
    dK1_sum[k,d] = sum(h_of_g, q where k <= q + (|k| - |q|)) (dS1_total[q,k] + dP1_log[q]) * Q1[q,d]
        * exp(S1[q,k] - finite(P1_log[q]))
    dK1[k,d] = dK1_sum[k,d] / sqrt(|d|)
    dK2_sum[k,d] = sum(h_of_g, q where k <= q + (|k| - |q|)) (dS2_total[q,k] + dP2_log[q]) * Q2[q,d]
        * exp(S2[q,k] - finite(P2_log[q]))
    dK2[k,d] = dK2_sum[k,d] / sqrt(|d|)
    dV_sum[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) (-dO[q,e] * lam) * exp(S2[q,k] -
        finite(P2_log[q]))
    dV_sum2[k,e] = sum(h_of_g, q where k <= q + (|k| - |q|)) dO[q,e] * exp(S1[q,k] -
        finite(P1_log[q]))
    dV[k,e] = dV_sum[k,e] + dV_sum2[k,e]
    dlam = sum(b, h, q) dlam_rows[q]

Kernel differential_backward_dQ1 writes dQ1[b,h,q,d], dQ2[b,h,q,d], dlam_rows[b,h,q],
    dP2_log[b,h,q], dP1_log[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ1_sum[q,d], dQ2_sum[q,d].
Kernel differential_backward_dK1 writes dK1[b,g,k,d], dK2[b,g,k,d], dV[b,g,k,e].
One pass over q at every h_of_g for every tile of rows k,
over one range of tiles that its predicate leaves live.
State of a row: dK1_sum[k,d], dK2_sum[k,d], dV_sum[k,e], dV_sum2[k,e].

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
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_differential_backward_dQ1 = {
    (64, 64, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_differential_backward_dK1 = {
    (64, 64, 2): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_K": 32, "BLOCK_Q": 32, "BLOCK_D": 128, "BLOCK_E": 128,
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


@triton.jit
def held(x):
    """x, for a loop that multiplies by it: as a sum over one place it stays in shared memory. In registers,
    ptxas 12.8 for Hopper lets the loop's next product write over it."""
    return tl.sum(x[:, :, None], 2)


@triton.jit(
    do_not_specialize=[
        "sP2_log_b",
        "sP2_log_h",
        "sP2_log_q",
        "sP1_log_b",
        "sP1_log_h",
        "sP1_log_q",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NG",
    ]
)
def differential_kernel(
    Q1, K1, Q2, K2, V, lam, O, P2_log, P1_log, O_part2, O_part,
    sO_b, sO_h, sO_q, sO_e,
    sP2_log_b, sP2_log_h, sP2_log_q,
    sP1_log_b, sP1_log_h, sP1_log_q,
    sO_part2_b, sO_part2_h, sO_part2_q, sO_part2_e,
    sO_part_b, sO_part_h, sO_part_q, sO_part_e,
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
    P2_log_here = P2_log + b.to(tl.int64) * sP2_log_b + h.to(tl.int64) * sP2_log_h
    P1_log_here = P1_log + b.to(tl.int64) * sP1_log_b + h.to(tl.int64) * sP1_log_h
    O_part2_here = O_part2 + b.to(tl.int64) * sO_part2_b + h.to(tl.int64) * sO_part2_h
    O_part_here = O_part + b.to(tl.int64) * sO_part_b + h.to(tl.int64) * sO_part_h
    # state of S1_max[q] = max(k where seen) S1[q,k]
    S1_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P1_total_total[q] = sum(k where seen) exp(S1[q,k] - finite(S1_max[q]))
    P1_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of S2_max[q] = max(k where seen) S2[q,k]
    S2_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P2_total_total[q] = sum(k where seen) exp(S2[q,k] - finite(S2_max[q]))
    P2_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(S1_max[q]))
    O_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of O_sum2_total_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(S2_max[q]))
    O_sum2_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q1_qd = Q1.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    Q2_qd = Q2.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
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
        # S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
        K1_kd = K1.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S1_qk = tl.dot(Q1_qd, tl.trans(K1_kd), input_precision="ieee")
        # S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
        K2_kd = K2.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S2_qk = tl.dot(Q2_qd, tl.trans(K2_kd), input_precision="ieee")
        # S1_max[q] = max(k where seen) S1[q,k]
        S1_seen_qk = S1_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S1_seen_qk = tl.where(seen_qk, S1_seen_qk, float("-inf"))
        S1_max_tile_q = tl.max(S1_seen_qk, 1)
        S1_max_old_q = S1_max_q
        S1_max_q = tl.maximum(S1_max_old_q, S1_max_tile_q * (1 / D ** 0.5))
        # P1_total_total[q] = sum(k where seen) exp(S1[q,k] - finite(S1_max[q]))
        alpha_q = tl.exp2(S1_max_old_q * 1.4426950408889634 - finite(S1_max_q) * 1.4426950408889634)
        exp_S1_seen_qk = tl.exp2(
            S1_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(S1_max_q) * 1.4426950408889634)[:, None]
        )
        P1_total_total_tile_q = tl.sum(exp_S1_seen_qk, 1)
        P1_total_total_q = P1_total_total_q * alpha_q + P1_total_total_tile_q
        # S2_max[q] = max(k where seen) S2[q,k]
        S2_seen_qk = S2_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S2_seen_qk = tl.where(seen_qk, S2_seen_qk, float("-inf"))
        S2_max_tile_q = tl.max(S2_seen_qk, 1)
        S2_max_old_q = S2_max_q
        S2_max_q = tl.maximum(S2_max_old_q, S2_max_tile_q * (1 / D ** 0.5))
        # P2_total_total[q] = sum(k where seen) exp(S2[q,k] - finite(S2_max[q]))
        alpha2_q = tl.exp2(
            S2_max_old_q * 1.4426950408889634 - finite(S2_max_q) * 1.4426950408889634
        )
        exp_S2_seen_qk = tl.exp2(
            S2_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(S2_max_q) * 1.4426950408889634)[:, None]
        )
        P2_total_total_tile_q = tl.sum(exp_S2_seen_qk, 1)
        P2_total_total_q = P2_total_total_q * alpha2_q + P2_total_total_tile_q
        # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(S1_max[q]))
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_total_qe = tl.dot(
            exp_S1_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
        # O_sum2_total_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(S2_max[q]))
        O_sum2_total_total_qe = tl.dot(
            exp_S2_seen_qk.to(V_ke.dtype),
            V_ke,
            O_sum2_total_total_qe * alpha2_q[:, None],
            input_precision="ieee",
        )
    # P1_log[q] = S1_max[q] + log(P1_total_total[q])
    P1_log_q = S1_max_q + tl.log(P1_total_total_q)
    # P2_log[q] = S2_max[q] + log(P2_total_total[q])
    P2_log_q = S2_max_q + tl.log(P2_total_total_q)
    # O_part[q,e] = O_total_total[q,e] * exp(S1_max[q] - finite(S1_max[q] + log(P1_total_total[q])))
    O_part_qe = (
        O_total_total_qe
        * tl.exp2(
            S1_max_q * 1.4426950408889634
            - finite(S1_max_q + tl.log(P1_total_total_q)) * 1.4426950408889634
        )[:, None]
    )
    # O_part2[q,e] = O_sum2_total_total[q,e] * exp(S2_max[q] - finite(S2_max[q] +
    #     log(P2_total_total[q])))
    O_part2_qe = (
        O_sum2_total_total_qe
        * tl.exp2(
            S2_max_q * 1.4426950408889634
            - finite(S2_max_q + tl.log(P2_total_total_q)) * 1.4426950408889634
        )[:, None]
    )
    # O[q,e] = O_total_total[q,e] * exp(S1_max[q] - finite(S1_max[q] + log(P1_total_total[q]))) -
    #     lam * O_sum2_total_total[q,e] * exp(S2_max[q] - finite(S2_max[q] +
    #     log(P2_total_total[q])))
    lam_ = tl.load(lam).to(tl.float32)
    O_qe = (
        O_total_total_qe
        * tl.exp2(
            S1_max_q * 1.4426950408889634
            - finite(S1_max_q + tl.log(P1_total_total_q)) * 1.4426950408889634
        )[:, None]
        - lam_
        * O_sum2_total_total_qe
        * tl.exp2(
            S2_max_q * 1.4426950408889634
            - finite(S2_max_q + tl.log(P2_total_total_q)) * 1.4426950408889634
        )[:, None]
    )
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        P2_log_here + q0.to(tl.int64) * sP2_log_q + q_in * sP2_log_q,
        P2_log_q.to(P2_log.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        P1_log_here + q0.to(tl.int64) * sP1_log_q + q_in * sP1_log_q,
        P1_log_q.to(P1_log.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        O_part2_here
        + q0.to(tl.int64) * sO_part2_q
        + q_in[:, None] * sO_part2_q
        + e[None, :] * sO_part2_e,
        O_part2_qe.to(O_part2.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        O_part_here
        + q0.to(tl.int64) * sO_part_q
        + q_in[:, None] * sO_part_q
        + e[None, :] * sO_part_e,
        O_part_qe.to(O_part.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


@triton.jit(
    do_not_specialize=[
        "sP2_log_b",
        "sP2_log_h",
        "sP2_log_q",
        "sP1_log_b",
        "sP1_log_h",
        "sP1_log_q",
        "sdlam_rows_b",
        "sdlam_rows_h",
        "sdlam_rows_q",
        "sdP2_log_b",
        "sdP2_log_h",
        "sdP2_log_q",
        "sdP1_log_b",
        "sdP1_log_h",
        "sdP1_log_q",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NG",
    ]
)
def differential_backward_dQ1_kernel(
    Q1,
    K1,
    Q2,
    K2,
    V,
    O_part2,
    O_part,
    dO,
    lam,
    P2_log,
    P1_log,
    dQ1,
    dQ2,
    dlam_rows,
    dP2_log,
    dP1_log,
    sP2_log_b, sP2_log_h, sP2_log_q,
    sP1_log_b, sP1_log_h, sP1_log_q,
    sdQ1_b, sdQ1_h, sdQ1_q, sdQ1_d,
    sdQ2_b, sdQ2_h, sdQ2_q, sdQ2_d,
    sdlam_rows_b, sdlam_rows_h, sdlam_rows_q,
    sdP2_log_b, sdP2_log_h, sdP2_log_q,
    sdP1_log_b, sdP1_log_h, sdP1_log_q,
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
    dlam_rows_here = dlam_rows + b.to(tl.int64) * sdlam_rows_b + h.to(tl.int64) * sdlam_rows_h
    dP2_log_here = dP2_log + b.to(tl.int64) * sdP2_log_b + h.to(tl.int64) * sdP2_log_h
    dP1_log_here = dP1_log + b.to(tl.int64) * sdP1_log_b + h.to(tl.int64) * sdP1_log_h
    P1_log_here = P1_log + b.to(tl.int64) * sP1_log_b + h.to(tl.int64) * sP1_log_h
    P2_log_here = P2_log + b.to(tl.int64) * sP2_log_b + h.to(tl.int64) * sP2_log_h
    dQ1_here = dQ1 + b.to(tl.int64) * sdQ1_b + h.to(tl.int64) * sdQ1_h
    dQ2_here = dQ2 + b.to(tl.int64) * sdQ2_b + h.to(tl.int64) * sdQ2_h
    # dP2_log[q] = sum(e) (-(-dO[q,e] * lam) * O_part2[q,e])
    dO_qe = dO.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
    lam_ = tl.load(lam).to(tl.float32)
    O_part2_qe = O_part2.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP2_log_q = tl.sum(-(-(dO_qe.to(tl.float32) * lam_) * O_part2_qe), 1)
    # dP1_log[q] = sum(e) (-dO[q,e] * O_part[q,e])
    O_part_qe = O_part.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP1_log_q = tl.sum(-(dO_qe.to(tl.float32) * O_part_qe), 1)
    # dlam_rows[q] = sum(e) (-dO[q,e] * O_part2[q,e])
    dlam_rows_q = tl.sum(-(dO_qe.to(tl.float32) * O_part2_qe), 1)
    tl.store(
        dlam_rows_here + q0.to(tl.int64) * sdlam_rows_q + q_in * sdlam_rows_q,
        dlam_rows_q.to(dlam_rows.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        dP2_log_here + q0.to(tl.int64) * sdP2_log_q + q_in * sdP2_log_q,
        dP2_log_q.to(dP2_log.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        dP1_log_here + q0.to(tl.int64) * sdP1_log_q + q_in * sdP1_log_q,
        dP1_log_q.to(dP1_log.dtype.element_ty),
        mask=(q < NQ),
    )
    # state of dQ1_sum[q,d] = sum(k where seen) (dS1_total[q,k] + dP1_log[q]) * K1[k,d] *
    #     exp(S1[q,k] - finite(P1_log[q]))
    dQ1_sum_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    # state of dQ2_sum[q,d] = sum(k where seen) (dS2_total[q,k] + dP2_log[q]) * K2[k,d] *
    #     exp(S2[q,k] - finite(P2_log[q]))
    dQ2_sum_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    Q1_qd = Q1.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    Q2_qd = Q2.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    P1_log_q = tl.load(
        P1_log_here + q0.to(tl.int64) * sP1_log_q + q_in * sP1_log_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    P2_log_q = tl.load(
        P2_log_here + q0.to(tl.int64) * sP2_log_q + q_in * sP2_log_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    # dS2_total_row[q,e] = -dO[q,e] * lam
    dS2_total_row_qe = held(-(dO_qe.to(tl.float32) * lam_))
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
        # S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
        K1_kd = K1.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S1_qk = tl.dot(Q1_qd, tl.trans(K1_kd), input_precision="ieee")
        S1_seen_qk = S1_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S1_seen_qk = tl.where(seen_qk, S1_seen_qk, float("-inf"))
        # S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
        K2_kd = K2.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S2_qk = tl.dot(Q2_qd, tl.trans(K2_kd), input_precision="ieee")
        S2_seen_qk = S2_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S2_seen_qk = tl.where(seen_qk, S2_seen_qk, float("-inf"))
        # dS2_total[q,k] = sum(e) dS2_total_row[q,e] * V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        dS2_total_qk = tl.dot(
            dS2_total_row_qe.to(V_ke.dtype), tl.trans(V_ke), input_precision="ieee"
        )
        # dS1_total[q,k] = sum(e) dO[q,e] * V[k,e]
        dS1_total_qk = tl.dot(dO_qe, tl.trans(V_ke), input_precision="ieee")
        # dQ1_sum[q,d] = sum(k where seen) (dS1_total[q,k] + dP1_log[q]) * K1[k,d] * exp(S1[q,k] -
        #     finite(P1_log[q]))
        exp_S1_seen_qk = tl.exp2(
            S1_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P1_log_q) * 1.4426950408889634)[:, None]
        )
        dQ1_sum_qd = tl.dot(
            ((dS1_total_qk + dP1_log_q[:, None]) * exp_S1_seen_qk).to(K1_kd.dtype),
            K1_kd,
            dQ1_sum_qd,
            input_precision="ieee",
        )
        # dQ2_sum[q,d] = sum(k where seen) (dS2_total[q,k] + dP2_log[q]) * K2[k,d] * exp(S2[q,k] -
        #     finite(P2_log[q]))
        exp_S2_seen_qk = tl.exp2(
            S2_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P2_log_q) * 1.4426950408889634)[:, None]
        )
        dQ2_sum_qd = tl.dot(
            ((dS2_total_qk + dP2_log_q[:, None]) * exp_S2_seen_qk).to(K2_kd.dtype),
            K2_kd,
            dQ2_sum_qd,
            input_precision="ieee",
        )
    # dQ1[q,d] = dQ1_sum[q,d] / sqrt(|d|)
    dQ1_qd = dQ1_sum_qd / D ** 0.5
    # dQ2[q,d] = dQ2_sum[q,d] / sqrt(|d|)
    dQ2_qd = dQ2_sum_qd / D ** 0.5
    tl.store(
        dQ1_here + q0.to(tl.int64) * sdQ1_q + q_in[:, None] * sdQ1_q + d[None, :] * sdQ1_d,
        dQ1_qd.to(dQ1.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        dQ2_here + q0.to(tl.int64) * sdQ2_q + q_in[:, None] * sdQ2_q + d[None, :] * sdQ2_d,
        dQ2_qd.to(dQ2.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


@triton.jit(do_not_specialize=["NK", "NQ", "NB", "NG", "NH_OF_G", "NH"])
def differential_backward_dK1_kernel(
    Q1, K1, Q2, K2, V, P2_log, P1_log, dO, dP2_log, dP1_log, lam, dK1, dK2, dV,
    sdK1_b, sdK1_g, sdK1_k, sdK1_d,
    sdK2_b, sdK2_g, sdK2_k, sdK2_d,
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
    dK1_here = dK1 + b.to(tl.int64) * sdK1_b + g.to(tl.int64) * sdK1_g
    dK2_here = dK2 + b.to(tl.int64) * sdK2_b + g.to(tl.int64) * sdK2_g
    dV_here = dV + b.to(tl.int64) * sdV_b + g.to(tl.int64) * sdV_g
    # state of dK1_sum[k,d] = sum(h_of_g, q where seen) (dS1_total[q,k] + dP1_log[q]) * Q1[q,d] *
    #     exp(S1[q,k] - finite(P1_log[q]))
    dK1_sum_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dK2_sum[k,d] = sum(h_of_g, q where seen) (dS2_total[q,k] + dP2_log[q]) * Q2[q,d] *
    #     exp(S2[q,k] - finite(P2_log[q]))
    dK2_sum_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dV_sum[k,e] = sum(h_of_g, q where seen) (-dO[q,e] * lam) * exp(S2[q,k] -
    #     finite(P2_log[q]))
    dV_sum_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    # state of dV_sum2[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S1[q,k] - finite(P1_log[q]))
    dV_sum2_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    K1_kd = K1.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    K2_kd = K2.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    lam_ = tl.load(lam).to(tl.float32)
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
            # S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
            Q1_qd = Q1.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
            S1_kq = tl.dot(K1_kd, tl.trans(Q1_qd), input_precision="ieee")
            S1_seen_kq = S1_kq
            if (step < q_whole) | (step >= q_edge):
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = (q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :])
                S1_seen_kq = tl.where(seen_kq, S1_seen_kq, float("-inf"))
            # S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
            Q2_qd = Q2.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
            S2_kq = tl.dot(K2_kd, tl.trans(Q2_qd), input_precision="ieee")
            S2_seen_kq = S2_kq
            if (step < q_whole) | (step >= q_edge):
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = (q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :])
                S2_seen_kq = tl.where(seen_kq, S2_seen_kq, float("-inf"))
            # dS2_total_column[q,e] = -dO[q,e] * lam
            dO_qe = dO.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
            dS2_total_column_qe = -(dO_qe.to(tl.float32) * lam_)
            # dS2_total[q,k] = sum(e) V[k,e] * dS2_total_column[q,e]
            dS2_total_kq = tl.dot(
                V_ke, tl.trans(dS2_total_column_qe.to(V_ke.dtype)), input_precision="ieee"
            )
            # dS1_total[q,k] = sum(e) dO[q,e] * V[k,e]
            dS1_total_kq = tl.dot(V_ke, tl.trans(dO_qe), input_precision="ieee")
            # dK1_sum[k,d] = sum(h_of_g, q where seen) (dS1_total[q,k] + dP1_log[q]) * Q1[q,d] *
            #     exp(S1[q,k] - finite(P1_log[q]))
            dP1_log_q = dP1_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            P1_log_q = P1_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            exp_S1_seen_kq = tl.exp2(
                S1_seen_kq * (1.4426950408889634 / D ** 0.5)
                - (finite(P1_log_q) * 1.4426950408889634)[None, :]
            )
            dK1_sum_kd = tl.dot(
                ((dS1_total_kq + dP1_log_q[None, :]) * exp_S1_seen_kq).to(Q1_qd.dtype),
                Q1_qd,
                dK1_sum_kd,
                input_precision="ieee",
            )
            # dK2_sum[k,d] = sum(h_of_g, q where seen) (dS2_total[q,k] + dP2_log[q]) * Q2[q,d] *
            #     exp(S2[q,k] - finite(P2_log[q]))
            dP2_log_q = dP2_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            P2_log_q = P2_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            exp_S2_seen_kq = tl.exp2(
                S2_seen_kq * (1.4426950408889634 / D ** 0.5)
                - (finite(P2_log_q) * 1.4426950408889634)[None, :]
            )
            dK2_sum_kd = tl.dot(
                ((dS2_total_kq + dP2_log_q[None, :]) * exp_S2_seen_kq).to(Q2_qd.dtype),
                Q2_qd,
                dK2_sum_kd,
                input_precision="ieee",
            )
            # dV_sum[k,e] = sum(h_of_g, q where seen) (-dO[q,e] * lam) * exp(S2[q,k] -
            #     finite(P2_log[q]))
            dV_sum_ke = tl.dot(
                exp_S2_seen_kq.to(Q1.dtype),
                dS2_total_column_qe.to(Q1.dtype),
                dV_sum_ke,
                input_precision="ieee",
            )
            # dV_sum2[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(S1[q,k] - finite(P1_log[q]))
            dV_sum2_ke = tl.dot(
                exp_S1_seen_kq.to(dO_qe.dtype), dO_qe, dV_sum2_ke, input_precision="ieee"
            )
    # dK1[k,d] = dK1_sum[k,d] / sqrt(|d|)
    dK1_kd = dK1_sum_kd / D ** 0.5
    # dK2[k,d] = dK2_sum[k,d] / sqrt(|d|)
    dK2_kd = dK2_sum_kd / D ** 0.5
    # dV[k,e] = dV_sum[k,e] + dV_sum2[k,e]
    dV_ke = dV_sum_ke + dV_sum2_ke
    tl.store(
        dK1_here + k0.to(tl.int64) * sdK1_k + k_in[:, None] * sdK1_k + d[None, :] * sdK1_d,
        dK1_kd.to(dK1.dtype.element_ty),
        mask=(k[:, None] < NK),
    )
    tl.store(
        dK2_here + k0.to(tl.int64) * sdK2_k + k_in[:, None] * sdK2_k + d[None, :] * sdK2_d,
        dK2_kd.to(dK2.dtype.element_ty),
        mask=(k[:, None] < NK),
    )
    tl.store(
        dV_here + k0.to(tl.int64) * sdV_k + k_in[:, None] * sdV_k + e[None, :] * sdV_e,
        dV_ke.to(dV.dtype.element_ty),
        mask=(k[:, None] < NK),
    )


def differential_forward(Q1, K1, Q2, K2, V, lam):
    """Q1[b,h,q,d], K1[b,g,k,d], Q2[b,h,q,d], K2[b,g,k,d], V[b,g,k,e], lam[] -> O[b,h,q,e],
        P2_log[b,h,q], P1_log[b,h,q], O_part2[b,h,q,e], O_part[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q1", "b h q d", Q1),
        ("K1", "b g k d", K1),
        ("Q2", "b h q d", Q2),
        ("K2", "b g k d", K2),
        ("V", "b g k e", V),
        ("lam", "", lam),
    )
    check_kinds(
        [("Q1", Q1), ("K1", K1), ("Q2", Q2), ("K2", K2), ("V", V), ("lam", lam)], [], [], KINDS
    )
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q1.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q1` is on {Q1.device}")
    tile = TILES.get((D, E, Q1.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q1.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    O = Q1.new_empty((NB, NH, NQ, E))
    P2_log = Q1.new_empty((NB, NH, NQ), dtype=torch.float32)
    P1_log = Q1.new_empty((NB, NH, NQ), dtype=torch.float32)
    O_part2 = Q1.new_empty((NB, NH, NQ, E))
    O_part = Q1.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q1.device) if Q1.is_cuda else contextlib.nullcontext():
            differential_kernel[(grid,)](
                describe(Q1, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K1, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(Q2, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K2, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                lam, O, P2_log, P1_log, O_part2, O_part,
                *O.stride(),
                *P2_log.stride(),
                *P1_log.stride(),
                *O_part2.stride(),
                *O_part.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    return O, P2_log, P1_log, O_part2, O_part


def _differential_backward_totals(dlam_rows):
    """Sums over rows, one after the other."""
    # dlam = sum(b, h, q) dlam_rows[b,h,q]
    dlam = dlam_rows.sum((0, 1, 2))
    return dlam



def differential_backward(Q1, K1, Q2, K2, V, lam, P2_log, P1_log, O_part2, O_part, dO):
    """Q1[b,h,q,d], K1[b,g,k,d], Q2[b,h,q,d], K2[b,g,k,d], V[b,g,k,e], lam[], P2_log[b,h,q],
        P1_log[b,h,q], O_part2[b,h,q,e], O_part[b,h,q,e], dO[b,h,q,e] -> dQ1[b,h,q,d], dK1[b,g,k,d],
        dQ2[b,h,q,d], dK2[b,g,k,d], dV[b,g,k,e], dlam[], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q1", "b h q d", Q1),
        ("K1", "b g k d", K1),
        ("Q2", "b h q d", Q2),
        ("K2", "b g k d", K2),
        ("V", "b g k e", V),
        ("lam", "", lam),
        ("P2_log", "b h q", P2_log),
        ("P1_log", "b h q", P1_log),
        ("O_part2", "b h q e", O_part2),
        ("O_part", "b h q e", O_part),
        ("dO", "b h q e", dO),
    )
    check_kinds(
        [("Q1", Q1), ("K1", K1), ("Q2", Q2), ("K2", K2), ("V", V), ("lam", lam), ("dO", dO)],
        [],
        [],
        KINDS,
    )
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
    if not (Q1.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q1` is on {Q1.device}")
    tile = TILES_differential_backward_dQ1.get((D, E, Q1.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q1.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(P2_log.stride(2), P1_log.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dQ1 = Q1.new_empty((NB, NH, NQ, D))
    dQ2 = Q1.new_empty((NB, NH, NQ, D))
    dlam_rows = Q1.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    dP2_log = Q1.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    dP1_log = Q1.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q1.device) if Q1.is_cuda else contextlib.nullcontext():
            differential_backward_dQ1_kernel[(grid,)](
                describe(Q1, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K1, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(Q2, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K2, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(O_part2, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(O_part, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                lam, P2_log, P1_log, dQ1, dQ2, dlam_rows, dP2_log, dP1_log,
                *P2_log.stride(),
                *P1_log.stride(),
                *dQ1.stride(),
                *dQ2.stride(),
                *dlam_rows.stride(),
                *dP2_log.stride(),
                *dP1_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    tile = TILES_differential_backward_dK1.get((D, E, Q1.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q1.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    dK1 = Q1.new_empty((NB, NG, NK, D))
    dK2 = Q1.new_empty((NB, NG, NK, D))
    dV = Q1.new_empty((NB, NG, NK, E))
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q1.device) if Q1.is_cuda else contextlib.nullcontext():
            differential_backward_dK1_kernel[(grid,)](
                describe(Q1, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K1, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(Q2, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K2, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(P2_log, [1, 1, tile["BLOCK_Q"]]),
                describe(P1_log, [1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dP2_log, [1, 1, tile["BLOCK_Q"]]),
                describe(dP1_log, [1, 1, tile["BLOCK_Q"]]),
                lam, dK1, dK2, dV,
                *dK1.stride(), *dK2.stride(), *dV.stride(),
                NK, NQ, NB, NG, NH_OF_G, NH,
                D, E,
                **tile,
            )
    dlam = _differential_backward_totals(dlam_rows=dlam_rows)
    return dQ1, dK1, dQ2, dK2, dV, dlam.to(lam.dtype)


class _differential_gradients(torch.autograd.Function):
    """`differential` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q1, K1, Q2, K2, V, lam):
        O, P2_log, P1_log, O_part2, O_part = differential_forward(Q1, K1, Q2, K2, V, lam)
        ctx.save_for_backward(Q1, K1, Q2, K2, V, lam, P2_log, P1_log, O_part2, O_part)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`differential` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q1, K1, Q2, K2, V, lam, P2_log, P1_log, O_part2, O_part = ctx.saved_tensors
        dQ1, dK1, dQ2, dK2, dV, dlam = differential_backward(
            Q1, K1, Q2, K2, V, lam, P2_log, P1_log, O_part2, O_part, dO
        )
        return dQ1, dK1, dQ2, dK2, dV, dlam


def differential(Q1, K1, Q2, K2, V, lam):
    """Q1[b,h,q,d], K1[b,g,k,d], Q2[b,h,q,d], K2[b,g,k,d], V[b,g,k,e], lam[] -> O[b,h,q,e],
        differentiable."""
    return _differential_gradients.apply(Q1, K1, Q2, K2, V, lam)


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


def reference(Q1, K1, Q2, K2, V, lam):
    """`differential`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q1.shape
    _, NG, NK, _ = K1.shape
    h = torch.arange(NH, device=Q1.device)
    q = torch.arange(NQ, device=Q1.device)
    k = torch.arange(NK, device=Q1.device)
    # S1[b,h,q,k] = sum(d) Q1[b,h,q,d] * K1[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S1 = _einsum("bhqd,bhkd->bhqk", Q1, K1[:, h // (NH // NG)]) / math.sqrt(D)
    # S2[b,h,q,k] = sum(d) Q2[b,h,q,d] * K2[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S2 = _einsum("bhqd,bhkd->bhqk", Q2, K2[:, h // (NH // NG)]) / math.sqrt(D)
    # P1[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S1[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S1[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S1[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S1[b,h,q,k]) else 0
    where_qk = k <= (q + (NK - NQ))[:, None]
    max_P1_q = _amax(torch.where(where_qk, S1, -math.inf), 3, -math.inf)
    exp_P1_qk = torch.exp(torch.where(where_qk, S1 - max_P1_q[..., None], -math.inf))
    P1 = _divide(exp_P1_qk, exp_P1_qk.sum(-1)[..., None])
    # P2[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S2[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S2[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S2[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S2[b,h,q,k]) else 0
    max_P2_q = _amax(torch.where(where_qk, S2, -math.inf), 3, -math.inf)
    exp_P2_qk = torch.exp(torch.where(where_qk, S2 - max_P2_q[..., None], -math.inf))
    P2 = _divide(exp_P2_qk, exp_P2_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) (P1[b,h,q,k] - lam * P2[b,h,q,k]) * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P1 - lam * P2, V[:, h // (NH // NG)])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q1": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K1": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "Q2": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K2": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "lam": torch.rand((), device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = differential(**given)
    meant = reference(**{**given, **floats})
    names = ["Q1", "K1", "Q2", "K2", "V", "lam"]
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
