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
        "BLOCK_Q": 64, "BLOCK_K": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
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
TILES_evoformer_backward_dQ = {
    (64, 64, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_evoformer_backward_dpair = {
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
TILES_evoformer_backward_dK = {
    (64, 64, 2): {
        "BLOCK_K": 64, "BLOCK_Q": 32, "BLOCK_D": 64, "BLOCK_E": 64,
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
        "spair_b",
        "spair_h",
        "spair_q",
        "spair_k",
        "sP_log_b",
        "sP_log_m",
        "sP_log_h",
        "sP_log_q",
        "NQ",
        "NK",
        "NB",
        "NM",
        "NH",
    ]
)
def evoformer_kernel(
    Q, K, V, G, pair, O, P_log, O_part,
    spair_b, spair_h, spair_q, spair_k,
    sO_b, sO_m, sO_h, sO_q, sO_e,
    sP_log_b, sP_log_m, sP_log_h, sP_log_q,
    sO_part_b, sO_part_m, sO_part_h, sO_part_q, sO_part_e,
    NQ, NK, NB, NM, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = (pid // tiles) % NH
    m = (pid // tiles // NH) % NM
    b = pid // tiles // NH // NM
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    pair_here = pair + b.to(tl.int64) * spair_b + h.to(tl.int64) * spair_h
    O_here = O + b.to(tl.int64) * sO_b + m.to(tl.int64) * sO_m + h.to(tl.int64) * sO_h
    P_log_here = (
        P_log + b.to(tl.int64) * sP_log_b + m.to(tl.int64) * sP_log_m + h.to(tl.int64) * sP_log_h
    )
    O_part_here = (
        O_part
        + b.to(tl.int64) * sO_part_b
        + m.to(tl.int64) * sO_part_m
        + h.to(tl.int64) * sO_part_h
    )
    # state of P_total_max[q] = max(k) (S_sum[q,k] + pair[q,k])
    P_total_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total_total[q] = sum(k) exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
    P_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total_total[q,e] = sum(k) V[k,e] * exp(S_sum[q,k] + pair[q,k] -
    #     finite(P_total_max[q]))
    O_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_full_hi = k_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_total_max[q] = max(k) (S_sum[q,k] + pair[q,k])
        pair_qk = tl.load(
            pair_here
            + q0.to(tl.int64) * spair_q
            + k0.to(tl.int64) * spair_k
            + q_in[:, None] * spair_q
            + k_in[None, :] * spair_k,
            mask=(q[:, None] < NQ) & (k[None, :] < NK),
            other=0,
        ).to(tl.float32)
        exponent_qk = S_sum_qk * (1 / D ** 0.5) + pair_qk
        exponent_seen_qk = exponent_qk
        if step >= k_edge:
            # seen: k < |k|
            seen_k = k < NK
            exponent_seen_qk = tl.where(seen_k[None, :], exponent_seen_qk, float("-inf"))
        P_total_max_tile_q = tl.max(exponent_seen_qk, 1)
        P_total_max_old_q = P_total_max_q
        P_total_max_q = tl.maximum(P_total_max_old_q, P_total_max_tile_q)
        # P_total_total[q] = sum(k) exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
        alpha_q = tl.exp2(
            P_total_max_old_q * 1.4426950408889634 - finite(P_total_max_q) * 1.4426950408889634
        )
        exp_exponent_seen_qk = tl.exp2(
            exponent_seen_qk * 1.4426950408889634
            - (finite(P_total_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_total_tile_q = tl.sum(exp_exponent_seen_qk, 1)
        P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
        # O_total_total[q,e] = sum(k) V[k,e] * exp(S_sum[q,k] + pair[q,k] - finite(P_total_max[q]))
        V_ke = V.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_total_qe = tl.dot(
            exp_exponent_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # P_log[q] = P_total_max[q] + log(P_total_total[q])
    P_log_q = P_total_max_q + tl.log(P_total_total_q)
    # O_part[q,e] = O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
    #     log(P_total_total[q])))
    O_part_qe = (
        O_total_total_qe
        * tl.exp2(
            P_total_max_q * 1.4426950408889634
            - finite(P_total_max_q + tl.log(P_total_total_q)) * 1.4426950408889634
        )[:, None]
    )
    # O[q,e] = sigmoid(G[q,e]) * O_total_total[q,e] * exp(P_total_max[q] - finite(P_total_max[q] +
    #     log(P_total_total[q])))
    G_qe = G.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    sigmoid_G_qe = tl.sigmoid(G_qe)
    O_qe = (
        sigmoid_G_qe
        * O_total_total_qe
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
        "spair_b",
        "spair_h",
        "spair_q",
        "spair_k",
        "sP_log_b",
        "sP_log_m",
        "sP_log_h",
        "sP_log_q",
        "sdP_log_b",
        "sdP_log_m",
        "sdP_log_h",
        "sdP_log_q",
        "NQ",
        "NK",
        "NB",
        "NM",
        "NH",
    ]
)
def evoformer_backward_dQ_kernel(
    Q, K, V, G, O_part, dO, pair, P_log, dQ, dG, dP_log,
    spair_b, spair_h, spair_q, spair_k,
    sP_log_b, sP_log_m, sP_log_h, sP_log_q,
    sdQ_b, sdQ_m, sdQ_h, sdQ_q, sdQ_d,
    sdG_b, sdG_m, sdG_h, sdG_q, sdG_e,
    sdP_log_b, sdP_log_m, sdP_log_h, sdP_log_q,
    NQ, NK, NB, NM, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = (pid // tiles) % NH
    m = (pid // tiles // NH) % NM
    b = pid // tiles // NH // NM
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    dG_here = dG + b.to(tl.int64) * sdG_b + m.to(tl.int64) * sdG_m + h.to(tl.int64) * sdG_h
    dP_log_here = (
        dP_log
        + b.to(tl.int64) * sdP_log_b
        + m.to(tl.int64) * sdP_log_m
        + h.to(tl.int64) * sdP_log_h
    )
    P_log_here = (
        P_log + b.to(tl.int64) * sP_log_b + m.to(tl.int64) * sP_log_m + h.to(tl.int64) * sP_log_h
    )
    pair_here = pair + b.to(tl.int64) * spair_b + h.to(tl.int64) * spair_h
    dQ_here = dQ + b.to(tl.int64) * sdQ_b + m.to(tl.int64) * sdQ_m + h.to(tl.int64) * sdQ_h
    # dP_log[q] = sum(e) (-dO[q,e] * sigmoid(G[q,e]) * O_part[q,e])
    dO_qe = dO.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    G_qe = G.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    sigmoid_G_qe = tl.sigmoid(G_qe)
    O_part_qe = O_part.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP_log_q = tl.sum(-(dO_qe * sigmoid_G_qe * O_part_qe), 1)
    # dG[q,e] = dO[q,e] * O_part[q,e] * (sigmoid(G[q,e]) * sigmoid(-G[q,e]))
    sigmoid_G2_qe = tl.sigmoid(-G_qe)
    dG_qe = dO_qe * O_part_qe * (sigmoid_G_qe * sigmoid_G2_qe)
    tl.store(
        dG_here + q0.to(tl.int64) * sdG_q + q_in[:, None] * sdG_q + e[None, :] * sdG_e,
        dG_qe.to(dG.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        dP_log_here + q0.to(tl.int64) * sdP_log_q + q_in * sdP_log_q,
        dP_log_q.to(dP_log.dtype.element_ty),
        mask=(q < NQ),
    )
    # state of dQ_sum[q,d] = sum(k) (dS_sum_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] +
    #     pair[q,k] - finite(P_log[q]))
    dQ_sum_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    Q_qd = Q.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    P_log_q = tl.load(
        P_log_here + q0.to(tl.int64) * sP_log_q + q_in * sP_log_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    # dS_sum_total_row[q,e] = dO[q,e] * sigmoid(G[q,e])
    dS_sum_total_row_qe = held(dO_qe * sigmoid_G_qe)
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_full_hi = k_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        S_sum_seen_qk = S_sum_qk
        if step >= k_edge:
            # seen: k < |k|
            seen_k = k < NK
            S_sum_seen_qk = tl.where(seen_k[None, :], S_sum_seen_qk, float("-inf"))
        # dS_sum_total[q,k] = sum(e) dS_sum_total_row[q,e] * V[k,e]
        V_ke = V.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
        dS_sum_total_qk = tl.dot(
            dS_sum_total_row_qe.to(V_ke.dtype), tl.trans(V_ke), input_precision="ieee"
        )
        # dQ_sum[q,d] = sum(k) (dS_sum_total[q,k] + dP_log[q]) * K[k,d] * exp(S_sum[q,k] + pair[q,k]
        #     - finite(P_log[q]))
        pair_qk = tl.load(
            pair_here
            + q0.to(tl.int64) * spair_q
            + k0.to(tl.int64) * spair_k
            + q_in[:, None] * spair_q
            + k_in[None, :] * spair_k,
            mask=(q[:, None] < NQ) & (k[None, :] < NK),
            other=0,
        ).to(tl.float32)
        exp_S_sum_seen_qk = tl.exp2(
            S_sum_seen_qk * (1.4426950408889634 / D ** 0.5)
            + pair_qk * 1.4426950408889634
            - (finite(P_log_q) * 1.4426950408889634)[:, None]
        )
        dQ_sum_qd = tl.dot(
            ((dS_sum_total_qk + dP_log_q[:, None]) * exp_S_sum_seen_qk).to(K_kd.dtype),
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


@triton.jit(
    do_not_specialize=[
        "spair_b",
        "spair_h",
        "spair_q",
        "spair_k",
        "sdpair_b",
        "sdpair_h",
        "sdpair_q",
        "sdpair_k",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NM",
    ]
)
def evoformer_backward_dpair_kernel(
    Q, K, V, G, P_log, dO, dP_log, pair, dpair,
    spair_b, spair_h, spair_q, spair_k,
    sdpair_b, sdpair_h, sdpair_q, sdpair_k,
    NQ, NK, NB, NH, NM,
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
    k_in = tl.arange(0, BLOCK_K)
    pair_here = pair + b.to(tl.int64) * spair_b + h.to(tl.int64) * spair_h
    dpair_here = dpair + b.to(tl.int64) * sdpair_b + h.to(tl.int64) * sdpair_h
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_steps = k_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        dpair_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
        for m in tl.range(0, NM):
            # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            Q_qd = Q.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
            K_kd = K.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
            S_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
            # dS_sum_total_row[q,e] = dO[q,e] * sigmoid(G[q,e])
            dO_qe = dO.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
            G_qe = G.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
            sigmoid_G_qe = tl.sigmoid(G_qe)
            dS_sum_total_row_qe = dO_qe * sigmoid_G_qe
            # dS_sum_total[q,k] = sum(e) dS_sum_total_row[q,e] * V[k,e]
            V_ke = V.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
            dS_sum_total_qk = tl.dot(
                dS_sum_total_row_qe.to(V_ke.dtype), tl.trans(V_ke), input_precision="ieee"
            )
            # dpair[q,k] = sum(m) (dS_sum_total[q,k] + dP_log[q]) * exp(S_sum[q,k] + pair[q,k] -
            #     finite(P_log[q]))
            dP_log_q = dP_log.load([b, m, h, q0]).reshape([BLOCK_Q]).to(tl.float32)
            pair_qk = tl.load(
                pair_here
                + q0.to(tl.int64) * spair_q
                + k0.to(tl.int64) * spair_k
                + q_in[:, None] * spair_q
                + k_in[None, :] * spair_k,
                mask=(q[:, None] < NQ) & (k[None, :] < NK),
                other=0,
            ).to(tl.float32)
            P_log_q = P_log.load([b, m, h, q0]).reshape([BLOCK_Q]).to(tl.float32)
            exp_S_sum_qk = tl.exp2(
                S_sum_qk * (1.4426950408889634 / D ** 0.5)
                + pair_qk * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[:, None]
            )
            dpair_qk = dpair_qk + (dS_sum_total_qk + dP_log_q[:, None]) * exp_S_sum_qk
        tl.store(
            dpair_here
            + q0.to(tl.int64) * sdpair_q
            + k0.to(tl.int64) * sdpair_k
            + q_in[:, None].to(tl.int64) * sdpair_q
            + k_in[None, :].to(tl.int64) * sdpair_k,
            dpair_qk.to(dpair.dtype.element_ty),
            mask=(q[:, None] < NQ) & (k[None, :] < NK),
        )


@triton.jit(
    do_not_specialize=["spair_b", "spair_h", "spair_q", "spair_k", "NK", "NQ", "NB", "NM", "NH"]
)
def evoformer_backward_dK_kernel(
    Q, K, V, G, P_log, dO, dP_log, pair, dK, dV,
    spair_b, spair_h, spair_q, spair_k,
    sdK_b, sdK_m, sdK_h, sdK_k, sdK_d,
    sdV_b, sdV_m, sdV_h, sdV_k, sdV_e,
    NK, NQ, NB, NM, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (tiles - 1 - pid % tiles) * BLOCK_K
    h = (pid // tiles) % NH
    m = (pid // tiles // NH) % NM
    b = pid // tiles // NH // NM
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    q_in = tl.arange(0, BLOCK_Q)
    pair_here = pair + b.to(tl.int64) * spair_b + h.to(tl.int64) * spair_h
    dK_here = dK + b.to(tl.int64) * sdK_b + m.to(tl.int64) * sdK_m + h.to(tl.int64) * sdK_h
    dV_here = dV + b.to(tl.int64) * sdV_b + m.to(tl.int64) * sdV_m + h.to(tl.int64) * sdV_h
    # state of dK_sum[k,d] = sum(q) (dS_sum_total[q,k] + dP_log[q]) * Q[q,d] * exp(S_sum[q,k] +
    #     pair[q,k] - finite(P_log[q]))
    dK_sum_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dV[k,e] = sum(q) dO[q,e] * sigmoid(G[q,e]) * exp(S_sum[q,k] + pair[q,k] -
    #     finite(P_log[q]))
    dV_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    K_kd = K.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    V_ke = V.load([b, m, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
    q_end = NQ
    q_hi = (BLOCK_Q + q_end - 1) // BLOCK_Q
    q_full_hi = q_end // BLOCK_Q
    q_steps = q_hi
    q_edge = q_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, q_steps):
        q0 = step * BLOCK_Q
        q = q0 + q_in
        # S_sum[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        Q_qd = Q.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
        S_sum_kq = tl.dot(K_kd, tl.trans(Q_qd), input_precision="ieee")
        S_sum_seen_kq = S_sum_kq
        if step >= q_edge:
            # seen: q < |q|
            seen_q = q < NQ
            S_sum_seen_kq = tl.where(seen_q[None, :], S_sum_seen_kq, float("-inf"))
        # dS_sum_total_column[q,e] = dO[q,e] * sigmoid(G[q,e])
        dO_qe = dO.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
        G_qe = G.load([b, m, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
        sigmoid_G_qe = tl.sigmoid(G_qe)
        dS_sum_total_column_qe = dO_qe * sigmoid_G_qe
        # dS_sum_total[q,k] = sum(e) V[k,e] * dS_sum_total_column[q,e]
        dS_sum_total_kq = tl.dot(
            V_ke, tl.trans(dS_sum_total_column_qe.to(V_ke.dtype)), input_precision="ieee"
        )
        # dK_sum[k,d] = sum(q) (dS_sum_total[q,k] + dP_log[q]) * Q[q,d] * exp(S_sum[q,k] + pair[q,k]
        #     - finite(P_log[q]))
        dP_log_q = dP_log.load([b, m, h, q0]).reshape([BLOCK_Q]).to(tl.float32)
        pair_kq = tl.load(
            pair_here
            + q0.to(tl.int64) * spair_q
            + k0.to(tl.int64) * spair_k
            + q_in[None, :] * spair_q
            + k_in[:, None] * spair_k,
            mask=(q[None, :] < NQ) & (k[:, None] < NK),
            other=0,
        ).to(tl.float32)
        P_log_q = P_log.load([b, m, h, q0]).reshape([BLOCK_Q]).to(tl.float32)
        exp_S_sum_seen_kq = tl.exp2(
            S_sum_seen_kq * (1.4426950408889634 / D ** 0.5)
            + pair_kq * 1.4426950408889634
            - (finite(P_log_q) * 1.4426950408889634)[None, :]
        )
        dK_sum_kd = tl.dot(
            ((dS_sum_total_kq + dP_log_q[None, :]) * exp_S_sum_seen_kq).to(Q_qd.dtype),
            Q_qd,
            dK_sum_kd,
            input_precision="ieee",
        )
        # dV[k,e] = sum(q) dO[q,e] * sigmoid(G[q,e]) * exp(S_sum[q,k] + pair[q,k] -
        #     finite(P_log[q]))
        dV_ke = tl.dot(
            exp_S_sum_seen_kq.to(Q.dtype),
            dS_sum_total_column_qe.to(Q.dtype),
            dV_ke,
            input_precision="ieee",
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


def evoformer_forward(Q, K, V, pair, G):
    """Q[b,m,h,q,d], K[b,m,h,k,d], V[b,m,h,k,e], pair[b,h,q,k], G[b,m,h,q,e] -> O[b,m,h,q,e],
        P_log[b,m,h,q], O_part[b,m,h,q,e], on cuda:90.

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
    far = max(pair.stride(2), pair.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NM, NH, NQ, E))
    P_log = Q.new_empty((NB, NM, NH, NQ), dtype=torch.float32)
    O_part = Q.new_empty((NB, NM, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NM * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            evoformer_kernel[(grid,)](
                describe(Q, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(G, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                pair, O, P_log, O_part,
                *pair.stride(), *O.stride(), *P_log.stride(), *O_part.stride(),
                NQ, NK, NB, NM, NH,
                D, E,
                **tile,
            )
    return O, P_log, O_part


def evoformer_backward(Q, K, V, pair, G, P_log, O_part, dO):
    """Q[b,m,h,q,d], K[b,m,h,k,d], V[b,m,h,k,e], pair[b,h,q,k], G[b,m,h,q,e], P_log[b,m,h,q],
        O_part[b,m,h,q,e], dO[b,m,h,q,e] -> dQ[b,m,h,q,d], dK[b,m,h,k,d], dV[b,m,h,k,e], dpair[b,h,q,k],
        dG[b,m,h,q,e], on cuda:90.

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
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_evoformer_backward_dQ.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(pair.stride(2), pair.stride(3), P_log.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dQ = Q.new_empty((NB, NM, NH, NQ, D))
    dG = Q.new_empty((NB, NM, NH, NQ, E))
    dP_log = Q.new_empty((NB, NM, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NM * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            evoformer_backward_dQ_kernel[(grid,)](
                describe(Q, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(G, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(O_part, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dO, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                pair, P_log, dQ, dG, dP_log,
                *pair.stride(), *P_log.stride(), *dQ.stride(), *dG.stride(), *dP_log.stride(),
                NQ, NK, NB, NM, NH,
                D, E,
                **tile,
            )
    tile = TILES_evoformer_backward_dpair.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(pair.stride(2), pair.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dpair = Q.new_empty((NB, NH, NQ, NK))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            evoformer_backward_dpair_kernel[(grid,)](
                describe(Q, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(G, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(P_log, [1, 1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dP_log, [1, 1, 1, tile["BLOCK_Q"]]),
                pair, dpair,
                *pair.stride(), *dpair.stride(),
                NQ, NK, NB, NH, NM,
                D, E,
                **tile,
            )
    tile = TILES_evoformer_backward_dK.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(pair.stride(2), pair.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dK = Q.new_empty((NB, NM, NH, NK, D))
    dV = Q.new_empty((NB, NM, NH, NK, E))
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NM * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            evoformer_backward_dK_kernel[(grid,)](
                describe(Q, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(G, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(P_log, [1, 1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dP_log, [1, 1, 1, tile["BLOCK_Q"]]),
                pair, dK, dV,
                *pair.stride(), *dK.stride(), *dV.stride(),
                NK, NQ, NB, NM, NH,
                D, E,
                **tile,
            )
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
