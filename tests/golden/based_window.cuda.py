"""BASED with a window in one normaliser: exp weighs the near keys, its Taylor polynomial the far ones.

The two attentions that BASED stacks in separate layers (arXiv 2402.18668), as one over the same keys.

(1) s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2
(3) far[q,e] = sum(k where q - k >= window) A[q,k] * V[k,e]
(4) near[q,e] = sum(k where k <= q and q - k < window) exp(s[q,k]) * V[k,e]
(5) total[q] = sum(k where q - k >= window) A[q,k] + sum(k where k <= q and q - k < window)
    exp(s[q,k])
(6) O[q,e] = (far[q,e] + near[q,e]) / total[q]

As it runs:

    seen1: q + (|k| - |q|) - k >= window
    seen2: k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window
    s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    far[q,e] = sum(k where seen1) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
    s_max[q] = max(k where seen2) s[q,k]
    near_total[q,e] = sum(k where seen2) V[k,e] * exp(s[q,k] - finite(s_max[q]))
    total_sum[q] = sum(k where seen1) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
    total_sum2_total[q] = sum(k where seen2) exp(s[q,k] - finite(s_max[q]))
    O[q,e] = (far[q,e] * exp(-finite(max(0, s_max[q]))) + near_total[q,e] * exp(s_max[q] -
        finite(max(0, s_max[q])))) / (total_sum[q] * exp(-finite(max(0, s_max[q]))) +
        total_sum2_total[q] * exp(s_max[q] - finite(max(0, s_max[q]))))

One pass over k for every tile of rows q,
over 2 ranges of tiles that its predicate leaves live.
State of a row: s_max[q], total_sum[q], total_sum2_total[q], far[q,e], near_total[q,e].

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


@triton.jit(do_not_specialize=["window", "NQ", "NK", "NB", "NH"])
def based_window_kernel(
    Q, K, V, O,
    sO_b, sO_h, sO_q, sO_e,
    window,
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
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of s_max[q] = max(k where seen) s[q,k]
    s_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of total_sum[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
    total_sum_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of total_sum2_total[q] = sum(k where seen) exp(s[q,k] - finite(s_max[q]))
    total_sum2_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of far[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
    far_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of near_total[q,e] = sum(k where seen) V[k,e] * exp(s[q,k] - finite(s_max[q]))
    near_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end0 = tl.maximum(0, tl.minimum(NK, NK + last - NQ - window + 1))
    k_hi0 = (BLOCK_K + k_end0 - 1) // BLOCK_K
    k_inner_end0 = tl.maximum(0, tl.minimum(NK, NK + q0 - NQ - window + 1))
    k_full_hi0 = k_inner_end0 // BLOCK_K
    k_begin1 = tl.maximum(0, NK + q0 - NQ - window + 1)
    k_end1 = tl.maximum(0, NK + last - NQ + 1)
    k_lo1 = k_begin1 // BLOCK_K
    k_hi1 = tl.where(k_begin1 < k_end1, (BLOCK_K + k_end1 - 1) // BLOCK_K, k_lo1)
    k_stop0 = tl.where(k_hi0 <= k_hi1, tl.minimum(k_hi0, tl.maximum(k_lo1, k_full_hi0)), k_hi0)
    k_start1 = tl.maximum(k_lo1, k_stop0)
    k_stop1 = tl.maximum(k_hi1, k_start1)
    k_steps0 = k_stop0
    k_steps1 = k_steps0 + k_stop1 - k_start1
    # live tiles; all are tested
    for step in tl.range(0, k_steps1):
        k0 = tl.where(step < k_steps0, step, k_start1 + step - k_steps0) * BLOCK_K
        k = k0 + k_in
        # s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_D])
        s_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # s_max[q] = max(k where seen) s[q,k]
        # seen: k < |k| and k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window
        seen_qk = (
            ((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None]))
            & ((q + (NK - NQ))[:, None] - k[None, :] < window)
        )
        s_seen_qk = tl.where(seen_qk, s_qk, float("-inf"))
        s_max_tile_q = tl.max(s_seen_qk, 1)
        s_max_old_q = s_max_q
        s_max_q = tl.maximum(s_max_old_q, s_max_tile_q * (1 / D ** 0.5))
        # total_sum[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
        # seen: k < |k| and q + (|k| - |q|) - k >= window
        seen2_qk = (k < NK)[None, :] & ((q + (NK - NQ))[:, None] - k[None, :] >= window)
        s_seen2_qk = tl.where(
            seen2_qk,
            1 + s_qk * (1 / D ** 0.5) + s_qk * (1 / D ** 0.5) * (s_qk * (1 / D ** 0.5)) / 2,
            0.0,
        )
        total_sum_tile_q = tl.sum(s_seen2_qk, 1)
        total_sum_q = total_sum_q + total_sum_tile_q
        # total_sum2_total[q] = sum(k where seen) exp(s[q,k] - finite(s_max[q]))
        alpha_q = tl.exp2(s_max_old_q * 1.4426950408889634 - finite(s_max_q) * 1.4426950408889634)
        exp_s_seen_qk = tl.exp2(
            s_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(s_max_q) * 1.4426950408889634)[:, None]
        )
        total_sum2_total_tile_q = tl.sum(exp_s_seen_qk, 1)
        total_sum2_total_q = total_sum2_total_q * alpha_q + total_sum2_total_tile_q
        # far[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
        V_ke = V.load([b, h, k0, 0]).reshape([BLOCK_K, BLOCK_E])
        far_qe = tl.dot(s_seen2_qk.to(V_ke.dtype), V_ke, far_qe, input_precision="ieee")
        # near_total[q,e] = sum(k where seen) V[k,e] * exp(s[q,k] - finite(s_max[q]))
        near_total_qe = tl.dot(
            exp_s_seen_qk.to(V_ke.dtype),
            V_ke,
            near_total_qe * alpha_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = (far[q,e] * exp(-finite(max(0, s_max[q]))) + near_total[q,e] * exp(s_max[q] -
    #     finite(max(0, s_max[q])))) / (total_sum[q] * exp(-finite(max(0, s_max[q]))) +
    #     total_sum2_total[q] * exp(s_max[q] - finite(max(0, s_max[q]))))
    O_qe = divide(
        far_qe * tl.exp2(-(finite(tl.maximum(0, s_max_q)) * 1.4426950408889634))[:, None]
        + near_total_qe
        * tl.exp2(
            s_max_q * 1.4426950408889634 - finite(tl.maximum(0, s_max_q)) * 1.4426950408889634
        )[:, None],
        (
            total_sum_q * tl.exp2(-(finite(tl.maximum(0, s_max_q)) * 1.4426950408889634))
            + total_sum2_total_q
            * tl.exp2(
                s_max_q * 1.4426950408889634 - finite(tl.maximum(0, s_max_q)) * 1.4426950408889634
            )
        )[:, None],
    )
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def based_window(Q, K, V, window=64):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    check_number("window", window, int)
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
            based_window_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                O,
                *O.stride(),
                window,
                NQ, NK, NB, NH,
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


def reference(Q, K, V, window=64):
    """`based_window`: dense, differentiable, any device and dtype."""
    _, _, NQ, D = Q.shape
    NK = K.shape[2]
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # s[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b,h,k,d] / sqrt(|d|)
    s = _einsum("bhqd,bhkd->bhqk", Q, K) / math.sqrt(D)
    # A[b,h,q,k] = 1 + s[b,h,q,k] + s[b,h,q,k] * s[b,h,q,k] / 2
    A = 1 + s + s * s / 2
    # far[b,h,q,e] = sum(k where q + (|k| - |q|) - k >= window) A[b,h,q,k] * V[b,h,k,e]
    far_ = _einsum("bhqk,bhke->bhqe", torch.where((q + (NK - NQ))[:, None] - k >= window, A, 0), V)
    # near[b,h,q,e] = sum(k where k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window)
    #     exp(s[b,h,q,k]) * V[b,h,k,e]
    at_q = q + (NK - NQ)
    exp_near_qk = torch.exp(torch.where((k <= at_q[:, None]) & (at_q[:, None] - k < window), s, -math.inf))
    near = _einsum("bhqk,bhke->bhqe", exp_near_qk, V)
    # total[b,h,q] = sum(k where q + (|k| - |q|) - k >= window) A[b,h,q,k] + sum(k where k <= q +
    #     (|k| - |q|) and q + (|k| - |q|) - k < window) exp(s[b,h,q,k])
    total = torch.where(at_q[:, None] - k >= window, A, 0).sum(-1) + exp_near_qk.sum(-1)
    # O[b,h,q,e] = (far[b,h,q,e] + near[b,h,q,e]) / total[b,h,q]
    O = _divide(far_ + near, total[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "window": 16,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = based_window(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
