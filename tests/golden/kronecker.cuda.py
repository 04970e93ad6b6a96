"""Third-order attention: a query over pairs of keys, whose vectors are multiplied (arXiv 2310.04064).

(1) S[q,j,k] = sum(d) Q[q,d] * K1[j,d] * K2[k,d] / |d|
(2) P[q,j,k] = softmax(j, k) S[q,j,k]
(3) O[q,e] = sum(j, k) P[q,j,k] * V1[j,e] * V2[k,e]

As it runs:

    S[q,j,k] = sum(d) Q[q,d] * K1[j,d] * K2[k,d] / |d|
    P_max[q] = max(j, k) S[q,j,k]
    P_total[q] = sum(j, k) exp(S[q,j,k] - finite(P_max[q]))
    O_total[q,e] = sum(j, k) V1[j,e] * V2[k,e] * exp(S[q,j,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k at every j for every tile of rows q,
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
        "BLOCK_Q": 128, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
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
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def held(x):
    """x, for a loop that multiplies by it: as a sum over one place it stays in shared memory. In registers,
    ptxas 12.8 for Hopper lets the loop's next product write over it."""
    return tl.sum(x[:, :, None], 2)


@triton.jit(do_not_specialize=["NQ", "NK", "NB", "NH", "NJ"])
def kronecker_kernel(
    Q, K2, V2, K1, V1, O,
    sK1_b, sK1_h, sK1_j, sK1_d,
    sV1_b, sV1_h, sV1_j, sV1_e,
    sO_b, sO_h, sO_q, sO_e,
    NQ, NK, NB, NH, NJ,
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
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    K1_here = K1 + b.to(tl.int64) * sK1_b + h.to(tl.int64) * sK1_h
    V1_here = V1 + b.to(tl.int64) * sV1_b + h.to(tl.int64) * sV1_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of P_max[q] = max(j, k) S[q,j,k]
    P_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of P_total[q] = sum(j, k) exp(S[q,j,k] - finite(P_max[q]))
    P_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(j, k) V1[j,e] * V2[k,e] * exp(S[q,j,k] - finite(P_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D]).to(tl.float32)
    for j in tl.range(0, NJ):
        K1_d = tl.load(K1_here + tl.cast(j, tl.int64) * sK1_j + d * sK1_d).to(tl.float32)
        V1_e = tl.load(V1_here + tl.cast(j, tl.int64) * sV1_j + e * sV1_e).to(tl.float32)
        # S_row[q,d] = Q[q,d] * K1[j,d]
        S_row_qd = held(Q_qd * K1_d[None, :])
        k_end = NK
        k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
        k_full_hi = k_end // BLOCK_K
        k_steps = k_hi
        k_edge = k_full_hi
        # live tiles; those on an edge are tested
        for step in tl.range(0, k_steps):
            k0 = step * BLOCK_K
            k = k0 + k_in
            # S[q,j,k] = sum(d) S_row[q,d] * K2[k,d] / |d|
            K2_kd = K2.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
            S_qk = tl.dot(S_row_qd.to(K2_kd.dtype), tl.trans(K2_kd), input_precision="ieee")
            # P_max[q] = max(j, k) S[q,j,k]
            S_seen_qk = S_qk
            if step >= k_edge:
                # seen: k < |k|
                seen_k = k < NK
                S_seen_qk = tl.where(seen_k[None, :], S_seen_qk, float("-inf"))
            P_max_tile_q = tl.max(S_seen_qk, 1)
            P_max_old_q = P_max_q
            P_max_q = tl.maximum(P_max_old_q, P_max_tile_q * (1 / D))
            # P_total[q] = sum(j, k) exp(S[q,j,k] - finite(P_max[q]))
            alpha_q = tl.exp2(
                P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
            )
            exp_S_seen_qk = tl.exp2(
                S_seen_qk * (1.4426950408889634 / D)
                - (finite(P_max_q) * 1.4426950408889634)[:, None]
            )
            P_total_tile_q = tl.sum(exp_S_seen_qk, 1)
            P_total_q = P_total_q * alpha_q + P_total_tile_q
            # O_total[q,e] = sum(j, k) V1[j,e] * V2[k,e] * exp(S[q,j,k] - finite(P_max[q]))
            V2_ke = V2.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_E]).to(tl.float32)
            O_total_qe = tl.dot(
                exp_S_seen_qk.to(Q.dtype),
                (V1_e[None, :] * V2_ke).to(Q.dtype),
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


def kronecker(Q, K1, K2, V1, V2):
    """Q[b,h,q,d], K1[b,h,j,d], K2[b,h,k,d], V1[b,h,j,e], V2[b,h,k,e] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K1", "b h j d", K1),
        ("K2", "b h k d", K2),
        ("V1", "b h j e", V1),
        ("V2", "b h k e", V2),
    )
    check_kinds([("Q", Q), ("K1", K1), ("K2", K2), ("V1", V1), ("V2", V2)], [], [], KINDS)
    NB, NH, NQ, D, NJ, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["j"], sizes["k"], sizes["e"]
    )
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
    far = max(K1.stride(2), K1.stride(3), V1.stride(2), V1.stride(3), 0)
    if far >= 1 << 23:
        raise ValueError(
            f"neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            kronecker_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K2, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V2, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                K1, V1, O,
                *K1.stride(), *V1.stride(), *O.stride(),
                NQ, NK, NB, NH, NJ,
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


def reference(Q, K1, K2, V1, V2):
    """`kronecker`: dense, differentiable, any device and dtype."""
    D = Q.shape[3]
    # S[b,h,q,j,k] = sum(d) Q[b,h,q,d] * K1[b,h,j,d] * K2[b,h,k,d] / |d|
    S = _einsum("bhqd,bhjd,bhkd->bhqjk", Q, K1, K2) / D
    # P[b,h,q,j,k] = if true then exp(S[b,h,q,j,k] - max(j, k) S[b,h,q,j,k]) / sum(j, k)
    #     exp(S[b,h,q,j,k] - max(j, k) S[b,h,q,j,k]) else 0
    max_P_q = _amax(_amax(S, 4, -math.inf), 3, -math.inf)
    exp_P_qjk = torch.exp(S - max_P_q[..., None, None])
    P = _divide(exp_P_qjk, exp_P_qjk.sum((3, 4))[..., None, None])
    # O[b,h,q,e] = sum(j, k) P[b,h,q,j,k] * V1[b,h,j,e] * V2[b,h,k,e]
    O = _einsum("bhqjk,bhje,bhke->bhqe", P, V1, V2)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K1": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "K2": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V1": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V2": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = kronecker(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
