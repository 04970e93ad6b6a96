"""LSSA: softplus in the place of exp, of cosines scaled with the length of the row (arXiv 2501.13428).

Queries and keys are divided by their lengths; a row that sees `n` keys scales their products by
`log(|d|) * log(n)`.

(1) X[q,d] = unit(d) Q[q,d]
(2) Y[k,d] = unit(d) K[k,d]
(3) S[q,k] = log(|d|) * log(q + 1) * sum(d) X[q,d] * Y[k,d]
(4) A[q,k] = softplus(S[q,k])
(5) O[q,e] = (sum(k where k <= q) A[q,k] * V[k,e]) / sum(k where k <= q) A[q,k]

As it runs:

    Y_sum[k] = sum(d) K[k,d] * K[k,d]
    Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    S_total[q,k] = sum(d) Q[q,d] * K[k,d]
    O_sum[q,e] = sum(k where k <= q + (|k| - |q|)) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
    O_sum2[q] = sum(k where k <= q + (|k| - |q|)) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q])))
    O[q,e] = O_sum[q,e] / O_sum2[q]

Kernel lssa_Y_sum_inverse writes Y_sum_inverse[b,g,k].
Kernel lssa writes O[b,h,q,e].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: O_sum2[q], O_sum[q,e].

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
TILES_lssa_Y_sum_inverse = {
    (64, 2): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (64, 4): {
        "BLOCK_K": 32, "BLOCK_D": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 2): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 4): {
        "BLOCK_K": 32, "BLOCK_D": 128,
        "num_warps": 8, "num_stages": 2,
    },
}
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


@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    return tl.where(tl.abs(x) < 2.938736e-39, 3.4028235e38, 1.0 / x)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), finite for every finite x: a minimax polynomial, 2e-7 of it also far below 0."""
    t = tl.exp(-tl.abs(x))
    far = (
        0.191060066
        + t * (-0.136632439 + t * (0.0782259168 + t * (-0.0295052107 + t * 0.00523268589)))
    )
    near = 0.99999997 + t * (-0.499994931 + t * (0.333190969 + t * (-0.248429824 + t * far)))
    return tl.maximum(x, 0.0) + t * near


