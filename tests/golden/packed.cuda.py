"""Sequences of many lengths packed one behind the other without padding, each causal by itself.

`cu` holds where the sequences begin, in ascending order, and where the last one ends: FlashAttention's
`cu_seqlens` (arXiv 2307.08691), whose layout this is too. What lies before the first of them, or behind
the last, is a sequence like the others.

(1) own[k] = sum(s where cu[s] <= k) 1
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) P[q,k] = softmax(k where k <= q and own[k] == own[q]) S[q,k]
(4) O[q,e] = sum(k) P[q,k] * V[k,e]
(5) lse[q] = logsumexp(k where k <= q and own[k] == own[q]) S[q,k]

As it runs:

    seen: k <= q + (|k| - |q|) and (q + (|k| - |q|) >= 0 and sum(s where cu[s] <= k) 1 == sum(s
        where cu[s] <= max(q + (|k| - |q|), 0)) 1)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q], O_total[q,e].

Edit the pattern, not this file.
"""

import contextlib
import math
import weakref

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


ASCENDING = weakref.WeakValueDictionary()  # tables found sorted


def check_sorted(name, index, table, axis):
    """A table never falls along an index. One on a GPU that was found so is not looked at again."""
    captured = table.is_cuda and torch.cuda.is_current_stream_capturing()
    counted = table.is_cuda and not table.is_inference()
    key = (id(table), axis, table._version) if counted else None
    if key and not captured and ASCENDING.get(key) is table:
        return
    row = table.movedim(axis, -1)
    falls = row[..., 1:] < row[..., :-1]
    message = f"`{name}` is not sorted along `{index}`, as `assume sorted {name}` says: sort it, "
    message += "or take that line out of the pattern, which then visits every tile"
    if captured:
        torch._assert_async(~falls.any(), message)
        return
    if falls.any():
        place = falls.nonzero()[0, -1].item()
        raise ValueError(f"{message}; it falls behind {index} = {place}")
    if key:
        ASCENDING[key] = table


KINDS = (torch.float16, torch.bfloat16, torch.float32)

# an order pays for programs between these numbers, with rows of so many tiles
AT_ONCE, MANY, LONG = 512, 2048, 128

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
        "BLOCK_Q": 64, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 3,
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
def count_at_most(table, stride, size, limit):
    """How many elements of a sorted table are at most a limit, 128 looked at in every step."""
    lanes = tl.arange(0, 128)
    low, width = size * 0, size
    while width > 0:
        step = (width + 127) // 128
        x = tl.load(
            table + (low + lanes * step).to(tl.int64) * stride, mask=lanes * step < width, other=0
        )
        passed = tl.sum(((lanes * step < width) & (x <= limit)).to(tl.int32))
        start = tl.where(passed > 0, low + (passed - 1) * step + 1, low)
        width = tl.where(passed > 0, tl.minimum(step - 1, low + width - start), 0)
        low = start
    return low


@triton.jit
def counts_at_most(table, stride, size, limits):
    """How many elements of a sorted table are at most each limit: a binary search for all at once."""
    found, width = limits * 0, size
    while width > 0:
        half = (width + 1) // 2
        x = tl.load(table + (found + half - 1).to(tl.int64) * stride)
        found = tl.where(x <= limits, found + half, found)
        width -= half
    return found


