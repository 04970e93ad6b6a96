"""NAP: scores of mean 0 and variance 1 in every row, scaled and shifted, are its weights (arXiv 2005.09561).

The paper's definition sees every key, this one those up to the query; scores are not scaled before.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d]
(2) Z[q,k] = layernorm(k where k <= q, eps = eps) S[q,k]
(3) O[q,e] = gain * sum(k where k <= q) Z[q,k] * V[k,e] + shift * sum(k where k <= q) V[k,e]

As it runs:

    S[q,k] = sum(d) Q[q,d] * K[k,d]
    Z_sum[q] = sum(k where k <= q + (|k| - |q|)) S[q,k]
    Z_sum2[q] = sum(k where k <= q + (|k| - |q|)) 1
    Z_sum3_companion[q] = sum(k where k <= q + (|k| - |q|)) (Z_sum[q] / Z_sum2[q] - S[q,k])
    Z_sum3[q] = sum(k where k <= q + (|k| - |q|)) (S[q,k] - Z_sum[q] / Z_sum2[q]) ** 2
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) (S[q,k] - Z_sum[q] / Z_sum2[q]) * V[k,e]
    O_sum2[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e]
    O[q,e] = gain * (O_total[q,e] / sqrt(Z_sum3[q] / Z_sum2[q] + eps)) + shift * O_sum2[q,e]

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: Z_sum[q], Z_sum2[q], Z_sum3_companion[q], Z_sum3[q], O_total[q,e], O_sum2[q,e].

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
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 64, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
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


@triton.jit(do_not_specialize=["sgain_h", "sshift_h", "eps", "NQ", "NK", "NB", "NH", "NG"])
def nap_kernel(
    Q, K, V, gain, shift, O,
    sgain_h,
    sshift_h,
    sO_b, sO_h, sO_q, sO_e,
    eps,
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
    gain_here = gain + h.to(tl.int64) * sgain_h
    shift_here = shift + h.to(tl.int64) * sshift_h
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of Z_sum[q] = sum(k where seen) S[q,k]
    Z_sum_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of Z_sum2[q] = sum(k where seen) 1
    Z_sum2_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of Z_sum3_companion[q] = sum(k where seen) (Z_sum[q] / Z_sum2[q] - S[q,k])
    Z_sum3_companion_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of Z_sum3[q] = sum(k where seen) (S[q,k] - Z_sum[q] / Z_sum2[q]) ** 2
    Z_sum3_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) (S[q,k] - Z_sum[q] / Z_sum2[q]) * V[k,e]
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of O_sum2[q,e] = sum(k where seen) V[k,e]
    O_sum2_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
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
        Z_sum_old_q = Z_sum_q
        Z_sum2_old_q = Z_sum2_q
        Z_sum3_companion_old_q = Z_sum3_companion_q
        O_sum2_old_qe = O_sum2_qe
        # S[q,k] = sum(d) Q[q,d] * K[k,d]
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # Z_sum[q] = sum(k where seen) S[q,k]
        S_seen_qk = S_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_seen_qk = tl.where(seen_qk, S_seen_qk, 0.0)
        Z_sum_tile_q = tl.sum(S_seen_qk, 1)
        Z_sum_q = Z_sum_old_q + Z_sum_tile_q
        # Z_sum2[q] = sum(k where seen) 1
        Z_sum2_tile_q = tl.zeros([BLOCK_Q], tl.float32) + 1 * BLOCK_K
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            Z_sum2_tile_q = tl.sum(tl.where(seen_qk, 1, 0.0), 1)
        Z_sum2_q = Z_sum2_old_q + Z_sum2_tile_q
        # Z_sum3_companion[q] = sum(k where seen) (Z_sum[q] / Z_sum2[q] - S[q,k])
        S_seen2_qk = divide(Z_sum_q, Z_sum2_q)[:, None] - S_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_seen2_qk = tl.where(seen_qk, S_seen2_qk, 0.0)
        Z_sum3_companion_tile_q = tl.sum(S_seen2_qk, 1)
        Z_sum3_companion_q = (
            Z_sum3_companion_old_q
            + Z_sum2_old_q * (divide(Z_sum_q, Z_sum2_q) - divide(Z_sum_old_q, Z_sum2_old_q))
            + Z_sum3_companion_tile_q
        )
        # Z_sum3[q] = sum(k where seen) (S[q,k] - Z_sum[q] / Z_sum2[q]) ** 2
        power_S_qk = (
            (S_qk - divide(Z_sum_q, Z_sum2_q)[:, None])
            * (S_qk - divide(Z_sum_q, Z_sum2_q)[:, None])
        )
        power_S_seen_qk = power_S_qk
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            power_S_seen_qk = tl.where(seen_qk, power_S_seen_qk, 0.0)
        Z_sum3_tile_q = tl.sum(power_S_seen_qk, 1)
        Z_sum3_q = (
            Z_sum3_q
            + Z_sum3_companion_old_q
            * (2 * (divide(Z_sum_q, Z_sum2_q) - divide(Z_sum_old_q, Z_sum2_old_q)))
            + Z_sum2_old_q
            * (
                (divide(Z_sum_q, Z_sum2_q) - divide(Z_sum_old_q, Z_sum2_old_q))
                * (divide(Z_sum_q, Z_sum2_q) - divide(Z_sum_old_q, Z_sum2_old_q))
            )
            + Z_sum3_tile_q
        )
        # O_total[q,e] = sum(k where seen) (S[q,k] - Z_sum[q] / Z_sum2[q]) * V[k,e]
        S_seen3_qk = S_qk - divide(Z_sum_q, Z_sum2_q)[:, None]
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            S_seen3_qk = tl.where(seen_qk, S_seen3_qk, 0.0)
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_qe = tl.dot(
            S_seen3_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe
            + O_sum2_old_qe
            * (divide(Z_sum_old_q, Z_sum2_old_q) - divide(Z_sum_q, Z_sum2_q))[:, None],
            input_precision="ieee",
        )
        # O_sum2[q,e] = sum(k where seen) V[k,e]
        tile_seen_qk = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32) + 1
        if step >= k_edge:
            # seen: k < |k| and k <= q + (|k| - |q|)
            seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
            tile_seen_qk = tl.where(seen_qk, tile_seen_qk, 0.0)
        O_sum2_qe = tl.dot(tile_seen_qk.to(V_ke.dtype), V_ke, O_sum2_old_qe, input_precision="ieee")
    # O[q,e] = gain * (O_total[q,e] / sqrt(Z_sum3[q] / Z_sum2[q] + eps)) + shift * O_sum2[q,e]
    gain_ = tl.load(gain_here).to(tl.float32)
    ratio_O_total_qe = divide(O_total_qe, tl.sqrt(divide(Z_sum3_q, Z_sum2_q) + eps)[:, None])
    shift_ = tl.load(shift_here).to(tl.float32)
    O_qe = gain_ * ratio_O_total_qe + shift_ * O_sum2_qe
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def nap(Q, K, V, gain, shift, eps=1e-08):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], gain[h], shift[h] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("gain", "h", gain),
        ("shift", "h", shift),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("gain", gain), ("shift", shift)], [], [], KINDS)
    check_number("eps", eps, float)
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
            nap_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                gain, shift, O,
                *gain.stride(), *shift.stride(), *O.stride(),
                eps,
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


def _sqrt(x):
    """The square root; of 0 it is 0 with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, 0, torch.sqrt(torch.where(none, 1, x)))


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V, gain, shift, eps=1e-08):
    """`nap`: dense, differentiable, any device and dtype."""
    _, NH, NQ, _ = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d]
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)])
    # Z[b,h,q,k] = (S[b,h,q,k] - mean(k where k <= q + (|k| - |q|)) S[b,h,q,k]) / sqrt(mean(k where
    #     k <= q + (|k| - |q|)) (S[b,h,q,k] - mean(k where k <= q + (|k| - |q|)) S[b,h,q,k]) ** 2 +
    #     eps)
    where_qk = k <= (q + (NK - NQ))[:, None]
    sum_Z_q = where_qk.sum(-1)
    minus_Z_qk = S - _divide(torch.where(where_qk, S, 0).sum(-1), sum_Z_q)[..., None]
    sum_Z_q_2 = torch.where(where_qk, torch.where(where_qk, minus_Z_qk, 1) ** 2, 0).sum(-1)
    Z = _divide(torch.where(where_qk, minus_Z_qk, 0), _sqrt(_divide(sum_Z_q_2, sum_Z_q) + eps)[..., None])
    # O[b,h,q,e] = gain[h] * sum(k where k <= q + (|k| - |q|)) Z[b,h,q,k] * V[b, h // (|h| // |g|),
    #     k, e] + shift[h] * sum(k where k <= q + (|k| - |q|)) V[b, h // (|h| // |g|), k, e]
    sum_O_qe = _einsum("bhqk,bhke->bhqe", torch.where(where_qk, Z, 0), V[:, h // (NH // NG)])
    times_O_qe = shift[:, None, None] * _einsum("qk,bhke->bhqe", where_qk, V[:, h // (NH // NG)])
    O = gain[:, None, None] * sum_O_qe + times_O_qe
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "gain": torch.rand(4, device=device, dtype=torch.float32) / 8,
        "shift": torch.rand(4, device=device, dtype=torch.float32) / 8,
        "eps": 1e-08,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = nap(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
