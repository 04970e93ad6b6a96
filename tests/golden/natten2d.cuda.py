"""Neighborhood attention on a grid in full: window, dilation, stride and causality of each axis (2504.16922).

NATTEN's rule, axis by axis. With a dilation, a query sees only keys whose position leaves the same rest, as
if each rest were an axis of its own. `stride` queries in a row share the window of the one in their middle,
in a causal axis of the last; where stride and window are equal, the window is a tile that slides. At the
borders a window moves inward, but for a causal axis, where it ends with the query. The grid is in row-major
order, `width` keys to the row; window times dilation is at most a side, the stride at most the window.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) rows[q,k] = around(k // width, q // width, window_y, dilation_y, stride_y, causal_y, |k| //
    width)
(3) columns[q,k] = around(k % width, q % width, window_x, dilation_x, stride_x, causal_x, width)
(4) P[q,k] = softmax(k where rows[q,k] and columns[q,k]) S[q,k]
(5) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: k // width % dilation_y == (q + (|k| - |q|)) // width % dilation_y and max(0, min(min((q +
        (|k| - |q|)) // width // dilation_y // stride_y * stride_y + (if causal_y then stride_y - 1
        else stride_y // 2), (|k| // width - (q + (|k| - |q|)) // width % dilation_y + dilation_y -
        1) // dilation_y - 1) - (if causal_y then window_y - 1 else window_y // 2), if causal_y then
        (|k| // width - (q + (|k| - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y else
        (|k| // width - (q + (|k| - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y -
        window_y)) <= k // width // dilation_y and k // width // dilation_y < (if causal_y then (q +
        (|k| - |q|)) // width // dilation_y + 1 else max(0, min(min((q + (|k| - |q|)) // width //
        dilation_y // stride_y * stride_y + stride_y // 2, (|k| // width - (q + (|k| - |q|)) //
        width % dilation_y + dilation_y - 1) // dilation_y - 1) - window_y // 2, (|k| // width - (q
        + (|k| - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y - window_y)) +
        window_y) and k % width % dilation_x == (q + (|k| - |q|)) % width % dilation_x and max(0,
        min(min((q + (|k| - |q|)) % width // dilation_x // stride_x * stride_x + (if causal_x then
        stride_x - 1 else stride_x // 2), (width - (q + (|k| - |q|)) % width % dilation_x +
        dilation_x - 1) // dilation_x - 1) - (if causal_x then window_x - 1 else window_x // 2), if
        causal_x then (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
        dilation_x else (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
        dilation_x - window_x)) <= k % width // dilation_x and k % width // dilation_x < (if
        causal_x then (q + (|k| - |q|)) % width // dilation_x + 1 else max(0, min(min((q + (|k| -
        |q|)) % width // dilation_x // stride_x * stride_x + stride_x // 2, (width - (q + (|k| -
        |q|)) % width % dilation_x + dilation_x - 1) // dilation_x - 1) - window_x // 2, (width - (q
        + (|k| - |q|)) % width % dilation_x + dilation_x - 1) // dilation_x - window_x)) + window_x)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over the boxes of k_a, k_b, k_c, k_d that are live along each; tiles of rows are boxes too.
State of a row: P_max[q], P_total[q], O_total[q,e].

Edit the pattern, not this file.
"""

import contextlib
import math

import torch
import triton
import triton.language as tl


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
        "BLOCK_Q": 64,
        "BLOCK_K": 64,
        "BLOCK_Q_A": 8,
        "BLOCK_Q_B": 1,
        "BLOCK_Q_C": 8,
        "BLOCK_Q_D": 1,
        "BLOCK_K_A": 8,
        "BLOCK_K_B": 1,
        "BLOCK_K_C": 8,
        "BLOCK_K_D": 1,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 4,
        "BLOCK_Q_B": 1,
        "BLOCK_Q_C": 8,
        "BLOCK_Q_D": 1,
        "BLOCK_K_A": 4,
        "BLOCK_K_B": 1,
        "BLOCK_K_C": 8,
        "BLOCK_K_D": 1,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64,
        "BLOCK_K": 64,
        "BLOCK_Q_A": 8,
        "BLOCK_Q_B": 1,
        "BLOCK_Q_C": 8,
        "BLOCK_Q_D": 1,
        "BLOCK_K_A": 8,
        "BLOCK_K_B": 1,
        "BLOCK_K_C": 8,
        "BLOCK_K_D": 1,
        "BLOCK_D": 128,
        "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 4,
        "BLOCK_Q_B": 1,
        "BLOCK_Q_C": 8,
        "BLOCK_Q_D": 1,
        "BLOCK_K_A": 4,
        "BLOCK_K_B": 1,
        "BLOCK_K_C": 8,
        "BLOCK_K_D": 1,
        "BLOCK_D": 128,
        "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}


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


