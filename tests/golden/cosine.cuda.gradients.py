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
TILES_cosine_Y_sum_inverse = {
    (64, 2): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (64, 4): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 2): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 4): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
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
TILES_cosine_backward_Y_sum = {
    (64, 2): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (64, 4): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 2): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 4): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES_cosine_backward_dQ = {
    (64, 64, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
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
TILES_cosine_backward_dK = {
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
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    return tl.where(tl.abs(x) < 2.938736e-39, 3.4028235e38, 1.0 / x)


@triton.jit
def reciprocal(x):
    """1 / x, and of 0 nothing: no gradient passes a division by 0."""
    return tl.where(x == 0, 0.0, 1.0 / tl.where(x == 0, 1.0, x))


@triton.jit(
    do_not_specialize=["sY_sum_inverse_b", "sY_sum_inverse_g", "sY_sum_inverse_k", "NK", "NB", "NG"]
)
def cosine_Y_sum_inverse_kernel(
    K, Y_sum_inverse,
    sY_sum_inverse_b, sY_sum_inverse_g, sY_sum_inverse_k,
    NK, NB, NG,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (tiles - 1 - pid % tiles) * BLOCK_K
    g = (pid // tiles) % NG
    b = pid // tiles // NG
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    Y_sum_inverse_here = (
        Y_sum_inverse + b.to(tl.int64) * sY_sum_inverse_b + g.to(tl.int64) * sY_sum_inverse_g
    )
    # Y_sum[k] = sum(d) K[k,d] * K[k,d]
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D]).to(tl.float32)
    Y_sum_k = tl.sum(K_kd * K_kd, 1)
    # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    Y_sum_inverse_k = inverse(tl.sqrt(Y_sum_k))
    tl.store(
        Y_sum_inverse_here + k0.to(tl.int64) * sY_sum_inverse_k + k_in * sY_sum_inverse_k,
        Y_sum_inverse_k.to(Y_sum_inverse.dtype.element_ty),
        mask=(k < NK),
    )


@triton.jit(do_not_specialize=["sP_log_b", "sP_log_h", "sP_log_q", "NQ", "NK", "NB", "NH", "NG"])
def cosine_kernel(
    Q, K, V, Y_sum_inverse, scale, O, P_log,
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
    # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    X_sum_q = tl.sum(Q_qd.to(tl.float32) * Q_qd.to(tl.float32), 1)
    # state of P_total_max[q] = max(k where seen) scale * S_total[q,k] * Y_sum_inverse[k] /
    #     sqrt(X_sum[q])
    P_total_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total_total[q] = sum(k where seen) exp(scale * S_total[q,k] * Y_sum_inverse[k] /
    #     sqrt(X_sum[q]) - finite(P_total_max[q]))
    P_total_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total_total[q,e] = sum(k where seen) V[k,e] * exp(scale * S_total[q,k] *
    #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_total_max[q]))
    O_total_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    scale_ = tl.load(scale).to(tl.float32)
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
        # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_total_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_total_max[q] = max(k where seen) scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q])
        Y_sum_inverse_k = Y_sum_inverse.load(
            [b, h // (NH // NG), k0]
        ).reshape([BLOCK_K]).to(tl.float32)
        ratio_S_total_qk = divide(
            scale_ * S_total_qk * Y_sum_inverse_k[None, :], tl.sqrt(X_sum_q)[:, None]
        )
        ratio_S_total_seen_qk = ratio_S_total_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            ratio_S_total_seen_qk = tl.where(seen_qk, ratio_S_total_seen_qk, float("-inf"))
        P_total_max_tile_q = tl.max(ratio_S_total_seen_qk, 1)
        P_total_max_old_q = P_total_max_q
        P_total_max_q = tl.maximum(P_total_max_old_q, P_total_max_tile_q)
        # P_total_total[q] = sum(k where seen) exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q]) - finite(P_total_max[q]))
        alpha_q = tl.exp2(
            P_total_max_old_q * 1.4426950408889634 - finite(P_total_max_q) * 1.4426950408889634
        )
        exp_ratio_S_total_seen_qk = tl.exp2(
            ratio_S_total_seen_qk * 1.4426950408889634
            - (finite(P_total_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_total_tile_q = tl.sum(exp_ratio_S_total_seen_qk, 1)
        P_total_total_q = P_total_total_q * alpha_q + P_total_total_tile_q
        # O_total_total[q,e] = sum(k where seen) V[k,e] * exp(scale * S_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_total_max[q]))
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_total_qe = tl.dot(
            exp_ratio_S_total_seen_qk.to(V_ke.dtype),
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
        "sY_sum_b",
        "sY_sum_g",
        "sY_sum_k",
        "sY_sum_inverse_b",
        "sY_sum_inverse_g",
        "sY_sum_inverse_k",
        "NK",
        "NB",
        "NG",
    ]
)
def cosine_backward_Y_sum_kernel(
    K, Y_sum, Y_sum_inverse,
    sY_sum_b, sY_sum_g, sY_sum_k,
    sY_sum_inverse_b, sY_sum_inverse_g, sY_sum_inverse_k,
    NK, NB, NG,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (tiles - 1 - pid % tiles) * BLOCK_K
    g = (pid // tiles) % NG
    b = pid // tiles // NG
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    Y_sum_here = Y_sum + b.to(tl.int64) * sY_sum_b + g.to(tl.int64) * sY_sum_g
    Y_sum_inverse_here = (
        Y_sum_inverse + b.to(tl.int64) * sY_sum_inverse_b + g.to(tl.int64) * sY_sum_inverse_g
    )
    # Y_sum[k] = sum(d) K[k,d] * K[k,d]
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D]).to(tl.float32)
    Y_sum_k = tl.sum(K_kd * K_kd, 1)
    # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    Y_sum_inverse_k = inverse(tl.sqrt(Y_sum_k))
    tl.store(
        Y_sum_here + k0.to(tl.int64) * sY_sum_k + k_in * sY_sum_k,
        Y_sum_k.to(Y_sum.dtype.element_ty),
        mask=(k < NK),
    )
    tl.store(
        Y_sum_inverse_here + k0.to(tl.int64) * sY_sum_inverse_k + k_in * sY_sum_inverse_k,
        Y_sum_inverse_k.to(Y_sum_inverse.dtype.element_ty),
        mask=(k < NK),
    )


@triton.jit(
    do_not_specialize=[
        "sP_log_b",
        "sP_log_h",
        "sP_log_q",
        "sdscale_rows_b",
        "sdscale_rows_h",
        "sdscale_rows_q",
        "sX_sum_b",
        "sX_sum_h",
        "sX_sum_q",
        "sdP_log_b",
        "sdP_log_h",
        "sdP_log_q",
        "sX_sum_inverse_b",
        "sX_sum_inverse_h",
        "sX_sum_inverse_q",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NG",
    ]
)
def cosine_backward_dQ_kernel(
    Q,
    K,
    V,
    O,
    dO,
    Y_sum,
    Y_sum_inverse,
    scale,
    P_log,
    dQ,
    dscale_rows,
    X_sum,
    dP_log,
    X_sum_inverse,
    sP_log_b, sP_log_h, sP_log_q,
    sdQ_b, sdQ_h, sdQ_q, sdQ_d,
    sdscale_rows_b, sdscale_rows_h, sdscale_rows_q,
    sX_sum_b, sX_sum_h, sX_sum_q,
    sdP_log_b, sdP_log_h, sdP_log_q,
    sX_sum_inverse_b, sX_sum_inverse_h, sX_sum_inverse_q,
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
    X_sum_here = X_sum + b.to(tl.int64) * sX_sum_b + h.to(tl.int64) * sX_sum_h
    dP_log_here = dP_log + b.to(tl.int64) * sdP_log_b + h.to(tl.int64) * sdP_log_h
    X_sum_inverse_here = (
        X_sum_inverse + b.to(tl.int64) * sX_sum_inverse_b + h.to(tl.int64) * sX_sum_inverse_h
    )
    P_log_here = P_log + b.to(tl.int64) * sP_log_b + h.to(tl.int64) * sP_log_h
    dQ_here = dQ + b.to(tl.int64) * sdQ_b + h.to(tl.int64) * sdQ_h
    dscale_rows_here = (
        dscale_rows + b.to(tl.int64) * sdscale_rows_b + h.to(tl.int64) * sdscale_rows_h
    )
    # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    X_sum_q = tl.sum(Q_qd.to(tl.float32) * Q_qd.to(tl.float32), 1)
    # X_sum_inverse[q] = inverse(sqrt(X_sum[q]))
    X_sum_inverse_q = inverse(tl.sqrt(X_sum_q))
    # dP_log[q] = sum(e) (-dO[q,e] * O[q,e])
    dO_qe = dO.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
    O_qe = O.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_E]).to(tl.float32)
    dP_log_q = tl.sum(-(dO_qe.to(tl.float32) * O_qe), 1)
    tl.store(
        X_sum_here + q0.to(tl.int64) * sX_sum_q + q_in * sX_sum_q,
        X_sum_q.to(X_sum.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        dP_log_here + q0.to(tl.int64) * sdP_log_q + q_in * sdP_log_q,
        dP_log_q.to(dP_log.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        X_sum_inverse_here + q0.to(tl.int64) * sX_sum_inverse_q + q_in * sX_sum_inverse_q,
        X_sum_inverse_q.to(X_sum_inverse.dtype.element_ty),
        mask=(q < NQ),
    )
    # state of dX_sum_sum[q] = sum(k where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
    #     sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) * dS_total_total[q,k] *
    #     Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
    #     sqrt(X_sum[q]) - finite(P_log[q]))
    dX_sum_sum_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of dX_sum_sum2[q] = sum(k where seen) dP_log[q] * S_total[q,k] *
    #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q]))
    #     * Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
    #     sqrt(X_sum[q]) - finite(P_log[q]))
    dX_sum_sum2_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of dscale_rows[q] = sum(k where seen) (S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
    #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * S_total[q,k] *
    #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * exp(scale * S_total[q,k] * Y_sum_inverse[k]
    #     / sqrt(X_sum[q]) - finite(P_log[q]))
    dscale_rows_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of dQ_sum[q,d] = sum(k where seen) (scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))
    #     * dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) *
    #     K[k,d] * exp(scale * S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
    dQ_sum_qd = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    scale_ = tl.load(scale).to(tl.float32)
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
        # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_total_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        dS_total_total_qk = tl.dot(dO_qe, tl.trans(V_ke), input_precision="ieee")
        # dX_sum_sum[q] = sum(k where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) * dS_total_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] /
        #     sqrt(X_sum[q]) - finite(P_log[q]))
        Y_sum_k = Y_sum.load([b, h // (NH // NG), k0]).reshape([BLOCK_K]).to(tl.float32)
        Y_sum_inverse_k = Y_sum_inverse.load(
            [b, h // (NH // NG), k0]
        ).reshape([BLOCK_K]).to(tl.float32)
        ratio_S_total_qk = divide(
            S_total_qk
            * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
            * tl.sqrt(Y_sum_k)[None, :]
            * reciprocal(tl.sqrt(X_sum_q))[:, None]
            * dS_total_total_qk
            * Y_sum_inverse_k[None, :],
            tl.sqrt(X_sum_q)[:, None],
        )
        ratio_S_total2_qk = divide(
            scale_ * S_total_qk * Y_sum_inverse_k[None, :], tl.sqrt(X_sum_q)[:, None]
        )
        ratio_S_total2_seen_qk = (
            ratio_S_total2_qk * 1.4426950408889634 - (finite(P_log_q) * 1.4426950408889634)[:, None]
        )
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            ratio_S_total2_seen_qk = tl.where(seen_qk, ratio_S_total2_seen_qk, float("-inf"))
        exp_ratio_S_total2_seen_qk = tl.exp2(ratio_S_total2_seen_qk)
        ratio_S_total_seen_qk = ratio_S_total_qk * exp_ratio_S_total2_seen_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            ratio_S_total_seen_qk = tl.where(seen_qk, ratio_S_total_seen_qk, 0.0)
        dX_sum_sum_tile_q = tl.sum(ratio_S_total_seen_qk, 1)
        dX_sum_sum_q = dX_sum_sum_q + dX_sum_sum_tile_q
        # dX_sum_sum2[q] = sum(k where seen) dP_log[q] * S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * sqrt(Y_sum[k]) * reciprocal(sqrt(X_sum[q])) * Y_sum_inverse[k] /
        #     sqrt(X_sum[q]) * exp(scale * S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) -
        #     finite(P_log[q]))
        ratio_S_total3_qk = divide(
            dP_log_q[:, None]
            * S_total_qk
            * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
            * tl.sqrt(Y_sum_k)[None, :]
            * reciprocal(tl.sqrt(X_sum_q))[:, None]
            * Y_sum_inverse_k[None, :],
            tl.sqrt(X_sum_q)[:, None],
        )
        ratio_S_total3_seen_qk = ratio_S_total3_qk * exp_ratio_S_total2_seen_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            ratio_S_total3_seen_qk = tl.where(seen_qk, ratio_S_total3_seen_qk, 0.0)
        dX_sum_sum2_tile_q = tl.sum(ratio_S_total3_seen_qk, 1)
        dX_sum_sum2_q = dX_sum_sum2_q + dX_sum_sum2_tile_q
        # dscale_rows[q] = sum(k where seen) (S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
        #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * S_total[q,k] *
        #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * exp(scale * S_total[q,k] *
        #     Y_sum_inverse[k] / sqrt(X_sum[q]) - finite(P_log[q]))
        S_total_seen_qk = (
            (
                S_total_qk
                * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
                * dS_total_total_qk
                + dP_log_q[:, None]
                * S_total_qk
                * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
            )
            * exp_ratio_S_total2_seen_qk
        )
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_total_seen_qk = tl.where(seen_qk, S_total_seen_qk, 0.0)
        dscale_rows_tile_q = tl.sum(S_total_seen_qk, 1)
        dscale_rows_q = dscale_rows_q + dscale_rows_tile_q
        # dQ_sum[q,d] = sum(k where seen) (scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) *
        #     dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])))
        #     * K[k,d] * exp(scale * S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]) -
        #     finite(P_log[q]))
        dS_total_total_seen_qk = (
            (
                scale_
                * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
                * dS_total_total_qk
                + (dP_log_q * scale_)[:, None]
                * reciprocal(tl.sqrt(X_sum_q)[:, None] * tl.sqrt(Y_sum_k)[None, :])
            )
            * exp_ratio_S_total2_seen_qk
        )
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            dS_total_total_seen_qk = tl.where(seen_qk, dS_total_total_seen_qk, 0.0)
        dQ_sum_qd = tl.dot(
            dS_total_total_seen_qk.to(K_kd.dtype), K_kd, dQ_sum_qd, input_precision="ieee"
        )
    # dQ[q,d] = (-scale * 0.5 * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + (-scale *
    #     0.5 * dX_sum_sum[q] - scale * 0.5 * dX_sum_sum2[q]) * Q[q,d] + dQ_sum[q,d]
    dQ_qd = (
        (-(scale_ * 0.5 * dX_sum_sum_q) - scale_ * 0.5 * dX_sum_sum2_q)[:, None]
        * Q_qd.to(tl.float32)
        + (-(scale_ * 0.5 * dX_sum_sum_q) - scale_ * 0.5 * dX_sum_sum2_q)[:, None]
        * Q_qd.to(tl.float32)
        + dQ_sum_qd
    )
    tl.store(
        dQ_here + q0.to(tl.int64) * sdQ_q + q_in[:, None] * sdQ_q + d[None, :] * sdQ_d,
        dQ_qd.to(dQ.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )
    tl.store(
        dscale_rows_here + q0.to(tl.int64) * sdscale_rows_q + q_in * sdscale_rows_q,
        dscale_rows_q.to(dscale_rows.dtype.element_ty),
        mask=(q < NQ),
    )


@triton.jit(
    do_not_specialize=["sY_sum_b", "sY_sum_g", "sY_sum_k", "NK", "NQ", "NB", "NG", "NH_OF_G", "NH"]
)
def cosine_backward_dK_kernel(
    Q, K, V, P_log, dO, X_sum, dP_log, X_sum_inverse, scale, Y_sum, dK, dV,
    sY_sum_b, sY_sum_g, sY_sum_k,
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
    Y_sum_here = Y_sum + b.to(tl.int64) * sY_sum_b + g.to(tl.int64) * sY_sum_g
    Y_sum_here2 = Y_sum + b.to(tl.int64) * sY_sum_b
    dK_here = dK + b.to(tl.int64) * sdK_b + g.to(tl.int64) * sdK_g
    dV_here = dV + b.to(tl.int64) * sdV_b + g.to(tl.int64) * sdV_g
    # state of dY_sum_sum2[k] = sum(h_of_g, q where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
    #     sqrt(Y_sum[k])) * sqrt(X_sum[q]) * reciprocal(sqrt(Y_sum[k])) * dY_sum_total[k,q] *
    #     X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale * S_total[q,k] * X_sum_inverse[q] /
    #     sqrt(Y_sum[k]) - finite(P_log[q]))
    dY_sum_sum2_k = tl.full([BLOCK_K], 0.0, tl.float32)
    # state of dY_sum_sum3[k] = sum(h_of_g, q where seen) dP_log[q] * S_total[q,k] *
    #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) * reciprocal(sqrt(Y_sum[k]))
    #     * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale * S_total[q,k] * X_sum_inverse[q] /
    #     sqrt(Y_sum[k]) - finite(P_log[q]))
    dY_sum_sum3_k = tl.full([BLOCK_K], 0.0, tl.float32)
    # state of dK_sum_max[k] = max(h_of_g, q where seen) (scale * S_total[q,k] * X_sum_inverse[q] /
    #     sqrt(Y_sum[k]) - finite(P_log[q]))
    dK_sum_max_k = tl.full([BLOCK_K], float("-inf"), tl.float32)
    # state of dK_total[k,d] = sum(h_of_g, q where seen) (scale * reciprocal(sqrt(X_sum[q]) *
    #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale * reciprocal(sqrt(X_sum[q]) *
    #     sqrt(Y_sum[k]))) * Q[q,d] * exp(scale * S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) -
    #     finite(P_log[q]) - finite(dK_sum_max[k]))
    dK_total_kd = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    # state of dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(scale * S_total[q,k] *
    #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
    dV_ke = tl.full([BLOCK_K, BLOCK_E], 0.0, tl.float32)
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D])
    V_ke = V.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_E])
    Y_sum_k = tl.load(
        Y_sum_here + k0.to(tl.int64) * sY_sum_k + k_in * sY_sum_k, mask=(k < NK), other=0
    ).to(tl.float32)
    scale_ = tl.load(scale).to(tl.float32)
    for h_of_g in tl.range(0, NH_OF_G):
        h_of_g = tl.cast(h_of_g, tl.int32)
        Y_sum2_k = tl.load(
            Y_sum_here2
            + ((g * (NH // NG) + h_of_g) // (NH // NG)).to(tl.int64) * sY_sum_g
            + k0.to(tl.int64) * sY_sum_k
            + k_in * sY_sum_k,
            mask=((g * (NH // NG) + h_of_g) // (NH // NG) < NG) & (k < NK),
            other=0,
        ).to(tl.float32)
        q_begin = tl.maximum(0, NQ + k0 - NK)
        q_end = NQ
        q_lo = q_begin // BLOCK_Q
        q_hi = tl.where(q_begin < q_end, (BLOCK_Q + q_end - 1) // BLOCK_Q, q_lo)
        q_steps = q_hi - q_lo
        # live tiles; all are tested
        for step in tl.range(0, q_steps):
            q0 = (q_lo + step) * BLOCK_Q
            q = q0 + q_in
            # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
            Q_qd = Q.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
            S_total_kq = tl.dot(K_kd, tl.trans(Q_qd), input_precision="ieee")
            # dS_total_total[q,k] = sum(e) dO[q,e] * V[k,e]
            dO_qe = dO.load([b, g * (NH // NG) + h_of_g, q0, 0]).reshape([BLOCK_Q, BLOCK_E])
            dS_total_total_kq = tl.dot(V_ke, tl.trans(dO_qe), input_precision="ieee")
            # dY_sum_total[k,q] = sum(e) dO[q,e] * V[k,e]
            dY_sum_total_kq = tl.dot(V_ke, tl.trans(dO_qe), input_precision="ieee")
            # dY_sum_sum2[k] = sum(h_of_g, q where seen) S_total[q,k] * reciprocal(sqrt(X_sum[q]) *
            #     sqrt(Y_sum[k])) * sqrt(X_sum[q]) * reciprocal(sqrt(Y_sum[k])) * dY_sum_total[k,q]
            #     * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale * S_total[q,k] * X_sum_inverse[q]
            #     / sqrt(Y_sum[k]) - finite(P_log[q]))
            X_sum_q = X_sum.load([b, g * (NH // NG) + h_of_g, q0]).reshape([BLOCK_Q]).to(tl.float32)
            X_sum_inverse_q = X_sum_inverse.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            ratio_S_total_kq = divide(
                S_total_kq
                * reciprocal(tl.sqrt(X_sum_q)[None, :] * tl.sqrt(Y_sum_k)[:, None])
                * tl.sqrt(X_sum_q)[None, :]
                * reciprocal(tl.sqrt(Y_sum_k))[:, None]
                * dY_sum_total_kq
                * X_sum_inverse_q[None, :],
                tl.sqrt(Y_sum_k)[:, None],
            )
            ratio_S_total2_kq = divide(
                scale_ * S_total_kq * X_sum_inverse_q[None, :], tl.sqrt(Y_sum_k)[:, None]
            )
            P_log_q = P_log.load([b, g * (NH // NG) + h_of_g, q0]).reshape([BLOCK_Q]).to(tl.float32)
            exp_ratio_S_total2_kq = tl.exp2(
                ratio_S_total2_kq * 1.4426950408889634
                - (finite(P_log_q) * 1.4426950408889634)[None, :]
            )
            # seen: q < |q| and k <= q + (|k| - |q|)
            seen_kq = (q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :])
            ratio_S_total_seen_kq = tl.where(seen_kq, ratio_S_total_kq * exp_ratio_S_total2_kq, 0.0)
            dY_sum_sum2_tile_k = tl.sum(ratio_S_total_seen_kq, 1)
            dY_sum_sum2_k = dY_sum_sum2_k + dY_sum_sum2_tile_k
            # dY_sum_sum3[k] = sum(h_of_g, q where seen) dP_log[q] * S_total[q,k] *
            #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k])) * sqrt(X_sum[q]) *
            #     reciprocal(sqrt(Y_sum[k])) * X_sum_inverse[q] / sqrt(Y_sum[k]) * exp(scale *
            #     S_total[q,k] * X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
            dP_log_q = dP_log.load(
                [b, g * (NH // NG) + h_of_g, q0]
            ).reshape([BLOCK_Q]).to(tl.float32)
            ratio_S_total3_kq = divide(
                dP_log_q[None, :]
                * S_total_kq
                * reciprocal(tl.sqrt(X_sum_q)[None, :] * tl.sqrt(Y_sum_k)[:, None])
                * tl.sqrt(X_sum_q)[None, :]
                * reciprocal(tl.sqrt(Y_sum_k))[:, None]
                * X_sum_inverse_q[None, :],
                tl.sqrt(Y_sum_k)[:, None],
            )
            ratio_S_total3_seen_kq = tl.where(
                seen_kq, ratio_S_total3_kq * exp_ratio_S_total2_kq, 0.0
            )
            dY_sum_sum3_tile_k = tl.sum(ratio_S_total3_seen_kq, 1)
            dY_sum_sum3_k = dY_sum_sum3_k + dY_sum_sum3_tile_k
            # dK_sum_max[k] = max(h_of_g, q where seen) (scale * S_total[q,k] * X_sum_inverse[q] /
            #     sqrt(Y_sum[k]) - finite(P_log[q]))
            ratio_S_total4_kq = divide(
                scale_ * S_total_kq * X_sum_inverse_q[None, :], tl.sqrt(Y_sum2_k)[:, None]
            )
            exponent_kq = ratio_S_total4_kq - finite(P_log_q)[None, :]
            # seen: q < |q| and k <= q + (|k| - |q|) and (g * (|h| // |g|) + h_of_g) // (|h| // |g|)
            #     < |g|
            seen2_kq = (
                ((q < NQ)[None, :] & (k[:, None] <= (q + (NK - NQ))[None, :]))
                & ((g * (NH // NG) + h_of_g) // (NH // NG) < NG)
            )
            exponent_seen_kq = tl.where(seen2_kq, exponent_kq, float("-inf"))
            dK_sum_max_tile_k = tl.max(exponent_seen_kq, 1)
            dK_sum_max_old_k = dK_sum_max_k
            dK_sum_max_k = tl.maximum(dK_sum_max_old_k, dK_sum_max_tile_k)
            # dK_total[k,d] = sum(h_of_g, q where seen) (scale * reciprocal(sqrt(X_sum[q]) *
            #     sqrt(Y_sum[k])) * dS_total_total[q,k] + dP_log[q] * scale *
            #     reciprocal(sqrt(X_sum[q]) * sqrt(Y_sum[k]))) * Q[q,d] * exp(scale * S_total[q,k] *
            #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]) - finite(dK_sum_max[k]))
            alpha_k = tl.exp2(
                dK_sum_max_old_k * 1.4426950408889634 - finite(dK_sum_max_k) * 1.4426950408889634
            )
            exp_exponent_seen_kq = tl.exp2(
                exponent_seen_kq * 1.4426950408889634
                - (finite(dK_sum_max_k) * 1.4426950408889634)[:, None]
            )
            dS_total_total_seen_kq = tl.where(
                seen2_kq,
                (
                    scale_
                    * reciprocal(tl.sqrt(X_sum_q)[None, :] * tl.sqrt(Y_sum2_k)[:, None])
                    * dS_total_total_kq
                    + (dP_log_q * scale_)[None, :]
                    * reciprocal(tl.sqrt(X_sum_q)[None, :] * tl.sqrt(Y_sum2_k)[:, None])
                )
                * exp_exponent_seen_kq,
                0.0,
            )
            dK_total_kd = tl.dot(
                dS_total_total_seen_kq.to(Q_qd.dtype),
                Q_qd,
                dK_total_kd * alpha_k[:, None],
                input_precision="ieee",
            )
            # dV[k,e] = sum(h_of_g, q where seen) dO[q,e] * exp(scale * S_total[q,k] *
            #     X_sum_inverse[q] / sqrt(Y_sum[k]) - finite(P_log[q]))
            exp_ratio_S_total2_seen_kq = tl.where(seen_kq, exp_ratio_S_total2_kq, 0.0)
            dV_ke = tl.dot(
                exp_ratio_S_total2_seen_kq.to(dO_qe.dtype), dO_qe, dV_ke, input_precision="ieee"
            )
    # dK[k,d] = (-scale * 0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] + (-scale *
    #     0.5 * dY_sum_sum2[k] - scale * 0.5 * dY_sum_sum3[k]) * K[k,d] + dK_total[k,d] *
    #     exp(dK_sum_max[k])
    dK_kd = (
        (-(scale_ * 0.5 * dY_sum_sum2_k) - scale_ * 0.5 * dY_sum_sum3_k)[:, None]
        * K_kd.to(tl.float32)
        + (-(scale_ * 0.5 * dY_sum_sum2_k) - scale_ * 0.5 * dY_sum_sum3_k)[:, None]
        * K_kd.to(tl.float32)
        + dK_total_kd * tl.exp2(dK_sum_max_k * 1.4426950408889634)[:, None]
    )
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


def cosine_forward(Q, K, V, scale):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], scale[] -> O[b,h,q,e], P_log[b,h,q], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("scale", "", scale),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("scale", scale)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_cosine_Y_sum_inverse.get((D, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    Y_sum_inverse = Q.new_empty((NB, NG, -(-NK // 4) * 4), dtype=torch.float32)[..., :NK]
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            cosine_Y_sum_inverse_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                Y_sum_inverse,
                *Y_sum_inverse.stride(),
                NK, NB, NG,
                D,
                **tile,
            )
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
            cosine_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(Y_sum_inverse, [1, 1, tile["BLOCK_K"]]),
                scale, O, P_log,
                *O.stride(), *P_log.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    return O, P_log


def _cosine_backward_totals(dscale_rows):
    """Sums over rows, one after the other."""
    # dscale = sum(b, h, q) dscale_rows[b,h,q]
    dscale = dscale_rows.sum((0, 1, 2))
    return dscale



def cosine_backward(Q, K, V, scale, P_log, O, dO):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], scale[], P_log[b,h,q], O[b,h,q,e], dO[b,h,q,e] ->
        dQ[b,h,q,d], dK[b,g,k,d], dV[b,g,k,e], dscale[], on cuda:90.

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
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_cosine_backward_Y_sum.get((D, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    Y_sum = Q.new_empty((NB, NG, -(-NK // 4) * 4), dtype=torch.float32)[..., :NK]
    Y_sum_inverse = Q.new_empty((NB, NG, -(-NK // 4) * 4), dtype=torch.float32)[..., :NK]
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            cosine_backward_Y_sum_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                Y_sum, Y_sum_inverse,
                *Y_sum.stride(), *Y_sum_inverse.stride(),
                NK, NB, NG,
                D,
                **tile,
            )
    tile = TILES_cosine_backward_dQ.get((D, E, Q.element_size()))
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
    dscale_rows = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    X_sum = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    dP_log = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    X_sum_inverse = Q.new_empty((NB, NH, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            cosine_backward_dQ_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(O, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(Y_sum, [1, 1, tile["BLOCK_K"]]),
                describe(Y_sum_inverse, [1, 1, tile["BLOCK_K"]]),
                scale, P_log, dQ, dscale_rows, X_sum, dP_log, X_sum_inverse,
                *P_log.stride(),
                *dQ.stride(),
                *dscale_rows.stride(),
                *X_sum.stride(),
                *dP_log.stride(),
                *X_sum_inverse.stride(),
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
    tile = TILES_cosine_backward_dK.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(Y_sum.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    dK = Q.new_empty((NB, NG, NK, D))
    dV = Q.new_empty((NB, NG, NK, E))
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            cosine_backward_dK_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(P_log, [1, 1, tile["BLOCK_Q"]]),
                describe(dO, [1, 1, tile["BLOCK_Q"], tile["BLOCK_E"]]),
                describe(X_sum, [1, 1, tile["BLOCK_Q"]]),
                describe(dP_log, [1, 1, tile["BLOCK_Q"]]),
                describe(X_sum_inverse, [1, 1, tile["BLOCK_Q"]]),
                scale, Y_sum, dK, dV,
                *Y_sum.stride(), *dK.stride(), *dV.stride(),
                NK, NQ, NB, NG, NH_OF_G, NH,
                D, E,
                **tile,
            )
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
