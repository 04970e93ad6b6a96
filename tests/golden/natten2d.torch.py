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


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_Q = 128
BLOCK_K = 128
BLOCK_Q_A = 8
BLOCK_Q_B = 1
BLOCK_Q_C = 16
BLOCK_Q_D = 1
BLOCK_K_A = 8
BLOCK_K_B = 1
BLOCK_K_C = 16
BLOCK_K_D = 1


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def boxes(axes, sides):
    """(where it begins, seen whole) of every box: an axis is (lo, hi, full_lo, full_hi), in tiles."""
    starts = [()]
    for lo, hi, full_lo, full_hi in axes:
        starts = [
            (*before, (n, full_lo <= n < full_hi)) for before in starts for n in range(lo, hi)
        ]
    for start in starts:
        yield [n * side for (n, _), side in zip(start, sides)], all(whole for _, whole in start)


def digits(*axes, device):
    """Every digit of the positions of a box: an axis is (where it begins, its side, how many there are)."""
    own = [torch.arange(start, min(start + side, end), device=device) for start, side, end in axes]
    return [x.flatten() for x in torch.meshgrid(*own, indexing="ij")]


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def most(a, b):
    """The larger of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.maximum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, min=b) if torch.is_tensor(a) else torch.clamp(b, min=a)
    return max(a, b)


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
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], on any device.

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
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    h = torch.arange(NH, device=device)[None, :]
    for q_a0 in range(0, NQ_A, BLOCK_Q_A):
        for q_b0 in range(0, NQ_B, BLOCK_Q_B):
            for q_c0 in range(0, NQ_C, BLOCK_Q_C):
                for q_d0 in range(0, NQ_D, BLOCK_Q_D):
                    q_a, q_b, q_c, q_d = digits(
                        (q_a0, BLOCK_Q_A, NQ_A),
                        (q_b0, BLOCK_Q_B, NQ_B),
                        (q_c0, BLOCK_Q_C, NQ_C),
                        (q_d0, BLOCK_Q_D, NQ_D),
                        device=device,
                    )
                    q = (
                        ((q_a + (NK - NQ) // (dilation_y * width)) * dilation_y + q_b) * width
                        + (q_c * dilation_x + q_d)
                        - (NK - NQ)
                    )
                    inside = (q < NQ) & (q >= 0) & (q_c * dilation_x + q_d < width)
                    q_a, q_b, q_c, q_d, q = (x[inside] for x in (q_a, q_b, q_c, q_d, q))
                    if not len(q):
                        continue
                    # state of P_max[q] = max(k where seen) S[q,k]
                    P_max_q = torch.full([NB, NH, len(q)], -math.inf, device=device, dtype=kind)
                    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
                    P_total_q = torch.full([NB, NH, len(q)], 0.0, device=device, dtype=kind)
                    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] -
                    #     finite(P_max[q]))
                    O_total_qe = torch.full([NB, NH, len(q), E], 0.0, device=device, dtype=kind)
                    Q_qd = Q[:, :, q].to(kind)
                    # boxes that are live along every axis, and whether these rows see them whole
                    q_a_last = min(q_a0 + BLOCK_Q_A, NQ_A) - 1
                    k_a_begin = max(
                        0,
                        min(
                            min(
                                ((NK - NQ) // (dilation_y * width) + q_a0) // stride_y * stride_y
                                + (stride_y - 1 if causal_y else stride_y // 2),
                                (NK // width + dilation_y - q_b0 - 1) // dilation_y - 1,
                            )
                            - (window_y - 1 if causal_y else window_y // 2),
                            (NK // width + dilation_y - q_b0 - 1) // dilation_y
                            if causal_y
                            else (NK // width + dilation_y - q_b0 - 1) // dilation_y - window_y,
                        ),
                    )
                    k_a_end = max(
                        0,
                        min(
                            NK_A,
                            (NK - NQ) // (dilation_y * width) + q_a_last + 1
                            if causal_y
                            else max(
                                0,
                                min(
                                    min(
                                        ((NK - NQ) // (dilation_y * width) + q_a_last)
                                        // stride_y
                                        * stride_y
                                        + stride_y // 2,
                                        (NK // width + dilation_y - q_b0 - 1) // dilation_y - 1,
                                    )
                                    - window_y // 2,
                                    (NK // width + dilation_y - q_b0 - 1) // dilation_y - window_y,
                                ),
                            )
                            + window_y,
                        ),
                    )
                    k_a_lo = k_a_begin // BLOCK_K_A
                    k_a_hi = (
                        (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A if k_a_begin < k_a_end else k_a_lo
                    )
                    k_a_inner_begin = max(
                        0,
                        min(
                            min(
                                ((NK - NQ) // (dilation_y * width) + q_a_last)
                                // stride_y
                                * stride_y
                                + (stride_y - 1 if causal_y else stride_y // 2),
                                (NK // width + dilation_y - q_b0 - 1) // dilation_y - 1,
                            )
                            - (window_y - 1 if causal_y else window_y // 2),
                            (NK // width + dilation_y - q_b0 - 1) // dilation_y
                            if causal_y
                            else (NK // width + dilation_y - q_b0 - 1) // dilation_y - window_y,
                        ),
                    )
                    k_a_inner_end = max(
                        0,
                        min(
                            NK_A,
                            (NK - NQ) // (dilation_y * width) + q_a0 + 1
                            if causal_y
                            else max(
                                0,
                                min(
                                    min(
                                        ((NK - NQ) // (dilation_y * width) + q_a0)
                                        // stride_y
                                        * stride_y
                                        + stride_y // 2,
                                        (NK // width + dilation_y - q_b0 - 1) // dilation_y - 1,
                                    )
                                    - window_y // 2,
                                    (NK // width + dilation_y - q_b0 - 1) // dilation_y - window_y,
                                ),
                            )
                            + window_y,
                        ),
                    )
                    k_a_full_lo = min((BLOCK_K_A + k_a_inner_begin - 1) // BLOCK_K_A, k_a_hi)
                    k_a_full_hi = max(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
                    q_b_last = min(q_b0 + BLOCK_Q_B, NQ_B) - 1
                    k_b_end = min(NK_B, q_b_last + 1)
                    k_b_lo = q_b0 // BLOCK_K_B
                    k_b_hi = (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B if q_b0 < k_b_end else k_b_lo
                    k_b_inner_end = min(NK_B, q_b0 + 1)
                    k_b_full_lo = min((BLOCK_K_B + q_b_last - 1) // BLOCK_K_B, k_b_hi)
                    k_b_full_hi = max(k_b_full_lo, k_b_inner_end // BLOCK_K_B)
                    q_c_last = min(q_c0 + BLOCK_Q_C, NQ_C) - 1
                    k_c_begin = max(
                        0,
                        min(
                            min(
                                q_c0 // stride_x * stride_x
                                + (stride_x - 1 if causal_x else stride_x // 2),
                                (dilation_x + width - q_d0 - 1) // dilation_x - 1,
                            )
                            - (window_x - 1 if causal_x else window_x // 2),
                            (dilation_x + width - q_d0 - 1) // dilation_x
                            if causal_x
                            else (dilation_x + width - q_d0 - 1) // dilation_x - window_x,
                        ),
                    )
                    k_c_end = max(
                        0,
                        min(
                            NK_C,
                            q_c_last + 1
                            if causal_x
                            else max(
                                0,
                                min(
                                    min(
                                        q_c_last // stride_x * stride_x + stride_x // 2,
                                        (dilation_x + width - q_d0 - 1) // dilation_x - 1,
                                    )
                                    - window_x // 2,
                                    (dilation_x + width - q_d0 - 1) // dilation_x - window_x,
                                ),
                            )
                            + window_x,
                        ),
                    )
                    k_c_lo = k_c_begin // BLOCK_K_C
                    k_c_hi = (
                        (BLOCK_K_C + k_c_end - 1) // BLOCK_K_C if k_c_begin < k_c_end else k_c_lo
                    )
                    k_c_inner_begin = max(
                        0,
                        min(
                            min(
                                q_c_last // stride_x * stride_x
                                + (stride_x - 1 if causal_x else stride_x // 2),
                                (dilation_x + width - q_d0 - 1) // dilation_x - 1,
                            )
                            - (window_x - 1 if causal_x else window_x // 2),
                            (dilation_x + width - q_d0 - 1) // dilation_x
                            if causal_x
                            else (dilation_x + width - q_d0 - 1) // dilation_x - window_x,
                        ),
                    )
                    k_c_inner_end = max(
                        0,
                        min(
                            NK_C,
                            q_c0 + 1
                            if causal_x
                            else max(
                                0,
                                min(
                                    min(
                                        q_c0 // stride_x * stride_x + stride_x // 2,
                                        (dilation_x + width - q_d0 - 1) // dilation_x - 1,
                                    )
                                    - window_x // 2,
                                    (dilation_x + width - q_d0 - 1) // dilation_x - window_x,
                                ),
                            )
                            + window_x,
                        ),
                    )
                    k_c_full_lo = min((BLOCK_K_C + k_c_inner_begin - 1) // BLOCK_K_C, k_c_hi)
                    k_c_full_hi = max(k_c_full_lo, k_c_inner_end // BLOCK_K_C)
                    q_d_last = min(q_d0 + BLOCK_Q_D, NQ_D) - 1
                    k_d_end = min(NK_D, q_d_last + 1)
                    k_d_lo = q_d0 // BLOCK_K_D
                    k_d_hi = (BLOCK_K_D + k_d_end - 1) // BLOCK_K_D if q_d0 < k_d_end else k_d_lo
                    k_d_inner_end = min(NK_D, q_d0 + 1)
                    k_d_full_lo = min((BLOCK_K_D + q_d_last - 1) // BLOCK_K_D, k_d_hi)
                    k_d_full_hi = max(k_d_full_lo, k_d_inner_end // BLOCK_K_D)
                    tiles = (
                        (
                            k_a_lo,
                            k_a_hi,
                            k_a_full_lo,
                            min(k_a_full_hi, NK // width // dilation_y // BLOCK_K_A),
                        ),
                        (k_b_lo, k_b_hi, k_b_full_lo, k_b_full_hi),
                        (
                            k_c_lo,
                            k_c_hi,
                            k_c_full_lo,
                            min(k_c_full_hi, width // dilation_x // BLOCK_K_C),
                        ),
                        (k_d_lo, k_d_hi, k_d_full_lo, k_d_full_hi),
                    )
                    for (k_a0, k_b0, k_c0, k_d0), whole in boxes(
                        tiles, (BLOCK_K_A, BLOCK_K_B, BLOCK_K_C, BLOCK_K_D)
                    ):
                        k_a, k_b, k_c, k_d = digits(
                            (k_a0, BLOCK_K_A, NK_A),
                            (k_b0, BLOCK_K_B, NK_B),
                            (k_c0, BLOCK_K_C, NK_C),
                            (k_d0, BLOCK_K_D, NK_D),
                            device=device,
                        )
                        k = (k_a * dilation_y + k_b) * width + (k_c * dilation_x + k_d)
                        inside = (k < NK) & (k_c * dilation_x + k_d < width)
                        k_a, k_b, k_c, k_d, k = (x[inside] for x in (k_a, k_b, k_c, k_d, k))
                        if not len(k):
                            continue
                        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
                        K_kd = K[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                        S_qk = Q_qd @ K_kd.mT
                        # P_max[q] = max(k where seen) S[q,k]
                        S_seen_qk = S_qk
                        if not whole:
                            # seen: k < |k| and k // width % dilation_y == (q + (|k| - |q|)) //
                            #     width % dilation_y and max(0, min(min((q + (|k| - |q|)) // width
                            #     // dilation_y // stride_y * stride_y + (if causal_y then stride_y
                            #     - 1 else stride_y // 2), (|k| // width - (q + (|k| - |q|)) //
                            #     width % dilation_y + dilation_y - 1) // dilation_y - 1) - (if
                            #     causal_y then window_y - 1 else window_y // 2), if causal_y then
                            #     (|k| // width - (q + (|k| - |q|)) // width % dilation_y +
                            #     dilation_y - 1) // dilation_y else (|k| // width - (q + (|k| -
                            #     |q|)) // width % dilation_y + dilation_y - 1) // dilation_y -
                            #     window_y)) <= k // width // dilation_y and k // width //
                            #     dilation_y < (if causal_y then (q + (|k| - |q|)) // width //
                            #     dilation_y + 1 else max(0, min(min((q + (|k| - |q|)) // width //
                            #     dilation_y // stride_y * stride_y + stride_y // 2, (|k| // width -
                            #     (q + (|k| - |q|)) // width % dilation_y + dilation_y - 1) //
                            #     dilation_y - 1) - window_y // 2, (|k| // width - (q + (|k| - |q|))
                            #     // width % dilation_y + dilation_y - 1) // dilation_y - window_y))
                            #     + window_y) and k % width % dilation_x == (q + (|k| - |q|)) %
                            #     width % dilation_x and max(0, min(min((q + (|k| - |q|)) % width //
                            #     dilation_x // stride_x * stride_x + (if causal_x then stride_x - 1
                            #     else stride_x // 2), (width - (q + (|k| - |q|)) % width %
                            #     dilation_x + dilation_x - 1) // dilation_x - 1) - (if causal_x
                            #     then window_x - 1 else window_x // 2), if causal_x then (width -
                            #     (q + (|k| - |q|)) % width % dilation_x + dilation_x - 1) //
                            #     dilation_x else (width - (q + (|k| - |q|)) % width % dilation_x +
                            #     dilation_x - 1) // dilation_x - window_x)) <= k % width //
                            #     dilation_x and k % width // dilation_x < (if causal_x then (q +
                            #     (|k| - |q|)) % width // dilation_x + 1 else max(0, min(min((q +
                            #     (|k| - |q|)) % width // dilation_x // stride_x * stride_x +
                            #     stride_x // 2, (width - (q + (|k| - |q|)) % width % dilation_x +
                            #     dilation_x - 1) // dilation_x - 1) - window_x // 2, (width - (q +
                            #     (|k| - |q|)) % width % dilation_x + dilation_x - 1) // dilation_x
                            #     - window_x)) + window_x)
                            seen_qk = (
                                (
                                    (
                                        (
                                            (
                                                (
                                                    (k_b[None, :] == q_b[:, None])
                                                    & (
                                                        most(
                                                            0,
                                                            torch.minimum(
                                                                torch.minimum(
                                                                    (
                                                                        q_a
                                                                        + (NK - NQ)
                                                                        // (dilation_y * width)
                                                                    )
                                                                    // stride_y
                                                                    * stride_y
                                                                    + (
                                                                        stride_y - 1
                                                                        if causal_y
                                                                        else stride_y // 2
                                                                    ),
                                                                    (
                                                                        NK // width
                                                                        + dilation_y
                                                                        - q_b
                                                                        - 1
                                                                    )
                                                                    // dilation_y
                                                                    - 1,
                                                                )
                                                                - (
                                                                    window_y - 1
                                                                    if causal_y
                                                                    else window_y // 2
                                                                ),
                                                                (NK // width + dilation_y - q_b - 1)
                                                                // dilation_y
                                                                if causal_y
                                                                else (
                                                                    NK // width
                                                                    + dilation_y
                                                                    - q_b
                                                                    - 1
                                                                )
                                                                // dilation_y
                                                                - window_y,
                                                            ),
                                                        )[:, None]
                                                        <= k_a[None, :]
                                                    )
                                                )
                                                & (
                                                    k_a[None, :]
                                                    < (
                                                        q_a + (NK - NQ) // (dilation_y * width) + 1
                                                        if causal_y
                                                        else most(
                                                            0,
                                                            torch.minimum(
                                                                torch.minimum(
                                                                    (
                                                                        q_a
                                                                        + (NK - NQ)
                                                                        // (dilation_y * width)
                                                                    )
                                                                    // stride_y
                                                                    * stride_y
                                                                    + stride_y // 2,
                                                                    (
                                                                        NK // width
                                                                        + dilation_y
                                                                        - q_b
                                                                        - 1
                                                                    )
                                                                    // dilation_y
                                                                    - 1,
                                                                )
                                                                - window_y // 2,
                                                                (NK // width + dilation_y - q_b - 1)
                                                                // dilation_y
                                                                - window_y,
                                                            ),
                                                        )
                                                        + window_y
                                                    )[:, None]
                                                )
                                            )
                                            & (k_d[None, :] == q_d[:, None])
                                        )
                                        & (
                                            most(
                                                0,
                                                torch.minimum(
                                                    torch.minimum(
                                                        q_c // stride_x * stride_x
                                                        + (
                                                            stride_x - 1
                                                            if causal_x
                                                            else stride_x // 2
                                                        ),
                                                        (dilation_x + width - q_d - 1) // dilation_x
                                                        - 1,
                                                    )
                                                    - (window_x - 1 if causal_x else window_x // 2),
                                                    (dilation_x + width - q_d - 1) // dilation_x
                                                    if causal_x
                                                    else (dilation_x + width - q_d - 1)
                                                    // dilation_x
                                                    - window_x,
                                                ),
                                            )[:, None]
                                            <= k_c[None, :]
                                        )
                                    )
                                    & (
                                        k_c[None, :]
                                        < (
                                            q_c + 1
                                            if causal_x
                                            else most(
                                                0,
                                                torch.minimum(
                                                    torch.minimum(
                                                        q_c // stride_x * stride_x + stride_x // 2,
                                                        (dilation_x + width - q_d - 1) // dilation_x
                                                        - 1,
                                                    )
                                                    - window_x // 2,
                                                    (dilation_x + width - q_d - 1) // dilation_x
                                                    - window_x,
                                                ),
                                            )
                                            + window_x
                                        )[:, None]
                                    )
                                )
                                & torch.ones([len(q), len(k)], device=device, dtype=torch.bool)
                            )
                            S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
                        P_max_tile_q = S_seen_qk.amax(-1)
                        P_max_old_q = P_max_q
                        P_max_q = torch.maximum(P_max_old_q, P_max_tile_q * (1 / math.sqrt(D)))
                        # P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
                        alpha_q = torch.exp2(
                            P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
                        )
                        exp_S_seen_qk = torch.exp2(
                            S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                            - (finite(P_max_q) * 1.4426950408889634)[..., :, None]
                        )
                        P_total_tile_q = exp_S_seen_qk.sum(-1)
                        P_total_q = P_total_q * alpha_q + P_total_tile_q
                        # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
                        V_ke = V[:, :, k].index_select(1, (h // (NH // NG)).flatten()).to(kind)
                        O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_S_seen_qk @ V_ke
                    # O[q,e] = O_total[q,e] / P_total[q]
                    O_qe = divide(O_total_qe, P_total_q[..., :, None])
                    O[..., q, :] = O_qe.to(O.dtype)
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
    device = "cpu"
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
