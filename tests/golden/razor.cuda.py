"""RazorAttention: what most heads drop becomes one key, the mean, biased by log count (arXiv 2407.15891).

`retrieval` heads keep every key, the others the first and the last. The mean is taken of rotated keys. No
code of the authors is published; here, the last are counted among all keys, as in a cache that holds a whole
prompt.

(1) kept[q,k] = retrieval or k < sinks or q - k < max(recent, |k| // part)
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) N[q] = count(k where k <= q) (not kept[q,k])
(4) R[q] = mean(k where k <= q and not kept[q,k]) S[q,k]
(5) W[q,e] = mean(k where k <= q and not kept[q,k]) V[k,e]
(6) far[q] = N[q] * exp(R[q])
(7) own[q,k] = if k <= q and kept[q,k] then exp(S[q,k]) else 0
(8) O[q,e] = (far[q] * W[q,e] + sum(k) own[q,k] * V[k,e]) / (far[q] + sum(k) own[q,k])

As it runs:

    seen1: k <= q + (|k| - |q|) and not retrieval and k >= sinks and q + (|k| - |q|) - k >=
        max(recent, |k| // part)
    seen2: k <= q + (|k| - |q|) and (retrieval or k < sinks or q + (|k| - |q|) - k < max(recent, |k|
        // part))
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    N[q] = sum(k where seen1) 1
    R_sum[q] = sum(k where seen1) S[q,k]
    W_sum[q,e] = sum(k where seen1) V[k,e]
    S_max[q] = max(k where seen2) S[q,k]
    O_total[q,e] = sum(k where seen2) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O_sum2_total[q] = sum(k where seen2) exp(S[q,k] - finite(S_max[q]))
    O[q,e] = (N[q] * (W_sum[q,e] / N[q]) * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q],
        S_max[q]))) + O_total[q,e] * exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q])))) / (N[q]
        * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q], S_max[q]))) + O_sum2_total[q] *
        exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q]))))

One pass over k for every tile of rows q,
over 4 ranges of tiles that its predicate leaves live.
State of a row: N[q], R_sum[q], S_max[q], O_sum2_total[q], W_sum[q,e], O_total[q,e].

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

# an order pays for programs between these numbers, with rows of so many tiles
AT_ONCE, MANY, LONG = 512, 2048, 128

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


@triton.jit(do_not_specialize=["count"])
def _order_kernel(work, order, count):
    """Puts a program behind all that have more work, and behind those before it that have as much."""
    pid = tl.program_id(0)
    own, before = tl.load(work + pid), 0
    for first in tl.range(0, count, 1024):
        n = first + tl.arange(0, 1024)
        other = tl.load(work + n, mask=n < count, other=-1)
        before += tl.sum(((other > own) | ((other == own) & (n < pid))).to(tl.int32))
    tl.store(order + before, pid)


@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["sretrieval_h", "sinks", "recent", "part", "NQ", "NK", "NH"])
def razor_work_kernel(
    retrieval, q_work,
    sretrieval_h,
    sinks, recent, part,
    NQ, NK, NH,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = pid // tiles
    retrieval_here = retrieval + h.to(tl.int64) * sretrieval_h
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    retrieval_at0 = tl.load(retrieval_here) != 0
    k_begin0 = tl.maximum(0, sinks)
    k_end0 = (
        tl.maximum(
            0,
            tl.minimum(
                NK + last - NQ + 1,
                (NK + last - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1,
            ),
        )
    ).to(tl.int32)
    k_lo0 = k_begin0 // BLOCK_K
    k_hi0 = tl.where(
        ~(retrieval_at0) & (k_begin0 < k_end0), (BLOCK_K + k_end0 - 1) // BLOCK_K, k_lo0
    )
    k_inner_end0 = (
        tl.maximum(
            0,
            tl.minimum(
                NK + q0 - NQ + 1, (NK + q0 - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1
            ),
        )
    ).to(tl.int32)
    k_full_lo0 = tl.minimum((BLOCK_K + k_begin0 - 1) // BLOCK_K, k_hi0)
    k_full_hi0 = tl.maximum(k_full_lo0, tl.minimum(k_inner_end0 // BLOCK_K, k_hi0))
    k_end1 = tl.maximum(0, NK + last - NQ + 1)
    k_hi1 = tl.where(retrieval_at0, (BLOCK_K + k_end1 - 1) // BLOCK_K, 0)
    k_inner_end1 = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi1 = tl.minimum(k_inner_end1 // BLOCK_K, k_hi1)
    k_end2 = tl.maximum(0, tl.minimum(NK + last - NQ + 1, sinks))
    k_hi2 = (BLOCK_K + k_end2 - 1) // BLOCK_K
    k_inner_end2 = tl.maximum(0, tl.minimum(NK + q0 - NQ + 1, sinks))
    k_full_hi2 = k_inner_end2 // BLOCK_K
    k_begin3 = (
        tl.maximum(0, (NK + q0 - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1)
    ).to(tl.int32)
    k_lo3 = k_begin3 // BLOCK_K
    k_hi3 = tl.where(k_begin3 < k_end1, (BLOCK_K + k_end1 - 1) // BLOCK_K, k_lo3)
    k_inner_begin3 = (
        tl.maximum(0, (NK + last - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1)
    ).to(tl.int32)
    k_full_lo3 = tl.minimum((BLOCK_K + k_inner_begin3 - 1) // BLOCK_K, k_hi3)
    k_full_hi3 = tl.maximum(k_full_lo3, k_inner_end1 // BLOCK_K)
    k_swap00 = 0 < k_lo0
    k_left_lo00 = tl.where(k_swap00, 0, k_lo0)
    k_left_hi00 = tl.where(k_swap00, k_hi1, k_hi0)
    k_left_full_hi00 = tl.where(k_swap00, k_full_hi1, k_full_hi0)
    k_right_lo00 = tl.where(k_swap00, k_lo0, 0)
    k_right_hi00 = tl.where(k_swap00, k_hi0, k_hi1)
    k_right_full_hi00 = tl.where(k_swap00, k_full_hi0, k_full_hi1)
    k_swap01 = 0 < k_right_lo00
    k_left_lo01 = tl.where(k_swap01, 0, k_right_lo00)
    k_left_hi01 = tl.where(k_swap01, k_hi2, k_right_hi00)
    k_left_full_hi01 = tl.where(k_swap01, k_full_hi2, k_right_full_hi00)
    k_right_lo01 = tl.where(k_swap01, k_right_lo00, 0)
    k_right_hi01 = tl.where(k_swap01, k_right_hi00, k_hi2)
    k_right_full_hi01 = tl.where(k_swap01, k_right_full_hi00, k_full_hi2)
    k_swap02 = k_lo3 < k_right_lo01
    k_left_lo02 = tl.where(k_swap02, k_lo3, k_right_lo01)
    k_left_hi02 = tl.where(k_swap02, k_hi3, k_right_hi01)
    k_left_full_hi02 = tl.where(k_swap02, k_full_hi3, k_right_full_hi01)
    k_right_lo02 = tl.where(k_swap02, k_right_lo01, k_lo3)
    k_right_hi02 = tl.where(k_swap02, k_right_hi01, k_hi3)
    k_swap10 = k_left_lo01 < k_left_lo00
    k_left_lo10 = tl.where(k_swap10, k_left_lo01, k_left_lo00)
    k_left_hi10 = tl.where(k_swap10, k_left_hi01, k_left_hi00)
    k_left_full_hi10 = tl.where(k_swap10, k_left_full_hi01, k_left_full_hi00)
    k_right_lo10 = tl.where(k_swap10, k_left_lo00, k_left_lo01)
    k_right_hi10 = tl.where(k_swap10, k_left_hi00, k_left_hi01)
    k_right_full_hi10 = tl.where(k_swap10, k_left_full_hi00, k_left_full_hi01)
    k_swap11 = k_left_lo02 < k_right_lo10
    k_left_lo11 = tl.where(k_swap11, k_left_lo02, k_right_lo10)
    k_left_hi11 = tl.where(k_swap11, k_left_hi02, k_right_hi10)
    k_left_full_hi11 = tl.where(k_swap11, k_left_full_hi02, k_right_full_hi10)
    k_right_lo11 = tl.where(k_swap11, k_right_lo10, k_left_lo02)
    k_right_hi11 = tl.where(k_swap11, k_right_hi10, k_left_hi02)
    k_right_full_hi11 = tl.where(k_swap11, k_right_full_hi10, k_left_full_hi02)
    k_swap20 = k_left_lo11 < k_left_lo10
    k_left_lo20 = tl.where(k_swap20, k_left_lo11, k_left_lo10)
    k_left_hi20 = tl.where(k_swap20, k_left_hi11, k_left_hi10)
    k_left_full_hi20 = tl.where(k_swap20, k_left_full_hi11, k_left_full_hi10)
    k_right_lo20 = tl.where(k_swap20, k_left_lo10, k_left_lo11)
    k_right_hi20 = tl.where(k_swap20, k_left_hi10, k_left_hi11)
    k_right_full_hi20 = tl.where(k_swap20, k_left_full_hi10, k_left_full_hi11)
    k_stop0 = tl.maximum(
        tl.where(
            k_left_hi20 <= k_right_hi20,
            tl.minimum(k_left_hi20, tl.maximum(k_right_lo20, k_left_full_hi20)),
            k_left_hi20,
        ),
        k_left_lo20,
    )
    k_start1 = tl.maximum(k_right_lo20, k_stop0)
    k_stop1 = tl.maximum(
        tl.where(
            k_right_hi20 <= k_right_hi11,
            tl.minimum(k_right_hi20, tl.maximum(k_right_lo11, k_right_full_hi20)),
            k_right_hi20,
        ),
        k_start1,
    )
    k_start2 = tl.maximum(k_right_lo11, k_stop1)
    k_stop2 = tl.maximum(
        tl.where(
            k_right_hi11 <= k_right_hi02,
            tl.minimum(k_right_hi11, tl.maximum(k_right_lo02, k_right_full_hi11)),
            k_right_hi11,
        ),
        k_start2,
    )
    k_start3 = tl.maximum(k_right_lo02, k_stop2)
    k_stop3 = tl.maximum(k_right_hi02, k_start3)
    k_steps0 = k_stop0 - k_left_lo20
    k_steps1 = k_steps0 + k_stop1 - k_start1
    k_steps2 = k_steps1 + k_stop2 - k_start2
    k_steps3 = k_steps2 + k_stop3 - k_start3
    visited = k_steps3
    tl.store(q_work + pid, visited)


@triton.jit(
    do_not_specialize=[
        "sretrieval_h", "sinks", "recent", "part", "NQ", "NK", "NB", "NH", "NG", "ordered", "beside"
    ]
)
def razor_kernel(
    Q, K, V, retrieval, O,
    sretrieval_h,
    sO_b, sO_h, sO_q, sO_e,
    sinks, recent, part,
    NQ, NK, NB, NH, NG,
    order, ordered, beside,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; most work comes first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    programs = tiles * NH
    first = pid // (programs * beside) * beside
    many = tl.minimum(beside, NB - first)
    here = pid - first * programs
    place = first + here % many
    b = place
    pid = here // many
    pid = tl.load(order + pid, mask=pid < ordered, other=pid).to(tl.int32)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = pid // tiles
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    retrieval_here = retrieval + h.to(tl.int64) * sretrieval_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of N[q] = sum(k where seen) 1
    N_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of R_sum[q] = sum(k where seen) S[q,k]
    R_sum_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of S_max[q] = max(k where seen) S[q,k]
    S_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
    O_sum2_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of W_sum[q,e] = sum(k where seen) V[k,e]
    W_sum_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    retrieval_ = tl.load(retrieval_here) != 0
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    retrieval_at0 = tl.load(retrieval_here) != 0
    k_begin0 = tl.maximum(0, sinks)
    k_end0 = (
        tl.maximum(
            0,
            tl.minimum(
                NK + last - NQ + 1,
                (NK + last - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1,
            ),
        )
    ).to(tl.int32)
    k_lo0 = k_begin0 // BLOCK_K
    k_hi0 = tl.where(
        ~(retrieval_at0) & (k_begin0 < k_end0), (BLOCK_K + k_end0 - 1) // BLOCK_K, k_lo0
    )
    k_inner_end0 = (
        tl.maximum(
            0,
            tl.minimum(
                NK + q0 - NQ + 1, (NK + q0 - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1
            ),
        )
    ).to(tl.int32)
    k_full_lo0 = tl.minimum((BLOCK_K + k_begin0 - 1) // BLOCK_K, k_hi0)
    k_full_hi0 = tl.maximum(k_full_lo0, tl.minimum(k_inner_end0 // BLOCK_K, k_hi0))
    k_end1 = tl.maximum(0, NK + last - NQ + 1)
    k_hi1 = tl.where(retrieval_at0, (BLOCK_K + k_end1 - 1) // BLOCK_K, 0)
    k_inner_end1 = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi1 = tl.minimum(k_inner_end1 // BLOCK_K, k_hi1)
    k_end2 = tl.maximum(0, tl.minimum(NK + last - NQ + 1, sinks))
    k_hi2 = (BLOCK_K + k_end2 - 1) // BLOCK_K
    k_inner_end2 = tl.maximum(0, tl.minimum(NK + q0 - NQ + 1, sinks))
    k_full_hi2 = k_inner_end2 // BLOCK_K
    k_begin3 = (
        tl.maximum(0, (NK + q0 - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1)
    ).to(tl.int32)
    k_lo3 = k_begin3 // BLOCK_K
    k_hi3 = tl.where(k_begin3 < k_end1, (BLOCK_K + k_end1 - 1) // BLOCK_K, k_lo3)
    k_inner_begin3 = (
        tl.maximum(0, (NK + last - NQ).to(tl.int64) - tl.maximum(recent, NK // part) + 1)
    ).to(tl.int32)
    k_full_lo3 = tl.minimum((BLOCK_K + k_inner_begin3 - 1) // BLOCK_K, k_hi3)
    k_full_hi3 = tl.maximum(k_full_lo3, k_inner_end1 // BLOCK_K)
    k_swap00 = 0 < k_lo0
    k_left_lo00 = tl.where(k_swap00, 0, k_lo0)
    k_left_hi00 = tl.where(k_swap00, k_hi1, k_hi0)
    k_left_full_hi00 = tl.where(k_swap00, k_full_hi1, k_full_hi0)
    k_right_lo00 = tl.where(k_swap00, k_lo0, 0)
    k_right_hi00 = tl.where(k_swap00, k_hi0, k_hi1)
    k_right_full_hi00 = tl.where(k_swap00, k_full_hi0, k_full_hi1)
    k_swap01 = 0 < k_right_lo00
    k_left_lo01 = tl.where(k_swap01, 0, k_right_lo00)
    k_left_hi01 = tl.where(k_swap01, k_hi2, k_right_hi00)
    k_left_full_hi01 = tl.where(k_swap01, k_full_hi2, k_right_full_hi00)
    k_right_lo01 = tl.where(k_swap01, k_right_lo00, 0)
    k_right_hi01 = tl.where(k_swap01, k_right_hi00, k_hi2)
    k_right_full_hi01 = tl.where(k_swap01, k_right_full_hi00, k_full_hi2)
    k_swap02 = k_lo3 < k_right_lo01
    k_left_lo02 = tl.where(k_swap02, k_lo3, k_right_lo01)
    k_left_hi02 = tl.where(k_swap02, k_hi3, k_right_hi01)
    k_left_full_hi02 = tl.where(k_swap02, k_full_hi3, k_right_full_hi01)
    k_right_lo02 = tl.where(k_swap02, k_right_lo01, k_lo3)
    k_right_hi02 = tl.where(k_swap02, k_right_hi01, k_hi3)
    k_swap10 = k_left_lo01 < k_left_lo00
    k_left_lo10 = tl.where(k_swap10, k_left_lo01, k_left_lo00)
    k_left_hi10 = tl.where(k_swap10, k_left_hi01, k_left_hi00)
    k_left_full_hi10 = tl.where(k_swap10, k_left_full_hi01, k_left_full_hi00)
    k_right_lo10 = tl.where(k_swap10, k_left_lo00, k_left_lo01)
    k_right_hi10 = tl.where(k_swap10, k_left_hi00, k_left_hi01)
    k_right_full_hi10 = tl.where(k_swap10, k_left_full_hi00, k_left_full_hi01)
    k_swap11 = k_left_lo02 < k_right_lo10
    k_left_lo11 = tl.where(k_swap11, k_left_lo02, k_right_lo10)
    k_left_hi11 = tl.where(k_swap11, k_left_hi02, k_right_hi10)
    k_left_full_hi11 = tl.where(k_swap11, k_left_full_hi02, k_right_full_hi10)
    k_right_lo11 = tl.where(k_swap11, k_right_lo10, k_left_lo02)
    k_right_hi11 = tl.where(k_swap11, k_right_hi10, k_left_hi02)
    k_right_full_hi11 = tl.where(k_swap11, k_right_full_hi10, k_left_full_hi02)
    k_swap20 = k_left_lo11 < k_left_lo10
    k_left_lo20 = tl.where(k_swap20, k_left_lo11, k_left_lo10)
    k_left_hi20 = tl.where(k_swap20, k_left_hi11, k_left_hi10)
    k_left_full_hi20 = tl.where(k_swap20, k_left_full_hi11, k_left_full_hi10)
    k_right_lo20 = tl.where(k_swap20, k_left_lo10, k_left_lo11)
    k_right_hi20 = tl.where(k_swap20, k_left_hi10, k_left_hi11)
    k_right_full_hi20 = tl.where(k_swap20, k_left_full_hi10, k_left_full_hi11)
    k_stop0 = tl.maximum(
        tl.where(
            k_left_hi20 <= k_right_hi20,
            tl.minimum(k_left_hi20, tl.maximum(k_right_lo20, k_left_full_hi20)),
            k_left_hi20,
        ),
        k_left_lo20,
    )
    k_start1 = tl.maximum(k_right_lo20, k_stop0)
    k_stop1 = tl.maximum(
        tl.where(
            k_right_hi20 <= k_right_hi11,
            tl.minimum(k_right_hi20, tl.maximum(k_right_lo11, k_right_full_hi20)),
            k_right_hi20,
        ),
        k_start1,
    )
    k_start2 = tl.maximum(k_right_lo11, k_stop1)
    k_stop2 = tl.maximum(
        tl.where(
            k_right_hi11 <= k_right_hi02,
            tl.minimum(k_right_hi11, tl.maximum(k_right_lo02, k_right_full_hi11)),
            k_right_hi11,
        ),
        k_start2,
    )
    k_start3 = tl.maximum(k_right_lo02, k_stop2)
    k_stop3 = tl.maximum(k_right_hi02, k_start3)
    k_steps0 = k_stop0 - k_left_lo20
    k_steps1 = k_steps0 + k_stop1 - k_start1
    k_steps2 = k_steps1 + k_stop2 - k_start2
    k_steps3 = k_steps2 + k_stop3 - k_start3
    # live tiles; all are tested
    for step in tl.range(0, k_steps3):
        k0 = (
            tl.where(
                step < k_steps0,
                k_left_lo20 + step,
                tl.where(
                    step < k_steps1,
                    k_start1 + step - k_steps0,
                    tl.where(
                        step < k_steps2, k_start2 + step - k_steps1, k_start3 + step - k_steps2
                    ),
                ),
            )
            * BLOCK_K
        )
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # N[q] = sum(k where seen) 1
        # seen: k < |k| and k <= q + (|k| - |q|) and not retrieval and k >= sinks and q + (|k| -
        #     |q|) - k >= max(recent, |k| // part)
        seen_qk = (
            (
                (((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])) & ~(retrieval_))
                & (k >= sinks)[None, :]
            )
            & ((q + (NK - NQ))[:, None] - k[None, :] >= tl.maximum(recent, NK // part))
        )
        tile_seen_qk = tl.where(seen_qk, 1, 0.0)
        N_tile_q = tl.sum(tile_seen_qk, 1)
        N_q = N_q + N_tile_q
        # R_sum[q] = sum(k where seen) S[q,k]
        S_seen_qk = tl.where(seen_qk, S_qk, 0.0)
        R_sum_tile_q = tl.sum(S_seen_qk, 1)
        R_sum_q = R_sum_q + R_sum_tile_q * (1 / D ** 0.5)
        # S_max[q] = max(k where seen) S[q,k]
        # seen: k < |k| and k <= q + (|k| - |q|) and (retrieval or k < sinks or q + (|k| - |q|) - k
        #     < max(recent, |k| // part))
        seen2_qk = (
            ((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None]))
            & (
                (retrieval_ | (k < sinks))[None, :]
                | ((q + (NK - NQ))[:, None] - k[None, :] < tl.maximum(recent, NK // part))
            )
        )
        S_seen2_qk = tl.where(seen2_qk, S_qk, float("-inf"))
        S_max_tile_q = tl.max(S_seen2_qk, 1)
        S_max_old_q = S_max_q
        S_max_q = tl.maximum(S_max_old_q, S_max_tile_q * (1 / D ** 0.5))
        # O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
        alpha_q = tl.exp2(S_max_old_q * 1.4426950408889634 - finite(S_max_q) * 1.4426950408889634)
        exp_S_seen2_qk = tl.exp2(
            S_seen2_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(S_max_q) * 1.4426950408889634)[:, None]
        )
        O_sum2_total_tile_q = tl.sum(exp_S_seen2_qk, 1)
        O_sum2_total_q = O_sum2_total_q * alpha_q + O_sum2_total_tile_q
        # W_sum[q,e] = sum(k where seen) V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        W_sum_qe = tl.dot(tile_seen_qk.to(V_ke.dtype), V_ke, W_sum_qe, input_precision="ieee")
        # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
        O_total_qe = tl.dot(
            exp_S_seen2_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = (N[q] * (W_sum[q,e] / N[q]) * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q],
    #     S_max[q]))) + O_total[q,e] * exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q])))) /
    #     (N[q] * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q], S_max[q]))) + O_sum2_total[q] *
    #     exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q]))))
    ratio_W_sum_qe = divide(W_sum_qe, N_q[:, None])
    O_qe = divide(
        N_q[:, None]
        * ratio_W_sum_qe
        * tl.exp2(
            divide(R_sum_q, N_q) * 1.4426950408889634
            - finite(tl.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
        )[:, None]
        + O_total_qe
        * tl.exp2(
            S_max_q * 1.4426950408889634
            - finite(tl.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
        )[:, None],
        (
            N_q
            * tl.exp2(
                divide(R_sum_q, N_q) * 1.4426950408889634
                - finite(tl.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
            )
            + O_sum2_total_q
            * tl.exp2(
                S_max_q * 1.4426950408889634
                - finite(tl.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
            )
        )[:, None],
    )
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def razor(Q, K, V, retrieval, sinks=4, recent=4000, part=5):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], retrieval[h] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("retrieval", "h", retrieval),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [("retrieval", retrieval)], KINDS)
    check_number("sinks", sinks, int)
    check_number("recent", recent, int)
    check_number("part", part, int)
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
            # rows are uneven work, by the tables of this call: most of it comes first
            order = Q.new_empty(0, dtype=torch.int32)
            beside = 1
            if AT_ONCE < grid <= MANY and triton.cdiv(NK, tile["BLOCK_K"]) > LONG:
                q_work = Q.new_empty(triton.cdiv(NQ, tile["BLOCK_Q"]) * NH, dtype=torch.int32)
                razor_work_kernel[(q_work.numel(),)](
                    retrieval, q_work,
                    *retrieval.stride(),
                    sinks, recent, part,
                    NQ, NK, NH,
                    BLOCK_Q=tile["BLOCK_Q"], BLOCK_K=tile["BLOCK_K"],
                    num_warps=1, num_stages=1,
                )
                order = torch.empty_like(q_work)
                _order_kernel[(q_work.numel(),)](
                    q_work, order, q_work.numel(), num_warps=4, num_stages=1
                )
                beside = NB
            razor_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                retrieval, O,
                *retrieval.stride(), *O.stride(),
                sinks, recent, part,
                NQ, NK, NB, NH, NG,
                order, order.numel(), beside,
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


def reference(Q, K, V, retrieval, sinks=4, recent=4000, part=5):
    """`razor`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # kept[h,q,k] = retrieval[h] or k < sinks or q + (|k| - |q|) - k < max(recent, |k| // part)
    where_qk = (q + (NK - NQ))[:, None] - k < max(recent, NK // part)
    kept = (retrieval[:, None] | (k < sinks))[:, None] | where_qk
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # N[h,q] = sum(k where k <= q + (|k| - |q|)) (if not kept[h,q,k] then 1 else 0)
    N = torch.where((k <= (q + (NK - NQ))[:, None]) & ~kept, 1, 0).sum(-1)
    # R[b,h,q] = mean(k where k <= q + (|k| - |q|) and not kept[h,q,k]) S[b,h,q,k]
    where_R_qk = (k <= (q + (NK - NQ))[:, None]) & ~kept
    R = _divide(torch.where(where_R_qk, S, 0).sum(-1), where_R_qk.sum(-1))
    # W[b,h,q,e] = mean(k where k <= q + (|k| - |q|) and not kept[h,q,k]) V[b, h // (|h| // |g|), k,
    #     e]
    W = _divide(_einsum("hqk,bhke->bhqe", where_R_qk, V[:, h // (NH // NG)]), where_R_qk.sum(-1)[..., None])
    # far[b,h,q] = N[h,q] * exp(R[b,h,q])
    far_ = N * torch.exp(R)
    # own[b,h,q,k] = if k <= q + (|k| - |q|) and kept[h,q,k] then exp(S[b,h,q,k]) else 0
    own = torch.exp(torch.where((k <= (q + (NK - NQ))[:, None]) & kept, S, -math.inf))
    # O[b,h,q,e] = (far[b,h,q] * W[b,h,q,e] + sum(k) own[b,h,q,k] * V[b, h // (|h| // |g|), k, e]) /
    #     (far[b,h,q] + sum(k) own[b,h,q,k])
    plus_O_qe = far_[..., None] * W + _einsum("bhqk,bhke->bhqe", own, V[:, h // (NH // NG)])
    O = _divide(plus_O_qe, (far_ + own.sum(-1))[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "retrieval": torch.rand(4, device=device) < 0.7,
        "sinks": 4,
        "recent": 16,
        "part": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = razor(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
