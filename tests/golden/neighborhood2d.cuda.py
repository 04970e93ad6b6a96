"""Neighborhood attention on a grid: a query sees the `window` by `window` keys around it (arXiv 2204.07143).

NATTEN's rule at the borders: the window moves inward, so that every query sees equally many keys. The grid is
in row-major order, `width` keys to the row; `window` is at most either side. An even window reaches one
further up and left. Dilation and stride are 1.

(1) near[q,y,x] = around(y, q // width, window, |y|) and around(x, q % width, window, |x|)
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) P[q,y,x] = softmax(y, x where near[q,y,x]) S[q,y,x]
(4) O[q,e] = sum(y, x) P[q,y,x] * V[y,x,e]

As it runs:

    seen: max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) <= k // width and k //
        width < max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) + window and
        max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) <= k % width and k %
        width < max(0, min((q + (|k| - |q|)) % width - window // 2, |x| - window)) + window
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over the boxes of k_a, k_b that are live along each; tiles of rows are boxes too.
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
        "BLOCK_Q_B": 8,
        "BLOCK_K_A": 8,
        "BLOCK_K_B": 8,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 4,
        "BLOCK_Q_B": 8,
        "BLOCK_K_A": 4,
        "BLOCK_K_B": 8,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64,
        "BLOCK_K": 64,
        "BLOCK_Q_A": 8,
        "BLOCK_Q_B": 8,
        "BLOCK_K_A": 8,
        "BLOCK_K_B": 8,
        "BLOCK_D": 128,
        "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 4,
        "BLOCK_Q_B": 8,
        "BLOCK_K_A": 4,
        "BLOCK_K_B": 8,
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
        "window", "NQ", "NK", "NB", "NH", "NQ_A", "NQ_B", "NK_A", "NK_B", "NY", "NX", "NG"
    ]
)
def neighborhood2d_kernel(
    Q, K, V, O,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sK_b, sK_g, sK_k, sK_d,
    sV_b, sV_g, sV_k, sV_e,
    sO_b, sO_h, sO_q, sO_e,
    window,
    NQ, NK, NB, NH, NQ_A, NQ_B, NK_A, NK_B, NY, NX, NG,
    width: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_Q_A: tl.constexpr,
    BLOCK_K_A: tl.constexpr,
    BLOCK_Q_B: tl.constexpr,
    BLOCK_K_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    q_a_tiles = tl.cdiv(NQ_A, BLOCK_Q_A)
    q_b_tiles = tl.cdiv(NQ_B, BLOCK_Q_B)
    tiles = q_a_tiles * q_b_tiles
    tile = tiles - 1 - pid % tiles
    q_a0 = (tile // q_b_tiles) * BLOCK_Q_A
    q_b0 = (tile % q_b_tiles) * BLOCK_Q_B
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    q_in = tl.arange(0, BLOCK_Q)
    q_a = q_a0 + (q_in // BLOCK_Q_B)
    q_b = q_b0 + (q_in % BLOCK_Q_B)
    q_place = (q_a + floor_divide(NK - NQ, width)) * width + q_b - (NK - NQ)
    q = tl.where((q_a < NQ_A) & (q_b < NQ_B) & (q_place >= 0), q_place, NQ)
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
    k_a_begin = tl.maximum(
        0, tl.minimum(floor_divide(NK - NQ, width) + q_a0 - floor_divide(window, 2), NY - window)
    )
    k_a_end = tl.maximum(
        0,
        tl.minimum(
            NK_A,
            tl.maximum(
                0,
                tl.minimum(
                    floor_divide(NK - NQ, width) + q_a_last - floor_divide(window, 2), NY - window
                ),
            )
            + window,
        ),
    )
    k_a_lo = k_a_begin // BLOCK_K_A
    k_a_hi = tl.where(k_a_begin < k_a_end, (BLOCK_K_A + k_a_end - 1) // BLOCK_K_A, k_a_lo)
    k_a_inner_begin = tl.maximum(
        0,
        tl.minimum(floor_divide(NK - NQ, width) + q_a_last - floor_divide(window, 2), NY - window),
    )
    k_a_inner_end = tl.maximum(
        0,
        tl.minimum(
            NK_A,
            tl.maximum(
                0,
                tl.minimum(
                    floor_divide(NK - NQ, width) + q_a0 - floor_divide(window, 2), NY - window
                ),
            )
            + window,
        ),
    )
    k_a_full_lo = tl.minimum((BLOCK_K_A + k_a_inner_begin - 1) // BLOCK_K_A, k_a_hi)
    k_a_full_hi = tl.maximum(k_a_full_lo, k_a_inner_end // BLOCK_K_A)
    k_a_count = k_a_hi - k_a_lo
    q_b_last = tl.minimum(q_b0 + BLOCK_Q_B, NQ_B) - 1
    k_b_begin = tl.maximum(0, tl.minimum(q_b0 - floor_divide(window, 2), NX - window))
    k_b_end = tl.maximum(
        0,
        tl.minimum(
            NK_B,
            tl.maximum(0, tl.minimum(q_b_last - floor_divide(window, 2), NX - window)) + window,
        ),
    )
    k_b_lo = k_b_begin // BLOCK_K_B
    k_b_hi = tl.where(k_b_begin < k_b_end, (BLOCK_K_B + k_b_end - 1) // BLOCK_K_B, k_b_lo)
    k_b_inner_begin = tl.maximum(0, tl.minimum(q_b_last - floor_divide(window, 2), NX - window))
    k_b_inner_end = tl.maximum(
        0,
        tl.minimum(
            NK_B, tl.maximum(0, tl.minimum(q_b0 - floor_divide(window, 2), NX - window)) + window
        ),
    )
    k_b_full_lo = tl.minimum((BLOCK_K_B + k_b_inner_begin - 1) // BLOCK_K_B, k_b_hi)
    k_b_full_hi = tl.maximum(k_b_full_lo, k_b_inner_end // BLOCK_K_B)
    k_b_count = k_b_hi - k_b_lo
    k_steps = k_a_count * k_b_count
    # boxes that are live along every axis: those on an edge of any axis are tested
    for step in tl.range(0, k_steps):
        k_a_tile = k_a_lo + (step // k_b_count)
        k_b_tile = k_b_lo + (step % k_b_count)
        k_a0 = k_a_tile * BLOCK_K_A
        k_b0 = k_b_tile * BLOCK_K_B
        k_a = k_a0 + (k_in // BLOCK_K_B)
        k_b = k_b0 + (k_in % BLOCK_K_B)
        k_place = k_a * width + k_b
        k = tl.where((k_a < NK_A) & (k_b < NK_B), k_place, NK)
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
            & (k_a_tile < tl.minimum(k_a_full_hi, NK // width // BLOCK_K_A))
            & (k_b_full_lo <= k_b_tile)
            & (k_b_tile < k_b_full_hi)
        ):
            # seen: k < |k| and max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window))
            #     <= k // width and k // width < max(0, min((q + (|k| - |q|)) // width - window //
            #     2, |y| - window)) + window and max(0, min((q + (|k| - |q|)) % width - window // 2,
            #     |x| - window)) <= k % width and k % width < max(0, min((q + (|k| - |q|)) % width -
            #     window // 2, |x| - window)) + window
            seen_qk = (
                (
                    (
                        (
                            (k < NK)[None, :]
                            & (
                                tl.maximum(
                                    0,
                                    tl.minimum(
                                        q_a
                                        + floor_divide(NK - NQ, width)
                                        - floor_divide(window, 2),
                                        NY - window,
                                    ),
                                )[:, None]
                                <= k_a[None, :]
                            )
                        )
                        & (
                            k_a[None, :]
                            < (
                                tl.maximum(
                                    0,
                                    tl.minimum(
                                        q_a
                                        + floor_divide(NK - NQ, width)
                                        - floor_divide(window, 2),
                                        NY - window,
                                    ),
                                )
                                + window
                            )[:, None]
                        )
                    )
                    & (
                        tl.maximum(
                            0, tl.minimum(q_b - floor_divide(window, 2), NX - window)
                        )[:, None]
                        <= k_b[None, :]
                    )
                )
                & (
                    k_b[None, :]
                    < (
                        tl.maximum(0, tl.minimum(q_b - floor_divide(window, 2), NX - window))
                        + window
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


def neighborhood2d(Q, K, V, width, window=7):
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
    check_number("window", window, int)
    if width <= 0:
        raise ValueError(f"`width` divides positions and must be positive, not {width}")
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NY = (((NK + width) - 1) // width)
    NX = width
    NQ_A = ((((NK - 1) // width) - ((NK - NQ) // width)) + 1)
    NK_A = (((NK + width) - 1) // width)
    NQ_B = width
    NK_B = width
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
    far = max(Q.stride(2), Q.stride(3), K.stride(2), K.stride(3), V.stride(2), V.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ_A, tile["BLOCK_Q_A"]) * triton.cdiv(NQ_B, tile["BLOCK_Q_B"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            neighborhood2d_kernel[(grid,)](
                Q, K, V, O,
                *Q.stride(), *K.stride(), *V.stride(), *O.stride(),
                window,
                NQ, NK, NB, NH, NQ_A, NQ_B, NK_A, NK_B, NY, NX, NG,
                width, D, E,
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


def reference(Q, K, V, width, window=7):
    """`neighborhood2d`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    NY = (NK + width - 1) // width
    NX = width
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    y = torch.arange(NY, device=Q.device)
    x = torch.arange(NX, device=Q.device)
    # near[q,y,x] = max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) <= y and y <
    #     max(0, min((q + (|k| - |q|)) // width - window // 2, |y| - window)) + window and (max(0,
    #     min((q + (|k| - |q|)) % width - window // 2, |x| - window)) <= x and x < max(0, min((q +
    #     (|k| - |q|)) % width - window // 2, |x| - window)) + window)
    at_q = q + (NK - NQ)
    at_near_q = (at_q // width - window // 2).clamp(max=NY - window).clamp(min=0)
    at_near_q_2 = (at_q % width - window // 2).clamp(max=NX - window).clamp(min=0)
    near = (
        ((at_near_q[:, None] <= y) & (y < (at_near_q + window)[:, None]))[..., None]
        & (at_near_q_2[:, None] <= x)[:, None]
        & (x < (at_near_q_2 + window)[:, None])[:, None]
    )
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,y,x] = if near[q,y,x] then exp(S[b, h, q, y * width + x] - max(y, x where near[q,y,x])
    #     S[b, h, q, y * width + x]) / sum(y, x where near[q,y,x]) exp(S[b, h, q, y * width + x] -
    #     max(y, x where near[q,y,x]) S[b, h, q, y * width + x]) else 0
    at_yx = (y * width)[:, None] + x
    where_qyx = near & (at_yx < NK)
    part_P_qyx = torch.where(where_qyx, _take(S, {3: at_yx}), -math.inf)
    max_P_q = _amax(_amax(part_P_qyx, 4, -math.inf), 3, -math.inf)
    exp_P_qyx = torch.exp(torch.where(where_qyx, _take(S, {3: at_yx}) - max_P_q[..., None, None], -math.inf))
    P = _divide(exp_P_qyx, exp_P_qyx.sum((3, 4))[..., None, None])
    # O[b,h,q,e] = sum(y, x) P[b,h,q,y,x] * V[b, h // (|h| // |g|), y * width + x, e]
    O = _einsum("bhqyx,bhyxe->bhqe", torch.where(at_yx < NK, P, 0), _take(V[:, h // (NH // NG)], {2: at_yx}))
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "width": 16,
        "window": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = neighborhood2d(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