@triton.jit(
    do_not_specialize=[
        "width",
        "window_y",
        "window_x",
        "dilation_y",
        "dilation_x",
        "stride_y",
        "stride_x",
        "causal_y",
        "causal_x",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NQ_A",
        "NQ_B",
        "NQ_C",
        "NQ_D",
        "NK_A",
        "NK_B",
        "NK_C",
        "NK_D",
        "NG",
    ]
)
def natten2d_kernel(
    Q, K, V, O,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sK_b, sK_g, sK_k, sK_d,
    sV_b, sV_g, sV_k, sV_e,
    sO_b, sO_h, sO_q, sO_e,
    width, window_y, window_x, dilation_y, dilation_x, stride_y, stride_x, causal_y, causal_x,
    NQ, NK, NB, NH, NQ_A, NQ_B, NQ_C, NQ_D, NK_A, NK_B, NK_C, NK_D, NG,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_Q_A: tl.constexpr,
    BLOCK_K_A: tl.constexpr,
    BLOCK_Q_B: tl.constexpr,
    BLOCK_K_B: tl.constexpr,
    BLOCK_Q_C: tl.constexpr,
    BLOCK_K_C: tl.constexpr,
    BLOCK_Q_D: tl.constexpr,
    BLOCK_K_D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    q_a_tiles = tl.cdiv(NQ_A, BLOCK_Q_A)
    q_b_tiles = tl.cdiv(NQ_B, BLOCK_Q_B)
    q_c_tiles = tl.cdiv(NQ_C, BLOCK_Q_C)
    q_d_tiles = tl.cdiv(NQ_D, BLOCK_Q_D)
    tiles = q_a_tiles * q_b_tiles * q_c_tiles * q_d_tiles
    tile = tiles - 1 - pid % tiles
    q_a0 = (tile // (q_b_tiles * q_c_tiles * q_d_tiles)) * BLOCK_Q_A
    q_b0 = (tile // (q_c_tiles * q_d_tiles) % q_b_tiles) * BLOCK_Q_B
    q_c0 = (tile // q_d_tiles % q_c_tiles) * BLOCK_Q_C
    q_d0 = (tile % q_d_tiles) * BLOCK_Q_D
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    q_in = tl.arange(0, BLOCK_Q)
    q_a = q_a0 + (q_in // (BLOCK_Q_B * BLOCK_Q_C * BLOCK_Q_D))
    q_b = q_b0 + (q_in // (BLOCK_Q_C * BLOCK_Q_D) % BLOCK_Q_B)
    q_c = q_c0 + (q_in // BLOCK_Q_D % BLOCK_Q_C)
    q_d = q_d0 + (q_in % BLOCK_Q_D)
    q_place = (
        ((q_a + floor_divide(NK - NQ, dilation_y.to(tl.int64) * width)) * dilation_y + q_b) * width
        + (q_c * dilation_x + q_d)
        - (NK - NQ)
    )
    q = tl.where(
        (q_a < NQ_A)
        & (q_b < NQ_B)
        & (q_c < NQ_C)
        & (q_d < NQ_D)
        & (q_c.to(tl.int64) * dilation_x + q_d < width)
        & (q_place >= 0),
        q_place,
        NQ,
    )
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    Q_here = Q + b.to(tl.int64) * sQ_b + h.to(tl.int64) * sQ_h
    K_here = K + b.to(tl.int64) * sK_b + (h // (NH // NG)).to(tl.int64) * sK_g
    V_here = V + b.to(tl.int64) * sV_b + (h // (NH // NG)).to(tl.int64) * sV_g
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(k where seen) S[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = tl.load(
        Q_here + q[:, None].to(tl.int64) * sQ_q + d[None, :] * sQ_d, mask=(q[:, None] < NQ), other=0
    )
    q_a_last = tl.minimum(q_a0 + BLOCK_Q_A, NQ_A) - 1
    k_a_begin = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(
                    floor_divide(
                        floor_divide(NK - NQ, dilation_y.to(tl.int64) * width) + q_a0, stride_y
                    )
                    * stride_y
                    + tl.where(causal_y != 0, stride_y - 1, stride_y // 2),
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - 1,
                )
                - tl.where(causal_y != 0, window_y - 1, floor_divide(window_y, 2)),
                tl.where(
                    causal_y != 0,
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y),
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - window_y,
                ),
            ),
        )
    ).to(tl.int32)
    k_a_end = (
        tl.maximum(
            0,
            tl.minimum(
                NK_A,
                tl.where(
                    causal_y != 0,
                    floor_divide(NK - NQ, dilation_y.to(tl.int64) * width) + q_a_last + 1,
                    tl.maximum(
                        0,
                        tl.minimum(
                            tl.minimum(
                                floor_divide(
                                    floor_divide(NK - NQ, dilation_y.to(tl.int64) * width)
                                    + q_a_last,
                                    stride_y,
                                )
                                * stride_y
                                + stride_y // 2,
                                floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - 1,
                            )
                            - floor_divide(window_y, 2),
                            floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y)
                            - window_y,
                        ),
                    )
                    + window_y,
                ),
            ),
        )
    ).to(tl.int32)
    k_a_lo = k_a_begin // BLOCK_K_A
    k_a_hi = tl.where(k_a_begin < k_a_end, (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A, k_a_lo)
    k_a_inner_begin = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(
                    floor_divide(
                        floor_divide(NK - NQ, dilation_y.to(tl.int64) * width) + q_a_last, stride_y
                    )
                    * stride_y
                    + tl.where(causal_y != 0, stride_y - 1, stride_y // 2),
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - 1,
                )
                - tl.where(causal_y != 0, window_y - 1, floor_divide(window_y, 2)),
                tl.where(
                    causal_y != 0,
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y),
                    floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - window_y,
                ),
            ),
        )
    ).to(tl.int32)
    k_a_inner_end = (
        tl.maximum(
            0,
            tl.minimum(
                NK_A,
                tl.where(
                    causal_y != 0,
                    floor_divide(NK - NQ, dilation_y.to(tl.int64) * width) + q_a0 + 1,
                    tl.maximum(
                        0,
                        tl.minimum(
                            tl.minimum(
                                floor_divide(
                                    floor_divide(NK - NQ, dilation_y.to(tl.int64) * width) + q_a0,
                                    stride_y,
                                )
                                * stride_y
                                + stride_y // 2,
                                floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y) - 1,
                            )
                            - floor_divide(window_y, 2),
                            floor_divide(NK // width + dilation_y - q_b0 - 1, dilation_y)
                            - window_y,
                        ),
                    )
                    + window_y,
                ),
            ),
        )
    ).to(tl.int32)
    k_a_full_lo = (
        tl.minimum((BLOCK_K_A + k_a_inner_begin.to(tl.int64) - 1) // BLOCK_K_A, k_a_hi)
    ).to(tl.int32)
    k_a_full_hi = tl.maximum(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
    k_a_count = k_a_hi - k_a_lo
    q_b_last = tl.minimum(q_b0 + BLOCK_Q_B, NQ_B) - 1
    k_b_end = tl.minimum(NK_B, q_b_last + 1)
    k_b_lo = floor_divide(q_b0, BLOCK_K_B)
    k_b_hi = tl.where(q_b0 < k_b_end, (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B, k_b_lo)
    k_b_inner_end = tl.minimum(NK_B, q_b0 + 1)
    k_b_full_lo = tl.minimum(floor_divide(BLOCK_K_B + q_b_last - 1, BLOCK_K_B), k_b_hi)
    k_b_full_hi = tl.maximum(k_b_full_lo, k_b_inner_end // BLOCK_K_B)
    k_b_count = k_b_hi - k_b_lo
    q_c_last = tl.minimum(q_c0 + BLOCK_Q_C, NQ_C) - 1
    k_c_begin = tl.maximum(
        0,
        tl.minimum(
            tl.minimum(
                floor_divide(q_c0, stride_x) * stride_x
                + tl.where(causal_x != 0, stride_x - 1, stride_x // 2),
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - 1,
            )
            - tl.where(causal_x != 0, window_x - 1, floor_divide(window_x, 2)),
            tl.where(
                causal_x != 0,
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x),
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - window_x,
            ),
        ),
    )
    k_c_end = tl.maximum(
        0,
        tl.minimum(
            NK_C,
            tl.where(
                causal_x != 0,
                q_c_last + 1,
                tl.maximum(
                    0,
                    tl.minimum(
                        tl.minimum(
                            floor_divide(q_c_last, stride_x) * stride_x + stride_x // 2,
                            floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - 1,
                        )
                        - floor_divide(window_x, 2),
                        floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - window_x,
                    ),
                )
                + window_x,
            ),
        ),
    )
    k_c_lo = k_c_begin // BLOCK_K_C
    k_c_hi = tl.where(k_c_begin < k_c_end, (BLOCK_K_C + k_c_end - 1) // BLOCK_K_C, k_c_lo)
    k_c_inner_begin = tl.maximum(
        0,
        tl.minimum(
            tl.minimum(
                floor_divide(q_c_last, stride_x) * stride_x
                + tl.where(causal_x != 0, stride_x - 1, stride_x // 2),
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - 1,
            )
            - tl.where(causal_x != 0, window_x - 1, floor_divide(window_x, 2)),
            tl.where(
                causal_x != 0,
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x),
                floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - window_x,
            ),
        ),
    )
    k_c_inner_end = tl.maximum(
        0,
        tl.minimum(
            NK_C,
            tl.where(
                causal_x != 0,
                q_c0 + 1,
                tl.maximum(
                    0,
                    tl.minimum(
                        tl.minimum(
                            floor_divide(q_c0, stride_x) * stride_x + stride_x // 2,
                            floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - 1,
                        )
                        - floor_divide(window_x, 2),
                        floor_divide(dilation_x + width - q_d0 - 1, dilation_x) - window_x,
                    ),
                )
                + window_x,
            ),
        ),
    )
    k_c_full_lo = tl.minimum((BLOCK_K_C + k_c_inner_begin - 1) // BLOCK_K_C, k_c_hi)
    k_c_full_hi = tl.maximum(k_c_full_lo, k_c_inner_end // BLOCK_K_C)
    k_c_count = k_c_hi - k_c_lo
    q_d_last = tl.minimum(q_d0 + BLOCK_Q_D, NQ_D) - 1
    k_d_end = tl.minimum(NK_D, q_d_last + 1)
    k_d_lo = floor_divide(q_d0, BLOCK_K_D)
    k_d_hi = tl.where(q_d0 < k_d_end, (BLOCK_K_D + k_d_end - 1) // BLOCK_K_D, k_d_lo)
    k_d_inner_end = tl.minimum(NK_D, q_d0 + 1)
    k_d_full_lo = tl.minimum(floor_divide(BLOCK_K_D + q_d_last - 1, BLOCK_K_D), k_d_hi)
    k_d_full_hi = tl.maximum(k_d_full_lo, k_d_inner_end // BLOCK_K_D)
    k_d_count = k_d_hi - k_d_lo
    k_steps = k_a_count * k_b_count * k_c_count * k_d_count
    # boxes that are live along every axis: those on an edge of any axis are tested
    for step in tl.range(0, k_steps):
        k_a_tile = k_a_lo + (step // (k_b_count * k_c_count * k_d_count))
        k_b_tile = k_b_lo + (step // (k_c_count * k_d_count) % k_b_count)
        k_c_tile = k_c_lo + (step // k_d_count % k_c_count)
        k_d_tile = k_d_lo + (step % k_d_count)
        k_a0 = k_a_tile * BLOCK_K_A
        k_b0 = k_b_tile * BLOCK_K_B
        k_c0 = k_c_tile * BLOCK_K_C
        k_d0 = k_d_tile * BLOCK_K_D
        k_a = k_a0 + (k_in // (BLOCK_K_B * BLOCK_K_C * BLOCK_K_D))
        k_b = k_b0 + (k_in // (BLOCK_K_C * BLOCK_K_D) % BLOCK_K_B)
        k_c = k_c0 + (k_in // BLOCK_K_D % BLOCK_K_C)
        k_d = k_d0 + (k_in % BLOCK_K_D)
        k_place = (k_a * dilation_y + k_b) * width + (k_c * dilation_x + k_d)
        k = tl.where(
            (k_a < NK_A)
            & (k_b < NK_B)
            & (k_c < NK_C)
            & (k_d < NK_D)
            & (k_c.to(tl.int64) * dilation_x + k_d < width),
            k_place,
            NK,
        )
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = tl.load(
            K_here + k[:, None].to(tl.int64) * sK_k + d[None, :] * sK_d,
            mask=(k[:, None] < NK),
            other=0,
        )
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if not (
            (k_a_full_lo <= k_a_tile)
            & (k_a_tile < tl.minimum(k_a_full_hi, NK // width // dilation_y // BLOCK_K_A))
            & (k_b_full_lo <= k_b_tile)
            & (k_b_tile < k_b_full_hi)
            & (k_c_full_lo <= k_c_tile)
            & (k_c_tile < tl.minimum(k_c_full_hi, width // dilation_x // BLOCK_K_C))
            & (k_d_full_lo <= k_d_tile)
            & (k_d_tile < k_d_full_hi)
        ):
            # seen: k < |k| and k // width % dilation_y == (q + (|k| - |q|)) // width % dilation_y
            #     and max(0, min(min((q + (|k| - |q|)) // width // dilation_y // stride_y * stride_y
            #     + (if causal_y then stride_y - 1 else stride_y // 2), (|k| // width - (q + (|k| -
            #     |q|)) // width % dilation_y + dilation_y - 1) // dilation_y - 1) - (if causal_y
            #     then window_y - 1 else window_y // 2), if causal_y then (|k| // width - (q + (|k|
            #     - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y else (|k| // width -
            #     (q + (|k| - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y -
            #     window_y)) <= k // width // dilation_y and k // width // dilation_y < (if causal_y
            #     then (q + (|k| - |q|)) // width // dilation_y + 1 else max(0, min(min((q + (|k| -
            #     |q|)) // width // dilation_y // stride_y * stride_y + stride_y // 2, (|k| // width
            #     - (q + (|k| - |q|)) // width % dilation_y + dilation_y - 1) // dilation_y - 1) -
            #     window_y // 2, (|k| // width - (q + (|k| - |q|)) // width % dilation_y +
            #     dilation_y - 1) // dilation_y - window_y)) + window_y) and k % width % dilation_x
            #     == (q + (|k| - |q|)) % width % dilation_x and max(0, min(min((q + (|k| - |q|)) %
            #     width // dilation_x // stride_x * stride_x + (if causal_x then stride_x - 1 else
            #     stride_x // 2), (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1)
            #     // dilation_x - 1) - (if causal_x then window_x - 1 else window_x // 2), if
            #     causal_x then (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
            #     dilation_x else (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1)
            #     // dilation_x - window_x)) <= k % width // dilation_x and k % width // dilation_x
            #     < (if causal_x then (q + (|k| - |q|)) % width // dilation_x + 1 else max(0,
            #     min(min((q + (|k| - |q|)) % width // dilation_x // stride_x * stride_x + stride_x
            #     // 2, (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
            #     dilation_x - 1) - window_x // 2, (width - (q + (|k| - |q|)) % width % dilation_x +
            #     dilation_x - 1) // dilation_x - window_x)) + window_x)
            seen_qk = (
                (
                    (
                        (
                            (
                                ((k < NK)[None, :] & (k_b[None, :] == q_b[:, None]))
                                & (
                                    tl.maximum(
                                        0,
                                        tl.minimum(
                                            tl.minimum(
                                                floor_divide(
                                                    q_a
                                                    + floor_divide(
                                                        NK - NQ, dilation_y.to(tl.int64) * width
                                                    ),
                                                    stride_y,
                                                )
                                                * stride_y
                                                + tl.where(
                                                    causal_y != 0, stride_y - 1, stride_y // 2
                                                ),
                                                floor_divide(
                                                    NK // width + dilation_y - q_b - 1, dilation_y
                                                )
                                                - 1,
                                            )
                                            - tl.where(
                                                causal_y != 0,
                                                window_y - 1,
                                                floor_divide(window_y, 2),
                                            ),
                                            tl.where(
                                                causal_y != 0,
                                                floor_divide(
                                                    NK // width + dilation_y - q_b - 1, dilation_y
                                                ),
                                                floor_divide(
                                                    NK // width + dilation_y - q_b - 1, dilation_y
                                                )
                                                - window_y,
                                            ),
                                        ),
                                    )[:, None]
                                    <= k_a[None, :]
                                )
                            )
                            & (
                                k_a[None, :]
                                < tl.where(
                                    causal_y != 0,
                                    q_a
                                    + floor_divide(NK - NQ, dilation_y.to(tl.int64) * width)
                                    + 1,
                                    tl.maximum(
                                        0,
                                        tl.minimum(
                                            tl.minimum(
                                                floor_divide(
                                                    q_a
                                                    + floor_divide(
                                                        NK - NQ, dilation_y.to(tl.int64) * width
                                                    ),
                                                    stride_y,
                                                )
                                                * stride_y
                                                + stride_y // 2,
                                                floor_divide(
                                                    NK // width + dilation_y - q_b - 1, dilation_y
                                                )
                                                - 1,
                                            )
                                            - floor_divide(window_y, 2),
                                            floor_divide(
                                                NK // width + dilation_y - q_b - 1, dilation_y
                                            )
                                            - window_y,
                                        ),
                                    )
                                    + window_y,
                                )[:, None]
                            )
                        )
                        & (k_d[None, :] == q_d[:, None])
                    )
                    & (
                        tl.maximum(
                            0,
                            tl.minimum(
                                tl.minimum(
                                    q_c // stride_x * stride_x
                                    + tl.where(causal_x != 0, stride_x - 1, stride_x // 2),
                                    floor_divide(dilation_x + width - q_d - 1, dilation_x) - 1,
                                )
                                - tl.where(causal_x != 0, window_x - 1, floor_divide(window_x, 2)),
                                tl.where(
                                    causal_x != 0,
                                    floor_divide(dilation_x + width - q_d - 1, dilation_x),
                                    floor_divide(dilation_x + width - q_d - 1, dilation_x)
                                    - window_x,
                                ),
                            ),
                        )[:, None]
                        <= k_c[None, :]
                    )
                )
                & (
                    k_c[None, :]
                    < tl.where(
                        causal_x != 0,
                        q_c + 1,
                        tl.maximum(
                            0,
                            tl.minimum(
                                tl.minimum(
                                    q_c // stride_x * stride_x + stride_x // 2,
                                    floor_divide(dilation_x + width - q_d - 1, dilation_x) - 1,
                                )
                                - floor_divide(window_x, 2),
                                floor_divide(dilation_x + width - q_d - 1, dilation_x) - window_x,
                            ),
                        )
                        + window_x,
                    )[:, None]
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
        # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
        V_ke = tl.load(
            V_here + k[:, None].to(tl.int64) * sV_k + e[None, :] * sV_e,
            mask=(k[:, None] < NK),
            other=0,
        )
        O_total_qe = tl.dot(
            exp_S_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = O_total[q,e] / P_total[q]
    O_qe = divide(O_total_qe, P_total_q[:, None])
    tl.store(
        O_here + q[:, None].to(tl.int64) * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def natten2d(
    Q,
    K,
    V,
    width,
    window_y=7,
    window_x=7,
    dilation_y=1,
    dilation_x=1,
    stride_y=1,
    stride_x=1,
    causal_y=False,
    causal_x=False,
):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    check_number("width", width, int)
    check_number("window_y", window_y, int)
    check_number("window_x", window_x, int)
    check_number("dilation_y", dilation_y, int)
    check_number("dilation_x", dilation_x, int)
    check_number("stride_y", stride_y, int)
    check_number("stride_x", stride_x, int)
    check_number("causal_y", causal_y, bool)
    check_number("causal_x", causal_x, bool)
    if dilation_x <= 0:
        raise ValueError(f"`dilation_x` divides positions and must be positive, not {dilation_x}")
    if dilation_y <= 0:
        raise ValueError(f"`dilation_y` divides positions and must be positive, not {dilation_y}")
    if stride_x <= 0:
        raise ValueError(f"`stride_x` divides positions and must be positive, not {stride_x}")
    if stride_y <= 0:
        raise ValueError(f"`stride_y` divides positions and must be positive, not {stride_y}")
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NQ_A = ((((NK - 1) // (dilation_y * width)) - ((NK - NQ) // (dilation_y * width))) + 1)
    NK_A = ((((((NK + width) - 1) // width) + dilation_y) - 1) // dilation_y)
    NQ_B = dilation_y
    NK_B = dilation_y
    NQ_C = (((dilation_x + width) - 1) // dilation_x)
    NK_C = (((dilation_x + width) - 1) // dilation_x)
    NQ_D = dilation_x
    NK_D = dilation_x
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if (dilation_y * width) <= 0:
        raise ValueError(
            f"`dilation_y * width` divides positions and must be positive, not {(dilation_y * width)}"
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
    far = max(Q.stride(2), Q.stride(3), K.stride(2), K.stride(3), V.stride(2), V.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = (
        triton.cdiv(NQ_A, tile["BLOCK_Q_A"])
        * triton.cdiv(NQ_B, tile["BLOCK_Q_B"])
        * triton.cdiv(NQ_C, tile["BLOCK_Q_C"])
        * triton.cdiv(NQ_D, tile["BLOCK_Q_D"])
        * NB
        * NH
    )
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            natten2d_kernel[(grid,)](
                Q, K, V, O,
                *Q.stride(), *K.stride(), *V.stride(), *O.stride(),
                width,
                window_y,
                window_x,
                dilation_y,
                dilation_x,
                stride_y,
                stride_x,
                int(causal_y),
                int(causal_x),
                NQ, NK, NB, NH, NQ_A, NQ_B, NQ_C, NQ_D, NK_A, NK_B, NK_C, NK_D, NG,
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


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(
    Q,
    K,
    V,
    width,
    window_y=7,
    window_x=7,
    dilation_y=1,
    dilation_x=1,
    stride_y=1,
    stride_x=1,
    causal_y=False,
    causal_x=False,
):
    """`natten2d`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # rows[q,k] = k // width % dilation_y == (q + (|k| - |q|)) // width % dilation_y and (max(0,
    #     min(min((q + (|k| - |q|)) // width // dilation_y // stride_y * stride_y + (if causal_y
    #     then stride_y - 1 else stride_y // 2), (|k| // width - (q + (|k| - |q|)) // width %
    #     dilation_y + dilation_y - 1) // dilation_y - 1) - (if causal_y then window_y - 1 else
    #     window_y // 2), if causal_y then (|k| // width - (q + (|k| - |q|)) // width % dilation_y +
    #     dilation_y - 1) // dilation_y else (|k| // width - (q + (|k| - |q|)) // width % dilation_y
    #     + dilation_y - 1) // dilation_y - window_y)) <= k // width // dilation_y and k // width //
    #     dilation_y < (if causal_y then (q + (|k| - |q|)) // width // dilation_y + 1 else max(0,
    #     min(min((q + (|k| - |q|)) // width // dilation_y // stride_y * stride_y + (if causal_y
    #     then stride_y - 1 else stride_y // 2), (|k| // width - (q + (|k| - |q|)) // width %
    #     dilation_y + dilation_y - 1) // dilation_y - 1) - (if causal_y then window_y - 1 else
    #     window_y // 2), if causal_y then (|k| // width - (q + (|k| - |q|)) // width % dilation_y +
    #     dilation_y - 1) // dilation_y else (|k| // width - (q + (|k| - |q|)) // width % dilation_y
    #     + dilation_y - 1) // dilation_y - window_y)) + window_y))
    at_q = (q + (NK - NQ)) // width
    at_rows_q = at_q % dilation_y
    at_rows_q_2 = at_q // dilation_y
    at_rows_q_3 = at_rows_q_2 // stride_y * stride_y + (stride_y - 1 if causal_y else stride_y // 2)
    at_rows_q_4 = (NK // width - at_rows_q + dilation_y - 1) // dilation_y
    at_rows_q_5 = torch.minimum(at_rows_q_3, at_rows_q_4 - 1) - (window_y - 1 if causal_y else window_y // 2)
    at_rows_q_6 = torch.minimum(at_rows_q_5, at_rows_q_4 if causal_y else at_rows_q_4 - window_y)
    at_rows_q_7 = at_rows_q_6.clamp(min=0)
    at_k = k // width // dilation_y
    where_qk = at_k < (at_rows_q_2 + 1 if causal_y else at_rows_q_7 + window_y)[:, None]
    rows = (k // width % dilation_y == at_rows_q[:, None]) & (at_rows_q_7[:, None] <= at_k) & where_qk
    # columns[q,k] = k % width % dilation_x == (q + (|k| - |q|)) % width % dilation_x and (max(0,
    #     min(min((q + (|k| - |q|)) % width // dilation_x // stride_x * stride_x + (if causal_x then
    #     stride_x - 1 else stride_x // 2), (width - (q + (|k| - |q|)) % width % dilation_x +
    #     dilation_x - 1) // dilation_x - 1) - (if causal_x then window_x - 1 else window_x // 2),
    #     if causal_x then (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
    #     dilation_x else (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
    #     dilation_x - window_x)) <= k % width // dilation_x and k % width // dilation_x < (if
    #     causal_x then (q + (|k| - |q|)) % width // dilation_x + 1 else max(0, min(min((q + (|k| -
    #     |q|)) % width // dilation_x // stride_x * stride_x + (if causal_x then stride_x - 1 else
    #     stride_x // 2), (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
    #     dilation_x - 1) - (if causal_x then window_x - 1 else window_x // 2), if causal_x then
    #     (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) // dilation_x else
    #     (width - (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) // dilation_x -
    #     window_x)) + window_x))
    at_columns_q = (q + (NK - NQ)) % width
    at_columns_q_2 = at_columns_q % dilation_x
    where_columns_qk = k % width % dilation_x == at_columns_q_2[:, None]
    at_columns_q_3 = at_columns_q // dilation_x
    at_columns_q_4 = at_columns_q_3 // stride_x * stride_x
    at_columns_q_5 = at_columns_q_4 + (stride_x - 1 if causal_x else stride_x // 2)
    at_columns_q_6 = width - at_columns_q_2 + dilation_x
    at_columns_q_7 = (at_columns_q_6 - 1) // dilation_x
    at_columns_q_8 = torch.minimum(at_columns_q_5, at_columns_q_7 - 1)
    at_columns_q_9 = at_columns_q_8 - (window_x - 1 if causal_x else window_x // 2)
    over_columns_q = at_columns_q_7 if causal_x else at_columns_q_7 - window_x
    at_columns_q_10 = torch.minimum(at_columns_q_9, over_columns_q)
    at_columns_q_11 = at_columns_q_10.clamp(min=0)
    at_columns_k = k % width // dilation_x
    where_columns_qk_2 = at_columns_q_11[:, None] <= at_columns_k
    plus_columns_q = at_columns_q_3 + 1 if causal_x else at_columns_q_11 + window_x
    where_columns_qk_3 = at_columns_k < plus_columns_q[:, None]
    columns = where_columns_qk & where_columns_qk_2 & where_columns_qk_3
    # P[b,h,q,k] = if rows[q,k] and columns[q,k] then exp(S[b,h,q,k] - max(k where rows[q,k] and
    #     columns[q,k]) S[b,h,q,k]) / sum(k where rows[q,k] and columns[q,k]) exp(S[b,h,q,k] - max(k
    #     where rows[q,k] and columns[q,k]) S[b,h,q,k]) else 0
    where_P_qk = rows & columns
    max_P_q = _amax(torch.where(where_P_qk, S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_P_qk, S - max_P_q[..., None], -math.inf))
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
        "width": 16,
        "window_y": 3,
        "window_x": 3,
        "dilation_y": 1,
        "dilation_x": 1,
        "stride_y": 1,
        "stride_x": 1,
        "causal_y": False,
        "causal_x": False,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = natten2d(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
