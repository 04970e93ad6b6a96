"""Lightning attention: linear attention whose weights decay by `exp(-slope)` per position (arXiv 2401.04658).

Feature maps, norm and output gate stay outside. A token's own weight is not decayed. The schedules of the TNL
paper and of its code disagree; either is a value of `slope`.

(1) A[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(-slope * (q - k))
(2) O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]

As it runs:

    A_sum[q,k] = sum(d) Q[q,d] * K[k,d]
    O_max[q] = max(k where k <= q + (|k| - |q|)) (-slope * (q + (|k| - |q|) - k))
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| -
        |q|) - k) - finite(O_max[q]))
    O[q,e] = O_total[q,e] * exp(O_max[q])

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: O_max[q], O_total[q,e].

Edit the pattern, not this file.
"""

import contextlib

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
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["sslope_h", "NQ", "NK", "NB", "NH"])
def lightning_kernel(
    Q, K, V, slope, O,
    sslope_h,
    sO_b, sO_h, sO_q, sO_e,
    NQ, NK, NB, NH,
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
    slope_here = slope + h.to(tl.int64) * sslope_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of O_max[q] = max(k where seen) (-slope * (q + (|k| - |q|) - k))
    O_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of O_total[q,e] = sum(k where seen) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| - |q|)
    #     - k) - finite(O_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    slope_ = tl.load(slope_here).to(tl.float32)
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
        # A_sum[q,k] = sum(d) Q[q,d] * K[k,d]
        K_kd = K.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
        A_sum_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # O_max[q] = max(k where seen) (-slope * (q + (|k| - |q|) - k))
        exponent_qk = -(slope_ * ((q + (NK - NQ))[:, None] - k[None, :]))
        exponent_seen_qk = exponent_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            exponent_seen_qk = tl.where(seen_qk, exponent_seen_qk, float("-inf"))
        O_max_tile_q = tl.max(exponent_seen_qk, 1)
        O_max_old_q = O_max_q
        O_max_q = tl.maximum(O_max_old_q, O_max_tile_q)
        # O_total[q,e] = sum(k where seen) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| - |q|) - k)
        #     - finite(O_max[q]))
        alpha_q = tl.exp2(O_max_old_q * 1.4426950408889634 - finite(O_max_q) * 1.4426950408889634)
        exp_exponent_seen_qk = tl.exp2(
            exponent_seen_qk * 1.4426950408889634 - (finite(O_max_q) * 1.4426950408889634)[:, None]
        )
        A_sum_seen_qk = A_sum_qk * exp_exponent_seen_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            A_sum_seen_qk = tl.where(seen_qk, A_sum_seen_qk, 0.0)
        V_ke = V.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_qe = tl.dot(
            A_sum_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = O_total[q,e] * exp(O_max[q])
    O_qe = O_total_qe * tl.exp2(O_max_q * 1.4426950408889634)[:, None]
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def lightning(Q, K, V, slope):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], slope[h] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
        ("slope", "h", slope),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("slope", slope)], [], [], KINDS)
    NB, NH, NQ, D, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
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
            lightning_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                slope, O,
                *slope.stride(), *O.stride(),
                NQ, NK, NB, NH,
                D, E,
                **tile,
            )
    return O


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V, slope):
    """`lightning`: dense, differentiable, any device and dtype."""
    NQ = Q.shape[2]
    NK = K.shape[2]
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # A[b,h,q,k] = (sum(d) Q[b,h,q,d] * K[b,h,k,d]) * exp(-slope[h] * (q + (|k| - |q|) - k))
    at_q = q + (NK - NQ)
    minus_A_qk = torch.where(k <= at_q[:, None], -(slope[:, None, None] * (at_q[:, None] - k)), 0)
    A = _einsum("bhqd,bhkd->bhqk", Q, K) * torch.exp(minus_A_qk)
    # O[b,h,q,e] = sum(k where k <= q + (|k| - |q|)) A[b,h,q,k] * V[b,h,k,e]
    O = _einsum("bhqk,bhke->bhqe", torch.where(k <= at_q[:, None], A, 0), V)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "slope": torch.rand(4, device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = lightning(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
