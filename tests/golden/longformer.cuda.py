"""Longformer: a window on both sides, and marked tokens that see all and are seen by all (arXiv 2004.05150).

The authors' code has a second set of projections for rows of marked queries, which are then another call's.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) P[q,k] = softmax(k where abs(q - k) <= window // 2 or marked[q] or marked[k]) S[q,k]
(3) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: abs(q + (|k| - |q|) - k) <= window // 2 or q + (|k| - |q|) >= 0 and marked[q + (|k| -
        |q|)] or marked[k]
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over the tiles of a list, which is made before from marked.
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


@triton.jit(
    do_not_specialize=[
        "smarked_b",
        "smarked_k",
        "smarked_k_least_each_b",
        "smarked_k_least_each_k_tile",
        "smarked_k_greatest_each_b",
        "smarked_k_greatest_each_k_tile",
        "NK",
        "NB",
    ]
)
def longformer_k_ends_kernel(
    marked, marked_k_least_each, marked_k_greatest_each,
    smarked_b, smarked_k,
    smarked_k_least_each_b, smarked_k_least_each_k_tile,
    smarked_k_greatest_each_b, smarked_k_greatest_each_k_tile,
    NK, NB,
    BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (tiles - 1 - pid % tiles) * BLOCK_K
    b = pid // tiles
    NK_TILE = tl.cdiv(NK, BLOCK_K)
    k_tile = k0 // BLOCK_K
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    marked_here = marked + b.to(tl.int64) * smarked_b
    marked_k_least_each_here = marked_k_least_each + b.to(tl.int64) * smarked_k_least_each_b
    marked_k_greatest_each_here = (
        marked_k_greatest_each + b.to(tl.int64) * smarked_k_greatest_each_b
    )
    marked_k = (
        tl.load(
            marked_here + (tl.minimum(k, NK - 1)).to(tl.int64) * smarked_k,
            mask=(tl.minimum(k, NK - 1) >= 0) & (tl.minimum(k, NK - 1) < NK),
            other=0,
        )
        != 0
    )
    tile_seen_k = tl.where(marked_k, 1, 0)
    marked_k_least = tl.min(tile_seen_k, 0)
    marked_k_greatest = tl.max(tile_seen_k, 0)
    tl.store(
        marked_k_least_each_here + k_tile.to(tl.int64) * smarked_k_least_each_k_tile,
        marked_k_least.to(marked_k_least_each.dtype.element_ty),
        mask=(k_tile < NK_TILE),
    )
    tl.store(
        marked_k_greatest_each_here + k_tile.to(tl.int64) * smarked_k_greatest_each_k_tile,
        marked_k_greatest.to(marked_k_greatest_each.dtype.element_ty),
        mask=(k_tile < NK_TILE),
    )


@triton.jit(
    do_not_specialize=[
        "smarked_b",
        "smarked_k",
        "smarked_k_least_each_b",
        "smarked_k_least_each_k_tile",
        "smarked_k_greatest_each_b",
        "smarked_k_greatest_each_k_tile",
        "window",
        "NQ",
        "NK",
        "NK_TILE",
        "NB",
    ]
)
def longformer_k_list_kernel(
    marked, marked_k_least_each, marked_k_greatest_each, k_list,
    smarked_b, smarked_k,
    smarked_k_least_each_b, smarked_k_least_each_k_tile,
    smarked_k_greatest_each_b, smarked_k_greatest_each_k_tile,
    window,
    NQ, NK, NK_TILE, NB,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_K_TILE: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    b = pid // tiles
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    k_tile_in = tl.arange(0, BLOCK_K_TILE)
    marked_here = marked + b.to(tl.int64) * smarked_b
    marked_k_least_each_here = marked_k_least_each + b.to(tl.int64) * smarked_k_least_each_b
    marked_k_greatest_each_here = (
        marked_k_greatest_each + b.to(tl.int64) * smarked_k_greatest_each_b
    )
    marked_q = (
        tl.load(
            marked_here
            + (tl.maximum(tl.minimum(q, NQ - 1) + (NK - NQ), 0)).to(tl.int64) * smarked_k,
            mask=(tl.maximum(tl.minimum(q, NQ - 1) + (NK - NQ), 0) >= 0)
            & (tl.maximum(tl.minimum(q, NQ - 1) + (NK - NQ), 0) < NK),
            other=0,
        )
        != 0
    )
    tile_seen_q = tl.where(
        (tl.minimum(q, NQ - 1) + (NK - NQ) >= 0)
        & ((tl.minimum(q, NQ - 1) + (NK - NQ) >= 0) & marked_q),
        1,
        0,
    )
    marked_q_least = tl.min(tile_seen_q, 0)
    marked_q_greatest = tl.max(tile_seen_q, 0)
    k_list_here = k_list + ((b) * tiles + q0 // BLOCK_Q).to(tl.int64) * (NK_TILE + 2)
    whole = tl.full([], 0, tl.int32)
    others = tl.full([], 0, tl.int32)
    for k_tile0 in tl.range(0, NK_TILE, BLOCK_K_TILE):
        k_tile0 = tl.cast(k_tile0, tl.int32)
        k_tile = k_tile0 + k_tile_in
        marked_k_least_each_k_tile = tl.load(
            marked_k_least_each_here
            + k_tile0.to(tl.int64) * smarked_k_least_each_k_tile
            + k_tile_in * smarked_k_least_each_k_tile,
            mask=(k_tile < NK_TILE),
            other=0,
        )
        marked_k_greatest_each_k_tile = tl.load(
            marked_k_greatest_each_here
            + k_tile0.to(tl.int64) * smarked_k_greatest_each_k_tile
            + k_tile_in * smarked_k_greatest_each_k_tile,
            mask=(k_tile < NK_TILE),
            other=0,
        )
        live = (
            (k_tile < NK_TILE)
            & (
                (
                    (
                        tl.maximum(
                            tl.maximum(
                                0,
                                NK
                                + q0
                                - tl.minimum(k_tile.to(tl.int64) * BLOCK_K + BLOCK_K, NK)
                                - NQ
                                + 1,
                            ),
                            k_tile.to(tl.int64) * BLOCK_K
                            + NQ
                            - NK
                            - tl.minimum(BLOCK_Q + q0, NQ)
                            + 1,
                        )
                        <= floor_divide(window, 2)
                    )
                    | (marked_q_greatest >= 1)
                )
                | (marked_k_greatest_each_k_tile >= 1)
            )
        )
        full = (
            (k_tile.to(tl.int64) * BLOCK_K + BLOCK_K <= NK)
            & (
                (
                    (
                        tl.maximum(
                            NK
                            + tl.minimum(BLOCK_Q + q0, NQ)
                            - k_tile.to(tl.int64) * BLOCK_K
                            - NQ
                            - 1,
                            tl.minimum(k_tile.to(tl.int64) * BLOCK_K + BLOCK_K, NK)
                            + NQ
                            - NK
                            - q0
                            - 1,
                        )
                        <= floor_divide(window, 2)
                    )
                    | (marked_q_least >= 1)
                )
                | (marked_k_least_each_k_tile >= 1)
            )
        )
        place = whole + tl.cumsum(full.to(tl.int32), 0)
        tl.store(k_list_here + 1 + place, k_tile, mask=full)
        whole += tl.sum(full.to(tl.int32), 0)
        rest = live & ~full
        place = others + tl.cumsum(rest.to(tl.int32), 0)
        tl.store(k_list_here + NK_TILE + 2 - place, k_tile, mask=rest)
        others += tl.sum(rest.to(tl.int32), 0)
    tl.store(k_list_here, whole)
    tl.store(k_list_here + 1, whole + others)


@triton.jit(do_not_specialize=["NQ", "NK", "NB"])
def longformer_work_kernel(
    k_list, q_work,
    NQ, NK, NB,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    b = pid // tiles
    k_tiles = tl.cdiv(NK, BLOCK_K)
    k_list_here = k_list + ((b) * tiles + q0 // BLOCK_Q).to(tl.int64) * (k_tiles + 2)
    k_steps = tl.load(k_list_here + 1)
    visited = k_steps
    tl.store(q_work + pid, visited)


@triton.jit(
    do_not_specialize=[
        "smarked_b", "smarked_k", "window", "NQ", "NK", "NB", "NH", "NG", "ordered", "beside"
    ]
)
def longformer_kernel(
    Q, K, V, marked, k_list, O,
    smarked_b, smarked_k,
    sO_b, sO_h, sO_q, sO_e,
    window,
    NQ, NK, NB, NH, NG,
    order, ordered, beside,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; most work comes first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    programs = tiles * NB
    first = pid // (programs * beside) * beside
    many = tl.minimum(beside, NH - first)
    here = pid - first * programs
    place = first + here % many
    h = place
    pid = here // many
    pid = tl.load(order + pid, mask=pid < ordered, other=pid).to(tl.int32)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    b = pid // tiles
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    marked_here = marked + b.to(tl.int64) * smarked_b
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(k where seen) S[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    marked_q = (
        tl.load(
            marked_here + (q + (NK - NQ)).to(tl.int64) * smarked_k,
            mask=(q + (NK - NQ) >= 0) & (q + (NK - NQ) < NK),
            other=0,
        )
        != 0
    )
    k_tiles = tl.cdiv(NK, BLOCK_K)
    k_list_here = k_list + ((b) * tiles + q0 // BLOCK_Q).to(tl.int64) * (k_tiles + 2)
    k_whole = tl.load(k_list_here)
    k_steps = tl.load(k_list_here + 1)
    k_end = k_tiles + 1 + k_whole
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = tl.load(k_list_here + tl.where(step < k_whole, step + 2, k_end - step)) * BLOCK_K
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # P_max[q] = max(k where seen) S[q,k]
        S_seen_qk = S_qk
        if step >= k_whole:
            # seen: k < |k| and (abs(q + (|k| - |q|) - k) <= window // 2 or q + (|k| - |q|) >= 0 and
            #     marked[q + (|k| - |q|)] or marked[k])
            marked2_k = (
                tl.load(
                    marked_here + k0.to(tl.int64) * smarked_k + k_in * smarked_k,
                    mask=(k < NK),
                    other=0,
                )
                != 0
            )
            seen_qk = (
                (k < NK)[None, :]
                & (
                    (
                        (tl.abs((q + (NK - NQ))[:, None] - k[None, :]) <= floor_divide(window, 2))
                        | ((q + (NK - NQ) >= 0) & marked_q)[:, None]
                    )
                    | marked2_k[None, :]
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


def longformer(Q, K, V, marked, window=512):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], marked[b,k] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("marked", "b k", marked),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [("marked", marked)], KINDS)
    check_number("window", window, int)
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
    far = max(marked.stride(1), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            # tiles of k that tiles of rows q see, by the tables of this call
            NK_TILE = triton.cdiv(NK, tile["BLOCK_K"])
            marked_k_least_each = Q.new_empty((NB, NK_TILE,), dtype=torch.int64)
            marked_k_greatest_each = Q.new_empty((NB, NK_TILE,), dtype=torch.int64)
            if NK_TILE:
                longformer_k_ends_kernel[(NK_TILE * NB,)](
                    marked, marked_k_least_each, marked_k_greatest_each,
                    *marked.stride(),
                    *marked_k_least_each.stride(),
                    *marked_k_greatest_each.stride(),
                    NK, NB,
                    BLOCK_K=tile["BLOCK_K"],
                    num_warps=4, num_stages=1,
                )
            k_list = Q.new_empty(
                (triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * (NK_TILE + 2),), dtype=torch.int32
            )
            longformer_k_list_kernel[(triton.cdiv(NQ, tile["BLOCK_Q"]) * NB,)](
                marked, marked_k_least_each, marked_k_greatest_each, k_list,
                *marked.stride(), *marked_k_least_each.stride(), *marked_k_greatest_each.stride(),
                window,
                NQ, NK, NK_TILE, NB,
                BLOCK_Q=tile["BLOCK_Q"], BLOCK_K=tile["BLOCK_K"], BLOCK_K_TILE=128,
                num_warps=4, num_stages=1,
            )
            # rows are uneven work, by the tables of this call: most of it comes first
            order = Q.new_empty(0, dtype=torch.int32)
            beside = 1
            if AT_ONCE < grid <= MANY and triton.cdiv(NK, tile["BLOCK_K"]) > LONG:
                q_work = Q.new_empty(triton.cdiv(NQ, tile["BLOCK_Q"]) * NB, dtype=torch.int32)
                longformer_work_kernel[(q_work.numel(),)](
                    k_list, q_work,
                    NQ, NK, NB,
                    BLOCK_Q=tile["BLOCK_Q"], BLOCK_K=tile["BLOCK_K"],
                    num_warps=1, num_stages=1,
                )
                order = torch.empty_like(q_work)
                _order_kernel[(q_work.numel(),)](
                    q_work, order, q_work.numel(), num_warps=4, num_stages=1
                )
                beside = NH
            longformer_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                marked, k_list, O,
                *marked.stride(), *O.stride(),
                window,
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


def reference(Q, K, V, marked, window=512):
    """`longformer`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if abs(q + (|k| - |q|) - k) <= window // 2 or marked[b, q + (|k| - |q|)] or
    #     marked[b,k] then exp(S[b,h,q,k] - max(k where abs(q + (|k| - |q|) - k) <= window // 2 or
    #     marked[b, q + (|k| - |q|)] or marked[b,k]) S[b,h,q,k]) / sum(k where abs(q + (|k| - |q|) -
    #     k) <= window // 2 or marked[b, q + (|k| - |q|)] or marked[b,k]) exp(S[b,h,q,k] - max(k
    #     where abs(q + (|k| - |q|) - k) <= window // 2 or marked[b, q + (|k| - |q|)] or
    #     marked[b,k]) S[b,h,q,k]) else 0
    at_q = q + (NK - NQ)
    where_qk = torch.abs(at_q[:, None] - k) <= window // 2
    where_P_qk = where_qk | ((at_q >= 0) & _take(marked, {1: at_q}))[..., None] | marked[:, None]
    part_P_qk = torch.where(where_P_qk[:, None], S, -math.inf)
    max_P_q = _amax(part_P_qk, 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_P_qk[:, None], S - max_P_q[..., None], -math.inf))
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
        "marked": torch.rand(2, 203, device=device) < 0.7,
        "window": 16,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = longformer(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
