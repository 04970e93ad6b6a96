"""Visual tokens as text: an image's tokens see those around them, all else is causal (arXiv 2410.06169).

The image is `height` by `width` tokens from position `first` on, in row-major order; windows are cut off at
its edges and see later tokens too. `keep` weighs the image in each head, its columns after the softmax and
its rows: 0 or 1 in the published tables.

(1) image[k] = first <= k and k < first + height * width
(2) rows[q,k] = abs((q - first) // width - (k - first) // width) <= (window - 1) // 2
(3) columns[q,k] = abs((q - first) % width - (k - first) % width) <= (window - 1) // 2
(4) seen[q,k] = if image[q] and image[k] then rows[q,k] and columns[q,k] else k <= q
(5) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(6) P[q,k] = softmax(k where seen[q,k]) S[q,k]
(7) A[q,e] = sum(k) (if image[k] then keep else 1) * P[q,k] * V[k,e]
(8) O[q,e] = if image[q] then keep * A[q,e] else A[q,e]

As it runs:

    seen: if q + (|k| - |q|) >= 0 and first <= q + (|k| - |q|) and q + (|k| - |q|) < first + height
        * width and first <= k and k < first + height * width then abs((q + (|k| - |q|) - first) //
        width - (k - first) // width) <= (window - 1) // 2 and abs((q + (|k| - |q|) - first) % width
        - (k - first) % width) <= (window - 1) // 2 else k <= q + (|k| - |q|)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    A_total[q,e] = sum(k where seen) (if first <= k and k < first + height * width then keep else 1)
        * V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = if q + (|k| - |q|) >= 0 and first <= q + (|k| - |q|) and q + (|k| - |q|) < first +
        height * width then keep * (A_total[q,e] / P_total[q]) else A_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over 3 ranges of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q], A_total[q,e].

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
        "BLOCK_Q": 128, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
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
def floor_divide(a, b):
    """a // b rounded down for b > 0; the hardware rounds towards 0."""
    return (a - ((a % b) + b) % b) // b


@triton.jit
def modulo(a, b):
    """a % b with the sign of b > 0; the hardware gives it the sign of a."""
    return ((a % b) + b) % b