@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["scu_s", "NQ", "NK", "NS"])
def packed_work_kernel(
    cu, q_work,
    scu_s,
    NQ, NK, NS,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    cu_count0 = count_at_most(cu, scu_s, NS, tl.maximum(q0 + (NK - NQ), 0))
    cu_at0 = tl.load(
        cu + tl.maximum(cu_count0 - 1, 0).to(tl.int64) * scu_s,
        mask=(tl.maximum(cu_count0 - 1, 0) < NS),
        other=0,
    )
    cu_count1 = count_at_most(cu, scu_s, NS, tl.maximum(last + (NK - NQ), 0))
    cu_at1 = tl.load(
        cu + tl.minimum(cu_count1, NS - 1).to(tl.int64) * scu_s,
        mask=(tl.minimum(cu_count1, NS - 1) >= 0) & (tl.minimum(cu_count1, NS - 1) < NS),
        other=0,
    )
    k_begin = (tl.maximum(0, tl.minimum(tl.where(cu_count0 <= 0, 0, NK), cu_at0))).to(tl.int32)
    k_end = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(NK + last - NQ + 1, tl.where(last + (NK - NQ) >= 0, NK, 0)),
                tl.maximum(tl.where(cu_count1 >= NS, NK, 0), cu_at1),
            ),
        )
    ).to(tl.int32)
    k_lo = k_begin // BLOCK_K
    k_hi = tl.where(k_begin < k_end, (BLOCK_K + k_end - 1) // BLOCK_K, k_lo)
    k_steps = k_hi - k_lo
    visited = k_steps
    tl.store(q_work + pid, visited)


@triton.jit(do_not_specialize=["scu_s", "NQ", "NK", "NH", "NS", "NG", "ordered", "beside"])
def packed_kernel(
    Q, K, V, cu, O,
    scu_s,
    sO_q, sO_h, sO_e,
    NQ, NK, NH, NS, NG,
    order, ordered, beside,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; most work comes first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    programs = tiles
    first = pid // (programs * beside) * beside
    many = tl.minimum(beside, NH - first)
    here = pid - first * programs
    place = first + here % many
    h = place
    pid = here // many
    pid = tl.load(order + pid, mask=pid < ordered, other=pid).to(tl.int32)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    O_here = O + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(k where seen) S[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    cu_count_q = counts_at_most(cu, scu_s, NS, tl.maximum(q + (NK - NQ), 0))
    cu_q = tl.load(
        cu + (tl.minimum(cu_count_q, NS - 1)).to(tl.int64) * scu_s,
        mask=(tl.minimum(cu_count_q, NS - 1) >= 0) & (tl.minimum(cu_count_q, NS - 1) < NS),
        other=0,
    )
    cu2_q = tl.load(
        cu + (tl.maximum(cu_count_q - 1, 0)).to(tl.int64) * scu_s,
        mask=(tl.maximum(cu_count_q - 1, 0) >= 0) & (tl.maximum(cu_count_q - 1, 0) < NS),
        other=0,
    )
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    cu_count0 = count_at_most(cu, scu_s, NS, tl.maximum(q0 + (NK - NQ), 0))
    cu_at0 = tl.load(
        cu + tl.maximum(cu_count0 - 1, 0).to(tl.int64) * scu_s,
        mask=(tl.maximum(cu_count0 - 1, 0) < NS),
        other=0,
    )
    cu_count1 = count_at_most(cu, scu_s, NS, tl.maximum(last + (NK - NQ), 0))
    cu_at1 = tl.load(
        cu + tl.minimum(cu_count1, NS - 1).to(tl.int64) * scu_s,
        mask=(tl.minimum(cu_count1, NS - 1) >= 0) & (tl.minimum(cu_count1, NS - 1) < NS),
        other=0,
    )
    cu_at2 = tl.load(
        cu + tl.maximum(cu_count1 - 1, 0).to(tl.int64) * scu_s,
        mask=(tl.maximum(cu_count1 - 1, 0) < NS),
        other=0,
    )
    cu_at3 = tl.load(
        cu + tl.minimum(cu_count0, NS - 1).to(tl.int64) * scu_s,
        mask=(tl.minimum(cu_count0, NS - 1) >= 0) & (tl.minimum(cu_count0, NS - 1) < NS),
        other=0,
    )
    k_begin = (tl.maximum(0, tl.minimum(tl.where(cu_count0 <= 0, 0, NK), cu_at0))).to(tl.int32)
    k_end = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(NK + last - NQ + 1, tl.where(last + (NK - NQ) >= 0, NK, 0)),
                tl.maximum(tl.where(cu_count1 >= NS, NK, 0), cu_at1),
            ),
        )
    ).to(tl.int32)
    k_lo = k_begin // BLOCK_K
    k_hi = tl.where(k_begin < k_end, (BLOCK_K + k_end - 1) // BLOCK_K, k_lo)
    k_inner_begin = (
        tl.maximum(0, tl.minimum(tl.where(cu_count1 <= 0, 0, NK), cu_at2))
    ).to(tl.int32)
    k_inner_end = (
        tl.maximum(
            0,
            tl.minimum(
                tl.minimum(NK + q0 - NQ + 1, tl.where(q0 + (NK - NQ) >= 0, NK, 0)),
                tl.maximum(tl.where(cu_count0 >= NS, NK, 0), cu_at3),
            ),
        )
    ).to(tl.int32)
    k_full_lo = tl.minimum((BLOCK_K + k_inner_begin - 1) // BLOCK_K, k_hi)
    k_full_hi = tl.maximum(k_full_lo, k_inner_end // BLOCK_K)
    k_steps = k_hi - k_lo
    k_whole = k_full_lo - k_lo
    k_edge = k_full_hi - k_lo
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = (k_lo + step) * BLOCK_K
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if (step < k_whole) | (step >= k_edge):
            # seen: k < |k| and k <= q + (|k| - |q|) and q + (|k| - |q|) >= 0 and k < (if sum(s
            #     where cu[s] <= max(q + (|k| - |q|), 0)) 1 >= |s| then |k| else cu[min(sum(s where
            #     cu[s] <= max(q + (|k| - |q|), 0)) 1, |s| - 1)]) and k >= (if sum(s where cu[s] <=
            #     max(q + (|k| - |q|), 0)) 1 <= 0 then 0 else cu[max(sum(s where cu[s] <= max(q +
            #     (|k| - |q|), 0)) 1 - 1, 0)])
            seen_qk = (
                (
                    (
                        ((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None]))
                        & (q + (NK - NQ) >= 0)[:, None]
                    )
                    & (k[None, :] < tl.where(cu_count_q >= NS, NK, cu_q)[:, None])
                )
                & (k[None, :] >= tl.where(cu_count_q <= 0, 0, cu2_q)[:, None])
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
        V_ke = V.load([h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_qe = tl.dot(
            exp_S_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = O_total[q,e] / P_total[q]
    O_qe = divide(O_total_qe, P_total_q[:, None])
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def packed(Q, K, V, cu):
    """Q[q,h,d], K[k,g,d], V[k,g,e], cu[s] -> O[q,h,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "q h d", Q),
        ("K", "k g d", K),
        ("V", "k g e", V),
        ("cu", "s", cu),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [("cu", cu)], [], KINDS)
    check_sorted("cu", "s", cu, 0)
    NQ, NH, D, NK, NG, E, NS = (
        sizes["q"], sizes["h"], sizes["d"], sizes["k"], sizes["g"], sizes["e"], sizes["s"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    # sums of shorter integers would wrap around
    cu = cu.to(torch.promote_types(cu.dtype, torch.int32))
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
    far = max(cu.stride(0), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NQ, NH, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            # rows are uneven work, by the tables of this call: most of it comes first
            order = Q.new_empty(0, dtype=torch.int32)
            beside = 1
            if AT_ONCE < grid <= MANY and triton.cdiv(NK, tile["BLOCK_K"]) > LONG:
                q_work = Q.new_empty(triton.cdiv(NQ, tile["BLOCK_Q"]), dtype=torch.int32)
                packed_work_kernel[(q_work.numel(),)](
                    cu, q_work,
                    *cu.stride(),
                    NQ, NK, NS,
                    BLOCK_Q=tile["BLOCK_Q"], BLOCK_K=tile["BLOCK_K"],
                    num_warps=1, num_stages=1,
                )
                order = torch.empty_like(q_work)
                _order_kernel[(q_work.numel(),)](
                    q_work, order, q_work.numel(), num_warps=4, num_stages=1
                )
                beside = NH
            packed_kernel[(grid,)](
                describe(Q.permute(1, 0, 2), [1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K.permute(1, 0, 2), [1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V.permute(1, 0, 2), [1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                cu, O,
                *cu.stride(), *O.stride(),
                NQ, NK, NH, NS, NG,
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


def reference(Q, K, V, cu):
    """`packed`: dense, differentiable, any device and dtype."""
    # sums of shorter integers would wrap around
    cu = cu.long()
    NQ, NH, D = Q.shape
    NK, NG, _ = K.shape
    q = torch.arange(NQ, device=Q.device)
    h = torch.arange(NH, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # own[k] = sum(s where cu[s] <= k) 1
    own = (cu <= k[:, None]).sum(-1)
    # S[h,q,k] = sum(d) Q[q,h,d] * K[k, h // (|h| // |g|), d] / sqrt(|d|)
    S = _einsum("qhd,khd->hqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[h,q,k] = if k <= q + (|k| - |q|) and own[k] == own[q + (|k| - |q|)] then exp(S[h,q,k] -
    #     max(k where k <= q + (|k| - |q|) and own[k] == own[q + (|k| - |q|)]) S[h,q,k]) / sum(k
    #     where k <= q + (|k| - |q|) and own[k] == own[q + (|k| - |q|)]) exp(S[h,q,k] - max(k where
    #     k <= q + (|k| - |q|) and own[k] == own[q + (|k| - |q|)]) S[h,q,k]) else 0
    at_q = q + (NK - NQ)
    where_qk = (k <= at_q[:, None]) & (own == _take(own, {0: at_q})[:, None])
    max_P_q = _amax(torch.where(where_qk, S, -math.inf), 2, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_qk, S - max_P_q[..., None], -math.inf))
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # O[h,q,e] = sum(k) P[h,q,k] * V[k, h // (|h| // |g|), e]
    O = _einsum("hqk,khe->hqe", P, V[:, h // (NH // NG)])
    return O.transpose(-3, -2)


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(150, 4, 64, device=device, dtype=torch.float32),
        "K": torch.randn(203, 2, 64, device=device, dtype=torch.float32),
        "V": torch.randn(203, 2, 64, device=device, dtype=torch.float32),
        "cu": (torch.arange(203, device=device) * 40).expand(203).contiguous(),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = packed(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
