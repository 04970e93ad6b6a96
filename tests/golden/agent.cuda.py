"""Agent attention: a few agents attend all keys, and queries attend the agents (arXiv 2312.08874).

Agents are queries pooled on the grid. `B` and `C` are biases, built of smaller tables outside; so is the
depthwise convolution of the values that it adds.

(1) R[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|) + B[a,k]
(2) G[a,k] = softmax(k) R[a,k]
(3) W[a,e] = sum(k) G[a,k] * V[k,e]
(4) S[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|) + C[q,a]
(5) P[q,a] = softmax(a) S[q,a]
(6) O[q,e] = sum(a) P[q,a] * W[a,e]

As it runs:

    R_sum[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|)
    G_max[a] = max(k) (R_sum[a,k] + B[a,k])
    G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    W_total_row[a,e] = W_total[a,e] / G_total[a]
    S_sum[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|)
    P_max[q] = max(a) (S_sum[q,a] + C[q,a])
    P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

Kernel agent_W_total_row writes W_total_row[b,h,a,e].
One pass over k for every tile of rows a,
over one range of tiles that its predicate leaves live.
State of a row: G_max[a], G_total[a], W_total[a,e].
Kernel agent writes O[b,h,q,e].
One pass over a for every tile of rows q,
over one range of tiles that its predicate leaves live.
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


KINDS = (torch.float16, torch.bfloat16, torch.float32)

# tiles, warps and pipeline stages by the extents of features and the bytes of an element
TILES_agent_W_total_row = {
    (64, 64, 2): {
        "BLOCK_A": 64, "BLOCK_K": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_A": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_A": 64, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_A": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES = {
    (64, 64, 2): {
        "BLOCK_Q": 64, "BLOCK_A": 64, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 3,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_A": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_A": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_A": 32, "BLOCK_D": 128, "BLOCK_E": 128,
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


@triton.jit(do_not_specialize=["sB_h", "sB_a", "sB_k", "NA", "NK", "NB", "NH"])
def agent_W_total_row_kernel(
    A, K, V, B, W_total_row,
    sB_h, sB_a, sB_k,
    sW_total_row_b, sW_total_row_h, sW_total_row_a, sW_total_row_e,
    NA, NK, NB, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NA, BLOCK_A)
    a0 = (tiles - 1 - pid % tiles) * BLOCK_A
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    a_in = tl.arange(0, BLOCK_A)
    a = a0 + a_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    B_here = B + h.to(tl.int64) * sB_h
    W_total_row_here = (
        W_total_row + b.to(tl.int64) * sW_total_row_b + h.to(tl.int64) * sW_total_row_h
    )
    # state of G_max[a] = max(k) (R_sum[a,k] + B[a,k])
    G_max_a = tl.full([BLOCK_A], float("-inf"), tl.float32)
    # state of G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    G_total_a = tl.full([BLOCK_A], 0.0, tl.float32)
    # state of W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    W_total_ae = tl.full([BLOCK_A, BLOCK_E], 0.0, tl.float32)
    A_ad = A.load([b, h, a0, 0]).reshape([BLOCK_A, BLOCK_D])
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_full_hi = k_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # R_sum[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
        R_sum_ak = tl.dot(A_ad, tl.trans(K_kd), input_precision="ieee")
        # G_max[a] = max(k) (R_sum[a,k] + B[a,k])
        B_ak = tl.load(
            B_here
            + a0.to(tl.int64) * sB_a
            + k0.to(tl.int64) * sB_k
            + a_in[:, None] * sB_a
            + k_in[None, :] * sB_k,
            mask=(a[:, None] < NA) & (k[None, :] < NK),
            other=0,
        ).to(tl.float32)
        exponent_ak = R_sum_ak * (1 / D ** 0.5) + B_ak
        exponent_seen_ak = exponent_ak
        if step >= k_edge:
            # seen: k < |k|
            seen_k = k < NK
            exponent_seen_ak = tl.where(seen_k[None, :], exponent_seen_ak, float("-inf"))
        G_max_tile_a = tl.max(exponent_seen_ak, 1)
        G_max_old_a = G_max_a
        G_max_a = tl.maximum(G_max_old_a, G_max_tile_a)
        # G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
        alpha_a = tl.exp2(G_max_old_a * 1.4426950408889634 - finite(G_max_a) * 1.4426950408889634)
        exp_exponent_seen_ak = tl.exp2(
            exponent_seen_ak * 1.4426950408889634 - (finite(G_max_a) * 1.4426950408889634)[:, None]
        )
        G_total_tile_a = tl.sum(exp_exponent_seen_ak, 1)
        G_total_a = G_total_a * alpha_a + G_total_tile_a
        # W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
        V_ke = V.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
        W_total_ae = tl.dot(
            exp_exponent_seen_ak.to(V_ke.dtype),
            V_ke,
            W_total_ae * alpha_a[:, None],
            input_precision="ieee",
        )
    # W_total_row[a,e] = W_total[a,e] / G_total[a]
    W_total_row_ae = divide(W_total_ae, G_total_a[:, None])
    tl.store(
        W_total_row_here
        + a0.to(tl.int64) * sW_total_row_a
        + a_in[:, None] * sW_total_row_a
        + e[None, :] * sW_total_row_e,
        W_total_row_ae.to(W_total_row.dtype.element_ty),
        mask=(a[:, None] < NA),
    )


@triton.jit(do_not_specialize=["sC_h", "sC_q", "sC_a", "NQ", "NA", "NB", "NH"])
def agent_kernel(
    Q, A, W_total_row, C, O,
    sC_h, sC_q, sC_a,
    sO_b, sO_h, sO_q, sO_e,
    NQ, NA, NB, NH,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
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
    a_in = tl.arange(0, BLOCK_A)
    C_here = C + h.to(tl.int64) * sC_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(a) (S_sum[q,a] + C[q,a])
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    a_end = NA
    a_hi = (BLOCK_A + a_end - 1) // BLOCK_A
    a_full_hi = a_end // BLOCK_A
    a_steps = a_hi
    a_edge = a_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, a_steps):
        a0 = step * BLOCK_A
        a = a0 + a_in
        # S_sum[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|)
        A_ad = A.load([b, h, a0, 0]).reshape([BLOCK_A, BLOCK_D])
        S_sum_qa = tl.dot(Q_qd, tl.trans(A_ad), input_precision="ieee")
        # P_max[q] = max(a) (S_sum[q,a] + C[q,a])
        C_qa = tl.load(
            C_here
            + q0.to(tl.int64) * sC_q
            + a0.to(tl.int64) * sC_a
            + q_in[:, None] * sC_q
            + a_in[None, :] * sC_a,
            mask=(q[:, None] < NQ) & (a[None, :] < NA),
            other=0,
        ).to(tl.float32)
        exponent_qa = S_sum_qa * (1 / D ** 0.5) + C_qa
        exponent_seen_qa = exponent_qa
        if step >= a_edge:
            # seen: a < |a|
            seen_a = a < NA
            exponent_seen_qa = tl.where(seen_a[None, :], exponent_seen_qa, float("-inf"))
        P_max_tile_q = tl.max(exponent_seen_qa, 1)
        P_max_old_q = P_max_q
        P_max_q = tl.maximum(P_max_old_q, P_max_tile_q)
        # P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
        alpha_q = tl.exp2(P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634)
        exp_exponent_seen_qa = tl.exp2(
            exponent_seen_qa * 1.4426950408889634 - (finite(P_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_tile_q = tl.sum(exp_exponent_seen_qa, 1)
        P_total_q = P_total_q * alpha_q + P_total_tile_q
        # O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
        W_total_row_ae = W_total_row.load([b, h, a0, 0]).reshape([BLOCK_A, BLOCK_E])
        O_total_qe = tl.dot(
            exp_exponent_seen_qa.to(W_total_row_ae.dtype),
            W_total_row_ae,
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


def agent(Q, A, K, V, B, C):
    """Q[b,h,q,d], A[b,h,a,d], K[b,h,k,d], V[b,h,k,e], B[h,a,k], C[h,q,a] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("A", "b h a d", A),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
        ("B", "h a k", B),
        ("C", "h q a", C),
    )
    check_kinds([("Q", Q), ("A", A), ("K", K), ("V", V), ("B", B), ("C", C)], [], [], KINDS)
    NB, NH, NQ, D, NA, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["a"], sizes["k"], sizes["e"]
    )
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_agent_W_total_row.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(B.stride(1), B.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    W_total_row = Q.new_empty((NB, NH, NA, -(-E // 4) * 4))[..., :E]
    grid = triton.cdiv(NA, tile["BLOCK_A"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            agent_W_total_row_kernel[(grid,)](
                describe(A, [1, 1, tile["BLOCK_A"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                B, W_total_row,
                *B.stride(), *W_total_row.stride(),
                NA, NK, NB, NH,
                D, E,
                **tile,
            )
    tile = TILES.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(C.stride(1), C.stride(2), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            agent_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(A, [1, 1, tile["BLOCK_A"], tile["BLOCK_D"]]),
                describe(W_total_row, [1, 1, tile["BLOCK_A"], tile["BLOCK_E"]]),
                C, O,
                *C.stride(), *O.stride(),
                NQ, NA, NB, NH,
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


def reference(Q, A, K, V, B, C):
    """`agent`: dense, differentiable, any device and dtype."""
    D = Q.shape[3]
    # R[b,h,a,k] = sum(d) A[b,h,a,d] * K[b,h,k,d] / sqrt(|d|) + B[h,a,k]
    R = _einsum("bhad,bhkd->bhak", A, K) / math.sqrt(D) + B
    # G[b,h,a,k] = if true then exp(R[b,h,a,k] - max(k) R[b,h,a,k]) / sum(k) exp(R[b,h,a,k] - max(k)
    #     R[b,h,a,k]) else 0
    max_G_a = _amax(R, 3, -math.inf)
    exp_G_ak = torch.exp(R - max_G_a[..., None])
    G = _divide(exp_G_ak, exp_G_ak.sum(-1)[..., None])
    # W[b,h,a,e] = sum(k) G[b,h,a,k] * V[b,h,k,e]
    W = _einsum("bhak,bhke->bhae", G, V)
    # S[b,h,q,a] = sum(d) Q[b,h,q,d] * A[b,h,a,d] / sqrt(|d|) + C[h,q,a]
    S = _einsum("bhqd,bhad->bhqa", Q, A) / math.sqrt(D) + C
    # P[b,h,q,a] = if true then exp(S[b,h,q,a] - max(a) S[b,h,q,a]) / sum(a) exp(S[b,h,q,a] - max(a)
    #     S[b,h,q,a]) else 0
    max_P_q = _amax(S, 3, -math.inf)
    exp_P_qa = torch.exp(S - max_P_q[..., None])
    P = _divide(exp_P_qa, exp_P_qa.sum(-1)[..., None])
    # O[b,h,q,e] = sum(a) P[b,h,q,a] * W[b,h,a,e]
    O = _einsum("bhqa,bhae->bhqe", P, W)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "A": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "B": torch.rand(4, 203, 203, device=device, dtype=torch.float32) / 8,
        "C": torch.rand(4, 150, 203, device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = agent(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