@triton.jit(
    do_not_specialize=["sY_sum_inverse_b", "sY_sum_inverse_g", "sY_sum_inverse_k", "NK", "NB", "NG"]
)
def lssa_Y_sum_inverse_kernel(
    K, Y_sum_inverse,
    sY_sum_inverse_b, sY_sum_inverse_g, sY_sum_inverse_k,
    NK, NB, NG,
    D: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NK, BLOCK_K)
    k0 = (tiles - 1 - pid % tiles) * BLOCK_K
    g = (pid // tiles) % NG
    b = pid // tiles // NG
    k_in = tl.arange(0, BLOCK_K)
    k = k0 + k_in
    Y_sum_inverse_here = (
        Y_sum_inverse + b.to(tl.int64) * sY_sum_inverse_b + g.to(tl.int64) * sY_sum_inverse_g
    )
    # Y_sum[k] = sum(d) K[k,d] * K[k,d]
    K_kd = K.load([b, g, k0, 0]).reshape([BLOCK_K, BLOCK_D]).to(tl.float32)
    Y_sum_k = tl.sum(K_kd * K_kd, 1)
    # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    Y_sum_inverse_k = inverse(tl.sqrt(Y_sum_k))
    tl.store(
        Y_sum_inverse_here + k0.to(tl.int64) * sY_sum_inverse_k + k_in * sY_sum_inverse_k,
        Y_sum_inverse_k.to(Y_sum_inverse.dtype.element_ty),
        mask=(k < NK),
    )


@triton.jit(do_not_specialize=["NQ", "NK", "NB", "NH", "NG"])
def lssa_kernel(
    Q, K, V, Y_sum_inverse, O,
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
    # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    X_sum_q = tl.sum(Q_qd.to(tl.float32) * Q_qd.to(tl.float32), 1)
    # state of O_sum2[q] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
    #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q])))
    O_sum2_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_sum[q,e] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
    #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
    O_sum_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
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
        # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_total_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # O_sum2[q] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) * (S_total[q,k]
        #     * Y_sum_inverse[k] / sqrt(X_sum[q])))
        Y_sum_inverse_k = Y_sum_inverse.load(
            [b, h // (NH // NG), k0]
        ).reshape([BLOCK_K]).to(tl.float32)
        ratio_S_total_qk = divide(S_total_qk * Y_sum_inverse_k[None, :], tl.sqrt(X_sum_q)[:, None])
        softplus_ratio_S_total_qk = softplus(
            (tl.log(D * 1.0) * tl.log((q + (NK - NQ) + 1) * 1.0))[:, None] * ratio_S_total_qk
        )
        softplus_ratio_S_total_seen_qk = softplus_ratio_S_total_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            softplus_ratio_S_total_seen_qk = tl.where(seen_qk, softplus_ratio_S_total_seen_qk, 0.0)
        O_sum2_tile_q = tl.sum(softplus_ratio_S_total_seen_qk, 1)
        O_sum2_q = O_sum2_q + O_sum2_tile_q
        # O_sum[q,e] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_sum_qe = tl.dot(
            softplus_ratio_S_total_seen_qk.to(V_ke.dtype), V_ke, O_sum_qe, input_precision="ieee"
        )
    # O[q,e] = O_sum[q,e] / O_sum2[q]
    O_qe = divide(O_sum_qe, O_sum2_q[:, None])
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def lssa(Q, K, V):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES_lssa_Y_sum_inverse.get((D, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    Y_sum_inverse = Q.new_empty((NB, NG, -(-NK // 4) * 4), dtype=torch.float32)[..., :NK]
    grid = triton.cdiv(NK, tile["BLOCK_K"]) * NB * NG
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            lssa_Y_sum_inverse_kernel[(grid,)](
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                Y_sum_inverse,
                *Y_sum_inverse.stride(),
                NK, NB, NG,
                D,
                **tile,
            )
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
            lssa_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                describe(Y_sum_inverse, [1, 1, tile["BLOCK_K"]]),
                O,
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


def _log(x):
    """The logarithm; of 0 it is -inf with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, -math.inf, torch.log(torch.where(none, 1, x)))


def _sqrt(x):
    """The square root; of 0 it is 0 with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, 0, torch.sqrt(torch.where(none, 1, x)))


def _softplus(x):
    """log(1 + exp(x)) without a threshold."""
    return -torch.nn.functional.logsigmoid(-x)


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V):
    """`lssa`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # X[b,h,q,d] = Q[b,h,q,d] / sqrt(sum(d) Q[b,h,q,d] * Q[b,h,q,d])
    X = _divide(Q, _sqrt(_einsum("bhqd,bhqd->bhq", Q, Q))[..., None])
    # Y[b,g,k,d] = K[b,g,k,d] / sqrt(sum(d) K[b,g,k,d] * K[b,g,k,d])
    Y = _divide(K, _sqrt(_einsum("bgkd,bgkd->bgk", K, K))[..., None])
    # S[b,h,q,k] = log(|d|) * log(q + (|k| - |q|) + 1) * sum(d) X[b,h,q,d] * Y[b, h // (|h| // |g|),
    #     k, d]
    at_q = q + (NK - NQ)
    where_qk = k <= at_q[:, None]
    log_S_qk = torch.where(where_qk, _log((at_q + 1).to(Q.dtype))[:, None], 0)
    times_S_qk = torch.where(where_qk, Q.new_full((), math.log(D)), 0) * log_S_qk
    S = torch.where(where_qk, times_S_qk, 0) * _einsum("bhqd,bhkd->bhqk", X, Y[:, h // (NH // NG)])
    # A[b,h,q,k] = softplus(S[b,h,q,k])
    A = _softplus(S)
    # O[b,h,q,e] = (sum(k where k <= q + (|k| - |q|)) A[b,h,q,k] * V[b, h // (|h| // |g|), k, e]) /
    #     sum(k where k <= q + (|k| - |q|)) A[b,h,q,k]
    sum_O_qe = _einsum("bhqk,bhke->bhqe", torch.where(where_qk, A, 0), V[:, h // (NH // NG)])
    O = _divide(sum_O_qe, torch.where(where_qk, A, 0).sum(-1)[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = lssa(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