@triton.jit(
    do_not_specialize=[
        "skeep_h", "first", "height", "width", "window", "NQ", "NK", "NB", "NH", "NG"
    ]
)
def yopo_kernel(
    Q, K, V, keep, O,
    skeep_h,
    sO_b, sO_h, sO_q, sO_e,
    first, height, width, window,
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
    keep_here = keep + h.to(tl.int64) * skeep_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(k where seen) S[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of A_total[q,e] = sum(k where seen) (if first <= k and k < first + height * width then
    #     keep else 1) * V[k,e] * exp(S[q,k] - finite(P_max[q]))
    A_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    keep_ = tl.load(keep_here).to(tl.float32)
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_begin0 = (
        tl.minimum(
            tl.maximum(
                tl.maximum(0, first),
                (floor_divide(NK + q0 - NQ - first, width) * width).to(tl.int64)
                + first
                + width
                - floor_divide(window + 1, 2).to(tl.int64) * width,
            ),
            NK,
        )
    ).to(tl.int32)
    k_end0 = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(
                    tl.minimum(
                        tl.minimum(
                            tl.minimum(NK, tl.where(last + (NK - NQ) >= 0, NK, 0)),
                            tl.where(first <= last + (NK - NQ), NK, 0),
                        ),
                        tl.where(q0 + (NK - NQ) < first + height.to(tl.int64) * width, NK, 0),
                    ),
                    height.to(tl.int64) * width + first,
                ),
                floor_divide(window + 1, 2).to(tl.int64) * width
                + floor_divide(NK + last - NQ - first, width) * width
                + first,
            ),
        )
    ).to(tl.int32)
    k_lo0 = k_begin0 // BLOCK_K
    k_hi0 = tl.where(k_begin0 < k_end0, (BLOCK_K + k_end0 - 1) // BLOCK_K, k_lo0)
    k_end1 = tl.maximum(
        0,
        tl.minimum(
            tl.max(
                tl.where(
                    q < NQ,
                    tl.maximum(
                        tl.where(
                            ((q + (NK - NQ) < 0) | (first > q + (NK - NQ)))
                            | (q + (NK - NQ) >= first + height.to(tl.int64) * width),
                            NK - 1,
                            -1,
                        ),
                        first - 1,
                    ),
                    -2147483648,
                ),
                0,
            )
            + 1,
            NK + last - NQ + 1,
        ),
    )
    k_hi1 = (BLOCK_K + k_end1 - 1) // BLOCK_K
    k_inner_end1 = tl.maximum(
        0,
        tl.minimum(
            tl.min(
                tl.where(
                    q < NQ,
                    tl.maximum(
                        tl.where(
                            ((q + (NK - NQ) < 0) | (first > q + (NK - NQ)))
                            | (q + (NK - NQ) >= first + height.to(tl.int64) * width),
                            NK - 1,
                            -1,
                        ),
                        first - 1,
                    ),
                    2147483647,
                ),
                0,
            )
            + 1,
            NK + q0 - NQ + 1,
        ),
    )
    k_full_hi1 = k_inner_end1 // BLOCK_K
    k_begin2 = (tl.minimum(tl.maximum(0, height.to(tl.int64) * width + first), NK)).to(tl.int32)
    k_end2 = tl.maximum(0, NK + last - NQ + 1)
    k_lo2 = k_begin2 // BLOCK_K
    k_hi2 = tl.where(k_begin2 < k_end2, (BLOCK_K + k_end2 - 1) // BLOCK_K, k_lo2)
    k_inner_end2 = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_lo2 = tl.minimum((BLOCK_K + k_begin2 - 1) // BLOCK_K, k_hi2)
    k_full_hi2 = tl.maximum(k_full_lo2, k_inner_end2 // BLOCK_K)
    k_swap00 = 0 < k_lo0
    k_left_lo00 = tl.where(k_swap00, 0, k_lo0)
    k_left_hi00 = tl.where(k_swap00, k_hi1, k_hi0)
    k_left_full_hi00 = tl.where(k_swap00, k_full_hi1, k_lo0)
    k_right_lo00 = tl.where(k_swap00, k_lo0, 0)
    k_right_hi00 = tl.where(k_swap00, k_hi0, k_hi1)
    k_right_full_hi00 = tl.where(k_swap00, k_lo0, k_full_hi1)
    k_swap01 = k_lo2 < k_right_lo00
    k_left_lo01 = tl.where(k_swap01, k_lo2, k_right_lo00)
    k_left_hi01 = tl.where(k_swap01, k_hi2, k_right_hi00)
    k_left_full_lo01 = tl.where(k_swap01, k_full_lo2, k_right_lo00)
    k_left_full_hi01 = tl.where(k_swap01, k_full_hi2, k_right_full_hi00)
    k_right_lo01 = tl.where(k_swap01, k_right_lo00, k_lo2)
    k_right_hi01 = tl.where(k_swap01, k_right_hi00, k_hi2)
    k_right_full_lo01 = tl.where(k_swap01, k_right_lo00, k_full_lo2)
    k_right_full_hi01 = tl.where(k_swap01, k_right_full_hi00, k_full_hi2)
    k_swap10 = k_left_lo01 < k_left_lo00
    k_left_lo10 = tl.where(k_swap10, k_left_lo01, k_left_lo00)
    k_left_hi10 = tl.where(k_swap10, k_left_hi01, k_left_hi00)
    k_left_full_lo10 = tl.where(k_swap10, k_left_full_lo01, k_left_lo00)
    k_left_full_hi10 = tl.where(k_swap10, k_left_full_hi01, k_left_full_hi00)
    k_right_lo10 = tl.where(k_swap10, k_left_lo00, k_left_lo01)
    k_right_hi10 = tl.where(k_swap10, k_left_hi00, k_left_hi01)
    k_right_full_lo10 = tl.where(k_swap10, k_left_lo00, k_left_full_lo01)
    k_right_full_hi10 = tl.where(k_swap10, k_left_full_hi00, k_left_full_hi01)
    k_stop0 = tl.maximum(
        tl.where(
            k_left_hi10 <= k_right_hi10,
            tl.minimum(k_left_hi10, tl.maximum(k_right_lo10, k_left_full_hi10)),
            k_left_hi10,
        ),
        k_left_lo10,
    )
    k_full_start0 = tl.minimum(tl.maximum(k_left_full_lo10, k_left_lo10), k_stop0)
    k_full_stop0 = tl.minimum(tl.maximum(k_left_full_hi10, k_full_start0), k_stop0)
    k_start1 = tl.maximum(k_right_lo10, k_stop0)
    k_stop1 = tl.maximum(
        tl.where(
            k_right_hi10 <= k_right_hi01,
            tl.minimum(k_right_hi10, tl.maximum(k_right_lo01, k_right_full_hi10)),
            k_right_hi10,
        ),
        k_start1,
    )
    k_full_start1 = tl.minimum(tl.maximum(k_right_full_lo10, k_start1), k_stop1)
    k_full_stop1 = tl.minimum(tl.maximum(k_right_full_hi10, k_full_start1), k_stop1)
    k_start2 = tl.maximum(k_right_lo01, k_stop1)
    k_stop2 = tl.maximum(k_right_hi01, k_start2)
    k_full_start2 = tl.minimum(tl.maximum(k_right_full_lo01, k_start2), k_stop2)
    k_full_stop2 = tl.minimum(tl.maximum(k_right_full_hi01, k_full_start2), k_stop2)
    k_steps0 = k_stop0 - k_left_lo10
    k_steps1 = k_steps0 + k_stop1 - k_start1
    k_steps2 = k_steps1 + k_stop2 - k_start2
    k_whole0 = k_full_start0 - k_left_lo10
    k_edge0 = k_full_stop0 - k_left_lo10
    k_whole1 = k_steps0 + k_full_start1 - k_start1
    k_edge1 = k_steps0 + k_full_stop1 - k_start1
    k_whole2 = k_steps1 + k_full_start2 - k_start2
    k_edge2 = k_steps1 + k_full_stop2 - k_start2
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps2):
        k0 = (
            tl.where(
                step < k_steps0,
                k_left_lo10 + step,
                tl.where(step < k_steps1, k_start1 + step - k_steps0, k_start2 + step - k_steps1),
            )
            * BLOCK_K
        )
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if (step < k_whole0) | (
            (step >= k_edge0) & (step < k_whole1)
        ) | ((step >= k_edge1) & (step < k_whole2)) | (step >= k_edge2):
            # seen: k < |k| and (if q + (|k| - |q|) >= 0 and first <= q + (|k| - |q|) and q + (|k| -
            #     |q|) < first + height * width and first <= k and k < first + height * width then
            #     abs((q + (|k| - |q|) - first) // width - (k - first) // width) <= (window - 1) //
            #     2 and abs((q + (|k| - |q|) - first) % width - (k - first) % width) <= (window - 1)
            #     // 2 else k <= q + (|k| - |q|))
            seen_qk = (
                (k < NK)[None, :]
                & tl.where(
                    (
                        (
                            ((q + (NK - NQ) >= 0) & (first <= q + (NK - NQ)))
                            & (q + (NK - NQ) < first + height.to(tl.int64) * width)
                        )[:, None]
                        & (first <= k)[None, :]
                    )
                    & (k < first + height.to(tl.int64) * width)[None, :],
                    (
                        tl.abs(
                            floor_divide(q + (NK - NQ) - first, width)[:, None]
                            - floor_divide(k - first, width)[None, :]
                        )
                        <= floor_divide(window - 1, 2)
                    )
                    & (
                        tl.abs(
                            modulo(q + (NK - NQ) - first, width)[:, None]
                            - modulo(k - first, width)[None, :]
                        )
                        <= floor_divide(window - 1, 2)
                    ),
                    k[None, :] <= (q + (NK - NQ))[:, None],
                )
            )
            S_seen_qk = tl.where(seen_qk, S_seen_qk, float("-inf"))
        P_max_tile_q = tl.max(S_seen_qk, 1)
        P_max_old_q = P_max_q
        P_max_q = tl.maximum(P_max_old_q, P_max_tile_q * (1 / D ** 0.5))
        # P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
        alpha_q = tl.exp2(P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634)
        exp_S_seen_qk = tl.exp2(
            S_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_tile_q = tl.sum(exp_S_seen_qk, 1)
        P_total_q = P_total_q * alpha_q + P_total_tile_q
        # A_total[q,e] = sum(k where seen) (if first <= k and k < first + height * width then keep
        #     else 1) * V[k,e] * exp(S[q,k] - finite(P_max[q]))
        exp_S_seen_seen_qk = (
            tl.where((first <= k) & (k < first + height.to(tl.int64) * width), keep_, 1)[None, :]
            * exp_S_seen_qk
        )
        if (step < k_whole0) | (
            (step >= k_edge0) & (step < k_whole1)
        ) | ((step >= k_edge1) & (step < k_whole2)) | (step >= k_edge2):
            # seen: k < |k| and (if q + (|k| - |q|) >= 0 and first <= q + (|k| - |q|) and q + (|k| -
            #     |q|) < first + height * width and first <= k and k < first + height * width then
            #     abs((q + (|k| - |q|) - first) // width - (k - first) // width) <= (window - 1) //
            #     2 and abs((q + (|k| - |q|) - first) % width - (k - first) % width) <= (window - 1)
            #     // 2 else k <= q + (|k| - |q|))
            seen_qk = (
                (k < NK)[None, :]
                & tl.where(
                    (
                        (
                            ((q + (NK - NQ) >= 0) & (first <= q + (NK - NQ)))
                            & (q + (NK - NQ) < first + height.to(tl.int64) * width)
                        )[:, None]
                        & (first <= k)[None, :]
                    )
                    & (k < first + height.to(tl.int64) * width)[None, :],
                    (
                        tl.abs(
                            floor_divide(q + (NK - NQ) - first, width)[:, None]
                            - floor_divide(k - first, width)[None, :]
                        )
                        <= floor_divide(window - 1, 2)
                    )
                    & (
                        tl.abs(
                            modulo(q + (NK - NQ) - first, width)[:, None]
                            - modulo(k - first, width)[None, :]
                        )
                        <= floor_divide(window - 1, 2)
                    ),
                    k[None, :] <= (q + (NK - NQ))[:, None],
                )
            )
            exp_S_seen_seen_qk = tl.where(seen_qk, exp_S_seen_seen_qk, 0.0)
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        A_total_qe = tl.dot(
            exp_S_seen_seen_qk.to(V_ke.dtype),
            V_ke,
            A_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = if q + (|k| - |q|) >= 0 and first <= q + (|k| - |q|) and q + (|k| - |q|) < first +
    #     height * width then keep * (A_total[q,e] / P_total[q]) else A_total[q,e] / P_total[q]
    ratio_A_total_qe = divide(A_total_qe, P_total_q[:, None])
    O_qe = tl.where(
        (
            ((q + (NK - NQ) >= 0) & (first <= q + (NK - NQ)))
            & (q + (NK - NQ) < first + height.to(tl.int64) * width)
        )[:, None],
        keep_ * ratio_A_total_qe,
        ratio_A_total_qe,
    )
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def yopo(Q, K, V, keep, first, height=24, width=24, window=7):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], keep[h] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("keep", "h", keep),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("keep", keep)], [], [], KINDS)
    check_number("first", first, int)
    check_number("height", height, int)
    check_number("width", width, int)
    check_number("window", window, int)
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
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
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            yopo_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                keep, O,
                *keep.stride(), *O.stride(),
                first, height, width, window,
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
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


def reference(Q, K, V, keep, first, height=24, width=24, window=7):
    """`yopo`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # image[k] = first <= k and k < first + height * width
    image = (first <= k) & (k < first + height * width)
    # rows[q,k] = abs((q + (|k| - |q|) - first) // width - (k - first) // width) <= (window - 1) //
    #     2
    rows = torch.abs(((q + (NK - NQ) - first) // width)[:, None] - (k - first) // width) <= (window - 1) // 2
    # columns[q,k] = abs((q + (|k| - |q|) - first) % width - (k - first) % width) <= (window - 1) //
    #     2
    columns = torch.abs(((q + (NK - NQ) - first) % width)[:, None] - (k - first) % width) <= (window - 1) // 2
    # seen[q,k] = if image[q + (|k| - |q|)] and image[k] then rows[q,k] and columns[q,k] else k <= q
    #     + (|k| - |q|)
    at_q = q + (NK - NQ)
    where_qk = ((at_q >= 0) & _take(image, {0: at_q}))[:, None] & image
    seen = torch.where(where_qk, rows & columns, k <= at_q[:, None])
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if seen[q,k] then exp(S[b,h,q,k] - max(k where seen[q,k]) S[b,h,q,k]) / sum(k
    #     where seen[q,k]) exp(S[b,h,q,k] - max(k where seen[q,k]) S[b,h,q,k]) else 0
    max_P_q = _amax(torch.where(seen, S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(seen, S - max_P_q[..., None], -math.inf))
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # A[b,h,q,e] = sum(k) (if image[k] then keep[h] else 1) * P[b,h,q,k] * V[b, h // (|h| // |g|),
    #     k, e]
    A = _einsum("hk,bhqk,bhke->bhqe", torch.where(image, keep[:, None], 1), P, V[:, h // (NH // NG)])
    # O[b,h,q,e] = if image[q + (|k| - |q|)] then keep[h] * A[b,h,q,e] else A[b,h,q,e]
    O = torch.where(((at_q >= 0) & _take(image, {0: at_q}))[:, None], keep[:, None, None] * A, A)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "keep": torch.rand(4, device=device, dtype=torch.float32) / 8,
        "first": 16,
        "height": 6,
        "width": 6,
        "window": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = yopo(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
