"""Pointer networks: the weights over the inputs are the output, their scores additive (arXiv 1506.03134).

`X` and `Y` are the states of decoder and encoder, projected. What has been chosen may be chosen again.

(1) u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
(2) P[q,k] = softmax(k) u[q,k]

As it runs:

    u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
    P_max[q] = max(k) u[q,k]
    P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
    P[q,k] = exp(u[q,k] - P_max[q]) / P_total[q]

Kernel pointer_P_max writes P_max[b,q], P_total[b,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q].
Kernel pointer writes P[b,q,k].
One pass over k for every tile of rows q,
over all tiles, of which it stores P.

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


KINDS = (torch.float16, torch.bfloat16, torch.float32)

# tiles, warps and pipeline stages by the extents of features and the bytes of an element
TILES_pointer_P_max = {
    (64, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
}
TILES = {
    (64, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 2): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32,
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
def tanh(x):
    """Hyperbolic tangent; near 0, where 1 - 2 / (1 + exp) cancels, a minimax polynomial (2e-7 of it)."""
    t = tl.exp2(x * 2.8853900817779268)
    y = x * x
    near = -0.3333262160476 + y * (0.1331352073803 + y * (-0.0522311072032 + y * 0.0156404812604))
    return tl.where(y < 0.36, x + x * y * near, 1.0 - 2.0 / (1.0 + t))


@triton.jit(
    do_not_specialize=["sP_max_b", "sP_max_q", "sP_total_b", "sP_total_q", "NQ", "NK", "NB"]
)
def pointer_P_max_kernel(
    X, Y, v, P_max, P_total,
    sX_b, sX_q, sX_d,
    sY_b, sY_k, sY_d,
    sv_d,
    sP_max_b, sP_max_q,
    sP_total_b, sP_total_q,
    NQ, NK, NB,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    b = pid // tiles
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    k_in = tl.arange(0, BLOCK_K)
    X_here = X + b.to(tl.int64) * sX_b
    Y_here = Y + b.to(tl.int64) * sY_b
    P_max_here = P_max + b.to(tl.int64) * sP_max_b
    P_total_here = P_total + b.to(tl.int64) * sP_total_b
    # state of P_max[q] = max(k) u[q,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_full_hi = k_end // BLOCK_K
    k_steps = k_hi
    k_edge = k_full_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
        u_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
        for d_run in tl.range(0, D, 8):
            u_part_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
            for d_at in tl.range(d_run, tl.minimum(d_run + 8, D)):
                v_ = tl.load(v + d_at * sv_d).to(tl.float32)
                X_q = tl.load(
                    X_here + q0.to(tl.int64) * sX_q + d_at * sX_d + q_in * sX_q,
                    mask=(q < NQ),
                    other=0,
                ).to(tl.float32)
                Y_k = tl.load(
                    Y_here + k0.to(tl.int64) * sY_k + d_at * sY_d + k_in * sY_k,
                    mask=(k < NK),
                    other=0,
                ).to(tl.float32)
                tanh_X_qk = tanh(X_q[:, None] + Y_k[None, :])
                u_part_qk = u_part_qk + v_ * tanh_X_qk
            u_qk = u_qk + u_part_qk
        # P_max[q] = max(k) u[q,k]
        u_seen_qk = u_qk
        if step >= k_edge:
            # seen: k < |k|
            seen_k = k < NK
            u_seen_qk = tl.where(seen_k[None, :], u_seen_qk, float("-inf"))
        P_max_tile_q = tl.max(u_seen_qk, 1)
        P_max_old_q = P_max_q
        P_max_q = tl.maximum(P_max_old_q, P_max_tile_q)
        # P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
        alpha_q = tl.exp2(P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634)
        exp_u_seen_qk = tl.exp2(
            u_seen_qk * 1.4426950408889634 - (finite(P_max_q) * 1.4426950408889634)[:, None]
        )
        P_total_tile_q = tl.sum(exp_u_seen_qk, 1)
        P_total_q = P_total_q * alpha_q + P_total_tile_q
    tl.store(
        P_max_here + q0.to(tl.int64) * sP_max_q + q_in * sP_max_q,
        P_max_q.to(P_max.dtype.element_ty),
        mask=(q < NQ),
    )
    tl.store(
        P_total_here + q0.to(tl.int64) * sP_total_q + q_in * sP_total_q,
        P_total_q.to(P_total.dtype.element_ty),
        mask=(q < NQ),
    )


@triton.jit(
    do_not_specialize=[
        "sP_max_b", "sP_max_q", "sP_total_b", "sP_total_q", "sP_b", "sP_q", "sP_k", "NQ", "NK", "NB"
    ]
)
def pointer_kernel(
    X, Y, v, P_max, P_total, P,
    sX_b, sX_q, sX_d,
    sY_b, sY_k, sY_d,
    sv_d,
    sP_max_b, sP_max_q,
    sP_total_b, sP_total_q,
    sP_b, sP_q, sP_k,
    NQ, NK, NB,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    b = pid // tiles
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    k_in = tl.arange(0, BLOCK_K)
    P_max_here = P_max + b.to(tl.int64) * sP_max_b
    P_total_here = P_total + b.to(tl.int64) * sP_total_b
    X_here = X + b.to(tl.int64) * sX_b
    Y_here = Y + b.to(tl.int64) * sY_b
    P_here = P + b.to(tl.int64) * sP_b
    P_max_q = tl.load(
        P_max_here + q0.to(tl.int64) * sP_max_q + q_in * sP_max_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    P_total_q = tl.load(
        P_total_here + q0.to(tl.int64) * sP_total_q + q_in * sP_total_q, mask=(q < NQ), other=0
    ).to(tl.float32)
    k_end = NK
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_steps = k_hi
    # live tiles; those on an edge are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
        u_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
        for d_run in tl.range(0, D, 8):
            u_part_qk = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
            for d_at in tl.range(d_run, tl.minimum(d_run + 8, D)):
                v_ = tl.load(v + d_at * sv_d).to(tl.float32)
                X_q = tl.load(
                    X_here + q0.to(tl.int64) * sX_q + d_at * sX_d + q_in * sX_q,
                    mask=(q < NQ),
                    other=0,
                ).to(tl.float32)
                Y_k = tl.load(
                    Y_here + k0.to(tl.int64) * sY_k + d_at * sY_d + k_in * sY_k,
                    mask=(k < NK),
                    other=0,
                ).to(tl.float32)
                tanh_X_qk = tanh(X_q[:, None] + Y_k[None, :])
                u_part_qk = u_part_qk + v_ * tanh_X_qk
            u_qk = u_qk + u_part_qk
        # P[q,k] = exp(u[q,k] - P_max[q]) / P_total[q]
        exp_u_qk = tl.exp2(u_qk * 1.4426950408889634 - (P_max_q * 1.4426950408889634)[:, None])
        P_qk = divide(exp_u_qk, P_total_q[:, None])
        tl.store(
            P_here
            + q0.to(tl.int64) * sP_q
            + k0.to(tl.int64) * sP_k
            + q_in[:, None].to(tl.int64) * sP_q
            + k_in[None, :].to(tl.int64) * sP_k,
            P_qk.to(P.dtype.element_ty),
            mask=(q[:, None] < NQ) & (k[None, :] < NK),
        )


def pointer(X, Y, v):
    """X[b,q,d], Y[b,k,d], v[d] -> P[b,q,k], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("X", "b q d", X),
        ("Y", "b k d", Y),
        ("v", "d", v),
    )
    check_kinds([("X", X), ("Y", Y), ("v", v)], [], [], KINDS)
    NB, NQ, D, NK = sizes["b"], sizes["q"], sizes["d"], sizes["k"]
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (X.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `X` is on {X.device}")
    tile = TILES_pointer_P_max.get((D, X.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D} and {X.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(X.stride(1), X.stride(2), Y.stride(1), Y.stride(2), v.stride(0), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    P_max = X.new_empty((NB, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    P_total = X.new_empty((NB, -(-NQ // 4) * 4), dtype=torch.float32)[..., :NQ]
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB
    if grid:
        with torch.cuda.device(X.device) if X.is_cuda else contextlib.nullcontext():
            pointer_P_max_kernel[(grid,)](
                X, Y, v, P_max, P_total,
                *X.stride(), *Y.stride(), *v.stride(), *P_max.stride(), *P_total.stride(),
                NQ, NK, NB,
                D,
                **tile,
            )
    tile = TILES.get((D, X.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D} and {X.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    far = max(
        X.stride(1),
        X.stride(2),
        Y.stride(1),
        Y.stride(2),
        v.stride(0),
        P_max.stride(1),
        P_total.stride(1),
        0,
    )
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    P = X.new_empty((NB, NQ, NK))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB
    if grid:
        with torch.cuda.device(X.device) if X.is_cuda else contextlib.nullcontext():
            pointer_kernel[(grid,)](
                X, Y, v, P_max, P_total, P,
                *X.stride(),
                *Y.stride(),
                *v.stride(),
                *P_max.stride(),
                *P_total.stride(),
                *P.stride(),
                NQ, NK, NB,
                D,
                **tile,
            )
    return P


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


def reference(X, Y, v):
    """`pointer`: dense, differentiable, any device and dtype."""
    # u[b,q,k] = sum(d) v[d] * tanh(X[b,q,d] + Y[b,k,d])
    u = _einsum("d,bqkd->bqk", v, torch.tanh(X[:, :, None] + Y[:, None]))
    # P[b,q,k] = if true then exp(u[b,q,k] - max(k) u[b,q,k]) / sum(k) exp(u[b,q,k] - max(k)
    #     u[b,q,k]) else 0
    max_P_q = _amax(u, 2, -math.inf)
    exp_P_qk = torch.exp(u - max_P_q[..., None])
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    return P


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "X": torch.randn(2, 150, 64, device=device, dtype=torch.float32),
        "Y": torch.randn(2, 203, 64, device=device, dtype=torch.float32),
        "v": torch.randn(64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = pointer(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("P", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
