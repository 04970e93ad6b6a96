"""Neighborhood attention along one axis, with dilation, stride and causality (arXiv 2504.16922).

NATTEN's rule: `stride` queries of one residue modulo `dilation` share the window of a leader; at the ends the
window moves inward, and a causal one ends with the query. `window * dilation` is at most the number of keys,
and `stride` at most `window`.

(1) size[q] = (|k| - q % dilation + dilation - 1) // dilation
(2) lead[q] = q // dilation // stride * stride + (if causal then stride - 1 else stride // 2)
(3) back = if causal then window - 1 else window // 2
(4) last[q] = if causal then size[q] - 1 else size[q] - window + window // 2
(5) start[q] = max(0, min(lead[q], last[q]) - back)
(6) stop[q] = if causal then q // dilation + 1 else start[q] + window
(7) near[q,k] = start[q] <= k // dilation and k // dilation < stop[q]
(8) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(9) P[q,k] = softmax(k where k % dilation == q % dilation and near[q,k]) S[q,k]
(10) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: k % dilation == (q + (|k| - |q|)) % dilation and max(0, min((q + (|k| - |q|)) // dilation
        // stride * stride + (if causal then stride - 1 else stride // 2), if causal then (|k| - (q
        + (|k| - |q|)) % dilation + dilation - 1) // dilation - 1 else (|k| - (q + (|k| - |q|)) %
        dilation + dilation - 1) // dilation - window + window // 2) - (if causal then window - 1
        else window // 2)) <= k // dilation and k // dilation < (if causal then (q + (|k| - |q|)) //
        dilation + 1 else max(0, min((q + (|k| - |q|)) // dilation // stride * stride + stride // 2,
        (|k| - (q + (|k| - |q|)) % dilation + dilation - 1) // dilation - window + window // 2) -
        window // 2) + window)
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
        "BLOCK_Q_A": 64,
        "BLOCK_Q_B": 1,
        "BLOCK_K_A": 64,
        "BLOCK_K_B": 1,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 32,
        "BLOCK_Q_B": 1,
        "BLOCK_K_A": 32,
        "BLOCK_K_B": 1,
        "BLOCK_D": 64,
        "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64,
        "BLOCK_K": 64,
        "BLOCK_Q_A": 64,
        "BLOCK_Q_B": 1,
        "BLOCK_K_A": 64,
        "BLOCK_K_B": 1,
        "BLOCK_D": 128,
        "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 3,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32,
        "BLOCK_K": 32,
        "BLOCK_Q_A": 32,
        "BLOCK_Q_B": 1,
        "BLOCK_K_A": 32,
        "BLOCK_K_B": 1,
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
        "window",
        "dilation",
        "stride",
        "causal",
        "NQ",
        "NK",
        "NB",
        "NH",
        "NQ_A",
        "NQ_B",
        "NK_A",
        "NK_B",
        "NG",
    ]
)
def natten1d_kernel(
    Q, K, V, O,
    sQ_b, sQ_h, sQ_q, sQ_d,
    sK_b, sK_g, sK_k, sK_d,
    sV_b, sV_g, sV_k, sV_e,
    sO_b, sO_h, sO_q, sO_e,
    window, dilation, stride, causal,
    NQ, NK, NB, NH, NQ_A, NQ_B, NK_A, NK_B, NG,
    D: tl.constexpr, E: tl.constexpr,
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
    q_place = (q_a + floor_divide(NK - NQ, dilation)) * dilation + q_b - (NK - NQ)
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
    k_a_begin = (
        tl.maximum(
            0,
            tl.minimum(
                floor_divide(floor_divide(NK - NQ, dilation) + q_a0, stride) * stride
                + tl.where(causal != 0, stride - 1, stride // 2),
                tl.where(
                    causal != 0,
                    floor_divide(dilation + NK - q_b0 - 1, dilation) - 1,
                    (
                        floor_divide(dilation + NK - q_b0 - 1, dilation) + floor_divide(window, 2)
                    ).to(tl.int64)
                    - window,
                ),
            )
            - tl.where(causal != 0, window - 1, floor_divide(window, 2)),
        )
    ).to(tl.int32)
    k_a_end = (
        tl.maximum(
            0,
            tl.minimum(
                NK_A,
                tl.where(
                    causal != 0,
                    floor_divide(NK - NQ, dilation) + q_a_last + 1,
                    tl.maximum(
                        0,
                        tl.minimum(
                            floor_divide(floor_divide(NK - NQ, dilation) + q_a_last, stride)
                            * stride
                            + stride // 2,
                            (
                                floor_divide(dilation + NK - q_b0 - 1, dilation)
                                + floor_divide(window, 2)
                            ).to(tl.int64)
                            - window,
                        )
                        - floor_divide(window, 2),
                    )
                    + window,
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
                floor_divide(floor_divide(NK - NQ, dilation) + q_a_last, stride) * stride
                + tl.where(causal != 0, stride - 1, stride // 2),
                tl.where(
                    causal != 0,
                    floor_divide(dilation + NK - q_b0 - 1, dilation) - 1,
                    (
                        floor_divide(dilation + NK - q_b0 - 1, dilation) + floor_divide(window, 2)
                    ).to(tl.int64)
                    - window,
                ),
            )
            - tl.where(causal != 0, window - 1, floor_divide(window, 2)),
        )
    ).to(tl.int32)
    k_a_inner_end = (
        tl.maximum(
            0,
            tl.minimum(
                NK_A,
                tl.where(
                    causal != 0,
                    floor_divide(NK - NQ, dilation) + q_a0 + 1,
                    tl.maximum(
                        0,
                        tl.minimum(
                            floor_divide(floor_divide(NK - NQ, dilation) + q_a0, stride) * stride
                            + stride // 2,
                            (
                                floor_divide(dilation + NK - q_b0 - 1, dilation)
                                + floor_divide(window, 2)
                            ).to(tl.int64)
                            - window,
                        )
                        - floor_divide(window, 2),
                    )
                    + window,
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
    k_steps = k_a_count * k_b_count
    # boxes that are live along every axis: those on an edge of any axis are tested
    for step in tl.range(0, k_steps):
        k_a_tile = k_a_lo + (step // k_b_count)
        k_b_tile = k_b_lo + (step % k_b_count)
        k_a0 = k_a_tile * BLOCK_K_A
        k_b0 = k_b_tile * BLOCK_K_B
        k_a = k_a0 + (k_in // BLOCK_K_B)
        k_b = k_b0 + (k_in % BLOCK_K_B)
        k_place = k_a * dilation + k_b
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
            & (k_a_tile < tl.minimum(k_a_full_hi, NK // dilation // BLOCK_K_A))
            & (k_b_full_lo <= k_b_tile)
            & (k_b_tile < k_b_full_hi)
        ):
            # seen: k < |k| and k % dilation == (q + (|k| - |q|)) % dilation and max(0, min((q +
            #     (|k| - |q|)) // dilation // stride * stride + (if causal then stride - 1 else
            #     stride // 2), if causal then (|k| - (q + (|k| - |q|)) % dilation + dilation - 1)
            #     // dilation - 1 else (|k| - (q + (|k| - |q|)) % dilation + dilation - 1) //
            #     dilation - window + window // 2) - (if causal then window - 1 else window // 2))
            #     <= k // dilation and k // dilation < (if causal then (q + (|k| - |q|)) // dilation
            #     + 1 else max(0, min((q + (|k| - |q|)) // dilation // stride * stride + stride //
            #     2, (|k| - (q + (|k| - |q|)) % dilation + dilation - 1) // dilation - window +
            #     window // 2) - window // 2) + window)
            seen_qk = (
                (
                    ((k < NK)[None, :] & (k_b[None, :] == q_b[:, None]))
                    & (
                        tl.maximum(
                            0,
                            tl.minimum(
                                floor_divide(q_a + floor_divide(NK - NQ, dilation), stride) * stride
                                + tl.where(causal != 0, stride - 1, stride // 2),
                                tl.where(
                                    causal != 0,
                                    floor_divide(dilation + NK - q_b - 1, dilation) - 1,
                                    floor_divide(dilation + NK - q_b - 1, dilation)
                                    + floor_divide(window, 2)
                                    - window,
                                ),
                            )
                            - tl.where(causal != 0, window - 1, floor_divide(window, 2)),
                        )[:, None]
                        <= k_a[None, :]
                    )
                )
                & (
                    k_a[None, :]
                    < tl.where(
                        causal != 0,
                        q_a + floor_divide(NK - NQ, dilation) + 1,
                        tl.maximum(
                            0,
                            tl.minimum(
                                floor_divide(q_a + floor_divide(NK - NQ, dilation), stride) * stride
                                + stride // 2,
                                floor_divide(dilation + NK - q_b - 1, dilation)
                                + floor_divide(window, 2)
                                - window,
                            )
                            - floor_divide(window, 2),
                        )
                        + window,
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


def natten1d(Q, K, V, window=7, dilation=1, stride=1, causal=False):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    check_number("window", window, int)
    check_number("dilation", dilation, int)
    check_number("stride", stride, int)
    check_number("causal", causal, bool)
    if dilation <= 0:
        raise ValueError(f"`dilation` divides positions and must be positive, not {dilation}")
    if stride <= 0:
        raise ValueError(f"`stride` divides positions and must be positive, not {stride}")
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    NQ_A = ((((NK - 1) // dilation) - ((NK - NQ) // dilation)) + 1)
    NK_A = (((dilation + NK) - 1) // dilation)
    NQ_B = dilation
    NK_B = dilation
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
            natten1d_kernel[(grid,)](
                Q, K, V, O,
                *Q.stride(), *K.stride(), *V.stride(), *O.stride(),
                window, dilation, stride, int(causal),
                NQ, NK, NB, NH, NQ_A, NQ_B, NK_A, NK_B, NG,
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


def reference(Q, K, V, window=7, dilation=1, stride=1, causal=False):
    """`natten1d`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # size[q] = (|k| - (q + (|k| - |q|)) % dilation + dilation - 1) // dilation
    size = (NK - (q + (NK - NQ)) % dilation + dilation - 1) // dilation
    # lead[q] = (q + (|k| - |q|)) // dilation // stride * stride + (if causal then stride - 1 else
    #     stride // 2)
    lead = (q + (NK - NQ)) // dilation // stride * stride + (stride - 1 if causal else stride // 2)
    # back = if causal then window - 1 else window // 2
    back = Q.new_full((), window - 1 if causal else window // 2, dtype=torch.int64)
    # last[q] = if causal then size[q] - 1 else size[q] - window + window // 2
    last = size - 1 if causal else size - window + window // 2
    # start[q] = max(0, min(lead[q], last[q]) - back)
    start = (torch.minimum(lead, last) - back).clamp(min=0)
    # stop[q] = if causal then (q + (|k| - |q|)) // dilation + 1 else start[q] + window
    stop = (q + (NK - NQ)) // dilation + 1 if causal else start + window
    # near[q,k] = start[q] <= k // dilation and k // dilation < stop[q]
    at_k = k // dilation
    near = (start[:, None] <= at_k) & (at_k < stop[:, None])
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if k % dilation == (q + (|k| - |q|)) % dilation and near[q,k] then exp(S[b,h,q,k]
    #     - max(k where k % dilation == (q + (|k| - |q|)) % dilation and near[q,k]) S[b,h,q,k]) /
    #     sum(k where k % dilation == (q + (|k| - |q|)) % dilation and near[q,k]) exp(S[b,h,q,k] -
    #     max(k where k % dilation == (q + (|k| - |q|)) % dilation and near[q,k]) S[b,h,q,k]) else 0
    where_qk = (k % dilation == ((q + (NK - NQ)) % dilation)[:, None]) & near
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
        "window": 3,
        "dilation": 1,
        "stride": 1,
        "causal": False,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = natten1d(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
