"""LServe's static half: streaming heads see the first and the last blocks, the others all (arXiv 2502.14866).

The prefill, with 128 sinks and 8,192 last keys; decoding keeps 256. Blocks of 128 keys are those of its
kernel's layout, unverified. What its dense heads select while decoding is not part of it.

(1) near[q,k] = k // block < sinks or q // block - k // block < local
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) P[q,k] = softmax(k where k <= q and (not streaming or near[q,k])) S[q,k]
(4) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: k <= q + (|k| - |q|) and (not streaming or k // block < sinks or (q + (|k| - |q|)) //
        block - k // block < local)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over 3 ranges of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q], O_total[q,e].

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


@triton.jit
def floor_divide(a, b):
    """a // b rounded down for b > 0; the hardware rounds towards 0."""
    return (a - ((a % b) + b) % b) // b


@triton.jit(do_not_specialize=["sstreaming_g", "block", "sinks", "local", "NQ", "NK", "NH", "NG"])
def lserve_work_kernel(
    streaming, q_work,
    sstreaming_g,
    block, sinks, local,
    NQ, NK, NH, NG,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = pid // tiles
    streaming_here = streaming + (h // (NH // NG)).to(tl.int64) * sstreaming_g
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    streaming_at0 = tl.load(streaming_here) != 0
    k_end0 = tl.maximum(0, NK + last - NQ + 1)
    k_hi0 = tl.where(~(streaming_at0), (BLOCK_K + k_end0 - 1) // BLOCK_K, 0)
    k_inner_end0 = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi0 = tl.minimum(k_inner_end0 // BLOCK_K, k_hi0)
    k_end1 = (
        tl.maximum(0, tl.minimum(NK + last - NQ + 1, block.to(tl.int64) * sinks))
    ).to(tl.int32)
    k_hi1 = (BLOCK_K + k_end1 - 1) // BLOCK_K
    k_inner_end1 = (
        tl.maximum(0, tl.minimum(NK + q0 - NQ + 1, block.to(tl.int64) * sinks))
    ).to(tl.int32)
    k_full_hi1 = k_inner_end1 // BLOCK_K
    k_begin2 = (
        tl.minimum(
            tl.maximum(
                0, floor_divide(NK + q0 - NQ, block) * block + block - block.to(tl.int64) * local
            ),
            NK,
        )
    ).to(tl.int32)
    k_lo2 = k_begin2 // BLOCK_K
    k_hi2 = tl.where(k_begin2 < k_end0, (BLOCK_K + k_end0 - 1) // BLOCK_K, k_lo2)
    k_stop0 = tl.where(k_hi0 <= k_hi1, tl.minimum(k_hi0, k_full_hi0), k_hi0)
    k_stop1 = tl.maximum(
        tl.where(k_hi1 <= k_hi2, tl.minimum(k_hi1, tl.maximum(k_lo2, k_full_hi1)), k_hi1), k_stop0
    )
    k_start2 = tl.maximum(k_lo2, k_stop1)
    k_stop2 = tl.maximum(k_hi2, k_start2)
    k_steps0 = k_stop0
    k_steps1 = k_steps0 + k_stop1 - k_stop0
    k_steps2 = k_steps1 + k_stop2 - k_start2
    visited = k_steps2
    tl.store(q_work + pid, visited)


@triton.jit(
    do_not_specialize=[
        "sstreaming_g", "block", "sinks", "local", "NQ", "NK", "NB", "NH", "NG", "ordered", "beside"
    ]
)
def lserve_kernel(
    Q, K, V, streaming, O,
    sstreaming_g,
    sO_b, sO_h, sO_q, sO_e,
    block, sinks, local,
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
    streaming_here = streaming + (h // (NH // NG)).to(tl.int64) * sstreaming_g
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(k where seen) S[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    streaming_ = tl.load(streaming_here) != 0
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    streaming_at0 = tl.load(streaming_here) != 0
    k_end0 = tl.maximum(0, NK + last - NQ + 1)
    k_hi0 = tl.where(~(streaming_at0), (BLOCK_K + k_end0 - 1) // BLOCK_K, 0)
    k_inner_end0 = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi0 = tl.minimum(k_inner_end0 // BLOCK_K, k_hi0)
    k_end1 = (
        tl.maximum(0, tl.minimum(NK + last - NQ + 1, block.to(tl.int64) * sinks))
    ).to(tl.int32)
    k_hi1 = (BLOCK_K + k_end1 - 1) // BLOCK_K
    k_inner_end1 = (
        tl.maximum(0, tl.minimum(NK + q0 - NQ + 1, block.to(tl.int64) * sinks))
    ).to(tl.int32)
    k_full_hi1 = k_inner_end1 // BLOCK_K
    k_begin2 = (
        tl.minimum(
            tl.maximum(
                0, floor_divide(NK + q0 - NQ, block) * block + block - block.to(tl.int64) * local
            ),
            NK,
        )
    ).to(tl.int32)
    k_lo2 = k_begin2 // BLOCK_K
    k_hi2 = tl.where(k_begin2 < k_end0, (BLOCK_K + k_end0 - 1) // BLOCK_K, k_lo2)
    k_inner_begin2 = (
        tl.minimum(
            tl.maximum(
                0, floor_divide(NK + last - NQ, block) * block + block - block.to(tl.int64) * local
            ),
            NK,
        )
    ).to(tl.int32)
    k_full_lo2 = tl.minimum((BLOCK_K + k_inner_begin2 - 1) // BLOCK_K, k_hi2)
    k_full_hi2 = tl.maximum(k_full_lo2, k_inner_end0 // BLOCK_K)
    k_stop0 = tl.where(k_hi0 <= k_hi1, tl.minimum(k_hi0, k_full_hi0), k_hi0)
    k_full_stop0 = tl.minimum(k_full_hi0, k_stop0)
    k_stop1 = tl.maximum(
        tl.where(k_hi1 <= k_hi2, tl.minimum(k_hi1, tl.maximum(k_lo2, k_full_hi1)), k_hi1), k_stop0
    )
    k_full_start1 = tl.minimum(k_stop0, k_stop1)
    k_full_stop1 = tl.minimum(tl.maximum(k_full_hi1, k_full_start1), k_stop1)
    k_start2 = tl.maximum(k_lo2, k_stop1)
    k_stop2 = tl.maximum(k_hi2, k_start2)
    k_full_start2 = tl.minimum(tl.maximum(k_full_lo2, k_start2), k_stop2)
    k_full_stop2 = tl.minimum(tl.maximum(k_full_hi2, k_full_start2), k_stop2)
    k_steps0 = k_stop0
    k_steps1 = k_steps0 + k_stop1 - k_stop0
    k_steps2 = k_steps1 + k_stop2 - k_start2
    k_edge0 = k_full_stop0
    k_whole1 = k_steps0 + k_full_start1 - k_stop0
    k_edge1 = k_steps0 + k_full_stop1 - k_stop0
    k_whole2 = k_steps1 + k_full_start2 - k_start2
    k_edge2 = k_steps1 + k_full_stop2 - k_start2
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps2):
        k0 = (
            tl.where(
                step < k_steps0,
                step,
                tl.where(step < k_steps1, k_stop0 + step - k_steps0, k_start2 + step - k_steps1),
            )
            * BLOCK_K
        )
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if (
            (step >= k_edge0) & (step < k_whole1)
        ) | ((step >= k_edge1) & (step < k_whole2)) | (step >= k_edge2):
            # seen: k < |k| and k <= q + (|k| - |q|) and (not streaming or k // block < sinks or (q
            #     + (|k| - |q|)) // block - k // block < local)
            seen_qk = (
                ((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None]))
                & (
                    (~(streaming_) | (k <= block.to(tl.int64) * sinks - 1))[None, :]
                    | (
                        (
                            floor_divide(q + NK - NQ, block) * block
                            + block
                            - block.to(tl.int64) * local
                        )[:, None]
                        <= k[None, :]
                    )
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
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
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


def lserve(Q, K, V, streaming, block=128, sinks=1, local=64):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], streaming[g] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("streaming", "g", streaming),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [("streaming", streaming)], KINDS)
    check_number("block", block, int)
    check_number("sinks", sinks, int)
    check_number("local", local, int)
    if block <= 0:
        raise ValueError(f"`block` divides positions and must be positive, not {block}")
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
                lserve_work_kernel[(q_work.numel(),)](
                    streaming, q_work,
                    *streaming.stride(),
                    block, sinks, local,
                    NQ, NK, NH, NG,
                    BLOCK_Q=tile["BLOCK_Q"], BLOCK_K=tile["BLOCK_K"],
                    num_warps=1, num_stages=1,
                )
                order = torch.empty_like(q_work)
                _order_kernel[(q_work.numel(),)](
                    q_work, order, q_work.numel(), num_warps=4, num_stages=1
                )
                beside = NB
            lserve_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                streaming, O,
                *streaming.stride(), *O.stride(),
                block, sinks, local,
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


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q, K, V, streaming, block=128, sinks=1, local=64):
    """`lserve`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # near[q,k] = k // block < sinks or (q + (|k| - |q|)) // block - k // block < local
    near = (k // block < sinks) | (((q + (NK - NQ)) // block)[:, None] - k // block < local)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if k <= q + (|k| - |q|) and (not streaming[h // (|h| // |g|)] or near[q,k]) then
    #     exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and (not streaming[h // (|h| // |g|)] or
    #     near[q,k])) S[b,h,q,k]) / sum(k where k <= q + (|k| - |q|) and (not streaming[h // (|h| //
    #     |g|)] or near[q,k])) exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and (not
    #     streaming[h // (|h| // |g|)] or near[q,k])) S[b,h,q,k]) else 0
    where_qk = (k <= (q + (NK - NQ))[:, None]) & ((~streaming[h // (NH // NG)])[:, None, None] | near)
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
        "streaming": torch.rand(2, device=device) < 0.7,
        "block": 16,
        "sinks": 1,
        "local": 16,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = lserve(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
