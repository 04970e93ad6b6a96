"""Differential attention: the difference of two softmaxes over the same keys and values (arXiv 2410.05258).

The paper's `lam` is `exp(lq1 . lk1) - exp(lq2 . lk2) + start`, of four learned vectors and a number of the
layer's own, `0.8 - 0.6 * exp(-0.3 * layer)`. The norm of each head and the factor `1 - start` stay outside.

(1) S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
(2) S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
(3) P1[q,k] = softmax(k where k <= q) S1[q,k]
(4) P2[q,k] = softmax(k where k <= q) S2[q,k]
(5) O[q,e] = sum(k) (P1[q,k] - lam * P2[q,k]) * V[k,e]

As it runs:

    S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
    S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
    P1_max[q] = max(k where k <= q + (|k| - |q|)) S1[q,k]
    P1_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S1[q,k] - finite(P1_max[q]))
    P2_max[q] = max(k where k <= q + (|k| - |q|)) S2[q,k]
    P2_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S2[q,k] - finite(P2_max[q]))
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
    O_sum2_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
    O[q,e] = O_total[q,e] / P1_total[q] - lam * (O_sum2_total[q,e] / P2_total[q])

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P1_max[q], P1_total[q], P2_max[q], P2_total[q], O_total[q,e], O_sum2_total[q,e].

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


@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["NQ", "NK", "NB", "NH", "NG"])
def differential_kernel(
    Q1, K1, Q2, K2, V, lam, O,
    sO_b, sO_h, sO_q, sO_e,
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
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P1_max[q] = max(k where seen) S1[q,k]
    P1_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P1_total[q] = sum(k where seen) exp(S1[q,k] - finite(P1_max[q]))
    P1_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of P2_max[q] = max(k where seen) S2[q,k]
    P2_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P2_total[q] = sum(k where seen) exp(S2[q,k] - finite(P2_max[q]))
    P2_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of O_sum2_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
    O_sum2_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q1_qd = Q1.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    Q2_qd = Q2.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end = tl.maximum(0, NK + last - NQ + 1)
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_inner_end = tl.maximum(0, NK + q0 - NQ + 1)
    k_full_hi = k_inner_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
        K1_kd = K1.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S1_qk = tl.dot(Q1_qd, tl.trans(K1_kd), input_precision="ieee")
        # S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
        K2_kd = K2.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S2_qk = tl.dot(Q2_qd, tl.trans(K2_kd), input_precision="ieee")
        # P1_max[q] = max(k where seen) S1[q,k]
        S1_seen_qk = S1_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S1_seen_qk = tl.where(seen_qk, S1_seen_qk, float("-inf"))
        P1_max_tile_q = tl.max(S1_seen_qk, 1)
        P1_max_old_q = P1_max_q
        P1_max_q = tl.maximum(P1_max_old_q, P1_max_tile_q * (1 / D ** 0.5))
        # P1_total[q] = sum(k where seen) exp(S1[q,k] - finite(P1_max[q]))
        alpha_q = tl.exp2(P1_max_old_q * 1.4426950408889634 - finite(P1_max_q) * 1.4426950408889634)
        exp_S1_seen_qk = tl.exp2(
            S1_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P1_max_q) * 1.4426950408889634)[:, None]
        )
        P1_total_tile_q = tl.sum(exp_S1_seen_qk, 1)
        P1_total_q = P1_total_q * alpha_q + P1_total_tile_q
        # P2_max[q] = max(k where seen) S2[q,k]
        S2_seen_qk = S2_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S2_seen_qk = tl.where(seen_qk, S2_seen_qk, float("-inf"))
        P2_max_tile_q = tl.max(S2_seen_qk, 1)
        P2_max_old_q = P2_max_q
        P2_max_q = tl.maximum(P2_max_old_q, P2_max_tile_q * (1 / D ** 0.5))
        # P2_total[q] = sum(k where seen) exp(S2[q,k] - finite(P2_max[q]))
        alpha2_q = tl.exp2(
            P2_max_old_q * 1.4426950408889634 - finite(P2_max_q) * 1.4426950408889634
        )
        exp_S2_seen_qk = tl.exp2(
            S2_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(P2_max_q) * 1.4426950408889634)[:, None]
        )
        P2_total_tile_q = tl.sum(exp_S2_seen_qk, 1)
        P2_total_q = P2_total_q * alpha2_q + P2_total_tile_q
        # O_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_qe = tl.dot(
            exp_S1_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
        # O_sum2_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
        O_sum2_total_qe = tl.dot(
            exp_S2_seen_qk.to(V_ke.dtype),
            V_ke,
            O_sum2_total_qe * alpha2_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = O_total[q,e] / P1_total[q] - lam * (O_sum2_total[q,e] / P2_total[q])
    ratio_O_total_qe = divide(O_total_qe, P1_total_q[:, None])
    lam_ = tl.load(lam).to(tl.float32)
    ratio_O_sum2_total_qe = divide(O_sum2_total_qe, P2_total_q[:, None])
    O_qe = ratio_O_total_qe - lam_ * ratio_O_sum2_total_qe
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def differential(Q1, K1, Q2, K2, V, lam):
    """Q1[b,h,q,d], K1[b,g,k,d], Q2[b,h,q,d], K2[b,g,k,d], V[b,g,k,e], lam[] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q1", "b h q d", Q1),
        ("K1", "b g k d", K1),
        ("Q2", "b h q d", Q2),
        ("K2", "b g k d", K2),
        ("V", "b g k e", V),
        ("lam", "", lam),
    )
    check_kinds(
        [("Q1", Q1), ("K1", K1), ("Q2", Q2), ("K2", K2), ("V", V), ("lam", lam)], [], [], KINDS
    )
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q1.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q1` is on {Q1.device}")
    tile = TILES.get((D, E, Q1.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q1.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    O = Q1.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q1.device) if Q1.is_cuda else contextlib.nullcontext():
            differential_kernel[(grid,)](
                describe(Q1, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K1, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(Q2, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K2, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                lam, O,
                *O.stride(),
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


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q1, K1, Q2, K2, V, lam):
    """`differential`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q1.shape
    _, NG, NK, _ = K1.shape
    h = torch.arange(NH, device=Q1.device)
    q = torch.arange(NQ, device=Q1.device)
    k = torch.arange(NK, device=Q1.device)
    # S1[b,h,q,k] = sum(d) Q1[b,h,q,d] * K1[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S1 = _einsum("bhqd,bhkd->bhqk", Q1, K1[:, h // (NH // NG)]) / math.sqrt(D)
    # S2[b,h,q,k] = sum(d) Q2[b,h,q,d] * K2[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S2 = _einsum("bhqd,bhkd->bhqk", Q2, K2[:, h // (NH // NG)]) / math.sqrt(D)
    # P1[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S1[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S1[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S1[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S1[b,h,q,k]) else 0
    where_qk = k <= (q + (NK - NQ))[:, None]
    max_P1_q = _amax(torch.where(where_qk, S1, -math.inf), 3, -math.inf)
    exp_P1_qk = torch.exp(torch.where(where_qk, S1 - max_P1_q[..., None], -math.inf))
    P1 = _divide(exp_P1_qk, exp_P1_qk.sum(-1)[..., None])
    # P2[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S2[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S2[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S2[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S2[b,h,q,k]) else 0
    max_P2_q = _amax(torch.where(where_qk, S2, -math.inf), 3, -math.inf)
    exp_P2_qk = torch.exp(torch.where(where_qk, S2 - max_P2_q[..., None], -math.inf))
    P2 = _divide(exp_P2_qk, exp_P2_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) (P1[b,h,q,k] - lam * P2[b,h,q,k]) * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P1 - lam * P2, V[:, h // (NH // NG)])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q1": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K1": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "Q2": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K2": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "lam": torch.rand((), device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = differential(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
